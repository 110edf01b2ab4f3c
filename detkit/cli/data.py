"""The commands that write labelled folders: demo, convert, split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detkit.cli.console import Console
from detkit.cli.options import (
    Classes,
    Data,
    Force,
    Group,
    Quiet,
    Seed,
    class_list,
)
from detkit.errors import DetkitError, UsageError
from detkit.text import agreed, counted

if TYPE_CHECKING:
    from detkit.data.records import Dataset

SkipUnread = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out labels and images that cannot be read.")
]
Out = Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")]


def demo(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write it.")] = Path(
        "demo"
    ),
    seed: Seed = 0,
    num_images: Annotated[
        int, typer.Option(metavar="N", help="How many images, in all three splits.")
    ] = 340,
    image_size: Annotated[
        str | None,
        typer.Option(
            metavar="WxH", help="Width and height of all images, or one number for both, pixels."
        ),
    ] = None,
    object_size: Annotated[
        str | None,
        typer.Option(
            metavar="MIN-MAX", help="The longer side of the objects, pixels. [default: any]"
        ),
    ] = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Write a small labelled folder to try everything on.

    The images are drawn here, offline; the labels are Pascal VOC XML, split into train, val
    and test. The same seed draws the same images. Small objects in large images need
    both sizes; there are up to 40 in an image then, where they have room.

    \b
    Examples:
      detkit demo demo
      detkit demo large --num-images 40 --image-size 3000x2000 --object-size 14-24
    """
    from detkit.data.demo.pictures import write_demo

    console = Console(quiet)
    width_height = _two_numbers("--image-size", image_size, "x", "WxH", "3000x2000")
    with console.counting("drawing") as advance:
        write_demo(
            folder,
            num_images=num_images,
            seed=seed,
            image_size=None if width_height is None else width_height[::-1],
            object_size=_two_numbers("--object-size", object_size, "-", "MIN-MAX", "14-24"),
            force=force,
            progress=advance,
        )
    console.note(f"{folder}: {num_images} labelled images (Pascal VOC). Try:")
    console.note(f"  detkit check {folder}")
    console.note(f"  detkit train {folder} --model ssd -o run --max-minutes 2")
    console.note(f"  detkit eval run/best.safetensors {folder}")
    console.note(f"  detkit detect run/best.safetensors {folder}/JPEGImages --draw drawn")


