"""YOLOv1: a grid of cells, each of which predicts boxes, their confidence, one class.

Redmon, Divvala, Girshick, Farhadi: CVPR 2016, arXiv:1506.02640v5.

Shape shorthand: B images a batch, S x S cells, A predictors a cell (the paper's B), C classes,
M cells of a batch with an object in them, R ground truths and I ignored boxes of an image,
K = S * S * A boxes.

Differences from the paper:
- What the network gives for a width is its square root, and so the released code has it: the
  box's width is the square. Eq. 3 then needs no root of a prediction, whose gradient at 0 has
  no end.
- Of several objects whose centres are in one cell a random one is learnt each time the image is
  seen, as in the released code; outside of training the first. `reachable` knows them.
- A cell without an object whose centre is inside an ignored one, or that would be responsible for
  it, has no loss. COCO's crowds are ignored so.
- Difficult objects are left out and so background, as by the released `voc_label.py`; by
  `short_recipe` they are ignored.
- `convolutional` head: the same S x S x (5 A + C) numbers from convolutions and a predictor that
  see a cell and its surroundings, not the whole image. The paper's `connected` head has 206
  million weights in its first layer alone, which nobody trains on a laptop in an hour, and 200
  images cannot fill; so it is the default for the paper's own two networks and `convolutional`
  that of all other backbones.
- The predictors begin at boxes of different size (a third and two thirds of the image's side)
  in the middle of their cell, confidence .1, classes 1 / C: the loss is small from the first step.
- Negative confidences and class probabilities count as 0 in detection: the last layer is linear
  (sec. 2.2), and two negative numbers would make a positive score.
- Half of eq. 3 is learnt, as in the released code, so that lr and weight decay mean the same;
  it is summed over an image, its mean is over the batch.
- `recipe` is that of the released `yolo.cfg`: 40,000 batches of 64, from .001 in three steps to
  .01, .1 of it from 20,000 and 30,000. The text's 75, 30 and 30 epochs of VOC07+12 are 34,900.
- Images come in a new order each epoch and shrink with antialiasing; in the released code they are
  drawn with replacement, and shrink by linear interpolation alone.
- No layer is fixed on the paper's two networks, as in the released code, whatever the recipe.
- `short_recipe` (AdamW, cosine, moving average) is ours and the default on the command line.
  Pretraining at half the resolution is left to others.
- A box that lies outside the image is left out before NMS; in the released code it takes part.

Where the equations are:
- sec. 2: `assign_cells`, the cell that is responsible for an object
- sec. 2, eq. 1: `decode_grid`, each box's confidence of each class
- sec. 2.1: `ConnectedHead`, the layers behind the 20 of the backbone
- sec. 2.2, eq. 2: `architectures.leaky_convolution`, leaky activation behind convolutions
- sec. 2.2, eq. 2: `ConnectedHead`, leaky activation behind connected layers
- sec. 2.2: `responsible_predictors`, the predictor of highest IoU
- sec. 2.2, eq. 3: `grid_loss`, loss in its five parts
- sec. 2.2: `YOLOv1.augmentation`, scale, shift, exposure and saturation
- sec. 2.3: `Detector.detect`, test: NMS of each class
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from detkit.config import SHORT_RECIPE, DetectorConfig, PaperRun, Recipe, setting
from detkit.detector import Detector
from detkit.errors import DetkitError
from detkit.geometry.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from detkit.networks import backbones
from detkit.networks.darknet import EXTRACTION, VOC_CLASSES
from detkit.networks.yolo_heads import ConnectedHead, ConvolutionalHead
from detkit.structures import Batch, Candidates
from detkit.text import counted
from detkit.trace import TraceStage, cell_stage
from detkit.transforms.augmentation import Compose
from detkit.transforms.geometric import (
    RandomHorizontalFlip,
    RandomScaleShift,
    Transform,
)
from detkit.transforms.photometric import RandomExposure
from detkit.transforms.preparation import square

MIN_SIZE = 64  # the stride of the paper's networks; smaller leaves no map
_EXTRACTION_FILE = "darknet's classifier, extraction.conv.weights of pjreddie.com/media/files"
SMALLEST_SHARE = 1 / 8  # of a cell's side
PAPERS_OWN = ("darknet", "fast_yolo")
MIN_VISIBLE = 0.005  # released code: of either side of the image; less of an object is not learnt
# Released code: the gradient of half the squared error. Eq. 3 is not halved, and its gradient
# would be twice as large at the same lr and weight decay.
LOSS_SCALE = 0.5


@dataclass(frozen=True, kw_only=True)
class YOLOv1Config(DetectorConfig):
    """YOLOv1's numbers."""

    size: int = setting(448, "sec. 2.2: 448 x 448", at_least=MIN_SIZE)
    grid: int = setting(7, "sec. 2: S = 7; more cells for crowded images", at_least=1)
    boxes_a_cell: int = setting(2, "sec. 2: B = 2", at_least=1)
    head: Literal["auto", "connected", "convolutional"] = setting(
        "auto",
        "connected (sec. 2.1, over 200 million weights) on darknet and fast_yolo; convolutional "
        "(ours, a laptop can train it) on all others",
    )
    dropout: float = setting(0.5, "sec. 2.2: after the first connected layer", at_least=0, below=1)
    lambda_coord: float = setting(5.0, "sec. 2.2", at_least=0)
    lambda_noobj: float = setting(0.5, "sec. 2.2", at_least=0)
    score_thresh: float = setting(0.001, "released code, for mAP; .2 to look at")
    nms_thresh: float = setting(0.5, "released code")
    clip_before_nms: bool = setting(
        False, "released code: boxes are cut to the image when they are written, after NMS"
    )
    pre_nms_top_k: int = setting(10_000, "released code: no limit", at_least=1)
    max_detections: int = setting(
        10_000, "released code: no limit; 98 boxes of 20 classes are 1,960", at_least=1
    )


