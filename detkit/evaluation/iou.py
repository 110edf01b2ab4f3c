"""How far boxes overlap, on plain numpy; `geometry.boxes` has the same on torch's tensors.

Shape shorthand: N and M boxes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detkit.structures import FloatArray


def iou_matrix(boxes: FloatArray, others: FloatArray) -> NDArray[np.float64]:
    """Return the IoU, (N, M) in [0, 1], of (N, 4) with (M, 4) boxes; 0 where neither has area.

    A side that runs backwards counts as 0, as in `voc_map`, whose figures these are.
    """
    one, other = boxes.astype(np.float64)[:, None], others.astype(np.float64)[None]
    with np.errstate(invalid="ignore"):  # a box without an end; its IoU is 0
        low = np.maximum(one[..., :2], other[..., :2])
        high = np.minimum(one[..., 2:], other[..., 2:])
        inside = (high - low).clip(min=0).prod(axis=-1)
        area, other_area = (
            (side[..., 2:] - side[..., :2]).clip(min=0).prod(axis=-1) for side in (one, other)
        )
        union = area + other_area - inside
        ious: NDArray[np.float64] = np.nan_to_num(
            inside / np.where(union > 0, union, 1.0), posinf=0.0
        )
    return ious
