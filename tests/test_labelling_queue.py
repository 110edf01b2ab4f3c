"""What to label next: doubt by hand, k-centre against a plain loop, copies last."""

from __future__ import annotations

import itertools
import math
import time

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from detkit.data.looks import GREY_SIDE, PLAIN, Looks, difference_hash
from detkit.labelling.doubt import class_needs, detection_doubts, image_doubt
from detkit.labelling.novelty import (
    distances,
    nearest,
    oriented_gradients,
    scale_of,
    scene_features,
)
from detkit.labelling.queue import FLOOR, LabelQueue, Ranked, rank


def test_a_detection_is_doubted_most_at_one_half_and_not_at_all_when_sure() -> None:
    # (1 - (p1 - p2))^2 with p2 = 1 - p1: .5 -> 1; .75 -> (1 - .5)^2; .9 -> (1 - .8)^2.
    assert detection_doubts([0.5, 0.75, 0.25, 0.9, 1.0]) == pytest.approx(
        [1, 0.25, 0.25, 0.04, 0], abs=1e-12
    )
    assert detection_doubts([0.09, 0.0, -3.0, 1.7]).tolist() == [0, 0, 0, 0]
    assert detection_doubts([]).shape == (0,)


def test_an_images_doubt_is_the_sum_that_brust_and_others_weigh_by_class() -> None:
    needs = {"cat": 3.0, "dog": 0.5}
    doubt = image_doubt(["cat", "dog", "dog", "fox"], [0.75, 0.5, 0.99, 0.05], needs)
    sure = (1 - 0.98) ** 2
    assert doubt.total == pytest.approx(0.25 + 1 + sure)
    assert doubt.total * doubt.need == pytest.approx(0.25 * 3 + 1 * 0.5 + sure * 0.5)
    assert (doubt.num_doubtful, doubt.neediest) == (2, "cat")


def test_an_image_without_a_doubt_needs_what_others_do() -> None:
    doubt = image_doubt(["cat"], [1.0], {"cat": 9.0})
    assert (doubt.total, doubt.need, doubt.num_doubtful, doubt.neediest) == (0, 1, 0, None)
    assert image_doubt([], [], {}) == doubt


def test_a_class_of_few_objects_or_a_low_ap_is_needier() -> None:
    # 8 objects in 2 classes: (8 + 2) / 2 / (n + 1), its root.
    needs = class_needs(["cat", "dog"], {"cat": 4, "dog": 4, "cow": 99})
    assert needs == {"cat": 1.0, "dog": 1.0}
    needs = class_needs(["cat", "dog"], {"cat": 8})
    assert needs == pytest.approx({"cat": math.sqrt(5 / 9), "dog": math.sqrt(5)})
    assert class_needs(["cat", "dog"]) == {"cat": 1, "dog": 1}
    by_ap = class_needs(["cat", "dog", "cow"], None, {"cat": 1.0, "dog": 0.25, "cow": None})
    assert by_ap == pytest.approx({"cat": 0.5, "dog": 1.25, "cow": 1.0})


def plain_k_centre(
    scenes: list[list[float]], labelled: list[list[float]], weights: list[float]
) -> list[int]:
    """Return the order of greedy k-centre, told in loops."""
    pairs = list(itertools.product(scenes, scenes))
    scale = math.sqrt(sum(math.dist(a, b) ** 2 for a, b in pairs) / len(pairs)) or 1.0
    left, chosen = list(range(len(scenes))), []
    before = list(labelled)
    middle = [sum(axis) / len(scenes) for axis in zip(*scenes)]
    while left:
        best, best_key = -1, (-math.inf, -math.inf)
        for place in left:
            away = min((math.dist(scenes[place], one) for one in before), default=scale)
            usual = 0.0 if before else -math.dist(scenes[place], middle)
            key = (round(weights[place] * away, 9), round(usual, 9))
            if key > best_key:
                best, best_key = place, key
        if best_key[0] <= 0:
            best = max(left, key=lambda place: (weights[place], -place))
        left.remove(best)
        chosen.append(best)
        before.append(scenes[best])
    return chosen


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(0, 4), st.booleans())
def test_the_order_is_that_of_a_plain_loop(
    seed: int, number: int, num_labelled: int, with_doubts: bool
) -> None:
    rng = np.random.default_rng(seed)
    scenes, labelled = rng.normal(size=(number, 3)), rng.normal(size=(num_labelled, 3))
    doubts, needs = rng.random(number) * 3, rng.random(number) + 0.5
    weights = [1.0] * number
    if with_doubts:
        mean = sum(doubts) / number
        weights = [(d / mean + FLOOR) / (1 + FLOOR) * n for d, n in zip(doubts, needs)]
    ranked = rank(
        scenes,
        doubts if with_doubts else None,
        needs if with_doubts else None,
        labelled_features=labelled,
    )
    order = [one.place for one in ranked]
    assert order == plain_k_centre(scenes.tolist(), labelled.tolist(), weights)
    few = rank(scenes, labelled_features=labelled, most=2)
    assert [one.place for one in few] == [
        one.place for one in rank(scenes, labelled_features=labelled)
    ][:2]


