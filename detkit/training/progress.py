"""Progress of a run: where it is, the time it has used, and what is left of its budget."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from detkit.detector import Stage
from detkit.training.run_log import SpeedMeter
from detkit.training.schedule import StageBudget


class Clock:
    """Measures a run against its budget, of steps, of minutes or of both."""

    def __init__(
        self,
        began: float,
        max_minutes: float | None,
        stages: Sequence[Stage],
        budgets: Sequence[StageBudget],
        num_images: int,
    ) -> None:
        """Take each stage's budget; `began` is when, by `time.monotonic()`, time began to run."""
        self.began = began
        self.max_seconds = None if max_minutes is None else 60 * max_minutes
        self.speed = SpeedMeter()
        self._stages, self._budgets, self._num_images = stages, budgets, num_images
        self._step_seconds = 0.0  # of the optimiser steps before a pass

    @property
    def seconds(self) -> float:
        """Return the time used, interrupted parts of the run included."""
        return time.monotonic() - self.began

    def begin_pass(self) -> None:
        """Measure the steps of a pass apart from those before it."""
        self._step_seconds, self.speed = self.speed.step_seconds, SpeedMeter()

    def progress(self, at: Position) -> float:
        """Return the share, in [0, 1], of its stage's budget that a run has used."""
        budget = self._budgets[at.stage]
        # The last validation, too, is to fit into a budget of time.
        used = self.seconds - at.stage_began + at.last_validation
        if self.max_seconds is not None and budget.seconds is not None:
            left = budget.seconds
            if self._stages[at.stage].fit is not None:  # all that is left
                left = self.max_seconds - at.stage_began
            budget = replace(budget, seconds=left - self._reserved(at, self.max_seconds))
        return budget.progress(at.stage_step, used)

    def pass_seconds(self, at: Position) -> float | None:
        """Return the seconds that are left of a pass's budget of time; None without such."""
        if self.max_seconds is None:
            return None
        left = self.max_seconds - self._reserved(at, self.max_seconds) - at.last_validation
        return max(0.0, left - self.seconds)

    def image_seconds(self, at: Position) -> float:
        """Return what an image of a pass is expected to take; 0 while nothing was measured."""
        return self._stages[at.stage].fit_cost * self._step_seconds

    def _reserved(self, at: Position, whole: float) -> float:
        """Return the seconds that later passes are expected to take.

        At most half of `whole`; in a pass, at most their part of what is left for all.
        """
        here = self._stages[at.stage]
        later = sum(stage.fit_cost for stage in self._stages[at.stage + 1 :])
        if here.fit is None:
            return min(later * self._num_images * self.speed.step_seconds, whole / 2)
        left = max(0.0, whole - at.stage_began - at.last_validation)
        part = later / max(later + here.fit_cost, 1e-9)
        return min(later * self._num_images * self._step_seconds, part * left)

    def total_steps(self, at: Position) -> int | None:
        """Return how many steps there will be; an estimate when the budget is one of time."""
        limits = [budget.steps for budget in self._budgets]
        steps = 0 if None in limits else sum(limit or 0 for limit in limits)
        if self.max_seconds is None:
            return steps
        if at.step < 5:  # too early to tell
            return None
        left = max(0.0, self.max_seconds - self.seconds) if at.progress < 1 else 0.0
        estimate = at.step + round(left / max(self.speed.step_seconds, 1e-9))
        return min(estimate, steps) if steps else estimate

    def seconds_left(self, at: Position, total_steps: int | None) -> float | None:
        """Return the time until the budget is used up; None when that cannot be told yet."""
        if self.max_seconds is not None:
            return max(0.0, self.max_seconds - self.seconds)
        if total_steps is None:
            return None
        each = self.speed.step_seconds + at.validation_seconds / at.step
        return (total_steps - at.step) * each


@dataclass
class Position:
    """Where a run is; plain values, kept in the resume file."""

    stage: int = 0
    stage_step: int = 0
    step: int = 0
    images: int = 0
    seconds: float = 0.0
    stage_began: float = 0.0  # in those seconds
    progress: float = 0.0  # of the stage
    best: float | None = None  # the best mAP
    validated: float = 0.0  # the progress at the last validation
    owes_validation: bool = False  # the run was told to stop when one was due
    stale: int = 0  # validations since the best
    reached: Mapping[str, float] = field(default_factory=dict)  # the `until` that was met
    validation_seconds: float = 0.0  # of all
    last_validation: float = 0.0  # seconds the last one took
