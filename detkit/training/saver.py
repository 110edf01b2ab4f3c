"""Saving: the models of a run, and the state that it goes on from."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from detkit.config import Recipe, to_json
from detkit.detector import Detector
from detkit.errors import UsageError
from detkit.model_file import require_finite, save_model
from detkit.structures import Scores
from detkit.text import cut
from detkit.training.learner import Learner, averaged
from detkit.training.options import RunOptions
from detkit.training.progress import Position
from detkit.training.resume import random_state, save_resume
from detkit.training.run_folder import RunFolder
from detkit.training.run_log import scores_record
from detkit.training.tiles import TrainingImages

SAVE_SECONDS = 300.0  # between resume files, besides those at each validation


class Saver:
    """Writes a run's models and resume file; of several processes only the first has a folder.

    `identity` is what a run cannot go on without: the resume file holds it, and must agree.
    """

    def __init__(
        self,
        folder: RunFolder | None,
        detector: Detector,
        recipe: Recipe,
        options: RunOptions,
        images: TrainingImages,
    ) -> None:
        """Take the parts; nothing is saved yet."""
        self.folder = folder
        self.detector = detector
        self.options = options
        self.identity = identity(detector, recipe, options, images)
        self._saved_at, self._saved_step = time.monotonic(), -1

    @property
    def is_due(self) -> bool:
        """Return whether the last save is long ago."""
        return time.monotonic() - self._saved_at > SAVE_SECONDS

    def has_saved(self, step: int) -> bool:
        """Return whether this step is the one that was saved last."""
        return self._saved_step == step

    def begin(self) -> None:
        """Make the folder this run's, with a `config.json` to repeat it or go on from; once."""
        if self.folder is not None:
            self.folder.begin(self.options.settings)

    def go_on(self, saved: Mapping[str, Any]) -> None:
        """Take the identity of the run that was saved; UsageError if it is another one's."""
        for name, value in self.identity.items():
            before = saved["run"].get(name, 1 if name == "accumulate" else None)  # of older runs
            if before != value:
                was, now = cut(str(before)), cut(str(value))
                raise UsageError(
                    f"--resume: this run was started with {name} {was}, not {now}; give what it "
                    "was started with, or start anew with --force"
                )
        self.identity = saved["run"]
        self._saved_step = saved["position"]["step"]
        self.begin()  # the next --resume goes by what this one was asked for
        if self.folder is not None:
            self.folder.forget_metrics_after(self._saved_step)

    def save(
        self,
        learner: Learner | None,
        at: Position,
        scores: Scores | None = None,
        *,
        is_best: bool = False,
    ) -> None:
        """Write `last`, the resume file and, if these weights are the best, `best`."""
        self._saved_at, self._saved_step = time.monotonic(), at.step
        folder = self.folder
        if folder is None:
            return
        require_finite(self.detector, folder.resume)
        record = None if scores is None else scores_record(scores)
        with averaged(learner):
            for path in [folder.last, folder.best] if is_best else [folder.last]:
                save_model(path, self.detector, data_hash=self.options.data_hash, scores=record)
        state = {
            "run": self.identity,
            "data_hash": self.options.data_hash,
            "threads": self.options.threads,
            "position": asdict(at),
            "model": self.detector.state_dict(),
            "stages": self.detector.stage_state(),
            "learner": learner.state() if learner is not None and at.stage_step else {},
            "random": random_state(),
        }
        save_resume(folder.resume, state)

    def save_only(self) -> None:
        """Write `best` for a run in which no validation has chosen one."""
        if self.folder is not None:
            save_model(self.folder.best, self.detector, data_hash=self.options.data_hash)

    def path(self, name: str) -> str:
        """Return where a file of the run folder is, "nothing" if this run has not written it."""
        folder = self.folder
        if folder is None or not folder.has_begun or not (folder.path / name).exists():
            return "nothing"
        return str(folder.path / name)


def identity(
    detector: Detector, recipe: Recipe, options: RunOptions, images: TrainingImages
) -> dict[str, Any]:
    """Return what makes a run the one it is, as plain values by name."""
    values = {
        "backend": detector.name,
        "class_names": list(detector.class_names),
        "batch_size": recipe.batch_size,
        "accumulate": recipe.accumulate,
        "optimizer": recipe.optimizer,
        "seed": options.seed,
        "num_images": len(images),
        # Through JSON, since the resume file knows no tuples.
        **json.loads(json.dumps(to_json(detector.config))),
    }
    if recipe.stage_batches:
        values["stage_batches"] = list(recipe.stage_batches)
    if images.source is not None:
        values["proposals from"] = images.source.identity
    if options.precision != "auto":  # of a run that goes on it is what it was
        values["precision"] = options.precision
    return values
