"""Recall of proposals, and mean average best overlap (MABO): how many objects they cover.

Shape shorthand: R objects, P proposals, K numbers of boxes, T thresholds.

The protocol is that of Uijlings et al. 2013 (IJCV 104, sec. 5): an object's best overlap is its
largest IoU with any of the first so many boxes of its image, the average best overlap of a class
the mean over its objects, MABO the mean of that over classes. Recall at an IoU is the share of
all objects whose best overlap reaches it. Difficult objects are left out, as in VOC's mAP. Plain
numpy, no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detkit.evaluation.iou import iou_matrix
from detkit.evaluation.sizes import SIZES
from detkit.structures import FloatArray, Truth
from detkit.text import counted

COUNTS = (100, 300, 1000, 2000)
IOUS = (0.5, 0.7, 0.9)
PROTOCOL = (
    "recall: share of objects with a box of IoU >= X among the first N; overlap: mean best IoU, of "
    "all objects its mean over classes (MABO); difficult objects left out"
)


@dataclass(frozen=True, slots=True)
class Coverage:
    """How well some objects are covered by the first so many boxes."""

    name: str  # of the class or size; "all"
    num_objects: int
    recall: NDArray[np.float64]  # (K, T) in [0, 1]; NaN without objects
    overlap: NDArray[np.float64]  # (K,) average best overlap, of all objects MABO; NaN likewise


@dataclass(frozen=True, slots=True)
class RecallScores:
    """What proposals cover of a data set's objects."""

    counts: tuple[int, ...]  # (K,) first so many boxes of each image, or all if there are fewer
    ious: tuple[float, ...]  # (T,)
    num_images: int
    boxes_per_image: float
    all: Coverage
    classes: tuple[Coverage, ...]
    sizes: tuple[Coverage, ...]


def recall(
    proposals: Sequence[FloatArray],
    truths: Sequence[Truth],
    class_names: Sequence[str],
    *,
    counts: Sequence[int] = COUNTS,
    ious: Sequence[float] = IOUS,
) -> RecallScores:
    """Return what the (P, 4) boxes `proposals[i]`, best first, cover of the objects `truths[i]`.

    Raises ValueError unless there is one for each image.
    """
    if len(proposals) != len(truths):
        raise ValueError(
            f"proposals of {counted(len(proposals), 'image')}, objects of {len(truths)}"
        )
    wanted = [truth.boxes[~truth.difficult] for truth in truths]
    labels = np.concatenate([np.empty(0, np.int64), *(t.labels[~t.difficult] for t in truths)])
    objects = np.concatenate([np.empty((0, 4), np.float32), *wanted]).astype(np.float64)
    best = np.concatenate(
        [
            np.empty((0, len(counts))),
            *(best_overlaps(boxes, found, counts) for boxes, found in zip(wanted, proposals)),
        ]
    )
    areas = (objects[:, 2:] - objects[:, :2]).prod(1)

    def covered(name: str, chosen: NDArray[np.bool_]) -> Coverage:
        mine = best[chosen]
        nothing = np.full(len(counts), np.nan)
        share = [(mine >= iou).mean(0) if len(mine) else nothing for iou in ious]
        return Coverage(
            name, len(mine), np.stack(share, axis=1), mine.mean(0) if len(mine) else nothing
        )

    classes = tuple(covered(name, labels == number) for number, name in enumerate(class_names))
    overlaps = [one.overlap for one in classes if one.num_objects]
    whole = covered("all", np.ones(len(best), np.bool_))
    mabo = np.mean(overlaps, axis=0) if overlaps else whole.overlap
    return RecallScores(
        counts=tuple(counts),
        ious=tuple(ious),
        num_images=len(truths),
        boxes_per_image=float(np.mean([len(one) for one in proposals])) if proposals else 0.0,
        all=Coverage("all", whole.num_objects, whole.recall, mabo),
        classes=classes,
        sizes=tuple(covered(name, (areas >= low) & (areas < high)) for name, low, high in SIZES),
    )


def counts_up_to(most: int) -> tuple[int, ...]:
    """Return the usual numbers of boxes below `most`, and `most` itself."""
    return (*(count for count in COUNTS if count < most), most)


def best_overlaps(
    objects: FloatArray, proposals: FloatArray, counts: Sequence[int]
) -> NDArray[np.float64]:
    """Return each object's largest IoU with the first `counts[k]` proposals, (R, K)."""
    if not len(objects) or not len(proposals):
        return np.zeros((len(objects), len(counts)))
    best = np.maximum.accumulate(iou_matrix(objects, proposals), axis=1)
    places = np.clip(np.array(counts), 1, len(proposals)) - 1
    return np.where(np.array(counts) > 0, best[:, places], 0.0)


def recall_to_json(scores: RecallScores) -> dict[str, Any]:
    """Return the scores as JSON values; a figure that there is none of is None."""
    return {
        "boxes_per_image": scores.boxes_per_image,
        "all": _to_json(scores.all, scores),
        "classes": [_to_json(one, scores) for one in scores.classes],
        "sizes": [_to_json(one, scores) for one in scores.sizes],
    }


def _to_json(one: Coverage, scores: RecallScores) -> dict[str, Any]:
    """Return the figures of some objects as JSON values."""
    return {
        "name": one.name,
        "num_objects": one.num_objects,
        "counts": [
            {
                "boxes": count,
                "recall": {
                    f"{iou:g}": None if np.isnan(share) else float(share)
                    for iou, share in zip(scores.ious, one.recall[row])
                },
                "overlap": None if np.isnan(one.overlap[row]) else float(one.overlap[row]),
            }
            for row, count in enumerate(scores.counts)
        ],
    }
