"""Evaluation protocols: the mean AP of the same detections under each rule of other tools."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from detkit.evaluation.metrics import METRICS, find_metric
from detkit.evaluation.scores import score
from detkit.structures import Detections, Scores, Truth

CUTS = (0.05, 0.5)

Found = Sequence[Detections]
Wanted = Sequence[Truth]
_Change = Callable[[Found, Wanted], tuple[Found, Wanted]]


@dataclass(frozen=True, slots=True)
class Rule:
    """A mean AP under one departure from the protocol asked for."""

    name: str
    mean: float | None  # in [0, 1]
    difference: float | None  # from the protocol asked for


def explain(
    detections: Found,
    truths: Wanted,
    class_names: Sequence[str],
    *,
    metric: str = "voc07",
    iou_thresh: float | None = None,
) -> list[Rule]:
    """Return the mean AP under the protocol asked for, first, and under each one rule changed.

    First other metrics, then, each alone and under the metric asked for: difficult objects
    counted like others; difficult objects dropped from the labels, so that to find them is
    wrong; boxes whose corners are taken to lie inside ("+1 pixel"); detections one pixel off;
    detections cut at a score. Raises as `scores.score` does.
    """

    def scored(found: Found, wanted: Wanted) -> Scores:
        return score(found, wanted, class_names, metric, iou_thresh)

    asked = scored(detections, truths)
    means: list[tuple[str, float | None]] = []
    own = metric, find_metric(metric).iou(iou_thresh)
    for other, listed in METRICS.items():
        for name, iou in listed.protocols:
            if (other, iou) != own:
                means.append((name, score(detections, truths, class_names, other, iou).mean))
    for name, change in _CHANGES:
        means.append((name, scored(*change(detections, truths)).mean))
    return [
        Rule(f"asked for: {asked.protocol}", asked.mean, 0.0 if asked.mean is not None else None),
        *(Rule(name, mean, _difference(mean, asked.mean)) for name, mean in means),
    ]


def rules_to_json(rules: Sequence[Rule]) -> list[dict[str, Any]]:
    """Return the rules as JSON values."""
    return [{"rule": rule.name, "mAP": rule.mean, "difference": rule.difference} for rule in rules]


def _difference(mean: float | None, asked: float | None) -> float | None:
    return None if mean is None or asked is None else mean - asked


def _difficult_counted(detections: Found, truths: Wanted) -> tuple[Found, Wanted]:
    return detections, [replace(truth, difficult=truth.is_crowd) for truth in truths]


def _difficult_dropped(detections: Found, truths: Wanted) -> tuple[Found, Wanted]:
    return detections, [one.rows(~one.difficult) for one in truths]


def _end_pixels_inside(detections: Found, truths: Wanted) -> tuple[Found, Wanted]:
    step = np.array([0, 0, 1, 1], np.float32)
    return (
        [replace(found, boxes=found.boxes + step) for found in detections],
        [replace(truth, boxes=truth.boxes + step) for truth in truths],
    )


def _one_pixel_off(detections: Found, truths: Wanted) -> tuple[Found, Wanted]:
    return [replace(found, boxes=found.boxes + np.float32(1)) for found in detections], truths


def _cut_at(least: float) -> _Change:
    """Return the change that leaves out detections that score below `least`."""

    def cut(detections: Found, truths: Wanted) -> tuple[Found, Wanted]:
        return [
            Detections(one.boxes[keep], one.scores[keep], one.labels[keep], one.image_id)
            for one in detections
            for keep in [one.scores >= np.float32(least)]
        ], truths

    return cut


_CHANGES: tuple[tuple[str, _Change], ...] = (
    ("difficult objects counted like others", _difficult_counted),
    ("difficult objects dropped, finding them is wrong", _difficult_dropped),
    ("boxes with both end pixels (+1 pixel)", _end_pixels_inside),
    ("detections one pixel off (1-based boxes read as 0-based)", _one_pixel_off),
    *((f"detections cut at a score of {least:g}", _cut_at(least)) for least in CUTS),
)
