"""ONNX networks with their wide 3 x 3 convolutions in Winograd's form, for onnxruntime on a CPU.

onnxruntime multiplies directly. `networks.winograd_matrices` has the algorithm; here it is written
in plain operators: nearly all of it as convolutions of single channels and of 1 x 1, since these
are what onnxruntime has its fastest code for on x86 (16 or 8 channels side by side in memory). Made
when a file is opened: other runtimes, which have their own ways to convolve, are given the file as
it is.

Shape shorthand: N images, C and D channels in and out, H x W pixels, T tiles in Y rows and X
columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detkit.inference.onnx_ends import Nodes
from detkit.networks.winograd_matrices import (
    A_T,
    ALL_ONES,
    B_T,
    FEWEST_CHANNELS,
    FEWEST_PIXELS,
    TILE,
    G,
)

# What acts on flat filters and products: G g G^T is (36, 9), A^T m A (16, 36).
OF_FILTERS, OF_PRODUCTS = (np.kron(one, one).astype(np.float32) for one in (G, A_T))


def with_winograd(path: Path) -> bytes | None:
    """Return the content of a detkit ONNX file with Winograd's convolutions in it.

    None when there is nothing to change: no convolution that it makes faster, as in a file in 8
    bits, a file that is broken or not as detkit writes it, or no package onnx here.
    """
    try:
        import onnx
    except ModuleNotFoundError:
        return None
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception:  # onnxruntime, which opens it then, says what is wrong with it
        return None
    graph = model.graph
    is_whole = not any(one.data_location for one in graph.initializer)  # nothing in other files
    if not is_whole or all(one.key != "detkit" for one in model.metadata_props):
        return None
    shapes = {one.name: tuple(one.dims) for one in graph.initializer}
    maps = {one.name: one.type.tensor_type.shape.dim for one in graph.value_info}
    write = Nodes("detkit_winograd_")
    for node in graph.node:
        if _suits(node, shapes) and _is_large(maps.get(node.output[0], ())):
            _write_convolution(write, node, *shapes[node.input[1]][:2])
        else:
            write.nodes.append(node)
    if not write.constants:
        return None
    nodes = [*write.nodes]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(write.constants)
    content: bytes = model.SerializeToString()
    return content


def _suits(node: Any, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Return whether a node is a convolution as `networks.winograd.suits` has it.

    `shapes` are those of the graph's constants.
    """
    from onnx import helper

    if node.op_type != "Conv" or node.input[1] not in shapes:
        return False
    after, before, *kernel = shapes[node.input[1]]
    given = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    ones = (*given.get("strides", ()), *given.get("dilations", ()), given.get("group", 1))
    return (
        (kernel, given.get("pads")) == ([3, 3], [1, 1, 1, 1])
        and set(ones) == {1}
        and min(before, after) >= FEWEST_CHANNELS
        and max(before, after) >= 2 * FEWEST_CHANNELS
    )


def _is_large(sides: Any) -> bool:
    """Return whether a map of these sizes has pixels enough; one of any size is taken to."""
    pixels = [one.dim_value for one in sides][2:]
    return not all(pixels) or int(np.prod(pixels)) >= FEWEST_PIXELS


def _write_convolution(write: Nodes, node: Any, after: int, before: int) -> None:
    """Write a convolution of C channels `before` to D `after` in place of a node.

    What depends on the filters alone onnxruntime computes once, when it opens the file.
    """
    images, filters, *bias = node.input
    filters = write("Gemm", OF_FILTERS, write("Reshape", filters, np.array([-1, 9])), transB=1)
    filters = write("Reshape", filters, np.array([len(OF_FILTERS) * after, before, 1, 1]))
    # B^T d B by rows, then by columns: (N, 36 C, Y, X).
    rows = [_write_line(write, images, line, before, 0) for line in B_T]
    tiles = [_write_line(write, row, line, before, 1) for row in rows for line in B_T]
    # A product of channels for each of the 36 is a convolution of 1 x 1 in 36 groups.
    around = np.array([ALL_ONES, len(OF_FILTERS) - ALL_ONES - 1]) * after
    bias = [write("Pad", one, around) for one in bias]
    tiles = [write("Concat", *tiles, axis=1), filters, *bias]
    products = write("Conv", *tiles, group=len(OF_FILTERS))  # (N, 36 D, Y, X)
    rows_columns = write("Shape", products, start=2)
    products = write("Reshape", products, np.array([0, len(OF_FILTERS), -1]))
    pixels = write("MatMul", OF_PRODUCTS, products)  # A^T [...] A, (N, 16, D T)
    shape = write("Concat", np.array([-1, len(OF_PRODUCTS) * after]), rows_columns, axis=0)
    pixels = write("DepthToSpace", write("Reshape", pixels, shape), blocksize=TILE)
    # The last tiles may reach beyond the map.
    size = write("Shape", images, start=2)
    write("Slice", pixels, np.array([0, 0]), size, np.array([2, 3]), name=node.output[0])


def _write_line(write: Nodes, images: str, line: Sequence[float], channels: int, axis: int) -> str:
    """Write one line of B^T along rows or columns of each channel, a step for each tile.

    Returns (N, C, Y, W) for axis 0, (N, C, Y, X) for axis 1.
    """
    taps = np.flatnonzero(line)  # evenly spaced in each line
    kernel = np.array(line, np.float32)[taps]

    def along(value: int, other: int) -> list[int]:
        return [value, other] if axis == 0 else [other, value]

    return write(
        "Conv",
        images,
        np.tile(kernel, (channels, 1)).reshape(channels, 1, *along(len(taps), 1)),
        group=channels,
        strides=along(TILE, 1),
        dilations=along(int(taps[1] - taps[0]), 1),
        pads=[*along(1 - int(taps[0]), 0), *along(int(taps[-1]) - 1, 0)],
    )
