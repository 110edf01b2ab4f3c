"""Evaluation protocols: the mean AP of the same detections under each rule of other tools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from detkit.evaluation.conventions import cut, known_to
from detkit.evaluation.metrics import METRICS, Found, Wanted, find_metric
from detkit.evaluation.scores import score

CUTS = (0.05, 0.5)


@dataclass(frozen=True, slots=True)
class Rule:
    """A mean AP under one departure from the protocol asked for."""

    name: str
    mean: float | None  # in [0, 1]
    difference: float | None  # from the protocol asked for
    options: str  # by which `eval` scores so: "--metric voc07+count-difficult"


def explain(
    detections: Found,
    truths: Wanted,
    class_names: Sequence[str],
    *,
    metric: str = "voc07",
    iou_thresh: float | None = None,
) -> list[Rule]:
    """Return the mean AP under the protocol asked for, first, and under each one rule changed.

    First other metrics, then, each alone and under the metric asked for, the conventions that it
    can have and does not: `conventions`. Raises as `scores.score` does.
    """

    def mean_of(name: str, iou: float | None) -> float | None:
        return score(detections, truths, class_names, name, iou).mean

    asked = score(detections, truths, class_names, metric, iou_thresh)
    own = find_metric(metric)
    rules = [
        Rule(
            f"asked for: {asked.protocol}",
            asked.mean,
            None if asked.mean is None else 0.0,
            options_of(metric, iou_thresh),
        )
    ]

    def add(words: str, name: str, iou: float | None) -> None:
        mean = mean_of(name, iou)
        rules.append(Rule(words, mean, _difference(mean, asked.mean), options_of(name, iou)))

    for other, listed in METRICS.items():
        for words, iou in listed.protocols:
            if (other, iou) != (metric, own.iou(iou_thresh)):
                add(words, other, iou)
    for one in [*known_to(own.rules), *map(cut, CUTS)]:
        if one.name not in metric.split("+")[1:]:
            add(one.words, f"{metric}+{one.name}", iou_thresh)
    return rules


def options_of(metric: str, iou_thresh: float | None) -> str:
    """Return the options that `eval` takes to score by a metric at an IoU."""
    own = "" if iou_thresh in (None, find_metric(metric).iou_thresh) else f" --iou {iou_thresh:g}"
    return f"--metric {metric}{own}"


def rules_to_json(rules: Sequence[Rule]) -> list[dict[str, Any]]:
    """Return the rules as JSON values."""
    return [
        {
            "rule": rule.name,
            "mAP": rule.mean,
            "difference": rule.difference,
            "options": rule.options,
        }
        for rule in rules
    ]


def _difference(mean: float | None, asked: float | None) -> float | None:
    return None if mean is None or asked is None else mean - asked
