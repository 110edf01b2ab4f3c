"""A long run in n shares: which images are whose, the file of each, and how they become one.

Nothing is told from one process to another. Every process goes through all sources in the same
order and takes every n-th block of them, a block being what the network sees at once, so that an
image is computed beside the same others as in one run. A share is written to a file of JSON Lines:

    {"part": 2, "of": 8, "block": 8, "command": "detect", "asked": {...}}
    ... a line an image, as the command writes it without --shard ...
    {"part": 2, "of": 8, "images": 1250, "sources": 10000, "names": "6f1c..."}

The first line says what was asked for, the last that nothing is cut off and, by a digest of all
sources' names, among which images the share was taken. `merge` compares these lines and puts the
others together in the order of the sources: byte for byte the file of one run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from detkit.errors import DetkitError, UsageError
from detkit.files import FileLock, beside, not_written, put_in_place, write_bytes
from detkit.text import agreed, counted, cut

TAIL = 4096  # bytes, of which a last line takes some 200
MOST_NAMED = 5  # parts, in a message


@dataclass(frozen=True, slots=True)
class Shard:
    """One share of a run: the `number`-th of `of`, counted from 1, in blocks of images."""

    number: int
    of: int
    block: int = 1

    @classmethod
    def parse(cls, word: str, block: int = 1) -> Shard:
        """Return the share that a word like "2/8" names; raises UsageError for what names none."""
        number, slash, of = word.partition("/")
        if not (slash and _is_number(number) and _is_number(of)):
            raise UsageError(f"--shard {word}: expected I/N, like 1/8 for the first of eight")
        if not 1 <= int(number) <= int(of):
            raise UsageError(f"--shard {word}: shares are counted from 1/{of} to {of}/{of}")
        return cls(int(number), int(of), block)

    def holds(self, place: int) -> bool:
        """Return whether the source at this place, from 0, is of this share."""
        return place // self.block % self.of == self.number - 1

    def size(self, num_sources: int) -> int:
        """Return how many of so many sources are of this share."""
        rounds, rest = divmod(num_sources, self.block * self.of)
        before = (self.number - 1) * self.block
        return rounds * self.block + min(self.block, max(0, rest - before))

    def __str__(self) -> str:
        """Return it as `--shard` names it."""
        return f"{self.number}/{self.of}"


def _is_number(word: str) -> bool:
    """Return whether a word is a number that a person would write."""
    return word.isascii() and word.isdecimal() and len(word) < 10


@dataclass
class Turns:
    """Says of each source, in their order, whether it is looked at here, and remembers them all.

    Those of the share that were done before are passed over.
    """

    shard: Shard
    num_done: int = 0
    done_names: str = ""  # the digest of their names, in order
    num_sources: int = 0
    num_own: int = 0
    _names: Any = field(default_factory=hashlib.sha256)
    _own: Any = field(default_factory=hashlib.sha256)

    def __call__(self, name: str) -> bool:
        """Return whether the next source, of this name, is to be looked at.

        Raises UsageError when the images done before are not those that come first now.
        """
        place = self.num_sources
        self.num_sources += 1
        add_name(self._names, name)
        if not self.shard.holds(place):
            return False
        self.num_own += 1
        if self.num_own > self.num_done:
            return True
        add_name(self._own, name)
        if self.num_own == self.num_done and self._own.hexdigest() != self.done_names:
            raise UsageError(self._other_images())
        return False

    def require_all(self) -> None:
        """Raise UsageError when fewer images came, in the end, than were done before."""
        if self.num_own < self.num_done:
            raise UsageError(self._other_images())

    def _other_images(self) -> str:
        return (
            f"share {self.shard} was begun on other images, or on these in another order; begin "
            "anew with --force"
        )

    @property
    def names(self) -> str:
        """The digest of all sources' names."""
        return str(self._names.hexdigest())


