"""Precision-recall curves as a page can hold them: few points, exact ones.

Shape shorthand: n ranked detections of a class, T least scores.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from detkit.structures import ClassScore, IntArray

MOST_POINTS = 200  # of one curve: more cannot be told apart at 640 pixels


def curve_points(one: ClassScore) -> IntArray:
    """Return the ranks, at most 200 and rising, whose points draw a class's curve.

    They lie evenly along the curve's length, so that its steep beginning keeps its shape.
    """
    if len(one.recall) <= MOST_POINTS:
        return np.arange(len(one.recall))
    steps = np.abs(np.diff(one.recall)) + np.abs(np.diff(one.precision))
    lengths = np.concatenate([[0.0], np.cumsum(steps, dtype=np.float64)])
    wanted = np.linspace(0.0, lengths[-1], MOST_POINTS)
    places = np.searchsorted(lengths, wanted).clip(max=len(lengths) - 1)
    return np.unique(np.append(places[1:-1], [0, len(lengths) - 1]))


def at_thresholds(one: ClassScore, score_threshs: Sequence[float]) -> NDArray[np.float64]:
    """Return precision and recall (T, 2) of the detections with at least each score.

    Precision is NaN where there are none.
    """
    counts = np.searchsorted(-one.scores.astype(np.float64), -np.asarray(score_threshs), "right")
    table = np.full((len(counts), 2), np.nan)
    table[:, 1] = 0.0
    some = counts > 0
    table[some, 0] = one.precision[counts[some] - 1]
    table[some, 1] = one.recall[counts[some] - 1]
    return table
