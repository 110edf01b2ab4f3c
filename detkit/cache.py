"""Files kept on disk: computed once, whoever asks again.

One small file a thing, named by a key of all that it depends on, so nothing goes stale. Files are
written beside and renamed; any number of threads and processes may share a folder, and a kill
leaves at most a file that nobody reads.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from detkit.errors import UsageError

logger = logging.getLogger(__name__)

FOLDER = "DETKIT_CACHE"  # environment: another folder than the platform's
BOUND = "DETKIT_CACHE_GIB"  # environment: another bound on its size; 0: keep nothing
DEFAULT_GIB = 2.0
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


class FileCache:
    """A folder of files by key, least recently used ones removed above a bound.

    A folder that cannot be written is said once, and then works as if it were empty.
    """

    def __init__(
        self, folder: Path, what: str, max_bytes: int | None = None, suffix: str = ".npy"
    ) -> None:
        """Use `folder` for `what`, "proposals" for one; nothing is written before `write`.

        `suffix` is that of its files. The default bound is `bound`'s.
        """
        self.folder, self.what, self.suffix = folder, what, suffix
        self.max_bytes = bound() if max_bytes is None else max_bytes
        self._writable = self.max_bytes > 0
        self._bytes = 0  # as last measured, and what we have written since
        self._until_look = 0

    def read(self, key: str, *, used: bool = True) -> bytes | None:
        """Return what is kept under that key; None when there is nothing.

        It counts as `used` just now, or does not until `use` says so.
        """
        try:
            content = self._path(key).read_bytes()
        except OSError:
            return None
        if used:
            self.use(key)
        return content

    def use(self, key: str) -> None:
        """Count what is kept under that key as used just now."""
        with suppress(OSError):
            os.utime(self._path(key))

    def keys(self, start: str) -> list[str]:
        """Return the keys under which something is kept that begin so, with two letters or more."""
        files = (self.folder / start[:2]).glob(f"{start}*{self.suffix}")
        return sorted(path.name.removesuffix(self.suffix) for path in files)

    def remove(self, key: str) -> None:
        """Remove what is kept under that key: it is no whole file."""
        with suppress(OSError):
            self._path(key).unlink()

    def write(self, key: str, content: bytes) -> None:
        """Keep the content under that key; where that fails, say so once and go on."""
        if not self._writable:
            return
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, content)
        except OSError as error:
            self._writable = False
            logger.warning(
                "%s: %s are not kept for the next time: %s (another folder: %s)",
                self.folder,
                self.what,
                error.strerror or error,
                FOLDER,
            )
            return
        self._bytes += len(content)
        self._until_look -= 1
        if self._until_look < 0 or self._bytes > self.max_bytes:
            self.trim()

    def trim(self) -> int:
        """Return the bytes kept, after removing the least recently used files above the bound.

        A bound of 0 keeps nothing more and leaves what is there.
        """
        files, total = [], 0
        for path, size, used in self._files():
            if path.suffix != self.suffix:
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
        return self.folder / key[:2] / f"{key}{self.suffix}"

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
            if not path.exists():  # else Windows: someone reads the same just now
                raise
    finally:
        partial.unlink(missing_ok=True)


def bound() -> int:
    """Return the bound on a folder's size in bytes: 2 GiB, or `DETKIT_CACHE_GIB`.

    Raises UsageError when that is no number.
    """
    text = os.environ.get(BOUND, "")
    try:
        gib = float(text) if text else DEFAULT_GIB
    except ValueError:
        gib = -1.0
    if not 0 <= gib < float("inf"):
        raise UsageError(f"{BOUND}={text}: expected a size in GiB, like 2; 0 keeps nothing")
    return int(gib * 2**30)
