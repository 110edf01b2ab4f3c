"""Anchors from objects: hand-made shapes, a loop over every box, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from running import detkit

from detkit.data.demo.pictures import write_demo
from detkit.errors import DetkitError
from detkit.geometry import anchor_estimation
from detkit.geometry.anchor_estimation import (
    estimate_anchors,
    mean_best_iou,
    network_shapes,
    shape_iou,
)
from detkit.structures import Truth


def iou_around_one_centre(a: tuple[float, float], b: tuple[float, float]) -> float:
    both = min(a[0], b[0]) * min(a[1], b[1])
    return both / (a[0] * a[1] + b[0] * b[1] - both)


def test_shape_iou_is_that_of_boxes_around_one_centre() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.uniform(1, 100, (5, 2)), generator.uniform(1, 100, (4, 2))
    found = shape_iou(a, b)
    for i in range(5):
        for j in range(4):
            assert found[i, j] == pytest.approx(iou_around_one_centre(tuple(a[i]), tuple(b[j])))
    assert shape_iou(np.array([[2.0, 2.0]]), np.array([[4.0, 1.0]]))[0, 0] == pytest.approx(2 / 6)


def test_two_clear_groups_of_shapes_become_the_two_anchors() -> None:
    shapes = np.array([[10.0, 20.0]] * 5 + [[100.0, 40.0]] * 3)
    found = estimate_anchors(shapes, 2)
    np.testing.assert_allclose(found.anchors, [[10, 20], [100, 40]])
    assert found.mean_iou == 1.0 and found.unreached == {0.5: 0.0, 0.7: 0.0}


def test_of_very_many_shapes_every_nth_is_searched_and_all_are_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shapes = np.array([[10.0, 20.0], [5.0, 5.0], [100.0, 40.0], [5.0, 5.0]] * 3)
    monkeypatch.setattr(anchor_estimation, "MOST_SHAPES", 6)
    found = estimate_anchors(shapes, 2)
    np.testing.assert_allclose(found.anchors, [[10, 20], [100, 40]])
    assert found.mean_iou == pytest.approx((6 * 1.0 + 6 * 25 / 200) / 12)
    assert found.unreached == {0.5: 0.5, 0.7: 0.5}


def test_one_anchor_leaves_the_other_group_unreached() -> None:
    shapes = np.array([[10.0, 10.0]] * 7 + [[100.0, 100.0]] * 3)
    found = estimate_anchors(shapes, 1)
    np.testing.assert_allclose(found.anchors, [[10, 10]])
    assert found.mean_iou == pytest.approx(0.7 + 0.3 * 0.01)
    assert found.unreached == {0.5: pytest.approx(0.3), 0.7: pytest.approx(0.3)}


def test_judging_agrees_with_a_loop() -> None:
    generator = np.random.default_rng(1)
    shapes, anchors = generator.uniform(5, 50, (30, 2)), generator.uniform(5, 50, (3, 2))
    found = mean_best_iou(shapes, anchors)
    best = [max(iou_around_one_centre(tuple(s), tuple(a)) for a in anchors) for s in shapes]
    assert found.mean_iou == pytest.approx(sum(best) / 30)
    assert found.unreached[0.7] == pytest.approx(sum(iou < 0.7 for iou in best) / 30)


def test_more_anchors_never_fit_worse_and_the_same_seed_gives_the_same() -> None:
    generator = np.random.default_rng(2)
    shapes = generator.lognormal(4, 0.6, (300, 2))
    fits = [estimate_anchors(shapes, k).mean_iou for k in range(1, 8)]
    assert fits == sorted(fits)
    again = estimate_anchors(shapes, 4, seed=3).anchors
    np.testing.assert_array_equal(again, estimate_anchors(shapes, 4, seed=3).anchors)


def test_more_anchors_than_shapes_are_given_all_the_same() -> None:
    assert estimate_anchors(np.array([[3.0, 4.0]]), 3).anchors.tolist() == [[3, 4]] * 3
    with pytest.raises(DetkitError, match="no objects"):
        estimate_anchors(np.zeros((0, 2)), 3)


def test_shapes_are_measured_in_network_pixels_and_flat_boxes_left_out() -> None:
    boxes = np.array([[0, 0, 10, 20], [5, 5, 5, 9]], np.float32)
    truth = Truth(boxes, np.zeros(2, np.int64), np.zeros(2, np.bool_), "a")
    shapes = network_shapes([(truth, (100, 50))], lambda height, width: (2 * height, 4 * width))
    np.testing.assert_allclose(shapes, [[40, 40]])


def test_the_command_prints_anchors_and_says_what_is_wrong(tmp_path: Path) -> None:
    write_demo(tmp_path / "demo", num_images=12, seed=0)
    done = detkit("anchors", str(tmp_path / "demo"), "-k", "3", "--json", "--size", "300")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["k"] for row in rows] == [1, 2, 3]
    assert [len(row["anchors"]) for row in rows] == [1, 2, 3]
    table = detkit("anchors", str(tmp_path / "demo"), "-k", "2").stdout.splitlines()
    assert table[0].startswith("k") and len(table) == 3
    wrong = detkit("anchors", str(tmp_path / "demo"), "--split", "dev")
    assert wrong.returncode == 2 and "train" in wrong.stderr and wrong.stdout == ""
