"""The figures of a run: how fast it goes, and what `metrics.jsonl` and `log.txt` say of it."""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from detkit.structures import Scores, Step
from detkit.training.resume import load_resume
from detkit.training.run_folder import RunFolder, json_object

GROUP_STEPS = 20  # one line of metrics a group of steps: as many as this ...
GROUP_SECONDS = 1.0  # ... or as long as this, whichever comes first
TEXT_SECONDS = 30.0  # between lines about losses in log.txt


class SpeedMeter:
    """The time of recent steps, without validations and saving."""

    def __init__(self) -> None:
        """Nothing is measured yet."""
        self._seconds: deque[float] = deque(maxlen=30)

    def add(self, seconds: float) -> None:
        """Take in the duration of a step."""
        self._seconds.append(seconds)

    @property
    def step_seconds(self) -> float:
        """Return the mean duration of the recent steps; 0 before the first."""
        return sum(self._seconds) / len(self._seconds) if self._seconds else 0.0


class RunLog:
    """Writes what happens to the run folder; of several processes only the first has one."""

    def __init__(self, folder: RunFolder | None) -> None:
        """Begin with an empty group."""
        self._folder = folder
        self._group: list[Step] = []
        self._group_began = time.monotonic()
        self._text_written = -math.inf
        self._notes: list[str] = []

    def say(self, line: str) -> None:
        """Add a line to `log.txt`."""
        if self._folder is not None:
            self._folder.log(line)

    def note(self, *lines: str) -> None:
        """Keep what is worth saying, "" left out, for the next step to tell."""
        self._notes += filter(None, lines)

    def taken_notes(self) -> tuple[str, ...]:
        """Return the notes that have not been told yet, and add them to `log.txt`."""
        notes, self._notes = tuple(self._notes), []
        for note in notes:
            self.say(note)
        return notes

    def step(self, step: Step, *, last: bool) -> None:
        """Take in a step; write its group when that is full, or a validation is due a line."""
        if self._folder is None:
            return
        self._group.append(step)
        now = time.monotonic()
        full = len(self._group) >= GROUP_STEPS or now - self._group_began >= GROUP_SECONDS
        if full or last or step.step == 1 or step.scores is not None:
            self._folder.add_metrics(group_record(self._group))
            self._group, self._group_began = [], now
        if last or now - self._text_written >= TEXT_SECONDS:
            self._folder.log(step_line(step))
            self._text_written = now
        self.validation(step)

    def validation(self, step: Step) -> None:
        """Write the result of a validation after the step, if there was one."""
        if self._folder is None or step.scores is None:
            return
        record = scores_record(step.scores)
        self._folder.add_metrics(
            {"step": step.step, "stage": step.stage, "best": step.is_best, "validation": record}
        )
        self._folder.log(scores_line(step, step.scores))


def group_record(steps: list[Step]) -> dict[str, Any]:
    """Return the line of `metrics.jsonl` for a group of steps: means of losses, else the last."""
    last = steps[-1]
    losses = {
        name: sum(step.losses.get(name, 0.0) for step in steps) / len(steps) for name in last.losses
    }
    learnt = {"loss": sum(losses.values()), "losses": losses, "lr": last.lr}
    return {
        "step": last.step,
        "stage": last.stage,
        "epoch": round(last.epoch, 4),
        **(learnt if losses else {"figures": dict(last.figures)}),
        "images_per_second": round(last.images_per_second, 2),
        "memory_mib": round(last.memory_mib, 1),
    }


def scores_record(scores: Scores) -> dict[str, Any]:
    """Return the figures of a validation as JSON values, beside the name of their protocol."""
    return {
        "protocol": scores.protocol,
        "metric": scores.metric,
        "iou": scores.iou_thresh,
        "mAP": scores.mean,
        "num_images": scores.num_images,
        "classes": {one.name: one.ap for one in scores.classes},
    }


def step_line(step: Step) -> str:
    """Return a step as a line for people."""
    losses = losses_text(step.losses)
    total = f"/{step.total_steps}" if step.total_steps else ""
    if not step.losses:
        return f"{step.stage}: step {step.step}{total}, {losses_text(step.figures)}"
    return (
        f"{step.stage}: step {step.step}{total}, epoch {step.epoch:.2f}, "
        f"loss {sum(step.losses.values()):.4g} ({losses}), lr {step.lr:.3g}, "
        f"{step.images_per_second:.1f} images/s"
    )


def scores_line(step: Step, scores: Scores) -> str:
    """Return a validation as a line for people."""
    mean = "n/a" if scores.mean is None else f"{scores.mean:.4f}"
    best = ", the best so far" if step.is_best else ""
    return f"{step.stage}: step {step.step}: mAP {mean} ({scores.protocol}){best}"


def memory_mib(device: torch.device | str) -> float:
    """Return the most memory used so far, on the GPU or by this process; 0 where unknown."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def losses_text(losses: Mapping[str, float]) -> str:
    """Return the loss parts as "class nan, box 1.2"."""
    return ", ".join(f"{name} {value:.4g}" for name, value in losses.items())


def training_cost(run: Path) -> tuple[float | None, float | None, int | None]:
    """Return the seconds, the most memory in MiB and the steps of a run, as far as it says."""
    seconds, memory, steps = None, None, None
    if (run / "resume.ckpt").is_file():
        position = load_resume(run / "resume.ckpt")["position"]
        seconds, steps = float(position["seconds"]), int(position["step"])
    metrics = run / "metrics.jsonl"
    if metrics.is_file():
        for line in metrics.read_bytes().splitlines():
            of_step = json_object(line).get("memory_mib")  # None of a line that a kill cut short
            if isinstance(of_step, int | float):
                memory = max(memory or 0.0, of_step)
    return seconds, memory, steps
