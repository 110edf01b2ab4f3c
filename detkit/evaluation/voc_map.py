"""Pascal VOC: average precision by its rules, on plain numpy.

Shape shorthand: N detections, R ground truths, P pairs of both in one image and class,
n detections of one class that are right or wrong, C classes.

The rules (VOC development kit, `VOCevaldet.m`; Everingham et al. 2010, sec. 4.2):
- A detection is held against the object of its class and image with the largest IoU, and is
  right when that IoU is at least `iou_thresh` and the object has not been found by a better
  scored one. It is never passed on to the second best object.
- A `difficult` object is neither wanted nor wrong: it is not counted, and a detection that
  falls to it is left out of the ranking, however many do.
- Detections are ranked by score; equal scores keep the order of images, then of detections.
- A class with objects but no detection has AP 0; one without objects has none (`None`) and
  is left out of the mean.

What `voc07`, `voc12` and `auc` make of the ranking is in `average_precision`, and where `voc07`
reaches a recall in integers instead of the kit's floats.

Where the equations are:
- sec. 4.2, eqs. 1-2: `average_precision.eleven_points`, 11-point AP of interpolated precision
- sec. 4.2, eq. 3: `iou`, overlap
- sec. 4.2: `_match`, the object that a detection is held against
- sec. 4.2: `ranked_hits`, a second detection of an object is false
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detkit.evaluation import average_precision as ap
from detkit.evaluation.average_precision import RankedAp, average_precision, ranked_ap
from detkit.evaluation.iou import iou
from detkit.evaluation.metrics import Rules
from detkit.evaluation.precision_recall import RankedHits, class_score, overall, require_scorable
from detkit.structures import BoolArray, Detections, FloatArray, IntArray, Scores, Truth

PAIRS_AT_ONCE = 1_000_000  # bounds the memory of matching at some 100 MB, whatever the data


def voc_map(
    detections: Sequence[Detections],
    truths: Sequence[Truth],
    class_names: Sequence[str],
    *,
    metric: str | RankedAp = "voc07",
    iou_thresh: float = 0.5,
    count_difficult: bool = False,
    pixel_inclusive: bool = False,
    best_free: bool = False,
) -> Scores:
    """Return AP by class and its mean, for `detections[i]` found where `truths[i]` is.

    `metric` is an AP, or the name of one of `average_precision.RANKED_APS`. `count_difficult`
    treats difficult objects as ordinary ones, `pixel_inclusive` adds one pixel to every width and
    height (for boxes whose corners are both inside), `best_free` gives a detection the best object
    that no better one has found: conventions of other evaluators, for comparing with their figures.
    Raises as `require_scorable` does.
    """
    own = ranked_ap(metric)
    ranked = ranked_hits(
        detections,
        truths,
        len(class_names),
        iou_thresh,
        count_difficult=count_difficult,
        pixel_inclusive=pixel_inclusive,
        best_free=best_free,
    )
    num_detections = _count([item.labels for item in detections], len(class_names))
    num_truths = _count(
        [item.labels[~item.difficult | count_difficult] for item in truths], len(class_names)
    )
    classes = [
        class_score(
            name,
            average_precision(one.hits, one.scores, wanted, own),
            one.hits,
            one.scores,
            num_truths=wanted,
            num_detections=made,
        )
        for name, one, wanted, made in zip(class_names, ranked, num_truths, num_detections)
    ]
    aps = [one.ap for one in classes if one.ap is not None]
    return Scores(
        protocol=_protocol(own.protocol, iou_thresh, count_difficult, pixel_inclusive),
        metric=own.metric,
        iou_thresh=iou_thresh,
        mean=sum(aps) / len(aps) if aps else None,
        classes=classes,
        num_images=len(truths),
        **overall(ranked, sum(num_truths)),
    )


def ranked_hits(
    detections: Sequence[Detections],
    truths: Sequence[Truth],
    num_classes: int,
    iou_thresh: float = 0.5,
    *,
    count_difficult: bool = False,
    pixel_inclusive: bool = False,
    best_free: bool = False,
) -> list[RankedHits]:
    """Return the ranked detections of each of C classes, without those of difficult objects.

    The options and errors are `voc_map`'s.
    """
    require_scorable(detections, truths, num_classes)
    found, wanted = _row(detections), _row(truths)
    scores = np.concatenate([np.empty(0, np.float32), *(item.scores for item in detections)])
    difficult = np.concatenate([np.empty(0, np.bool_), *(item.difficult for item in truths)])
    if count_difficult:
        difficult = np.zeros_like(difficult)
    if best_free:
        falls_to = _best_free(
            found, scores, wanted, difficult, num_classes, iou_thresh, pixel_inclusive
        )
    else:
        ious, nearest = _match(found, wanted, num_classes, pixel_inclusive)
        falls_to = np.where(ious >= iou_thresh, nearest, -1)
    order = np.lexsort((-scores, found.labels))  # stable: ties keep their order
    if len(difficult):
        order = order[(falls_to[order] < 0) | ~difficult[falls_to[order]]]
    bounds = np.searchsorted(found.labels[order], np.arange(num_classes + 1))
    ranked = []
    for start, end in zip(bounds, bounds[1:]):
        rows = order[start:end]
        objects, first = np.unique(falls_to[rows], return_index=True)
        hits = np.zeros(len(rows), np.bool_)
        hits[first[objects >= 0]] = True
        ranked.append(RankedHits(found.images[rows], hits, scores[rows]))
    return ranked


def _count(labels: Sequence[IntArray], num_classes: int) -> list[int]:
    """Return how often each label occurs in all images."""
    row = np.concatenate([np.empty(0, np.int64), *labels])
    return [int(count) for count in np.bincount(row, minlength=num_classes)]


@dataclass(frozen=True)
class _Row:
    """The boxes of all images behind each other."""

    images: IntArray  # (N,) the image each is in
    boxes: NDArray[np.float64]  # (N, 4)
    labels: IntArray  # (N,)


def _row(items: Sequence[Detections] | Sequence[Truth]) -> _Row:
    """Return the boxes of all images in one row."""
    return _Row(
        images=np.repeat(np.arange(len(items)), [len(item.boxes) for item in items]),
        boxes=np.concatenate([np.empty((0, 4)), *(item.boxes for item in items)]),
        labels=np.concatenate([np.empty(0, np.int64), *(item.labels for item in items)]),
    )


def _match(
    found: _Row, wanted: _Row, num_classes: int, pixel_inclusive: bool
) -> tuple[NDArray[np.float64], IntArray]:
    """Return each detection's largest IoU with an object of its image and class, and which.

    Both are (N,); 0 and -1 where there is none. Of equal IoUs the first object counts.
    """
    ious = np.zeros(len(found.labels))
    nearest = np.full(len(found.labels), -1)
    for dets, objects, pair_ious in _pairs(found, wanted, num_classes, pixel_inclusive):
        firsts = np.flatnonzero(np.diff(dets, prepend=-1))  # where each detection's pairs begin
        counts = np.diff(firsts, append=len(dets))
        best = np.maximum.reduceat(pair_ious, firsts)
        is_best = pair_ious == np.repeat(best, counts)
        first_best = np.minimum.reduceat(
            np.where(is_best, np.arange(len(pair_ious)), len(pair_ious)), firsts
        )
        ious[dets[firsts]] = best
        nearest[dets[firsts]] = objects[first_best]
    return ious, nearest


def _pairs(
    found: _Row, wanted: _Row, num_classes: int, pixel_inclusive: bool
) -> Iterator[tuple[IntArray, IntArray, NDArray[np.float64]]]:
    """Yield all pairs of a detection and an object in one image and class, so many at a time.

    Each time as detections (P,) rising, objects (P,) and their IoU (P,).
    """
    if len(found.labels) == 0 or len(wanted.labels) == 0:
        return
    keys = wanted.images * num_classes + wanted.labels
    order = np.argsort(keys, kind="stable")
    sorted_keys = keys[order]
    own_keys = found.images * num_classes + found.labels
    starts = np.searchsorted(sorted_keys, own_keys, side="left")
    counts = np.searchsorted(sorted_keys, own_keys, side="right") - starts
    with_truth = np.flatnonzero(counts)
    batches = np.cumsum(counts[with_truth]) // PAIRS_AT_ONCE
    for rows in np.split(with_truth, np.flatnonzero(np.diff(batches)) + 1):
        if len(rows) == 0:
            continue
        count = counts[rows]
        dets = np.repeat(rows, count)
        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        objects = order[np.repeat(starts[rows], count) + within]
        ious = iou(found.boxes[dets], wanted.boxes[objects], float(pixel_inclusive))
        yield dets, objects, ious


def _best_free(
    found: _Row,
    scores: FloatArray,
    wanted: _Row,
    difficult: BoolArray,
    num_classes: int,
    iou_thresh: float,
    pixel_inclusive: bool,
) -> IntArray:
    """Return the object that each detection falls to, (N,), as COCO deals them out; -1: to none.

    Best first, each takes the object of its image and class with the largest IoU that is still
    free; if none is, one that is difficult, which any number may fall to.
    """
    falls_to = np.full(len(found.labels), -1)
    near = [
        (dets[reach], objects[reach], ious[reach])
        for dets, objects, ious in _pairs(found, wanted, num_classes, pixel_inclusive)
        for reach in [ious >= iou_thresh]
    ]
    if not near:
        return falls_to
    dets, objects, ious = map(np.concatenate, zip(*near))
    order = np.lexsort((-ious, dets, -scores[dets], difficult[objects]))
    is_free = np.ones(len(wanted.labels), np.bool_)
    for row, one in zip(dets[order].tolist(), objects[order].tolist()):
        if falls_to[row] < 0 and is_free[one]:
            falls_to[row] = one
            is_free[one] = difficult[one]
    return falls_to


def _protocol(words: str, iou_thresh: float, count_difficult: bool, pixel_inclusive: bool) -> str:
    """Return the protocol in words; what departs from VOC is said."""
    parts = [words, f"IoU >= {iou_thresh:g}"]
    if count_difficult:
        parts.append("difficult objects counted")
    if pixel_inclusive:
        parts.append("boxes with both end pixels")
    return ", ".join(parts)


def voc_rules(own: RankedAp, error_ap: RankedAp | None = None, *, best_free: bool = False) -> Rules:
    """Return the rules of a metric that is an AP of what VOC's matching says is right.

    `error_ap` is what its `--errors` tell the loss of, unless it is the same. `best_free` is
    `voc_map`'s.
    """
    variants: dict[str, Callable[[], Rules]] = {}
    if not best_free:
        variants["best-free"] = functools.partial(voc_rules, own, error_ap, best_free=True)
    if own is ap.VOC07:
        for name, floats in (("numpy", ap.NUMPY_RECALLS), ("matlab", ap.MATLAB_RECALLS)):
            variants[f"{name}-recalls"] = functools.partial(
                voc_rules, floats, error_ap or own, best_free=best_free
            )
    return Rules(
        score=functools.partial(voc_map, metric=own, best_free=best_free),
        ranked_hits=lambda *given: [[one] for one in ranked_hits(*given, best_free=best_free)],
        on_draws=own.on_draws,
        error_ap=error_ap or own,
        variants=variants,
    )


VOC07, VOC12, AUC = voc_rules(ap.VOC07), voc_rules(ap.VOC12), voc_rules(ap.AUC, ap.VOC12)
