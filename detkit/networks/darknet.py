"""Darknet's `.weights` files of YOLOv1's networks, as state dicts.

The file is a header and then bare float32 numbers, layer after layer; neither names nor shapes
are in it. So the number of floats says which network it holds, and one that fits none is
refused. Layout, from the released code (`parser.c`):

- header: int32 major, minor, revision; then how many images were seen, 64 bits from version
  0.2 on, 32 before. The oldest files begin with three floats (learning rate, momentum, decay),
  which as integers are above 1000: their fully connected weights are stored transposed.
- a convolution: biases; with batch norm scales, means, variances; kernels (out, in, k, k).
- a fully connected layer: biases, weights (out, in), in the oldest files (in, out).

Names in the state dict: `convs.N.weight`, `fcs.N.weight`, their `bias`, and `pixels.mean` and
`pixels.std`, by which RGB in 0 to 1 is normalised. Batch norms are folded into the convolutions,
since the paper's networks have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detkit.errors import DetkitError
from detkit.text import counted

Floats = NDArray[np.float32]
Convolution = tuple[int, int]  # output channels, kernel side
Colour = tuple[float, float, float]

# Fig. 3: the 20 convolutions that are trained on ImageNet first, then the four for detection.
EXTRACTION: tuple[Convolution, ...] = (
    (64, 7),
    (192, 3),
    *((128, 1), (256, 3), (256, 1), (512, 3)),
    *((256, 1), (512, 3)) * 4,
    *((512, 1), (1024, 3)),
    *((512, 1), (1024, 3)) * 2,
)
DETECTION: tuple[Convolution, ...] = ((1024, 3),) * 4
# Sec. 2.1: 9 convolutions with fewer filters; their widths are in the released `yolo-tiny.cfg`.
FAST: tuple[Convolution, ...] = (
    tuple((width, 3) for width in (16, 32, 64, 128, 256, 512)) + ((1024, 3),) * 3
)

# Pascal VOC's, in the order of darknet's weights and of Caffe's.
VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)

CELLS = 7 * 7  # sec. 2: S = 7; in the released files always
FC_INPUTS = CELLS * 1024
MAX_CLASSES = 30_000  # ImageNet's largest classifier has 21,842
NORM_EPSILON = 1e-6  # added to the standard deviation, not to the variance
TRANSPOSED_ABOVE = 1000


@dataclass(frozen=True, slots=True)
class Network:
    """What a file of some number of floats holds."""

    convs: tuple[Convolution, ...]
    norms: bool
    fcs: tuple[tuple[int, int], ...] = ()  # (outputs, inputs) each
    centred: bool = False  # whether it was trained on pixels in -1 to 1, else 0 to 1


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the state dict of a `.weights` file, batch norms folded in.

    Raises DetkitError for a file that is missing, cut short, or of another network.
    """
    transposed, floats = _read_floats(path)
    network = _identify(path, floats.size)
    state: dict[str, Tensor] = {}
    at = 0

    def take(*shape: int) -> Floats:
        nonlocal at
        number = int(np.prod(shape))
        values = np.array(floats[at : at + number], np.float32).reshape(shape)
        at += number
        return values

    before = 3
    for index, (after, side) in enumerate(network.convs):
        bias = take(after)
        norm = take(3, after) if network.norms else None
        kernels = take(after, before, side, side)
        if norm is not None:
            kernels, bias = fold_norm(kernels, bias, *norm)
        state[f"convs.{index}.weight"] = torch.from_numpy(kernels)
        state[f"convs.{index}.bias"] = torch.from_numpy(bias)
        before = after
    for index, (outputs, inputs) in enumerate(network.fcs):
        state[f"fcs.{index}.bias"] = torch.from_numpy(take(outputs))
        weights = take(inputs, outputs).T.copy() if transposed else take(outputs, inputs)
        state[f"fcs.{index}.weight"] = torch.from_numpy(weights)
    for key, tensor in state.items():
        if not bool(tensor.isfinite().all()):
            raise DetkitError(f"{path}: damaged: {key} holds numbers that are not finite")
    half = 0.5 if network.centred else 0.0
    state["pixels.mean"] = torch.full((3,), half)
    state["pixels.std"] = torch.full((3,), half or 1.0)
    return state


def trained_with(state: Mapping[str, Tensor]) -> tuple[str, Colour, Colour] | None:
    """Return the backbone, mean and std of what `read_weights` returned; None for other states."""
    if "pixels.mean" not in state:
        return None
    convs = sum(key.startswith("convs.") for key in state) // 2
    mean, std = (tuple(state[f"pixels.{name}"].tolist()) for name in ("mean", "std"))
    return "fast_yolo" if convs == len(FAST) else "darknet", mean, std


