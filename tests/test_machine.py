"""Tests of the cores and the memory that a process gets."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from detkit import machine
from detkit.machine import choose_threads, free_cores, keep_freed_memory, num_cores

PAGE_FAULTS = """
import resource, sys
import numpy as np
from detkit.machine import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
for turn in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.full(64 * 2**20, 1, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_a_system_without_the_setting_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_freed_memory_is_not_fetched_again_page_by_page() -> None:
    faults = {}
    for how in ("keep", "leave"):
        words = [sys.executable, "-c", PAGE_FAULTS, how]
        done = subprocess.run(words, capture_output=True, encoding="utf-8", check=False)
        if "AssertionError" in done.stderr:
            pytest.skip("no glibc")
        faults[how] = int(done.stdout)
    assert faults["keep"] < 100
    assert faults["keep"] < faults["leave"]


@pytest.mark.parametrize(
    ("limit", "cores"),
    [("max 100000", 8), ("200000 100000", 2), ("50000 100000", 1), ("250000 100000", 2)],
)
def test_a_container_has_as_many_cores_as_its_quota_pays_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: str, cores: int
) -> None:
    (tmp_path / "cpu.max").write_text(limit + "\n")
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert num_cores() == cores


@pytest.mark.parametrize(
    ("cores", "got", "free"),
    [
        (2, 1.98, 2),  # nothing else runs
        (2, 4 / 3, 1),  # one other: three share two cores
        (2, 1.5, 1),  # ... one of ours has a core of its own
        (2, 1.0, 0),  # two others
        (8, 7.9, 8),
        (8, 64 / 9, 7),
        (8, 64 / 12, 4),
        (8, 0.5, 0),
    ],
)
def test_free_cores_follow_from_the_time_that_threads_get(
    monkeypatch: pytest.MonkeyPatch, cores: int, got: float, free: int
) -> None:
    monkeypatch.setattr(machine, "num_cores", lambda: cores)
    monkeypatch.setattr(machine, "_cores_got", lambda num_threads: got)
    assert free_cores() == free


def test_two_threads_never_get_more_time_than_two_cores_have() -> None:
    assert 0 < machine._cores_got(2) <= 2.01


def test_a_network_gets_a_thread_for_each_free_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(machine, "num_cores", lambda: 8)
    for free, most, threads in ((8, None, 8), (8, 4, 4), (7, 4, 4), (3, 4, 3), (0, 4, 1)):
        monkeypatch.setattr(machine, "free_cores", lambda free=free: free)
        chosen, reason = choose_threads(None, most)
        assert chosen == threads
        assert ("other programs" in reason) == (free < 8)


def test_what_the_user_says_of_threads_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "free_cores", lambda: pytest.fail("measured"))
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert choose_threads(None) == (3, "3 CPU threads, as OMP_NUM_THREADS says")
    monkeypatch.setattr(machine, "num_cores", lambda: 5)
    assert choose_threads(5, 2) == (5, "5 CPU threads, as asked")
    assert "5 cores: they wait for each other" in choose_threads(6)[1]
