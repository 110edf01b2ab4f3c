"""What can be wrong with labelled boxes: their values, their place in the image, repeats."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Sequence

from detkit.data.formats.format import Format, is_never_inclusive
from detkit.data.records import Finding, ImageRecord, ObjectRecord
from detkit.text import agreed, counted

PIXEL = 1.0  # how far a box may reach over the border: rounding, and labels counted from 0
TURNED = "swapped x and y, or made for the image before its EXIF rotation?"
ROUNDING = 1e-6  # pixels: what subtracting 1 from a fraction may cost
MOST = sys.float_info.max  # what no finite number passes
Size = tuple[int, int]  # (height, width)


def check_boxes(record: ImageRecord, size: Size | None, form: Format) -> Iterator[Finding]:
    """Yield what is wrong with the boxes of one image."""
    if _all_sound(record, size, form):
        return
    seen: dict[tuple[float, float, float, float], tuple[int, str]] = {}
    for place, one in enumerate(record.objects, start=1):
        number = one.number or place
        judged = _judge(one, size, form)
        if judged is None and one.box in seen:
            first, name = seen[one.box]
            other = "" if name == one.name else f' "{name}"'
            message = f"same box as object {first}{other} ({form.values(one)}); delete one of them"
            judged = "warning", "duplicate-box", message
        seen.setdefault(one.box, (number, one.name))
        if judged is not None:
            yield _about(record, one, number, *judged)


def _all_sound(record: ImageRecord, size: Size | None, form: Format) -> bool:
    """Return whether it is soon told that each box is sound and no two are the same."""
    objects = record.objects
    low, right, bottom = -MOST, MOST, MOST
    if size is not None:
        low, right, bottom = -PIXEL, size[1] + PIXEL, size[0] + PIXEL
    for one in objects:
        x1, y1, x2, y2 = one.box
        least = 1 + ROUNDING if form.is_inclusive(one) else 0
        if not (x2 - x1 > least and y2 - y1 > least):  # nor is NaN
            return False
        if not (x1 >= low and y1 >= low and x2 <= right and y2 <= bottom):
            return False
    return len({one.box for one in objects}) == len(objects)


def _about(
    record: ImageRecord, one: ObjectRecord, number: int, severity: str, code: str, message: str
) -> Finding:
    """Return a finding about one object of an image."""
    file = one.file or record.label_file
    return Finding(severity, code, message, file, one.line, number, one.name, record.image_id)


def _judge(one: ObjectRecord, size: Size | None, form: Format) -> tuple[str, str, str] | None:
    """Return severity, code and message of what is wrong with one box, if anything is."""
    inclusive = form.is_inclusive(one)
    x1, y1, x2, y2 = one.box
    values = form.values(one)
    if not all(math.isfinite(value) for value in one.box):
        return "error", "not-finite", f"a value is not a finite number ({values}); draw it again"
    sides = (x2 - x1, y2 - y1)
    for axis, (low, high) in zip("xy", ((x1, x2), (y1, y2))):
        if inclusive and high <= low:
            text = f"{axis}max ({high:g}) < {axis}min ({low + 1:g}); swapped corners?"
            return "error", "swapped-box", text
        if high < low:
            side = "width" if axis == "x" else "height"
            return "error", "swapped-box", f"{side} below 0 ({values}); swapped corners?"
    if 0 in sides:
        return "error", "zero-area", f"no area ({values}); draw the box again or delete the object"
    if size is not None and not fits(one, size):
        text, wholly = outside_text(one.box, size, values)
        hint = "is it the right image? draw the box again" if wholly else "cut it at the border"
        if is_turned(one.box, size):
            hint = TURNED
        hint = form.box_hint(one.box, size) or hint
        if form.reaches_out and not wholly:
            message = f"{text}, as {form.title} may: nothing can be found there"
            return "warning", "outside-image", message
        return "error", "outside-image", f"{text}; {hint}"
    if inclusive and all(abs(side - 1) < ROUNDING for side in sides):
        # The last pixel belongs to the box, so its area is 1; but programs write clicks so, too.
        message = f"one pixel in all ({values}), a click? draw the box again or delete the object"
        return "warning", "one-pixel", message
    return None


def outside_text(box: Sequence[float], size: Size, values: str) -> tuple[str, bool]:
    """Return how a box leaves its image of (height, width), and whether it does so wholly."""
    x1, y1, x2, y2 = box
    height, width = size
    wholly = x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height
    reach = "lies outside" if wholly else "reaches out of"
    return f"{reach} the image, {width}x{height} ({values})", wholly


def is_turned(box: Sequence[float], size: Size) -> bool:
    """Return whether a box would lie in the image if its width were the height."""
    return box[2] <= size[0] + PIXEL and box[3] <= size[1] + PIXEL and min(box[:2]) >= -PIXEL


def check_origin(records: Iterable[ImageRecord], form: Format) -> Iterator[Finding]:
    """Yield the suspicion that pixels are counted from 0 where the format counts from 1."""
    if form.is_inclusive is is_never_inclusive:
        return
    hits = []
    num_boxes = 0
    for record in records:
        for place, one in enumerate(record.objects, start=1):
            num_boxes += 1
            if -1.0 in one.box[:2] and form.is_inclusive(one):
                hits.append((record, one, one.number or place))
    if hits:
        record, one, number = hits[0]
        message = (
            f"{len(hits)} of {counted(num_boxes, 'box')} {agreed(len(hits), 'has', 'have')} xmin "
            f"or ymin 0 ({form.values(one)}), but the format counts from 1; "
            "if all are counted from 0, add 1 to every value"
        )
        yield _about(record, one, number, "warning", "zero-based", message)


def check_shares(records: Iterable[ImageRecord], form: Format) -> Iterator[Finding]:
    """Yield the error that boxes in a format of pixels are given as shares of the image."""
    first: tuple[ImageRecord, ObjectRecord] | None = None
    number = 0
    for record in records:
        for one in record.objects:
            # Shares lie in [0, 1]; a format that counts from 1 takes 1 off the first corner.
            if not all(-1 <= value <= 1 for value in one.box):
                return
            first = first or (record, one)
            number += 1
    if first is not None and number > 1:  # a single box may be so small
        record, one = first
        yield Finding(
            "error",
            "normalised-boxes",
            f"{shares_text(number, form.values(one))} write pixels",
            file=one.file or record.label_file,
            line=one.line,
        )


def shares_text(number: int, values: str) -> str:
    """Return the suspicion that so many boxes in pixels are shares."""
    return (
        f"all {number} boxes lie within the first pixel ({values}): shares of the image's width "
        "and height?"
    )


def fits(one: ObjectRecord, size: Size) -> bool:
    """Return whether a box lies in an image of this size, to a pixel."""
    x1, y1, x2, y2 = one.box
    return x1 >= -PIXEL and y1 >= -PIXEL and x2 <= size[1] + PIXEL and y2 <= size[0] + PIXEL
