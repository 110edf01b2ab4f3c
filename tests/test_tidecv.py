"""tidecv's error breakdown: against figures of the tool, a plain loop over its rules, and it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_error_breakdown import found, wanted

from detkit.errors import UsageError
from detkit.evaluation.error_breakdown import FIGURES, KINDS
from detkit.evaluation.error_breakdown import breakdown as by_the_paper
from detkit.evaluation.tidecv import breakdown
from detkit.structures import Detections, Truth

COUNTED = ("classification", "localisation", "both", "duplicate", "background", "missed")
Case = tuple[list[Detections], list[Truth], int]

# mAP, then `FIGURES`, then how many of `COUNTED`: what tidecv 1.0.1 of the package index said of
# `drawn(seed)`, by `TIDE(iou, background).evaluate`, `fix_main_errors`, `fix_special_errors` and
# `count_errors`, divided by 100. `of_the_tool` below is how it was asked.
OF_TIDECV: dict[tuple[int, float, float], tuple[list[float], list[int]]] = {
    (1, 0.5, 0.1): (
        [
            0.2197666195,
            0.04166666667,
            0.07107496464,
            0,
            0,
            0.1629066478,
            0.04809052334,
            0.6119165488,
            0.04809052334,
        ],
        [1, 3, 0, 1, 13, 1],
    ),
    (4, 0.5, 0.1): (
        [0.2364549, 0, 0.1322745, 0, 0, 0, 0.0402551, 0.1595847, 0.1954677],
        [5, 13, 1, 16, 3, 6],
    ),
    (9, 0.5, 0.1): (
        [
            0.2180418042,
            0.004290429043,
            0.4727644193,
            0.004290429043,
            0.02651265127,
            0,
            0.06919691969,
            0.20440044,
            0.2468646865,
        ],
        [2, 14, 7, 13, 1, 3],
    ),
    (10, 0.5, 0.1): (
        [
            0.1121564827,
            0.001078298447,
            0.06288875394,
            0.01574896913,
            0.0131171343,
            0.03397262173,
            0.04150698484,
            0.6056652995,
            0.04150698484,
        ],
        [10, 105, 18, 109, 78, 4],
    ),
    (15, 0.75, 0.2): (
        [0, 0, 0.4392439244, 0, 0, 0, 0, 0, 0],
        [0, 26, 0, 0, 11, 6],
    ),
    (20, 0.75, 0.2): (
        [0.0837459, 0, 0.1957214, 0, 0, 0, 0, 0.2924917, -0.045588],
        [1, 84, 16, 3, 89, 1],
    ),
}


def drawn(seed: int) -> Case:
    """Return detections around random objects; some have equal scores, or IoUs on a threshold.

    Every second case has difficult objects, every tenth images of more than 100 detections.
    NumPy promises that this generator's numbers never change.
    """
    random = np.random.RandomState(seed)
    num_classes = random.randint(1, 5)
    detections, truths = [], []
    for _ in range(random.randint(1, 9)):
        count, number = random.randint(0, 6), random.randint(0, 140 if seed % 10 == 0 else 14)
        corner = random.uniform(0, 60, (count, 2))
        boxes = np.hstack([corner, corner + random.uniform(10, 40, (count, 2))])
        labels = random.randint(0, num_classes, count)
        difficult = random.random_sample(count) < (0.25 if seed % 2 else 0)
        guess, named = random.uniform(0, 90, (number, 4)), random.randint(0, num_classes, number)
        if count:
            near = random.randint(0, count, number)
            guess = boxes[near] + random.normal(0, 5, (number, 4))
            named = np.where(random.random_sample(number) < 0.7, labels[near], named)
        scores = random.random_sample(number)
        if seed % 3 == 0:
            boxes, guess = np.round(boxes / 4) * 4, np.round(guess / 4) * 4
        if seed % 4 == 0:
            scores = np.round(scores * 5) / 5
        guess = np.hstack([np.minimum(guess[:, :2], guess[:, 2:]), guess.reshape(-1, 2, 2).max(1)])
        guess[:, 2:] += 1
        truths.append(Truth(boxes.astype(np.float32), labels.astype(np.int64), difficult))
        detections.append(
            Detections(guess.astype(np.float32), scores.astype(np.float32), named.astype(np.int64))
        )
    return detections, truths, num_classes


def names(num_classes: int) -> list[str]:
    return [f"class {label}" for label in range(num_classes)]


def figures_of(case: Case, iou: float, background: float) -> tuple[list[float], list[int]]:
    detections, truths, num_classes = case
    errors = breakdown(
        detections, truths, names(num_classes), iou_thresh=iou, background_thresh=background
    )
    figures = [errors.overall.ap or 0.0, *(getattr(errors.overall, name) for name in FIGURES)]
    return figures, [errors.counts[name] for name in COUNTED]


@pytest.mark.parametrize(("seed", "iou", "background"), OF_TIDECV)
def test_the_figures_are_those_that_the_tool_gave(seed: int, iou: float, background: float) -> None:
    figures, counts = figures_of(drawn(seed), iou, background)
    expected, number = OF_TIDECV[seed, iou, background]
    assert figures == pytest.approx(expected, abs=1e-7)
    assert counts == number


def of_the_tool(case: Case, iou: float, background: float) -> tuple[list[float], list[int]]:
    """Return what an installed tidecv says; ZeroDivisionError where it finds no class."""
    tidecv: Any = pytest.importorskip("tidecv")
    kinds = tidecv.errors.main_errors
    truth, tried = tidecv.Data("truth"), tidecv.Data("detections")
    for image, (one, objects) in enumerate(zip(*case[:2])):
        truth.add_image(image, str(image))
        for box, label, difficult in zip(objects.boxes, objects.labels, objects.difficult):
            add = truth.add_ignore_region if difficult else truth.add_ground_truth
            add(image, int(label), xywh(box))
        for box, label, score in zip(one.boxes, one.labels, one.scores):
            tried.add_detection(image, int(label), float(score), xywh(box))
    tide = tidecv.TIDE(pos_threshold=iou, background_threshold=background)
    run = tide.evaluate(truth, tried, mode=tidecv.TIDE.BOX)
    main, special = run.fix_main_errors(), run.fix_special_errors()
    order = [kinds.ClassError, kinds.BoxError, kinds.OtherError, kinds.DuplicateError]
    order += [kinds.BackgroundError, kinds.MissedError]
    costs = [main[kind] for kind in order]
    costs += [special[kinds.FalsePositiveError], special[kinds.FalseNegativeError]]
    number = run.count_errors()
    return [value / 100 for value in (run.ap, *costs)], [number[kind] for kind in order]


def xywh(box: Any) -> list[float]:
    x1, y1, x2, y2 = (float(value) for value in box)
    return [x1, y1, x2 - x1, y2 - y1]


def test_three_hundred_drawn_cases_are_those_of_an_installed_tidecv() -> None:
    pytest.importorskip("tidecv", reason="`pip install tidecv` compares with the tool itself")
    compared = 0
    for seed in range(300):
        for iou, background in ((0.5, 0.1), (0.75, 0.2)):
            try:
                expected, number = of_the_tool(drawn(seed), iou, background)
            except ZeroDivisionError:
                continue
            figures, counts = figures_of(drawn(seed), iou, background)
            assert figures == pytest.approx(expected, abs=1e-12), seed
            assert counts == number, seed
            compared += 1
    assert compared > 550


def share(one: list[float], other: list[float], *, of_one: bool = False) -> float:
    """Return the IoU of two (x, y, w, h), or the share of the first that lies in the second."""
    (x, y, w, h), (u, v, s, t) = one, other
    across, down = min(x + w, u + s) - max(x, u), min(y + h, v + t) - max(y, v)
    both = max(0.0, across) * max(0.0, down)
    whole = w * h if of_one else w * h + s * t - both
    return both / whole if whole else 0.0


def naive(case: Case, iou: float, background: float) -> tuple[list[float], list[int]]:
    """Return the tool's figures and counts, one detection and one object after another."""
    rows: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for one, truth in zip(*case[:2]):
        every = [
            {"box": xywh(box), "label": int(label), "crowd": bool(difficult), "by": None}
            for box, label, difficult in zip(truth.boxes, truth.labels, truth.difficult)
        ]
        wanted = [item for item in every if not item["crowd"]]
        here = [
            {"box": xywh(box), "label": int(label), "score": float(score), "of": None}
            for box, label, score in zip(one.boxes, one.labels, one.scores)
        ]
        here = sorted(here, key=lambda row: -row["score"])[:100]
        for row in here:
            fitting = [item for item in wanted if item["label"] == row["label"] and not item["by"]]
            best = max(fitting, key=lambda item: share(row["box"], item["box"]), default=None)
            row["kind"] = "error"
            if best is not None and share(row["box"], best["box"]) >= iou:
                row["kind"], best["by"] = "right", row
            row["ignored"] = row["kind"] == "error" and any(
                item["crowd"]
                and item["label"] == row["label"]
                and share(row["box"], item["box"], of_one=True) > iou
                for item in every
            )
        for row in (row for row in here if row["kind"] == "error"):
            own = [item for item in wanted if item["label"] == row["label"]]
            other = [item for item in wanted if item["label"] != row["label"]]

            def most(items: list[dict[str, Any]], box: list[float] = row["box"]) -> float:
                return max((share(box, item["box"]) for item in items), default=0.0)

            if background <= most(own) <= iou:
                row["kind"], mine = "localisation", own
            elif most(other) >= iou:
                row["kind"], mine = "classification", other
            elif most([item for item in own if item["by"]]) >= iou:
                row["kind"], mine = "duplicate", []
            elif most(wanted) <= background:
                row["kind"], mine = "background", []
            else:
                row["kind"], mine = "both", []
            if mine:
                row["of"] = next(o for o in mine if share(row["box"], o["box"]) == most(mine))
                if not row["of"]["by"] and "first" not in row["of"]:
                    row["of"]["first"] = row
        rows += here
        objects += wanted

    def mean(points: list[tuple[int, float, bool]], left: list[dict[str, Any]]) -> float:
        aps = []
        for label in {point[0] for point in points} | {item["label"] for item in left}:
            ranked = sorted((p for p in points if p[0] == label), key=lambda point: -point[1])
            number = sum(item["label"] == label for item in left)
            curve, hits = [], 0
            for place, point in enumerate(ranked, start=1):
                hits += point[2]
                curve.append((hits / number if number else 0.0, hits / place))
            bars = [
                max((p for recall, p in curve if recall >= bar / 100), default=0.0)
                for bar in range(101)
            ]
            aps.append(sum(bars) / 101 if number else 0.0)
        return sum(aps) / len(aps) if aps else 0.0

    def point(row: dict[str, Any]) -> tuple[int, float, bool]:
        return row["label"], row["score"], row["kind"] == "right"

    def after(kind: str) -> float:
        points = []
        for row in (row for row in rows if row["kind"] != "right"):
            if row["kind"] != kind:
                points += [] if row["ignored"] else [point(row)]
            elif row["of"] is not None and row["of"].get("first") is row:
                points.append((row["of"]["label"], row["score"], True))
        return mean(points + [point(row) for row in rows if row["kind"] == "right"], objects)

    counted = [row for row in rows if not row["ignored"]]
    behind = sorted(counted, key=lambda row: row["kind"] == "right")
    missed = [item for item in objects if not item["by"] and "first" not in item]
    now = mean([point(row) for row in counted], objects)
    kinds = ("classification", "localisation", "both", "duplicate", "background")
    left = [item for item in objects if item["by"] or "first" in item]
    costs = [max(after(kind) - now, 0.0) for kind in kinds]
    costs.append(max(mean([point(row) for row in behind], left) - now, 0.0))
    sure = [(label, float(right), right) for label, _, right in map(point, counted)]
    costs.append(mean(sure, objects) - now)
    costs.append(mean([point(row) for row in behind], [o for o in objects if o["by"]]) - now)
    counts = [sum(row["kind"] == kind for row in rows) for kind in kinds]
    return [now, *costs], [*counts, len(missed)]


