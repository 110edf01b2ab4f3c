"""The error breakdown, against a case worked by hand and a plain loop over TIDE's definitions."""

from __future__ import annotations

import numpy as np
import pytest

from detkit.errors import UsageError
from detkit.evaluation.average_precision import average_precision
from detkit.evaluation.error_breakdown import FIGURES, KINDS, breakdown, breakdown_to_json
from detkit.evaluation.iou import iou, iou_matrix
from detkit.evaluation.voc_map import voc_map
from detkit.structures import Detections, Truth

Row = tuple[float, int, tuple[float, float, float, float]]


def found(*rows: Row) -> Detections:
    return Detections(
        np.array([row[2] for row in rows], np.float32).reshape(-1, 4),
        np.array([row[0] for row in rows], np.float32),
        np.array([row[1] for row in rows], np.int64),
    )


def wanted(*rows: tuple[int, tuple[float, float, float, float]], difficult: int = -1) -> Truth:
    return Truth(
        np.array([row[1] for row in rows], np.float32).reshape(-1, 4),
        np.array([row[0] for row in rows], np.int64),
        np.arange(len(rows)) == difficult,
    )


def drawn(seed: int, images: int = 12) -> tuple[list[Detections], list[Truth]]:
    """Return detections of every kind around random objects of three classes."""
    random = np.random.default_rng(seed)
    detections, truths = [], []
    for _ in range(images):
        count, number = int(random.integers(0, 5)), int(random.integers(0, 14))
        corner = random.uniform(0, 60, (count, 2))
        boxes = np.hstack([corner, corner + random.uniform(10, 40, (count, 2))])
        labels = random.integers(0, 3, count)
        truths.append(Truth(boxes.astype(np.float32), labels, random.random(count) < 0.15))
        if count:
            near = random.integers(0, count, number)
            guess = boxes[near] + random.normal(0, 5, (number, 4))
            named = np.where(random.random(number) < 0.7, labels[near], random.integers(0, 3))
        else:
            guess, named = random.uniform(0, 90, (number, 4)), random.integers(0, 3, number)
        scores = np.sort(random.random(number).astype(np.float32))[::-1]
        detections.append(Detections(guess.astype(np.float32), scores, named))
    return detections, truths


def test_the_iou_of_all_pairs_is_that_of_counted_pixels() -> None:
    boxes = np.array([[0, 0, 4, 4], [2, 2, 6, 6], [3, 3, 3, 9]], np.float32)
    expected = [[1, 4 / 28, 0], [4 / 28, 1, 0], [0, 0, 0]]  # 2 x 2 of 16 + 16 - 4
    np.testing.assert_allclose(iou_matrix(boxes, boxes), expected)


def test_the_iou_of_one_with_one_may_count_both_end_pixels() -> None:
    boxes = np.array([[0.0, 0, 4, 4], [0, 0, 4, 4], [3, 3, 3, 9]])
    others = np.array([[2.0, 2, 6, 6], [0, 0, 4, 4], [3, 3, 3, 9]])
    np.testing.assert_allclose(iou(boxes, others), [4 / 28, 1, 0])
    np.testing.assert_allclose(iou(boxes, others, 1.0), [9 / 41, 1, 1])  # 3 x 3 of 25 + 25 - 9


