"""Files with the same bytes. Only those of equal size are read."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path


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
    return same_bytes(sizes, digest_of_file)


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


def digest_of_file(path: Path) -> bytes | None:
    """Return the hash of a file's bytes, read piece by piece; None where it cannot be read."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError:
        return None
    return digest.digest()
