"""Image files: read as (H, W, 3) uint8 RGB, upright, written, compared by bytes; and shrinking.

Whatever cannot be read is an error that names the file.

JPEG and PNG are decoded by OpenCV (the fastest here), everything else and the odd JPEG
(CMYK) by Pillow. Sizes and orientation come from headers parsed here, so that `image_size`
and `read_image` cannot disagree, and so that a file is judged before it is decoded: its
claimed size (decompression bombs), and whether its end is there (OpenCV fills the missing
part of a truncated JPEG with grey and says nothing).

cv2 and Pillow are imported inside the functions: reading labels does not need them.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import struct
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detkit.errors import DetkitError
from detkit.files import beside, not_written, put_in_place

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})

# Pillow's limit: 1 GiB of memory at 6 bytes a pixel. A file that claims more is not decoded.
MAX_PIXELS = 178_956_970

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
# MPO has no reader of its own: Pillow's JPEG reader opens it, and the name raises KeyError.
_PILLOW_FORMATS = ("BMP", "DIB", "WEBP", "TIFF", "JPEG", "PNG", "GIF", "PPM")
_HEADER_BYTES = 1 << 16  # an EXIF segment with its thumbnail fits; longer headers are read whole
# Markers of a JPEG's start-of-frame segments, which hold its size.
_START_OF_FRAME = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})


@dataclass(frozen=True, slots=True)
class _Header:
    """What a file says of its image before any pixel is decoded."""

    height: int  # as stored
    width: int
    orientation: int = 1  # EXIF, 1 to 8
    channels: int = 3
    data_start: int | None = None  # where a JPEG's first scan begins

    @property
    def upright_size(self) -> tuple[int, int]:
        """Return (height, width) after the orientation is applied."""
        if self.orientation >= 5:
            return self.width, self.height
        return self.height, self.width


class _Unreadable(Exception):
    """Why a file cannot be read, without its name."""


def read_image(path: Path) -> NDArray[np.uint8]:
    """Return the image as (H, W, 3) uint8 RGB, upright: its EXIF orientation is applied.

    Grey becomes three equal channels, transparency is dropped, CMYK is converted, and of 16
    bits a channel the upper 8 are kept. Of several frames the first is read.
    Raises DetkitError naming the file when it is missing, truncated, no image, claims more
    than `MAX_PIXELS`, or holds floating-point pixels.
    """
    try:
        return _decode(path.read_bytes())
    except (_Unreadable, OSError) as error:
        raise DetkitError(_complaint(path, error)) from error


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of the upright image in pixels, from the file's header alone.

    Raises DetkitError naming the file when it is missing, no image or claims more than
    `MAX_PIXELS`.
    """
    try:
        with path.open("rb") as file:
            start = file.read(_HEADER_BYTES)
            if start.startswith(_PNG):
                start += file.read()  # an eXIf chunk may follow the pixels
            elif start.startswith(_JPEG):
                try:
                    return _checked(_jpeg_header(start)).upright_size
                except struct.error:
                    start += file.read()
            elif len(start) == _HEADER_BYTES:
                start += file.read()
        header = _png_header(start) if start.startswith(_PNG) else _any_header(start)
        return _checked(header).upright_size
    except (_Unreadable, OSError, struct.error) as error:
        raise DetkitError(_complaint(path, error)) from error


