"""Trainings on parts of a training set, within one budget of minutes, judged on the same images.

There are two ways to have less than all, and `shares` (1/4, 1/2 and 1) are the steps of both: a
training has a share of the images for the whole time, or all images for a share of the time. Each
is done once a draw: another draw has other images in its parts, and other chance in training.

A training reads label files that are written here, `data/*.json` (COCO), beside one folder of the
images: links to the data set's, or copies where the disk has no links.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from detkit.comparison.runs import Cell, Conditions
from detkit.data.convert import held
from detkit.data.formats import coco
from detkit.data.formats.coco_json import json_text
from detkit.data.formats.format import Labelled
from detkit.data.groups import Groups
from detkit.data.images import image_size
from detkit.data.nested_parts import nested_parts
from detkit.data.records import Dataset, ImageRecord
from detkit.data.summary import data_hash
from detkit.errors import DetkitError, UsageError
from detkit.files import fitting_name, not_written, write_bytes
from detkit.text import counted

START_SECONDS = 20.0  # ours, on two cores: what a training takes beside training, and to be judged
MOST_START = 0.3  # of the budget, for that
LEAST_SECONDS = 5.0  # of the shortest training
GOOD_MINUTES = 5.0  # of a whole training: with more, the time goes into further draws
DRAWS = (2, 5)  # at least, since one run does not tell of chance; and at most
NUM_SEEN = 20  # images that a training without a validation split of its own is watched on
JUDGED, VALIDATED = "judged.json", "watched.json"
IMAGES = "images"


@dataclass(frozen=True, slots=True)
class Budget:
    """How the minutes are divided."""

    minutes: float  # in all
    draws: int
    shares: tuple[float, ...]  # of images, and of minutes; they rise and end with 1
    whole: float  # minutes of a training that has all its time

    @property
    def num_trainings(self) -> int:
        """How many trainings there are."""
        return self.draws * (2 * len(self.shares) - 1)

    @property
    def training_minutes(self) -> float:
        """What all trainings take together."""
        return self.draws * self.whole * _units(self.shares)


@dataclass(frozen=True, slots=True)
class PartRun:
    """One training: on a share of the images, or for a share of the time."""

    name: str
    draw: int
    share: float  # of the images
    time_share: float
    num_images: int
    minutes: float
    objects: Mapping[str, int]  # a class, in the images that are trained on
    part: str  # the file of labels
    watched: str  # that of the images for validations on the way


@dataclass(frozen=True, slots=True)
class PartRuns:
    """The trainings, and what they read."""

    budget: Budget
    runs: tuple[PartRun, ...]
    files: Mapping[str, Sequence[ImageRecord]]  # the images of each file of labels
    class_names: tuple[str, ...]
    digest: str  # SHA-256 of the images of each file and their labels


def divide_minutes(minutes: float, shares: Sequence[float], draws: int | None = None) -> Budget:
    """Return how a budget is divided over trainings of equal length, and shorter ones.

    Each training leaves some seconds for its start and for being judged, at most `MOST_START` of
    the budget in all. Without `draws` there are as many as leave a training `GOOD_MINUTES`.
    Raises UsageError for minutes that are too few, or shares that do not rise to 1.
    """
    if not 0 < minutes < float("inf"):
        raise UsageError(f"--max-minutes {minutes:g}: must be above 0 and finite")
    shares = tuple(shares)
    rises = all(low < high for low, high in zip((0.0, *shares), shares))
    if len(shares) < 2 or not rises or shares[-1] != 1:
        raise UsageError(
            f"--parts {','.join(f'{one:g}' for one in shares)}: expected two shares or more that "
            "rise to 1, like .25,.5,1"
        )

    def budget(number: int) -> Budget:
        start = min(START_SECONDS / 60 * number * (2 * len(shares) - 1), MOST_START * minutes)
        whole = (minutes - start) / (number * _units(shares))
        return Budget(minutes, number, shares, whole)

    if draws is None:
        good = [one for one in range(DRAWS[0], DRAWS[1] + 1) if budget(one).whole >= GOOD_MINUTES]
        draws = max(good, default=DRAWS[0])
    made = budget(draws)
    shortest = 60 * made.whole * shares[0]
    if shortest < LEAST_SECONDS:
        needed = minutes * LEAST_SECONDS / shortest
        raise UsageError(
            f"--max-minutes {minutes:g}: the shortest of {made.num_trainings} trainings would "
            f"have {shortest:.1f} seconds; give at least {needed + 0.05:.1f} minutes"
        )
    return made


def plan_runs(
    dataset: Dataset,
    pool: Sequence[ImageRecord],
    judged: Sequence[ImageRecord],
    val: Sequence[ImageRecord],
    together: Groups,
    budget: Budget,
    seed: int,
) -> PartRuns:
    """Return the trainings on parts of `pool`, draw by draw, the whole first.

    `val` are images that choose each training's best weights; without any, a training ends with
    its last: it is watched on some images that it is trained on. Raises DetkitError when images
    or groups are too few.
    """
    files: dict[str, Sequence[ImageRecord]] = {JUDGED: judged, "whole.json": pool}
    if val:
        files[VALIDATED] = val
    runs: list[PartRun] = []
    for draw in range(budget.draws):
        parts = nested_parts(pool, budget.shares, together, seed + draw)
        watched = VALIDATED
        if not val:
            watched = f"seen-{draw}.json"
            files[watched] = [one for one in parts[0] if one.objects][:NUM_SEEN]
        steps = [(1.0, 1.0)]
        steps += [(share, 1.0) for share in budget.shares[-2::-1]]
        steps += [(1.0, share) for share in budget.shares[-2::-1]]
        for share, time_share in steps:
            part = parts[budget.shares.index(share)]
            percent = f"{100 * share:.3g}"
            file = "whole.json" if share == 1 else f"images-{percent}-{draw}.json"
            files[file] = part
            time = "" if time_share == 1 else f"-time-{100 * time_share:.3g}"
            name = f"images-{percent}{time}-{draw}"
            counts = Counter(one.name for record in part for one in record.objects)
            objects = {name: counts[name] for name in dataset.class_names}
            minutes = budget.whole * time_share
            runs.append(
                PartRun(name, draw, share, time_share, len(part), minutes, objects, file, watched)
            )
    divided = dataset.with_splits({file: tuple(records) for file, records in files.items()})
    return PartRuns(budget, tuple(runs), files, dataset.class_names, data_hash(divided))


def write_parts(plan: PartRuns, out: Path) -> None:
    """Write the files of labels, with links to the images or copies, into `out`/data.

    What is there already stays. Raises DetkitError when an image cannot be read, or nothing can
    be written.
    """
    folder = out / "data"
    records = {one.path: one for part in plan.files.values() for one in part}
    names = {}
    try:
        (folder / IMAGES).mkdir(parents=True, exist_ok=True)
        for number, path in enumerate(sorted(records)):
            name = fitting_name(f"{number:06}-{path.name}")
            names[path] = f"{IMAGES}/{name}"
            _link(path, folder / IMAGES / name)
    except OSError as error:
        raise DetkitError(not_written(folder, error)) from error
    sizes = {path: image_size(path) for path in records}
    for file, part in plan.files.items():
        rows = []
        for one in part:
            height, width = sizes[one.path]
            objects = tuple(held(one.objects, coco.FORMAT, plan.class_names))
            rows.append(Labelled(names[one.path], width, height, objects))
        ids = range(1, len(rows) + 1)
        write_bytes(folder / file, json_text(rows, plan.class_names, ids).encode())


def cells_of(plan: PartRuns, out: Path, seed: int, words: Sequence[str]) -> list[Cell]:
    """Return the trainings as cells of a comparison, with the `words` of `detkit train` for all."""
    folder = (out / "data").absolute()
    return [
        Cell(
            name=run.name,
            run=out / run.name,
            result=out / f"{run.name}.json",
            seed=seed + run.draw,
            training=(
                str(folder / run.part),
                *words,
                *("--val", str(folder / run.watched)),
                *("--max-minutes", f"{run.minutes:.4f}", "--seed", str(seed + run.draw)),
            ),
        )
        for run in plan.runs
    ]


def conditions_of(
    plan: PartRuns, out: Path, device: str = "auto", plugins: Sequence[str] = ()
) -> Conditions:
    """Return what all trainings are judged on."""
    place = out / "data" / JUDGED
    return Conditions(place, plan.digest, "all", None, device, plugins=tuple(plugins))


def budget_in_words(plan: PartRuns) -> list[str]:
    """Return what is trained and for how long, a sentence a line."""
    budget = plan.budget
    first = [run for run in plan.runs if run.draw == 0]
    images = sorted({run.num_images for run in first})
    minutes = sorted({run.minutes for run in first if run.time_share < 1})
    rest = budget.minutes - budget.training_minutes
    return [
        f"{budget.minutes:g} minutes for {counted(budget.num_trainings, 'training')}, "
        f"{counted(budget.draws, 'draw')} each: on {_listed(images)} images for "
        f"{budget.whole:.2g} minutes, and on all for {_listed(f'{one:.2g}' for one in minutes)}",
        f"{rest:.2g} minutes are left for their starts and for judging them",
    ]


def _listed(values: Iterable[object]) -> str:
    """Return values as "1, 2 and 3"."""
    *words, last = map(str, values)
    return f"{', '.join(words)} and {last}" if words else last


def _units(shares: Sequence[float]) -> float:
    """Return how many whole trainings one draw takes: the shorter ones count as their share."""
    return len(shares) + sum(shares[:-1])


def _link(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, or a copy of it; one that is there stays."""
    if target.exists():
        return
    try:
        os.link(source.resolve(), target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)
