import contextlib
import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detkit.errors import DetkitError
from detkit.evaluation.coco_map import Engine, coco_engine, coco_map, ranked_hits
from detkit.structures import Detections, Truth

DATA = Path(__file__).parents[2] / "shared" / "data"
FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def truth(boxes, labels=None, difficult=None):
    return Truth(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(labels if labels is not None else [0] * len(boxes), np.int64),
        np.array(difficult if difficult is not None else [False] * len(boxes), np.bool_),
    )


def found(boxes, scores, labels=None):
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array(labels if labels is not None else [0] * len(boxes), np.int64),
    )


def figures(scores):
    return [scores.mean, *(scores.extra[name] for name in FIGURES[1:])]


def random_set(seed, num_images=12):
    rng = np.random.default_rng(seed)
    truths, detections = [], []
    for _ in range(num_images):
        count = int(rng.integers(0, 6))
        corner = rng.uniform(0, 200, (count, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(5, 150, (count, 2))], axis=1)
        labels = rng.integers(0, 3, count)
        truths.append(truth(boxes.round(1), labels, rng.random(count) < 0.2))
        noisy = np.repeat(boxes, 2, axis=0) + rng.normal(0, 6, (2 * count, 4))
        noisy[:, 2:] = np.maximum(noisy[:, 2:], noisy[:, :2] + 1)
        scores = rng.integers(1, 20, 2 * count) / 20  # with ties
        detections.append(found(noisy.round(1), scores, np.repeat(labels, 2)))
    return detections, truths


def official_summary(detections, truths, num_classes):
    """pycocotools as its authors use it: files, loadRes, summarize."""
    annotations, results = [], []
    for image, one in enumerate(truths, start=1):
        for (x1, y1, x2, y2), label, difficult in zip(
            one.boxes.astype(float), one.labels, one.difficult
        ):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(label) + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": int(difficult),
                }
            )
    for image, one in enumerate(detections, start=1):
        for (x1, y1, x2, y2), label, score in zip(one.boxes.astype(float), one.labels, one.scores):
            results.append(
                {
                    "image_id": image,
                    "category_id": int(label) + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "score": float(score),
                }
            )
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": image} for image in range(1, len(truths) + 1)],
            "categories": [{"id": number + 1} for number in range(num_classes)],
            "annotations": annotations,
        }
        coco.createIndex()
        evaluator = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator.stats


@pytest.mark.parametrize("seed", range(4))
def test_all_twelve_figures_equal_those_that_pycocotools_prints(seed):
    detections, truths = random_set(seed)
    stats = official_summary(detections, truths, 3)
    expected = [None if value == -1 else pytest.approx(value, abs=1e-12) for value in stats]
    assert figures(coco_map(detections, truths, ["a", "b", "c"])) == expected


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the real data")
def test_the_published_figures_on_a_hundred_coco_images():
    folder = DATA / "eval" / "coco100"
    document = json.loads((folder / "gts" / "sampled_gts_bbox_area.json").read_text())
    results = json.loads((folder / "cocoapi_results.json").read_text())
    if len(results) != 734:
        results = json.loads((folder / "dets" / "sampled_bbox_results.json").read_text())
    categories = {one["id"]: number for number, one in enumerate(document["categories"])}
    detections, truths = [], []
    for image in sorted(one["id"] for one in document["images"]):
        rows = [one for one in document["annotations"] if one["image_id"] == image]
        hits = [one for one in results if one["image_id"] == image]
        wanted = truth(corners(rows), [categories[one["category_id"]] for one in rows])
        areas = np.array([one["area"] for one in rows], np.float64)
        truths.append(replace(wanted, stated_areas=areas))
        detections.append(
            found(
                corners(hits),
                [one["score"] for one in hits],
                [categories[one["category_id"]] for one in hits],
            )
        )
    names = [one["name"] for one in document["categories"]]
    scores = coco_map(detections, truths, names)
    expected = [0.503647, 0.696973, 0.571667, 0.593252, 0.557991, 0.489363]
    expected += [0.386813, 0.593680, 0.595353, 0.654764, 0.603130, 0.553744]
    assert figures(scores) == pytest.approx(expected, abs=1e-6)


def corners(rows):
    return [(x, y, x + width, y + height) for x, y, width, height in (one["bbox"] for one in rows)]


def test_a_box_with_an_iou_of_07_is_found_at_five_of_ten_thresholds():
    scores = coco_map([found([(0, 0, 10, 7.1)], [0.9])], [truth([(0, 0, 10, 10)])], ["a"])
    assert scores.mean == pytest.approx(0.5)
    assert scores.extra["AP50"] == pytest.approx(1.0)
    assert scores.extra["AP75"] == 0.0


def test_one_threshold_gives_ap_at_it_alone():
    detections, truths = [found([(0, 0, 10, 7.1)], [0.9])], [truth([(0, 0, 10, 10)])]
    at_half = coco_map(detections, truths, ["a"], iou_thresh=0.5)
    assert at_half.mean == pytest.approx(1.0)
    assert at_half.iou_thresh == 0.5
    assert "AP75" not in at_half.extra
    assert coco_map(detections, truths, ["a"], iou_thresh=0.75).mean == 0.0


