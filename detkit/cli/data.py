"""The commands on labelled folders: demo, check, convert, split."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperOption

from detkit.cli.console import Console, reader_may_leave
from detkit.cli.options import (
    AsJson,
    AsMarkdown,
    Classes,
    Data,
    Force,
    Quiet,
    Seed,
    class_list,
    require_one_form,
)
from detkit.errors import DetkitError, ExitCode

if TYPE_CHECKING:
    from detkit.data.records import Dataset, Finding

MOST_SHOWN = 50  # findings in Markdown: a job's summary is cut at 1 MiB
SkipUnread = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out labels and images that cannot be read.")
]
Out = Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")]


class WritesFormats(TyperCommand):
    """A command whose help names the label formats, asked for then: reading them takes time."""

    def format_help(self, *args: Any) -> None:
        """Write the help text, with the names of the formats instead of FORMATS."""
        from detkit.data.formats.reading import FORMATS

        *names, last = [form.name for form in FORMATS]
        for option in self.params:
            if isinstance(option, TyperOption) and option.help:
                option.help = option.help.replace("FORMATS", f"{', '.join(names)} or {last}")
        super().format_help(*args)


def demo(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write it.")] = Path(
        "demo"
    ),
    seed: Seed = 0,
    num_images: Annotated[
        int, typer.Option(metavar="N", help="How many images, in all three splits.")
    ] = 340,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Write a small labelled folder to try everything on.

    The images are drawn here, offline; the labels are Pascal VOC XML, split into train, val
    and test. The same seed draws the same images.

    \b
    Example:
      detkit demo demo
    """
    from detkit.data.demo.pictures import write_demo

    console = Console(quiet)
    with console.counting("drawing") as advance:
        write_demo(folder, num_images=num_images, seed=seed, force=force, progress=advance)
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
    quiet: Quiet = False,
) -> None:
    """Find the mistakes in a labelled folder.

    Each finding is one line: file, line, object, what is wrong with which values, and what to
    do. Counts of classes and of box sizes follow. Leaves with 1 when there are errors;
    warnings are for you to judge. Nothing in the folder is changed.

    \b
    Examples:
      detkit check photos
      detkit check photos --markdown >> "$GITHUB_STEP_SUMMARY"
      detkit check photos --json | jq '.findings[].code'
    """
    from detkit.data import open_dataset
    from detkit.data.checks.check import check as find_mistakes

    require_one_form(as_json=as_json, markdown=markdown)
    console = Console(quiet, markdown=markdown)
    dataset = open_dataset(data, classes=class_list(classes))
    tell_notes(console, dataset, findings_follow=True)
    with console.counting("checking") as progress:
        findings = find_mistakes(dataset, read_images=images, progress=progress)
    with reader_may_leave():  # errors are errors all the same
        if as_json:
            report = _report(dataset, findings)
            console.data(json.dumps(report, indent=2, ensure_ascii=False))
        else:
            (_tell_rules if markdown else _tell_findings)(console, dataset, findings)
            _tell_counts(console, dataset, findings)
    if _severities(findings)[0]:
        raise typer.Exit(ExitCode.NOT_MET)


def convert(
    data: Data,
    out: Out,
    to: Annotated[str, typer.Option("--to", metavar="FORMAT", help="FORMATS.")],
    classes: Classes = None,
    skip_bad: SkipUnread = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Write a labelled folder in another format.

    The images are copied; the source is only read. What the new format cannot hold (YOLO:
    difficult objects) is said. Labels or images that cannot be read are not dropped on the
    way: nothing is written then, unless --skip-bad leaves them out and says how many.

    \b
    Example:
      detkit convert photos photos-coco --to coco
    """
    console = Console(quiet)
    _write(console, _readable(console, data, classes, skip_bad), out, to, force)


def split(
    data: Data,
    out: Out,
    val: Annotated[float, typer.Option(metavar="X", help="The share for validation.")] = 0.2,
    test: Annotated[float, typer.Option(metavar="X", help="The share for the test.")] = 0.0,
    seed: Seed = 0,
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

    \b
    Example:
      detkit split photos photos-split --val .2 --test .1 --seed 0
    """
    from detkit.data.formats.reading import format_of
    from detkit.data.splits import split_dataset

    console = Console(quiet)
    dataset = _readable(console, data, classes, skip_bad)
    divided = split_dataset(dataset, val=val, test=test, seed=seed)
    _write(console, divided, out, to or format_of(dataset).name, force)


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
        f"{len(unread)} of the labels could not be read and are left out (the first: {where}"
        f"{first.message}); `detkit check {dataset.root}` lists them"
    )


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
        console.note(f"--skip-bad: {dropped} labels or images that cannot be read left out")
        return dataset
    raise DetkitError(
        f"{format_finding(losses[0], dataset.root)} ({len(losses)} labels or images cannot be "
        f"read: `detkit check {dataset.root}` lists them; --skip-bad leaves them out)"
    )


def split_counts(dataset: Dataset) -> str:
    """Return `train 205 images, val 1 image`."""
    from detkit.data.folder_splits import counted

    return ", ".join(
        f"{name} {counted(len(records), 'image')}" for name, records in dataset.splits.items()
    )


def _report(dataset: Dataset, findings: Sequence[Finding]) -> dict[str, Any]:
    """Return what `check --json` writes."""
    from detkit.data.checks.check import findings_to_json
    from detkit.data.summary import summarize, summary_to_json

    errors, warnings = _severities(findings)
    return {
        "data": str(dataset.root),
        "format": dataset.format,
        "classes": list(dataset.class_names),
        "errors": errors,
        "warnings": warnings,
        "findings": findings_to_json(findings, dataset.root),
        "splits": summary_to_json(summarize(dataset)),
    }


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
    from detkit.data.folder_splits import counted
    from detkit.data.summary import SIZE_EDGES, summarize

    splits = summarize(dataset)
    names = [split.name for split in splits]
    counts = [
        ("images", [split.num_images for split in splits]),
        ("  without objects", [split.num_empty for split in splits]),
        ("objects", [split.num_objects for split in splits]),
        ("  difficult", [split.num_difficult for split in splits]),
    ]
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
