"""Settings: one frozen dataclass for a detector, one for a training schedule.

Every field is made by `setting()` and so carries where its default comes from: a paper's
section, released code, or "ours" and why. `--set key=value` reaches every field of both,
and both are written to a run's `config.json` and to the header of a model file.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from detkit.errors import UsageError

Config = TypeVar("Config")
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
KINDS = {
    "float": "a finite number",
    "int": "a whole number",
    "bool": "true or false",
    "NoneType": "none",
}
ProposalMethod = Literal["selective-search", "selective-search-quality", "edge-boxes"]
THE_RECIPE = "the backend's recipe_source"  # stands for it: each paper has numbers of its own


def setting(default: Any, source: str) -> Any:
    """Return a dataclass field with this default and the source the default is from."""
    return dataclasses.field(default=default, metadata={"source": source})


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """What all backends have in common; a backend's config adds its paper's numbers."""

    backbone: str = setting("tiny", "ours: trains from nothing on a laptop; see `detkit models`")
    mean: tuple[float, float, float] = setting(IMAGENET_MEAN, "torchvision's ImageNet classifiers")
    std: tuple[float, float, float] = setting(IMAGENET_STD, "torchvision's ImageNet classifiers")
    antialias: bool = setting(True, "ours: shrinking without it loses small objects")
    freeze_norm: Literal["auto", "yes", "no"] = setting(
        "auto", "ours: batch norm is frozen when its weights are pretrained and the batch is small"
    )
    freeze_layers: int | None = setting(
        None,
        "Fast R-CNN sec. 4.5: the first layers are generic. How many blocks, from the image on, "
        "are not trained; none: with pretrained weights those up to stride 4, of VGG16 in Fast "
        "and Faster R-CNN alone: SSD and R-CNN train it whole",
    )
    score_thresh: float = setting(0.01, "SSD sec. 3.7; low, because a cut distorts mAP")
    nms_thresh: float = setting(0.45, "SSD sec. 3.7")
    nms_method: Literal["greedy", "soft"] = setting("greedy", "all five papers")
    pre_nms_top_k: int = setting(400, "SSD released code: boxes a class that enter NMS")
    max_detections: int = setting(200, "SSD sec. 3.7: boxes an image that are kept")

    def score_range(self) -> tuple[float, float]:
        """Return the least and the greatest `score_thresh`: scores are probabilities."""
        return 0.0, 1.0

    def validate(self) -> None:
        """Raise UsageError for a value that no detector can work with."""
        for name, (low, high) in (
            ("score_thresh", self.score_range()),
            ("nms_thresh", (0.0, 1.0)),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise UsageError(f"--set {name}={value}: must lie between {low:g} and {high:g}")
        for name in ("pre_nms_top_k", "max_detections"):
            if getattr(self, name) < 1:
                raise UsageError(f"--set {name}={getattr(self, name)}: must be at least 1")
        if not all(0 <= value <= 1 for value in self.mean):
            raise UsageError(f"--set mean={self.mean}: each must lie between 0 and 1")
        if not min(self.std) > 0:
            raise UsageError(f"--set std={self.std}: each must be above 0")
        if self.freeze_layers is not None and self.freeze_layers < 0:
            raise UsageError(f"--set freeze_layers={self.freeze_layers}: must be at least 0")


@dataclass(frozen=True, kw_only=True)
class ProposalConfig(DetectorConfig):
    """What the backends that judge given boxes have in common: which boxes they are given."""

    proposals: Literal[ProposalMethod, "file"] = setting(
        "selective-search", "R-CNN sec. 2.1; `file`: of a method of your own, by --proposals FILE"
    )
    max_proposals: int = setting(2000, "R-CNN sec. 2.1: the best so many of an image")
    proposal_side: int = setting(
        500, "R-CNN released code: proposed on images 500 px wide; ours: longer side; 0: as it is"
    )
    proposal_seed: int = setting(0, "of selective search's ranking")
    positive_thresh: float = setting(0.5, "R-CNN, Fast R-CNN sec. 2.3: IoU of at least .5")

    def validate(self) -> None:
        """Raise UsageError for a value that no detector can work with."""
        super().validate()
        if self.max_proposals < 1:
            raise UsageError(f"--set max_proposals={self.max_proposals}: must be at least 1")
        for name in ("proposal_side", "proposal_seed"):
            if getattr(self, name) < 0:
                raise UsageError(f"--set {name}={getattr(self, name)}: must not be below 0")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train: the optimiser, its schedule and its budget."""

    batch_size: int = setting(32, THE_RECIPE)
    max_steps: int = setting(120_000, THE_RECIPE)
    optimizer: Literal["sgd", "adamw"] = setting("sgd", "all five papers")
    lr: float = setting(1e-3, THE_RECIPE)
    momentum: float = setting(0.9, "all five papers")
    weight_decay: float = setting(5e-4, "all five papers")
    schedule: Literal["steps", "cosine"] = setting("steps", "all five papers")
    milestones: tuple[float, ...] = setting((2 / 3, 5 / 6), THE_RECIPE)
    gamma: float = setting(0.1, "all five papers")
    warmup: float = setting(0.0, "share of the budget in which lr rises from `warmup_factor`")
    warmup_factor: float = setting(0.1, "YOLOv1 sec. 2.2: 1e-3 to 1e-2")
    backbone_lr_factor: float = setting(
        1.0, "all five papers: one rate for all layers; on a pretrained backbone only"
    )
    bias_lr_factor: float = setting(1.0, "Fast R-CNN sec. 2.3: 2 there; 1 in SSD and YOLOv1")
    clip_norm: float = setting(0.0, "gradient norm is cut above this; 0: never")
    ema_decay: float = setting(0.0, "decay a step of the weights' moving average; 0: none")
    augmentation: Literal["paper", "light", "none"] = setting("paper", "the backend's own")
    mosaic: float = setting(0.0, "share of samples put together from four images")
    cache_size: int = setting(
        0, "keep decoded training images in memory, longer side at most this; 0: decode each time"
    )

    def validate(self) -> None:
        """Raise UsageError for a value that no training can work with."""
        for name in ("batch_size", "max_steps"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not self.lr > 0:
            raise UsageError(f"lr must be above 0, not {self.lr}")
        for name in ("warmup", "warmup_factor", "mosaic", "ema_decay", "momentum"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise UsageError(f"{name} must lie between 0 and 1, not {getattr(self, name)}")
        if not all(0.0 < milestone < 1.0 for milestone in self.milestones):
            raise UsageError(
                f"milestones={self.milestones}: each is a share of the budget, between 0 and 1"
            )
        for name in (
            "weight_decay",
            "clip_norm",
            "gamma",
            "backbone_lr_factor",
            "bias_lr_factor",
            "cache_size",
        ):
            if not getattr(self, name) >= 0:
                raise UsageError(f"{name} must not be below 0, not {getattr(self, name)}")


def describe(config: type[DetectorConfig] | type[Recipe]) -> list[tuple[str, Any, str]]:
    """Return (name, default, source) of every field, in order, for `detkit models`."""
    return [
        (field.name, field.default, str(field.metadata.get("source", "")))
        for field in dataclasses.fields(config)
    ]


def parse_settings(pairs: Iterable[str]) -> dict[str, str]:
    """Return {key: text} of `key=value` words.

    Raises UsageError for a word without `=` or a key given twice.
    """
    settings: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key:
            raise UsageError(f"--set {pair}: expected key=value, like --set nms_thresh=0.5")
        if key in settings:
            raise UsageError(f"--set {key}: given twice")
        settings[key] = value.strip()
    return settings


def override(
    detector: DetectorConfig, recipe: Recipe, settings: Mapping[str, str]
) -> tuple[DetectorConfig, Recipe]:
    """Return both configs with the `settings` of `--set` put in, parsed by each field's type.

    Raises UsageError for an unknown key (naming the nearest one) or a value of a wrong type.
    """
    detector_types = typing.get_type_hints(type(detector))
    recipe_types = typing.get_type_hints(type(recipe))
    detector_values: dict[str, Any] = {}
    recipe_values: dict[str, Any] = {}
    for key, text in settings.items():
        if key in detector_types:
            detector_values[key] = _parse(key, text, detector_types[key])
        elif key in recipe_types:
            recipe_values[key] = _parse(key, text, recipe_types[key])
        else:
            known = [*detector_types, *recipe_types]
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else "`detkit models` lists the keys"
            raise UsageError(f"--set {key}={text}: no such setting; {hint}")
    new_detector = dataclasses.replace(detector, **detector_values)
    new_recipe = dataclasses.replace(recipe, **recipe_values)
    new_detector.validate()
    new_recipe.validate()
    return new_detector, new_recipe


def to_json(config: DetectorConfig | Recipe) -> dict[str, Any]:
    """Return the config as a dict of JSON values."""
    return dataclasses.asdict(config)


def from_json(config_class: type[Config], values: Mapping[str, Any]) -> Config:
    """Return a frozen dataclass from the dict of its values; missing fields keep their default.

    Raises UsageError for a field the class does not have or a value of a wrong type.
    """
    hints = typing.get_type_hints(config_class)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise UsageError(f"config: unknown field {', '.join(unknown)} for {config_class.__name__}")
    return config_class(**{key: _coerce(key, value, hints[key]) for key, value in values.items()})


def _parse(key: str, text: str, kind: Any) -> Any:
    """Return the value that `text` stands for in a field of type `kind`."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if isinstance(value, str) and "," in value and typing.get_origin(kind) is tuple:
        value = tuple(part.strip() for part in value.split(","))
    if isinstance(value, str) and value.lower() in {"true", "false"}:
        value = value.lower() == "true"
    return _coerce(key, value, kind)


def _coerce(key: str, value: Any, kind: Any) -> Any:
    """Return `value` as type `kind`; raise UsageError where that loses something."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None  # before a str or a tuple takes it in
        for option in arguments:
            try:
                return _coerce(key, value, option)
            except UsageError:
                continue
    elif origin is Literal:
        if value in arguments:
            return value
        raise UsageError(f"{key}={value}: choose from {', '.join(map(str, arguments))}")
    elif origin is tuple:
        values = tuple(value) if isinstance(value, list | tuple) else (value,)
        if arguments and arguments[-1] is not Ellipsis and len(values) != len(arguments):
            raise UsageError(f"{key}={value}: expected {len(arguments)} values")
        element = [arguments[0]] * len(values) if Ellipsis in arguments else list(arguments)
        return tuple(_coerce(key, one, one_kind) for one, one_kind in zip(values, element))
    elif origin is Mapping:
        if isinstance(value, Mapping):
            return dict(value)
    elif kind is type(None):
        if value is None or value == "none":
            return None
    elif kind is bool:
        if isinstance(value, bool):
            return value
        if value in (0, 1, "yes", "no"):
            return value in (1, "yes")
    elif kind is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, float) and value.is_integer():
            return int(value)
    elif kind is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    elif kind is str:
        return str(value)
    raise UsageError(f"{key}={value}: expected {_in_words(kind)}")


def _in_words(kind: Any) -> str:
    """Return what a field of type `kind` takes, as people say it."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return " or ".join(map(_in_words, typing.get_args(kind)))
    name = getattr(kind, "__name__", str(kind))
    return KINDS.get(name, name)
