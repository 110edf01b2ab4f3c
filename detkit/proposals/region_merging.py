"""Hierarchical grouping of selective search: regions, their similarity, and their merging.

J. R. R. Uijlings, K. E. A. van de Sande, T. Gevers and A. W. M. Smeulders, "Selective Search for
Object Recognition", IJCV 104(2), 2013, secs. 3.1 and 3.2. Shape shorthand: H x W pixels, C
channels, R regions of the segmentation, P pairs of neighbours, D histogram bins.

Histograms are kept as counts. Every pixel adds as much to each, so their sum over two regions is
the paper's size-weighted mean (eq. 2) of L1-normalised histograms, without rounding. They are
compared in fixed point, `ONE` for 1, so that a sum does not depend on its order.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from detkit.proposals.compiled import compiled

COLOUR_BINS = 25  # Sec. 3.2: "25 bins ... a dimensionality n = 75 when three channels are used"
TEXTURE_BINS = 10  # Sec. 3.2: Gaussian derivatives in 8 orientations, sigma 1, 10 bins each
ORIENTATIONS = 8
ONE = 1 << 24  # 1.0 in the fixed point of the histograms


@dataclass(frozen=True, slots=True)
class Similarity:
    """Which of the four similarities of sec. 3.2 are added up (eq. 6)."""

    colour: bool = False
    texture: bool = False
    size: bool = False
    fill: bool = False


@dataclass(frozen=True, slots=True)
class Regions:
    """The regions of one segmentation with everything similarity is computed from."""

    sizes: NDArray[np.int64]  # (R,) pixels
    boxes: NDArray[np.int32]  # (R, 4) xyxy, half-open
    counts: NDArray[np.int32]  # (R, D): the bins of colour, then those of texture
    pairs: NDArray[np.int64]  # (P, 2): neighbours, the lower number first, ascending
    colour_bins: int  # how many of the D are of colour
    area: int  # pixels of the image


def texture_columns(image: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Return the bins, (H * W, 4 * C), that a pixel's derivatives fall into.

    Sec. 3.2: Gaussian derivatives (sigma 1) of each channel in eight orientations, each cut into
    ten bins from 0 to the channel's largest. Of two opposite orientations one is negative, which
    counts as 0; the bin of the other is given as its column among the `ORIENTATIONS *
    TEXTURE_BINS` of each channel, or -1 where it is in bin 0, too. `image` is (H, W, C).
    """
    height, width = image.shape[:2]
    places = np.arange(-3, 4)
    bell = np.exp(-(places**2) / 2)
    bell /= bell.sum()
    slope = places * bell  # correlated, not convolved: positive where the image brightens
    right = np.asarray(cv2.sepFilter2D(image, cv2.CV_32F, slope, bell), np.float32)
    down = np.asarray(cv2.sepFilter2D(image, cv2.CV_32F, bell, slope), np.float32)
    flat = (height * width, -1)
    return _texture_columns(right.reshape(flat), down.reshape(flat))


def regions_in(
    labels: NDArray[np.int32], image: NDArray[np.uint8], textures: NDArray[np.int16]
) -> Regions:
    """Return the regions that (H, W) labels cut an (H, W, C) image into.

    `textures` are its `texture_columns`.
    """
    height, width = labels.shape
    channels = image.shape[2]
    num_regions = int(labels.max()) + 1
    sizes, boxes = _extents(labels, num_regions)
    counts = _histograms(labels.ravel(), image.reshape(-1, channels), textures, sizes)
    keys = np.unique(_neighbours(labels, num_regions))
    pairs = np.stack(np.divmod(keys, num_regions), axis=1)
    return Regions(sizes, boxes, counts, pairs, COLOUR_BINS * channels, height * width)


def group(regions: Regions, similarity: Similarity) -> NDArray[np.int32]:
    """Return the boxes, (2 * R - 1, 4), of the regions and of all they are merged into.

    Algorithm 1: the two most similar neighbours become one region, until one is left, the last
    row. Of equally similar pairs the one with the lowest numbers goes first; a merged region has
    the next free number.
    """
    first = 0 if similarity.colour else regions.colour_bins
    last = regions.counts.shape[1] if similarity.texture else regions.colour_bins
    return merge(
        regions.sizes,
        regions.boxes,
        regions.counts[:, first : max(first, last)].copy(),
        regions.pairs,
        regions.colour_bins - first,
        float(similarity.size),
        float(similarity.fill),
        float(regions.area),
    )


