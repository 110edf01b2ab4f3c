"""Tests of the training loop, its stopping and going on, and what it leaves in the run folder."""

from __future__ import annotations

import itertools
import json
import math
import signal
import time
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import (
    ADAMW,
    assert_same,
    metrics,
    run,
    two_stages,
)
from torch import Tensor
from toy import RECIPE, Toy, make_toy, scores_of, write_images

from detkit.config import DetectorConfig, Recipe
from detkit.data.records import ImageRecord
from detkit.detector import Detector
from detkit.errors import DetkitError, ExitCode, UsageError
from detkit.model_file import model_info
from detkit.structures import Batch
from detkit.training import saver
from detkit.training.resume import load_resume


@pytest.fixture
def records(tmp_path: Path) -> list[ImageRecord]:
    return write_images(tmp_path / "images")


# What a run makes


def test_the_loss_falls_and_every_step_is_told(tmp_path: Path, records: list[ImageRecord]) -> None:
    recipe = replace(RECIPE, mosaic=0, augmentation="none", max_steps=60, ema_decay=0)
    steps = list(run(records, tmp_path / "run", recipe=recipe))
    assert [step.step for step in steps] == list(range(1, 61))
    assert {step.total_steps for step in steps} == {60}
    first, last = (sum(sum(s.losses.values()) for s in part) for part in (steps[:10], steps[-10:]))
    assert last < 0.5 * first
    assert steps[-1].epoch == pytest.approx(60 * 4 / 10)
    assert steps[-1].seconds_left == 0
    assert steps[-1].images_per_second > 0


def test_the_schedule_is_followed_to_the_step(tmp_path: Path, records: list[ImageRecord]) -> None:
    recipe = Recipe(batch_size=2, max_steps=8, lr=0.08, milestones=(0.5, 0.75), gamma=0.5)
    rates = [step.lr for step in run(records, tmp_path / "run", recipe=recipe)]
    assert rates == pytest.approx([0.08] * 4 + [0.04] * 2 + [0.02] * 2)


def test_the_same_seed_gives_the_same_bits_and_another_one_does_not(
    tmp_path: Path, records: list[ImageRecord]
) -> None:
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        list(run(records, tmp_path / name, seed=seed))
    one, two, three = (
        (tmp_path / name / "last.safetensors").read_bytes() for name in ("one", "two", "three")
    )
    assert one == two
    assert one != three


def test_images_and_batches_without_objects_train(
    tmp_path: Path, records: list[ImageRecord]
) -> None:
    empty = [replace(record, objects=()) for record in records]
    steps = list(run(empty, tmp_path / "run"))
    assert all(math.isfinite(loss) for step in steps for loss in step.losses.values())


def test_the_run_folder_holds_what_is_promised(tmp_path: Path, records: list[ImageRecord]) -> None:
    list(run(records, tmp_path / "run", settings={"model": "toy"}, data_hash="abc"))
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        "config.json",
        "metrics.jsonl",
        "log.txt",
        "best.safetensors",
        "last.safetensors",
        "resume.ckpt",
        "samples",
    }
    settings = json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))
    assert settings == {"model": "toy", "precision": "32-true", "threads": 1}
    assert model_info(tmp_path / "run" / "best.safetensors")["data_hash"] == "abc"
    assert len(list((tmp_path / "run" / "samples").iterdir())) == RECIPE.batch_size
    lines = metrics(tmp_path / "run")
    assert lines[-1]["step"] == RECIPE.max_steps
    assert set(lines[0]["losses"]) == {"box", "class"}


