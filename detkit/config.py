"""Settings: one frozen dataclass for a detector, one for a training schedule.

Every field is made by `setting()` and so carries where its default comes from: a paper's
section, released code, or "ours" and why; and the bounds of what it may be. `--set key=value`
reaches every field of both, and both are written to a run's `config.json` and to the header of
a model file.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import math
import operator
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from detkit.errors import UsageError
from detkit.text import nearest_hint

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
TrainDifficult = Literal["yes", "no", "ignore"]
ProposalScaling = Literal["longer", "width"]
# Pixels of the image that is searched: the least of a region of selective search, since
# Felzenszwalb and Huttenlocher's min_size is k, 50 at its smallest.
SMALLEST_REGION = 50
FINER_PROPOSALS = 1000  # px of the searched image's longer side: four times the default's pixels
FINER_MIN_SIDE = 7.0  # px of the searched image: about that of the smallest region, a square
MOST_TO_WIDTH = 4  # ours: what is scaled to a width is made at most so many times as high
THE_RECIPE = "the backend's recipe_source"  # stands for it: each paper has numbers of its own

BOUNDS: dict[str, Callable[[float, float], bool]] = {
    "at_least": operator.ge,
    "above": operator.gt,
    "at_most": operator.le,
    "below": operator.lt,
}


def setting(
    default: Any,
    source: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> Any:
    """Return a dataclass field with this default, its source, and the bounds of what it may be.

    Bounds hold for the number, or for every number in a tuple; None is within all of them. A
    field that is stated again without any, for another default, keeps its parent's.
    """
    limits = (at_least, above, at_most, below)
    bounds = {name: limit for name, limit in zip(BOUNDS, limits) if limit is not None}
    return dataclasses.field(default=default, metadata={"source": source, "bounds": bounds})


def check_bounds(config: DetectorConfig | Recipe) -> None:
    """Raise UsageError for a field whose value is not within the bounds of its `setting`."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        require_within(config, field.name, value, f"--set {field.name}={value}")


def require_within(config: DetectorConfig | Recipe, name: str, value: Any, given: str) -> None:
    """Raise UsageError, which quotes what was `given`, for a value out of the field's bounds."""
    bounds = _bounds(type(config), name)
    if all(BOUNDS[key](one, bounds[key]) for key in bounds for one in _numbers(value)):
        return
    if bounds.keys() == {"at_least", "at_most"}:
        words = f"lie between {bounds['at_least']:g} and {bounds['at_most']:g}"
    else:
        words = "be " + " and ".join(
            f"{key.replace('_', ' ')} {limit:g}" for key, limit in bounds.items()
        )
    raise UsageError(f"{given}: {'each ' * isinstance(value, tuple)}must {words}")


def _bounds(config_class: type[Any], name: str) -> dict[str, float]:
    """Return a field's bounds; where a class gives no more than another default, its parent's."""
    parents = [vars(parent).get("__dataclass_fields__", {}) for parent in config_class.__mro__]
    stated = (fields[name].metadata.get("bounds", {}) for fields in parents if name in fields)
    return next(filter(None, stated), {})


