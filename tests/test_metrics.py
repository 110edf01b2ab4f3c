"""The table of metrics: whatever stands in it is scored, drawn, explained and listed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from running import detkit
from test_error_breakdown import drawn
from test_gates import write_found

from detkit.data.demo.pictures import write_demo
from detkit.errors import UsageError
from detkit.evaluation.average_precision import Draws, Figures, RankedAp, at_finds
from detkit.evaluation.bootstrap import draw_images, resampled
from detkit.evaluation.evaluate import evaluate
from detkit.evaluation.metrics import METRICS, Metric, Rules, ious_in_words, metrics_in_words
from detkit.evaluation.protocols import explain
from detkit.evaluation.scores import errors_of, score
from detkit.evaluation.voc_map import voc_rules
from detkit.structures import BoolArray, FloatArray, IntArray

NAMES = ["a", "b", "c"]


def share(hits: BoolArray, scores: FloatArray, num_truths: int) -> float:
    return float(hits.sum() / num_truths)


def share_on_draws(times: Draws, found: Draws, made: Draws, wanted: IntArray) -> Figures:
    return found[:, -1] / wanted[:, 0]


RULES = voc_rules(RankedAp("share", "objects found", share, at_finds(share_on_draws)))
SHARE = Metric(
    "test_metrics:RULES", "found at all", iou_thresh=0.75, protocols=(("share, IoU .3", 0.3),)
)


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "share", SHARE)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_of_the_table_has_its_rules_and_scores_under_its_name(name: str) -> None:
    assert isinstance(METRICS[name].rules, Rules)
    assert score([], [], NAMES, name).metric == name


def test_a_metric_put_into_the_table_is_scored_at_its_own_iou_or_the_one_asked_for(
    made_up: None,
) -> None:
    detections, truths = drawn(3, images=15)
    scores = score(detections, truths, NAMES, "share")
    assert (scores.metric, scores.protocol) == ("share", "objects found, IoU >= 0.75")
    assert [one.ap for one in scores.classes] == [
        pytest.approx(one.recall[-1]) for one in scores.classes
    ]
    assert score(detections, truths, NAMES, "share", 0.4).protocol == "objects found, IoU >= 0.4"
    assert errors_of(detections, truths, NAMES, scores).overall.ap == scores.mean


def test_it_is_resampled_as_its_images_put_together_are_scored(made_up: None) -> None:
    detections, truths = drawn(3, images=15)
    draws = draw_images(15, 5)
    figures = resampled(detections, truths, NAMES, draws, metric="share")
    for row, drawing in enumerate(draws):
        images = np.repeat(np.arange(15), drawing)
        scores = score([detections[i] for i in images], [truths[i] for i in images], NAMES, "share")
        np.testing.assert_allclose(figures[row], [one.ap for one in scores.classes], atol=1e-12)


def test_it_is_a_rule_that_other_metrics_are_explained_by(made_up: None) -> None:
    detections, truths = drawn(3, images=15)
    rules = {one.name: one.mean for one in explain(detections, truths, NAMES, metric="voc12")}
    assert rules["share, IoU .3"] == score(detections, truths, NAMES, "share", 0.3).mean
    own = explain(detections, truths, NAMES, metric="share", iou_thresh=0.3)
    assert own[0].name == "asked for: objects found, IoU >= 0.3"
    assert "share, IoU .3" not in [one.name for one in own]


def test_eval_takes_it_with_all_that_explains_a_score(made_up: None, tmp_path: Path) -> None:
    write_demo(tmp_path / "data", num_images=16)
    found = write_found(tmp_path / "found.jsonl", tmp_path / "data", 0.6)
    options = ("--metric", "share", "--interval", "--explain", "--errors", "--json")
    done = detkit("eval", "--predictions", found, tmp_path / "data", *options)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["metric"], report["iou_thresh"]) == ("share", 0.75)
    assert report["interval"]["mAP"]["low"] <= report["mAP"] <= report["interval"]["mAP"]["high"]
    assert report["interval"]["mAP"]["value"] == pytest.approx(report["mAP"])
    assert report["explain"][0]["mAP"] == report["mAP"] == report["errors"]["mean"]["AP"]
    assert report["errors"]["metric"] == "share"


def test_the_help_of_eval_and_compare_lists_it() -> None:
    code = (
        "import sys; from detkit.evaluation.metrics import METRICS, Metric\n"
        "METRICS['share'] = Metric('no.such.module:RULES', 'found at all', iou_thresh=0.75)\n"
        "from detkit.cli import main; main([sys.argv[1], '--help'])"
    )
    for command in ("eval", "compare"):
        done = subprocess.run(
            [sys.executable, "-c", code, command], capture_output=True, encoding="utf-8"
        )
        words = " ".join(done.stdout.split())
        assert "voc07 (11 points), voc12 (area), coco, ultralytics, auc or share" in words
        assert "[default: .5; coco: .5 to .95; ultralytics: .5 to .95; share: .75]" in words


def test_the_words_of_the_help_are_those_of_the_table() -> None:
    assert metrics_in_words() == "voc07 (11 points), voc12 (area), coco, ultralytics or auc"
    assert ious_in_words() == ".5; coco: .5 to .95; ultralytics: .5 to .95"


def test_an_unknown_metric_is_refused_before_anything_is_scored(made_up: None) -> None:
    for use in (
        lambda: score([], [], NAMES, "voc08"),
        lambda: resampled([], [], NAMES, draw_images(0, 1), metric="voc08"),
        lambda: explain([], [], NAMES, metric="voc08"),
        lambda: evaluate(None, None, "test", metric="voc08"),  # type: ignore[arg-type]
    ):
        with pytest.raises(
            UsageError, match="voc08: choose from voc07, voc12, auc, coco, ultralytics"
        ):
            use()
