"""The rows of a YOLO label file, read and written: `class cx cy width height`.

Rows of a class and a polygon are read too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from detkit.data.formats.format import Labelled, number

SHARE_DIGITS = 14  # a share times the longest side is then exact to a billionth of a pixel


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


def rows_text(image: Labelled, class_names: Sequence[str]) -> str:
    """Return YOLO's lines `class cx cy w h`, the last four as shares of the image's size."""
    index = {name: place for place, name in enumerate(class_names)}
    lines = []
    for one in image.objects:
        x1, y1, x2, y2 = one.box
        shares = (
            (x1 + x2) / 2 / image.width,
            (y1 + y2) / 2 / image.height,
            (x2 - x1) / image.width,
            (y2 - y1) / image.height,
        )
        values = " ".join(number(value, SHARE_DIGITS) for value in shares)
        lines.append(f"{index[one.name]} {values}\n")
    return "".join(lines)
