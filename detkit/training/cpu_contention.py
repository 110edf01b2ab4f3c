"""CPU contention: whether other programs take the cores from the threads of a network."""

from __future__ import annotations

import statistics
from collections import deque

import torch

from detkit import machine
from detkit.training.run_folder import RunFolder, way_on

COLLAPSED = 2.5  # times what the steps took; one busy program on two cores makes it 3 to 20
WINDOW = 10  # steps that are compared
CHECKS_APART = 100  # steps between two looks at the machine


class ContentionWatch:
    """Notices when the steps of a stage take far longer than they did, and says once why."""

    def __init__(self, folder: RunFolder | None) -> None:
        """Take the folder that the run goes on from; None: nothing is said.

        As of several processes all but the first have none, and a run on a GPU has nothing to say.
        """
        self._folder = folder
        self._seconds: deque[float] = deque(maxlen=WINDOW)
        self._fastest = float("inf")  # the median of a window
        self._steps_to_check = 0
        self._has_spoken = False

    def step(self, seconds: float) -> str:
        """Take in what the network took for a step; return the line to say, or ""."""
        if self._folder is None or self._has_spoken:
            return ""
        self._seconds.append(seconds)
        self._steps_to_check -= 1
        if len(self._seconds) < WINDOW:
            return ""
        now = statistics.median(self._seconds)
        self._fastest = min(self._fastest, now)
        all_slow = min(self._seconds) >= COLLAPSED * self._fastest > 0
        if not all_slow or self._steps_to_check > 0:
            return ""
        self._steps_to_check = CHECKS_APART
        cores, free, threads = machine.num_cores(), machine.free_cores(), torch.get_num_threads()
        if free >= min(threads, cores):
            return ""  # it is something else: larger images, a disk, heat
        self._has_spoken = True
        fewer = max(1, free)
        advice = f", or stop and go on by {way_on(self._folder, fewer)}" if fewer < threads else ""
        return (
            f"a step takes {now / self._fastest:.1f}x the time it took: other programs keep "
            f"{cores - free} of {cores} cores busy; end those{advice}"
        )
