"""Image files, each opened once: its header, whether it is whole, when it was taken, which others
have the same bytes, and what it looks like.

Threads read them, on all cores: OpenCV, Pillow and hashlib work without Python's lock. Each holds
the bytes and pixels of one file at a time.
"""

from __future__ import annotations

import os
import stat
import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detkit.data.exif_times import Taken, taken_of
from detkit.data.identical_files import digest_of, same_bytes
from detkit.data.image_headers import (
    HEADER_BYTES,
    JPEG,
    PNG,
    ImageHeader,
    UnreadableImage,
    header_from,
)
from detkit.data.images import (
    decode,
    decode_small_grey,
    reason_of,
    small_grey,
)
from detkit.data.looks import GREY_SIDE, Looks, LooksCache, blank_looks, look_key
from detkit.data.threads import in_threads

_AT_ONCE = 16  # images that a thread opens without a word
_TAIL_BYTES = 4096  # of a file's end, which tell whether it is whole


@dataclass(frozen=True, slots=True)
class ImageFile:
    """What one file says, as far as it was asked."""

    header: ImageHeader | None = None  # None: not even that can be read, or is asked for
    problem: str = ""  # why it cannot be read, without its name; "" where it can
    taken: Taken | None = None
    digest: bytes | None = None  # only where another file has as many bytes

    @property
    def size(self) -> tuple[int, int] | None:
        """Upright (height, width) in pixels; None for an image that cannot be read."""
        return None if self.header is None or self.problem else self.header.upright_size


@dataclass(frozen=True)
class ImageFiles:
    """Image files that `open_images` has opened, by path."""

    files: Mapping[Path, ImageFile]
    sizes: Mapping[Path, int]  # bytes of each; those that are missing lack
    looks: Looks
    looked_at: Mapping[Path, int]  # place among the looks

    def __getitem__(self, path: Path) -> ImageFile:
        """Return what a file says."""
        return self.files[path]

    def looks_of(self, paths: Iterable[Path]) -> Looks:
        """Return what some of those `looked_at` look like."""
        return self.looks.part([self.looked_at[path] for path in paths])

    def identical(self, paths: Iterable[Path]) -> list[list[Path]]:
        """Return what `identical_files.identical_files` does."""
        sizes = {path: self.sizes[path] for path in paths if path in self.sizes}
        return same_bytes(sizes, lambda path: self.files[path].digest)


def open_images(
    paths: Iterable[Path],
    *,
    headers: bool = False,
    digests: bool = True,
    dated: Collection[Path] = (),
    looked_at: Iterable[Path] = (),
    progress: Callable[[int, int], None] | None = None,
) -> ImageFiles:
    """Return what image files say.

    With `headers` it is told whether each can be read and is whole, with `digests` which have the
    same bytes, of those `dated` when they were taken. Those `looked_at` are decoded, unless the
    cache has what they look like; one that cannot be read shows nothing. `progress` hears (files
    done, in all).
    """
    paths = list(dict.fromkeys(paths))
    places = {path: place for place, path in enumerate(dict.fromkeys(looked_at))}
    found = zip(paths, in_threads(_stat, paths, 64))
    stats = {path: one for path, one in found if one is not None}
    looks, cache = blank_looks(len(places)), LooksCache()
    keys = {path: look_key(path, stats[path]) for path in places if path in stats}
    kept = cache.fill({key: places[path] for path, key in keys.items()}, keys, looks)
    number_of = Counter(one.st_size for one in stats.values())
    dated = frozenset(dated)

    def read(path: Path) -> tuple[ImageFile, NDArray[np.uint8] | None]:
        if path not in stats:
            return ImageFile(problem=reason_of(FileNotFoundError())), None
        size = stats[path].st_size
        same = digests and size > 0 and number_of[size] > 1
        look = path in places and places[path] not in kept
        return read_image_file(path, headers, path in dated, same, look)

    files: dict[Path, ImageFile] = {}
    for path, (file, grey) in zip(paths, in_threads(read, paths, _AT_ONCE)):
        files[path] = file
        if grey is not None:
            looks.grey[places[path]] = grey
            cache.keep(path, keys[path], grey)
        if progress is not None:
            progress(len(files), len(paths))
    cache.flush()
    looks.describe()
    return ImageFiles(files, {path: one.st_size for path, one in stats.items()}, looks, places)


