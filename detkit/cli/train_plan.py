"""The plan of a training: what it was asked to do, and the data that it is to learn from.

It is asked by the command line, by a run's `config.json`, or by both.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detkit.cli.console import Console
from detkit.cli.data import tell_notes
from detkit.config import DetectorConfig, PaperRun, Recipe, from_json, to_json
from detkit.errors import DetkitError, UsageError
from detkit.text import agreed, counted
from detkit.training.options import TrainOptions

if TYPE_CHECKING:
    from detkit.data.records import Dataset, ImageRecord

BUDGETS = ("epochs", "max_steps", "max_minutes")
# Warnings that stand for many images: what they hold and training does not see.
WORTH_SAYING = ("more-frames", "unused-bits", "shared-image", "shared-recording")
MOST_COMPARED = 5000  # images held against each other before training: in well under a minute
FINDINGS_SHOWN = 10  # of what is wrong with the data; `detkit check` shows the rest


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan(TrainOptions):
    """What a training was asked to do; `config.json` holds it, and `--config` takes it back.

    A field has the name of its option. `detector` and `recipe` are the settings of an earlier run.
    """

    data: str | None = None
    model: str | None = None
    backbone: str | None = None
    weights: str = "none"
    recipe_name: str = "short"
    classes: tuple[str, ...] | None = None
    val: str | None = None
    skip_bad: bool = False
    plugin: tuple[str, ...] = ()
    proposals: str | None = None
    detector: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    recipe: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def options(self) -> dict[str, Any]:
        """Return the values that are options of the training itself, by name."""
        names = (field.name for field in dataclasses.fields(TrainOptions))
        return {name: getattr(self, name) for name in names}

    def to_json(self, detector: DetectorConfig, recipe: Recipe) -> dict[str, Any]:
        """Return the plan as JSON values, with the settings that the training is made with."""
        settings = {"detector": to_json(detector), "recipe": to_json(recipe)}
        return {**dataclasses.asdict(self), **settings}


def merge(plan: Plan, given: Mapping[str, Any]) -> Plan:
    """Return the plan with what was given on the command line put in, by the fields' names.

    A budget that is given replaces the plan's, of whatever kind that was.
    """
    names = {field.name for field in dataclasses.fields(plan)}
    changes = {key: value for key, value in given.items() if key in names and value is not None}
    if any(key in changes for key in BUDGETS):
        changes = dict.fromkeys(BUDGETS) | changes
    if "recipe_name" in changes:
        changes["recipe"] = {}
    if {"model", "backbone", "weights"} & set(changes):
        changes["detector"] = {} if "model" in changes else _without_backbone(plan.detector)
    return dataclasses.replace(plan, **changes)


def read_plan(path: Path) -> Plan:
    """Return the plan in a run's `config.json`, with what was measured when that run began.

    That is the precision that `auto` meant, and the number of threads.

    Raises DetkitError when it is not one.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DetkitError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise DetkitError(f"{path}: not JSON: {error}") from error
    plan = values.get("plan") if isinstance(values, dict) else None
    if not isinstance(plan, dict):
        raise DetkitError(f"{path}: not the config.json of a run")
    if plan.get("precision", "auto") == "auto":
        plan = {**plan, "precision": values.get("precision", "auto")}
    if plan.get("threads") is None:
        plan = {**plan, "threads": values.get("threads")}
    try:
        return from_json(Plan, plan)
    except UsageError as error:
        raise DetkitError(f"{path}: {error} (edited, or of another detkit?)") from error


def in_full(place: str | None) -> str | None:
    """Return a path that exists in full, so that it holds from any folder; other words as is."""
    if place is None or not Path(place).exists():
        return place
    return str(Path(place).absolute())


def sound_data(console: Console, plan: Plan) -> Dataset:
    """Return the data set without errors; refuse it when it has some and may not drop them.

    Raises DetkitError naming the first errors.
    """
    from detkit.data import open_dataset

    dataset = open_dataset(Path(str(plan.data)), classes=plan.classes)
    tell_notes(console, dataset)
    return without_errors(console, dataset, str(plan.data), skip_bad=plan.skip_bad)


def without_errors(console: Console, dataset: Dataset, data: str, *, skip_bad: bool) -> Dataset:
    """Return the data set of the folder `data` without errors, saying what else is odd.

    Raises DetkitError naming the first errors when there are some and `skip_bad` is not given.
    """
    from detkit.data.checks.check import check, drop_bad, format_finding
    from detkit.data.checks.leaks import compared

    with console.counting("checking") as progress:
        findings = check(dataset, progress=progress, most_compared=MOST_COMPARED)
    if (number := len(compared(dataset))) > MOST_COMPARED:
        console.note(
            f"copies between splits not looked for, among {number} images: detkit check {data}"
        )
    errors = [finding for finding in findings if finding.severity == "error"]
    for finding in findings:
        if finding.code in WORTH_SAYING:
            console.warn(finding.message)
    if copies := [one for one in findings if one.code in ("near-copy", "leaked-image")]:
        images = counted(len(copies), "image")
        console.warn(
            f"{images} to be judged on {agreed(len(copies), 'shows', 'show')} what training images "
            f"show, so scores will be too good: detkit check {data}"
        )
    num_warnings = len(findings) - len(errors)
    if num_warnings:
        console.note(f"{counted(num_warnings, 'warning')}: detkit check {data}")
    if not errors:
        return dataset
    if skip_bad:
        dataset, dropped = drop_bad(dataset, findings)
        what = agreed(dropped, "object or image", "objects or images")
        console.note(f"--skip-bad: {dropped} {what} with errors left out")
        return dataset
    for finding in errors[:FINDINGS_SHOWN]:
        console.error(format_finding(finding, dataset.root))
    more = len(errors) - FINDINGS_SHOWN
    rest = f" ({more} more: detkit check {data})" if more > 0 else ""
    raise DetkitError(
        f"{data}: {counted(len(errors), 'error')} in the labels{rest}; mend them, or leave "
        "those objects and images out with --skip-bad"
    )


def split_data(
    console: Console, dataset: Dataset, plan: Plan, run: PaperRun | None = None
) -> tuple[Sequence[ImageRecord], Sequence[ImageRecord]]:
    """Return the images to train on and those to validate on, saying how they were chosen.

    Those of a paper's `run` are all of its own, without validation unless the plan asks for one.
    Raises DetkitError when there is no object to learn from, or a year of VOC is missing.
    """
    from detkit.data.devkit import official
    from detkit.data.splits import training_name, training_splits

    asked = f"--recipe {plan.recipe_name}"
    theirs = None if run is None else official(dataset, run.data, asked)
    if theirs is not None:
        notes = theirs.notes[len(dataset.notes) :]
        dataset = theirs
    records: Sequence[ImageRecord]
    held_out: Sequence[ImageRecord] = ()
    if theirs is not None and plan.val is None:
        records = theirs.splits[training_name(theirs)]
        notes += ("no validation, as in the paper; --val .1 keeps some of the images for one",)
    else:
        records, held_out, more = training_splits(dataset, plan.val, plan.seed)
        notes = (*(notes if theirs is not None else ()), *more)
    if not any(record.counted for record in records):
        raise DetkitError(
            f"no object is labelled in the {counted(len(records), 'training image')} of "
            f"{plan.data}: there is nothing to learn"
        )
    for note in notes:
        console.note(note)
    console.note(f"{counted(len(records), 'image')} to train on, {len(held_out)} to validate on")
    return records, held_out


def _without_backbone(detector: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in detector.items() if key != "backbone"}
