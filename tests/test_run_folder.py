"""Tests of the run folder: who may write to it, and what is left alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from runs import (
    run,
)
from toy import write_images

from detkit.data.records import ImageRecord
from detkit.errors import UsageError
from detkit.run_folder import RunFolder


@pytest.fixture
def records(tmp_path: Path) -> list[ImageRecord]:
    return write_images(tmp_path / "images")


def test_a_folder_that_holds_something_is_refused(
    tmp_path: Path, records: list[ImageRecord]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("three years")
    with pytest.raises(UsageError, match="not empty; add --force"):
        list(run(records, tmp_path / "run"))


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
        "import os, sys; from pathlib import Path; from detkit.run_folder import RunFolder; "
        "RunFolder(Path(sys.argv[1])); os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], check=False)
    assert done.returncode == 9
    assert (tmp_path / "run" / ".lock").exists()
    RunFolder(tmp_path / "run").close()
    assert not (tmp_path / "run" / ".lock").exists()


def test_what_a_kill_left_half_written_is_swept_up(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".resume.ckpt.123.partial").write_bytes(b"half")
    RunFolder(tmp_path / "run").close()
    assert list((tmp_path / "run").iterdir()) == []
