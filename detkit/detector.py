"""The interface of a detector: what train, detect, eval and export ask of every backend.

Shape shorthand: B images a batch, H x W network pixels, K candidate boxes, C classes,
N detections.

A backend is one file in `detkit/detectors/` (or a module named with `--plugin`) with one
subclass of `Detector`. It says how large the network's image is (`network_size`), what
training costs (`losses`) and what it sees (`candidates`); the rest follows.
"""

from __future__ import annotations

import itertools
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from detkit.config import DetectorConfig, PaperRun, ProposalConfig, Recipe
from detkit.errors import DetkitError, UsageError
from detkit.geometry import nms
from detkit.geometry.boxes import area, clip
from detkit.geometry.matching import best_overlaps_above
from detkit.networks import caffe_weights, torchvision_detectors
from detkit.networks.backbones import Backbone
from detkit.networks.pretrained import load_weights
from detkit.networks.torchvision_detectors import Published
from detkit.networks.weights import download, read_state_dict, trained_with
from detkit.stopwatch import Stopwatch
from detkit.structures import Batch, Candidates, Detections, FloatArray, Sample, Truth
from detkit.text import agreed, counted
from detkit.trace import TraceStage, box_stage, no_stages, selection_stages
from detkit.transforms.augmentation import Compose
from detkit.transforms.geometric import RandomHorizontalFlip, Transform
from detkit.transforms.preparation import Preparation, scale_between
from detkit.transforms.transfer import arrived, copy_stream, copying

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger(__name__)

# Network pixels, the root of the area: "very tiny" are 2 to 8 px in AI-TOD (Xu et al. 2022,
# arXiv:2206.13996), of which Faster R-CNN with a pyramid finds none: an AP of .0.
SMALLEST_OBJECT = 8.0
USUAL_SIZES = (320, 416, 512, 640, 768, 1024)  # of a network's image; beyond, a step takes minutes
SMALLEST_SIDE = 0.01  # network pixels; torchvision: what is left of a box that lies outside


T = TypeVar("T")
Pace = Callable[[], float]  # which share of an image's regions there is time for, in (0, 1]
Look = Callable[[Batch, Pace], tuple[Tensor, T]]


class Passes(Protocol):
    """The training images for a stage that learns without gradients.

    Of several processes each looks at its share of the batches, and is told what the others saw.
    """

    def seen(self, look: Look[T]) -> Iterator[tuple[Tensor, T]]:
        """Yield, batch by batch, what `look` returns of each: a pass over all images.

        That is a tensor of floats, on the CPU, and beside it what is small and can be pickled. All
        processes get the same in the same order, to the bit what one process alone would get:
        what `look` draws by chance, from torch's generator, depends on the seed and the batch.
        """

    def own(self, number: int) -> range:
        """Return which of so many things, classes for one, are this process's to learn."""

    def of_all(self, value: T) -> list[T]:
        """Return what each process gives here, in the order of the processes.

        Those of `own` together, a process after the other, are all.
        """


Fit = Callable[[Passes], Iterator[Mapping[str, float]]]


@dataclass(frozen=True)
class Stage:
    """A part of training with a schedule of its own; most backends have one."""

    name: str
    recipe: Recipe
    begin: Callable[[], None] | None = None  # freeze or copy something before the first step
    # Instead of steps: learns without gradients from passes over the images, and yields figures
    # after each batch of the last; what it has fitted is in the detector when it ends.
    fit: Fit | None = None
    fit_cost: float = 0.0  # of an image in that pass, in optimiser steps of the other stages