def test_what_does_not_exist_is_none_and_never_minus_one():
    scores = coco_map([found([], []), found([], [])], [truth([]), truth([])], ["a"])
    assert scores.mean is None
    assert set(scores.extra.values()) == {None}
    assert scores.classes[0].ap is None
    small_only = coco_map([found([], [])], [truth([(0, 0, 5, 5)])], ["a", "b"])
    assert [one.ap for one in small_only.classes] == [0.0, None]
    assert small_only.extra["APs"] == 0.0
    assert small_only.extra["APl"] is None


def test_no_image_at_all_has_no_score():
    assert coco_map([], [], ["a"]).mean is None


def test_a_difficult_object_is_ignored_as_a_crowd_is():
    truths = [truth([(0, 0, 100, 100), (200, 0, 220, 20)], difficult=[True, False])]
    inside_difficult = found([(10, 10, 20, 20), (200, 0, 220, 20)], [0.9, 0.8])
    scores = coco_map([inside_difficult], truths, ["a"])
    assert scores.mean == pytest.approx(1.0)
    assert scores.classes[0].num_truths == 1
    assert scores.classes[0].num_detections == 2
    assert scores.classes[0].precision.tolist() == [1.0]


def test_pycocotools_writes_nothing_to_stdout(capfd):
    coco_map([found([(0, 0, 9, 9)], [0.9])], [truth([(0, 0, 9, 9)])], ["a"])
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_the_curve_and_the_best_f1_are_those_at_iou_half():
    truths = [truth([(0, 0, 10, 10), (50, 0, 60, 10)])]
    detections = [found([(0, 0, 10, 9), (90, 0, 99, 9), (50, 0, 60, 9)], [0.9, 0.8, 0.7])]
    one = coco_map(detections, truths, ["a"]).classes[0]
    assert one.precision.tolist() == pytest.approx([1, 1 / 2, 2 / 3])
    assert one.recall.tolist() == pytest.approx([0.5, 0.5, 1])
    assert one.best_f1 == pytest.approx(2 * 2 / (3 + 2))
    assert one.best_threshold == pytest.approx(0.7)


def test_a_score_that_is_not_finite_and_unequal_lengths_are_refused():
    with pytest.raises(DetkitError, match="not a finite number"):
        coco_map([found([(0, 0, 9, 9)], [np.nan])], [truth([])], ["a"])
    with pytest.raises(ValueError, match="detections of 0 images for truth of 1"):
        coco_map([], [truth([])], ["a"])


def of_every_kind(seed):
    """Detections and truth with stated areas, crowds, ties, empty classes, many boxes, none."""
    detections, truths = random_set(seed, num_images=1 + seed % 12)
    rng = np.random.default_rng(seed)
    areas = [one.areas * rng.random(len(one.labels)) for one in truths]
    truths = [replace(one, stated_areas=area) for one, area in zip(truths, areas)]
    if seed % 10 == 7:  # more than COCO's 100 an image
        detections = [
            found(*(np.repeat(part, 60, axis=0) for part in (one.boxes, one.scores)), labels)
            for one in detections
            for labels in [np.repeat(one.labels, 60)]
        ]
    if seed % 10 == 8:
        detections = [found([], []) for _ in detections]
    if seed % 10 == 9:
        truths = [truth([]) for _ in truths]
    return detections, truths


@pytest.mark.parametrize("iou_thresh", [None, 0.5])
def test_hotcoco_gives_the_figures_and_the_matches_of_pycocotools(monkeypatch, iou_thresh):
    pytest.importorskip("hotcoco")
    names = ["a", "b", "c", "of which there is nothing"]
    for seed in range(30):
        detections, truths = of_every_kind(seed)
        both = []
        for engine in (coco_engine(), Engine(COCO, COCOeval)):
            monkeypatch.setattr(
                "detkit.evaluation.coco_map.coco_engine", lambda engine=engine: engine
            )
            scores = coco_map(detections, truths, names, iou_thresh=iou_thresh)
            ranked = ranked_hits(detections, truths, len(names), iou_thresh)
            both.append(
                (
                    (scores.mean, scores.extra, [(one.ap, one.best_f1) for one in scores.classes]),
                    [
                        [
                            (row.images.tolist(), row.hits.tolist(), row.scores.tolist())
                            for row in rows
                        ]
                        for rows in ranked
                    ],
                )
            )
            monkeypatch.undo()
        assert both[0] == both[1], seed
    assert coco_engine().COCO.__module__ != "pycocotools.coco"


def test_without_hotcoco_pycocotools_computes_the_scores(monkeypatch):
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    assert coco_engine() == Engine(COCO, COCOeval)
    scores = coco_map([found([(0, 0, 10, 7.1)], [0.9])], [truth([(0, 0, 10, 10)])], ["a"])
    assert scores.mean == pytest.approx(0.5)