def convert(
    data: Annotated[
        list[Path],
        typer.Argument(metavar="DATA", help="The labelled folder; of several, the union."),
    ],
    out: Out,
    to: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="FORMAT", help="FORMATS. [with --apply: that of DATA, if it can be]"
        ),
    ] = None,
    classes: Classes = None,
    rename: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OLD=NEW",
            help="Call a class otherwise; two of one name become one. Repeatable.",
        ),
    ] = None,
    drop: Annotated[
        list[str] | None,
        typer.Option(metavar="CLASS", help="Leave out a class's objects. Repeatable."),
    ] = None,
    min_side: Annotated[
        float, typer.Option(metavar="N", min=0.0, help="Leave out objects under N pixels.")
    ] = 0.0,
    only: Annotated[
        Path | None,
        typer.Option(
            "--only-images", metavar="FILE", help="Keep only images that a text names, one a line."
        ),
    ] = None,
    patch: Annotated[
        Path | None,
        typer.Option(
            "--apply", metavar="FILE", help="Change single labels, as `detkit suspects` writes."
        ),
    ] = None,
    skip_bad: SkipUnread = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Write a labelled folder, or several as one, in another format.

    The images are copied; the source is only read. What the new format cannot hold (YOLO:
    difficult objects; most: crowds; all but COCO: masks' areas) is said. Labels or images that
    cannot be read are not dropped on the way: nothing is written then, unless --skip-bad
    leaves them out and says how many.

    Of several folders, classes of one name are one, splits of one name are put together, and
    images of one name are told apart. A patch is put in first (all of it, or it is refused), then
    classes are renamed, then left out.

    \b
    Examples:
      detkit convert photos photos-coco --to coco
      detkit convert day night both --to yolo --rename automobile=car --min-side 8
      detkit convert photos mended --apply patch.json
    """
    from detkit.data.formats.reading import format_of, writable
    from detkit.data.label_patch import apply_patch, read_patch
    from detkit.data.merging import merge
    from detkit.data.output import require_apart
    from detkit.data.selection import drop_classes, drop_small, only_images, rename_classes
    from detkit.data.splits import select_classes

    console = Console(quiet)
    if to is None and patch is None:
        raise UsageError("--to is missing: the format to write, like --to coco")
    _require_writable(out, to, force)
    pairs = _pairs("--rename", rename or ())
    chosen = class_list(classes)
    if patch is not None and len(data) > 1:
        raise UsageError("--apply: a patch is of one folder; convert that first")
    changes = None if patch is None else read_patch(patch)
    dataset = merge([_readable(console, one, None, skip_bad) for one in data])
    for one in data:
        require_apart(one if one.is_dir() else one.parent, out)
    steps: list[tuple[bool, Callable[[Dataset], Dataset]]] = [
        (changes is not None, lambda it: apply_patch(it, changes or (), str(patch))),
        (bool(pairs), lambda it: rename_classes(it, pairs)),
        (bool(drop), lambda it: drop_classes(it, drop or ())),
        (chosen is not None, lambda it: select_classes(replace(it, notes=()), chosen or ())),
        (min_side > 0, lambda it: drop_small(it, min_side)),
        (only is not None, lambda it: only_images(it, only or Path())),
    ]
    if len(data) > 1:
        tell_notes(console, dataset, findings_follow=True)
    for is_asked, step in steps:
        if is_asked:
            dataset = step(dataset)
            tell_notes(console, dataset, findings_follow=True)
    _write(console, dataset, out, to or writable(format_of(dataset)).name, force)


def split(
    data: Data,
    out: Out,
    val: Annotated[float, typer.Option(metavar="X", help="The share for validation.")] = 0.2,
    test: Annotated[float, typer.Option(metavar="X", help="The share for the test.")] = 0.0,
    seed: Seed = 0,
    group: Group = "auto",
    to: Annotated[
        str | None,
        typer.Option(metavar="FORMAT", help="FORMATS. [default: that of DATA, if it can be]"),
    ] = None,
    classes: Classes = None,
    skip_bad: SkipUnread = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Divide a labelled folder into train, val and test.

    The result is written to a folder of its own, OUT. The same seed divides the same folder in
    the same way. What cannot be read is treated as by `detkit convert`.

    Images that belong together stay together, or the score would be too good: by --group auto
    those of one folder, of one stem before a number (rec3_000123), of one burst by EXIF times,
    and copies of each other, saved again, resized or cut a little.

    \b
    Examples:
      detkit split photos photos-split --val .2 --test .1 --seed 0
      detkit split frames frames-split --val .2 --group '(rec[0-9]+)_'
    """
    from detkit.data.formats.reading import format_of, writable
    from detkit.data.splits import require_shares, split_dataset

    console = Console(quiet)
    require_shares(val, test)
    _require_writable(out, to, force)
    dataset = _readable(console, data, classes, skip_bad)
    with console.counting("looking") as progress:
        divided = split_dataset(
            dataset, val=val, test=test, seed=seed, group=group, progress=progress
        )
    for note in divided.notes[len(dataset.notes) :]:
        console.note(note)
    _write(console, divided, out, to or writable(format_of(dataset)).name, force)


def _two_numbers(
    option: str, text: str | None, between: str, form: str, example: str
) -> tuple[int, int] | None:
    """Return the whole numbers of `3000x2000` or `14-24`; one stands for both.

    None when the option was not given. Raises UsageError for anything else.
    """
    if text is None:
        return None
    words = [word.strip() for word in text.lower().split(between)]
    if len(words) > 2 or not all(word.isascii() and word.isdecimal() for word in words):
        raise UsageError(f"{option} {text}: expected {form} or one number, like {example}")
    return int(words[0]), int(words[-1])


def _pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
    """Return {old: new} of texts `old=new`; raise UsageError for others, or one given twice."""
    pairs: dict[str, str] = {}
    for text in texts:
        old, equals, new = (part.strip() for part in text.partition("="))
        if not (old and equals and new):
            raise UsageError(f"{option} {text}: expected OLD=NEW, like automobile=car")
        if old in pairs:
            raise UsageError(f"{option} {text}: {old} is given twice")
        pairs[old] = new
    return pairs


def tell_notes(console: Console, dataset: Dataset, *, findings_follow: bool = False) -> None:
    """Say what was found in a labelled folder, and what kinds of files are not read."""
    for note in dataset.notes:
        console.note(note)
    for finding in () if findings_follow else dataset.findings:
        if finding.code == "unread-image":
            console.warn(finding.message)


def warn_of_unread(console: Console, dataset: Dataset) -> None:
    """Say how many labels could not be read at all: what follows goes on without them."""
    unread = [one for one in dataset.findings if one.severity == "error"]
    if not unread:
        return
    first = unread[0]
    where = "" if first.file is None else f"{first.file}:{first.line or 1}: "
    console.warn(
        f"{counted(len(unread), 'label')} could not be read and {agreed(len(unread), 'is', 'are')} "
        f"left out (the first: {where}{first.message}); `detkit check {dataset.root}` lists them"
    )


def _require_writable(out: Path, to: str | None, force: bool) -> None:
    """Raise UsageError for what is wrong whatever the data are: to read those takes time."""
    from detkit.data.convert import format_named
    from detkit.data.output import require_free_folder

    if to is not None:
        format_named(to)
    require_free_folder(out, force=force)


def _write(console: Console, dataset: Dataset, out: Path, to: str, force: bool) -> None:
    """Write the data set in the format `to`, and say what that cannot hold."""
    from detkit.data.convert import convert as write_as
    from detkit.data.convert import losses

    with console.counting("copying") as progress:
        write_as(dataset, out, to, force=force, progress=progress)
    for loss in losses(dataset, to):
        console.warn(loss)
    console.note(f"{out}: {split_counts(dataset)} as {to}")


def _readable(console: Console, data: Path, classes: str | None, skip_bad: bool) -> Dataset:
    """Return the data set without what a copy would lose; refuse it when that may not be.

    Raises DetkitError naming the first loss.
    """
    from detkit.data import open_dataset
    from detkit.data.checks.check import drop_bad, find_losses, format_finding

    dataset = open_dataset(data, classes=class_list(classes))
    tell_notes(console, dataset)
    losses = find_losses(dataset)
    if not losses:
        return dataset
    if skip_bad:
        dataset, dropped = drop_bad(dataset, losses)
        what = agreed(dropped, "label or image", "labels or images")
        console.note(f"--skip-bad: {dropped} {what} that cannot be read left out")
        return dataset
    what = agreed(len(losses), "label or image", "labels or images")
    raise DetkitError(
        f"{format_finding(losses[0], dataset.root)} ({len(losses)} {what} cannot be read: "
        f"`detkit check {dataset.root}` lists them; --skip-bad leaves them out)"
    )


def split_counts(dataset: Dataset) -> str:
    """Return `train 205 images, val 1 image`."""

    return ", ".join(
        f"{name} {counted(len(records), 'image')}" for name, records in dataset.splits.items()
    )
