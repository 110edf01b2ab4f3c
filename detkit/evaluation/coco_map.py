"""COCO's average precision, computed by hotcoco, under the same signature as `voc_map`.

hotcoco is pycocotools in Rust: the same figures and matches on random sets of every kind in a
twentieth of the time (`benchmarks/coco_engines.py`). Where it is not installed, as on a system it
has no wheel for, pycocotools computes them.

Shape shorthand: T IoU thresholds, Q recall points, C classes, A area ranges, M limits on the
number of detections, I images.

Conventions of COCO that differ from VOC's: AP is the mean over the IoU thresholds .5, .55,
..., .95 and over 101 recall points; at most 100 detections an image and class count; a
detection takes the best object *still free*; small, medium and large divide at 32 x 32 and
96 x 96 pixels, by the area that the label file states (in COCO of the mask), else of the box. A
crowd is not counted, and any number of detections is ignored of which at least the threshold's
share of the *detection* lies inside it. So is it with a `difficult` object, which COCO lacks.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detkit.evaluation.average_precision import (
    VOC12,
    Draws,
    Figures,
    at_finds,
    envelope,
    newly_reached,
)
from detkit.evaluation.metrics import Rules
from detkit.evaluation.precision_recall import (
    RankedHits,
    class_score,
    overall,
    require_scorable,
)
from detkit.structures import Detections, FloatArray, IntArray, Scores, Truth

AREAS = {"all": 0, "S": 1, "M": 2, "L": 3}  # pycocotools' order
LIMITS = (1, 10, 100)  # detections an image


def coco_map(
    detections: Sequence[Detections],
    truths: Sequence[Truth],
    class_names: Sequence[str],
    *,
    iou_thresh: float | None = None,
) -> Scores:
    """Return COCO's AP by class and its mean, for `detections[i]` found where `truths[i]` is.

    Without `iou_thresh` it is the mean over .5, .55, ..., .95 (and `Scores.iou_thresh` says
    .5, the lowest); with it, AP at this threshold alone. `extra` holds AP50 and AP75 (mean
    only), APs APm APl, AR1 AR10 AR100, ARs ARm ARl, in [0, 1], None where COCO says -1.
    Sizes are by `Truth.areas`. The best F1 and the curve are those at the lowest threshold.
    Raises as `require_scorable` does.
    """
    evaluator = _evaluator(detections, truths, len(class_names), iou_thresh)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.evaluate()
        evaluator.accumulate()
    precision: NDArray[np.float64] = evaluator.eval["precision"]  # (T, Q, C, A, M)
    recall: NDArray[np.float64] = evaluator.eval["recall"]  # (T, C, A, M)
    classes = []
    images = _matched(evaluator, len(class_names), evaluator.params.iouThrs[:1])
    rankings = [_ranked(one, 0) for one in images]  # at the lowest threshold
    for index, (name, ranked) in enumerate(zip(class_names, rankings, strict=True)):
        wanted = (((one.labels == index) & ~one.difficult).sum() for one in truths)
        classes.append(
            class_score(
                name,
                _mean(precision[:, :, index, 0, -1]),
                ranked.hits,
                ranked.scores,
                num_truths=int(sum(wanted)),
                num_detections=int(sum((one.labels == index).sum() for one in detections)),
            )
        )
    extra: dict[str, float | None] = {}
    if iou_thresh is None:
        extra["AP50"] = _mean(precision[0, :, :, 0, -1])
        extra["AP75"] = _mean(precision[5, :, :, 0, -1])
    for size in "SML":
        extra[f"AP{size.lower()}"] = _mean(precision[:, :, :, AREAS[size], -1])
    for number, limit in enumerate(LIMITS):
        extra[f"AR{limit}"] = _mean(recall[:, :, 0, number])
    for size in "SML":
        extra[f"AR{size.lower()}"] = _mean(recall[:, :, AREAS[size], -1])
    at = "0.50:0.05:0.95" if iou_thresh is None else f">= {iou_thresh:g}"
    return Scores(
        protocol=f"COCO 101-point AP, IoU {at}, at most {LIMITS[-1]} detections an image, "
        + _rules_of(truths),
        metric="coco",
        iou_thresh=0.5 if iou_thresh is None else iou_thresh,
        mean=_mean(precision[:, :, :, 0, -1]),
        classes=classes,
        num_images=len(truths),
        extra=extra,
        **overall(rankings, sum(one.num_truths for one in classes)),
    )


def ranked_hits(
    detections: Sequence[Detections],
    truths: Sequence[Truth],
    num_classes: int,
    iou_thresh: float | None = None,
) -> list[list[RankedHits]]:
    """Return C lists of T: COCO's matches of each class at each IoU threshold.

    Ignored detections are left out. Raises as `coco_map` does.
    """
    evaluator = _evaluator(detections, truths, num_classes, iou_thresh)
    thresholds = evaluator.params.iouThrs
    return [
        [_ranked(images, place) for place in range(len(thresholds))]
        for images in _matched(evaluator, num_classes, thresholds)
    ]


def _rules_of(truths: Sequence[Truth]) -> str:
    """Return in words what of the protocol depends on the labels: areas, difficult objects."""
    known = [~np.isnan(one.stated_areas) for one in truths if one.stated_areas is not None]
    num_known = sum(int(one.sum()) for one in known)
    if not num_known:
        words = "sizes by box area"
    elif num_known == sum(len(one.labels) for one in truths):
        words = "sizes by annotation area"
    else:
        words = "sizes by annotation area, else box area"
    if any((one.difficult & ~one.is_crowd).any() for one in truths):
        words += ", difficult objects like crowds"
    return words


def _matched(
    evaluator: Any, num_classes: int, iou_threshs: Sequence[float]
) -> list[list[dict[str, Any]]]:
    """Return the matches of objects of any size in each class, an entry an image.

    They are made anew, for these IoU thresholds alone: hotcoco matches in a blink, and takes ten
    times as long to hand over what it has matched at ten thresholds and in four sizes.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        alone = type(evaluator)(evaluator.cocoGt, evaluator.cocoDt, "bbox")
        for name in ("imgIds", "catIds", "maxDets"):
            setattr(alone.params, name, list(getattr(evaluator.params, name)))
        alone.params.iouThrs = np.array(iou_threshs)
        alone.params.areaRng = [list(evaluator.params.areaRng[AREAS["all"]])]
        alone.params.areaRngLbl = ["all"]
        alone.evaluate()
    images: list[list[dict[str, Any]]] = [[] for _ in range(num_classes)]
    for one in alone.evalImgs:
        if one is not None:
            images[one["category_id"]].append(one)
    return images


