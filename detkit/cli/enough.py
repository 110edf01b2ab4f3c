"""The command that says what more images, more of a class or more minutes would bring."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detkit.cli.console import Console, duration, reader_may_leave
from detkit.cli.enough_tables import tell_gains, tell_plan, warn_of_little
from detkit.cli.model_choice import load_plugins
from detkit.cli.options import (
    AsJson,
    AsMarkdown,
    Classes,
    Data,
    DataWorkers,
    Device,
    Force,
    Group,
    IoU,
    Metric,
    Page,
    Plugin,
    Quiet,
    RunsFolder,
    Seed,
    StartingWeights,
    TrainingThreads,
    class_list,
    nearest,
    require_one_form,
    require_page,
    require_results,
)
from detkit.cli.train_plan import Plan, in_full, sound_data
from detkit.data.output import require_apart
from detkit.data.summary import data_hash
from detkit.errors import ExitCode, UsageError, require_installed
from detkit.files import holding, write_bytes
from detkit.text import cut
from detkit.training.run_folder import json_object

if TYPE_CHECKING:
    from detkit.comparison.part_runs import PartRuns
    from detkit.comparison.runs import Outcome
    from detkit.data.groups import Groups
    from detkit.data.nested_parts import HeldOut
    from detkit.data.records import Dataset

PARTS = ".25,.5,1"
ASKED = "enough.json"  # in the folder: what was asked when it was begun
OF_TRAIN = (
    *("--model", "--backbone", "--weights", "--set", "--num-workers", "--threads", "--device"),
    "--plugin",
)  # options that each training is given


def enough(
    data: Data,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="The backend; `detkit models` lists them.")
    ] = None,
    out: RunsFolder = None,
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
    group: Group = "auto",
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
    weights: StartingWeights = None,
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
    num_workers: DataWorkers = None,
    threads: TrainingThreads = None,
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
    from detkit.detectors import backend_names

    if model is None:
        raise UsageError("--model is missing, like --model ssd; `detkit models` lists them")
    require_installed("torch", "torchvision", "lightning_fabric", "safetensors")
    load_plugins(plugin)
    nearest("--model", model, backend_names())
    if max_minutes is None:
        raise UsageError("--max-minutes is missing: the budget of all trainings together")
    if out is None and not dry_run:
        raise UsageError("-o DIR is missing: the folder for the runs and what was measured")
    require_one_form(as_json=as_json, markdown=markdown)
    require_results(dry_run=dry_run, as_json=as_json)
    from detkit.comparison.gains import gains_of, gains_to_json
    from detkit.comparison.part_runs import budget_in_words, divide_minutes, plan_runs
    from detkit.data.nested_parts import hold_out

    console = Console(quiet, markdown=markdown)
    budget = divide_minutes(max_minutes, _shares(parts), draws)
    if out is not None:
        _require_free_folder(data, out, resume=resume, force=force)
    require_page("--report", page, force=force or resume, data=data, made=out)
    names = class_list(classes)
    _require_valid(model, backbone, weights, settings or (), metric, iou)
    plugins = [str(in_full(place)) for place in plugin or ()]
    asked = {
        "DATA": str(data.absolute()),
        "--model": model,
        "--max-minutes": max_minutes,
        "--parts": parts,
        "--draws": draws,
        "--group": in_full(group),
        "--split": split,
        "--backbone": backbone,
        "--weights": in_full(weights),
        "--set": [*(settings or ())],
        "--classes": classes,
        "--skip-bad": skip_bad,
        "--device": None if device == "auto" else device,
        "--num-workers": num_workers,
        "--threads": threads,
        "--seed": seed,
        "--plugin": plugins,
    }
    if out is not None and resume:
        require_same(out, asked)
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
        tell_plan(console, runs)
        return
    words = [word for name in OF_TRAIN for word in words_of(name, asked[name])]
    began = time.monotonic()
    with holding(out, "detkit enough"):
        keep_asked(out, asked)
        outcomes = _run(console, runs, out, seed, words, device, plugins, resume, force)
    if not any(one.kept for one in outcomes):
        console.note(f"took {duration(time.monotonic() - began)} of {duration(60 * max_minutes)}")
    judged, groups = _judged(out, held)
    number = len(held.pool)
    added = more or [max(1, number // 2), number]
    gains = gains_of(runs, outcomes, judged, groups, added, metric=metric, iou_thresh=iou)
    warn_of_little(console, gains)
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
            tell_gains(console, gains)
    failed = [one for one in outcomes if one.error is not None]
    if failed:
        raise typer.Exit(ExitCode.BAD_INPUT)


def _shares(text: str) -> tuple[float, ...]:
    """Return the shares of `--parts`; raise UsageError for what is no number."""
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise UsageError(f"--parts {text}: expected numbers like {PARTS}") from None


def keep_asked(out: Path, asked: Mapping[str, Any]) -> None:
    """Write what was asked into the folder, for `require_same`."""
    out.mkdir(parents=True, exist_ok=True)
    write_bytes(out / ASKED, (json.dumps(asked, indent=2, ensure_ascii=False) + "\n").encode())


def require_same(out: Path, asked: Mapping[str, Any]) -> None:
    """Raise UsageError naming the first option that the folder was begun with another value of."""
    place = out / ASKED
    if not place.is_file():
        return
    before = json_object(place.read_bytes())
    for name, value in asked.items():
        if name in before and before[name] != value:
            raise UsageError(
                f"--resume: {out} was begun with {_option(name, before[name])}, not "
                f"{_option(name, value)}; give that again, or name another folder"
            )


def words_of(name: str, value: Any) -> list[str]:
    """Return an option with its value as words of a command; none where it was not given."""
    if isinstance(value, list):
        return [word for one in value for word in (name, str(one))]
    return [] if value is None else [name, str(value)]


def _option(name: str, value: Any) -> str:
    """Return an option with its value, for a message."""
    if isinstance(value, bool):
        return name if value else f"no {name}"
    return cut(" ".join(words_of(name, value))) or f"no {name}"


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
    from detkit.detectors import load_backend
    from detkit.evaluation.scores import score
    from detkit.inference.models import starting_config

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
