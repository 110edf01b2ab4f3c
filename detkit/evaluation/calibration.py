"""Calibration error: whether a score of .8 is right in eight of ten cases.

The detection expected calibration error, D-ECE, of Küppers et al. 2020 (arXiv:2004.13546) by the
scores alone, which is the expected calibration error of Guo et al. 2017 (arXiv:1706.04599,
eq. 3) with precision in the place of accuracy: the distance of a bin's precision from its mean
score, averaged over the bins by the detections in them.

Shape shorthand: n detections that are right or wrong.
"""

from __future__ import annotations

import numpy as np

from detkit.structures import BoolArray, FloatArray, IntArray

NUM_BINS = 20  # of [0, 1], equally wide; ours
ROUNDING = 1e-6  # of a bin: what float32 makes of a score on an edge


def calibration_error(hits: BoolArray, scores: FloatArray) -> float | None:
    """Return the calibration error, in [0, 1], of detections with (n,) hits and scores.

    None without detections, or where a score lies outside [0, 1] and so is no probability. A score
    on an edge is in the bin above it, 1 in the last.
    """
    if not len(scores) or scores.min() < 0 or scores.max() > 1:
        return None
    bins = bins_of(scores)
    gaps = np.bincount(bins, hits, NUM_BINS) - np.bincount(bins, scores, NUM_BINS)
    return float(np.abs(gaps).sum() / len(scores))


def bins_of(scores: FloatArray) -> IntArray:
    """Return the bin of each score, (n,) in [0, `NUM_BINS`)."""
    places = np.floor(scores.astype(np.float64) * NUM_BINS + ROUNDING)
    return places.astype(np.int64).clip(0, NUM_BINS - 1)
