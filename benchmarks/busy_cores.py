"""What busy cores cost a training: all threads, the number detkit chooses, and data workers.

    python benchmarks/busy_cores.py [--data FOLDER] [--backbone mobilenet_v2] [--steps 32]

Trains an SSD for some steps, each time as a new process of `detkit train`: on free cores, and
beside one program that never rests, with all threads, one, and as many as detkit chooses. Then
with 0, 1 and 2 data workers. Images a second are those of the last 30 steps.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detkit.data.demo.pictures import write_demo
from detkit.machine import num_cores

OPENMP = {"OMP_NUM_THREADS", "GOMP_SPINCOUNT"}  # what the caller has set is not measured


@contextmanager
def one_busy_program(wanted: bool) -> Iterator[None]:
    """Keep a core busy within the block."""
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if wanted else None
    try:
        yield
    finally:
        if busy is not None:
            busy.kill()
            busy.wait()


def images_per_second(data: Path, backbone: str, steps: int, words: list[str]) -> float:
    """Return the speed of a training of so many steps, its last steps."""
    with tempfile.TemporaryDirectory() as place:
        run = Path(place) / "run"
        command = ["train", data, "--model", "ssd", "--backbone", backbone, "-o", run]
        limits = ["--max-steps", str(steps), "--batch-size", "8", "--skip-bad", "-q"]
        subprocess.run(
            [sys.executable, "-m", "detkit", *map(str, command), *limits, *words],
            env={name: value for name, value in os.environ.items() if name not in OPENMP},
            check=True,
        )
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    speeds = [one["images_per_second"] for one in map(json.loads, lines) if "losses" in one]
    return float(speeds[-1])


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="a labelled folder; else the demo's")
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--steps", type=int, default=32)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        data = arguments.data
        if data is None:
            data = Path(place) / "demo"
            write_demo(data)

        def measure(words: list[str]) -> float:
            return images_per_second(data, arguments.backbone, arguments.steps, words)

        speeds: dict[tuple[bool, str], float] = {}
        cores = num_cores()
        choices = {str(cores): ["--threads", str(cores)], "1": ["--threads", "1"], "chosen": []}
        for busy in (False, True):
            with one_busy_program(busy):
                for name, words in choices.items():
                    speeds[busy, name] = measure(words)
                    where = "beside a busy program" if busy else "on free cores"
                    print(f"{where}, threads {name}: {speeds[busy, name]:.1f} images/s", flush=True)
        free = speeds[False, str(cores)]
        for busy, where in ((False, "on free cores"), (True, "beside a busy program")):
            share = speeds[busy, "chosen"] / free
            print(f"chosen, {where}, by all threads on free cores: {share:.2f}")
        for busy in (False, True):
            with one_busy_program(busy):
                for workers in (0, 1, 2):
                    speed = measure(["--num-workers", str(workers)])
                    print(f"{workers} data workers, busy program {busy}: {speed:.1f} images/s")


if __name__ == "__main__":
    main()
