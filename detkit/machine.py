"""Cores and memory that this machine lets this process use, and whether its processes fork."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from pathlib import Path

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST = 2**30  # bytes; well above any feature map, well below what an int holds


def num_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_of_machine() -> int:
    """Return the memory this process may use, in bytes; 8 GiB where nobody tells."""
    limits = []
    with suppress(AttributeError, ValueError, OSError):  # Windows
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # a container's, v2 and v1
        with suppress(ValueError, OSError):  # "max", or no such file
            limits.append(int((Path("/sys/fs/cgroup") / name).read_text("utf-8")))
    return min(limits, default=8 * 2**30)


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
