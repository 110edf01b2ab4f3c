"""The commands on labelled folders: demo, check, convert, split."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detkit.cli.console import Console, reader_may_leave
from detkit.cli.model_choice import load_plugins
from detkit.cli.options import (
    AsJson,
    AsMarkdown,
    Classes,
    Data,
    Force,
    Group,
    Plugin,
    Quiet,
    Seed,
    class_list,
    nearest,
    require_one_form,
)
from detkit.errors import DetkitError, ExitCode, UsageError, require_installed
from detkit.text import agreed, counted

if TYPE_CHECKING:
    from detkit.config import DetectorConfig
    from detkit.data.records import Dataset, Finding
    from detkit.detector import Detector
    from detkit.structures import Truth
    from detkit.training.reach import Reach

MOST_SHOWN = 50  # findings in Markdown: a job's summary is cut at 1 MiB
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


def check(
    data: Data,
    classes: Classes = None,
    as_json: AsJson = False,
    markdown: AsMarkdown = False,
    images: Annotated[
        bool,
        typer.Option(
            "--images/--no-images", help="Open every image: its size, whether it can be read."
        ),
    ] = True,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Say which objects are too small for this backend, too."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="A setting of that backend, like size=512."
        ),
    ] = None,
    plugin: Plugin = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Leaks between splits are errors.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Find the mistakes in a labelled folder.

    Each finding is one line: file, line, object, what is wrong with which values, and what to
    do. Counts of classes and of box sizes follow. Leaves with 1 when there are errors;
    warnings are for you to judge. Nothing in the folder is changed.

    Images of val and test that training images show, too, be it saved again, resized or cut a
    little, are leaks, and so are those of a recording that training images are of.

    With --model objects that this backend cannot find are a warning, with what would reach them.

    \b
    Examples:
      detkit check photos
      detkit check photos --model ssd --set size=512
      detkit check photos --markdown >> "$GITHUB_STEP_SUMMARY"
      detkit check photos --json | jq '.findings[].code'
    """
    from detkit.data import open_dataset
    from detkit.data.checks.check import check as find_mistakes
    from detkit.data.checks.leaks import LEAKS

    require_one_form(as_json=as_json, markdown=markdown)
    if model is None and settings:
        raise UsageError(f"--set {settings[0]}: is a setting of a backend; name it with --model")
    console = Console(quiet, markdown=markdown)
    detector_config = None if model is None else _backend_config(model, settings or (), plugin)
    dataset = open_dataset(data, classes=class_list(classes))
    tell_notes(console, dataset, findings_follow=True)
    with console.counting("checking") as progress:
        findings = find_mistakes(dataset, read_images=images, progress=progress, comparing=progress)
    if strict:
        findings = [
            replace(one, severity="error") if one.code in LEAKS else one for one in findings
        ]
    reach = None
    if detector_config is not None:
        reach = _reach(dataset, *detector_config, read_images=images)
        findings += _out_of_reach(console, reach)
    with reader_may_leave():  # errors are errors all the same
        if as_json:
            report = _report(dataset, findings, reach)
            console.data(json.dumps(report, indent=2, ensure_ascii=False))
        else:
            (_tell_rules if markdown else _tell_findings)(console, dataset, findings)
            _tell_counts(console, dataset, findings)
    if _severities(findings)[0]:
        raise typer.Exit(ExitCode.NOT_MET)


