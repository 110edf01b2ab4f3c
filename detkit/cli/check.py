"""`detkit check`: what is wrong in a labelled folder."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detkit.cli.console import Console, reader_may_leave
from detkit.cli.data import tell_notes
from detkit.cli.model_choice import load_plugins
from detkit.cli.options import (
    AsJson,
    AsMarkdown,
    Classes,
    Data,
    Group,
    Plugin,
    Quiet,
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
    quiet: Quiet = False,
) -> None:
    """Find the mistakes in a labelled folder.

    Each finding is one line: file, line, object, what is wrong with which values, and what to
    do. Counts of classes and of box sizes follow. Leaves with 1 when there are errors;
    warnings are for you to judge. Nothing in the folder is changed.

    Images of val and test that training images show, too, be it saved again, resized or cut a
    little, are leaks, and so are those of a recording that training images are of: told by names
    and times, or by --group.

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
    if group != "auto" and not images:
        raise UsageError(f"--group {group}: is for leaks, for which images are read; --images")
    console = Console(quiet, markdown=markdown)
    detector_config = None if model is None else _backend_config(model, settings or (), plugin)
    dataset = open_dataset(data, classes=class_list(classes))
    tell_notes(console, dataset, findings_follow=True)
    with console.counting("checking") as progress:
        findings = find_mistakes(
            dataset, read_images=images, progress=progress, comparing=progress, group=group
        )
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
