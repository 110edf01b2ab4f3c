"""Writing the file of a share line by line, so that what was done outlives an interruption."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from detkit.errors import DetkitError, UsageError
from detkit.files import FileLock, beside, not_written, put_in_place, write_bytes
from detkit.shards.part import difference_of, object_or_none, opening_of
from detkit.shards.shard import Shard, Turns, add_name


class PartWriter:
    """Writes `FILE.partial`, a line an image, which becomes FILE when the share is whole.

    What an interrupted process has left is kept: `turns` passes over it. One writer at a time
    works on a FILE.
    """

    def __init__(
        self,
        path: Path,
        shard: Shard,
        command: str,
        asked: Mapping[str, Any],
        *,
        resume: bool = False,
        force: bool = False,
    ) -> None:
        """Begin, or with `resume` go on; `asked` is what the lines depend on besides the images.

        Raises UsageError where there are results and neither `resume` nor `force`, or they were
        made with other options; DetkitError when another writer is at it, or what is there is not
        ours.
        """
        if path.is_dir():
            raise UsageError(f"-o {path}: is a folder; name a file in it")
        if path.exists() and not path.is_file():
            raise UsageError(f"-o {path}: a share goes to a file, which can be taken up again")
        self.path = path
        self.partial = beside(path, "partial", hidden=False)
        self.turns = Turns(shard)
        self._num_lines = 0
        self.num_bad = 0  # images that could not be read
        self.is_done = False  # there was nothing left to do
        self._opening: dict[str, Any] = {"part": shard.number, "of": shard.of, "block": shard.block}
        self._opening |= {"command": command, "asked": json.loads(json.dumps(asked))}
        try:
            self._lock = FileLock(beside(path, "lock"))
        except BlockingIOError as error:
            raise DetkitError(
                f"{path}: another process is writing it; wait for it or name another -o"
            ) from error
        except OSError as error:
            raise DetkitError(not_written(path, error)) from error
        try:
            self._begin(resume, force)
            if not self.is_done:
                self._file = self.partial.open("ab")
        except BaseException as error:
            self._lock.release()
            if isinstance(error, OSError):
                raise DetkitError(not_written(self.partial, error)) from error
            raise

    def __enter__(self) -> PartWriter:
        """Return the writer."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the share and name its file if the block did not fail; else what is done stays."""
        try:
            if self.is_done:
                return
            if kind is None:
                turns = self.turns
                turns.require_all()
                closing = {key: self._opening[key] for key in ("part", "of")}
                closing |= {"images": turns.num_own, "sources": turns.num_sources}
                self._add(json.dumps({**closing, "names": turns.names}).encode())
            self._file.close()
            if kind is None:
                put_in_place(self.partial, self.path)
            elif not self._num_lines:
                self.partial.unlink()
        except OSError as failure:
            if kind is None:
                raise DetkitError(not_written(self.path, failure)) from failure
        finally:
            self._lock.release()

    def write(self, line: str, *, is_bad: bool = False) -> None:
        """Add an image's line, with or without its end; `is_bad`: it could not be read."""
        self._add(line.rstrip("\n").encode("utf-8", errors="surrogateescape"))
        self.num_bad += is_bad

    def _add(self, line: bytes) -> None:
        try:
            self._file.write(line + b"\n")
            self._file.flush()
            self._num_lines += 1
        except OSError as error:
            raise DetkitError(not_written(self.partial, error)) from error

    def _begin(self, resume: bool, force: bool) -> None:
        """Take up what is there, or begin the file by the line that says what was asked for."""
        for place in (self.path, self.partial):
            if not place.exists() or force:
                continue
            if not resume:
                raise UsageError(
                    f"-o {place}: exists already; --resume goes on, --force begins anew"
                )
            self._take_up(place)
            return
        if force and self.partial.exists():
            opening_of(self.partial)  # a file that is not ours stays all the same
        write_bytes(self.partial, json.dumps(self._opening).encode() + b"\n")

    def _take_up(self, place: Path) -> None:
        """Keep the whole lines of a file that is there, one that is closed as it is."""
        self._require_same(place)
        own, number, kept = hashlib.sha256(), 0, 0
        with place.open("rb") as file:
            kept += len(file.readline())
            for line in file:
                values = object_or_none(line)
                if not line.endswith(b"\n") or values is None:
                    break
                if "image" not in values:
                    self.is_done = place == self.path
                    break
                add_name(own, values["image"])
                number, kept = number + 1, kept + len(line)
                self.num_bad += "error" in values
        if place == self.path and not self.is_done:
            raise DetkitError(f"{place}: is cut off; begin anew with --force")
        if not self.is_done:
            os.truncate(place, kept)
        self._num_lines = number
        self.turns = Turns(self.turns.shard, number, own.hexdigest())

    def _require_same(self, place: Path) -> None:
        """Raise UsageError when a file was begun with other options, naming the first."""
        difference = difference_of(opening_of(place), self._opening)
        if difference:
            raise UsageError(
                f"{place}: was begun with {difference}; name another -o, or begin anew with --force"
            )
