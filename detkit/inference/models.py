"""Models opened by file, run folder, published name, ONNX, foreign weights; and new ones to train.

Importing this module is cheap; its functions import torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detkit.errors import DetkitError, UsageError, naming_extras
from detkit.text import counted, looks_like_a_path, nearest_hint

if TYPE_CHECKING:
    import torch

    from detkit.config import DetectorConfig, Recipe
    from detkit.detector import Detector
    from detkit.inference.onnx import OnnxDetector
    from detkit.inference.predict import Finder


FOREIGN = (".weights", ".caffemodel")  # darknet's and Caffe's files, which hold whole detectors


@naming_extras("detkit.open_model")
def open_model(
    model: Path | str,
    device: str = "auto",
    settings: Sequence[str] | None = None,
    precision: str = "32-true",
    *,
    plugins: Sequence[str] = (),
    threads: int | None = None,
) -> Finder[Any]:
    """Return the detector of a model file or of published weights, in eval mode on its device.

    A run folder stands for its best model. An ONNX file that `detkit export` wrote runs on the
    CPU, whatever the device. `settings` are those of `--set`, which stand in for the model's;
    `precision` is what `detect` computes in; `plugins` name the modules of backends of one's own.
    It computes on so many CPU `threads`, with torch all of this process from now on; None leaves
    their number to the library.

    Raises DetkitError when there is neither, naming the nearest published name, and UsageError
    for a setting or a precision there is not.
    """
    require_model(model)
    path = Path(model)
    if path.is_dir():
        path = model_of(path)
    from detkit.detectors import add_plugin

    for plugin in plugins:
        add_plugin(plugin)
    if path.suffix == ".onnx" and path.exists():
        return _open_onnx(path, settings, precision, threads)
    import torch

    from detkit.networks.precision import DTYPES, choose_precision, find_device, for_inference

    if threads is not None:
        torch.set_num_threads(threads)
    place = find_device(device)
    if path.suffix in FOREIGN and path.exists():
        detector = _open_foreign(path).to(place)
    elif path.exists():
        detector = load_model(path, device=place)
    else:
        require_published(str(model))
        detector = published()[str(model)].from_published(str(model)).to(place).eval()
    dtype = DTYPES[choose_precision(precision, place)[0]]
    detector = with_settings(detector, settings) if settings else detector
    detector = for_inference(detector, place, dtype)
    detector.detect_in(dtype)
    return detector


def require_model(model: Path | str) -> None:
    """Raise DetkitError when a path names no file: at once, since importing torch takes seconds.

    A word without a suffix or a folder may be the name of published weights.
    """
    if not Path(model).exists() and looks_like_a_path(str(model)):
        is_onnx = Path(model).suffix.lower() == ".onnx"
        advice = (
            f"`detkit export RUN_DIR -o {model}` writes one"
            if is_onnx
            else "`detkit train` writes RUN_DIR/best.safetensors"
        )
        raise DetkitError(f"{model}: there is no such model file; {advice}")


def published() -> dict[str, type[Detector]]:
    """Return the backend of each name of published weights; this imports torch."""
    from detkit.detectors import backend_names, load_backend

    return {name: one for one in map(load_backend, backend_names()) for name in one.published}


def require_published(model: str) -> None:
    """Raise DetkitError when a model that is no file is no name of published weights either."""
    if Path(model).exists() or model in (names := published()):
        return
    hint = nearest_hint(model, names, f"by name there is {', '.join(names)}")
    raise DetkitError(f"{model}: there is no such model file; {hint}")


def model_of(run: Path) -> Path:
    """Return the model of a run folder, its best; a model file is its own.

    Raises DetkitError when there is none.
    """
    if run.is_file():
        return run
    for name in ("best.safetensors", "last.safetensors"):
        if (run / name).is_file():
            return run / name
    raise DetkitError(f"{run}: no model there; `detkit train -o {run}` writes best.safetensors")


def load_model(path: Path | str, *, device: str | torch.device = "cpu") -> Detector:
    """Return the detector of a model file, in eval mode on `device`.

    Raises DetkitError when the file is missing, broken, of a newer detkit or of a backend that
    is not here, or when its weights do not fit its config or are not finite.
    """
    import safetensors
    import safetensors.torch
    import torch

    from detkit.config import from_json
    from detkit.detectors import backend_names, load_backend
    from detkit.model_file import model_info, not_finite

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
    name = not_finite(tensors)
    if name is not None:
        raise DetkitError(f"{path}: the weights {name} are not finite; train the model anew")
    with torch.random.fork_rng(devices=[]):  # the random start that the file replaces
        detector = kind(config, info["class_names"])
    try:
        detector.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split("\n", 2)[1:2]).strip()
        classes = counted(len(info["class_names"]), "class")
        raise DetkitError(
            f"{path}: its weights do not fit {backend} with {classes}: {reason}"
        ) from error
    return detector.to(device).eval()


def with_settings(detector: Detector, words: Sequence[str]) -> Detector:
    """Return the detector with other settings (`key=value`) of its config and the same weights.

    In eval mode. Raises UsageError for a setting that it does not have, or under which these
    weights are of another shape.
    """
    import torch

    from detkit.config import Recipe, override, parse_settings

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
    return other.to(detector.device).eval()


@naming_extras("detkit.new_model")
def new_model(
    backend: str,
    class_names: Sequence[str],
    *,
    backbone: str | None = None,
    weights: str = "none",
    settings: Mapping[str, Any] | None = None,
) -> tuple[Detector, Recipe]:
    """Return a detector to train, with its starting weights, and the backend's short recipe.

    `backbone` and `weights` are what `detkit train` takes, `settings` what `--set` does: those of
    the detector's config and of the recipe. Random weights are drawn by torch's global generator.
    Raises UsageError for a name or a setting there is not and for class names that are none or
    given twice, DetkitError for weights that do not fit.
    """
    from detkit.config import override
    from detkit.detectors import load_backend

    kind = load_backend(backend)
    names = [class_names] if isinstance(class_names, str) else list(class_names)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise UsageError(
            f"class_names={class_names!r}: expected at least one name, all of them text"
        )
    if len(set(names)) < len(names):
        raise UsageError(f"class_names={class_names!r}: a name is given twice")
    start = starting_config(kind, backbone, weights)
    config, recipe = override(start, kind.short_recipe, settings or {})
    return with_starting_weights(kind, config, names, weights), recipe


def with_starting_weights(
    backend: type[Detector], config: DetectorConfig, class_names: Sequence[str], weights: str
) -> Detector:
    """Return a new detector whose weights are those of `--weights`, as far as these go.

    The rest is drawn by torch's global generator. Raises DetkitError for weights that do not fit.
    """
    from detkit.model_file import is_model, model_info

    detector = backend(config, class_names)
    known = model_info(weights)["class_names"] if is_model(weights) else None
    detector.load_weights(weights, known)
    return detector


def starting_config(backend: type[Detector], backbone: str | None, weights: str) -> DetectorConfig:
    """Return the config a training starts from: `--backbone`, or what the weights are of.

    Weights of a whole detector bring its config along: their default boxes and preprocessing
    are part of what they have learnt. Without either it is `tiny`, which needs no weights.
    Raises DetkitError when the weights file fits no backbone, UsageError when it contradicts
    `--backbone`.
    """
    from detkit.config import IMAGENET_MEAN, IMAGENET_STD
    from detkit.networks.pretrained import colours, identify

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
    if backbone is None:
        return backend.config_class()
    mean, std = colours(backbone)
    if (mean, std) == (IMAGENET_MEAN, IMAGENET_STD):
        return backend.config_class(backbone=backbone)
    return backend.config_class(backbone=backbone, mean=mean, std=std)


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


def _open_onnx(
    path: Path, settings: Sequence[str] | None, precision: str, threads: int | None
) -> OnnxDetector:
    """Return the detector of an ONNX file; UsageError for what it cannot be asked for."""
    if settings:
        raise UsageError("--set: an ONNX file is as it was exported; give the model itself")
    if precision not in ("auto", "32-true"):
        raise UsageError(
            f"--precision {precision}: an ONNX file is as it was exported; give the model"
        )
    from detkit.inference.onnx import OnnxDetector
    from detkit.inference.onnx_winograd import with_winograd

    return OnnxDetector(path, threads, with_winograd(path))


def _open_foreign(path: Path) -> Detector:
    """Return the detector that another program's weights file is.

    Raises DetkitError when it is none of a backend's.
    """
    from detkit.detectors import backend_names, load_backend
    from detkit.networks.weights import read_state_dict

    state = read_state_dict(path)
    for backend in map(load_backend, backend_names()):
        detector = backend.from_foreign(state, str(path))
        if detector is not None:
            return detector
    raise DetkitError(
        f"{path}: weights of a classifier; train a detector from them: detkit train --weights"
    )