def test_distances_are_those_of_a_loop() -> None:
    rng = np.random.default_rng(1)
    scenes, others = rng.normal(size=(7, 5)), rng.normal(size=(4, 5))
    table = [[math.dist(a, b) for b in others.tolist()] for a in scenes.tolist()]
    assert distances(scenes, others[2]) == pytest.approx([row[2] for row in table])
    away, places = nearest(scenes, others)
    assert away == pytest.approx([min(row) for row in table])
    assert places.tolist() == [row.index(min(row)) for row in table]
    pairs = [math.dist(a, b) ** 2 for a in scenes.tolist() for b in scenes.tolist()]
    assert scale_of(scenes) == pytest.approx(math.sqrt(sum(pairs) / len(pairs)))
    assert scale_of(scenes[:1]) == scale_of(np.ones((3, 2))) == 1.0


def test_the_farthest_comes_next_and_says_what_it_is_far_from() -> None:
    line = [[0.0], [1.0], [2.0], [10.0]]
    ranked = rank(line)
    # The middle is 3.25, and 2 the nearest to it; then 10 is 8 away, 0 then 2, 1 is left.
    assert [one.place for one in ranked] == [2, 3, 0, 1]
    assert [one.near for one in ranked] == [None, 2, 2, 2]
    assert ranked[1].novelty == pytest.approx(8 / scale_of(np.array(line)))
    beside = rank(line, labelled_features=[[9.0]])
    assert [one.place for one in beside] == [0, 2, 1, 3]
    assert [(one.near, one.near_is_labelled) for one in beside][::3] == [(0, True), (0, True)]


def test_doubt_can_outweigh_distance_and_no_doubt_is_no_zero() -> None:
    line = [[0.0], [1.0], [2.0]]
    far = [one.place for one in rank(line, labelled_features=[[-1.0]])]
    assert far[0] == 2
    doubted = rank(line, [0.0, 6.0, 0.0], labelled_features=[[-1.0]])
    assert [one.place for one in doubted] == [1, 0, 2]  # the last two are both 1 away
    # Of mean doubt 2: (3 + .25) / 1.25, and .25 / 1.25 for none.
    assert [one.factor for one in doubted] == pytest.approx([2.6, 0.2, 0.2])
    assert all(one.score > 0 for one in doubted)


def test_copies_come_last_however_doubtful_and_name_what_they_show_again() -> None:
    line = [[0.0], [0.1], [5.0], [9.0]]
    doubts = [1.0, 50.0, 1.0, 1.0]
    ranked = rank(line, doubts, copies=[(0, 1)], seen={3: 0}, labelled_features=[[9.1]])
    assert [one.place for one in ranked] == [1, 2, 0, 3]
    assert [one.is_copy for one in ranked] == [False, False, True, True]
    by_place = {one.place: one for one in ranked}
    assert (by_place[0].near, by_place[0].near_is_labelled) == (1, False)
    assert (by_place[3].near, by_place[3].near_is_labelled) == (0, True)
    assert by_place[0].score == by_place[3].score == 0.0


def test_an_empty_pool_and_a_pool_of_one_image_shown_again_have_a_list() -> None:
    assert rank([]) == []
    assert [one.place for one in rank([[1.0, 2.0]] * 3)] == [0, 1, 2]
    assert [one.place for one in rank([[0.0, 0.0]] * 2, [0.0, 0.0])] == [0, 1]


def picture(seed: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 6), np.uint8)
    return np.asarray(cv2.resize(coarse, (GREY_SIDE, GREY_SIDE)), np.uint8)


