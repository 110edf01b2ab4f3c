"""What the header of an image file says: its size, which way is up, how deep its pixels are.

JPEG's and PNG's are parsed here, all others by Pillow, which is told the kinds it may try.
HEIF and AVIF, the kinds of phones, need a plug-in of Pillow's or a Pillow that was built so.

Pillow is imported inside the functions: reading labels does not need it.
"""

from __future__ import annotations

import importlib
import io
import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from detkit.files import READ_ONLY

# 16,384 squared, 0.8 GB as RGB: the largest sensors of phones (200 megapixels) and panoramas made
# of several pictures are below. A file that claims more is not decoded.
MAX_PIXELS = 1 << 28

JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
EXIF = b"Exif\0\0"  # what a JPEG's segment of it begins with
# MPO has no reader of its own: Pillow's JPEG reader opens it, and the name raises KeyError.
_PILLOW_FORMATS = ("BMP", "DIB", "WEBP", "TIFF", "JPEG", "PNG", "GIF", "PPM", "JPEG2000")
# Kinds of phones that Pillow may need a plug-in for, and the package that has it.
_PLUGINS = {"HEIF": "pillow-heif", "AVIF": "pillow-avif-plugin"}
_PLUGIN_SUFFIXES = {".heic": "HEIF", ".heif": "HEIF", ".hif": "HEIF", ".avif": "AVIF"}
# ISO/IEC 23008-12 and AV1 Image File Format: what an ISO media file says that it is.
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
FIRST_BYTES = 1 << 13  # the header of a JPEG without a thumbnail fits
HEADER_BYTES = 1 << 16  # an EXIF segment with its thumbnail fits; longer headers are read whole
_FRAME = struct.Struct(">xHHB")  # its height, width and channels, in ...
# Markers of a JPEG without a segment behind them, a byte of padding among them, and those ...
_BARE = frozenset({0x01, *range(0xD0, 0xD9), 0xFF})
# ... of its start-of-frame segments, which hold its size.
_START_OF_FRAME = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})


class ImageHeader(NamedTuple):
    """What a file says of its image before any pixel is decoded."""

    height: int  # as stored
    width: int
    orientation: int = 1  # EXIF, 1 to 8
    channels: int = 3
    bits: int = 8  # a channel
    frames: int = 1  # or pages
    data_start: int | None = None  # where a JPEG's first scan begins

    @property
    def stored_size(self) -> tuple[int, int]:
        """Return (height, width) before the orientation is applied."""
        return self.height, self.width

    @property
    def upright_size(self) -> tuple[int, int]:
        """Return (height, width) after the orientation is applied."""
        if self.orientation >= 5:
            return self.width, self.height
        return self.height, self.width


class UnreadableImage(Exception):
    """Why a file cannot be read, without its name."""


def read_header(path: Path | str) -> ImageHeader:
    """Return the header of an image file.

    Raises UnreadableImage or struct.error when it has none, or one that claims no pixels or more
    than `MAX_PIXELS`; OSError when the file cannot be read.
    """
    descriptor = os.open(path, READ_ONLY)  # in half the time of an `open`
    try:
        return header_from(_pieces_of(descriptor))
    finally:
        os.close(descriptor)


def _pieces_of(descriptor: int) -> Iterator[bytes]:
    """Yield an open file as `header_from` takes it."""
    yield os.read(descriptor, FIRST_BYTES)
    with open(descriptor, "rb", buffering=0, closefd=False) as file:
        yield file.read(HEADER_BYTES - FIRST_BYTES)
        yield file.read()


def header_from(pieces: Iterator[bytes]) -> ImageHeader:
    """Return the header of a file that comes in pieces, of which no more are taken than it needs.

    The first ends after `FIRST_BYTES`, the second after `HEADER_BYTES`, the third with the file.
    Raises as `read_header`.
    """
    data = next(pieces)
    while data.startswith(JPEG):
        try:
            return require_size(jpeg_header(data))
        except struct.error:
            more = next(pieces, b"")
            if not more:
                raise
            data += more
    data += b"".join(pieces)  # an eXIf chunk may follow a PNG's pixels
    return require_size(png_header(data) if data.startswith(PNG) else any_header(data))


