"""Writing a proposal file line by line, so that what was done outlives an interruption."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from detkit.errors import DetkitError, UsageError
from detkit.files import beside, put_in_place
from detkit.proposals.reader import Head, line_of
from detkit.shards.lines import BUFFER, LineWriter, image_of, is_error, whole_lines
from detkit.structures import Proposals

OPENING = b'{"image"'  # of every line that is written


class ProposalWriter(LineWriter):
    """Writes the lines of a proposal file; `num_images` and `num_boxes` count all that it holds.

    `done` are the images that an interrupted process has left.
    """

    def __init__(self, path: Path, parameters: Mapping[str, Any], *, force: bool = False) -> None:
        """Begin, or go on with the partial file that is there.

        `force` begins anew and replaces a FILE there. Raises UsageError when there is a FILE
        without `force`, or a partial file made with other parameters; DetkitError when another
        writer is at it, or a partial file is not of ours.
        """
        self.parameters = dict(parameters)
        self.done: set[str] = set()
        self.num_images = self.num_boxes = 0
        self._force = force
        super().__init__(path, "another `detkit propose`")

    def write(self, image: str, size: tuple[int, int], found: Proposals) -> None:
        """Add the proposals of an image of `size` (height, width)."""
        self._add(line_of(image, size, found, self.parameters))
        self.num_images += 1
        self.num_boxes += len(found.boxes)

    def write_error(self, image: str, reason: str) -> None:
        """Add the line of an image that could not be read."""
        self._add(error_line(image, reason))

    def _begin(self) -> None:
        """Keep the partial file's whole lines; those of unreadable images are tried again."""
        if self.path.exists() and not self._force:
            raise UsageError(f"-o {self.path}: exists already; add --force to replace it")
        if not self.partial.exists():
            return
        lines = self._lines_there()
        if self._force:
            next(lines, None)  # a file that is not ours stays all the same
            self.partial.unlink()
            return
        kept, has_errors = 0, False
        for length, head in lines:
            kept += length
            if head is None:
                has_errors = True
                continue
            if head.parameters != self.parameters:
                raise UsageError(
                    f"{self.partial}: was begun with {_words(head.parameters)}, not "
                    f"{_words(self.parameters)}; name another -o, or begin anew with --force"
                )
            self.done.add(head.image)
            self.num_images += 1
            self.num_boxes += head.num_boxes
        os.truncate(self.partial, kept)
        if has_errors:
            self._drop_errors()
        self.num_lines = self.num_images

    def _lines_there(self) -> Iterator[tuple[int, Head | None]]:
        """Yield the bytes and the beginning of each line that is there, None of an error's.

        Not of a last one that was cut short. Raises DetkitError for a file that we did not write.
        """
        foreign = DetkitError(
            f"{self.partial}: is where unfinished proposals are kept, but holds something else; "
            "move it away or name another -o"
        )
        if not self.partial.is_file():
            raise foreign
        with self.partial.open("rb", buffering=BUFFER) as file:
            for line in file:
                if not line.endswith(b"\n") and _may_begin(line):
                    return
                head = Head.of(line)
                if head is None and not (image_of(line) is not None and is_error(line)):
                    raise foreign
                yield len(line), head

    def _drop_errors(self) -> None:
        """Write the partial file anew without the lines of images that could not be read."""
        rest = beside(self.partial, f"{os.getpid()}.partial")
        try:
            with rest.open("wb") as file:
                file.writelines(line for line in whole_lines(self.partial) if not is_error(line))
            put_in_place(rest, self.partial)
        finally:
            rest.unlink(missing_ok=True)


def error_line(image: str, reason: str) -> str:
    """Return the JSON line, without its end, of an image that could not be read."""
    return json.dumps({"image": image, "error": reason}, ensure_ascii=False)


def _may_begin(line: bytes) -> bool:
    """Return whether something may be the beginning of a line of ours."""
    return line.startswith(OPENING) or OPENING.startswith(line)


def _words(parameters: Any) -> str:
    """Return parameters as text."""
    if not isinstance(parameters, dict):
        return "unknown parameters"
    return " ".join(f"{key}={value}" for key, value in parameters.items())
