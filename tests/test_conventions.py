"""Conventions of other tools, each against a plain loop, the tool, or its published figures."""

from __future__ import annotations

import contextlib
import io
import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelled_folders import SHARED, put
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from running import detkit
from test_tidecv import drawn

from detkit.data.demo.pictures import write_demo
from detkit.errors import UsageError
from detkit.evaluation.bootstrap import bootstrap_map
from detkit.evaluation.coco_map import ranked_hits as coco_hits
from detkit.evaluation.iou import iou_matrix
from detkit.evaluation.metrics import METRICS, find_metric
from detkit.evaluation.other_tools import TOOLS, like
from detkit.evaluation.protocols import explain
from detkit.evaluation.scores import score
from detkit.structures import Detections, Truth

# mAP50-95 and mAP50: what ultralytics 8.4.190 of the package index said of `drawn(seed)`, by
# `match_predictions` and `ap_per_class`. Sets with equal scores in a class are left out, which it
# ranks in no certain order.
OF_ULTRALYTICS = {
    1: (0.10629642857142858, 0.2300357142857143),
    9: (0.061356196581196586, 0.19124074074074074),
    10: (0.036508981311109814, 0.11154825794360679),
    15: (0.06614150641025641, 0.26083333333333336),
}


def one_class(hits: list[int], num_objects: int) -> tuple[list[Detections], list[Truth]]:
    """Return one image whose detections, best first, are right or wrong as said."""
    places = np.arange(num_objects, dtype=np.float32) * 50
    boxes = np.stack([places, places * 0, places + 20, places * 0 + 20], axis=1)
    found = [boxes[sum(hits[:rank])] if hit else [0, 900, 9, 909] for rank, hit in enumerate(hits)]
    scores = np.linspace(0.9, 0.1, len(hits)).astype(np.float32)
    labels = np.zeros(num_objects, np.int64)
    return [
        Detections(
            np.array(found, np.float32).reshape(-1, 4), scores, np.zeros(len(hits), np.int64)
        )
    ], [Truth(boxes, labels, np.zeros(num_objects, np.bool_))]


def mean(detections: list[Detections], truths: list[Truth], metric: str, iou: Any = None) -> float:
    number = 1 + max(int(one.labels.max(initial=0)) for one in (*detections, *truths))
    found = score(detections, truths, [str(index) for index in range(number)], metric, iou).mean
    assert found is not None
    return found


@pytest.mark.parametrize("num_right", range(1, 11))
def test_recall_points_as_floats_lose_what_is_known_of_them(num_right: int) -> None:
    case = one_class([1] * num_right, 10)
    exact = (num_right + 1) / 11
    assert mean(*case, "voc07") == pytest.approx(exact)
    numpy = exact - 1 / 11 * (num_right in (3, 6, 7))
    assert mean(*case, "voc07+numpy-recalls") == pytest.approx(numpy)
    matlab = exact - 1 / 11 * (num_right == 3)
    assert mean(*case, "voc07+matlab-recalls") == pytest.approx(matlab)


def float_ap(hits: list[int], num_objects: int, points: Any) -> float:
    """Return 11-point AP in plain floats, as VOC's ports compute it."""
    total = 0.0
    for point in points:
        best = 0.0
        for rank in range(1, len(hits) + 1):
            found = sum(hits[:rank])
            if found / num_objects >= point:
                best = max(best, found / rank)
        total += best / 11
    return total


def test_recall_points_as_floats_are_those_of_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        num_objects = int(rng.integers(1, 31))
        hits = [int(rng.random() < 0.7) for _ in range(num_objects + 5)]
        while sum(hits) > num_objects:
            hits[hits.index(1)] = 0
        case = one_class(hits, num_objects)
        expected = float_ap(hits, num_objects, np.arange(0.0, 1.1, 0.1))
        assert mean(*case, "voc07+numpy-recalls") == pytest.approx(expected, abs=1e-12)
        halves = [*(0.1 * k for k in range(6)), *(1 - 0.1 * k for k in (4, 3, 2, 1, 0))]
        expected = float_ap(hits, num_objects, halves)
        assert mean(*case, "voc07+matlab-recalls") == pytest.approx(expected, abs=1e-12)


