"""The rows of a YOLO label file, read and written: `class cx cy width height`.

Rows of a class and a polygon are read too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from detkit.data.formats.format import Labelled, number
from detkit.data.records import ObjectRecord, object_record

SHARE_DIGITS = 14  # a share times the longest side is then exact to a billionth of a pixel


def values_of(words: Sequence[str]) -> list[float] | None:
    """Return a row's finite numbers, of which the first is a class's index; else None."""
    try:
        values = [float(word) for word in words]
    except ValueError:
        return None
    if not values or not all(math.isfinite(value) for value in values):
        return None
    return values if values[0] >= 0 and values[0].is_integer() else None


def rows_longer_than_boxes(text: str) -> list[list[float]]:
    """Return the numbers of the rows that hold more than a class and a box."""
    rows = (values_of(line.split()) for line in text.splitlines())
    return [row for row in rows if row is not None and len(row) > 5]


def have_poses(rows: Sequence[Sequence[float]]) -> bool:
    """Return whether rows longer than a box's hold key points `x y visible` after it.

    They do when all are of one length, every third value is 0, 1 or 2 (COCO's marks), and their
    length is none of a polygon's or some mark is 2, which no share is.
    """
    lengths = {len(row) for row in rows}
    if len(lengths) != 1 or (length := lengths.pop()) % 3 != 2:
        return False
    marks = {value for row in rows for value in row[7::3]}
    return marks <= {0.0, 1.0, 2.0} and (length % 2 == 0 or 2.0 in marks)


def are_like_poses(rows: Sequence[Sequence[float]]) -> bool:
    """Return whether rows that may be polygons may be boxes with key points `x y` after them, too.

    They may when all are of one length that is more than four corners', and the points of each
    lie in its box.
    """
    lengths = {len(row) for row in rows}
    if len(lengths) != 1 or (length := lengths.pop()) % 2 == 0 or length <= 9:
        return False
    return all(_points_in_box(row) for row in rows)


def _points_in_box(row: Sequence[float]) -> bool:
    cx, cy, width, height = row[1:5]
    xs, ys = row[5::2], row[6::2]
    return all(abs(x - cx) <= width / 2 for x in xs) and all(abs(y - cy) <= height / 2 for y in ys)


def plain_objects(
    text: str,
    names: Mapping[str, str],
    size: tuple[int, int],
    file: Path,
    *,
    is_made: bool,
) -> tuple[ObjectRecord, ...] | None:
    """Return the objects of a label file in whose rows nothing is odd; None of all others.

    `names` are the classes by the word for their number, `size` is the image's (height, width) in
    pixels. `parse_row` reads the same of each row.
    """
    height, width = size
    more = (False, None, False, True) if is_made else ()  # no crowd, area or region
    objects: list[ObjectRecord] = []
    total = 0.0
    for line, row in enumerate(text.splitlines(), 1):
        words = row.split()
        if not words:
            continue
        if len(words) != 5:
            return None
        index, cx, cy, wide, high = words
        name = names.get(index)
        if name is None:
            return None
        try:
            x, y, half, half_high = float(cx), float(cy), float(wide) / 2, float(high) / 2
        except ValueError:
            return None
        total += x + y + half + half_high
        box = (
            (x - half) * width,
            (y - half_high) * height,
            (x + half) * width,
            (y + half_high) * height,
        )
        stated = f"cx={cx} cy={cy} width={wide} height={high}"
        objects.append(object_record(name, box, False, file, line, len(objects) + 1, stated, *more))
    return tuple(objects) if math.isfinite(total) else None


def parse_row(
    words: list[str], *, keypoints: bool
) -> tuple[int, tuple[float, float, float, float], bool] | None:
    """Return (class, xyxy in shares, whether it was a polygon) of a row, or None."""
    values = values_of(words)
    if values is None or len(values) < 5:
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
