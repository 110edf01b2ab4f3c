"""Reading from one folder and writing to another: neither may lie in the other."""

from __future__ import annotations

from pathlib import Path

from detkit.errors import UsageError


def require_apart(source: Path, out: Path) -> None:
    """Raise UsageError when writing `out` would touch the folder `source`."""
    old, new = source.resolve(), out.resolve()
    if new == old or old in new.parents:
        raise UsageError(f"{out}: lies in the source folder {source}; write it elsewhere")
    if new in old.parents:
        raise UsageError(f"{out}: holds the source folder {source}; write it elsewhere")
