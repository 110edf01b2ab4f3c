"""The rows of a YOLO label file, read and written: `class cx cy width height`.

Rows of a class and a polygon are read too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import chain, islice, repeat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detkit.data.formats.format import Labelled, corners_text, number
from detkit.data.records import ObjectRecord, object_records
from detkit.files import decoded, read_whole

SHARE_DIGITS = 14  # a share times the longest side is then exact to a billionth of a pixel
_OF_NUMBERS = b"0123456789.+-eE"
_LONGEST_WORD = 19  # its end counted: 64 bits hold any 18 digits
_MOST_EXACT = 1 << 53  # IEEE 754: each whole number up to it is a double, and ...
_POWERS = 10.0 ** np.arange(20)  # ... each power of ten up to the 22nd


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
    files: Sequence[tuple[bytes, tuple[int, int], Path]],
    names: Mapping[str, str],
    *,
    is_made: bool,
) -> list[tuple[ObjectRecord, ...] | None]:
    """Return the objects of each label file in whose rows nothing is odd; None of all others.

    A file is its bytes, its image's (height, width) in pixels and its path; `names` are the classes
    by the word for their number. `parse_row` reads the same of each row. All files are read at
    once, as columns.
    """
    if not files:
        return []
    # Without its last end of line each file's text has a row more than ends of lines.
    texts = [data.rstrip() for data, _, _ in files]
    text = b"\n".join(texts)
    counts = [one.count(b"\n") + 1 for one in texts]
    text = text.replace(b"\r\n", b"\n").replace(b" \n", b"\n")
    plain = text.translate(None, _OF_NUMBERS) == b"\n".join([b"    "] * sum(counts))
    words = text.decode("ascii").split() if plain else []
    of_classes = words[::5]
    if len(words) == 5 * sum(counts) and all(map(names.__contains__, of_classes)):
        values = _values(text.replace(b"\n", b" ") + b" ", words)
    else:
        values = None
    if values is None:
        if len(files) == 1:
            return [None]
        half = len(files) // 2
        return [
            *plain_objects(files[:half], names, is_made=is_made),
            *plain_objects(files[half:], names, is_made=is_made),
        ]
    sizes = np.repeat(np.array([size for _, size, _ in files], np.float64), counts, axis=0)
    lines = list(chain.from_iterable(range(1, count + 1) for count in counts))
    paths = chain.from_iterable(repeat(path, count) for (_, _, path), count in zip(files, counts))
    # Nothing stated (see `row_text`), no crowd, area or region.
    more = ("", False, None, False, True) if is_made else ()
    objects = object_records(
        map(names.__getitem__, of_classes),
        zip(*_in_pixels(values, sizes)),
        repeat(False),
        paths,
        lines,
        lines,
        *map(repeat, more),
    )
    return [tuple(islice(objects, count)) for count in counts]


def _values(text: bytes, words: Sequence[str]) -> NDArray[np.float64] | None:
    """Return what `float` makes of words, finite, (N,); None where it makes nothing of one.

    `text` has the same words, a space behind each.
    """
    if not text.translate(None, b"0123456789. "):
        values = _plain_values(text, len(words))
        if values is not None:
            return values
    try:
        values = np.array([*map(float, words)])
    except ValueError:
        return None
    return values if np.isfinite(values).all() else None


def _plain_values(text: bytes, count: int) -> NDArray[np.float64] | None:
    """Return the numbers of words of digits and dots, a space behind each; None where one is odd.

    A whole number and a power of ten that are exact have a quotient that is rounded once, so
    it is what `float` makes of the word, in a third of the time.
    """
    signs = np.frombuffer(text, np.uint8)
    ends, dots = np.flatnonzero(signs == ord(" ")), np.flatnonzero(signs == ord("."))
    dotted = np.searchsorted(ends, dots)
    if (np.diff(dotted) == 0).any() or np.diff(ends, prepend=-1).max() > _LONGEST_WORD:
        return None
    wholes = np.fromstring(text.replace(b".", b""), np.int64, sep=" ")
    if len(wholes) != count or wholes.max() > _MOST_EXACT:
        return None
    decimals = np.zeros(count, np.intp)
    decimals[dotted] = ends[dotted] - dots - 1
    return wholes / _POWERS[decimals]


def _in_pixels(values: NDArray[np.float64], sizes: NDArray[np.float64]) -> list[list[float]]:
    """Return x1, y1, x2 and y2 in pixels of rows of five numbers, and of images (height, width)."""
    _, x, y, width, height = values.reshape(-1, 5).T
    high, wide = sizes.T
    with np.errstate(over="ignore", invalid="ignore"):  # of nonsense
        half, half_high = width / 2, height / 2
        sides = (x - half) * wide, (y - half_high) * high, (x + half) * wide, (y + half_high) * high
    return [side.tolist() for side in sides]


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


def row_text(one: ObjectRecord) -> str:
    """Return the numbers of an object's box as its label file states them.

    The row is read once more: of a million few are told. Where it is gone the box is said.
    """
    words: list[str] = []
    if one.file is not None and one.line is not None:
        with suppress(OSError, IndexError):
            lines = _lines(str(one.file), one.file.stat().st_mtime_ns)
            words = lines[one.line - 1].split()
    if len(words) < 5:
        return corners_text(one)
    return " ".join(map("=".join, zip(("cx", "cy", "width", "height"), words[1:])))


@lru_cache(maxsize=1)
def _lines(file: str, changed: int) -> list[str]:
    """Return the lines of a label file as it was when it was last `changed`."""
    del changed
    return decoded(read_whole(file) or b"").splitlines()


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
