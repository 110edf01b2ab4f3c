"""Proposals kept on disk: computed once an image, whoever asks again.

One small file an image and set of parameters, named by a hash of both, so nothing goes stale:
a changed image or parameter has another name. Files are written beside and renamed; any number
of threads and processes may share a folder, and a kill leaves at most a file that nobody reads.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detkit.errors import UsageError
from detkit.structures import Proposals

logger = logging.getLogger(__name__)

FOLDER = "DETKIT_CACHE"  # environment: another folder than the platform's
BOUND = "DETKIT_CACHE_GIB"  # environment: another bound on its size; 0: keep nothing
DEFAULT_GIB = 2.0  # some 50 000 images of 2000 boxes
LOOK_AGAIN = 500  # files written before the folder is measured anew: others write there, too
ROOM = 0.9  # of the bound that is kept when it was passed
ABANDONED = 3600.0  # seconds after which a partial file is of a process that was killed


def cache_folder() -> Path:
    """Return the folder that detkit may keep things in: `DETKIT_CACHE`, or the platform's."""
    if os.environ.get(FOLDER):
        return Path(os.environ[FOLDER])
    if os.name == "nt":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "detkit"


def key_of(image: NDArray[np.uint8], parameters: Mapping[str, Any]) -> str:
    """Return the name of an (H, W, 3) image's proposals under these parameters (JSON values)."""
    digest = hashlib.sha256(json.dumps([image.shape, dict(parameters)], sort_keys=True).encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


class ProposalCache:
    """A folder of proposals by key, least recently used ones removed above a bound.

    A folder that cannot be written is said once, and then works as if it were empty.
    """

    def __init__(self, folder: Path | None = None, max_bytes: int | None = None) -> None:
        """Use `folder`, by default that of `cache_folder`; nothing is written before `put`.

        The default bound is 2 GiB, or `DETKIT_CACHE_GIB`; UsageError when that is no number.
        """
        self.folder = (cache_folder() if folder is None else folder) / "proposals"
        self.max_bytes = _bound() if max_bytes is None else max_bytes
        self.hits = 0
        self._writable = self.max_bytes > 0
        self._bytes = 0  # as last measured, and what we have written since
        self._until_look = 0

    def get(self, key: str) -> Proposals | None:
        """Return the proposals of that key; None when there are none, or no whole ones."""
        path = self._path(key)
        try:
            table = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, EOFError):
            with suppress(OSError):  # cut short by a full disk or a crash: computed anew
                path.unlink()
            return None
        if table.ndim != 2 or table.shape[1] != 5 or table.dtype != np.float32:
            return None
        with suppress(OSError):
            os.utime(path)  # used just now
        self.hits += 1
        return Proposals(np.ascontiguousarray(table[:, :4]), np.ascontiguousarray(table[:, 4]))

    def put(self, key: str, proposals: Proposals) -> None:
        """Keep the proposals under that key; where that fails, say so once and go on."""
        if not self._writable:
            return
        content = io.BytesIO()
        np.save(content, np.column_stack([proposals.boxes, proposals.scores]).astype(np.float32))
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, content.getvalue())
        except OSError as error:
            self._writable = False
            logger.warning(
                "%s: proposals are not kept for the next time: %s (another folder: %s)",
                self.folder,
                error.strerror or error,
                FOLDER,
            )
            return
        self._bytes += content.tell()
        self._until_look -= 1
        if self._until_look < 0 or self._bytes > self.max_bytes:
            self.trim()

    def trim(self) -> int:
        """Return the bytes kept, after removing the least recently used files above the bound.

        A bound of 0 keeps nothing more and leaves what is there.
        """
        files, total = [], 0
        for path, size, used in self._files():
            if path.suffix != ".npy":
                if time.time() - used > ABANDONED:
                    with suppress(OSError):
                        path.unlink()
                continue
            files.append((used, size, path))
            total += size
        if total > self.max_bytes > 0:
            for _, size, path in sorted(files):
                if total <= ROOM * self.max_bytes:
                    break
                with suppress(OSError):  # another process was faster, or Windows has it open
                    path.unlink()
                total -= size
        self._bytes, self._until_look = total, LOOK_AGAIN
        return total

    def size_text(self) -> str:
        """Return where the cache is, how large it is, once trimmed, and may become, for people."""
        used, bound = self.trim() / 2**20, self.max_bytes / 2**30
        return f"{self.folder}: {used:.1f} MiB of at most {bound:.3g} GiB"

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.npy"

    def _files(self) -> list[tuple[Path, int, float]]:
        """Return (path, bytes, time of last use) of all files."""
        found = []
        for path in self.folder.glob("*/*"):
            with suppress(OSError):  # removed meanwhile
                stat = path.stat()
                found.append((path, stat.st_size, stat.st_mtime))
        return found


def _write(path: Path, content: bytes) -> None:
    """Write a file under its name at once; not synced, since a lost one is computed anew."""
    descriptor, name = tempfile.mkstemp(suffix=".partial", dir=path.parent)
    partial = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        try:
            partial.replace(path)
        except PermissionError:
            if not path.exists():  # else Windows: someone reads the same proposals just now
                raise
    finally:
        partial.unlink(missing_ok=True)


def _bound() -> int:
    """Return the bound on the folder's size in bytes."""
    text = os.environ.get(BOUND, "")
    try:
        gib = float(text) if text else DEFAULT_GIB
    except ValueError:
        gib = -1.0
    if not 0 <= gib < float("inf"):
        raise UsageError(f"{BOUND}={text}: expected a size in GiB, like 2; 0 keeps nothing")
    return int(gib * 2**30)
