"""The images that a training goes by: checked, and divided into those to learn from and others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from detkit.cli.console import Console
from detkit.cli.data import tell_notes
from detkit.cli.train_plan import Plan
from detkit.errors import DetkitError

if TYPE_CHECKING:
    from detkit.data import Dataset, ImageRecord

FINDINGS_SHOWN = 10  # of what is wrong with the data; `detkit check` shows the rest


def sound_data(console: Console, plan: Plan) -> Dataset:
    """Return the data set without errors; refuse it when it has some and may not drop them.

    Raises DetkitError naming the first errors.
    """
    from detkit.data import open_dataset
    from detkit.data.checks.check import check, drop_bad, format_finding
    from detkit.data.folder_splits import counted

    dataset = open_dataset(Path(str(plan.data)), classes=plan.classes)
    tell_notes(console, dataset)
    with console.counting("checking") as progress:
        findings = check(dataset, progress=progress)
    errors = [finding for finding in findings if finding.severity == "error"]
    num_warnings = len(findings) - len(errors)
    if num_warnings:
        console.note(f"{counted(num_warnings, 'warning')}: detkit check {plan.data}")
    if not errors:
        return dataset
    if plan.skip_bad:
        dataset, dropped = drop_bad(dataset, findings)
        console.note(f"--skip-bad: {dropped} objects or images with errors left out")
        return dataset
    for finding in errors[:FINDINGS_SHOWN]:
        console.error(format_finding(finding, dataset.root))
    more = len(errors) - FINDINGS_SHOWN
    rest = f" ({more} more: detkit check {plan.data})" if more > 0 else ""
    raise DetkitError(
        f"{plan.data}: {counted(len(errors), 'error')} in the labels{rest}; mend them, or leave "
        "those objects and images out with --skip-bad"
    )


def split_data(
    console: Console, dataset: Dataset, plan: Plan
) -> tuple[Sequence[ImageRecord], Sequence[ImageRecord]]:
    """Return the images to train on and those to validate on, saying how they were chosen.

    Raises DetkitError when there is no object to learn from.
    """
    from detkit.data import training_splits

    records, held_out, notes = training_splits(dataset, plan.val, plan.seed)
    if not any(record.objects for record in records):
        raise DetkitError(
            f"no object is labelled in the {len(records)} training images of {plan.data}: there "
            "is nothing to learn"
        )
    for note in notes:
        console.note(note)
    console.note(f"{len(records)} images to train on, {len(held_out)} to validate on")
    return records, held_out
