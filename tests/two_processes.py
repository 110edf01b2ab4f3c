"""`python two_processes.py FOLDER`: trainings in this process, one of two that a launcher began.

`test_devices.py` begins both, and makes some of the trainings in one process itself.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from toy import CLASSES, RECIPE, Toy, write_images

from detkit.config import DetectorConfig, Recipe
from detkit.data.images import read_image
from detkit.data.records import Dataset
from detkit.detector import Pace, Passes, Stage
from detkit.detectors.rcnn import RCNN, RCNNConfig
from detkit.errors import DetkitError
from detkit.evaluation.held_out import HeldOut
from detkit.structures import Batch, Detections, IntArray, Proposals
from detkit.training.options import RunOptions
from detkit.training.train import train

STEPS = replace(RECIPE, max_steps=2, cache_size=0)
# Room for 64 examples a class, so that the order in which they come decides which are kept.
SMALL = RCNNConfig(
    size=32,
    context=2,
    crops_per_batch=16,
    mined_proposals=30,
    svm_retrain_after=20,
    svm_c=1.0,
    ridge_thresh=0.3,
    ridge_penalty=1.0,
    cache_gb=1e-9,
)


class SomeBoxes:
    """Proposals that depend on the image's name alone."""

    identity = "some boxes"

    def __call__(self, name: str, image: NDArray[np.uint8]) -> Proposals:
        random = np.random.default_rng(zlib.crc32(Path(name).name.encode()))
        corners = random.uniform(0, 1, (60, 2, 2)) * (image.shape[1] - 4, image.shape[0] - 4)
        both = np.concatenate([corners.min(axis=1), corners.max(axis=1) + 4], axis=1)
        return Proposals(both.astype(np.float32), np.linspace(1, 0, 60, dtype=np.float32))

    def within(self, name: str, image: NDArray[np.uint8], window: IntArray) -> Proposals:
        raise NotImplementedError

    def of_file(self, path: Path) -> Proposals:
        return self(str(path), read_image(path))

    def require(self, names: Any) -> None:
        """All are there."""


class PassesAlone(RCNN):
    """R-CNN that is not fine-tuned; it remembers which images it looked at, pass by pass."""

    def stages(self, recipe: Recipe) -> list[Stage]:
        self.looked: list[list[str]] = []
        return super().stages(recipe)[1:]

    def _features_of(self, batch: Batch, regions: Any, *, pooled: bool) -> Tensor:
        self.looked.append(batch.image_ids)
        return super()._features_of(batch, regions, pooled=pooled)


class Watched(HeldOut):
    """Images held out; it remembers which this process looked at."""

    def found(self, detector: Any, process: int, num_processes: int) -> dict[int, Detections]:
        found = super().found(detector, process, num_processes)
        detector.judged = sorted(one.image_id for one in found.values())
        return found


class Failing(Toy):
    """Two steps, then a pass in which the second process fails in some way at the second batch."""

    how = "not"

    def stages(self, recipe: Recipe) -> list[Stage]:
        return [Stage("learn", recipe), Stage("count", recipe, fit=self.count)]

    def count(self, passes: Passes) -> Iterator[Mapping[str, float]]:
        norm: Any = self.backbone[1]
        self.seen = passes.of_all(norm.running_mean.tolist())
        self.of_all: list[list[str]] = []

        def look(batch: Batch, pace: Pace) -> tuple[Tensor, list[str]]:
            if len(self.of_all) >= 2 and os.environ.get("RANK") == "1":
                if self.how == "unreadable":
                    raise DetkitError("b.png: cannot be read")
                if self.how == "killed":
                    os.kill(os.getpid(), signal.SIGKILL)
            return torch.rand(len(batch), 2), batch.image_ids

        for draws, names in passes.seen(look):
            self.of_all.append([*names, *map(str, draws.flatten().tolist())])
            yield {}


def options(nodes: int, **more: Any) -> RunOptions:
    fixed = {"device": "cpu", "precision": "32-true", "num_workers": 0, "threads": 1}
    return RunOptions(nodes=nodes, wait=2.0, **{**fixed, **more})


def fit_rcnn(folder: Path, out: Path, nodes: int) -> tuple[PassesAlone, list[Any]]:
    """Return an R-CNN whose SVMs and boxes are fitted, and what validation told."""
    records = write_images(folder / f"images-{os.environ.get('RANK', 'all')}")
    torch.manual_seed(0)
    detector = PassesAlone(SMALL, CLASSES)
    held_out = Dataset(folder, "voc", CLASSES, {"val": tuple(records[:5])}, ())
    source: Any = SomeBoxes()
    watched = Watched(held_out, "val", 2, source)
    made = options(nodes, proposals=source, validation=watched)
    recipe = replace(RECIPE, batch_size=2, max_steps=1)
    steps = list(train(detector, records, recipe, out, made))
    return detector, [(step.stage, dict(step.figures)) for step in steps]


def count(folder: Path, out: Path, nodes: int, how: str, **more: Any) -> Failing:
    """Return what a training with a pass saw that ends in such a way."""
    records = write_images(folder / f"images-{os.environ.get('RANK', 'all')}")
    torch.manual_seed(0)
    toy = Failing(DetectorConfig(), CLASSES)
    toy.how = how
    list(train(toy, records, replace(STEPS, batch_size=2), out, options(nodes, **more)))
    return toy


def main(folder: Path, ports: list[str]) -> None:
    """Make each training with the other process, and write down how it went."""
    rank = os.environ["RANK"]
    said: dict[str, Any] = {}

    def tell() -> None:
        (folder / f"said-{rank}.json").write_text(json.dumps(said), encoding="utf-8")

    os.environ["MASTER_PORT"] = ports[0]
    detector, steps = fit_rcnn(folder, folder / "rcnn", 2)
    said["rcnn"] = {"looked": detector.looked, "judged": detector.judged, "steps": steps}
    os.environ["MASTER_PORT"] = ports[1]
    toy = count(folder, folder / "sound", 2, "not")
    said["sound"] = {"norms": toy.seen, "of_all": toy.of_all}
    os.environ["MASTER_PORT"] = ports[2]
    try:
        count(folder, folder / "unreadable", 2, "unreadable")
    except DetkitError as error:
        said["unreadable"] = str(error)
    torch.distributed.destroy_process_group()
    os.environ["MASTER_PORT"] = ports[3]
    tell()
    try:
        count(folder, folder / "killed", 2, "killed")
    except DetkitError as error:
        said["killed"] = str(error)
    tell()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