def add_name(digest: Any, name: str) -> None:
    """Add a source's name to a digest of names; file names need not be Unicode."""
    digest.update(name.encode("utf-8", errors="surrogatepass") + b"\n")


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
            _opening_of(self.partial)  # a file that is not ours stays all the same
        write_bytes(self.partial, json.dumps(self._opening).encode() + b"\n")

    def _take_up(self, place: Path) -> None:
        """Keep the whole lines of a file that is there, one that is closed as it is."""
        self._require_same(place)
        own, number, kept = hashlib.sha256(), 0, 0
        with place.open("rb") as file:
            kept += len(file.readline())
            for line in file:
                values = _object_or_none(line)
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
        difference = _difference(_opening_of(place), self._opening)
        if difference:
            raise UsageError(
                f"{place}: was begun with {difference}; name another -o, or begin anew with --force"
            )


@dataclass(frozen=True, slots=True)
class Part:
    """The file of a share that is whole."""

    path: Path
    shard: Shard
    opening: Mapping[str, Any]
    closing: Mapping[str, Any]

    @classmethod
    def open(cls, path: Path) -> Part:
        """Return a part by its first and last line; raises DetkitError for what is no whole one."""
        if not path.is_file():
            is_begun = beside(path, "partial", hidden=False).is_file()
            then = "is not finished; the same command with --resume goes on" if is_begun else ""
            then = "is a folder; name the files in it" if path.is_dir() else then
            raise DetkitError(f"{path}: {then or 'there is no such file'}")
        opening = _opening_of(path)
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL))
            tail = file.read()
        closing = _object_or_none(tail.rstrip(b"\n").rpartition(b"\n")[2])
        wanted = {"part": opening["part"], "of": opening["of"]}
        if not (tail.endswith(b"\n") and closing and wanted.items() <= closing.items()):
            raise DetkitError(f"{path}: its last line is missing: the file is cut off")
        shard = Shard(opening["part"], opening["of"], opening["block"])
        return cls(path, shard, opening, closing)


def is_part(values: Any) -> bool:
    """Return whether the JSON value of a file's first line opens a part."""
    keys = {"part", "of", "block", "command", "asked"}
    return isinstance(values, dict) and keys <= set(values)


def require_whole(values: Any, path: Path) -> None:
    """Raise UsageError when the JSON value of a file's first line says that it is only a part."""
    if is_part(values):
        raise UsageError(
            f"{path}: is part {values['part']} of {values['of']}; put all together first: "
            "detkit merge PARTS... -o FILE"
        )


def open_parts(paths: Sequence[Path]) -> list[Part]:
    """Return the parts of one run in their order.

    Raises DetkitError for a file that is no part or is cut off, a part that is missing or doubled,
    and parts of different runs: other options, other images.
    """
    parts = [Part.open(path) for path in paths]
    if not parts:
        raise UsageError("no parts named; expected: detkit merge PARTS... -o FILE")
    first = parts[0]
    for one in parts[1:]:
        difference = _difference(one.opening, first.opening)
        if difference:
            raise DetkitError(
                f"{one.path} and {first.path} are parts of different runs: the first was made with "
                f"{difference}"
            )
        if any(one.closing[key] != first.closing[key] for key in ("sources", "names")):
            raise DetkitError(
                f"{one.path} and {first.path} are parts of different runs: of "
                f"{one.closing['sources']} and {first.closing['sources']} images, not the same "
                "ones in the same order"
            )
    by_number: dict[int, Part] = {}
    for one in parts:
        other = by_number.setdefault(one.shard.number, one)
        if other is not one:
            raise DetkitError(
                f"{other.path} and {one.path} are both part {one.shard.number} of {one.shard.of}; "
                "name each once"
            )
    missing = [n for n in range(1, first.shard.of + 1) if n not in by_number]
    if missing:
        named = ", ".join(map(str, missing[:MOST_NAMED])) + (", ..." * (len(missing) > MOST_NAMED))
        raise DetkitError(
            f"{first.path} is one of {first.shard.of} parts: "
            f"{agreed(len(missing), 'part', 'parts')} {named} "
            f"{agreed(len(missing), 'is', 'are')} missing"
        )
    return [by_number[number] for number in sorted(by_number)]