@compiled
def _texture_columns(right: NDArray[np.float32], down: NDArray[np.float32]) -> NDArray[np.int16]:
    pixels, channels = right.shape
    columns = np.empty((pixels, 4 * channels), np.int16)
    diagonal = np.float32(math.sqrt(0.5))
    largest = np.zeros(channels, np.float32)
    for pixel in range(pixels):
        for channel in range(channels):
            dx, dy = abs(right[pixel, channel]), abs(down[pixel, channel])
            most = max(max(dx, dy), (dx + dy) * diagonal)
            if most > largest[channel]:
                largest[channel] = most
    scales = np.zeros(channels, np.float32)
    for channel in range(channels):
        if largest[channel] > 0:
            scales[channel] = np.float32(TEXTURE_BINS) / largest[channel]
    for pixel in range(pixels):
        for channel in range(channels):
            dx = right[pixel, channel] * scales[channel]
            dy = down[pixel, channel] * scales[channel]
            for axis in range(4):
                if axis == 0:
                    value = dx
                elif axis == 1:
                    value = (dx + dy) * diagonal
                elif axis == 2:
                    value = dy
                else:
                    value = (dy - dx) * diagonal
                which = min(int(abs(value)), TEXTURE_BINS - 1)
                column = -1
                if which > 0:
                    turn = 0 if value > 0 else 4
                    column = (channel * ORIENTATIONS + axis + turn) * TEXTURE_BINS + which
                columns[pixel, 4 * channel + axis] = column
    return columns


