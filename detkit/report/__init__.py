"""What people look at: plots as files, and pages that hold everything they show."""

from detkit.report.plots import SUFFIXES, require_plot, save_pr_curve

__all__ = ["SUFFIXES", "require_plot", "save_pr_curve"]
