"""Passes over the training images, for what is fitted without gradients."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from detkit.detector import Detector, Stage
from detkit.errors import DetkitError
from detkit.structures import Batch, Step
from detkit.text import counted
from detkit.training.loader import BatchStream, SampleStream
from detkit.training.run_folder import stopped_at, with_way_on
from detkit.training.tiles import TrainingImages
from detkit.transforms.augmentation import Compose

if TYPE_CHECKING:
    from detkit.training.trainer import Trainer

LEAST_PACE = 0.02  # of an image's regions, however little time there is


def fit_steps(run: Trainer, stage: Stage) -> Iterator[Step]:
    """Yield a step for each batch of the images that a stage fits something from.

    Half a pass is never saved: after an interruption it begins anew. A step is told when the
    next batch has been seen too, so that the last one can tell of the whole.
    """
    run.restore()
    run.detector.to(run.fabric.device).eval()
    step = None
    if stage.fit is not None and not run.at.stage_step:
        if stage.begin is not None:
            stage.begin()
        run.log.note(run.validation.foresee(run.at, None, run.clock.max_seconds))
        run.clock.begin_pass()
        began = time.monotonic()
        passes = _Passes(run, stage)
        for figures in stage.fit(passes, passes.pace):
            if step is not None:
                run.log.step(step, last=False)
                yield step
            now = time.monotonic()
            run.clock.speed.add(now - began)
            began = now
            run.count_step()
            step = replace(run.tell(stage, 0.0, {}), figures=figures)
    run.at.progress = 1.0
    if step is not None:
        scores, is_best = None, False
        if run.is_last_stage and run.options.validation is not None:
            scores, is_best = run.validate(None)
        notes = step.notes + run.log.taken_notes()
        step = replace(step, scores=scores, is_best=is_best, notes=notes)
        run.log.step(step, last=True)
        yield step
    run.end_stage(None)


class _Passes:
    """The images of a stage in batches, anew and in the same order each time they are asked for.

    They come as they are, while there is time; at least one batch.
    """

    def __init__(self, run: Trainer, stage: Stage) -> None:
        self._run, self._stage = run, stage
        self._number = 0
        self._pace = 1.0
        self._is_paced = False

    def pace(self) -> float:
        """Return which share of their regions there is time for in the images of a batch."""
        self._is_paced = True
        return self._pace

    def __iter__(self) -> Iterator[Batch]:
        """Yield a pass; only in the first of a stage do images count as seen.

        Raises Interrupted when the run is told to stop.
        """
        run, stage, at = self._run, self._stage, self._run.at
        images, device, size = run.images, run.fabric.device, stage.recipe.batch_size
        self._number += 1
        self._is_paced = False
        done, paces = 0, 0.0
        each = run.clock.image_seconds(at)
        stream = batches_once(images, run.detector, size, run.options.seed, device)
        while done < len(images):
            began = time.monotonic()
            try:
                batch = next(stream)
            except DetkitError as error:
                raise with_way_on(error, run.folder, at.step) from error
            if run.is_stopped():
                raise stopped_at(run.folder, at.step)
            if done and at.progress >= 1:
                break
            self._pace = self._next_pace(each, len(images) - done)
            done += len(batch)
            at.images += len(batch) if self._number == 1 else 0
            yield batch
            paces += len(batch) * (self._pace if self._is_paced else 1.0)
            each = (time.monotonic() - began) / len(batch) / self._pace
        self._tell(done, paces / len(images))

    def _next_pace(self, each: float, num_left: int) -> float:
        """Return the share of regions that leaves time for all images that are left.

        A whole image takes `each` seconds, or is not known to take any.
        """
        left = self._run.clock.pass_seconds(self._run.at)
        pace = 1.0
        if left is not None and each:
            pace = min(1.0, max(LEAST_PACE, left / num_left / each))
        return float(self._run.fabric.broadcast(pace))  # clocks differ, one decides

    def _tell(self, done: int, share: float) -> None:
        """Note which share of all regions there was time for, if it was not all."""
        if share < 0.99:
            seen = f"{done} of {counted(len(self._run.images), 'image')}"
            self._run.log.note(
                f"{self._stage.name}: time for {share:.0%} of the regions, in {seen}; raise "
                "--max-minutes, or lower what this pass looks at "
                f"(detkit models {self._run.detector.name})"
            )


def batches_once(
    images: TrainingImages,
    detector: Detector,
    batch_size: int,
    seed: int,
    device: torch.device | str = "cpu",
) -> Iterator[Batch]:
    """Yield all images once, without augmentation, in an order by chance, ready on `device`.

    Every process yields all of them. Raises DetkitError naming an image that cannot be read.
    """
    samples = SampleStream(images, Compose([]), 0.0, detector.network_size(), seed)
    stream = BatchStream(samples, detector.preparation, batch_size)
    place = torch.device(device)
    for first in range(0, len(images), batch_size):
        packed = stream.draws(first, min(batch_size, len(images) - first))
        if isinstance(packed, DetkitError):
            raise packed
        yield (packed.pin_memory() if place.type == "cuda" else packed).unpack(place)
