"""The files a command is told to write: judged before it begins to work."""

from __future__ import annotations

from pathlib import Path

from detkit.errors import UsageError


def require_free(
    option: str,
    path: Path | None,
    *,
    force: bool,
    data: Path | None = None,
    made: Path | None = None,
) -> None:
    """Raise UsageError when an option's file cannot, or may not, be written.

    That is: over a file there is, unless `force`; over a folder; into a folder there is not, or
    into the labelled folder `data`. The command itself makes `made`. A device or pipe may be
    written to. A `path` of None was not given.
    """
    if path is None:
        return
    if path.is_dir():
        raise UsageError(f"{option} {path}: is a folder; name a file")
    if not path.parent.is_dir() and path.parent != made:
        raise UsageError(f"{option} {path}: there is no folder {path.parent}; make it first")
    if path.is_file() and not force:
        raise UsageError(f"{option} {path}: exists already; add --force to replace it")
    if data is not None and data.is_dir():
        from detkit.data.apart import require_apart

        require_apart(data, path)
