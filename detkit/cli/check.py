"""`detkit check`: what is wrong in a labelled folder."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detkit.cli.console import Console, reader_may_leave
from detkit.cli.data import tell_notes
from detkit.cli.options import (
    AsJson,
    AsMarkdown,
    Classes,
    Data,
    Force,
    Group,
    Page,
    Plugin,
    Quiet,
    class_list,
    require_one_form,
    require_page,
)
from detkit.cli.reached import backend_config, find_reach_of, write_page
from detkit.errors import ExitCode, UsageError
from detkit.text import agreed, counted

if TYPE_CHECKING:
    from detkit.data.records import Dataset, Finding
    from detkit.training.reach import Reach

MOST_SHOWN = 50  # findings in Markdown: a job's summary is cut at 1 MiB


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
    group: Group = "auto",
    strict: Annotated[
        bool, typer.Option("--strict", help="Leaks between splits are errors.")
    ] = False,
    page: Page = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Find the mistakes in a labelled folder.

    Each finding is one line: file, line, object, what is wrong with which values, and what to
    do. Counts of classes and of box sizes follow. Leaves with 1 when there are errors;
    warnings are for you to judge. Nothing in the folder is changed.

    Images of val and test that training images show, too, be it saved again, resized or cut a
    little, are leaks, and so are those of a recording that training images are of: told by names
    and times, or by --group.

    --report FILE.html is the folder to look at: every finding with its picture, copies side by
    side, objects of each class, and how large each backend sees them.

    With --model objects that this backend cannot find are a warning, with what would reach them.

    \b
    Examples:
      detkit check photos
      detkit check photos --report photos.html
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
    if group != "auto" and not images:
        raise UsageError(f"--group {group}: is for leaks, for which images are read; --images")
    console = Console(quiet, markdown=markdown)
    require_page("--report", page, force=force, data=data)
    own = None if model is None else backend_config(model, settings or (), plugin)
    dataset = open_dataset(data, classes=class_list(classes))
    tell_notes(console, dataset, findings_follow=True)
    with console.counting("checking") as progress:
        findings = find_mistakes(dataset, read_images=images, progress=progress, group=group)
    if strict:
        findings = [
            replace(one, severity="error") if one.code in LEAKS else one for one in findings
        ]
    reach = None
    if own is not None:
        reach = find_reach_of(dataset, *own, read_images=images)
        findings += _out_of_reach(console, reach)
    with reader_may_leave():  # errors are errors all the same
        if as_json:
            report = _report(dataset, findings, reach)
            console.data(json.dumps(report, indent=2, ensure_ascii=False))
        else:
            (_tell_rules if markdown else _tell_findings)(console, dataset, findings)
            _tell_counts(console, dataset, findings)
    if page is not None:
        write_page(page, dataset, findings, own, console, read_images=images)
    if _severities(findings)[0]:
        raise typer.Exit(ExitCode.NOT_MET)


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
