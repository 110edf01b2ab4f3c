"""Tests of files: a lock has one holder at a time and none that is stale; replaced as a whole."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from detkit import files
from detkit.errors import DetkitError
from detkit.files import FileLock, is_special, sha256_of, write_bytes

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


def test_the_digest_of_a_file_read_in_pieces_is_that_of_its_bytes(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000  # more than a piece
    (tmp_path / "model").write_bytes(content)
    assert sha256_of(tmp_path / "model") == hashlib.sha256(content).hexdigest()


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


def test_a_lock_on_windows_is_taken_at_once_though_path_and_handle_tell_other_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked: list[int] = []

    def locking(descriptor: int, mode: int, count: int) -> None:
        assert not locked, "locked again: an endless loop"
        locked.append(descriptor)

    windows = types.SimpleNamespace(LK_NBLCK=2, locking=locking)
    monkeypatch.setattr(files, "fcntl", None)
    monkeypatch.setattr(files, "msvcrt", windows, raising=False)
    monkeypatch.setattr(os.path, "samestat", lambda one, other: False)
    lock = FileLock(tmp_path / ".lock")
    assert len(locked) == 1
    lock.release()
    assert not (tmp_path / ".lock").exists()


@pytest.mark.parametrize(("refused", "is_written"), [(3, True), (10**9, False)])
def test_a_file_that_windows_holds_open_is_replaced_once_it_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: int, is_written: bool
) -> None:
    path = tmp_path / "best.safetensors"
    path.write_bytes(b"old")
    real, tries = Path.replace, list[Path]()

    def replace(self: Path, target: Path) -> Path:
        tries.append(self)
        if len(tries) <= refused:
            raise PermissionError(13, "Access is denied", str(target))
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    monkeypatch.setattr(files, "PATIENCE", 0.3)
    monkeypatch.setattr(files, "fcntl", object())
    with pytest.raises(DetkitError, match="cannot be written"):  # elsewhere it is final
        write_bytes(path, b"new")
    assert len(tries) == 1
    monkeypatch.setattr(files, "fcntl", None)
    if is_written:
        write_bytes(path, b"new")
        assert (path.read_bytes(), len(tries)) == (b"new", refused + 1)
    else:
        with pytest.raises(DetkitError, match="best.safetensors: cannot be written: Access is"):
            write_bytes(path, b"new")
        assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_devices_and_pipes_alone_are_special(tmp_path: Path) -> None:
    plain, pipe, link = (tmp_path / name for name in ("plain", "pipe", "link"))
    plain.touch()
    assert [is_special(one) for one in (plain, tmp_path, tmp_path / "none")] == [False] * 3
    if os.name != "nt":
        os.mkfifo(pipe)
        link.symlink_to(pipe)
        assert all(is_special(one) for one in (pipe, link, Path(os.devnull)))
