"""Region proposals against opencv-contrib: time, recall and mean average best overlap.

    python benchmarks/proposals.py [--data DIR ...] [--images 100] [--methods selective-search ...]
                                   [--opencv DIR] [--json FILE]

Both get the same images, scaled to a longer side of 500 px, one thread each, image by image in
turn, so that whatever else the machine does hits both alike; the first 2000 boxes count. Then
detkit again with two threads. OpenCV's contrib build clashes with the plain one, so it lives in
a virtual environment of its own, made at `--opencv` (pip fetches it the first time), and runs
there as a process (opencv_proposals.py). Without `--data` and the folders this looks for beside
the checkout, 40 made images are used.

Asked for: selective search fast at most .33 of OpenCV's time, recall@.5 and MABO no more than .01
lower; quality at most .4; Edge Boxes (the same edge map for both) at most .5, recall@.7 no lower.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from detkit.data import open_dataset
from detkit.data.demo.pictures import write_demo
from detkit.data.images import read_image
from detkit.data.records import truth_of
from detkit.evaluation.proposal_recall import recall
from detkit.proposals.edge_boxes import edge_boxes
from detkit.proposals.edges import gradient_edges
from detkit.proposals.selective_search import Mode, selective_search
from detkit.structures import FloatArray, Truth

SIDE = 500
NUM_BOXES = 2000
FOLDERS = ("voc100", "bccd", "raccoon")
Inputs = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Method:
    """One method: what both sides get besides the image, and how detkit is asked."""

    ours: Callable[[Inputs, int], FloatArray]  # inputs, threads -> (P, 4) boxes
    most: float  # of OpenCV's time that is asked for
    extra: Callable[[NDArray[np.uint8]], Inputs] = lambda image: {}


def search(mode: Mode) -> Callable[[Inputs, int], FloatArray]:
    """Return a function that runs detkit's selective search."""

    def run(inputs: Inputs, threads: int) -> FloatArray:
        found = selective_search(inputs["image"], mode=mode, max_boxes=NUM_BOXES, threads=threads)
        return found.boxes

    return run


def edges_of(image: NDArray[np.uint8]) -> Inputs:
    """Return detkit's edge map and orientation, the same for both sides."""
    edges, orientation = gradient_edges(image)
    return {"edges": edges, "orientation": orientation}


def boxes_from_edges(inputs: Inputs, threads: int) -> FloatArray:
    """Return the boxes of detkit's Edge Boxes with OpenCV's smallest window."""
    return edge_boxes(
        inputs["image"],
        edges=inputs["edges"],
        orientation=inputs["orientation"],
        min_area=1000,
        max_boxes=NUM_BOXES,
        threads=threads,
    ).boxes


METHODS: dict[str, Method] = {
    "selective-search": Method(search("fast"), 0.33),
    "selective-search-quality": Method(search("quality"), 0.4),
    "edge-boxes": Method(boxes_from_edges, 0.5, edges_of),
}


