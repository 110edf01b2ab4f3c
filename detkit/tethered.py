"""`python -m detkit.tethered WORDS`: detkit, until who began it ends.

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
from contextlib import suppress

NICENESS = 10  # of what leaves the machine to others


def start_tethered(
    words: Sequence[str],
    output: int | None = None,
    *,
    aside: bool = False,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[str]:
    """Return the process of `detkit WORDS`, which ends with this one and leads a group.

    All it says goes to the open file `output`; without one its stderr is a pipe, and its stdout
    goes nowhere. With `aside` it has a low priority. `environment` are variables that it has
    besides ours.
    """
    flags = 0
    if os.name == "nt" and aside:
        flags = subprocess.BELOW_NORMAL_PRIORITY_CLASS | subprocess.CREATE_NEW_PROCESS_GROUP  # type: ignore[attr-defined,unused-ignore]
    process = subprocess.Popen(
        [sys.executable, "-m", "detkit.tethered", *words],
        stdin=subprocess.PIPE,  # whose end tells it that we are no more
        stdout=subprocess.DEVNULL if output is None else output,
        stderr=subprocess.PIPE if output is None else output,
        env={**os.environ, **(environment or {})},
        text=True,
        encoding="utf-8",
        errors="surrogateescape",
        # So that Ctrl-C reaches us alone, and the process once: from us.
        start_new_session=os.name != "nt",
        creationflags=flags,
    )
    if aside and os.name != "nt":
        with suppress(OSError):
            os.setpriority(os.PRIO_PGRP, process.pid, NICENESS)
    return process


def _stop_at_the_end_of(pipe: int) -> None:
    """Wait until nobody holds the other end of a pipe, then stop this process."""
    while os.read(pipe, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_stop_at_the_end_of, args=(sys.stdin.fileno(),), daemon=True).start()
    runpy.run_module("detkit", run_name="__main__", alter_sys=True)