def read_image_file(
    path: Path, header: bool = False, date: bool = False, digest: bool = False, look: bool = False
) -> tuple[ImageFile, NDArray[np.uint8] | None]:
    """Return what a file says of what is asked, and its small grey picture to `look` at, or None.

    No more of it is read than that takes. What cannot be read is a `problem`, and no picture.
    """
    if not (header or date or digest or look):
        return ImageFile(), None
    try:
        with path.open("rb", buffering=0) as file:
            content = _Content(file, whole=digest or look)
            return _read(content, header, date, digest, look)
    except OSError as error:
        return ImageFile(problem=reason_of(error)), None


class _Content:
    """The bytes of an open file, read as far as they are asked for."""

    def __init__(self, file: RawIOBase, *, whole: bool) -> None:
        """Read all of a file, or its start."""
        self._file = file
        self._read = (file.read() if whole else file.read(HEADER_BYTES)) or b""
        self._is_whole = whole or len(self._read) < HEADER_BYTES

    @property
    def start(self) -> bytes:
        """The first `HEADER_BYTES`."""
        return self._read[:HEADER_BYTES]

    def rest(self) -> bytes:
        """Return what follows the start."""
        return self.whole()[HEADER_BYTES:]

    def whole(self) -> bytes:
        """Return all bytes."""
        if not self._is_whole:
            self._file.seek(HEADER_BYTES)
            self._read += self._file.read() or b""
            self._is_whole = True
        return self._read

    def end(self) -> tuple[int, bytes]:
        """Return how many bytes there are, and the last of them."""
        if self._is_whole:
            return len(self._read), self._read[-_TAIL_BYTES:]
        length = self._file.seek(0, os.SEEK_END)
        self._file.seek(max(0, length - _TAIL_BYTES))
        return length, self._file.read() or b""


def _read(
    content: _Content, header: bool, date: bool, digest: bool, look: bool
) -> tuple[ImageFile, NDArray[np.uint8] | None]:
    """Return what `read_image_file` does, of an open file."""
    found, problem, pixels, grey = None, "", None, None
    if header:
        try:
            found = header_from(content.start, content.rest)
            if not _ends_well(content):
                pixels = decode(content.whole())
        except (UnreadableImage, OSError, struct.error) as error:
            problem = reason_of(error)
    if look:
        try:
            if pixels is None or content.start.startswith(JPEG):
                grey = decode_small_grey(content.whole(), GREY_SIDE)
            else:
                grey = small_grey(pixels, GREY_SIDE)
        except (UnreadableImage, OSError, struct.error):
            pass
    taken = taken_of(content.start, content.whole) if date else None
    return ImageFile(found, problem, taken, digest_of(content.whole()) if digest else None), grey


def _ends_well(content: _Content) -> bool:
    """Return whether a file's last bytes are those of a whole image, as far as they tell."""
    head = content.start[:16]
    length, tail = content.end()
    if head.startswith(JPEG[:2]):
        return tail.rstrip(b"\0\n\r ").endswith(b"\xff\xd9")
    if head.startswith(PNG):
        return b"IEND" in tail
    if head.startswith(b"RIFF"):
        return length >= int.from_bytes(head[4:8], "little") + 8
    if head.startswith(b"GIF8"):
        return tail.endswith(b";")
    if head.startswith(b"BM"):
        return length >= int.from_bytes(head[2:6], "little")
    return False


def _stat(path: Path) -> os.stat_result | None:
    """Return what the system says of a file; None for what is none."""
    try:
        found = path.stat()
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return None
    return found if stat.S_ISREG(found.st_mode) else None