@dataclass(frozen=True, slots=True)
class Grid:
    """What the network says of every cell, row by row; any numbers, since the last layer is linear.

    A box is (x, y, sqrt w, sqrt h): its centre in shares of the cell, from the cell's corner, and
    the roots of its sides in shares of the image.
    """

    probs: Tensor  # (B, S * S, C) Pr(class | object)
    confidences: Tensor  # (B, S * S, A) Pr(object) * IoU
    boxes: Tensor  # (B, S * S, A, 4)


@dataclass(frozen=True, slots=True)
class Objects:
    """The one object to learn of each cell that has any, over a batch."""

    cells: Tensor  # (M,) int64 in [0, B * S * S)
    boxes: Tensor  # (M, 4) x, y in shares of the cell; w, h (no roots) in shares of the image
    labels: Tensor  # (M,) int64


def assign_cells(boxes: Tensor, size: tuple[int, int], grid: int) -> tuple[Tensor, Tensor]:
    """Return ((R,) int64 cells, (R, 4) targets) of (R, 4) ground truths in an image of `size`.

    Sec. 2: the cell with an object's centre is responsible for it. A target is what `Objects`
    has as a box.
    """
    height, width = size
    cx, cy, own_w, own_h = xyxy_to_cxcywh(boxes).unbind(-1)
    x, y, w, h = cx / width, cy / height, own_w / width, own_h / height
    column, row = ((part * grid).floor().clamp(0, grid - 1) for part in (x, y))
    targets = torch.stack([x * grid - column, y * grid - row, w, h], dim=-1)
    return (row * grid + column).long(), targets


def first_of_each(cells: Tensor) -> Tensor:
    """Return the indices, (M,) int64 ascending, of each cell's first object. `cells`: (R,)."""
    if len(cells) == 0:
        return cells
    order = cells.sort(stable=True)
    starts = torch.cat([order.values.new_ones(1), order.values.diff()]) != 0
    return order.indices[starts].sort().values


