"""Tests of what `detkit train` refuses: in time, and without touching anything."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from pathlib import Path

import pytest
from labelled_folders import put, xml
from running import detkit
from runs import hold

from detkit.cli.train import train
from detkit.cli.train_plan import Plan, read_plan
from detkit.data.checks import check
from detkit.data.demo.pictures import write_demo
from detkit.errors import ExitCode
from detkit.model_file import model_info

WORDS = ("--model", "ssd", "--device", "cpu", "--num-workers", "0", "--batch-size", "2")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A labelled folder whose second image cannot be read."""
    car = ("car", 3, 3, 30, 18)
    files = {
        "a.jpg": None,
        "a.xml": xml(car, filename="a.jpg"),
        "b.jpg": b"no image",
        "b.xml": xml(car, filename="b.jpg"),
    }
    folder: Path = put(tmp_path / "photos", files)
    return folder


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """A folder that looks like an earlier run's."""
    files = {"config.json": '{"detkit": "1", "plan": {}}', "best.safetensors": "weeks of work"}
    folder: Path = put(tmp_path / "run", {**files, "resume.ckpt": "more", "log.txt": "so far"})
    return folder


@pytest.mark.parametrize(
    "wrong",
    [
        ("--max-minutes", "0"),
        ("--epochs", "nan"),
        ("--seed", "-1"),
        ("--seed", "4294967296"),
        ("--set", "nms_thresh=2"),
        ("--set", "no_such=1"),
        ("--lr", "0"),
        ("--lr", "inf"),
        ("--lr", "1", "--set", "lr=2"),
        ("--tile", "half"),
        ("--tile", "-640"),
        ("--tile", "640", "--set", "tile=320"),
        ("--tile", "640", "--overlap", ".9"),
        ("--overlap", ".2"),
        ("--precision", "int8"),
        ("--device", "warp"),
    ],
    ids=" ".join,
)
def test_a_wrong_option_is_told_before_the_data_are_looked_at_and_deletes_nothing(
    photos: Path, earlier: Path, monkeypatch: pytest.MonkeyPatch, wrong: tuple[str, ...]
) -> None:
    monkeypatch.setattr(check, "check", None)
    before = hold(earlier)
    done = detkit("train", photos, *WORDS, "-o", earlier, "--force", *wrong)
    assert done.returncode == ExitCode.USAGE, done.stderr
    assert done.stderr.count("\n") == 1
    assert hold(earlier) == before


def test_a_folder_that_is_not_empty_is_refused_before_the_data_are_looked_at(
    photos: Path, earlier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "check", None)
    done = detkit("train", photos, *WORDS, "-o", earlier)
    assert done.returncode == ExitCode.USAGE
    assert "is not empty; add --resume" in done.stderr


def test_data_with_errors_leave_an_earlier_run_and_make_no_folder(
    photos: Path, earlier: Path, tmp_path: Path
) -> None:
    before = hold(earlier)
    for out in (earlier, tmp_path / "new" / "run"):
        done = detkit("train", photos, *WORDS, "-o", out, "--force")
        assert done.returncode == ExitCode.BAD_INPUT, done.stderr
    assert hold(earlier) == before
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("place", ["photos", "photos/run", "."])
def test_a_run_is_not_written_into_the_data_nor_around_them(
    photos: Path, tmp_path: Path, place: str
) -> None:
    before = hold(tmp_path)
    done = detkit("train", photos, *WORDS, "-o", tmp_path / place, "--force")
    assert done.returncode == ExitCode.USAGE
    assert "the source folder" in done.stderr
    assert hold(tmp_path) == before


def test_without_any_object_there_is_nothing_to_learn(tmp_path: Path) -> None:
    put(tmp_path / "photos", {f"{name}.jpg": None for name in "ab"})
    put(tmp_path / "photos", {f"{name}.xml": xml(filename=f"{name}.jpg") for name in "ab"})
    done = detkit("train", tmp_path / "photos", *WORDS, "-o", tmp_path / "run", "-q")
    assert done.returncode == ExitCode.BAD_INPUT
    assert "no object is labelled in " in done.stderr and "nothing to learn" in done.stderr
    assert not (tmp_path / "run").exists()


def test_every_field_of_the_plan_is_an_option_of_the_command_by_that_name() -> None:
    fields = {field.name: field.default for field in dataclasses.fields(Plan)}
    options = inspect.signature(train).parameters
    assert fields.keys() - options.keys() == {"detector", "recipe"}  # the settings of --set
    for name in fields.keys() & options.keys():  # else a default would pass for a wish
        assert options[name].default in (None, fields[name]), name


