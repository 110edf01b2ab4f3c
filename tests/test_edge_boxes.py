"""Edge Boxes in its parts, each against plain loops over the paper's equations."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from detkit.errors import UsageError
from detkit.proposals.edge_boxes import edge_boxes, suppress
from detkit.proposals.edge_groups import MIN_AFFINITY, EdgeGroups, edge_groups
from detkit.proposals.edge_windows import score_windows, slide, window_tables
from detkit.proposals.edges import gradient_edges

DATA = Path(__file__).parents[2] / "shared" / "data"
UP = math.pi / 2  # the orientation of a level edge: across it


def drawing(seed: int, size: tuple[int, int] = (60, 80)) -> NDArray[np.uint8]:
    """Return a few filled shapes on noise, RGB."""
    rng = np.random.default_rng(seed)
    image = rng.integers(90, 110, (*size, 3), np.uint8)
    for _ in range(6):
        colour = tuple(int(value) for value in rng.integers(0, 256, 3))
        x, y = int(rng.integers(0, size[1])), int(rng.integers(0, size[0]))
        axes = (int(rng.integers(5, 20)), int(rng.integers(5, 20)))
        cv2.ellipse(image, (x, y), axes, float(rng.integers(0, 180)), 0, 360, colour, -1)
    return image


def blots(seed: int) -> NDArray[np.uint8]:
    """Return an image full of winding contours, (60, 80, 3) RGB."""
    noise = np.random.default_rng(seed).normal(128, 50, (60, 80, 3)).astype(np.float32)
    return np.clip(128 + 8 * (cv2.GaussianBlur(noise, (0, 0), 4) - 128), 0, 255).astype(np.uint8)


def groups_of(seed: int) -> tuple[NDArray[np.float32], EdgeGroups]:
    edges, orientation = gradient_edges(blots(seed))
    return edges, edge_groups(edges, orientation)


def angle_between(one: float, other: float) -> float:
    turn = abs(one - other) % math.pi
    return min(turn, math.pi - turn)


# --- groups, sec. 3.1


def test_a_straight_line_is_one_group_and_a_parallel_one_another() -> None:
    edges, orientation = np.zeros((12, 20)), np.full((12, 20), UP)
    edges[3, 2:18], edges[7, 2:18] = 0.5, 0.5
    groups = edge_groups(edges, orientation)
    assert set(groups.ids[3, 2:18]) == {1}
    assert set(groups.ids[7, 2:18]) == {2}
    assert (groups.ids > 0).sum() == 32
    assert groups.magnitudes.tolist() == [0, 8, 8]


def test_a_group_ends_before_its_turns_sum_to_a_right_angle() -> None:
    edges, orientation = np.zeros((5, 40)), np.zeros((5, 40))
    edges[2, 1:37] = 1.0
    orientation[2] = np.arange(40) * math.radians(10.5) % math.pi  # nine turns would pass it
    groups = edge_groups(edges, orientation)
    assert groups.ids[2, 1:37].tolist() == [1] * 9 + [2] * 9 + [3] * 9 + [4] * 9


def test_a_corner_parts_two_groups() -> None:
    edges, orientation = np.zeros((20, 20)), np.full((20, 20), UP)
    edges[5, 5:15] = edges[5:15, 15] = 1.0
    orientation[6:15, 15] = 0.0
    groups = edge_groups(edges, orientation)
    assert len(set(groups.ids[5, 5:15])) == 1
    assert len(set(groups.ids[6:15, 15])) == 1
    assert groups.ids[5, 8] != groups.ids[10, 15]


def test_small_groups_join_the_neighbour_that_points_their_way_or_are_dropped() -> None:
    edges, orientation = np.zeros((20, 20)), np.full((20, 20), UP)
    edges[5, 2:9] = 1.0
    edges[5, 9] = 0.4  # too little for a group, and it turns: a right angle from the line
    orientation[5, 9] = 0.0
    edges[15, 15] = 0.4  # alone
    groups = edge_groups(edges, orientation)
    assert groups.ids[5, 9] == groups.ids[5, 8] == 1
    assert groups.ids[15, 15] == 0
    assert groups.magnitudes[1] == pytest.approx(7.4)


def test_weak_pixels_and_the_images_border_are_no_edges() -> None:
    edges = np.full((6, 8), 0.1)
    assert not edge_groups(edges, np.zeros_like(edges)).ids.any()
    inside = edge_groups(np.ones((6, 8)), np.zeros((6, 8))).ids
    assert inside[1:-1, 1:-1].all()
    assert not inside[[0, -1]].any()
    assert not inside[:, [0, -1]].any()


@pytest.mark.parametrize("seed", range(3))
def test_every_group_is_connected_numbered_without_gaps_and_summed(seed: int) -> None:
    edges, groups = groups_of(seed)
    count = len(groups.magnitudes) - 1
    assert count > 10
    assert set(np.unique(groups.ids)) == set(range(count + 1))
    for group in range(1, count + 1):
        mask = groups.ids == group
        assert cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0] == 2
        assert groups.magnitudes[group] == pytest.approx(edges[mask].sum(dtype=np.float64))
        assert mask[groups.y[group], groups.x[group]]


@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_affinities_are_equation_1_for_all_groups_within_two_pixels(gamma: float) -> None:
    edges, orientation = gradient_edges(blots(1))
    groups = edge_groups(edges, orientation, gamma=gamma)
    count = len(groups.magnitudes) - 1
    pixels = {group: np.argwhere(groups.ids == group) for group in range(1, count + 1)}
    middles, directions = {}, {}
    for group, where in pixels.items():
        weight = edges[tuple(where.T)].astype(np.float64)
        middles[group] = (where * weight[:, None]).sum(axis=0) / weight.sum()
        turned = orientation[tuple(where.T)].astype(np.float64) - UP  # along the edge
        directions[group] = np.angle((weight * np.exp(2j * turned)).sum()) / 2
    expected = {}
    for i, j in itertools.permutations(pixels, 2):
        apart = np.abs(pixels[i][:, None] - pixels[j][None]).max(axis=2).min()
        if apart > 2:
            continue
        y, x = middles[i] - middles[j]
        between = math.atan2(y, x)
        product = math.cos(directions[i] - between) * math.cos(directions[j] - between)
        if abs(product) ** gamma >= MIN_AFFINITY:
            expected[i, j] = abs(product) ** gamma
    got = {}
    for i in range(1, count + 1):
        rows = slice(groups.starts[i], groups.starts[i + 1])
        assert (np.diff(groups.affinities[rows]) <= 0).all()
        for j, value in zip(groups.others[rows], groups.affinities[rows]):
            assert (i, int(j)) not in got
            got[i, int(j)] = value
    assert len(got) > 20
    assert got.keys() == expected.keys()
    assert got == pytest.approx(expected)


# --- scores, sec. 3.2 and 3.3


def brute_force(edges: NDArray[np.float32], groups: EdgeGroups, window: tuple[int, ...]) -> float:
    """Return eq. 4 from eqs. 2 and 3 by trying ways until no weight changes."""
    x0, y0, x1, y1 = window
    ids = groups.ids
    line = [ids[y0, x0 : x1 + 1], ids[y1, x0 : x1 + 1], ids[y0 : y1 + 1, x0], ids[y0 : y1 + 1, x1]]
    border = set(np.concatenate(line).tolist()) - {0}
    inside = {
        group
        for group in range(1, len(groups.magnitudes))
        if x0 <= groups.x[group] <= x1 and y0 <= groups.y[group] <= y1
    }
    best_way = dict.fromkeys(border, 1.0)  # the largest product of affinities from the border
    changed = True
    while changed:
        changed = False
        for group in list(best_way):
            for entry in range(groups.starts[group], groups.starts[group + 1]):
                other = int(groups.others[entry])
                product = best_way[group] * groups.affinities[entry]
                if product >= MIN_AFFINITY and product > best_way.get(other, 0):
                    best_way[other] = product
                    changed = True
    total = sum((1 - best_way.get(group, 0.0)) * groups.magnitudes[group] for group in inside)
    left, top = x0 + (x1 - x0) // 2 // 2, y0 + (y1 - y0) // 2 // 2
    middle = edges[top : top + (y1 - y0) // 2 + 1, left : left + (x1 - x0) // 2 + 1]
    total -= float(middle[middle > 0.1].sum(dtype=np.float64))
    size = x1 - x0 + y1 - y0
    # Eq. 3's factor, and the released code's 2^2.5.
    return max(0.0, total / (2 * size**1.5) * 2**2.5)


def random_windows(seed: int, count: int) -> NDArray[np.int32]:
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 80, (count, 2)), rng.integers(0, 60, (count, 2))
    x.sort(axis=1)
    y.sort(axis=1)
    windows = np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], axis=1).astype(np.int32)
    return windows[(windows[:, 2] > windows[:, 0]) & (windows[:, 3] > windows[:, 1])]


@pytest.mark.parametrize("seed", range(4))
def test_scores_are_equation_4_by_brute_force(seed: int) -> None:
    edges, groups = groups_of(seed)
    windows = random_windows(seed, 150)
    scores = score_windows(window_tables(edges, groups), windows.copy(), False, 0.65, 0.0)
    expected = [brute_force(edges, groups, tuple(window)) for window in windows.tolist()]
    assert sum(score > 0 for score in expected) > 10
    np.testing.assert_allclose(scores, expected, atol=1e-7)


@pytest.mark.parametrize("fourth", [(8, 12), (3, 12)], ids=["inside", "by way of outside"])
def test_of_two_ways_to_a_group_the_better_one_counts(fourth: tuple[int, int]) -> None:
    # Five short groups in the middle of nothing; the way 1-2-3 is found first, 1-4-5-3 is better.
    # Eq. 2 asks of its way only that it begins on the border.
    ids = np.zeros((20, 20), np.int32)
    for group, (x, y) in enumerate([(5, 10), (8, 8), (11, 10), fourth, (9, 13)], 1):
        ids[y, x] = group
    pairs = {(1, 2): 0.3, (2, 3): 0.9, (1, 4): 0.9, (4, 5): 0.9, (3, 5): 0.9}
    rows: list[list[tuple[float, int]]] = [[] for _ in range(6)]
    for (i, j), value in pairs.items():
        rows[i].append((value, j))
        rows[j].append((value, i))
    entries = [entry for row in rows for entry in sorted(row, reverse=True)]
    groups = EdgeGroups(
        ids,
        np.array([0, 1, 2, 4, 8, 16], np.float64),
        np.array([0, 5, 8, 11, fourth[0], 9], np.int32),
        np.array([0, 10, 8, 10, fourth[1], 13], np.int32),
        np.cumsum([0] + [len(row) for row in rows]).astype(np.uint32),
        np.array([other for _, other in entries], np.uint32),
        np.array([value for value, _ in entries], np.float64),
    )
    tables = window_tables(np.zeros((20, 20)), groups)
    scores = score_windows(tables, np.array([[5, 2, 18, 18]], np.int32), False, 0.65, 0.0)
    ways = {1: 1.0, 4: 0.9, 5: 0.9**2, 3: 0.9**3, 2: 0.9**4}
    inside = [group for group in ways if groups.x[group] >= 5]
    total = sum((1 - ways[group]) * groups.magnitudes[group] for group in inside)
    assert scores[0] == pytest.approx(total / (29 / 2) ** 1.5)


def test_a_score_that_does_not_pass_the_minimum_is_0_and_its_window_stays() -> None:
    edges, groups = groups_of(0)
    tables, windows = window_tables(edges, groups), random_windows(0, 100)
    free = score_windows(tables, windows.copy(), False, 0.65, 0.0)
    minimum = float(np.median(free[free > 0]))
    refined = windows.copy()
    scores = score_windows(tables, refined, True, 0.65, minimum)
    assert ((scores > 0) == (free > minimum)).all()
    np.testing.assert_array_equal(refined[scores == 0], windows[scores == 0])


# --- windows and their refinement, sec. 3.4


def test_windows_step_by_alpha_and_reach_all_over_the_image() -> None:
    windows = slide(200, 300, 0.65, 1000.0, 3.0)
    wide, high = windows[:, 2] - windows[:, 0], windows[:, 3] - windows[:, 1]
    assert windows.min() >= 0
    assert windows[:, 2].max() == 299
    assert windows[:, 3].max() == 199
    whole = (windows[:, 2] < 299) & (windows[:, 3] < 199)
    assert (wide / high)[whole].max() < 3.1
    assert (wide / high)[whole].min() > 1 / 3.1
    assert (wide * high)[whole].min() > 900  # sides are cut to whole pixels
    square = windows[whole & (wide == 100) & (high == 100)]
    size = math.sqrt(1000) * 0.65**-0.5  # the second scale, its square
    steps = np.unique(
        np.diff(np.unique(windows[whole & (wide == int(size)) & (high == int(size)), 0]))
    )
    assert steps.tolist() == [int(int(size) * 0.35 / 1.65)]
    assert len(square) == 0 or len(np.unique(square, axis=0)) == len(square)


def refined_by_hand(
    edges: NDArray[np.float32], groups: EdgeGroups, window: list[int], alpha: float
) -> tuple[list[int], float]:
    """Return the window and score of the greedy search of sec. 3.4."""
    height, width = groups.ids.shape
    best = brute_force(edges, groups, tuple(window))
    shift = (1 - alpha) / (1 + alpha)
    steps = [int((window[2] - window[0]) * shift), int((window[3] - window[1]) * shift)]
    while True:
        steps = [step // 2 for step in steps]
        if max(steps) <= 2:
            return window, best
        steps = [max(1, step) for step in steps]
        for place, outwards in ((1, -1), (3, 1), (0, -1), (2, 1)):
            for way in (outwards, -outwards):
                trial = list(window)
                trial[place] += way * steps[place % 2]
                trial = [
                    max(0, trial[0]),
                    max(0, trial[1]),
                    min(width - 1, trial[2]),
                    min(height - 1, trial[3]),
                ]
                if trial[2] <= trial[0] or trial[3] <= trial[1]:
                    continue
                score = brute_force(edges, groups, tuple(trial))
                if score > best + 1e-12:
                    window, best = trial, score
                    break


@pytest.mark.parametrize("seed", range(2))
def test_refinement_is_the_papers_greedy_search(seed: int) -> None:
    edges, groups = groups_of(seed)
    windows = random_windows(seed + 10, 150)
    refined = windows.copy()
    scores = score_windows(window_tables(edges, groups), refined, True, 0.65, 0.001)
    moved = 0
    for before, after, score in zip(windows.tolist(), refined.tolist(), scores):
        if score:
            expected, best = refined_by_hand(edges, groups, before, 0.65)
            assert after == expected
            assert score == pytest.approx(best)
            moved += after != before
    assert moved > 5


# --- non-maximum suppression, sec. 3.4


def overlap(one: list[int], other: list[int]) -> float:
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    both = max(0, wide) * max(0, high)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return both / (sum(areas) - both)


@pytest.mark.parametrize("eta", [1.0, 0.999, 0.98])
@pytest.mark.parametrize("beta", [0.3, 0.65, 0.75, 0.9, 1.0])
def test_suppression_is_the_greedy_loop(beta: float, eta: float) -> None:
    rng = np.random.default_rng(3)
    corners = rng.integers(0, 12, (500, 2))
    boxes = np.concatenate([corners, corners + rng.integers(8, 20, (500, 2))], 1).astype(np.int32)
    boxes[100:] += rng.integers(200, 210, (400, 1)).astype(np.int32)
    kept: list[int] = []
    thresh = beta
    for i, box in enumerate(boxes.tolist()):
        if all(overlap(box, boxes[j].tolist()) <= thresh for j in kept):
            kept.append(i)
            if eta < 1 and thresh > 0.5:
                thresh *= eta
    assert beta == 1 or len(kept) < 495
    assert suppress(boxes, beta, eta, 10000).tolist() == kept
    assert suppress(boxes, beta, eta, 17).tolist() == kept[:17]


# --- the whole


@pytest.mark.parametrize("colour", [0, 128])
def test_a_lone_disc_is_the_first_proposal_also_where_it_is_small(colour: int) -> None:
    for radius in (60, 10):
        image = np.full((240, 320, 3), 140, np.uint8)
        cv2.circle(image, (200, 100), radius, (colour, colour, colour), -1)
        first = edge_boxes(image).boxes[0].tolist()
        truth = [200 - radius, 100 - radius, 201 + radius, 101 + radius]
        assert overlap(first, truth) > (0.85 if radius == 60 else 0.5)


def test_proposals_are_ranked_lie_in_the_image_and_repeat() -> None:
    image = drawing(2, (120, 160))
    found, again = edge_boxes(image), edge_boxes(image)
    assert len(found.boxes) > 50
    assert found.boxes.dtype == found.scores.dtype == np.float32
    assert (np.diff(found.scores) <= 0).all()
    assert found.boxes.min() >= 0
    assert (found.boxes[:, 2:].max(axis=0) <= [160, 120]).all()
    assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()
    np.testing.assert_array_equal(found.boxes, again.boxes)
    np.testing.assert_array_equal(found.scores, again.scores)
    threaded = edge_boxes(image, threads=3)
    np.testing.assert_array_equal(found.boxes, threaded.boxes)
    np.testing.assert_array_equal(found.scores, threaded.scores)
    assert len(edge_boxes(image, max_boxes=7).boxes) == 7
    assert edge_boxes(image, min_score=0.1).scores.min() > 0.1


def test_a_large_image_is_searched_small_and_answered_in_its_own_pixels() -> None:
    image = drawing(4, (120, 160))
    large = cv2.resize(image, None, fx=4, fy=4, interpolation=cv2.INTER_NEAREST)
    small, back = edge_boxes(image), edge_boxes(large, max_side=160)
    np.testing.assert_allclose(back.boxes, 4 * small.boxes, rtol=1e-6)
    np.testing.assert_allclose(back.scores, small.scores, rtol=1e-6)


@pytest.mark.parametrize(
    "shape", [(1, 1, 3), (2, 2, 3), (1, 300, 3), (300, 2), (0, 0, 3), (40, 50, 1)]
)
def test_images_of_any_shape_have_an_answer(shape: tuple[int, ...]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    found = edge_boxes(noise)
    assert found.boxes.shape == (len(found.scores), 4)
    assert len(edge_boxes(np.full(shape, 77, np.uint8)).boxes) == 0


def test_a_very_long_image_and_a_very_large_one_are_answered() -> None:
    rng = np.random.default_rng(0)
    long = cv2.resize(rng.integers(0, 256, (2, 400, 3), np.uint8), (4000, 20))
    found = edge_boxes(long)
    assert len(found.boxes)
    assert (found.boxes[:, 2:].max(axis=0) <= [4000, 20]).all()
    large = cv2.resize(drawing(0, (40, 60)), (6000, 4000))
    assert edge_boxes(large, max_side=200).boxes[:, 2].max() > 3000


def test_given_edges_are_used_and_must_fit() -> None:
    image = drawing(5)
    edges, orientation = gradient_edges(image)
    blank = np.zeros_like(image)
    given = edge_boxes(blank, edges=edges, orientation=orientation)
    np.testing.assert_array_equal(given.boxes, edge_boxes(image).boxes)
    with pytest.raises(UsageError, match="together"):
        edge_boxes(image, edges=edges)
    with pytest.raises(UsageError, match="not of the image's size"):
        edge_boxes(image[1:], edges=edges, orientation=orientation)


def test_parameters_out_of_range_are_named() -> None:
    image = drawing(0)
    with pytest.raises(UsageError, match="--alpha 1: must lie between 0.1 and 0.95"):
        edge_boxes(image, alpha=1.0)
    with pytest.raises(UsageError, match="beta"):
        edge_boxes(image, beta=0.0)
    with pytest.raises(UsageError, match="eta"):
        edge_boxes(image, eta=0.0)
    with pytest.raises(UsageError, match="max_boxes"):
        edge_boxes(image, max_boxes=0)
    with pytest.raises(UsageError, match="lower max_side"):
        edge_boxes(np.zeros((2, 40000), np.uint8), max_side=40000)
    with pytest.raises(UsageError, match="--min-area 1: must be at least 16"):
        edge_boxes(image, min_area=1)


@pytest.mark.skipif(not (DATA / "bccd").is_dir(), reason="needs the cell images")
def test_cells_of_low_contrast_are_found() -> None:
    from detkit.data import open_dataset
    from detkit.data.images import read_image

    dataset = open_dataset(DATA / "bccd")
    found = total = 0
    for record in dataset.splits["test"][::36]:
        boxes = edge_boxes(read_image(record.path)).boxes[:2000].astype(np.float64)
        for thing in record.objects:
            x0, y0, x1, y1 = thing.box
            wide = np.minimum(boxes[:, 2], x1) - np.maximum(boxes[:, 0], x0)
            high = np.minimum(boxes[:, 3], y1) - np.maximum(boxes[:, 1], y0)
            both = wide.clip(0) * high.clip(0)
            areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) + (x1 - x0) * (y1 - y0)
            found += (both >= 0.5 * (areas - both)).any()
            total += 1
    assert total > 10
    assert found >= 0.7 * total


def test_a_strip_too_long_to_be_searched_as_it_is_is_scaled_down() -> None:
    strip = np.zeros((3, 33_000, 3), np.uint8)
    strip[:, 9_000:20_000] = 255
    found = edge_boxes(strip)
    assert (found.boxes <= [33_000, 3, 33_000, 3]).all()
    with pytest.raises(UsageError, match="33000 x 3 pixels to search, .* lower max_side"):
        edge_boxes(strip, max_side=40_000)
