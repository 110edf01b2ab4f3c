"""Cores and memory that this machine lets this process use, and how its processes begin and end.

Nothing here needs torch.
"""

from __future__ import annotations

import ctypes
import gc
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from detkit.text import counted

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_CGROUP = Path("/sys/fs/cgroup")
SHARED_BY = "DETKIT_PROCESSES"  # environment: how many processes like this share the machine
MEASURED_SECONDS = 0.1
_LARGEST = 2**30  # bytes; well above any feature map, well below what an int holds


@contextmanager
def paused_collector() -> Iterator[None]:
    """Put off the collection of circular garbage while very many values are made that all stay.

    Python looks through all of them again and again meanwhile, which takes as long as making them.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if gc.get_freeze_count() == 0:  # all of it is old at once: not looked through on enabling
            gc.freeze()
            gc.unfreeze()
        if was_on:
            gc.enable()


def num_sharing() -> int:
    """Return how many processes like this share the machine: `DETKIT_PROCESSES`, else one."""
    word = os.environ.get(SHARED_BY, "")
    return max(1, int(word)) if word.isdecimal() else 1


def num_cores() -> int:
    """Return how many cores this process may use, of its machine's or of its container's.

    They are shared with those of `num_sharing`.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    with suppress(ValueError, OSError):  # "max", or no such file
        quota, period = (_CGROUP / "cpu.max").read_text().split()
        cores = min(cores, max(1, int(quota) // int(period)))
    return max(1, cores // num_sharing())


def free_cores() -> int:
    """Return how many of `num_cores` other programs leave free; measured, in a tenth of a second.

    A thread a core computes, and the system shares the cores out fairly: beside b programs that
    are always busy, n threads on n cores get n^2 / (n + b) cores' time. That is solved for b.
    """
    cores = num_cores()
    got = _cores_got(cores)
    busy = round(cores**2 / max(got, 1e-3) - cores)
    return min(cores, max(0, cores - busy))


def _cores_got(num_threads: int) -> float:
    """Return how many cores' time so many threads get that compute side by side."""
    block = bytes(2**19)  # hashed without Python's lock, in well under a millisecond
    began = time.perf_counter()
    shares = []

    def compute() -> None:
        while time.perf_counter() < began + MEASURED_SECONDS:
            hashlib.sha256(block)
        shares.append(time.thread_time() / (time.perf_counter() - began))

    threads = [threading.Thread(target=compute) for _ in range(num_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(shares)


def choose_threads(asked: int | None, most: int | None = None) -> tuple[int, str]:
    """Return the number of threads for a network on the CPU, and why, for the log.

    What was `asked` for, else what OMP_NUM_THREADS says, else one for each free core, at least
    one and not above `most`. The threads wait for each other at every layer, so one whose core
    another program holds makes all of them slower than they are without it.
    """
    cores = num_cores()
    most = cores if most is None else most
    if asked is not None:
        few = f" ({cores} cores: they wait for each other)" if asked > cores else ""
        return asked, f"{threads_in_words(asked)}, as asked{few}"
    if os.environ.get("OMP_NUM_THREADS", "").isdecimal():
        said = max(1, int(os.environ["OMP_NUM_THREADS"]))
        return said, f"{threads_in_words(said)}, as OMP_NUM_THREADS says"
    free = free_cores()
    threads = max(1, min(most, free))
    if free == cores:
        return threads, f"{threads_in_words(threads)}, one for each free core"
    return (
        threads,
        f"{threads_in_words(threads)}, since other programs keep cores busy (--threads N)",
    )


def threads_in_words(threads: int) -> str:
    """Return a number of CPU threads as people say it."""
    return counted(threads, "CPU thread")


def memory_of_machine() -> int:
    """Return the memory this process may use, in bytes; 8 GiB where nobody tells.

    It is shared with those of `num_sharing`.
    """
    limits = []
    with suppress(AttributeError, ValueError, OSError):  # Windows
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # a container's, v2 and v1
        with suppress(ValueError, OSError):  # "max", or no such file
            limits.append(int((_CGROUP / name).read_text("utf-8")))
    return min(limits, default=8 * 2**30) // num_sharing()


def end_group(process: subprocess.Popen[Any], patience: float) -> None:
    """End a process that leads a group, and what it has started; by force after `patience` s."""
    if os.name == "nt":
        process.kill()
        process.wait()
        return
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
            process.wait(patience)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
    process.wait()


def forks() -> bool:
    """Return whether a process of ours is forked: it then shares what is in memory for nothing."""
    return sys.platform.startswith("linux")


def keep_freed_memory() -> bool:
    """Return whether memory once freed stays with this process, from now on, for its next use.

    Blocks above 32 MiB, as feature maps and batches are, glibc otherwise returns to the system
    at once, and a training on the CPU gets the same pages anew, zeroed one by one, at every
    step: up to a quarter of its time. Elsewhere nothing is changed.
    """
    if not sys.platform.startswith("linux"):
        return False
    with suppress(OSError, AttributeError):  # musl has no mallopt
        mallopt = ctypes.CDLL(None).mallopt
        return all(mallopt(what, _LARGEST) for what in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD))
    return False