def is_plugged_in(kind: str) -> bool:
    """Return whether Pillow reads "AVIF" or "HEIF" here, by itself or by a plug-in."""
    from PIL import Image, features

    Image.init()  # else Pillow's own reader, if it cannot read it, would replace a plug-in's later
    if kind == "AVIF":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an older Pillow knows of no such feature
            if features.check("avif"):
                return True
    try:
        module = importlib.import_module(_PLUGINS[kind].replace("-", "_").removesuffix("_plugin"))
    except ImportError:
        return False
    if kind == "HEIF":
        module.register_heif_opener()
    return kind in Image.OPEN


def package_for(suffix: str) -> str | None:
    """Return the package without which a lower-case suffix is not read here; None: it is read."""
    kind = _PLUGIN_SUFFIXES.get(suffix)
    return None if kind is None or is_plugged_in(kind) else _PLUGINS[kind]


def _plugged_in(data: bytes) -> tuple[str, ...]:
    """Return the name of the plug-in's format that a file is of, () for all others.

    Raises UnreadableImage naming the package that is missing.
    """
    if data[4:8] != b"ftyp":
        return ()
    (length,) = struct.unpack_from(">I", data)
    brands = {data[at : at + 4] for at in range(8, min(length, len(data), 256), 4)}
    kind = "AVIF" if brands & _AVIF_BRANDS else "HEIF" if brands & _HEIF_BRANDS else None
    if kind is None:
        return ()
    if not is_plugged_in(kind):
        package = _PLUGINS[kind]
        raise UnreadableImage(f"an image of {kind} needs {package}: pip install {package}")
    return (kind,)


@contextmanager
def pillow_open(data: bytes) -> Iterator[Any]:
    """Yield Pillow's image of a file's bytes, its pixels not decoded yet."""
    from PIL import Image, UnidentifiedImageError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # half the size limit, odd TIFF tags: not worth a line
        try:
            formats = _plugged_in(data) or _PILLOW_FORMATS
            # Pillow refuses twice this. There is one such limit in a process, and no other way.
            if Image.MAX_IMAGE_PIXELS is not None:
                Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, MAX_PIXELS // 2)
            image = Image.open(io.BytesIO(data), formats=formats)
        except UnreadableImage:
            raise
        except Image.DecompressionBombError as error:
            raise UnreadableImage(_too_large()) from error
        except UnidentifiedImageError as error:
            reason = (
                "not an image that can be read (jpg, png, webp, tif, gif, bmp, ppm, ...), or its "
                "header is damaged"
            )
            raise UnreadableImage(reason if data else "the file is empty; replace it") from error
        except Exception as error:  # on damaged files Pillow raises anything, KeyError included
            raise UnreadableImage(f"damaged image header ({error}); replace the file") from error
        with image:
            yield image


def pillow_header(image: Any) -> ImageHeader:
    """Return the header of an image that Pillow has opened."""
    width, height = image.size
    bits: object = 8
    if image.format == "TIFF":  # newer releases state the upright size, older ones the stored
        width, height = image.tag_v2.get(256, width), image.tag_v2.get(257, height)
        orientation = image.tag_v2.get(0x0112, 1)
        bits = image.tag_v2.get(258, 8)
        bits = max(bits) if isinstance(bits, tuple) and bits else bits
    else:
        orientation = _exif_orientation(image.info.get("exif", b"").removeprefix(EXIF))
    if not isinstance(orientation, int) or not 1 <= orientation <= 8:
        orientation = 1
    bits = bits if isinstance(bits, int) else 8
    return ImageHeader(int(height), int(width), orientation, bits=bits)


def any_header(data: bytes) -> ImageHeader:
    """Return the header of a file's bytes, whatever its format."""
    if data.startswith(JPEG):
        return jpeg_header(data)
    with pillow_open(data) as image:
        header = pillow_header(image)
        try:
            return header._replace(frames=int(getattr(image, "n_frames", 1)))
        except Exception:  # damaged behind the first frame, which is all that is read
            return header


