"""Tests of going on with a run: what it goes by, and what it leaves as it was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from running import detkit
from runs import run, stop_after
from toy import scores_of, write_images

from detkit import machine
from detkit.data.records import ImageRecord
from detkit.errors import ExitCode, UsageError
from detkit.model_file import model_info
from detkit.training.resume import load_resume


@pytest.fixture
def records(tmp_path: Path) -> list[ImageRecord]:
    return write_images(tmp_path / "images")


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.*") if path.name != "log.txt"}


def test_going_on_with_a_finished_run_changes_no_file(
    tmp_path: Path, records: list[ImageRecord]
) -> None:
    options = {"validation": lambda toy: scores_of(0.3)}
    list(run(records, tmp_path / "run", **options))
    before = content(tmp_path / "run")
    assert list(run(records, tmp_path / "run", resume=True, **options)) == []
    assert content(tmp_path / "run") == before


def test_another_seed_would_divide_the_data_anew_and_is_refused(
    tmp_path: Path, records: list[ImageRecord]
) -> None:
    stop_after(run(records, tmp_path / "run", seed=7), 2)
    with pytest.raises(UsageError, match="started with seed 7, not 3"):
        list(run(records, tmp_path / "run", seed=3, resume=True))


def test_config_json_says_what_the_run_was_last_asked_for(
    tmp_path: Path, records: list[ImageRecord]
) -> None:
    first = {"max_steps": 4, "settings": {"max_steps": 4}}
    stop_after(run(records, tmp_path / "run", **first), 2)
    stop_after(
        run(records, tmp_path / "run", max_steps=6, settings={"max_steps": 6}, resume=True), 3
    )
    settings = json.loads((tmp_path / "run" / "config.json").read_text())
    assert settings == {"max_steps": 6, "precision": "32-true", "threads": 1}


def test_a_run_goes_on_with_its_threads_whatever_is_free_by_then(
    tmp_path: Path, records: list[ImageRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()

    def threads_of_step(number: int, free: int, **options: Any) -> int:
        monkeypatch.setattr(machine, "num_cores", lambda: 2)
        monkeypatch.setattr(machine, "free_cores", lambda: free)
        monkeypatch.setattr("torch.get_num_threads", lambda: 2)
        options = {"threads": None, "max_steps": 9, "settings": {}, **options}
        steps = run(records, tmp_path / "run", **options)
        with monkeypatch.context() as patch:
            used: list[int] = []
            patch.setattr("torch.set_num_threads", used.append)
            stop_after(steps, number)
        return used[0]

    assert threads_of_step(2, free=1) == 1
    assert threads_of_step(4, free=2, resume=True) == 1
    assert threads_of_step(6, free=1, resume=True, threads=2) == 2  # but for a word to the contrary
    assert threads_of_step(8, free=1, resume=True) == 2
    assert json.loads((tmp_path / "run" / "config.json").read_text())["threads"] == 2
    monkeypatch.undo()
    assert torch.get_num_threads() == before


def test_data_that_changed_meanwhile_are_told(tmp_path: Path, records: list[ImageRecord]) -> None:
    stop_after(run(records, tmp_path / "run", data_hash="one"), 2)
    said = [
        [
            note
            for step in run(records, tmp_path / "run", resume=True, **options)
            for note in step.notes
        ]
        for options in ({"data_hash": "one", "max_steps": 3}, {"data_hash": "two", "max_steps": 5})
    ]
    assert ["data are not what they were" in " ".join(notes) for notes in said] == [False, True]


def test_what_was_stopped_is_said_as_a_command_the_shell_takes(
    tmp_path: Path, records: list[ImageRecord]
) -> None:
    import shlex

    from detkit.errors import Interrupted

    folder = tmp_path / "my run's"
    with pytest.raises(Interrupted) as caught:
        for _ in run(records, folder, settings={}):
            signal.raise_signal(signal.SIGTERM)
    command = str(caught.value).partition("go on with: ")[2]
    if os.name != "nt":
        assert shlex.split(command) == ["detkit", "train", "--resume", "-o", str(folder)]


def test_a_folder_without_a_resume_file_is_not_said_to_be_resumable(
    tmp_path: Path, records: list[ImageRecord]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"detkit": "1", "plan": {}}')
    with pytest.raises(UsageError, match="not empty; add --force"):
        list(run(records, tmp_path / "run"))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "demo"
    assert detkit("demo", folder, "--num-images", "12").returncode == 0
    return folder


def test_the_command_tells_the_best_score_of_a_finished_run_again(
    demo: Path, tmp_path: Path
) -> None:
    words = ("--batch-size", "2", "--num-workers", "0", "--device", "cpu", "--set", "size=64")
    first = detkit(
        "train", demo, "--model", "ssd", "-o", tmp_path / "r", *words, "--max-steps", "1"
    )
    assert first.returncode == 0, first.stderr
    again = detkit("train", "--resume", "-o", tmp_path / "r")
    assert again.returncode == 0, again.stderr
    assert "nothing was left to do" in again.stderr
    told = [line for line in first.stderr.splitlines() if line.startswith("best validation: mAP")]
    assert len(told) == 1
    assert told[0] in again.stderr.splitlines()


SIGNAL_BEFORE_THE_FIRST_STEP = """
import signal, sys
from detkit.cli import main
from detkit.data.checks import check

