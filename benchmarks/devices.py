"""Two processes on a core each beside one: detect, eval, propose, train, R-CNN's passes.

    python benchmarks/devices.py [--only detect,train] [--images 1600] [--rounds 2] [--processes 2]

Each command runs as a user would type it, on a drawn folder, with `--threads 1`: once as it is,
held on one core, and once with `--devices 2`, on two; in turns, and the least of all rounds counts.
Were one process free to take another core, it would read its images there. Its start (Python,
torch, reading the labels, a first batch) is measured by the same command on next to nothing and
taken off, since a long run has it once.

It needs as many free cores as there are processes. Batches are those of the recipe or the command,
but R-CNN's, of 4 images: so few images are else two or three batches, which cannot be shared out
evenly.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from detkit.data.demo.pictures import write_demo
from detkit.detectors.ssd import SSD, SSDConfig
from detkit.model_file import save_model

NAMES = ("balloon", "car", "sheep")
FEW = 8  # images of the folder that is next to nothing
BACKBONE = "mobilenet_v2"  # of SSD
SHARE_OF_SLOW = 0.1  # of the images: those of what takes far longer with each
ON_CPU = ("--device", "cpu", "--threads", "1")
TRAINING = (*ON_CPU, "--precision", "32-true", "--force")
RECIPE = ("--model", "ssd", "--backbone", BACKBONE)
RCNN = ("--model", "rcnn", "--batch-size", "4", "--max-steps", "1")


@dataclass(frozen=True)
class Command:
    """Words that are measured, and the same with next to nothing to do."""

    name: str
    words: list[str]
    start: list[str]


def commands(place: Path, num_images: int, steps: int) -> list[Command]:
    """Write what the commands read, and return them."""
    slow = max(FEW, round(SHARE_OF_SLOW * num_images))
    for name, number in (("many", num_images), ("some", slow), ("few", FEW)):
        write_demo(place / name, num_images=number)
    torch.manual_seed(0)
    model = str(place / "m.safetensors")
    save_model(place / "m.safetensors", SSD(SSDConfig(backbone=BACKBONE), NAMES))
    out = ["-o", str(place / "out.jsonl"), "--force"]
    run = ["--val", str(place / "few"), "-o", str(place / "run")]

    def pair(name: str, data: str, words: Callable[[str], list[str]]) -> Command:
        return Command(name, words(str(place / data)), words(str(place / "few")))

    ssd = ["train", str(place / "many"), *TRAINING, *run, *RECIPE, "--max-steps"]
    return [
        pair("detect", "many", lambda of: ["detect", model, f"{of}/JPEGImages", *ON_CPU, *out]),
        pair("eval", "many", lambda of: ["eval", model, of, "--split", "train", *ON_CPU]),
        pair("propose", "some", lambda of: ["propose", f"{of}/JPEGImages", "--threads", "1", *out]),
        Command("train, SSD", [*ssd, str(steps)], [*ssd, "1"]),
        pair("R-CNN's passes", "some", lambda of: ["train", of, *RCNN, *TRAINING, *run]),
    ]


def seconds(words: list[str], cores: set[int]) -> float:
    """Return how long a command takes on these cores, nothing cached; SystemExit if it fails."""
    everywhere = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "DETKIT_CACHE": cache}
        os.sched_setaffinity(0, cores)  # its processes inherit it
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "detkit", *words],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            check=False,
        )
        taken = time.perf_counter() - began
        os.sched_setaffinity(0, everywhere)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stderr}")
    return taken


def main() -> None:
    """Write the table, a row a command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="commands by the beginnings of their names")
    parser.add_argument("--images", type=int, default=1600)
    parser.add_argument("--steps", type=int, default=100, help="of train")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    several = ["--devices", str(options.processes)]
    cores = sorted(os.sched_getaffinity(0))
    wanted = tuple(options.only.split(","))
    print(f"| command | one process | {options.processes} | times as fast |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        for command in commands(Path(place), options.images, options.steps):
            if not command.name.startswith(wanted):
                continue
            rounds: dict[str, list[float]] = {}
            for _ in range(options.rounds):
                for name, more, number in (("one", [], 1), ("several", several, options.processes)):
                    for kind, words in (("whole", command.words), ("start", command.start)):
                        taken = seconds([*words, *more], set(cores[:number]))
                        rounds.setdefault(f"{name} {kind}", []).append(taken)
            one, two = (
                min(rounds[f"{name} whole"]) - min(rounds[f"{name} start"])
                for name in ("one", "several")
            )
            print(f"| {command.name} | {one:.1f} s | {two:.1f} s | {one / two:.2f} |", flush=True)


if __name__ == "__main__":
    main()
