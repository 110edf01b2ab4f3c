"""The learning curve of a run: its losses, learning rate and validations over its steps."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detkit.errors import DetkitError
from detkit.report.plots import plot_text, require_plot, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FONT_SIZE = 13  # points on a page 9 inches wide: still readable when shown at half the size
MOST_CLASSES = 10


@dataclass
class RunCurves:
    """What `metrics.jsonl` tells of a run, as rows to draw."""

    steps: list[int] = field(default_factory=list)
    totals: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    losses: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)  # by role
    stages: list[tuple[int, str]] = field(default_factory=list)  # where each begins
    validated: list[tuple[int, float]] = field(default_factory=list)  # (step, mAP)
    classes: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    best: tuple[int, float] | None = None
    protocol: str = ""


def read_curves(run: Path) -> RunCurves:
    """Return the curves of a run folder, finished or not.

    Raises DetkitError when it is no run folder or nothing was measured yet. A
    last line that is cut short, as of a run that is writing it, is left out.
    """
    path = run / "metrics.jsonl"
    if not path.is_file():
        raise DetkitError(f"{run}: no run folder of `detkit train`; it has no metrics.jsonl")
    curves = RunCurves()
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            _add(curves, json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if number == len(lines):
                break
            raise DetkitError(
                f"{path}:{number}: not a line of `detkit train` ({type(error).__name__}: {error})"
            ) from error
    if not curves.steps and not curves.validated:
        raise DetkitError(f"{path}: nothing measured yet; wait for the run's first lines")
    return curves


def save_run_plot(run: Path, path: Path) -> None:
    """Write a plot of a run: losses, learning rate, and mean AP on validation images, over steps.

    The format goes by the suffix. Raises UsageError for an unknown suffix and as `read_curves`
    does, and DetkitError when the file cannot be written.
    """
    require_plot(path)
    curves = read_curves(run)
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context({"font.size": FONT_SIZE, "lines.linewidth": 2}):
        figure = Figure(figsize=(9, 9), layout="constrained")
        FigureCanvasAgg(figure)
        loss, rate, score = figure.subplots(3, 1, sharex=True, height_ratios=(3, 1.3, 3))
        _draw_losses(loss, curves)
        rate.plot(curves.steps, curves.rates, color="black")
        rate.set(ylabel="learning rate", ylim=(0, None))
        rate.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
        _draw_scores(score, curves)
        score.set_xlabel("step")
        figure.suptitle(plot_text(run.resolve().name), fontsize=FONT_SIZE)
        for axes in (loss, rate, score):
            axes.grid(alpha=0.3)
            for step, _ in curves.stages[1:]:
                axes.axvline(step, color="black", linestyle=":", linewidth=1)
        save_figure(figure, path)


def _add(curves: RunCurves, values: dict[str, Any]) -> None:
    """Add one line of `metrics.jsonl`; raises what a wrong line raises."""
    step = int(values["step"])
    validation = values.get("validation")
    if validation is not None:
        _add_validation(curves, step, validation, is_best=bool(values.get("best")))
    elif values.get("losses"):
        losses = {role: float(value) for role, value in values["losses"].items()}
        rate, stage = float(values["lr"]), str(values.get("stage", ""))
        curves.steps.append(step)
        curves.totals.append(sum(losses.values()))
        curves.rates.append(rate)
        if not curves.stages or curves.stages[-1][1] != stage:
            curves.stages.append((step, stage))
        for role, value in losses.items():
            steps, row = curves.losses.setdefault(role, ([], []))
            steps.append(step)
            row.append(value)


def _add_validation(
    curves: RunCurves, step: int, validation: dict[str, Any], *, is_best: bool
) -> None:
    curves.protocol = str(validation["protocol"])
    if validation["mAP"] is not None:
        curves.validated.append((step, float(validation["mAP"])))
        if is_best:
            curves.best = curves.validated[-1]
    for name, ap in validation["classes"].items():
        if ap is not None:
            curves.classes.setdefault(name, []).append((step, float(ap)))


def _draw_losses(axes: Axes, curves: RunCurves) -> None:
    """Draw the sum of the losses and its parts."""
    if len(curves.losses) > 1:
        axes.plot(curves.steps, curves.totals, color="black", label="sum")
    for role, (steps, values) in curves.losses.items():
        axes.plot(steps, values, alpha=0.8, label=plot_text(role))
    # From thousands to a hundredth: on a linear scale the first steps hide the rest.
    if min(curves.totals, default=0) > 0:
        axes.set_yscale("log")
    axes.set_ylabel("training loss")
    if curves.losses:
        axes.legend(frameon=False, ncols=2)
    if len(curves.stages) > 1:
        names = " | ".join(name for _, name in curves.stages)
        axes.set_title(plot_text(names), fontsize=FONT_SIZE - 2)


def _draw_scores(axes: Axes, curves: RunCurves) -> None:
    """Draw the mean AP of the validations, and each class's AP where there are few."""
    if len(curves.classes) <= MOST_CLASSES:
        for name, points in curves.classes.items():
            axes.plot(*zip(*points), marker=".", linewidth=1, alpha=0.7, label=plot_text(name))
    if curves.validated:
        axes.plot(*zip(*curves.validated), color="black", marker="o", label="mAP")
    if curves.best is not None:
        step, value = curves.best
        axes.plot(step, value, "o", markersize=14, markerfacecolor="none", color="black")
        title = f"best mAP {value:.3f} at step {step}: {curves.protocol}"
        axes.set_title(plot_text(title), fontsize=FONT_SIZE - 1)
    axes.set(ylabel="validation AP", ylim=(0, 1.02))
    if curves.validated:
        axes.legend(frameon=False, ncols=2, loc="lower right")