def best_free(
    detections: list[Detections], truths: list[Truth], label: int
) -> list[tuple[float, bool]]:
    """Return (score, is right) of what COCO's dealing out leaves, plainly."""
    rows = []
    for found, wanted in zip(detections, truths, strict=True):
        ious = iou_matrix(found.boxes, wanted.boxes)
        taken: set[int] = set()
        for row in np.argsort(-found.scores, kind="stable").tolist():
            if found.labels[row] != label:
                continue
            own = [
                index for index in range(len(wanted.labels))
                if wanted.labels[index] == label and ious[row, index] >= 0.5
            ]  # fmt: skip
            free = [one for one in own if not wanted.difficult[one] and one not in taken]
            if free:
                taken.add(max(free, key=lambda one: ious[row, one]))
                rows.append((float(found.scores[row]), True))
            elif not any(wanted.difficult[one] for one in own):
                rows.append((float(found.scores[row]), False))
    return sorted(rows, key=lambda pair: -pair[0])


def test_the_best_free_object_is_found_as_by_a_plain_loop() -> None:
    for seed in range(12):
        detections, truths, number = drawn(seed)
        rules = find_metric("voc12+best-free").rules
        own = rules.ranked_hits(detections, truths, number, 0.5)
        for label, (one,) in enumerate(own):
            expected = best_free(detections, truths, label)
            assert int(one.hits.sum()) == sum(hit for _, hit in expected)
            assert one.scores.tolist() == pytest.approx([value for value, _ in expected])


def test_a_detection_of_a_taken_object_finds_the_next_best_or_is_wrong() -> None:
    objects = np.array([[0, 0, 10, 10], [2, 0, 12, 10]], np.float32)
    truths = [Truth(objects, np.zeros(2, int), np.zeros(2, bool))]
    found = np.array([[0, 0, 10, 10], [0.9, 0, 10.9, 10]], np.float32)  # .835 and .802 of the two
    detections = [Detections(found, np.array([0.9, 0.8], np.float32), np.zeros(2, int))]
    assert mean(detections, truths, "voc12") == pytest.approx(0.5)
    assert mean(detections, truths, "voc12+best-free") == pytest.approx(1.0)
    assert mean(detections, truths, "voc07+best-free+matlab-recalls") == pytest.approx(1.0)


def test_without_difficult_objects_the_best_free_object_is_cocos() -> None:
    for seed in range(1, 20, 2):
        detections, truths, number = drawn(seed)
        truths = [replace(one, difficult=np.zeros_like(one.difficult)) for one in truths]
        detections = [
            replace(one, scores=one.scores - np.arange(len(one.scores), dtype=np.float32) * 1e-4)
            for one in detections
        ]
        rules = find_metric("voc12+best-free").rules
        own = rules.ranked_hits(detections, truths, number, 0.5)
        for (one,), (other,) in zip(own, coco_hits(detections, truths, number, 0.5), strict=True):
            assert int(one.hits.sum()) == int(other.hits.sum())


@pytest.mark.parametrize("seed", OF_ULTRALYTICS)
def test_the_figures_are_those_of_ultralytics(seed: int) -> None:
    detections, truths, _ = drawn(seed)
    of_all, at_half = OF_ULTRALYTICS[seed]
    assert mean(detections, truths, "ultralytics") == pytest.approx(of_all, abs=1e-9)
    assert mean(detections, truths, "ultralytics", 0.5) == pytest.approx(at_half, abs=1e-9)


def test_a_perfect_detector_gets_995_of_1000_from_ultralytics() -> None:
    assert mean(*one_class([1], 1), "ultralytics") == pytest.approx(0.995)
    assert mean(*one_class([1], 2), "ultralytics", 0.5) == pytest.approx(0.495)
    assert mean(*one_class([0, 1], 1), "ultralytics", 0.5) == pytest.approx(0.4975)
    detections, truths = one_class([1], 1)
    truths = [replace(truths[0], difficult=np.ones(1, np.bool_))]
    assert mean(detections, truths, "ultralytics") == pytest.approx(0.995)  # difficult ones count
    crowd = [replace(truths[0], crowd=np.ones(1, np.bool_))]
    assert score(detections, crowd, ["a"], "ultralytics").mean is None  # crowds are not there