def test_each_kind_of_error_costs_what_it_does_by_hand() -> None:
    # Class 0: four objects of 10 x 10 in a row; class 1: one object.
    places = [(x, 0.0, x + 10.0, 10.0) for x in (0.0, 50.0, 100.0, 150.0)]
    truth = wanted(*((0, box) for box in places), (1, (0.0, 50.0, 10.0, 60.0)))
    detections = found(
        (0.95, 0, (300.0, 300.0, 310.0, 310.0)),  # background
        (0.9, 0, places[0]),  # right
        (0.8, 0, places[0]),  # duplicate
        (0.7, 0, (50.0, 0.0, 54.0, 10.0)),  # localisation: IoU .4
        (0.6, 1, places[2]),  # classification
        (0.5, 0, (0.0, 50.0, 4.0, 60.0)),  # both: IoU .4 with the object of class 1
    )
    errors = breakdown([detections], [truth], ["a", "b"], metric="voc12")
    names = [KINDS[kind] for kind in errors.kinds[0]]
    assert names == [
        "background",
        "right",
        "duplicate",
        "localisation",
        "classification",
        "both",
    ]
    assert errors.missed[0].tolist() == [False, False, False, True, True]
    assert errors.finds[0].tolist() == [-1, 0, -1, -1, -1, -1]
    a, b = errors.classes
    # One of four found, behind one false detection: 1/2 * 1/4.
    assert a.ap == pytest.approx(1 / 8) and b.ap == 0
    # Put right, .6 is a second find, the fifth of six: 1/4 (1/2 + 2/5). Class b has none left.
    assert a.classification == pytest.approx((1 / 2 + 2 / 5) / 4 - 1 / 8)
    # Put right, .7 is a second find, the fourth: 1/4 (1/2 + 2/4).
    assert a.localisation == pytest.approx((1 / 2 + 2 / 4) / 4 - 1 / 8)
    assert a.both == 0 and a.duplicate == 0  # nothing right stands behind them
    assert a.background == pytest.approx(1 / 4 - 1 / 8)
    assert a.missed == pytest.approx(1 / 2 / 3 - 1 / 8)  # three objects are left
    assert a.false_positive == pytest.approx(1 / 4 - 1 / 8)
    assert a.false_negative == pytest.approx(1 / 2 - 1 / 8)  # one object is left
    assert errors.overall.background == pytest.approx(a.background / 2)
    assert errors.counts["missed"] == 2


def test_a_detection_put_right_takes_the_place_of_a_worse_one_of_the_same_object() -> None:
    box = (0.0, 0.0, 10.0, 10.0)
    detections = found((0.9, 1, box), (0.8, 0, (50.0, 50.0, 60.0, 60.0)), (0.5, 0, box))
    errors = breakdown([detections], [wanted((0, box))], ["a", "b"], metric="voc12")
    assert errors.classes[0].ap == 0.5
    assert errors.classes[0].classification == 0.5  # it is found at .9, before the false one


def test_difficult_objects_are_never_missed_and_detections_of_them_are_ignored() -> None:
    box, far = (0.0, 0.0, 10.0, 10.0), (0.0, 0.0, 4.0, 10.0)
    rows = found((0.9, 0, box), (0.8, 0, far)), found()
    truth = wanted((0, box), difficult=0)
    errors = breakdown(rows, [truth, truth], ["a"])
    assert [KINDS[kind] for kind in errors.kinds[0]] == ["ignored", "localisation"]
    assert [row.tolist() for row in errors.finds] == [[-1, -1], []]
    assert not errors.missed[0].any() and not errors.missed[1].any()
    assert errors.classes[0].ap is None and errors.overall.ap is None


def test_a_class_that_finds_nothing_and_claims_nothing_loses_all_to_misses() -> None:
    errors = breakdown([found()], [wanted((0, (0.0, 0.0, 1.0, 1.0)))], ["a"])
    assert errors.overall.missed == 1 and errors.overall.false_negative == 1
    assert errors.overall.false_positive == 0


