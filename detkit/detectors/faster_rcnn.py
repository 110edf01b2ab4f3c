"""Faster R-CNN: a region proposal network that shares its maps with Fast R-CNN's head.

Ren, He, Girshick, Sun: NIPS 2015, arXiv:1506.01497v3.

Shape shorthand: B images a batch, L feature maps of H_l x W_l places, A anchors a place, K
anchors in all, P proposals of an image, C classes, G ground truths of an image.

Differences from the paper:
- Objectness is one logit an anchor, a logistic regression, which sec. 3.1.1, footnote 3 names
  as the other way to write its two-class softmax.
- Losses are means over the sampled anchors and `rpn_box_weight` is 1, as in the released code;
  the paper's lambda = 10 goes with its division by the number of places.
- Ground truths join the proposals that the head is trained on, as in the released code.
- On a feature pyramid (the default but for VGG16) anchors that cross the border are trained
  on, as Lin et al. 2017, sec. 4.1 do, each map has anchors of its own size, and NMS is of each
  map by itself.
- `short_recipe` (AdamW, cosine, moving average) is ours and the default on the command line;
  `recipe` is the released code's joint schedule.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import ops

from detkit.anchor_estimation import estimate_anchors, network_shapes
from detkit.anchors import anchor_shapes, grid_anchors
from detkit.boxes import clip, decode, encode, iou
from detkit.config import DetectorConfig, Recipe, setting
from detkit.detector import Detector, Preparation, Published, Stage
from detkit.detectors.fast_rcnn import (
    RegionConfig,
    RoIHead,
    build_maps,
    judge,
    roi_losses,
    sample_rois,
)
from detkit.errors import UsageError
from detkit.matching import IGNORED, match, sample_balanced
from detkit.network_size import shorter_side
from detkit.pyramid import initialise
from detkit.structures import Batch, Candidates, Truth

Shapes = tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class FasterRCNNConfig(RegionConfig):
    """Faster R-CNN's numbers: the region proposal network's, and Fast R-CNN's."""

    training: Literal["joint", "alternating"] = setting(
        "joint", "sec. 3.2: approximate joint training, or the four steps of alternating training"
    )
    step_shares: tuple[float, float, float, float] = setting(
        (2.0, 1.0, 2.0, 1.0), "released code: 80k, 40k, 80k, 40k steps of alternating training"
    )
    step_lrs: tuple[float, float, float, float] = setting(
        (1.0, 1.0, 1.0, 1.0), "sec. 3.2: the four steps' learning rates, shares of the recipe's"
    )
    anchors: Literal["paper", "auto"] = setting(
        "paper", "auto: estimated from the training boxes, as by `detkit anchors`"
    )
    anchor_sizes: tuple[float, ...] = setting(
        (),
        "sec. 3.1.1: square roots of the areas, on the network's image. Empty: 128 256 512 on a "
        "shorter side of 600; on a pyramid a size (ours: two) a map, 4 strides, on 800 (320)",
    )
    anchor_ratios: tuple[float, ...] = setting((0.5, 1.0, 2.0), "sec. 3.1.1: height to width")
    anchor_boxes: Shapes = setting(
        (), "ours: (width, height) of each anchor in network pixels, instead of sizes and ratios"
    )
    anchor_offset: float = setting(0.5, "released code: the place's centre; torchvision: 0")
    round_anchors: bool = setting(False, "torchvision: anchors' corners are whole pixels")
    cross_border: bool | None = setting(
        None, "sec. 3.3: anchors across the border are not trained; none: but on a pyramid they are"
    )
    rpn_width: int | None = setting(None, "sec. 3.1: 512 for VGG16 (none: as many as the map has)")
    rpn_positive_thresh: float = setting(0.7, "sec. 3.1.2: IoU above .7, or the best")
    rpn_negative_thresh: float = setting(0.3, "sec. 3.1.2: IoU below .3")
    anchors_per_image: int = setting(256, "sec. 3.1.3: 256 sampled anchors")
    rpn_positive_fraction: float = setting(0.5, "sec. 3.1.3: up to half of them positive")
    rpn_box_weight: float = setting(1.0, "released code (the paper: lambda = 10, see the top)")
    rpn_nms_thresh: float = setting(0.7, "sec. 3.3")
    rpn_min_size: float | None = setting(
        None, "released code: sides of at least 16 on 600 (none: so in proportion; pyramid: 0)"
    )
    rpn_pre_nms_train: int | None = setting(
        None, "none: 12000, released code; on a pyramid 2000 of each map (Detectron)"
    )
    rpn_post_nms_train: int = setting(2000, "sec. 3.3: 2000 proposals")
    rpn_pre_nms_test: int | None = setting(
        None, "none: 6000, released code; on a pyramid 1000 of each map (Detectron)"
    )
    rpn_post_nms_test: int = setting(300, "sec. 4.1: 300 proposals")
    rois_per_image: int = setting(128, "released code")
    negative_range: tuple[float, float] = setting(
        (0.0, 0.5), "released code: IoU in [0, .5), as the RPN has sorted out the easy ones"
    )

    def validate(self) -> None:
        """Raise UsageError for a value that no Faster R-CNN can work with."""
        super().validate()
        if not 0 < self.rpn_negative_thresh <= self.rpn_positive_thresh <= 1:
            raise UsageError(
                f"--set rpn_positive_thresh={self.rpn_positive_thresh}: must lie between "
                f"rpn_negative_thresh ({self.rpn_negative_thresh}, above 0) and 1"
            )
        for name in ("rpn_nms_thresh", "rpn_positive_fraction"):
            if not 0 < getattr(self, name) <= 1:
                raise UsageError(f"--set {name}={getattr(self, name)}: must be above 0, at most 1")
        for name in (
            "anchors_per_image",
            "rpn_pre_nms_train",
            "rpn_post_nms_train",
            "rpn_pre_nms_test",
            "rpn_post_nms_test",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--set {name}={value}: must be at least 1")
        sides = [side for shape in self.anchor_boxes for side in shape]
        shares = (*self.step_shares, *self.step_lrs)
        positive = (*self.anchor_sizes, *self.anchor_ratios, *sides, *shares)
        if not (self.anchor_ratios and all(value > 0 for value in positive)):
            raise UsageError(
                "--set anchor_sizes, anchor_ratios, anchor_boxes, step_shares, step_lrs: each "
                "value must be above 0"
            )
        if self.rpn_box_weight < 0:
            raise UsageError(f"--set rpn_box_weight={self.rpn_box_weight}: must not be below 0")


# What torchvision's `fasterrcnn_resnet50_fpn` differs in.
_TORCHVISION = FasterRCNNConfig(
    backbone="resnet50",
    neck="fpn",
    size=800,
    max_size=1333,
    anchor_sizes=(32.0, 64.0, 128.0, 256.0, 512.0),
    anchor_offset=0.0,
    round_anchors=True,
    rpn_min_size=1e-3,
    rpn_post_nms_test=1000,
    rois_per_image=512,
    score_thresh=0.05,
    nms_thresh=0.5,
    antialias=False,
)


# The beginnings of names, torchvision's (newer and older) and ours.
_TORCHVISION_NAMES = (
    ("backbone.body.", "backbone.blocks."),
    ("backbone.fpn.", "neck.fpn."),
    ("rpn.head.conv.0.0.", "rpn.conv."),
    ("rpn.head.conv.", "rpn.conv."),
    ("rpn.head.cls_logits.", "rpn.objectness."),
    ("rpn.head.bbox_pred.", "rpn.deltas."),
    ("roi_heads.box_head.fc", "head.fc"),
    ("roi_heads.box_predictor.cls_score.", "head.class_logits."),
    ("roi_heads.box_predictor.bbox_pred.", "head.deltas."),
)


def anchor_layout(config: FasterRCNNConfig, strides: Sequence[int]) -> list[Shapes]:
    """Return the (width, height) of the A anchors at a place of each of the L maps.

    Sizes and boxes that are given are dealt out over a pyramid's maps by size, the same number
    to each. Raises UsageError when they cannot be.
    """
    num_maps, side = len(strides), config.sides[0]
    if config.anchor_boxes:
        shapes = sorted(config.anchor_boxes, key=lambda shape: shape[0] * shape[1])
        return [tuple(some) for some in _dealt(shapes, num_maps, "anchor_boxes")]
    sizes = sorted(config.anchor_sizes)
    if not sizes and not config.has_pyramid:
        sizes = [size * side / 600 for size in (128.0, 256.0, 512.0)]
    elif not sizes:
        # FPN sec. 4.1: 32^2 on stride 4 to 512^2 on stride 64, on images of shorter side 800.
        rule = (8.0,) if config.is_large else (4.0, 4.0 * 2**0.5)
        unit = side / (800 if config.is_large else 320)
        sizes = [stride * factor * unit for stride in strides for factor in rule]
    return [
        tuple(anchor_shapes(some, config.anchor_ratios))
        for some in _dealt(sizes, num_maps, "anchor_sizes")
    ]


def _dealt(values: Sequence[Any], groups: int, name: str) -> list[Sequence[Any]]:
    """Return the values in so many groups of equal length, in order."""
    if len(values) % groups:
        raise UsageError(
            f"--set {name}: the pyramid has {groups} maps and each takes the same number: give "
            f"a multiple of {groups} values, not {len(values)}"
        )
    length = len(values) // groups
    return [values[start : start + length] for start in range(0, len(values), length)]


def match_anchors(overlaps: Tensor, positive_thresh: float, negative_thresh: float) -> Tensor:
    """Return (K,) int64: the ground truth each anchor learns, `NEGATIVE` or `IGNORED`.

    Sec. 3.1.2: positive are (ii) the anchors of an IoU of `positive_thresh` or more with any
    ground truth, and (i) those with the highest IoU with a ground truth, all of them where
    several share it. Each learns the ground truth it overlaps most. `overlaps`: (G, K) IoU.
    """
    matches = match(overlaps, positive_thresh, negative_thresh)
    if overlaps.numel():
        best = overlaps.amax(dim=1, keepdim=True)
        is_best = ((overlaps == best) & (best > 0)).any(dim=0)
        matches = torch.where(is_best, overlaps.argmax(dim=0), matches)
    return matches


def crosses_border(anchors: Tensor, size: tuple[int, int]) -> Tensor:
    """Return (K,) bool: which anchors (K, 4) reach out of an image of `size` (sec. 3.3)."""
    height, width = size
    inside = (anchors[:, :2] >= 0).all(dim=1)
    inside &= (anchors[:, 2] <= width) & (anchors[:, 3] <= height)
    return ~inside


def rpn_loss(
    objectness: Tensor, deltas: Tensor, is_object: Tensor, delta_targets: Tensor, box_weight: float
) -> tuple[Tensor, Tensor]:
    """Return (objectness loss, box loss): eq. 1 over N sampled anchors, each a mean over N.

    `objectness` (N,) logits, `is_object` (N,) bool; `deltas` and `delta_targets` (M, 4) of the
    M positive ones. Smooth L1 with sigma = 3, as in the released code: quadratic below 1/9.
    """
    number = max(1, len(objectness))
    objectness_loss = F.binary_cross_entropy_with_logits(
        objectness, is_object.to(objectness.dtype), reduction="sum"
    )
    box_loss = F.smooth_l1_loss(deltas, delta_targets, beta=1 / 9, reduction="sum")
    return objectness_loss / number, box_weight * box_loss / number


@dataclass(frozen=True)
class ScoredAnchors:
    """The anchors of all L maps, and what the network sees in them, image by image."""

    objectness: list[Tensor]  # L x (B, K_l) logits
    deltas: list[Tensor]  # L x (B, K_l, 4)
    anchors: list[Tensor]  # L x (K_l, 4) network pixels


class RegionProposalNetwork(nn.Module):
    """Scores anchors for holding any object, and moves them: sec. 3.1."""

    def __init__(self, config: FasterRCNNConfig, channels: int, strides: Sequence[int]) -> None:
        """Build the 3x3 convolution and its two 1x1 siblings for maps of these strides."""
        super().__init__()
        self.config = config
        self.layout = anchor_layout(config, strides)
        width = config.rpn_width or channels
        self.conv = nn.Conv2d(channels, width, 3, padding=1)
        self.objectness = nn.Conv2d(width, len(self.layout[0]), 1)
        self.deltas = nn.Conv2d(width, len(self.layout[0]) * 4, 1)
        initialise([self.conv, self.objectness, self.deltas], 0.01)  # sec. 3.1.3
        self._anchors: dict[Any, list[Tensor]] = {}

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return each map's objectness logits (B, K_l) and deltas (B, K_l, 4)."""
        objectness, deltas = [], []
        for x in maps:
            hidden = F.relu(self.conv(x))
            logits, moves = self.objectness(hidden), self.deltas(hidden)
            objectness.append(logits.permute(0, 2, 3, 1).flatten(1).float())
            deltas.append(moves.permute(0, 2, 3, 1).reshape(len(x), -1, 4).float())
        return objectness, deltas

    def anchors(self, maps: Sequence[Tensor], image_size: tuple[int, int]) -> list[Tensor]:
        """Return each map's anchors, (K_l, 4) in network pixels; made once a size and device."""
        map_sizes = [(x.shape[2], x.shape[3]) for x in maps]
        key = (tuple(map_sizes), image_size, str(maps[0].device))
        if key not in self._anchors:
            made = grid_anchors(
                map_sizes,
                image_size,
                self.layout,
                offset=self.config.anchor_offset,
                rounded=self.config.round_anchors,
            )
            self._anchors = {key: [level.to(maps[0].device) for level in made]}
        return self._anchors[key]

    def score(self, maps: Sequence[Tensor], images: Tensor) -> ScoredAnchors:
        """Return the anchors on the maps of (B, 3, H, W) images, with what is seen in them."""
        objectness, deltas = self.forward(maps)
        return ScoredAnchors(
            objectness, deltas, self.anchors(maps, (images.shape[2], images.shape[3]))
        )

    def losses(self, scored: ScoredAnchors, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return (objectness loss, box loss) over a random sample of every image's anchors.

        Sec. 3.1.3: `anchors_per_image`, at most `rpn_positive_fraction` of them positive.
        """
        config, all_anchors = self.config, torch.cat(scored.anchors)
        logits, moves = torch.cat(scored.objectness, dim=1), torch.cat(scored.deltas, dim=1)
        uses_border = config.has_pyramid if config.cross_border is None else config.cross_border
        sampled, positive_moves, targets, is_object = [], [], [], []
        for index, (gt_boxes, size) in enumerate(zip(batch.boxes, batch.sizes)):
            overlaps = iou(gt_boxes, all_anchors)
            out = None if uses_border else crosses_border(all_anchors, size)
            if out is not None and not bool(out.all()):
                overlaps = overlaps.masked_fill(out, 0.0)
            matches = match_anchors(
                overlaps, config.rpn_positive_thresh, config.rpn_negative_thresh
            )
            if out is not None:
                matches = matches.masked_fill(out, IGNORED)
            positives, negatives = sample_balanced(
                matches, config.anchors_per_image, config.rpn_positive_fraction
            )
            sampled.append(logits[index, torch.cat([positives, negatives])])
            is_object.append(torch.arange(len(sampled[-1])) < len(positives))
            positive_moves.append(moves[index, positives])
            targets.append(encode(gt_boxes[matches[positives]], all_anchors[positives]))
        return rpn_loss(
            torch.cat(sampled),
            torch.cat(positive_moves),
            torch.cat(is_object).to(logits.device),
            torch.cat(targets),
            config.rpn_box_weight,
        )

    @torch.no_grad()
    def propose(
        self,
        scored: ScoredAnchors,
        sizes: Sequence[tuple[int, int]],
        *,
        training: bool,
    ) -> list[Tensor]:
        """Return each image's proposals, (P, 4) network pixels, best first: sec. 3.3.

        The best anchors of each map, moved and cut at the image's border; then NMS, on a
        pyramid of each map by itself; then the best of all. In `training` more are kept.
        """
        config = self.config
        before = config.rpn_pre_nms_train if training else config.rpn_pre_nms_test
        if before is None:
            single, pyramid = (12_000, 2000) if training else (6000, 1000)
            before = pyramid if config.has_pyramid else single
        after = config.rpn_post_nms_train if training else config.rpn_post_nms_test
        smallest = config.rpn_min_size
        if smallest is None:
            smallest = 0.0 if config.has_pyramid else 16 * config.sides[0] / 600
        boxes, scores = [], []
        for logits, moves, anchors in zip(scored.objectness, scored.deltas, scored.anchors):
            best, order = logits.topk(min(before, logits.shape[1]), dim=1)
            chosen = moves.gather(1, order[..., None].expand(-1, -1, 4))
            boxes.append(decode(chosen, anchors[order]))
            scores.append(best)
        return [
            best_regions(
                [clip(level[index], size) for level in boxes],
                [level[index] for level in scores],
                # Never none at all: an image may be smaller than the smallest side.
                min(smallest, *size),
                config.rpn_nms_thresh,
                after,
            )
            for index, size in enumerate(sizes)
        ]


def best_regions(
    boxes: Sequence[Tensor],
    scores: Sequence[Tensor],
    smallest_side: float,
    nms_thresh: float,
    number: int,
) -> Tensor:
    """Return the best `number` of an image's boxes after NMS of each map's, (P, 4), best first.

    `boxes` are L x (K_l, 4), `scores` L x (K_l,). Boxes with a side of 0 or below
    `smallest_side` are no regions. While a graph is traced, where a number of rows cannot
    depend on values, boxes without area fill it up.
    """
    kept = []
    for level_boxes, level_scores in zip(boxes, scores):
        sides = (level_boxes[:, 2:] - level_boxes[:, :2]).amin(dim=1)
        is_region = (sides > 0) & (sides >= smallest_side)
        ranked = level_scores.masked_fill(~is_region, -torch.inf)
        survives = torch.zeros_like(is_region)
        survives[ops.nms(level_boxes, ranked, nms_thresh)] = True
        kept.append(ranked.masked_fill(~survives, -torch.inf))
    ranked, all_boxes = torch.cat(kept), torch.cat(list(boxes))
    values, order = ranked.topk(min(number, len(ranked)))
    is_region = values > -torch.inf
    if torch.compiler.is_exporting():
        return all_boxes[order] * is_region[:, None]
    return all_boxes[order[is_region]]


class FasterRCNN(Detector):
    """Faster R-CNN: region proposals from the detector's own maps."""

    name: ClassVar[str] = "faster-rcnn"
    paper: ClassVar[str] = "Ren et al. 2015, arXiv:1506.01497"
    config_class: ClassVar[type[DetectorConfig]] = FasterRCNNConfig
    # Released code, `faster_rcnn_end2end`: 1 image a batch, 70k steps, .1 at 50k.
    recipe: ClassVar[Recipe] = Recipe(
        batch_size=1, max_steps=70_000, milestones=(5 / 7,), bias_lr_factor=2.0
    )
    short_recipe: ClassVar[Recipe] = Recipe(
        batch_size=4,
        max_steps=3000,
        optimizer="adamw",
        lr=1e-3,
        weight_decay=1e-2,
        schedule="cosine",
        warmup=0.03,
        clip_norm=10.0,
        ema_decay=0.998,
        backbone_lr_factor=0.3,
        augmentation="light",
        cache_size=640,
    )
    published: ClassVar[Mapping[str, Published]] = {
        "fasterrcnn-resnet50-fpn-coco": Published(
            "fasterrcnn_resnet50_fpn", "COCO_V1", _TORCHVISION
        )
    }
    config: FasterRCNNConfig

    def __init__(self, config: FasterRCNNConfig, class_names: Sequence[str]) -> None:
        """Build the network with random weights for these classes."""
        super().__init__(config, class_names)
        self.backbone, self.neck = build_maps(config)
        self.rpn = RegionProposalNetwork(config, self.neck.channels, self.neck.strides)
        self.head = RoIHead(config, self.backbone, self.neck, len(self.class_names))
        self._step = 0  # of alternating training; 0: joint
        self._companions: dict[str, FasterRCNN] = {}  # see `stages`

    @classmethod
    def suited_config(
        cls, config: DetectorConfig, labelled: Iterable[tuple[Truth, tuple[int, int]]]
    ) -> DetectorConfig:
        """Return the config, for `anchors=auto` with anchors estimated from the objects."""
        assert isinstance(config, FasterRCNNConfig)
        if config.anchors != "auto" or config.anchor_boxes:
            return config
        with torch.device("meta"):
            strides = build_maps(config)[1].strides
        number = 9 if len(strides) == 1 else 3 * len(strides)  # the paper's; FPN's 3 a map
        estimate = estimate_anchors(
            network_shapes(labelled, partial(shorter_side, *config.sides)), number
        )
        boxes = tuple((round(float(w), 1), round(float(h), 1)) for w, h in estimate.anchors)
        return dataclasses.replace(config, anchor_boxes=boxes)

    @classmethod
    def convert_torchvision(
        cls, state: Mapping[str, Tensor], keep: Sequence[int] | None = None
    ) -> dict[str, Tensor] | None:
        """Return the state dict of torchvision's `fasterrcnn_resnet50_fpn`, else None."""
        if not any(key.startswith("rpn.head.") for key in state):
            return None
        own: dict[str, Tensor] = {}
        for key, value in state.items():
            name = re.sub(r"(inner_blocks\.\d|layer_blocks\.\d)\.(?=[wb])", r"\1.0.", key)
            for theirs, ours in _TORCHVISION_NAMES:
                if name.startswith(theirs):
                    own[ours + name.removeprefix(theirs)] = value
                    break
        if keep is not None:
            classes = list(keep)
            for kind in ("weight", "bias"):
                own[f"head.class_logits.{kind}"] = own[f"head.class_logits.{kind}"][classes]
                deltas = own[f"head.deltas.{kind}"]
                rows = deltas.view(-1, 4, *deltas.shape[1:])[classes]
                own[f"head.deltas.{kind}"] = rows.flatten(0, 1)
        for kind in ("weight", "bias"):  # they also move the background's boxes
            own[f"head.deltas.{kind}"] = own[f"head.deltas.{kind}"][4:]
        return own

    @classmethod
    def published_state(cls, name: str) -> dict[str, Tensor]:
        """Return torchvision's published weights, made to fit norms with torch's own epsilon.

        They were trained with batch norms whose epsilon is 0, torch's is 1e-5.
        """
        state = super().published_state(name)
        return {k: v - 1e-5 if k.endswith("running_var") else v for k, v in state.items()}

    def network_size(self) -> Callable[[int, int], tuple[int, int]]:
        """Return the rule of sec. 3.3: a shorter side of `size`, unless the longer is too long."""
        return partial(shorter_side, *self.config.sides)

    @property
    def preparation(self) -> Preparation:
        """What turns samples into a batch, padded so that the maps' strides divide it."""
        return dataclasses.replace(super().preparation, stride=self.backbone.taps[-1].stride)

    def maps(self, images: Tensor) -> list[Tensor]:
        """Return the L maps that RPN and head share, (B, C_l, H_l, W_l), of (B, 3, H, W) images."""
        maps: list[Tensor] = self.neck(self.backbone(images))
        return maps

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return `rpn_objectness` and `rpn_box` (eq. 1), `roi_class` and `roi_box`.

        In a step of alternating training only the two of its own network.
        """
        step, maps = self._step, self.maps(batch.images)
        parts: dict[str, Tensor] = {}
        proposals: list[Tensor] = []
        if step in (0, 1, 3):
            scored = self.rpn.score(maps, batch.images)
            objectness, box = self.rpn.losses(scored, batch)
            parts = {"rpn_objectness": objectness, "rpn_box": box}
            if step == 0:
                proposals = self.rpn.propose(scored, batch.sizes, training=True)
        else:
            proposer = self._companions.get("proposer", self).to(batch.images.device)
            proposals = proposer.propose(batch, training=True)
        if step in (0, 2, 4):
            samples = [
                sample_rois(*one, self.config) for one in zip(proposals, batch.boxes, batch.labels)
            ]
            class_loss, box_loss = roi_losses(
                self.head,
                self.backbone,
                maps[: self.neck.num_regional],
                samples,
                self.config.box_weight,
            )
            parts |= {"roi_class": class_loss, "roi_box": box_loss}
        return parts

    @torch.no_grad()
    def propose(self, batch: Batch, *, training: bool = False) -> list[Tensor]:
        """Return each image's proposals, (P, 4) in network pixels, best first."""
        scored = self.rpn.score(self.maps(batch.images), batch.images)
        return self.rpn.propose(scored, batch.sizes, training=training)

    def candidates(self, batch: Batch) -> list[Candidates]:
        """Return the proposals, (P, C, 4) moved by class, with each class's probability."""
        maps = self.maps(batch.images)
        scored = self.rpn.score(maps, batch.images)
        proposals = self.rpn.propose(scored, batch.sizes, training=False)
        regional = maps[: self.neck.num_regional]
        return judge(self.head, self.backbone, regional, proposals, self.config.box_variances)

    # --- alternating training ---------------------------------------------------------------

    def stages(self, recipe: Recipe) -> list[Stage]:
        """Return one stage of joint training, or the four steps of sec. 3.2.

        1. The RPN, from the starting weights. 2. Fast R-CNN, from the starting weights too,
        on proposals of step 1's network. 3. The RPN anew on step 2's maps, which stay as they
        are. 4. Fast R-CNN's own layers, on the same maps and step 3's proposals.
        """
        config = self.config
        if config.training == "joint":
            return [Stage("joint", recipe, partial(self._begin, 0))]
        total = sum(config.step_shares)
        stages = []
        for step, (share, rate) in enumerate(zip(config.step_shares, config.step_lrs), 1):
            part = dataclasses.replace(
                recipe,
                max_steps=max(1, round(recipe.max_steps * share / total)),
                lr=recipe.lr * rate,
            )
            network = "rpn" if step in (1, 3) else "fast-rcnn"
            stages.append(Stage(f"step {step}: {network}", part, partial(self._begin, step)))
        return stages

    def _begin(self, step: int) -> None:
        """Make ready for a step: its starting weights, and what it leaves as it is.

        Called again when a run is resumed; what was done before is then not done again.
        """
        self._step = step
        beside = self._companions
        if step == 1 and "start" not in beside:
            beside["start"] = self._copy()
        if step == 2 and "start" in beside:
            start = beside.pop("start")
            beside["proposer"] = self._copy()
            self.load_state_dict(start.state_dict())
        if step == 3 and "proposer" in beside:
            self.rpn.load_state_dict(beside.pop("proposer").rpn.state_dict())
        if step:
            learns_maps = (self.backbone, self.neck) if step <= 2 else ()
            self.requires_grad_(False)
            for module in (self.rpn if step in (1, 3) else self.head, *learns_maps):
                module.requires_grad_(True)
            self.backbone.freeze_blocks(self.backbone.num_frozen)
            # The blocks that serve as the head are Fast R-CNN's own.
            self.backbone.rest().requires_grad_(step in (2, 4))

    def _copy(self) -> FasterRCNN:
        """Return a copy of the network as it is, which does not learn."""
        beside, self._companions = self._companions, {}
        twin = copy.deepcopy(self).eval().requires_grad_(False)
        self._companions = beside
        return twin

    def train(self, mode: bool = True) -> FasterRCNN:
        """Return self in train or eval mode; shared layers that rest keep their norms as well."""
        super().train(mode)
        if self._step in (3, 4):
            self.backbone.eval()
            self.neck.eval()
            self.backbone.rest().train(mode and self._step == 4)
        return self

    def stage_state(self) -> dict[str, Any]:
        """Return the weights of the networks beside this one that later steps need."""
        return {name: one.state_dict() for name, one in self._companions.items()}

    def load_stage_state(self, state: Mapping[str, Any]) -> None:
        """Make the networks beside this one from what `stage_state` returned."""
        self._companions = {}
        for name, weights in state.items():
            companion = self._copy()
            companion.load_state_dict(weights)
            self._companions[name] = companion
