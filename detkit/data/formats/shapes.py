"""The bounding boxes of what is no upright box: polygons, rotated boxes, masks, key points.

All values are pixels, or all are shares of an image; the box is (x1, y1, x2, y2). What has no
extent (a point, a level line) has no box here, and its reader names it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from detkit.text import counted

MAX_RUNS = 1 << 20  # ours: of a mask; a million runs of pixels are no outline of one object

Box = tuple[float, float, float, float]
# By the word that readers count them under: what there is, and what is read of it.
_TOLD = {
    "outline": ("object", "with an outline: only box and area are read"),
    "polygon": ("polygon", "read as the bounding box"),
    "rotated": ("rotated box", "read as the bounding box"),
    "mask": ("mask", "read as the bounding box"),
    "key points": ("object", "with key points: only the box is read"),
}


def around(xs: Sequence[float], ys: Sequence[float]) -> Box | None:
    """Return the box around points; None where they span no area or a value is not finite."""
    if not xs or not all(map(math.isfinite, [*xs, *ys])):
        return None
    box = (min(xs), min(ys), max(xs), max(ys))
    return box if box[0] < box[2] and box[1] < box[3] else None


def around_pairs(values: Sequence[float]) -> Box | None:
    """Return the box around points given as x1, y1, x2, y2, ...; None as `around` does."""
    return around(values[0::2], values[1::2]) if len(values) % 2 == 0 else None


def around_rotated(cx: float, cy: float, width: float, height: float, degrees: float) -> Box:
    """Return the box around one that is turned about its centre; which way makes no difference."""
    angle = math.radians(degrees)
    sine, cosine = abs(math.sin(angle)), abs(math.cos(angle))
    half_width = (width * cosine + height * sine) / 2
    half_height = (width * sine + height * cosine) / 2
    return cx - half_width, cy - half_height, cx + half_width, cy + half_height


def around_keypoints(values: Sequence[float]) -> Box | None:
    """Return the box around COCO's key points x, y, v, ...; those of v = 0 are not labelled."""
    if len(values) % 3:
        return None
    seen = [place for place in range(0, len(values), 3) if values[place + 2] > 0]
    return around([values[place] for place in seen], [values[place + 1] for place in seen])


def around_mask(mask: Any) -> Box | None:
    """Return the box around a run-length encoded mask of COCO's; None where it is none or empty.

    `mask` is `{"size": [height, width], "counts": [...] or "..."}`, unchecked.
    """
    if not isinstance(mask, dict):
        return None
    size, counts = mask.get("size"), mask.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not isinstance(counts, list | str):
        return None
    if not all(isinstance(side, int) and 0 < side < 1 << 16 for side in size):
        return None
    if not 0 < len(counts) <= MAX_RUNS:
        return None
    runs = counts if isinstance(counts, list) else _decoded(counts)
    if not all(isinstance(run, int) and run >= 0 for run in runs) or sum(runs) > math.prod(size):
        return None
    height = size[0]
    columns, rows, place = [], [], 0
    for number, run in enumerate(runs):
        if number % 2 and run:  # every other run is of the object, down the columns
            first, last = divmod(place, height), divmod(place + run - 1, height)
            columns += [first[0], last[0] + 1]
            rows += [first[1], last[1] + 1] if first[0] == last[0] else [0, height]
        place += run
    return around([float(column) for column in columns], [float(row) for row in rows])


def _decoded(text: str) -> list[int]:
    """Return the runs of COCO's compressed text (maskApi.c, `rleFrString`); [-1] of another."""
    runs: list[int] = []
    place = 0
    while place < len(text):
        value, shift, more = 0, 0, True
        while more:
            if place == len(text) or shift > 60:
                return [-1]
            code = ord(text[place]) - 48
            if not 0 <= code < 64:
                return [-1]
            value |= (code & 0x1F) << shift
            more = bool(code & 0x20)
            place += 1
            shift += 5
            if not more and code & 0x10:
                value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
    return runs


def told(counts: Mapping[str, int]) -> list[str]:
    """Return the notes on how many of each kind were read as their bounding boxes."""
    notes = []
    for kind, number in counts.items():
        noun, what = _TOLD[kind]
        between = ": " if what.startswith("read") else " "
        notes += [f"{counted(number, noun)}{between}{what}"] if number else []
    return notes
