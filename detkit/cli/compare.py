"""The command that compares models on one data set, trained and measured in the same way."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detkit.cli.console import Console, duration, figure, reader_may_leave
from detkit.cli.data import tell_notes, warn_of_unread
from detkit.cli.detect import STAGES
from detkit.cli.judged import choose_split
from detkit.cli.model_choice import load_plugins
from detkit.cli.options import (
    AsJson,
    AsMarkdown,
    Classes,
    Data,
    Device,
    Force,
    Group,
    IoU,
    Metric,
    Page,
    Plugin,
    Quiet,
    class_list,
    nearest,
    require_free,
    require_one_form,
)
from detkit.cli.train_plan import in_full
from detkit.errors import DetkitError, ExitCode, UsageError
from detkit.inference.models import starting_config
from detkit.text import counted

if TYPE_CHECKING:
    from detkit.comparison.runs import Cell, Conditions, Outcome
    from detkit.comparison.table import Comparison, Row
    from detkit.data.records import Dataset


def compare(
    context: typer.Context,
    data: Data,
    models: Annotated[
        str | None,
        typer.Option(metavar="A,B,...", help="The backends to train; `detkit models` lists them."),
    ] = None,
    run: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]DIR",
            help="A trained run or model to measure too; repeatable, one NAME is one row.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="DIR", help="The folder for the runs and results."),
    ] = None,
    max_minutes: Annotated[
        float | None, typer.Option(metavar="X", help="The budget of each training, in minutes.")
    ] = None,
    max_steps: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="The budget of each training, in optimiser steps."),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, metavar="K", help="Train each with the seeds 0 to K - 1.")
    ] = 1,
    backbone: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of all models. [default: each one's own]")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="WHICH", help="As for `detkit train`. [default: none]")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of all models; repeatable."),
    ] = None,
    val: Annotated[
        str | None,
        typer.Option(metavar="SPLIT|SHARE|PATH", help="What to validate on, as for `train`."),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The part to compare on. [default: test, else val]"),
    ] = None,
    metric: Metric = "voc07",
    iou: IoU = None,
    group: Group = "auto",
    batch_size: Annotated[
        int, typer.Option(min=1, metavar="N", help="Images a step when the time is measured.")
    ] = 1,
    classes: Classes = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Train without what `detkit check` calls an error.")
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
    as_json: AsJson = False,
    markdown: AsMarkdown = False,
    page: Page = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with the comparison in DIR; its page is written anew."
        ),
    ] = False,
    plugin: Plugin = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Compare models on one labelled folder.

    Each model is trained with each seed, on the same images and the same budget, in a process
    of its own; then all are measured on the same split. The table has mAP (the spread over
    seeds, and the difference to the best with its 95 % interval over draws of the images, those
    that belong together by the rule --group of `detkit split` as one), AP
    by size of object, time, memory, size and training time.

    DIR holds a run folder for each; --resume keeps those that are finished and goes on with
    the others. A model that fails is a row with its error, and the exit code is 3 at the end;
    an option that no training could work with is told before the first begins.

    \b
    Examples:
      detkit compare photos --models ssd,faster-rcnn,yolov1 --max-minutes 20 -o compared
      detkit compare photos --models ssd,yolov1 --max-minutes 20 --seeds 3 -o compared --resume
      detkit compare photos --run ssd=run --run tuned=run-2 -o compared --report compared.html
    """
    _require_one_folder([str(data), *context.args])
    if out is None:
        raise UsageError("-o DIR is missing: the folder for the runs and what was measured")
    if not models and not run:
        raise UsageError("nothing to compare: name --models to train, or a trained --run")
    if models and max_minutes is None and max_steps is None:
        raise UsageError("--max-minutes (or --max-steps) is missing: the budget of each training")
    require_one_form(as_json=as_json, markdown=markdown)
    console = Console(quiet, markdown=markdown)
    from detkit.data.output import require_apart
    from detkit.evaluation.scores import score

    load_plugins(plugin)
    names = _backends(models)
    dataset, conditions = _conditions(
        console, data, class_list(classes), split, device, batch_size, plugin, names != []
    )
    if data.is_dir():
        require_apart(data, out)
    require_free("--report", page, force=force or resume, data=data, made=out)
    score([], [], dataset.class_names, metric, iou)  # a wrong option is told at once
    _require_valid(names, dataset, backbone, weights, settings or (), val, max_steps, max_minutes)
    options = {
        "--max-minutes": max_minutes,
        "--max-steps": max_steps,
        "--backbone": backbone,
        "--weights": in_full(weights),
        "--val": in_full(val),
        "--classes": classes,
        "--num-workers": num_workers,
        "--threads": threads,
        "--device": None if device == "auto" else device,
    }
    shared = [str(data.absolute())]
    for option, value in options.items():
        shared += [] if value is None else [option, str(value)]
    shared += [word for setting in settings or () for word in ("--set", setting)]
    shared += [word for place in conditions.plugins for word in ("--plugin", place)]
    shared += ["--skip-bad"] if skip_bad else []
    cells = [*_to_train(names, seeds, shared, out), *_trained(run or (), out)]
    outcomes = _run(console, cells, conditions, resume=resume, force=force)

    from detkit.comparison.table import comparison_to_json, summarise
    from detkit.evaluation.leakage import groups_of_split

    with console.counting("looking for groups") as progress:
        groups = groups_of_split(dataset, conditions.split, group, progress)

    table = summarise(
        outcomes, dataset, conditions.split, metric=metric, iou_thresh=iou, groups=groups[0]
    )
    if page is not None:
        from detkit.report.comparison_page import write_comparison

        write_comparison(page, table, dataset, conditions.data_hash)
        console.note(f"report: {page}")
    console.note(f"intervals over {groups[1]}")
    with reader_may_leave():  # what failed is told all the same
        if as_json:
            report = {
                "data": str(dataset.root),
                "data_hash": conditions.data_hash,
                **comparison_to_json(table),
            }
            console.data(json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False))
        else:
            _tell(console, table)
    failed = [one for one in outcomes if one.error is not None]
    for one in failed:
        console.error(f"{one.cell.result.stem}: {one.error}")
    if failed:
        raise typer.Exit(ExitCode.BAD_INPUT)