def plain_costs(
    detections: list[Detections], truths: list[Truth], num_classes: int
) -> dict[str, list[float]]:
    """Return each figure by class, by TIDE's sections 2.2 and 2.3, one detection after another."""
    rows = []  # [image, place, score, label, kind, object]
    for image, (one, truth) in enumerate(zip(detections, truths)):
        ious = iou_matrix(one.boxes, truth.boxes)
        for place in range(len(one.scores)):
            own = [(ious[place, r], -r) for r in range(len(truth.labels))
                   if truth.labels[r] == one.labels[place]]  # fmt: skip
            other = [(ious[place, r], -r) for r in range(len(truth.labels))
                     if truth.labels[r] != one.labels[place]]  # fmt: skip
            best, rival = max(own, default=(0, 1)), max(other, default=(0, 1))
            kind, target = "background", None
            if best[0] >= 0.5:
                kind, target = "right", -best[1]
            elif best[0] >= 0.1:
                kind, target = "localisation", -best[1]
            elif rival[0] >= 0.5:
                kind, target = "classification", -rival[1]
            elif rival[0] >= 0.1:
                kind, target = "both", -rival[1]
            rows.append([image, place, float(one.scores[place]), int(one.labels[place]), kind,
                         (image, target)])  # fmt: skip
    rows.sort(key=lambda row: -row[2])
    taken = set()
    for row in rows:
        if row[4] == "right":
            if truths[row[0]].difficult[row[5][1]]:
                row[4] = "ignored"
            elif row[5] in taken:
                row[4] = "duplicate"
            taken.add(row[5])
    objects = {(i, r): int(truth.labels[r]) for i, truth in enumerate(truths)
               for r in range(len(truth.labels)) if not truth.difficult[r]}  # fmt: skip

    def ap(rows: list[list], left: dict) -> list[float]:
        aps = []
        for label in range(num_classes):
            hits = [row[4] == "right" for row in rows if row[3] == label and row[4] != "ignored"]
            number = sum(value == label for value in left.values())
            value = average_precision(np.array(hits, bool), np.zeros(0), number, "voc12")
            aps.append(float(not hits) if value is None else value)
        return aps

    def put_right(kind: str) -> list[list]:
        seen, kept = set(), []
        for row in rows:
            if row[4] in (kind, "right"):
                if row[5] in objects and row[5] not in seen:
                    kept.append([*row[:3], objects[row[5]], "right", row[5]])
                seen.add(row[5])
            else:
                kept.append(row)
        return kept

    def without(*kinds: str) -> list[list]:
        return [row for row in rows if row[4] not in kinds]

    saved = {row[5] for row in rows if row[4] in ("right", "localisation", "classification")}
    hit = {row[5] for row in rows if row[4] == "right"}
    results = {
        "classification": ap(put_right("classification"), objects),
        "localisation": ap(put_right("localisation"), objects),
        "both": ap(without("both"), objects),
        "duplicate": ap(without("duplicate"), objects),
        "background": ap(without("background"), objects),
        "missed": ap(rows, {k: v for k, v in objects.items() if k in saved}),
        "false_positive": ap([row for row in rows if row[4] in ("right", "ignored")], objects),
        "false_negative": ap(rows, {k: v for k, v in objects.items() if k in hit}),
    }
    now = ap(rows, objects)
    return {name: [b - a for a, b in zip(now, values)] for name, values in results.items()}


@pytest.mark.parametrize("seed", range(8))
def test_the_costs_are_those_of_a_plain_loop(seed: int) -> None:
    detections, truths = drawn(seed)
    errors = breakdown(detections, truths, ["a", "b", "c"], metric="voc12")
    expected = plain_costs(detections, truths, 3)
    for name in FIGURES:
        for index, one in enumerate(errors.classes):
            if one.ap is not None:
                assert getattr(one, name) == pytest.approx(expected[name][index]), (name, index)


def test_the_object_a_detection_found_is_counted_within_its_image() -> None:
    detections, truths = drawn(20, images=40)
    errors = breakdown(detections, truths, ["a", "b", "c"])
    for kinds, finds, is_found in zip(errors.kinds, errors.finds, errors.found):
        assert ((finds >= 0) == (kinds == KINDS.index("right"))).all()
        assert sorted(finds[finds >= 0]) == np.flatnonzero(is_found).tolist()


@pytest.mark.parametrize("metric", ["voc07", "voc12"])
def test_its_ap_is_the_evaluations_and_no_error_costs_less_than_nothing(metric: str) -> None:
    detections, truths = drawn(20, images=40)
    errors = breakdown(detections, truths, ["a", "b", "c"], metric=metric)
    scores = voc_map(detections, truths, ["a", "b", "c"], metric=metric)
    assert errors.overall.ap == scores.mean
    assert [one.ap for one in errors.classes] == [one.ap for one in scores.classes]
    assert all(getattr(one, name) >= 0 for one in errors.classes for name in FIGURES)
    assert [len(kinds) for kinds in errors.kinds] == [len(one.scores) for one in detections]
    assert breakdown_to_json(errors)["mean"]["AP"] == scores.mean


def test_thresholds_that_fall_are_refused() -> None:
    with pytest.raises(UsageError, match="rise"):
        breakdown([], [], ["a"], iou_thresh=0.5, background_thresh=0.6)
