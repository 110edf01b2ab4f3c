"""IoU on plain numpy, for metrics; `geometry.boxes` has it on torch's tensors.

Shape shorthand: N and M boxes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detkit.structures import FloatArray


def iou(
    boxes: NDArray[np.float64], others: NDArray[np.float64], pixel: float = 0.0
) -> NDArray[np.float64]:
    """Return the IoU, (...) in [0, 1], of (..., 4) boxes with the others, one with one.

    0 where neither has an area, and a side that runs backwards counts as 0. `pixel` is added to
    every width and height: 1 for boxes whose corners are both inside.
    """
    with np.errstate(invalid="ignore"):  # a box without an end; its IoU is 0
        low = np.maximum(boxes[..., :2], others[..., :2])
        high = np.minimum(boxes[..., 2:], others[..., 2:])
        inside = (high - low + pixel).clip(min=0).prod(axis=-1)
        area, other_area = (
            (side[..., 2:] - side[..., :2] + pixel).clip(min=0).prod(axis=-1)
            for side in (boxes, others)
        )
        union = area + other_area - inside
        ious: NDArray[np.float64] = np.nan_to_num(
            inside / np.where(union > 0, union, 1.0), posinf=0.0
        )
    return ious


def iou_matrix(boxes: FloatArray, others: FloatArray) -> NDArray[np.float64]:
    """Return the IoU, (N, M) in [0, 1], of (N, 4) boxes with (M, 4) others, each with each."""
    return iou(boxes.astype(np.float64)[:, None], others.astype(np.float64)[None])
