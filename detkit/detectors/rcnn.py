"""R-CNN: regions with CNN features.

Girshick, Donahue, Darrell, Malik: CVPR 2014, arXiv:1311.2524v5.

Shape shorthand: B images a batch, P proposals of an image, R regions in all, S x S pixels of a
crop, D features behind the network's last layer, Q at pool5, C classes, G ground truths and I
ignored boxes of an image.

Differences from the paper:
- VGG16 is the paper's. AlexNet is torchvision's (Krizhevsky 2014): other widths than the paper's,
  no groups, no local response norms. Both have fc6 and fc7. Other classifiers have one layer behind
  their last map, the mean over its places; light ones see crops of 96 pixels. What stands for
  pool5 there has no more values than AlexNet's.
- Crops are cut from images whose longer side is at most `max_size`, smoothed where they shrink
  (`antialias=no`: as in the released code).
- The 128 crops of a step come from the images of a batch, not from the whole data set.
- A region inside an ignored object is neither background in fine-tuning, unless it is positive,
  nor a negative of an SVM. Box regressions take no notice of it. COCO's crowds are ignored so.
- Difficult objects are learnt, as in the released code; by `short_recipe` they are ignored.
- Of proposals that nearly cover each other the best ranked is judged first, and the others only
  where it seems to be an object (`neighbour_thresh`; the paper's recipe judges all).
- Of an image `mined_proposals` are judged for the SVMs. What is kept stays within `cache_gb`, not
  200 GB: where a class has more hard negatives than that, the hardest stay, and of its pairs for
  box regression a sample by chance. With VGG16 and 20 classes, 6 GB hold 17,000 and 1,600 a class.
- The new classifier layer learns at the rate of all others; in the released code's model files,
  not in the paper, at ten times that.
- The SVMs' features are scaled by the mean norm in the first batch, in the released code by that
  in 200 images. Box regressions are eq. 5 alone: the released code also penalises the bias. That
  it decorrelates the four targets changes nothing: ridge regression is linear in them.
- `max_detections` are of an image, as in py-faster-rcnn; R-CNN's released code keeps, of a class,
  40 an image on average. Boxes are moved before NMS, and once.
- `short_recipe` (AdamW, cosine, moving average) is ours and the default on the command line;
  `recipe` is the paper's.

The passes for SVMs and boxes run in float32 whatever fine-tuning ran in. In bf16 a CPU with
AVX-512 made the features of 16 crops in .36 s instead of .68 on resnet18, in .017 instead of .019
on mobilenet_v2, and they moved by .4 to .8 %: too little for SVMs that then judge, since
detection is in float32 unless it is asked for less, other features than they were fitted to.

Where the equations are:
- sec. 2.1: `CropCutter.cut`, a region of any shape is warped to the network's square input
- sec. 2.1: `RCNN.features`, what the network says of a crop
- sec. 2.2: `RCNN.candidates`, each class's score of every region
- sec. 2.2: `Detector.detect`, test: NMS of each class
- sec. 2.3: `sample_regions`, fine-tuning's 32 positive and 96 background regions
- sec. 2.3: `RCNN.losses`, fine-tuning's loss
- sec. 2.3: `RCNN.fit_svms`, a linear SVM for each class
- sec. 2.3: `svms.MinedSVM`, an SVM's hard negatives
- appendix A: `with_context`, the context around a region, as it is or as a square
- appendix B: `RCNN.candidates_by_head`, SVMs beside softmax
- appendix C, eqs. 1-4: `decode`, deltas move a proposal P
- appendix C, eq. 5: `box_regression.fit_ridge`, ridge regression of the targets t
- appendix C, eqs. 6-9: `boxes.encode`, the targets t of a pair (P, G)
- appendix C: `box_pairs`, the pairs (P, G) that are learnt from
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detkit.config import SHORT_RECIPE, DetectorConfig, PaperRun, ProposalConfig, Recipe, setting
from detkit.detector import Detector, Pace, Passes, Stage
from detkit.errors import UsageError
from detkit.geometry.boxes import decode, iou
from detkit.geometry.matching import inside_ignored, match, sample_balanced, spare_ignored
from detkit.geometry.nms import nms
from detkit.machine import memory_of_machine
from detkit.networks import backbones
from detkit.networks.box_regression import BoxRegressors, box_pairs
from detkit.networks.caffe_networks import CLASSIFIERS
from detkit.networks.crops import CropCutter, with_context
from detkit.networks.fold_norms import fold_norms
from detkit.networks.svms import ClassSVMs, SVMSettings
from detkit.structures import Batch, Candidates, FloatArray, IntArray, Truth

POOL5_FEATURES = 256 * 6 * 6  # AlexNet's, and at most so many of other networks
CHUNK = 16  # crops that the network sees at once: what lies between its layers stays in the cache
CHUNK_GPU = 256  # enough to keep one busy


@dataclass(frozen=True, kw_only=True)
class RCNNConfig(ProposalConfig):
    """R-CNN's numbers."""

    size: int | None = setting(
        None,
        "sec. 2.1: 227, AlexNet's (none: that; 224 on VGG16 and ResNet; ours: 96 on others)",
        at_least=1,
    )
    context: int | None = setting(
        None, "sec. 2.1: p = 16 pixels of 227 (none: as much of other sizes)", at_least=0
    )
    warp: Literal["warped", "square"] = setting(
        "warped", "sec. 2.1; square: appendix A's tightest square with context"
    )
    max_size: int = setting(
        1000, "ours: the longer side of the images that crops are cut from", above=0
    )
    crops_per_batch: int = setting(128, "sec. 2.3", above=0)
    positive_fraction: float = setting(0.25, "sec. 2.3: 32 of 128", above=0, at_most=1)
    head: Literal["svm", "softmax"] = setting(
        "svm", "sec. 2.3; softmax: the fine-tuned classifier's, appendix B and MATLAB"
    )
    svm_c: float = setting(1e-3, "released code", above=0)
    svm_positive_weight: float = setting(2.0, "released code", above=0)
    svm_bias_scale: float = setting(10.0, "released code", above=0)
    svm_negative_thresh: float = setting(
        0.3, "sec. 2.3: negatives below an IoU of .3", above=0, at_most=1
    )
    svm_hard_margin: float = setting(-1.0001, "released code: what is kept while mining")
    svm_easy_margin: float = setting(-1.2, "released code: what is let go again")
    svm_retrain_after: int = setting(2000, "released code: new hard negatives of a class", above=0)
    feature_norm: float = setting(
        20.0, "released code: the mean norm features are scaled to", above=0
    )
    mined_proposals: int = setting(
        500,
        "ours: so many of an image, by chance; the paper judges all, in four times the time",
        above=0,
    )
    box_regression: bool = setting(True, "sec. 3.5 and appendix C")
    ridge_penalty: float = setting(1000.0, "appendix C: lambda = 1000", at_least=0)
    ridge_thresh: float = setting(0.6, "appendix C: pairs with an IoU above .6", above=0, at_most=1)
    cache_gb: float = setting(
        0.0,
        "ours: memory for features while SVMs and boxes are fitted, where the released code takes "
        "200 GB; 0: a quarter of the machine's. The log says what is left out",
        at_least=0,
    )
    neighbour_thresh: float = setting(
        0.7,
        "ours: a proposal whose IoU with a better ranked one is above this is judged only where "
        "that one seems to be an object; 1: judge all, as the paper does",
        above=0,
        at_most=1,
    )
    neighbour_score: float = setting(
        0.3,
        "ours: softmax's probability of not being background that a proposal needs for its "
        "neighbours to be judged",
        at_least=0,
        at_most=1,
    )
    score_thresh: float = setting(
        -1.5,
        "ours: the least margin (released code: -1 in its demo, none in its test); of "
        "probabilities that is every one",
        at_least=-math.inf,  # margins have no bounds, but are numbers
        at_most=math.inf,
    )
    nms_thresh: float = setting(0.3, "sec. 2.2: a learned threshold; released code: .3")
    pre_nms_top_k: int = setting(1000, "ours: no fewer than an image's likely regions of a class")
    max_detections: int = setting(
        100, "Faster R-CNN's released code (py-faster-rcnn): of an image and all classes"
    )

    @property
    def crop_size(self) -> int:
        """The side of a crop in pixels."""
        if self.size is not None:
            return self.size
        if self.backbone in CLASSIFIERS:
            return CLASSIFIERS[self.backbone].crop
        return 224 if self.backbone.startswith(("vgg", "resnet")) else 96

    @property
    def crop_context(self) -> int:
        """The pixels around the box on each side of a crop."""
        return round(16 / 227 * self.crop_size) if self.context is None else self.context

    def validate(self) -> None:
        """Raise UsageError for a value that no R-CNN can work with."""
        super().validate()
        if 2 * self.crop_context >= self.crop_size:
            raise UsageError(
                f"--set size={self.crop_size}, context={self.crop_context}: a crop must be larger "
                "than the context on its two sides"
            )
        if self.svm_easy_margin > self.svm_hard_margin:
            raise UsageError(
                f"--set svm_easy_margin={self.svm_easy_margin}: must not be above "
                f"svm_hard_margin ({self.svm_hard_margin})"
            )
        if self.head == "svm" and self.nms_method != "greedy":
            raise UsageError(
                f"--set nms_method={self.nms_method}: multiplies scores, which margins do not "
                "allow; add --set head=softmax"
            )


