"""Pictures for the page: previews of some sides and tiles of a zoom, as JPEG; kept and prepared."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from detkit.cache import FileCache, cache_folder
from detkit.data.images import (
    has_reduced_form,
    image_size,
    read_image,
    read_reduced,
    shrunk_to,
)
from detkit.errors import DetkitError
from detkit.labelling.labels import Size

SIDES = (256, 1024, 2048)  # pixels, the longer one
TILE = 512  # pixels a side
MOST_LEVELS = 16
QUALITY = 88  # of the JPEGs, ours: no artefact that a box is drawn by
KEPT_BYTES = 128 << 20  # of JPEGs in memory
KEPT_PIXELS = 512 << 20  # bytes of images decoded for tiles: seven of 24 megapixels
DECODERS = 2  # images decoded at a time, for memory's sake

K = TypeVar("K")
V = TypeVar("V")
Pixels = NDArray[np.uint8]


class Kept(OrderedDict[K, V]):
    """What was made last, up to a number of bytes; the least recently used goes first."""

    def __init__(self, most: int, size: Callable[[V], int]) -> None:
        """Keep at most so many bytes, of values whose `size` is asked for."""
        super().__init__()
        self._most, self._size, self._held = most, size, 0

    def look(self, key: K) -> V | None:
        """Return what is kept under a key, used just now."""
        if key in self:
            self.move_to_end(key)
            return self[key]
        return None

    def keep(self, key: K, value: V) -> None:
        """Keep a value, and let others go where there is no room."""
        if key in self:
            self._held -= self._size(self.pop(key))
        self[key] = value
        self._held += self._size(value)
        while self._held > self._most and len(self) > 1:
            _, old = self.popitem(last=False)
            self._held -= self._size(old)


class Previews:
    """Makes pictures of image files; used by several threads at once."""

    def __init__(self) -> None:
        """Begin with what earlier sessions left in the cache."""
        self._lock = threading.Lock()
        self._decoding = threading.Semaphore(DECODERS)
        self._jpegs: Kept[str, bytes] = Kept(KEPT_BYTES, len)
        self._decoded: Kept[tuple[str, int], Pixels] = Kept(KEPT_PIXELS, lambda one: one.nbytes)
        self._making: dict[object, threading.Lock] = {}
        self._files = FileCache(cache_folder() / "previews", "previews", suffix=".jpg")
        self._ahead = ThreadPoolExecutor(1, "detkit-label-ahead")

    def preview(self, path: Path, side: int) -> bytes:
        """Return a JPEG of the upright image whose longer side has `side` pixels, or its own.

        `side` is one of `SIDES`. Of a file that has no reduced form (a PNG) all of them are made
        at once, since decoding it takes nearly all of the time. Raises DetkitError for an image
        that cannot be read.
        """
        with self._one_at_a_time(_key(path, side if has_reduced_form(path) else 0)):
            found = self._kept(path, side)
            if found is None:
                made = self._made(path, side)
                for one, content in made.items():
                    self._files.write(_key(path, one), content)
                    with self._lock:
                        self._jpegs.keep(_key(path, one), content)
                found = made[side]
            return found

    def _kept(self, path: Path, side: int) -> bytes | None:
        """Return a preview made earlier; None where there is none."""
        key = _key(path, side)
        with self._lock:
            found = self._jpegs.look(key)
        if found is None:
            found = self._files.read(key)
            if found is not None:
                with self._lock:
                    self._jpegs.keep(key, found)
        return found

    def tile(self, path: Path, level: int, x: int, y: int) -> bytes | None:
        """Return the JPEG of a tile; None where the image has none there.

        It is column `x`, row `y` of tiles of `TILE` pixels, the image at 2^-level of its size.
        Raises DetkitError for an image that cannot be read.
        """
        if level > MOST_LEVELS:
            return None
        pixels = self._scaled(path, level)
        part = pixels[y * TILE : (y + 1) * TILE, x * TILE : (x + 1) * TILE]
        return _jpeg(part) if part.size else None

    def prepare(self, path: Path, side: int) -> None:
        """Make a preview ahead, in a thread; one that cannot be made is no error yet."""

        def make() -> None:
            try:
                self.preview(path, side)
            except DetkitError:
                return

        self._ahead.submit(make)

    def close(self) -> None:
        """Make no more ahead."""
        self._ahead.shutdown(wait=False, cancel_futures=True)

    def _made(self, path: Path, side: int) -> dict[int, bytes]:
        """Return a preview made of the file, and those of other sides where all of it was decoded.

        They are by their side.
        """
        whole = image_size(path)
        with self._decoding:
            pixels = read_reduced(path, min(side, max(whole)))
            sides = SIDES if pixels.shape[:2] == whole else (side,)
            return {one: _jpeg(shrunk_to(pixels, _size_of(whole, one))) for one in sides}

    def _scaled(self, path: Path, level: int) -> Pixels:
        """Return the upright image at 2^-level of its size, (ceil(H / 2^L), ceil(W / 2^L), 3)."""
        key = (_key(path, 0), level)
        with self._one_at_a_time(key):
            with self._lock:
                found = self._decoded.look(key)
            if found is None:
                height, width = image_size(path)
                size = (max(1, -(-height // 2**level)), max(1, -(-width // 2**level)))
                with self._decoding:
                    pixels = read_reduced(path, max(size)) if level else read_image(path)
                    found = shrunk_to(pixels, size)
                with self._lock:
                    self._decoded.keep(key, found)
            return found

    def _one_at_a_time(self, key: object) -> threading.Lock:
        """Return the lock of one picture, so that it is made once however many ask for it."""
        with self._lock:
            if len(self._making) > 4096:
                self._making = {one: it for one, it in self._making.items() if it.locked()}
            return self._making.setdefault(key, threading.Lock())


def _size_of(whole: Size, side: int) -> Size:
    """Return the (height, width) of an image whose longer side is `side` pixels, or its own."""
    scale = min(1.0, side / max(whole))
    return max(1, round(whole[0] * scale)), max(1, round(whole[1] * scale))


def _key(path: Path, side: int) -> str:
    """Return what stands for a file as it is now, and a side; DetkitError where it is gone."""
    try:
        stat = path.stat()
    except OSError as error:
        raise DetkitError(f"{path}: the image cannot be read: {error.strerror}") from error
    what = f"{path.absolute()}\0{stat.st_size}\0{stat.st_mtime_ns}\0{side}\0{QUALITY}"
    return hashlib.sha256(what.encode("utf-8", "surrogateescape")).hexdigest()


def _jpeg(pixels: Pixels) -> bytes:
    """Return (H, W, 3) RGB pixels as a JPEG."""
    import cv2

    options = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)
    return encoded.tobytes()
