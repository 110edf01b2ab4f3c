"""The command that draws the learning curve of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from detkit.cli.console import Console
from detkit.cli.options import Force, Quiet, require_free


def plot(
    run: Annotated[
        Path, typer.Argument(metavar="RUN_DIR", help="The folder of a run, finished or not.")
    ],
    out: Annotated[
        Path,
        typer.Option("-o", "--out", metavar="FILE", help="The plot: .png, .svg, .pdf, ..."),
    ],
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Draw the learning curve of a run.

    Losses, learning rate and the validations' AP over the steps, from the run's metrics.jsonl.

    \b
    Examples:
      detkit plot run -o run.png
    """
    require_free("-o", out, force=force)
    from detkit.report.learning_curve import save_run_plot

    save_run_plot(run, out)
    Console(quiet).note(f"learning curve: {out}")