def merged_lines(parts: Sequence[Part]) -> Iterator[bytes]:
    """Yield the lines of all parts, as `open_parts` returns them, in the order of the sources.

    Raises DetkitError for a part that does not hold as many images as it says.
    """
    num_sources = parts[0].closing["sources"]
    _allow_files(len(parts))
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(part.path.open("rb")) for part in parts]
        for file in files:
            file.readline()
        for place in range(num_sources):
            index = place // parts[0].shard.block % len(parts)
            yield _line_of_image(files[index], parts[index].path)
        for part, file in zip(parts, files, strict=True):
            if "image" in (_object_or_none(file.readline()) or {"image": ""}):
                raise DetkitError(f"{part.path}: holds more images than are of its share")


def merge(paths: Sequence[Path], out: Path, *, force: bool = False) -> tuple[int, int]:
    """Write the parts of one run as one file; return how many images, and how many unreadable.

    Raises as `open_parts` and `merged_lines` do, and UsageError where `out` exists, unless
    `force`, or is one of the parts.
    """
    if out.is_dir():
        raise UsageError(f"-o {out}: is a folder; name a file")
    if out.is_file() and any(path.exists() and out.samefile(path) for path in paths):
        raise UsageError(f"-o {out}: is one of the parts; name another")
    if out.exists() and not force:
        raise UsageError(f"-o {out}: exists already; add --force to replace it")
    lines = merged_lines(open_parts(paths))
    is_special = out.exists() and not out.is_file()
    partial = out if is_special else beside(out, f"{os.getpid()}.partial")
    num_images = num_bad = 0
    try:
        with partial.open("wb") as file:
            for line in lines:
                file.write(line)
                num_images += 1
                num_bad += is_error(line)
        if not is_special:
            put_in_place(partial, out)
    except OSError as error:
        raise DetkitError(not_written(out, error)) from error
    finally:
        if not is_special:
            partial.unlink(missing_ok=True)
    return num_images, num_bad


def is_error(line: bytes) -> bool:
    """Return whether a line tells of an image that could not be read."""
    return b'"error"' in line and "error" in (_object_or_none(line) or {})


def _line_of_image(file: BinaryIO, path: Path) -> bytes:
    """Return the next line of a part; raises DetkitError when it is no image's."""
    line = file.readline()
    if not line.startswith(b'{"image"'):
        raise DetkitError(f"{path}: holds fewer images than are of its share; was it changed?")
    return line


def _opening_of(path: Path) -> dict[str, Any]:
    """Return the first line of a part; raises DetkitError for a file that has none."""
    try:
        with path.open("rb") as file:
            values = _object_or_none(file.readline())
    except OSError as error:
        raise DetkitError(f"{path}: cannot be read: {error.strerror or error}") from error
    numbers = [values.get(key) for key in ("part", "of", "block")] if values else []
    if values is None or not is_part(values) or not all(type(one) is int for one in numbers):
        raise DetkitError(
            f"{path}: is no part of a run: its first line does not say which; --shard I/N and "
            "--devices N write parts"
        )
    return values


def _object_or_none(line: bytes) -> dict[str, Any] | None:
    """Return the object of a line of JSON, None where it holds none."""
    try:
        values = json.loads(line.decode("utf-8", errors="surrogateescape"))
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def _difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Return what was asked for otherwise in two runs, in words; "" when it was the same."""
    asked = [
        {"command": values["command"], "parts": values["of"], "batch size": values["block"]}
        | values["asked"]
        for values in (one, other)
    ]
    for key in {**asked[0], **asked[1]}:
        own, others = (values.get(key) for values in asked)
        if own != others:
            return f"{key} {_short(own)}, not {_short(others)}"
    return ""


def _short(value: Any) -> str:
    """Return a value as text that fits into a line."""
    return "none" if value in (None, []) else cut(str(value))


def _allow_files(number: int) -> None:
    """Have the system let this process open so many files, if it can."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft not in (resource.RLIM_INFINITY, -1) and soft < number + 64:
            resource.setrlimit(resource.RLIMIT_NOFILE, (number + 64, hard))


def places_of_parts(folder: Path, number: int) -> list[Path]:
    """Return where so many processes of one run write their parts."""
    return [folder / f"part-{one}.jsonl" for one in range(1, number + 1)]


def in_words(parts: Sequence[Part]) -> str:
    """Return what parts hold, in words."""
    return f"{counted(len(parts), 'part')}, {counted(parts[0].closing['sources'], 'image')}"
