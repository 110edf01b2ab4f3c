"""A run whose steps collapse because others took the cores says so once, with what to type."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from detkit import machine
from detkit.training.cpu_contention import CHECKS_APART, WINDOW, ContentionWatch
from detkit.training.run_folder import RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    opened = RunFolder(tmp_path / "run")
    opened.begin({})
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def leave_free(monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    monkeypatch.setattr(machine, "num_cores", lambda: 2)
    monkeypatch.setattr(machine, "free_cores", lambda: cores)


def lines(watch: ContentionWatch, *spells: tuple[int, float]) -> list[str]:
    """Return what is said in spells of so many steps that take so many seconds each."""
    said = [watch.step(seconds) for number, seconds in spells for _ in range(number)]
    return [line for line in said if line]


def test_a_collapse_is_told_once_with_the_command_that_goes_on(
    monkeypatch: pytest.MonkeyPatch, folder: RunFolder
) -> None:
    leave_free(monkeypatch, 1)
    (line,) = lines(ContentionWatch(folder), (WINDOW, 0.1), (5 * CHECKS_APART, 0.4))
    assert "4.0x the time" in line and "1 of 2 cores busy" in line
    assert f"detkit train --resume --threads 1 -o {folder.path}" in line


def test_where_no_core_is_free_only_the_others_can_be_ended(
    monkeypatch: pytest.MonkeyPatch, folder: RunFolder
) -> None:
    leave_free(monkeypatch, 0)
    torch.set_num_threads(1)
    (line,) = lines(ContentionWatch(folder), (WINDOW, 0.1), (WINDOW, 0.4))
    assert line.endswith("2 of 2 cores busy; end those")


def test_steps_that_are_slow_on_free_cores_or_were_never_fast_are_not_others_fault(
    monkeypatch: pytest.MonkeyPatch, folder: RunFolder
) -> None:
    leave_free(monkeypatch, 1)
    assert lines(ContentionWatch(folder), (9 * WINDOW, 0.4)) == []
    assert lines(ContentionWatch(folder), (WINDOW, 0.1), (WINDOW - 1, 9.0)) == []  # a hiccup
    assert lines(ContentionWatch(None), (WINDOW, 0.1), (WINDOW, 0.4)) == []
    leave_free(monkeypatch, 2)
    assert lines(ContentionWatch(folder), (WINDOW, 0.1), (WINDOW, 0.4)) == []


def test_the_machine_is_not_measured_at_every_slow_step(
    monkeypatch: pytest.MonkeyPatch, folder: RunFolder
) -> None:
    leave_free(monkeypatch, 2)
    looks: list[int] = []
    monkeypatch.setattr(machine, "free_cores", lambda: looks.append(1) or 2)
    lines(ContentionWatch(folder), (WINDOW, 0.1), (2 * CHECKS_APART, 0.4))
    assert len(looks) == 2
