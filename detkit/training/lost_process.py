"""Training in several processes of which one has ended, or does not answer any more."""

from __future__ import annotations

import re

import torch

from detkit.errors import DetkitError

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


def lost(error: BaseException, world_size: int, wait: float) -> DetkitError:
    """Return the error, in one line, of a process that has lost another of so many.

    `wait` is how many minutes one may be silent.
    """
    found = WHY.search(str(error))
    reason = f" ({found[1].strip()})" if found else ""
    return DetkitError(
        f"another of the {world_size} processes did not come, has ended, or was silent for "
        f"{wait:g} minutes (--wait){reason}; its own output says why"
    )
