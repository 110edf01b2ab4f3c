"""The file of a share: what its first and last line say, and in what two runs differ."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detkit.errors import DetkitError, UsageError
from detkit.files import beside
from detkit.shards.shard import Shard
from detkit.text import cut

TAIL = 4096  # bytes, of which a last line takes some 200


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
            then = "there is no such file"
            if path.is_dir():
                then = "is a folder; name the files in it"
            elif beside(path, "partial", hidden=False).is_file():
                then = "is not finished; the same command with --resume goes on"
            raise DetkitError(f"{path}: {then}")
        opening = opening_of(path)
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL))
            tail = file.read()
        closing = object_or_none(tail.rstrip(b"\n").rpartition(b"\n")[2])
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


def opening_of(path: Path) -> dict[str, Any]:
    """Return the first line of a part; raises DetkitError for a file that has none."""
    try:
        with path.open("rb") as file:
            values = object_or_none(file.readline())
    except OSError as error:
        raise DetkitError(f"{path}: cannot be read: {error.strerror or error}") from error
    numbers = [values.get(key) for key in ("part", "of", "block")] if values else []
    if values is None or not is_part(values) or not all(type(one) is int for one in numbers):
        raise DetkitError(
            f"{path}: is no part of a run: its first line does not say which; --shard I/N and "
            "--devices N write parts"
        )
    return values


def object_or_none(line: bytes) -> dict[str, Any] | None:
    """Return the object of a line of JSON, None where it holds none."""
    try:
        values = json.loads(line.decode("utf-8", errors="surrogateescape"))
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def difference_of(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
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
