"""How `compare` divides the images: as the data set is divided, or into folds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from detkit.cli.compared import Part
from detkit.cli.console import Console
from detkit.cli.data import tell_notes, warn_of_unread
from detkit.cli.judged import choose_split
from detkit.cli.train_plan import without_errors
from detkit.errors import UsageError

if TYPE_CHECKING:
    from detkit.comparison.runs import Cell
    from detkit.comparison.trainer_folders import TrainerFolder
    from detkit.data.folds import Folds
    from detkit.data.records import Dataset


@dataclass(frozen=True)
class Division:
    """The parts to train on and to measure on, seed by seed and fold by fold."""

    parts: tuple[Part, ...]
    dataset: Dataset  # that is scored on
    given: Dataset | None = None  # what trainers' folders are written from, without errors
    folds: Folds | None = None
    name: str | None = None  # what the folds depend on, in words
    val: str | Path | None = None  # where there are no folds
    split: str = ""

    def write(self, cell: Cell) -> None:
        """Write the folder that a cell is trained on, unless it is there."""
        from detkit.comparison.trainer_folders import write_folder
        from detkit.data.folds import Fold, as_dataset
        from detkit.data.splits import training_splits

        if self.given is None:
            return
        part = next(one for one in self.parts if (one.seed, one.fold) == (cell.seed, cell.fold))
        folder = part.folder if cell.command is None else part.given
        if folder is None:
            return
        if self.folds is not None and part.fold is not None:
            fold = self.folds.folds[part.fold - 1]
        else:
            train, val, _ = training_splits(self.given, self.val, part.seed)
            fold = Fold(tuple(train), tuple(val), self.given.splits[self.split])
        write_folder(folder, as_dataset(self.given, fold))

    def groups(
        self, split: str, rule: str, progress: Callable[[int, int], None] | None
    ) -> tuple[list[int], str]:
        """Return the number of each image's group, for the draws of intervals, and all in words."""
        from detkit.evaluation.leakage import groups_of_split

        if self.folds is None:
            return groups_of_split(self.dataset, split, rule, progress)
        together = self.folds.groups
        records = self.dataset.splits[split]
        return [together.number_of[one.path] for one in records], together.in_words()


def open_to_compare(
    console: Console,
    data: Path,
    classes: Sequence[str] | None,
    split: str | None,
    folds: int | None,
    trains: bool,
) -> tuple[Dataset, str]:
    """Return the data set and the split to compare on: with folds all images are the one "all".

    Raises UsageError when models would be measured on the images they are trained on.
    """
    from detkit.data import open_dataset
    from detkit.data.folds import pooled
    from detkit.data.splits import training_name

    dataset = open_dataset(data, classes=classes)
    if folds is not None:
        dataset, part = pooled(dataset, split), "all"
    else:
        part = choose_split(dataset, split)
        if trains and part == training_name(dataset):
            raise UsageError(
                f"{data}: models would be compared on {part}, which they are trained on; cut off a "
                f"test split first (detkit split {data} OUT --test .2), or let each image be held "
                "out once: --folds 5"
            )
    tell_notes(console, dataset)
    warn_of_unread(console, dataset)
    return dataset, part


def divide(
    console: Console,
    dataset: Dataset,
    split: str,
    out: Path,
    *,
    data: Path,
    seeds: int,
    folds: int | None,
    val: str | None,
    group: str,
    skip_bad: bool,
    for_commands: str | None,
) -> Division:
    """Return the parts of a comparison; `for_commands` is the format of folders for commands.

    `dataset` is pooled where there are `folds`. Raises UsageError for a division that cannot be,
    DetkitError for labels with errors that are to be written for a trainer, unless `skip_bad`.
    """
    if folds is None:
        given = None
        if for_commands is not None:
            given = without_errors(console, dataset, str(data), skip_bad=skip_bad)
        return Division(
            tuple(
                Part(seed, None, None, None, _folder(out, f"seed-{seed}", for_commands), val)
                for seed in range(seeds)
            ),
            dataset,
            given,
            val=val,
            split=split,
        )
    from detkit.data.folds import divide_into_folds
    from detkit.data.splits import DEFAULT_FRACTION

    share = DEFAULT_FRACTION if val is None else _share(val)
    given = without_errors(console, dataset, str(data), skip_bad=skip_bad)
    with console.counting("looking") as progress:
        divided = divide_into_folds(
            given.splits[split], folds, val=share, group=group, progress=progress
        )
    console.note(f"kept together: {divided.groups.in_words()}")
    if divided.balance:
        console.note(divided.balance)
    sound = {one.path for one in given.splits[split]}
    kept = tuple(one for one in dataset.splits[split] if one.path in sound)
    parts = tuple(
        Part(
            seed,
            number,
            tuple(one.image_id for one in fold.test),
            _folder(out, f"fold-{number}", "coco"),
            _folder(out, f"fold-{number}", for_commands),
            "val",
        )
        for seed in range(seeds)
        for number, fold in enumerate(divided.folds, start=1)
    )
    return Division(
        parts,
        dataclasses.replace(dataset, splits={split: kept}),
        given,
        divided,
        f"{folds} folds, val {share:g}, group {group}",
    )


def _folder(out: Path, name: str, form: str | None) -> TrainerFolder:
    """Return where a trainer's folder lies; those of another format than COCO say it."""
    from detkit.comparison.trainer_folders import TrainerFolder

    form = form or "coco"
    return TrainerFolder(out / "data" / (name if form == "coco" else f"{name}-{form}"), form)


def _share(val: str) -> float:
    """Return the share that `--val` is with folds; UsageError for anything else."""
    try:
        return float(val)
    except ValueError:
        raise UsageError(f"--val {val}: with --folds expected a share, like .2") from None
