"""Calibration error and the best F1 of all classes: against plain loops, and as gates."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelled_folders import put, xml
from running import detkit

from detkit.errors import UsageError
from detkit.evaluation.calibration import calibration_error
from detkit.evaluation.gates import ERRORS, Gate, check_gates, parse_gate
from detkit.evaluation.metrics import METRICS
from detkit.evaluation.scores import score, scores_to_json
from detkit.structures import Detections, Scores, Truth


def of(hits: list[int], scores: list[float]) -> float | None:
    return calibration_error(np.array(hits, np.bool_), np.array(scores, np.float32))


def test_the_error_of_a_few_detections_is_as_worked_out_by_hand() -> None:
    # The bin of .7: one of two right, .715 promised; the last bin: one of one, 1 promised.
    assert of([1, 1, 0], [1.0, 0.72, 0.71]) == pytest.approx(2 * abs(0.5 - 0.715) / 3, abs=1e-6)
    assert of([1] * 8 + [0] * 2, [0.8] * 10) == pytest.approx(0, abs=1e-6)
    assert of([0] * 4, [0.9] * 4) == pytest.approx(0.9, abs=1e-6)
    assert of([1, 0], [0.6, 0.1]) == pytest.approx((0.4 + 0.1) / 2, abs=1e-6)


def test_a_score_on_an_edge_is_in_the_bin_above_whatever_float32_makes_of_it() -> None:
    for edge in range(1, 20):
        below, on = (edge - 0.5) / 20, edge / 20
        apart = of([1, 0], [below, on])
        assert apart == pytest.approx((abs(1 - below) + on) / 2, abs=1e-6)
        assert of([1, 0], [on, on + 0.01]) == pytest.approx(abs(1 - 2 * on - 0.01) / 2, abs=1e-6)


def test_there_is_none_without_detections_or_where_scores_are_no_probabilities() -> None:
    assert of([], []) is None
    assert of([1, 0], [1.7, 0.4]) is None
    assert of([1, 0], [0.7, -0.4]) is None


def random_set(seed: int) -> tuple[list[Detections], list[Truth]]:
    """Return detections far apart or exactly on objects: what is right needs no matching."""
    rng = np.random.default_rng(seed)
    detections, truths = [], []
    for _ in range(12):
        places = rng.permutation(30)[: int(rng.integers(0, 12))]
        boxes = np.stack([places * 50, places * 0, places * 50 + 20, places * 0 + 20], axis=1)
        labels = places % 3
        is_object = rng.random(len(places)) < 0.6
        is_found = rng.random(len(places)) < 0.8
        scores = (rng.integers(0, 41, len(places)) / 40).astype(np.float32)
        truths.append(
            Truth(
                boxes[is_object].astype(np.float32),
                labels[is_object],
                rng.random(int(is_object.sum())) < 0.2,
            )
        )
        order = np.argsort(-scores[is_found], kind="stable")
        detections.append(
            Detections(
                boxes[is_found][order].astype(np.float32),
                scores[is_found][order],
                labels[is_found][order],
            )
        )
    return detections, truths


def judged(detections: list[Detections], truths: list[Truth]) -> list[tuple[float, int, bool]]:
    """Return (score, class, is right) of each detection that is not of a difficult object."""
    rows = []
    for found, wanted in zip(detections, truths, strict=True):
        for box, value, label in zip(found.boxes, found.scores, found.labels, strict=True):
            hit = [index for index, other in enumerate(wanted.boxes) if (other == box).all()]
            if not hit or not wanted.difficult[hit[0]]:
                rows.append((float(value), int(label), bool(hit)))
    return rows


def plain_f1(rows: list[tuple[float, int, bool]], num_objects: int) -> tuple[float, float]:
    best = (0.0, 0.0)
    for least in sorted({row[0] for row in rows}, reverse=True):
        kept = [row for row in rows if row[0] >= least]
        f1 = 2 * sum(row[2] for row in kept) / (len(kept) + num_objects)
        if f1 > best[0] + 1e-12:
            best = (f1, least)
    return best


def plain_error(rows: list[tuple[float, int, bool]]) -> float:
    total = 0.0
    for number in range(20):
        low, high = round(number / 20, 9), round((number + 1) / 20, 9)
        inside = [
            row
            for row in rows
            if low - 1e-7 <= row[0] < high - 1e-7 or (number == 19 and row[0] >= 1 - 1e-7)
        ]
        if inside:
            precision = sum(row[2] for row in inside) / len(inside)
            promised = sum(row[0] for row in inside) / len(inside)
            total += len(inside) / len(rows) * abs(precision - promised)
    return total


@pytest.mark.parametrize("metric", ["voc07", "coco"])
def test_both_figures_are_those_of_plain_loops_by_class_and_of_all(metric: str) -> None:
    for seed in range(20):
        detections, truths = random_set(seed)
        scores = score(detections, truths, ["a", "b", "c"], metric)
        rows = judged(detections, truths)
        numbers = [
            int(sum(((one.labels == label) & ~one.difficult).sum() for one in truths))
            for label in range(3)
        ]
        assert scores.ece == pytest.approx(plain_error(rows), abs=1e-6)
        f1, threshold = plain_f1(rows, sum(numbers))
        assert scores.best_f1 == pytest.approx(f1)
        assert scores.best_threshold == pytest.approx(threshold)
        for label, one in enumerate(scores.classes):
            own = [row for row in rows if row[1] == label]
            assert one.ece == pytest.approx(plain_error(own), abs=1e-6)
            assert (one.best_f1, one.best_threshold) == pytest.approx(plain_f1(own, numbers[label]))


def test_json_has_them_for_all_and_by_class_and_null_where_there_are_none() -> None:
    report = scores_to_json(score(*random_set(1), ["a", "b", "c"]))
    assert 0 < report["ECE"] < 1 and 0 < report["best_f1"] < 1 and report["best_threshold"] >= 0
    assert all(0 < one["ECE"] < 1 for one in report["classes"])
    nothing = scores_to_json(score([], [], ["a"]))
    assert [nothing[key] for key in ("best_f1", "best_threshold", "ECE")] == [None] * 3
    assert nothing["classes"][0]["ECE"] is None


def with_figures(f1: float | None, ece: float | None) -> Scores:
    return Scores("", "voc07", 0.5, 0.5, [], 1, best_f1=f1, ece=ece)


def test_a_gate_bounds_a_figure_from_below_or_from_above() -> None:
    assert parse_gate("ECE=.1", "--fail-over", at_most=True) == Gate("ECE", 0.1, at_most=True)
    over, under = Gate("ECE", 0.1, at_most=True), Gate("F1", 0.6)
    assert check_gates(with_figures(0.6, 0.1), [over, under]) == []
    assert check_gates(with_figures(0.55, 0.125), [over, under]) == [
        "ECE .1250 is .0250 above .1",
        "F1 .5500 is .0500 below .6",
    ]
    assert check_gates(with_figures(0.55, None), [over]) == [
        "ECE has no value, for want of detections, or since their scores are no probabilities; "
        "asked 0.1"
    ]
    with pytest.raises(UsageError, match=r"--fail-over ECE: expected NAME=X .* like ECE=\.1"):
        parse_gate("ECE", "--fail-over", at_most=True)
    with pytest.raises(UsageError, match=r"--fail-over EEC=0\.1: .*ECE"):
        check_gates(with_figures(0.5, 0.5), [Gate("EEC", 0.1, at_most=True)])


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("--fail-under", "ECE=.1"), "--fail-over ECE=0.1"),
        (("--fail-over", "mAP=.6"), "--fail-under mAP=0.6"),
        (("--fail-over", "F1=.6"), "--fail-under F1=0.6"),
        (("--fail-over", "car=.6"), "--fail-under car=0.6"),
        (("--metric", "coco", "--fail-over", "AP50=.6"), "--fail-under AP50=0.6"),
    ],
)
def test_a_gate_the_wrong_way_round_is_refused_and_the_right_option_named(
    case: tuple[str | Path, ...], words: tuple[str, ...], hint: str
) -> None:
    done = detkit(*case, *words)
    assert done.returncode == 2 and hint in done.stderr
    assert done.stderr.count("detkit: error: ") == 1


def test_every_figure_of_every_metric_grows_with_what_is_right_unless_it_is_an_error() -> None:
    found, truths = random_set(5)
    perfect = [
        replace(one, boxes=truth.boxes, labels=truth.labels, scores=np.ones(len(truth.boxes)))
        for one, truth in zip(found, truths)
    ]
    wrong = [replace(one, labels=(one.labels + 1) % 3) for one in perfect]
    for metric in METRICS:
        best, worst = (
            score(one, truths, ["a", "b", "c"], metric).figures for one in (perfect, wrong)
        )
        for name, value in best.items():
            if value is not None and (other := worst[name]) is not None:
                assert (value < other) if name in ERRORS else (value > other), (metric, name)


def test_until_takes_no_error() -> None:
    with pytest.raises(UsageError, match="--until ECE=0.1: ECE is an error.*like mAP"):
        check_gates(with_figures(0.5, 0.5), [Gate("ECE", 0.1)], "--until")


def test_a_class_called_like_an_error_has_a_least_ap() -> None:
    detections, truths = random_set(2)
    scores = score(detections, truths, ["ECE", "b", "c"])
    assert check_gates(scores, [Gate("ECE", 0.0)]) == []
    with pytest.raises(UsageError, match="--fail-under"):
        check_gates(scores, [Gate("ECE", 0.0, at_most=True)])


def test_a_class_of_that_name_is_the_class() -> None:
    detections, truths = random_set(2)
    scores = score(detections, truths, ["F1", "b", "c"])
    assert scores.figures["F1"] == scores.classes[0].ap != scores.best_f1


@pytest.fixture
def case(tmp_path: Path) -> tuple[str | Path, ...]:
    """Two objects, one found at .9, and a false detection at .8: F1 is 2/3 at .9, ECE .45."""
    put(tmp_path / "data", {"JPEGImages/a.jpg": (50, 90)})
    objects = [("car", 1, 1, 20, 20), ("car", 40, 1, 60, 20)]
    text = xml(*objects, filename="a.jpg", size=(90, 50))
    put(tmp_path / "data", {"Annotations/a.xml": text})
    found: list[dict[str, Any]] = [
        {"label": "car", "score": 0.9, "box": [0, 0, 20, 20]},
        {"label": "car", "score": 0.8, "box": [70, 20, 89, 49]},
    ]
    path = tmp_path / "found.jsonl"
    path.write_text(json.dumps({"image": "a.jpg", "detections": found}), encoding="utf-8")
    return "eval", "--predictions", path, tmp_path / "data"


def test_the_command_tells_both_and_gates_fail_on_them(
    case: tuple[str | Path, ...], tmp_path: Path
) -> None:
    table = detkit(*case).stdout
    assert "best F1 0.667 at score 0.900; calibration error (ECE) 0.450" in table
    report = json.loads(detkit(*case, "--json").stdout)
    assert report["ECE"] == pytest.approx(0.45, abs=1e-6)
    met = detkit(*case, "--fail-under", "F1=.66", "--fail-over", "ECE=.46")
    assert met.returncode == 0, met.stderr
    junit = tmp_path / "gates.xml"
    failed = detkit(*case, "--fail-under", "F1=.7", "--fail-over", "ECE=.1", "--junit", junit)
    assert failed.returncode == 1
    assert "F1 .6667 is .0333 below .7" in failed.stderr
    assert "ECE .4500 is .3500 above .1" in failed.stderr
    cases = {one.get("name"): one for one in ET.parse(junit).getroot().iter("testcase")}
    assert cases["F1 >= 0.7"].find("failure") is not None
    assert cases["ECE <= 0.1"].find("failure") is not None


@pytest.mark.parametrize("gate", ["ECE=1.5", "ECE", "=.1", "ECE=x", "ECE=nan"])
def test_a_limit_that_is_none_is_a_wrong_usage(case: tuple[str | Path, ...], gate: str) -> None:
    done = detkit(*case, "--fail-over", gate)
    assert done.returncode == 2 and "--fail-over" in done.stderr
