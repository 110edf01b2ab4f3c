"""Models opened: by file, run folder, published name, ONNX or another program's weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from detkit.config import Recipe, from_json, override, parse_settings
from detkit.detector import Detector
from detkit.detectors import backend_names, load_backend
from detkit.errors import DetkitError, UsageError
from detkit.model_file import _not_finite, model_info
from detkit.text import nearest_hint


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
        hint = nearest_hint(foreign[0], known, "see `detkit models`")
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
