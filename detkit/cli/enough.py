"""The command that says what more images, more of a class or more minutes would bring."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detkit.cli.console import Console, duration, figure, reader_may_leave
from detkit.cli.model_choice import load_plugins
from detkit.cli.options import (
    AsJson,
    AsMarkdown,
    Classes,
    Data,
    Device,
    Force,
    IoU,
    Metric,
    Page,
    Plugin,
    Quiet,
    Seed,
    class_list,
    nearest,
    require_free,
    require_one_form,
)
from detkit.cli.train_plan import Plan, in_full, sound_data
from detkit.data.output import require_apart
from detkit.data.summary import data_hash
from detkit.errors import ExitCode, UsageError, require_installed
from detkit.text import counted

if TYPE_CHECKING:
    from detkit.comparison.gains import Forecast, Gain, Gains
    from detkit.comparison.part_runs import PartRuns
    from detkit.comparison.runs import Outcome
    from detkit.data.groups import Groups
    from detkit.data.nested_parts import HeldOut
    from detkit.data.records import Dataset

PARTS = ".25,.5,1"
SHORT = (
    "more minutes bring more than more images: trainings this short say little of images; "
    "ask again with a larger --max-minutes"
)
LEARNT = 0.05  # mAP, ours: below this a training has learnt too little to tell of images


def enough(
    data: Data,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="The backend; `detkit models` lists them.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="DIR", help="The folder for the runs and results."),
    ] = None,
    max_minutes: Annotated[
        float | None,
        typer.Option(metavar="X", help="The budget in minutes, of all trainings together."),
    ] = None,
    more: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            metavar="N",
            help="How many more images; repeatable. [default: half as many and as many as there "
            "are]",
        ),
    ] = None,
    parts: Annotated[
        str, typer.Option(metavar="A,B,...,1", help="Shares of the images, and of the minutes.")
    ] = PARTS,
    draws: Annotated[
        int | None,
        typer.Option(
            min=2,
            metavar="K",
            help="Trainings of each kind, with other images and seeds. [default: 2 to 5, by the "
            "budget]",
        ),
    ] = None,
    group: Annotated[
        str,
        typer.Option(
            metavar="RULE", help="What belongs together: auto, none, an expression, or FILE.csv."
        ),
    ] = "auto",
    split: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The part to judge on. [default: test, else val, else .2 of train]",
        ),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(metavar="NAME", help="As for `detkit train`.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="WHICH", help="As for `detkit train`. [default: none]")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the model; repeatable."),
    ] = None,
    metric: Metric = "voc07",
    iou: IoU = None,
    classes: Classes = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out what `detkit check` calls an error.")
    ] = False,
    device: Device = "auto",
    num_workers: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Processes that load images, as for `train`."),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="CPU threads of each training, as for `train`."),
    ] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
    markdown: AsMarkdown = False,
    page: Page = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say how the budget would be divided; do nothing.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on in DIR; finished trainings are kept.")
    ] = False,
    plugin: Plugin = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Say what more images or minutes would bring.

    Trains on nested parts of the training images (a quarter, half and all of them, what belongs
    together in one part) for the same time, and on all of them for less; judges each on the same
    images; and puts a power law through the scores. All trainings share the budget. Each gain
    comes with a 95 % interval, for chance in the judged images, in the parts and in training.
    Where it holds 0, no gain can be told.

    The gain of a class's objects is read from its AP over how many of them a part holds, while
    other classes grow with it. Ctrl-C keeps everything; --resume goes on.

    \b
    Examples:
      detkit enough photos --model ssd --weights imagenet --max-minutes 60 -o enough
      detkit enough photos --model ssd --max-minutes 60 -o enough --more 200 --report enough.html
      detkit enough photos --model ssd --max-minutes 60 --dry-run
    """
    if model is None:
        raise UsageError("--model is missing, like --model ssd; `detkit models` lists them")
    if max_minutes is None:
        raise UsageError("--max-minutes is missing: the budget of all trainings together")
    if out is None and not dry_run:
        raise UsageError("-o DIR is missing: the folder for the runs and what was measured")
    require_one_form(as_json=as_json, markdown=markdown)
    require_installed("torch", "torchvision", "lightning_fabric", "safetensors")
    from detkit.comparison.gains import gains_of, gains_to_json
    from detkit.comparison.part_runs import budget_in_words, divide_minutes, plan_runs
    from detkit.data.nested_parts import hold_out

    console = Console(quiet, markdown=markdown)
    budget = divide_minutes(max_minutes, _shares(parts), draws)
    load_plugins(plugin)
    if out is not None:
        _require_free_folder(data, out, resume=resume, force=force)
    require_free("--report", page, force=force or resume, data=data, made=out)
    names = class_list(classes)
    _require_valid(model, backbone, weights, settings or (), metric, iou)
    wanted = Plan(data=str(data), classes=None if names is None else tuple(names))
    dataset = sound_data(console, replace(wanted, skip_bad=skip_bad))
    with console.counting("looking") as progress:
        held = hold_out(dataset, split, group, seed, progress)
    console.note(held.note)
    together = held.groups_of(held.pool)
    console.note(f"to train on: {together.in_words()}")
    runs = plan_runs(dataset, held.pool, held.judged, held.val, together, budget, seed)
    for line in budget_in_words(runs):
        console.note(line)
    if dry_run or out is None:
        _tell_plan(console, runs)
        return
    options = {
        "--model": model,
        "--backbone": backbone,
        "--weights": in_full(weights),
        "--num-workers": num_workers,
        "--threads": threads,
        "--device": None if device == "auto" else device,
    }
    plugins = [str(in_full(place)) for place in plugin or ()]
    words = [
        word for name, value in options.items() if value is not None for word in (name, str(value))
    ]
    words += [word for setting in settings or () for word in ("--set", setting)]
    words += [word for place in plugins for word in ("--plugin", place)]
    began = time.monotonic()
    outcomes = _run(console, runs, out, seed, words, device, plugins, resume, force)
    if not any(one.kept for one in outcomes):
        console.note(f"took {duration(time.monotonic() - began)} of {duration(60 * max_minutes)}")
    judged, groups = _judged(out, held)
    number = len(held.pool)
    asked = more or [max(1, number // 2), number]
    gains = gains_of(runs, outcomes, judged, groups, asked, metric=metric, iou_thresh=iou)
    _warn(console, gains)
    facts = {
        "data": str(dataset.root),
        "data_hash": data_hash(dataset),
        "model": model,
        "max_minutes": max_minutes,
        "training_minutes": budget.whole,
        "draws": budget.draws,
    }
    report = {**facts, **gains_to_json(gains)}
    if page is not None:
        from detkit.report.enough_page import write_enough

        write_enough(page, gains, report)
        console.note(f"report: {page}")
    with reader_may_leave():  # what failed is told all the same
        if as_json:
            console.data(json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False))
        else:
            _tell(console, gains)
    failed = [one for one in outcomes if one.error is not None]
    if failed:
        raise typer.Exit(ExitCode.BAD_INPUT)


def _shares(text: str) -> tuple[float, ...]:
    """Return the shares of `--parts`; raise UsageError for what is no number."""
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise UsageError(f"--parts {text}: expected numbers like {PARTS}") from None


def _require_free_folder(data: Path, out: Path, *, resume: bool, force: bool) -> None:
    """Raise UsageError when results may not be written into `out`."""
    if data.is_dir():
        require_apart(data, out)
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: is a file; name a folder")
    if out.is_dir() and any(out.iterdir()) and not (resume or force):
        raise UsageError(
            f"{out}: is not empty; add --resume to go on with what was begun there, --force to "
            "begin anew, or name another folder"
        )


def _require_valid(
    model: str,
    backbone: str | None,
    weights: str | None,
    settings: Sequence[str],
    metric: str,
    iou: float | None,
) -> None:
    """Raise what each training would end with at once, before the data are looked at."""
    from detkit.config import override, parse_settings
    from detkit.detectors import backend_names, load_backend
    from detkit.evaluation.scores import score
    from detkit.inference.models import starting_config

    nearest("--model", model, backend_names())
    backend = load_backend(model)
    config = starting_config(backend, backbone, weights or "none")
    override(config, backend.short_recipe, parse_settings(settings))
    score([], [], ["object"], metric, iou)


def _run(
    console: Console,
    runs: PartRuns,
    out: Path,
    seed: int,
    words: Sequence[str],
    device: str,
    plugins: Sequence[str],
    resume: bool,
    force: bool,
) -> list[Outcome]:
    """Train and judge what is not yet, saying how it goes."""
    from detkit.comparison.part_runs import cells_of, conditions_of, write_parts
    from detkit.comparison.runs import compare

    write_parts(runs, out)
    cells = cells_of(runs, out, seed, words)
    conditions = conditions_of(runs, out, device, plugins)
    outcomes = []
    found = compare(cells, conditions, resume=resume, force=force, say=console.note)
    for number, one in enumerate(found, start=1):
        name = one.cell.result.stem
        if one.error is not None:
            console.error(f"{name}: {one.error}")
        else:
            state = "kept" if one.kept else "done"
            console.note(f"{name}: {state} ({number} of {len(cells)})")
        outcomes.append(one)
    return outcomes


def _judged(out: Path, held: HeldOut) -> tuple[Dataset, Groups]:
    """Return the judged images as the trainings' folder has them, and their groups by its paths."""
    from detkit.comparison.part_runs import JUDGED
    from detkit.data import open_dataset
    from detkit.data.groups import Groups

    dataset = open_dataset(out / "data" / JUDGED)
    own = held.groups_of(held.judged)
    paths = [one.path for one in dataset.splits["all"]]
    numbers = [own.number_of[one.path] for one in held.judged]
    return dataset, Groups(dict(zip(paths, numbers, strict=True)), own.rules)


def _warn(console: Console, gains: Gains) -> None:
    """Warn of what makes the figures say little."""
    from detkit.comparison.gains import FURTHEST

    if gains.mean is None or gains.mean.value < LEARNT:
        console.warn(
            "the trainings have learnt next to nothing in their time, so they do not tell of "
            "images; raise --max-minutes, or start from --weights imagenet"
        )
    for one in gains.gains:
        if one.of == "images" and one.now + one.more > FURTHEST * one.now + 1:
            console.warn(
                f"{one.more:g} more images are more than as many again as there are: a guess, "
                "whose interval is too narrow if the curve bends"
            )


def _tell_plan(console: Console, runs: PartRuns) -> None:
    """Write the trainings that there would be."""
    rows = [
        (one.name, str(one.draw), str(one.num_images), f"{one.minutes:.1f}") for one in runs.runs
    ]
    console.table(("training", "draw", "images", "minutes"), rows, right=(1, 2, 3))


def _tell(console: Console, gains: Gains) -> None:
    """Write what more would bring as sentences, and the tables of gains and trainings."""
    rows = [_row(one) for one in gains.gains]
    header = ("more", "now", "score", "gain", "95 % from", "to", "")
    console.table(header, rows, right=(1, 2, 3, 4, 5))
    console.text("")
    if not any(one.is_told for one in gains.gains):
        console.text(
            "no gain can be told from none; more minutes, or more images to judge on, tell more"
        )
    if gains.is_short:
        console.text(SHORT)
    if gains.forecast is not None:
        console.text(forecast_in_words(gains.forecast))
    spread = "" if gains.noise is None else f", +-{gains.noise.deviation:.3f} a training"
    mean = figure(None if gains.mean is None else gains.mean.value)
    console.text(
        f"mAP {mean} with all there is{spread}; {gains.protocol}; "
        f"{counted(gains.num_judged, 'image')}, drawn in {counted(gains.num_groups, 'group')}"
    )


def _row(one: Gain) -> tuple[str, ...]:
    """Return a line of the table of gains."""
    if one.of == "minutes":
        amounts = f"{one.more:.2g} minutes a training", f"{one.now:.2g}"
    else:
        thing = "images" if one.class_name is None else one.class_name
        amounts = f"{one.more:g} {thing}", f"{one.now:g}"
    gain = one.gain
    if gain is None:
        return (*amounts, figure(one.score), "n/a", "", "", "too few to tell")
    told = "" if one.is_told else "may be none"
    values = (f"{value:+.3f}" for value in (gain.value, gain.low, gain.high))
    return (*amounts, figure(one.score), *values, told)


def forecast_in_words(forecast: Forecast) -> str:
    """Return how well the parts foretold the whole."""
    predicted = forecast.predicted
    held = "inside" if forecast.holds else "outside: do not trust the gains above"
    return (
        f"check: up to {forecast.num_images} images foretold {predicted.value:.3f} "
        f"({predicted.low:.3f} to {predicted.high:.3f}) for all; {forecast.came_out:.3f} came "
        f"out, {held}"
    )
