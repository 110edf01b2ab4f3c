"""How long a training will take: a few steps made to try, with a detector that is thrown away."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from detkit.config import Recipe
from detkit.data.records import ImageRecord
from detkit.detector import Detector
from detkit.errors import UsageError
from detkit.networks.precision import find_device
from detkit.proposals.cache import ProposalCache
from detkit.proposals.source import ComputedProposals, ProposalSource
from detkit.training.dataset import KeptSize, TrainingDataset
from detkit.training.learner import Learner, make_fabric, next_batch
from detkit.training.loader import make_augmentation, training_batches
from detkit.training.options import RunOptions
from detkit.training.tiles import tiled
from detkit.training.train import computing_on, precision_of, threads_of
from detkit.transforms.geometric import zoom_of

FEWEST_IMAGES = 8  # that are looked at; a batch where that is more
MOST_STEPS = 3  # that are timed, after one that warms up
ENOUGH_SECONDS = 8.0  # of timed steps of a stage


@dataclass(frozen=True)
class StageTime:
    """The time of a step of one stage; None of a pass, which is not made to try."""

    name: str
    seconds: float | None


@dataclass(frozen=True)
class Measured:
    """What a few steps say of the whole training, in seconds."""

    stages: Sequence[StageTime]
    num_steps: int  # that were timed
    total: float | None  # of all steps and passes; None of a budget in minutes
    proposals: float  # of making those of all images, none being in the cache; 0: it takes none
    device: str


def measure(
    detector: Detector,
    records: Sequence[ImageRecord],
    recipe: Recipe,
    options: RunOptions,
    source: ProposalSource | None = None,
) -> Measured:
    """Return the times of a training of `detector`, which is not to be used afterwards.

    Nothing is left on the disk, nor are proposals taken from their cache. A pass over the images
    counts as many steps as its stage says. Raises UsageError for several devices, DetkitError as
    training would.
    """
    if options.world_size > 1:
        raise UsageError("--dry-run: measures one device; leave --devices and --nodes out")
    count = min(len(records), max(FEWEST_IMAGES, recipe.batch_size))
    some = [records[place * len(records) // count] for place in range(count)]
    zoom = zoom_of(make_augmentation(detector, recipe))
    kept_size = KeptSize(detector.network_size(), zoom, recipe.cache_size)
    dataset, proposals = TrainingDataset(some, detector.class_names, kept_size, source), 0.0
    if isinstance(source, ComputedProposals):
        source.of_file(some[0].path)  # their code is compiled once
        with tempfile.TemporaryDirectory() as folder:
            dataset.source = replace(source, cache=ProposalCache(Path(folder)))
            began = time.monotonic()
            dataset.fill_proposals()
        proposals = (time.monotonic() - began) * len(records) / count
    images = tiled(dataset, detector.config, options.seed)
    device = find_device(options.device)
    stages = detector.stages(recipe)
    budgets = options.budgets(stages, len(records), recipe.batch_size)
    times: list[StageTime] = []
    num_steps, total, slowest = 0, 0.0, 0.0
    threads, _ = threads_of(options, device, None)
    with computing_on(threads):
        precision, _ = precision_of(options, device, None)
        fabric = make_fabric(device, 1, 1, precision)
        fabric.launch()
        for stage, budget in zip(stages, budgets, strict=True):
            if stage.fit is not None:
                times.append(StageTime(stage.name, None))
                total += stage.fit_cost * len(records) * slowest
                continue
            if stage.begin is not None:
                stage.begin()
            learner = Learner(fabric, detector, stage.recipe, precision)
            stream = training_batches(images, detector, stage.recipe, options, fabric, 0)
            each: list[float] = []
            while len(each) <= MOST_STEPS and sum(each[1:]) < ENOUGH_SECONDS:
                started = time.monotonic()
                learner.gradients(next_batch(fabric, stream))
                learner.update(1e-3)
                each.append(time.monotonic() - started)
            seconds = sum(each[1:]) / len(each[1:])
            num_steps += len(each) - 1
            slowest = max(slowest, seconds)
            total += seconds * (budget.steps or 0)
            times.append(StageTime(stage.name, seconds))
    whole = None if options.max_minutes is not None else total
    return Measured(times, num_steps, whole, proposals, str(device))
