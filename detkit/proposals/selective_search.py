"""Selective search: boxes around regions merged by likeness, in many ways at once.

J. R. R. Uijlings, K. E. A. van de Sande, T. Gevers and A. W. M. Smeulders, "Selective Search for
Object Recognition", IJCV 104(2), 2013. Shape shorthand: H x W pixels, P boxes.

An image is cut into small regions (segmentation.py), which are merged two by two up to the whole
image (region_merging.py); every region on the way gives a box. Colour spaces, segmentation
scales and similarities are varied, since what one of them misses another finds (sec. 3.2).

Differences from the paper: images are scaled down first, as R-CNN's released code does, and very
narrow boxes are left out.

Where the equations are:
- sec. 3.1: `segmentation.regions_of`, the initial regions
- sec. 3.1: `region_merging.merge`, algorithm 1, hierarchical grouping
- sec. 3.2: `in_colour_space`, complementary colour spaces
- sec. 3.2, eq. 1: `region_merging._similarity`, likeness of colour
- sec. 3.2, eq. 2: `region_merging.merge`, the histogram of a merged region
- sec. 3.2: `region_merging.texture_columns`, the bins of texture
- sec. 3.2, eqs. 3-6: `region_merging._similarity`, texture, size, fill, and the sum of all four
- sec. 3.3: `_ranked`, the order of boxes from all hierarchies
- sec. 5, eq. 7: `proposal_recall.recall`, average best overlap and its mean over classes
- sec. 5, eq. 8: `iou.iou_matrix`, overlap
"""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from detkit.data.images import scaled_down
from detkit.errors import UsageError
from detkit.proposals import region_merging, segmentation
from detkit.proposals.compiled import first_call_notice
from detkit.structures import Proposals

Mode = Literal["fast", "quality"]


@dataclass(frozen=True, slots=True)
class Strategy:
    """What is varied; every combination is one hierarchy."""

    colour_spaces: tuple[str, ...]
    similarities: tuple[region_merging.Similarity, ...]
    scales: tuple[int, ...]  # k of the segmentation, and the pixels of its smallest region


CTSF = region_merging.Similarity(colour=True, texture=True, size=True, fill=True)
TSF = region_merging.Similarity(texture=True, size=True, fill=True)
# Table 5. OpenCV's fast mode has 150 and 300 for k: fewer boxes, and small objects are missed
# (recall@.5 of 2000 boxes on 100 VOC images .919, the paper's scales .966; blood cells .811, .981).
STRATEGIES: dict[Mode, Strategy] = {
    "fast": Strategy(("HSV", "Lab"), (CTSF, TSF), (50, 100)),
    "quality": Strategy(
        ("HSV", "Lab", "rgI", "H", "I"),
        (CTSF, TSF, region_merging.Similarity(fill=True), region_merging.Similarity(size=True)),
        (50, 100, 150, 300),
    ),
}


@dataclass(frozen=True, slots=True)
class _Space:
    """An image in one colour space with what all its segmentations share."""

    image: NDArray[np.uint8]  # (H, W, C)
    graph: segmentation.PixelGraph
    textures: NDArray[np.int16]


