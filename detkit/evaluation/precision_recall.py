"""Precision, recall, F1 and calibration of ranked detections, of a class and of all together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from detkit.errors import DetkitError
from detkit.evaluation.calibration import calibration_error
from detkit.structures import BoolArray, ClassScore, Detections, FloatArray, IntArray, Truth
from detkit.text import counted


@dataclass(frozen=True, slots=True)
class RankedHits:
    """One class's detections in all images, best first; those neither right nor wrong left out."""

    images: IntArray  # (n,) the place of the image each is in
    hits: BoolArray  # (n,) whether it is right
    scores: FloatArray  # (n,) descending


def require_scorable(
    detections: Sequence[Detections], truths: Sequence[Truth], num_classes: int
) -> None:
    """Raise what every metric raises of detections and truth that it cannot score.

    ValueError when the sequences differ in length or a label is not in [0, C), DetkitError when
    a score is not finite.
    """
    if len(detections) != len(truths):
        raise ValueError(
            f"detections of {counted(len(detections), 'image')} for truth of {len(truths)}"
        )
    for image, found in enumerate(detections):
        if not np.isfinite(found.scores).all():
            raise DetkitError(
                f"{found.image_id or f'image {image}'}: a detection's score is not a finite "
                "number; did training diverge?"
            )
    labels = [*(one.labels for one in detections), *(one.labels for one in truths)]
    if any(len(row) and not 0 <= row.min() <= row.max() < num_classes for row in labels):
        raise ValueError(f"a label lies outside [0, {num_classes})")


def class_score(
    name: str,
    ap: float | None,
    hits: BoolArray,
    scores: FloatArray,
    *,
    num_truths: int,
    num_detections: int,
) -> ClassScore:
    """Return a class's figures from its ranked detections, best first.

    `hits` (n,) says which found an object; `scores` (n,) descend. Detections that are neither
    right nor wrong are left out of both, but not out of `num_detections`. The best F1 is taken
    over thresholds, so detections of equal score stand or fall together; it is 0 without a
    threshold when nothing was found, None when there was nothing to find.
    """
    found = np.cumsum(hits)
    ranks = np.arange(1, len(hits) + 1)
    f1, threshold = best_f1(hits, scores, num_truths)
    return ClassScore(
        name=name,
        ap=ap,
        num_truths=num_truths,
        num_detections=num_detections,
        best_f1=f1,
        best_threshold=threshold,
        precision=(found / ranks).astype(np.float32),
        recall=(found / max(num_truths, 1)).astype(np.float32),
        scores=scores,
        ece=calibration_error(hits, scores),
    )


class Overall(TypedDict):
    """The figures of `Scores` that are of all classes together."""

    best_f1: float | None
    best_threshold: float | None
    ece: float | None


def overall(ranked: Sequence[RankedHits], num_truths: int) -> Overall:
    """Return the best F1 and the calibration error of the detections of all classes together.

    `ranked` are the classes' detections, `num_truths` the objects of all. The F1 is with one
    threshold for all classes; detections of a class without objects are wrong.
    """
    hits = np.concatenate([np.empty(0, np.bool_), *(one.hits for one in ranked)])
    scores = np.concatenate([np.empty(0, np.float32), *(one.scores for one in ranked)])
    order = np.argsort(-scores, kind="stable")
    f1, threshold = best_f1(hits[order], scores[order], num_truths)
    return Overall(best_f1=f1, best_threshold=threshold, ece=calibration_error(hits, scores))


def best_f1(
    hits: BoolArray, scores: FloatArray, num_truths: int
) -> tuple[float | None, float | None]:
    """Return the largest F1 over all thresholds and the highest score that reaches it.

    Of (n,) hits, best first, with their scores. It is 0 without a threshold when nothing was found,
    None when there was nothing to find.
    """
    if num_truths == 0:
        return None, None
    found, ranks = np.cumsum(hits), np.arange(1, len(hits) + 1)
    if len(found) == 0 or found[-1] == 0:
        return 0.0, None
    last_of_ties = np.append(scores[1:] != scores[:-1], True)
    f1 = np.where(last_of_ties, 2 * found / (ranks + num_truths), -1.0)
    best = int(np.argmax(f1))
    return float(f1[best]), float(scores[best])
