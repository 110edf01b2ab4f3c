"""`compare --command`: any trainer on the same parts, and what becomes of one that fails."""

from __future__ import annotations

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from labelled_folders import put, xml
from running import Done, detkit

from detkit.comparison.commands import Command, command_words, run_command
from detkit.comparison.trainer_folders import TrainerFolder, sources, write_folder
from detkit.data import open_dataset
from detkit.data.folds import as_dataset, divide_into_folds
from detkit.errors import DetkitError, ExitCode, UsageError
from detkit.files import holding

TRAINER = Path(__file__).parent / "fake_trainer.py"
NUM_IMAGES = 12


def command(name: str, mode: str) -> tuple[str, str]:
    words = shlex.join([sys.executable, str(TRAINER)])
    return "--command", f"{name}={words} {{data}} {{out}} {{seed}} {mode}"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Images of different sizes, whose one dog is the upper left quarter; a cat is nowhere found.

    The folder's name is hostile to a shell.
    """
    files: dict[str, Any] = {}
    for number in range(NUM_IMAGES):
        width, height = 40 + 2 * number, 30 + 2 * number
        files[f"JPEGImages/bïld-{number}.png"] = (height, width)
        files[f"Annotations/bïld-{number}.xml"] = xml(
            ("dog", 1, 1, width // 2, height // 2),
            *([("cat", 1, 1, 5, 5, "<difficult>1</difficult>")] if number == 0 else []),
            size=(width, height),
        )
    return Path(put(tmp_path / "a b;$(touch hacked)'", files))


def compare(data: Path, *words: str | Path) -> Done:
    fixed = ("-o", data.parent / "out", "--max-minutes", ".5", "--group", "none")
    return detkit("compare", data, *fixed, *words)


def test_out_of_fold_detections_of_a_command_are_pooled_to_one_figure_worked_by_hand(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data.parent)
    out = data.parent / "out"
    page = data.parent / "c.html"
    words = ("--folds", "3", "--seeds", "2", "--json", "--report", page)
    done = compare(data, *command("a", "coco"), *command("b", "jsonl"), *words)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["folds"], report["num_images"]) == (3, NUM_IMAGES)
    for row in report["models"]:
        # 6 of 12 dogs are found, before anything wrong: recall up to .5, 6 of 11 points.
        assert row["maps"] == pytest.approx([6 / 11, 6 / 11])
        assert row["spread"] == pytest.approx(0)
        assert row["interval"]["low"] < 6 / 11 < row["interval"]["high"]
        assert [(one["seed"], one["fold"]) for one in row["folds"]] == [
            (seed, fold) for seed in (0, 1) for fold in (1, 2, 3)
        ]
        assert sum(one["num_images"] for one in row["folds"][:3]) == NUM_IMAGES
    assert "12 trainings (2 rows, 2 seeds, 3 folds) of 0.5 min each" in done.stderr
    assert "at most 6:00 of training" in done.stderr
    with (out / "folds.csv").open(encoding="utf-8") as file:
        fold_of = {row["image"]: row["fold"] for row in csv.DictReader(file)}
    assert Counter(fold_of.values()) == {"1": 4, "2": 4, "3": 4}
    kept = [json.loads(line) for line in (out / "a-1.jsonl").read_text("utf-8").splitlines()]
    assert sorted(Path(one["image"]).name for one in kept) == sorted(
        Path(name).name for name in fold_of
    )
    for one in kept:
        [found] = one["detections"]
        assert found["label"] == "dog"
        assert Path(one["image"]).is_file()
    assert set((out / "calls.txt").read_text().splitlines()) == {
        f"{name}-{seed}-fold-{fold} {seed} 6+2+4"
        for name in "ab"
        for seed in (0, 1)
        for fold in (1, 2, 3)
    }
    assert not list(data.parent.glob("**/hacked"))
    text = page.read_text("utf-8")
    assert all(f"fold {fold}" in text for fold in (1, 2, 3))
    again = detkit("eval", "--predictions", out / "a-0.jsonl", data, "--json", "-q")
    assert json.loads(again.stdout)["mAP"] == pytest.approx(6 / 11)


def test_a_command_that_fails_is_a_line_and_a_row_and_the_others_go_on(data: Path) -> None:
    modes = ("fail", "none", "empty", "half", "two", "kill", "jsonl")
    words = [word for mode in modes for word in command(mode, mode)]
    done = compare(data, "--folds", "2", *words)
    assert done.returncode == 3
    errors = [line for line in done.stderr.splitlines() if line.startswith("detkit: error: ")]
    assert len(errors) == 2 * 6
    out = data.parent / "out"
    for line, told in {
        "fail-0-fold-1": f"exit code 4: loss is nan ({out}/fail-0-fold-1.log)",
        "none-0-fold-1": "left no detections",
        "empty-0-fold-1": "says nothing of 6 test images of 6",
        "half-0-fold-1": "test images of 6",
        "two-0-fold-1": "holds detections.csv and detections.json; leave one of them",
        "kill-0-fold-1": "killed by signal 9",
    }.items():
        assert any(
            error.startswith(f"detkit: error: {line}: ") and told in error for error in errors
        ), line
    rows = {line.split()[0]: line.split()[1:3] for line in done.stdout.splitlines()[1:8]}
    assert rows["jsonl"] == ["1", "0.545"]
    assert all(rows[mode] == ["0", "failed"] for mode in modes[:-1])
    assert (out / "jsonl-0.jsonl").exists()
    assert not (out / "fail-0.jsonl").exists()


@pytest.mark.skipif(os.name == "nt", reason="modes of files")
def test_a_program_that_cannot_be_run_is_a_line(data: Path) -> None:
    program = data.parent / "train.sh"
    program.write_text("no program\n", encoding="utf-8")  # nor does it name an interpreter
    program.chmod(0o755)
    done = compare(data, "--folds", "2", "--command", f"mine={program} {{data}} {{out}}")
    assert done.returncode == 3
    said = "the command ended with exit code 126: cannot be run: Exec format error: /"
    errors = [line for line in done.stderr.splitlines() if line.startswith("detkit: error: ")]
    assert len(errors) == 2 and all(said in line for line in errors), errors


def test_what_is_finished_is_kept_and_what_failed_is_done_again(data: Path) -> None:
    calls = data.parent / "out" / "calls.txt"
    words = ("--folds", "2", *command("a", "coco"), *command("b", "fail-once"))
    assert compare(data, *words).returncode == 3
    refused = compare(data, *words)
    assert (refused.returncode, "--resume" in refused.stderr) == (2, True)
    calls.unlink()
    done = compare(data, *words, "--resume", "--json")
    assert done.returncode == 0, done.stderr
    assert calls.read_text().split()[::3] == ["b-0-fold-1"]
    assert "of 0.5 min each, 3 of them finished before" in done.stderr
    assert [row["mAP"] for row in json.loads(done.stdout)["models"]] == pytest.approx([6 / 11] * 2)
    for changed in ((*words, "--val", ".4"), ("--folds", "2", *command("a", "jsonl"))):
        refused = compare(data, *changed, "--resume")
        assert (refused.returncode, "was begun with" in refused.stderr) == (2, True)


def test_a_command_that_runs_too_long_is_stopped_with_all_it_began(data: Path) -> None:
    done = compare(data, "--folds", "2", *command("slow", "sleep"), "--command-limit", ".02")
    assert done.returncode == 3
    assert "slow-0-fold-1: the command was stopped: it ran longer than 0.02 min" in done.stderr
    assert_ended(int((data.parent / "out" / "child").read_text()))


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
def test_a_comparison_that_is_ended_ends_its_command_with_all_it_began(
    data: Path, sign: signal.Signals
) -> None:
    out = data.parent / "out"
    words = ["compare", data, "-o", out, "--max-minutes", "1", "--folds", "2", "--group", "none"]
    running = subprocess.Popen(
        [sys.executable, "-m", "detkit", *map(str, words), *command("slow", "sleep")],
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    child = out / "child"
    while time.monotonic() < deadline and not (child.exists() and child.read_text()):
        time.sleep(0.05)
    os.killpg(running.pid, sign)  # as a terminal does
    _, errors = running.communicate(timeout=60)
    if sign == signal.SIGINT:
        assert running.returncode == ExitCode.INTERRUPTED, errors
        assert errors.splitlines()[-1].endswith("go on with the same command and --resume")
    else:
        assert running.returncode == -sign, errors
    assert_ended(int(child.read_text()))


def assert_ended(pid: int) -> None:
    """Fail when a process still runs after some seconds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
            status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
        except OSError:
            return
        if status.rpartition(")")[2].split()[0] == "Z":  # nobody asks for its exit code
            return
        time.sleep(0.05)
    raise AssertionError(f"process {pid} runs on")


