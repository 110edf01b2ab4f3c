"""Image files: read as (H, W, 3) uint8 RGB, upright, written, compared by bytes; and shrinking.

Whatever cannot be read is an error that names the file.

JPEG and PNG are decoded by OpenCV (the fastest here), everything else and the odd JPEG
(CMYK) by Pillow. Sizes and orientation come from `image_headers`, so that `image_size`
and `read_image` cannot disagree, and so that a file is judged before it is decoded: its
claimed size (decompression bombs), and whether its end is there (OpenCV fills the missing
part of a truncated JPEG with grey and says nothing).

cv2 and Pillow are imported inside the functions: reading labels does not need them.
"""

from __future__ import annotations

import hashlib
import math
import os
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detkit.data.image_headers import (
    JPEG,
    PNG,
    ImageHeader,
    UnreadableImage,
    jpeg_header,
    pillow_header,
    pillow_open,
    png_header,
    read_header,
    require_size,
    whole_jpeg_header,
)
from detkit.errors import DetkitError
from detkit.files import beside, not_written, put_in_place

WRITTEN_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})


def read_image(path: Path) -> NDArray[np.uint8]:
    """Return the image as (H, W, 3) uint8 RGB, upright: its EXIF orientation is applied.

    Grey becomes three equal channels, transparency is dropped, CMYK is converted, and of 16
    bits a channel (12 where the file says so) the upper 8 are kept. Of several frames or pages
    the first is read. Raises DetkitError naming the file when it is missing, truncated, no image,
    claims more than `MAX_PIXELS`, or holds floating-point pixels.
    """
    try:
        return decode(path.read_bytes())
    except (UnreadableImage, OSError) as error:
        raise DetkitError(complaint(path, error)) from error


def read_small_grey(path: Path, side: int) -> NDArray[np.uint8]:
    """Return the upright image as (side, side) uint8 grey, whatever its shape; meant for looking.

    A JPEG is decoded at a part of its size, 2 to 8 times as fast. Raises DetkitError as
    `read_image` does, but for a truncated JPEG, which is read as far as it goes.
    """
    try:
        return decode_small_grey(path.read_bytes(), side)
    except (UnreadableImage, OSError, struct.error) as error:
        raise DetkitError(complaint(path, error)) from error


def decode_small_grey(data: bytes, side: int) -> NDArray[np.uint8]:
    """Return what `read_small_grey` does, of a file's bytes.

    Raises UnreadableImage, or struct.error where a JPEG ends inside its header.
    """
    return _squeezed(_decode_small(data, side), side)


def small_grey(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Return an upright (H, W, 3) RGB image as (side, side) uint8 grey, whatever its shape."""
    return _squeezed(_grey(image), side)


def _grey(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an RGB image as (H, W) grey."""
    import cv2

    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)


