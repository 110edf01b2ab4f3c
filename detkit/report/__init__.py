"""What people look at: plots as files, and pages that hold everything they show."""

from detkit.report.plots import SUFFIXES, save_pr_curve

__all__ = ["SUFFIXES", "save_pr_curve"]
