"""The error breakdown as the tool tidecv makes it, to compare with figures of that tool.

Bolya, Foley, Hays, Hoffman: TIDE, ECCV 2020, arXiv:2008.08115, and its released code, tidecv 1.0.1.
The paper's own rules are in `error_breakdown`. Figures are the tool's, divided by 100.

Shape shorthand: N detections, R objects, C classes.

Where the tool differs from the paper:
- A detection that finds nothing is tried as a localisation error first, then as classification,
  duplicate and background; both is what is left over. The paper gives no order.
- An error of an object that was found goes when it is put right, even if it scores higher than
  the find. In the paper (sec. 2.3) the lower scored of the two goes.
- Of the errors of an object that was not found, of either kind, only the best scored one becomes
  a find, also where it is of the kind that is not put right just now.

And from VOC's rules, which `error_breakdown` has:
- The best 100 detections of an image, of all classes, count; each takes the best object of its
  class that is still free.
- A `difficult` object is a region to ignore: what finds nothing, and of which more than t_f lies
  inside one of its class, is not counted as false. It is of a kind of error all the same, and
  as that may become a find.
- AP is the mean over 101 recalls. A class without objects has one of 0 where something was
  detected, and counts in the mean, before or after an error is put right, as there is something.
- The mean of no kind of error costs less than nothing: it is cut at 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detkit.evaluation.average_precision import found_and_best
from detkit.evaluation.coco_map import xywh
from detkit.evaluation.error_breakdown import (
    BACKGROUND,
    BACKGROUND_IOU,
    BOTH,
    CLASSIFICATION,
    DUPLICATE,
    IGNORED,
    KINDS,
    LOCALISATION,
    RIGHT,
    ClassErrors,
    ErrorBreakdown,
    by_image,
    require_rising,
)
from detkit.evaluation.precision_recall import require_scorable
from detkit.structures import BoolArray, Detections, FloatArray, IntArray, Truth

MAX_DETECTIONS = 100  # of an image; tidecv's Data
POINTS = np.array([point / 100 for point in range(101)])  # recalls; tidecv's ap.py

Doubles = NDArray[np.float64]


def breakdown(
    detections: Sequence[Detections],
    truths: Sequence[Truth],
    class_names: Sequence[str],
    *,
    iou_thresh: float = 0.5,
    background_thresh: float = BACKGROUND_IOU,
) -> ErrorBreakdown:
    """Return what each kind of error costs by tidecv, for `detections[i]` found where `truths[i]`.

    `counts` are the tool's, which has an ignored detection in two places. In `kinds` it is
    `IGNORED`, as is one past the best 100. Raises UsageError unless 0 < `background_thresh` <=
    `iou_thresh` <= 1, and as `require_scorable` does.
    """
    require_rising(background_thresh, iou_thresh)
    require_scorable(detections, truths, len(class_names))
    judged = _all_judged(detections, truths, iou_thresh, background_thresh)
    every = ~judged.difficult
    unfound = every & ~judged.found
    missed = unfound & (judged.best < 0)
    right = judged.kinds == RIGHT
    counts = ~judged.ignored

    def points(fixed: BoolArray, keep: BoolArray, objects: BoolArray = every) -> _Aps:
        number = np.bincount(judged.object_labels[objects], minlength=len(class_names))
        labels = np.where(fixed, np.append(judged.object_labels, -1)[judged.objects], judged.labels)
        # Of equal scores the tool has finds behind errors, once it has looked at these.
        return _aps(labels[keep], judged.scores[keep], (right | fixed)[keep], right[keep], number)

    none = np.zeros_like(right)
    in_order = np.bincount(judged.object_labels[every], minlength=len(class_names))
    now = _aps(judged.labels[counts], judged.scores[counts], right[counts], none[counts], in_order)
    after = []
    for kind in (CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND):
        is_kind = judged.kinds == kind
        fixed = is_kind & judged.is_best if kind in (CLASSIFICATION, LOCALISATION) else none
        after.append(points(fixed, fixed | (counts & ~is_kind)))
    after.append(points(none, counts, every & ~missed))
    sure = _aps(judged.labels[counts], 1.0 * right[counts], right[counts], none[counts], in_order)
    after += [sure, points(none, counts, every & ~unfound)]
    costs = np.stack([one.aps - now.aps for one in after], axis=1)  # (C, 8)
    means = [one.mean - now.mean for one in after]
    # The tool cuts the kinds of errors, not the false positives and negatives behind them.
    means = [max(cost, 0.0) for cost in means[:-2]] + means[-2:]
    numbers = np.bincount(judged.kinds, minlength=len(KINDS)).tolist()
    kinds = np.full(sum(len(one.labels) for one in detections), IGNORED)
    kinds[judged.places] = np.where(counts, judged.kinds, IGNORED)
    finds = np.full(len(kinds), -1)
    finds[judged.places[right]] = judged.own_objects[right]
    return ErrorBreakdown(
        metric="tidecv",
        iou_thresh=iou_thresh,
        background_thresh=background_thresh,
        overall=ClassErrors("mean", now.mean if now.has.any() else None, *means),
        classes=[
            ClassErrors(name, float(ap) if has else None, *row)
            for name, ap, has, row in zip(class_names, now.aps, now.has, costs.tolist())
        ],
        counts={
            **dict(zip(KINDS, numbers)),
            "ignored": int(judged.ignored.sum()),
            "missed": int(missed.sum()),
        },
        kinds=by_image(kinds, detections),
        missed=by_image(missed, truths),
        found=by_image(judged.found, truths),
        finds=by_image(finds, detections),
    )


@dataclass(frozen=True)
class _Judged:
    """The N detections that count, image by image and best first in each, and all R objects."""

    labels: IntArray  # (N,)
    scores: Doubles  # (N,)
    kinds: IntArray  # (N,), of those in an ignored region, too
    ignored: BoolArray  # (N,): finds nothing, and lies in an ignored region
    objects: IntArray  # (N,): the object, of all images, that the kind is about; -1: none
    own_objects: IntArray  # (N,): the same, of its image
    places: IntArray  # (N,): where each stood among all images' detections
    object_labels: IntArray  # (R,)
    difficult: BoolArray  # (R,)
    found: BoolArray  # (R,)
    best: IntArray  # (R,): of the errors of an object that was not found, the best; -1: none

    @property
    def is_best(self) -> BoolArray:
        """Whether each detection, (N,), is the error that may become the find of its object."""
        best = np.append(self.best, -1)[self.objects]
        return np.asarray(best == np.arange(len(best)))


@dataclass(frozen=True, slots=True)
class _Aps:
    """The AP of each class."""

    aps: Doubles  # (C,), in [0, 1]
    has: BoolArray  # (C,): there are objects or detections

    @property
    def mean(self) -> float:
        """The mean over the classes of which there is something; 0 without any."""
        return float(self.aps[self.has].mean()) if self.has.any() else 0.0


def _aps(
    labels: IntArray, scores: Doubles, hits: BoolArray, late: BoolArray, num_objects: IntArray
) -> _Aps:
    """Return the APs of n detections, all arrays (n,), with so many objects (C,).

    Of equal scores those that are not `late` come first, then as they stand.
    """
    order = np.lexsort((late, -scores, labels))
    bounds = np.searchsorted(labels[order], np.arange(len(num_objects) + 1))
    aps = np.zeros(len(num_objects))
    for index, (start, end) in enumerate(zip(bounds, bounds[1:])):
        if num_objects[index] and end > start:
            found, best = found_and_best(hits[order[start:end]])
            reached = np.searchsorted(found / num_objects[index], POINTS)
            aps[index] = best[reached[reached < len(best)]].sum() / len(POINTS)
    return _Aps(aps, (num_objects > 0) | (np.diff(bounds) > 0))


def _all_judged(
    detections: Sequence[Detections],
    truths: Sequence[Truth],
    iou_thresh: float,
    background_thresh: float,
) -> _Judged:
    """Return the best detections of all images, judged, and all objects behind each other."""
    parts: list[tuple[IntArray, Doubles, IntArray, BoolArray, IntArray, IntArray, IntArray]] = []
    start = first_object = 0
    for found, wanted in zip(detections, truths):
        best = np.argsort(-found.scores, kind="stable")[:MAX_DETECTIONS]
        labels = found.labels[best]
        boxes = found.boxes[best]
        kinds, own = _kinds(boxes, labels, wanted, iou_thresh, background_thresh)
        ignored = (kinds != RIGHT) & _in_ignored(boxes, labels, wanted, iou_thresh)
        objects = np.where(own < 0, -1, own + first_object)
        scores = found.scores[best].astype(np.float64)
        parts.append((labels, scores, kinds, ignored, objects, own, start + best))
        start, first_object = start + len(found.labels), first_object + len(wanted.labels)
    types = (np.int64, np.float64, np.int64, np.bool_, np.int64, np.int64, np.int64)
    empty = tuple(np.empty(0, one) for one in types)
    labels, scores, kinds, ignored, objects, own, places = map(np.concatenate, zip(empty, *parts))
    is_found = np.zeros(first_object, np.bool_)
    is_found[objects[kinds == RIGHT]] = True
    best_errors = np.full(first_object, -1)
    errors = np.flatnonzero(np.isin(kinds, (CLASSIFICATION, LOCALISATION)))[::-1]
    best_errors[objects[errors]] = errors  # the first one, written last
    best_errors[is_found] = -1
    return _Judged(
        labels,
        scores,
        kinds,
        ignored,
        objects,
        own,
        places,
        np.concatenate([np.empty(0, np.int64), *(one.labels for one in truths)]),
        np.concatenate([np.empty(0, np.bool_), *(one.difficult for one in truths)]),
        is_found,
        best_errors,
    )


def _kinds(
    boxes: FloatArray, labels: IntArray, wanted: Truth, iou_thresh: float, background_thresh: float
) -> tuple[IntArray, IntArray]:
    """Return the kind of each of an image's detections, best first, and its object: (n,) each."""
    kinds, objects = np.full(len(labels), BACKGROUND), np.full(len(labels), -1)
    counted = np.flatnonzero(~wanted.difficult)
    if not len(counted) or not len(labels):
        return kinds, objects
    ious = _overlaps(boxes, wanted.boxes[counted], crowd=False)
    same = labels[:, None] == wanted.labels[counted][None]
    free = ious * same
    for row in range(len(labels)):
        column = int(free[row].argmax())
        if free[row, column] >= iou_thresh:
            kinds[row], objects[row] = RIGHT, counted[column]
            free[:, column] = 0
    found = np.isin(counted, objects)
    rows = np.arange(len(labels))
    own, other = (ious * same).argmax(axis=1), (ious * ~same).argmax(axis=1)
    own_iou, other_iou = (ious * same)[rows, own], (ious * ~same)[rows, other]
    used_iou = (ious * same * found).max(axis=1)
    cases = [
        kinds == RIGHT,
        (background_thresh <= own_iou) & (own_iou <= iou_thresh),
        other_iou >= iou_thresh,
        used_iou >= iou_thresh,
        ious.max(axis=1) <= background_thresh,
    ]
    names = [RIGHT, LOCALISATION, CLASSIFICATION, DUPLICATE, BACKGROUND]
    about = [objects, counted[own], counted[other], np.full(len(labels), -1), objects]
    return np.select(cases, names, BOTH), np.select(cases, about, -1)


def _in_ignored(boxes: FloatArray, labels: IntArray, wanted: Truth, iou_thresh: float) -> BoolArray:
    """Return, (n,), which boxes lie to more than `iou_thresh` in a difficult one of their class."""
    regions = np.flatnonzero(wanted.difficult)
    if not len(regions) or not len(labels):
        return np.zeros(len(labels), np.bool_)
    inside = _overlaps(boxes, wanted.boxes[regions], crowd=True) > iou_thresh
    same = labels[:, None] == wanted.labels[regions][None]
    return np.asarray((inside & same).any(axis=1))


def _overlaps(boxes: FloatArray, others: FloatArray, *, crowd: bool) -> Doubles:
    """Return the IoU (n, r), or the share of each box inside each other, as the tool does."""
    from pycocotools import mask

    found, wanted = xywh(boxes), xywh(others)
    return np.asarray(mask.iou(found, wanted, [crowd] * len(wanted)), np.float64)
