"""Images made smaller before they are searched for boxes, whose number and cost grow with them."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray


def scaled_down(
    image: NDArray[np.uint8], max_side: int, *, narrowest: int = 0, most: float = math.inf
) -> NDArray[np.uint8]:
    """Return the image, (H, W) or (H, W, C), with a longer side of at most `max_side` pixels.

    But never with fewer than `narrowest` across, unless it then had more than `most` pixels
    along. It is never enlarged, and returned itself when it is small enough.
    """
    height, width = image.shape[:2]
    longer = max(height, width)
    if longer <= max_side:
        return image
    scale = max(max_side / longer, min(narrowest / min(height, width), most / longer))
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