def at_most(longest: int, height: int, width: int) -> tuple[int, int]:
    """Return the network's (height, width): the image's own, unless a side is above `longest`."""
    scale = min(1.0, longest / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def sample_regions(
    boxes: Sequence[Tensor],
    gt_boxes: Sequence[Tensor],
    gt_labels: Sequence[Tensor],
    ignored: Sequence[Tensor],
    config: RCNNConfig,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (owners, regions (r, 4), targets) of a random sample of all images' `boxes`.

    Sec. 2.3: `crops_per_batch` in all, `positive_fraction` of them with an IoU of
    `positive_thresh` or more with a ground truth, whose class they learn; all others are
    background, 0, but inside the `ignored` boxes, (I, 4) an image, there is none. `owners` (r,)
    says which image a region is of. Ground truths are boxes too.
    """
    owners, regions, targets = [], [], []
    images = zip(boxes, gt_boxes, gt_labels, ignored)
    for index, (proposals, truths, labels, left_out) in enumerate(images):
        all_boxes = torch.cat([proposals, truths])
        matches = match(iou(truths, all_boxes), config.positive_thresh, config.positive_thresh)
        matches = spare_ignored(matches, all_boxes, left_out)
        classes = matches
        if len(labels):
            classes = torch.where(matches >= 0, labels[matches.clamp(min=0)], matches)
        owners.append(torch.full_like(matches, index))
        regions.append(all_boxes)
        targets.append(classes)
    owner, region, target = torch.cat(owners), torch.cat(regions), torch.cat(targets)
    chosen = torch.cat(sample_balanced(target, config.crops_per_batch, config.positive_fraction))
    return owner[chosen], region[chosen], target[chosen] + 1


class RCNN(Detector):
    """R-CNN: external proposals, each warped to a crop that a CNN judges by itself."""

    name: ClassVar[str] = "rcnn"
    paper: ClassVar[str] = "Girshick et al. 2014, arXiv:1311.2524"
    config_class: ClassVar[type[DetectorConfig]] = RCNNConfig
    proposal_method: ClassVar[str | None] = "selective-search"
    recipe_source: ClassVar[str] = (
        "sec. 2.3 and released code: .001, a tenth of it after each 20k of 70k steps"
    )
    recipe: ClassVar[Recipe] = Recipe(
        batch_size=16, max_steps=70_000, milestones=(2 / 7, 4 / 7, 6 / 7), bias_lr_factor=2.0
    )
    paper_runs: ClassVar[Mapping[str, PaperRun]] = {
        "paper": PaperRun(
            data="voc07",
            backbone="alexnet",
            settings={"proposal_min_side": 20, "neighbour_thresh": 1.0},
            source="sec. 2.3 and released code: 70k steps of 128 crops, .1 of the rate each 20k",
        ),
    }
    short_recipe: ClassVar[Recipe] = dataclasses.replace(SHORT_RECIPE, max_steps=1500)
    config: RCNNConfig
    svm_weights: Tensor  # (C, D)
    svm_biases: Tensor  # (C,)
    svm_fitted: Tensor  # (C,) bool: until then the softmax classifier judges
    box_weights: Tensor  # (4 C, Q); zero, which moves no box, until they are fitted
    box_biases: Tensor  # (4 C,)

    def __init__(self, config: RCNNConfig, class_names: Sequence[str]) -> None:
        """Build the network with random weights for these classes."""
        super().__init__(config, class_names)
        own = CLASSIFIERS.get(config.backbone)
        name = f"{config.backbone}-fc" if own else config.backbone
        tap = backbones.last_tap(name)
        self.backbone = backbones.build(name, (tap.stride,), whole=True)
        width = backbones.last_channels(name)
        map_size = math.ceil(config.crop_size / tap.stride)
        largest = max(1, math.isqrt(POOL5_FEATURES // tap.channels))
        self.places = own.places if own else min(map_size, largest)
        num_classes = len(self.class_names)
        self.class_logits = nn.Linear(width, num_classes + 1)
        nn.init.normal_(self.class_logits.weight, std=0.01)  # released code, as AlexNet's own
        nn.init.zeros_(self.class_logits.bias)
        num_pooled = tap.channels * self.places**2
        self.register_buffer("svm_weights", torch.zeros(num_classes, width))
        self.register_buffer("svm_biases", torch.zeros(num_classes))
        self.register_buffer("svm_fitted", torch.zeros(num_classes, dtype=torch.bool))
        self.register_buffer("box_weights", torch.zeros(4 * num_classes, num_pooled))
        self.register_buffer("box_biases", torch.zeros(4 * num_classes))

    def network_size(self) -> Callable[[int, int], tuple[int, int]]:
        """Return the rule: an image keeps its size, unless it is above `max_size`."""
        return partial(at_most, self.config.max_size)

    def finer_settings(self) -> Iterator[dict[str, Any]]:
        """Yield finer proposals, and with them images that keep more of their pixels."""
        config = self.config
        for finer in config.finer_proposals():
            yield finer
            if "proposal_side" in finer:
                yield {**finer, "max_size": 2 * config.max_size}

    def features(
        self, crops: Tensor, backbone: backbones.Backbone | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return (pool5 (R, Q), last layer's (R, D)) features of (R, 3, S, S) crops.

        `backbone` may be another form of our own.
        """
        network = self.backbone if backbone is None else backbone
        (x,) = network(crops)
        pooled = F.adaptive_max_pool2d(x, self.places)
        if network.has_rest:
            return pooled.flatten(1), network.finish(pooled)
        return pooled.flatten(1), x.mean(dim=(2, 3))

    def crops(self, cutter: CropCutter, owners: Tensor, boxes: Tensor) -> Tensor:
        """Return the (R, 3, S, S) crops of (R, 4) boxes, network pixels, of the images `owners`."""
        config = self.config
        square = config.warp == "square"
        regions = with_context(boxes, config.crop_size, config.crop_context, square=square)
        return cutter.cut(owners, regions, config.crop_size)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return `roi_class`: cross entropy over classes and background, mean over the crops."""
        owners, boxes, targets = self.sample(batch)
        crops = self.crops(self._cutter(batch), owners, boxes)
        logits = self.class_logits(self.features(crops)[1]).float()
        total = F.cross_entropy(logits, targets, reduction="sum")
        return {"roi_class": total / max(1, len(targets))}

    def sample(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return what `sample_regions` does; of a part of a step's images, its share of crops."""
        number = max(1, round(self.config.crops_per_batch * self.batch_share))
        return sample_regions(
            self.given_proposals(batch),
            batch.boxes,
            batch.labels,
            batch.ignored_boxes,
            dataclasses.replace(self.config, crops_per_batch=number),
        )

    def loss_sizes(self, batch: Batch) -> dict[str, float]:
        """Return the number of crops, which is the same whichever are drawn."""
        return {"roi_class": float(len(self.sample(batch)[2]))}

    def candidates(self, batch: Batch) -> list[Candidates]:
        """Return the proposals, (P, C, 4) moved by class, with each class's margin.

        Probabilities take the margins' place with `head=softmax`, and until SVMs are fitted.
        """
        (found,) = self._judged(batch, self.heads[:1]).values()
        return found

    def candidates_by_head(self, batch: Batch) -> dict[str, list[Candidates]]:
        """Return `candidates` by the SVMs and by softmax, as appendix B compares them."""
        return self._judged(batch, self.heads)

    @property
    def heads(self) -> tuple[str, ...]:
        """The heads that have been trained, the config's first if it is among them."""
        if not bool(self.svm_fitted.all()):
            return ("softmax",)
        return ("svm", "softmax") if self.config.head == "svm" else ("softmax", "svm")

    def _judged(self, batch: Batch, heads: Sequence[str]) -> dict[str, list[Candidates]]:
        """Return each image's moved proposals with the scores of each of `heads`.

        First those that stand for their neighbours, then the neighbours of what seems an object.
        """
        proposals = self.given_proposals(batch)
        seen = partial(self._seen, self._cutter(batch), without_norms(self.backbone))
        thresh = self.config.neighbour_thresh
        first = [apart(boxes, thresh) for boxes in proposals]
        chosen = [boxes[rows] for boxes, rows in zip(proposals, first)]
        found, likely = self._scored(seen, batch, chosen, heads)
        if all(bool(rows.all()) for rows in first):
            return found
        rest = [
            near(boxes[~rows], some[like], thresh)
            for boxes, rows, some, like in zip(proposals, first, chosen, likely)
        ]
        more, _ = self._scored(seen, batch, rest, heads)
        return {head: [joined(*pair) for pair in zip(found[head], more[head])] for head in heads}

    def _scored(
        self,
        seen: Callable[[Batch, Sequence[Tensor]], Iterator[tuple[Tensor, Tensor]]],
        batch: Batch,
        proposals: Sequence[Tensor],
        heads: Sequence[str],
    ) -> tuple[dict[str, list[Candidates]], list[Tensor]]:
        """Return the (P, 4) boxes' candidates by head, and which seem objects, (P,) bool."""
        num_classes = len(self.class_names)
        scores = {head: [batch.images.new_empty(0, num_classes)] for head in heads}
        likely = [batch.images.new_empty(0, dtype=torch.bool)]
        deltas = []
        for pooled, top in seen(batch, proposals):
            with self.stopwatch.stage("classes"):
                for head in heads:
                    scores[head].append(self.scores(top, head))
                objectness = self.scores(top, "softmax").sum(dim=1)
                likely.append(objectness >= self.config.neighbour_score)
                if self.config.box_regression:
                    deltas.append(_product(pooled, self.box_weights, self.box_biases))
        boxes = torch.cat(list(proposals))[:, None].expand(-1, num_classes, -1)
        if deltas:
            boxes = decode(torch.cat(deltas).view(-1, num_classes, 4), boxes)
        counts = [len(one) for one in proposals]
        of_images = torch.split(boxes, counts)
        found = {
            head: [Candidates(*pair) for pair in zip(of_images, torch.split(torch.cat(s), counts))]
            for head, s in scores.items()
        }
        return found, list(torch.split(torch.cat(likely), counts))

    def scores(self, top: Tensor, head: str | None = None) -> Tensor:
        """Return the (R, C) scores of (R, D) features: the SVMs' margins, or probabilities.

        `head` is one of `heads`, by default the first.
        """
        if (head or self.heads[0]) == "svm":
            return _product(top, self.svm_weights, self.svm_biases)
        logits: Tensor = self.class_logits(top)
        return logits.float().softmax(dim=-1)[:, 1:]

    def _seen(
        self,
        cutter: CropCutter,
        backbone: backbones.Backbone,
        batch: Batch,
        boxes: Sequence[Tensor],
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the (pool5, last layer's) features of all images' boxes, some crops at a time."""
        counts = torch.tensor([len(one) for one in boxes])
        owners = torch.repeat_interleave(torch.arange(len(boxes)), counts).to(batch.images.device)
        everything = torch.cat(list(boxes))
        chunk = CHUNK_GPU if everything.is_cuda else CHUNK
        for start in range(0, len(everything), chunk):
            part = slice(start, start + chunk)
            with self.stopwatch.stage("crops"):
                crops = self.crops(cutter, owners[part], everything[part])
            with self.stopwatch.stage("features"):
                seen = self.features(crops, backbone)
            yield seen

    def _cutter(self, batch: Batch) -> CropCutter:
        """Return what cuts crops out of the batch's images."""
        with self.stopwatch.stage("crops"):
            return CropCutter(batch.images, batch.sizes, antialias=self.config.antialias)

    def stages(self, recipe: Recipe) -> list[Stage]:
        """Return fine-tuning, then the pass for the SVMs and the one for the box regressions."""
        config = self.config
        stages = [Stage("fine-tune", recipe)]
        crop = 1 / (3 * config.crops_per_batch)  # in steps, which also go backwards
        if config.head == "svm":
            judged = min(config.mined_proposals, config.max_proposals)
            stages.append(Stage("svm", recipe, fit=self.fit_svms, fit_cost=judged * crop))
        if config.box_regression:
            near = 0.05 * config.max_proposals
            stages.append(Stage("boxes", recipe, fit=self.fit_boxes, fit_cost=near * crop))
        return stages

    @classmethod
    def suited_config(
        cls, config: DetectorConfig, labelled: Iterable[tuple[Truth, tuple[int, int]]]
    ) -> DetectorConfig:
        """Return the config, for `cache_gb=0` with a quarter of this machine's memory."""
        assert isinstance(config, RCNNConfig)
        return dataclasses.replace(config, cache_gb=_cache_gb(config))

    def fit_svms(self, passes: Passes) -> Iterator[Mapping[str, float]]:
        """Fit a linear SVM a class from two passes over the images: sec. 2.3.

        The first takes the ground truths, the second the negatives; that one yields figures a
        batch. Of several processes each learns the SVMs of its own classes.
        """
        config = self.config
        settings = SVMSettings(
            c=config.svm_c,
            positive_weight=config.svm_positive_weight,
            bias_scale=config.svm_bias_scale,
            hard_margin=config.svm_hard_margin,
            easy_margin=config.svm_easy_margin,
            retrain_after=config.svm_retrain_after,
        )
        num_classes, width = self.svm_weights.shape
        svms = ClassSVMs(
            settings,
            (num_classes, width),
            negative_thresh=config.svm_negative_thresh,
            feature_norm=config.feature_norm,
            cache_gb=_cache_gb(config),
            own=passes.own(num_classes),
        )

        def truths(batch: Batch, pace: Pace) -> tuple[Tensor, list[IntArray]]:
            labels = [one.cpu().numpy() for one in batch.labels]
            return self._features_of(batch, batch.boxes, pooled=False), labels

        def regions(batch: Batch, pace: Pace) -> tuple[Tensor, list[tuple[IntArray, FloatArray]]]:
            images = zip(batch.boxes, self.given_proposals(batch), batch.ignored_boxes)
            number = math.ceil(pace() * config.mined_proposals)
            judged = [
                torch.cat([gt_boxes, some_of(outside(ignored, proposals), number)])
                for gt_boxes, proposals, ignored in images
            ]
            overlaps = [iou(*pair).cpu().numpy() for pair in zip(batch.boxes, judged)]
            labels = [one.cpu().numpy() for one in batch.labels]
            features = self._features_of(batch, judged, pooled=False)
            return features, list(zip(labels, overlaps))

        for features, labels in passes.seen(truths):
            svms.add_positives(_of_images(features, map(len, labels)), labels)
        for features, seen in passes.seen(regions):
            labels, overlaps = [one for one, _ in seen], [one for _, one in seen]
            svms.add(_of_images(features, (one.shape[1] for one in overlaps)), labels, overlaps)
            yield _added_up(passes.of_all(svms.figures()))
        weights, biases = svms.trained()
        self.svm_weights.copy_(_of_classes(passes, weights, num_classes))
        self.svm_biases.copy_(_of_classes(passes, biases, num_classes))
        self.svm_fitted.fill_(bool(svms.scale))  # none were: there was no region at all

    def fit_boxes(self, passes: Passes) -> Iterator[Mapping[str, float]]:
        """Fit a class's box regressions from a pass over the images; yield figures: appendix C.

        Of several processes each fits those of its own classes.
        """
        config = self.config
        num_classes = len(self.class_names)
        boxes = BoxRegressors(
            config.ridge_penalty,
            (4 * num_classes, self.box_weights.shape[1]),
            feature_norm=config.feature_norm,
            cache_gb=_cache_gb(config),
            own=passes.own(num_classes),
        )

        def pairs(batch: Batch, pace: Pace) -> tuple[Tensor, list[tuple[IntArray, FloatArray]]]:
            share, images = pace(), zip(self.given_proposals(batch), batch.boxes, batch.labels)
            found = [some_pairs(box_pairs(*image, config.ridge_thresh), share) for image in images]
            regions, labels, deltas = zip(*found)
            moves = [(one.cpu().numpy(), by.cpu().numpy()) for one, by in zip(labels, deltas)]
            return self._features_of(batch, regions, pooled=True), moves

        for features, moves in passes.seen(pairs):
            labels, deltas = [one for one, _ in moves], [by for _, by in moves]
            boxes.add(_of_images(features, map(len, labels)), labels, deltas)
            yield _added_up(passes.of_all(boxes.figures()))
        weights, biases = boxes.fitted()
        self.box_weights.copy_(_of_classes(passes, weights, num_classes).flatten(0, 1))
        self.box_biases.copy_(_of_classes(passes, biases, num_classes).flatten())

    @torch.no_grad()
    def _features_of(self, batch: Batch, regions: Sequence[Tensor], *, pooled: bool) -> Tensor:
        """Return the (R, Q) pool5 or (R, D) last layer's features of all images' regions."""
        width = (self.box_weights if pooled else self.svm_weights).shape[1]
        parts = [torch.zeros(0, width)]
        cutter, backbone = self._cutter(batch), without_norms(self.backbone)
        for seen in self._seen(cutter, backbone, batch, regions):
            parts.append(seen[0 if pooled else 1].float().cpu())
        return torch.cat(parts)


def _of_images(features: Tensor, counts: Iterable[int]) -> list[FloatArray]:
    """Return (R, D) features image by image, of which each has so many regions."""
    return [one.numpy() for one in torch.split(features, list(counts))]


def _of_classes(passes: Passes, rows: FloatArray, num_classes: int) -> Tensor:
    """Return a row a class, (C, ...), from this process's rows of its own classes, (c, ...)."""
    whole = np.empty((num_classes, *rows.shape[1:]), rows.dtype)
    for classes, part in passes.of_all((list(passes.own(num_classes)), rows)):
        whole[classes] = part
    return torch.from_numpy(whole)


def _added_up(figures: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    """Return the sum of the processes' figures; one that some do not tell of is 0 there."""
    names = dict.fromkeys(name for one in figures for name in one)
    return {name: sum(one.get(name, 0.0) for one in figures) for name in names}


def _product(features: Tensor, weights: Tensor, biases: Tensor) -> Tensor:
    """Return the (R, T) outputs of (R, D) features in float32, whatever the features came in."""
    with torch.autocast(features.device.type, enabled=False):
        return F.linear(features.float(), weights, biases)


def without_norms(backbone: backbones.Backbone) -> backbones.Backbone:
    """Return a copy of a backbone in eval mode with its norms folded into the convolutions.

    It judges thousands of crops in less time. A backbone without norms is returned itself.
    """
    if not any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules()):
        return backbone
    twin = copy.deepcopy(backbone).eval()
    fold_norms(twin)
    return twin


def apart(boxes: Tensor, thresh: float) -> Tensor:
    """Return which of (P, 4) boxes, best first, have no better one with an IoU above `thresh`.

    A (P,) bool. A box that is left out gives way to a better one that stays: it is greedy NMS.
    """
    stays = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    if thresh < 1:
        ranks = torch.arange(len(boxes), 0, -1, dtype=boxes.dtype, device=boxes.device)
        stays[:] = False
        stays[nms(boxes, ranks, thresh)] = True
    return stays


def near(boxes: Tensor, others: Tensor, thresh: float) -> Tensor:
    """Return those of (P, 4) boxes whose IoU with one of (N, 4) others is above `thresh`."""
    if not len(others):
        return boxes[:0]
    return boxes[iou(boxes, others).amax(dim=1) > thresh]


def joined(one: Candidates, other: Candidates) -> Candidates:
    """Return the candidates of both."""
    boxes, scores = (one.boxes, other.boxes), (one.scores, other.scores)
    return Candidates(torch.cat(boxes), torch.cat(scores))


def outside(ignored: Tensor, boxes: Tensor) -> Tensor:
    """Return those of (P, 4) boxes that are not inside one of the (I, 4) ignored ones."""
    return boxes[~inside_ignored(boxes, ignored)]


def some_pairs(pairs: tuple[Tensor, Tensor, Tensor], share: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return such a share of what `box_pairs` returns, drawn at random."""
    number = math.ceil(share * len(pairs[0]))
    if number == len(pairs[0]):
        return pairs
    rows = some_of(torch.arange(len(pairs[0]), device=pairs[0].device), number)
    return pairs[0][rows], pairs[1][rows], pairs[2][rows]


def some_of(boxes: Tensor, number: int) -> Tensor:
    """Return at most `number` of (P, ...) rows, drawn at random."""
    return boxes[torch.randperm(len(boxes))[:number].to(boxes.device)]


def _cache_gb(config: RCNNConfig) -> float:
    """Return how much memory features may take, in GiB: what is set, or a quarter of all."""
    return config.cache_gb or round(memory_of_machine() / 2**32, 2)
