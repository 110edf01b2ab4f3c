"""When a picture was taken, and with what, as its EXIF says.

The blocks of JPEGs as cameras write them are parsed here. Pillow, which takes ten times as long,
reads those of other kinds of files, and whatever is odd.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from detkit.data.image_headers import JPEG, jpeg_exif, pillow_open

# EXIF 2.3: the tags asked for, and the one that says where the second directory begins.
_MAKER, _MODEL, _DIRECTORY, _TIME, _PART = 0x010F, 0x0110, 0x8769, 0x9003, 0x9291
_ASKED = frozenset((_MAKER, _MODEL, _DIRECTORY, _TIME, _PART))
_TEXT, _OFFSET = 2, 4  # types of values: ASCII, LONG
# Bytes of a value of each type (TIFF 6.0, and 13, the offset of a directory).
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}


@dataclass(frozen=True, slots=True)
class Taken:
    """When a picture was taken, and with what."""

    time: datetime
    camera: str  # maker and model, "" where the file does not say


class _Odd(Exception):
    """An EXIF block that is left to Pillow."""


def taken_of(start: bytes, whole: Callable[[], bytes]) -> Taken | None:
    """Return when a picture was taken, by its EXIF (tags 0x9003, 0x9291); None: it does not say.

    `start` is the first `HEADER_BYTES` of its file, `whole` returns all of it.
    """
    if b"Exif" not in start and not start.startswith((b"II*", b"MM")):
        return None  # most have none
    try:
        return _of_jpeg(start)
    except (_Odd, struct.error):
        return _by_pillow(whole())


def _by_pillow(data: bytes) -> Taken | None:
    """Return what `taken_of` does, of a file of any kind."""
    from PIL.ExifTags import IFD

    try:
        with pillow_open(data) as image:
            tags = image.getexif()
            details = tags.get_ifd(IFD.Exif)
            texts = [str(details.get(tag, "")) for tag in (_TIME, _PART)]
            texts += [str(tags.get(tag, "")) for tag in (_MAKER, _MODEL)]
        return _taken(*texts)
    except Exception:  # on damaged EXIF Pillow raises anything: it then does not say
        return None


def _of_jpeg(start: bytes) -> Taken | None:
    """Return what `taken_of` does, of a JPEG; raise _Odd or struct.error for one of Pillow's."""
    blocks = jpeg_exif(start) if start.startswith(JPEG) else []
    if len(blocks) != 1:
        raise _Odd
    (block,) = blocks
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None:
        raise _Odd
    tags = _directory(block, order, struct.unpack_from(order + "I", block, 4)[0])
    place = tags.get(_DIRECTORY)
    if place is None:
        return None  # times stand there
    if place[:2] != (_OFFSET, 1):
        raise _Odd
    details = _directory(block, order, struct.unpack(order + "I", place[2])[0])
    texts = [_text(details, tag) for tag in (_TIME, _PART)]
    texts += [_text(tags, tag) for tag in (_MAKER, _MODEL)]
    try:
        return _taken(*texts)
    except ValueError:
        return None


def _directory(block: bytes, order: str, place: int) -> dict[int, tuple[int, int, bytes]]:
    """Return (type, number, bytes) of the values asked for, of one directory of an EXIF block.

    Raises _Odd where a value leads out of the block or is stated twice, struct.error where the
    directory itself leads out.
    """
    (count,) = struct.unpack_from(order + "H", block, place)
    rows = block[place + 2 : place + 2 + 12 * count]
    if place + 6 + 12 * count > len(block):
        raise _Odd
    found: dict[int, tuple[int, int, bytes]] = {}
    total = 0
    for tag, kind, number, value in struct.iter_unpack(order + "HHI4s", rows):
        size = _SIZES.get(kind, 0) * number
        if size > 4:
            (at,) = struct.unpack(order + "I", value)
            total += size
            if at + size > len(block) or total > len(block):
                raise _Odd
            if tag in _ASKED:
                value = block[at : at + size]
        if tag in _ASKED and size:
            if tag in found:
                raise _Odd
            found[tag] = (kind, number, value[:size])
    return found


def _text(values: dict[int, tuple[int, int, bytes]], tag: int) -> str:
    """Return a text of a directory, "" where it has none; raise _Odd for another value."""
    if tag not in values:
        return ""
    kind, _, text = values[tag]
    if kind != _TEXT:
        raise _Odd
    return text.decode("latin-1")


def _taken(time: str, part: str, maker: str, model: str) -> Taken:
    """Return it by the texts of the four tags; raise ValueError when the first is no time."""
    when = datetime.strptime(time.strip("\0 "), "%Y:%m:%d %H:%M:%S")
    part = part.strip("\0 ")
    if part.isdecimal():
        when += timedelta(seconds=float(f"0.{part}"))
    camera = " ".join(one.strip("\0 ") for one in (maker, model))
    return Taken(when, camera.strip())
