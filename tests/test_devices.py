"""R-CNN's passes, and validation, in two processes: shared, and equal to those of one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from runs import assert_same, metrics
from safetensors.torch import load_file
from two_processes import count, fit_rcnn

PATIENCE = 300.0  # seconds
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which two processes have made the trainings of `two_processes`."""
    folder = tmp_path_factory.mktemp("devices")
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(4)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        ports = [str(one.getsockname()[1]) for one in sockets]
    given = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": ports[0], "TORCHELASTIC_RUN_ID": "here"}
    given |= {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "OMP_NUM_THREADS": "1"}
    given["PYTHONPATH"] = os.pathsep.join([str(HERE), str(HERE.parent)])
    processes = [
        subprocess.Popen(
            [sys.executable, str(HERE / "two_processes.py"), str(folder), *ports],
            env={**os.environ, **given, "RANK": rank, "GROUP_RANK": rank},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        for rank in ("0", "1")
    ]
    texts = [process.communicate(timeout=PATIENCE)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, -9], texts
    return folder


@pytest.fixture(scope="module")
def said(place: Path) -> list[dict[str, Any]]:
    """Return what each of the two processes says."""
    return [json.loads((place / f"said-{rank}.json").read_text("utf-8")) for rank in (0, 1)]


@pytest.fixture(scope="module")
def alone(place: Path) -> Path:
    """Return the run in one process of what two have done."""
    fit_rcnn(place, place / "alone", 1)
    return place / "alone"


def test_two_processes_fit_to_the_bit_what_one_does(place: Path, alone: Path) -> None:
    one, two = (load_file(run / "last.safetensors") for run in (alone, place / "rcnn"))
    assert bool(one["svm_fitted"].all()) and bool(one["box_weights"].any())
    assert_same(one, two)


def test_two_processes_tell_the_figures_of_one(place: Path, alone: Path) -> None:
    runs = [metrics(alone), metrics(place / "rcnn")]
    one, two = (
        {line["step"]: line["figures"] for line in run if "figures" in line} for run in runs
    )
    assert len(one) >= 3 and "negatives_left_out" in one[5]  # some had no room
    shared = one.keys() & two.keys()
    assert {5, 10} <= shared and all(one[step] == two[step] for step in shared)
    scores = [line["validation"] for run in runs for line in run if "validation" in line]
    assert len(scores) == 2 and scores[0] == scores[1]


def test_a_process_looks_at_every_other_batch_and_at_its_share_of_the_held_out_images(
    said: list[dict[str, Any]],
) -> None:
    for looked in zip(*(one["rcnn"]["looked"] for one in said)):
        assert not set(looked[0]) & set(looked[1])
    assert [len(one["rcnn"]["looked"]) for one in said] == [9, 6]  # of 5 batches, in 3 passes
    names = [{name for batch in one["rcnn"]["looked"] for name in batch} for one in said]
    assert names[0].isdisjoint(names[1]) and len(names[0] | names[1]) == 10
    judged = [one["rcnn"]["judged"] for one in said]
    assert [[name[-5] for name in share] for share in judged] == [["0", "1", "4"], ["2", "3"]]
    assert [len(one["rcnn"]["steps"]) for one in said] == [10, 0]  # the first one tells


def test_all_see_what_each_has_seen_with_norms_that_are_the_first_ones(
    said: list[dict[str, Any]], place: Path
) -> None:
    first, second = (one["sound"] for one in said)
    assert first == second
    assert first["norms"][0] == first["norms"][1] != [0.0] * 8
    alone = count(place, place / "alone-sound", 1, "not")
    assert first["of_all"] == alone.of_all  # chance, too, is that of one process


def test_an_image_that_one_process_cannot_read_is_told_by_both(said: list[dict[str, Any]]) -> None:
    for one in said:
        assert one["unreadable"].startswith("b.png: cannot be read")


def test_a_process_that_is_killed_ends_the_other_in_one_line_and_the_pass_begins_anew(
    said: list[dict[str, Any]], place: Path
) -> None:
    assert "killed" not in said[1]
    line = said[0]["killed"]
    assert "\n" not in line
    assert line.startswith("another of the 2 processes did not come, has ended, or was silent")
    assert "RunOptions(resume=True)" in line
    toy = count(place, place / "killed", 1, "not", resume=True)
    assert toy.of_all == said[0]["sound"]["of_all"]
