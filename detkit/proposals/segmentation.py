"""Graph segmentation: an image cut into regions of even colour.

P. Felzenszwalb and D. Huttenlocher, "Efficient Graph-Based Image Segmentation", IJCV 59(2),
2004 ("F-H" below); the first step of selective search. Shape shorthand: H x W pixels, C
channels, E edges of the pixel graph, Q weights that an edge may have.

Each pixel is joined to its eight neighbours by edges weighted with the difference of their
colours (sec. 5). In ascending order of weight an edge joins the two components at its ends
unless its weight is clearly above what is usual inside either of them (eqs. 3-5).

Differences from the paper: weights are rounded to 1/64 of a grey level, so that they are sorted
by counting; edges of equal weight are taken by direction (right, down left, down, down right),
then row by row. Sorting does not depend on `k`, so several `k` share it.

Where the equations are:
- sec. 3.1, eqs. 1-5: `_segment`, difference inside and between components, and when they join
- sec. 4: `_segment`, algorithm 1
- sec. 5: `pixel_graph`, the grid graph of a smoothed image
- sec. 5: `_edge_weights`, difference of two pixels
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from detkit.proposals.compiled import compiled

# F-H sec. 5: "a Gaussian with sigma = 0.8, which does not produce any visible change".
SIGMA = 0.8
LEVELS = 64  # to a grey level: the steps of a weight


@dataclass(frozen=True, slots=True)
class PixelGraph:
    """The edges between the pixels of one image, lightest first."""

    size: tuple[int, int]  # (height, width)
    edges: NDArray[np.uint32]  # (E,): 4 * the upper or left pixel's index + the direction
    starts: NDArray[np.int64]  # (Q + 1,): where the edges of weight q / LEVELS start


def segment(
    image: NDArray[np.uint8], k: float, *, sigma: float = SIGMA, min_size: int = 1
) -> NDArray[np.int32]:
    """Return the region, (H, W) numbered from 0 in reading order, of each pixel.

    `image` is (H, W) or (H, W, C). `k` is the scale of F-H eq. 5 in grey levels times pixels:
    the larger, the larger the regions. Regions of fewer than `min_size` pixels are joined to a
    neighbour (released code). `sigma` is that of the smoothing before, 0 for none.
    """
    return regions_of(pixel_graph(image, sigma), k, min_size)


def pixel_graph(image: NDArray[np.uint8], sigma: float = SIGMA) -> PixelGraph:
    """Return the sorted edges between the pixels of an (H, W) or (H, W, C) image."""
    height, width = image.shape[:2]
    smooth = image.astype(np.float32)
    if sigma > 0:
        side = 2 * math.ceil(4 * sigma) + 1  # the released code's: cut at four sigmas
        smooth = np.asarray(cv2.GaussianBlur(smooth, (side, side), sigma), np.float32)
    planes = np.ascontiguousarray(smooth.reshape(height, width, -1).transpose(2, 0, 1))
    weights = _edge_weights(planes)
    num_weights = math.ceil(255 * math.sqrt(len(planes)) * LEVELS) + 1
    edges, starts = _sort_edges(weights, num_weights)
    return PixelGraph((height, width), edges, starts)


def regions_of(graph: PixelGraph, k: float, min_size: int) -> NDArray[np.int32]:
    """Return the region, (H, W) numbered from 0 in reading order, of each pixel of a graph."""
    height, width = graph.size
    labels = _segment(graph.edges, graph.starts, height, width, float(k), min_size)
    return labels.reshape(height, width)


@compiled
def _edge_weights(planes: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return each edge's weight, (4, H, W) in 1 / LEVELS, by direction and upper or left pixel.

    The Euclidean distance of the colours, as in the released code; F-H sec. 5 has the difference
    of grey levels. `planes` is (C, H, W). Edges that leave the image have no meaning. Row by
    row, which the compiler vectorises.
    """
    channels, height, width = planes.shape
    weights = np.zeros((4, height, width), np.uint16)
    squares = np.empty(width, np.float32)
    for direction in range(4):
        down = 0 if direction == 0 else 1
        right = 1 if direction == 0 else direction - 2
        first, last = max(0, -right), width - max(0, right)
        for y in range(height - down):
            squares[:] = 0
            for channel in range(channels):
                here, there = planes[channel, y], planes[channel, y + down]
                for x in range(first, last):
                    difference = here[x] - there[x + right]
                    squares[x] += difference * difference
            for x in range(first, last):
                scaled = np.sqrt(squares[x]) * np.float32(LEVELS) + np.float32(0.5)
                weights[direction, y, x] = np.uint16(scaled)
    return weights


