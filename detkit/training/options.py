"""What a training run was asked for, and where it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detkit.detector import Detector, Stage
from detkit.errors import UsageError
from detkit.proposals.source import ProposalSource
from detkit.structures import Scores
from detkit.training.schedule import StageBudget, stage_budgets

MAX_SEED = 2**32 - 1  # numpy's


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What a run is asked for besides the recipe."""

    validation: Callable[[Detector], Scores] | None = None
    num_validations: int = 20
    patience: int | None = None
    max_steps: int | None = None
    max_epochs: float | None = None
    max_minutes: float | None = None
    seed: int = 0
    num_workers: int | None = None
    proposals: ProposalSource | None = None
    data_hash: str | None = None
    settings: Mapping[str, Any] | None = None

    def validate(self) -> None:
        """Raise UsageError for a budget or a seed that no run can have."""
        for value in (self.max_steps, self.max_epochs, self.max_minutes):
            if value is not None and not 0 < value < math.inf:
                raise UsageError("a budget of steps, epochs or minutes must be above 0 and finite")
        if not 0 <= self.seed <= MAX_SEED:
            raise UsageError(f"--seed {self.seed}: must be from 0 to {MAX_SEED}")

    def budgets(
        self, stages: Sequence[Stage], num_images: int, batch_size: int
    ) -> list[StageBudget]:
        """Return each stage's part of the budget that was asked for.

        A stage that is a pass takes one over all images, and of time what the others leave.
        """
        limits = [] if self.max_steps is None else [self.max_steps]
        if self.max_epochs is not None:
            limits.append(math.ceil(self.max_epochs * num_images / batch_size))
        if not limits and self.max_minutes is None:
            limits.append(sum(stage.recipe.max_steps for stage in stages if stage.fit is None))
        seconds = None if self.max_minutes is None else 60 * self.max_minutes
        recipes = [stage.recipe for stage in stages if stage.fit is None]
        shares = iter(stage_budgets(recipes, min(limits) if limits else None, seconds))
        whole = StageBudget(math.ceil(num_images / batch_size), seconds)
        return [next(shares) if stage.fit is None else whole for stage in stages]
