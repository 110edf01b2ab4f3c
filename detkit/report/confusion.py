"""The confusion matrix of detections, with background: what was taken for what.

Shape shorthand: N detections, R objects, C classes, L least scores.

At a least score, what AP counts as right (the best scored detection that falls to an object of
its class, by VOC's rules) is on the diagonal. Of the rest, best first, a detection takes the
object of another class, still free, with the largest IoU that reaches the threshold: it was
confused. What takes none is of background: a duplicate too, since its object is taken. Objects
that nothing took were taken for background: missed. Difficult objects are not counted, nor
detections that fall to one; an image without objects has detections of background alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from detkit.evaluation.error_breakdown import IGNORED, ErrorBreakdown
from detkit.evaluation.iou import iou_matrix
from detkit.structures import BoolArray, Detections, IntArray, Truth


def confusion_matrices(
    detections: Sequence[Detections],
    truths: Sequence[Truth],
    errors: ErrorBreakdown,
    num_classes: int,
    score_threshs: Sequence[float],
) -> IntArray:
    """Return (L, C + 1, C + 1) counts: of objects of a class (row), detected as another (column).

    The last row and column are background. Detections are best first in each image, and `errors`
    is their breakdown, whose IoU counts.
    """
    matrices = np.zeros((len(score_threshs), num_classes + 1, num_classes + 1), np.int64)
    images = zip(detections, truths, errors.kinds, errors.finds, strict=True)
    for found, wanted, kind, takes in images:
        ious = iou_matrix(found.boxes, wanted.boxes)
        other = found.labels[:, None] != wanted.labels[None]
        rivals = np.where(other & ~wanted.difficult & (ious >= errors.iou_thresh), ious, 0.0)
        for matrix, least in zip(matrices, score_threshs):
            shown = (found.scores >= least) & (kind != IGNORED)
            _count(matrix, found.labels, wanted, takes, rivals, shown)
    return matrices


def _count(
    matrix: IntArray,
    labels: IntArray,
    wanted: Truth,
    takes: IntArray,
    rivals: NDArray[np.float64],
    shown: BoolArray,
) -> None:
    """Add one image's detections and objects to a matrix."""
    free = ~wanted.difficult
    right = np.flatnonzero(shown & (takes >= 0))
    np.add.at(matrix, (labels[right], labels[right]), 1)
    free[takes[right]] = False
    for index in np.flatnonzero(shown & (takes < 0)).tolist():
        near = rivals[index] * free
        best = int(near.argmax()) if len(near) else -1
        if best < 0 or not near[best]:
            matrix[-1, labels[index]] += 1
            continue
        matrix[wanted.labels[best], labels[index]] += 1
        free[best] = False
    np.add.at(matrix[:, -1], wanted.labels[free], 1)