@pytest.mark.parametrize("seed", range(40))
def test_the_figures_are_those_of_a_plain_loop_over_the_tools_rules(seed: int) -> None:
    case = drawn(seed)
    figures, counts = figures_of(case, 0.5, 0.1)
    expected, number = naive(case, 0.5, 0.1)
    assert figures == pytest.approx(expected, abs=1e-9)
    assert counts == number


def test_the_tool_asks_for_another_class_before_a_duplicate() -> None:
    box = (0.0, 0.0, 10.0, 10.0)
    rows = found((0.9, 0, box), (0.8, 0, box))
    truth = wanted((0, box), (1, (0.0, 0.0, 10.0, 9.0)))
    kinds = [rule([rows], [truth], ["a", "b"]).kinds[0] for rule in (breakdown, by_the_paper)]
    assert [[KINDS[kind] for kind in one] for one in kinds] == [
        ["right", "classification"],
        ["right", "duplicate"],
    ]


def test_an_error_that_scores_above_the_find_replaces_it_in_the_paper_alone() -> None:
    box = (0.0, 0.0, 10.0, 10.0)
    rows = found((0.9, 1, box), (0.8, 0, (50.0, 50.0, 60.0, 60.0)), (0.5, 0, box))
    truth = wanted((0, box))
    assert by_the_paper([rows], [truth], ["a", "b"]).classes[0].classification == 0.5
    errors = breakdown([rows], [truth], ["a", "b"])
    assert errors.classes[0].ap == 0.5 and errors.classes[0].classification == 0
    # Class b has no object but a detection, so an AP of 0; without that it is no class any more.
    assert errors.overall.ap == 0.25 and errors.overall.classification == 0.25


def test_a_difficult_object_hides_what_lies_in_it_and_may_be_found_all_the_same() -> None:
    box, inside = (0.0, 0.0, 10.0, 10.0), (0.0, 0.0, 10.0, 4.0)
    rows = found((0.9, 0, inside), (0.8, 0, (60.0, 60.0, 70.0, 70.0)))
    errors = breakdown([rows], [wanted((0, box), (0, (0.0, 0.0, 10.0, 20.0)), difficult=1)], ["a"])
    assert [KINDS[kind] for kind in errors.kinds[0]] == ["ignored", "background"]
    assert (errors.counts["ignored"], errors.counts["localisation"]) == (1, 1)
    assert errors.classes[0].ap == 0 and errors.classes[0].localisation == 1


def test_nothing_and_no_images_have_no_figures() -> None:
    for case in (([], []), ([found()], [wanted()])):
        errors = breakdown(*case, ["a"])
        assert errors.overall.ap is None and errors.classes[0].ap is None
        assert all(getattr(errors.overall, name) == 0 for name in FIGURES)
    with pytest.raises(UsageError, match="rise"):
        breakdown([], [], ["a"], iou_thresh=0.5, background_thresh=0.6)
