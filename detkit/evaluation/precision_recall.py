"""Precision, recall and F1 of a class's ranked detections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detkit.errors import DetkitError
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
    best_f1, best_threshold = _best_f1(found, ranks, scores, num_truths)
    return ClassScore(
        name=name,
        ap=ap,
        num_truths=num_truths,
        num_detections=num_detections,
        best_f1=best_f1,
        best_threshold=best_threshold,
        precision=(found / ranks).astype(np.float32),
        recall=(found / max(num_truths, 1)).astype(np.float32),
        scores=scores,
    )


def _best_f1(
    found: np.ndarray, ranks: np.ndarray, scores: FloatArray, num_truths: int
) -> tuple[float | None, float | None]:
    """Return the largest F1 over all thresholds and the highest score that reaches it."""
    if num_truths == 0:
        return None, None
    if len(found) == 0 or found[-1] == 0:
        return 0.0, None
    last_of_ties = np.append(scores[1:] != scores[:-1], True)
    f1 = np.where(last_of_ties, 2 * found / (ranks + num_truths), -1.0)
    best = int(np.argmax(f1))
    return float(f1[best]), float(scores[best])