class OpenCV:
    """The process that runs OpenCV's methods."""

    def __init__(self, place: Path, exchange: Path) -> None:
        """Make the environment unless it is there, and start the process."""
        python = place / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        if not python.exists():
            print(f"making {place} for opencv-contrib-python-headless", file=sys.stderr)
            venv.create(place, with_pip=True)
        install = [python, "-m", "pip", "install", "-q", "opencv-contrib-python-headless", "numpy"]
        if subprocess.run(
            [python, "-c", "import cv2; cv2.ximgproc"], capture_output=True
        ).returncode:
            subprocess.run(install, check=True)
        worker = Path(__file__).with_name("opencv_proposals.py")
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [python, worker],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            env=environment,
        )
        self.version = self._answer().removeprefix("ready ")
        self.exchange = exchange

    def _answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line:
            raise SystemExit("opencv_proposals.py ended; its error is above")
        return line

    def ask(self, method: str, inputs: Inputs) -> tuple[FloatArray, float]:
        """Return (boxes (P, 4), seconds) of one image."""
        source, target = self.exchange / "inputs.npz", self.exchange / "found.npz"
        np.savez(source, **inputs)
        assert self.process.stdin is not None
        self.process.stdin.write(f"{method}\t{source}\t{target}\n")
        self.process.stdin.flush()
        self._answer()
        with np.load(target) as found:
            return found["boxes"], float(found["seconds"])

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def load(folder: Path, limit: int) -> tuple[list[NDArray[np.uint8]], list[Truth], Sequence[str]]:
    """Return (images, objects, class names) of at most `limit` images, spread over a folder."""
    dataset = open_dataset(folder)
    index = {name: number for number, name in enumerate(dataset.class_names)}
    records = {one.image_id: one for split in dataset.splits.values() for one in split}
    chosen = [records[name] for name in sorted(records)][:: max(1, len(records) // limit)][:limit]
    images, truths = [], []
    for record in chosen:
        image, truth = read_image(record.path), truth_of(record, index)
        scale = SIDE / max(image.shape[:2])
        size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        stretch = np.array([size[0] / image.shape[1], size[1] / image.shape[0]] * 2, np.float32)
        boxes = truth.boxes * stretch
        sound = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        images.append(np.asarray(cv2.resize(image, size, interpolation=how), np.uint8))
        truths.append(Truth(boxes[sound], truth.labels[sound], truth.difficult[sound]))
    return images, truths, dataset.class_names


def measure(
    name: str, method: Method, images: Sequence[NDArray[np.uint8]], opencv: OpenCV
) -> tuple[dict[str, list[FloatArray]], dict[str, list[float]]]:
    """Return (boxes, seconds) of every image by who found them, asked in turn."""
    sides = ("OpenCV", "detkit", "detkit, 2 threads")
    boxes: dict[str, list[FloatArray]] = {side: [] for side in sides}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    warm = {"image": images[0], **method.extra(images[0])}
    method.ours(warm, 1)
    opencv.ask(name, warm)
    for image in images:
        inputs = {"image": image, **method.extra(image)}
        found, took = opencv.ask(name, inputs)
        boxes["OpenCV"].append(found)
        seconds["OpenCV"].append(took)
        for threads, side in ((1, "detkit"), (2, "detkit, 2 threads")):
            started = time.perf_counter()
            boxes[side].append(method.ours(inputs, threads))
            seconds[side].append(time.perf_counter() - started)
    return boxes, seconds


def row_of(
    boxes: Sequence[FloatArray],
    seconds: Sequence[float],
    reference: Sequence[float],
    truths: Sequence[Truth],
    class_names: Sequence[str],
) -> dict[str, float]:
    """Return the figures of one line of the table."""
    scores = recall(boxes, truths, class_names, counts=[NUM_BOXES])
    at = dict(zip(scores.ious, scores.all.recall[0].tolist()))
    return {
        "seconds": statistics.median(seconds),
        "ratio": statistics.median(mine / its for mine, its in zip(seconds, reference)),
        "boxes": statistics.median(len(one) for one in boxes),
        **{f"recall@{iou:g}": share for iou, share in at.items()},
        "mabo": float(scores.all.overlap[0]),
    }


def show(place: str, name: str, method: Method, rows: Mapping[str, Mapping[str, float]]) -> None:
    """Print the lines of one method on one folder."""
    print(f"\n{place}, {name} (asked for: ratio <= {method.most:g})")
    print(f"{'':20}{'s/image':>9}{'ratio':>7}{'boxes':>7}{'@.5':>7}{'@.7':>7}{'@.9':>7}{'MABO':>7}")
    for side, row in rows.items():
        figures = "".join(
            f"{row[key]:7.3f}" for key in ("recall@0.5", "recall@0.7", "recall@0.9", "mabo")
        )
        print(f"{side:20}{row['seconds']:9.3f}{row['ratio']:7.2f}{row['boxes']:7.0f}{figures}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, nargs="+", metavar="DIR")
    parser.add_argument("--images", type=int, default=100, help="of each folder, at most")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument(
        "--opencv",
        type=Path,
        default=Path(tempfile.gettempdir()) / "detkit-opencv-contrib",
        help="where the virtual environment of opencv-contrib is, or is made",
    )
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    results = {}
    with tempfile.TemporaryDirectory() as made:
        beside = [Path(__file__).parents[2] / "shared" / "data" / name for name in FOLDERS]
        folders = options.data or [folder for folder in beside if folder.is_dir()]
        if not folders:
            folders = [Path(made) / "demo"]
            write_demo(folders[0], num_images=40)
        opencv = OpenCV(options.opencv, Path(made))
        print(f"OpenCV {opencv.version}, up to {options.images} images, {SIDE} px")
        for folder in folders:
            images, truths, class_names = load(folder, options.images)
            for name in options.methods:
                boxes, seconds = measure(name, METHODS[name], images, opencv)
                rows = {
                    side: row_of(found, seconds[side], seconds["OpenCV"], truths, class_names)
                    for side, found in boxes.items()
                }
                show(f"{folder.name} ({len(images)} images)", name, METHODS[name], rows)
                results[f"{folder.name} {name}"] = rows
        opencv.close()
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
