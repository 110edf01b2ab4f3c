"""What a training is about to do, line by line, and how long it will take here."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from detkit.cli.console import Console
from detkit.cli.planned import build, proposals_of, suited, weightless
from detkit.cli.recipes import run_of
from detkit.cli.train_plan import Plan, sound_data, split_data
from detkit.text import counted

if TYPE_CHECKING:
    from detkit.config import DetectorConfig, PaperRun, Recipe
    from detkit.data.records import ImageRecord
    from detkit.detector import Detector, Stage
    from detkit.training.probe import Measured
    from detkit.training.schedule import StageBudget


def tell_forecast(
    console: Console, plan: Plan, config: DetectorConfig, recipe: Recipe, wanted: str
) -> None:
    """Write to stdout what the plan would do, and its time by a few steps made to try.

    The detector for these is one with weights by chance; nothing is downloaded.
    """
    from detkit.detectors import load_backend
    from detkit.networks.precision import find_device
    from detkit.proposals.source import source_for
    from detkit.training.options import RunOptions
    from detkit.training.probe import measure

    plan.validate()
    find_device(plan.device)
    backend = load_backend(str(plan.model))
    run = run_of(backend, plan.recipe_name)
    dataset = sound_data(console, plan)
    records, held_out = split_data(console, dataset, plan, run)
    config = suited(plan, config, recipe, dataset.class_names, records)
    twin = weightless(plan, config, dataset.class_names)
    for line in plan_lines(plan, run, twin, recipe, records, held_out, wanted):
        console.data(line)
    detector = build(dataclasses.replace(plan, weights="none"), config, dataset.class_names)
    if plan.weights != "none" or wanted:
        detector.backbone.pretrained = True
        detector.freeze_generic()
    source = source_for(detector, proposals_of(plan, detector, [*records, *held_out]))
    options = RunOptions(**plan.options())
    console.data(time_line(measure(detector, records, recipe, options, source)))


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
