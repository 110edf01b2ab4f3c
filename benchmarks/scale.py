"""How time and memory grow with the number of images: check, train's start, detect, eval.

    python benchmarks/scale.py [1000 10000 100000] [--keep FOLDER] [--json] [--starts]

Each size is a made-up YOLO folder of JPEGs of 96 x 64 pixels with three boxes each (a hundred
pictures under many names: what is measured is the number of files, not their pixels), 80 % train
and 10 % each val and test. A row is a command in a process of its own: its wall time, and the
most memory that this process held. `train` is timed until its first step is done and then ended;
`detect` and `eval` look at the test part, with an SSD of 64 pixels that this step has taught. With
--keep the folders are made once and stay.

With --starts each backend's `train` is measured till its first step, with its own settings, on
pictures of 672 x 448 in files that all differ, and with 2,000 made-up proposals an image for those
that take some.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

from detkit.data.images import write_image
from detkit.proposals.reader import line_of
from detkit.structures import Proposals

PICTURES = 100
LARGE = 7  # times 96 x 64
NAMES = ("car", "person", "sheep")
SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}
BACKENDS = {"ssd": False, "yolov1": False, "faster-rcnn": False, "fast-rcnn": True, "rcnn": True}
TRAINING = ("--model", "ssd", "--set", "size=64", "--batch-size", "8", "--precision", "32-true")


@dataclass(frozen=True)
class Row:
    """What one command took."""

    images: int  # of the folder
    command: str
    seen: int  # images that the command looked at
    seconds: float
    memory_mib: float


def write_folder(folder: Path, num_images: int, scale: int = 1) -> None:
    """Write a YOLO folder of so many images, `scale` times 96 x 64; nothing if it is there."""
    if (folder / "data.yaml").is_file():
        return
    rng = np.random.default_rng(0)
    pictures = []
    folder.mkdir(parents=True)
    for _ in range(PICTURES):
        noise = rng.integers(0, 255, (64, 96, 3), np.uint8)
        picture = cv2.resize(noise, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        write_image(folder / "one.jpg", picture if scale > 1 else noise)
        pictures.append((folder / "one.jpg").read_bytes())
    (folder / "one.jpg").unlink()
    number = 0
    for part, share in SHARES.items():
        images, labels = folder / "images" / part, folder / "labels" / part
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for _ in range(round(share * num_images)):
            differs = b"%08d\xff\xd9" % number if scale > 1 else b""  # behind the picture's end
            (images / f"{number:08d}.jpg").write_bytes(pictures[number % PICTURES] + differs)
            centres = rng.uniform(0.25, 0.75, (3, 2))
            rows = [f"{n} {x:.4f} {y:.4f} 0.3 0.4\n" for n, (x, y) in enumerate(centres)]
            (labels / f"{number:08d}.txt").write_text("".join(rows), encoding="utf-8")
            number += 1
    parts = "".join(f"{part}: images/{part}\n" for part in SHARES)
    names = "".join(f"  {n}: {name}\n" for n, name in enumerate(NAMES))
    (folder / "data.yaml").write_text(f"path: .\n{parts}names:\n{names}", encoding="utf-8")
    os.sync()  # else what is measured waits for these files to reach the disk


def write_proposals(folder: Path, file: Path, scale: int) -> None:
    """Write 2,000 boxes by chance for each image of a folder; nothing if they are there."""
    if file.is_file():
        return
    rng = np.random.default_rng(0)
    size = 64 * scale, 96 * scale
    corners = rng.uniform(0, 0.5, (2000, 2))
    shares = np.concatenate([corners, corners + rng.uniform(0.2, 0.5, (2000, 2))], axis=1)
    boxes = np.rint(shares * np.array([size[1], size[0]] * 2)).astype(np.float32)
    found = Proposals(boxes, np.linspace(1, 0, len(boxes), dtype=np.float32))
    _, rest = line_of("", size, found, {}).split('""', maxsplit=1)
    with file.open("w", encoding="utf-8") as lines:
        for path in sorted(folder.glob("images/*/*.jpg")):
            lines.write(f'{{"image":"{path.relative_to(folder).as_posix()}"{rest}\n')


def measure(
    words: list[str], log: Path, is_over: Callable[[], bool] = lambda: False
) -> tuple[float, float]:
    """Return a command's seconds and MiB, till it ends or `is_over`; SystemExit if it fails."""
    began = time.perf_counter()
    with log.open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "detkit", *words], stdout=subprocess.DEVNULL, stderr=said
        )
        seconds = 0.0
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if not seconds and is_over():
                seconds = time.perf_counter() - began
                process.terminate()
            time.sleep(0.02)
    process.returncode = os.waitstatus_to_exitcode(status)
    if not seconds and process.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(words)}: {log.read_text(encoding='utf-8')}")
    return seconds or time.perf_counter() - began, usage.ru_maxrss / 1024


def rows_of(folder: Path, num_images: int, out: Path) -> list[Row]:
    """Return what each command takes on a folder of so many images."""
    run, log = out / "run", out / "log"
    num_test = round(SHARES["test"] * num_images)
    metrics = run / "metrics.jsonl"
    train = ["train", str(folder), *TRAINING, "--max-steps", "1000000", "-o", str(run), "--force"]
    rows = [Row(num_images, "check", num_images, *measure(["check", str(folder)], log))]
    first = measure(train, log, lambda: metrics.is_file() and metrics.stat().st_size > 0)
    rows.append(Row(num_images, "train, to its first step", num_images, *first))
    model, test = str(run / "last.safetensors"), str(folder / "images" / "test")
    for name, words in (
        ("detect", ["detect", model, test, "-o", str(out / "found.jsonl"), "--force"]),
        ("eval", ["eval", model, str(folder)]),
        ("eval --predictions", ["eval", "--predictions", str(out / "found.jsonl"), str(folder)]),
    ):
        rows.append(Row(num_images, name, num_test, *measure(words, log)))
    return rows


def starts_of(folder: Path, num_images: int, out: Path) -> list[Row]:
    """Return what each backend's training takes to its first step."""
    proposals = folder / "proposals.jsonl"
    write_proposals(folder, proposals, LARGE)
    rows = []
    for name, takes_some in BACKENDS.items():
        words = ["train", str(folder), "--model", name, "--max-steps", "1000", "--device", "cpu"]
        words += ["--precision", "32-true", "-o", str(out / name)]
        words += ["--proposals", str(proposals)] if takes_some else []
        log, metrics = out / "log", out / name / "metrics.jsonl"
        first = measure(words, log, lambda at=metrics: at.is_file() and at.stat().st_size > 0)
        rows.append(Row(num_images, f"train --model {name}", num_images, *first))
    return rows


def main() -> None:
    """Write the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sizes", nargs="*", type=int, default=[1000, 10_000, 100_000])
    parser.add_argument("--keep", type=Path, help="where the folders are, or will be")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--starts", action="store_true", help="each backend's start of training")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as passing:
        rows = []
        for size in options.sizes:
            folder = (options.keep or Path(passing)) / f"{size}"
            write_folder(folder, size, LARGE if options.starts else 1)
            out = Path(passing) / f"out-{size}"
            out.mkdir()
            for row in (starts_of if options.starts else rows_of)(folder, size, out):
                rows.append(row)
                if not options.json:
                    print(
                        f"| {row.images:,} | {row.command} | {row.seen:,} | {row.seconds:.1f} | "
                        f"{row.memory_mib:.0f} |",
                        flush=True,
                    )
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))


if __name__ == "__main__":
    main()
