"""Trainings of `compare` side by side, in shares, and what ends them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from labelled_folders import put
from running import detkit
from test_comparison_commands import assert_ended, command, compare
from test_comparison_commands import data as data  # a fixture

from detkit import machine
from detkit.cli.trainings import places
from detkit.comparison.places import HERE, Place, side_by_side
from detkit.errors import DetkitError, ExitCode, Interrupted, UsageError

SPLITS = {"train": range(0, 6), "val": range(6, 8), "test": range(8, 12)}


@pytest.fixture
def divided(data: Path) -> Path:
    """Return the labelled folder with a list of the images of each split."""
    put(
        data,
        {
            f"ImageSets/Main/{name}.txt": "".join(f"bïld-{number}\n" for number in numbers)
            for name, numbers in SPLITS.items()
        },
    )
    return data


def test_two_devices_have_two_trainings_at_a_time_and_the_results_of_one(
    divided: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "num_cores", lambda: 7)
    monkeypatch.setattr("detkit.cli.trainings.num_cores", lambda: 7)
    words = (*command("a", "beside"), *command("b", "beside"), "--json", "--device", "cpu")
    done = compare(divided, *words, "--devices", "2")
    assert done.returncode == 0, done.stderr  # else one would have waited for the other in vain
    rows = json.loads(done.stdout)["models"]
    assert [row["maps"] for row in rows] == [[pytest.approx(6 / 11)]] * 2
    assert "at most 0:30 of training in all, 2 at a time" in done.stderr
    out = divided.parent / "out"
    for name in ("a-0", "b-0"):
        own = json.loads((out / f"{name}.place").read_text())
        assert own == {"OMP_NUM_THREADS": "3", "DETKIT_PROCESSES": "2"}


def test_shares_train_all_once_and_what_comes_last_makes_the_table(divided: Path) -> None:
    out = divided.parent / "out"
    words = (*command("a", "coco"), *command("b", "coco"), *command("c", "fail-once"))
    for number, trained in ((1, {"a-0", "c-0"}), (2, {"b-0"})):
        done = compare(divided, *words, "--shard", f"{number}/2")
        assert (done.returncode, done.stdout) == (3 if number == 1 else 0, "")
        calls = (out / "calls.txt").read_text().splitlines()
        assert {line.split()[0] for line in calls} == trained
        (out / "calls.txt").unlink()
    assert "share 2/2: 1 training is done" in done.stderr
    done = compare(divided, *words, "--shard", "1/2")
    assert done.returncode == 2 and "add --resume" in done.stderr
    done = compare(divided, *words, "--resume", "--json")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in (out / "calls.txt").read_text().splitlines()] == ["c-0"]
    assert [len(row["maps"]) for row in json.loads(done.stdout)["models"]] == [1, 1, 1]


@pytest.mark.parametrize("words", [("--json",), ("--report", "c.html"), ("--markdown",)])
def test_a_share_has_no_table(divided: Path, words: tuple[str, ...]) -> None:
    done = compare(divided, *command("a", "coco"), "--shard", "1/2", *words)
    assert done.returncode == 2 and "the table is made by --resume without it" in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_ends_all_that_are_at_work(divided: Path) -> None:
    out = divided.parent / "out"
    words = ["compare", divided, "-o", out, "--max-minutes", "1", "--device", "cpu"]
    words += [*command("a", "sleep"), *command("b", "sleep"), *command("c", "sleep")]
    running = subprocess.Popen(
        [sys.executable, "-m", "detkit", *map(str, words), "--devices", "2"],
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
    )
    until = time.monotonic() + 60
    calls = out / "calls.txt"
    while time.monotonic() < until and not (
        (out / "child").exists() and len(calls.read_text().splitlines()) == 2
    ):
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does
    _, errors = running.communicate(timeout=60)
    assert running.returncode == ExitCode.INTERRUPTED, errors
    assert errors.splitlines()[-1].endswith("go on with the same command and --resume")
    assert "Traceback" not in errors
    assert_ended(int((out / "child").read_text()))
    begun = {line.split()[0] for line in calls.read_text().splitlines()}
    assert begun == {"a-0", "b-0"}  # and the third did not begin


def test_items_begin_in_their_order_each_where_a_place_is_free_and_failures_stay_their_own() -> (
    None
):
    at_work: dict[str, int] = {}
    most, begun, lock = [0], [], threading.Lock()

    def do(item: int, place: Place) -> int:
        name = place.environment["name"]
        with lock:
            begun.append(item)
            assert at_work.setdefault(name, 0) == 0
            at_work[name] = 1
            most[0] = max(most[0], sum(at_work.values()))
        time.sleep(0.02)
        with lock:
            at_work[name] = 0
        if item == 1:
            raise DetkitError("this one fails")
        return 10 * item

    done = side_by_side(range(6), do, [{"name": "x"}, {"name": "y"}])
    assert most == [2] and sorted(begun) == list(range(6)) and set(begun[:2]) == {0, 1}
    assert [one.result() for item, one in done.items() if item != 1] == [0, 20, 30, 40, 50]
    with pytest.raises(DetkitError, match="this one fails"):
        done[1].result()


def test_one_that_is_told_to_stop_stops_the_others_and_none_begins() -> None:
    begun: list[int] = []
    ended = threading.Event()

    def do(item: int, place: Place) -> None:
        begun.append(item)
        if item == 1:
            while len(begun) < 2:
                time.sleep(0.01)
            raise Interrupted("stopped")
        with place.work.holding(object(), ended.set):
            assert ended.wait(30)

    with pytest.raises(Interrupted):
        side_by_side(range(5), do, [{}, {}])
    assert sorted(begun)[:2] == [0, 1] and len(begun) <= 3
    with HERE.work.holding(object(), ended.clear):
        pass
    assert ended.is_set()  # what was not told to end is left alone


def test_each_training_has_a_gpu_of_those_that_are_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    visible = [one["CUDA_VISIBLE_DEVICES"] for one in places("auto", 2, None)]
    assert visible == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-8,7")
    visible = [one["CUDA_VISIBLE_DEVICES"] for one in places("cuda", 3, None)]
    assert visible == ["4", "GPU-8", "7"]
    with pytest.raises(UsageError, match="this machine has 3 GPUs"):
        places("cuda", 4, None)
    with pytest.raises(UsageError, match="is one; leave out --devices 2"):
        places("cuda:1", 2, None)
    assert places("cuda:1", 1, None) == []


def test_processes_that_share_a_machine_have_a_part_of_its_cores_and_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(7)), raising=False)
    monkeypatch.setattr(machine, "_CGROUP", Path("/nowhere"))
    memory = machine.memory_of_machine()
    for word, cores, part in (("2", 3, 2), ("9", 1, 9), ("0", 7, 1), ("x", 7, 1)):
        monkeypatch.setenv("DETKIT_PROCESSES", word)
        assert machine.num_cores() == cores
        assert machine.memory_of_machine() == memory // part


def test_a_share_that_is_none_is_refused(tmp_path: Path) -> None:
    words = ("--models", "ssd", "--max-steps", "2", "-o", tmp_path / "out", "--shard", "3/2")
    done = detkit("compare", tmp_path, *words)
    assert done.returncode == 2 and "shares are counted from 1/2 to 2/2" in done.stderr
