"""Files that are whole or not there: written beside their place, then renamed; and their locks.

And text files, whatever wrote them.
"""

from __future__ import annotations

import codecs
import errno
import hashlib
import io
import math
import os
import shlex
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path
from typing import TextIO

from detkit.errors import DetkitError, UsageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
    import msvcrt

PATIENCE = 2.0  # seconds
LOOK_SECONDS = 0.1  # between two looks at a lock that another holds
LONGEST_NAME = 255  # bytes: ext4, XFS, Btrfs; APFS and NTFS count signs and so take more
READ_ONLY = os.O_RDONLY | getattr(os, "O_BINARY", 0)  # for `os.open`
_USUAL_BYTES = 1 << 13  # of a label file
SHORT_NAME = 143  # bytes: eCryptfs, which takes the fewest of those in use


class FileLock:
    """A lock file that one process at a time holds, from its making to `release`.

    The operating system lets go of it when the process ends, however it ends, so no stale lock
    can be left, though its file can.
    """

    def __init__(self, path: Path) -> None:
        """Take the lock; raises BlockingIOError when it is held already."""
        self.path = path
        self._descriptor = _locked(path)

    def release(self, *, keep_file: bool = False) -> None:
        """Let others in, and delete the file unless it has still to tell of a killed holder."""
        if fcntl is not None and not keep_file:
            self.path.unlink(missing_ok=True)  # while it is ours: see the end of `_locked`
        os.close(self._descriptor)
        if fcntl is None and not keep_file:
            with suppress(OSError):  # Windows deletes no open file: another may have it by now
                self.path.unlink()


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Have one process, or thread, at a time in the block; the others wait for the lock file."""
    while True:
        try:
            lock = FileLock(path)
            break
        except BlockingIOError:
            time.sleep(LOOK_SECONDS)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def holding(folder: Path, program: str) -> Iterator[None]:
    """Hold a folder, made if it is not there, for one process at a time while the block lasts.

    Raises UsageError, which says what `program` may be at work there, when another process holds
    it, and DetkitError when it cannot be made. One that was made and got no content goes again.
    """
    made: list[Path] = []
    try:
        made = make_folder(folder)
        lock = FileLock(folder / ".lock")
    except BlockingIOError as error:
        raise UsageError(
            f"{folder}: another {program} is writing there; wait for it or name another folder"
        ) from error
    except OSError as error:
        remove_empty(made)
        raise DetkitError(f"{folder}: cannot be written: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()
        remove_empty(made)


def make_folder(path: Path) -> list[Path]:
    """Make a folder, and those above it; return those that were not there, for `remove_empty`.

    Raises OSError, and leaves nothing then.
    """
    missing = list(takewhile(lambda one: not one.exists(), (path, *path.parents)))
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:
        remove_empty(missing)
        raise
    return missing


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove those folders, each before the one that holds it, that hold nothing."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that at any moment `path` holds the old content or all of the new.

    Raises DetkitError, in one line, when the disk is full or the place cannot be written; the
    old file then stays and nothing is left beside it. A device or pipe (/dev/null) is written to,
    never replaced by a file.
    """
    if is_special(path):
        try:
            path.write_bytes(content)
        except OSError as error:
            raise DetkitError(not_written(path, error)) from error
        return
    partial = beside(path, f"{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        put_in_place(partial, path)
    except OSError as error:
        raise DetkitError(not_written(path, error)) from error
    finally:
        partial.unlink(missing_ok=True)


def require_writable(path: Path) -> None:
    """Raise DetkitError, as `write_bytes` does, when no file, or folder's file, can be made there.

    To be asked before the work whose result goes there. A file is made, and is gone again, in
    `path` or the nearest folder above it that there is; a device or pipe is not touched.
    """
    if is_special(path):
        return
    try:
        place = path.absolute()
        folder = next(one for one in (place, *place.parents) if one.is_dir())
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DetkitError(not_written(path, error)) from error


def is_special(path: Path) -> bool:
    """Return whether a path is a device or a pipe: written to, never replaced by a file."""
    return path.exists() and not path.is_file() and not path.is_dir()


def beside(path: Path, ending: str, *, hidden: bool = True) -> Path:
    """Return a place in the folder of `path` that is called after it: ".NAME.ENDING".

    A name that this would make too long for a file system is cut, always in the same way; one
    that fits is not. With `hidden` off there is no leading dot.
    """
    return path.with_name(fitting_name(f"{'.' * hidden}{path.name}.{ending}", SHORT_NAME))


def fitting_name(name: str, longest: int = LONGEST_NAME) -> str:
    """Return a file name of at most `longest` bytes: itself, or cut in its middle.

    What is cut out is replaced by a digest, so that two names stay two, and the end, with the
    suffix, is kept. `longest` is at least 80.
    """
    if len(os.fsencode(name)) <= longest:
        return name
    digest = hashlib.blake2b(os.fsencode(name), digest_size=6).hexdigest()
    end = _cut_to(name[::-1], 32)[::-1]
    start = _cut_to(name, longest - len(digest) - 2 - 32)
    return f"{start}~{digest}~{end}"


def _cut_to(text: str, longest: int) -> str:
    """Return the beginning of a text that takes at most `longest` bytes in a file's name."""
    used = 0
    for place, sign in enumerate(text):
        used += len(os.fsencode(sign))
        if used > longest:
            return text[:place]
    return text


def put_in_place(partial: Path, path: Path) -> None:
    """Replace a file by one written beside it; raises OSError as `Path.replace` does.

    Windows replaces no file that another program has open. A search index, a virus scanner or an
    `eval` beside a training has it for a moment: it is tried for `PATIENCE` seconds.
    """
    until = time.monotonic() + PATIENCE
    while True:
        try:
            partial.replace(path)
            return
        except PermissionError:
            if fcntl is not None or time.monotonic() > until:
                raise
        time.sleep(0.05)


def open_text(path: Path, newline: str | None = None) -> TextIO:
    """Return a text file opened: UTF-8, or UTF-16 where it starts with that mark (PowerShell).

    A byte that is not UTF-8 is a surrogate (PEP 383). `newline` is that of `open`.
    """
    file = path.open("rb")
    is_wide = file.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    encoding, errors = ("utf-16", "replace") if is_wide else ("utf-8-sig", "surrogateescape")
    return io.TextIOWrapper(file, encoding, errors, newline)


def read_whole(path: str, most: float = math.inf) -> bytes | None:
    """Return a file's bytes, or None where they are more than `most`.

    In half the time of a file object: a data set has a hundred thousand files. Raises OSError.
    """
    descriptor = os.open(path, READ_ONLY)
    try:
        data = os.read(descriptor, _USUAL_BYTES)
        if 0 < len(data) < _USUAL_BYTES:  # all of a file is read at once, where it is a plain one
            size = len(data)
        else:
            size = os.fstat(descriptor).st_size
            if size > most:
                return None
            data += os.read(descriptor, max(size + 1 - len(data), 1))
        if len(data) != size or not size:  # it grew, or does not tell its size
            while len(data) <= most and (more := os.read(descriptor, 1 << 20)):
                data += more
    finally:
        os.close(descriptor)
    return data if len(data) <= most else None


def sha256_of(path: Path) -> str:
    """Return the SHA-256 (hexadecimal) of a file's bytes, read piece by piece; raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def decoded(data: bytes) -> str:
    """Return a whole text file's bytes as `open_text` reads them, ends of lines as they are."""
    if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return data.decode("utf-16", "replace")
    return data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")


def append_text(path: Path, text: str) -> None:
    """Add lines to the end of a text file; raises DetkitError as `write_bytes` does.

    A file that was not there, and could not be written, is not left.
    """
    is_new = not path.exists()
    try:
        with path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except OSError as error:
        if is_new:
            path.unlink(missing_ok=True)
        raise DetkitError(not_written(path, error)) from error


def shell_word(path: Path) -> str:
    """Return the path as one word of a command line, quoted for this system's shell."""
    return subprocess.list2cmdline([str(path)]) if os.name == "nt" else shlex.quote(str(path))


def is_full(error: OSError) -> bool:
    """Return whether there was no room for a file, on its disk or by a quota."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def not_written(path: Path, error: OSError) -> str:
    """Return the line that says why `path` could not be written and what to do."""
    if is_full(error):
        resumable = path.with_name("resume.ckpt").exists()
        then = "go on with --resume" if resumable else "start again"
        return (
            f"{path}: not written, the disk is full; free some space, then {then} "
            "(files written earlier are whole)"
        )
    return f"{path}: cannot be written: {error.strerror or error}"


def _locked(path: Path) -> int:
    """Return the open descriptor of a lock file, held by it alone."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        except OSError as error:
            os.close(descriptor)
            raise BlockingIOError(errno.EWOULDBLOCK, "is locked", str(path)) from error
        # Windows deletes no open file, and tells it apart from its path by other numbers.
        if fcntl is None or _is_at(descriptor, path):
            return descriptor
        os.close(descriptor)  # the holder before us deleted it between our open and our lock


def _is_at(descriptor: int, path: Path) -> bool:
    """Return whether the open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
