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

`voc07`: mean of the best precision at the recalls 0, .1, ..., 1, compared in integers: as
floats, three of ten objects fall short of the recall .3. `voc12` (2010 and later): the area
under the monotone envelope of the curve. `auc`: before 2007 the kit drew the ROC curve for
the classification task (VOC2006 kit, `VOCroc.m`; detection never had one). Ours carries that
definition, the area under the lower envelope, over to ranked detections: the share of the
objects found at scores strictly above a false detection, averaged over the false detections;
without any it is the share found at all. It is blind to how many false ones there are.

Where the equations are:
- sec. 4.2, eqs. 1-2: `average_precision`, 11-point AP of interpolated precision
- sec. 4.2, eq. 3: `iou`, overlap
- sec. 4.2: `_match`, the object that a detection is held against
- sec. 4.2: `ranked_hits`, a second detection of an object is false
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from detkit.errors import DetkitError
from detkit.evaluation.iou import iou
from detkit.evaluation.precision_recall import RankedHits, class_score
from detkit.structures import (
    BoolArray,
    Detections,
    FloatArray,
    IntArray,
    Scores,
    Truth,
)

VocMetric = Literal["voc07", "voc12", "auc"]
PROTOCOLS: dict[VocMetric, str] = {
    "voc07": "VOC 2007 11-point AP",
    "voc12": "VOC 2010+ AP (area under the curve)",
    "auc": "area under the ROC curve of ranked detections",
}
PAIRS_AT_ONCE = 1_000_000  # bounds the memory of matching at some 100 MB, whatever the data


def voc_map(
    detections: Sequence[Detections],
    truths: Sequence[Truth],
    class_names: Sequence[str],
    *,
    metric: VocMetric = "voc07",
    iou_thresh: float = 0.5,
    count_difficult: bool = False,
    pixel_inclusive: bool = False,
) -> Scores:
    """Return AP by class and its mean, for `detections[i]` found where `truths[i]` is.

    `count_difficult` treats difficult objects as ordinary ones and `pixel_inclusive` adds one
    pixel to every width and height (for boxes whose corners are both inside): conventions of
    other evaluators, for comparing with their figures. Raises ValueError when the sequences
    differ in length or a label is not in [0, C), DetkitError when a score is not finite.
    """
    ranked = ranked_hits(
        detections,
        truths,
        len(class_names),
        iou_thresh,
        count_difficult=count_difficult,
        pixel_inclusive=pixel_inclusive,
    )
    num_detections = _count([item.labels for item in detections], len(class_names))
    num_truths = _count(
        [item.labels[~item.difficult | count_difficult] for item in truths], len(class_names)
    )
    classes = [
        class_score(
            name,
            average_precision(one.hits, one.scores, wanted, metric),
            one.hits,
            one.scores,
            num_truths=wanted,
            num_detections=made,
        )
        for name, one, wanted, made in zip(class_names, ranked, num_truths, num_detections)
    ]
    aps = [one.ap for one in classes if one.ap is not None]
    return Scores(
        protocol=_protocol(metric, iou_thresh, count_difficult, pixel_inclusive),
        metric=metric,
        iou_thresh=iou_thresh,
        mean=sum(aps) / len(aps) if aps else None,
        classes=classes,
        num_images=len(truths),
    )


def ranked_hits(
    detections: Sequence[Detections],
    truths: Sequence[Truth],
    num_classes: int,
    iou_thresh: float = 0.5,
    *,
    count_difficult: bool = False,
    pixel_inclusive: bool = False,
) -> list[RankedHits]:
    """Return the ranked detections of each of C classes, without those of difficult objects.

    The options and errors are `voc_map`'s.
    """
    if len(detections) != len(truths):
        raise ValueError(f"{len(detections)} detections for {len(truths)} images")
    found = _row(detections, num_classes)
    scores = _scores_of(detections)
    wanted = _row(truths, num_classes)
    difficult = np.concatenate([np.empty(0, np.bool_), *(item.difficult for item in truths)])
    if count_difficult:
        difficult = np.zeros_like(difficult)
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


