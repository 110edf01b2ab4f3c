"""Training beside labelling: in a process of its own, now and then, on what is labelled so far."""

from __future__ import annotations

import logging
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detkit.errors import DetkitError
from detkit.labelling.session import Session
from detkit.machine import end_group
from detkit.tethered import start_tethered
from detkit.text import counted

logger = logging.getLogger(__name__)

RUNS, DATA = "runs", "data"  # in the session's hidden folder
MAX_MINUTES = 5.0  # ours: new pre-labels within a coffee break
LEAST_IMAGES = 5  # fewer cannot be divided into train and val
PATIENCE = 5.0  # seconds for a training to end when it is told to


def latest_model(hidden: Path) -> Path | None:
    """Return the model of the last training beside this labelling; None where there was none."""
    models = sorted(
        (hidden / RUNS).glob("*/best.safetensors"), key=lambda path: int(path.parent.name)
    )
    return models[-1] if models else None


class Retraining:
    """Trains after each so many newly labelled images; one training at a time."""

    def __init__(
        self,
        session: Session,
        every: int,
        backend: str,
        weights: str,
        take: Callable[[Path], None],
        *,
        minutes: float = MAX_MINUTES,
    ) -> None:
        """Train `backend`, from `weights` at first, after `every` new images.

        `take` hears the model file of each training that succeeds.
        """
        self._session, self._every, self._minutes = session, every, minutes
        self._backend, self._weights, self._take = backend, weights, take
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._told: dict[str, Any] | None = None
        self._done_at = session.num_labelled
        self._ending = False
        session.on_labelled = self.hear

    def told(self) -> dict[str, Any] | None:
        """Return how the last training stands, as the page is told; None: there was none."""
        return self._told

    def hear(self, count: int) -> None:
        """Begin a training where `count` labelled images are enough, and none is going on."""
        with self._lock:
            busy = self._told is not None and self._told["status"] == "running"
            due = count >= max(self._done_at + self._every, LEAST_IMAGES)
            if busy or self._ending or not due:
                return
            self._done_at = count
            self._tell("running", f"training on {counted(count, 'image')}", count)
        threading.Thread(target=self._run, args=(count,), daemon=True).start()

    def close(self) -> None:
        """End the training, if one is going on; what it learnt so far is thrown away."""
        with self._lock:
            self._ending = True
            process = self._process
        if process is not None and process.poll() is None:
            end_group(process, PATIENCE)
        shutil.rmtree(self._session.hidden / DATA, ignore_errors=True)

    def _run(self, count: int) -> None:
        """Train on a copy of the labels as they are now; then hand the model over."""
        try:
            model = self._trained(count)
        except (DetkitError, OSError) as error:
            if not self._ending:
                logger.warning("the training beside failed: %s", error)
                self._finish("failed", str(error), count)
            return
        if self._ending:
            return
        self._weights = str(model)
        self._take(model)
        self._finish("done", f"trained on {counted(count, 'image')}: {model}", count)
        self._clear_runs(model)
        self.hear(self._session.num_labelled)  # what was labelled meanwhile may be enough again

    def _trained(self, count: int) -> Path:
        """Return the model file of a new training; DetkitError, its last line, where it fails."""
        hidden = self._session.hidden
        data, run = hidden / DATA, hidden / RUNS / str(self._next_number())
        shutil.rmtree(data, ignore_errors=True)
        with self._session.lock:
            self._session.folder.copy_to(data)
        run.parent.mkdir(exist_ok=True)
        log = hidden / "training.log"
        words = ["train", "--model", self._backend, "-o", str(run), "--quiet"]
        words += ["--max-minutes", f"{self._minutes:g}", "--weights", self._weights]
        words += ["--", str(data)]
        with log.open("wb") as file:
            with self._lock:
                if self._ending:
                    raise DetkitError("ended")
                self._process = process = start_tethered(words, file.fileno(), aside=True)
            with process:
                code = process.wait()
        shutil.rmtree(data, ignore_errors=True)
        models = [run / name for name in ("best.safetensors", "last.safetensors")]
        model = next((one for one in models if one.is_file()), None)
        if code != 0 or model is None:
            lines = log.read_text("utf-8", "replace").strip().splitlines()
            said = next((one for one in reversed(lines) if "error" in one), "it ended early")
            shutil.rmtree(run, ignore_errors=True)
            raise DetkitError(said.removeprefix("detkit: error: "))
        return model

    def _next_number(self) -> int:
        """Return a number that no run has yet."""
        names = [one.name for one in (self._session.hidden / RUNS).glob("*")]
        return max((int(name) for name in names if name.isdecimal()), default=0) + 1

    def _clear_runs(self, kept: Path) -> None:
        """Remove earlier runs, which nobody needs any more."""
        for run in (self._session.hidden / RUNS).glob("*"):
            if run != kept.parent:
                shutil.rmtree(run, ignore_errors=True)

    def _finish(self, status: str, message: str, count: int) -> None:
        with self._lock:
            self._process = None
            self._tell(status, message, count)

    def _tell(self, status: str, message: str, count: int) -> None:
        """Say how the training stands; the page hears that something changed."""
        self._told = {"status": status, "message": message, "at": count}
        self._session.changes += 1
