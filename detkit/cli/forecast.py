"""What a training is about to do, line by line, and how long it will take here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from detkit.cli.train_plan import Plan
from detkit.text import counted

if TYPE_CHECKING:
    from detkit.config import PaperRun, Recipe
    from detkit.data.records import ImageRecord
    from detkit.detector import Detector, Stage
    from detkit.training.probe import Measured
    from detkit.training.schedule import StageBudget


def plan_lines(
    plan: Plan,
    run: PaperRun | None,
    detector: Detector,
    recipe: Recipe,
    records: Sequence[ImageRecord],
    held_out: Sequence[ImageRecord],
    wanted: str = "",
) -> list[str]:
    """Return what the training will do; `detector` may be weightless.

    `wanted` says which file of weights the recipe would begin with and was not given.
    """
    config, num_images = detector.config, len(records)
    source = f"; {run.source}" if run is not None else f"; {detector.recipe_source}"
    if plan.recipe_name == "short":
        source = ""
    weights = plan.weights if not wanted else f"to be given by --weights FILE: {wanted}"
    height, width = detector.network_size()(375, 500)
    stages = detector.stages(recipe)
    budgets = plan.budgets(stages, num_images, recipe.batch_size)
    lines = [
        f"plan      {detector.name}, --recipe {plan.recipe_name}{source}",
        f"network   {config.backbone}, weights {weights}; an image of 500 x 375 is seen at "
        f"{width} x {height}",
        f"data      {counted(num_images, 'image')} to train on, {len(held_out)} to validate on",
    ]
    if plan.max_minutes is not None:
        lines.append(f"budget    {plan.max_minutes:g} minutes; the schedule is scaled to it")
    seen = 0
    for stage, budget in zip(stages, budgets, strict=True):
        if stage.fit is not None:
            lines.append(f"pass      {stage.name}: once over {counted(num_images, 'image')}")
            continue
        size = stage.recipe.batch_size
        seen += (budget.steps or 0) * size
        lines.append(f"stage     {stage.name}: {_steps(stage, budget)}; {rates(stage, budget)}")
    if seen:
        lines.append(f"in all    {counted(seen, 'image')} seen, {seen / num_images:.1f} epochs")
    return lines


def _steps(stage: Stage, budget: StageBudget) -> str:
    size = stage.recipe.batch_size
    batch = f"{counted(size, 'image')}"
    if stage.recipe.accumulate > 1 and size > 1:
        batch += f" in {min(size, stage.recipe.accumulate)} parts"
    steps = "steps" if budget.steps is None else counted(budget.steps, "step")
    return f"{steps} of {batch}"


def rates(stage: Stage, budget: StageBudget) -> str:
    """Return the learning rates of a stage in words: "lr 0.001, 0.0001 from step 50000"."""
    from detkit.training.schedule import lr_factor

    recipe = stage.recipe
    first = f"{recipe.optimizer}, lr {recipe.lr * lr_factor(recipe, 0.0):g}"
    if recipe.schedule == "cosine":
        return f"{first}, up to {recipe.lr:g} and down to 0 along a cosine"
    if recipe.warmup:
        first += f", rising to {recipe.lr:g} by {100 * recipe.warmup:g} %"
    parts = [first]
    for milestone in recipe.milestones:
        at = f"{100 * milestone:g} %"
        if budget.steps is not None:
            at = f"step {round(milestone * budget.steps)}"
        parts.append(f"{recipe.lr * lr_factor(recipe, milestone):g} from {at}")
    return ", ".join(parts)


def time_line(measured: Measured) -> str:
    """Return how long the training will take, and by what that is known."""
    parts = [
        f"{one.name}: {one.seconds:.3g} s a step"
        for one in measured.stages
        if one.seconds is not None
    ]
    by = f"by {counted(measured.num_steps, 'step')} made to try ({'; '.join(parts)})"
    if measured.total is None:
        return f"time      as long as the budget of minutes says; {by}"
    more = ""
    if measured.proposals:
        more = f", {hours(measured.proposals)} of them for proposals where the cache has none"
    return (
        f"time      about {hours(measured.total + measured.proposals)} on {measured.device}{more}; "
        f"{by}. Validation is not counted, and other work or a hot device makes it longer"
    )


def hours(seconds: float) -> str:
    """Return a time in the unit that people would say it in."""
    for unit, length in (("days", 48 * 3600), ("hours", 2 * 3600), ("minutes", 120)):
        if seconds >= length:
            one = {"days": 86400, "hours": 3600, "minutes": 60}[unit]
            return f"{seconds / one:.1f} {unit}"
    return counted(max(1, round(seconds)), "second")
