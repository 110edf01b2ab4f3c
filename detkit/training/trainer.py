"""A training run under way: where it is, what is due next, and how it ends."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from lightning_fabric import Fabric

from detkit.config import ProposalConfig, Recipe, to_json
from detkit.data.records import ImageRecord
from detkit.detector import Detector, Fit, Stage
from detkit.errors import DetkitError, Interrupted
from detkit.files import shell_word
from detkit.proposals.source import source_for
from detkit.structures import Batch, Scores, Step
from detkit.training.dataset import TrainingDataset, coverage
from detkit.training.learner import Learner, next_batch, over_devices
from detkit.training.loader import (
    BatchStream,
    SampleStream,
    batches,
    default_workers,
    make_augmentation,
    open_loader,
)
from detkit.training.options import MAX_SEED, RunOptions
from detkit.training.passes import batches_once
from detkit.training.progress import Clock, Position
from detkit.training.resume import set_random_state
from detkit.training.run_folder import RunFolder
from detkit.training.run_log import RunLog, losses_text, memory_mib
from detkit.training.samples import clear_samples, write_samples
from detkit.training.saver import Saver
from detkit.training.schedule import lr_factor
from detkit.training.signals import StopSignal
from detkit.training.validation import Validation


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
        self.fabric = fabric
        self.detector = detector
        self.options = options
        self.folder = folder
        self.notes: list[str] = []
        self.at = Position()
        source = source_for(detector, options.proposals)
        self.images = TrainingDataset(records, detector.class_names, recipe.cache_size, source)
        self.stages = detector.stages(recipe)
        self.budgets = options.budgets(self.stages, len(records), recipe.batch_size)
        self.clock = Clock(began, options.max_minutes, self.stages, self.budgets, len(records))
        identity: dict[str, Any] = {
            "backend": detector.name,
            "class_names": list(detector.class_names),
            "batch_size": recipe.batch_size,
            "optimizer": recipe.optimizer,
            "seed": options.seed,
            "num_images": len(records),
            # Through JSON, since the resume file knows no tuples.
            **json.loads(json.dumps(to_json(detector.config))),
        }
        if source is not None:
            identity["proposals from"] = source.identity
        self.saver = Saver(folder, detector, options, identity)
        epoch_steps = math.ceil(len(records) / recipe.batch_size)
        self.validations = Validation(fabric, detector, options, epoch_steps)
        self._saved: Mapping[str, Any] | None = None
        self._log = RunLog(folder)
        self._stop = StopSignal()

    def start(self, precision: str) -> None:
        """Begin a new run."""
        self.saver.identity["precision"] = precision
        self.notes += self.detector.remarks(self.images.labelled())
        self._seed(self.options.seed)

    def go_on(self, saved: Mapping[str, Any], precision: str) -> None:
        """Continue where the resume file was written; UsageError if it is of another run.

        `precision` is the one asked for; `auto` is that of the run.
        """
        if precision != "auto":
            self.saver.identity["precision"] = precision
        self.saver.go_on(saved)
        # The budget may be another one now, so progress is measured anew.
        self.at = replace(Position(**saved["position"]), progress=0.0)
        self.clock.began -= self.at.seconds
        self._saved = saved
        self.notes.append(f"resumed at step {self.at.step}")
        if saved.get("data_hash") != self.options.data_hash:
            self.notes.append("the data are not what they were when this run was saved")

    def steps(self) -> Iterator[Step]:
        """Yield every step that is left, stage after stage."""
        self._fill()
        with self._stop:
            for number in range(self.at.stage, len(self.stages)):
                yield from self._stage(number)
        self._log.say(f"done: {self.at.step} steps in {self.clock.seconds / 60:.1f} minutes")

    def _fill(self) -> None:
        """Get ready in memory what every epoch needs again."""
        fabric, started = self.fabric, time.monotonic()
        share = fabric.global_rank * len(self.images) // fabric.world_size
        note = self.images.fill_proposals(first=share)
        if note:
            self.notes.append(note)
            config = self.detector.config
            if isinstance(config, ProposalConfig):  # else what it learns of them is its own affair
                line = coverage(*self.images.proposal_overlaps(), config.positive_thresh)
                self.notes += [line] if line else []
            # Else a budget of minutes would buy less the first time than with a filled cache.
            self.clock.began += time.monotonic() - started
        note = self.images.fill_cache()
        if note:
            self.notes.append(note)

    def _stage(self, number: int) -> Iterator[Step]:
        """Yield the steps of one stage; what it has learnt is in the detector afterwards."""
        stage, budget, at = self.stages[number], self.budgets[number], self.at
        is_last = number == len(self.stages) - 1
        if stage.fit is not None:
            yield from self._pass(stage, stage.fit, is_last=is_last)
            return
        learner, stream = self._begin(stage)
        stopped = self._agree()
        if at.step == 0 and at.progress >= 1:
            raise DetkitError(
                f"time was up before the first step: to get ready took {self.clock.seconds:.1f} s; "
                "raise --max-minutes"
            )
        if at.owes_validation and not stopped and self.options.validation is not None:
            yield self._validation_owed(learner, stage)
        while at.progress < 1 and not stopped and not self.validations.are_stale(at):
            started = time.monotonic()
            factor = lr_factor(stage.recipe, at.progress)
            try:
                batch = next_batch(self.fabric, stream)
            except DetkitError as error:
                self._keep(learner)
                raise self._with_way_on(error) from error
            losses = self._learn(learner, batch, factor)
            self.clock.speed.add(time.monotonic() - started)
            stopped = self._agree()
            scores, is_best = None, False
            due = is_last and self.validations.is_due(at, budget, self.clock.seconds)
            at.owes_validation = due and stopped
            if due and not stopped:
                scores, is_best = self._validate(learner)
            elif self.saver.is_due:
                self._save(learner)
            step = self._step(stage, factor, losses)
            step = replace(step, scores=scores, is_best=is_best)
            self._log.step(step, last=at.progress >= 1 or stopped)
            yield step
            if self._stop.received and self.fabric.world_size == 1:  # while others had the step
                stopped = at.progress < 1
        if stopped:
            self._keep(learner)
            raise Interrupted(self._farewell())
        self._end(learner, is_last)

    def _validation_owed(self, learner: Learner, stage: Stage) -> Step:
        """Return the step that the run was stopped at, told anew with the validation due there."""
        self.at.owes_validation = False
        scores, is_best = self._validate(learner)
        step = self._step(stage, lr_factor(stage.recipe, self.at.progress), {})
        step = replace(step, scores=scores, is_best=is_best)
        self._log.validation(step)
        return step

    def _pass(self, stage: Stage, fit: Fit, *, is_last: bool) -> Iterator[Step]:
        """Yield a step for each batch of the images that a stage fits something from.

        Half a pass is never saved: after an interruption it begins anew. A step is told when the
        next batch has been seen too, so that the last one can tell of the whole.
        """
        at = self.at
        self._restore()
        self.detector.to(self.fabric.device).eval()
        step = None
        if not at.stage_step:
            if stage.begin is not None:
                stage.begin()
            self.clock.begin_pass()
            began = time.monotonic()
            for figures in fit(self._images_once(stage)):
                if step is not None:
                    self._log.step(step, last=False)
                    yield step
                now = time.monotonic()
                self.clock.speed.add(now - began)
                began = now
                self._count_step()
                step = replace(self._step(stage, 0.0, {}), figures=figures)
        at.progress = 1.0
        if step is not None:
            scores, is_best = None, False
            if is_last and self.options.validation is not None:
                scores, is_best = self._validate(None)
            notes = step.notes + self._taken_notes()
            step = replace(step, scores=scores, is_best=is_best, notes=notes)
            self._log.step(step, last=True)
            yield step
        self._end(None, is_last)

    def _images_once(self, stage: Stage) -> Iterator[Batch]:
        """Yield all images in batches, as they are, while there is time; at least one batch.

        Raises Interrupted when the run is told to stop.
        """
        at, images, seed = self.at, self.images, self.options.seed
        size, done, began = stage.recipe.batch_size, 0, time.monotonic()
        stream = batches_once(images, self.detector, size, seed, self.fabric.device)
        while done < len(images):
            try:
                batch = next(stream)
            except DetkitError as error:
                raise self._with_way_on(error) from error
            if self._agree():
                raise Interrupted(self._farewell())
            if done and at.progress >= 1:
                more = (time.monotonic() - began) * (len(images) / done - 1) / 60
                self.notes.append(
                    f"{stage.name}: time for {done} of {len(images)} images; the others would "
                    f"take {max(0.1, more):.1f} minutes more: raise --max-minutes, or lower what "
                    f"this pass looks at (detkit models {self.detector.name})"
                )
                return
            done += len(batch)
            at.images += len(batch)
            yield batch

    def _restore(self) -> Mapping[str, Any] | None:
        """Put the detector back to where it was saved; return what was saved, once."""
        saved, self._saved = self._saved, None
        if saved is not None:
            self.detector.load_state_dict(saved["model"])
            self.detector.load_stage_state(saved["stages"])
            self._set_random_state(saved["random"])
        return saved

    def _begin(self, stage: Stage) -> tuple[Learner, Iterator[Batch]]:
        """Return what learns in this stage and the stream of its batches, at our position."""
        saved = self._restore()
        if stage.begin is not None:
            stage.begin()
        within = saved is not None and self.at.stage_step > 0
        if saved is not None and within:
            self.detector.load_state_dict(saved["model"])  # `begin` may have changed it
        learner = Learner(
            self.fabric, self.detector, stage.recipe, self.saver.identity["precision"]
        )
        if learner.note:
            self.notes.append(learner.note)
        kind = self.fabric.device.type
        on_cpu, on_cuda = kind == "cpu", kind == "cuda"
        world_size, num_workers = self.fabric.world_size, self.options.num_workers
        if num_workers is None:
            num_workers = default_workers(len(self.images), on_cpu=on_cpu, processes=world_size)
        draw = SampleStream(
            self.images,
            make_augmentation(self.detector, stage.recipe),
            stage.recipe.mosaic,
            self.detector.network_size(),
            self.options.seed,
        )
        stream = BatchStream(
            draw,
            self.detector.preparation,
            stage.recipe.batch_size,
            rank=self.fabric.global_rank,
            world_size=world_size,
        )
        loader = open_loader(
            stream, self.at.stage_step, num_workers=num_workers, pin_memory=on_cuda
        )
        if saved is not None and within:
            learner.load_state(saved["learner"])
            self._set_random_state(saved["random"])
        return learner, batches(loader, self.fabric.device)

    def _learn(self, learner: Learner, batch: Batch, factor: float) -> dict[str, float]:
        """Return the losses of a step, after making it and counting it."""
        at = self.at
        losses = learner.gradients(batch)
        if not all(math.isfinite(loss) for loss in losses.values()):
            shown = self._show_failed_first(batch) if at.step == 0 else ""
            raise DetkitError(
                f"step {at.step + 1}: the loss is not finite ({losses_text(losses)}); images: "
                f"{', '.join(batch.image_ids)}; {shown}check their boxes (detkit check), lower "
                f"--lr or --set clip_norm=10 (saved before: {self.saver.path('resume.ckpt')})"
            )
        learner.update(factor)
        self._count_step()
        at.images += len(batch) * self.fabric.world_size
        if at.step == 1 and self.folder is not None:
            self._write_samples(self.folder, batch)
        return losses

    def _show_failed_first(self, batch: Batch) -> str:
        """Write the images of a first step that failed; return the words that say where they are.

        An earlier run's folder stays as it was: then nothing is written, and "" returned.
        """
        if self.folder is None or self.folder.holds_run:
            return ""
        with suppress(DetkitError, OSError):  # what is to be told is why the step failed
            clear_samples(self.folder.samples)
            self._write_samples(self.folder, batch)
            return f"look at {self.folder.samples}, "
        return ""

    def _write_samples(self, folder: RunFolder, batch: Batch) -> None:
        """Write the first images of a batch, as the network sees them."""
        config = self.detector.config
        write_samples(
            folder.samples,
            batch,
            mean=config.mean,
            std=config.std,
            class_names=self.detector.class_names,
        )

    def _count_step(self) -> None:
        """Count a step that was made; with the first one the folder becomes this run's."""
        self.at.step += 1
        self.at.stage_step += 1
        self.saver.begin()

    def _agree(self) -> bool:
        """Bring `at.progress` up to date; return whether to stop, the same in all processes."""
        at = self.at
        progress, stopped = self.clock.progress(at), self._stop.received
        if self.fabric.world_size > 1:
            both = torch.tensor([progress, float(stopped)], device=self.fabric.device)
            progress, stop = over_devices(self.fabric, both, "max").tolist()
            stopped = stop > 0
        at.progress = max(at.progress, progress)
        return stopped and at.progress < 1  # what is complete may as well be finished

    def _validate(self, learner: Learner | None) -> tuple[Scores | None, bool]:
        """Judge the weights and save; return the scores (first process only) and is_best."""
        at = self.at
        scores, is_best = self.validations.judge(at, learner)
        if self.validations.are_stale(at) and at.progress < 1:
            self.notes.append(f"stopped early: {at.stale} validations without a better mAP")
        self._save(learner, scores, is_best=is_best)
        return scores, is_best

    def _keep(self, learner: Learner) -> None:
        """Save what a stage that ends too early has learnt, if anything."""
        if self.at.stage_step:  # else what `begin` changed would be changed again
            self._save(learner)

    def _save(
        self, learner: Learner | None, scores: Scores | None = None, *, is_best: bool = False
    ) -> None:
        """Save where the run is; the time used goes with it."""
        self.at.seconds = self.clock.seconds
        self.saver.save(learner, self.at, scores, is_best=is_best)

    def _end(self, learner: Learner | None, is_last: bool) -> None:
        """Save, and leave the averaged weights in the detector."""
        if not self.saver.has_saved(
            self.at.step
        ):  # else the last validation has saved, with scores
            self._save(learner)
        if learner is not None and learner.average is not None:
            learner.average.apply()
            learner.average = None
        self.detector.eval()
        if not is_last:
            self.at.stage, self.at.stage_step = self.at.stage + 1, 0
            self.at.progress, self.at.stage_began = 0.0, self.clock.seconds
            self._save(learner)
        elif self.at.best is None:
            self.saver.save_only()

    def _step(self, stage: Stage, factor: float, losses: Mapping[str, float]) -> Step:
        """Return what there is to tell of the step just made."""
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
            notes=self._taken_notes(),
        )

    def _taken_notes(self) -> tuple[str, ...]:
        """Return what is worth saying and has not been said yet."""
        notes, self.notes = tuple(self.notes), []
        for note in notes:
            self._log.say(note)
        return notes

    def _set_random_state(self, state: Mapping[str, Any]) -> None:
        """Go on with the first process's generators; those of the others begin anew."""
        if self.fabric.global_rank == 0:
            set_random_state(state)
        else:
            self._seed(self.options.seed + self.at.step)

    def _seed(self, seed: int) -> None:
        """Begin the generators anew, those of each process apart."""
        own = (seed + self.fabric.global_rank) % (MAX_SEED + 1)
        self.fabric.seed_everything(own, verbose=False)

    def _farewell(self) -> str:
        """Return the line for a run that was told to stop."""
        if self.at.step == 0 or self.folder is None:
            return "stopped before the first step; there is nothing to go on with"
        step, folder = self.at.step, shell_word(self.folder.path)
        return f"stopped at step {step}; go on with: detkit train --resume -o {folder}"

    def _with_way_on(self, error: DetkitError) -> DetkitError:
        """Return an image's or a data worker's error, with how to go on once it is mended."""
        folder = self.folder
        if self.at.step == 0 or folder is None:
            return error
        command = f"detkit train --resume -o {shell_word(folder.path)}"
        return DetkitError(f"{error} (what was learnt is saved; once this is mended: {command})")
