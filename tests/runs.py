"""Runs of the toy detector, and what to compare of them."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from toy import RECIPE, Toy, make_toy

from detkit.config import DetectorConfig, Recipe
from detkit.data.records import ImageRecord
from detkit.detector import Detector, Stage
from detkit.errors import Interrupted
from detkit.structures import Step
from detkit.training.options import RunOptions
from detkit.training.resume import load_resume
from detkit.training.train import train

ADAMW = replace(RECIPE, optimizer="adamw", schedule="cosine", lr=0.01)


def run(
    records: list[ImageRecord],
    run_dir: Path,
    *,
    toy: Detector | None = None,
    recipe: Recipe = RECIPE,
    **options: Any,
) -> Iterator[Step]:
    fixed = {"device": "cpu", "precision": "32-true", "num_workers": 0, "threads": 1}
    options = {**fixed, **options}
    return train(toy or make_toy(), records, recipe, run_dir, RunOptions(**options))


def stop_after(steps: Iterator[Step], count: int) -> list[Step]:
    """Return the steps made until a SIGTERM that arrives after step `count` ends the run."""
    made = []
    with pytest.raises(Interrupted):
        for step in steps:
            made.append(step)
            if step.step == count:
                signal.raise_signal(signal.SIGTERM)
    return made


def hold(folder: Path) -> dict[str, bytes]:
    """Return what every file below a folder holds."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def assert_same(one: Any, other: Any) -> None:
    """Assert that nested dicts and lists of tensors and values are equal to the bit."""
    if isinstance(one, Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for mine, theirs in zip(one, other, strict=True):
            assert_same(mine, theirs)
    else:
        assert one == other


def assert_same_run(one: Path, other: Path) -> None:
    """Assert that two run folders hold the same models and the same state, time apart."""
    for name in ("last.safetensors", "best.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    states = [load_resume(folder / "resume.ckpt") for folder in (one, other)]
    for state in states:
        for key in ("seconds", "stage_began", "validation_seconds", "last_validation"):
            del state["position"][key]
    assert_same(*states)


def steady_toy() -> Toy:
    """Return a toy in which an image's loss does not depend on chance or on its batch."""
    toy = make_toy()
    toy.backbone[3].p = 0.0  # dropout
    toy.config = replace(toy.config, freeze_norm="yes")
    return toy


class TwoStages(Toy):
    """First the head alone, then, from a marked start, everything."""

    begun: list[str]

    def stages(self, recipe: Recipe) -> list[Stage]:
        self.begun = getattr(self, "begun", [])

        def begin_head() -> None:
            self.begun.append("head")
            self.backbone.requires_grad_(False)

        def begin_all() -> None:
            self.begun.append("all")
            self.backbone.requires_grad_(True)
            with torch.no_grad():
                self.head.weight.mul_(0.5)

        return [
            Stage("head", replace(recipe, max_steps=6), begin_head),
            Stage("all", replace(recipe, max_steps=2, lr=0.01), begin_all),
        ]


def two_stages() -> TwoStages:
    torch.manual_seed(0)
    return TwoStages(DetectorConfig(), ("car", "dog"))
