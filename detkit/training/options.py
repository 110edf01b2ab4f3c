"""What a training run is asked for besides the recipe: a line a field.

A new option is a field here, an option of `detkit train` by the same name, and the place that
works by it. Nothing here needs torch to be imported.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from detkit.errors import UsageError
from detkit.training.schedule import StageBudget, stage_budgets

if TYPE_CHECKING:
    from detkit.detector import Detector, Stage
    from detkit.proposals.source import ProposalSource
    from detkit.structures import Scores

MAX_SEED = 2**32 - 1  # numpy's


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What is asked for in plain values, as the shell and a run's `config.json` hold it."""

    seed: int = 0
    epochs: float | None = None  # the first of these three budgets to be used up ends the run;
    max_steps: int | None = None  # without any it is the recipe's `max_steps`
    max_minutes: float | None = None
    patience: int | None = None  # validations in a row without a better mAP that end it too
    # The least figures, as {"mAP": 0.85}, of a validation after which the run may end.
    until: Mapping[str, float] = field(default_factory=dict)
    device: str = "auto"
    devices: int = 1  # on each machine
    nodes: int = 1  # machines
    wait: float = 30.0  # minutes that a process may be silent before the others give up
    precision: str = "auto"  # measured; of a run that goes on: as before
    num_workers: int | None = None  # processes that load images; None: by the cores
    threads: int | None = None  # of the CPU; None: measured, and of a run that goes on as before

    @property
    def world_size(self) -> int:
        """Return how many processes train, one a device."""
        return self.devices * self.nodes

    def validate(self) -> None:
        """Raise UsageError for a budget, a seed or a number that no run can have."""
        for value in (self.max_steps, self.epochs, self.max_minutes):
            if value is not None and not 0 < value < math.inf:
                raise UsageError("a budget of steps, epochs or minutes must be above 0 and finite")
        if not 0 < self.wait < math.inf:
            raise UsageError(f"--wait {self.wait:g}: must be above 0 and finite")
        if not 0 <= self.seed <= MAX_SEED:
            raise UsageError(f"--seed {self.seed}: must be from 0 to {MAX_SEED}")
        least = {"patience": 1, "devices": 1, "nodes": 1, "num_workers": 0, "threads": 1}
        for name, minimum in least.items():
            value = getattr(self, name)
            if value is not None and value < minimum:
                option = name.replace("_", "-")
                raise UsageError(f"--{option} {value}: must be at least {minimum}")

    def budgets(
        self, stages: Sequence[Stage], num_images: int, batch_size: int
    ) -> list[StageBudget]:
        """Return each stage's part of the budget that was asked for.

        A stage that is a pass takes one over all images, and of time what the others leave.
        """
        recipes = [stage.recipe for stage in stages if stage.fit is None]
        whole_steps = sum(recipe.max_steps for recipe in recipes)
        limits = [] if self.max_steps is None else [self.max_steps]
        if self.epochs is not None:
            seen = sum(recipe.max_steps * recipe.batch_size for recipe in recipes)
            limits.append(math.ceil(self.epochs * num_images / (seen / whole_steps)))
        if not limits and self.max_minutes is None:
            limits.append(whole_steps)
        seconds = None if self.max_minutes is None else 60 * self.max_minutes
        shares = iter(stage_budgets(recipes, min(limits) if limits else None, seconds))
        whole = StageBudget(math.ceil(num_images / batch_size), seconds)
        return [next(shares) if stage.fit is None else whole for stage in stages]


@dataclass(frozen=True, kw_only=True)
class RunOptions(TrainOptions):
    """All that `train` is asked for besides the recipe."""

    validation: Callable[[Detector], Scores] | None = None  # what scores the weights on the way
    num_validations: int = 20
    proposals: ProposalSource | None = None  # None: as the detector's config says
    resume: bool = False  # go on with the run in the folder
    force: bool = False  # replace an earlier run there
    settings: Mapping[str, Any] | None = None  # JSON values that become `config.json`
    data_hash: str | None = None  # goes into the model files


DEFAULTS = RunOptions()
