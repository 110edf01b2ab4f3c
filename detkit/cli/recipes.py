"""What `--recipe` brings along: the schedule, and of a paper's also network, weights and data."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from detkit.cli.train_plan import Plan
from detkit.errors import UsageError

if TYPE_CHECKING:
    from detkit.config import DetectorConfig, PaperRun, Recipe
    from detkit.detector import Detector

RECIPES = ("short", "paper", "paper-0712", "paper-coco")


def run_of(backend: type[Detector], name: str) -> PaperRun | None:
    """Return the paper's run that a recipe stands for; None for "short", and where none is known.

    Raises UsageError when the paper has no such run.
    """
    if name in backend.paper_runs:
        return backend.paper_runs[name]
    if name in ("short", "paper"):
        return None
    known = ", ".join(("paper", *(one for one in backend.paper_runs if one != "paper")))
    raise UsageError(f"--recipe {name}: {backend.name}'s paper has none; it has {known}")


def with_run(plan: Plan, backend: type[Detector], given: Collection[str]) -> Plan:
    """Return the plan with the network and the weights of the recipe that was asked for now.

    What was `given`, the names of options, stays: another backbone begins without weights, and
    weights of their own kind say which backbone they are of. Weights that only a file holds are
    left for `require_weights`.
    """
    run = run_of(backend, plan.recipe_name)
    if run is None or "recipe_name" not in given:
        return plan
    brought: dict[str, Any] = {}
    own_weights = "weights" in given and plan.weights not in ("none", "imagenet")
    if "backbone" not in given:
        brought["backbone"] = None if own_weights else run.backbone
    if "weights" not in given:
        same = brought.get("backbone", plan.backbone) == run.backbone
        brought["weights"] = run.weights if same and run.weights_by_name else "none"
    return dataclasses.replace(plan, **brought)


def wanted_file(plan: Plan, backend: type[Detector], given: Collection[str]) -> str:
    """Return in words which file of weights the recipe still wants by `--weights`; "" for none."""
    run = run_of(backend, plan.recipe_name)
    asked_now = "recipe_name" in given and not {"weights", "backbone"} & set(given)
    return run.weights if run is not None and asked_now and not run.weights_by_name else ""


def require_weights(plan: Plan, backend: type[Detector], given: Collection[str]) -> None:
    """Raise UsageError where days of training would begin from chance without a word."""
    if wanted := wanted_file(plan, backend, given):
        raise UsageError(
            f"--recipe {plan.recipe_name}: {backend.name} begins with {wanted}; fetch it and give "
            "it by --weights FILE, or begin from chance by --weights none"
        )


def with_settings(config: DetectorConfig, plan: Plan, backend: type[Detector]) -> DetectorConfig:
    """Return the config with the settings of the paper's run, those of `--set` not put in yet."""
    run = run_of(backend, plan.recipe_name)
    # An earlier run's config.json has them, as they were then.
    return config if run is None or plan.recipe else dataclasses.replace(config, **run.settings)


def recipe_of(config: DetectorConfig, plan: Plan, backend: type[Detector]) -> Recipe:
    """Return the schedule of the plan's recipe for a detector of this config."""
    if plan.recipe_name == "short":
        return backend.short_recipe
    return backend.paper_recipe(config, plan.recipe_name)
