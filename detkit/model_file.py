"""The model file, which people keep and share: written, and its header read.

A model is one `.safetensors`: weights in float32 and, as JSON text in the header's metadata,
the backend, its config, the class names, the preprocessing, the data set's hash, the scores and
the detkit version. Equal runs write equal bytes, and reading one runs no code from it.
`inference.models` opens one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from detkit import __version__
from detkit.config import to_json
from detkit.detector import Detector
from detkit.errors import DetkitError
from detkit.files import write_bytes

FORMAT = 1  # raised when an older detkit can no longer read the file
ENTRY = "detkit"  # the name of our entry in the header's metadata


def save_model(
    path: Path,
    detector: Detector,
    *,
    data_hash: str | None = None,
    scores: Mapping[str, Any] | None = None,
) -> None:
    """Write the detector to a model file; the old one stays until the new one is whole.

    Raises DetkitError when it cannot be written, or when a weight is not finite.
    """
    require_finite(detector, path)
    tensors = {name: _stored(tensor) for name, tensor in detector.state_dict().items()}
    config = detector.config
    header = {
        "format": FORMAT,
        "detkit": __version__,
        "backend": detector.name,
        "config": to_json(config),
        "class_names": list(detector.class_names),
        "preprocessing": {
            "colour": "RGB, 0 to 1",
            "mean": config.mean,
            "std": config.std,
            "antialias": config.antialias,
        },
        "data_hash": data_hash,
        "scores": None if scores is None else dict(scores),
    }
    # One entry: safetensors writes several in random order, and equal runs have equal files.
    metadata = {ENTRY: json.dumps(header, ensure_ascii=False)}
    write_bytes(path, safetensors.torch.save(tensors, metadata))


def is_model(path: Path | str) -> bool:
    """Return whether a file is a detkit model, by its header; no error for any other file."""
    try:
        with safetensors.safe_open(Path(path), framework="np") as file:
            return ENTRY in (file.metadata() or {})
    except (safetensors.SafetensorError, OSError):
        return False


def model_info(path: Path | str) -> dict[str, Any]:
    """Return the header of a model file as values: `backend`, `config`, `class_names`, ...

    Only the header is read. Raises DetkitError when the file is not a detkit model.
    """
    path = Path(path)
    if not path.is_file():
        raise DetkitError(f"{path}: there is no such model file")
    try:
        with safetensors.safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise DetkitError(
            f"{path}: not a detkit model, or cut short ({error}); models are the .safetensors "
            "files that `detkit train` writes"
        ) from error
    if ENTRY not in metadata:
        raise DetkitError(
            f"{path}: weights without detkit's header; to start training from them give them to "
            "`detkit train --weights`"
        )
    try:
        info: dict[str, Any] = json.loads(metadata[ENTRY])
        newer = info["format"] > FORMAT
        _check_header(info)
    except (ValueError, KeyError, TypeError) as error:
        raise DetkitError(f"{path}: its header is broken ({error})") from error
    if newer:
        raise DetkitError(
            f"{path}: written by detkit {info.get('detkit')}, in a format this detkit "
            f"({__version__}) does not know; update detkit"
        )
    return info


def require_finite(detector: Detector, path: Path) -> None:
    """Raise DetkitError, naming one, when a weight is NaN or infinite and may not be saved."""
    name = not_finite(detector.state_dict())
    if name is None:
        return
    raise DetkitError(
        f"{path}: not written, since the weights {name} are not finite; lower --lr or "
        "--set clip_norm=10, and go on with --resume"
    )


def not_finite(state: Mapping[str, Tensor]) -> str | None:
    """Return the name of a tensor that holds a NaN or an infinity; None when there is none."""
    # One answer from the device, not one a tensor.
    finite = {name: tensor.isfinite().all() for name, tensor in state.items()}
    if not finite or torch.stack(list(finite.values())).all():
        return None
    return next(name for name, good in finite.items() if not good)


def _stored(tensor: Tensor) -> Tensor:
    """Return the tensor as the file holds it: float32, on the CPU, in plain order."""
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point():
        tensor = tensor.float()
    # A clone, since safetensors refuses tensors that share memory.
    return tensor.clone(memory_format=torch.contiguous_format)


def _check_header(info: Mapping[str, Any]) -> None:
    """Raise TypeError or ValueError when a value of the header is not as it is written there."""
    names = info["class_names"]
    if not isinstance(info["config"], dict) or not isinstance(info["backend"], str):
        raise TypeError("config and backend must be an object and a string")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TypeError("class_names must be a list of strings")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"the class {twice!r} is named twice")
