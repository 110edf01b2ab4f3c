"""Labelled folders as they are written: whole or not at all, and never into their source."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detkit.data.formats import reading
from detkit.data.formats.format import Labelled
from detkit.errors import DetkitError, UsageError
from detkit.files import beside, make_folder, remove_empty

_BY_SYSTEMS = frozenset({".DS_Store", "Thumbs.db"})  # put into folders by file managers


@contextmanager
def new_folder(out: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield an empty folder to write into, whose content `out` holds when the block ends.

    A block that fails leaves nothing behind and an earlier `out` as it was. Raises UsageError
    when `out` is a file, is not empty (unless `force`), or holds files detkit does not write.
    """
    out = out.resolve()
    require_free_folder(out, force=force)
    partial = beside(out, f"{os.getpid()}.partial", hidden=False)
    try:
        made = make_folder(partial)
    except OSError as error:
        raise DetkitError(f"{out}: cannot be written: {error.strerror}") from error
    try:
        yield partial
        require_free_folder(out, force=force)  # another run may have written there meanwhile
        if out.exists():
            _exchange(out, partial)
        else:
            partial.rename(out)
    except OSError as error:
        reason = error.strerror or str(error)
        raise DetkitError(f"{out}: cannot be written: {reason}; nothing was left there") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        remove_empty(made)


def require_apart(source: Path, out: Path) -> None:
    """Raise UsageError when writing `out` would touch the folder `source`."""
    old, new = source.resolve(), out.resolve()
    if new == old or old in new.parents:
        raise UsageError(f"{out}: lies in the source folder {source}; write it elsewhere")
    if new in old.parents:
        raise UsageError(f"{out}: holds the source folder {source}; write it elsewhere")


def _own_names() -> frozenset[str]:
    """Return what detkit's own writers put at the top of a labelled folder.

    `force` replaces a folder that holds nothing else; a slip like `-o ~ --force` must not cost
    anybody their files.
    """
    image = Labelled("image.jpg", 1, 1, ())
    splits = {split: [image] for split in ("all", "train", "val", "test", "trainval")}
    written = {path for form in reading.FORMATS if form.write for path, _ in form.write(splits, ())}
    written |= {form.place(split) for form in reading.FORMATS if form.write for split in splits}
    written |= _BY_SYSTEMS
    return frozenset(path.partition("/")[0] for path in written)


def _exchange(out: Path, partial: Path) -> None:
    """Put the content of `partial` into `out` in place of its own, or leave `out` as it was.

    The folder itself stays: somebody's shell may stand in it.
    """
    old = beside(out, f"{os.getpid()}.old", hidden=False)
    old.mkdir()
    moved: list[tuple[Path, Path]] = []
    try:
        for source, target in ((out, old), (partial, out)):
            for path in sorted(source.iterdir()):
                path.rename(target / path.name)
                moved.append((path, target / path.name))
    except OSError:
        for path, target in reversed(moved):
            target.rename(path)
        old.rmdir()  # not rmtree: what could not be moved back is not deleted either
        raise
    shutil.rmtree(old, ignore_errors=True)


def require_free_folder(out: Path, *, force: bool) -> None:
    """Raise UsageError when `out` may not be written, as `new_folder` does."""
    if not out.exists():
        return
    if not out.is_dir():
        raise UsageError(f"{out}: is a file; name a folder")
    held = sorted(path.name for path in out.iterdir())
    if held and not force:
        raise UsageError(f"{out}: is not empty; name another folder or add --force")
    if foreign := sorted(set(held) - _own_names()):
        raise UsageError(
            f"{out}: holds {foreign[0]!r}, which detkit did not write, so --force will not "
            "replace this folder; name another"
        )