@compiled
def _extents(
    labels: NDArray[np.int32], num_regions: int
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    height, width = labels.shape
    sizes = np.zeros(num_regions, np.int64)
    boxes = np.empty((num_regions, 4), np.int32)
    boxes[:, 0], boxes[:, 1], boxes[:, 2], boxes[:, 3] = width, height, 0, 0
    for y in range(height):
        for x in range(width):
            label = labels[y, x]
            sizes[label] += 1
            boxes[label, 0] = min(boxes[label, 0], x)
            boxes[label, 1] = min(boxes[label, 1], y)
            boxes[label, 2] = max(boxes[label, 2], x + 1)
            boxes[label, 3] = y + 1
    return sizes, boxes


@compiled
def _histograms(
    labels: NDArray[np.int32],
    pixels: NDArray[np.uint8],
    textures: NDArray[np.int16],
    sizes: NDArray[np.int64],
) -> NDArray[np.int32]:
    channels, axes = pixels.shape[1], textures.shape[1]
    colours = channels * COLOUR_BINS
    directions = channels * ORIENTATIONS
    counts = np.zeros((len(sizes), colours + directions * TEXTURE_BINS), np.int32)
    for pixel in range(len(labels)):
        row = counts[labels[pixel]]
        for channel in range(channels):
            value = int(pixels[pixel, channel])
            row[channel * COLOUR_BINS + value * COLOUR_BINS // 256] += 1
        for axis in range(axes):
            column = textures[pixel, axis]
            if column >= 0:
                row[colours + column] += 1
    for region in range(len(sizes)):  # bin 0 holds what is in no other
        for direction in range(directions):
            first = colours + direction * TEXTURE_BINS
            rest = 0
            for column in range(first + 1, first + TEXTURE_BINS):
                rest += counts[region, column]
            counts[region, first] = sizes[region] - rest
    return counts


@compiled
def _neighbours(labels: NDArray[np.int32], num_regions: int) -> NDArray[np.int64]:
    """Return lower * R + higher for each two regions that share a side, some more than once."""
    height, width = labels.shape
    keys = np.empty(2 * height * width, np.int64)
    count = 0
    last = np.int64(-1)
    for y in range(height):
        for x in range(width):
            label = labels[y, x]
            if x + 1 < width and labels[y, x + 1] != label:
                other = labels[y, x + 1]
                key = np.int64(min(label, other)) * num_regions + max(label, other)
                if key != last:
                    keys[count] = key
                    count += 1
                    last = key
            if y + 1 < height and labels[y + 1, x] != label:
                other = labels[y + 1, x]
                key = np.int64(min(label, other)) * num_regions + max(label, other)
                if key != last:
                    keys[count] = key
                    count += 1
                    last = key
    return keys[:count]


@compiled
def _fill_row(counts: NDArray[np.int32], row: NDArray[np.int32], colours: int, size: int) -> None:
    """Fill a row with the colour and the texture histogram in fixed point, each `ONE` in all."""
    # A pixel adds one to a bin of each channel, or of each channel and orientation.
    scale = ONE / (size * max(1, colours // COLOUR_BINS))
    for column in range(colours):
        row[column] = int(counts[column] * scale)
    scale = ONE / (size * max(1, (len(counts) - colours) // TEXTURE_BINS))
    for column in range(colours, len(counts)):
        row[column] = int(counts[column] * scale)


@compiled
def _similarity(
    rows: NDArray[np.int32],
    sizes: NDArray[np.int64],
    boxes: NDArray[np.int32],
    slots: NDArray[np.int64],
    one: int,
    other: int,
    size: float,
    fill: float,
    area: float,
) -> float:
    """Return eq. 6: the sum of eqs. 1 and 3 (columns of `rows`), 4 and 5 (where not 0)."""
    mine, theirs = rows[slots[one]], rows[slots[other]]
    common = 0
    for column in range(len(mine)):  # Eqs. 1 and 3: what the histograms share
        common += min(mine[column], theirs[column])
    pixels = sizes[one] + sizes[other]
    box_width = max(boxes[one, 2], boxes[other, 2]) - min(boxes[one, 0], boxes[other, 0])
    box_height = max(boxes[one, 3], boxes[other, 3]) - min(boxes[one, 1], boxes[other, 1])
    holes = float(box_width) * float(box_height) - pixels
    # Eq. 4 favours small regions, eq. 5 those that fit into each other.
    return float(common / ONE + size * (1.0 - pixels / area) + fill * (1.0 - holes / area))


@compiled
def merge(
    first_sizes: NDArray[np.int64],
    first_boxes: NDArray[np.int32],
    counts: NDArray[np.int32],
    pairs: NDArray[np.int64],
    colours: int,
    size: float,
    fill: float,
    area: float,
) -> NDArray[np.int32]:
    """Return the boxes of the whole hierarchy, (2 * R - 1, 4).

    `counts` is used up. A merged region takes the histogram row (`slots`) of the first of the
    two. Who its neighbours are is a chain of links: two chains are joined end to end, links to
    regions merged since are followed to what they are part of now (`whole`), and double ones
    are dropped on the way.
    """
    num_regions, columns = counts.shape
    num_nodes = 2 * num_regions - 1
    sizes = np.zeros(num_nodes, np.int64)
    boxes = np.zeros((num_nodes, 4), np.int32)
    slots = np.arange(num_nodes)
    whole = np.arange(num_nodes)
    seen = np.full(num_nodes, -1, np.int64)
    rows = np.zeros((num_regions, columns), np.int32)
    for region in range(num_regions):
        sizes[region] = first_sizes[region]
        for side in range(4):
            boxes[region, side] = first_boxes[region, side]
        _fill_row(counts[region], rows[region], colours, int(sizes[region]))
    heads = np.full(num_nodes, -1, np.int64)
    nexts = np.full(2 * len(pairs), -1, np.int64)
    targets = np.empty(2 * len(pairs), np.int64)
    queue = [(0.0, 0, 0) for _ in range(0)]
    for number in range(len(pairs)):
        one, other = pairs[number, 0], pairs[number, 1]
        targets[2 * number], targets[2 * number + 1] = other, one
        nexts[2 * number], nexts[2 * number + 1] = heads[one], heads[other]
        heads[one], heads[other] = 2 * number, 2 * number + 1
        likeness = _similarity(rows, sizes, boxes, slots, one, other, size, fill, area)
        queue.append((-likeness, one, other))
    heapq.heapify(queue)
    new = num_regions
    while new < num_nodes:
        _, one, other = heapq.heappop(queue)
        if whole[one] != one or whole[other] != other:
            continue  # one of them has been merged since
        sizes[new] = sizes[one] + sizes[other]
        boxes[new, 0] = min(boxes[one, 0], boxes[other, 0])
        boxes[new, 1] = min(boxes[one, 1], boxes[other, 1])
        boxes[new, 2] = max(boxes[one, 2], boxes[other, 2])
        boxes[new, 3] = max(boxes[one, 3], boxes[other, 3])
        slots[new] = slots[one]
        for column in range(columns):  # Eq. 2; `+=` of rows would double numba's compile time
            counts[slots[one], column] += counts[slots[other], column]
        _fill_row(counts[slots[new]], rows[slots[new]], colours, int(sizes[new]))
        whole[one] = whole[other] = new
        seen[new] = new
        kept = -1
        for part in (one, other):
            link = heads[part]
            while link >= 0:
                following = nexts[link]
                target = targets[link]
                while whole[target] != target:
                    whole[target] = whole[whole[target]]
                    target = whole[target]
                if seen[target] != new:
                    seen[target] = new
                    targets[link] = target
                    nexts[link] = kept
                    kept = link
                    likeness = _similarity(rows, sizes, boxes, slots, target, new, size, fill, area)
                    heapq.heappush(queue, (-likeness, target, new))
                link = following
        heads[new] = kept
        new += 1
    return boxes
