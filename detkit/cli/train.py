"""The command that trains a detector on a labelled folder."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detkit import __version__
from detkit.cli.console import Console, record_line
from detkit.cli.forecast import hours, plan_lines, tell_forecast
from detkit.cli.looking import tile_side
from detkit.cli.model_choice import load_plugins
from detkit.cli.options import (
    Classes,
    Device,
    Overlap,
    Plugin,
    ProposalsFrom,
    Quiet,
    Threads,
    class_list,
    nearest,
)
from detkit.cli.planned import build, proposals_of, suited, weightless
from detkit.cli.recipes import (
    RECIPES,
    recipe_of,
    require_weights,
    run_of,
    wanted_file,
    with_run,
    with_settings,
)
from detkit.cli.train_plan import Plan, in_full, merge, read_plan, sound_data, split_data
from detkit.errors import DetkitError, UsageError, require_installed
from detkit.inference.models import starting_config

if TYPE_CHECKING:
    from detkit.config import DetectorConfig, Recipe
    from detkit.data.records import Dataset, ImageRecord
    from detkit.detector import Detector
    from detkit.proposals.source import ProposalSource
    from detkit.structures import Scores, Step

FIRST_STEPS = 10  # after which the time that is left is told for a paper's run
OPTION_NAMES = {"tile_overlap": "overlap"}  # where an option is not called like its setting


def train(
    data: Annotated[
        Path | None, typer.Argument(metavar="DATA", help="The labelled folder.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="The backend; `detkit models` lists them.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", metavar="RUN_DIR", help="The folder for models, log and metrics."
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="[default: what the weights are of; tiny without any]"),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="WHICH",
            help="imagenet (downloaded), none, a name like ssd300-coco, or a FILE: torchvision's, "
            "Caffe's, darknet's or a detkit model. [default: none]",
        ),
    ] = None,
    recipe_name: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            metavar="NAME",
            help="short: minutes to hours; paper (on VOC07), paper-0712 or paper-coco: as "
            "published, network and weights too. [default: short]",
        ),
    ] = None,
    epochs: Annotated[
        float | None, typer.Option(metavar="X", help="The budget in passes over the images.")
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="The budget in optimiser steps.")
    ] = None,
    max_minutes: Annotated[
        float | None,
        typer.Option(metavar="X", help="The budget in minutes; the schedule is scaled to it."),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Images a step. [default: the recipe's]")
    ] = None,
    lr: Annotated[
        float | None, typer.Option(metavar="X", help="The learning rate. [default: the recipe's]")
    ] = None,
    tile: Annotated[
        str | None,
        typer.Option(
            metavar="N|none",
            help="Train on crops of N x N pixels, too, and find objects in them: for small ones in "
            "large images. [default: none]",
        ),
    ] = None,
    overlap: Overlap = None,
    val: Annotated[
        str | None,
        typer.Option(
            metavar="SPLIT|SHARE|PATH",
            help="What to validate on: a split, a share like .2, a labelled folder. "
            "[default: val, else .2 of train]",
        ),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Stop after this many validations without a better."),
    ] = None,
    until: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=X", help="Stop once a validation has mAP (or a class) at X; repeatable."
        ),
    ] = None,
    classes: Classes = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out what `detkit check` calls an error.")
    ] = False,
    device: Device = "auto",
    devices: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="How many devices on this machine. [default: 1]"),
    ] = None,
    nodes: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="How many machines (SLURM, torchrun). [default: 1]"),
    ] = None,
    wait: Annotated[
        float,
        typer.Option(
            metavar="MINUTES",
            help="How long a process may be silent before the others give up and save.",
        ),
    ] = 30.0,
    precision: Annotated[
        str, typer.Option(metavar="NAME", help="auto (measured), 32-true, bf16-mixed, 16-mixed.")
    ] = "auto",
    num_workers: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="N", help="Processes that load images. [default: by the cores]"
        ),
    ] = None,
    threads: Threads = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="What chance depends on. [default: 0]")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Any setting of `detkit models NAME`; repeatable."
        ),
    ] = None,
    proposals: ProposalsFrom = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Repeat the run of this config.json; options change it."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say what would be done and how long it takes; do nothing."),
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in RUN_DIR.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an earlier run in RUN_DIR.")
    ] = False,
    plugin: Plugin = None,
    quiet: Quiet = False,
) -> None:
    """Train a detector on a labelled folder.

    The folder is checked first (as by `detkit check`); errors are named and refused. RUN_DIR
    then holds best.safetensors and last.safetensors (models), metrics.jsonl, log.txt,
    config.json, and samples/: training images as the network sees them. Ctrl-C stops and
    keeps everything; --resume goes on.

    \b
    Examples:
      detkit train photos --model ssd -o run
      detkit train photos --model ssd --weights imagenet --max-minutes 30 -o run
      detkit train photos --model ssd --until mAP=.85 -o run
      detkit train photos --model ssd --set size=512 --set nms_thresh=.5 -o run
      detkit train aerial --model ssd --tile 640 -o run
      detkit train VOCdevkit --model faster-rcnn --recipe paper-0712 --dry-run
      detkit train --resume -o run
      detkit train --config run/config.json --seed 1 -o run-1
    """
    if recipe_name is not None:
        recipe_name = nearest("--recipe", recipe_name, RECIPES)
    if out is None and recipe_name not in (None, "short") and model is not None:
        out = Path(f"{model}-{recipe_name}")  # a paper's run has a name by itself
    if out is None and (resume or not dry_run):
        raise UsageError("-o RUN_DIR is missing: the folder to write models, log and metrics into")
    if out is not None and resume and config is None:
        config = out / "config.json"
        if not config.is_file():
            raise DetkitError(f"--resume: there is no run in {out} ({config} is missing)")
    # Under the names of the plan's fields; what the command has them be without a word is left out.
    options = locals() | {
        "data": None if data is None else str(data.absolute()),
        "recipe_name": recipe_name,
        "weights": in_full(weights),
        "val": in_full(val),
        "until": None if until is None else _least_figures(until),
        "classes": class_list(classes),
        "proposals": in_full(proposals),
        "plugin": None if plugin is None else [str(in_full(name)) for name in plugin],
    }
    require_installed("torch", "torchvision", "lightning_fabric", "safetensors")
    unsaid = inspect.signature(train).parameters
    given = {name: value for name, value in options.items() if value != unsaid[name].default}
    plan = merge(Plan() if config is None else read_plan(config), given)
    if plan.data is None:
        raise UsageError("DATA is missing: the labelled folder to train on")
    if plan.model is None:
        raise UsageError("--model is missing, like --model ssd; `detkit models` lists them")
    from detkit.detectors import backend_names, load_backend

    load_plugins(plan.plugin)
    nearest("--model", plan.model, backend_names())  # before the data are looked at
    backend = load_backend(plan.model)
    plan = with_run(plan, backend, given)
    console = Console(quiet or _rank() > 0)
    side = None if tile is None else tile_side(tile, f"--tile {tile}", "a number of pixels or none")
    standing = {"batch_size": batch_size, "lr": lr, "tile": side, "tile_overlap": overlap}
    configs = _configs(plan, standing, settings or ())
    if dry_run:
        tell_forecast(console, plan, *configs, wanted_file(plan, backend, given))
        return
    assert out is not None
    require_weights(plan, backend, given)
    _require_valid(plan, out, resume=resume, force=force)
    dataset, last = _run(console, plan, *configs, out, resume=resume, force=force)
    if _rank() == 0:
        if last is None:
            console.note("nothing was left to do; a larger budget, as --max-steps, trains on")
        _tell_end(console, out, data or Path(str(plan.data)), list(dataset.splits))


def _configs(
    plan: Plan, options: Mapping[str, float | None], words: Sequence[str]
) -> tuple[DetectorConfig, Recipe]:
    """Return the settings of detector and recipe: the plan's, with `options` and `--set` put in.

    `options` are those that stand for a setting; None was not given.

    Raises UsageError for a setting there is not, or a value that nothing can work with.
    """
    from detkit.config import from_json, override, parse_settings, require_within, to_json
    from detkit.detectors import load_backend

    backend = load_backend(str(plan.model))
    config = starting_config(backend, plan.backbone, plan.weights)
    if plan.detector:
        config = from_json(backend.config_class, {**to_json(config), **plan.detector})
    config = with_settings(config, plan, backend)
    settings: dict[str, Any] = {**parse_settings(words)}
    recipe = recipe_of(override(config, backend.recipe, settings)[0], plan, backend)
    if plan.recipe:
        recipe = from_json(type(recipe), {**to_json(recipe), **plan.recipe})
    for name, value in options.items():
        if value is None:
            continue
        if not math.isfinite(value):
            raise UsageError(f"{name}={value}: expected a finite number")
        of = recipe if hasattr(recipe, name) else config
        option = OPTION_NAMES.get(name, name.replace("_", "-"))
        require_within(of, name, value, f"--{option} {value:g}")
        if name in settings:
            raise UsageError(f"--set {name}: given twice")
        settings[name] = value
    config, recipe = override(config, recipe, settings)
    if options["tile_overlap"] is not None and not config.tile:
        raise UsageError("--overlap: there are no tiles; ask for some by --tile N")
    return config, recipe


def _least_figures(words: Sequence[str]) -> dict[str, float]:
    """Return {figure: least} of the `NAME=X` words of `--until`."""
    from detkit.evaluation.gates import parse_gate

    gates = [parse_gate(word, "--until") for word in words]
    return {gate.name: gate.limit for gate in gates}


def _require_reachable(
    until: Mapping[str, float], class_names: Sequence[str], held_out: Sequence[ImageRecord]
) -> None:
    """Raise UsageError when no validation can say whether `until` is reached."""
    from detkit.evaluation.gates import Gate, check_gates
    from detkit.evaluation.scores import score

    if until and not held_out:
        raise UsageError("--until: there is no image to validate on; see --val")
    gates = [Gate(name, least) for name, least in until.items()]
    check_gates(score([], [], class_names), gates, "--until")


def _require_valid(plan: Plan, out: Path, *, resume: bool, force: bool) -> None:
    """Raise UsageError for what is wrong whatever the data are: to look at those takes minutes."""
    from detkit.data.output import require_apart
    from detkit.networks.precision import choose_precision, find_device, require_trainable
    from detkit.training.run_folder import RunFolder

    plan.validate()
    device = find_device(plan.device)
    require_trainable(choose_precision(plan.precision, device, measure=False)[0], device)
    for folder in (plan.data, plan.val):
        if folder is not None and Path(folder).is_dir():
            require_apart(Path(folder), out)
    if _rank() == 0:
        RunFolder(out, resume=resume, force=force).close()


def _run(
    console: Console,
    plan: Plan,
    config: DetectorConfig,
    recipe: Recipe,
    out: Path,
    *,
    resume: bool,
    force: bool,
) -> tuple[Dataset, Step | None]:
    """Check the data, build the detector and train it; return the data and the last step."""
    from detkit.data.summary import data_hash
    from detkit.detectors import load_backend
    from detkit.training.options import RunOptions
    from detkit.training.train import train as steps_of

    run = run_of(load_backend(str(plan.model)), plan.recipe_name)
    dataset = sound_data(console, plan)
    records, held_out = split_data(console, dataset, plan, run)
    _require_reachable(plan.until, dataset.class_names, held_out)
    config = suited(plan, config, recipe, dataset.class_names, records)
    if run is not None:
        console.note(f"models, log and metrics go to {out}")
        twin = weightless(plan, config, dataset.class_names)
        for line in plan_lines(plan, run, twin, recipe, records, held_out):
            console.note(line)
    detector = build(plan, config, dataset.class_names)
    # Those of the training images are looked up before the first step.
    source = proposals_of(plan, detector, held_out)
    options = RunOptions(
        **plan.options(),
        validation=_validation(dataset, held_out, recipe.batch_size, source),
        proposals=source,
        resume=resume,
        force=force,
        settings={"detkit": __version__, "plan": plan.to_json(detector.config, recipe)},
        data_hash=data_hash(dataset),
    )
    last: Step | None = None
    with console.training() as show:
        for last in steps_of(detector, records, recipe, out, options):
            show(last)
            if run is not None and last.step == FIRST_STEPS and last.seconds_left:
                time_left = hours(last.seconds_left)
                show.line(f"about {time_left} to go, at the pace of the first {FIRST_STEPS} steps")
    return dataset, last


def _validation(
    dataset: Dataset,
    held_out: Sequence[ImageRecord],
    batch_size: int,
    proposals: ProposalSource | None,
) -> Callable[[Detector], Scores] | None:
    """Return what scores a detector on the images held out; None when there are none."""
    if not held_out:
        return None
    from detkit.evaluation.held_out import HeldOut

    return HeldOut(dataset.with_splits({"val": tuple(held_out)}), "val", batch_size, proposals)


def _tell_end(console: Console, out: Path, data: Path, splits: Sequence[str]) -> None:
    """Say how well the training went, earlier parts of it included, and what to type next."""
    from detkit.files import shell_word
    from detkit.model_file import model_info

    best = out / "best.safetensors"
    scores = model_info(best)["scores"] if best.is_file() else None
    if scores is None:
        best = out / "last.safetensors"
        console.note(f"trained, without a validation that gave a score: {best}")
    else:
        console.note(f"best {record_line(scores)}")
    model, folder = shell_word(best), shell_word(data)
    console.note("next:")
    split = next((name for name in ("test", "val") if name in splits), None)
    if split is None:
        why = "for images that no training has seen"
        console.note(f"  detkit split {folder} OUT --test .2    {why}")
    else:
        console.note(f"  detkit eval {model} {folder} --split {split}")
    console.note(f"  detkit detect {model} IMAGE... --draw drawn")


def _rank() -> int:
    """Return which of several processes this is, as torchrun, SLURM and Fabric number them."""
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return 0
