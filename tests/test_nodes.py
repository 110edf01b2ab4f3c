"""Training on several machines: here processes that meet at 127.0.0.1, as torchrun begins them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning_fabric.strategies.launchers import subprocess_script
from running import detkit
from safetensors.torch import load_file

from detkit.data.demo.pictures import write_demo
from detkit.errors import DetkitError
from detkit.training import lost_process
from detkit.training.lost_process import is_lost, lost
from detkit.training.resume import load_resume

WORDS = ("train", "demo", "--model", "ssd", "--set", "size=64", "--batch-size", "4")
WORDS += ("--device", "cpu", "--precision", "32-true", "--num-workers", "0", "--threads", "1")
WORDS += ("--wait", "1.5")
PATIENCE = 120.0  # seconds


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_demo(tmp_path / "demo", num_images=24)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def begun(*words: str, **environment: str) -> subprocess.Popen[str]:
    """Return a process of the command."""
    return subprocess.Popen(
        [sys.executable, "-m", "detkit", *words],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


def two_nodes(*words: str) -> list[subprocess.Popen[str]]:
    """Return a process on each of two nodes, with the variables that torchrun gives them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "here"}
    given |= {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    return [
        begun(*WORDS, "--nodes", "2", *words, **given, RANK=rank, GROUP_RANK=rank)
        for rank in ("0", "1")
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_two_nodes_learn_what_two_processes_of_one_machine_do() -> None:
    nodes = two_nodes("--max-steps", "3", "-o", "nodes")
    said = [node.communicate(timeout=PATIENCE)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    alone = begun(*WORDS, "--devices", "2", "--max-steps", "3", "-o", "one")
    said = [alone.communicate(timeout=PATIENCE)[1]]
    assert alone.returncode == 0, said
    one, two = (load_file(f"{name}/last.safetensors") for name in ("one", "nodes"))
    assert set(one) == set(two)
    for name, weights in one.items():
        assert torch.equal(weights, two[name]), name


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="kills with a signal that Windows lacks")
@pytest.mark.usefixtures("here")
def test_a_node_that_is_killed_ends_the_other_in_one_line_and_the_run_goes_on() -> None:
    nodes = two_nodes("--max-steps", "100000", "-o", "run")
    until = time.monotonic() + PATIENCE
    while not Path("run/metrics.jsonl").exists() and time.monotonic() < until:
        time.sleep(0.1)
    nodes[1].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    said = nodes[0].communicate(timeout=PATIENCE)[1]
    assert time.monotonic() - killed < 90 + 20  # the wait that was asked for, and to save
    assert nodes[0].returncode == 3
    (line,) = [line for line in said.splitlines() if "error" in line]
    assert "another of the 2 processes did not come, has ended, or was silent" in line
    assert "detkit train --resume -o run" in line and "Traceback" not in said
    nodes[1].communicate()
    step = load_resume(Path("run/resume.ckpt"))["position"]["step"]
    assert step >= 1
    more = ("train", "--resume", "-o", "run", "--nodes", "1", "--max-steps", str(step + 2))
    done = detkit(*more)
    assert done.returncode == 0, done.stderr
    assert f"resumed at step {step}" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the child in /proc")
@pytest.mark.usefixtures("here")
def test_a_process_that_another_began_and_that_is_killed_ends_the_run_in_one_line() -> None:
    words = (*WORDS, "--devices", "2", "--max-steps", "100000", "-o", "run")
    first = begun(*words)
    until = time.monotonic() + PATIENCE
    while not Path("run/metrics.jsonl").exists() and time.monotonic() < until:
        time.sleep(0.1)
    children = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_bytes().split()
    (second,) = [
        int(pid)
        for pid in children
        if b"--max-steps" in Path(f"/proc/{int(pid)}/cmdline").read_bytes()
    ]
    os.kill(second, signal.SIGKILL)
    said = first.communicate(timeout=PATIENCE)[1]
    assert first.returncode == 3, said
    (line,) = [line for line in said.splitlines() if "error" in line]
    assert "another of the 2 processes did not come, has ended, or was silent" in line
    assert "detkit train --resume -o run" in line and "Traceback" not in said
    assert load_resume(Path("run/resume.ckpt"))["position"]["step"] >= 1


@pytest.mark.parametrize("code", [1, 0])
def test_a_process_that_ends_while_the_first_one_waits_in_vain_is_told_by_that(
    monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(lost_process, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(lost_process, "GRACE", 0.01)
    ended: list[int] = []
    monkeypatch.setattr(lost_process.os, "_exit", ended.append)
    others = [
        subprocess.Popen([sys.executable, "-c", command])
        for command in (f"raise SystemExit({code})", "import time; time.sleep(60)")
    ]
    launcher = SimpleNamespace(procs=others)
    fabric: Any = SimpleNamespace(world_size=3, strategy=SimpleNamespace(launcher=launcher))
    said: list[str] = []
    before = subprocess_script._launch_process_observer
    with lost_process.watched(fabric, said.append, 30.0):
        subprocess_script._launch_process_observer(others)  # as Fabric does when it has begun them
        others[0].wait()
        until = time.monotonic() + (20 if code else 0.5)
        while not ended and time.monotonic() < until:
            time.sleep(0.01)
    assert subprocess_script._launch_process_observer is before
    if code:
        assert ended == [3] and others[1].poll() is not None
        assert said[0].startswith("another of the 3 processes did not come, has ended")
    else:
        assert not ended and not said and others[1].poll() is None
    lost_process.end_others(fabric)
    assert all(other.poll() is not None for other in others)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (
            "[gloo/transport/tcp/pair.cc:545] Read error [127.0.0.1]:1: Connection reset by peer. "
            "This is typically caused by\na remote worker",
            "Connection reset by peer",
        ),
        ("[gloo/pair.cc:5] Connection closed by peer [10.0.0.1]:2", "Connection closed by peer"),
        ("Timed out waiting 30000ms for recv operation to complete", "Timed out waiting 30000ms"),
        ("Timed out after 13 seconds waiting for clients. 1/2 clients joined.", "Timed out after"),
        ("NCCL communicator was aborted on rank 1.", "(--wait); its own"),
    ],
)
def test_what_libraries_say_of_a_lost_process_is_one_line(text: str, named: str) -> None:
    error = RuntimeError(text)
    assert is_lost(error, 2) and not is_lost(error, 1)
    told = lost(error, 2, 30.0)
    assert isinstance(told, DetkitError)
    assert named in str(told) and "30 minutes (--wait)" in str(told) and "\n" not in str(told)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
        RuntimeError("element 0 of tensors does not require grad"),
        KeyError("Connection reset by peer"),
    ],
)
def test_a_defect_is_not_taken_for_a_lost_process(error: Exception) -> None:
    assert not is_lost(error, 2)


def test_a_wait_is_above_0() -> None:
    for word in ("0", "-1", "nan", "inf"):
        done = detkit(*WORDS[:-2], "--wait", word, "-o", "run")
        assert done.returncode == 2 and "--wait" in done.stderr
