"""Processes of ours that end with the one that began them, even when that is killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from labelling import Client, save, until

from detkit.errors import ExitCode
from detkit.tethered import NICENESS

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="signals"),
    pytest.mark.skipif(shutil.which("ps") is None, reason="no ps"),
]

# A process that begins `detkit WORDS`, says which process that is, and waits.
BEGINNER = """
import sys, time
from detkit.tethered import start_tethered
process = start_tethered(sys.argv[2:], aside=sys.argv[1] == "aside")
print(process.pid, flush=True)
time.sleep(100)
"""


def is_there(pid: int) -> bool:
    """Return whether a process still runs; one that nobody has waited for does not."""
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return bool(done.stdout.strip()) and not done.stdout.startswith("Z")


def waiting_plugin(folder: Path) -> tuple[Path, Path]:
    """Return a plugin that waits for ever, and the file that it makes before."""
    there, plugin = folder / "there", folder / "slow.py"
    plugin.write_text(f"import time\nopen({str(there)!r}, 'w').close()\ntime.sleep(100)\n")
    return plugin, there


@pytest.mark.parametrize("how", ["aside", "as-we"])
def test_a_process_ends_with_the_one_that_began_it_even_when_that_is_killed(
    tmp_path: Path, how: str
) -> None:
    plugin, there = waiting_plugin(tmp_path)
    beginner = subprocess.Popen(
        [sys.executable, "-c", BEGINNER, how, "models", "--plugin", str(plugin)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert beginner.stdout is not None
    pid = int(beginner.stdout.readline())
    until(there.exists, 60)
    assert is_there(pid) and os.getpgid(pid) == pid
    more = os.getpriority(os.PRIO_PROCESS, pid) - os.getpriority(os.PRIO_PROCESS, beginner.pid)
    most = 19 - os.getpriority(os.PRIO_PROCESS, beginner.pid)
    assert more == (min(NICENESS, most) if how == "aside" else 0)
    beginner.kill()
    beginner.communicate()
    until(lambda: not is_there(pid))


def test_a_process_that_is_left_stops_as_one_that_is_told_to(tmp_path: Path) -> None:
    plugin, there = waiting_plugin(tmp_path)
    running = subprocess.Popen(
        [sys.executable, "-m", "detkit.tethered", "models", "--plugin", str(plugin)],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    until(there.exists, 60)
    assert running.poll() is None
    assert running.stdin is not None
    running.stdin.close()  # as the system does for a process that is killed
    assert running.wait(60) == ExitCode.INTERRUPTED


def test_the_training_beside_labels_ends_with_the_labelling_that_is_killed(tmp_path: Path) -> None:
    for number in range(6):
        save(tmp_path / "photos" / f"{number}.png", seed=number)
    words = ["label", tmp_path / "photos", "-o", tmp_path / "out", "--classes", "car"]
    words += ["--every", "5", "--no-open", "--proposals", "none"]
    labelling = subprocess.Popen(
        [sys.executable, "-m", "detkit", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        assert labelling.stdout is not None
        client = Client(labelling.stdout.readline().strip())
        for number in range(1, 6):
            assert client.put(number, ("car", [0, 0, 25, 25]))[0] == 200
        (pid,) = until(lambda: children_of(labelling.pid))
        assert is_there(pid)
    finally:
        labelling.send_signal(signal.SIGKILL)
        labelling.communicate()
    until(lambda: not is_there(pid))


def children_of(pid: int) -> list[int]:
    """Return the processes that a process has begun."""
    done = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True)
    pairs = (tuple(map(int, line.split())) for line in done.stdout.splitlines())
    return [own for own, parent in pairs if parent == pid]
