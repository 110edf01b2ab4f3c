"""Files of JSON Lines, an image a line, that grow beside their place and can be taken up again."""

from __future__ import annotations

import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from detkit.errors import DetkitError, UsageError
from detkit.files import FileLock, beside, is_full, is_special, not_written, put_in_place

STRING = rb'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"'  # of JSON
FIRST_KEY = re.compile(rb'\{"image": ?(' + STRING + rb")[,}]")
BUFFER = 1 << 20  # bytes: a line of proposals has some 60,000
Self = TypeVar("Self", bound="LineWriter")


class LineWriter(ABC):
    """Writes `FILE.partial`, a line an image, which becomes FILE when it is whole.

    What an interrupted process has left there is kept. One writer at a time works on a FILE. A
    device or pipe is written to as it is, never replaced.
    """

    way_on = "the same command goes on"  # after an interruption

    def __init__(self, path: Path, other: str) -> None:
        """Hold FILE, take up what is there and open it.

        Raises UsageError for a folder, and DetkitError where `other`, in words, holds FILE or it
        cannot be written.
        """
        if path.is_dir():
            raise UsageError(f"-o {path}: is a folder; name a file in it")
        self.path = path
        self.num_lines = 0  # of images, those found there, too
        self.is_done = False  # there was nothing left to do
        self._lock: FileLock | None = None
        self.partial = path if is_special(path) else beside(path, "partial", hidden=False)
        try:
            if self.partial != path:
                self._lock = FileLock(beside(path, "lock"))
                self._begin()
            if not self.is_done:
                self._file = self.partial.open("ab")
        except BlockingIOError as error:
            raise DetkitError(
                f"{path}: {other} is writing it; wait for it or name another -o"
            ) from error
        except BaseException as error:
            self._release()
            if isinstance(error, OSError):
                raise self._not_written(self.partial, error) from error
            raise

    @abstractmethod
    def _begin(self) -> None:
        """Take up what is there, or begin anew."""

    def _end(self) -> None:
        """Add what stands behind the last image's line."""
        return

    def __enter__(self: Self) -> Self:
        """Return the writer."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Name the file if the block did not fail; else what is done stays in the partial one."""
        try:
            if not self.is_done:
                self._close(is_whole=kind is None)
        except OSError as failure:
            if kind is None:
                raise self._not_written(self.path, failure) from failure
        finally:
            self._release()

    def _close(self, *, is_whole: bool) -> None:
        """Close the file and, where it is whole, name it; leave nothing where nothing was done."""
        with self._file:
            if is_whole:
                self._end()
            if is_whole and self.partial != self.path:
                self._file.flush()
                os.fsync(self._file.fileno())
        if self.partial == self.path:
            return
        if is_whole:
            put_in_place(self.partial, self.path)
        elif not self.num_lines:
            self.partial.unlink()

    def _add(self, line: str) -> None:
        """Add a line, given with or without its end; file names need not be Unicode."""
        content = line.rstrip("\n").encode("utf-8", errors="surrogateescape")
        try:
            self._file.write(content + b"\n")
            self._file.flush()
        except OSError as error:
            raise self._not_written(self.partial, error) from error
        self.num_lines += 1

    def _not_written(self, path: Path, error: OSError) -> DetkitError:
        """Return the error that says why a file could not be written and what to do."""
        if not is_full(error):
            return DetkitError(not_written(path, error))
        return DetkitError(
            f"{path}: not written, the disk is full; free some space, then {self.way_on}: what was "
            "done is kept"
        )

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()


def whole_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file with their ends, but a last one that has none: it was cut short."""
    with path.open("rb", buffering=BUFFER) as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            yield line


def object_or_none(line: bytes) -> dict[str, Any] | None:
    """Return the object of a line of JSON, None where it holds none."""
    try:
        values = json.loads(line.decode("utf-8", errors="surrogateescape"))
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def image_of(line: bytes) -> str | None:
    """Return the name of the image that a whole line is of, None where it is of none.

    A line that begins as all of detkit's do is not read to its end: that is where the time goes.
    """
    begins = FIRST_KEY.match(line)
    if begins and line.endswith(b"}\n"):
        return str(json.loads(begins[1].decode("utf-8", errors="surrogateescape")))
    name = (object_or_none(line) or {}).get("image")
    return name if isinstance(name, str) else None


def is_error(line: bytes) -> bool:
    """Return whether a line tells of an image that could not be read."""
    return b'"error"' in line and "error" in (object_or_none(line) or {})
