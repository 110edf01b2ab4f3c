"""The learning rate schedule and the budget, both as functions of progress in [0, 1].

Progress is the share of the steps done, or of the time used when the budget is in minutes;
a schedule written in shares fits any budget.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from detkit.config import Recipe


def lr_factor(recipe: Recipe, progress: float) -> float:
    """Return what the base learning rate is multiplied with at this progress.

    A linear warm-up over the first `warmup`; then steps by `gamma`, or each by its own of several,
    at the `milestones` (shares of the whole budget), or half a cosine down to 0 (Loshchilov and
    Hutter 2017, eq. 5).
    """
    if progress < recipe.warmup:
        return recipe.warmup_factor + (1 - recipe.warmup_factor) * progress / recipe.warmup
    if recipe.schedule == "cosine":
        share = (progress - recipe.warmup) / max(1e-9, 1 - recipe.warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
    passed = sum(progress >= milestone - 1e-9 for milestone in recipe.milestones)
    if isinstance(recipe.gamma, tuple):
        return math.prod(recipe.gamma[:passed])
    return recipe.gamma**passed


@dataclass(frozen=True, slots=True)
class StageBudget:
    """What a stage may use; the limit that is reached first ends it."""

    steps: int | None
    seconds: float | None

    def progress(self, steps: int, seconds: float) -> float:
        """Return the share, in [0, 1], of the budget that so many steps and seconds are."""
        by_steps = 0.0 if self.steps is None else steps / self.steps
        by_time = 0.0 if self.seconds is None else seconds / max(self.seconds, 1e-9)
        return min(1.0, max(by_steps, by_time))


def stage_budgets(
    recipes: Sequence[Recipe], total_steps: int | None, total_seconds: float | None
) -> list[StageBudget]:
    """Return each stage's share of the whole budget, in proportion to its `max_steps`."""
    whole = sum(recipe.max_steps for recipe in recipes)
    budgets = []
    done = 0
    begun = 0
    for recipe in recipes:
        done += recipe.max_steps
        steps = None
        if total_steps is not None:
            ends = round(total_steps * done / whole)
            steps = max(1, ends - begun)
            begun = ends
        seconds = None if total_seconds is None else total_seconds * recipe.max_steps / whole
        budgets.append(StageBudget(steps, seconds))
    return budgets
