"""Tests of recall and mean average best overlap, against cases worked by hand and plain loops."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from detkit.errors import UsageError
from detkit.evaluation.proposal_recall import (
    COUNTS,
    best_overlaps,
    counts_up_to,
    recall,
    recall_to_json,
)
from detkit.report.recall_plot import save_recall_plot
from detkit.structures import FloatArray, Truth


def boxes(*corners: tuple[float, float, float, float]) -> FloatArray:
    return np.array(corners, np.float32).reshape(-1, 4)


def truth(
    objects: FloatArray, labels: list[int] | None = None, difficult: list[bool] | None = None
) -> Truth:
    count = len(objects)
    return Truth(
        objects,
        np.array(labels if labels is not None else [0] * count, np.int64),
        np.array(difficult if difficult is not None else [False] * count, np.bool_),
    )


def plain_iou(one: list[float], other: list[float]) -> float:
    """Return the IoU of two boxes, by counting the pixels of whole-numbered boxes."""
    pixels = [
        {(x, y) for x in range(int(box[0]), int(box[2])) for y in range(int(box[1]), int(box[3]))}
        for box in (one, other)
    ]
    return len(pixels[0] & pixels[1]) / len(pixels[0] | pixels[1])


def test_an_object_is_covered_as_far_as_by_the_best_of_the_first_boxes() -> None:
    # 10 x 10; the boxes cover none of it, half of it (5 x 10), and 10 x 8 = .8 of it.
    objects = boxes((0, 0, 10, 10))
    found = boxes((20, 20, 30, 30), (0, 0, 5, 10), (0, 0, 10, 8))
    overlaps = best_overlaps(objects, found, [1, 2, 3, 100])
    np.testing.assert_allclose(overlaps, [[0.0, 0.5, 0.8, 0.8]])


def test_overlaps_are_those_of_counted_pixels() -> None:
    random = np.random.default_rng(0)

    def drawn(count: int) -> FloatArray:
        start = random.integers(0, 12, (count, 2))
        return np.hstack([start, start + random.integers(1, 12, (count, 2))]).astype(np.float32)

    objects, found = drawn(6), drawn(25)
    for count in (1, 7, 25, 40):
        expected = [
            max(plain_iou(one, other) for other in found[:count].tolist())
            for one in objects.tolist()
        ]
        np.testing.assert_allclose(best_overlaps(objects, found, [count])[:, 0], expected)


def test_recall_counts_objects_and_mabo_classes() -> None:
    # Class a: three objects covered by 1, 1, .5; class b: one, not covered at all.
    a = boxes((0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10))
    b = boxes((60, 0, 70, 10))
    found = np.concatenate([a[:2], boxes((40, 0, 45, 10))])
    scores = recall([found], [truth(np.concatenate([a, b]), [0, 0, 0, 1])], ("a", "b", "c"))
    assert scores.all.num_objects == 4
    np.testing.assert_allclose(scores.all.recall[-1], [3 / 4, 2 / 4, 2 / 4])  # .5 reaches .5
    assert scores.all.overlap[-1] == pytest.approx(((1 + 1 + 0.5) / 3 + 0.0) / 2)
    by_class = {one.name: one for one in scores.classes}
    np.testing.assert_allclose(by_class["a"].recall[-1], [1, 2 / 3, 2 / 3])
    assert by_class["a"].overlap[-1] == pytest.approx(2.5 / 3)
    assert by_class["c"].num_objects == 0 and np.isnan(by_class["c"].overlap).all()


def test_difficult_objects_are_left_out() -> None:
    objects = boxes((0, 0, 10, 10), (20, 0, 30, 10))
    found = [boxes((0, 0, 10, 10))]
    assert recall(found, [truth(objects)], ("a",)).all.recall[0, 0] == 0.5
    judged = recall(found, [truth(objects, difficult=[False, True])], ("a",))
    assert judged.all.recall[0, 0] == 1.0 and judged.all.num_objects == 1


def test_sizes_are_cocos_by_area() -> None:
    objects = boxes((0, 0, 31, 33), (0, 0, 32, 32), (0, 0, 95, 97), (0, 0, 96, 96))
    scores = recall([objects], [truth(objects)], ("a",))
    assert {one.name: one.num_objects for one in scores.sizes} == {
        "small": 1,
        "medium": 2,
        "large": 1,
    }


def test_more_boxes_never_cover_less() -> None:
    random = np.random.default_rng(1)
    start = random.uniform(0, 80, (400, 2))
    found = np.hstack([start, start + random.uniform(1, 40, (400, 2))]).astype(np.float32)
    scores = recall([found], [truth(found[::40] + 3)], ("a",))
    assert (np.diff(scores.all.recall, axis=0) >= 0).all()
    assert (np.diff(scores.all.overlap) >= 0).all()


def test_images_without_objects_or_boxes_break_nothing() -> None:
    none = boxes()
    scores = recall([none, boxes((0, 0, 9, 9))], [truth(boxes((0, 0, 9, 9))), truth(none)], ("a",))
    assert scores.all.recall[-1].tolist() == [0, 0, 0] and scores.boxes_per_image == 0.5
    empty = recall([none], [truth(none)], ("a",))
    report = json.loads(json.dumps(recall_to_json(empty), allow_nan=False))
    assert [one["boxes"] for one in report["all"]["counts"]] == list(COUNTS)
    assert report["all"]["counts"][0]["recall"] == {"0.5": None, "0.7": None, "0.9": None}
    with pytest.raises(ValueError, match="proposals of 1 image, objects of 2"):
        recall([none], [truth(none)] * 2, ("a",))


def test_the_plot_is_a_picture_and_other_suffixes_are_refused(tmp_path: Path) -> None:
    objects = [boxes((0, 0, 10, 10))]
    save_recall_plot({"ö": objects}, [truth(objects[0])], ("a",), tmp_path / "r.png")
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match="written as one of"):
        save_recall_plot({"ö": objects}, [truth(objects[0])], ("a",), tmp_path / "r.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["r.png"]


def test_the_plot_names_files_as_they_are_called(tmp_path: Path) -> None:
    objects = [boxes((0, 0, 10, 10))]
    names = ("_of $\\me$.jsonl", "提案.jsonl")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = dict.fromkeys(names, objects)
        save_recall_plot(found, [truth(objects[0])], ("a",), tmp_path / "r.svg")
    drawn = (tmp_path / "r.svg").read_text(encoding="utf-8").replace(r"\$", "$")
    assert all(f" {name} -->" in drawn for name in names)


def test_the_numbers_of_boxes_end_with_the_one_asked_for() -> None:
    assert counts_up_to(2000) == COUNTS and counts_up_to(50) == (50,)
    assert counts_up_to(1500) == (100, 300, 1000, 1500)
    assert counts_up_to(5000) == (*COUNTS, 5000)


def test_recall_and_proposing_import_no_torch() -> None:
    parts = ("evaluation.proposal_recall", "cli.propose", "proposals.writer")
    modules = ", ".join(f"detkit.{part}" for part in parts)
    code = f"import sys, {modules}; assert 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
