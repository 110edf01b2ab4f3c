"""What images look like: small grey pictures of them and their hashes, and those that are kept.

cv2 is imported inside the functions: reading labels does not need it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detkit.cache import FileCache, bound, cache_folder
from detkit.data.threads import in_threads

GREY_SIDE = 96  # pixels of the small grey picture, whatever the shape of the image
HASH_SIDE = 8  # its hash compares 8 x 8 cells with their right and their lower neighbour
NUM_BITS = 2 * HASH_SIDE**2
PLAIN = 2.0  # standard deviation of grey values below which a picture shows nothing to compare
# Of the cache's bound, so much is for small pictures: those of 29,000 images in .25 of 2 GiB.
_CACHE_PART = 0.125
_PACK = 256  # pictures in a file of the cache; one file each took as long as a third of decoding
_READING = 1  # the version of how a small picture is read; another one is another key
_KEY_BYTES, _COUNT_BYTES = 16, 8
_AT_ONCE = 64  # images whose hashes a thread finds at once


@dataclass(frozen=True, slots=True)
class Looks:
    """What N images look like: enough to tell copies."""

    grey: NDArray[np.uint8]  # (N, 96, 96)
    hashes: NDArray[np.uint64]  # (N, 2)
    shows: NDArray[np.bool_]  # (N,) whether there is something to compare

    def __len__(self) -> int:
        """Return N."""
        return len(self.grey)

    def part(self, places: Sequence[int]) -> Looks:
        """Return what some of the images look like; neighbours in their order are not copied."""
        chosen: NDArray[np.int64] | slice = np.array(places, np.int64)
        if len(places) and places[-1] - places[0] == len(places) - 1 and _is_run(places):
            chosen = slice(places[0], places[-1] + 1)
        return Looks(self.grey[chosen], self.hashes[chosen], self.shows[chosen])

    def describe(self) -> None:
        """Fill in the rest by `grey`."""

        def some(start: int) -> None:
            places = slice(start, start + _AT_ONCE)
            grey = self.grey[places]
            self.hashes[places] = difference_hashes(grey)
            self.shows[places] = [_deviation(one) >= PLAIN for one in grey]

        list(in_threads(some, range(0, len(self), _AT_ONCE)))


def blank_looks(number: int) -> Looks:
    """Return the looks of so many images that show nothing, to be filled in."""
    return Looks(
        np.zeros((number, GREY_SIDE, GREY_SIDE), np.uint8),
        np.zeros((number, NUM_BITS // 64), np.uint64),
        np.zeros(number, np.bool_),
    )


def _is_run(places: Sequence[int]) -> bool:
    """Return whether each place follows the one before it."""
    return all(place == first for first, place in enumerate(places, places[0]))


def _deviation(grey: NDArray[np.uint8]) -> float:
    """Return the standard deviation of grey values."""
    import cv2

    return float(cv2.meanStdDev(grey)[1][0, 0])


def difference_hash(grey: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return 128 bits, as (2,), of a grey picture (H, W): which cells are lighter than the next.

    N. Krawetz's difference hash ("Kind of like that", 2013), here of neighbours to the right and
    below.
    """
    return np.asarray(difference_hashes(grey[None])[0], np.uint64)


def difference_hashes(grey: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return the `difference_hash` of each of (N, H, W) grey pictures, as (N, 2)."""
    import cv2

    side = HASH_SIDE + 1
    cells = np.empty((len(grey), side, side), np.uint8)
    for picture, small in zip(grey, cells):
        cv2.resize(picture, (side, side), dst=small, interpolation=cv2.INTER_AREA)
    corner = cells[:, :-1, :-1]
    bits = np.stack([cells[:, :-1, 1:] > corner, cells[:, 1:, :-1] > corner], axis=1)
    return np.packbits(bits.reshape(len(grey), NUM_BITS), axis=1).view(np.uint64)


class LooksCache:
    """Small grey pictures kept in detkit's cache, by path, size and time of change of their files.

    Those of one folder's images lie together, in files of up to `_PACK`: their number as 8 bytes
    (little-endian), a key of 16 bytes each, then the pictures.
    """

    def __init__(self) -> None:
        """Open the cache; nothing is written before `keep`."""
        self._files = FileCache(
            cache_folder() / "looks", "small pictures", int(bound() * _CACHE_PART), ".grey"
        )
        self._folder: Path | None = None
        self._waiting: dict[bytes, NDArray[np.uint8]] = {}

    def fill(self, places: Mapping[bytes, int], paths: Iterable[Path], looks: Looks) -> set[int]:
        """Put what is kept of the images of `paths` into their places in `looks`; return those.

        `places` are by `look_key`.
        """
        filled: set[int] = set()
        for folder in dict.fromkeys(path.parent for path in paths):
            for name in self._files.keys(_folder_key(folder)):
                content = self._files.read(name, used=False)
                found = _unpacked(content) if content is not None else {}
                if not found:  # cut short by a full disk
                    self._files.remove(name)
                mine = {places[key]: picture for key, picture in found.items() if key in places}
                for place, picture in mine.items():
                    looks.grey[place] = picture
                filled.update(mine)
                if mine:
                    self._files.use(name)
        return filled

    def keep(self, path: Path, key: bytes, grey: NDArray[np.uint8]) -> None:
        """Keep the small picture of an image, by `flush` at the latest."""
        if path.parent != self._folder or len(self._waiting) == _PACK:
            self.flush()
            self._folder = path.parent
        self._waiting[key] = grey

    def flush(self) -> None:
        """Write what waits to be kept."""
        if self._waiting and self._folder is not None:
            head = len(self._waiting).to_bytes(_COUNT_BYTES, "little") + b"".join(self._waiting)
            content = head + b"".join(one.tobytes() for one in self._waiting.values())
            name = _folder_key(self._folder) + hashlib.blake2b(head, digest_size=8).hexdigest()
            self._files.write(name, content)
        self._waiting = {}


def look_key(path: Path, stat: os.stat_result) -> bytes:
    """Return the name in the cache of the small picture of a file of that size and time."""
    values = [_READING, GREY_SIDE, stat.st_size, stat.st_mtime_ns]
    digest = hashlib.blake2b(json.dumps(values).encode(), digest_size=_KEY_BYTES)
    digest.update(os.fsencode(path.absolute()))
    return digest.digest()


def _folder_key(folder: Path) -> str:
    """Return what the names of the files begin with that hold a folder's pictures."""
    return hashlib.blake2b(os.fsencode(folder.absolute()), digest_size=16).hexdigest()


def _unpacked(content: bytes) -> dict[bytes, NDArray[np.uint8]]:
    """Return the pictures of a file of the cache by their keys; none of one that is not whole."""
    number = int.from_bytes(content[:_COUNT_BYTES], "little")
    start = _COUNT_BYTES + number * _KEY_BYTES
    if len(content) != start + number * GREY_SIDE**2:
        return {}
    keys = (content[at : at + _KEY_BYTES] for at in range(_COUNT_BYTES, start, _KEY_BYTES))
    pictures = np.frombuffer(content, np.uint8, offset=start)
    return dict(zip(keys, pictures.reshape(number, GREY_SIDE, GREY_SIDE)))
