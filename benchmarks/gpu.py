"""What is done for a GPU alone, beside the same without it.

    python benchmarks/gpu.py [--device cuda] [--backbone mobilenet_v2] [--batch 32] [--repeats 7]

Rows: training steps of an SSD300 whose next batch is copied on a stream of its own, beside copies
between the steps; a step in bf16 and one in fp16 beside float32; NMS of all classes in one call,
beside one a class; the network by `torch.compile` beside eager. Each pair takes turns and the
medians are compared: below 1 is faster than what stands beside it. On a CPU, where the first and
the third are not done, it only shows that the script works.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch

from detkit.config import Recipe
from detkit.detectors.ssd import SSD, SSDConfig
from detkit.geometry import nms
from detkit.networks.precision import DTYPES, find_device, for_inference
from detkit.structures import Sample
from detkit.training.learner import Learner, make_fabric
from detkit.training.loader import PackedBatch
from detkit.transforms.transfer import one_ahead

CLASSES = [f"class {number}" for number in range(20)]
STEPS = 10  # that a work of several steps takes


def packed_batch(detector: SSD, number: int, device: torch.device) -> PackedBatch:
    """Return so many random images of three objects each, as they leave a data worker."""
    random = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(number):
        corners = torch.rand((3, 2), generator=random) * 200
        boxes = torch.cat([corners, corners + 40 + torch.rand((3, 2), generator=random) * 100], 1)
        pixels = torch.randint(0, 256, (3, 375, 500), generator=random, dtype=torch.uint8)
        labels = torch.randint(0, len(CLASSES), (3,), generator=random)
        samples.append(Sample(pixels, boxes, labels, torch.zeros(3, dtype=torch.bool)))
    packed = PackedBatch.of(samples, detector.preparation)
    return packed.pin_memory() if device.type == "cuda" else packed


def stepping(learner: Learner, packed: PackedBatch, *, ahead: bool) -> Callable[[], None]:
    """Return the work of some training steps; the next batch is copied meanwhile or after."""
    device = learner.fabric.device
    unpack = partial(PackedBatch.unpack, device=device)

    def work() -> None:
        coming = itertools.repeat(packed, STEPS)
        for batch in one_ahead(coming, unpack, device) if ahead else map(unpack, coming):
            learner.gradients(batch)
            learner.update(1e-3)

    return work


def main() -> None:
    """Measure, and print a line a row."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    device = find_device(options.device)
    is_cuda = device.type == "cuda"
    print(torch.cuda.get_device_name(device) if is_cuda else device, flush=True)

    def seconds(work: Callable[[], object]) -> float:
        began = time.perf_counter()
        work()
        if is_cuda:
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    def compare(name: str, ours: Callable[[], object], theirs: Callable[[], object]) -> None:
        for work in (ours, theirs) * 2:
            seconds(work)
        times = [(seconds(ours), seconds(theirs)) for _ in range(options.repeats)]
        one, other = (median(each) for each in zip(*times, strict=True))
        print(f"{name}: {one / other:.2f} ({one * 1e3:.2f} ms / {other * 1e3:.2f} ms)", flush=True)

    config = SSDConfig(backbone=options.backbone, size=300)
    recipe = Recipe(batch_size=options.batch, lr=1e-4)
    learners = {}
    for precision in ("32-true", "bf16-mixed", *(["16-mixed"] if is_cuda else [])):
        fabric = make_fabric(device, 1, 1, precision)
        learners[precision] = Learner(fabric, SSD(config, CLASSES), recipe, precision)
    full = learners.pop("32-true")
    packed = packed_batch(full.detector, options.batch, device)  # type: ignore[arg-type]
    compare(
        f"{STEPS} steps, the next batch copied meanwhile",
        stepping(full, packed, ahead=True),
        stepping(full, packed, ahead=False),
    )
    for precision, learner in learners.items():
        compare(
            f"{STEPS} steps in {precision}, beside float32",
            stepping(learner, packed, ahead=True),
            stepping(full, packed, ahead=True),
        )

    random = torch.Generator().manual_seed(0)
    corners = torch.rand((8732, 2), generator=random) * 300
    boxes = torch.cat([corners, corners + torch.rand((8732, 2), generator=random) * 100], dim=1)
    scores = torch.rand((8732, len(CLASSES)), generator=random) ** 8
    boxes, scores = boxes.to(device), scores.to(device)
    limits = {"score_thresh": 0.3, "nms_thresh": 0.45, "top_k": 400}
    compare(
        "NMS of 20 classes in one call",
        partial(nms.select_together, boxes, scores, max_detections=200, **limits),
        partial(nms.rankings, boxes, scores, **limits),
    )

    for name, dtype in DTYPES.items():
        if name == "16-mixed" and not is_cuda:
            continue
        network = for_inference(SSD(config, CLASSES), device, dtype)
        network.detect_in(dtype)
        image = torch.randn(1, 3, 300, 300, device=device)
        compiled = torch.compile(network.dense_candidates)
        with torch.inference_mode(), torch.autocast(device.type, dtype, enabled="true" not in name):
            compare(
                f"an image through the network in {name}, torch.compile beside eager",
                partial(compiled, image),
                partial(network.dense_candidates, image),
            )


if __name__ == "__main__":
    main()
