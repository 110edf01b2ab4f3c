"""What people look at: plots as files, and pages that hold everything they show."""

from detkit.report.plots import (
    SUFFIXES,
    plot_text,
    require_plot,
    save_figure,
    save_pr_curve,
)

__all__ = ["SUFFIXES", "plot_text", "require_plot", "save_figure", "save_pr_curve"]
