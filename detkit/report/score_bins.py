"""Score histograms: how scores lie, and how many of them are right.

Shape shorthand: N detections, C classes, B bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detkit.evaluation.error_breakdown import IGNORED, RIGHT
from detkit.structures import Detections, IntArray

NUM_BINS = 20


@dataclass(frozen=True, slots=True)
class ScoreBins:
    """Detections counted by class and score; those of difficult objects left out."""

    low: float  # the lower edge of the first bin ...
    high: float  # ... and the upper one of the last; 0 and 1 unless scores pass them
    right: IntArray  # (C, B)
    wrong: IntArray  # (C, B)
    score_sums: NDArray[np.float64]  # (C, B) sums of the scores in each bin


def score_bins(
    detections: Sequence[Detections], kinds: Sequence[IntArray], num_classes: int
) -> ScoreBins:
    """Return how many detections of each class and score are right and wrong.

    `kinds[i]` (N,) are those of `error_breakdown.breakdown`. A score on an edge is in the bin
    above it, the highest edge in the last bin.
    """
    scores = np.concatenate([np.empty(0), *(one.scores for one in detections)]).astype(np.float64)
    labels = np.concatenate([np.empty(0, np.int64), *(one.labels for one in detections)])
    kind = np.concatenate([np.empty(0, np.int64), *kinds])
    low, high = score_range(detections)
    places = ((scores - low) / (high - low) * NUM_BINS).astype(np.int64).clip(0, NUM_BINS - 1)

    def counted(mask: NDArray[np.bool_]) -> IntArray:
        counts = np.zeros((num_classes, NUM_BINS), np.int64)
        np.add.at(counts, (labels[mask], places[mask]), 1)
        return counts

    sums = np.zeros((num_classes, NUM_BINS))
    counts = kind != IGNORED
    np.add.at(sums, (labels[counts], places[counts]), scores[counts])
    return ScoreBins(low, high, counted(kind == RIGHT), counted(counts & (kind != RIGHT)), sums)


def score_range(detections: Sequence[Detections]) -> tuple[float, float]:
    """Return what to span with scores: 0 and 1, and further where scores pass them."""
    scores = np.concatenate([np.array([0.0, 1.0]), *(one.scores for one in detections)])
    return float(scores.min()), float(scores.max())
