"""Plots of an evaluation, for people."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from detkit.errors import UsageError
from detkit.files import write_bytes
from detkit.structures import Scores
from detkit.text import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf", ".jpg", ".jpeg", ".webp")
MOST_CURVES = 20  # more lines than this cannot be told apart; the weakest classes are shown


def require_plot(path: Path) -> None:
    """Raise UsageError when no plot is written under that suffix."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path}: a plot is written as one of {', '.join(SUFFIXES)}")


def plot_text(name: str) -> str:
    """Return a name as matplotlib has to be given it to draw it as it stands, on one line.

    It takes what is between dollar signs for a formula, and hides a label that begins with "_".
    """
    text = printable(name).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure, whole or not at all; the format goes by the suffix, which is a plot's.

    Raises DetkitError when the file cannot be written.
    """
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters the font lacks, and the like
        figure.savefig(content, format=path.suffix[1:].lower(), dpi=150)
    write_bytes(path, content.getbuffer())


def save_pr_curve(scores: Scores, path: Path) -> None:
    """Write a plot of precision over recall, a curve a class, with its AP in the legend.

    The format goes by the suffix. With more than 20 classes those of lowest AP are drawn.
    Raises UsageError for an unknown suffix and DetkitError when the file cannot be written.
    """
    require_plot(path)
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ranked = sorted(
        ((one.ap, one) for one in scores.classes if one.ap is not None), key=lambda pair: pair[0]
    )
    shown = ranked[:MOST_CURVES]
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    palette = colormaps["tab20"]
    for number, (ap, one) in enumerate(shown):
        axes.step(
            [0.0, *one.recall.tolist()],
            [one.precision[0] if len(one.precision) else 0.0, *one.precision.tolist()],
            where="post",
            color=palette(number % palette.N),
            label=plot_text(f"{ap:.3f}  {one.name}"),
        )
    mean = "n/a" if scores.mean is None else f"{scores.mean:.4f}"
    left_out = f" (lowest {MOST_CURVES} of {len(ranked)} classes)" if ranked[MOST_CURVES:] else ""
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    axes.set_title(f"mAP {mean}: {scores.protocol}{left_out}", fontsize=9)
    axes.grid(alpha=0.3)
    if shown:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, frameon=False)
    save_figure(figure, path)