def fold_norm(
    kernels: Floats, bias: Floats, scale: Floats, mean: Floats, variance: Floats
) -> tuple[Floats, Floats]:
    """Return (kernels (out, in, k, k), bias (out,)) that do what convolution and norm did.

    Darknet: `scale * (convolution - mean) / (sqrt(variance) + 1e-6) + bias`.
    """
    factor = scale / (np.sqrt(variance) + np.float32(NORM_EPSILON))
    return kernels * factor[:, None, None, None], bias - factor * mean


def _read_floats(path: Path) -> tuple[bool, Floats]:
    """Return whether fully connected weights are transposed, and all floats of the file."""
    if not path.is_file():
        raise DetkitError(f"{path}: no such weights file")
    size = path.stat().st_size
    if size < 20:
        raise DetkitError(f"{path}: not a darknet weights file: only {counted(size, 'byte')}")
    major, minor, _ = (int(value) for value in np.fromfile(path, "<i4", 3))
    oldest = major > TRANSPOSED_ABOVE or minor > TRANSPOSED_ABOVE
    header = 20 if not oldest and major * 10 + minor >= 2 else 16
    if (size - header) % 4:
        raise DetkitError(f"{path}: cut short: {size} bytes are no whole number of floats")
    if size == header:
        raise DetkitError(f"{path}: holds a header and no weights")
    # Mapped, not read: with its 1.1 GB the paper's network would else be in memory twice.
    floats: Floats = np.memmap(path, "<f4", mode="r", offset=header)
    return oldest, floats


def _identify(path: Path, number: int) -> Network:
    """Return the network that has so many weights; raise DetkitError when none has."""
    rest = number - _count(EXTRACTION + DETECTION, norms=False)
    outputs = _last_layer(rest - _connected(4096, FC_INPUTS), 4096)
    if outputs:
        layers = ((4096, FC_INPUTS), (outputs, 4096))
        return Network(EXTRACTION + DETECTION, norms=False, fcs=layers, centred=True)
    rest = number - _count(FAST, norms=False)
    outputs = _last_layer(rest - _connected(256, FC_INPUTS) - _connected(4096, 256), 4096)
    if outputs:
        small = ((256, FC_INPUTS), (4096, 256), (outputs, 4096))
        return Network(FAST, norms=False, fcs=small, centred=True)
    for norms in (False, True):
        # The classifier is a fully connected layer in one version and a 1x1 convolution in
        # the other, with the same number of weights; it is not needed and left out.
        rest = number - _count(EXTRACTION, norms=norms)
        of_one_class = EXTRACTION[-1][0] + 1
        if rest >= 0 and rest % of_one_class == 0 and rest // of_one_class <= MAX_CLASSES:
            # The version without norms has a crop layer, which turns 0..1 into -1..1.
            return Network(EXTRACTION, norms, centred=not norms)
    raise DetkitError(
        f"{path}: {_refusal(number)}; there are files of YOLOv1 as in the paper, of "
        "Fast YOLO and of the classifier `extraction` to be read"
    )


def _refusal(number: int) -> str:
    """Return why a file of so many floats is not one of ours, by its name where it has one."""
    rest = number - _count(EXTRACTION + DETECTION, norms=True)
    local = 256 * CELLS * (1 + 1024 * 9)
    if _last_layer(rest - local, 256 * CELLS):
        return (
            "the network of darknet's later yolov1.cfg (batch norm, a locally connected layer, "
            "3 boxes a cell), which is not the paper's"
        )
    rest = number - _count(EXTRACTION + DETECTION, norms=False)
    if _last_layer(rest - _connected(512, FC_INPUTS) - _connected(4096, 512), 4096):
        return "the network of yolo-small.cfg (a fully connected layer of 512), not the paper's"
    return f"{number} weights are those of none of the networks that detkit knows"


def _count(convs: tuple[Convolution, ...], *, norms: bool) -> int:
    """Return how many floats convolutions on an RGB image take, one after the other."""
    total, before = 0, 3
    for after, side in convs:
        total += after * (before * side * side + (4 if norms else 1))
        before = after
    return total


def _connected(outputs: int, inputs: int) -> int:
    return outputs * (inputs + 1)


def _last_layer(rest: int, inputs: int) -> int:
    """Return the outputs of a last layer of `rest` floats; 0 when they are none of a grid's.

    Each of the 49 cells has the same number of them: B boxes of 5 and at least one class.
    """
    outputs, left = divmod(rest, inputs + 1)
    sound = rest > 0 and left == 0 and outputs % CELLS == 0 and outputs // CELLS > 5
    return outputs if sound else 0