def _numbers(value: Any) -> Iterator[float]:
    """Yield the numbers of a value, which may be a number, tuples of tuples of them, or None."""
    if isinstance(value, tuple):
        for one in value:
            yield from _numbers(one)
    elif value is not None:
        yield value


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """What all backends have in common; a backend's config adds its paper's numbers."""

    backbone: str = setting("tiny", "ours: trains from nothing on a laptop; see `detkit models`")
    mean: tuple[float, float, float] = setting(
        IMAGENET_MEAN, "torchvision's ImageNet classifiers", at_least=0, at_most=1
    )
    std: tuple[float, float, float] = setting(
        IMAGENET_STD, "torchvision's ImageNet classifiers", above=0
    )
    antialias: bool = setting(True, "ours: shrinking without it loses small objects")
    freeze_norm: Literal["auto", "yes", "no"] = setting(
        "auto", "ours: batch norm is frozen when its weights are pretrained and the batch is small"
    )
    freeze_layers: int | None = setting(
        None,
        "Fast R-CNN sec. 4.5: the first layers are generic. How many blocks, from the image on, "
        "are not trained; none: with pretrained weights those up to stride 4; of Caffe's networks "
        "what the released code fixes in Fast and Faster R-CNN: SSD and R-CNN train them whole, as "
        "YOLOv1 does its paper's two networks",
        at_least=0,
    )
    score_thresh: float = setting(
        0.01, "SSD sec. 3.7; low, because a cut distorts mAP", at_least=0, at_most=1
    )
    nms_thresh: float = setting(0.45, "SSD sec. 3.7", at_least=0, at_most=1)
    nms_method: Literal["greedy", "soft", "soft-linear"] = setting(
        "greedy",
        "all five papers; soft: Bodla et al. 2017, Gaussian, soft-linear: where IoU is above "
        "nms_thresh, which is .3 there",
    )
    nms_sigma: float = setting(0.5, "Bodla et al. 2017: of Gaussian soft-NMS", above=0)
    nms_min_score: float = setting(
        0.001, "Bodla et al. 2017, released code: what soft-NMS lowers below this goes", at_least=0
    )
    clip_before_nms: bool = setting(
        True, "Fast and Faster R-CNN's released code: boxes are cut to the image, then NMS"
    )
    pre_nms_top_k: int = setting(400, "SSD released code: boxes a class that enter NMS", at_least=1)
    max_detections: int = setting(200, "SSD sec. 3.7: boxes an image that are kept", at_least=1)
    tile: int = setting(
        0,
        "ours: side, in the image's own pixels, of the crops that are looked at besides the whole "
        "image; 0: the whole image alone",
        at_least=0,
    )
    tile_overlap: float = setting(
        0.2,
        "SAHI's default: of a tile's side; objects up to this long are whole in some tile",
        at_least=0,
        at_most=0.8,
    )
    tile_visible: float = setting(
        0.7,
        "DOTA's development kit: an object of which a tile shows less is ignored there in training",
        above=0,
        at_most=1,
    )
    tile_empty: float = setting(
        0.25,
        "ours: tiles without an object that are trained on, for each with one: they teach "
        "background alone; without any, what only they show is never learnt to be none",
        at_least=0,
    )

    def validate(self) -> None:
        """Raise UsageError for a value that no detector can work with.

        A backend adds what its fields must be to each other.
        """
        check_bounds(self)