def test_pixels_are_moved_as_each_convention_says() -> None:
    box = np.array([[10.4, 10.5, 20.6, 20.2]], np.float32)
    truth = Truth(np.array([[10, 10, 20, 20]], np.float32), np.zeros(1, int), np.zeros(1, bool))
    found = Detections(box, np.ones(1, np.float32), np.zeros(1, int))

    def boxes(name: str) -> tuple[list[float], list[float]]:
        change = find_metric(f"voc07+{name}").rules.change
        assert change is not None
        detections, truths = change([found], [truth])
        return detections[0].boxes[0].round(3).tolist(), truths[0].boxes[0].tolist()

    same = truth.boxes[0].tolist()
    close = pytest.approx
    assert boxes("whole-pixels") == ([10, 11, 21, 20], same)
    assert boxes("voc-pixels") == (close([9.4, 9.5, 20.6, 20.2], abs=1e-3), same)
    assert boxes("one-pixel-off") == (close([11.4, 11.5, 21.6, 21.2], abs=1e-3), same)
    assert boxes("end-pixels") == (close([10.4, 10.5, 21.6, 21.2], abs=1e-3), [10, 10, 21, 21])


def test_whatever_explain_lists_can_be_scored_with_an_interval_around_it() -> None:
    detections, truths, number = drawn(4)
    names = [str(index) for index in range(number)]
    for metric in METRICS:
        for rule in explain(detections, truths, names, metric=metric):
            _, name, *iou = rule.options.split()
            thresh = float(iou[1]) if iou else None
            scores = score(detections, truths, names, name, thresh)
            assert scores.mean == rule.mean
            assert scores.metric == name
            drawn_ = bootstrap_map(
                detections, truths, names, metric=name, iou_thresh=thresh, samples=3
            )
            assert drawn_.mean is not None
            assert drawn_.mean.value == pytest.approx(rule.mean, abs=1e-9)


def test_conventions_add_up_and_stand_in_the_protocol() -> None:
    detections, truths, number = drawn(4)
    names = [str(index) for index in range(number)]
    both = score(detections, truths, names, "voc07+best-free+count-difficult+cut=.3")
    assert both.protocol.endswith(
        "the best free object, difficult objects counted, detections cut at a score of 0.3"
    )
    kept = [
        Detections(one.boxes[keep], one.scores[keep], one.labels[keep])
        for one in detections
        for keep in [one.scores >= np.float32(0.3)]
    ]
    plain = [replace(one, difficult=np.zeros_like(one.difficult)) for one in truths]
    assert both.mean == score(kept, plain, names, "voc07+best-free").mean


@pytest.mark.parametrize(
    "name", ["voc12+numpy-recalls", "coco+best-free", "voc07+besst-free", "voc07+cut=x", "voc07+"]
)
def test_a_convention_that_a_metric_cannot_have_is_named(name: str) -> None:
    with pytest.raises(UsageError, match=r"--metric voc|--metric coco"):
        find_metric(name)


def test_recall_points_are_floats_in_one_way_only() -> None:
    with pytest.raises(UsageError, match="matlab-recalls"):
        find_metric("voc07+numpy-recalls+matlab-recalls")


@pytest.fixture
def case(tmp_path: Path) -> tuple[Path, Path]:
    """Return a COCO folder with objects that are ignored, but no crowds, and detections on it."""
    write_demo(tmp_path / "demo", num_images=12)
    done = detkit("convert", tmp_path / "demo", "--to", "coco", tmp_path / "my data")
    assert done.returncode == 0, done.stderr
    truth = tmp_path / "my data" / "annotations" / "instances_train.json"
    content = json.loads(truth.read_text(encoding="utf-8"))
    rng = np.random.default_rng(5)
    found = []
    images = {one["id"]: one["file_name"] for one in content["images"]}
    for number, one in enumerate(content["annotations"]):
        one["iscrowd"] = 0
        one.pop("difficult", None)
        if number % 4 == 0:
            one["ignore"] = 1
        for _ in range(2):
            x, y, width, height = np.array(one["bbox"]) + rng.normal(0, 4, 4)
            found.append(
                {
                    "image_id": one["image_id"],
                    "category_id": one["category_id"],
                    "bbox": [x, y, max(width, 1), max(height, 1)],
                    "score": round(float(rng.random()), 4),
                    "file_name": images[one["image_id"]],
                }
            )
    truth.write_text(json.dumps(content), encoding="utf-8")
    put(tmp_path, {"found.json": json.dumps(found)})
    return truth, tmp_path / "found.json"


