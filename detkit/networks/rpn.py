"""The region proposal network: anchors scored for holding any object, and moved.

Ren, He, Girshick, Sun: Faster R-CNN, NIPS 2015, arXiv:1506.01497v3, sec. 3.1; what differs from
the paper is said in `detectors/faster_rcnn.py`.

Shape shorthand: B images a batch, L feature maps of H_l x W_l places, A anchors a place, K
anchors in all, P proposals of an image, G ground truths of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import ops

from detkit.config import DetectorConfig, setting
from detkit.errors import UsageError
from detkit.geometry.anchors import anchor_shapes, grid_anchors
from detkit.geometry.boxes import clip, decode, encode, iou
from detkit.geometry.matching import IGNORED, match, sample_balanced, spare_ignored
from detkit.geometry.nms import nms_survivors
from detkit.networks.necks import initialise
from detkit.structures import Batch

Shapes = tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class RPNConfig(DetectorConfig):
    """The region proposal network's numbers."""

    anchors: Literal["paper", "released", "auto"] = setting(
        "paper",
        "sec. 3.1.1; released: of whole pixels as py-faster-rcnn has them, 184 x 96 where the "
        "paper's are 181 x 90.5; auto: estimated from the training boxes, as by `detkit anchors`",
    )
    anchor_sizes: tuple[float, ...] = setting(
        (),
        "sec. 3.3: square roots of the areas, on the network's image. Empty: 128 256 512 on a "
        "shorter side of 600; on a pyramid a size (ours: two) a map, 4 strides, on 800 (320)",
        above=0,
    )
    share_anchors: bool = setting(
        False, "torchvision's MobileNets: each map has all sizes, instead of its share of them"
    )
    anchor_ratios: tuple[float, ...] = setting(
        (0.5, 1.0, 2.0), "sec. 3.3: height to width", above=0
    )
    anchor_boxes: Shapes = setting(
        (),
        "ours: (width, height) of each anchor in network pixels, instead of sizes and ratios",
        above=0,
    )
    anchor_box_scale: float = setting(
        2.0, "MATLAB's BoxPyramidScale: from one level of `anchor_boxes` to the next", above=0
    )
    anchor_box_levels: int = setting(
        1,
        "MATLAB's NumBoxPyramidLevels: so many times `anchor_boxes`, each larger by the scale",
        at_least=1,
    )
    anchor_offset: float = setting(0.5, "released code: the place's centre; torchvision: 0")
    round_anchors: bool = setting(False, "torchvision: anchors' corners are whole pixels")
    cross_border: bool | None = setting(
        None, "sec. 3.3: anchors across the border are not trained; none: but on a pyramid they are"
    )
    rpn_width: int | None = setting(None, "sec. 3.1: 512 for VGG16 (none: as many as the map has)")
    rpn_convs: int = setting(1, "sec. 3.1: one 3x3 convolution; torchvision's v2: two", at_least=1)
    rpn_positive_thresh: float = setting(
        0.7, "sec. 3.1.2: IoU above .7, or the best; released code: .7 and more", at_most=1
    )
    rpn_negative_thresh: float = setting(0.3, "sec. 3.1.2: IoU below .3", above=0)
    anchors_per_image: int = setting(256, "sec. 3.1.3: 256 sampled anchors", at_least=1)
    rpn_positive_fraction: float = setting(
        0.5, "sec. 3.1.3: up to half of them positive", above=0, at_most=1
    )
    rpn_box_weight: float = setting(
        1.0, "released code (the paper: lambda = 10, see the top)", at_least=0
    )
    rpn_nms_thresh: float = setting(0.7, "sec. 3.3", above=0, at_most=1)
    rpn_min_size: float | None = setting(
        None,
        "ours: sides of at least 16 on 600 (none: so in proportion; pyramid: 0); released code: 16 "
        "pixels of the image's own",
    )
    rpn_score_thresh: float = setting(
        0.0, "the paper has none; torchvision's MobileNets: .05", at_least=0, below=1
    )
    rpn_pre_nms_train: int | None = setting(
        None,
        "none: 12000, released code, and all in steps 2 and 4 of alternating training; on a "
        "pyramid 2000 of each map (Detectron)",
        at_least=1,
    )
    rpn_post_nms_train: int = setting(2000, "sec. 3.3: 2000 proposals", at_least=1)
    rpn_pre_nms_test: int | None = setting(
        None, "none: 6000, released code; on a pyramid 1000 of each map (Detectron)", at_least=1
    )
    rpn_post_nms_test: int = setting(300, "sec. 4.1: 300 proposals", at_least=1)

    def validate(self) -> None:
        """Raise UsageError for a value that no region proposal network can work with."""
        super().validate()
        if not self.rpn_negative_thresh <= self.rpn_positive_thresh:
            raise UsageError(
                f"--set rpn_positive_thresh={self.rpn_positive_thresh}: must not be below "
                f"rpn_negative_thresh ({self.rpn_negative_thresh})"
            )
        if not self.anchor_ratios:
            raise UsageError("--set anchor_ratios: must hold at least one")


