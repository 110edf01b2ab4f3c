"""The folder of a training run: what lies in it, who may write to it, and its log.

`config.json`, `metrics.jsonl`, `log.txt`, `best.safetensors`, `last.safetensors`,
`resume.ckpt`, `samples/`. One run at a time writes to it.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from detkit.errors import DetkitError, UsageError
from detkit.files import append_text, write_bytes

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
    import msvcrt

FILES = (
    "config.json",
    "metrics.jsonl",
    "log.txt",
    "best.safetensors",
    "last.safetensors",
    "resume.ckpt",
)


class RunFolder:
    """An opened run folder: locked against a second run until `close`."""

    def __init__(self, path: Path, *, resume: bool = False, force: bool = False) -> None:
        """Create the folder or take it over.

        Raises UsageError when another run is writing there, when there is something in the
        folder (unless `resume` or `force`), or nothing to resume. `force` deletes an earlier
        run's files, never anything else. `was_killed` tells of a run that left its lock behind.
        """
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DetkitError(f"{path}: cannot be written: {error.strerror or error}") from error
        self.was_killed = (path / ".lock").exists()  # or is in use, which `_lock` refuses
        self._lock = _lock(path)
        try:
            self._take_over(resume, force)
        except BaseException:
            self.close()
            raise

    @property
    def best(self) -> Path:
        """Return the place of the best model so far."""
        return self.path / "best.safetensors"

    @property
    def last(self) -> Path:
        """Return the place of the latest model."""
        return self.path / "last.safetensors"

    @property
    def resume(self) -> Path:
        """Return the place of what a run needs to go on."""
        return self.path / "resume.ckpt"

    def close(self) -> None:
        """Let others in."""
        lock = self.path / ".lock"
        if fcntl is not None:
            lock.unlink(missing_ok=True)  # while it is ours: see the end of `_lock`
            os.close(self._lock)
            return
        os.close(self._lock)
        with suppress(OSError):  # Windows deletes no open file: another run may have it by now
            lock.unlink()

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write `config.json`, from which `--config` repeats the run."""
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        write_bytes(self.path / "config.json", text.encode())

    def log(self, line: str) -> None:
        """Add a line to `log.txt`, with the time of day."""
        append_text(self.path / "log.txt", f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")

    def log_if_possible(self, line: str) -> None:
        """Add a line to `log.txt` unless that fails: the line is about a failure already."""
        with suppress(DetkitError):
            self.log(line)

    def add_metrics(self, values: Mapping[str, Any]) -> None:
        """Add a line to `metrics.jsonl`."""
        line = json.dumps(values, ensure_ascii=False, allow_nan=False)
        append_text(self.path / "metrics.jsonl", line + "\n")

    def forget_metrics_after(self, step: int) -> None:
        """Drop the metrics of later steps, which a resumed run makes again."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                values = json.loads(line)
            except ValueError:  # the line a kill cut short
                continue
            if values.get("step", 0) <= step:
                kept.append(line + "\n")
        write_bytes(path, "".join(kept).encode())

    def _take_over(self, resume: bool, force: bool) -> None:
        """Raise UsageError unless the folder may be used; clear it for a forced new run."""
        for partial in self.path.glob(".*.partial"):  # of a run that was killed while writing
            partial.unlink()
        held = sorted(file.name for file in self.path.iterdir() if file.name != ".lock")
        if resume:
            if not self.resume.exists():
                raise UsageError(f"{self.path}: nothing to resume, there is no resume.ckpt")
            return
        if held and not force:
            go_on = "--resume to go on with that run, " if self.resume.exists() else ""
            raise UsageError(
                f"{self.path}: is not empty; add {go_on}--force to replace an earlier run, or "
                "name another folder"
            )
        for name in FILES:
            (self.path / name).unlink(missing_ok=True)
        if (self.path / "samples").exists():
            shutil.rmtree(self.path / "samples")


def _lock(folder: Path) -> int:
    """Return the open descriptor of the folder's lock file, held by this process alone.

    The operating system lets go of it when the process ends, however it ends, so no stale lock
    can be left. Raises UsageError when another process holds it.
    """
    path = folder / ".lock"
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        except OSError as error:
            os.close(descriptor)
            raise UsageError(
                f"{folder}: another run is writing there; wait for it or name another folder"
            ) from error
        if _is_at(descriptor, path):
            return descriptor
        os.close(descriptor)  # the holder before us deleted it between our open and our lock


def _is_at(descriptor: int, path: Path) -> bool:
    """Return whether the open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
