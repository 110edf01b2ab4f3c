"""Reports: plots as files, and pages that hold everything they show."""
