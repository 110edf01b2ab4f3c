"""`python -m detkit.comparison.tethered WORDS`: detkit, until who began it ends.

Its stdin is a pipe that is never written to, and ends with the process that holds the other end,
even if that is killed. Then it is told to stop, as by SIGTERM: a training keeps its last
checkpoint, and is not in the way of whoever goes on with it.
"""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence


def start_tethered(
    words: Sequence[str], environment: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Return the process of `detkit WORDS`, which ends with this one; its stderr is a pipe.

    `environment` are variables that it has besides ours.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "detkit.comparison.tethered", *words],
        stdin=subprocess.PIPE,  # whose end tells it that we are no more
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, **(environment or {})},
        text=True,
        encoding="utf-8",
        errors="surrogateescape",
        # So that Ctrl-C reaches us alone, and the process once: from us.
        start_new_session=os.name != "nt",
    )


def _stop_at_the_end_of(pipe: int) -> None:
    """Wait until nobody holds the other end of a pipe, then stop this process."""
    while os.read(pipe, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_stop_at_the_end_of, args=(sys.stdin.fileno(),), daemon=True).start()
    runpy.run_module("detkit", run_name="__main__", alter_sys=True)
