"""A new backend in one file: a small anchor-free detector, after FCOS.

Tian et al. 2019, arXiv:1904.01355, on one feature map: every place inside an object
says its class and its distances to the object's four sides.

    detkit train DATA --plugin examples/custom_backend.py --model one-map -o runs/one-map
    detkit detect runs/one-map/best.safetensors photo.jpg --plugin examples/custom_backend.py

Shape shorthand: B images, P = H x W places of the map, C classes, R ground truths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from detkit.config import SHORT_RECIPE, DetectorConfig, Recipe, setting
from detkit.detector import Detector
from detkit.geometry.boxes import area
from detkit.networks import backbones
from detkit.structures import Batch, Candidates


@dataclass(frozen=True, kw_only=True)
class OneMapConfig(DetectorConfig):
    """The numbers of this backend; `--set size=256` and so on."""

    size: int = setting(192, "ours", at_least=32)
    width: int = setting(96, "ours: channels of the head", at_least=8)


def square(size: int, height: int, width: int) -> tuple[int, int]:
    """Return the network size of any image."""
    return (size, size)


class OneMap(Detector):
    """Classes and side distances at every place of one map, made of all of the backbone's."""

    name: ClassVar[str] = "one-map"
    paper: ClassVar[str] = "after Tian et al. 2019, arXiv:1904.01355"
    config_class: ClassVar[type[DetectorConfig]] = OneMapConfig
    recipe: ClassVar[Recipe] = Recipe(batch_size=16, max_steps=90_000, lr=0.01)
    short_recipe: ClassVar[Recipe] = replace(SHORT_RECIPE, max_steps=1500, backbone_lr_factor=1.0)
    config: OneMapConfig

    def __init__(self, config: OneMapConfig, class_names: Sequence[str]) -> None:
        """Build the network with random weights."""
        super().__init__(config, class_names)
        self.backbone = backbones.build(config.backbone)
        self.stride = self.backbone.taps[0].stride
        # Coarser maps are enlarged and added to the finest one, as in an FPN's top-down path.
        self.laterals = nn.ModuleList(
            nn.Conv2d(tap.channels, config.width, 1) for tap in self.backbone.taps
        )
        self.neck = nn.Sequential(
            nn.GroupNorm(8, config.width),
            nn.ReLU(),
            nn.Conv2d(config.width, config.width, 3, padding=1),
            nn.GroupNorm(8, config.width),
            nn.ReLU(),
        )
        self.class_head = nn.Conv2d(config.width, len(class_names), 1)
        self.side_head = nn.Conv2d(config.width, 4, 1)
        nn.init.constant_(self.class_head.bias, -4.6)  # focal loss: a prior of .01 (sec. 4.1)

    def network_size(self) -> Callable[[int, int], tuple[int, int]]:
        """Return the rule: every image becomes a square."""
        return partial(square, self.config.size)

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return class logits (B, P, C), boxes (B, P, 4) and places (P, 2), network pixels."""
        maps = [lateral(x) for lateral, x in zip(self.laterals, self.backbone(images))]
        rows, columns = maps[0].shape[2:]
        x = self.neck(torch.stack([interpolate(x, size=(rows, columns)) for x in maps]).sum(0))
        down, right = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        places = (torch.stack([right, down], dim=-1).view(-1, 2) + 0.5) * self.stride
        places = places.to(images.device)
        logits = self.class_head(x).flatten(2).transpose(1, 2).float()
        sides = self.side_head(x).flatten(2).transpose(1, 2).float()
        sides = sides.clamp(max=6.0).exp() * self.stride  # eq. 4's exp keeps them positive
        boxes = torch.cat([places - sides[..., :2], places + sides[..., 2:]], dim=-1)
        return logits, boxes, places

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the focal class loss and the GIoU box loss, a place inside an object."""
        logits, boxes, places = self.predict(batch.images)
        targets = torch.zeros_like(logits)
        wanted = torch.zeros_like(boxes)
        inside = torch.zeros(boxes.shape[:2], dtype=torch.bool, device=boxes.device)
        for index, (gt_boxes, labels) in enumerate(zip(batch.boxes, batch.labels)):
            # Sec. 3.1: a place in several objects learns the smallest; drawn from large to small.
            for truth in area(gt_boxes).argsort(descending=True).tolist():
                x1, y1, x2, y2 = gt_boxes[truth]
                within = ((places > gt_boxes[truth, :2]) & (places < gt_boxes[truth, 2:])).all(1)
                # A place of its own for an object smaller than the stride.
                centre = torch.stack([(x1 + x2) / 2, (y1 + y2) / 2])
                within[(places - centre).square().sum(1).argmin()] = True
                targets[index, within] = 0.0
                targets[index, within, labels[truth]] = 1.0
                wanted[index, within] = gt_boxes[truth]
                inside[index] |= within
        count = inside.sum().clamp(min=1)
        return {
            "class": sigmoid_focal_loss(logits, targets, reduction="sum") / count,
            "box": generalized_box_iou_loss(boxes[inside], wanted[inside], reduction="sum") / count,
        }

    def candidates(self, batch: Batch) -> list[Candidates]:
        """Return a box at every place with each class's probability."""
        logits, boxes, _ = self.predict(batch.images)
        return [Candidates(one, scores) for one, scores in zip(boxes, logits.sigmoid())]
