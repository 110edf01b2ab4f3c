"""Tests of the lock on a file: one holder at a time, and no stale one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from detkit.files import FileLock

HOLD = "import os, sys; from pathlib import Path; from detkit.files import FileLock; "


def test_one_process_at_a_time_holds_a_lock(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    code = f"{HOLD}lock = FileLock(Path(sys.argv[1])); print('held', flush=True); input()"
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin is not None and other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(BlockingIOError):
            FileLock(path)
        other.stdin.write(b"\n")
    lock = FileLock(path)
    with pytest.raises(BlockingIOError):
        FileLock(path)
    lock.release()
    assert not path.exists()


def test_the_lock_of_a_killed_process_does_not_last(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    code = f"{HOLD}lock = FileLock(Path(sys.argv[1])); os._exit(9)"
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == 9 and path.exists()
    FileLock(path).release()
    assert not path.exists()


@pytest.mark.skipif(os.name == "nt", reason="no open file can be deleted there")
def test_a_lock_whose_file_was_deleted_meanwhile_is_taken_on_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The holder before us lets go between our open and our lock.
    path = tmp_path / ".lock"
    before = FileLock(path)
    real, opened = os.open, list[int]()

    def open_and_wait(path: Path, flags: int, mode: int) -> int:
        opened.append(real(path, flags, mode))
        if len(opened) == 1:
            before.release()
        return opened[-1]

    monkeypatch.setattr("detkit.files.os.open", open_and_wait)
    lock = FileLock(path)
    assert len(opened) == 2 and path.exists()
    with pytest.raises(BlockingIOError):
        FileLock(path)
    lock.release()
