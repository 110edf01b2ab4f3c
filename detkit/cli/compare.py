"""The command that compares models on one data set, trained and measured in the same way."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detkit.cli.compare_tables import sentences, tell, tell_plan
from detkit.cli.compared import (
    backends,
    command_limit_of,
    named_commands,
    require_places,
    require_valid,
    to_run,
    to_train,
    trained,
    variants_of,
)
from detkit.cli.console import Console, reader_may_leave
from detkit.cli.division import divide, open_to_compare
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
    StartingWeights,
    TrainingThreads,
    class_list,
    require_one_form,
    require_page,
    require_results,
)
from detkit.cli.train_plan import in_full
from detkit.cli.trainings import Trainings, places, share_of
from detkit.errors import ExitCode, UsageError
from detkit.files import holding
from detkit.shards.shard import Shard

if TYPE_CHECKING:
    from detkit.comparison.runs import Conditions
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
    command: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=COMMAND",
            help="Any other trainer, './train.sh {data} {out} {minutes} {seed}': run without a "
            "shell; repeatable.",
        ),
    ] = None,
    command_format: Annotated[
        str,
        typer.Option(metavar="FORMAT", help="Of the folder {data}: coco, voc or yolo."),
    ] = "coco",
    command_limit: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Minutes after which a command is stopped, detecting included. [default: twice "
            "--max-minutes, and 10]",
        ),
    ] = None,
    out: RunsFolder = None,
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
    folds: Annotated[
        int | None,
        typer.Option(
            min=2,
            metavar="K",
            help="Cross-validation: train K times, each time without a part of all images, and "
            "score what is found in those.",
        ),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of all models. [default: each one's own]")
    ] = None,
    weights: StartingWeights = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE[,VALUE]",
            help="A setting of all models; repeatable. With several values each is a row. A key "
            "that takes several numbers, like milestones, takes the commas too: repeat it instead.",
        ),
    ] = None,
    val: Annotated[
        str | None,
        typer.Option(
            metavar="SPLIT|SHARE|PATH",
            help="What to validate on, as for `train`; with --folds a share.",
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The part to compare on. [default: test, else val; with --folds all images]",
        ),
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
    num_workers: DataWorkers = None,
    threads: TrainingThreads = None,
    devices: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="Trainings at a time: one a GPU, or on the CPU."),
    ] = 1,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Only train the I-th of N shares, for an array of jobs; --resume without it "
            "measures all.",
        ),
    ] = None,
    as_json: AsJson = False,
    markdown: AsMarkdown = False,
    page: Page = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be trained, and how long at most.")
    ] = False,
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
    of its own; then all are measured on the same split. The table has mAP, what other images of
    this kind would give (95 % interval over draws of the images, those that belong together as
    one), what other trainings give (the spread over seeds), the difference to the best, AP by
    size of object, time, memory, size and training time.

    With --folds each image is judged once by a model that was not trained on it, nor on what
    belongs to it; one mAP is taken over all. DIR keeps these detections: NAME-SEED.jsonl.

    A command finds in {data} train, val and test, the latter without labels, and leaves in {out}
    detections.jsonl, .json or .csv, or a folder detections, of the images of test.

    With --devices N so many are trained at a time, a GPU each; on the CPU they share the cores.
    Measuring waits for the last, and is done one after the other.

    DIR holds a run folder for each training; --resume keeps those that are finished and goes on
    with the others. A model that fails is a row with its error, and the exit code is 3 at the
    end; an option that no training could work with is told before the first begins.

    \b
    Examples:
      detkit compare photos --models ssd,faster-rcnn,yolov1 --max-minutes 20 -o compared
      detkit compare photos --models ssd,yolov1 --folds 5 --seeds 2 --max-minutes 5 -o folds
      detkit compare photos --models ssd --set lr=.001,.003 --max-minutes 20 -o rates
      detkit compare photos --run ssd=run --run tuned=run-2 -o compared --report compared.html
      detkit compare photos --models ssd --max-minutes 20 -o compared \\
        --command 'other=./train.sh {data} {out} {minutes} {seed}'
    """
    _require_one_folder([str(data), *context.args])
    load_plugins(plugin)
    names = backends(models)
    if out is None:
        raise UsageError("-o DIR is missing: the folder for the runs and what was measured")
    if not models and not run and not command:
        raise UsageError("nothing to compare: name --models to train, or a trained --run")
    if (models or command) and max_minutes is None and max_steps is None:
        raise UsageError("--max-minutes (or --max-steps) is missing: the budget of each training")
    require_one_form(as_json=as_json, markdown=markdown)
    require_results(dry_run=dry_run, as_json=as_json)
    environments = places(device, devices, threads)
    share = None if shard is None else Shard.parse(shard)
    if share is not None and (page is not None or as_json or markdown):
        raise UsageError("--shard: trains only; the table is made by --resume without it")
    console = Console(quiet, markdown=markdown)
    from detkit.data.output import require_apart
    from detkit.evaluation.scores import score

    commands = named_commands(command or (), names)
    if settings and not names:
        raise UsageError(f"--set {settings[0]}: is for --models, of which there are none")
    rows = variants_of(names, settings or ())
    limit = command_limit_of(command_format, command_limit, max_minutes, commands)
    if folds is not None and run:
        raise UsageError("--run: may be trained on what --folds would judge it by; leave it out")
    chosen = class_list(classes)
    if data.is_dir():
        require_apart(data, out)
    require_page("--report", page, force=force or resume, data=data, made=out)
    dataset, part = open_to_compare(console, data, chosen, split, folds, bool(names or commands))
    score([], [], dataset.class_names, metric, iou)  # a wrong option is told at once
    own_val = val if folds is None else None
    require_valid(rows, dataset, backbone, weights, own_val, max_steps, max_minutes)
    division = divide(
        console,
        dataset,
        part,
        out,
        data=data,
        seeds=seeds,
        folds=folds,
        val=in_full(val),
        group=group,
        skip_bad=skip_bad,
        for_commands=command_format if commands else None,
    )
    dataset = division.dataset
    conditions = _conditions(data, dataset, part, chosen, device, batch_size, plugin, division.name)
    options = {
        "--max-minutes": max_minutes,
        "--max-steps": max_steps,
        "--backbone": backbone,
        "--weights": in_full(weights),
        "--classes": classes,
        "--num-workers": num_workers,
        "--threads": threads,
        "--device": None if device == "auto" else device,
    }
    shared = [str(data.absolute())]
    for option, value in options.items():
        shared += [] if value is None else [option, str(value)]
    shared += [word for place in conditions.plugins for word in ("--plugin", place)]
    shared += ["--skip-bad"] if skip_bad else []
    cells = [
        *to_train(rows, division.parts, shared, out),
        *to_run(
            commands,
            division.parts,
            out,
            class_names=dataset.class_names,
            minutes=max_minutes,
            limit=limit,
            threads=threads,
        ),
        *trained(run or (), out),
    ]
    require_places(cells)
    if share is not None:
        cells = share_of(cells, share)
    budget = f"{max_steps} steps" if max_minutes is None else f"{max_minutes:g} min"
    tell_plan(
        console,
        cells,
        conditions,
        budget,
        max_minutes,
        at_a_time=devices,
        resume=resume,
        force=force,
        dry_run=dry_run,
    )
    if dry_run:
        return
    trainings = Trainings(
        console, cells, conditions, division, environments, resume=resume, force=force
    )
    if share is not None:
        trainings.train(out, share)
        return
    with holding(out, "detkit compare"):
        outcomes = trainings.outcomes(out)

    from detkit.comparison.table import comparison_to_json, summarise

    with console.counting("looking for groups") as progress:
        groups = division.groups(part, group, progress)
    table = summarise(outcomes, dataset, part, metric=metric, iou_thresh=iou, groups=groups[0])
    if page is not None:
        from detkit.report.comparison_page import write_comparison

        write_comparison(page, table, dataset, conditions.data_hash, sentences(table))
        console.note(f"report: {page}")
    with reader_may_leave():  # what failed is told all the same
        if as_json:
            report = {
                "data": str(dataset.root),
                "data_hash": conditions.data_hash,
                **comparison_to_json(table),
            }
            console.data(json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False))
        else:
            tell(console, table)
    for row in table.rows:
        for warning in row.warnings:
            console.warn(warning)
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


def _conditions(
    data: Path,
    dataset: Dataset,
    split: str,
    classes: Sequence[str] | None,
    device: str,
    batch_size: int,
    plugin: Sequence[str] | None,
    division: str | None,
) -> Conditions:
    """Return what all models have in common."""
    from detkit.comparison.runs import Conditions
    from detkit.data.summary import data_hash

    return Conditions(
        data=data,
        data_hash=data_hash(dataset),
        split=split,
        classes=None if classes is None else tuple(classes),
        device=device,
        batch_size=batch_size,
        plugins=tuple(str(in_full(place)) for place in plugin or ()),
        division=division,
    )
