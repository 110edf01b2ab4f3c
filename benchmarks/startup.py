"""How soon the shell answers: `detkit --help`, and scoring a file of detections without torch.

    python benchmarks/startup.py [--repeats 7]

The second command scores 452 made detections on 100 made images (as many as the VOC sample that
is often used to compare evaluators); each figure is the median of whole processes, beside that
of an empty `python -c pass`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from detkit.data.demo.pictures import write_demo


def seconds(command: list[str], repeats: int) -> float:
    """Return the median wall time of a command after one run to warm up."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def write_predictions(folder: Path) -> Path:
    """Return a file of 452 detections on the images of a demo folder."""
    lines = []
    for index, image in enumerate(sorted((folder / "JPEGImages").glob("*.jpg"))):
        found = [
            {"label": "car", "score": (7 * index + one) % 100 / 100, "box": [5, 5, 60, 60]}
            for one in range(5 if index % 2 else 4)
        ]
        lines.append({"image": image.name, "width": 320, "height": 240, "detections": found})
    path = folder.parent / "found.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    detkit = [sys.executable, "-m", "detkit"]
    with tempfile.TemporaryDirectory() as place:
        data = Path(place) / "demo"
        write_demo(data, num_images=100)
        lists = data / "ImageSets" / "Main"
        names = "".join(f"{path.stem}\n" for path in sorted((data / "JPEGImages").iterdir()))
        for path in lists.glob("*.txt"):
            path.unlink()
        (lists / "test.txt").write_text(names, encoding="utf-8")
        found = str(write_predictions(data))
        score = [*detkit, "eval", "--predictions", found, str(data)]
        for name, command in {
            "python -c pass": [sys.executable, "-c", "pass"],
            "detkit --help": [*detkit, "--help"],
            "detkit eval --predictions": score,
        }.items():
            print(f"{name}: {seconds(command, repeats):.3f} s (median of {repeats})")


if __name__ == "__main__":
    main()
