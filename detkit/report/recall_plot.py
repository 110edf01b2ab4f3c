"""The plot of `detkit recall`, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from detkit.evaluation.proposal_recall import recall
from detkit.report.plots import plot_text, require_plot, save_figure
from detkit.structures import FloatArray, Truth
from detkit.text import counted

IOUS = tuple(round(0.5 + 0.025 * step, 3) for step in range(21))
COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 300, 500, 700, 1000, 1500, 2000, 3000, 5000, 10000)
STYLES = {0.5: "-", 0.7: "--"}


def save_recall_plot(
    proposals: Mapping[str, Sequence[FloatArray]],
    truths: Sequence[Truth],
    class_names: Sequence[str],
    path: Path,
    *,
    count: int = 2000,
) -> None:
    """Write recall against IoU (first `count` boxes) and against the number of boxes, side by side.

    `proposals` are those of each method by its name. The format goes by the suffix. Raises
    UsageError for an unknown suffix and DetkitError when the file cannot be written.
    """
    require_plot(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    by_iou, by_count = figure.subplots(1, 2)
    most = max((len(boxes) for found in proposals.values() for boxes in found), default=1)
    counts = [number for number in COUNTS if number < most] + [max(most, 1)]
    for number, (name, found) in enumerate(proposals.items()):
        colour = f"C{number % 10}"
        shown = plot_text(name)
        over_iou = recall(found, truths, class_names, counts=[count], ious=IOUS)
        by_iou.plot(IOUS, over_iou.all.recall[0], color=colour, label=shown)
        over_count = recall(found, truths, class_names, counts=counts, ious=list(STYLES))
        for column, (iou, style) in enumerate(STYLES.items()):
            shares = over_count.all.recall[:, column]
            label = f"{shown}, IoU {iou:g}"
            by_count.plot(counts, shares, style, color=colour, label=label)
    by_iou.set(xlabel="IoU", xlim=(0.5, 1), title=f"first {counted(count, 'box')} an image")
    by_count.set(xlabel="boxes an image", xscale="log", title="by number of boxes")
    for axes in (by_iou, by_count):
        axes.set(ylabel="recall", ylim=(0, 1.02), yticks=np.arange(0, 1.1, 0.2))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, frameon=False)
    save_figure(figure, path)
