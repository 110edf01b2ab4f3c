"""A detector small enough to train in milliseconds, and random images for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from detkit.config import DetectorConfig, Recipe
from detkit.data.records import ImageRecord, ObjectRecord
from detkit.detector import Detector
from detkit.structures import Batch, Candidates, ClassScore, Scores

RECIPE = Recipe(
    batch_size=4, max_steps=8, lr=0.05, warmup=0.25, clip_norm=5.0, ema_decay=0.9, mosaic=0.3
)
CLASSES = ("car", "dog")


@dataclass(frozen=True)
class FixedSize:
    """A network that always sees 32 x 32 pixels."""

    def __call__(self, height: int, width: int) -> tuple[int, int]:
        return 32, 32


class ToyBackbone(nn.Sequential):
    pretrained = False
    folded_norms = False


class Toy(Detector):
    """Learns the sum of an image's boxes and how many there are; finds one fixed box."""

    name: ClassVar[str] = "toy"
    paper: ClassVar[str] = "none"
    recipe: ClassVar[Recipe] = RECIPE
    short_recipe: ClassVar[Recipe] = RECIPE
    config_class: ClassVar[type[DetectorConfig]] = DetectorConfig

    def __init__(self, config: DetectorConfig, class_names: Sequence[str]) -> None:
        super().__init__(config, class_names)
        self.backbone = ToyBackbone(  # type: ignore[assignment]
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2)
        )
        self.head = nn.Conv2d(8, 4 + len(class_names), 1)

    def network_size(self) -> Callable[[int, int], tuple[int, int]]:
        return FixedSize()

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        found = self.head(self.backbone(batch.images)).mean((2, 3))
        boxes = torch.stack([boxes.sum(0) / 32 for boxes in batch.boxes])
        counts = torch.stack(
            [labels.bincount(minlength=len(self.class_names)) for labels in batch.labels]
        )
        return {
            "box": (found[:, :4] - boxes).square().mean(),
            "class": (found[:, 4:] - counts).square().mean(),
        }

    def candidates(self, batch: Batch) -> list[Candidates]:
        num_classes = len(self.class_names)
        return [
            Candidates(torch.tensor([[0.0, 0, 8, 8]]), torch.full((1, num_classes), 0.5))
            for _ in range(len(batch))
        ]


def make_toy(seed: int = 0) -> Toy:
    """Return a toy detector whose weights are drawn from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Toy(DetectorConfig(), CLASSES)


def write_images(folder: Path, count: int = 10) -> list[ImageRecord]:
    """Return records of random images, 48 x 40, of which every third has no object."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    records = []
    for index in range(count):
        path = folder / f"bïld-{index}.png"
        pixels = random.integers(0, 255, (40, 48, 3), dtype=np.uint8)
        cv2.imencode(".png", pixels)[1].tofile(path)
        objects = tuple(
            ObjectRecord(CLASSES[number], (4.0, 6.0, 20.0 + index, 30.0))
            for number in range(index % 3)
        )
        records.append(ImageRecord(path.name, path, objects))
    return records


def scores_of(mean: float | None) -> Scores:
    """Return a validation result with this mAP."""
    empty = np.zeros(0, np.float32)
    one = ClassScore("car", mean, 3, 2, None, None, empty, empty, empty)
    return Scores("VOC 2007 11-point AP, IoU >= 0.5", "voc07", 0.5, mean, [one], 5)


def photo_like(seed: int, height: int = 281, width: int = 500) -> NDArray[np.uint8]:
    """Return an (H, W, 3) image of large soft shapes and a little noise."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + random.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)
