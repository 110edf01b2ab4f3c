"""Passes over the training images, for what is fitted without gradients."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from detkit.detector import Detector, Look, Stage
from detkit.errors import DetkitError
from detkit.structures import Batch, Step
from detkit.text import counted
from detkit.training.exchange import as_in_first, handed_on, of_all, together
from detkit.training.loader import BatchStream, SampleStream, random_states_kept
from detkit.training.run_folder import stopped_at, with_way_on
from detkit.training.tiles import TrainingImages
from detkit.transforms.augmentation import Compose

if TYPE_CHECKING:
    from detkit.training.trainer import Trainer

T = TypeVar("T")
LEAST_PACE = 0.02  # of an image's regions, however little time there is


def fit_steps(run: Trainer, stage: Stage) -> Iterator[Step]:
    """Yield a step for each batch of the images that a stage fits something from.

    Half a pass is never saved: after an interruption it begins anew. A step is told when the
    next batch has been seen too, so that the last one can tell of the whole.
    """
    run.restore()
    run.detector.to(run.fabric.device).eval()
    as_in_first(run.fabric, run.detector)
    step = None
    if stage.fit is not None and not run.at.stage_step:
        if stage.begin is not None:
            stage.begin()
        run.log.note(run.validation.foresee(run.at, None, run.clock.max_seconds))
        run.clock.begin_pass()
        began = time.monotonic()
        passes = _Passes(run, stage)
        for figures in stage.fit(passes):
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
    """The images of a stage in batches, in the same order in each pass (`detector.Passes`).

    They come as they are, while there is time; at least one batch. Of several processes each looks
    at every n-th batch, whole, so that an image is computed beside the same others whatever n is.
    """

    def __init__(self, run: Trainer, stage: Stage) -> None:
        self._run, self._stage = run, stage
        self._images = OneByOne(run.images, run.detector, stage.recipe.batch_size, run.options.seed)
        self._number = 0
        self._pace = 1.0
        self._is_paced = False

    def own(self, number: int) -> range:
        """Return every n-th of so many things: this process's of n."""
        fabric = self._run.fabric
        return range(fabric.global_rank, number, fabric.world_size)

    def of_all(self, value: T) -> list[T]:
        """Return what each process gives."""
        return of_all(self._run.fabric, value)

    def seen(self, look: Look[T]) -> Iterator[tuple[Tensor, T]]:
        """Yield what is seen in each batch; only in the first pass of a stage do images count.

        Raises Interrupted when the run is told to stop, and DetkitError naming an image that one
        of the processes cannot read, in all of them.
        """
        run, at, fabric = self._run, self._run.at, self._run.fabric
        num_images, size = len(run.images), self._stage.recipe.batch_size
        self._number += 1
        done, paces = 0, 0.0
        each = run.clock.image_seconds(at)
        while done < num_images:
            began, before = time.monotonic(), done
            if run.is_stopped():
                raise stopped_at(run.folder, at.step)
            if done and at.progress >= 1:
                break
            self._pace = self._next_pace(each, num_images - done)
            self._is_paced = False
            firsts = range(done, num_images, size)[: fabric.world_size]
            seen = self._own_batch(look, firsts)
            pace = self._pace if self._is_paced else 1.0
            for owner, first in enumerate(firsts):
                number = min(size, num_images - first)
                done += number
                paces += number * pace
                at.images += number if self._number == 1 else 0
                yield handed_on(fabric, seen, owner)
            each = (time.monotonic() - began) / (done - before) / self._pace
        self._tell(done, paces / num_images)

    def _own_batch(self, look: Look[T], firsts: Sequence[int]) -> tuple[Tensor, T] | None:
        """Return what is seen in this process's batch of those that begin at `firsts`, if any."""
        run, rank = self._run, self._run.fabric.global_rank

        def work() -> tuple[Tensor, T] | None:
            if rank >= len(firsts):
                return None
            first = firsts[rank]
            batch = self._images.batch(first, run.fabric.device)
            with random_states_kept():
                drawn = f"{run.options.seed} {self._stage.name} {self._number} {first}"
                torch.default_generator.manual_seed(random.Random(drawn).getrandbits(62))
                return look(batch, self.pace)

        try:
            return together(run.fabric, work)
        except DetkitError as error:
            raise with_way_on(error, run.folder, run.at.step) from error

    def pace(self) -> float:
        """Return which share of their regions there is time for in the images of a batch."""
        self._is_paced = True
        return self._pace

    def _next_pace(self, each: float, num_left: int) -> float:
        """Return the share of regions that leaves time for all images that are left.

        A whole image takes all processes together `each` seconds, or is not known to take any.
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


class OneByOne:
    """All images once, without augmentation, in an order by chance, a batch after the other."""

    def __init__(
        self, images: TrainingImages, detector: Detector, batch_size: int, seed: int
    ) -> None:
        """Take `batch_size` images at once; the order is that of the seed."""
        samples = SampleStream(images, Compose([]), 0.0, detector.network_size(), seed)
        self._num_images, self._batch_size = len(images), batch_size
        self._stream = BatchStream(samples, detector.preparation, batch_size)

    def batch(self, first: int, device: torch.device | str = "cpu") -> Batch:
        """Return the batch of the images from number `first` on, ready on `device`.

        Raises DetkitError naming an image that cannot be read.
        """
        number = min(self._batch_size, self._num_images - first)
        packed = self._stream.draws(first, number)
        if isinstance(packed, DetkitError):
            raise packed
        place = torch.device(device)
        return (packed.pin_memory() if place.type == "cuda" else packed).unpack(place)