def _require_one_folder(words: Sequence[str]) -> None:
    """Raise UsageError for models among the words; it says how `compare` is told of them."""
    if len(words) == 1:
        return
    from detkit.detectors import backend_names

    to_train = [word for word in words if word in backend_names()]
    data = next((word for word in words if Path(word).is_dir() and not _is_run(word)), "DATA")
    trained = [word for word in words if word not in (data, *to_train)]
    options = [part for word in trained for part in ("--run", word)]
    options += ["--models", ",".join(to_train), "--max-minutes", "20"] if to_train else []
    raise UsageError(
        f"{shlex.join(words)}: expected one labelled folder; backends to train go to --models, "
        f"trained models to --run: detkit compare {shlex.join([data, *options])} -o compared"
    )


def _is_run(word: str) -> bool:
    """Return whether a word names the folder of a run, and not one with labels."""
    return any(Path(word, f"{name}.safetensors").is_file() for name in ("best", "last"))


def _backends(models: str | None) -> list[str]:
    """Return the backends of `--models`, each once."""
    from detkit.detectors import backend_names

    names = [word.strip() for word in (models or "").split(",") if word.strip()]
    for name in names:
        nearest("--models", name, backend_names())
    return list(dict.fromkeys(names))


def _conditions(
    console: Console,
    data: Path,
    classes: Sequence[str] | None,
    split: str | None,
    device: str,
    batch_size: int,
    plugin: Sequence[str] | None,
    trains: bool,
) -> tuple[Dataset, Conditions]:
    """Return the data set, and what all models have in common.

    Raises UsageError when models would be measured on the images they are trained on.
    """
    from detkit.comparison.runs import Conditions
    from detkit.data import open_dataset
    from detkit.data.splits import training_name
    from detkit.data.summary import data_hash

    dataset = open_dataset(data, classes=classes)
    part = choose_split(dataset, split)
    if trains and part == training_name(dataset):
        raise UsageError(
            f"{data}: models would be compared on {part}, which they are trained on; cut off a "
            f"test split first: detkit split {data} OUT --test .2"
        )
    tell_notes(console, dataset)
    warn_of_unread(console, dataset)
    conditions = Conditions(
        data=data,
        data_hash=data_hash(dataset),
        split=part,
        classes=None if classes is None else tuple(classes),
        device=device,
        batch_size=batch_size,
        plugins=tuple(str(in_full(place)) for place in plugin or ()),
    )
    return dataset, conditions