class Detector(nn.Module, ABC):
    """A network that learns from `Batch`es and turns them into `Detections`."""

    name: ClassVar[str]
    paper: ClassVar[str]  # citation, for `detkit models`
    recipe: ClassVar[Recipe]  # the paper's schedule
    recipe_source: ClassVar[str] = "the paper"  # where in it, or in the released code
    paper_runs: ClassVar[Mapping[str, PaperRun]] = {}  # what `--recipe NAME` brings along
    short_recipe: ClassVar[Recipe]  # ours: minutes on a laptop, the command line's default
    config_class: ClassVar[type[DetectorConfig]]
    proposal_method: ClassVar[str | None] = None  # the default one; None: wants no proposals
    published: ClassVar[Mapping[str, Published]] = {}
    backbone: Backbone

    def __init__(self, config: DetectorConfig, class_names: Sequence[str]) -> None:
        """Build the network with random weights for these classes."""
        super().__init__()
        self.config = config
        self.class_names = tuple(class_names)
        self.stopwatch = Stopwatch()  # a backend may have finer stages than ours
        # Of a step's images that `losses` is given: below 1 with several devices, or `accumulate`.
        self.batch_share = 1.0
        self._detecting = 0  # blocks of `detecting` that are open
        self._dtype = torch.float32  # of convolutions and products in `detect`

    def load_weights(self, weights: str, class_names: Sequence[str] | None = None) -> None:
        """Start from other weights than random ones.

        `weights` is `none`, `imagenet` (torchvision's classifier), the name of published
        detection weights (`published`), or a file: a torchvision classifier's state dict, a
        torchvision detector's, or a detkit model. Of detection weights the parts that depend
        on the classes stay random, unless `class_names`, those of the weights, are ours.
        Raises DetkitError when they cannot be had or do not fit.
        """
        self._load_weights(weights, class_names)
        self.freeze_generic()

    def freeze_generic(self) -> None:
        """Fix the first layers of a pretrained backbone, as `freeze_layers` has it."""
        wished = self.config.freeze_layers
        generic = self.backbone.generic_blocks if self.backbone.pretrained else 0
        self.backbone.freeze_blocks(generic if wished is None else wished)

    def _load_weights(self, weights: str, class_names: Sequence[str] | None) -> None:
        if weights in ("none", "imagenet"):
            load_weights(self.backbone, weights)
            return
        if weights in self.published:
            state = self.published_state(weights)
        else:
            state = read_state_dict(Path(weights))
        is_ours = any(key.startswith("backbone.blocks.") for key in state)
        own = state if is_ours else self.convert_foreign(state)
        if own is None:
            self.backbone.load_classifier(state, weights)
            return
        if class_names is None or tuple(class_names) != self.class_names:
            foreign = self.class_tensors()
            own = {key: value for key, value in own.items() if key not in foreign}
        self.load_matching(own, weights)

    def class_tensors(self) -> set[str]:
        """Return the names of the tensors whose shape depends on the number of classes."""
        with torch.device("meta"):
            other = type(self)(self.config, (*self.class_names, "one more")).state_dict()
        return {key for key, value in self.state_dict().items() if other[key].shape != value.shape}

    def load_matching(self, state: Mapping[str, Tensor], source: str) -> None:
        """Copy the tensors of `state` that have the shape of ours; the rest stays as it is.

        Raises DetkitError when the backbone's do not fit.
        """
        mine = self.state_dict()
        fits = {k: v.float() for k, v in state.items() if k in mine and mine[k].shape == v.shape}
        missing = [k for k in mine if k.startswith("backbone.") and k not in fits]
        if missing:
            raise DetkitError(
                f"{source}: not weights of {self.name} on {self.config.backbone}: "
                f"{counted(len(missing), 'tensor')} of the backbone "
                f"{agreed(len(missing), 'is', 'are')} missing, first {missing[0]}"
            )
        self.load_state_dict(fits, strict=False)
        self.backbone.pretrained = True
        fresh = sorted({key.split(".")[0] for key in mine if key not in fits})
        rest = f"; new from chance: {', '.join(fresh)}" if fresh else ""
        logger.info("%s: %d of %d tensors taken%s", source, len(fits), len(mine), rest)

    @classmethod
    def convert_foreign(
        cls, state: Mapping[str, Tensor], keep: Sequence[int] | None = None
    ) -> dict[str, Tensor] | None:
        """Return another program's state dict of this detector under our names; None for others.

        Torchvision's, or darknet's and Caffe's as `networks` reads them. `keep` are the
        classes, background included, whose outputs stay; None keeps all.
        """
        return None

    @classmethod
    def config_of(cls, state: Mapping[str, Tensor]) -> DetectorConfig | None:
        """Return the config that another program's weights were trained with; None if unknown."""
        whole, trained = cls.convert_foreign(state) is not None, trained_with(state)
        if trained is not None:
            backbone, mean, std = trained
            more = caffe_weights.settings(state) if whole else {}
            return cls.config_class(backbone=backbone, mean=mean, std=std, **more)
        name = torchvision_detectors.name_of(state) or ""
        return cls.published[name].config if whole and name in cls.published else None

    @classmethod
    def from_foreign(cls, state: Mapping[str, Tensor], source: str) -> Detector | None:
        """Return the detector that another program's weights file is; None if not of this backend.

        `source` names the file in errors.
        """
        return None

    @classmethod
    def published_state(cls, name: str) -> dict[str, Tensor]:
        """Return the state dict that torchvision publishes under our `name`, downloaded.

        Raises DetkitError when it cannot be, naming the file to fetch by hand.
        """
        return download(cls.published[name].url)

    @classmethod
    def from_published(cls, name: str) -> Detector:
        """Return a detector with the weights that torchvision publishes under our `name`.

        Raises DetkitError when they cannot be downloaded, naming the file to fetch by hand.
        """
        published = cls.published[name]
        categories = published.categories
        keep = [i for i, category in enumerate(categories) if i == 0 or category != "N/A"]
        detector = cls(published.config, [categories[i] for i in keep[1:]])
        state = cls.convert_foreign(cls.published_state(name), keep)
        if state is None:
            raise DetkitError(f"{published.url}: not the weights of {published.builder}")
        detector.load_state_dict(state)
        detector.backbone.pretrained = True
        return detector.eval()

    @classmethod
    def paper_recipe(cls, config: DetectorConfig, name: str = "paper") -> Recipe:
        """Return the schedule of the `name`d recipe for a detector of this config."""
        run = cls.paper_runs.get(name)
        return cls.recipe if run is None else replace(cls.recipe, **run.recipe)

    @property
    def pretrained(self) -> bool:
        """Whether the backbone holds weights of another training."""
        return self.backbone.pretrained

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        tensor = next(itertools.chain(self.parameters(), self.buffers()), None)
        return torch.device("cpu") if tensor is None else tensor.device

    @abstractmethod
    def network_size(self) -> Callable[[int, int], tuple[int, int]]:
        """Return the picklable rule from an image's own (height, width) to the network's."""

    @abstractmethod
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss parts by role, scalars already weighted, whose sum is trained on.

        What lies in the batch's `ignored_boxes` is neither an object nor background.
        """

    def loss_sizes(self, batch: Batch) -> dict[str, float]:
        """Return over how many things those losses are a mean that are none over images, by name.

        By these `--set accumulate=` makes the whole batch's losses of its parts'.
        """
        return {}

    @abstractmethod
    def candidates(self, batch: Batch) -> list[Candidates]:
        """Return each image's scored boxes before NMS, in network pixels."""

    def dense_candidates(self, images: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return boxes (B, K, 4) and scores (B, K, C) of (B, 3, H, W) images, all at once.

        `candidates`, of a network that has the same K of every image: its ONNX file takes any
        number of images a run. None: of another.
        """
        return None

    @property
    def free_sides(self) -> tuple[int, int] | None:
        """The `side` and `longest` of `shorter_side`, if that is the rule of `network_size`.

        And if `dense_candidates` takes images of any size, not padded: so does then the ONNX file.
        None: it takes one size.
        """
        return None

    def given_proposals(self, batch: Batch) -> list[Tensor]:
        """Return the images' proposals, (P, 4) each, network pixels; DetkitError without any."""
        if batch.proposals is None:
            raise DetkitError(f"{self.name}: the images have no proposals beside them")
        return batch.proposals

    @property
    def heads(self) -> tuple[str, ...]:
        """The names of the heads that judge the same features, the config's first; mostly one."""
        return ("",)

    def candidates_by_head(self, batch: Batch) -> dict[str, list[Candidates]]:
        """Return `candidates` of each of `heads`, from one pass of the network."""
        return {"": self.candidates(batch)}

    @property
    def preparation(self) -> Preparation:
        """What turns samples into a batch; the data workers hold only this, not the network."""
        config = self.config
        return Preparation(self.network_size(), config.mean, config.std, config.antialias)

    def prepare(self, samples: Sequence[Sample]) -> Batch:
        """Return the batch of the samples: resized, normalised, padded."""
        return self.preparation(samples)

    def prepare_image(
        self, pixels: NDArray[np.uint8], image_id: str = "", proposals: FloatArray | None = None
    ) -> Batch:
        """Return an (H, W, 3) uint8 RGB image without known objects as a batch of one.

        `proposals` are (P, 4) in its own pixels.
        """
        sample = Sample(
            image=torch.from_numpy(pixels).permute(2, 0, 1),
            boxes=torch.zeros(0, 4),
            labels=torch.zeros(0, dtype=torch.int64),
            difficult=torch.zeros(0, dtype=torch.bool),
            proposals=None if proposals is None else torch.from_numpy(proposals),
            image_id=image_id,
        )
        device = self.device
        if not self._detecting or copy_stream(device) is None:
            return self.prepare([sample])
        with copying(device):  # in a quarter of the bytes, and beside what is detected meanwhile
            levels = self.preparation.resize([sample]).pin_memory().to(device)
            return self.preparation.normalise(levels)

    def joined(self, batches: Sequence[Batch]) -> Batch:
        """Return one batch, where the weights are, of batches whose images are of one size."""
        device = self.device
        if copy_stream(device) is not None:
            arrived(batches, device)
            batches = [one.to(device) for one in batches]
        proposals = [one.proposals for one in batches if one.proposals is not None]
        batch = Batch(
            images=torch.cat([one.images for one in batches]),
            sizes=[size for one in batches for size in one.sizes],
            original_sizes=[size for one in batches for size in one.original_sizes],
            boxes=[boxes for one in batches for boxes in one.boxes],
            labels=[labels for one in batches for labels in one.labels],
            difficult=[difficult for one in batches for difficult in one.difficult],
            proposals=list(itertools.chain(*proposals)) if proposals else None,
            image_ids=[name for one in batches for name in one.image_ids],
        )
        return batch.to(device)

    @contextmanager
    def detecting(self, timing: dict[str, float] | None = None) -> Iterator[None]:
        """Return a block in which the detector is in eval mode and its stages are timed."""
        was_training, own_watch = self.training, self.stopwatch
        device = self.device
        wait = partial(torch.cuda.synchronize, device) if device.type == "cuda" else None
        self.eval()
        self.stopwatch = Stopwatch(timing, wait)
        self._detecting += 1
        try:
            yield
        finally:
            self._detecting -= 1
            self.stopwatch = own_watch
            self.train(was_training)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return `losses`, in train and eval mode alike; it is what DDP wraps."""
        return self.losses(batch)

    def detect_in(self, dtype: torch.dtype) -> None:
        """Let `detect` convolve and multiply in `dtype` from now on; boxes and scores are float32.

        In a dtype of 16 bits the weights become such, too: the network no longer learns.
        """
        self._dtype = dtype
        for module in self.modules():
            if dtype != torch.float32 and isinstance(module, (nn.Conv2d, nn.Linear)):
                module.to(dtype)  # else autocast does so for each batch anew

    def _in_dtype(self, batch: Batch) -> torch.autocast:
        """Return the block in which the network computes in the dtype of `detect_in`."""
        reduced = self._dtype != torch.float32
        return torch.autocast(batch.images.device.type, self._dtype, enabled=reduced)

    @torch.inference_mode()
    def detect(self, batch: Batch) -> list[Detections]:
        """Return each image's detections, best first, in its own pixels.

        The caller puts the module into eval mode. An image beside larger ones in its batch is not
        seen as it is alone: convolutions, whose own padding is zero at each layer, meet at its
        borders what the layers before made of the batch's zeros. `predict` joins images of one
        size only.
        """
        with self._in_dtype(batch):
            candidates = self.candidates(batch)
        return self._all_selected(batch, candidates)

    @torch.inference_mode()
    def detect_by_head(self, batch: Batch) -> dict[str, list[Detections]]:
        """Return what `detect` would by each head of `candidates_by_head`, from one pass."""
        with self._in_dtype(batch):
            by_head = self.candidates_by_head(batch)
        return {name: self._all_selected(batch, found) for name, found in by_head.items()}

    def _inside(self, found: Candidates, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return the boxes as NMS compares them, and the scores.

        Those without area inside an image of `size` score too low to pass.
        """
        whole = found.boxes.float()
        boxes = clip(whole, size)
        flat = (boxes[..., 2:] - boxes[..., :2]).amin(dim=-1) < SMALLEST_SIDE
        none = flat if flat.ndim == 2 else flat[:, None]
        scores = found.scores.float().masked_fill(none, -math.inf)
        return boxes if self.config.clip_before_nms else whole, scores

    def _all_selected(self, batch: Batch, candidates: Sequence[Candidates]) -> list[Detections]:
        """Return what is left of each image's candidates after NMS, in its own pixels."""
        with self.stopwatch.stage("selection"):
            return [self._selected(batch, index, found) for index, found in enumerate(candidates)]

    def _selected(self, batch: Batch, index: int, found: Candidates) -> Detections:
        """Return what is left of image `index`'s candidates after NMS, in its own pixels."""
        config = self.config
        size, original = batch.sizes[index], batch.original_sizes[index]
        boxes, scores, labels = nms.select(
            *self._inside(found, size),
            score_thresh=config.score_thresh,
            nms_thresh=config.nms_thresh,
            top_k=config.pre_nms_top_k,
            max_detections=config.max_detections,
            method=config.nms_method,
            sigma=config.nms_sigma,
            min_score=config.nms_min_score,
        )
        # On the CPU, where what is left goes anyway: a GPU would be waited for once more.
        boxes = clip(boxes.cpu() / scale_between(original, size), original)
        return Detections(
            boxes=boxes.numpy(),
            scores=scores.cpu().numpy(),
            labels=labels.cpu().numpy(),
            image_id=batch.image_ids[index] if batch.image_ids else "",
        )

    def compressed(self, ranks: tuple[int, int]) -> Detector:
        """Return a copy with shorter fully connected layers; see `detkit compress`.

        Raises UsageError when the backend has none, or none of these ranks.
        """
        raise UsageError(f"{self.name} has no fully connected layers to shorten")

    def origins(self, batch: Batch, iou_thresh: float) -> list[list[TraceStage]]:
        """Return each image's stages before its candidates: what boxes those were made of.

        By default the proposals it was given. They tell which of the batch's objects had one.
        """
        if batch.proposals is None:
            return no_stages(len(batch))
        return [
            [box_stage("proposals", "no proposal reaches it", gt_boxes, boxes, iou_thresh)]
            for gt_boxes, boxes in zip(batch.boxes, batch.proposals)
        ]

    @torch.inference_mode()
    def trace(self, batch: Batch, iou_thresh: float = 0.5) -> list[list[TraceStage]]:
        """Return each image's stages, in order: for which of the batch's objects a box was left.

        The last stage is `detect`'s result. The caller puts the module into eval mode.
        """
        with self._in_dtype(batch):
            traces = self.origins(batch, iou_thresh)
            candidates = self.candidates(batch)
        for index, found in enumerate(candidates):
            size = batch.sizes[index]
            traces[index] += selection_stages(
                *self._inside(found, size),
                batch.boxes[index],
                batch.labels[index],
                self.config,
                iou_thresh=iou_thresh,
                scale=scale_between(batch.original_sizes[index], size).to(found.boxes),
            )
        return traces

    def augmentation(self) -> Transform:
        """Return the paper's training augmentation: a mirror image, unless a backend says more."""
        return Compose([RandomHorizontalFlip()])

    @classmethod
    def suited_config(
        cls, config: DetectorConfig, labelled: Iterable[tuple[Truth, tuple[int, int]]]
    ) -> DetectorConfig:
        """Return the config with what it leaves to the training images put in.

        `labelled` are the objects and the (height, width), own pixels, of each image.
        """
        return config

    def weightless(self, config: DetectorConfig | None = None) -> Self:
        """Return this detector, with another config if one is given, without any weights.

        On torch's `meta` device it costs nothing and knows the shapes of its maps.
        """
        with torch.device("meta"):
            return type(self)(config or self.config, self.class_names).eval()

    @property
    def smallest_object(self) -> float:
        """The side, network pixels, below which an object shows too little to be found."""
        return SMALLEST_OBJECT

    @property
    def reach_rule(self) -> str:
        """What an object out of reach is, in words: the rule of `reachable`."""
        rule = f"below {self.smallest_object:g} px there"
        if isinstance(self.config, ProposalConfig):
            thresh = self.config.positive_thresh
            rule += f", or too small to be overlapped by {thresh:g} by a proposed box"
        return rule

    def reachable(
        self, boxes: Tensor, size: tuple[int, int], original_size: tuple[int, int]
    ) -> Tensor:
        """Return, (R,) bool, which objects are large enough to be learnt and found.

        `boxes` (R, 4) are network pixels of an image of `size`, whose own is `original_size`, both
        (height, width). No network runs, so it is what could be found, not what is. By default the
        root of the area counts, and where boxes are proposed, the smallest of those.
        """
        reached = area(boxes).sqrt() >= self.smallest_object
        if isinstance(self.config, ProposalConfig):
            own = boxes / scale_between(original_size, size).to(boxes)
            sides = self.config.search_scale(*original_size) * (own[:, 2:] - own[:, :2])
            overlaps = best_overlaps_above(sides, *self.config.least_proposal(*original_size))
            reached &= overlaps >= self.config.positive_thresh
        return reached

    def finer_sizes(self) -> list[int]:
        """Return the side of the network's image, and the usual larger ones, the smallest first."""
        largest = USUAL_SIZES[-1]
        side = min(self.network_size()(largest, largest))
        return [side, *(size for size in USUAL_SIZES if size > side)]

    def finer_settings(self) -> Iterator[dict[str, Any]]:
        """Yield the settings that bring smaller objects within reach, the cheapest first."""
        side, *larger = self.finer_sizes()
        sizes = [{}, *({"size": size} for size in larger)] if hasattr(self.config, "size") else [{}]
        finer: list[dict[str, Any]] = [{}]
        if isinstance(self.config, ProposalConfig):
            finer += self.config.finer_proposals()
        yield from ({**one, **more} for one in sizes for more in finer if one or more)

    def parameter_groups(self, recipe: Recipe) -> list[dict[str, Any]]:
        """Return the optimiser's groups over all trainable parameters.

        Norm layers and biases are not decayed; a pretrained backbone has its own factor on lr.
        """
        backbone_factor = recipe.backbone_lr_factor if self.pretrained else 1.0
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                factor = backbone_factor if name.startswith("backbone.") else 1.0
                factor *= recipe.bias_lr_factor if name.endswith(".bias") else 1.0
                groups.setdefault((factor, parameter.ndim > 1), []).append(parameter)
        return [
            {
                "params": parameters,
                "lr": recipe.lr * factor,
                "weight_decay": recipe.weight_decay if decays else 0.0,
            }
            for (factor, decays), parameters in groups.items()
        ]

    def stages(self, recipe: Recipe) -> list[Stage]:
        """Return the stages of training, in order."""
        return [Stage("train", recipe)]

    def stage_state(self) -> dict[str, Any]:
        """Return what later stages need besides the weights; it goes into the resume file."""
        return {}

    def load_stage_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `stage_state` returned, before the stage's `begin` is called again."""
