"""Writing a proposal file line by line, so that what was done outlives an interruption."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from detkit.errors import DetkitError, UsageError
from detkit.files import not_written, write_bytes
from detkit.proposals.file import line_of
from detkit.structures import Proposals


class ProposalWriter:
    """Writes `FILE.partial`, which becomes FILE when it is whole, and is taken up again if not."""

    def __init__(self, path: Path, parameters: Mapping[str, Any], *, force: bool = False) -> None:
        """Begin, or go on with the partial file that is there; `done` are the images it holds.

        `force` begins anew and replaces a FILE there. Raises UsageError when there is one
        without `force`, or a partial file made with other parameters.
        """
        if path.suffix.lower() == ".mat":
            raise UsageError(f"-o {path}: JSON Lines are written; name it .jsonl")
        if path.exists() and not force:
            raise UsageError(f"-o {path}: exists already; add --force to replace it")
        self.path = path
        self.partial = path.with_name(f"{path.name}.partial")
        self.parameters = dict(parameters)
        self.done: set[str] = set()
        try:
            if force:
                self.partial.unlink(missing_ok=True)
            elif self.partial.exists():
                self._take_up()
            # File names need not be Unicode.
            self._file = self.partial.open(
                "a", encoding="utf-8", errors="surrogateescape", newline="\n"
            )
        except OSError as error:
            raise DetkitError(not_written(self.partial, error)) from error

    def __enter__(self) -> ProposalWriter:
        """Return the writer."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Name the file if the block did not fail; else the partial one stays."""
        try:
            self._file.close()
            if kind is None:
                self.partial.replace(self.path)
            elif not self.partial.stat().st_size:
                self.partial.unlink()
        except OSError as failure:
            if kind is None:
                raise DetkitError(not_written(self.path, failure)) from failure

    def write(self, image: str, size: tuple[int, int], found: Proposals) -> None:
        """Add the proposals of an image of `size` (height, width)."""
        self._add(line_of(image, size, found, self.parameters))

    def write_error(self, image: str, reason: str) -> None:
        """Add the line of an image that could not be read."""
        self._add(json.dumps({"image": image, "error": reason}, ensure_ascii=False))

    def _add(self, line: str) -> None:
        try:
            self._file.write(f"{line}\n")
            self._file.flush()
        except OSError as error:
            raise DetkitError(not_written(self.partial, error)) from error

    def _take_up(self) -> None:
        """Keep the partial file's whole lines; those of unreadable images are tried again."""
        kept = []
        for line in self.partial.read_bytes().splitlines(keepends=True):
            try:
                values = json.loads(line.decode(errors="surrogateescape"))
            except ValueError:  # the line that was cut short
                continue
            if not line.endswith(b"\n") or not isinstance(values, dict) or "error" in values:
                continue
            if values.get("parameters") != self.parameters:
                raise UsageError(
                    f"{self.partial}: was begun with {_words(values.get('parameters'))}, not "
                    f"{_words(self.parameters)}; name another -o, or begin anew with --force"
                )
            kept.append(line)
            self.done.add(str(values.get("image")))
        write_bytes(self.partial, b"".join(kept))


def _words(parameters: Any) -> str:
    """Return parameters as text."""
    if not isinstance(parameters, dict):
        return "unknown parameters"
    return " ".join(f"{key}={value}" for key, value in parameters.items())