def _require_valid(
    names: Sequence[str],
    dataset: Dataset,
    backbone: str | None,
    weights: str | None,
    settings: Sequence[str],
    val: str | None,
    max_steps: int | None,
    max_minutes: float | None,
) -> None:
    """Raise what each training would end with at once, before the first of them has begun."""
    from detkit.config import override, parse_settings
    from detkit.data.splits import training_splits
    from detkit.detectors import load_backend
    from detkit.training.options import TrainOptions

    if names:
        TrainOptions(max_steps=max_steps, max_minutes=max_minutes).validate()
        training_splits(dataset, val, 0)
    for name in names:
        backend = load_backend(name)
        try:
            config = starting_config(backend, backbone, weights or "none")
            config, _ = override(config, backend.short_recipe, parse_settings(settings))
            backend(config, dataset.class_names)
        except UsageError as error:
            raise UsageError(f"{name}: {error}") from error


def _to_train(names: Sequence[str], seeds: int, shared: Sequence[str], out: Path) -> list[Cell]:
    """Return the models to train, seed by seed: an interrupted comparison has all models."""
    from detkit.comparison.runs import Cell

    return [
        Cell(
            name=name,
            run=out / f"{name}-{seed}",
            result=out / f"{name}-{seed}.json",
            seed=seed,
            training=(*shared, "--model", name, "--seed", str(seed)),
        )
        for seed in range(seeds)
        for name in names
    ]


def _trained(runs: Sequence[str], out: Path) -> list[Cell]:
    """Return the models of `--run`; those of one name are numbered."""
    from detkit.comparison.runs import Cell

    cells: list[Cell] = []
    for word in runs:
        name, equals, place = word.partition("=")
        if Path(word).exists() or not equals:
            place, name = word, Path(word).resolve().name.removesuffix(".safetensors")
        if not name.strip() or Path(name).name != name:
            raise UsageError(f"--run {word}: expected DIR or NAME=DIR, NAME without slashes")
        if not Path(place).exists():
            raise DetkitError(f"--run {word}: there is no {place}")
        number = sum(one.name == name for one in cells)
        cells.append(Cell(name, Path(place), out / f"{name}.run-{number}.json"))
    return cells


def _run(
    console: Console,
    cells: Sequence[Cell],
    conditions: Conditions,
    *,
    resume: bool,
    force: bool,
) -> list[Outcome]:
    """Train and measure what is not yet, saying how it goes."""
    from detkit.comparison.runs import compare as outcomes_of

    outcomes = []
    found = outcomes_of(cells, conditions, resume=resume, force=force, say=console.note)
    for number, one in enumerate(found, start=1):
        state = "kept" if one.kept else "done" if one.error is None else f"failed: {one.error}"
        console.note(f"{one.cell.result.stem}: {state} ({number} of {len(cells)})")
        outcomes.append(one)
    return outcomes


def _tell(console: Console, table: Comparison) -> None:
    """Write the table of accuracy and cost, and the one of time by stage."""
    header = (
        *("model", "seeds", "mAP", "spread", "to the best", "95 % from", "to"),
        *("small", "medium", "large", "s an image", "MiB", "model MB", "trained", "MiB trained"),
    )
    console.table(header, [_cells(row) for row in table.rows], right=tuple(range(1, len(header))))
    console.text("")
    console.text(
        f"{table.protocol}; {table.split}, {counted(table.num_images, 'image')}; "
        "small, medium, large: COCO's AP, IoU .5 to .95"
    )
    stages = dict.fromkeys(stage for row in table.rows for stage in row.stages)
    if stages:
        rows = [
            (row.name, *(_seconds(row.stages.get(stage)) for stage in stages))
            for row in table.rows
            if row.stages
        ]
        console.text("")
        console.text(
            f"seconds an image by stage; {', '.join(STAGES.values())} pass beside the others"
        )
        console.table(
            ("model", *(STAGES.get(stage, stage) for stage in stages)),
            rows,
            right=tuple(range(1, 1 + len(stages))),
        )


def _cells(row: Row) -> tuple[str, ...]:
    """Return a row of the table as text."""
    gap = row.difference
    return (
        row.name,
        str(len(row.maps)),
        figure(row.mean) if row.maps else "failed",
        "" if row.spread is None else f"{row.spread:.3f}",
        *(("", "", "") if gap is None else (f"{v:+.3f}" for v in (gap.value, gap.low, gap.high))),
        *(
            figure(row.sizes.get(name)) if row.sizes else ""
            for name in ("small", "medium", "large")
        ),
        _seconds(row.seconds),
        "" if row.memory_mib is None else f"{row.memory_mib:.0f}",
        "" if row.model_bytes is None else f"{row.model_bytes / 1e6:.1f}",
        "" if row.training_seconds is None else duration(row.training_seconds),
        "" if row.training_memory_mib is None else f"{row.training_memory_mib:.0f}",
    )


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