@dataclass(frozen=True, kw_only=True)
class ProposalConfig(DetectorConfig):
    """What the backends that judge given boxes have in common: which boxes they are given."""

    proposals: Literal[ProposalMethod, "file"] = setting(
        "selective-search", "R-CNN sec. 2.1; `file`: of a method of your own, by --proposals FILE"
    )
    max_proposals: int = setting(2000, "R-CNN sec. 2.1: the best so many of an image", at_least=1)
    proposal_side: int = setting(
        500,
        "R-CNN released code: 500 px where it detects; VOC's images, none of which is larger, it "
        "searches as they are; 0: as it is",
        at_least=0,
    )
    proposal_scaling: ProposalScaling = setting(
        "longer",
        "of selective search; ours: a longer side above `proposal_side` is shrunk to it; `width`: "
        "R-CNN's released detection, any image is made so wide",
    )
    proposal_min_side: float = setting(
        12.0,
        "least side of selective search's boxes, px of the searched image; released code: 20, "
        "by which blood platelets, say, are missed",
        at_least=0,
        below=math.inf,
    )
    proposal_seed: int = setting(0, "of selective search's ranking", at_least=0)
    edge_alpha: float = setting(
        0.65, "Edge Boxes sec. 3.4: IoU of neighbouring windows", at_least=0.1, at_most=0.95
    )
    edge_beta: float = setting(
        0.75, "Edge Boxes sec. 4: IoU above which NMS drops", at_least=0.1, at_most=1
    )
    edge_eta: float = setting(
        1.0, "Edge Boxes released code: below 1, beta falls with each box", above=0, at_most=1
    )
    edge_min_score: float = setting(0.01, "Edge Boxes released code", at_least=0, below=math.inf)
    edge_min_area: float = setting(
        400.0,
        "of windows, px of the searched image; Edge Boxes released code: 1000, which hides small "
        "objects",
        at_least=16,
        below=math.inf,
    )
    edge_max_aspect_ratio: float = setting(
        3.0, "Edge Boxes sec. 3.4: of windows", at_least=1, at_most=1000
    )
    positive_thresh: float = setting(
        0.5, "R-CNN, Fast R-CNN sec. 2.3: IoU of at least .5", above=0, at_most=1
    )

    def validate(self) -> None:
        """Raise UsageError for a value out of its bounds, or a width to scale to that is none."""
        super().validate()
        if self.proposal_scaling == "width" and not self.proposal_side:
            raise UsageError("--set proposal_scaling=width: takes a proposal_side above 0")

    def search_scale(self, height: int, width: int) -> float:
        """Return by how much an image of H x W own pixels is scaled to be searched."""
        side = self.proposal_side or max(height, width)
        if self.proposal_scaling == "width" and self.proposals != "edge-boxes":
            return min(side / width, MOST_TO_WIDTH * side / height)
        return min(1.0, side / max(height, width))

    def least_proposal(self, height: int, width: int) -> tuple[float, float, float]:
        """Return the least (width, height, area) that is proposed in an image of H x W own pixels.

        In pixels of the searched image; all 0 for those of a file, of which nothing is known.
        """
        if self.proposals == "edge-boxes":
            return 0.0, 0.0, self.edge_min_area
        if self.proposals == "file":
            return 0.0, 0.0, 0.0
        scale, least = self.search_scale(height, width), self.proposal_min_side
        return min(least, scale * width), min(least, scale * height), SMALLEST_REGION

    def finer_proposals(self) -> list[dict[str, Any]]:
        """Return the settings by which smaller boxes are proposed, the cheapest first."""
        sides: list[dict[str, Any]] = [{}]
        if self.proposals in ("selective-search", "selective-search-quality"):
            lower = (ProposalConfig.proposal_min_side, FINER_MIN_SIDE)
            sides += [{"proposal_min_side": one} for one in lower if one < self.proposal_min_side]
        larger = 0 < self.proposal_side < FINER_PROPOSALS
        scales = [{}, {"proposal_side": FINER_PROPOSALS}] if larger else [{}]
        return [{**scale, **side} for scale in scales for side in sides if scale or side]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train: the optimiser, its schedule and its budget."""

    batch_size: int = setting(32, THE_RECIPE, at_least=1)
    stage_batches: tuple[float, ...] = setting(
        (),
        "shares of `batch_size` in the stages of a training in several, like Faster R-CNN's "
        "alternating one; none: all of it in each",
        above=0,
        at_most=1,
    )
    stage_milestones: tuple[float, ...] = setting(
        (), "the one milestone of each such stage; none: `milestones` in each", above=0, below=1
    )
    accumulate: int = setting(
        1,
        "released code, iter_size: the batch goes through the network in so many parts, one after "
        "the other, for less memory",
        at_least=1,
    )
    max_steps: int = setting(120_000, THE_RECIPE, at_least=1)
    optimizer: Literal["sgd", "adamw"] = setting("sgd", "all five papers")
    lr: float = setting(1e-3, THE_RECIPE, above=0)
    momentum: float = setting(0.9, "all five papers", at_least=0, at_most=1)
    weight_decay: float = setting(5e-4, "all five papers", at_least=0)
    schedule: Literal["steps", "cosine"] = setting("steps", "all five papers")
    milestones: tuple[float, ...] = setting((2 / 3, 5 / 6), THE_RECIPE, above=0, below=1)
    gamma: float | tuple[float, ...] = setting(
        0.1, "all five papers; several: one for each of the milestones", at_least=0
    )
    warmup: float = setting(
        0.0, "share of the budget in which lr rises from `warmup_factor`", at_least=0, at_most=1
    )
    warmup_factor: float = setting(0.1, "YOLOv1 sec. 2.2: 1e-3 to 1e-2", at_least=0, at_most=1)
    backbone_lr_factor: float = setting(
        1.0, "all five papers: one rate for all layers; on a pretrained backbone only", at_least=0
    )
    bias_lr_factor: float = setting(
        1.0, "Fast R-CNN sec. 2.3 and SSD's released code: 2 there; 1 in YOLOv1", at_least=0
    )
    clip_norm: float = setting(0.0, "gradient norm is cut above this; 0: never", at_least=0)
    ema_decay: float = setting(
        0.0, "decay a step of the weights' moving average; 0: none", at_least=0, at_most=1
    )
    train_difficult: TrainDifficult = setting(
        "yes",
        "each backend's released code, see its header: objects marked difficult are learnt, or "
        "not there (background), or ignored (neither); short recipes, ours: ignored, as in scores",
    )
    augmentation: Literal["paper", "light", "none"] = setting("paper", "the backend's own")
    mosaic: float = setting(
        0.0, "share of samples put together from four images", at_least=0, at_most=1
    )
    cache_size: int = setting(
        0,
        "longer side of decoded training images at most this; 0: as large as the network's image "
        "and the augmentation's zoom need, never less",
        at_least=0,
    )

    def batch_in(self, stage: int) -> int:
        """Return the images a step in stage `stage`, counted from 0: at least one."""
        share = self.stage_batches[stage] if stage < len(self.stage_batches) else 1.0
        return max(1, round(self.batch_size * share))

    def milestones_in(self, stage: int) -> tuple[float, ...]:
        """Return the shares of stage `stage`, counted from 0, at which its rate falls."""
        return self.stage_milestones[stage : stage + 1] or self.milestones

    def validate(self) -> None:
        """Raise UsageError for a value that no training can work with."""
        check_bounds(self)
        if any(one >= other for one, other in zip(self.milestones, self.milestones[1:])):
            given = ",".join(f"{one:g}" for one in self.milestones)
            raise UsageError(f"--set milestones={given}: must rise")
        if isinstance(self.gamma, tuple) and len(self.gamma) != len(self.milestones):
            given = ",".join(f"{one:g}" for one in self.gamma)
            raise UsageError(
                f"--set gamma={given}: expected one number, or {len(self.milestones)}, one for "
                "each of the milestones"
            )


@dataclass(frozen=True, kw_only=True)
class PaperRun:
    """What a row of a paper's table was trained with, and `--recipe` brings along."""

    data: Literal["voc07", "voc0712", "coco"]  # trainval of the years; COCO's train
    backbone: str
    weights: str = "imagenet"
    weights_by_name: bool = True  # else `weights` says in words which file is wanted
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # the detector's
    recipe: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # other than `recipe`
    source: str


