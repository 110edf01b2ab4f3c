"""ONNX networks with their wide 3 x 3 convolutions in Winograd's form, for onnxruntime on a CPU.

onnxruntime multiplies directly. `networks.winograd_matrices` has the algorithm; here it is written
in plain operators, of which the products are onnxruntime's fastest. Made when a file is opened:
other runtimes, which have their own ways to convolve, are given the file as it is.

Shape shorthand: N images, C and D channels in and out, H x W pixels, T tiles in Y rows and X
columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from detkit.inference.onnx_ends import Nodes
from detkit.networks.winograd_matrices import (
    A_T,
    B_T,
    FEWEST_CHANNELS,
    FEWEST_PIXELS,
    INPUT_TILE,
    TILE,
    G,
)

# What acts on flat tiles and filters: B^T d B is (36, 36), G g G^T (36, 9), A^T m A (16, 36).
OF_DATA, OF_FILTERS, OF_PRODUCTS = (np.kron(one, one).astype(np.float32) for one in (B_T, G, A_T))


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
    filters = write("Reshape", filters, np.array([len(OF_DATA), after, before]))
    # Each channel as an image of its own, whose tiles B^T d B are (N C, 36, Y, X).
    channels = write("Reshape", images, np.array([-1, 1, 0, 0]))
    kernels = OF_DATA.reshape(-1, 1, INPUT_TILE, INPUT_TILE)
    tiles = write("Conv", channels, kernels, strides=[TILE, TILE], pads=[1, 1, TILE, TILE])
    rows_columns = write("Shape", tiles, start=2)
    number = write("ReduceProd", rows_columns)
    shape = write("Concat", np.array([-1, before, len(OF_DATA)]), number, axis=0)
    tiles = write("Transpose", write("Reshape", tiles, shape), perm=[0, 2, 1, 3])
    products = write("MatMul", filters, tiles)  # (N, 36, D, T)
    products = write("Reshape", products, np.array([0, len(OF_DATA), -1]))
    pixels = write("MatMul", OF_PRODUCTS, products)  # A^T [...] A, (N, 16, D T)
    shape = write("Concat", np.array([-1, len(OF_PRODUCTS) * after]), rows_columns, axis=0)
    pixels = write("DepthToSpace", write("Reshape", pixels, shape), blocksize=TILE)
    if bias:
        pixels = write("Add", pixels, write("Reshape", bias[0], np.array([-1, 1, 1])))
    # The last tiles may reach beyond the map.
    size = write("Shape", images, start=2)
    write("Slice", pixels, np.array([0, 0]), size, np.array([2, 3]), name=node.output[0])