@compiled
def _sort_edges(
    weights: NDArray[np.uint16], num_weights: int
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Return (edges (E,), starts (Q + 1,)): the edges inside the image by counting sort."""
    _, height, width = weights.shape
    starts = np.zeros(num_weights + 2, np.int64)
    for direction in range(4):
        first, last = (1 if direction == 1 else 0), width - (direction == 0 or direction == 3)
        for y in range(height - (direction > 0)):
            for x in range(first, last):
                starts[weights[direction, y, x] + 2] += 1
    for weight in range(2, num_weights + 2):
        starts[weight] += starts[weight - 1]
    edges = np.empty(starts[num_weights + 1], np.uint32)
    for direction in range(4):
        first, last = (1 if direction == 1 else 0), width - (direction == 0 or direction == 3)
        for y in range(height - (direction > 0)):
            for x in range(first, last):
                weight = weights[direction, y, x] + 1
                edges[starts[weight]] = 4 * (y * width + x) + direction
                starts[weight] += 1
    return edges, starts[: num_weights + 1]


@compiled
def _segment(
    edges: NDArray[np.uint32],
    starts: NDArray[np.int64],
    height: int,
    width: int,
    k: float,
    min_size: int,
) -> NDArray[np.int32]:
    """Return the region, (H * W,), of each pixel: F-H algorithm 1 and the released clean-up.

    A component is a tree in `parents` with its pixels counted at the root; `limits` is
    Int(C) + k / |C| of eqs. 4 and 5, where Int(C) is the weight of the edge that joined it last.
    Pixels are unsigned, which spares numba the question whether an index counts from the end.
    """
    parents = np.arange(height * width).astype(np.uint32)
    sizes = np.ones(height * width, np.int32)
    limits = np.full(height * width, k, np.float64)
    steps = np.array([1, width - 1, width, width + 1], np.uint32)
    refused = np.empty(len(edges), np.uint32)
    num_refused = 0
    for level in range(len(starts) - 1):
        weight = level / LEVELS
        for place in range(starts[level], starts[level + 1]):
            one = edges[place] >> np.uint32(2)
            other = one + steps[edges[place] & np.uint32(3)]
            parent, other_parent = parents[one], parents[other]
            if parent == other_parent:
                continue
            while parent != one:  # up to the root, halving the path
                parents[one] = parents[parent]
                one, parent = parent, parents[parent]
            while other_parent != other:
                parents[other] = parents[other_parent]
                other, other_parent = other_parent, parents[other_parent]
            if one == other:
                continue
            if weight > limits[one] or weight > limits[other]:
                refused[num_refused] = edges[place]
                num_refused += 1
                continue
            if sizes[one] < sizes[other]:
                one, other = other, one
            parents[other] = one
            sizes[one] += sizes[other]
            limits[one] = weight + k / sizes[one]
    for place in range(num_refused):
        one = refused[place] >> np.uint32(2)
        other = one + steps[refused[place] & np.uint32(3)]
        while parents[one] != one:
            parents[one] = parents[parents[one]]
            one = parents[one]
        while parents[other] != other:
            parents[other] = parents[parents[other]]
            other = parents[other]
        if one != other and min(sizes[one], sizes[other]) < min_size:
            if sizes[one] < sizes[other]:
                one, other = other, one
            parents[other] = one
            sizes[one] += sizes[other]
    numbers = np.full(height * width, -1, np.int32)
    labels = np.empty(height * width, np.int32)
    count = 0
    for pixel in range(height * width):
        root = parents[pixel]
        while parents[root] != root:
            parents[root] = parents[parents[root]]
            root = parents[root]
        if numbers[root] < 0:
            numbers[root] = count
            count += 1
        labels[pixel] = numbers[root]
    return labels
