"""Writing a proposal file line by line, so that what was done outlives an interruption."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from detkit.errors import DetkitError, UsageError
from detkit.files import FileLock, beside, not_written, put_in_place, write_bytes
from detkit.proposals.reader import line_of
from detkit.structures import Proposals

OPENING = b'{"image"'  # of every line that is written


class ProposalWriter:
    """Writes `FILE.partial`, which becomes FILE when it is whole, and is taken up again if not.

    One writer at a time works on a FILE. `num_images` and `num_boxes` count all that it holds.
    """

    def __init__(self, path: Path, parameters: Mapping[str, Any], *, force: bool = False) -> None:
        """Begin, or go on with the partial file that is there; `done` are the images it holds.

        `force` begins anew and replaces a FILE there; a device or pipe is written to, never
        replaced. Raises UsageError when there is a FILE without `force`, or a partial file made
        with other parameters; DetkitError when another writer is at it, or a partial file is not
        of ours.
        """
        if path.suffix.lower() == ".mat":
            raise UsageError(f"-o {path}: JSON Lines are written; name it .jsonl")
        if path.is_dir():
            raise UsageError(f"-o {path}: is a folder; name a file in it")
        self.path = path
        self.parameters = dict(parameters)
        self.done: set[str] = set()
        self.num_images = self.num_boxes = 0
        self._lock: FileLock | None = None
        is_special = path.exists() and not path.is_file()
        self.partial = path if is_special else beside(path, "partial", hidden=False)
        try:
            if not is_special:
                self._lock = FileLock(beside(path, "lock"))
                self._begin(force)
            # File names need not be Unicode.
            self._file = self.partial.open(
                "a", encoding="utf-8", errors="surrogateescape", newline="\n"
            )
        except BlockingIOError as error:
            raise DetkitError(
                f"{path}: another `detkit propose` is writing it; wait for it or name another -o"
            ) from error
        except BaseException as error:
            self._release()
            if isinstance(error, OSError):
                raise DetkitError(not_written(self.partial, error)) from error
            raise

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
            if self.partial == self.path:
                return
            if kind is None:
                put_in_place(self.partial, self.path)
            elif not self.partial.stat().st_size:
                self.partial.unlink()
        except OSError as failure:
            if kind is None:
                raise DetkitError(not_written(self.path, failure)) from failure
        finally:
            self._release()

    def write(self, image: str, size: tuple[int, int], found: Proposals) -> None:
        """Add the proposals of an image of `size` (height, width)."""
        self._add(line_of(image, size, found, self.parameters))
        self.num_images += 1
        self.num_boxes += len(found.boxes)

    def write_error(self, image: str, reason: str) -> None:
        """Add the line of an image that could not be read."""
        self._add(error_line(image, reason))

    def _add(self, line: str) -> None:
        try:
            self._file.write(f"{line}\n")
            self._file.flush()
        except OSError as error:
            raise DetkitError(not_written(self.partial, error)) from error

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def _begin(self, force: bool) -> None:
        """Keep the partial file's whole lines; those of unreadable images are tried again."""
        if self.path.exists() and not force:
            raise UsageError(f"-o {self.path}: exists already; add --force to replace it")
        if not self.partial.exists():
            return
        lines = _whole_lines(self.partial)
        if force:
            next(lines, None)  # a file that is not ours stays all the same
            self.partial.unlink()
            return
        kept = []
        for line, values in lines:
            if "error" in values:
                continue
            if values.get("parameters") != self.parameters:
                raise UsageError(
                    f"{self.partial}: was begun with {_words(values.get('parameters'))}, not "
                    f"{_words(self.parameters)}; name another -o, or begin anew with --force"
                )
            kept.append(line)
            self.done.add(values["image"])
            self.num_images += 1
            self.num_boxes += len(values["boxes"])
        write_bytes(self.partial, b"".join(kept))


def error_line(image: str, reason: str) -> str:
    """Return the JSON line, without its end, of an image that could not be read."""
    return json.dumps({"image": image, "error": reason}, ensure_ascii=False)


def _whole_lines(partial: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yield the lines of a partial file, each with its object, but a last one cut short.

    Raises DetkitError for a file that we did not write.
    """
    foreign = DetkitError(
        f"{partial}: is where unfinished proposals are kept, but holds something else; move it "
        "away or name another -o"
    )
    if not partial.is_file():
        raise foreign
    with partial.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n") and (line.startswith(OPENING) or OPENING.startswith(line)):
                return
            try:
                values = json.loads(line.decode(errors="surrogateescape"))
            except (ValueError, RecursionError):
                raise foreign from None
            if not _is_ours(values):
                raise foreign
            yield line, values


def _is_ours(values: Any) -> bool:
    """Return whether a line's JSON value is one that the writer writes."""
    return (
        isinstance(values, dict)
        and isinstance(values.get("image"), str)
        and ("error" in values or isinstance(values.get("boxes"), list))
    )


def _words(parameters: Any) -> str:
    """Return parameters as text."""
    if not isinstance(parameters, dict):
        return "unknown parameters"
    return " ".join(f"{key}={value}" for key, value in parameters.items())
