"""The mean AP that Ultralytics' `val` prints (mAP50-95), of the same detections.

Found by holding figures against those of ultralytics 8.4; nothing of it is copied, and it is not
needed. Other versions may differ.

Shape shorthand: C classes, T IoU thresholds, n ranked detections of a class, S draws.

Where it differs from COCO's AP:
- AP is the area by trapezoids between the recalls 0, .01, ..., 1, at each of which counts the best
  precision at a *higher* recall; so the best AP there can be is .995.
- Its labels know no difficult objects, which count like others, and no crowds, which are not there.
- A class without objects has no AP, whatever is detected, as everywhere here.
As in COCO a detection takes the best object still free, at each threshold. Its own limits (scores
of .001, 300 boxes an image) are the detector's, and not applied. It ranks equal scores in no
certain order, here they keep that of the images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from detkit.evaluation.average_precision import (
    VOC12,
    Draws,
    Figures,
    at_finds,
    envelope,
    found_and_best,
    newly_reached,
)
from detkit.evaluation.metrics import Found, Rules, Wanted
from detkit.evaluation.precision_recall import RankedHits, class_score, overall
from detkit.evaluation.voc_map import ranked_hits as voc_hits
from detkit.structures import BoolArray, IntArray, Scores

IOU_THRESHS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
POINTS = np.linspace(0.0, 1.0, 101)


def ultralytics_map(
    detections: Found,
    truths: Wanted,
    class_names: Sequence[str],
    *,
    iou_thresh: float | None = None,
) -> Scores:
    """Return AP by class and its mean, for `detections[i]` found where `truths[i]` is.

    Without `iou_thresh` it is the mean over .5, .55, ..., .95, and `extra` has AP50 and AP75; with
    it, AP at this threshold. Raises as `require_scorable` does.
    """
    detections, truths = as_labels(detections, truths)
    rankings = ranked_hits(detections, truths, len(class_names), iou_thresh)
    labels = np.concatenate([np.empty(0, np.int64), *(one.labels for one in truths)])
    made = np.concatenate([np.empty(0, np.int64), *(one.labels for one in detections)])
    wanted = np.bincount(labels, minlength=len(class_names)).tolist()
    number = np.bincount(made, minlength=len(class_names)).tolist()
    aps = np.array(
        [
            [interpolated_area(one.hits, count) if count else np.nan for one in ranked]
            for ranked, count in zip(rankings, wanted, strict=True)
        ]
    ).reshape(len(class_names), -1)  # (C, T)
    first = [ranked[0] for ranked in rankings]
    classes = [
        class_score(
            name,
            float(aps[index].mean()) if wanted[index] else None,
            first[index].hits,
            first[index].scores,
            num_truths=wanted[index],
            num_detections=number[index],
        )
        for index, name in enumerate(class_names)
    ]
    known = aps[np.array(wanted, np.int64) > 0]
    at = "0.50:0.05:0.95" if iou_thresh is None else f">= {iou_thresh:g}"
    means = known.mean(axis=0).tolist() if len(known) else [None] * aps.shape[1]
    return Scores(
        protocol=f"AP as of Ultralytics, 101 points, IoU {at}, no difficult objects",
        metric="ultralytics",
        iou_thresh=0.5 if iou_thresh is None else iou_thresh,
        mean=float(known.mean()) if len(known) else None,
        classes=classes,
        num_images=len(truths),
        extra={"AP50": means[0], "AP75": means[5]} if iou_thresh is None else {},
        **overall(first, sum(wanted)),
    )


def ranked_hits(
    detections: Found, truths: Wanted, num_classes: int, iou_thresh: float | None = None
) -> list[list[RankedHits]]:
    """Return C lists of T: the matches of each class at each IoU threshold.

    Raises as `require_scorable` does.
    """
    detections, truths = as_labels(detections, truths)
    threshs = IOU_THRESHS if iou_thresh is None else (iou_thresh,)
    at = [voc_hits(detections, truths, num_classes, one, best_free=True) for one in threshs]
    return [[ranked[index] for ranked in at] for index in range(num_classes)]


def as_labels(detections: Found, truths: Wanted) -> tuple[Found, Wanted]:
    """Return the truth as Ultralytics' labels have it: no crowds, and all others alike."""
    return detections, [
        replace(kept, difficult=np.zeros_like(kept.difficult))
        for kept in (one.rows(~one.is_crowd) for one in truths)
    ]


def interpolated_area(hits: BoolArray, num_truths: int) -> float:
    """Return the area, in [0, 1), by trapezoids between 101 recalls, of (n,) hits, best first.

    `num_truths` is above 0.
    """
    found, best = found_and_best(hits)
    reached = np.searchsorted(found / num_truths, POINTS, side="right")
    values = np.append(best, 0.0)[reached]
    return float((values[1:] + values[:-1]).sum() / 200)


def _on_draws(times: Draws, found: Draws, made: Draws, wanted: IntArray) -> Figures:
    below = np.searchsorted(POINTS, found / wanted, side="left")  # points of a lower recall
    weights = newly_reached(np.maximum(below - 0.5, 0.0))
    aps: Figures = (envelope(found, made) * weights).sum(axis=1) / 100
    return aps


ULTRALYTICS = Rules(
    ultralytics_map, ranked_hits, at_finds(_on_draws), error_ap=VOC12, change=as_labels
)
