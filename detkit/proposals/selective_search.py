"""Selective search: boxes around regions merged by likeness, in many ways at once.

J. R. R. Uijlings, K. E. A. van de Sande, T. Gevers and A. W. M. Smeulders, "Selective Search for
Object Recognition", IJCV 104(2), 2013. Shape shorthand: H x W pixels, P boxes.

An image is cut into small regions (segmentation.py), which are merged two by two up to the whole
image (region_merging.py); every region on the way gives a box. Colour spaces, segmentation
scales and similarities are varied, since what one of them misses another finds (sec. 3.2).

"Released" is the authors' MATLAB code, and R-CNN's around it (`selective_search_boxes.m`): one is
the paper made exact, the other what the detectors were trained on.

Differences from the paper, and from the released code:
- Images are scaled down to a longer side of 500 px first. Released: not at all for VOC, whose
  images are that large (`op_selective_search_boxes.m`); to a width of 500 px, up or down, where
  an image is only detected in (`rcnn_detect.m`): `scaling="width"` here.
- Boxes of a side under `min_side` px of that image, 12, are left out before the best are taken.
  The paper keeps all; released: 20, and no more than that is cut. Of 2000 boxes in fast mode 20
  lose what is small, and fewer than 12 px bring nothing: recall@.5 of 100 VOC images is .969 at 8,
  .969 at 12 and .962 at 20 (mean of five seeds), of blood cells .968, .968 and .964.
- In quality mode hue and intensity are segmented as three equal channels, as released: the
  differences of pixels are sqrt(3) times as large, and regions smaller. The paper is silent.
- The regions that a hierarchy starts from have one and the same position, and are drawn once a
  segmentation, not once a similarity, as released. The paper numbers what is merged only.

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
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from detkit.config import MOST_TO_WIDTH, ProposalScaling
from detkit.data.images import scaled_down, shrunk_to
from detkit.errors import UsageError
from detkit.proposals import region_merging, segmentation
from detkit.proposals.compiled import first_call_notice
from detkit.proposals.proposer import USUAL
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
    min_side: float = USUAL.proposal_min_side,
    max_boxes: int = 10000,
    max_side: int = 500,
    scaling: ProposalScaling = "longer",
    threads: int = 1,
) -> Proposals:
    """Return the boxes of selective search, the most promising first, in the image's own pixels.

    `image` is (H, W, 3) RGB or (H, W) grey. The order is the paper's pseudo-random one, drawn
    from `seed`; scores are in (0, 1] and say no more than the order. No box is given twice or has
    a side under `min_side` pixels of the searched image (under its own side, where that is
    smaller); the first `max_boxes` of the others are kept.

    An image with a side above `max_side` is scaled down to it for the search, but never to fewer
    than 64 pixels across. With `scaling="width"` each image is made `max_side` pixels wide, larger
    or smaller, but not higher than four times that. Time and memory, 120 bytes a pixel (quality:
    220), are those of the scaled image: 6000 x 4000 pixels take about 1 s and 300 MB at 500, 41 s
    and 3 GB at 6000 (one shared core). The boxes do not depend on `threads`. Raises UsageError for
    another mode or scaling, a limit below 1 (`min_side`: below 0) or a seed below 0.
    """
    if mode not in STRATEGIES:
        raise UsageError(f"mode {mode!r}: selective search has {' and '.join(STRATEGIES)}")
    if seed < 0:
        raise UsageError(f"selective search: seed is {seed}, and has to be at least 0")
    if scaling not in get_args(ProposalScaling):
        raise UsageError(f"scaling {scaling!r}: selective search has longer and width")
    if min(max_boxes, max_side, threads) < 1:
        raise UsageError("selective search: max_boxes, max_side and threads are at least 1")
    if not min_side >= 0:
        raise UsageError(f"selective search: min_side is {min_side:g}, and has to be at least 0")
    height, width = image.shape[:2]
    if not height or not width:
        return Proposals(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
    first_call_notice(region_merging.merge, 20)
    small = _searched(image, max_side, scaling)
    if small.ndim == 2 or small.shape[2] == 1:
        small = np.asarray(cv2.cvtColor(small, cv2.COLOR_GRAY2RGB), np.uint8)
    boxes, places = _ranked(_groupings(small, STRATEGIES[mode], threads), seed)
    sides = boxes[:, 2:] - boxes[:, :2]
    large = (sides >= np.minimum(min_side, small.shape[1::-1])).all(axis=1)
    boxes, places = boxes[large][:max_boxes], places[large][:max_boxes]
    # Multiplied before divided: the far side of the image is met exactly.
    own = boxes * [width, height, width, height] / np.tile(small.shape[1::-1], 2)
    return Proposals(own.astype(np.float32), (1 / (1 + places)).astype(np.float32))


def _searched(
    image: NDArray[np.uint8], max_side: int, scaling: ProposalScaling
) -> NDArray[np.uint8]:
    """Return the image as it is searched: see `selective_search`."""
    height, width = image.shape[:2]
    scale = min(max_side / width, MOST_TO_WIDTH * max_side / height)
    if scaling == "longer":
        return scaled_down(image, max_side, narrowest=64)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    if scale <= 1:
        return shrunk_to(image, size)
    # Released code: MATLAB's imresize, which is cubic.
    return np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_CUBIC), np.uint8)


@dataclass(frozen=True, slots=True)
class _Grouping:
    """What one segmentation is merged into, by each similarity."""

    regions: NDArray[np.int32]  # (R, 4): the boxes that all of them start from
    merged: list[NDArray[np.int32]]  # of each similarity, (R - 1, 4), the whole image last


def _groupings(image: NDArray[np.uint8], strategy: Strategy, threads: int) -> list[_Grouping]:
    """Return the boxes of all hierarchies, in the order of the strategy."""

    def prepare(name: str) -> _Space:
        converted = in_colour_space(image, name)
        textures = region_merging.texture_columns(converted)
        return _Space(converted, segmentation.pixel_graph(as_segmented(converted)), textures)

    def grouped(space: _Space, scale: int) -> _Grouping:
        labels = segmentation.regions_of(space.graph, scale, min_size=scale)
        found = region_merging.regions_in(labels, space.image, space.textures)
        number = len(found.boxes)
        whole = [region_merging.group(found, similarity) for similarity in strategy.similarities]
        return _Grouping(found.boxes, [boxes[number:] for boxes in whole])

    with ThreadPoolExecutor(threads) as pool:  # compiled code and OpenCV let go of the GIL
        spaces = list(pool.map(prepare, strategy.colour_spaces))
        jobs = list(itertools.product(spaces, strategy.scales))
        return list(pool.map(grouped, *zip(*jobs)))


def as_segmented(converted: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an (H, W, C) image of `in_colour_space` as it is segmented, (H, W, 3).

    Released code (`Image2ColourSpace.m`): one channel, `H` or `I`, stands there three times, so
    that two pixels differ by sqrt(3) times as much. To the histograms, which are normalised, it
    makes no difference.
    """
    return converted if converted.shape[2] == 3 else np.repeat(converted, 3, axis=2)


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


