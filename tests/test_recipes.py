"""Tests of `--recipe paper` and its like: all that a paper's row needs, by one command."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from labelled_folders import put, xml
from running import detkit

from detkit.cli.recipes import wanted_file, with_run
from detkit.cli.train_plan import Plan
from detkit.config import DetectorConfig, Recipe, override
from detkit.detector import Detector
from detkit.detectors import load_backend
from detkit.errors import ExitCode, UsageError
from detkit.training.learner import Learner
from detkit.training.options import TrainOptions
from detkit.training.schedule import lr_factor

RESULTS = Path(__file__).parents[1] / "docs" / "results.md"
NUM_07, NUM_12 = 6, 4  # images of trainval in the made-up kit

# The released solvers: (steps, images a step, where the rate falls to a tenth) of each stage.
Solver = tuple[int, int, tuple[int, ...]]
SOLVERS: dict[tuple[str, str, str], list[Solver]] = {
    ("rcnn", "paper", ""): [(70_000, 16, (20_000, 40_000, 60_000))],
    ("fast-rcnn", "paper", ""): [(40_000, 2, (30_000,))],
    ("fast-rcnn", "paper-0712", ""): [(60_000, 2, (30_000,))],
    ("fast-rcnn", "paper-coco", ""): [(240_000, 2, (180_000,))],
    ("faster-rcnn", "paper", ""): [(70_000, 2, (50_000,))],
    ("faster-rcnn", "paper", "training=alternating"): [
        (80_000, 1, (60_000,)),
        (40_000, 2, (30_000,)),
    ]
    * 2,
    ("faster-rcnn", "paper-0712", ""): [(80_000, 1, (60_000,)), (60_000, 2, (30_000,))] * 2,
    ("faster-rcnn", "paper-0712", "training=joint"): [(70_000, 2, (50_000,))],
    ("faster-rcnn", "paper-coco", ""): [(490_000, 2, (350_000,))],
    ("ssd", "paper", ""): [(60_000, 32, (40_000, 50_000))],
    ("ssd", "paper-0712", ""): [(120_000, 32, (80_000, 100_000))],
    ("ssd", "paper-coco", ""): [(400_000, 32, (280_000, 360_000))],
}
# Those of YOLOv1 differ in the data alone, and take ten seconds.
RECIPES = sorted({key[:2] for key in SOLVERS} | {("yolov1", "paper-0712")})


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made-up VOCdevkit of both years, whose images are small."""
    root = tmp_path_factory.mktemp("data") / "VOCdevkit"
    random = np.random.default_rng(0)
    years = {"VOC2007": [f"{n:06d}" for n in range(1, NUM_07 + 3)]}
    years["VOC2012"] = [f"2008_{n:06d}" for n in range(1, NUM_12 + 1)]
    for year, names in years.items():
        count = NUM_07 if year == "VOC2007" else NUM_12
        lists = {"train": names[: count // 2], "val": names[count // 2 : count]}
        lists |= {"trainval": names[:count], "test": names[count:]}
        for name in names:
            image = random.integers(90, 160, (60, 80, 3), dtype=np.uint8)
            image[20:50, 10:50] = random.integers(0, 255, 3)
            put(
                root / year,
                {f"Annotations/{name}.xml": xml(("car", 11, 21, 50, 50), size=(80, 60))},
            )
            path = root / year / "JPEGImages" / f"{name}.jpg"
            path.parent.mkdir(exist_ok=True)
            cv2.imwrite(str(path), image)
        texts = {key: "".join(f"{one}\n" for one in part) for key, part in lists.items() if part}
        put(root / year, {f"ImageSets/Main/{key}.txt": text for key, text in texts.items()})
    return root


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Plan, DetectorConfig, Recipe]]:
    """What `--dry-run` of a command would tell of, without its steps."""
    told: list[Any] = []

    def keep(console: Any, *parts: Any) -> None:
        told.append(parts)

    monkeypatch.setattr(sys.modules["detkit.cli.train"], "tell_forecast", keep)

    def plan(*words: str | Path) -> tuple[Plan, DetectorConfig, Recipe]:
        done = detkit("train", *words, "--dry-run")
        assert done.returncode == 0, done.stderr
        return told[-1][:3]

    return plan