def anchor_layout(config: RPNConfig, strides: Sequence[int], side: int) -> list[Shapes]:
    """Return the (width, height) of the A anchors at a place of each of the L maps.

    `side` is the shorter side of the network's images, to which the defaults are in proportion.

    Sizes and boxes that are given are dealt out over a pyramid's maps by size, the same number
    to each. Raises UsageError when they cannot be.
    """
    num_maps = len(strides)
    if config.anchor_boxes:
        factors = [config.anchor_box_scale**level for level in range(config.anchor_box_levels)]
        shapes = [(w * factor, h * factor) for factor in factors for w, h in config.anchor_boxes]
        shapes.sort(key=lambda shape: shape[0] * shape[1])
        return [tuple(some) for some in _dealt(shapes, num_maps, "anchor_boxes")]
    sizes = sorted(config.anchor_sizes)
    if not sizes and num_maps == 1:
        sizes = [size * side / 600 for size in (128.0, 256.0, 512.0)]
    elif not sizes:
        # FPN sec. 4.1: 32^2 on stride 4 to 512^2 on stride 64, on images of shorter side 800.
        # Ours, on pyramids that begin at stride 8, which are for smaller images: two a map.
        full = strides[0] < 8
        rule = (8.0,) if full else (4.0, 4.0 * 2**0.5)
        unit = side / (800 if full else 320)
        sizes = [stride * factor * unit for stride in strides for factor in rule]
    bases = list(strides) if config.anchors == "released" else [None] * num_maps
    if config.share_anchors:
        dealt: list[Sequence[Any]] = [sizes] * num_maps
    else:
        dealt = _dealt(sizes, num_maps, "anchor_sizes")
    return [
        tuple(anchor_shapes(some, config.anchor_ratios, base)) for some, base in zip(dealt, bases)
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

    def __init__(self, config: RPNConfig, channels: int, strides: Sequence[int], side: int) -> None:
        """Build the 3x3 convolution and its two 1x1 siblings for maps of these strides.

        `side` is the shorter side of the network's images.
        """
        super().__init__()
        self.config = config
        self.side = side
        self.has_pyramid = len(strides) > 1
        # Released code: feat_stride. Of a pyramid torchvision's, by the sizes of its maps.
        self.strides = None if self.has_pyramid else tuple(strides)
        self.layout = anchor_layout(config, strides, side)
        width = config.rpn_width or channels
        self.conv = nn.Conv2d(channels, width, 3, padding=1)
        self.more_convs = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=1) for _ in range(config.rpn_convs - 1)
        )
        self.objectness = nn.Conv2d(width, len(self.layout[0]), 1)
        self.deltas = nn.Conv2d(width, len(self.layout[0]) * 4, 1)
        initialise([self.conv, *self.more_convs, self.objectness, self.deltas], 0.01)  # sec. 3.1.3
        self._anchors: dict[Any, list[Tensor]] = {}

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return each map's objectness logits (B, K_l) and deltas (B, K_l, 4)."""
        objectness, deltas = [], []
        for x in maps:
            hidden = F.relu(self.conv(x))
            for conv in self.more_convs:
                hidden = F.relu(conv(hidden))
            logits, moves = self.objectness(hidden), self.deltas(hidden)
            objectness.append(logits.permute(0, 2, 3, 1).flatten(1).float())
            deltas.append(moves.permute(0, 2, 3, 1).reshape(x.shape[0], -1, 4).float())
        return objectness, deltas

    def anchors(self, maps: Sequence[Tensor], image_size: tuple[int, int]) -> list[Tensor]:
        """Return each map's anchors, (K_l, 4) in network pixels; made once a size and device."""
        map_sizes = [(x.shape[2], x.shape[3]) for x in maps]
        make = partial(
            grid_anchors,
            map_sizes,
            image_size,
            self.layout,
            offset=self.config.anchor_offset,
            rounded=self.config.round_anchors,
            strides=self.strides,
        )
        if torch.compiler.is_exporting():  # sizes may stand for any
            return make()
        device = maps[0].device
        if device.type == "meta":  # maps without values still say where the anchors are
            device = torch.device("cpu")
        key = (tuple(map_sizes), image_size, str(device))
        if key not in self._anchors:
            self._anchors = {key: [level.to(device) for level in make()]}
        return self._anchors[key]

    def score(self, maps: Sequence[Tensor], images: Tensor) -> ScoredAnchors:
        """Return the anchors on the maps of (B, 3, H, W) images, with what is seen in them."""
        objectness, deltas = self.forward(maps)
        return ScoredAnchors(
            objectness, deltas, self.anchors(maps, (images.shape[2], images.shape[3]))
        )

    def losses(self, scored: ScoredAnchors, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return (objectness loss, box loss) over a random sample of every image's anchors.

        Sec. 3.1.3: `anchors_per_image`, at most `rpn_positive_fraction` of them positive, and none
        inside the batch's ignored boxes negative.
        """
        config, all_anchors = self.config, torch.cat(scored.anchors)
        logits, moves = torch.cat(scored.objectness, dim=1), torch.cat(scored.deltas, dim=1)
        uses_border = self.has_pyramid if config.cross_border is None else config.cross_border
        sampled, positive_moves, targets, is_object = [], [], [], []
        images = zip(batch.boxes, batch.ignored_boxes, batch.sizes)
        for index, (gt_boxes, ignored, size) in enumerate(images):
            overlaps = iou(gt_boxes, all_anchors)
            out = None if uses_border else crosses_border(all_anchors, size)
            if out is not None:
                overlaps = overlaps.masked_fill(out & ~out.all(), 0.0)
            matches = match_anchors(
                overlaps, config.rpn_positive_thresh, config.rpn_negative_thresh
            )
            matches = spare_ignored(matches, all_anchors, ignored)
            if out is not None:
                matches = matches.masked_fill(out, IGNORED)
            positives, negatives = sample_balanced(
                matches, config.anchors_per_image, config.rpn_positive_fraction
            )
            sampled.append(logits[index, torch.cat([positives, negatives])])
            places = torch.arange(len(sampled[-1]), device=logits.device)
            is_object.append(places < len(positives))
            positive_moves.append(moves[index, positives])
            targets.append(encode(gt_boxes[matches[positives]], all_anchors[positives]))
        return rpn_loss(
            torch.cat(sampled),
            torch.cat(positive_moves),
            torch.cat(is_object),
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
        fixed: bool = False,
    ) -> list[Tensor]:
        """Return each image's proposals, (P, 4) network pixels, best first: sec. 3.3.

        The best anchors of each map, moved and cut at the image's border; then NMS, on a
        pyramid of each map by itself; then the best of all. In `training` more are kept; while
        this network is `fixed`, in alternating training, all anchors of a single map enter NMS.
        """
        before, after, smallest = self._numbers(scored, training, fixed)
        boxes, scores = zip(
            *(
                self._best_anchors(*level, min(before, level[0].shape[1]))
                for level in zip(scored.objectness, scored.deltas, scored.anchors)
            )
        )
        return [
            best_regions(
                [clip(level[index], size) for level in boxes],
                [level[index] for level in scores],
                # Never none at all: an image may be smaller than the smallest side.
                min(smallest, *size),
                self.config.rpn_nms_thresh,
                after,
            )
            for index, size in enumerate(sizes)
        ]

    def propose_dense(self, scored: ScoredAnchors, size: tuple[int, int]) -> Tensor:
        """Return `propose`'s of images of one `size` as one tensor, (B, P, 4), P always the same.

        Boxes of zeros follow where an image has fewer. All shapes but B's are known before the
        maps' are: with it a graph can be traced whose images have any size.
        """
        before, after, smallest = self._numbers(scored, training=False, fixed=False)
        levels = []
        for logits, moves, anchors in zip(scored.objectness, scored.deltas, scored.anchors):
            none = F.pad(logits, (0, before), value=-torch.inf)
            best, order = none.topk(before, dim=1)
            levels.append((best, *_chosen(moves, anchors, order.clamp(max=logits.shape[1] - 1))))
        # All maps at once, as if each were an image of its own: (B * L, N), and (B * L, N, 4).
        ranked, moves, anchors = (torch.stack(part, dim=1).flatten(0, 1) for part in zip(*levels))
        moved = clip(decode(moves, anchors), size)
        sides = (moved[..., 2:] - moved[..., :2]).amin(dim=-1)
        is_large = (sides >= smallest) | (sides >= size[0]) | (sides >= size[1])
        ranked = self._passing(ranked).masked_fill(~(is_large & (sides > 0)), -torch.inf)
        survives = nms_survivors(moved, ranked, self.config.rpn_nms_thresh, after)
        number = before * len(levels)
        ranked = ranked.masked_fill(~survives, -torch.inf).view(-1, number)
        room = max(0, after - number)
        ranked, order = F.pad(ranked, (0, room), value=-torch.inf).topk(after)
        all_boxes = F.pad(moved.view(-1, number, 4), (0, 0, 0, room))
        chosen = all_boxes.gather(1, order[..., None].expand(-1, -1, 4))
        return chosen * (ranked > -torch.inf)[..., None]

    def _numbers(
        self, scored: ScoredAnchors, training: bool, fixed: bool
    ) -> tuple[int, int, float]:
        """Return how many enter NMS of each map, how many are kept in all, and the least side."""
        config = self.config
        before = config.rpn_pre_nms_train if training else config.rpn_pre_nms_test
        if before is None:
            single, pyramid = (12_000, 2000) if training else (6000, 1000)
            if fixed:  # released code, `rpn_generate`: RPN_PRE_NMS_TOP_N = -1
                single = max(logits.shape[1] for logits in scored.objectness)
            before = pyramid if self.has_pyramid else single
        smallest = config.rpn_min_size
        if smallest is None:
            smallest = 0.0 if self.has_pyramid else 16 * self.side / 600
        after = config.rpn_post_nms_train if training else config.rpn_post_nms_test
        return before, after, smallest

    def _best_anchors(
        self, logits: Tensor, moves: Tensor, anchors: Tensor, number: int
    ) -> tuple[Tensor, Tensor]:
        """Return a map's best anchors, moved, (B, N, 4), and their scores (B, N), best first."""
        best, order = _best(logits, number)
        return decode(*_chosen(moves, anchors, order)), self._passing(best)

    def _passing(self, logits: Tensor) -> Tensor:
        """Return the logits, minus infinity where they score below `rpn_score_thresh`."""
        thresh = self.config.rpn_score_thresh
        return logits.masked_fill(logits.sigmoid() < thresh, -torch.inf) if thresh > 0 else logits


def _best(scores: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Return the `number` best of (..., K) scores and their places, best first.

    Equal ones keep their order, as in ONNX; of those at the end any are taken. In flat parts of an
    image scores are equal, and which of two boxes comes first decides which of them NMS keeps.
    """
    places = scores.topk(number, sorted=False).indices.sort().values
    best, order = scores.gather(-1, places).sort(stable=True, descending=True)
    return best, places.gather(-1, order)


def _chosen(moves: Tensor, anchors: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """Return the moves and the anchors, (B, N, 4) each, of the rows `order` (B, N) of a map."""
    return moves.gather(1, order[..., None].expand(-1, -1, 4)), anchors[order]


def best_regions(
    boxes: Sequence[Tensor],
    scores: Sequence[Tensor],
    smallest_side: float,
    nms_thresh: float,
    number: int,
) -> Tensor:
    """Return the best `number` of an image's boxes after NMS of each map's, (P, 4), best first.

    `boxes` are L x (K_l, 4), `scores` L x (K_l,). Boxes with a side of 0 or below
    `smallest_side` are no regions.
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
    values, order = _best(ranked, min(number, len(ranked)))
    return all_boxes[order[values > -torch.inf]]
