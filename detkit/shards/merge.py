"""The files of all shares put together, in the order of the sources."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from detkit.errors import DetkitError, UsageError
from detkit.files import beside, is_special, not_written, put_in_place
from detkit.shards.lines import is_error, object_or_none
from detkit.shards.part import Part, difference_of
from detkit.text import agreed, counted

MOST_NAMED = 5  # parts, in a message


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
        difference = difference_of(one.opening, first.opening)
        if difference:
            raise DetkitError(
                f"{one.path} and {first.path} are parts of different runs: the first was made with "
                f"{difference}"
            )
        if any(one.closing[key] != first.closing[key] for key in ("sources", "names")):
            raise DetkitError(
                f"{one.path} and {first.path} are parts of different runs: of "
                f"{counted(one.closing['sources'], 'image')} and "
                f"{counted(first.closing['sources'], 'image')}, not the same ones in the same "
                "order"
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
            if "image" in (object_or_none(file.readline()) or {"image": ""}):
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
    if out.is_file() and not force:
        raise UsageError(f"-o {out}: exists already; add --force to replace it")
    lines = merged_lines(open_parts(paths))
    partial = out if is_special(out) else beside(out, f"{os.getpid()}.partial")
    num_images = num_bad = 0
    try:
        with partial.open("wb") as file:
            for line in lines:
                file.write(line)
                num_images += 1
                num_bad += is_error(line)
        if partial != out:
            put_in_place(partial, out)
    except OSError as error:
        raise DetkitError(not_written(out, error)) from error
    finally:
        if partial != out:
            partial.unlink(missing_ok=True)
    return num_images, num_bad


def _line_of_image(file: BinaryIO, path: Path) -> bytes:
    """Return the next line of a part; raises DetkitError when it is no image's."""
    line = file.readline()
    if not line.startswith(b'{"image"'):
        raise DetkitError(f"{path}: holds fewer images than are of its share; was it changed?")
    return line


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
