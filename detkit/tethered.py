"""`python -m detkit.tethered WORDS`: detkit, until who began it ends; with `--` any program.

Its stdin is a pipe that is never written to, and ends with the process that holds the other end,
even if that is killed. Then it is told to stop, as by SIGTERM: a training keeps its last
checkpoint, and is not in the way of whoever goes on with it. Another program, which knows nothing
of that pipe, is one of the same group, and told so with all that it has started.
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

FOREIGN = "--"
NICENESS = 10  # of what leaves the machine to others
PATIENCE = 10.0  # seconds that another program has to end after it was told to
NOT_RUN = 126  # the exit code of a shell for a program that is there but cannot be run


def start_tethered(
    words: Sequence[str],
    output: int | None = None,
    *,
    foreign: bool = False,
    aside: bool = False,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[str]:
    """Return the process of `detkit WORDS`, which ends with this one and leads a group.

    With `foreign` the words are those of another program, which reads nothing. All it says goes to
    the open file `output`; without one its stderr is a pipe, and its stdout goes nowhere. With
    `aside` it has a low priority. `environment` are variables that it has besides ours.
    """
    flags = 0
    if os.name == "nt" and aside:
        flags = subprocess.BELOW_NORMAL_PRIORITY_CLASS | subprocess.CREATE_NEW_PROCESS_GROUP  # type: ignore[attr-defined,unused-ignore]
    process = subprocess.Popen(
        [sys.executable, "-m", "detkit.tethered", *([FOREIGN] if foreign else []), *words],
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


def _run_foreign(words: Sequence[str]) -> int:
    """Run another program in our group until it ends, or our stdin does; return its exit code.

    Below 0 it is, as of `Popen`, the signal that killed it.
    """
    signal.signal(signal.SIGTERM, lambda *_: None)  # it reaches the program, too, which may save
    try:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL)
    except OSError as error:
        sys.stderr.write(f"cannot be run: {error.strerror or error}: {words[0]}\n")
        return NOT_RUN
    is_left = threading.Event()

    def end() -> None:
        while os.read(sys.stdin.fileno(), 1):
            pass
        is_left.set()
        if os.name == "nt":
            process.kill()
            return
        os.killpg(0, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
        os.killpg(0, signal.SIGKILL)

    ending = threading.Thread(target=end, daemon=True)
    ending.start()
    code = process.wait()
    if is_left.is_set():
        ending.join()
    return code


if __name__ == "__main__" and sys.argv[1:2] == [FOREIGN]:
    code = _run_foreign(sys.argv[2:])
    if code < 0:  # end as it did
        with suppress(OSError):  # nobody can do otherwise at SIGKILL
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)
if __name__ == "__main__":
    threading.Thread(target=_stop_at_the_end_of, args=(sys.stdin.fileno(),), daemon=True).start()
    runpy.run_module("detkit", run_name="__main__", alter_sys=True)
