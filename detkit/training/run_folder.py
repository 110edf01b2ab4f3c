"""The folder of a training run: what lies in it, and who may write to it.

`config.json`, `metrics.jsonl`, `log.txt`, `best.safetensors`, `last.safetensors`,
`resume.ckpt`, `samples/`. One run at a time writes to it.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from detkit.errors import DetkitError, Interrupted, UsageError
from detkit.files import FileLock, append_text, make_folder, remove_empty, shell_word, write_bytes
from detkit.training.samples import clear_samples, holds_samples_alone

FILES = (
    "config.json",
    "metrics.jsonl",
    "log.txt",
    "best.safetensors",
    "last.safetensors",
    "resume.ckpt",
)
NOT_HELD = (".lock", ".DS_Store", "Thumbs.db")  # these make no folder a full one
PARTIAL = re.compile(rf"\.({'|'.join(map(re.escape, FILES))})\.\d+\.partial")


class RunFolder:
    """An opened run folder: locked against a second run until `close`.

    Until `begin` an earlier run's files stay as they were, so a run that fails on its way to the
    first step costs nobody anything and leaves nothing behind.
    """

    def __init__(self, path: Path, *, resume: bool = False, force: bool = False) -> None:
        """Create the folder, or open one that is there.

        Raises UsageError when another run is writing there, when there is something in the
        folder (unless `resume`, or `force` and it is an earlier run's), or nothing to resume.
        `was_killed` tells of a run that left its lock behind, `holds_run` of one's files.
        """
        self.path = path
        if path.is_file():
            raise UsageError(f"{path}: is a file; name a folder")
        try:
            self._made = make_folder(path)
        except OSError as error:
            raise DetkitError(f"{path}: cannot be written: {error.strerror or error}") from error
        self.was_killed = (path / ".lock").exists()  # or is in use, which is refused
        self.has_begun, self._resumes = False, resume
        try:
            self._lock = FileLock(path / ".lock")
        except BlockingIOError as error:
            raise UsageError(
                f"{path}: another run is writing there; wait for it or name another folder"
            ) from error
        try:
            self._require_free(resume, force)
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

    @property
    def samples(self) -> Path:
        """Return the folder of the first step's images."""
        return self.path / "samples"

    def begin(self, config: Mapping[str, Any] | None) -> None:
        """Make the folder this run's: clear away an earlier one, write `config.json`; once.

        `--config` repeats the run from that file. Without a `config` there is none.
        """
        if self.has_begun:
            return
        self.has_begun = True
        for partial in self.path.iterdir():  # of a run that was killed while writing
            if PARTIAL.fullmatch(partial.name):
                partial.unlink()
        if not self._resumes:
            self._clear()
        if config is not None:
            text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
            write_bytes(self.path / "config.json", text.encode())

    def close(self) -> None:
        """Let others in; what was created for nothing goes again.

        Of a run that failed within its first step, on a full disk for one, that is all: what it
        left would only be in the way of the next.
        """
        if self.has_begun and not self._resumes and not self._has_learnt():
            self._clear()
        # Of a run that was killed, and whose end nobody was told of, the file stays.
        self._lock.release(keep_file=self.was_killed and not self.has_begun)
        remove_empty(self._made)

    def log(self, line: str) -> None:
        """Add a line to `log.txt`, with the time of day."""
        append_text(self.path / "log.txt", f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")

    def log_failure(self, line: str) -> None:
        """Add a line to `log.txt`, if it is this run's by now and can be written."""
        if self.has_begun:
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
        for line in path.read_bytes().splitlines():
            of_step = json_object(line).get("step")  # None of a line that a kill cut short
            if isinstance(of_step, int) and of_step <= step:
                kept.append(line + b"\n")
        write_bytes(path, b"".join(kept))

    def _clear(self) -> None:
        """Delete the files of a run."""
        for name in FILES:
            (self.path / name).unlink(missing_ok=True)
        clear_samples(self.samples)

    def _has_learnt(self) -> bool:
        """Return whether there is a first step to tell of, or a model."""
        return any((self.path / name).exists() for name in ("metrics.jsonl", "last.safetensors"))

    def _require_free(self, resume: bool, force: bool) -> None:
        """Raise UsageError unless the folder may be used."""
        names = (file.name for file in self.path.iterdir())
        held = [name for name in names if name not in NOT_HELD and not PARTIAL.fullmatch(name)]
        if held == [self.samples.name] and holds_samples_alone(self.samples):
            held = []  # of a run whose first step failed
        self.holds_run = bool(held)
        if resume:
            if not self.resume.exists():
                raise DetkitError(f"{self.path}: nothing to resume, there is no resume.ckpt")
            return
        if held and not self._is_a_run():
            raise UsageError(
                f"{self.path}: is not empty, and holds no earlier run that --force could replace; "
                "name another folder"
            )
        if held and not force:
            go_on = "--resume to go on with that run, " if self.resume.exists() else ""
            raise UsageError(
                f"{self.path}: is not empty; add {go_on}--force to replace an earlier run, or "
                "name another folder"
            )

    def _is_a_run(self) -> bool:
        """Return whether a run has written here: its plan, or the figures of its first step."""
        config, metrics = self.path / "config.json", self.path / "metrics.jsonl"
        plan = json_object(config.read_bytes()) if config.is_file() else {}
        if "detkit" in plan and "plan" in plan:
            return True
        if not metrics.is_file():
            return False
        with metrics.open("rb") as file:
            return {"step", "stage", "epoch"} <= set(json_object(file.readline()))


def stopped_at(folder: RunFolder | None, step: int) -> Interrupted:
    """Return the error of a run that was told to stop after this many steps."""
    if step == 0 or folder is None:
        return Interrupted("stopped before the first step; there is nothing to go on with")
    return Interrupted(f"stopped at step {step}; go on with: {way_on(folder)}")


def with_way_on(error: DetkitError, folder: RunFolder | None, step: int) -> DetkitError:
    """Return an image's or a data worker's error, with how to go on once it is mended."""
    if step == 0 or folder is None:
        return error
    return DetkitError(f"{error} (what was learnt is saved; once this is mended: {way_on(folder)})")


def way_on(folder: RunFolder, threads: int | None = None) -> str:
    """Return how to go on with a run: the command, or Python's option where that began it."""
    if not (folder.path / "config.json").is_file():
        return f"RunOptions(resume=True{'' if threads is None else f', threads={threads}'})"
    fixed = "" if threads is None else f" --threads {threads}"
    return f"detkit train --resume{fixed} -o {shell_word(folder.path)}"


def json_object(content: bytes) -> dict[str, Any]:
    """Return the JSON object, {} when it is something else."""
    try:
        values = json.loads(content)
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}
