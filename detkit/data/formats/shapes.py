"""The boxes around shapes that are no boxes: polygons, circles, ellipses, turned boxes, masks.

All in pixels, 0-based, and continuous: the left edge of the first pixel is 0, so the box around
a shape is half-open as it stands. Boxes are (x1, y1, x2, y2), and nothing is cut at a border.
"""

from __future__ import annotations

import math
import re
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from detkit.data.formats.format import PIXEL_DIGITS
from detkit.data.formats.json_file import numbers

Box = tuple[float, float, float, float]

MAX_MASK_PIXELS = 1 << 28  # as of an image: what claims more is not decoded
_MAX_MASK_BYTES = 64 << 20  # ours: a packed mask of an image of such a size needs far less
_COORDINATES = re.compile(r"[\s,;]+")


def around(points: Sequence[tuple[float, float]]) -> Box:
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
    return tidy(around([(px + x * cos - y * sin, py + x * sin + y * cos) for x, y in corners]))


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


def around_mask(mask: np.ndarray[Any, Any]) -> Box | None:
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