def _ranked(images: Sequence[dict[str, Any]], place: int) -> RankedHits:
    """Return COCO's matches of one class at the IoU threshold in this place."""
    where = np.repeat(
        np.array([one["image_id"] for one in images], np.int64),
        [len(one["dtScores"]) for one in images],
    )
    scores = np.array([score for one in images for score in one["dtScores"]], np.float32)
    order = np.argsort(-scores, kind="mergesort")  # COCO's
    hits, ignored = (
        np.concatenate([np.empty(0), *(one[key][place] for one in images)]) > 0
        for key in ("dtMatches", "dtIgnore")
    )
    ranked = order[~ignored[order]]
    return RankedHits(where[ranked], hits[ranked], scores[ranked])


def _evaluator(
    detections: Sequence[Detections],
    truths: Sequence[Truth],
    num_classes: int,
    iou_thresh: float | None,
) -> Any:
    """Return the COCOeval of these detections, its chatter swallowed; nothing is evaluated yet."""
    require_scorable(detections, truths, num_classes)
    engine = coco_engine()
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = engine.COCOeval(
            as_coco(truth_rows(truths), len(truths), num_classes, engine),
            as_coco(detection_rows(detections), len(truths), num_classes, engine),
            "bbox",
        )
        evaluator.params.imgIds = list(range(len(truths)))
        evaluator.params.catIds = list(range(num_classes))
        evaluator.params.maxDets = list(LIMITS)
        if iou_thresh is not None:
            evaluator.params.iouThrs = np.array([iou_thresh])
    return evaluator


class Engine(NamedTuple):
    """The two classes of a package that computes COCO's scores."""

    COCO: Any
    COCOeval: Any


def coco_engine() -> Engine:
    """Return hotcoco's classes, or pycocotools' where it is not installed."""
    try:
        import hotcoco
    except ImportError:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        return Engine(COCO, COCOeval)
    return Engine(hotcoco.COCO, hotcoco.COCOeval)


def as_coco(
    rows: list[dict[str, Any]], num_images: int, num_classes: int, engine: Engine | None = None
) -> Any:
    """Return an engine's COCO of these annotations; images and classes are numbered from 0."""
    coco = (engine or coco_engine()).COCO()
    coco.dataset = {
        "images": [{"id": number} for number in range(num_images)],
        "categories": [{"id": number, "name": str(number)} for number in range(num_classes)],
        "annotations": rows,
    }
    coco.createIndex()
    return coco


def truth_rows(truths: Sequence[Truth]) -> list[dict[str, Any]]:
    """Return the objects as COCO annotations."""
    rows: list[dict[str, Any]] = []
    for image, truth in enumerate(truths):
        for box, label, difficult, area in zip(
            xywh(truth.boxes).tolist(),
            truth.labels.tolist(),
            truth.difficult.tolist(),
            truth.areas.tolist(),
            strict=True,
        ):
            rows.append(
                {
                    "id": len(rows) + 1,  # pycocotools takes a match with object 0 for none
                    "image_id": image,
                    "category_id": label,
                    "bbox": box,
                    "area": area,
                    "iscrowd": int(difficult),
                }
            )
    return rows


def detection_rows(detections: Sequence[Detections]) -> list[dict[str, Any]]:
    """Return the detections as COCO annotations."""
    rows: list[dict[str, Any]] = []
    for image, found in enumerate(detections):
        boxes = xywh(found.boxes)
        for box, label, score in zip(
            boxes.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True
        ):
            rows.append(
                {
                    "id": len(rows) + 1,
                    "image_id": image,
                    "category_id": label,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "score": score,
                    "iscrowd": 0,
                }
            )
    return rows


def xywh(boxes: FloatArray) -> NDArray[np.float64]:
    """Return (N, 4) corner boxes as corner and size, in double precision as COCO's files."""
    wide = boxes.astype(np.float64)
    return np.concatenate([wide[:, :2], wide[:, 2:] - wide[:, :2]], axis=1)


def _mean(figures: NDArray[np.float64]) -> float | None:
    """Return the mean of the figures there are; COCO marks missing ones with -1."""
    known = figures[figures > -1]
    return float(known.mean()) if known.size else None


def _on_draws(times: Draws, found: Draws, made: Draws, wanted: IntArray) -> Figures:
    points = np.linspace(0.0, 1.0, 101)
    reached = np.searchsorted(points, found / wanted, side="right")
    aps: Figures = (envelope(found, made) * newly_reached(reached)).sum(axis=1) / 101
    return aps


# TIDE's errors are of one IoU, of COCO's the loosest, and of VOC's APs the area is nearest.
COCO = Rules(coco_map, ranked_hits, at_finds(_on_draws), error_ap=VOC12)
