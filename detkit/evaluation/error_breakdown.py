"""The error breakdown of TIDE: how much of the mean AP each kind of error costs.

Bolya, Foley, Hays, Hoffman: TIDE, ECCV 2020, arXiv:2008.08115.

Shape shorthand: N detections, R ground truths, C classes.

The rules are the paper's; those of its released code, which give other figures, are in `tidecv`.

A wrong detection is of one kind (sec. 2.2; t_f is the IoU of a find, t_b that of background).
Where two would fit, the first of this list, which is ours: the paper gives no order, and its
released code asks for localisation, classification and duplicate, in this order:
- duplicate: its IoU with an object of its class reaches t_f, but a better scored one found it;
- localisation: the largest IoU with an object of its class lies in [t_b, t_f);
- classification: its IoU with an object of another class reaches t_f;
- both: the largest IoU with an object of another class lies in [t_b, t_f);
- background: no IoU reaches t_b.
An object is missed when it was not found and no detection would find it if its class or its
place were put right.

The cost of a kind, its dAP, is by how much AP rises when all errors of the kind, and only
they, are put right (sec. 2.3, the oracles). Classification and localisation: the detection
becomes a find; of two that find the same object the lower scored goes, even if it was the find
before (the released code keeps that one). Both, duplicate,
background: the detection goes. Missed: the object is no longer counted. False positive: all
wrong detections go. False negative: the objects that were not found are no longer counted.
The costs do not add up to 1 - AP: errors hide one another.

Ours, where the paper is silent: `difficult` objects are "don't care", as in VOC; a detection
put right to one goes, and none is ever missed. A class of which no object is left to count has
an AP of 1 when none of its detections is wrong, else of 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from detkit.errors import UsageError
from detkit.evaluation.average_precision import RankedAp, average_precision, ranked_ap
from detkit.evaluation.iou import iou_matrix
from detkit.evaluation.precision_recall import require_scorable
from detkit.structures import BoolArray, Detections, FloatArray, IntArray, Truth

# What a detection is; `ErrorBreakdown.kinds` holds places in this row.
KINDS = (
    "right",
    "classification",
    "localisation",
    "both",
    "duplicate",
    "background",
    "ignored",  # it falls to a difficult object
)
RIGHT, CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND, IGNORED = range(len(KINDS))
BACKGROUND_IOU = 0.1  # sec. 2.2
FIGURES = (
    "classification",
    "localisation",
    "both",
    "duplicate",
    "background",
    "missed",
    "false_positive",
    "false_negative",
)


@dataclass(frozen=True, slots=True)
class ClassErrors:
    """By how much the AP of one class, or its mean over classes, would rise without an error.

    Each figure in [0, 1], in units of AP.
    """

    name: str
    ap: float | None  # None, and all costs 0, without (non-difficult) ground truth
    classification: float
    localisation: float
    both: float
    duplicate: float
    background: float
    missed: float
    false_positive: float
    false_negative: float


@dataclass(frozen=True, slots=True)
class ErrorBreakdown:
    """What each kind of error costs, and of which kind each detection is."""

    metric: str  # the AP's: "voc07"
    iou_thresh: float  # t_f
    background_thresh: float  # t_b
    overall: ClassErrors  # means over the classes that have an AP
    classes: list[ClassErrors]
    counts: dict[str, int]  # detections of each of `KINDS`, and objects "missed"
    kinds: list[IntArray]  # one an image, (N,), in the order of its detections: see `KINDS`
    missed: list[BoolArray]  # one an image, (R,): neither found nor the object of an error
    found: list[BoolArray]  # one an image, (R,)
    finds: list[IntArray]  # one an image, (N,): the object a right detection has found; else -1


def breakdown(
    detections: Sequence[Detections],
    truths: Sequence[Truth],
    class_names: Sequence[str],
    *,
    iou_thresh: float = 0.5,
    background_thresh: float = BACKGROUND_IOU,
    metric: str | RankedAp = "voc07",
) -> ErrorBreakdown:
    """Return what each kind of error costs, for `detections[i]` found where `truths[i]` is.

    Detections are held against objects by VOC's rules (see `voc_map`), whose AP this is about.
    Raises UsageError unless 0 < `background_thresh` <= `iou_thresh` <= 1, and as
    `require_scorable` does.
    """
    require_rising(background_thresh, iou_thresh)
    require_scorable(detections, truths, len(class_names))
    own = ranked_ap(metric)
    ranking, truth = _ranked_kinds(detections, truths, iou_thresh, background_thresh)
    kinds = ranking.kinds
    covered = np.isin(kinds, (RIGHT, CLASSIFICATION, LOCALISATION))
    is_covered = np.zeros(len(truth.labels), np.bool_)
    is_covered[ranking.objects[covered]] = True
    is_found = np.zeros(len(truth.labels), np.bool_)
    is_found[ranking.objects[kinds == RIGHT]] = True
    missed = ~is_covered & ~truth.difficult
    unfound = ~is_found & ~truth.difficult

    def counted(left_out: BoolArray) -> IntArray:
        wanted = ~truth.difficult & ~left_out
        return np.bincount(truth.labels[wanted], minlength=len(class_names))

    nothing = np.zeros(len(truth.labels), np.bool_)
    num_truths = counted(nothing)
    wrong = (kinds != RIGHT) & (kinds != IGNORED)
    oracles = [
        (_put_right(ranking, truth, CLASSIFICATION), num_truths),
        (_put_right(ranking, truth, LOCALISATION), num_truths),
        (_without(ranking, kinds == BOTH), num_truths),
        (_without(ranking, kinds == DUPLICATE), num_truths),
        (_without(ranking, kinds == BACKGROUND), num_truths),
        (ranking, counted(missed)),
        (_without(ranking, wrong), num_truths),
        (ranking, counted(unfound)),
    ]
    aps = _average_precisions(ranking, num_truths, own)
    known = num_truths > 0
    costs = np.stack(
        [np.where(known, _average_precisions(*one, own) - aps, 0.0) for one in oracles]
    )  # (8, C)
    classes = [
        ClassErrors(name, float(aps[index]) if known[index] else None, *costs[:, index].tolist())
        for index, name in enumerate(class_names)
    ]
    means = costs[:, known].mean(axis=1) if known.any() else np.zeros(len(FIGURES))
    mean = float(aps[known].mean()) if known.any() else None
    numbers = np.bincount(kinds, minlength=len(KINDS)).tolist()
    in_order, finds = np.empty_like(kinds), np.empty_like(kinds)
    in_order[ranking.places] = kinds
    finds[ranking.places] = np.where(kinds == RIGHT, ranking.objects, -1)
    firsts = np.cumsum([0, *(len(one.labels) for one in truths)])  # objects before each image's
    return ErrorBreakdown(
        metric=own.metric,
        iou_thresh=iou_thresh,
        background_thresh=background_thresh,
        overall=ClassErrors("mean", mean, *means.tolist()),
        classes=classes,
        counts={**dict(zip(KINDS, numbers)), "missed": int(missed.sum())},
        kinds=by_image(in_order, detections),
        missed=by_image(missed, truths),
        found=by_image(is_found, truths),
        finds=[
            np.maximum(row - first, -1) for row, first in zip(by_image(finds, detections), firsts)
        ],
    )


def require_rising(background_thresh: float, iou_thresh: float) -> None:
    """Raise UsageError unless 0 < `background_thresh` <= `iou_thresh` <= 1."""
    if not 0.0 < background_thresh <= iou_thresh <= 1.0:
        raise UsageError(
            f"a background IoU of {background_thresh:g} and one of {iou_thresh:g} for a find: "
            "they must rise, and lie above 0 and at most at 1"
        )


def breakdown_to_json(errors: ErrorBreakdown) -> dict[str, Any]:
    """Return the costs and counts as JSON values, without the kinds of single detections."""

    def costs(one: ClassErrors) -> dict[str, Any]:
        return {"name": one.name, "AP": one.ap, **{name: getattr(one, name) for name in FIGURES}}

    return {
        "metric": errors.metric,
        "iou_thresh": errors.iou_thresh,
        "background_thresh": errors.background_thresh,
        "mean": {key: value for key, value in costs(errors.overall).items() if key != "name"},
        "classes": [costs(one) for one in errors.classes],
        "counts": dict(errors.counts),
    }


@dataclass(frozen=True)
class _Objects:
    """The ground truths of all images behind each other."""

    labels: IntArray  # (R,)
    difficult: BoolArray  # (R,)


@dataclass(frozen=True)
class _Ranking:
    """The detections of all images, by class and then best first."""

    labels: IntArray  # (N,)
    scores: FloatArray  # (N,)
    kinds: IntArray  # (N,)
    objects: IntArray  # (N,) the object that the kind is about, of all images; -1: none
    places: IntArray  # (N,) where each stood among all images' detections


def _ranked_kinds(
    detections: Sequence[Detections],
    truths: Sequence[Truth],
    iou_thresh: float,
    background_thresh: float,
) -> tuple[_Ranking, _Objects]:
    """Return all detections, ranked, each with its kind, and all objects."""
    labels = np.concatenate([np.empty(0, np.int64), *(item.labels for item in detections)])
    scores = np.concatenate([np.empty(0, np.float32), *(item.scores for item in detections)])
    truth = _Objects(
        np.concatenate([np.empty(0, np.int64), *(item.labels for item in truths)]),
        np.concatenate([np.empty(0, np.bool_), *(item.difficult for item in truths)]),
    )
    kinds = np.full(len(labels), BACKGROUND)
    objects = np.full(len(labels), -1)
    start = first_object = 0
    for found, wanted in zip(detections, truths):
        end = start + len(found.labels)
        kinds[start:end], own = _kinds(found, wanted, iou_thresh, background_thresh)
        objects[start:end] = np.where(own < 0, -1, own + first_object)
        start, first_object = end, first_object + len(wanted.labels)
    order = np.lexsort((-scores, labels))  # stable: ties keep their order
    kinds, objects = kinds[order], objects[order]
    finds = np.flatnonzero(kinds == RIGHT)
    first = np.unique(objects[finds], return_index=True)[1]
    later = np.ones(len(finds), np.bool_)
    later[first] = False
    kinds[finds[later]] = DUPLICATE
    kinds[finds[truth.difficult[objects[finds]]]] = IGNORED
    return _Ranking(labels[order], scores[order], kinds, objects, order), truth


def _kinds(
    found: Detections, wanted: Truth, iou_thresh: float, background_thresh: float
) -> tuple[IntArray, IntArray]:
    """Return the kind of each detection of one image and the object it is about, (N,) each.

    Detections that reach an object of their class are RIGHT: who came first is not known yet.
    """
    number = len(found.labels)
    if number == 0 or len(wanted.labels) == 0:
        return np.full(number, BACKGROUND), np.full(number, -1)
    ious = iou_matrix(found.boxes, wanted.boxes)
    same = found.labels[:, None] == wanted.labels[None]
    rows = np.arange(number)
    own, other = (np.where(mask, ious, -1.0).argmax(axis=1) for mask in (same, ~same))
    own_iou = np.where(same, ious, 0.0)[rows, own]
    other_iou = np.where(same, 0.0, ious)[rows, other]
    cases = [
        own_iou >= iou_thresh,
        own_iou >= background_thresh,
        other_iou >= iou_thresh,
        other_iou >= background_thresh,
    ]
    kinds = np.select(cases, [RIGHT, LOCALISATION, CLASSIFICATION, BOTH], BACKGROUND)
    return kinds, np.select(cases, [own, own, other, other], -1)


def _without(ranking: _Ranking, gone: BoolArray) -> _Ranking:
    """Return the ranking without some of its detections."""
    return _rows(ranking, np.flatnonzero(~gone))


def _rows(ranking: _Ranking, rows: IntArray) -> _Ranking:
    """Return these detections of a ranking, in this order."""
    return _Ranking(*(getattr(ranking, one.name)[rows] for one in fields(ranking)))


def _put_right(ranking: _Ranking, truth: _Objects, kind: int) -> _Ranking:
    """Return the ranking with all errors of a kind made finds of the objects they are about."""
    is_error = ranking.kinds == kind
    finds = np.flatnonzero(is_error | (ranking.kinds == RIGHT))
    # Of equal scores the find that was one all along stays.
    best_first = finds[np.lexsort((is_error[finds], -ranking.scores[finds]))]
    kept = best_first[np.unique(ranking.objects[best_first], return_index=True)[1]]
    kept = kept[~truth.difficult[ranking.objects[kept]]]
    stays = np.ones(len(is_error), np.bool_)
    stays[finds] = False
    stays[kept] = True
    labels, kinds = ranking.labels.copy(), ranking.kinds.copy()
    labels[kept] = truth.labels[ranking.objects[kept]]
    kinds[kept] = RIGHT
    right = _without(replace(ranking, labels=labels, kinds=kinds), ~stays)
    return _rows(right, np.lexsort((right.places, -right.scores, right.labels)))


def _average_precisions(
    ranking: _Ranking, num_truths: IntArray, own: RankedAp
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the AP of each class, (C,)."""
    counted = ranking.kinds != IGNORED
    labels, scores = ranking.labels[counted], ranking.scores[counted]
    hits = ranking.kinds[counted] == RIGHT
    bounds = np.searchsorted(labels, np.arange(len(num_truths) + 1))
    aps = np.empty(len(num_truths))
    for index, (start, end) in enumerate(zip(bounds, bounds[1:])):
        ap = average_precision(hits[start:end], scores[start:end], int(num_truths[index]), own)
        aps[index] = float(start == end) if ap is None else ap
    return aps


def by_image(values: Any, items: Sequence[Detections] | Sequence[Truth]) -> list[Any]:
    """Return all images' values as one array an image."""
    return np.split(values, np.cumsum([len(item.labels) for item in items])[:-1]) if items else []
