"""A detector that judges given boxes, small enough to train in milliseconds; a `--plugin`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from detkit.config import DetectorConfig, ProposalConfig, Recipe, setting
from detkit.detector import Detector
from detkit.geometry.boxes import iou
from detkit.networks import backbones
from detkit.structures import Batch, Candidates


@dataclass(frozen=True, kw_only=True)
class GivenBoxesConfig(ProposalConfig):
    """What tests set."""

    size: int = setting(64, "a test")


@dataclass(frozen=True)
class Square:
    """A network that sees squares."""

    size: int

    def __call__(self, height: int, width: int) -> tuple[int, int]:
        """Return the network's size."""
        return self.size, self.size


RECIPE = Recipe(batch_size=2, max_steps=4, lr=0.01, mosaic=0.5)


class GivenBoxes(Detector):
    """Scores each proposal by its place and size alone; its candidates are the proposals."""

    name: ClassVar[str] = "given-boxes"
    paper: ClassVar[str] = "none"
    recipe: ClassVar[Recipe] = RECIPE
    short_recipe: ClassVar[Recipe] = RECIPE
    config_class: ClassVar[type[DetectorConfig]] = GivenBoxesConfig
    proposal_method: ClassVar[str | None] = "selective-search"
    config: GivenBoxesConfig

    def __init__(self, config: GivenBoxesConfig, class_names: Sequence[str]) -> None:
        """Build the network with random weights."""
        super().__init__(config, class_names)
        self.backbone = backbones.build(config.backbone)
        self.head = nn.Linear(4 + self.backbone.taps[0].channels, len(class_names))

    def network_size(self) -> Callable[[int, int], tuple[int, int]]:
        """Return the rule: a square."""
        return Square(self.config.size)

    def logits(self, batch: Batch) -> list[Tensor]:
        """Return (P, C) of each image."""
        assert batch.proposals is not None
        with self.stopwatch.stage("features"):
            seen = self.backbone(batch.images)[0].mean((2, 3))
        return [
            self.head(torch.cat([boxes / self.config.size, one.expand(len(boxes), -1)], 1))
            for boxes, one in zip(batch.proposals, seen)
        ]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return how far each proposal's score is from its overlap with an object."""
        assert batch.proposals is not None
        errors = []
        for logits, boxes, truth in zip(self.logits(batch), batch.proposals, batch.boxes):
            wanted = iou(boxes, truth).amax(1) if len(truth) else torch.zeros(len(boxes))
            errors.append((logits.sigmoid() - wanted[:, None]).square())
        return {"overlap": torch.cat(errors).mean()}

    def candidates(self, batch: Batch) -> list[Candidates]:
        """Return the proposals with a score a class."""
        assert batch.proposals is not None
        scores = [logits.sigmoid() for logits in self.logits(batch)]
        return [Candidates(boxes, one) for boxes, one in zip(batch.proposals, scores)]