def test_an_option_replaces_what_an_earlier_run_was_asked_for_by_its_default_too(
    photos: Path, tmp_path: Path
) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"plan": {"data": str(photos), "model": "ssd", "seed": -1}}))
    words = ("train", "--config", config, "-o", tmp_path / "run")
    done = detkit(*words)
    assert done.returncode == ExitCode.USAGE and "--seed -1" in done.stderr
    assert "1 error in the labels" in detkit(*words, "--seed", "0").stderr


def test_what_training_is_to_reach_is_a_figure_that_a_validation_has(tmp_path: Path) -> None:
    write_demo(tmp_path / "demo", num_images=6)
    for word, message in (
        ("mAP", "--until mAP: expected NAME=X with X between 0 and 1"),
        ("cra=.5", "--until cra=0.5: no such class or figure; did you mean car?"),
    ):
        done = detkit("train", tmp_path / "demo", *WORDS, "--until", word, "-o", tmp_path / "run")
        assert done.returncode == ExitCode.USAGE
        assert message in done.stderr
        assert not (tmp_path / "run").exists()


def test_a_run_is_repeated_with_the_threads_and_the_precision_that_were_measured(
    tmp_path: Path,
) -> None:
    config = tmp_path / "config.json"
    measured = {"threads": 3, "precision": "bf16-mixed"}
    config.write_text(json.dumps({**measured, "plan": {"threads": None, "precision": "auto"}}))
    plan = read_plan(config)
    assert (plan.threads, plan.precision) == (3, "bf16-mixed")
    asked = {"threads": 1, "precision": "32-true"}
    config.write_text(json.dumps({**measured, "plan": asked}))
    plan = read_plan(config)
    assert (plan.threads, plan.precision) == (1, "32-true")


def test_tiles_become_settings_of_the_run_and_of_its_model_and_none_takes_them_back(
    tmp_path: Path,
) -> None:
    write_demo(tmp_path / "demo", num_images=6)
    short = ("--max-steps", "1", "--val", ".2", "--set", "size=64")
    tiles = ("--tile", "160", "--overlap", ".25")
    done = detkit("train", tmp_path / "demo", *WORDS, *short, *tiles, "-o", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert re.search(r"images make \d+ tiles", done.stderr)
    model = model_info(tmp_path / "run" / "last.safetensors")["config"]
    config = tmp_path / "run" / "config.json"
    of_run = json.loads(config.read_text(encoding="utf-8"))["plan"]["detector"]
    for settings in (model, of_run):
        assert (settings["tile"], settings["tile_overlap"]) == (160, 0.25)
    for name, words, tile in (("again", (), 160), ("whole", ("--tile", "none"), 0)):
        out = tmp_path / name
        done = detkit("train", "--config", config, *words, "-o", out)
        assert done.returncode == 0, done.stderr
        assert model_info(out / "last.safetensors")["config"]["tile"] == tile
        assert bool(re.search(r"images make \d+ tiles", done.stderr)) == bool(tile)
    done = detkit("train", "--resume", "-o", tmp_path / "run", "--max-steps", "2")
    assert done.returncode == 0, done.stderr
    assert model_info(tmp_path / "run" / "last.safetensors")["config"]["tile"] == 160


def test_the_paper_recipe_of_alternating_training_has_its_own_schedule_and_batches(
    tmp_path: Path,
) -> None:
    write_demo(tmp_path / "demo", seed=0, num_images=6)
    words = ("--model", "faster-rcnn", "--recipe", "paper", "--device", "cpu", "--num-workers", "0")
    words += ("--backbone", "tiny", "--weights", "none")
    sets = ("--set", "training=alternating", "--set", "size=64", "--max-steps", "6")
    done = detkit("train", tmp_path / "demo", *words, *sets, "-o", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    recipe = json.loads((tmp_path / "run" / "config.json").read_text())["plan"]["recipe"]
    assert recipe["max_steps"] == 240_000 and recipe["stage_batches"] == [0.5, 1, 0.5, 1]
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    steps = [one for one in map(json.loads, lines) if "losses" in one]
    # Two steps of one image, one of two, and both again; of fast steps not every one is logged.
    last = {one["stage"][:6]: one["step"] for one in steps}
    assert last == {"step 1": 2, "step 2": 3, "step 3": 5, "step 4": 6}
    again = detkit("train", "--config", tmp_path / "run" / "config.json", "-o", tmp_path / "again")
    assert again.returncode == 0, again.stderr
    repeated = json.loads((tmp_path / "again" / "config.json").read_text())["plan"]["recipe"]
    assert repeated == recipe
