"""Fast R-CNN: regions of interest judged on one feature map.

Girshick: ICCV 2015, arXiv:1504.08083v2.

Shape shorthand: B images a batch, L feature maps, P proposals of an image, R regions sampled
in all images of a batch (rois), C classes, G ground truths and I ignored boxes of an image.

Differences from the paper:
- VGG16, CaffeNet and VGG_CNN_M_1024 are the paper's. Other backbones either end in a feature
  pyramid and a slim two-layer head, so that a laptop can train them, or, with `neck=single`, use
  one map of stride 16; ResNets then lend their last stage as the head (He et al. 2016, sec. 4.3).
- An image without a proposal in the background's IoU range [.1, .5), as one without objects,
  takes its background from the other proposals that are not positive.
- A region that lies by half or more in an ignored object or a crowd is not sampled as background.
  The later release (py-faster-rcnn, COCO) leaves out all that lie in a crowd by more than .7, also
  those that reach another object, which stay positive here.
- Difficult objects are learnt, as in the first release, where py-faster-rcnn has them left out;
  by `short_recipe` they are ignored.
- Targets are divided by fixed deviations (py-faster-rcnn's), not by those of the data set.
- One scale in training and test (sec. 5.2); no image pyramids.
- The network's sides are rounded down, as in torchvision, where the released code's resizing
  rounds them to the nearest: a pixel of a longer side of 1000.
- Detections: the released code lets the best 100 boxes of a class and image into NMS, which is
  `pre_nms_top_k=100`; we take 1000, since ten boxes an object fill 100 where objects are many.
  Over a whole test set it also keeps 40 boxes a class for each image, by a threshold that it finds
  on the way: what is found in an image does not depend on others here, and `score_thresh` and
  100 boxes an image are py-faster-rcnn's instead.
- `roi_pooling=spp` has SPPnet's pyramid and its rounding (appendix A) as a layer that gradients
  pass; its five scales, its ZF network and its SVMs are not here.
- `short_recipe` (AdamW, cosine, moving average) is ours and the default on the command line;
  `recipe` is the paper's.

Where the equations are:
- sec. 2: `RoIHead`, from a region to its two sibling outputs
- sec. 2.1: `RoIPooling`, RoI max pooling
- sec. 2.3, eqs. 1-3: `multi_task_loss`, multi-task loss, its two parts, smooth L1
- sec. 2.3: `sample_rois`, the regions of a mini-batch
- sec. 2.3, eq. 4: `RoIPooling`, RoI pooling's gradient, which is torchvision's
- sec. 3: `classify_rois`, test: the boxes and probabilities of each region
- sec. 3: `Detector.detect`, test: NMS of each class
- sec. 3.1, eq. 5: `truncated`, a layer made two by truncated SVD
- sec. 3.1: `RegionDetector.compressed`, a detector with its fc6 and fc7 shortened so
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import Conv2dNormActivation

from detkit.config import SHORT_RECIPE, DetectorConfig, PaperRun, ProposalConfig, Recipe, setting
from detkit.detector import Detector
from detkit.errors import UsageError
from detkit.geometry.boxes import decode, encode, iou
from detkit.geometry.matching import IGNORED, NEGATIVE, match, sample_balanced, spare_ignored
from detkit.networks import backbones, caffe_weights
from detkit.networks.caffe_networks import CLASSIFIERS
from detkit.networks.necks import FeaturePyramid, SingleMap, initialise
from detkit.networks.roi_pooling import RoIPooling, boxes_with_image
from detkit.networks.truncated_svd import factored, truncated
from detkit.networks.weights import read_state_dict, trained_with
from detkit.structures import Batch, Candidates
from detkit.transforms.preparation import Preparation, shorter_side

if TYPE_CHECKING:
    from typing_extensions import Self

Pixels = Sequence[tuple[float, float]]  # B x (width, height) of a pixel, network pixels
LEAST_SIDE = 64  # ours: two places of the last map of most backbones, and some of every pooling
# Backbones that get the papers' sizes; those but ResNet are the papers', with one map, fc6 and fc7.
# AlexNet is torchvision's, with none of these releases' weights, and as light as others.
SINGLE = tuple(name for name in CLASSIFIERS if name != "alexnet")
LARGE = (*SINGLE, "resnet", "densenet", "inception", "convnext")


@dataclass(frozen=True, kw_only=True)
class RegionConfig(DetectorConfig):
    """The numbers of a detector that judges regions: Fast R-CNN's, and Faster R-CNN's head."""

    size: int | None = setting(
        None,
        "sec. 5.2: shorter side 600 (none: that on the papers' networks and ResNet, else 320)",
        at_least=1,
    )
    max_size: int | None = setting(
        None, "sec. 5.2: longer side at most 1000 (none: size x 5/3)", at_least=1
    )
    neck: Literal["auto", "single", "fpn"] = setting(
        "auto", "auto: the papers' single map on their networks, else FPN (Lin et al. 2017)"
    )
    neck_width: int | None = setting(
        None, "none: 256 on ResNet (FPN sec. 3); ours: 128 on light backbones", at_least=1
    )
    neck_norm: bool = setting(
        False, "FPN sec. 3 has none; torchvision's v2: batch norms in the pyramid"
    )
    roi_pooling: Literal["auto", "pool", "align", "spp"] = setting(
        "auto",
        "sec. 2.1: pool; auto: align on FPN (Mask R-CNN); spp: SPPnet's levels 1 2 3 6, 50 places "
        "(VGG16's fc6 then begins from chance: it is of another length)",
    )
    pool_size: int | None = setting(
        None,
        "sec. 2.1: 7 (none: that; 6 on the smaller Caffe networks; 14 before ResNet's last stage)",
        at_least=1,
    )
    head_width: int | None = setting(
        None,
        "of the two-layer head; none: 1024 on ResNet (FPN sec. 4.2); ours: 512 on light ones",
        at_least=1,
    )
    head_convs: int = setting(
        0,
        "FPN sec. 4.2: none before the two layers; torchvision's v2: 4 with norms, and one layer",
        at_least=0,
    )
    rois_per_image: int = setting(64, "sec. 2.3: R = 128 of N = 2 images", at_least=1)
    positive_fraction: float = setting(0.25, "sec. 2.3: 25 % of the RoIs", above=0, at_most=1)
    positive_thresh: float = setting(0.5, "sec. 2.3: IoU of at least .5", above=0, at_most=1)
    negative_range: tuple[float, float] = setting(
        (0.1, 0.5), "sec. 2.3: IoU in [.1, .5)", at_least=0, at_most=1
    )
    box_variances: tuple[float, float, float, float] = setting(
        (0.1, 0.1, 0.2, 0.2),
        "sec. 2.3: targets of unit variance; py-faster-rcnn: these standard deviations",
        above=0,
    )
    box_weight: float = setting(1.0, "sec. 2.3: lambda = 1", at_least=0)
    svd: tuple[int, int] = setting(
        (0, 0),
        "sec. 4.4: 1024 singular values of fc6 and 256 of fc7 kept; 0: all (no SVD)",
        at_least=0,
    )
    score_thresh: float = setting(
        0.05, "py-faster-rcnn; Fast R-CNN's released code finds one by class over the test set"
    )
    nms_thresh: float = setting(0.3, "sec. 3: as R-CNN; its released code")
    pre_nms_top_k: int = setting(
        1000,
        "ours: no fewer than an image's likely regions of a class; Fast R-CNN's released code: 100",
    )
    max_detections: int = setting(100, "py-faster-rcnn: 100 an image of all classes")

    @property
    def is_large(self) -> bool:
        """Whether the backbone is of the papers' kind, too heavy for minutes on a laptop."""
        return self.backbone.startswith(LARGE)

    @property
    def sides(self) -> tuple[int, int]:
        """The network image's shorter side and the longest its longer one may be."""
        side = self.size or (600 if self.is_large else 320)
        return side, self.max_size or round(side * 5 / 3)

    @property
    def has_pyramid(self) -> bool:
        """Whether regions are cut from a pyramid of maps."""
        return self.neck == "fpn" or (self.neck == "auto" and self.backbone not in SINGLE)

    def validate(self) -> None:
        """Raise UsageError for a value that no detector of regions can work with."""
        super().validate()
        shorter, longer = self.sides
        if longer < shorter:
            raise UsageError(
                f"--set max_size={longer}: the longer side must be at least size, the shorter "
                f"one's {shorter}"
            )
        low, high = self.negative_range
        if not low < high <= self.positive_thresh:
            raise UsageError(
                f"--set negative_range={low},{high}: must rise, up to at most positive_thresh "
                f"({self.positive_thresh})"
            )


