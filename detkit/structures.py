"""The values that flow between the parts: one frozen dataclass each.

Shape shorthand: R ground-truth boxes, I ignored ones, P proposals, N detections, K candidate boxes,
B images a batch, C classes (background is never one of them), H x W pixels.

Boxes are float32 `(x1, y1, x2, y2)`, 0-based and half-open: a box covering the single
pixel in the top left corner is `(0, 0, 1, 1)`. "Own pixels" are those of the upright
image file; "network pixels" those of the resized image that the network sees.

Torch types appear in annotations only, so that metrics and label readers, which are
plain numpy, never pay for importing torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from torch import Tensor

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
DoubleArray = NDArray[np.float64]

ROUNDING = 1e-9  # of a figure that is compared with the least it must be


@dataclass(frozen=True, slots=True)
class Sample:
    """One image in its own pixels with what is known of its objects; the input of a detector."""

    image: Tensor  # (3, H, W) uint8 RGB, upright (EXIF applied)
    boxes: Tensor  # (R, 4) float32 xyxy, own pixels
    labels: Tensor  # (R,) int64 in [0, C)
    difficult: Tensor  # (R,) bool
    proposals: Tensor | None = None  # (P, 4) own pixels, when the detector asks for them
    image_id: str = ""
    # (R,) bool: objects that are neither to be found nor background; None: there are none
    ignored: Tensor | None = None

    @property
    def is_ignored(self) -> Tensor:
        """Which objects are ignored, (R,) bool, in any case."""
        if self.ignored is None:
            return self.difficult.new_zeros(len(self.difficult))
        return self.ignored


@dataclass(frozen=True, slots=True)
class Truth:
    """The objects of one image without its pixels; what a metric compares detections with."""

    boxes: FloatArray  # (R, 4) own pixels
    labels: IntArray  # (R,) in [0, C)
    difficult: BoolArray  # (R,) what a score does not count: difficult objects, and crowds
    image_id: str = ""
    # (R,) bool: which of those are crowds, a box around many objects; None: there are none
    crowd: BoolArray | None = None
    # (R,) square pixels, as COCO's files state them of masks, NaN where not; None: of no object
    stated_areas: DoubleArray | None = None

    @property
    def is_crowd(self) -> BoolArray:
        """Which objects are crowds, (R,) bool, in any case."""
        return np.zeros(len(self.labels), np.bool_) if self.crowd is None else self.crowd

    @property
    def areas(self) -> DoubleArray:
        """The area of each object, (R,) own pixels: the stated one, else that of its box."""
        boxes = self.boxes.astype(np.float64)
        of_boxes: DoubleArray = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        if self.stated_areas is None:
            return of_boxes
        return np.where(np.isnan(self.stated_areas), of_boxes, self.stated_areas)

    def rows(self, which: BoolArray | IntArray) -> Truth:
        """Return some of the objects, by a mask (R,) or by their numbers."""
        return replace(
            self,
            boxes=self.boxes[which],
            labels=self.labels[which],
            difficult=self.difficult[which],
            crowd=None if self.crowd is None else self.crowd[which],
            stated_areas=None if self.stated_areas is None else self.stated_areas[which],
        )


@dataclass(frozen=True, slots=True)
class Detections:
    """What was found in one image, best first, in its own pixels, as plain numpy."""

    boxes: FloatArray  # (N, 4) own pixels
    scores: FloatArray  # (N,) descending; comparable within a class
    labels: IntArray  # (N,) in [0, C)
    image_id: str = ""


@dataclass(frozen=True, slots=True)
class Proposals:
    """Boxes of one image that may hold an object, most promising first; plain numpy."""

    boxes: FloatArray  # (P, 4) own pixels
    scores: FloatArray  # (P,) descending; comparable within one method


@dataclass(frozen=True, slots=True)
class Batch:
    """Images made ready for the network: resized, normalised, padded to one size."""

    # (B, 3, H, W) float32, normalised, zero beyond each image; before `Preparation.normalise`,
    # on the way out of a data worker, grey levels of 0 to 255
    images: Tensor
    sizes: list[tuple[int, int]]  # (height, width) of each image inside `images`, network pixels
    original_sizes: list[tuple[int, int]]  # (height, width) of each image, own pixels
    boxes: list[Tensor]  # B x (R, 4) network pixels
    labels: list[Tensor]  # B x (R,) int64
    difficult: list[Tensor]  # B x (R,) bool
    proposals: list[Tensor] | None = None  # B x (P, 4) network pixels
    image_ids: list[str] = field(default_factory=list)
    # B x (I, 4) network pixels, or none at all: what is neither object nor background there
    ignored: list[Tensor] = field(default_factory=list)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.sizes)

    @property
    def ignored_boxes(self) -> list[Tensor]:
        """The ignored boxes of each image, B x (I, 4) network pixels, in any case."""
        return self.ignored or [boxes[:0] for boxes in self.boxes]

    def to(self, device: torch.device | str, *, non_blocking: bool = True) -> Batch:
        """Return the batch with every tensor on `device`.

        Where that is a GPU nobody waits for the copy; what comes back to the CPU is there.
        """
        at_once = non_blocking and str(device).startswith("cuda")
        return self._each(lambda tensor: tensor.to(device, non_blocking=at_once))

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory (the DataLoader calls this for a GPU)."""
        return self._each(lambda tensor: tensor.pin_memory())

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors of the batch."""
        lists = (self.boxes, self.labels, self.difficult, self.proposals or [], self.ignored)
        return [self.images, *itertools.chain(*lists)]

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """Return the batch with every tensor changed."""
        return replace(
            self,
            images=change(self.images),
            boxes=list(map(change, self.boxes)),
            labels=list(map(change, self.labels)),
            difficult=list(map(change, self.difficult)),
            proposals=None if self.proposals is None else list(map(change, self.proposals)),
            ignored=list(map(change, self.ignored)),
        )


@dataclass(frozen=True, slots=True)
class Candidates:
    """Scored boxes of one image before non-maximum suppression, in network pixels."""

    boxes: Tensor  # (K, 4), or (K, C, 4) where the regression is class-specific
    scores: Tensor  # (K, C), without a background column


@dataclass(frozen=True, slots=True)
class ClassScore:
    """The figures of one class under one protocol."""

    name: str
    ap: float | None  # in [0, 1]; None without (non-difficult) ground truth
    num_truths: int  # difficult ones not counted
    num_detections: int
    best_f1: float | None  # the best F1 over all thresholds ...
    best_threshold: float | None  # ... and the score at which it is reached
    precision: FloatArray  # (n,) after each ranked detection that counts
    recall: FloatArray  # (n,)
    scores: FloatArray  # (n,) the score of that detection
    ece: float | None = None  # in [0, 1]; None without detections, or scores beyond 0 and 1


@dataclass(frozen=True, slots=True)
class Scores:
    """The result of an evaluation, always beside the name of its protocol."""

    protocol: str  # "VOC 2007 11-point AP, IoU >= 0.5", for people
    metric: str  # its name in `evaluation.metrics`, for programs
    iou_thresh: float
    mean: float | None  # mAP in [0, 1]; None when no class has ground truth
    classes: list[ClassScore]
    num_images: int
    extra: Mapping[str, float | None] = field(default_factory=dict)  # the metric's further figures
    best_f1: float | None = None  # of all classes together, with one threshold for all ...
    best_threshold: float | None = None  # ... and that threshold
    ece: float | None = None  # of all classes together

    @property
    def figures(self) -> dict[str, float | None]:
        """All figures by name: the metric's further ones, of classes, and "F1", "ECE", "mAP"."""
        return {
            **self.extra,
            "F1": self.best_f1,
            "ECE": self.ece,
            **{one.name: one.ap for one in self.classes},
            "mAP": self.mean,
        }

    def reach(self, name: str, least: float) -> bool:
        """Return whether a figure is at `least` or above; one without a value is not.

        A mean of ones and zeros may fall short of .5 by 1e-16, and reaches it all the same.
        """
        return self.meets(name, least)

    def meets(self, name: str, limit: float, *, at_most: bool = False) -> bool:
        """Return whether a figure is at least, or at most, the limit, within `reach`'s rounding."""
        value = self.figures.get(name)
        if value is None:
            return False
        return value <= limit + ROUNDING if at_most else value >= limit - ROUNDING


@dataclass(frozen=True, slots=True)
class Step:
    """What one optimiser step of `train()` has to tell."""

    stage: str
    step: int  # 1-based, over all stages
    total_steps: int | None  # None while a budget in minutes has not been measured yet
    epoch: float
    losses: Mapping[str, float]
    lr: float
    images_per_second: float
    seconds_left: float | None
    memory_mib: float
    scores: Scores | None = None  # after a validation
    is_best: bool = False
    figures: Mapping[str, float] = field(default_factory=dict)  # of a pass without losses
    notes: tuple[str, ...] = ()  # things worth a line: "frozen batch norm", ...
