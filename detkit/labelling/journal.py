"""The journal of a labelled folder: JSON Lines, each on disk before its change is confirmed.

The folder's label files follow from it, so a kill at any moment loses nothing that was confirmed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from detkit.errors import DetkitError
from detkit.files import write_bytes

VERSION = 1  # of the lines; a later detkit's are refused
Line = Mapping[str, Any]


def text_of(line: Line) -> bytes:
    """Return a line as the journal has it."""
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a journal; a last one that a kill cut short is dropped.

    Raises DetkitError for a line that is broken otherwise, and for a journal of a later detkit.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DetkitError(f"{path}: cannot be read: {error.strerror or error}") from error
    *whole, torn = content.split(b"\n")
    lines: list[dict[str, Any]] = []
    for number, row in enumerate(whole, start=1):
        try:
            line = json.loads(row)
        except ValueError:
            line = None
        if not isinstance(line, dict):
            # A file system may write the end before the middle when the power fails.
            if number == len(whole) and not torn:
                break
            raise DetkitError(
                f"{path}:{number}: the journal is broken there; take the line out to go on "
                "without that one change"
            )
        lines.append(line)
    if not lines or "detkit_label" not in lines[0]:
        raise DetkitError(f"{path}: no journal of detkit label; name another folder")
    if lines[0]["detkit_label"] != VERSION:
        raise DetkitError(f"{path}: written by a later detkit; update detkit")
    return lines


class Journal:
    """A journal that is written to; one process at a time, see `FileLock`."""

    def __init__(self, path: Path, lines: Iterable[Line]) -> None:
        """Write the journal anew, of these lines alone, and open it for more.

        Raises DetkitError where it cannot be written; the old one then stays.
        """
        self.path = path
        write_bytes(path, b"".join(map(text_of, lines)))
        try:
            self._file = path.open("r+b", buffering=0)
            self._end = self._file.seek(0, os.SEEK_END)
        except OSError as error:
            raise DetkitError(f"{path}: cannot be opened: {error.strerror or error}") from error

    def append(self, line: Line) -> None:
        """Add a line, on disk when this returns; raises OSError, and then nothing was added."""
        rest = memoryview(text_of(line))
        size = len(rest)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(self._end)
            self._file.seek(self._end)
            raise
        self._end += size

    def close(self) -> None:
        """Close the file."""
        self._file.close()