def _row(items: Sequence[Detections] | Sequence[Truth], num_classes: int) -> _Row:
    """Return the boxes of all images in one row; raise ValueError for an unknown label."""
    row = _Row(
        images=np.repeat(np.arange(len(items)), [len(item.boxes) for item in items]),
        boxes=np.concatenate([np.empty((0, 4)), *(item.boxes for item in items)]),
        labels=np.concatenate([np.empty(0, np.int64), *(item.labels for item in items)]),
    )
    if len(row.labels) and not 0 <= row.labels.min() <= row.labels.max() < num_classes:
        raise ValueError(f"a label lies outside [0, {num_classes})")
    return row


def _scores_of(detections: Sequence[Detections]) -> FloatArray:
    """Return the scores of all images in one row; raise DetkitError for one not finite."""
    for image, item in enumerate(detections):
        if not np.isfinite(item.scores).all():
            raise DetkitError(
                f"{item.image_id or f'image {image}'}: a detection's score is not a finite "
                "number; did training diverge?"
            )
    return np.concatenate([np.empty(0, np.float32), *(item.scores for item in detections)])


def _match(
    found: _Row, wanted: _Row, num_classes: int, pixel_inclusive: bool
) -> tuple[NDArray[np.float64], IntArray]:
    """Return each detection's largest IoU with an object of its image and class, and which.

    Both are (N,); 0 and -1 where there is none. Of equal IoUs the first object counts.
    """
    ious = np.zeros(len(found.labels))
    nearest = np.full(len(found.labels), -1)
    if len(found.labels) == 0 or len(wanted.labels) == 0:
        return ious, nearest
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
        firsts = np.cumsum(count) - count  # where each detection's pairs begin
        within = np.arange(count.sum()) - np.repeat(firsts, count)
        objects = order[np.repeat(starts[rows], count) + within]
        pair_ious = iou(
            found.boxes[np.repeat(rows, count)], wanted.boxes[objects], float(pixel_inclusive)
        )
        best = np.maximum.reduceat(pair_ious, firsts)
        is_best = pair_ious == np.repeat(best, count)
        first_best = np.minimum.reduceat(
            np.where(is_best, np.arange(len(pair_ious)), len(pair_ious)), firsts
        )
        ious[rows] = best
        nearest[rows] = objects[first_best]
    return ious, nearest


def average_precision(
    hits: BoolArray, scores: FloatArray, num_truths: int, metric: VocMetric
) -> float | None:
    """Return the AP in [0, 1] of one class's ranked detections; None without ground truth.

    `hits` (n,) says which detections are right, best first; `scores` (n,) matter for `auc`.
    """
    if num_truths == 0:
        return None
    if metric == "auc":
        return _roc_area(hits, scores, num_truths)
    found = np.cumsum(hits)
    precision = found / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if metric == "voc12":
        return float(envelope[hits].sum() / num_truths)
    reached = np.searchsorted(10 * found, np.arange(11) * num_truths)
    return float(envelope[reached[reached < len(hits)]].sum() / 11)


def _roc_area(hits: BoolArray, scores: FloatArray, num_truths: int) -> float:
    """Return the area under the ROC curve's lower envelope (see the head of this file)."""
    found = np.concatenate([[0], np.cumsum(hits)])
    if hits.all():
        return float(found[-1] / num_truths)
    higher = np.searchsorted(-scores, -scores[~hits], side="left")  # how many score above each
    return float(found[higher].mean() / num_truths)


def _protocol(
    metric: VocMetric, iou_thresh: float, count_difficult: bool, pixel_inclusive: bool
) -> str:
    """Return the protocol in words; what departs from VOC is said."""
    parts = [PROTOCOLS[metric], f"IoU >= {iou_thresh:g}"]
    if count_difficult:
        parts.append("difficult objects counted")
    if pixel_inclusive:
        parts.append("boxes with both end pixels")
    return ", ".join(parts)
