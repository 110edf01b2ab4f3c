"""SSD: Single Shot MultiBox Detector.

Liu, Anguelov, Erhan, Szegedy, Reed, Fu, Berg: ECCV 2016, arXiv:1512.02325v5.

Shape shorthand: B images a batch, L feature maps of C_l channels and H_l x W_l places,
A_l default boxes a place, K default boxes in all, C classes, R ground truths of an image.

Differences from the paper:
- Backbones other than VGG16 (the paper's) take the same extra layers and heads; their maps
  are all L2-normalised, since a head on unnormalised maps of unlike scale learns slowly.
- `short_recipe` (AdamW, cosine, moving average) is ours and the default on the command line;
  `recipe` is the paper's.
- The augmentation of `recipe` has the released code's distributions. Colours are turned into HSV
  and back once for saturation and hue together, which there are two steps with a rounding each.
  Images much larger than the network's are shrunk beforehand, to what crops of middle size need.
- `--weights imagenet` is torchvision's VGG16, IMAGENET1K_V1, trained anew; the released code starts
  from Caffe's. Torchvision's SSD300 does from IMAGENET1K_FEATURES, Caffe's without fc6 and fc7.
- The scales of `L2Norm` are not decayed; in the released code they are.
- Detection resizes with antialiasing; `--set antialias=no` is the released code's linear way.
- A box that lies outside the image is left out before NMS; in the released code it takes part.
- `lite` is SSDlite, MobileNetV2 sec. 6.2, with the widths of torchvision's `ssdlite320`.
- A default box inside an ignored object that learns no other is no negative: it is never mined.
  COCO's crowds are ignored so, where the released code's `ssd_coco.py` has them left out.
- Difficult objects are learnt, as in the released code for VOC (`train_on_diff_gt`); by
  `short_recipe` they are ignored.

Where the equations are:
- sec. 2.1: `MultiBoxHead`, 3x3 predictors on several feature maps
- sec. 2.2: `match_default_boxes`, matching strategy
- sec. 2.2, eqs. 1-3: `multibox_loss`, loss of place and of confidence, over N matched boxes
- sec. 2.2, eq. 2: `boxes.encode`, the g of the loss, a ground truth's offsets
- sec. 2.2, eq. 4: `layout`, the scale of each map
- sec. 2.2: `default_boxes`, the boxes of those scales and of all ratios
- sec. 2.2: `mine_hard_negatives`, at most three negatives a positive
- sec. 2.2: `SSD.augmentation`, data augmentation, with sec. 3.6's
- sec. 3.1: `L2Norm`, the scale of conv4_3
- sec. 3.7: `Detector.detect`, test: score .01, NMS .45, the best 200
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detkit.config import SHORT_RECIPE, DetectorConfig, PaperRun, Recipe, setting
from detkit.detector import Detector
from detkit.errors import UsageError
from detkit.geometry.anchors import default_boxes
from detkit.geometry.boxes import decode, encode, iou
from detkit.geometry.matching import (
    IGNORED,
    best_overlaps_of_small,
    match_each_truth,
    spare_ignored,
)
from detkit.networks import backbones, caffe_weights, ssdlite, torchvision_detectors
from detkit.networks.torchvision_detectors import Published
from detkit.structures import Batch, Candidates
from detkit.trace import TraceStage, box_stage
from detkit.transforms.augmentation import ssd_augmentation
from detkit.transforms.geometric import Transform
from detkit.transforms.preparation import square

MIN_SIZE = 16  # ours: half the stride of the last map of most backbones; smaller shows nothing


@dataclass(frozen=True, kw_only=True)
class SSDConfig(DetectorConfig):
    """SSD's numbers."""

    size: int = setting(300, "sec. 3.1: SSD300; 512 gives SSD512", at_least=MIN_SIZE)
    scales: tuple[float, ...] = setting(
        (), "empty: sec. 2.2 eq. 4 with the released code's values, a share of the size", above=0
    )
    ratios: tuple[tuple[float, ...], ...] = setting(
        (), "empty: sec. 3.1, [2] on the first and the last two maps, [2, 3] between", above=0
    )
    steps: tuple[float, ...] = setting(
        (), "empty: the released code's for VGG16, else size / map", above=0
    )
    clip_sides: bool = setting(
        False, "released code; torchvision's port cuts default boxes to the image's sides"
    )
    variances: tuple[float, float, float, float] = setting(
        (0.1, 0.1, 0.2, 0.2), "released code, which calls these standard deviations so", above=0
    )
    positive_thresh: float = setting(
        0.5, "sec. 2.2: jaccard overlap above .5", at_least=0, at_most=1
    )
    negatives_per_positive: float = setting(
        3.0, "sec. 2.2: hard negative mining at most 3:1", at_least=0
    )
    loc_weight: float = setting(1.0, "sec. 2.2: alpha = 1", at_least=0)
    lite: bool = setting(
        False, "MobileNetV2 sec. 6.2: SSDlite, whose layers are parted a channel and across them"
    )
    l2_norm_scale: float = setting(20.0, "sec. 3.1: conv4_3 is L2-normalised to 20", above=0)
    clip_before_nms: bool = setting(
        False, "released code: NMS, then boxes are cut to the image; torchvision's port: before"
    )