def test_without_folds_a_command_gets_the_data_as_it_is_divided(data: Path) -> None:
    lists = {"train": range(0, 6), "val": range(6, 8), "test": range(8, 12)}
    for name, numbers in lists.items():
        path = data / "ImageSets" / "Main" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"bïld-{number}\n" for number in numbers), encoding="utf-8")
    done = compare(data, *command("a", "coco"), "--seeds", "2", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["folds"], report["num_images"]) == (None, 4)
    assert report["models"][0]["maps"] == pytest.approx([6 / 11] * 2)  # 2 of 4
    calls = (data.parent / "out" / "calls.txt").read_text().splitlines()
    assert calls == ["a-0 0 6+2+4", "a-1 1 6+2+4"]


@pytest.mark.parametrize("form", ["coco", "voc", "yolo"])
def test_the_folder_of_a_trainer_reads_back_as_the_fold_and_shares_no_file_with_the_data(
    data: Path, form: str
) -> None:
    dataset = open_dataset(data)
    [fold, *_] = divide_into_folds(dataset.splits["all"], 3, group="none").folds
    folder = TrainerFolder(data.parent / "out" / "data" / "fold-1", form)
    write_folder(folder, as_dataset(dataset, fold))
    read = open_dataset(folder.path)
    named = sources(folder)
    for split, expected in (("train", fold.train), ("val", fold.val), ("test", fold.test)):
        by_source = {named[one.image_id]: one for one in read.splits[split]}
        assert set(by_source) == {str(one.path) for one in expected}
        for record in expected:
            copy = by_source[str(record.path)]
            assert copy.path.read_bytes() == record.path.read_bytes()
            assert not copy.path.samefile(record.path)
            boxes = [] if split == "test" else [(one.name, one.box) for one in record.objects]
            got = [(one.name, one.box) for one in copy.objects]
            assert [name for name, _ in got] == [name for name, _ in boxes]
            for (_, first), (_, second) in zip(got, boxes):
                assert first == pytest.approx(second, abs=1e-3)


