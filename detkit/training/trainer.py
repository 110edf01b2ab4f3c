"""The training loop: the steps of all stages of a detector, within a budget.

A step, as `Trainer._learn` makes it (in brackets the file that knows more):

    batch = next_batch(...)                 augmented images and boxes (loader, dataset)
    losses = learner.gradients(batch)       forward, losses, backward (learner)
    learner.update(lr_factor(...))          the optimiser's step, the average (learner, schedule)
    validation.run(...)                     scores, when some are due (validation)
    saver.save(...)                         models, and what a run goes on from (saver, resume)
    yield Step(...)                         what there is to tell (structures)
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from lightning_fabric import Fabric

from detkit.config import Recipe
from detkit.data.records import ImageRecord
from detkit.detector import Detector, Stage
from detkit.errors import DetkitError, UsageError
from detkit.proposals.source import source_for
from detkit.structures import Batch, Scores, Step
from detkit.text import counted
from detkit.training.cpu_contention import ContentionWatch
from detkit.training.dataset import KeptSize, TrainingDataset, coverage_note
from detkit.training.difficult import difficult_note
from detkit.training.exchange import over_devices
from detkit.training.learner import Learner, next_batch
from detkit.training.loader import make_augmentation, training_batches
from detkit.training.lost_process import is_lost, lost
from detkit.training.options import RunOptions
from detkit.training.passes import fit_steps
from detkit.training.progress import Clock, Position
from detkit.training.reach import MOST_JUDGED, find_reach, in_reach, reach_note
from detkit.training.resume import restore_random_state, seed_process
from detkit.training.run_folder import RunFolder, stopped_at, with_way_on
from detkit.training.run_log import RunLog, losses_text, memory_mib
from detkit.training.samples import show_failed, write_samples
from detkit.training.saver import Saver
from detkit.training.schedule import lr_factor
from detkit.training.signals import StopSignal
from detkit.training.tiles import tile_note, tiled
from detkit.training.validation import Validation
from detkit.transforms.geometric import zoom_of


def _require_fitting(recipe: Recipe, stages: Sequence[Stage]) -> None:
    """Raise UsageError for `stage_batches` that are not those of several stages of steps."""
    shares, number = recipe.stage_batches, sum(stage.fit is None for stage in stages)
    if shares and (number == 1 or len(shares) != number):
        given = ",".join(f"{share:g}" for share in shares)
        raise UsageError(
            f"--set stage_batches={given}: this training has {counted(number, 'stage')} of steps; "
            f"give {'() for it' if number == 1 else f'{number} shares, or ()'}"
        )


class Trainer:
    """Makes the steps of all stages within the budget; validates, saves, and stops in time."""

    def __init__(
        self,
        fabric: Fabric,
        detector: Detector,
        records: Sequence[ImageRecord],
        recipe: Recipe,
        options: RunOptions,
        folder: RunFolder | None,
        began: float,
    ) -> None:
        """Take the parts; `began` is when, by `time.monotonic()`, the budget began to run."""
        self.fabric, self.detector = fabric, detector
        self.options, self.folder = options, folder
        source = source_for(detector, options.proposals)
        zoom = zoom_of(make_augmentation(detector, recipe))
        kept_size = KeptSize(detector.network_size(), zoom, recipe.cache_size)
        rule = recipe.train_difficult
        images = TrainingDataset(records, detector.class_names, kept_size, source, rule)
        self._note = difficult_note(records, detector.class_names, rule)
        reachable = partial(in_reach, detector.weightless()) if detector.config.tile else None
        self.images = tiled(images, detector.config, options.seed, reachable)
        self.stages = detector.stages(recipe)
        _require_fitting(recipe, self.stages)
        self.budgets = options.budgets(self.stages, len(self.images), recipe.batch_size)
        self.at = Position()
        self.clock = Clock(began, options.max_minutes, self.stages, self.budgets, len(self.images))
        self.validation = Validation(
            fabric, detector, options, math.ceil(len(self.images) / recipe.batch_size)
        )
        self.saver = Saver(folder, detector, recipe, options, self.images)
        self.log = RunLog(folder)
        self._saved: Mapping[str, Any] | None = None
        self._learner: Learner | None = None  # of a stage of steps
        self._stop = StopSignal()

    def steps(self) -> Iterator[Step]:
        """Yield every step that is left, stage after stage."""
        self._fill()
        with self._stop, self._others_may_be_lost():
            for stage in self.stages[self.at.stage :]:
                learns = stage.fit is None
                yield from self._learn(stage) if learns else fit_steps(self, stage)
        self.log.say(
            f"done: {counted(self.at.step, 'step')} in {self.clock.seconds / 60:.1f} minutes"
        )

    @contextmanager
    def _others_may_be_lost(self) -> Iterator[None]:
        """Save what was learnt when another process is gone, and say so in one line."""
        try:
            yield
        except RuntimeError as error:
            number = self.fabric.world_size
            if not is_lost(error, number):
                raise
            if self._learner is not None:
                self._keep(self._learner)
            told = lost(error, number, self.options.wait)
            raise with_way_on(told, self.folder, self.at.step) from error

    def _learn(self, stage: Stage) -> Iterator[Step]:
        """Yield the steps of one stage; what it has learnt is in the detector afterwards."""
        at = self.at
        learner, stream = self._begin(stage)
        self._learner = learner
        self.log.note(self.validation.foresee(at, learner, self.clock.max_seconds))
        watch = ContentionWatch(self.folder if self.fabric.device.type == "cpu" else None)
        stopped = self.is_stopped()
        self._require_time()
        if at.owes_validation and not stopped and self.options.validation is not None:
            yield self._owed_validation(learner, stage)
        while at.progress < 1 and not stopped and not self.validation.why_over(at):
            started = time.monotonic()
            factor = lr_factor(stage.recipe, at.progress)
            try:
                batch = next_batch(self.fabric, stream)
            except DetkitError as error:
                self._keep(learner)
                raise with_way_on(error, self.folder, at.step) from error
            computing = time.perf_counter()
            losses = learner.gradients(batch)
            self._require_finite(losses, batch)
            learner.update(factor)
            self.log.note(watch.step(time.perf_counter() - computing))
            self._count(batch)
            self.clock.speed.add(time.monotonic() - started)

            stopped = self.is_stopped()
            scores, is_best = None, False
            due = self.is_last_stage and self.validation.is_due(
                at, self.budgets[at.stage], self.clock.seconds
            )
            at.owes_validation = due and stopped
            if due and not stopped:
                scores, is_best = self.validate(learner)
            elif self.saver.is_due:
                self.save(learner)
            step = self.tell(stage, factor, losses, scores, is_best)
            self.log.step(step, last=at.progress >= 1 or stopped)
            yield step
            if self._stop.received and self.fabric.world_size == 1:  # while others had the step
                stopped = at.progress < 1
        if stopped:
            self._keep(learner)
            raise stopped_at(self.folder, at.step)
        self._learner = None
        self.end_stage(learner)

    def validate(self, learner: Learner | None) -> tuple[Scores | None, bool]:
        """Score the weights and save; return the scores (first process only) and is_best."""
        at = self.at
        scores, is_best = self.validation.run(at, learner)
        over = self.validation.why_over(at)
        if over and at.progress < 1:
            self.log.note(f"stopped early: {over}")
        self.save(learner, scores, is_best=is_best)
        return scores, is_best

    def save(
        self, learner: Learner | None, scores: Scores | None = None, *, is_best: bool = False
    ) -> None:
        """Save where the run is; the time used goes with it."""
        self.at.seconds = self.clock.seconds
        self.saver.save(learner, self.at, scores, is_best=is_best)

    def end_stage(self, learner: Learner | None) -> None:
        """Save, and leave the averaged weights in the detector."""
        at, is_last = self.at, self.is_last_stage
        if not self.saver.has_saved(at.step):  # else the last validation has saved, with scores
            self.save(learner)
        if learner is not None and learner.ema is not None:
            learner.ema.apply()
            learner.ema = None
        self.detector.eval()
        if not is_last:
            at.stage, at.stage_step = at.stage + 1, 0
            at.progress, at.stage_began = 0.0, self.clock.seconds
            self.save(learner)
        elif at.best is None:
            self.saver.save_only()

    def begin(self, saved: Mapping[str, Any] | None) -> None:
        """Begin a new run, or continue where the resume file was `saved`.

        Raises UsageError if that is of another run.
        """
        if saved is None:
            labelled = self.images.labelled(most=MOST_JUDGED)
            self.log.note(self._note)
            self.log.note(tile_note(self.images), reach_note(find_reach(self.detector, labelled)))
            seed_process(self.fabric, self.options.seed)
            return
        self.saver.go_on(saved)
        # The budget may be another one now, so progress is measured anew.
        self.at = replace(Position(**saved["position"]), progress=0.0)
        self.clock.began -= self.at.seconds
        self._saved = saved
        self.log.note(f"resumed at step {self.at.step}")
        if saved.get("data_hash") != self.options.data_hash:
            self.log.note("the data are not what they were when this run was saved")

    def _fill(self) -> None:
        """Get ready in memory what every epoch needs again."""
        fabric, started = self.fabric, time.monotonic()
        share = fabric.global_rank * len(self.images) // fabric.world_size
        note = self.images.fill_proposals(first=share)
        if note:
            self.log.note(note, coverage_note(self.images, self.detector.config))
            # Else a budget of minutes would buy less the first time than with a filled cache.
            self.clock.began += time.monotonic() - started
        self.log.note(*self.images.fill_cache(processes=self.options.devices))

    def restore(self) -> Mapping[str, Any] | None:
        """Put the detector back to where it was saved; return what was saved, once."""
        saved, self._saved = self._saved, None
        if saved is not None:
            self.detector.load_state_dict(saved["model"])
            self.detector.load_stage_state(saved["stages"])
            restore_random_state(self.fabric, saved)
        return saved

    def _begin(self, stage: Stage) -> tuple[Learner, Iterator[Batch]]:
        """Return what learns in this stage and the stream of its batches, at our position."""
        saved, first = self.restore(), self.at.stage_step
        within = saved if first else None
        if stage.begin is not None:
            stage.begin()
        if within is not None:
            self.detector.load_state_dict(within["model"])  # `begin` may have changed it
        precision = self.saver.identity["precision"]
        learner = Learner(self.fabric, self.detector, stage.recipe, precision)
        self.log.note(learner.note)
        stream = training_batches(
            self.images, self.detector, stage.recipe, self.options, self.fabric, first
        )
        if within is not None:
            learner.load_state(within["learner"])
            restore_random_state(self.fabric, within)
        return learner, stream

    @property
    def is_last_stage(self) -> bool:
        """Return whether the run is in its last stage, the one that is validated."""
        return self.at.stage == len(self.stages) - 1

    def is_stopped(self) -> bool:
        """Bring `at.progress` up to date; return whether to stop, the same in all processes."""
        at = self.at
        progress, stopped = self.clock.progress(at), self._stop.received
        if self.fabric.world_size > 1:
            both = torch.tensor([progress, float(stopped)], device=self.fabric.device)
            progress, stop = over_devices(self.fabric, both, "max").tolist()
            stopped = stop > 0
        at.progress = max(at.progress, progress)
        return stopped and at.progress < 1  # what is complete may as well be finished

    def count_step(self) -> None:
        """Count a step that was made; with the first one the folder becomes this run's."""
        self.at.step += 1
        self.at.stage_step += 1
        self.saver.begin()

    def tell(
        self,
        stage: Stage,
        factor: float,
        losses: Mapping[str, float],
        scores: Scores | None = None,
        is_best: bool = False,
    ) -> Step:
        """Return what there is to tell of the step just made, at that multiple of the rate."""
        at, seconds = self.at, self.clock.speed.step_seconds
        total = self.clock.total_steps(at)
        return Step(
            stage=stage.name,
            step=at.step,
            total_steps=total,
            epoch=at.images / len(self.images),
            losses=losses,
            lr=stage.recipe.lr * factor,
            images_per_second=stage.recipe.batch_size / seconds if seconds else 0.0,
            seconds_left=self.clock.seconds_left(at, total),
            memory_mib=memory_mib(self.fabric.device),
            scores=scores,
            is_best=is_best,
            notes=self.log.taken_notes(),
        )

    def _owed_validation(self, learner: Learner, stage: Stage) -> Step:
        """Return the step that the run was stopped at, told anew with the validation due there."""
        self.at.owes_validation = False
        scores, is_best = self.validate(learner)
        step = self.tell(stage, lr_factor(stage.recipe, self.at.progress), {}, scores, is_best)
        self.log.validation(step)
        return step

    def _count(self, batch: Batch) -> None:
        """Count a step of learning and its images; the first batch becomes pictures."""
        self.count_step()
        self.at.images += len(batch) * self.fabric.world_size
        if self.at.step == 1 and self.folder is not None:
            write_samples(self.folder.samples, batch, self.detector)

    def _keep(self, learner: Learner) -> None:
        """Save what a stage that ends too early has learnt, if anything."""
        if self.at.stage_step:  # else what `begin` changed would be changed again
            self.save(learner)

    def _require_time(self) -> None:
        """Raise DetkitError when the budget of time is used up before anything was learnt."""
        if self.at.step == 0 and self.at.progress >= 1:
            raise DetkitError(
                f"time was up before the first step: to get ready took {self.clock.seconds:.1f} s; "
                "raise --max-minutes"
            )

    def _require_finite(self, losses: Mapping[str, float], batch: Batch) -> None:
        """Raise DetkitError for a loss that is not finite, naming the step and its images."""
        if all(math.isfinite(loss) for loss in losses.values()):
            return
        shown = "" if self.at.step else show_failed(self.folder, batch, self.detector)
        raise DetkitError(
            f"step {self.at.step + 1}: the loss is not finite ({losses_text(losses)}); images: "
            f"{', '.join(batch.image_ids)}; {shown}check their boxes (detkit check), lower "
            f"--lr or --set clip_norm=10 (saved before: {self.saver.path('resume.ckpt')})"
        )
