"""Images that are the same file twice, found by size first and hash second."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path


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


def _digest(path: Path) -> bytes:
    """Return the hash of a file's bytes."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.digest()
