"""Which network a command works on: a model file, published weights, or a new one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from detkit.errors import DetkitError, UsageError
from detkit.text import nearest_hint

if TYPE_CHECKING:
    from detkit.config import DetectorConfig
    from detkit.detector import Detector
    from detkit.proposals.source import ProposalSource


def load_plugins(plugins: Sequence[str] | None) -> None:
    """Make the detectors of `--plugin` known as backends."""
    from detkit.detectors import add_plugin

    for name in plugins or ():
        add_plugin(name)


def require_model(model: str) -> None:
    """Raise DetkitError when a path names no file: at once, since importing torch takes seconds.

    A word without a suffix or a folder may be the name of published weights.
    """
    path = Path(model)
    if not path.exists() and (path.suffix or len(path.parts) > 1):
        raise DetkitError(
            f"{model}: there is no such model file; `detkit train` writes RUN_DIR/best.safetensors"
        )


def open_model(
    model: str, device: str, settings: Sequence[str] | None = None, precision: str = "32-true"
) -> Detector:
    """Return the detector of a model file or of published weights, in eval mode on its device.

    A run folder stands for its best model. An ONNX file that `detkit export` wrote runs on the
    CPU, whatever the device. `settings` are those of `--set`, which stand in for the model's;
    `precision` is what `detect` computes in.

    Raises DetkitError when there is neither, naming the nearest published name, and UsageError
    for a setting or a precision there is not.
    """
    require_model(model)
    if Path(model).is_dir():
        from detkit.comparison.measure import model_of

        model = str(model_of(Path(model)))
    from detkit.detectors import backend_names, load_backend
    from detkit.inference.models import changed, load_model
    from detkit.networks.precision import DTYPES, choose_precision, find_device, for_inference

    if Path(model).suffix == ".onnx" and Path(model).exists():
        if settings:
            raise UsageError("--set: an ONNX file is as it was exported; give the model itself")
        if precision not in ("auto", "32-true"):
            raise UsageError(
                f"--precision {precision}: an ONNX file is as it was exported; give the model"
            )
        from detkit.inference.onnx import OnnxDetector

        return OnnxDetector(Path(model)).eval()
    place = find_device(device)
    published = {name: one for one in map(load_backend, backend_names()) for name in one.published}
    detector = None
    if Path(model).suffix == ".weights" and Path(model).exists():
        detector = _open_foreign(model).to(place)
    elif Path(model).exists():
        detector = load_model(Path(model), device=place)
    elif model in published:
        detector = published[model].from_published(model).to(place).eval()
    if detector is not None:
        detector = for_inference(changed(detector, settings) if settings else detector, place)
        detector.detect_in(DTYPES[choose_precision(precision, place)[0]])
        return detector
    hint = nearest_hint(model, published, f"by name there is {', '.join(published)}")
    raise DetkitError(f"{model}: there is no such model file; {hint}")


def open_proposals(word: str | None, detector: Detector) -> ProposalSource | None:
    """Return the source that `--proposals` names for a detector; None when it was not given.

    Raises UsageError when the detector takes none or there is no such file or method.
    """
    if word is None:
        return None
    from detkit.config import ProposalConfig
    from detkit.proposals.source import open_source, source_for

    if detector.proposal_method is None:
        raise UsageError(f"--proposals {word}: {detector.name} finds its boxes itself")
    config = detector.config
    return source_for(
        detector, open_source(word, config if isinstance(config, ProposalConfig) else None)
    )


def _open_foreign(model: str) -> Detector:
    """Return the detector that another program's weights file is.

    Raises DetkitError when it is none of a backend's.
    """
    from detkit.detectors import backend_names, load_backend
    from detkit.networks.weights import read_state_dict

    state = read_state_dict(Path(model))
    for backend in map(load_backend, backend_names()):
        detector = backend.from_foreign(state, model)
        if detector is not None:
            return detector
    raise DetkitError(
        f"{model}: weights of a classifier; train a detector from them: detkit train --weights"
    )


def starting_config(backend: type[Detector], backbone: str | None, weights: str) -> DetectorConfig:
    """Return the config a training starts from: `--backbone`, or what the weights are of.

    Weights of a whole detector bring its config along: their default boxes and preprocessing
    are part of what they have learnt. Without either it is `tiny`, which needs no weights.
    Raises DetkitError when the weights file fits no backbone, UsageError when it contradicts
    `--backbone`.
    """
    from detkit.networks.pretrained import identify

    config = None if weights in ("none", "imagenet") else _config_of_weights(backend, weights)
    if config is not None:
        if backbone not in (None, config.backbone):
            raise UsageError(
                f"--backbone {backbone}: {weights} are weights of {config.backbone}; leave "
                "--backbone out"
            )
        return config
    if backbone is None:
        if weights == "imagenet":
            backbone = "mobilenet_v2"
        elif weights != "none":
            backbone = identify(Path(weights))
    return backend.config_class() if backbone is None else backend.config_class(backbone=backbone)


def _config_of_weights(backend: type[Detector], weights: str) -> DetectorConfig | None:
    """Return the config of a whole detector's weights, None for those of a classifier."""
    from detkit.config import from_json
    from detkit.model_file import is_model, model_info
    from detkit.networks.weights import read_state_dict

    if weights in backend.published:
        return backend.published[weights].config
    path = Path(weights)
    if is_model(path):
        info = model_info(path)
        if info["backend"] != backend.name:
            raise UsageError(
                f"--weights {weights}: a model of {info['backend']}, not {backend.name}"
            )
        return from_json(backend.config_class, info["config"])
    return backend.config_of(read_state_dict(path))
