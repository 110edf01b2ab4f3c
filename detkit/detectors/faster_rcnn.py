"""Faster R-CNN: a region proposal network that shares its maps with Fast R-CNN's head.

Ren, He, Girshick, Sun: NIPS 2015, arXiv:1506.01497v3.

Shape shorthand: B images a batch, L feature maps of H_l x W_l places, A anchors a place, K
anchors in all, P proposals of an image, C classes, G ground truths of an image.

Differences from the paper:
- Objectness is one logit an anchor, a logistic regression, which sec. 3.1.1, footnote 3 names
  as the other way to write its two-class softmax.
- "Released code" is py-faster-rcnn, which differs from the authors' MATLAB code in places.
- Losses are means over the sampled anchors and `rpn_box_weight` is 1, as in the released code;
  the paper's lambda = 10 goes with its division by the number of places.
- The RPN's smooth L1 is quadratic below 1/9 (sigma = 3), as in the released code; the paper has
  Fast R-CNN's, quadratic below 1. Its targets are not normalised, as there; the MATLAB code
  divides them by their deviations over the data set.
- Biases are never decayed, as in Fast R-CNN's released code; those of py-faster-rcnn are.
- Anchors have the paper's areas and ratios; `anchors=released` has those of the released code.
- Ground truths join the proposals that the head is trained on, as in the released code.
- An anchor, or a proposal, inside an ignored object that is not positive is no background. So are
  COCO's crowds ignored; the released code's joint training takes them for objects.
- Difficult objects are left out and so background, as in the released code (`use_diff`); by
  `short_recipe` they are ignored.
- `rpn_min_size` is in the network's pixels, where the released code has 16 of the image's own,
  and small boxes go after the best `rpn_pre_nms_*` are taken, as in torchvision, not before.
- Step 3 of alternating training goes on with step 1's RPN layers; in the released code they
  begin from chance again.
- In steps 2 and 4 the released code makes all proposals before the first update, of images that
  are not mirrored, and mirrors them. Here they are made when an image is first seen, and kept;
  a mirrored image has its own, as in the MATLAB code. Where augmentation makes every image another
  one (`short_recipe`) they are made at each update, in step 4 from the maps that it has.
- On a feature pyramid (the default but for Caffe's networks) anchors that cross the border are
  trained on, as Lin et al. 2017, sec. 4.1 do, each map has anchors of its own size, and NMS is of
  each map by itself.
- Settings that torchvision's published models need (`share_anchors`, `rpn_convs`,
  `rpn_score_thresh`, `neck_norm`, `head_convs`) are off by default.
- `short_recipe` (AdamW, cosine, moving average) is ours and the default on the command line;
  its four steps of alternating training share the batch size and the budget equally. `recipe` and
  `alternating_recipe` are the released code's schedules; the two images of a joint step pass the
  network together, padded to one size, where it adds up two passes (`iter_size: 2`).

Where the equations are:
- sec. 3.1: `RegionProposalNetwork`, two sibling layers on the shared maps
- sec. 3.1.1: `RegionProposalNetwork.anchors`, the anchors at each place
- sec. 3.1.2: `rpn.match_anchors`, which anchors are positive, which negative
- sec. 3.1.2, eq. 1: `rpn.rpn_loss`, loss of objectness and place
- sec. 3.1.2, eq. 2: `boxes.encode`, the targets t*
- sec. 3.1.2, eq. 2: `decode`, from t back to a box
- sec. 3.1.3: `RegionProposalNetwork.losses`, the sample of anchors that eq. 1 is over
- sec. 3.2: `FasterRCNN.stages`, alternating and joint training
- sec. 3.3: `rpn.crosses_border`, anchors that training leaves out
- sec. 3.3: `RegionProposalNetwork.propose`, the best proposals after NMS

The head's loss is Fast R-CNN's.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from detkit.config import SHORT_RECIPE, DetectorConfig, PaperRun, Recipe, setting
from detkit.detector import Stage
from detkit.detectors.fast_rcnn import (
    RegionConfig,
    RegionDetector,
    build_maps,
    by_image,
    classify_rois,
    roi_losses,
    sample_rois,
)
from detkit.errors import UsageError
from detkit.geometry.anchor_estimation import estimate_anchors, network_shapes
from detkit.geometry.boxes import decode
from detkit.geometry.matching import best_overlaps_of_small
from detkit.networks import caffe_weights, torchvision_detectors
from detkit.networks.proposal_memory import ProposalMemory
from detkit.networks.rpn import RegionProposalNetwork, RPNConfig
from detkit.networks.torchvision_detectors import Published
from detkit.structures import Batch, Candidates, Truth
from detkit.trace import TraceStage, box_stage
from detkit.transforms.preparation import shorter_side


@dataclass(frozen=True, kw_only=True)
class FasterRCNNConfig(RegionConfig, RPNConfig):
    """Faster R-CNN's numbers: the region proposal network's, and Fast R-CNN's."""

    training: Literal["joint", "alternating"] = setting(
        "joint", "sec. 3.2: approximate joint training, or the four steps of alternating training"
    )
    step_shares: tuple[float, float, float, float] = setting(
        (1.0, 1.0, 1.0, 1.0),
        "the four steps' shares of the images; released code: 80k of 1, 40k of 2, and both again",
        above=0,
    )
    step_lrs: tuple[float, float, float, float] = setting(
        (1.0, 1.0, 1.0, 1.0),
        "sec. 3.2: the four steps' learning rates, shares of the recipe's",
        above=0,
    )
    rois_per_image: int = setting(128, "released code, faster_rcnn_end2end: 128 of 1 image")
    step_rois: int = setting(
        64,
        "`rois_per_image` of steps 2 and 4; released code, faster_rcnn_alt_opt: 128 of 2 images",
        at_least=1,
    )
    negative_range: tuple[float, float] = setting(
        (0.0, 0.5), "released code: IoU in [0, .5), as the RPN has sorted out the easy ones"
    )


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

