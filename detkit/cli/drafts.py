"""`detect --as-labels`: what may be asked for, and what is said of the folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from detkit.cli.console import Console
from detkit.errors import UsageError
from detkit.text import agreed, counted

if TYPE_CHECKING:
    from detkit.inference.found_labels import FoundLabels


def least_scores(words: Sequence[str]) -> tuple[float | None, list[str]]:
    """Return the number among the words of `--score`, and those that are for one class.

    Of several numbers the last counts; None where there is none. Raises UsageError for a word
    that is neither.
    """
    least = None
    for word in words:
        if "=" in word:
            continue
        try:
            least = float(word)
        except ValueError:
            least = float("nan")
        if least != least:
            raise UsageError(f"--score {word}: expected a number, or one of a class like car=0.6")
    return least, [word for word in words if "=" in word]


def require_labels(
    out: Path | None,
    to: str | None,
    sources: Sequence[str],
    *,
    beside: Mapping[str, Path | None],
    force: bool,
) -> None:
    """Raise UsageError for what is wrong with --as-labels and --to, before a model is opened.

    `beside` has what else is written, by option: it may not go into the new folder, which has
    to be empty.
    """
    if out is None:
        if to is not None:
            raise UsageError(f"--to {to}: is for labels; name their folder with --as-labels OUT")
        return
    from detkit.data.convert import format_named
    from detkit.data.output import require_apart, require_free_folder

    if to is None:
        raise UsageError(f"--as-labels {out}: name the format, like --to coco")
    format_named(to)
    require_free_folder(out, force=force)
    for source in map(Path, sources):
        if source.is_dir():
            require_apart(source, out)
    for option, path in beside.items():
        if path is not None and out.resolve() in (path.resolve(), *path.resolve().parents):
            raise UsageError(f"{option} {path}: lies in {out}, which --as-labels writes")


@contextlib.contextmanager
def open_labels(
    out: Path | None,
    to: str | None,
    class_names: Sequence[str],
    least: Mapping[str, float],
    *,
    force: bool,
) -> Iterator[FoundLabels | None]:
    """Yield what gathers the labels, or None where none are asked for."""
    if out is None or to is None:
        yield None
        return
    from detkit.inference.found_labels import FoundLabels

    with FoundLabels(out, to, class_names, least, force=force) as labels:
        yield labels


def write_labels(console: Console, labels: FoundLabels, out: Path, to: str) -> None:
    """Write the folder; say what is in it and what its format cannot hold."""
    with console.counting("copying") as progress:
        lost = labels.write(progress)
    if labels.num_repeated:
        are = agreed(labels.num_repeated, "is", "are")
        again = counted(labels.num_repeated, "image")
        console.note(f"{again} named more than once {are} labelled once")
    for loss in lost:
        console.warn(loss)
    objects, images = counted(labels.num_objects, "object"), counted(labels.num_images, "image")
    console.note(f"{out}: {images} with {objects} to correct, as {to}")