def _ranked(groupings: list[_Grouping], seed: int) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Return (boxes (P, 4), places (P,)): each box once, by ascending place.

    Sec. 3.3: the place of a box is its position in its hierarchy, 1 for the whole image, times
    a random number; of equal boxes the first one stays. The regions that are merged come behind
    all that they are merged into, with one position, R, and a number each for all similarities
    together (released code, `Image2HierarchicalGrouping.m`). Equal places keep that order.
    """
    rng = np.random.default_rng(seed)
    parts, positions = [], []
    for one in groupings:
        number = len(one.regions)
        parts += [*one.merged, one.regions]
        positions += [np.arange(number - 1, 0, -1)] * len(one.merged) + [np.full(number, number)]
    boxes = np.concatenate(parts)
    places = np.concatenate(positions) * rng.random(len(boxes))
    order = np.argsort(places, kind="stable")
    boxes, places = boxes[order], places[order]
    side = int(boxes.max()) + 1
    upper, lower = (boxes[:, i].astype(np.int64) * side + boxes[:, i + 1] for i in (0, 2))
    by_box = np.lexsort((lower, upper))  # stable: of equal boxes the first comes first
    again = (np.diff(upper[by_box]) == 0) & (np.diff(lower[by_box]) == 0)
    kept = np.sort(by_box[np.concatenate([[True], ~again])])
    return boxes[kept], places[kept]
