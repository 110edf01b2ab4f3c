"""One row of a YOLO label file: `class cx cy width height`, or a class and a polygon."""

from __future__ import annotations

import math


def parse_row(
    words: list[str], *, keypoints: bool
) -> tuple[int, tuple[float, float, float, float], bool] | None:
    """Return (class, xyxy in shares, whether it was a polygon) of a row, or None."""
    try:
        values = [float(word) for word in words]
    except ValueError:
        return None
    if not all(math.isfinite(value) for value in values):
        return None
    if len(values) < 5 or values[0] < 0 or not values[0].is_integer():
        return None
    if len(values) == 5 or keypoints:
        cx, cy, width, height = values[1:5]
        box = (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
        return int(values[0]), box, False
    if len(values) % 2 == 0 or len(values) < 7:
        return None
    xs, ys = values[1::2], values[2::2]
    return int(values[0]), (min(xs), min(ys), max(xs), max(ys)), True
