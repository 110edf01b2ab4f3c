"""How long `detkit check` takes beside the decoding of the same images, on as many threads.

    python benchmarks/check_images.py [--images 5000] [--size 500x375] [--photos DIR ...]
                                      [--folder DIR] [--rounds 3]

A YOLO folder of JPEGs is made, of mosaics of photographs or of drawn scenes (`near_copies.py`
makes the same), 70 % for training and 15 % each for val and test. In turn, each in a process of
its own and `--rounds` times, of which the quickest counts:

- decode: a pool of as many threads as cores reads each file and decodes it as `check` does: grey, a
  half, quarter or eighth of it where that is enough.
- decode, small: the same, and shrinks it to the 96 x 96 pixels that are compared.
- decode, whole: the same in colour and at full size, as whoever trains reads it.
- check, first: the whole command, with an empty cache; and of it, the function `check` alone.
- check, again: the same with the small pictures in the cache.

Asked for: check at most 1.2 of decoding. Seconds of CPU, since those of the clock tell of other
programs, too; the imports of the loops are not counted, those of the command are.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from near_copies import mosaic, photographs, write_jpeg

from detkit.data.demo.pictures import draw_picture
from detkit.data.images import read_image

SHARES = {"train": 0.7, "val": 0.15, "test": 0.15}
DECODE = """
import json, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import cv2, numpy as np
from detkit.machine import num_cores
paths, how = sorted(Path(sys.argv[1]).rglob("*.jpg")), sys.argv[2]
height, width = cv2.imread(str(paths[0])).shape[:2]
part = min(height, width) // 192
grey = {0: cv2.IMREAD_GRAYSCALE, 1: cv2.IMREAD_REDUCED_GRAYSCALE_2,
        2: cv2.IMREAD_REDUCED_GRAYSCALE_4, 3: cv2.IMREAD_REDUCED_GRAYSCALE_8}
flag = cv2.IMREAD_COLOR if how == "whole" else grey[sum(part >= least for least in (2, 4, 8))]
def decode(path):
    image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), flag)
    if how == "small":
        cv2.resize(image, (96, 96), interpolation=cv2.INTER_AREA)
cpu, clock = time.process_time(), time.perf_counter()
with ThreadPoolExecutor(num_cores()) as pool:
    for _ in pool.map(decode, paths):
        pass
print(json.dumps([time.process_time() - cpu, time.perf_counter() - clock]))
"""
CHECK = """
import json, sys, time
import cv2, PIL.Image
from detkit.data import open_dataset
from detkit.data.checks.check import check
dataset = open_dataset(sys.argv[1])
cpu, clock = time.process_time(), time.perf_counter()
check(dataset)
print(json.dumps([time.process_time() - cpu, time.perf_counter() - clock]))
"""


@dataclass(frozen=True)
class Spent:
    """What a process took."""

    cpu: float  # seconds
    clock: float
    memory_mib: float = 0.0


def make(folder: Path, num_images: int, size: tuple[int, int], photos: list[Path]) -> None:
    """Write the YOLO folder; `size` is (height, width)."""
    rng = np.random.default_rng(0)
    held = [read_image(path) for path in photos]
    number = 0
    for split, share in SHARES.items():
        images, labels = folder / "images" / split, folder / "labels" / split
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for _ in range(round(share * num_images)):
            pixels = mosaic(held, rng, size) if held else draw_picture(rng, size).image
            write_jpeg(images / f"{number:06d}.jpg", pixels, 90)
            (labels / f"{number:06d}.txt").write_text("0 .5 .5 .3 .4\n", encoding="utf-8")
            number += 1
    parts = "".join(f"{split}: images/{split}\n" for split in SHARES)
    (folder / "data.yaml").write_text(f"path: .\n{parts}names: [car]\n", encoding="utf-8")


def run_program(program: str, *words: str, cache: Path) -> Spent:
    """Return what a program that times itself took."""
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        capture_output=True,
        check=True,
        env={**os.environ, "DETKIT_CACHE": str(cache)},
    )
    return Spent(*json.loads(done.stdout))


def run_command(folder: Path, cache: Path) -> Spent:
    """Return what the whole command took."""
    process = subprocess.Popen(
        [sys.executable, "-m", "detkit", "check", str(folder), "--json", "-q"],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "DETKIT_CACHE": str(cache)},
    )
    before = os.times().elapsed
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1):
        raise SystemExit(f"check left with {process.returncode}")
    clock = os.times().elapsed - before
    return Spent(usage.ru_utime + usage.ru_stime, clock, usage.ru_maxrss / 1024)


def measure(folder: Path, rounds: int, cache: Path) -> dict[str, Spent]:
    """Return the quickest of each kind of process."""
    best: dict[str, Spent] = {}

    def note(name: str, spent: Spent) -> None:
        if name not in best or spent.cpu < best[name].cpu:
            best[name] = spent

    for _ in range(rounds):
        for how in ("grey", "small", "whole"):
            name = "decode" if how == "grey" else f"decode, {how}"
            note(name, run_program(DECODE, str(folder / "images"), how, cache=cache))
        for turn in ("first", "again"):
            note(f"check, {turn}", run_command(folder, cache))
        shutil.rmtree(cache, ignore_errors=True)
        note("of it, the function", run_program(CHECK, str(folder), cache=cache))
        shutil.rmtree(cache, ignore_errors=True)
    return best


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--size", default="500x375", help="width x height")
    parser.add_argument("--photos", type=Path, nargs="*", default=[])
    parser.add_argument("--folder", type=Path, help="keep the images here, or use those there are")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    with tempfile.TemporaryDirectory() as place:
        folder = options.folder or Path(place) / "images"
        if not (folder / "data.yaml").exists():
            photos = [path for one in options.photos for path in photographs(one)]
            make(folder, options.images, (height, width), photos)
        best = measure(folder, options.rounds, Path(place) / "cache")
    print("| | s of CPU | of decode | of decode, small | of decode, whole | s of clock | MiB |")
    print("|---|---|---|---|---|---|---|")
    for name, spent in best.items():
        shares = [
            spent.cpu / best[other].cpu for other in ("decode", "decode, small", "decode, whole")
        ]
        memory = f"{spent.memory_mib:.0f}" if spent.memory_mib else ""
        ratios = " | ".join(f"{share:.2f}" for share in shares)
        print(f"| {name} | {spent.cpu:.2f} | {ratios} | {spent.clock:.1f} | {memory} |")


if __name__ == "__main__":
    main()
