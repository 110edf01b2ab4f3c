"""Stages without gradients: one pass over the images, its figures, its end and its going on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from runs import assert_same_run, metrics, run, stop_after
from torch import Tensor
from toy import CLASSES, RECIPE, Toy, scores_of, write_images

from detkit.config import DetectorConfig, Recipe
from detkit.data.records import ImageRecord
from detkit.detector import Pace, Passes, Stage
from detkit.errors import DetkitError
from detkit.structures import Batch
from detkit.training import dataset, passes
from detkit.training.dataset import TrainingDataset


class Counting(Toy):
    """Two steps of training, then a pass that counts the images and remembers their names."""

    counted: Tensor
    seen: list[str]

    def __init__(
        self,
        config: DetectorConfig | None = None,
        class_names: Sequence[str] = CLASSES,
        seed: int = 0,
    ) -> None:
        torch.manual_seed(seed)
        super().__init__(config or DetectorConfig(), class_names)
        self.register_buffer("counted", torch.zeros(1))
        self.seen = []
        self.fit_cost = 0.0

    def stages(self, recipe: Recipe) -> list[Stage]:
        steps = replace(recipe, max_steps=2)
        return [
            Stage("learn", steps),
            Stage("count", steps, fit=self.count, fit_cost=self.fit_cost),
        ]

    def count(self, passes: Passes) -> Iterator[Mapping[str, float]]:
        assert not self.training
        for ones, names in passes.seen(names_of):
            self.seen += names
            assert len(ones) == len(names)
            yield {"images": float(len(self.seen))}
        self.counted.fill_(len(self.seen))


def names_of(batch: Batch, pace: Pace) -> tuple[Tensor, list[str]]:
    return torch.ones(len(batch)), batch.image_ids


@pytest.fixture
def records(tmp_path: Path) -> list[ImageRecord]:
    return write_images(tmp_path / "images")


def test_a_pass_shows_every_image_once_and_tells_its_figures(
    tmp_path: Path, records: list[ImageRecord]
) -> None:
    toy = Counting()
    steps = list(run(records, tmp_path / "run", toy=toy))
    assert [step.stage for step in steps] == ["learn"] * 2 + ["count"] * 3  # 4 + 4 + 2 images
    assert [step.figures.get("images") for step in steps[2:]] == [4, 8, 10]
    assert [step.step for step in steps] == [1, 2, 3, 4, 5]
    assert {step.total_steps for step in steps} == {5}
    assert sorted(toy.seen) == sorted(record.image_id for record in records)
    assert float(toy.counted) == 10
    lines = [line for line in metrics(tmp_path / "run") if line["stage"] == "count"]
    assert lines[-1]["figures"] == {"images": 10.0} and "loss" not in lines[-1]


def test_steps_asked_for_are_those_of_the_optimiser(
    tmp_path: Path, records: list[ImageRecord]
) -> None:
    steps = list(run(records, tmp_path / "run", toy=Counting(), max_steps=4))
    assert [step.stage for step in steps] == ["learn"] * 4 + ["count"] * 3


def test_the_detector_is_judged_once_what_it_fits_is_there(
    tmp_path: Path, records: list[ImageRecord]
) -> None:
    counted = []

    def validation(toy: Counting) -> object:
        counted.append(float(toy.counted))
        return scores_of(0.5)

    steps = list(run(records, tmp_path / "run", toy=Counting(), validation=validation))
    assert counted == [10.0]
    assert steps[-1].scores is not None and steps[-1].is_best
    assert not any(step.scores for step in steps[:-1])
    assert metrics(tmp_path / "run")[-1]["validation"]["mAP"] == 0.5


@pytest.mark.parametrize("stop", [2, 3])  # after 4 all images have been seen
def test_a_stopped_pass_begins_anew_and_ends_alike(
    tmp_path: Path, records: list[ImageRecord], stop: int
) -> None:
    list(run(records, tmp_path / "whole", toy=Counting()))
    stop_after(run(records, tmp_path / "run", toy=Counting()), stop)
    again = Counting(seed=1)
    steps = list(run(records, tmp_path / "run", toy=again, resume=True))
    assert [step.figures.get("images") for step in steps if step.stage == "count"] == [4, 8, 10]
    assert float(again.counted) == 10
    whole, parts = (
        (tmp_path / name / "last.safetensors").read_bytes() for name in ("whole", "run")
    )
    assert whole == parts
    assert [line["step"] for line in metrics(tmp_path / "run") if "figures" in line][-1] == 5


def test_a_finished_pass_is_not_made_again(tmp_path: Path, records: list[ImageRecord]) -> None:
    list(run(records, tmp_path / "run", toy=Counting()))
    again = Counting(seed=1)
    assert list(run(records, tmp_path / "run", toy=again, resume=True)) == []
    assert not again.seen and float(again.counted) == 10


def tick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every look at the clock of a run take a second."""
    clock = iter(range(10**6))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))


