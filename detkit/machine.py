"""What this machine lets this process use."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path


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
            limits.append(int((Path("/sys/fs/cgroup") / name).read_text()))
    return min(limits, default=8 * 2**30)


def forks() -> bool:
    """Return whether a process of ours is forked: it then shares what is in memory for nothing."""
    return sys.platform.startswith("linux")