def test_a_trainers_folder_is_written_once_and_anew_for_another_fold(data: Path) -> None:
    dataset = open_dataset(data)
    first, second, _ = divide_into_folds(dataset.splits["all"], 3, group="none").folds
    folder = TrainerFolder(data.parent / "out" / "data" / "fold-1")
    labels = folder.path / "annotations" / "instances_train.json"
    write_folder(folder, as_dataset(dataset, first))
    before = labels.stat().st_mtime_ns
    write_folder(folder, as_dataset(dataset, first))
    assert labels.stat().st_mtime_ns == before
    write_folder(folder, as_dataset(dataset, second))
    assert {Path(name).name for name in sources(folder) if "/test/" in name} == {
        one.path.name for one in second.test
    }


def test_words_are_told_apart_as_a_shell_does_and_never_again(tmp_path: Path) -> None:
    place = tmp_path / 'x "y" $(z)'
    text = (
        f"{shlex.quote(sys.executable)} -c 'print(1)' --in={{data}} '{{out}} {{seed}}' {{minutes}}"
    )
    made = Command(command_words(text), TrainerFolder(place), ("car",), 3, 1.5)
    assert made.filled(tmp_path / "{seed}") == [
        *(sys.executable, "-c", "print(1)", f"--in={place}", f"{tmp_path / '{seed}'} 3", "1.5")
    ]