def write_image(path: Path, image: NDArray[np.uint8]) -> None:
    """Write (H, W, 3) uint8 RGB pixels to a file in the format of its suffix.

    The file is written beside and renamed. Raises DetkitError for a suffix that is not one
    of `IMAGE_SUFFIXES` or when the file cannot be written.
    """
    import cv2

    suffix = path.suffix.lower()
    if suffix not in IMAGE_SUFFIXES:
        raise DetkitError(
            f"{path}: cannot write an image with suffix {suffix or '(none)'!r}; "
            f"use one of {', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    try:
        ok, encoded = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    except cv2.error:
        ok = False
    if not ok:  # JPEG ends at 65,535 pixels a side, WebP at 16,383
        height, width = image.shape[:2]
        raise DetkitError(
            f"{path}: {width} x {height} pixels cannot be written as {suffix}; choose .png or .tif"
        )
    partial = beside(path, f"{os.getpid()}.partial")
    try:
        partial.write_bytes(encoded.tobytes())  # `tofile` forgets why it failed
        put_in_place(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise DetkitError(not_written(path, error)) from error


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
    import cv2

    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def identical_files(paths: Iterable[Path]) -> list[list[Path]]:
    """Return the groups of two and more files with the same bytes, in the order given.

    Only files of equal size are read. Files that are missing or cannot be read are in no group.
    """
    by_size: defaultdict[int, list[Path]] = defaultdict(list)
    for path in dict.fromkeys(paths):
        try:
            by_size[path.stat().st_size].append(path)
        except OSError:
            continue
    by_hash: defaultdict[bytes, list[Path]] = defaultdict(list)
    for size, members in by_size.items():
        if len(members) > 1 and size > 0:
            for path in members:
                try:
                    by_hash[_digest(path)].append(path)
                except OSError:
                    continue
    return [group for group in by_hash.values() if len(group) > 1]


def _complaint(path: Path, error: Exception) -> str:
    """Return the line that names the file and says why it cannot be read."""
    if isinstance(error, FileNotFoundError):
        return f"{path}: no such image file"
    if isinstance(error, struct.error):
        return f"{path}: truncated image: the file ends inside its header; replace the file"
    if isinstance(error, OSError):
        return f"{path}: the image cannot be read: {error.strerror or error}"
    return f"{path}: {error}"


def _decode(data: bytes) -> NDArray[np.uint8]:
    """Return the upright RGB pixels of a whole file's bytes."""
    if data.startswith(_JPEG):
        header = _whole_jpeg_header(data)
        return _upright(_decode_with_opencv(_checked(header), data), header.orientation)
    if data.startswith(_PNG):
        try:
            header = _png_header(data)
        except struct.error as error:
            raise _Unreadable("truncated PNG; replace the file") from error
        return _upright(_decode_with_opencv(_checked(header), data), header.orientation)
    return _decode_with_pillow(data)


def _decode_with_opencv(header: _Header, data: bytes) -> NDArray[np.uint8]:
    """Return the RGB pixels of a JPEG or PNG, as stored."""
    import cv2

    if header.channels == 4:  # OpenCV's CMYK ignores Adobe's inversion flag in some releases
        return _decode_with_pillow(data, orient=False)
    in_rgb = getattr(cv2, "IMREAD_COLOR_RGB", None)  # since 4.11; spares turning the colours
    colour = cv2.IMREAD_COLOR if in_rgb is None else in_rgb
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), colour | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        image = None
    if image is None:  # Pillow is more forgiving, or says what is wrong
        return _decode_with_pillow(data, orient=False)
    return np.asarray(image if in_rgb else cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def _decode_with_pillow(data: bytes, *, orient: bool = True) -> NDArray[np.uint8]:
    """Return the RGB pixels of a file of any known format, upright if `orient`."""
    from PIL import ImageOps

    with _pillow_open(data) as image:
        _checked(_pillow_header(image))
        try:
            image.load()
            if orient:
                image = ImageOps.exif_transpose(image)
        except Exception as error:  # on damaged files Pillow raises anything, KeyError included
            raise _Unreadable(f"damaged or truncated image ({error}); replace the file") from error
        if image.mode.startswith("I"):  # 16 bits; older Pillow widens some to 32
            wide = np.asarray(image).astype(np.int64)
            grey = (np.clip(wide, 0, 0xFFFF) >> 8).astype(np.uint8)
            return np.repeat(grey[:, :, None], 3, axis=2)
        if image.mode == "F":
            raise _Unreadable("floating-point pixels have no fixed range; convert to 8 bits")
        try:
            return np.array(image.convert("RGB"), np.uint8)
        except ValueError as error:
            raise _Unreadable(f"pixels of mode {image.mode} are not supported") from error


@contextmanager
def _pillow_open(data: bytes) -> Iterator[Any]:
    """Yield Pillow's image of a file's bytes, its pixels not decoded yet."""
    from PIL import Image, UnidentifiedImageError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # half the size limit, odd TIFF tags: not worth a line
        try:
            image = Image.open(io.BytesIO(data), formats=_PILLOW_FORMATS)
        except Image.DecompressionBombError as error:
            raise _Unreadable(_too_large()) from error
        except UnidentifiedImageError as error:
            reason = (
                "not an image that can be read (jpg, png, bmp, webp, tif), or its header is damaged"
            )
            raise _Unreadable(reason if data else "the file is empty; replace it") from error
        except Exception as error:  # on damaged files Pillow raises anything, KeyError included
            raise _Unreadable(f"damaged image header ({error}); replace the file") from error
        with image:
            yield image


def _pillow_header(image: Any) -> _Header:
    """Return the header of an image that Pillow has opened."""
    width, height = image.size
    if image.format == "TIFF":  # newer releases state the upright size, older ones the stored
        width, height = image.tag_v2.get(256, width), image.tag_v2.get(257, height)
        orientation = image.tag_v2.get(0x0112, 1)
    else:
        orientation = _exif_orientation(image.info.get("exif", b"").removeprefix(b"Exif\0\0"))
    if not isinstance(orientation, int) or not 1 <= orientation <= 8:
        orientation = 1
    return _Header(int(height), int(width), orientation)


def _any_header(data: bytes) -> _Header:
    """Return the header of a file's bytes, whatever its format."""
    if data.startswith(_JPEG):
        return _jpeg_header(data)
    with _pillow_open(data) as image:
        return _pillow_header(image)


def _whole_jpeg_header(data: bytes) -> _Header:
    """Return a JPEG's header; raise _Unreadable when the file's end is missing.

    The end-of-image marker cannot occur inside a scan (there FF is followed by 00), so the
    image is whole when the marker stands somewhere after its first scan began; what cameras
    and editors append behind it does no harm.
    """
    try:
        header = _jpeg_header(data)
    except struct.error as error:
        raise _Unreadable("truncated JPEG: it ends inside its header; replace the file") from error
    if not data.endswith(b"\xff\xd9") and data.find(b"\xff\xd9", header.data_start) < 0:
        raise _Unreadable("truncated JPEG: its end is missing; replace the file")
    return header


def _jpeg_header(data: bytes) -> _Header:
    """Return a JPEG's header; raise struct.error when the data end inside it."""
    position, orientation, frame = 2, 1, None
    while True:
        if position + 4 > len(data):
            raise struct.error("header is longer than the data")
        if data[position] != 0xFF:
            position += 1  # padding between segments; libjpeg skips it too
            continue
        marker = data[position + 1]
        if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD8:
            position += 1 if marker == 0xFF else 2
            continue
        (length,) = struct.unpack_from(">H", data, position + 2)
        body = position + 4
        if marker in _START_OF_FRAME:
            height, width, channels = struct.unpack_from(">xHHB", data, body)
            frame = (int(height), int(width), int(channels))
        elif marker == 0xE1 and data[body : body + 6] == b"Exif\0\0":
            orientation = _exif_orientation(data[body + 6 : position + 2 + length])
        elif marker == 0xDA or marker == 0xD9:
            if frame is None or marker == 0xD9:
                raise _Unreadable("damaged JPEG: no image in it; replace the file")
            return _Header(frame[0], frame[1], orientation, frame[2], body)
        position += 2 + length


def _png_header(data: bytes) -> _Header:
    """Return a whole PNG's header; raise struct.error when the file ends before its end."""
    if data[12:16] != b"IHDR":
        raise _Unreadable("damaged PNG: its header is missing; replace the file")
    width, height = struct.unpack_from(">II", data, 16)
    position, orientation = 8, 1
    while True:
        (length,) = struct.unpack_from(">I", data, position)
        kind = data[position + 4 : position + 8]
        if kind == b"eXIf":
            orientation = _exif_orientation(data[position + 8 : position + 8 + length])
        if kind == b"IEND":
            return _Header(int(height), int(width), orientation)
        position += 12 + length


def _exif_orientation(exif: bytes) -> int:
    """Return the orientation, 1 to 8, in an EXIF block; 1 when it has none or is damaged."""
    try:
        order = {b"II": "<", b"MM": ">"}[exif[:2]]
        (directory,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, directory)
        for entry in range(count):
            tag, kind = struct.unpack_from(order + "HH", exif, directory + 2 + 12 * entry)
            if tag == 0x0112:
                layout = order + ("I" if kind == 4 else "H")
                (value,) = struct.unpack_from(layout, exif, directory + 10 + 12 * entry)
                return int(value) if 1 <= value <= 8 else 1
    except (KeyError, struct.error):
        pass
    return 1


def _upright(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Return the image turned as its EXIF orientation asks (EXIF 2.3, tag 0x0112)."""
    if orientation == 1:
        return image
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def _checked(header: _Header) -> _Header:
    """Return the header; raise _Unreadable when the image has no pixels or too many."""
    if header.height < 1 or header.width < 1:
        raise _Unreadable(f"damaged image: its size is {header.width} x {header.height}")
    if header.height * header.width > MAX_PIXELS:
        raise _Unreadable(_too_large(header))
    return header


def _too_large(header: _Header | None = None) -> str:
    """Return what is said of an image beyond the limit."""
    claim = (
        f"claims {header.width} x {header.height} pixels" if header else "claims too many pixels"
    )
    return f"{claim}, above the limit of {MAX_PIXELS:,}: a decompression bomb? shrink it"


def _digest(path: Path) -> bytes:
    """Return the hash of a file's bytes."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.digest()
