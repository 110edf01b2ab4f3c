"""`python -m detkit.comparison.tethered WORDS`: detkit, until who began it ends.

Its stdin is a pipe that is never written to, and ends with the process that holds the other end,
even if that is killed. Then it is told to stop, as by SIGTERM: a training keeps its last
checkpoint, and is not in the way of whoever goes on with it.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading


def _stop_at_the_end_of(pipe: int) -> None:
    """Wait until nobody holds the other end of a pipe, then stop this process."""
    while os.read(pipe, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_stop_at_the_end_of, args=(sys.stdin.fileno(),), daemon=True).start()
    runpy.run_module("detkit", run_name="__main__", alter_sys=True)