def _squeezed(grey: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Return a grey picture as (side, side), each pixel the mean of those that it covers."""
    import cv2

    return np.asarray(cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA), np.uint8)


def read_reduced(path: Path, side: int) -> NDArray[np.uint8]:
    """Return the upright image, (H, W, 3) RGB, its longer side `side` pixels or more; for looking.

    It is whole or, of a JPEG, a half, quarter or eighth, which is decoded faster. Each side is
    then that part of the image's own, rounded up. Raises DetkitError as `read_image` does.
    """
    import cv2

    reduced = (
        (8, cv2.IMREAD_REDUCED_COLOR_8),
        (4, cv2.IMREAD_REDUCED_COLOR_4),
        (2, cv2.IMREAD_REDUCED_COLOR_2),
    )
    try:
        data = path.read_bytes()
        if not data.startswith(JPEG):
            return decode(data)
        header = require_size(whole_jpeg_header(data))
        longer = max(header.height, header.width)
        flag = next((one for part, one in reduced if -(-longer // part) >= side), None)
        if flag is None or header.channels == 4:
            return decode(data)
        pixels = _decode_reduced(data, flag)
        if pixels is None:
            return decode(data)
        return _upright(np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)), header.orientation)
    except (UnreadableImage, OSError) as error:
        raise DetkitError(complaint(path, error)) from error


def has_reduced_form(path: Path) -> bool:
    """Return whether `read_reduced` may decode less than the whole: of a JPEG.

    Raises DetkitError for a file that cannot be opened.
    """
    try:
        with path.open("rb") as file:
            return file.read(len(JPEG)) == JPEG
    except OSError as error:
        raise DetkitError(complaint(path, error)) from error


def _decode_small(data: bytes, side: int) -> NDArray[np.uint8]:
    """Return the upright grey pixels of a file, a JPEG's shrunk to no less than `side` twice."""
    import cv2

    if data.startswith(JPEG):
        header = require_size(jpeg_header(data))
        parts = min(header.height, header.width) // (2 * side)
        flag = cv2.IMREAD_GRAYSCALE
        for least, reduced in (
            (2, cv2.IMREAD_REDUCED_GRAYSCALE_2),
            (4, cv2.IMREAD_REDUCED_GRAYSCALE_4),
            (8, cv2.IMREAD_REDUCED_GRAYSCALE_8),
        ):
            if parts >= least:
                flag = reduced
        grey = _decode_reduced(data, flag)
        if grey is not None:
            return _upright(grey, header.orientation)
    return _grey(decode(data))


def _decode_reduced(data: bytes, flag: int) -> NDArray[np.uint8] | None:
    """Return the pixels of a JPEG as stored, by OpenCV's flag; None where it cannot."""
    import cv2

    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flag | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        return None
    return None if pixels is None else np.asarray(pixels, np.uint8)


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of the upright image in pixels, from the file's header alone.

    Raises DetkitError naming the file when it is missing, no image or claims more than
    `MAX_PIXELS`.
    """
    return _header_of(path).upright_size


def stored_size(path: Path) -> tuple[int, int]:
    """Return (height, width) in pixels as stored, without the EXIF orientation.

    Raises DetkitError as `image_size` does.
    """
    return _header_of(path).stored_size


def is_turned(path: Path) -> bool:
    """Return whether an image's EXIF orientation turns or mirrors it; DetkitError as above."""
    return _header_of(path).orientation != 1


def _header_of(path: Path) -> ImageHeader:
    """Return a file's header; raise DetkitError naming the file when it has none."""
    try:
        return read_header(path)
    except (UnreadableImage, OSError, struct.error) as error:
        raise DetkitError(complaint(path, error)) from error


def bits_used(path: Path) -> int:
    """Return how many of the 16 bits of an image's channels its largest value takes, 0 to 16.

    Raises DetkitError naming the file when it cannot be read.
    """
    try:
        with pillow_open(path.read_bytes()) as image:
            try:
                if image.mode.startswith("I"):
                    return min(int(np.asarray(image).max()).bit_length(), 16)
                largest = int(np.asarray(image.convert("RGB")).max())  # the upper 8 bits
            except Exception as error:  # on damaged files Pillow raises anything
                raise UnreadableImage(f"damaged or truncated image ({error})") from error
            return 8 + largest.bit_length()
    except (UnreadableImage, OSError) as error:
        raise DetkitError(complaint(path, error)) from error


def write_image(path: Path, image: NDArray[np.uint8]) -> None:
    """Write (H, W, 3) uint8 RGB pixels to a file in the format of its suffix.

    The file is written beside and renamed. Raises DetkitError for a suffix that is not one
    of `WRITTEN_SUFFIXES` or when the file cannot be written.
    """
    import cv2

    suffix = path.suffix.lower()
    if suffix not in WRITTEN_SUFFIXES:
        raise DetkitError(
            f"{path}: cannot write an image with suffix {suffix or '(none)'!r}; "
            f"use one of {', '.join(sorted(WRITTEN_SUFFIXES))}"
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
    return shrunk_to(image, (max(1, round(height * scale)), max(1, round(width * scale))))


def shrunk_to(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the image, (H, W) or (H, W, C), of `size` (height, width), no larger than its own.

    Each pixel is the mean of those that it covers. One of that size already is returned itself.
    """
    if image.shape[:2] == size:
        return image
    import cv2

    return np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA), np.uint8)


def identical_files(paths: Iterable[Path]) -> list[list[Path]]:
    """Return the groups of two and more files with the same bytes, in the order given.

    Only files of equal size are read. Files that are missing or cannot be read are in no group.
    """
    sizes: dict[Path, int] = {}
    for path in dict.fromkeys(paths):
        try:
            sizes[path] = path.stat().st_size
        except (OSError, ValueError):  # ValueError: a name that no file can have
            continue
    return same_bytes(sizes, _digest_of_file)


def same_bytes(
    sizes: Mapping[Path, int], digest: Callable[[Path], bytes | None]
) -> list[list[Path]]:
    """Return the groups of files with the same bytes, by their sizes in bytes.

    `digest` is asked for the `digest_of` those of equal size; None: the file cannot be read.
    """
    by_size: defaultdict[int, list[Path]] = defaultdict(list)
    for path, size in sizes.items():
        by_size[size].append(path)
    by_hash: defaultdict[bytes, list[Path]] = defaultdict(list)
    for size, members in by_size.items():
        if len(members) > 1 and size > 0:
            for path in members:
                if (found := digest(path)) is not None:
                    by_hash[found].append(path)
    return [group for group in by_hash.values() if len(group) > 1]


def digest_of(data: bytes) -> bytes:
    """Return the hash of a file's bytes."""
    return hashlib.blake2b(data, digest_size=16).digest()


def complaint(path: Path, error: Exception) -> str:
    """Return the line that names the file and says why it cannot be read, as errors here do."""
    return f"{path}: {reason_of(error)}"


def reason_of(error: Exception) -> str:
    """Return why a file cannot be read, without its name, by what was raised meanwhile."""
    if isinstance(error, FileNotFoundError):
        return "no such image file"
    if isinstance(error, struct.error):
        return "truncated image: the file ends inside its header; replace the file"
    if isinstance(error, OSError):
        return f"the image cannot be read: {error.strerror or error}"
    return str(error)


def decode(data: bytes) -> NDArray[np.uint8]:
    """Return what `read_image` does, of a whole file's bytes; raise UnreadableImage."""
    if data.startswith(JPEG):
        header = whole_jpeg_header(data)
        return _upright(_decode_with_opencv(require_size(header), data), header.orientation)
    if data.startswith(PNG):
        try:
            header = png_header(data)
        except struct.error as error:
            raise UnreadableImage("truncated PNG; replace the file") from error
        return _upright(_decode_with_opencv(require_size(header), data), header.orientation)
    return _decode_with_pillow(data)


def _decode_with_opencv(header: ImageHeader, data: bytes) -> NDArray[np.uint8]:
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

    with pillow_open(data) as image:
        header = require_size(pillow_header(image))
        try:
            image.load()
            if orient:
                image = ImageOps.exif_transpose(image)
        except Exception as error:  # on damaged files Pillow raises anything, KeyError included
            reason = f"damaged or truncated image ({error}); replace the file"
            raise UnreadableImage(reason) from error
        if image.mode.startswith("I"):  # 16 bits; older Pillow widens some to 32
            wide = np.asarray(image).astype(np.int64)
            bits = header.bits if 8 < header.bits < 16 else 16  # packed 12 bits stay 12
            grey = (np.clip(wide, 0, (1 << bits) - 1) >> (bits - 8)).astype(np.uint8)
            return np.repeat(grey[:, :, None], 3, axis=2)
        if image.mode == "F":
            raise UnreadableImage("floating-point pixels have no fixed range; convert to 8 bits")
        try:
            return np.array(image.convert("RGB"), np.uint8)
        except ValueError as error:
            raise UnreadableImage(f"pixels of mode {image.mode} are not supported") from error


def _upright(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Return the image turned as its EXIF orientation asks (EXIF 2.3, tag 0x0112)."""
    if orientation == 1:
        return image
    if orientation >= 5:
        image = image.swapaxes(0, 1)  # grey pictures have two axes
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def _digest_of_file(path: Path) -> bytes | None:
    """Return the hash of a file's bytes, read piece by piece; None where it cannot be read."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError:
        return None
    return digest.digest()
