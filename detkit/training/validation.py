"""Validation and early stopping: when one is due, what becomes of it, when patience ends."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

from lightning_fabric import Fabric

from detkit.detector import Detector
from detkit.structures import Detections, Scores
from detkit.text import counted
from detkit.training.exchange import as_in_first, of_all, together
from detkit.training.learner import Learner, averaged
from detkit.training.options import RunOptions
from detkit.training.progress import Position
from detkit.training.resume import random_state, set_random_state
from detkit.training.schedule import StageBudget

TIME_SHARE = 0.1  # of the time used that validations on the way may take
LAST_SHARE = 0.15  # of a budget of time that the last one may take
FEWEST_JUDGED = 8  # images, however long they take


@runtime_checkable
class HeldOutImages(Protocol):
    """A validation whose images can be counted, so that its time is foreseen."""

    @property
    def num_images(self) -> int:
        """How many images are judged."""

    def part(self, num_images: int) -> HeldOutImages:
        """Return the validation on so many of them, spread over all."""

    def __call__(self, detector: Detector, /) -> Scores:
        """Return the scores of a detector."""


@runtime_checkable
class DividedImages(HeldOutImages, Protocol):
    """A validation whose images can be divided among processes."""

    def found(self, detector: Detector, process: int, num_processes: int) -> dict[int, Detections]:
        """Return what a detector finds in one process's share of the images, by their places."""

    def scored(self, found: Mapping[int, Detections]) -> Scores:
        """Return the scores of what was found in all images."""


class Validation:
    """Scores a detector on the way and in the end, and remembers in a `Position` how it did."""

    def __init__(
        self, fabric: Fabric, detector: Detector, options: RunOptions, epoch_steps: int
    ) -> None:
        """Take the parts; an epoch is `epoch_steps` steps, and there is at most one in each."""
        self.fabric = fabric
        self.detector = detector
        self.options = options
        self.score = options.validation
        self.epoch_steps = epoch_steps
        self.is_foreseen = False

    def foresee(self, at: Position, learner: Learner | None, max_seconds: float | None) -> str:
        """Measure on an image what a validation will take; return what there is to tell of it.

        Where all images would take more than `LAST_SHARE` of a budget of time, a part of them is
        judged from now on, and that is told. It is measured once a process: of a run that goes on
        anew.
        """
        whole = self.options.validation
        if self.is_foreseen or max_seconds is None or not isinstance(whole, HeldOutImages):
            return ""
        self.is_foreseen = True
        seconds, random = 0.0, random_state()
        if self.fabric.global_rank == 0:
            with averaged(learner):
                self.detector.eval()
                for _ in range(2):  # much is only made ready by the first
                    began = time.monotonic()
                    whole.part(1)(self.detector)
                    seconds = time.monotonic() - began
        if learner is not None:
            learner.set_train()
        set_random_state(random)
        each = float(self.fabric.broadcast(seconds))
        if isinstance(whole, DividedImages):
            each /= self.fabric.world_size
        number = whole.num_images
        few = min(number, max(FEWEST_JUDGED, int(LAST_SHARE * max_seconds / max(each, 1e-9))))
        at.last_validation = at.last_validation or few * each
        if few == number:
            return ""
        self.score = whole.part(few)
        return (
            f"validation: an image takes {each:.1f} s, so {few} of {number} are judged, to keep "
            f"within {max_seconds / 60:g} minutes; detkit eval judges all"
        )

    def is_due(self, at: Position, budget: StageBudget, seconds: float) -> bool:
        """Return whether to validate now, of a run that has taken `seconds` in all."""
        if self.score is None:
            return False
        if at.progress >= 1:
            return True
        if budget.seconds is None and budget.steps is not None:
            every = max(self.epoch_steps, math.ceil(budget.steps / self.options.num_validations))
            return at.stage_step % every == 0
        due = (at.progress - at.validated) * self.options.num_validations >= 1
        share = TIME_SHARE * (seconds - at.stage_began)
        costs = at.validation_seconds + at.last_validation > share
        return bool(self.fabric.broadcast(due and not costs))  # clocks differ, one decides

    def run(self, at: Position, learner: Learner | None) -> tuple[Scores | None, bool]:
        """Return the scores of the weights (first process only), and whether they are the best.

        What is learnt afterwards does not depend on it.
        """
        scores, random, started = None, random_state(), time.monotonic()
        if self.score is not None:
            with averaged(learner):
                self.detector.eval()
                scores = self._scores(self.score)
        if learner is not None:
            learner.set_train()
        set_random_state(random)
        mean, at.reached, at.last_validation = self.fabric.broadcast(
            (
                None if scores is None else scores.mean,
                dict(self.options.until) if self._reaches(scores) else {},
                time.monotonic() - started,
            )
        )
        is_best = mean is not None and (at.best is None or mean > at.best)
        if is_best:
            at.best = mean
        at.stale = 0 if is_best else at.stale + 1
        at.validated = at.progress
        at.validation_seconds += at.last_validation
        return scores, is_best

    def _scores(self, score: Callable[[Detector], Scores]) -> Scores | None:
        """Return the scores of the detector as it is in the first process, and in that one only.

        Of several processes each looks at its share of the images, where these can be divided.
        Raises DetkitError in all of them where one cannot read an image.
        """
        fabric, detector = self.fabric, self.detector
        rank, number = fabric.global_rank, fabric.world_size
        if number == 1 or not isinstance(score, DividedImages):
            return together(fabric, lambda: None if rank else score(detector))
        as_in_first(fabric, detector)
        parts = of_all(fabric, together(fabric, lambda: score.found(detector, rank, number)))
        if rank:
            return None
        return score.scored({place: one for part in parts for place, one in part.items()})

    def why_over(self, at: Position) -> str:
        """Return why the run may end before its budget does; "" when it may not."""
        until, patience = dict(self.options.until), self.options.patience
        if until and at.reached == until:
            return f"reached {', '.join(f'{name}={least:g}' for name, least in until.items())}"
        if patience is not None and at.stale >= patience:
            return f"{counted(at.stale, 'validation')} without a better mAP"
        return ""

    def _reaches(self, scores: Scores | None) -> bool:
        """Return whether there are scores and all figures of `until` are met."""
        if scores is None or not self.options.until:
            return False
        return all(scores.reach(name, least) for name, least in self.options.until.items())