# Ours: minutes on a laptop; of the backends' own each says what differs.
SHORT_RECIPE = Recipe(
    batch_size=8,
    max_steps=3000,
    optimizer="adamw",
    lr=1e-3,
    weight_decay=1e-2,
    schedule="cosine",
    warmup=0.03,
    clip_norm=10.0,
    ema_decay=0.998,
    backbone_lr_factor=0.3,
    train_difficult="ignore",
    augmentation="light",
)


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
    detector: DetectorConfig, recipe: Recipe, settings: Mapping[str, Any]
) -> tuple[DetectorConfig, Recipe]:
    """Return both configs with the `settings` of `--set` put in, as each field's type.

    A text is parsed, any other value taken as it is. Raises UsageError for an unknown key (naming
    the nearest one) or a value of a wrong type.
    """
    detector_types = typing.get_type_hints(type(detector))
    recipe_types = typing.get_type_hints(type(recipe))
    detector_values: dict[str, Any] = {}
    recipe_values: dict[str, Any] = {}
    for key, value in settings.items():
        if key in detector_types:
            detector_values[key] = _parse_setting(key, value, detector_types[key])
        elif key in recipe_types:
            recipe_values[key] = _parse_setting(key, value, recipe_types[key])
        else:
            known = [*detector_types, *recipe_types]
            hint = nearest_hint(key, known, "`detkit models` lists the keys")
            raise UsageError(f"--set {key}={value}: no such setting; {hint}")
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


def _parse_setting(key: str, value: Any, kind: Any) -> Any:
    """Return what a value of `--set`, or the text of one, is in a field of type `kind`."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError, SyntaxError):
            value = ast.literal_eval(value)
    if isinstance(value, str) and "," in value and typing.get_origin(kind) is tuple:
        value = tuple(part.strip() for part in value.split(","))
    if isinstance(value, str) and value.lower() in {"true", "false"}:
        value = value.lower() == "true"
    try:
        return _coerce(key, value, kind)
    except UsageError as error:
        raise UsageError(f"--set {error}") from error


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
