"""The resume file of an unfinished run: all that is needed to go on to the bit.

It holds tensors and plain values, is read with torch's `weights_only`, and with them the states
of all random number generators.
"""

from __future__ import annotations

import io
import pickle
import random
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from detkit import __version__
from detkit.errors import DetkitError
from detkit.files import write_bytes
from detkit.training.options import MAX_SEED

RESUME_FORMAT = 1
# What reading a resume file raises, depending on where it is damaged.
BROKEN = (
    *(OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError),
    *(pickle.UnpicklingError, RuntimeError, ValueError, LookupError),
)


def save_resume(path: Path, state: Mapping[str, Any]) -> None:
    """Write the state of a run: tensors and plain values, nested in dicts and lists.

    Raises DetkitError when it cannot be written.
    """
    content = io.BytesIO()
    torch.save({**state, "format": RESUME_FORMAT, "detkit": __version__}, content)
    write_bytes(path, content.getbuffer())


def load_resume(path: Path) -> dict[str, Any]:
    """Return the state that `save_resume` wrote, on the CPU.

    Raises DetkitError when the file is missing, broken or of another format.
    """
    if not path.is_file():
        raise DetkitError(f"{path}: there is no such file, so there is nothing to resume")
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()  # torch reads over a checksum that does not fit
        if damaged is not None:
            raise zipfile.BadZipFile(f"{damaged} is damaged")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except BROKEN as error:
        reason = str(error).partition("\n")[0]
        raise DetkitError(
            f"{path}: cannot be resumed from ({reason}); start anew with --force, or from the "
            "model with --weights"
        ) from error
    if not isinstance(state, dict) or state.get("format") != RESUME_FORMAT:
        raise DetkitError(f"{path}: not a resume file of this detkit ({__version__})")
    return state


def random_state() -> dict[str, Any]:
    """Return the states of all random number generators, as tensors and plain values."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    version, numbers, next_gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        # Of the GPU that is computed on, whatever its number will be when the run goes on.
        "cuda": [torch.cuda.get_rng_state()] if _is_cuda_used() else [],
        "mps": [torch.mps.get_rng_state()] if torch.backends.mps.is_available() else [],
        "numpy": [str(kind), [int(key) for key in keys], position, has_gauss, gauss],
        "python": [version, list(numbers), next_gauss],
    }


def _is_cuda_used() -> bool:
    """Return whether something was computed on a GPU; asking for its state would start it."""
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call,unused-ignore]


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put the generators into a state that `random_state` returned."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"][0])
    if state.get("mps") and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"][0])
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, np.array(keys, np.uint32), position, has_gauss, gauss))
    version, numbers, next_gauss = state["python"]
    random.setstate((version, tuple(numbers), next_gauss))


def restore_random_state(fabric: Fabric, saved: Mapping[str, Any]) -> None:
    """Go on with the first process's generators; those of the others begin anew."""
    if fabric.global_rank == 0:
        set_random_state(saved["random"])
    else:
        seed_process(fabric, saved["run"]["seed"] + saved["position"]["step"])


def seed_process(fabric: Fabric, seed: int) -> None:
    """Begin the generators anew, those of each process apart."""
    fabric.seed_everything((seed + fabric.global_rank) % (MAX_SEED + 1), verbose=False)