def caffe(solver: Solver, iteration: int) -> float:
    """Return Caffe's "multistep" rate: from the iteration of a value on it is a tenth."""
    rate = 1e-3
    for value in solver[2]:
        if iteration >= value:
            rate *= 0.1
    return rate


@pytest.mark.parametrize("key", sorted(SOLVERS), ids=" ".join)
def test_steps_batches_and_rates_are_the_released_solvers(key: tuple[str, str, str]) -> None:
    model, name, word = key
    backend = load_backend(model)
    run = backend.paper_runs[name]
    settings: dict[str, Any] = {**run.settings, **dict([word.split("=")] if word else [])}
    config, _ = override(backend.config_class(backbone="tiny"), Recipe(), settings)
    recipe = backend.paper_recipe(config, name)
    stages = backend(config, ("car",)).stages(recipe)
    budgets = TrainOptions().budgets(stages, 5011, recipe.batch_size)
    learns = [pair for pair in zip(stages, budgets) if pair[0].fit is None]
    assert len(learns) == len(SOLVERS[key])
    for (stage, budget), solver in zip(learns, SOLVERS[key]):
        steps, batch, falls = solver
        assert (budget.steps, stage.recipe.batch_size) == (steps, batch)
        assert (stage.recipe.momentum, stage.recipe.weight_decay) == (0.9, 5e-4)
        for iteration in (0, *(at + d for at in falls for d in (-1, 0, 1)), steps - 1):
            rate = stage.recipe.lr * lr_factor(stage.recipe, budget.progress(iteration, 0))
            assert rate == pytest.approx(caffe(solver, iteration)), iteration


def test_yolov1_follows_darknets_steps_on_any_data() -> None:
    scales = {200: 2.5, 400: 2.0, 600: 2.0, 20_000: 0.1, 30_000: 0.1}  # released yolo.cfg
    backend = load_backend("yolov1")
    for name in ("paper", "paper-0712"):
        recipe = backend.paper_recipe(backend.config_class(), name)
        assert (recipe.batch_size, recipe.max_steps) == (64, 40_000)
        rate = 1e-3
        for at, scale in scales.items():
            before, after = (lr_factor(recipe, step / 40_000) for step in (at - 1, at))
            assert recipe.lr * before == pytest.approx(rate)
            rate *= scale
            assert recipe.lr * after == pytest.approx(rate)


def test_rcnn_learns_32_and_96_of_128_crops_a_step() -> None:
    config = load_backend("rcnn").config_class()
    assert config.crops_per_batch == 128  # type: ignore[attr-defined]
    assert config.crops_per_batch * config.positive_fraction == 32  # type: ignore[attr-defined]


