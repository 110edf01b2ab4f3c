"""Time VOC07 mAP on a set of VOC07's size against pycocotools on the same boxes.

    python benchmarks/voc_map.py [--images 4952] [--skip-pycocotools]

Asked for: at most 4 s, and at most half of pycocotools' time. pycocotools is given IoU .5
and one area range only, which is the least it can do for the same figure; building its
input is not counted.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import time

import numpy as np

from detkit.evaluation.coco_map import Engine, as_coco, detection_rows, truth_rows
from detkit.evaluation.voc_map import voc_map
from detkit.structures import Detections, Truth

NUM_CLASSES = 20
PER_IMAGE = 100


def made_up_set(num_images: int, seed: int = 0) -> tuple[list[Detections], list[Truth]]:
    """Return detections and truth like VOC07's: 2.4 objects an image, a tenth difficult."""
    rng = np.random.default_rng(seed)
    detections, truths = [], []
    for _ in range(num_images):
        count = int(rng.poisson(2.4))
        corner = rng.uniform(0, 300, (count, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(20, 200, (count, 2))], axis=1)
        labels = rng.integers(0, NUM_CLASSES, count)
        truths.append(Truth(boxes.astype(np.float32), labels, rng.random(count) < 0.1))
        near = rng.integers(0, max(count, 1), PER_IMAGE)
        if count:
            found = boxes[near] + rng.normal(0, 15, (PER_IMAGE, 4))
            found_labels = labels[near]
        else:
            corner = rng.uniform(0, 300, (PER_IMAGE, 2))
            found = np.concatenate([corner, corner + 60], axis=1)
            found_labels = np.zeros(PER_IMAGE, np.int64)
        found_labels = np.where(
            rng.random(PER_IMAGE) < 0.5, found_labels, rng.integers(0, NUM_CLASSES, PER_IMAGE)
        )
        scores = np.sort(rng.random(PER_IMAGE))[::-1]
        detections.append(
            Detections(found.astype(np.float32), scores.astype(np.float32), found_labels)
        )
    return detections, truths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=4952)
    parser.add_argument("--skip-pycocotools", action="store_true")
    options = parser.parse_args()
    detections, truths = made_up_set(options.images)
    names = [f"class{number}" for number in range(NUM_CLASSES)]

    started = time.perf_counter()
    scores = voc_map(detections, truths, names)
    ours = time.perf_counter() - started
    print(f"detkit voc07     {ours:7.2f} s   mAP {scores.mean:.4f}   (asked: <= 4 s)")
    if options.skip_pycocotools:
        return

    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    engine = Engine(COCO, COCOeval)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = as_coco(truth_rows(truths), len(truths), NUM_CLASSES, engine)
        found = as_coco(detection_rows(detections), len(truths), NUM_CLASSES, engine)
        started = time.perf_counter()
        evaluator = COCOeval(truth, found, "bbox")
        evaluator.params.iouThrs = np.array([0.5])
        evaluator.params.areaRng = evaluator.params.areaRng[:1]
        evaluator.params.areaRngLbl = ["all"]
        evaluator.params.maxDets = [PER_IMAGE]
        evaluator.evaluate()
        evaluator.accumulate()
        theirs = time.perf_counter() - started
    print(f"pycocotools      {theirs:7.2f} s")
    print(f"ratio            {ours / theirs:7.3f}     (asked: <= 0.5)")


if __name__ == "__main__":
    main()