_TORCHVISION_V2 = dataclasses.replace(_TORCHVISION, neck_norm=True, rpn_convs=2, head_convs=4)
_TORCHVISION_MOBILENET = dataclasses.replace(
    _TORCHVISION,
    backbone=torchvision_detectors.BACKBONES[torchvision_detectors.MOBILENET],
    neck_width=256,
    head_width=1024,
    share_anchors=True,
    rpn_score_thresh=0.05,
)
_TORCHVISION_MOBILENET_320 = dataclasses.replace(
    _TORCHVISION_MOBILENET,
    size=320,
    max_size=640,
    rpn_pre_nms_test=150,
    rpn_post_nms_test=150,
)


class FasterRCNN(RegionDetector):
    """Faster R-CNN: region proposals from the detector's own maps."""

    name: ClassVar[str] = "faster-rcnn"
    paper: ClassVar[str] = "Ren et al. 2015, arXiv:1506.01497"
    config_class: ClassVar[type[DetectorConfig]] = FasterRCNNConfig
    recipe_source: ClassVar[str] = (
        "released code, faster_rcnn_end2end: 2 images a step (iter_size 2), 70k steps at .001, .1 "
        "of it from 50k; training=alternating, faster_rcnn_alt_opt: 80k steps of 1 image, 40k of "
        "2, and both again, .1 of the rate in the last quarter of each"
    )
    recipe: ClassVar[Recipe] = Recipe(
        batch_size=2,
        max_steps=70_000,
        milestones=(5 / 7,),
        bias_lr_factor=2.0,
        train_difficult="no",
    )
    alternating_recipe: ClassVar[Recipe] = dataclasses.replace(
        recipe, max_steps=240_000, milestones=(0.75,), stage_batches=(0.5, 1.0, 0.5, 1.0)
    )
    paper_runs: ClassVar[Mapping[str, PaperRun]] = {
        "paper": PaperRun(
            data="voc07",
            backbone="vgg16",
            source="py-faster-rcnn, faster_rcnn_end2end, or faster_rcnn_alt_opt with --set "
            "training=alternating, the paper's",
        ),
        "paper-0712": PaperRun(
            data="voc0712",
            backbone="vgg16",
            settings={"training": "alternating", "step_shares": (1.0, 1.5, 1.0, 1.5)},
            recipe={"max_steps": 280_000, "stage_milestones": (0.75, 0.5, 0.75, 0.5)},
            source="the release for MATLAB: 80k steps of 1 image, .1 of the rate from 60k; 60k of "
            "2 images, .1 of it from 30k; and both again",
        ),
        "paper-coco": PaperRun(
            data="coco",
            backbone="vgg16",
            settings={"anchor_sizes": (64.0, 128.0, 256.0, 512.0)},
            recipe={"max_steps": 490_000},
            source="py-faster-rcnn, faster_rcnn_end2end.sh: 490k steps, .1 of the rate from 350k; "
            "sec. 4.2: anchors of 64 too",
        ),
    }
    short_recipe: ClassVar[Recipe] = dataclasses.replace(SHORT_RECIPE, batch_size=4)
    published: ClassVar[Mapping[str, Published]] = {
        name: Published(builder, "COCO_V1", config)
        for name, builder, config in (
            (torchvision_detectors.RESNET, "fasterrcnn_resnet50_fpn", _TORCHVISION),
            (torchvision_detectors.RESNET_V2, "fasterrcnn_resnet50_fpn_v2", _TORCHVISION_V2),
            (
                torchvision_detectors.MOBILENET,
                "fasterrcnn_mobilenet_v3_large_fpn",
                _TORCHVISION_MOBILENET,
            ),
            (
                torchvision_detectors.MOBILENET_320,
                "fasterrcnn_mobilenet_v3_large_320_fpn",
                _TORCHVISION_MOBILENET_320,
            ),
        )
    }
    config: FasterRCNNConfig

    def __init__(self, config: FasterRCNNConfig, class_names: Sequence[str]) -> None:
        """Build the network with random weights for these classes."""
        super().__init__(config, class_names)
        self.rpn = RegionProposalNetwork(
            config, self.neck.channels, self.neck.strides, config.sides[0]
        )
        self._maps: dict[tuple[int, int], list[Tensor]] = {}  # their shapes alone
        self._step = 0  # of alternating training; 0: joint
        self._companions: dict[str, FasterRCNN] = {}  # see `stages`
        self._memory: ProposalMemory | None = None  # of the network that proposes in this step

    @classmethod
    def paper_recipe(cls, config: DetectorConfig, name: str = "paper") -> Recipe:
        """Return the released code's schedule of joint or of alternating training.

        Joint on VOC07+12 was not released and is that of VOC07; alternating on COCO neither.
        """
        assert isinstance(config, FasterRCNNConfig)
        if config.training == "joint":
            return cls.recipe if name == "paper-0712" else super().paper_recipe(config, name)
        changes = cls.paper_runs[name].recipe if name == "paper-0712" else {}
        return dataclasses.replace(cls.alternating_recipe, **changes)

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
    def convert_foreign(
        cls, state: Mapping[str, Tensor], keep: Sequence[int] | None = None
    ) -> dict[str, Tensor] | None:
        """Return the state dict of torchvision's Faster R-CNNs or py-faster-rcnn's, else None."""
        if caffe_weights.is_region_detector(state, proposes=True):
            head = caffe_weights.region_head(state, FasterRCNNConfig().box_variances)
            rpn = caffe_weights.region_proposals(state)
            return caffe_weights.backbone_state(state) | rpn | head
        if torchvision_detectors.name_of(state) not in cls.published:
            return None
        return torchvision_detectors.convert(state, keep)

    @classmethod
    def published_state(cls, name: str) -> dict[str, Tensor]:
        """Return torchvision's published weights, made to fit norms with torch's own epsilon.

        The oldest were trained with batch norms whose epsilon is 0, torch's is 1e-5.
        """
        state = super().published_state(name)
        if name != torchvision_detectors.RESNET:
            return state
        return {k: v - 1e-5 if k.endswith("running_var") else v for k, v in state.items()}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return `rpn_objectness` and `rpn_box` (eq. 1), `roi_class` and `roi_box`.

        In a step of alternating training only the two of its own network.
        """
        step, maps, config = self._step, self.maps(batch.images), self.config
        parts: dict[str, Tensor] = {}
        proposals: list[Tensor] = []
        if step in (0, 1, 3):
            scored = self.rpn.score(maps, batch.images)
            objectness, box = self.rpn.losses(scored, batch)
            parts = {"rpn_objectness": objectness, "rpn_box": box}
            if step == 0:
                proposals = self.rpn.propose(scored, batch.sizes, training=True)
        else:
            proposals = self._fixed_proposals(batch, maps)
            config = dataclasses.replace(config, rois_per_image=config.step_rois)
        if step in (0, 2, 4):
            images = zip(proposals, batch.boxes, batch.labels, batch.ignored_boxes)
            samples = [sample_rois(*image, config) for image in images]
            class_loss, box_loss = roi_losses(
                self.head,
                self.backbone,
                maps[: self.neck.num_regional],
                samples,
                config.box_weight,
            )
            parts |= {"roi_class": class_loss, "roi_box": box_loss}
        return parts

    @torch.no_grad()
    def _fixed_proposals(self, batch: Batch, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return each image's proposals, (P, 4), of the network that proposes in steps 2 and 4.

        With a memory of each image by itself, once, whatever else is in the batch. `maps` are
        those of the batch, which in step 4 are that network's own.
        """
        proposer = self._companions.get("proposer", self)
        # The last bits depend on the layout, and are to be the same after a resume.
        by_place = batch.images.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if by_place else torch.contiguous_format
        if proposer is not self:
            proposer.to(batch.images.device).to(memory_format=layout)
        if self._memory is None:
            own = maps if proposer is self else proposer.maps(batch.images)
            scored = proposer.rpn.score(own, batch.images)
            return proposer.rpn.propose(scored, batch.sizes, training=True, fixed=True)

        def alone(index: int) -> Tensor:
            padded = self.preparation.padded_size([batch.sizes[index]])
            image = batch.images[index, None, :, : padded[0], : padded[1]]
            image = image.contiguous(memory_format=layout)
            scored = proposer.rpn.score(proposer.maps(image), image)
            (found,) = proposer.rpn.propose(scored, [batch.sizes[index]], training=True, fixed=True)
            return found

        found = []
        for index, (height, width) in enumerate(batch.sizes):
            name = batch.image_ids[index] if batch.image_ids else ""
            shown = batch.images[index, :, :height, :width]
            found.append(self._memory(shown, name, partial(alone, index)))
        return found

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
        return by_image(proposals, *self._judged(maps, proposals))

    def _judged(
        self, maps: Sequence[Tensor], rois: Tensor | Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return `classify_rois`' of these regions of the images with these maps."""
        regional = maps[: self.neck.num_regional]
        return classify_rois(self.head, self.backbone, regional, rois, self.config.box_variances)

    @property
    def free_sides(self) -> tuple[int, int] | None:
        """The network image's shorter side and the longest: `dense_candidates` takes any."""
        return self.config.sides

    def dense_candidates(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return `candidates` of (B, 3, H, W) images: boxes (B, P, C, 4) and scores (B, P, C).

        Those beyond the proposals that an image has are zeros. The images are not padded yet.
        """
        size = images.shape[2], images.shape[3]
        stride, least = self.preparation.stride, self.preparation.least
        # Not `-(-side // stride)`: division rounds towards zero in ONNX.
        room: list[Any] = [
            (torch.sym_max(side, least) + stride - 1) // stride * stride - side for side in size
        ]
        images = F.pad(images, [0, room[1], 0, room[0]])
        maps = self.maps(images)
        proposals = self.rpn.propose_dense(self.rpn.score(maps, images), size)
        number = torch.arange(images.shape[0], device=images.device).to(proposals)
        first = number[:, None, None].expand(-1, proposals.shape[1], 1)
        regions = torch.cat([first, proposals], dim=2).flatten(0, 1)
        boxes, probs = self._judged(maps, regions)
        shape = proposals.shape[:2]
        return boxes.view(*shape, *boxes.shape[1:]), probs.view(*shape, probs.shape[1])

    @property
    def reach_rule(self) -> str:
        """What an object out of reach is, in words: the rule of `reachable`."""
        return (
            f"{super().reach_rule}, or smaller than all anchors, none of which overlaps them by "
            f"{self.config.rpn_negative_thresh:g}"
        )

    def reachable(
        self, boxes: Tensor, size: tuple[int, int], original_size: tuple[int, int]
    ) -> Tensor:
        """Return, (R,) bool, which objects are large enough to be learnt and found.

        One that is smaller than all anchors has to be overlapped by `rpn_negative_thresh` by one
        of them, sec. 3.1.2: else all of them, but for the best, learn that there is no object.
        """
        thresh = self.config.rpn_negative_thresh
        best = best_overlaps_of_small(boxes, self.reference_boxes(size), thresh)
        return (best >= thresh) & super().reachable(boxes, size, original_size)

    def reference_boxes(self, size: tuple[int, int]) -> Tensor:
        """Return the (K, 4) anchors of an image of `size`, padded: no network runs for them."""
        stride = self.preparation.stride
        height, width = (-(-side // stride) * stride for side in size)
        if (height, width) not in self._maps:
            twin = self if self.device.type == "meta" else self.weightless()
            image = torch.empty(1, 3, height, width, device="meta")
            self._maps[height, width] = twin.maps(image)
        return torch.cat(self.rpn.anchors(self._maps[height, width], (height, width)))

    def finer_settings(self) -> Iterator[dict[str, Any]]:
        """Yield larger images and anchors that are fitted to the objects, the cheapest first.

        Anchors are in proportion to the image: a larger one alone takes the smallest along.
        """
        config = self.config
        fixed = config.anchors == "auto" or bool(config.anchor_boxes or config.anchor_sizes)
        side, *larger = self.finer_sizes()
        for size in (side, *larger):
            settings: dict[str, Any] = {} if size == side else {"size": size}
            if settings:
                yield settings
            if not fixed:
                yield {**settings, "anchors": "auto"}

    def origins(self, batch: Batch, iou_thresh: float) -> list[list[TraceStage]]:
        """Return for each image which objects an anchor reaches, moved or not, and a proposal."""
        scored = self.rpn.score(self.maps(batch.images), batch.images)
        proposals = self.rpn.propose(scored, batch.sizes, training=False)
        anchors = torch.cat(scored.anchors)
        moved = decode(torch.cat(scored.deltas, dim=1), anchors)
        return [
            [
                box_stage("anchors", "no anchor reaches it", gt_boxes, anchors, iou_thresh),
                box_stage("moved anchors", "no anchor is moved to it", gt_boxes, boxes, iou_thresh),
                box_stage(
                    "proposals",
                    "its proposals rank too low or are suppressed by NMS",
                    gt_boxes,
                    kept,
                    iou_thresh,
                ),
            ]
            for gt_boxes, boxes, kept in zip(batch.boxes, moved, proposals)
        ]

    def stages(self, recipe: Recipe) -> list[Stage]:
        """Return one stage of joint training, or the four steps of sec. 3.2.

        1. The RPN, from the starting weights. 2. Fast R-CNN, from the starting weights too,
        on proposals of step 1's network. 3. The RPN anew on step 2's maps, which stay as they
        are. 4. Fast R-CNN's own layers, on the same maps and step 3's proposals.
        """
        config = self.config
        if config.training == "joint":
            return [Stage("joint", recipe, partial(self._begin, 0))]
        if len(recipe.stage_milestones) not in (0, 4):
            given = ",".join(f"{share:g}" for share in recipe.stage_milestones)
            raise UsageError(f"--set stage_milestones={given}: alternating training has four steps")
        batches = [recipe.batch_in(number) for number in range(4)]
        steps = [share / batch for share, batch in zip(config.step_shares, batches)]
        # Else hardly an image is seen twice, and those that were would fill the memory.
        remembers = recipe.augmentation != "light" and not recipe.mosaic
        stages = []
        for step, (share, batch, rate) in enumerate(zip(steps, batches, config.step_lrs), 1):
            part = dataclasses.replace(
                recipe,
                batch_size=batch,
                stage_batches=(),
                stage_milestones=(),
                milestones=recipe.milestones_in(step - 1),
                max_steps=max(1, round(recipe.max_steps * share / sum(steps))),
                lr=recipe.lr * rate,
            )
            network = "rpn" if step in (1, 3) else "fast-rcnn"
            begin = partial(self._begin, step, remembers)
            stages.append(Stage(f"step {step}: {network}", part, begin))
        return stages

    def _begin(self, step: int, remembers: bool = False) -> None:
        """Make ready for a step: its starting weights, and what it leaves as it is.

        Called again when a run is resumed; what was done before is then not done again. A fixed
        network's proposals are remembered if `remembers`.
        """
        self._step = step
        self._memory = None
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
        if step in (2, 4) and remembers:
            self._memory = ProposalMemory()

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
