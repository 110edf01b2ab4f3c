"""Writing the file of a share line by line, so that what was done outlives an interruption."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detkit.errors import DetkitError, UsageError
from detkit.files import is_special, write_bytes
from detkit.shards.lines import LineWriter, image_of, is_error, object_or_none, whole_lines
from detkit.shards.part import difference_of, opening_of
from detkit.shards.shard import Shard, Turns, add_name


class PartWriter(LineWriter):
    """Writes the lines of a share between one that opens and one that closes it.

    What an interrupted process has left is kept: `turns` passes over it.
    """

    way_on = "the same command with --resume goes on"

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
        if is_special(path):
            raise UsageError(f"-o {path}: a share goes to a file, which can be taken up again")
        self.turns = Turns(shard)
        self.num_bad = 0  # images that could not be read
        self._resume, self._force = resume, force
        self._opening: dict[str, Any] = {"part": shard.number, "of": shard.of, "block": shard.block}
        self._opening |= {"command": command, "asked": json.loads(json.dumps(asked))}
        super().__init__(path, "another process")

    def write(self, line: str, *, is_bad: bool = False) -> None:
        """Add an image's line, with or without its end; `is_bad`: it could not be read."""
        self._add(line)
        self.num_bad += is_bad

    def _end(self) -> None:
        """Close the share; UsageError when it was begun on more images than there are."""
        turns = self.turns
        turns.require_all()
        closing = {key: self._opening[key] for key in ("part", "of")}
        closing |= {"images": turns.num_own, "sources": turns.num_sources}
        self._add(json.dumps({**closing, "names": turns.names}))

    def _begin(self) -> None:
        """Take up what is there, or begin the file by the line that says what was asked for."""
        for place in (self.path, self.partial):
            if not place.exists() or self._force:
                continue
            if not self._resume:
                raise UsageError(
                    f"-o {place}: exists already; --resume goes on, --force begins anew"
                )
            self._take_up(place)
            return
        if self._force and self.partial.exists():
            opening_of(self.partial)  # a file that is not ours stays all the same
        write_bytes(self.partial, json.dumps(self._opening).encode() + b"\n")

    def _take_up(self, place: Path) -> None:
        """Keep the whole lines of a file that is there, one that is closed as it is."""
        difference = difference_of(opening_of(place), self._opening)
        if difference:
            raise UsageError(
                f"{place}: was begun with {difference}; name another -o, or begin anew with --force"
            )
        own, number = hashlib.sha256(), 0
        lines = whole_lines(place)
        kept = len(next(lines, b""))
        for line in lines:
            name = image_of(line)
            if name is None:
                self.is_done = place == self.path and object_or_none(line) is not None
                break
            add_name(own, name)
            number, kept = number + 1, kept + len(line)
            self.num_bad += is_error(line)
        if place == self.path and not self.is_done:
            raise DetkitError(f"{place}: is cut off; begin anew with --force")
        if not self.is_done:
            os.truncate(place, kept)
        self.num_lines = number
        self.turns = Turns(self.turns.shard, number, own.hexdigest())