def convert(
    data: Annotated[
        list[Path],
        typer.Argument(metavar="DATA", help="The labelled folder; of several, the union."),
    ],
    out: Out,
    to: Annotated[str, typer.Option("--to", metavar="FORMAT", help="FORMATS.")],
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
    images of one name are told apart. Classes are renamed first, then left out.

    \b
    Examples:
      detkit convert photos photos-coco --to coco
      detkit convert day night both --to yolo --rename automobile=car --min-side 8
    """
    from detkit.data.merging import merge
    from detkit.data.output import require_apart
    from detkit.data.selection import drop_classes, drop_small, only_images, rename_classes
    from detkit.data.splits import select_classes

    console = Console(quiet)
    _require_writable(out, to, force)
    pairs = _pairs("--rename", rename or ())
    chosen = class_list(classes)
    dataset = merge([_readable(console, one, None, skip_bad) for one in data])
    for one in data:
        require_apart(one if one.is_dir() else one.parent, out)
    steps: list[tuple[bool, Callable[[Dataset], Dataset]]] = [
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
    _write(console, dataset, out, to, force)


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


def _backend_config(
    model: str, settings: Sequence[str], plugin: Sequence[str] | None
) -> tuple[type[Detector], DetectorConfig]:
    """Return the backend of `--model` and its config with `--set` put in.

    Raises UsageError for a backend or setting there is not.
    """
    require_installed("torch", "torchvision")
    from detkit.config import override, parse_settings
    from detkit.detectors import backend_names, load_backend

    load_plugins(plugin)
    backend = load_backend(nearest("--model", model, backend_names()))
    parsed = parse_settings(settings)
    return backend, override(backend.config_class(), backend.short_recipe, parsed)[0]


def _reach(
    dataset: Dataset, backend: type[Detector], config: DetectorConfig, *, read_images: bool
) -> Reach:
    """Return how many of the objects a backend can find; of a large folder a spread sample."""
    import torch

    from detkit.training.reach import find_reach

    labelled = list(_labelled(dataset, read_images=read_images))
    config = backend.suited_config(config, labelled)
    with torch.device("meta"):  # no weight is looked at
        detector = backend(config, dataset.class_names)
    return find_reach(detector, labelled)


def _labelled(dataset: Dataset, *, read_images: bool) -> Iterator[tuple[Truth, tuple[int, int]]]:
    """Yield the objects and the (height, width) of the images to judge, those without one left out.

    The size is that of the file; where it cannot be read, or is not to be, what the labels say.
    """
    from detkit.data.images import image_size
    from detkit.data.records import truth_of
    from detkit.training.dataset import spread
    from detkit.training.reach import MOST_JUDGED

    index = {name: number for number, name in enumerate(dataset.class_names)}
    by_path = {one.path: one for members in dataset.splits.values() for one in members}
    records = list(by_path.values())
    truths = [truth_of(record, index) for record in records]
    for place in spread([len(truth.boxes) for truth in truths], MOST_JUDGED):
        record = records[place]
        size = (record.height or 0, record.width or 0)
        if read_images:
            with suppress(DetkitError):
                size = image_size(record.path)
        if min(size) > 0:
            yield truths[place], size


def _out_of_reach(console: Console, reach: Reach) -> list[Finding]:
    """Return the warning about the objects out of reach; say it where there are none."""
    from detkit.data.records import Finding
    from detkit.training.reach import reach_in_words

    if reach.num_unreached:
        return [Finding("warning", "out-of-reach", reach_in_words(reach))]
    if reach.num_objects:
        are = agreed(reach.num_objects, "is", "are")
        objects = counted(reach.num_objects, "object")
        console.note(f"all of {objects} {are} within reach of {reach.model}")
    else:
        console.note(f"no object in an image of a known size to hold against {reach.model}")
    return []


def _report(dataset: Dataset, findings: Sequence[Finding], reach: Reach | None) -> dict[str, Any]:
    """Return what `check --json` writes."""
    from detkit.data.checks.check import findings_to_json
    from detkit.data.summary import summarize, summary_to_json

    errors, warnings = _severities(findings)
    report: dict[str, Any] = {
        "data": str(dataset.root),
        "format": dataset.format,
        "classes": list(dataset.class_names),
        "errors": errors,
        "warnings": warnings,
        "findings": findings_to_json(findings, dataset.root),
        "splits": summary_to_json(summarize(dataset)),
    }
    if reach is not None:
        from detkit.training.reach import reach_to_json

        report["reach"] = reach_to_json(reach)
    return report


def _tell_findings(console: Console, dataset: Dataset, findings: Sequence[Finding]) -> None:
    """Write each finding as a line."""
    from detkit.data.checks.check import format_finding

    for finding in findings:
        console.data(f"{finding.severity}: {format_finding(finding, dataset.root)}")
    if findings:
        console.data("")


def _tell_rules(console: Console, dataset: Dataset, findings: Sequence[Finding]) -> None:
    """Write how many findings there are of each rule, and the first of them."""
    from detkit.data.checks.check import format_finding

    if not findings:
        return
    numbers = Counter((one.severity, one.code) for one in findings)
    rows = [(code, severity, str(number)) for (severity, code), number in numbers.items()]
    console.table(("rule", "severity", "findings"), rows, right=(2,))
    shown = sorted(findings, key=lambda one: one.severity)[:MOST_SHOWN]  # errors first
    rows = [(one.severity, one.code, format_finding(one, dataset.root)) for one in shown]
    console.table(("severity", "rule", "finding"), rows)
    if len(findings) > len(shown):
        more = len(findings) - len(shown)
        console.text(f"and {more} more: detkit check {dataset.root} lists them")


def _tell_counts(console: Console, dataset: Dataset, findings: Sequence[Finding]) -> None:
    """Write the counts by split, and how many errors and warnings there are."""
    from detkit.data.summary import SIZE_EDGES, summarize

    splits = summarize(dataset)
    names = [split.name for split in splits]
    counts = [
        ("images", [split.num_images for split in splits]),
        ("  without objects", [split.num_empty for split in splits]),
        ("objects", [split.num_objects for split in splits]),
        ("  difficult", [split.num_difficult for split in splits]),
    ]
    if any(split.num_crowds for split in splits):
        counts.append(("  crowds", [split.num_crowds for split in splits]))
    if any(split.num_machine_made for split in splits):
        counts.append(("  machine-made", [split.num_machine_made for split in splits]))
    if any(split.num_regions for split in splits):
        counts.append(("regions left out", [split.num_regions for split in splits]))
    known = dict.fromkeys(name for split in splits for name in split.class_counts)
    for name in known:
        counts.append((f"  {name}", [split.class_counts.get(name, 0) for split in splits]))
    for place, edge in enumerate(SIZE_EDGES):
        upper = f"to {SIZE_EDGES[place + 1]}" if place + 1 < len(SIZE_EDGES) else "and more"
        sizes = [split.size_counts[place] for split in splits]
        if any(sizes):
            counts.append((f"  side {edge} {upper} px", sizes))
    rows = [(what, *map(str, values)) for what, values in counts]
    console.table(("", *names), rows, right=range(1, len(names) + 1))
    errors, warnings = _severities(findings)
    console.text("")
    console.text(f"{counted(errors, 'error')}, {counted(warnings, 'warning')}")


def _severities(findings: Sequence[Finding]) -> tuple[int, int]:
    """Return how many errors and how many warnings there are."""
    errors = sum(finding.severity == "error" for finding in findings)
    return errors, len(findings) - errors
