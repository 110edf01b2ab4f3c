"""What `compare` measures: the cells of each row, a model, a command or a trained run."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from detkit.cli.options import nearest
from detkit.cli.variants import Variant, variants
from detkit.errors import DetkitError, UsageError
from detkit.files import fitting_name
from detkit.inference.models import starting_config

if TYPE_CHECKING:
    from detkit.comparison.runs import Cell
    from detkit.comparison.trainer_folders import TrainerFolder
    from detkit.data.records import Dataset

COMMAND_SPARE = 10.0  # minutes, ours: what a command may take to start, to read and to detect
_ODD = re.compile(r"[^\w.=+-]+")  # what a file's name does without


@dataclass(frozen=True)
class Part:
    """What is trained on and measured with one seed: a fold, or the data set as it is divided."""

    seed: int
    fold: int | None  # from 1 on
    images: tuple[str, ...] | None  # ids of those to measure on; None: the split's
    folder: TrainerFolder | None  # to train a backend on; None: the data set itself
    given: TrainerFolder  # that a command gets
    val: str | None  # of `detkit train`


def backends(models: str | None) -> list[str]:
    """Return the backends of `--models`, each once; UsageError for one that there is not."""
    from detkit.detectors import backend_names

    names = [word.strip() for word in (models or "").split(",") if word.strip()]
    for name in names:
        nearest("--models", name, backend_names())
    return list(dict.fromkeys(names))


def variants_of(names: Sequence[str], settings: Sequence[str]) -> dict[str, list[Variant]]:
    """Return the variants of each backend by its name; UsageError for wrong settings."""
    from detkit.detectors import load_backend

    return {name: variants(name, settings, load_backend(name).config_class) for name in names}


def named_commands(commands: Sequence[str], taken: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the words of each command by its name.

    Raises UsageError for a command without a name, a name that is `taken` or given twice, and as
    `commands.command_words` does.
    """
    from detkit.comparison.commands import command_words

    named: dict[str, tuple[str, ...]] = {}
    for text in commands:
        name, equals, command = text.partition("=")
        name = name.strip()
        if not equals or not name or Path(name).name != name or re.search(r"[\s{]", name):
            raise UsageError(
                f"--command {text}: expected NAME='./train.sh {{data}} {{out}} {{minutes}}', NAME "
                "without spaces and slashes"
            )
        if name in named or name in taken:
            raise UsageError(f"--command {name}=...: {name} names another row; choose another")
        named[name] = command_words(command, name)
    return named


def command_limit_of(
    form: str, limit: float | None, max_minutes: float | None, commands: Mapping[str, Sequence[str]]
) -> float | None:
    """Return the minutes after which a command is stopped; None without a budget of minutes.

    Raises UsageError for options of commands that make no sense.
    """
    from detkit.comparison.trainer_folders import FORMATS

    nearest("--command-format", form, FORMATS)
    if limit is not None and not 0 < limit < math.inf:
        raise UsageError(f"--command-limit {limit:g}: must be above 0")
    if max_minutes is None:
        for name, words in commands.items():
            if any("{minutes}" in word for word in words):
                raise UsageError(f"--command {name}=...: {{minutes}} takes --max-minutes")
        return limit
    return 2 * max_minutes + COMMAND_SPARE if limit is None else limit


def require_valid(
    rows: Mapping[str, Sequence[Variant]],
    dataset: Dataset,
    backbone: str | None,
    weights: str | None,
    val: str | None,
    max_steps: int | None,
    max_minutes: float | None,
) -> None:
    """Raise what each training would end with at once, before the first of them has begun."""
    from detkit.config import override, parse_settings
    from detkit.data.splits import training_splits
    from detkit.detectors import load_backend
    from detkit.training.options import TrainOptions

    if max_steps is not None or max_minutes is not None:
        TrainOptions(max_steps=max_steps, max_minutes=max_minutes).validate()
        training_splits(dataset, val, 0)
    for name, made in rows.items():
        backend = load_backend(name)
        for variant in made:
            try:
                config = starting_config(backend, backbone, weights or "none")
                settings = parse_settings(variant.settings)
                config, _ = override(config, backend.short_recipe, settings)
                backend(config, dataset.class_names)
            except UsageError as error:
                raise UsageError(f"{name}: {error}") from error


def to_train(
    rows: dict[str, list[Variant]], parts: Sequence[Part], shared: Sequence[str], out: Path
) -> list[Cell]:
    """Return the cells of backends, part by part: an interrupted comparison has all models.

    `shared` are words of `detkit train` but for the data, the model, its settings and the seed.
    """
    from detkit.comparison.runs import Cell

    return [
        Cell(
            name=variant.name,
            run=place,
            result=_result(place),
            seed=part.seed,
            training=(
                *((str(part.folder.path.absolute()), *shared[1:]) if part.folder else shared),
                *(("--val", part.val) if part.val is not None else ()),
                *(word for setting in variant.settings for word in ("--set", setting)),
                *("--model", model, "--seed", str(part.seed)),
            ),
            fold=part.fold,
            images=part.images,
        )
        for part in parts
        for model, made in rows.items()
        for variant in made
        for place in [_place(out, variant.name, part)]
    ]


def to_run(
    commands: dict[str, tuple[str, ...]],
    parts: Sequence[Part],
    out: Path,
    *,
    class_names: Sequence[str],
    minutes: float | None,
    limit: float | None,
    threads: int | None,
) -> list[Cell]:
    """Return the cells of the user's commands, part by part."""
    from detkit.comparison.commands import Command
    from detkit.comparison.runs import Cell

    return [
        Cell(
            name=name,
            run=place,
            result=_result(place),
            seed=part.seed,
            command=Command(
                words, part.given, tuple(class_names), part.seed, minutes, limit, threads
            ),
            fold=part.fold,
            images=part.images,
        )
        for part in parts
        for name, words in commands.items()
        for place in [_place(out, name, part)]
    ]


def trained(runs: Sequence[str], out: Path) -> list[Cell]:
    """Return the models of `--run`; those of one name are numbered.

    Raises UsageError for a name that is none, DetkitError for a place where nothing is.
    """
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


def require_places(cells: Sequence[Cell]) -> None:
    """Raise UsageError where two cells would be kept in one place."""
    owners: dict[Path, Cell] = {}
    for cell in cells:
        other = owners.setdefault(cell.result, cell)
        if other is not cell:
            raise UsageError(
                f"{cell.name} and {other.name} would both be kept as {cell.result.stem}; give one "
                "another name"
            )


def pooled_place(out: Path, cell: Cell) -> Path:
    """Return where the detections of all folds of a cell's name and seed are kept."""
    return out / f"{_file_name(cell.name)}-{cell.seed}.jsonl"


def _place(out: Path, name: str, part: Part) -> Path:
    """Return the run folder of a row's training on a part."""
    end = "" if part.fold is None else f"-fold-{part.fold}"
    return out / f"{_file_name(name)}-{part.seed}{end}"


def _result(place: Path) -> Path:
    """Return the file that tells of a run folder: dots in its name are no suffixes."""
    return place.with_name(f"{place.name}.json")


def _file_name(name: str) -> str:
    """Return a row's name as part of files' names."""
    return fitting_name(_ODD.sub("-", name), 100)
