"""The model file, which people keep and share, and the resume file of an unfinished run.

A model is one `.safetensors`: weights in float32 and, as JSON text in the header's metadata,
the backend, its config, the class names, the preprocessing, the data set's hash, the scores and
the detkit version. Equal runs write equal bytes, and reading one runs no code from it. The
resume file holds tensors and plain values and is read with torch's `weights_only`.
"""

from __future__ import annotations

import dataclasses
import difflib
import io
import json
import pickle
import random
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from detkit import __version__
from detkit.config import Recipe, from_json, override, parse_settings, to_json
from detkit.detector import Detector
from detkit.detectors import backend_names, load_backend
from detkit.errors import DetkitError, UsageError
from detkit.files import write_bytes

FORMAT = 1  # raised when an older detkit can no longer read the file
RESUME_FORMAT = 1
# What reading a resume file raises, depending on where it is damaged.
BROKEN = (
    *(OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError),
    *(pickle.UnpicklingError, RuntimeError, ValueError, LookupError),
)
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


def load_model(path: Path | str, *, device: str | torch.device = "cpu") -> Detector:
    """Return the detector of a model file, in eval mode on `device`.

    Raises DetkitError when the file is missing, broken, of a newer detkit or of a backend that
    is not here, or when its weights do not fit its config or are not finite.
    """
    path = Path(path)
    info = model_info(path)
    backend = info["backend"]
    if backend not in backend_names():
        raise DetkitError(
            f"{path}: made by the backend {backend!r}, which is not here (there are "
            f"{', '.join(backend_names())}); name its module with --plugin"
        )
    kind = load_backend(backend)
    try:
        config = from_json(kind.config_class, info["config"])
        config.validate()
    except UsageError as error:
        raise DetkitError(f"{path}: {error} (written by detkit {info['detkit']})") from error
    try:
        tensors = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise DetkitError(f"{path}: cannot be read, the file is broken ({error})") from error
    name = _not_finite(tensors)
    if name is not None:
        raise DetkitError(f"{path}: the weights {name} are not finite; train the model anew")
    with torch.random.fork_rng(devices=[]):  # the random start that the file replaces
        detector = kind(config, info["class_names"])
    try:
        detector.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split("\n", 2)[1:2]).strip()
        raise DetkitError(
            f"{path}: its weights do not fit {backend} with {len(info['class_names'])} classes: "
            f"{reason}"
        ) from error
    return detector.to(device).eval()


def changed(detector: Detector, words: Sequence[str]) -> Detector:
    """Return the detector with other settings (`key=value`) of its config and the same weights.

    In eval mode. Raises UsageError for a setting that it does not have, or under which these
    weights are of another shape.
    """
    settings = parse_settings(words)
    known = {field.name for field in dataclasses.fields(detector.config)}
    config, _ = override(
        detector.config, Recipe(), {k: v for k, v in settings.items() if k in known}
    )
    foreign = sorted(set(settings) - known)
    if foreign:
        near = difflib.get_close_matches(foreign[0], known, n=1)
        hint = f"did you mean {near[0]}?" if near else "see `detkit models`"
        raise UsageError(f"--set {foreign[0]}: no setting of {detector.name}; {hint}")
    config, _ = override(detector.config, Recipe(), settings)
    with torch.random.fork_rng(devices=[]):
        other = type(detector)(config, detector.class_names)
    state, wanted = detector.state_dict(), other.state_dict()
    if {k: v.shape for k, v in state.items()} != {k: v.shape for k, v in wanted.items()}:
        raise UsageError(
            f"--set {' '.join(words)}: makes another network of it than was trained; train with it"
        )
    other.load_state_dict(state)
    device = next((tensor.device for tensor in state.values()), torch.device("cpu"))
    return other.to(device).eval()


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


def save_resume(path: Path, state: Mapping[str, Any]) -> None:
    """Write the state of a run: tensors and plain values, nested in dicts and lists.

    Raises DetkitError when it cannot be written.
    """
    content = io.BytesIO()
    torch.save({**state, "format": RESUME_FORMAT, "detkit": __version__}, content)
    write_bytes(path, content.getbuffer())


def load_resume(path: Path) -> dict[str, Any]:
    """Return the state that `save_resume` wrote, on the CPU.

    Raises UsageError when the file is missing, DetkitError when it is broken or of another
    format.
    """
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file, so there is nothing to resume")
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
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [str(kind), [int(key) for key in keys], position, has_gauss, gauss],
        "python": [version, list(numbers), next_gauss],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put the generators into a state that `random_state` returned."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, np.array(keys, np.uint32), position, has_gauss, gauss))
    version, numbers, next_gauss = state["python"]
    random.setstate((version, tuple(numbers), next_gauss))


def require_finite(detector: Detector, path: Path) -> None:
    """Raise DetkitError, naming one, when a weight is NaN or infinite and may not be saved."""
    name = _not_finite(detector.state_dict())
    if name is None:
        return
    raise DetkitError(
        f"{path}: not written, since the weights {name} are not finite; lower --lr or "
        "--set clip_norm=10, and go on with --resume"
    )


def _not_finite(state: Mapping[str, Tensor]) -> str | None:
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