real = check.check

def stopped(*words, **options):
    signal.raise_signal(signal.SIGTERM)
    return real(*words, **options)

check.check = stopped
main(sys.argv[1:])
"""


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_sigterm_before_the_first_step_exits_130_in_one_line(demo: Path, tmp_path: Path) -> None:
    words = ["train", str(demo), "--model", "ssd", "-o", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-c", SIGNAL_BEFORE_THE_FIRST_STEP, *words],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == ExitCode.INTERRUPTED, done.stderr
    assert done.stderr.splitlines()[-1].startswith("detkit: error: "), done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "best.safetensors").exists()


CTRL_C_WHILE_IMPORTING = """
import signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "detkit.cli.console":
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Finder())
from detkit.__main__ import main
main()
"""


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_while_the_command_is_being_imported_is_quiet() -> None:
    words = [sys.executable, "-c", CTRL_C_WHILE_IMPORTING, "--help"]
    done = subprocess.run(words, capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (ExitCode.INTERRUPTED, "", "")


KILL_BETWEEN_TWO_FILES = """
import os, signal, sys
from detkit.training import saver
from detkit.cli import main

real, calls = saver.save_resume, []
saver.SAVE_SECONDS = 0.0  # save at every step

def save(*words):
    calls.append(words)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    real(*words)

saver.save_resume = save
main(sys.argv[1:])
"""


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_killed_command_leaves_whole_files_and_the_next_goes_on_from_them(
    demo: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    words = ["train", str(demo), "--model", "ssd", "-o", str(folder), "--batch-size", "2"]
    words += ["--num-workers", "0", "--device", "cpu", "--set", "size=64", "--max-steps", "4000"]
    done = subprocess.run(
        [sys.executable, "-c", KILL_BETWEEN_TWO_FILES, *words], capture_output=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (folder / ".lock").exists()
    assert load_resume(folder / "resume.ckpt")["position"]["step"] == 2
    assert model_info(folder / "last.safetensors")["backend"] == "ssd"
    again = detkit("train", "--resume", "-o", folder, "--max-steps", "3")
    assert again.returncode == 0, again.stderr
    assert "the run before was killed" in again.stderr
    assert "resumed at step 2" in again.stderr
    assert not (folder / ".lock").exists()


@pytest.mark.skipif(not Path("/sys").is_dir(), reason="needs a folder nobody can write to")
def test_an_output_folder_that_cannot_be_written_is_one_line(demo: Path) -> None:
    done = detkit("train", demo, "--model", "ssd", "-o", "/sys/detkit-run", "-q")
    assert done.returncode == ExitCode.BAD_INPUT
    assert done.stderr.startswith("detkit: error: /sys/detkit-run: cannot be written")
    assert done.stderr.count("\n") == 1


def test_a_full_disk_is_gone_on_from_only_where_there_is_something_to_go_on_with(
    tmp_path: Path,
) -> None:
    import errno

    from detkit.files import not_written

    full = OSError(errno.ENOSPC, "No space left on device")
    assert "then start again" in not_written(tmp_path / "best.safetensors", full)
    (tmp_path / "resume.ckpt").touch()
    assert "then go on with --resume" in not_written(tmp_path / "best.safetensors", full)
