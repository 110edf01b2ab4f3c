"""Scores of detections against truth under any metric, and as JSON values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from detkit.errors import UsageError
from detkit.evaluation import tidecv
from detkit.evaluation.error_breakdown import BACKGROUND_IOU, ErrorBreakdown, breakdown
from detkit.evaluation.metrics import find_metric
from detkit.structures import Detections, Scores, Truth

# Whose rules break errors down.
ERROR_RULES: dict[str, Callable[..., ErrorBreakdown]] = {
    "paper": breakdown,
    "tidecv": tidecv.breakdown,
}


def score(
    detections: Sequence[Detections],
    truths: Sequence[Truth],
    class_names: Sequence[str],
    metric: str = "voc07",
    iou_thresh: float | None = None,
) -> Scores:
    """Return the scores of `detections[i]` against `truths[i]` under a metric.

    Without `iou_thresh` it is the metric's own: .5 for VOC's, COCO's mean over .5 to .95. Raises
    UsageError for an unknown metric or an IoU outside (0, 1].
    """
    if iou_thresh is not None and not 0.0 < iou_thresh <= 1.0:
        raise UsageError(f"--iou {iou_thresh:g}: must lie above 0 and at most at 1")
    own = find_metric(metric)
    iou = own.iou(iou_thresh)
    return own.rules.score(detections, truths, class_names, iou_thresh=iou)


def asked_iou(scores: Scores) -> float | None:
    """Return the IoU of a find in these scores; None for a mean over several, which has AP50."""
    return None if "AP50" in scores.extra else scores.iou_thresh


def require_error_rules(name: str) -> None:
    """Raise UsageError unless the name is one of `ERROR_RULES`."""
    if name not in ERROR_RULES:
        raise UsageError(f"--tide {name}: choose from {', '.join(ERROR_RULES)}")


def errors_of(
    detections: Sequence[Detections],
    truths: Sequence[Truth],
    class_names: Sequence[str],
    scores: Scores,
    rules: str = "paper",
) -> ErrorBreakdown:
    """Return what each kind of error costs the scores of `detections[i]`, at their own IoU.

    `rules` are one of `ERROR_RULES`: those of the tool tidecv have an AP of their own, too.
    Raises UsageError for others.
    """
    require_error_rules(rules)
    own = {"metric": find_metric(scores.metric).rules.error_ap} if rules == "paper" else {}
    return ERROR_RULES[rules](
        detections,
        truths,
        class_names,
        iou_thresh=scores.iou_thresh,
        background_thresh=min(BACKGROUND_IOU, scores.iou_thresh),
        **own,
    )


def scores_to_json(scores: Scores) -> dict[str, Any]:
    """Return the scores as JSON values; a figure that there is none of is None, never NaN.

    `iou_thresh` is None for COCO's mean over thresholds, which `protocol` spells out.
    """
    report: dict[str, Any] = {
        "protocol": scores.protocol,
        "metric": scores.metric,
        "iou_thresh": asked_iou(scores),
        "num_images": scores.num_images,
        "mAP": scores.mean,
        "best_f1": scores.best_f1,
        "best_threshold": scores.best_threshold,
        "ECE": scores.ece,
        "classes": [
            {
                "name": one.name,
                "AP": one.ap,
                "num_truths": one.num_truths,
                "num_detections": one.num_detections,
                "best_f1": one.best_f1,
                "best_threshold": one.best_threshold,
                "ECE": one.ece,
            }
            for one in scores.classes
        ],
    }
    if scores.extra:
        report["extra"] = dict(scores.extra)
    return report