# What torchvision's `ssd300_vgg16` differs in from the released code: smaller scales, default
# boxes no longer than the image's sides, Caffe's pixel range, and no antialiasing.
_TORCHVISION = SSDConfig(
    backbone="vgg16",
    scales=(0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05),
    clip_sides=True,
    clip_before_nms=True,
    mean=(0.48235, 0.45882, 0.40784),
    std=(1 / 255, 1 / 255, 1 / 255),
    antialias=False,
)

_TORCHVISION_LITE = SSDConfig(
    backbone=torchvision_detectors.BACKBONES[torchvision_detectors.SSDLITE],
    lite=True,
    size=320,
    scales=(0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0),
    ratios=((2.0, 3.0),) * 6,
    clip_sides=True,
    clip_before_nms=True,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    antialias=False,
    score_thresh=0.001,
    nms_thresh=0.55,
    pre_nms_top_k=300,
    max_detections=300,
)

# The released code's sizes, from 300 and 512 pixels, as shares of the side.
_SCALES_300 = tuple(side / 300 for side in (30, 60, 111, 162, 213, 264, 315))
_SCALES_512 = tuple(side / 512 for side in (35.84, 76.8, 153.6, 230.4, 307.2, 384.0, 460.8, 537.6))
_STEPS_300 = (8.0, 16.0, 32.0, 64.0, 100.0, 300.0)
_STEPS_512 = (8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)


class L2Norm(nn.Module):
    """A map divided by its L2 norm over the channels, times a learnt scale a channel.

    SSD sec. 3.1, after ParseNet (Liu et al. 2015), eqs. 1-3.
    """

    def __init__(self, channels: int, scale: float) -> None:
        """Start all channels at the same `scale`."""
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), scale))

    def forward(self, x: Tensor) -> Tensor:
        """Return the (B, C, H, W) map normalised at each place."""
        return self.weight.view(1, -1, 1, 1) * F.normalize(x)


def extra_layers(
    backbone: str, size: int, channels: int, map_size: int
) -> tuple[list[nn.Module], list[int]]:
    """Return (layers after the backbone, their channels): a feature map more each (Fig. 2).

    VGG16 as in the released code: conv8_2 and conv9_2 halve, then 3x3 without padding (SSD300),
    or halving down to 2 and a 4x4 (SSD512). Other backbones and sizes halve until one place
    is left, at most three times.
    """
    if backbone == "vgg16" and size == 300:
        plan = [(256, 512, 3, 2, 1), (128, 256, 3, 2, 1), (128, 256, 3, 1, 0), (128, 256, 3, 1, 0)]
    elif backbone == "vgg16" and size == 512:
        plan = [(256, 512, 3, 2, 1), *[(128, 256, 3, 2, 1)] * 3, (128, 256, 4, 1, 1)]
    else:
        halvings = min(3, math.ceil(math.log2(max(map_size, 1))))
        plan = [(128, 256, 3, 2, 1)] * halvings
    layers: list[nn.Module] = []
    for middle, after, kernel, stride, padding in plan:
        layers.append(
            nn.Sequential(
                nn.Conv2d(channels, middle, 1),
                nn.ReLU(inplace=True),
                nn.Conv2d(middle, after, kernel, stride, padding),
                nn.ReLU(inplace=True),
            )
        )
        channels = after
    return layers, [after for _, after, *_ in plan]


