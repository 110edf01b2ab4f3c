"""Whether the cores are free: measured by turns, told with what to do."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch

from detkit.training.cpu_contention import contention_note, threads_cost


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def slow_together(monkeypatch: pytest.MonkeyPatch, *, one: float, two: float) -> None:
    """Have the clock show, at each look, that so much has passed on one and on two threads."""
    now = [0.0]

    def look() -> float:
        now[0] += two if torch.get_num_threads() == 2 else one
        return now[0]

    monkeypatch.setattr(time, "perf_counter", look)


@pytest.mark.usefixtures("two_threads")
def test_the_cost_is_the_time_on_all_threads_by_that_on_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow_together(monkeypatch, one=0.001, two=0.003)
    state = torch.get_rng_state()
    assert threads_cost() == pytest.approx(3)
    assert torch.get_num_threads() == 2
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.usefixtures("two_threads")
def test_busy_cores_are_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    slow_together(monkeypatch, one=0.001, two=0.004)
    assert "4.0x the time on 2 threads" in contention_note()
    assert "OMP_NUM_THREADS=1" in contention_note()
    slow_together(monkeypatch, one=0.002, two=0.001)
    assert contention_note() == ""


def test_a_single_thread_waits_for_nobody() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert contention_note() == ""
    finally:
        torch.set_num_threads(before)
