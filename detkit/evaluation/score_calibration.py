"""Scores made comparable: the share of a class's detections with such a score that are right.

Isotonic regression of right or wrong on the score (Zadrozny, Elkan 2002, "Transforming classifier
scores into accurate multiclass probability estimates"), by the pool adjacent violators algorithm,
over bins of about equally many detections.

Shape shorthand: n detections of all images, B bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detkit.structures import DoubleArray, IntArray

MOST_BINS = 100
LEAST_IN_BIN = 10
ENOUGH = 50  # ours: right detections of a class; with fewer all classes are one
STEP = 0.05  # of the IoU that a right detection needs


@dataclass(frozen=True)
class Calibration:
    """What share of detections is right, by class, score and needed IoU."""

    scores: list[DoubleArray]  # of each class: n, ascending
    ious: list[DoubleArray]  # each one's IoU with the object it finds; 0: none
    curves: dict[tuple[int, int], tuple[DoubleArray, DoubleArray]]  # made when asked for

    def prob(self, label: int, score: float, iou: float) -> float:
        """Return the share of a class's detections of this score that reach `iou`, in [0, 1]."""
        return float(self.probs(label, np.array([score]), iou)[0])

    def probs(self, label: int, scores: DoubleArray, iou: float) -> DoubleArray:
        """Return the same for (n,) scores of one class."""
        key = label, round(iou / STEP)
        if key not in self.curves:
            hits = self.ious[label] >= key[1] * STEP - 1e-9
            self.curves[key] = isotonic(self.scores[label], hits.astype(np.float64))
        middles, shares = self.curves[key]
        if not len(middles):
            return np.zeros(len(scores))
        values: DoubleArray = np.interp(scores, middles, shares)
        return values


def calibrate(
    labels: IntArray, scores: DoubleArray, ious: DoubleArray, num_classes: int, enough: int = ENOUGH
) -> Calibration:
    """Return the calibration of (n,) detections with the IoU of what each has found.

    A class with fewer than `enough` right ones at an IoU of .5 has the figures of all together.
    """
    order = np.argsort(scores, kind="stable")
    labels, scores, ious = labels[order], scores[order], ious[order]
    by_class = []
    for label in range(num_classes):
        own = labels == label
        if int((ious[own] >= 0.5).sum()) < enough:
            own = np.ones(len(labels), np.bool_)
        by_class.append((scores[own], ious[own]))
    return Calibration([one[0] for one in by_class], [one[1] for one in by_class], {})


def isotonic(scores: DoubleArray, hits: DoubleArray) -> tuple[DoubleArray, DoubleArray]:
    """Return the mean score of each bin, (B,), and the share that is right there, rising, (B,).

    `scores` (n,) ascend; `hits` (n,) are 1 or 0.
    """
    count = len(scores)
    if not count:
        return np.empty(0), np.empty(0)
    num_bins = max(1, min(MOST_BINS, count // LEAST_IN_BIN))
    edges = np.linspace(0, count, num_bins + 1).round().astype(np.int64)
    # Equal scores are in one bin, since their order tells nothing, and many are one of their own.
    firsts = np.searchsorted(scores, scores[edges[:-1]])
    ends = np.searchsorted(scores, scores[edges[:-1]], "right")
    many = (ends - firsts >= LEAST_IN_BIN) & (ends < count)
    edges = np.append(np.unique(np.concatenate([firsts, ends[many]])), count)
    sizes = np.diff(edges).astype(np.float64)
    middles = np.add.reduceat(scores, edges[:-1]) / sizes
    sums = np.add.reduceat(hits, edges[:-1])
    blocks: list[tuple[float, float, int]] = []  # right, all, bins
    for right, size in zip(sums.tolist(), sizes.tolist()):
        blocks.append((right, size, 1))
        while len(blocks) > 1 and blocks[-2][0] * blocks[-1][1] > blocks[-1][0] * blocks[-2][1]:
            last = blocks.pop()
            blocks[-1] = tuple(a + b for a, b in zip(blocks[-1], last))  # type: ignore[assignment]
    shares = np.repeat([right / size for right, size, _ in blocks], [one[2] for one in blocks])
    return middles, shares