class MultiBoxHead(nn.Module):
    """A 3x3 predictor a feature map: class scores and box offsets at every place (sec. 2.1)."""

    def __init__(
        self,
        channels: Sequence[int],
        boxes_a_place: Sequence[int],
        outputs: int,
        *,
        lite: bool = False,
    ) -> None:
        """Build one convolution a map, SSDlite's if `lite`, with `outputs` values a default box."""
        super().__init__()
        self.outputs = outputs
        self.convs = nn.ModuleList(
            ssdlite.predictor(width, count * outputs)
            if lite
            else nn.Conv2d(width, count * outputs, 3, padding=1)
            for width, count in zip(channels, boxes_a_place)
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return (B, K, outputs), in the order of the default boxes."""
        values = [
            conv(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1, self.outputs)
            for conv, x in zip(self.convs, maps)
        ]
        return torch.cat(values, dim=1)


def match_default_boxes(overlaps: Tensor, positive_thresh: float) -> Tensor:
    """Return (K,) int64: the ground truth each default box learns, -1 for background.

    Sec. 2.2: every ground truth gets the default box of best overlap, and every default box
    with an overlap above `positive_thresh` learns its best ground truth. `overlaps`: (R, K).
    """
    matches = overlaps.new_full((overlaps.shape[1],), -1, dtype=torch.int64)
    if len(overlaps):
        best, truth = overlaps.max(dim=0)
        matches = torch.where(best > positive_thresh, truth, matches)
        truths, boxes = match_each_truth(overlaps)
        matches[boxes] = truths
    return matches


def mine_hard_negatives(background_loss: Tensor, targets: Tensor, ratio: float) -> Tensor:
    """Return (B, K) bool: the negatives of highest loss, at most `ratio` a positive (sec. 2.2).

    Counted image by image, as in the released code. `background_loss` (B, K), `targets` (B, K)
    as for `multibox_loss`.
    """
    negative = targets == 0
    loss = background_loss.masked_fill(~negative, -math.inf)
    rank = loss.argsort(dim=1, descending=True).argsort(dim=1)
    quota = ((targets > 0).sum(dim=1, keepdim=True) * ratio).clamp(max=loss.shape[1])
    return (rank < quota) & negative


def multibox_loss(
    class_logits: Tensor,
    deltas: Tensor,
    targets: Tensor,
    delta_targets: Tensor,
    *,
    negatives_per_positive: float,
    loc_weight: float,
) -> tuple[Tensor, Tensor]:
    """Return (confidence loss, localisation loss): eqs. 1-3, divided by N matched boxes.

    `class_logits` (B, K, C + 1) with background first, `deltas` and `delta_targets` (B, K, 4),
    `targets` (B, K) int64, 0 for background, `IGNORED` for what is neither that nor an object.
    N = 0 gives 0, with gradients attached.
    """
    positive = targets > 0
    num_matched = positive.sum().clamp(min=1)
    cross_entropy = F.cross_entropy(  # eq. 3, of positives and negatives alike
        class_logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none"
    ).view_as(targets)
    background_loss = -class_logits.detach().log_softmax(dim=-1)[..., 0]
    negative = mine_hard_negatives(background_loss, targets, negatives_per_positive)
    confidence = cross_entropy[positive | negative].sum() / num_matched
    # Eq. 2, whose smooth L1 is Fast R-CNN's eq. 3.
    localisation = F.smooth_l1_loss(deltas[positive], delta_targets[positive], reduction="sum")
    return confidence, loc_weight * localisation / num_matched


class SSD(Detector):
    """Single Shot MultiBox Detector: default boxes on several feature maps, one pass."""

    name: ClassVar[str] = "ssd"
    paper: ClassVar[str] = "Liu et al. 2016, arXiv:1512.02325"
    config_class: ClassVar[type[DetectorConfig]] = SSDConfig
    recipe_source: ClassVar[str] = (
        "sec. 3.1 and released code, VOC07+12: 120k steps of 32 at .001, .1 of it from 80k and "
        "100k; biases at twice the rate and not decayed"
    )
    recipe: ClassVar[Recipe] = Recipe(bias_lr_factor=2.0)
    paper_runs: ClassVar[Mapping[str, PaperRun]] = {
        "paper": PaperRun(
            data="voc07",
            backbone="vgg16",
            recipe={"max_steps": 60_000},
            source="sec. 3.1, VOC07: 40k steps at .001, 10k at .0001, 10k at .00001",
        ),
        "paper-0712": PaperRun(
            data="voc0712",
            backbone="vgg16",
            source="ssd_pascal.py: 120k steps of 32, .1 of the rate from 80k and 100k",
        ),
        "paper-coco": PaperRun(
            data="coco",
            backbone="vgg16",
            settings={"scales": _TORCHVISION.scales},
            recipe={"max_steps": 400_000, "milestones": (0.7, 0.9)},
            source="ssd_coco.py: 400k steps of 32, .1 of the rate from 280k and 360k",
        ),
    }
    short_recipe: ClassVar[Recipe] = SHORT_RECIPE
    published: ClassVar[Mapping[str, Published]] = {
        **dict.fromkeys(
            (torchvision_detectors.SSD300, "ssd300_vgg16-coco"),
            Published("ssd300_vgg16", "COCO_V1", _TORCHVISION),
        ),
        torchvision_detectors.SSDLITE: Published(
            "ssdlite320_mobilenet_v3_large", "COCO_V1", _TORCHVISION_LITE
        ),
    }
    config: SSDConfig

    def __init__(self, config: SSDConfig, class_names: Sequence[str]) -> None:
        """Build the network with random weights for these classes."""
        super().__init__(config, class_names)
        vgg = config.backbone == "vgg16"
        self.backbone = backbones.build("vgg16-atrous" if vgg else config.backbone)
        channels = [tap.channels for tap in self.backbone.taps]
        last_map = math.ceil(config.size / self.backbone.taps[-1].stride)
        if config.lite:
            halvings = math.ceil(math.log2(max(last_map, 1)))
            extras, widths = ssdlite.extra_layers(channels[-1], halvings)
        else:
            extras, widths = extra_layers(config.backbone, config.size, channels[-1], last_map)
        self.extras = nn.ModuleList(extras)
        channels += widths
        # conv4_3 alone has another scale than the rest in VGG16 (sec. 3.1).
        normalised = 0 if config.lite else 1 if vgg else len(self.backbone.taps)
        self.norms = nn.ModuleList(
            L2Norm(width, config.l2_norm_scale) for width in channels[:normalised]
        )
        self.scales, self.ratios, self.steps = layout(config, len(channels))
        boxes_a_place = [2 + 2 * len(ratios) for ratios in self.ratios]
        outputs, lite = len(self.class_names) + 1, config.lite
        self.class_head = MultiBoxHead(channels, boxes_a_place, outputs, lite=lite)
        self.box_head = MultiBoxHead(channels, boxes_a_place, 4, lite=lite)
        self._default_boxes: dict[Any, Tensor] = {}
        self._map_sizes: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for module in () if lite else (self.extras, self.class_head, self.box_head):
            for layer in module.modules():
                if isinstance(layer, nn.Conv2d):
                    nn.init.xavier_uniform_(layer.weight)  # sec. 3.1
                    assert layer.bias is not None
                    nn.init.zeros_(layer.bias)

    @classmethod
    def convert_foreign(
        cls, state: Mapping[str, Tensor], keep: Sequence[int] | None = None
    ) -> dict[str, Tensor] | None:
        """Return the state dict of torchvision's SSDs, or of the paper's, else None."""
        if caffe_weights.is_ssd(state):
            return caffe_weights.backbone_state(state) | caffe_weights.multibox_heads(state)
        if torchvision_detectors.name_of(state) not in cls.published:
            return None
        return torchvision_detectors.convert(state, keep)

    @classmethod
    def from_foreign(cls, state: Mapping[str, Tensor], source: str) -> SSD | None:
        """Return the released detector of VOC's or COCO's classes in a `.caffemodel`, else None.

        Raises DetkitError for other classes, whose names the file, `source`, does not hold.
        """
        own, config = cls.convert_foreign(state), cls.config_of(state)
        if own is None or not caffe_weights.is_ssd(state):
            return None
        assert isinstance(config, SSDConfig)
        scores, boxes = (len(own[f"{head}_head.convs.0.bias"]) for head in ("class", "box"))
        names = caffe_weights.class_names(4 * scores // boxes - 1, source)
        with torch.device("meta"):  # random weights are not worth the time and the memory
            detector = cls(config, names)
        caffe_weights.fill(detector, own, source)
        detector.backbone.pretrained = True
        return detector.eval()

    def network_size(self) -> Callable[[int, int], tuple[int, int]]:
        """Return the rule: every image is warped to `size` x `size`."""
        return partial(square, self.config.size)

    def augmentation(self) -> Transform:
        """Return sec. 3.6's augmentation: photometric, expand, IoU crop, resize, mirror."""
        return ssd_augmentation(self.network_size(), self.config.mean)

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """Return the L maps, (B, C_l, H_l, W_l), of (B, 3, H, W) images."""
        maps: list[Tensor] = self.backbone(images)
        x = maps[-1]
        for layer in self.extras:
            x = layer(x)
            maps.append(x)
        for index, norm in enumerate(self.norms):
            maps[index] = norm(maps[index])
        return maps

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return class logits (B, K, C + 1), deltas (B, K, 4) and the default boxes (K, 4)."""
        maps = self.feature_maps(images)
        map_sizes = [(x.shape[2], x.shape[3]) for x in maps]
        size = (images.shape[2], images.shape[3])
        boxes = self.default_boxes(map_sizes, size, images.device)
        return self.class_head(maps).float(), self.box_head(maps).float(), boxes

    def default_boxes(
        self,
        map_sizes: Sequence[tuple[int, int]],
        image_size: tuple[int, int],
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Return the (K, 4) default boxes in network pixels; made once a size and device."""
        key = (tuple(map_sizes), image_size, str(device))
        if key not in self._default_boxes:
            self._default_boxes[key] = default_boxes(
                map_sizes,
                image_size,
                self.scales,
                self.ratios,
                self.steps,
                clip_sides=self.config.clip_sides,
            ).to(device)
        return self._default_boxes[key]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return `class` (confidence) and `box` (localisation) loss, eq. 1."""
        logits, deltas, boxes = self.predict(batch.images)
        targets = torch.zeros(logits.shape[:2], dtype=torch.int64, device=logits.device)
        delta_targets = torch.zeros_like(deltas)
        images = zip(batch.boxes, batch.labels, self.matches(batch, boxes))
        for index, (gt_boxes, labels, matches) in enumerate(images):
            targets[index].masked_fill_(matches == IGNORED, IGNORED)
            positive = (matches >= 0).nonzero().flatten()
            truth = matches[positive]
            targets[index, positive] = labels[truth] + 1
            delta_targets[index, positive] = encode(
                gt_boxes[truth], boxes[positive], self.config.variances
            )
        confidence, localisation = multibox_loss(
            logits,
            deltas,
            targets,
            delta_targets,
            negatives_per_positive=self.config.negatives_per_positive,
            loc_weight=self.config.loc_weight,
        )
        return {"class": confidence, "box": localisation}

    def matches(self, batch: Batch, boxes: Tensor) -> Iterator[Tensor]:
        """Yield each image's (K,) int64: the ground truth that each of `boxes` (K, 4) learns.

        As `match_default_boxes` has it, and `IGNORED` for what is neither that nor background.
        """
        for gt_boxes, ignored in zip(batch.boxes, batch.ignored_boxes):
            matches = match_default_boxes(iou(gt_boxes, boxes), self.config.positive_thresh)
            yield spare_ignored(matches, boxes, ignored)

    def loss_sizes(self, batch: Batch) -> dict[str, float]:
        """Return N of eq. 1, the matched boxes, for both losses."""
        size = (batch.images.shape[2], batch.images.shape[3])
        boxes = self.reference_boxes(size, batch.images.device)
        number = sum(float((one >= 0).sum()) for one in self.matches(batch, boxes))
        return {"class": number, "box": number}

    def candidates(self, batch: Batch) -> list[Candidates]:
        """Return all K default boxes, moved, with each class's probability."""
        return [Candidates(*one) for one in zip(*self.dense_candidates(batch.images))]

    def dense_candidates(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return `candidates` of (B, 3, H, W) images: boxes (B, K, 4) and scores (B, K, C)."""
        logits, deltas, boxes = self.predict(images)
        probs = logits.softmax(dim=-1)[..., 1:]
        return decode(deltas, boxes, self.config.variances), probs

    @property
    def smallest_object(self) -> float:
        """The stride of the finest map, at least: below it an object has no place for itself."""
        return max(super().smallest_object, float(self.backbone.taps[0].stride))

    @property
    def reach_rule(self) -> str:
        """What an object out of reach is, in words: the rule of `reachable`."""
        thresh = self.config.positive_thresh
        return (
            f"{super().reach_rule}, or smaller than all default boxes, none of which overlaps them "
            f"by {thresh:g}"
        )

    def reachable(
        self, boxes: Tensor, size: tuple[int, int], original_size: tuple[int, int]
    ) -> Tensor:
        """Return, (R,) bool, which objects are large enough to be learnt and found.

        One that is smaller than all default boxes has to be overlapped by more than
        `positive_thresh` by one of them, sec. 2.2: else all of them, but for the one that every
        object is given, learn that there is background.
        """
        thresh = self.config.positive_thresh
        best = best_overlaps_of_small(boxes, self.reference_boxes(size), thresh)
        return (best > thresh) & super().reachable(boxes, size, original_size)

    def reference_boxes(self, size: tuple[int, int], device: torch.device | str = "cpu") -> Tensor:
        """Return the (K, 4) default boxes of an image of `size`: no network runs for them."""
        if size not in self._map_sizes:
            twin = self if self.device.type == "meta" else self.weightless()
            maps = twin.feature_maps(torch.empty(1, 3, *size, device="meta"))
            self._map_sizes[size] = [(x.shape[2], x.shape[3]) for x in maps]
        return self.default_boxes(self._map_sizes[size], size, device)

    def finer_settings(self) -> Iterator[dict[str, Any]]:
        """Yield larger images, and scales from two strides of the finest map on, cheapest first.

        Scales are shares of the image: a larger one alone takes the smallest default box along.
        """
        config, stride = self.config, self.backbone.taps[0].stride
        is_own = bool(config.scales or config.ratios or config.steps)  # they fit one size
        for size in [config.size] if is_own else self.finer_sizes():
            settings = {} if size == config.size else {"size": size}
            scales = self.weightless(replace(config, size=size)).scales
            if settings:
                yield settings
            if 2 * stride / size < scales[0]:
                yield {**settings, "scales": spaced(2 * stride / size, scales)}

    def origins(self, batch: Batch, iou_thresh: float) -> list[list[TraceStage]]:
        """Return for each image which objects a default box reaches."""
        size = (batch.images.shape[2], batch.images.shape[3])
        boxes = self.reference_boxes(size, batch.images.device)
        return [
            [box_stage("default boxes", "no default box reaches it", gt_boxes, boxes, iou_thresh)]
            for gt_boxes in batch.boxes
        ]


def spaced(first: float, scales: Sequence[float]) -> tuple[float, ...]:
    """Return as many scales, from `first` to the same last, each so many times the one before."""
    step = (scales[-1] / first) ** (1 / (len(scales) - 1))
    return tuple(round(first * step**level, 3) for level in range(len(scales)))


def layout(
    config: SSDConfig, num_maps: int
) -> tuple[tuple[float, ...], tuple[tuple[float, ...], ...], tuple[float, ...] | None]:
    """Return (scales (L + 1), ratios (L), steps (L) or None) of the default boxes.

    Raises UsageError when `--set scales=...` or `ratios=...` do not fit the number of maps.
    """
    vgg = config.backbone == "vgg16"
    scales, steps = config.scales, config.steps or None
    if not scales and vgg and config.size in (300, 512):
        scales = _SCALES_300 if config.size == 300 else _SCALES_512
    if not scales:
        # Eq. 4 from .2 to .9 over all maps but the first, which has half of the next scale.
        rest = [0.2 + 0.7 * k / max(num_maps - 2, 1) for k in range(num_maps - 1)]
        scales = (0.1, *rest, 1.05)
    if steps is None and vgg and config.size in (300, 512):
        steps = _STEPS_300 if config.size == 300 else _STEPS_512
    ratios = config.ratios
    if not ratios:
        ratios = tuple(
            (2.0,) if level == 0 or level >= num_maps - 2 else (2.0, 3.0)
            for level in range(num_maps)
        )
    if len(scales) != num_maps + 1:
        raise UsageError(f"--set scales: expected {num_maps + 1} values, not {len(scales)}")
    if len(ratios) != num_maps or (steps is not None and len(steps) != num_maps):
        raise UsageError(f"--set ratios / steps: expected one entry for each of {num_maps} maps")
    return scales, ratios, steps
