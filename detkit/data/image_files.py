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
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from io import RawIOBase
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detkit.data.exif_times import Taken, taken_of
from detkit.data.identical_files import digest_of, digest_of_file, same_bytes
from detkit.data.image_headers import (
    FIRST_BYTES,
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
    ending: int | None = None  # a hash of the last bytes, only where another file has as many
    digest: bytes | None = None  # only where another file has as many, which end alike

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
    cache has what they look like; one that cannot be read shows nothing. Of the others only those
    are read whole that have as many bytes as another and end like it. `progress` hears (files
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
        return read_image_file(path, headers, path in dated, same, same and path in places, look)

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
    for path, digest in _other_digests(files, stats):
        files[path] = replace(files[path], digest=digest)
    return ImageFiles(files, {path: one.st_size for path, one in stats.items()}, looks, places)


def _other_digests(
    files: Mapping[Path, ImageFile], stats: Mapping[Path, os.stat_result]
) -> Iterator[tuple[Path, bytes | None]]:
    """Yield the files not read whole that have as many bytes as another and end like it.

    With the digest of each; None where it cannot be read.
    """
    ends = {
        path: (stats[path].st_size, file.ending)
        for path, file in files.items()
        if file.ending is not None
    }
    number_of = Counter(ends.values())
    alike = [path for path, end in ends.items() if number_of[end] > 1 and not files[path].digest]
    return zip(alike, in_threads(digest_of_file, alike, _AT_ONCE))


def read_image_file(
    path: Path,
    header: bool = False,
    date: bool = False,
    ending: bool = False,
    digest: bool = False,
    look: bool = False,
) -> tuple[ImageFile, NDArray[np.uint8] | None]:
    """Return what a file says of what is asked, and its small grey picture to `look` at, or None.

    No more of it is read than that takes. What cannot be read is a `problem`, and no picture.
    """
    if not (header or date or ending or digest or look):
        return ImageFile(), None
    try:
        with path.open("rb", buffering=0) as file:
            content = _Content(file, whole=digest or look)
            return _read(content, header, date, ending, digest, look)
    except OSError as error:
        return ImageFile(problem=reason_of(error)), None


class _Content:
    """The bytes of an open file, read as far as they are asked for."""

    def __init__(self, file: RawIOBase, *, whole: bool) -> None:
        """Read all of a file, or its first bytes."""
        self._file = file
        self._read = (file.read() if whole else file.read(FIRST_BYTES)) or b""
        self._is_whole = whole or len(self._read) < FIRST_BYTES

    @property
    def first(self) -> bytes:
        """The first `FIRST_BYTES`."""
        return self._read[:FIRST_BYTES]

    @property
    def start(self) -> bytes:
        """The first `HEADER_BYTES`."""
        if not self._is_whole and len(self._read) < HEADER_BYTES:
            self._file.seek(len(self._read))
            self._read += self._file.read(HEADER_BYTES - len(self._read)) or b""
            self._is_whole = len(self._read) < HEADER_BYTES
        return self._read[:HEADER_BYTES]

    def whole(self) -> bytes:
        """Return all bytes."""
        if not self._is_whole:
            self._file.seek(len(self._read))
            self._read += self._file.read() or b""
            self._is_whole = True
        return self._read

    def pieces(self) -> Iterator[bytes]:
        """Yield all bytes as `header_from` takes them."""
        yield self.first
        yield self.start[FIRST_BYTES:]
        yield self.whole()[HEADER_BYTES:]

    @cached_property
    def end(self) -> tuple[int, bytes]:
        """How many bytes there are, and the last of them."""
        if self._is_whole:
            return len(self._read), self._read[-_TAIL_BYTES:]
        length = self._file.seek(0, os.SEEK_END)
        self._file.seek(max(0, length - _TAIL_BYTES))
        return length, self._file.read() or b""


def _read(
    content: _Content, header: bool, date: bool, ending: bool, digest: bool, look: bool
) -> tuple[ImageFile, NDArray[np.uint8] | None]:
    """Return what `read_image_file` does, of an open file."""
    found, problem, pixels, grey = None, "", None, None
    if header:
        try:
            found = header_from(content.pieces())
            if not _ends_well(content):
                pixels = decode(content.whole())
        except (UnreadableImage, OSError, struct.error) as error:
            problem = reason_of(error)
    if look:
        try:
            if pixels is None or content.first.startswith(JPEG):
                grey = decode_small_grey(content.whole(), GREY_SIDE)
            else:
                grey = small_grey(pixels, GREY_SIDE)
        except (UnreadableImage, OSError, struct.error):
            pass
    taken = taken_of(content.start, content.whole) if date else None
    end = hash(content.end[1]) if ending else None
    whole = digest_of(content.whole()) if digest else None
    return ImageFile(found, problem, taken, end, whole), grey


def _ends_well(content: _Content) -> bool:
    """Return whether a file's last bytes are those of a whole image, as far as they tell."""
    head = content.first[:16]
    length, tail = content.end
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