def looks_of(*greys: NDArray[np.uint8]) -> Looks:
    grey = np.array(greys)
    hashes = np.array([difference_hash(one) for one in greys])
    return Looks(grey, hashes, grey.std(axis=(1, 2)) >= PLAIN)


def plain_gradients(grey: NDArray[np.uint8]) -> list[float]:
    """Return one picture's histograms, pixel by pixel."""
    side, bins = GREY_SIDE // 4, 9
    cells = [[[0.0] * bins for _ in range(4)] for _ in range(4)]
    values = grey.astype(int).tolist()
    for y, x in itertools.product(range(GREY_SIDE), repeat=2):
        across = values[y][x + 1] - values[y][x - 1] if 0 < x < GREY_SIDE - 1 else 0
        down = values[y + 1][x] - values[y - 1][x] if 0 < y < GREY_SIDE - 1 else 0
        turn = (math.atan2(down, across) / math.pi) % 1.0 * bins
        low, upper = math.floor(turn), turn - math.floor(turn)
        cell, strength = cells[y // side][x // side], math.hypot(across, down)
        cell[low % bins] += (1 - upper) * strength
        cell[(low + 1) % bins] += upper * strength
    found: list[float] = []
    for row, column in itertools.product(range(3), repeat=2):
        pairs = itertools.product((0, 1), repeat=2)
        block = [one for a, b in pairs for one in cells[row + a][column + b]]
        length = math.sqrt(sum(one * one for one in block)) or 1.0
        found += [one / length for one in block]
    return found


def test_the_gradients_of_a_picture_are_those_of_a_loop_over_its_pixels() -> None:
    grey = picture(3)
    assert oriented_gradients(grey[None])[0] == pytest.approx(plain_gradients(grey), abs=1e-5)


def test_a_brighter_copy_is_near_another_picture_far_and_a_plain_one_nothing() -> None:
    first = picture(1)
    brighter = np.clip(first.astype(int) // 2 + 90, 0, 255).astype(np.uint8)
    plain = np.full_like(first, 128)
    features = scene_features(looks_of(first, brighter, picture(2), plain))
    assert np.linalg.norm(features, axis=1) == pytest.approx([1, 1, 1, 0])
    near, far = (float(distances(features[[0]], features[place])[0]) for place in (1, 2))
    assert near < 0.1 < 5 * near + 0.1 < far


def named(place: int, is_labelled: bool) -> str:
    return f"{'old' if is_labelled else 'new'}-{place}"


def test_a_queue_takes_detections_as_they_arrive_and_says_why() -> None:
    features = np.array([[0.0], [1.0], [2.0], [2.0]])
    needs = class_needs(["cat", "dog"], {"cat": 4, "dog": 28}, {"cat": 0.5})
    queue = LabelQueue(
        features,
        np.array([[-3.0]]),
        copies=[(2, 3)],
        needs=needs,
        counts={"cat": 4, "dog": 28},
        aps={"cat": 0.5},
    )
    assert [one.place for one in queue.ranked()] == [2, 0, 1, 3]  # nothing has arrived
    queue.add(1, ["cat", "cat", "dog"], [0.5, 0.6, 0.97])
    queue.add(0, ["dog"], [0.99])
    ranked = queue.ranked()
    assert ranked[0].place == 1
    reasons = {one.place: queue.reasons(one, named) for one in ranked}
    assert reasons[1] == ["2 doubtful detections", "new scene", "cat has 4 objects and AP 0.50"]
    assert reasons[0][0] == "nothing doubtful"
    assert reasons[3] == ["a copy of new-2"]
    queue.add(1, [], [])
    assert queue.ranked()[0].place == 2


def test_reasons_tell_a_scene_that_is_like_another_from_a_new_one() -> None:
    queue = LabelQueue(np.array([[0.0], [0.2], [9.0]]), np.array([[0.1]]))
    words = {one.place: queue.reasons(one, named) for one in queue.ranked()}
    assert words == {2: ["new scene"], 0: ["like old-0"], 1: ["like old-0"]}
    first, *_ = LabelQueue(np.array([[0.0], [0.2], [9.0]])).ranked(1)
    assert isinstance(first, Ranked) and first.near is None


def test_ten_thousand_images_take_seconds() -> None:
    rng = np.random.default_rng(0)
    features = rng.random((10_000, 324))
    began = time.perf_counter()
    assert len(rank(features, rng.random(10_000), most=50)) == 50
    assert time.perf_counter() - began < 10
