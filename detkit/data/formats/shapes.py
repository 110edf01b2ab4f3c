"""The bounding boxes of what is no upright box: polygons, rotated boxes, masks, key points.

All values are pixels, or all are shares of an image; the box is (x1, y1, x2, y2). What has no
extent (a point, a level line) has no box here, and its reader names it.
"""

from __future__ import annotations

import math
import re
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from detkit.data.formats.format import PIXEL_DIGITS
from detkit.data.formats.json_file import numbers
from detkit.text import counted

MAX_MASK_PIXELS = 1 << 28  # as of an image: a mask that claims more is not decoded
_MAX_MASK_BYTES = 64 << 20  # ours: a packed mask of an image of such a size needs far less
_COORDINATES = re.compile(r"[\s,;]+")
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


def around_points(points: Sequence[tuple[float, float]]) -> Box:
    """Return the box around one or more points (x, y)."""
    xs, ys = zip(*points)
    return min(xs), min(ys), max(xs), max(ys)


def tidy(box: Box) -> Box:
    """Return a box without the noise that arithmetic with binary fractions leaves."""
    x1, y1, x2, y2 = (round(value, PIXEL_DIGITS) for value in box)
    return x1, y1, x2, y2


def around_circle(x: float, y: float, radius: float) -> Box:
    """Return the box around a circle about (x, y)."""
    return tidy((x - radius, y - radius, x + radius, y + radius))


def around_ellipse(x: float, y: float, rx: float, ry: float, degrees: float = 0.0) -> Box:
    """Return the box around an ellipse about (x, y), turned clockwise by `degrees`."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    half_width, half_height = math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos)
    return tidy((x - half_width, y - half_height, x + half_width, y + half_height))


def around_turned(box: Box, degrees: float, pivot: tuple[float, float] | None = None) -> Box:
    """Return the box around a box turned clockwise by `degrees` about a point, else its centre."""
    x1, y1, x2, y2 = box
    px, py = pivot or ((x1 + x2) / 2, (y1 + y2) / 2)
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = ((x - px, y - py) for x in (x1, x2) for y in (y1, y2))
    return tidy(
        around_points([(px + x * cos - y * sin, py + x * sin + y * cos) for x, y in corners])
    )


def is_turned(degrees: float) -> bool:
    """Return whether a turn by so many degrees is one."""
    return not math.isclose(degrees % 360, 0, abs_tol=1e-9) and degrees % 360 < 360 - 1e-9


def points_of(value: Any) -> list[tuple[float, float]] | None:
    """Return the points of a JSON list of [x, y], or of {"x", "y"}; None where one is no point."""
    if not isinstance(value, list):
        return None
    found = []
    for point in value:
        if isinstance(point, dict):
            point = [point.get("x"), point.get("y")]
        pair = numbers(*point[:2]) if isinstance(point, list) and len(point) >= 2 else None
        if pair is None:
            return None
        found.append((pair[0], pair[1]))
    return found


def points_in(text: str) -> list[tuple[float, float]] | None:
    """Return the points of a text like "1,2;3,4"; None where it spells no pairs of numbers."""
    words = _COORDINATES.split(text.strip()) if text.strip() else []
    values = numbers(*words)
    if values is None or len(values) % 2:
        return None
    return list(zip(values[0::2], values[1::2]))


def around_pixels(mask: np.ndarray[Any, Any]) -> Box | None:
    """Return the box around the pixels of a mask (H, W) that are not 0, or None of none."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(columns):
        return None
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def mask_of_png(data: bytes) -> np.ndarray[Any, Any] | None:
    """Return a PNG as a mask (H, W) of what is set in it, or None where it cannot be decoded.

    Set is what is not transparent, and of an image without transparency what is not black.
    """
    import cv2

    if data[:8] != b"\x89PNG\r\n\x1a\n" or len(data) < 24:
        return None
    width, height = struct.unpack(">II", data[16:24])
    if width * height > MAX_MASK_PIXELS:
        return None
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    if pixels is None:
        return None
    if pixels.ndim == 3:
        pixels = pixels[..., 3] if pixels.shape[2] == 4 else pixels.max(axis=2)
    mask: np.ndarray[Any, Any] = pixels != 0
    return mask


def inflated(data: bytes) -> bytes | None:
    """Return what zlib has packed, or None where it is broken or larger than any mask."""
    unpacker = zlib.decompressobj()
    try:
        found = unpacker.decompress(data, _MAX_MASK_BYTES)
    except zlib.error:
        return None
    return None if unpacker.unconsumed_tail else found
