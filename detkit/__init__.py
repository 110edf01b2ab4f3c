"""detkit: train, run and judge the classic object detectors, from the shell or from Python."""

__version__ = "0.1.0"