@dataclass(frozen=True, kw_only=True)
class FastRCNNConfig(RegionConfig, ProposalConfig):
    """Fast R-CNN's numbers."""


def build_maps(config: RegionConfig) -> tuple[backbones.Backbone, SingleMap | FeaturePyramid]:
    """Return the backbone and what makes the L maps of its own that regions are cut from."""
    name, is_large = config.backbone, config.is_large
    if config.has_pyramid:
        backbone = backbones.build(name, (4, 8, 16, 32) if is_large else (8, 16, 32))
    else:  # large ones' own last layers are the head
        own = f"{name}{CLASSIFIERS[name].borders}-fc" if name in SINGLE else name
        backbone = backbones.build(own, (16,), whole=is_large)
    if name in SINGLE:  # sec. 4.5, as Faster R-CNN sec. 3.3
        backbone.generic_blocks = CLASSIFIERS[name].fixed
    if config.has_pyramid:
        return backbone, FeaturePyramid(
            backbone.taps,
            config.neck_width or (256 if is_large else 128),
            norms=config.neck_norm,
        )
    light = config.neck_width or 128
    return backbone, SingleMap(backbone.taps[-1], config.neck_width if is_large else light)


class RoIHead(nn.Module):
    """What a region holds, and how its box must move: Fast R-CNN sec. 2.1.

    Regions are pooled to one size; fully connected layers (the backbone's own last ones, or
    two of the head's) lead to two sibling outputs.
    """

    def __init__(
        self,
        config: RegionConfig,
        backbone: backbones.Backbone,
        neck: SingleMap | FeaturePyramid,
        num_classes: int,
    ) -> None:
        """Build the layers for C = `num_classes` classes and background."""
        super().__init__()
        self.fc6: nn.Module
        self.own_layers = not backbone.has_rest
        self.has_convs = self.own_layers and config.head_convs > 0
        self.takes_fc6 = config.roi_pooling == "spp" and not self.own_layers
        residual = backbone.has_rest and config.backbone not in CLASSIFIERS
        fc = not self.own_layers and config.backbone in CLASSIFIERS
        places = CLASSIFIERS[config.backbone].places if fc else 7
        method = config.roi_pooling
        if method == "auto":
            method = "align" if config.has_pyramid else "pool"
        self.pooling = RoIPooling(
            method,
            config.pool_size or (14 if residual else places),
            neck.strides[: neck.num_regional],
            # FPN sec. 4.2: 224, ImageNet's size; on its images of shorter side 800.
            canonical=224 * config.sides[0] / 800,
        )
        if self.own_layers:
            width = config.head_width or (1024 if config.is_large else 512)
            self.fc6 = nn.Linear(self.pooling.num_features(neck.channels), width)
            if config.head_convs:
                self.convs = region_convs(neck.channels, config.head_convs)
            else:
                self.fc7: nn.Module = nn.Linear(width, width)
            shorten(self, config.svd)
        else:
            width = backbones.last_channels(backbone.name)
            if self.takes_fc6:
                if "fc6" not in backbone.blocks:
                    raise UsageError(
                        "--set roi_pooling=spp: the backbone's last stage, the head here, is no "
                        "fully connected layer and wants a map; add --set neck=fpn"
                    )
                # Its own is of another length; fc7 may still hold the classifier's weights.
                own = backbone.blocks["fc6"]
                del backbone.blocks["fc6"]
                assert isinstance(own, nn.Linear)
                self.fc6 = nn.Linear(self.pooling.num_features(neck.channels), own.out_features)
                initialise([self.fc6], 0.01)  # SPPnet's released code
            shorten(self if self.takes_fc6 else backbone.blocks, (config.svd[0], 0))
            shorten(backbone.blocks, (0, config.svd[1]))
        self.class_logits = nn.Linear(width, num_classes + 1)
        self.deltas = nn.Linear(width, num_classes * 4)
        initialise([self.class_logits], 0.01)  # sec. 2.3
        initialise([self.deltas], 0.001)

    def forward(
        self,
        maps: Sequence[Tensor],
        rois: Tensor | Sequence[Tensor],
        backbone: backbones.Backbone,
        pixels: Pixels | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return class logits (R, C + 1), background first, and deltas (R, C, 4).

        `maps` are the L maps (B, C_l, H_l, W_l); `rois`, network pixels, and `pixels` as in
        `RoIPooling`.
        """
        x = self.pooling(maps, rois, pixels)
        if self.own_layers:
            if self.has_convs:
                x = F.relu(self.fc6(self.convs(x).flatten(1)))
            else:
                x = F.relu(self.fc7(F.relu(self.fc6(x.flatten(1)))))
        else:
            x = backbone.finish(self.fc6(x) if self.takes_fc6 else x)
            x = x.mean(dim=(2, 3)) if x.ndim == 4 else x
        deltas = self.deltas(x).float().view(x.shape[0], self.deltas.out_features // 4, 4)
        return self.class_logits(x).float(), deltas


def region_convs(channels: int, number: int) -> nn.Sequential:
    """Return so many 3x3 convolutions, each with a batch norm and ReLU, that keep (C, P, P)."""
    convs = nn.Sequential(*(Conv2dNormActivation(channels, channels) for _ in range(number)))
    for layer in convs.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return convs


def shorten(layers: nn.Module, ranks: tuple[int, int]) -> None:
    """Put two layers each in the place of fc6 and fc7 among `layers`, where a rank is given.

    Raises UsageError when there is no such layer, or none of that rank.
    """
    for name, rank in zip(("fc6", "fc7"), ranks):
        if rank:
            whole = dict(layers.named_children()).get(name)
            if not isinstance(whole, nn.Linear):
                raise UsageError(f"--set svd: this head has no fully connected layer {name}")
            if rank > min(whole.weight.shape):
                raise UsageError(
                    f"--set svd: {rank} is more than the {min(whole.weight.shape)} singular "
                    f"values of {name}"
                )
            layers.add_module(name, factored(whole.in_features, whole.out_features, rank))


@dataclass(frozen=True)
class RoISample:
    """The regions of one image that a step learns from, and what they are to learn."""

    rois: Tensor  # (r, 4) network pixels
    labels: Tensor  # (r,) int64, 0 for background, else the class + 1
    delta_targets: Tensor  # (r, 4); zero for background


def sample_rois(
    proposals: Tensor, gt_boxes: Tensor, gt_labels: Tensor, ignored: Tensor, config: RegionConfig
) -> RoISample:
    """Return a random sample of an image's proposals (P, 4) and ground truths (G, 4).

    Sec. 2.3: `rois_per_image` regions, at most `positive_fraction` of them with an IoU of
    `positive_thresh` or more with a ground truth, the others from `negative_range`. Ground
    truths are proposals too, as in the released code. Inside the `ignored` boxes (I, 4) there is
    no background.
    """
    boxes = torch.cat([proposals, gt_boxes])
    overlaps = iou(gt_boxes, boxes)
    low, high = config.negative_range
    matches = spare_ignored(match(overlaps, config.positive_thresh, high), boxes, ignored)
    if len(gt_boxes):
        negative = matches == NEGATIVE
        too_far = negative & (overlaps.amax(dim=0) < low)
        are_others = too_far.sum() < negative.sum()
        matches = matches.masked_fill(too_far & are_others, IGNORED)
    positives, negatives = sample_balanced(matches, config.rois_per_image, config.positive_fraction)
    chosen = torch.cat([positives, negatives])
    truth = matches[positives]
    labels = torch.zeros(len(chosen), dtype=torch.int64, device=boxes.device)
    labels[: len(positives)] = gt_labels[truth] + 1
    targets = boxes.new_zeros(len(chosen), 4)
    targets[: len(positives)] = encode(gt_boxes[truth], boxes[positives], config.box_variances)
    return RoISample(boxes[chosen], labels, targets)


def multi_task_loss(
    class_logits: Tensor,
    deltas: Tensor,
    labels: Tensor,
    delta_targets: Tensor,
    box_weight: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Return (class loss, box loss) of eqs. 1-3, means over the R regions.

    `class_logits` (R, C + 1) with background first, `deltas` (R, C, 4), `labels` (R,) int64,
    0 for background, `delta_targets` (R, 4). R = 0 gives 0, with gradients attached.
    """
    num_rois = max(1, len(labels))
    positive = (labels > 0).nonzero().flatten()
    of_class = deltas[positive, labels[positive] - 1]  # eq. 1: [u >= 1], t^u
    class_loss = F.cross_entropy(class_logits, labels, reduction="sum")  # eq. 1: -log p_u
    # Eqs. 2 and 3: quadratic below 1, torch's default.
    box_loss = F.smooth_l1_loss(of_class, delta_targets[positive], reduction="sum")
    return class_loss / num_rois, box_weight * box_loss / num_rois


def roi_losses(
    head: RoIHead,
    backbone: backbones.Backbone,
    maps: Sequence[Tensor],
    samples: Sequence[RoISample],
    box_weight: float,
    pixels: Pixels | None = None,
) -> tuple[Tensor, Tensor]:
    """Return (class loss, box loss) of the sampled regions of all images."""
    class_logits, deltas = head(maps, [one.rois for one in samples], backbone, pixels)
    labels = torch.cat([one.labels for one in samples])
    targets = torch.cat([one.delta_targets for one in samples])
    return multi_task_loss(class_logits, deltas, labels, targets, box_weight)


def classify_rois(
    head: RoIHead,
    backbone: backbones.Backbone,
    maps: Sequence[Tensor],
    rois: Tensor | Sequence[Tensor],
    variances: tuple[float, float, float, float],
    pixels: Pixels | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the regions, (R, C, 4) moved by every class's deltas, and probabilities (R, C).

    `rois` and `pixels` are as in `RoIPooling`.
    """
    class_logits, deltas = head(maps, rois, backbone, pixels)
    regions = boxes_with_image(rois)[:, 1:]
    has_area = (regions[:, 2:] > regions[:, :2]).all(dim=1, keepdim=True)  # else nothing is in it
    probs = class_logits.softmax(dim=-1)[:, 1:] * has_area
    return decode(deltas, regions[:, None], variances), probs


def by_image(proposals: Sequence[Tensor], boxes: Tensor, probs: Tensor) -> list[Candidates]:
    """Return `classify_rois`' result, whose rows are those of the B x (P, 4), image by image."""
    counts = [len(one) for one in proposals]
    return [
        Candidates(*pair) for pair in zip(torch.split(boxes, counts), torch.split(probs, counts))
    ]


def own_pixels(batch: Batch) -> Pixels:
    """Return B x (width, height), network pixels, of a pixel of each image's own."""
    return [
        (network[1] / own[1], network[0] / own[0])
        for network, own in zip(batch.sizes, batch.original_sizes, strict=True)
    ]


class RegionDetector(Detector):
    """What Fast R-CNN and Faster R-CNN have in common: a backbone, its maps, the head."""

    config: RegionConfig

    def __init__(self, config: RegionConfig, class_names: Sequence[str]) -> None:
        """Build the network with random weights for these classes."""
        super().__init__(config, class_names)
        self.backbone, self.neck = build_maps(config)
        self.head = RoIHead(config, self.backbone, self.neck, len(self.class_names))

    @classmethod
    def from_foreign(cls, state: Mapping[str, Tensor], source: str) -> Self | None:
        """Return the released detector of VOC's or COCO's classes in a `.caffemodel`, else None.

        Raises DetkitError for other classes, whose names the file, `source`, does not hold.
        """
        own, config = cls.convert_foreign(state), cls.config_of(state)
        if own is None or trained_with(state) is None:
            return None
        assert isinstance(config, RegionConfig)
        names = caffe_weights.class_names(len(own["head.class_logits.bias"]) - 1, source)
        with torch.device("meta"):  # random weights are not worth the time and the memory
            detector = cls(config, names)
        caffe_weights.fill(detector, own, source)
        detector.backbone.pretrained = True
        return detector.eval()

    def network_size(self) -> Callable[[int, int], tuple[int, int]]:
        """Return Fast R-CNN's rule, sec. 5.2: a shorter side of `size`, the longer not too long."""
        return partial(shorter_side, *self.config.sides)

    @property
    def preparation(self) -> Preparation:
        """What turns samples into a batch, padded: strides divide it, and no map vanishes."""
        stride = self.backbone.taps[-1].stride
        return dataclasses.replace(super().preparation, stride=stride, least=LEAST_SIDE)

    @property
    def smallest_object(self) -> float:
        """The stride of the finest map that regions are cut from, at least: one place of it."""
        return max(super().smallest_object, float(self.neck.strides[0]))

    def maps(self, images: Tensor) -> list[Tensor]:
        """Return the L maps, (B, C_l, H_l, W_l), of (B, 3, H, W) images."""
        maps: list[Tensor] = self.neck(self.backbone(images))
        return maps

    def _load_weights(self, weights: str, class_names: Sequence[str] | None) -> None:
        """Start from other weights; whole fc6 and fc7 are shortened as `svd` says: sec. 3.1."""
        random = weights == "none" or not any(self.config.svd)
        if random or (Path(weights).is_file() and _are_short(read_state_dict(Path(weights)))):
            super()._load_weights(weights, class_names)
            return
        whole = type(self)(dataclasses.replace(self.config, svd=(0, 0)), self.class_names)
        whole._load_weights(weights, class_names)
        self.load_state_dict(whole.compressed(self.config.svd).state_dict())
        self.backbone.pretrained = whole.backbone.pretrained

    def compressed(self, ranks: tuple[int, int]) -> Self:
        """Return a copy whose fc6 and fc7 are shortened to these ranks, 0 for neither: sec. 3.1.

        Raises UsageError when the head has no such layers, or none of that rank, or was
        shortened before.
        """
        if any(self.config.svd):
            raise UsageError("this model's layers have been shortened before; take the whole one")
        config = dataclasses.replace(self.config, svd=ranks)
        config.validate()
        shorter = type(self)(config, self.class_names)
        state = self.state_dict()
        for name, rank in zip(("fc6", "fc7"), ranks):
            for prefix, module in self.named_modules():
                if rank and isinstance(module, nn.Linear) and prefix.endswith(f".{name}"):
                    del state[f"{prefix}.weight"], state[f"{prefix}.bias"]
                    both = truncated(module, rank).state_dict()
                    state |= {f"{prefix}.{key}": value for key, value in both.items()}
        shorter.load_state_dict(state)
        shorter.backbone.pretrained = self.backbone.pretrained
        return shorter.train(self.training)


def _are_short(state: Mapping[str, Tensor]) -> bool:
    """Return whether fc6 or fc7 has been shortened before."""
    return any(f".{name}.0.weight" in key for key in state for name in ("fc6", "fc7"))


class FastRCNN(RegionDetector):
    """Fast R-CNN: external proposals, one feature map an image, RoI pooling, multi-task loss."""

    name: ClassVar[str] = "fast-rcnn"
    paper: ClassVar[str] = "Girshick 2015, arXiv:1504.08083"
    config_class: ClassVar[type[DetectorConfig]] = FastRCNNConfig
    proposal_method: ClassVar[str | None] = "selective-search"
    recipe_source: ClassVar[str] = "sec. 2.3: 2 images a batch, 30k steps at .001 and 10k at .0001"
    recipe: ClassVar[Recipe] = Recipe(
        batch_size=2, max_steps=40_000, milestones=(0.75,), bias_lr_factor=2.0
    )
    paper_runs: ClassVar[Mapping[str, PaperRun]] = {
        "paper": PaperRun(
            data="voc07",
            backbone="vgg16",
            settings={"proposal_min_side": 20},
            source="sec. 2.3 and released code: 40k steps of 2 images, .1 of the rate from 30k",
        ),
        "paper-0712": PaperRun(
            data="voc0712",
            backbone="vgg16",
            settings={"proposal_min_side": 20},
            recipe={"max_steps": 60_000, "milestones": (0.5,)},
            source="sec. 4.4: 60k steps; Faster R-CNN's release, solver_30k60k: .1 from 30k",
        ),
        "paper-coco": PaperRun(
            data="coco",
            backbone="vgg16",
            settings={"proposal_min_side": 20},
            recipe={"max_steps": 240_000, "milestones": (0.75,)},
            source="sec. 5.6: 240k steps; where the rate falls is not said: ours, at 3/4 as on VOC",
        ),
    }
    short_recipe: ClassVar[Recipe] = dataclasses.replace(SHORT_RECIPE, batch_size=4)
    config: FastRCNNConfig

    @classmethod
    def convert_foreign(
        cls, state: Mapping[str, Tensor], keep: Sequence[int] | None = None
    ) -> dict[str, Tensor] | None:
        """Return the state dict of fast-rcnn's released Caffe detectors, else None."""
        if not caffe_weights.is_region_detector(state, proposes=False):
            return None
        variances = FastRCNNConfig().box_variances
        return caffe_weights.backbone_state(state) | caffe_weights.region_head(state, variances)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return `roi_class` and `roi_box`, eq. 1."""
        maps = self.maps(batch.images)
        samples = self.samples(batch)
        class_loss, box_loss = roi_losses(
            self.head, self.backbone, maps, samples, self.config.box_weight, own_pixels(batch)
        )
        return {"roi_class": class_loss, "roi_box": box_loss}

    def samples(self, batch: Batch) -> list[RoISample]:
        """Return the regions of each image that a step learns from, drawn by chance."""
        images = zip(self.given_proposals(batch), batch.boxes, batch.labels, batch.ignored_boxes)
        return [sample_rois(*image, self.config) for image in images]

    def loss_sizes(self, batch: Batch) -> dict[str, float]:
        """Return the number of regions, which is the same whichever are drawn."""
        number = float(sum(len(one.labels) for one in self.samples(batch)))
        return {"roi_class": number, "roi_box": number}

    def candidates(self, batch: Batch) -> list[Candidates]:
        """Return the proposals, (P, C, 4) moved by class, with each class's probability."""
        maps = self.maps(batch.images)
        proposals = self.given_proposals(batch)
        boxes, probs = classify_rois(
            self.head,
            self.backbone,
            maps,
            proposals,
            self.config.box_variances,
            own_pixels(batch),
        )
        return by_image(proposals, boxes, probs)