def ignored_cells(ignored: Tensor, size: tuple[int, int], grid: int) -> Tensor:
    """Return (S * S,) bool: the cells of an image of `size` that (I, 4) ignored boxes speak for.

    Those whose centre is inside a box, and the one with the box's own centre, which sec. 2 makes
    responsible: a box smaller than a cell may hold no cell's centre.
    """
    cells = torch.zeros(grid * grid, dtype=torch.bool, device=ignored.device)
    if not len(ignored):
        return cells
    height, width = size
    middles = (torch.arange(grid, device=ignored.device) + 0.5) / grid
    y, x = torch.meshgrid(middles * height, middles * width, indexing="ij")
    x1, y1, x2, y2 = ignored[:, :, None, None].unbind(1)
    cells |= ((x >= x1) & (x < x2) & (y >= y1) & (y < y2)).any(dim=0).flatten()
    cells[assign_cells(ignored, size, grid)[0]] = True
    return cells


def elementwise_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the (...) IoU of (..., 4) boxes cx, cy, w, h with the others, one with one.

    Not each with each, as `boxes.iou` has it, and from the sides as the network gives them: by way
    of corners areas would be rounded. Boxes without area have IoU 0.
    """
    low = torch.maximum(*(one[..., :2] - one[..., 2:] / 2 for one in (boxes, others)))
    high = torch.minimum(*(one[..., :2] + one[..., 2:] / 2 for one in (boxes, others)))
    both = (high - low).clamp(min=0).prod(-1)
    union = boxes[..., 2:].prod(-1) + others[..., 2:].prod(-1) - both
    return torch.where(both > 0, both / union.clamp(min=1e-12), 0.0)


def responsible_predictors(boxes: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the predictor of each object, (M,) int64, and its IoU with the object, (M,).

    Sec. 2.2: the one with the highest IoU; released code: where all are 0 the one with the
    smallest root mean squared error. `boxes` (M, A, 4) and `targets` (M, 4): cx, cy, w, h in
    shares of the image, from any origin that is the same for a cell.
    """
    overlaps = elementwise_iou(boxes, targets[:, None])
    errors = (boxes - targets[:, None]).square().sum(-1)
    best = torch.where(overlaps.amax(1) > 0, overlaps.argmax(1), errors.argmin(1))
    return best, overlaps.gather(1, best[:, None])[:, 0]


def grid_loss(
    found: Grid,
    objects: Objects,
    spared: Tensor,
    *,
    grid: int,
    lambda_coord: float,
    lambda_noobj: float,
) -> dict[str, Tensor]:
    """Return the five sums of eq. 3, in its order, each divided by the number of images.

    Of the cells without an object those that are `spared`, (B * S * S,) bool, have no loss.

    Where there is no object `centre_box`, `size_box`, `object` and `class` are 0, with
    gradients attached.
    """
    num_images = len(found.probs)
    probs, confidences, boxes = (
        part.flatten(0, 1) for part in (found.probs, found.confidences, found.boxes)
    )
    cells, targets = objects.cells, objects.boxes
    with torch.no_grad():
        found_boxes = boxes[cells]
        sides = torch.cat([found_boxes[..., :2] * (1 / grid), found_boxes[..., 2:].square()], -1)
        wanted = torch.cat([targets[:, :2] * (1 / grid), targets[:, 2:]], dim=-1)
        predictor, overlap = responsible_predictors(sides, wanted)
        idle = torch.ones_like(confidences)  # 1 where Eq. 3 has "noobj"
        idle.masked_fill_(spared[:, None], 0.0)
        idle[cells] = 1.0
        idle[cells, predictor] = 0.0
    chosen = boxes[cells, predictor]
    centre = (chosen[:, :2] - targets[:, :2]).square().sum()
    size = (chosen[:, 2:] - targets[:, 2:].sqrt()).square().sum()  # predictions are roots
    one_hot = nn.functional.one_hot(objects.labels, probs.shape[1]).to(probs)
    sums = {
        "centre_box": lambda_coord * centre,
        "size_box": lambda_coord * size,
        "object": (confidences[cells, predictor] - overlap).square().sum(),
        "noobject": lambda_noobj * (idle * confidences.square()).sum(),
        "class": (probs[cells] - one_hot).square().sum(),
    }
    return {role: part / num_images for role, part in sums.items()}


