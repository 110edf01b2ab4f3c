"""From paired detections and truth to scores, under any metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, get_args

from detkit.errors import UsageError
from detkit.evaluation.coco_map import coco_map
from detkit.evaluation.error_breakdown import BACKGROUND_IOU, ErrorBreakdown, breakdown
from detkit.evaluation.voc_map import VocMetric, voc_map
from detkit.structures import Detections, FloatArray, Scores, Truth

if TYPE_CHECKING:
    pass


METRICS: tuple[str, ...] = (*get_args(VocMetric), "coco")


def score(
    detections: Sequence[Detections],
    truths: Sequence[Truth],
    class_names: Sequence[str],
    metric: str = "voc07",
    iou_thresh: float | None = None,
    *,
    areas: Sequence[FloatArray] | None = None,
) -> Scores:
    """Return the scores of `detections[i]` against `truths[i]` under a metric.

    Without `iou_thresh` it is .5 for VOC's metrics and COCO's mean over .5 to .95. `areas` are
    for `coco` alone. Raises UsageError for an unknown metric or an IoU outside (0, 1].
    """
    if iou_thresh is not None and not 0.0 < iou_thresh <= 1.0:
        raise UsageError(f"--iou {iou_thresh:g}: must lie above 0 and at most at 1")
    if metric == "coco":
        return coco_map(detections, truths, class_names, iou_thresh=iou_thresh, areas=areas)
    voc_metric: VocMetric
    for voc_metric in get_args(VocMetric):
        if voc_metric == metric:
            thresh = 0.5 if iou_thresh is None else iou_thresh
            return voc_map(detections, truths, class_names, metric=voc_metric, iou_thresh=thresh)
    raise UsageError(f"--metric {metric}: choose from {', '.join(METRICS)}")


def errors_of(
    detections: Sequence[Detections],
    truths: Sequence[Truth],
    class_names: Sequence[str],
    scores: Scores,
) -> ErrorBreakdown:
    """Return what each kind of error costs the scores of `detections[i]`, at their own IoU.

    TIDE speaks of one IoU: of COCO's several it is the loosest; and of VOC's metrics the area
    is nearest to COCO's.
    """
    return breakdown(
        detections,
        truths,
        class_names,
        iou_thresh=scores.iou_thresh,
        background_thresh=min(BACKGROUND_IOU, scores.iou_thresh),
        metric="voc07" if scores.metric == "voc07" else "voc12",
    )


def scores_to_json(scores: Scores) -> dict[str, Any]:
    """Return the scores as JSON values; a figure that there is none of is None, never NaN.

    `iou_thresh` is None for COCO's mean over thresholds, which `protocol` spells out.
    """
    is_mean_over_ious = "AP50" in scores.extra
    report: dict[str, Any] = {
        "protocol": scores.protocol,
        "metric": scores.metric,
        "iou_thresh": None if is_mean_over_ious else scores.iou_thresh,
        "num_images": scores.num_images,
        "mAP": scores.mean,
        "classes": [
            {
                "name": one.name,
                "AP": one.ap,
                "num_truths": one.num_truths,
                "num_detections": one.num_detections,
                "best_f1": one.best_f1,
                "best_threshold": one.best_threshold,
            }
            for one in scores.classes
        ],
    }
    if scores.extra:
        report["extra"] = dict(scores.extra)
    return report