def test_a_pass_that_time_cuts_short_says_so(
    tmp_path: Path, records: list[ImageRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = Counting()
    tick(monkeypatch)
    steps = list(run(records, tmp_path / "run", toy=toy, max_minutes=0.3))
    notes = [note for step in steps for note in step.notes]
    assert toy.seen and len(toy.seen) < 10
    assert float(toy.counted) == len(toy.seen)
    (line,) = (note for note in notes if note.startswith("count: time for "))
    assert f"% of the regions, in {len(toy.seen)} of 10 images; " in line
    assert line.endswith(
        "raise --max-minutes, or lower what this pass looks at (detkit models toy)"
    )
    assert line in (tmp_path / "run" / "log.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("each", [0.25, 2.0])  # seconds that all regions of an image take
def test_a_pass_without_time_for_all_regions_looks_at_some_in_every_image(
    tmp_path: Path, records: list[ImageRecord], monkeypatch: pytest.MonkeyPatch, each: float
) -> None:
    now, shares = [0.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    class Paced(Counting):
        def losses(self, batch: Batch) -> dict[str, torch.Tensor]:
            now[0] += 0.25
            return super().losses(batch)

        def count(self, passes: Passes) -> Iterator[Mapping[str, float]]:
            def look(batch: Batch, pace: Pace) -> tuple[Tensor, list[str]]:
                shares.append(pace())
                now[0] += each * len(batch) * pace()
                return names_of(batch, pace)

            for _, names in passes.seen(look):
                self.seen += names
                yield {}

    toy, notes = Paced(), ""
    toy.fit_cost = each / 0.25
    for step in run(records, tmp_path / "run", toy=toy, max_minutes=8 / 60):
        notes += "".join(step.notes)
    assert len(toy.seen) == 10
    assert now[0] <= 8.01
    assert (min(shares) < 0.5) == ("of the regions, in 10 of 10 images" in notes) == (each > 1)
    assert min(shares) == pytest.approx(max(shares), rel=0.3)


def test_time_is_kept_back_for_a_pass_by_what_it_is_expected_to_cost(
    tmp_path: Path, records: list[ImageRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    tick(monkeypatch)
    steps = replace(RECIPE, max_steps=10**6)
    made = []
    for cost in (0.0, 10.0, 1e6):
        toy = Counting()
        toy.fit_cost = cost
        told = run(records, tmp_path / f"{cost}", toy=toy, recipe=steps, max_minutes=10)
        made.append(sum(step.stage == "learn" for step in told))
    # 10 images at 10 steps of a second; a step with all that is around it takes seven.
    assert made[1] == pytest.approx(made[0] - 100 / 7, abs=2)
    assert 0.4 * made[0] <= made[2] <= 0.6 * made[0]  # at most half of the time


def test_an_unreadable_image_ends_a_pass_with_its_name(
    tmp_path: Path, records: list[ImageRecord]
) -> None:
    records[3].path.write_bytes(b"")
    images = TrainingDataset(records, ("car", "dog"))
    with pytest.raises(DetkitError, match="bïld-3.png"):
        whole = passes.OneByOne(images, Counting(), 4, seed=0)
        for first in range(0, len(images), 4):
            whole.batch(first)


def test_a_pass_that_an_image_ended_is_made_anew_once_that_is_mended(
    tmp_path: Path, records: list[ImageRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "CACHE_SHARE", -1.0)  # none stays in memory
    whole = Counting()
    list(run(records, tmp_path / "whole", toy=whole))
    image = records[3].path.read_bytes()
    with pytest.raises(DetkitError, match=r"bïld-3.png.*RunOptions\(resume=True\)"):
        for step in run(records, tmp_path / "run", toy=Counting()):
            if step.step == 2:  # the last before the pass
                records[3].path.write_bytes(b"")
    records[3].path.write_bytes(image)
    list(run(records, tmp_path / "run", toy=Counting(seed=1), resume=True))
    assert_same_run(tmp_path / "whole", tmp_path / "run")