def test_no_images_is_an_error_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(DetkitError, match="no images to train on"):
        list(run([], tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_an_unreadable_image_stops_the_run_with_its_name(
    tmp_path: Path, records: list[ImageRecord]
) -> None:
    records[3].path.write_bytes(b"")
    with pytest.raises(DetkitError, match="bïld-3.png"):
        list(run(records, tmp_path / "run"))


# Budgets


def test_a_budget_in_epochs_counts_images(tmp_path: Path, records: list[ImageRecord]) -> None:
    steps = list(run(records, tmp_path / "run", epochs=2))
    assert len(steps) == 5  # 2 * 10 images / 4 a batch


@pytest.mark.parametrize(
    "budget",
    [
        {"max_steps": 0},
        {"max_minutes": 0.0},
        {"epochs": -1},
        {"epochs": float("nan")},
        {"max_minutes": float("inf")},
    ],
)
def test_a_budget_of_nothing_or_without_end_is_refused(
    tmp_path: Path, records: list[ImageRecord], budget: dict[str, float]
) -> None:
    with pytest.raises(UsageError, match="must be above 0"):
        list(run(records, tmp_path / "run", **budget))
    assert not (tmp_path / "run").exists()


@dataclass
class HandWatch:
    """A clock that stands still unless it is moved."""

    seconds: float = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> HandWatch:
    watch = HandWatch()
    monkeypatch.setattr(time, "monotonic", watch)
    return watch


def test_a_budget_in_minutes_is_kept_and_the_schedule_ends_with_it(
    tmp_path: Path, records: list[ImageRecord], watch: HandWatch
) -> None:
    steps = []
    for step in run(records, tmp_path / "run", recipe=ADAMW, max_minutes=1.5 / 60):
        steps.append(step)
        watch.seconds += 1 / 32
    assert len(steps) == 48 + 1  # the one that finds the time used up, too
    rates = [step.lr for step in steps if step.epoch > 0]
    assert max(rates) > 0.9 * ADAMW.lr
    assert rates[-1] < 0.02 * ADAMW.lr
    after_warmup = rates[rates.index(max(rates)) :]
    assert after_warmup == sorted(after_warmup, reverse=True)
    assert steps[0].total_steps is None  # nothing is measured yet
    assert steps[-1].total_steps == steps[-1].step


def test_validations_count_in_a_budget_of_minutes(
    tmp_path: Path, records: list[ImageRecord], watch: HandWatch
) -> None:
    def slow_validation(toy: Detector) -> Any:
        watch.seconds += 0.3
        return scores_of(0.5)

    began, steps = watch.seconds, []
    for step in run(records, tmp_path / "run", max_minutes=1.5 / 60, validation=slow_validation):
        steps.append(step)
        watch.seconds += 0.02
    assert 1.5 <= watch.seconds - began < 1.5 + 0.3  # at most the first validation's surprise
    assert steps[-1].scores is not None
    assert 1 <= sum(step.scores is not None for step in steps) < 4


@dataclass(frozen=True)
class SlowImages:
    """A validation whose images take an eighth of a second each by a watch that is set by hand."""

    watch: HandWatch
    num_images: int
    judged: list[int]

    def part(self, num_images: int) -> SlowImages:
        return replace(self, num_images=num_images)

    def __call__(self, toy: Detector, /) -> Any:
        self.watch.seconds += 0.125 * self.num_images
        self.judged.append(self.num_images)
        return scores_of(0.5)


@pytest.mark.parametrize(("whole", "part"), [(100, 12), (12, 12)])
def test_a_budget_of_time_holds_with_its_validation_which_may_judge_a_part_of_the_images(
    tmp_path: Path, records: list[ImageRecord], watch: HandWatch, whole: int, part: int
) -> None:
    began, judged, notes = watch.seconds, [], ""
    validation = SlowImages(watch, whole, judged)
    for step in run(records, tmp_path / "run", max_minutes=10 / 60, validation=validation):
        watch.seconds += 0.02
        notes += "".join(step.notes)
    assert 9 <= watch.seconds - began <= 10.1
    assert judged[:2] == [1, 1]  # what measures it
    assert set(judged[2:]) == {part}
    assert (f"{part} of {whole} are judged" in notes) == (part < whole)


def test_validations_missed_while_they_cost_too_much_are_not_made_up_for_in_a_row(
    tmp_path: Path, records: list[ImageRecord], watch: HandWatch
) -> None:
    def costly_at_first(toy: Detector) -> Any:
        watch.seconds += 0.2 if watch.seconds < 1001 else 0.001
        return scores_of(0.5)

    judged = []
    for step in run(records, tmp_path / "run", max_minutes=10 / 60, validation=costly_at_first):
        watch.seconds += 0.05
        if step.scores is not None:
            judged.append(step.step)
    apart = [later - earlier for earlier, later in itertools.pairwise(judged[:-1])]
    assert len(apart) > 3
    assert min(apart) >= 0.05 * 10 / 0.05 - 1  # a twentieth of the time


def test_a_budget_of_time_used_up_before_the_first_step_is_an_error_and_leaves_nothing(
    tmp_path: Path, records: list[ImageRecord], watch: HandWatch
) -> None:
    class SlowToBegin(Toy):
        def parameter_groups(self, recipe: Recipe) -> list[dict[str, Any]]:
            watch.seconds += 0.7
            return super().parameter_groups(recipe)

    toy = SlowToBegin(DetectorConfig(), ("car", "dog"))
    with pytest.raises(DetkitError, match=r"before the first step: .* 0\.7 s; raise --max-minutes"):
        list(run(records, tmp_path / "run", toy=toy, max_minutes=0.01))
    assert not (tmp_path / "run").exists()


# Validation


def validate_with(*means: float | None) -> Any:
    values = iter(means)
    return lambda toy: scores_of(next(values))


def test_the_model_of_the_best_validation_is_kept(
    tmp_path: Path, records: list[ImageRecord]
) -> None:
    recipe = replace(RECIPE, max_steps=12)
    steps = list(
        run(
            records,
            tmp_path / "run",
            recipe=recipe,
            num_validations=4,
            validation=validate_with(0.2, 0.6, 0.6, 0.3),
        )
    )
    told = {step.step: step.is_best for step in steps if step.scores is not None}
    assert told == {3: True, 6: True, 9: False, 12: False}
    best = model_info(tmp_path / "run" / "best.safetensors")["scores"]
    assert best["mAP"] == 0.6
    assert best["protocol"] == "VOC 2007 11-point AP, IoU >= 0.5"
    validations = [line for line in metrics(tmp_path / "run") if "validation" in line]
    assert [line["validation"]["mAP"] for line in validations] == [0.2, 0.6, 0.6, 0.3]
    assert (tmp_path / "run" / "best.safetensors").read_bytes() != (
        tmp_path / "run" / "last.safetensors"
    ).read_bytes()


def test_training_stops_after_patience_validations_without_a_better_one(
    tmp_path: Path, records: list[ImageRecord]
) -> None:
    steps = list(
        run(
            records,
            tmp_path / "run",
            recipe=replace(RECIPE, max_steps=30),
            num_validations=10,
            patience=2,
            validation=validate_with(0.2, 0.5, 0.4, 0.5),
        )
    )
    assert steps[-1].step == 12
    assert steps[-1].notes == ("stopped early: 2 validations without a better mAP",)
    assert "stopped early" in (tmp_path / "run" / "log.txt").read_text(encoding="utf-8")


def test_training_stops_once_a_validation_reaches_what_was_asked_for_and_goes_on_for_more(
    tmp_path: Path, records: list[ImageRecord]
) -> None:
    folder = tmp_path / "run"

    def go_on(*means: float, **options: Any) -> list[Any]:
        options = {"num_validations": 10, "validation": validate_with(*means), **options}
        return list(run(records, folder, recipe=replace(RECIPE, max_steps=30), **options))

    steps = go_on(0.2, 0.49, 0.5, 0.9, until={"mAP": 0.5})
    assert steps[-1].step == 9
    assert steps[-1].notes == ("stopped early: reached mAP=0.5",)
    assert go_on(0.9, until={"mAP": 0.5}, resume=True) == []
    assert go_on(0.5, 0.6, until={"mAP": 0.6}, resume=True)[-1].step == 15
    means = [0.5] * 5
    assert go_on(*means, until={"mAP": 0.3, "tree": 0.1}, resume=True)[-1].step == 30


@pytest.mark.parametrize(
    ("mean", "reached"), [(0.5, True), (0.5 - 1e-16, True), (0.4999, False), (None, False)]
)
def test_a_figure_reaches_what_it_falls_short_of_by_rounding_alone(
    mean: float | None, reached: bool
) -> None:
    assert scores_of(mean).reach("mAP", 0.5) is reached
    assert not scores_of(mean).reach("no such figure", 0.0)


def test_a_validation_without_any_truth_leaves_the_last_model_as_the_best(
    tmp_path: Path, records: list[ImageRecord]
) -> None:
    list(run(records, tmp_path / "run", validation=lambda toy: scores_of(None)))
    state = model_info(tmp_path / "run" / "best.safetensors")
    assert state["backend"] == "toy"


def test_validation_leaves_no_trace_in_what_is_learnt(
    tmp_path: Path, records: list[ImageRecord]
) -> None:
    def meddling(toy: Detector) -> Any:
        assert not toy.training
        torch.rand(5)
        return scores_of(0.1)

    list(run(records, tmp_path / "with", validation=meddling))
    list(run(records, tmp_path / "without"))
    one, other = (
        load_resume(tmp_path / name / "resume.ckpt")["model"] for name in ("with", "without")
    )
    assert_same(one, other)


def test_validation_and_the_final_detector_use_the_averaged_weights(
    tmp_path: Path, records: list[ImageRecord]
) -> None:
    seen: list[Tensor] = []

    def look(toy: Detector) -> Any:
        seen.append(next(toy.parameters()).detach().clone())
        return scores_of(0.1)

    toy = make_toy()
    list(run(records, tmp_path / "run", toy=toy, validation=look))
    state = load_resume(tmp_path / "run" / "resume.ckpt")
    name, final = next(iter(toy.named_parameters()))
    assert torch.equal(seen[-1], final)
    assert torch.equal(final, state["learner"]["average"][name])
    assert not torch.equal(final, state["model"][name])


# What goes wrong


class Failing(Toy):
    """A toy whose loss fails from the third step on."""

    failure: Exception | None = None
    calls = 0

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        losses = super().losses(batch)
        self.calls += 1
        if self.calls > 2:
            if self.failure is not None:
                raise self.failure
            losses["box"] = losses["box"] * math.nan
        return losses


def failing(failure: Exception | None = None) -> Failing:
    torch.manual_seed(0)
    toy = Failing(DetectorConfig(), ("car", "dog"))
    toy.failure = failure
    return toy


def test_a_loss_that_is_not_finite_names_step_parts_and_images_and_harms_nothing(
    tmp_path: Path, records: list[ImageRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saver, "SAVE_SECONDS", 0.0)
    steps = run(records, tmp_path / "run", toy=failing())
    next(steps)
    next(steps)
    before = {
        name: (tmp_path / "run" / name).read_bytes() for name in ("last.safetensors", "resume.ckpt")
    }
    with pytest.raises(DetkitError) as caught:
        next(steps)
    message = str(caught.value)
    assert message.startswith("step 3: the loss is not finite (box nan, class ")
    assert "bïld-" in message and "\n" not in message
    assert caught.value.exit_code == ExitCode.BAD_INPUT
    for name, content in before.items():
        assert (tmp_path / "run" / name).read_bytes() == content
    assert "not finite" in (tmp_path / "run" / "log.txt").read_text(encoding="utf-8")


def test_weights_that_are_not_finite_are_never_saved(
    tmp_path: Path, records: list[ImageRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = make_toy()
    steps = run(records, tmp_path / "run", toy=toy)
    next(steps)
    signal.raise_signal(signal.SIGTERM)
    toy.head.weight.data[0, 0] = math.inf
    with pytest.raises(DetkitError, match=r"head\.weight are not finite"):
        next(steps)
    assert not (tmp_path / "run" / "resume.ckpt").exists()


@pytest.mark.parametrize(
    "failure",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
        MemoryError(),
    ],
    ids=["gpu", "cpu", "python"],
)
def test_too_little_memory_is_one_line_with_a_batch_size_to_try(
    tmp_path: Path, records: list[ImageRecord], failure: Exception
) -> None:
    toy = failing(failure)
    with pytest.raises(DetkitError, match="out of memory on cpu at batch size 4; .*size 2"):
        list(run(records, tmp_path / "run", toy=toy))


def test_another_error_keeps_its_own_traceback(tmp_path: Path, records: list[ImageRecord]) -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        list(run(records, tmp_path / "run", toy=failing(RuntimeError("a bug"))))


# Stages


def test_stages_follow_each_other_with_their_own_recipes(
    tmp_path: Path, records: list[ImageRecord]
) -> None:
    toy = two_stages()
    weights = [parameter.detach().clone() for parameter in toy.backbone.parameters()]
    steps = run(records, tmp_path / "run", toy=toy)
    first = list(islice(steps, 6))
    assert {step.stage for step in first} == {"head"}
    assert_same(weights, list(toy.backbone.parameters()))
    rest = list(steps)
    assert [(step.stage, step.step) for step in rest] == [("all", 7), ("all", 8)]
    assert toy.begun == ["head", "all"]
    assert not torch.equal(weights[0], next(toy.backbone.parameters()))
