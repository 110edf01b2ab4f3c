"""How this process gets its memory from the system."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST = 2**30  # bytes; well above any feature map, well below what an int holds


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