@pytest.mark.parametrize(("model", "name"), RECIPES, ids=lambda one: one)
def test_twenty_steps_of_each_recipe(
    kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, name: str
) -> None:
    seen: list[list[str]] = []
    gradients = Learner.gradients

    def watched(learner: Learner, batch: Any) -> dict[str, float]:
        seen.append(batch.image_ids)
        return gradients(learner, batch)

    monkeypatch.setattr(Learner, "gradients", watched)
    monkeypatch.setenv("DETKIT_CACHE", str(tmp_path / "cache"))
    words = ["--model", model, "--recipe", name, "--backbone", "tiny", "--max-steps", "20"]
    small = {"rcnn": 32, "yolov1": 64}.get(model, 96)
    words += ["--set", f"size={small}", "--set", "lr=1e-5"]  # a tiny network from chance
    words += ["--set", "crops_per_batch=16"] if model == "rcnn" else []
    words += ["--set", "grid=3"] if model == "yolov1" else []
    words += ["--set", "scales=()"] if (model, name) == ("ssd", "paper-coco") else []  # VGG16's
    words += ["--device", "cpu", "--precision", "32-true", "--num-workers", "0", "--threads", "1"]
    done = detkit("train", kit, *words, "-o", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert f"plan      {model}, --recipe {name}" in done.stderr
    assert len(seen) == 20
    backend = load_backend(model)
    recipe = backend.paper_recipe(backend.config_class(**backend.paper_runs[name].settings), name)
    sizes = {len(one) for one in seen}
    assert sizes == {recipe.batch_in(place) for place in range(len(recipe.stage_batches) or 1)}
    # Every image once an epoch, in an order by chance; COCO's recipe takes the folder's own split.
    images = {"paper": NUM_07, "paper-0712": NUM_07 + NUM_12}.get(name, NUM_07 // 2 + NUM_12 // 2)
    if len(sizes) == 1:
        order = [one for batch in seen for one in batch]
        epochs = [order[at : at + images] for at in range(0, len(order), images)]
        assert all(len(set(epoch)) == len(epoch) for epoch in epochs)
        assert len(set(order)) == images
    plan = json.loads((tmp_path / "run" / "config.json").read_text())["plan"]
    assert plan["recipe"]["max_steps"] == recipe.max_steps  # the budget is 20; its shares stay
    assert (tmp_path / "run" / "last.safetensors").is_file()


def test_a_recipe_brings_network_weights_settings_and_data(
    kit: Path, planned: Callable[..., tuple[Plan, Any, Recipe]]
) -> None:
    plan, config, recipe = planned(kit, "--model", "faster-rcnn", "--recipe", "paper-0712")
    assert (plan.backbone, plan.weights) == ("vgg16", "imagenet")
    assert (config.backbone, config.training) == ("vgg16", "alternating")
    assert config.sides == (600, 1000)
    assert (recipe.batch_size, recipe.max_steps) == (2, 280_000)
    plan, config, _ = planned(kit, "--model", "rcnn", "--recipe", "paper")
    assert (config.backbone, config.crop_size, plan.weights) == ("alexnet", 227, "imagenet")


def test_what_the_user_says_wins(kit: Path, planned: Callable[..., Any]) -> None:
    words = (kit, "--model", "faster-rcnn", "--recipe", "paper-0712")
    _, config, recipe = planned(*words, "--set", "training=joint", "--set", "size=300")
    assert (config.training, config.size, recipe.max_steps) == ("joint", 300, 70_000)
    _, _, recipe = planned(*words, "--batch-size", "4", "--lr", ".002", "--set", "accumulate=4")
    assert (recipe.batch_size, recipe.lr, recipe.accumulate) == (4, 0.002, 4)
    plan, config, _ = planned(*words, "--backbone", "resnet50")
    assert (config.backbone, plan.weights) == ("resnet50", "none")
    plan, config, _ = planned(*words, "--weights", "none")
    assert (config.backbone, plan.weights) == ("vgg16", "none")


def test_weights_in_a_file_say_themselves_which_backbone_they_are_of() -> None:
    backend: type[Detector] = load_backend("ssd")
    asked = Plan(model="ssd", recipe_name="paper", weights="mobilenet_v2.pth")
    plan = with_run(asked, backend, {"recipe_name", "weights"})
    assert (plan.backbone, plan.weights) == (None, "mobilenet_v2.pth")
    # A run that is repeated or goes on has said it all.
    again = Plan(model="ssd", recipe_name="paper", backbone="tiny")
    assert with_run(again, backend, {"seed"}) == again


def test_yolov1_does_not_begin_from_chance_without_a_word(kit: Path, tmp_path: Path) -> None:
    words = ("train", kit, "--model", "yolov1", "--recipe", "paper", "-o", tmp_path / "run")
    done = detkit(*words)
    assert done.returncode == ExitCode.USAGE and not (tmp_path / "run").exists()
    assert "begins with darknet's classifier, extraction.conv.weights" in done.stderr
    assert done.stderr.count("\n") == 1
    backend = load_backend("yolov1")
    asked = Plan(model="yolov1", recipe_name="paper")
    assert wanted_file(asked, backend, {"recipe_name"})
    for name in ("weights", "backbone"):
        assert not wanted_file(asked, backend, {"recipe_name", name})


def test_a_recipe_that_the_paper_has_not_is_refused(kit: Path) -> None:
    done = detkit("train", kit, "--model", "rcnn", "--recipe", "paper-coco", "-o", "run")
    assert done.returncode == ExitCode.USAGE
    assert "--recipe paper-coco: rcnn's paper has none; it has paper" in done.stderr
    with pytest.raises(UsageError):
        with_run(Plan(recipe_name="paper-0712"), load_backend("rcnn"), ())


def test_a_dry_run_tells_its_plan_and_time_on_stdout_and_writes_nothing(
    kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--model", "fast-rcnn", "--recipe", "paper", "--backbone", "tiny", "--set", "size=64"]
    words += ["--device", "cpu", "--precision", "32-true", "--threads", "1", "--num-workers", "0"]
    done = detkit("train", kit, *words, "--set", "accumulate=2", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
    lines = dict(line.split(None, 1) for line in done.stdout.splitlines())
    assert lines["network"] == ("tiny, weights none; an image of 500 x 375 is seen at 85 x 64"), (
        lines["network"]
    )
    assert lines["data"] == "6 images to train on, 0 to validate on"
    assert lines["stage"] == (
        "train: 40000 steps of 2 images in 2 parts; sgd, lr 0.001, 0.0001 from step 30000"
    )
    assert lines["in"] == f"all    80000 images seen, {80_000 / 6:.1f} epochs"
    a_step = re.search(r"train: ([\d.e-]+) s a step", lines["time"])
    told = re.match(r"about ([\d.]+) (days|hours|minutes|seconds)", lines["time"])
    assert a_step is not None and told is not None
    unit = {"days": 86_400, "hours": 3600, "minutes": 60, "seconds": 1}[told[2]]
    assert float(told[1]) * unit == pytest.approx(40_000 * float(a_step[1]), rel=0.1)


def test_a_dry_run_of_several_devices_is_refused(kit: Path) -> None:
    words = ("--model", "ssd", "--set", "size=64", "--device", "cpu", "--devices", "2", "--dry-run")
    done = detkit("train", kit, *words)
    assert done.returncode == ExitCode.USAGE and "measures one device" in done.stderr


def headline_rows() -> list[list[str]]:
    """Return the cells of the table of headline rows."""
    section = RESULTS.read_text().split("## The papers' numbers")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in rows[1:]]


STEPS = {  # of all stages together, from the papers' and released schedules
    ("rcnn", "07"): 70_000,
    ("fast-rcnn", "07"): 40_000,
    ("fast-rcnn", "07+12"): 60_000,
    ("faster-rcnn", "07"): 240_000,
    ("faster-rcnn", "07+12"): 280_000,
    ("yolov1", "07+12"): 40_000,
    ("ssd", "07+12"): 120_000,
}


@pytest.mark.parametrize("row", headline_rows(), ids=lambda row: f"{row[0]} {row[1]}")
def test_the_command_of_each_headline_row_plans_that_row(
    kit: Path, planned: Callable[..., tuple[Plan, Any, Recipe]], row: list[str]
) -> None:
    detector, trained_on, figure, command, measured = row
    words = shlex.split(command.strip("`"))
    assert words[:3] == ["detkit", "train", "VOCdevkit"]
    assert float(figure) > 50 and (not measured or command)
    if "extraction.conv.weights" in words:  # which is on no disk here
        words = words[:-2]
    plan, config, recipe = planned(kit, *words[3:])
    backend = load_backend(str(plan.model))
    assert {"voc07": "07", "voc0712": "07+12"}[
        backend.paper_runs[plan.recipe_name].data
    ] == trained_on
    network = {"VGG16": "vgg16", "AlexNet": "alexnet", "Fast YOLO": "fast_yolo"}
    named = next((net for word, net in network.items() if word in detector), None)
    assert config.backbone == (named or {"yolov1": "darknet", "ssd": "vgg16"}[str(plan.model)])
    assert recipe.max_steps == STEPS[str(plan.model), trained_on]
    if detector.startswith("SSD"):
        assert config.size == int(detector[3:])
