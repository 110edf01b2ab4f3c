"""Segmentation against Felzenszwalb and Huttenlocher's algorithm in plain Python, and by hand."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from detkit.proposals.segmentation import LEVELS, segment

# The four neighbours each pixel has an edge to, in the order that edges of equal weight take.
NEIGHBOURS = [(0, 1), (1, -1), (1, 0), (1, 1)]


def textbook(image: NDArray[np.floating], k: float, min_size: int) -> list[list[int]]:
    """F-H algorithm 1: sets of pixels, each with its internal difference, joined edge by edge."""
    height, width = image.shape[:2]
    edges = []
    for number, (down, right) in enumerate(NEIGHBOURS):
        for y in range(height - down):
            for x in range(max(0, -right), width - max(0, right)):
                ends = (y, x), (y + down, x + right)
                distance = math.dist(*(np.atleast_1d(image[end]).tolist() for end in ends))
                edges.append((math.floor(distance * LEVELS + 0.5) / LEVELS, number, ends))
    edges.sort(key=lambda edge: edge[0])
    component = {(y, x): [{(y, x)}, 0.0] for y in range(height) for x in range(width)}

    def join(one: list, other: list, weight: float) -> None:  # type: ignore[type-arg]
        joined = [one[0] | other[0], weight]
        component.update(dict.fromkeys(joined[0], joined))

    for weight, _, (start, end) in edges:
        one, other = component[start], component[end]
        if one is not other and weight <= min(c[1] + k / len(c[0]) for c in (one, other)):
            join(one, other, weight)
    for weight, _, (start, end) in edges:
        one, other = component[start], component[end]
        if one is not other and min(len(one[0]), len(other[0])) < min_size:
            join(one, other, weight)
    numbers: dict[int, int] = {}
    return [
        [numbers.setdefault(id(component[y, x]), len(numbers)) for x in range(width)]
        for y in range(height)
    ]


@pytest.mark.parametrize("shape", [(13, 17, 3), (20, 9), (1, 30, 3), (30, 1), (2, 2, 3)])
@pytest.mark.parametrize(("k", "min_size"), [(30.0, 1), (200.0, 1), (60.0, 7)])
def test_segments_are_those_of_the_paper_s_algorithm(
    shape: tuple[int, ...], k: float, min_size: int
) -> None:
    rng = np.random.default_rng(sum(shape))
    image = rng.integers(0, 4, shape) * 20 + rng.integers(0, 8, shape)
    pixels = image.astype(np.uint8)
    expected = textbook(image.astype(float), k, min_size)
    assert segment(pixels, k, sigma=0, min_size=min_size).tolist() == expected


@pytest.mark.parametrize("seed", range(3))
def test_an_image_is_smoothed_by_the_gaussian_before(seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (15, 20, 3)).astype(np.uint8)
    smooth = cv2.GaussianBlur(image.astype(np.float32), (9, 9), 0.8)
    assert segment(image, 100, min_size=3).tolist() == textbook(smooth, 100, 3)
    assert segment(image, 100, sigma=0, min_size=3).tolist() != textbook(smooth, 100, 3)


def test_a_square_on_a_ground_is_two_segments() -> None:
    image = np.array(
        [
            [10, 10, 10, 10, 10, 10],
            [10, 90, 91, 92, 10, 10],
            [10, 91, 92, 93, 10, 10],
            [10, 92, 93, 94, 10, 10],
            [10, 10, 10, 10, 10, 10],
        ],
        np.uint8,
    )
    # Within the square steps of 1 pass as long as 1 <= k / |C| + 1; to the ground it is 80.
    assert segment(image, 20, sigma=0).tolist() == [
        [0, 0, 0, 0, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]


def test_a_slope_is_one_segment_and_a_small_step_on_even_ground_parts_two() -> None:
    # F-H fig. 1: a difference counts against those within. Columns join first, by edges of 0. A
    # slope of steps of 8: its columns of 4 pixels take edges up to 40 / 4, and go on with the 8
    # inside. The even halves of 8 pixels take edges up to 40 / 8 only, and their border is 8, too.
    image = np.array([[0, 8, 16, 24, 200, 200, 208, 208]] * 4, np.uint8)
    assert segment(image, 40, sigma=0).tolist() == [[0, 0, 0, 0, 1, 1, 2, 2]] * 4
    assert segment(image, 40, sigma=0, min_size=9).tolist() == [[0, 0, 0, 0, 1, 1, 1, 1]] * 4


def test_one_colour_is_one_segment() -> None:
    image = np.full((40, 30, 3), 77, np.uint8)
    assert segment(image, 1).tolist() == [[0] * 30] * 40


def test_the_largest_difference_of_colours_is_an_edge_too() -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    image[:, 1] = 255
    assert segment(image, 1, sigma=0).tolist() == [[0, 1], [0, 1]]
    assert segment(image, 500, sigma=0).tolist() == [[0, 1], [0, 1]]
    assert segment(image, 1, sigma=0, min_size=3).tolist() == [[0, 0], [0, 0]]
