"""The trainings of `compare`: how many at a time, which share, and what comes of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from detkit.cli.compared import pooled_place
from detkit.cli.console import Console
from detkit.cli.division import Division
from detkit.errors import ExitCode, UsageError
from detkit.machine import SHARED_BY, num_cores
from detkit.shards.shard import Shard
from detkit.text import agreed, counted

if TYPE_CHECKING:
    from detkit.comparison.runs import Cell, Conditions, Outcome

VISIBLE = "CUDA_VISIBLE_DEVICES"  # environment: which GPUs a process sees, by CUDA's numbers


def places(device: str, number: int, threads: int | None) -> list[dict[str, str]]:
    """Return the environment of each of so many trainings at a time; none where it is one.

    Each has a GPU for itself, or its share of the cores. Raises UsageError for more than there
    are GPUs, and for one device that several should share.
    """
    if number == 1:
        return []
    shared = {SHARED_BY: str(number)}
    if _is_cpu(device):
        cores = max(1, num_cores() // number)
        own = {} if threads is not None else {"OMP_NUM_THREADS": str(cores)}
        return [{**shared, **own}] * number
    if device not in ("auto", "cuda"):
        raise UsageError(f"--device {device}: is one; leave out --devices {number}")
    import torch

    known = torch.cuda.device_count()
    if number > known:
        raise UsageError(f"--devices {number}: this machine has {counted(known, 'GPU')}")
    named = [name for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    names = named or [str(one) for one in range(known)]
    return [{**shared, VISIBLE: name} for name in names[:number]]


def _is_cpu(device: str) -> bool:
    """Return whether a device is the CPU; raises UsageError for one that there is not."""
    if device == "cpu":
        return True
    from detkit.networks.precision import find_device

    kind = find_device(device).type
    if kind not in ("cpu", "cuda"):
        raise UsageError(f"--device {device}: is one, of kind {kind}; leave out --devices")
    return kind == "cpu"


def share_of(cells: Sequence[Cell], share: Shard) -> list[Cell]:
    """Return the cells of a share of all that are to be trained."""
    trained = [one for one in cells if one.training is not None or one.command is not None]
    return [one for place, one in enumerate(trained) if share.holds(place)]


@dataclass(frozen=True)
class Trainings:
    """The cells of a comparison, and how they are trained."""

    console: Console
    cells: Sequence[Cell]
    conditions: Conditions
    division: Division
    environments: Sequence[Mapping[str, str]]  # of those at a time, where they are several
    _: KW_ONLY
    resume: bool
    force: bool

    def train(self, out: Path, share: Shard) -> None:
        """Train a share of the cells; ends the command where one has failed."""
        from detkit.comparison.runs import train_all

        self._write_folds(out)
        failed = train_all(
            self.cells,
            self.conditions,
            resume=self.resume,
            force=self.force,
            say=self.console.note,
            prepare=self.division.write,
            environments=self.environments or [{}],
        )
        for cell, error in failed.items():
            self.console.error(f"{cell.result.stem}: {error}")
        if failed:
            raise typer.Exit(ExitCode.BAD_INPUT)
        done = counted(len(self.cells), "training")
        self.console.note(
            f"share {share}: {done} {agreed(len(self.cells), 'is', 'are')} done; when all shares "
            "are, the same command with --resume and without --shard measures them"
        )

    def outcomes(self, out: Path) -> list[Outcome]:
        """Train and measure what is not yet, saying how it goes; put what folds found together."""
        from detkit.comparison.runs import compare

        self._write_folds(out)
        outcomes = []
        found = compare(
            self.cells,
            self.conditions,
            resume=self.resume,
            force=self.force,
            say=self.console.note,
            prepare=self.division.write,
            environments=self.environments,
        )
        for number, one in enumerate(found, start=1):
            state = "kept" if one.kept else "done" if one.error is None else f"failed: {one.error}"
            self.console.note(f"{one.cell.result.stem}: {state} ({number} of {len(self.cells)})")
            outcomes.append(one)
        if self.division.folds is not None:
            self._pool(outcomes, out)
        return outcomes

    def _write_folds(self, out: Path) -> None:
        """Write which images are in which fold, where there are folds."""
        if self.division.folds is not None:
            from detkit.comparison.out_of_fold import FOLDS_FILE, write_folds

            write_folds(out / FOLDS_FILE, self.division.folds)

    def _pool(self, outcomes: Sequence[Outcome], out: Path) -> None:
        """Put the detections of each name's and seed's folds into one file."""
        from detkit.comparison.out_of_fold import write_pooled

        by_place: dict[Path, list[Outcome]] = {}
        for one in outcomes:
            by_place.setdefault(pooled_place(out, one.cell), []).append(one)
        for place, own in by_place.items():
            write_pooled(own, place)
            if place.exists():
                self.console.note(f"detections of all images, each out of its fold: {place}")