def whole_jpeg_header(data: bytes) -> ImageHeader:
    """Return a JPEG's header; raise UnreadableImage when the file's end is missing.

    The end-of-image marker cannot occur inside a scan (there FF is followed by 00), so the
    image is whole when the marker stands somewhere after its first scan began; what cameras
    and editors append behind it does no harm.
    """
    try:
        header = jpeg_header(data)
    except struct.error as error:
        reason = "truncated JPEG: it ends inside its header; replace the file"
        raise UnreadableImage(reason) from error
    if not data.endswith(b"\xff\xd9") and data.find(b"\xff\xd9", header.data_start) < 0:
        raise UnreadableImage("truncated JPEG: its end is missing; replace the file")
    return header


def jpeg_header(data: bytes) -> ImageHeader:
    """Return a JPEG's header; raise struct.error when the data end inside it."""
    frame, blocks, scan = _jpeg_start(data)
    if frame is None or scan is None:
        raise UnreadableImage("damaged JPEG: no image in it; replace the file")
    orientation = _exif_orientation(blocks[-1]) if blocks else 1
    return ImageHeader(frame[0], frame[1], orientation, frame[2], data_start=scan)


def jpeg_exif(data: bytes) -> list[bytes]:
    """Return a JPEG's EXIF blocks, mostly one; raise struct.error when its header is cut short."""
    return _jpeg_start(data)[1]


def _jpeg_start(data: bytes) -> tuple[tuple[int, int, int] | None, list[bytes], int | None]:
    """Return a JPEG's (height, width, channels), its EXIF blocks and where its first scan begins.

    What it has none of is None. Raises struct.error when the data end before its first scan.
    """
    frame, blocks = None, []
    position, last = 2, len(data) - 4
    while position <= last:
        if data[position] != 0xFF:
            position += 1  # padding between segments; libjpeg skips it too
            continue
        marker = data[position + 1]
        if marker in _BARE:
            position += 1 if marker == 0xFF else 2
            continue
        body, end = position + 4, position + 2 + (data[position + 2] << 8 | data[position + 3])
        if marker in _START_OF_FRAME:
            frame = _FRAME.unpack_from(data, body)
        elif marker == 0xE1 and data[body : body + 6] == EXIF:
            blocks.append(data[body + 6 : end])
        elif marker == 0xDA or marker == 0xD9:
            return frame, blocks, body if marker == 0xDA else None
        position = end
    raise struct.error("header is longer than the data")


def png_header(data: bytes) -> ImageHeader:
    """Return a whole PNG's header; raise struct.error when the file ends before its end."""
    if data[12:16] != b"IHDR":
        raise UnreadableImage("damaged PNG: its header is missing; replace the file")
    width, height = struct.unpack_from(">II", data, 16)
    position, orientation, frames = 8, 1, 1
    while True:
        (length,) = struct.unpack_from(">I", data, position)
        kind = data[position + 4 : position + 8]
        if kind == b"eXIf":
            orientation = _exif_orientation(data[position + 8 : position + 8 + length])
        if kind == b"acTL":  # an animated PNG
            (frames,) = struct.unpack_from(">I", data, position + 8)
        if kind == b"IEND":
            return ImageHeader(
                int(height), int(width), orientation, bits=data[24], frames=int(frames)
            )
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


def require_size(header: ImageHeader) -> ImageHeader:
    """Return the header; raise UnreadableImage when the image has no pixels or too many."""
    if header.height < 1 or header.width < 1:
        raise UnreadableImage(f"damaged image: its size is {header.width} x {header.height}")
    if header.height * header.width > MAX_PIXELS:
        raise UnreadableImage(_too_large(header))
    return header


def _too_large(header: ImageHeader | None = None) -> str:
    """Return what is said of an image beyond the limit."""
    claim = (
        f"claims {header.width} x {header.height} pixels" if header else "claims too many pixels"
    )
    return f"{claim}, above the limit of {MAX_PIXELS:,}: a decompression bomb? shrink it"