def test_a_folder_of_the_users_own_is_never_emptied(tmp_path: Path) -> None:
    out = tmp_path / "run"
    put(out, {"thesis.txt": "years of work"})
    made = Command((sys.executable, "-V"), TrainerFolder(tmp_path), ("car",), 0, 1.0)
    with pytest.raises(DetkitError, match="no command of a comparison left there"):
        run_command(made, out, tmp_path / "run-0.json")
    assert (out / "thesis.txt").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there is no command"),
        ("sh '{data} {out}", "No closing quotation"),
        ("sh {data} {out} {epochs}", r"there is no \{epochs\}; choose from \{data\}"),
        ("sh {data}", r"\{out\} is missing"),
        ("sh {out}", r"\{data\} is missing"),
        ("./nosuch.sh {data} {out}", "./nosuch.sh: no such program"),
        ("./plain.txt {data} {out}", "chmod"),
    ],
)
def test_a_command_that_cannot_work_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plain.txt").touch()
    with pytest.raises(UsageError, match=message) as told:
        command_words(text, "mine")
    assert "--command mine=" in str(told.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--command", "sh {data} {out}"], "expected NAME="),
        (["--command", "a b=sh {data} {out}"], "expected NAME="),
        (["--command", "a/b=sh {data} {out}"], "expected NAME="),
        (["--command", "ssd=sh {data} {out}", "--models", "ssd"], "names another row"),
        (["--command", "x="], "--command x=: there is no command; give x='./train.sh"),
        (["--command", "a=sh {data} {out}", "--command", "a=sh {data} {out}"], "another row"),
        (["--command", "a=sh {data} {out}", "--set", "lr=1"], "is for --models"),
        (["--command", "a=sh {data} {out}", "--command-format", "cocoa"], "did you mean coco?"),
        (["--command", "a=sh {data} {out}", "--command-limit", "0"], "must be above 0"),
        (["--command", "a=sh {data} {out}", "--run", "out"], "leave it out"),
        (["--command", "a=sh {data} {out}", "--val", "val"], "expected a share"),
        (["--command", "a=sh {data} {out}", "--val", "1.5"], "between 0 and 1"),
        (["--command", "a=sh {data} {out}", "--split", "test"], "--split test"),
        (["--command", "a=sh {data} {out}", "--folds", "13"], "too many for 12 images"),
        (["--command", "a=sh {data} {out}", "--folds", "1"], "--folds"),
    ],
)
def test_a_wrong_comparison_by_commands_or_folds_is_refused(
    data: Path, words: list[str], message: str
) -> None:
    folds = [] if "--folds" in words else ["--folds", "2"]
    done = compare(data, *folds, *words)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr.splitlines()[-1]
    assert not (data.parent / "out").exists()


def test_one_comparison_at_a_time_writes_into_a_folder(data: Path) -> None:
    out = data.parent / "out"
    with holding(out, "anything"):
        done = compare(data, *command("a", "coco"), "--folds", "2", "--resume")
        assert done.returncode == 2
        last = done.stderr.splitlines()[-1]
        assert last.endswith(
            f"{out}: another detkit compare is writing there; wait for it or name another folder"
        )
    assert not out.exists()  # which held nothing but the lock
    done = compare(data, *command("a", "coco"), "--folds", "2")
    assert done.returncode == 0, done.stderr
    assert not (out / ".lock").exists()


def test_a_dry_run_says_what_would_be_trained_and_writes_nothing(data: Path) -> None:
    done = compare(data, *command("a", "coco"), "--folds", "2", "--seeds", "2", "--dry-run")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "4 trainings (1 row, 2 seeds, 2 folds) of 0.5 min each"
    assert lines[2:] == [f"a-{seed}-fold-{fold}" for seed in (0, 1) for fold in (1, 2)]
    done = compare(data, *command("a", "coco"), "--dry-run", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--dry-run has no results" in done.stderr
    assert not (data.parent / "out").exists()


def test_labels_with_errors_stop_it_before_the_first_training(data: Path) -> None:
    bad = data / "Annotations" / "bïld-3.xml"
    bad.write_text(xml(("dog", 30, 1, 2, 5), size=(46, 36)), encoding="utf-8")
    done = compare(data, *command("a", "coco"), "--folds", "2")
    assert done.returncode == 3
    assert "--skip-bad" in done.stderr.splitlines()[-1]
    assert not (data.parent / "out").exists()
    done = compare(data, *command("a", "coco"), "--folds", "2", "--skip-bad", "--json")
    assert done.returncode == 0, done.stderr