def selective_search(
    image: NDArray[np.uint8],
    *,
    mode: Mode = "fast",
    seed: int = 0,
    min_side: float = 8,
    max_boxes: int = 10000,
    max_side: int = 500,
    threads: int = 1,
) -> Proposals:
    """Return the boxes of selective search, the most promising first, in the image's own pixels.

    `image` is (H, W, 3) RGB or (H, W) grey. The order is the paper's pseudo-random one, drawn
    from `seed`; scores are in (0, 1] and say no more than the order. No box is given twice or has
    a side under `min_side` own pixels (under the image's own side, where that is smaller); the
    first `max_boxes` are kept. An image with a side above `max_side` is scaled down to it for the
    search (R-CNN's released code: 500), but never to fewer than 64 pixels across: time and
    memory, 120 bytes a pixel (quality: 220), are those of the scaled image. 6000 x 4000 pixels
    take about 1 s and 300 MB at 500, 41 s and 3 GB at 6000 (one shared core). The boxes do not
    depend on `threads`. Raises UsageError for another mode, a limit below 1 or a seed below 0.
    """
    if mode not in STRATEGIES:
        raise UsageError(f"mode {mode!r}: selective search has {' and '.join(STRATEGIES)}")
    if seed < 0:
        raise UsageError(f"selective search: seed is {seed}, and has to be at least 0")
    if min(max_boxes, max_side, threads) < 1:
        raise UsageError("selective search: max_boxes, max_side and threads are at least 1")
    height, width = image.shape[:2]
    if not height or not width:
        return Proposals(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
    first_call_notice(region_merging.merge, 20)
    small = scaled_down(image, max_side, narrowest=64)
    if small.ndim == 2 or small.shape[2] == 1:
        small = np.asarray(cv2.cvtColor(small, cv2.COLOR_GRAY2RGB), np.uint8)
    boxes, places = _ranked(_hierarchies(small, STRATEGIES[mode], threads), seed)
    # Multiplied before divided: the far side of the image is met exactly.
    own = boxes * [width, height, width, height] / np.tile(small.shape[1::-1], 2)
    sides = own[:, 2:] - own[:, :2]
    large = np.flatnonzero((sides >= np.minimum(min_side, [width, height])).all(axis=1))
    large = large[:max_boxes]
    return Proposals(own[large].astype(np.float32), (1 / (1 + places[large])).astype(np.float32))


def _hierarchies(
    image: NDArray[np.uint8], strategy: Strategy, threads: int
) -> list[NDArray[np.int32]]:
    """Return the boxes, (2 * R - 1, 4), of each hierarchy, in the order of the strategy."""

    def prepare(name: str) -> _Space:
        converted = in_colour_space(image, name)
        textures = region_merging.texture_columns(converted)
        return _Space(converted, segmentation.pixel_graph(converted), textures)

    def grouped(space: _Space, scale: int) -> list[NDArray[np.int32]]:
        labels = segmentation.regions_of(space.graph, scale, min_size=scale)
        found = region_merging.regions_in(labels, space.image, space.textures)
        return [region_merging.group(found, similarity) for similarity in strategy.similarities]

    with ThreadPoolExecutor(threads) as pool:  # compiled code and OpenCV let go of the GIL
        spaces = list(pool.map(prepare, strategy.colour_spaces))
        jobs = list(itertools.product(spaces, strategy.scales))
        return [boxes for part in pool.map(grouped, *zip(*jobs)) for boxes in part]


def in_colour_space(image: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    """Return an RGB image, (H, W, 3), in a colour space of sec. 3.2: (H, W, C), 0 to 255.

    `HSV`, `Lab`, `rgI` (normalised red and green, intensity), `H` (of HSV) and `I`.
    """
    if name == "HSV":
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL), np.uint8)
    if name == "Lab":
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2LAB), np.uint8)
    if name == "H":
        return np.ascontiguousarray(in_colour_space(image, "HSV")[:, :, :1])
    grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)[:, :, None]
    if name == "I":
        return grey
    total = np.maximum(image.sum(axis=2, dtype=np.int32, keepdims=True), 1)
    shares = 255 * image[:, :, :2].astype(np.int32) // total
    return np.concatenate([shares.astype(np.uint8), grey], axis=2)


def _ranked(
    hierarchies: list[NDArray[np.int32]], seed: int
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Return (boxes (P, 4), places (P,)): each box once, by ascending place.

    Sec. 3.3: the place of a box is its position in its hierarchy, 1 for the whole image, times
    a random number; of equal boxes the first one stays. Equal places keep the hierarchies' order.
    """
    rng = np.random.default_rng(seed)
    boxes = np.concatenate(hierarchies)
    positions = np.concatenate([np.arange(len(one), 0, -1) for one in hierarchies])
    places = positions * rng.random(len(positions))
    order = np.argsort(places, kind="stable")
    boxes, places = boxes[order], places[order]
    side = int(boxes.max()) + 1
    upper, lower = (boxes[:, i].astype(np.int64) * side + boxes[:, i + 1] for i in (0, 2))
    by_box = np.lexsort((lower, upper))  # stable: of equal boxes the first comes first
    again = (np.diff(upper[by_box]) == 0) & (np.diff(lower[by_box]) == 0)
    kept = np.sort(by_box[np.concatenate([[True], ~again])])
    return boxes[kept], places[kept]