class YOLOv1(Detector):
    """You Only Look Once: boxes and classes of a grid of cells, in one pass."""

    name: ClassVar[str] = "yolov1"
    paper: ClassVar[str] = "Redmon et al. 2016, arXiv:1506.02640"
    config_class: ClassVar[type[DetectorConfig]] = YOLOv1Config
    recipe_source: ClassVar[str] = (
        "sec. 2.2 and released yolo.cfg: 40k steps of 64, from .001 by 2.5, 2 and 2 to .01 at 200, "
        "400 and 600, .1 of it from 20k and 30k"
    )
    recipe: ClassVar[Recipe] = Recipe(
        batch_size=64,
        max_steps=40_000,
        lr=1e-3,
        milestones=(200 / 40_000, 400 / 40_000, 600 / 40_000, 1 / 2, 3 / 4),
        gamma=(2.5, 2.0, 2.0, 0.1, 0.1),
        train_difficult="no",
    )
    paper_runs: ClassVar[Mapping[str, PaperRun]] = {
        "paper": PaperRun(
            data="voc07",
            backbone="darknet",
            weights=_EXTRACTION_FILE,
            weights_by_name=False,
            source="released yolo.cfg, 40k steps of 64; the paper trained on VOC07+12: paper-0712",
        ),
        "paper-0712": PaperRun(
            data="voc0712",
            backbone="darknet",
            weights=_EXTRACTION_FILE,
            weights_by_name=False,
            source="released yolo.cfg: 40k steps of 64",
        ),
    }
    # Gradients are cut where those of all of eq. 3 would be at 10.
    short_recipe: ClassVar[Recipe] = replace(
        SHORT_RECIPE, clip_norm=LOSS_SCALE * SHORT_RECIPE.clip_norm
    )
    config: YOLOv1Config

    def __init__(self, config: YOLOv1Config, class_names: Sequence[str]) -> None:
        """Build the network with random weights for these classes."""
        super().__init__(config, class_names)
        self.backbone = backbones.build(config.backbone)
        if config.backbone in PAPERS_OWN:
            self.backbone.generic_blocks = 0
        taps, sides = self.backbone.taps, self._map_sides()
        self.outputs_a_cell = config.boxes_a_cell * 5 + len(self.class_names)
        self.head: ConnectedHead | ConvolutionalHead
        if _is_connected(config):
            outputs = config.grid**2 * self.outputs_a_cell
            self.head = ConnectedHead(config.backbone, taps[-1], sides[-1], config.dropout, outputs)
        else:
            self.head = ConvolutionalHead(taps, sides, config.grid, self.outputs_a_cell)
        self._start_small()

    def _map_sides(self) -> list[int]:
        """Return the sides of the backbone's maps, from shapes alone."""
        shapes = {name: one.to("meta") for name, one in self.backbone.state_dict().items()}
        image = torch.empty(1, 3, self.config.size, self.config.size, device="meta")
        maps: list[Tensor] = torch.func.functional_call(self.backbone, shapes, image)
        return [x.shape[-1] for x in maps]

    def _start_small(self) -> None:
        """Let the predictors begin in the middle of their cell, each at another size."""
        layer, number = self.head.predictor, self.config.boxes_a_cell
        nn.init.normal_(layer.weight, std=0.01)
        assert layer.bias is not None
        with torch.no_grad():
            values = layer.bias.view(1, -1, *([1, 1] * isinstance(layer, nn.Conv2d)))
            start = self.split_cells(values)  # views of the bias
            start.probs.fill_(1 / len(self.class_names))
            start.confidences.fill_(0.1)
            start.boxes[..., :2] = 0.5
            start.boxes[..., 2:] = (torch.arange(1, number + 1) / (number + 1)).sqrt()[:, None]

    @classmethod
    def convert_foreign(
        cls, state: Mapping[str, Tensor], keep: Sequence[int] | None = None
    ) -> dict[str, Tensor] | None:
        """Return the state dict of a whole network in a `.weights` file, else None."""
        if "pixels.mean" not in state or "fcs.0.weight" not in state:
            return None
        own: dict[str, Tensor] = {}
        for key, value in state.items():
            kind, number, *rest = key.split(".")
            if kind == "fcs":
                own[f"head.{key}"] = value
            elif kind == "convs" and int(number) >= len(EXTRACTION):
                own[f"head.convs.{int(number) - len(EXTRACTION)}.0.{rest[0]}"] = value
            elif kind == "convs":
                own[f"backbone.blocks.conv{int(number) + 1}.0.{rest[0]}"] = value
        return own

    @classmethod
    def from_foreign(cls, state: Mapping[str, Tensor], source: str) -> YOLOv1 | None:
        """Return the detector of VOC's 20 classes that a `.weights` file is, None if it is none.

        Raises DetkitError for another number of classes, whose names the file does not hold.
        """
        own, config = cls.convert_foreign(state), cls.config_of(state)
        if own is None or not isinstance(config, YOLOv1Config):
            return None
        outputs = len([key for key in own if key.startswith("head.fcs.")]) // 2 - 1
        numbers = len(own[f"head.fcs.{outputs}.bias"]) // config.grid**2 - 5 * config.boxes_a_cell
        if numbers != len(VOC_CLASSES):
            raise DetkitError(
                f"{source}: a detector of {counted(numbers, 'class')}, whose names the file does "
                "not hold; start a training from it with --weights"
            )
        with torch.device("meta"):  # random weights are not worth the time and the memory
            detector = cls(config, VOC_CLASSES)
        detector.load_state_dict(own, assign=True)
        detector.backbone.pretrained = True
        return detector.eval()

    def network_size(self) -> Callable[[int, int], tuple[int, int]]:
        """Return the rule: every image is warped to `size` x `size`."""
        return partial(square, self.config.size)

    def augmentation(self) -> Transform:
        """Return sec. 2.2's augmentation; mirror image, border and cut objects as released."""
        shift = RandomScaleShift(0.2, fill=None, min_side=MIN_VISIBLE)
        return Compose([RandomExposure(), shift, RandomHorizontalFlip()])

    @property
    def reach_rule(self) -> str:
        """What an object out of reach is, in words: the rule of `reachable`."""
        grid = self.config.grid
        return (
            f"{super().reach_rule}, or sharing their cell of the {grid} x {grid} grid with "
            "another, or below an eighth of one"
        )

    def reachable(
        self, boxes: Tensor, size: tuple[int, int], original_size: tuple[int, int]
    ) -> Tensor:
        """Return, (R,) bool, which objects are large enough, and alone or the first in their cell.

        Ours: the root of an object's area is at least an eighth of a cell's. For an IoU of .5 its
        centre has to be right to a third of its side, here to 4 % of the cell.
        """
        cells, targets = assign_cells(boxes, size, self.config.grid)
        first = torch.zeros(len(boxes), dtype=torch.bool)
        first[first_of_each(cells)] = True
        share = targets[:, 2:].prod(dim=1).sqrt() * self.config.grid
        return first & (share >= SMALLEST_SHARE) & super().reachable(boxes, size, original_size)

    def finer_settings(self) -> Iterator[dict[str, Any]]:
        """Yield finer grids and larger images, the cheapest first."""
        grid = {"grid": 2 * self.config.grid}
        yield grid
        for size in self.finer_sizes()[1:]:
            yield {"size": size}
            yield {"size": size, **grid}

    def predict(self, images: Tensor) -> Grid:
        """Return what the network says of every cell of (B, 3, H, W) images."""
        return self.split_cells(self.head(self.backbone(images)).float())

    def split_cells(self, values: Tensor) -> Grid:
        """Return the head's output by its parts: (B, S * S * outputs) or (B, outputs, S, S)."""
        number, classes = self.config.boxes_a_cell, len(self.class_names)
        widths = [classes, number, 4 * number]
        if values.ndim == 2:
            cells = values.shape[1] // self.outputs_a_cell
            parts = torch.split(values, [cells * width for width in widths], dim=1)
        else:
            values = values.flatten(2).transpose(1, 2)
            cells = values.shape[1]
            parts = torch.split(values, widths, dim=2)
        probs, confidences, boxes = (
            # (`len` would fix the number of images in an exported graph.)
            part.reshape(values.shape[0], cells, -1)
            for part in parts
        )
        return Grid(probs, confidences, boxes.reshape(*confidences.shape, 4))

    def objects(self, batch: Batch) -> Objects:
        """Return the object that each cell is to learn; in training a random one of several."""
        grid = self.config.grid
        cells, targets = [], []
        for index, (boxes, size) in enumerate(zip(batch.boxes, batch.sizes)):
            within, target = assign_cells(boxes, size, grid)
            cells.append(within + index * grid * grid)
            targets.append(target)
        all_cells, all_targets, labels = (
            torch.cat(parts) for parts in (cells, targets, batch.labels)
        )
        if self.training:
            order = torch.rand(len(all_cells), device=all_cells.device).argsort()
            all_cells, all_targets, labels = all_cells[order], all_targets[order], labels[order]
        kept = first_of_each(all_cells)
        return Objects(all_cells[kept], all_targets[kept], labels[kept])

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return half of eq. 3's terms: centres, sizes, confidence on objects and off, class."""
        config = self.config
        images = zip(batch.ignored_boxes, batch.sizes)
        parts = grid_loss(
            self.predict(batch.images),
            self.objects(batch),
            torch.cat([ignored_cells(*image, config.grid) for image in images]),
            grid=config.grid,
            lambda_coord=config.lambda_coord,
            lambda_noobj=config.lambda_noobj,
        )
        return {role: LOSS_SCALE * part for role, part in parts.items()}

    def candidates(self, batch: Batch) -> list[Candidates]:
        """Return all K boxes with each class's confidence, Pr(class) * IoU: eq. 1."""
        return [Candidates(*one) for one in zip(*self.dense_candidates(batch.images))]

    def dense_candidates(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return `candidates` of (B, 3, H, W) images: boxes (B, K, 4) and scores (B, K, C)."""
        return decode_grid(self.predict(images), (images.shape[2], images.shape[3]))

    def origins(self, batch: Batch, iou_thresh: float) -> list[list[TraceStage]]:
        """Return for each image which objects have a cell of the grid to themselves."""
        return [
            [cell_stage(assign_cells(boxes, size, self.config.grid)[0].tolist())]
            for boxes, size in zip(batch.boxes, batch.sizes)
        ]


def decode_grid(found: Grid, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return boxes (B, K, 4) in pixels of an image of `size` and scores (B, K, C), 0 or more."""
    num_images, num_cells, number = found.confidences.shape
    grid = round(num_cells**0.5)
    place = torch.arange(num_cells, device=found.boxes.device)
    corner = torch.stack([place % grid, place // grid], dim=-1)[:, None]  # (S * S, 1, 2) x, y
    centres = (found.boxes[..., :2] + corner) / grid
    height, width = size
    x, y, w, h = torch.cat([centres, found.boxes[..., 2:].square()], dim=-1).unbind(-1)
    pixels = cxcywh_to_xyxy(torch.stack([x * width, y * height, w * width, h * height], dim=-1))
    # Eq. 1: Pr(class | object) * Pr(object) * IoU.
    scores = found.confidences.clamp(min=0)[..., None] * found.probs.clamp(min=0)[:, :, None]
    return pixels.flatten(1, 2), scores.flatten(1, 2)


def _is_connected(config: YOLOv1Config) -> bool:
    if config.head == "auto":
        return config.backbone in PAPERS_OWN
    return config.head == "connected"
