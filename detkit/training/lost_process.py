"""Training in several processes of which one has ended, or does not answer any more."""

from __future__ import annotations

import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.strategies.launchers import subprocess_script

from detkit.errors import DetkitError, ExitCode

GRACE = 30.0  # seconds that a batch may take in which no process hears of the others
LOOK_SECONDS = 1.0

# How gloo and NCCL, and the meeting before them, say that another process is gone, or silent.
SIGNS = re.compile(
    r"gloo|nccl|TCPStore|store|rendezvous|clients joined|closed by peer|Connection (reset|refused)"
    r"|Broken pipe|timed out|timeout",
    re.IGNORECASE,
)
WHY = re.compile(
    r"(Connection \w+ by peer|Connection (?:reset|refused)|Broken pipe|\d+/\d+ clients joined"
    r"|Timed out[^.:;\n]*)",
    re.IGNORECASE,
)


class ToldByFirst(DetkitError):
    """An error that all processes have; where the first began the others, it alone tells it."""


def is_begun_by_first(fabric: Fabric) -> bool:
    """Return whether this process was begun by the first one of its machine, not by a launcher."""
    environment = getattr(fabric.strategy, "cluster_environment", None)
    return fabric.local_rank > 0 and isinstance(environment, LightningEnvironment)


@contextmanager
def watched(fabric: Fabric, tell: Callable[[str], None], wait: float) -> Iterator[None]:
    """Watch, within the block, the processes that the first one begins in it.

    When one has ended with an error, the first process comes to know it by its next exchange. Only
    where that does not come within `GRACE` seconds, it `tell`s it in a line and ends: Fabric's own
    watch would kill it within five seconds and without a word.
    """
    over = threading.Event()

    def begin(child_processes: list[subprocess.Popen[Any]]) -> None:
        threading.Thread(target=watch, args=(child_processes,), daemon=True).start()

    def watch(processes: list[subprocess.Popen[Any]]) -> None:
        while not over.wait(LOOK_SECONDS):
            if any(process.poll() for process in processes):
                if not over.wait(GRACE):
                    tell(str(lost(RuntimeError(), fabric.world_size, wait)))
                    end_others(fabric)
                    os._exit(ExitCode.BAD_INPUT)
                return

    before = subprocess_script._launch_process_observer
    subprocess_script._launch_process_observer = begin
    try:
        yield
    finally:
        over.set()
        subprocess_script._launch_process_observer = before


def end_others(fabric: Fabric) -> None:
    """End the processes that this one began: they may wait for it for a long time."""
    for process in getattr(fabric.strategy.launcher, "procs", ()):
        process.kill()
        process.wait()


def is_lost(error: BaseException, world_size: int) -> bool:
    """Return whether an error of one of several processes says that another one is gone."""
    if world_size == 1 or not isinstance(error, RuntimeError):
        return False
    kinds = tuple(
        kind
        for name in ("DistError", "DistBackendError", "DistNetworkError", "DistStoreError")
        if isinstance(kind := getattr(torch.distributed, name, None), type)
    )
    return isinstance(error, kinds) or SIGNS.search(str(error)) is not None


def lost(error: BaseException, world_size: int, wait: float) -> ToldByFirst:
    """Return the error, in one line, of a process that has lost another of so many.

    `wait` is how many minutes one may be silent.
    """
    found = WHY.search(str(error))
    reason = f" ({found[1].strip()})" if found else ""
    return ToldByFirst(
        f"another of the {world_size} processes did not come, has ended, or was silent for "
        f"{wait:g} minutes (--wait){reason}; its own output says why"
    )
