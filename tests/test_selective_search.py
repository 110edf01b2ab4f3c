"""Selective search: each part against the paper's formulas in plain Python, and the whole."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import combinations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from detkit.errors import UsageError
from detkit.proposals import region_merging
from detkit.proposals import selective_search as module
from detkit.proposals.region_merging import Similarity, group, regions_in, texture_columns
from detkit.proposals.segmentation import segment
from detkit.proposals.selective_search import selective_search

ALL = Similarity(colour=True, texture=True, size=True, fill=True)


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return blurred noise with some rectangles on it."""
    rng = np.random.default_rng(seed)
    image = cv2.GaussianBlur(rng.integers(0, 256, (height, width, 3)).astype(np.uint8), (0, 0), 3)
    for _ in range(6):
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        far = x + int(rng.integers(5, 40)), y + int(rng.integers(5, 40))
        cv2.rectangle(image, (x, y), far, rng.integers(0, 256, 3).tolist(), -1)
    return np.asarray(image, np.uint8)


def patches(image: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.int32]:
    """Return labels that cut an image into a grid of uneven patches, some joined."""
    y, x = np.indices(image.shape[:2])
    grid = (y * rows // image.shape[0]) * columns + (x * x * columns) // image.shape[1] ** 2
    grid[grid == columns + 1] = 1
    return np.unique(grid, return_inverse=True)[1].reshape(grid.shape).astype(np.int32)


def cut_up(image: NDArray[np.uint8], labels: NDArray[np.int32]) -> region_merging.Regions:
    return regions_in(labels, image, texture_columns(image))


def colour_histogram(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Sec. 3.2: 25 bins a channel, L1-normalised together."""
    parts = [np.histogram(image[mask][:, c], 25, (0, 256))[0] for c in range(image.shape[2])]
    counts = np.concatenate(parts)
    return counts / counts.sum()


def derivatives(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return (H, W, C, 8): Gaussian derivatives, sigma 1, at 0, 45, ... degrees, from 0 to 1."""
    places = np.arange(-3, 4)
    bell = np.exp(-(places**2) / 2) / np.exp(-(places**2) / 2).sum()
    padded = np.pad(image.astype(float), ((3, 3), (3, 3), (0, 0)), mode="reflect")
    height, width, channels = image.shape
    result = np.zeros((height, width, channels, 8))
    for direction in range(8):
        angle = np.pi * direction / 4
        for down in places:
            for right in places:
                along = np.cos(angle) * right + np.sin(angle) * down
                weight = bell[down + 3] * bell[right + 3] * along
                window = padded[3 + down : 3 + down + height, 3 + right : 3 + right + width]
                result[..., direction] += weight * window
    result = result.clip(0)
    for channel in range(channels):
        result[:, :, channel] /= result[:, :, channel].max()
    return result


def texture_histogram(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Sec. 3.2: 10 bins for each channel and orientation, L1-normalised together."""
    strengths = derivatives(image)[mask].reshape(mask.sum(), -1)
    counts = np.concatenate([np.histogram(one, 10, (0, 1))[0] for one in strengths.T])
    return counts / counts.sum()


def test_histograms_are_those_of_the_paper() -> None:
    image = picture(30, 40)
    labels = patches(image, 3, 4)
    found = cut_up(image, labels)
    for region in range(labels.max() + 1):
        mask = labels == region
        colour, texture = np.split(found.counts[region], [found.colour_bins])
        expected = colour_histogram(image, mask)
        np.testing.assert_allclose(colour / colour.sum(), expected, atol=1e-12)
        expected = texture_histogram(image, mask)
        # A derivative on the edge of two bins may round into either.
        assert np.abs(texture / texture.sum() - expected).sum() < 1e-3


@pytest.mark.parametrize("channels", [1, 3])
def test_sizes_boxes_and_neighbours_are_counted_from_the_pixels(channels: int) -> None:
    image = picture(30, 40)[:, :, :channels]
    labels = segment(image, 30, min_size=5)
    found = cut_up(image, labels)
    count = int(labels.max()) + 1
    assert found.sizes.tolist() == [int((labels == one).sum()) for one in range(count)]
    for one in range(count):
        y, x = np.nonzero(labels == one)
        assert found.boxes[one].tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
    beside = zip(labels[:, :-1].ravel(), labels[:, 1:].ravel())
    below = zip(labels[:-1].ravel(), labels[1:].ravel())
    touching = {tuple(sorted((int(a), int(b)))) for a, b in [*beside, *below] if a != b}
    assert [tuple(pair) for pair in found.pairs.tolist()] == sorted(touching)


def naive_group(found: region_merging.Regions, similarity: Similarity) -> list[list[int]]:
    """Algorithm 1: all neighbouring pairs compared anew before each merge."""
    colour, texture = (
        {region: one / one.sum() for region, one in enumerate(part.astype(float))}
        for part in np.split(found.counts, [found.colour_bins], axis=1)
    )
    size = dict(enumerate(found.sizes.tolist()))
    box = dict(enumerate(found.boxes.tolist()))
    touching = {tuple(pair) for pair in found.pairs.tolist()}
    boxes = found.boxes.tolist()

    def around(a: int, b: int) -> list[int]:
        (x1, y1, x2, y2), (u1, v1, u2, v2) = box[a], box[b]
        return [min(x1, u1), min(y1, v1), max(x2, u2), max(y2, v2)]

    def shared(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
        # In the fixed point, since rounding decides between pairs that are equally similar.
        return (
            float(np.floor(np.minimum(one, other) * region_merging.ONE + 1e-6).sum())
            / region_merging.ONE
        )

    def likeness(pair: tuple[int, int]) -> float:
        a, b = pair
        x1, y1, x2, y2 = around(a, b)
        terms = [
            similarity.colour * shared(colour[a], colour[b]),  # eq. 1
            similarity.texture * shared(texture[a], texture[b]),  # eq. 3
            similarity.size * (1 - (size[a] + size[b]) / found.area),  # eq. 4
            similarity.fill * (1 - ((x2 - x1) * (y2 - y1) - size[a] - size[b]) / found.area),
        ]
        return float(sum(terms))

    alive = set(size)
    while len(alive) > 1:
        pairs = [pair for pair in combinations(sorted(alive), 2) if pair in touching]
        a, b = max(pairs, key=likeness)  # of equal ones the first
        new = len(boxes)
        boxes.append(around(a, b))
        box[new] = boxes[-1]
        size[new] = size[a] + size[b]
        for histogram in (colour, texture):  # eq. 2
            histogram[new] = (size[a] * histogram[a] + size[b] * histogram[b]) / size[new]
        touching |= {(c, new) for pair in touching for c in pair if {a, b} & set(pair)}
        alive = alive - {a, b} | {new}
    return boxes


@pytest.mark.parametrize(
    "similarity",
    [
        ALL,
        Similarity(texture=True, size=True, fill=True),
        Similarity(colour=True),
        Similarity(texture=True),
        Similarity(size=True),
        Similarity(fill=True),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_grouping_merges_the_most_similar_neighbours_one_after_the_other(
    similarity: Similarity, seed: int
) -> None:
    image = picture(40, 50, seed)
    found = cut_up(image, segment(image, 60, min_size=15))
    assert len(found.sizes) > 10
    assert group(found, similarity).tolist() == naive_group(found, similarity)


def test_equally_similar_pairs_merge_by_their_numbers() -> None:
    image = np.zeros((6, 8, 3), np.uint8)
    labels = np.repeat(np.arange(4, dtype=np.int32), 2)[None].repeat(6, axis=0)
    merged = group(cut_up(image, labels), Similarity(size=True))
    # 0 with 1 first (of three equal pairs), then 2 with 3 (smaller than 2 with the new 4).
    assert merged[4:].tolist() == [[0, 0, 4, 6], [4, 0, 8, 6], [0, 0, 8, 6]]


def test_grouping_leaves_the_regions_as_they_were() -> None:
    image = picture(40, 50)
    found = cut_up(image, segment(image, 60, min_size=15))
    before = found.counts.copy()
    group(found, ALL)
    assert np.array_equal(found.counts, before)


def naive_hierarchies(
    image: NDArray[np.uint8], mode: str
) -> list[tuple[list[list[int]], list[int]]]:
    """Return the boxes of each hierarchy, and of what it starts from, with their priorities.

    A port of the released `selective_search_boxes.m` and `Image2HierarchicalGrouping.m`: what is
    merged has the priorities R - 1, ..., 1, and the R initial regions, once a segmentation, all R.
    """
    spaces = ["HSV", "Lab"] if mode == "fast" else ["HSV", "Lab", "rgI", "H", "I"]
    parts = []
    for name in spaces:
        converted = module.in_colour_space(image, name)
        three = np.dstack([converted] * 3) if converted.shape[2] == 1 else converted
        for k in (50, 100) if mode == "fast" else (50, 100, 150, 300):
            regions = cut_up(three, segment(three, k, min_size=k))
            number = len(regions.boxes)
            similarities = [ALL, Similarity(texture=True, size=True, fill=True)]
            if mode == "quality":
                similarities += [Similarity(fill=True), Similarity(size=True)]
            for similarity in similarities:
                merged = group(regions, similarity)[number:].tolist()
                parts.append((merged, list(range(len(merged), 0, -1))))
            parts.append((regions.boxes.tolist(), [number] * number))
    return parts


@pytest.mark.parametrize("mode", ["fast", "quality"])
def test_boxes_and_their_order_are_those_of_the_released_code(mode: module.Mode) -> None:
    image = picture(60, 80)
    found = selective_search(image, mode=mode, min_side=20, seed=3)
    parts = naive_hierarchies(image, mode)
    boxes = [box for part, _ in parts for box in part]
    numbers = np.random.default_rng(3).random(len(boxes))
    priorities = [one for _, part in parts for one in part] * numbers
    expected: dict[tuple[int, ...], float] = {}
    for index in np.argsort(priorities, kind="stable"):
        x1, y1, x2, y2 = boxes[index]
        if min(x2 - x1, y2 - y1) >= 20:  # FilterBoxesWidth.m, whose last pixels count
            expected.setdefault((x1, y1, x2, y2), float(priorities[index]))
    assert found.boxes.tolist() == [list(box) for box in expected]
    assert found.scores.tolist() == pytest.approx([1 / (1 + one) for one in expected.values()])


@pytest.mark.parametrize("name", ["H", "I"])
def test_one_channel_is_segmented_as_three_equal_ones(name: str) -> None:
    image = picture(180, 240)
    (channel,) = np.moveaxis(module.in_colour_space(image, name), 2, 0)
    three = module.as_segmented(module.in_colour_space(image, name))
    assert np.array_equal(three, np.dstack([channel] * 3))
    # Weights sqrt(3) as large are a k as much smaller, but for the rounding of the weights.
    regions, as_one = segment(three, 50), segment(channel[:, :, None], 50 / 3**0.5)
    assert len(np.unique(regions)) == pytest.approx(len(np.unique(as_one)), rel=0.1)
    assert len(np.unique(regions)) > 1.1 * len(np.unique(segment(channel[:, :, None], 50)))


def test_quality_varies_five_colour_spaces_four_scales_and_four_similarities() -> None:
    quality = module.STRATEGIES["quality"]
    assert len(quality.colour_spaces) == 5
    assert len(quality.scales) == len(quality.similarities) == 4
    image = picture(60, 80)
    for strategy, segmentations, hierarchies in (
        (quality, 5 * 4, 5 * 4 * 4),
        (module.STRATEGIES["fast"], 2 * 2, 2 * 2 * 2),
    ):
        groupings = module._groupings(image, strategy, 1)
        assert len(groupings) == segmentations
        assert sum(len(one.merged) for one in groupings) == hierarchies


def test_colour_spaces_of_pure_colours_are_known() -> None:
    image = np.array([[[255, 0, 0], [0, 0, 255], [200, 100, 100], [0, 0, 0]]], np.uint8)
    rgi = module.in_colour_space(image, "rgI")
    assert rgi[0, :, :2].tolist() == [[255, 0], [0, 0], [127, 63], [0, 0]]
    assert module.in_colour_space(image, "I").tolist() == rgi[:, :, 2:].tolist()
    assert module.in_colour_space(image, "HSV")[0, 1].tolist() == [171, 255, 255]  # 240 of 360
    assert module.in_colour_space(image, "H").ravel().tolist() == [0, 171, 0, 0]
    assert module.in_colour_space(image, "Lab")[0, 3].tolist() == [0, 128, 128]


def test_boxes_lie_in_the_image_best_first_and_none_is_given_twice() -> None:
    found = selective_search(picture(90, 120), min_side=0)
    assert found.boxes.dtype == found.scores.dtype == np.float32
    assert (found.boxes[:, :2] >= 0).all()
    assert (found.boxes[:, 2:] <= [120, 90]).all()
    assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()
    assert (np.diff(found.scores) <= 0).all()
    assert ((found.scores > 0) & (found.scores <= 1)).all()
    assert len(np.unique(found.boxes, axis=0)) == len(found.boxes)
    assert [0, 0, 120, 90] in found.boxes.tolist()


def test_the_same_seed_gives_the_same_boxes_whatever_the_number_of_threads() -> None:
    image = picture(90, 120)
    for mode in ("fast", "quality"):
        one, four = (selective_search(image, mode=mode, threads=n) for n in (1, 4))  # type: ignore[arg-type]
        assert np.array_equal(one.boxes, four.boxes)
        assert np.array_equal(one.scores, four.scores)


def test_another_seed_gives_the_same_boxes_in_another_order() -> None:
    one, other = (selective_search(picture(90, 120), seed=seed).boxes for seed in (0, 1))
    assert one.tolist() != other.tolist()
    assert sorted(one.tolist()) == sorted(other.tolist())


def test_limits_drop_narrow_boxes_and_the_last_ones() -> None:
    image = picture(90, 120)
    every = selective_search(image, min_side=0)
    sides = (every.boxes[:, 2:] - every.boxes[:, :2]).min(axis=1)
    assert 0 < (sides >= 20).sum() < len(sides)
    large = selective_search(image, min_side=20)
    assert np.array_equal(large.boxes, every.boxes[sides >= 20])
    assert np.array_equal(selective_search(image, max_boxes=7, min_side=0).boxes, every.boxes[:7])


def test_a_large_image_is_searched_scaled_down_and_its_boxes_scaled_back() -> None:
    image = picture(64, 80)
    large = image.repeat(10, axis=0).repeat(10, axis=1)
    small = selective_search(image, max_side=80, min_side=15)
    found = selective_search(large, max_side=80, min_side=15)  # of the searched image
    assert np.array_equal(found.boxes, small.boxes * 10)
    assert (found.boxes[:, 2:] - found.boxes[:, :2]).min() == 150


@pytest.mark.parametrize(("height", "width"), [(60, 80), (90, 60), (64, 50)])
def test_scaled_to_a_width_an_image_is_enlarged_or_shrunk(height: int, width: int) -> None:
    image = picture(height, width)
    wide = cv2.resize(image, (100, round(height * 100 / width)), interpolation=cv2.INTER_CUBIC)
    expected = selective_search(np.asarray(wide, np.uint8), min_side=20).boxes
    scale = np.array([width / 100, height / wide.shape[0]] * 2)
    found = selective_search(image, max_side=100, min_side=20, scaling="width")
    np.testing.assert_allclose(found.boxes, expected * scale, atol=1e-4)
    large = image.repeat(3, axis=0).repeat(3, axis=1)
    shrunk = selective_search(large, max_side=width, min_side=20, scaling="width")
    own = selective_search(image, min_side=20)
    assert np.array_equal(shrunk.boxes, own.boxes * 3)


def test_scaled_to_a_width_a_tall_image_stays_small_enough_to_search() -> None:
    image = picture(200, 20)
    found = selective_search(image, max_side=40, min_side=0, scaling="width")
    assert found.boxes[:, 3].max() == 200 and found.boxes[:, 2].max() == 20
    heights = np.unique(found.boxes[:, 3] * (160 / 200))  # four times the width, and not ten times
    assert np.allclose(heights, np.rint(heights), atol=1e-4)


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (1, 7), (3, 2), (20, 4000), (4000, 20), (1500, 2300)]
)
def test_an_image_of_any_size_gives_at_least_itself(height: int, width: int) -> None:
    image = np.zeros((height, width, 3), np.uint8)
    image[height // 3 :, width // 4 :] = 200
    found = selective_search(image)
    assert [0, 0, width, height] in found.boxes.tolist()
    assert np.isfinite(found.boxes).all()


def test_one_colour_gives_the_whole_image_alone() -> None:
    assert selective_search(np.full((50, 60, 3), 9, np.uint8)).boxes.tolist() == [[0, 0, 60, 50]]


def test_an_image_without_pixels_gives_no_boxes() -> None:
    assert selective_search(np.zeros((0, 9, 3), np.uint8)).boxes.shape == (0, 4)


def test_grey_equals_three_equal_channels() -> None:
    grey = picture(60, 80)[:, :, 0]
    expected = selective_search(np.stack([grey] * 3, axis=2)).boxes
    assert np.array_equal(selective_search(grey).boxes, expected)
    assert np.array_equal(selective_search(grey[:, :, None]).boxes, expected)


def test_a_rectangle_on_a_ground_is_found() -> None:
    image = np.full((120, 160, 3), (30, 90, 40), np.uint8)
    image[40:90, 50:120] = (200, 60, 50)
    assert np.abs(selective_search(image).boxes - [50, 40, 120, 90]).max(axis=1).min() <= 1


def test_wrong_options_are_named() -> None:
    image = picture(20, 20)
    with pytest.raises(UsageError, match="'slow': selective search has fast and quality"):
        selective_search(image, mode="slow")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="at least 1"):
        selective_search(image, max_boxes=0)
    with pytest.raises(UsageError, match="seed is -1"):
        selective_search(image, seed=-1)
    with pytest.raises(UsageError, match="scaling 'height'"):
        selective_search(image, scaling="height")  # type: ignore[arg-type]
    for side in (-1, float("nan")):
        with pytest.raises(UsageError, match="min_side is"):
            selective_search(image, min_side=side)


def test_plain_python_gives_the_same_boxes_as_compiled_code() -> None:
    script = (
        "import sys, numpy as np\n"
        "from detkit.proposals.selective_search import selective_search\n"
        "image = np.random.default_rng(0).integers(0, 256, (14, 12, 3)).astype(np.uint8)\n"
        "found = selective_search(image.repeat(2, axis=1), min_side=0)\n"
        "print(found.boxes.tolist(), found.scores.tolist())\n"
    )
    answers = [
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "NUMBA_DISABLE_JIT": switch},
            capture_output=True,
            encoding="utf-8",
            check=True,
        ).stdout
        for switch in ("0", "1")
    ]
    assert answers[0] == answers[1]
    assert len(answers[0]) > 100
