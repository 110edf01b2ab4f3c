"""What a training was asked to do: from the command line, from a run's `config.json`, or both."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detkit.config import from_json
from detkit.errors import DetkitError, UsageError

BUDGETS = ("epochs", "max_steps", "max_minutes")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What a training was asked to do; `config.json` holds it, and `--config` takes it back."""

    data: str | None = None
    model: str | None = None
    backbone: str | None = None
    weights: str = "none"
    recipe_name: str = "short"
    classes: tuple[str, ...] | None = None
    val: str | None = None
    skip_bad: bool = False
    seed: int = 0
    epochs: float | None = None
    max_steps: int | None = None
    max_minutes: float | None = None
    patience: int | None = None
    device: str = "auto"
    devices: int = 1
    nodes: int = 1
    precision: str = "auto"
    num_workers: int | None = None
    plugin: tuple[str, ...] = ()
    proposals: str | None = None
    detector: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    recipe: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def merge(plan: Plan, given: Mapping[str, Any]) -> Plan:
    """Return the plan with what was given on the command line put in.

    A budget that is given replaces the plan's, of whatever kind that was.
    """
    changes = {key: value for key, value in given.items() if value is not None}
    if any(key in changes for key in BUDGETS):
        changes = dict.fromkeys(BUDGETS) | changes
    if "recipe_name" in changes:
        changes["recipe"] = {}
    if {"model", "backbone", "weights"} & set(changes):
        changes["detector"] = {} if "model" in changes else _without_backbone(plan.detector)
    return dataclasses.replace(plan, **changes)


def read_plan(path: Path) -> Plan:
    """Return the plan in a run's `config.json`, with the precision that `auto` meant in that run.

    Raises DetkitError when it is not one.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DetkitError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise DetkitError(f"{path}: not JSON: {error}") from error
    plan = values.get("plan") if isinstance(values, dict) else None
    if not isinstance(plan, dict):
        raise DetkitError(f"{path}: not the config.json of a run")
    if plan.get("precision", "auto") == "auto":
        plan = {**plan, "precision": values.get("precision", "auto")}
    try:
        return from_json(Plan, plan)
    except UsageError as error:
        raise DetkitError(f"{path}: {error} (edited, or of another detkit?)") from error


def _without_backbone(detector: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in detector.items() if key != "backbone"}