def told(tool: str, truth: Path, found: Path) -> dict[str, Any]:
    words = ("eval", "--predictions", found, truth, "--explain", "--like", tool, "--json")
    done = detkit(*words)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)["like"]
    return report


@pytest.mark.parametrize("tool", TOOLS)
def test_the_command_that_is_printed_gives_the_number_that_stands_beside_it(
    case: tuple[Path, Path], tool: str
) -> None:
    report = told(tool, *case)
    assert report["tool"] == tool
    tried = 0
    for one in report["figures"]:
        if one["command"] is None:
            assert tool == "tidecv"  # which leaves out what is marked as a crowd alone
            continue
        first, *words = shlex.split(one["command"])
        assert first == "detkit"
        done = detkit(*words, "--json")
        assert done.returncode == 0, done.stderr
        again = json.loads(done.stdout)
        assert again["mAP"] == pytest.approx(one["mAP"], abs=1e-12)
        tried += 1
    assert tried or tool == "tidecv"


def test_pycocotools_own_figures_are_told_though_it_counts_ignored_objects(
    case: tuple[Path, Path],
) -> None:
    truth, found = case
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(truth))
        evaluator = COCOeval(coco, coco.loadRes(str(found)), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    report = told("pycocotools", truth, found)
    figures = [one["mAP"] for one in report["figures"]]
    assert figures == pytest.approx(evaluator.stats[:3].tolist(), abs=1e-6)
    assert report["figures"][0]["command"].endswith("--metric coco+count-difficult")
    assert "calls ignored or difficult, but not iscrowd" in report["notes"][0]
    done = detkit("eval", "--predictions", found, truth, "--metric", "coco", "--json")
    assert json.loads(done.stdout)["mAP"] != pytest.approx(figures[0], abs=1e-3)


def test_what_no_option_repeats_is_said() -> None:
    detections, truths, number = drawn(9)
    names = [str(index) for index in range(number)]
    assert sum(int(one.difficult.sum()) for one in truths) > 1
    first = next(index for index, one in enumerate(truths) if one.difficult.any())
    marked = [np.zeros_like(one.difficult) for one in truths]
    marked[first][truths[first].difficult.argmax()] = True
    report = like("pycocotools", detections, truths, names, marked)
    assert {one.options for one in report.figures} == {None}
    assert "no option of detkit's counts the same" in report.notes[0]
    assert {one.options for one in like("pycocotools", detections, truths, names).figures} == {
        "--metric coco",
        "--metric coco --iou 0.5",
        "--metric coco --iou 0.75",
    }


def test_like_without_explain_or_with_another_tool_is_a_wrong_usage(
    case: tuple[Path, Path],
) -> None:
    truth, found = case
    done = detkit("eval", "--predictions", found, truth, "--like", "tidecv")
    assert done.returncode == 2 and "--explain" in done.stderr
    done = detkit("eval", "--predictions", found, truth, "--explain", "--like", "mmdet")
    assert done.returncode == 2 and "pycocotools" in done.stderr
    table = detkit("eval", "--predictions", found, truth, "--explain", "--like", "voc-devkit")
    assert "as voc-devkit has it" in table.stdout
    assert f"'{truth}' --metric voc07+matlab-recalls" in table.stdout


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")
@pytest.mark.parametrize("form", ["coco_format/coco_dets.json", "abs_xyx2y2"])
@pytest.mark.parametrize(
    ("metric", "published"),
    [
        ("voc07+count-difficult+voc-pixels+numpy-recalls", 0.598969),
        ("voc07+count-difficult+voc-pixels", 0.604126),
        ("voc12+count-difficult+voc-pixels", 0.610913),
    ],
)
def test_published_figures_of_voc_images_are_repeated_by_their_conventions(
    metric: str, published: float, form: str
) -> None:
    found = SHARED / "eval" / "voc100" / form
    words = ("eval", "--predictions", found, SHARED / "voc100", "--metric", metric, "--json")
    done = detkit(*words)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["mAP"] == pytest.approx(published, abs=1e-6)
