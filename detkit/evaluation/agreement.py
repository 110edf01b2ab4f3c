"""Agreement of two detectors' detections: whether an exported model finds what its model does.

Shape shorthand: N detections of one in an image, M of the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detkit.evaluation.iou import iou_matrix
from detkit.structures import Detections

SAME_IOU = 0.9  # ours: the same box but for rounding
SAME_SCORE = 1e-3


@dataclass(frozen=True, slots=True)
class Agreement:
    """How many detections of the first have the same one among those of the other."""

    num_images: int
    detections: int  # the first's
    same: int  # of them: label, box (IoU of `SAME_IOU`) and score (within `SAME_SCORE`)
    score_apart: float  # the most that a detection's score differs from that of the same box

    @property
    def share(self) -> float:
        """The share of detections that are the same; 1 where there is none."""
        return self.same / self.detections if self.detections else 1.0


def agreement(ours: Sequence[Detections], theirs: Sequence[Detections]) -> Agreement:
    """Return how far two detectors agree on the same images, in the same order.

    Each detection is compared with the nearest in score of the other's boxes that are the same.
    """
    same = total = 0
    apart = 0.0
    for one, other in zip(ours, theirs, strict=True):
        total += len(one.scores)
        if not len(one.scores) or not len(other.scores):
            continue
        alike = iou_matrix(one.boxes, other.boxes) >= SAME_IOU  # (N, M)
        alike &= one.labels[:, None] == other.labels
        differences = np.abs(one.scores[:, None] - other.scores)
        nearest = np.where(alike, differences, np.inf).min(axis=1)
        same += int((nearest <= SAME_SCORE).sum())
        found = nearest[np.isfinite(nearest)]
        apart = max(apart, float(found.max(initial=0.0)))
    return Agreement(len(ours), total, same, apart)
