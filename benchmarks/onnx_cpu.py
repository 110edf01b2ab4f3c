"""A model in torch and its exported file in onnxruntime, on a CPU: from pixels to final boxes.

    python benchmarks/onnx_cpu.py MODEL PHOTOS [--images 8] [--repeats 5] [--threads 1]

Both sides prepare, detect and select as `detkit detect` does, in float32, image by image in turns;
torch once as `detkit detect` runs it and once as the layers stand (eager: norms not folded, no
Winograd). The medians over images of each image's lowest time are compared.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from detkit.data.images import read_image
from detkit.data.sources import find_images
from detkit.inference.models import load_model, open_model
from detkit.inference.onnx_export import export_onnx


def seconds(detector: Any, pixels: Any) -> float:
    """Return the wall time from an (H, W, 3) uint8 image to its boxes."""
    start = time.perf_counter()
    detector.detect(detector.prepare_image(pixels))
    return time.perf_counter() - start


def main() -> None:
    """Print the times and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("photos")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    files = [one.file for one in find_images([arguments.photos]) if one.file is not None]
    photos = [read_image(file) for file in files[: arguments.images]]
    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder) / "model.onnx"
        export_onnx(load_model(arguments.model), exported)
        rivals = {
            "torch, eager": load_model(arguments.model).eval(),
            "torch, detect": open_model(arguments.model, "cpu", threads=arguments.threads),
            "onnxruntime": open_model(exported, threads=arguments.threads),
        }
    lowest = {name: [float("inf")] * len(photos) for name in rivals}
    with torch.inference_mode():
        for _ in range(arguments.repeats + 1):  # the first one warms up: it is never the lowest
            for index, pixels in enumerate(photos):
                for name, detector in rivals.items():
                    lowest[name][index] = min(lowest[name][index], seconds(detector, pixels))
    medians = {name: statistics.median(times) for name, times in lowest.items()}
    for name, median in medians.items():
        print(f"{name}: {median * 1e3:.1f} ms, {median / medians['torch, eager']:.2f} of eager")


if __name__ == "__main__":
    main()
