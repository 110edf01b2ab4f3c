"""Tests of the run folder: who may write to it, and what is left alone."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import hold, run
from toy import RECIPE, Toy, make_toy, write_images

from detkit.config import Recipe
from detkit.data.records import ImageRecord
from detkit.detector import Detector
from detkit.errors import DetkitError, UsageError
from detkit.files import not_written
from detkit.training.dataset import TrainingDataset
from detkit.training.run_folder import RunFolder
from detkit.training.run_log import RunLog


@pytest.fixture
def records(tmp_path: Path) -> list[ImageRecord]:
    return write_images(tmp_path / "images")


def test_a_folder_that_holds_something_is_refused(
    tmp_path: Path, records: list[ImageRecord]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("three years")
    with pytest.raises(UsageError, match="not empty, and holds no earlier run"):
        list(run(records, tmp_path / "run"))
    list(run(records, tmp_path / "other", max_steps=1))
    with pytest.raises(UsageError, match="not empty; add --resume .* --force to replace"):
        list(run(records, tmp_path / "other"))


def test_a_file_is_no_run_folder(tmp_path: Path, records: list[ImageRecord]) -> None:
    file = tmp_path / "run"
    file.write_text("three years")
    with pytest.raises(UsageError, match="run: is a file; name a folder"):
        list(run(records, file, force=True))
    assert file.read_text() == "three years"


def test_what_a_file_browser_leaves_makes_no_folder_a_full_one(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".DS_Store").touch()
    RunFolder(tmp_path / "run").close()
    assert (tmp_path / "run" / ".DS_Store").exists()


def test_force_replaces_a_run_and_nothing_else(tmp_path: Path, records: list[ImageRecord]) -> None:
    list(run(records, tmp_path / "run", max_steps=2))
    (tmp_path / "run" / "thesis.txt").write_text("three years")
    steps = run(records, tmp_path / "run", force=True)
    next(steps)
    assert not (tmp_path / "run" / "last.safetensors").exists()
    steps.close()  # type: ignore[attr-defined]
    assert (tmp_path / "run" / "thesis.txt").read_text() == "three years"


def test_a_second_run_into_the_same_folder_is_refused(
    tmp_path: Path, records: list[ImageRecord]
) -> None:
    steps = run(records, tmp_path / "run")
    next(steps)
    for options in ({}, {"force": True}):
        with pytest.raises(UsageError, match="another run is writing there"):
            list(run(records, tmp_path / "run", **options))
    assert (tmp_path / "run" / "metrics.jsonl").exists()
    list(steps)


def test_the_lock_of_a_killed_run_does_not_last(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path\n"
        "from detkit.training.run_folder import RunFolder\n"
        "RunFolder(Path(sys.argv[1])); os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], check=False)
    assert done.returncode == 9
    assert (tmp_path / "run" / ".lock").exists()
    folder = RunFolder(tmp_path / "run")
    folder.begin(None)
    folder.close()
    assert not (tmp_path / "run" / ".lock").exists()


def test_what_a_kill_left_half_written_is_swept_up(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".resume.ckpt.123.partial").write_bytes(b"half")
    folder = RunFolder(tmp_path / "run")
    folder.begin(None)
    folder.close()
    assert list((tmp_path / "run").iterdir()) == []


def test_that_a_run_was_killed_is_told_until_another_has_begun(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").touch()
    told = []
    for begins in (False, True, True):
        folder = RunFolder(tmp_path / "run")
        told.append(folder.was_killed)
        if begins:
            folder.begin(None)
        folder.close()
    assert told == [True, True, False]


def test_force_replaces_no_folder_that_holds_no_run(
    tmp_path: Path, records: list[ImageRecord]
) -> None:
    (tmp_path / "proj" / "samples").mkdir(parents=True)
    (tmp_path / "proj" / "samples" / "important.txt").write_text("three years")
    (tmp_path / "proj" / "config.json").write_text("{}")
    (tmp_path / "proj" / "metrics.jsonl").write_text("[1]\n")
    before = hold(tmp_path / "proj")
    with pytest.raises(UsageError, match="holds no earlier run that --force could replace"):
        list(run(records, tmp_path / "proj", force=True))
    assert hold(tmp_path / "proj") == before


def test_of_the_samples_force_deletes_those_that_a_run_has_written(
    tmp_path: Path, records: list[ImageRecord]
) -> None:
    samples = tmp_path / "run" / "samples"
    list(run(records, tmp_path / "run", max_steps=1))
    (samples / "important.txt").write_text("three years")
    before = hold(samples)
    list(run(records, tmp_path / "run", max_steps=1, seed=3, force=True))
    after = hold(samples)
    assert after["important.txt"] == before["important.txt"]
    assert len(after) == len(before) == RECIPE.batch_size + 1
    assert after != before


def broken_image(records: list[ImageRecord], toy: Toy, patch: pytest.MonkeyPatch) -> None:
    records[3].path.write_bytes(b"")


def loss_that_is_not_finite(
    records: list[ImageRecord], toy: Toy, patch: pytest.MonkeyPatch
) -> None:
    with torch.no_grad():
        toy.head.weight.fill_(torch.nan)


def interrupt(records: list[ImageRecord], toy: Toy, patch: pytest.MonkeyPatch) -> None:
    def fill(images: TrainingDataset, *, processes: int) -> list[str]:
        raise KeyboardInterrupt

    patch.setattr(TrainingDataset, "fill_cache", fill)


def stop_signal(records: list[ImageRecord], toy: Toy, patch: pytest.MonkeyPatch) -> None:
    def parameter_groups(toy: Toy, recipe: Recipe) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return Detector.parameter_groups(toy, recipe)

    patch.setattr(Toy, "parameter_groups", parameter_groups)


def full_disk(records: list[ImageRecord], toy: Toy, patch: pytest.MonkeyPatch) -> None:
    def write_image(path: Path, image: Any) -> None:  # behind config.json and the log
        raise DetkitError(not_written(path, OSError(errno.ENOSPC, "No space left on device")))

    patch.setattr("detkit.training.samples.write_image", write_image)


FAILURES = [broken_image, interrupt, stop_signal]


@pytest.mark.parametrize("fail", [*FAILURES, loss_that_is_not_finite])
def test_a_run_that_fails_before_its_first_step_leaves_an_earlier_one_as_it_was(
    tmp_path: Path, records: list[ImageRecord], monkeypatch: pytest.MonkeyPatch, fail: Any
) -> None:
    list(run(records, tmp_path / "run", max_steps=2, settings={"seed": 0}))
    before = hold(tmp_path / "run")
    toy, recipe = make_toy(), replace(RECIPE, cache_size=64)
    fail(records, toy, monkeypatch)
    with pytest.raises((DetkitError, KeyboardInterrupt)):
        list(run(records, tmp_path / "run", toy=toy, recipe=recipe, settings={}, force=True))
    assert hold(tmp_path / "run") == before


@pytest.mark.parametrize("fail", [*FAILURES, full_disk])
def test_a_run_that_fails_before_its_first_step_leaves_no_folder_that_it_made(
    tmp_path: Path, records: list[ImageRecord], monkeypatch: pytest.MonkeyPatch, fail: Any
) -> None:
    toy, recipe = make_toy(), replace(RECIPE, cache_size=64)
    fail(records, toy, monkeypatch)
    (tmp_path / "mine").mkdir()
    for folder in (tmp_path / "new" / "run", tmp_path / "mine"):
        with pytest.raises((DetkitError, KeyboardInterrupt)):
            list(run(records, folder, toy=toy, recipe=recipe, settings={}))
    assert not (tmp_path / "new").exists()
    assert list((tmp_path / "mine").iterdir()) == []


def test_a_loss_that_is_not_finite_at_once_leaves_its_images_to_look_at_and_nothing_in_the_way(
    tmp_path: Path, records: list[ImageRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = make_toy()
    loss_that_is_not_finite(records, toy, monkeypatch)
    with pytest.raises(DetkitError, match="step 1: the loss is not finite .* look at .*samples"):
        list(run(records, tmp_path / "run", toy=toy, settings={}))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["samples"]
    failed = hold(tmp_path / "run" / "samples")
    assert len(failed) == RECIPE.batch_size
    list(run(records, tmp_path / "run", seed=3, max_steps=1))
    again = hold(tmp_path / "run" / "samples")
    assert len(again) == RECIPE.batch_size and again != failed


def test_samples_among_which_the_user_put_something_make_a_folder_a_full_one(
    tmp_path: Path, records: list[ImageRecord]
) -> None:
    (tmp_path / "run" / "samples").mkdir(parents=True)
    (tmp_path / "run" / "samples" / "1-photo.jpg").write_bytes(b"ours")
    (tmp_path / "run" / "samples" / "important.txt").write_text("three years")
    with pytest.raises(UsageError, match="not empty, and holds no earlier run"):
        list(run(records, tmp_path / "run"))


def test_a_note_is_told_and_logged_once_and_nothing_is_no_note(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    log = RunLog(folder)
    log.note("", "one", "two")
    assert [log.taken_notes(), log.taken_notes()] == [("one", "two"), ()]
    folder.close()
    lines = (tmp_path / "run" / "log.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split()[-1] for line in lines] == ["one", "two"]
