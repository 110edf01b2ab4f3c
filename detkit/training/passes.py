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
        for figures in stage.fit(_Passes(run, stage)):
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
    """The images of a stage in batches, anew and in the same order each time they are asked for."""

    def __init__(self, run: Trainer, stage: Stage) -> None:
        self._run, self._stage = run, stage
        self._number = 0

    def __iter__(self) -> Iterator[Batch]:
        self._number += 1
        return _batches_in_time(self._run, self._stage, is_first=self._number == 1)


def _batches_in_time(run: Trainer, stage: Stage, *, is_first: bool) -> Iterator[Batch]:
    """Yield all images in batches, as they are, while there is time; at least one batch.

    Only in the first of a stage's passes do they count as seen. Raises Interrupted when the run
    is told to stop.
    """
    at, images, device = run.at, run.images, run.fabric.device
    size, done, began = stage.recipe.batch_size, 0, time.monotonic()
    stream = batches_once(images, run.detector, size, run.options.seed, device)
    while done < len(images):
        try:
            batch = next(stream)
        except DetkitError as error:
            raise with_way_on(error, run.folder, at.step) from error
        if run.is_stopped():
            raise stopped_at(run.folder, at.step)
        if done and at.progress >= 1:
            more = (time.monotonic() - began) * (len(images) / done - 1) / 60
            run.log.note(
                f"{stage.name}: time for {done} of {counted(len(images), 'image')}; the others "
                f"would take {max(0.1, more):.1f} minutes more: raise --max-minutes, or lower what "
                f"this pass looks at (detkit models {run.detector.name})"
            )
            return
        done += len(batch)
        at.images += len(batch) if is_first else 0
        yield batch


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
    for first in range(0, len(images), batch_size):
        packed = stream.draws(first, min(batch_size, len(images) - first))
        if isinstance(packed, DetkitError):
            raise packed
        yield packed.unpack(device)
