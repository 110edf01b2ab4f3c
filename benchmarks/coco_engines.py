"""Compare hotcoco with pycocotools, which computes detkit's COCO scores: equal, and faster?

    pip install hotcoco pycocotools numpy
    python benchmarks/coco_engines.py [--sets 300] [--images 5000]

First on random sets, made to hold what evaluators differ by: stated areas, crowds, equal scores,
categories without objects or without detections, images of more than 100 detections, boxes
without an area, an IoU on a threshold, sets with nothing to find or nothing found. Compared are
the twelve figures, the arrays of precision and recall of each category, size and limit, and each
detection's match, from which the bootstrap draws. Then in CPU time, the lowest of three, from
lists of rows to those arrays. What came out stands in docs/evaluation.md.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import hotcoco
import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

Rows = list[dict[str, Any]]
ENGINES: dict[str, tuple[Any, Any]] = {
    "pycocotools": (COCO, COCOeval),
    "hotcoco": (hotcoco.COCO, hotcoco.COCOeval),
}


def random_set(seed: int) -> tuple[dict[str, Any], Rows]:
    """Return a small COCO document, and results on it; what is in them depends on the seed."""
    rng = np.random.default_rng(seed)
    num_images, num_categories = int(rng.integers(1, 13)), int(rng.integers(1, 6))
    most = 200 if seed % 10 == 9 else 8
    annotations: Rows = []
    results: Rows = []
    for image in range(1, num_images + 1):
        for _ in range(int(rng.integers(0, 7)) * (seed % 50 != 48)):
            corner, size = rng.integers(0, 200, 2), rng.integers(1, 180, 2)
            box = [float(value) for value in (*corner, *size)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(rng.integers(1, num_categories + 1)),
                    "bbox": box,
                    "area": float(box[2] * box[3] * rng.choice([1.0, rng.random()])),
                    "iscrowd": int(rng.random() < 0.15),
                }
            )
        own = [one for one in annotations if one["image_id"] == image]
        for _ in range(int(rng.integers(0, most)) * (seed % 50 != 47)):
            if own and rng.random() < 0.8:
                near = own[int(rng.integers(len(own)))]
                shift = rng.choice([0, 0, 1, 10]) * rng.normal(0, 1, 4)
                box = (np.array(near["bbox"]) + shift).round(1)
                category = near["category_id"]
            else:
                box = rng.integers(0, 200, 4).astype(float)
                category = int(rng.integers(1, num_categories + 2))
            box[2:] = np.maximum(box[2:], 0)
            results.append(
                {
                    "image_id": image,
                    "category_id": min(category, num_categories),
                    "bbox": box.tolist(),
                    "score": float(rng.integers(1, 12)) / 12,
                }
            )
    document = {
        "images": [{"id": one, "width": 400, "height": 400} for one in range(1, num_images + 1)],
        "categories": [{"id": one, "name": str(one)} for one in range(1, num_categories + 2)],
        "annotations": annotations,
    }
    return document, results


def large_set(num_images: int, seed: int = 0) -> tuple[dict[str, Any], Rows]:
    """Return a document and results of COCO val2017's shape: 80 categories, 7.3 objects an image.

    Of 36 detections an image, as a detector leaves them.
    """
    rng = np.random.default_rng(seed)
    annotations: Rows = []
    results: Rows = []
    for image in range(1, num_images + 1):
        number = int(rng.poisson(7.3))
        boxes = np.concatenate(
            [rng.uniform(0, 400, (number, 2)), rng.uniform(8, 200, (number, 2))], 1
        )
        categories = rng.integers(1, 81, number)
        for box, category in zip(boxes.tolist(), categories.tolist(), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": category,
                    "bbox": box,
                    "area": box[2] * box[3] * 0.6,
                    "iscrowd": int(rng.random() < 0.01),
                }
            )
        for _ in range(36):
            if number and rng.random() < 0.5:
                near = int(rng.integers(number))
                box, category = boxes[near] + rng.normal(0, 8, 4), int(categories[near])
            else:
                box, category = rng.uniform(5, 200, 4), int(rng.integers(1, 81))
            results.append(
                {
                    "image_id": image,
                    "category_id": category,
                    "bbox": np.maximum(box, 1).round(2).tolist(),
                    "score": round(float(rng.random()), 4),
                }
            )
    document = {
        "images": [{"id": one, "width": 640, "height": 480} for one in range(1, num_images + 1)],
        "categories": [{"id": one, "name": str(one)} for one in range(1, 81)],
        "annotations": annotations,
    }
    return document, results


def evaluated(name: str, document: dict[str, Any], results: Rows) -> Any:
    """Return an engine's evaluator after all its steps."""
    coco, evaluator = ENGINES[name]
    truth = coco()
    truth.dataset = document
    truth.createIndex()
    one = evaluator(truth, loaded(coco, truth, results), "bbox")
    one.evaluate()
    one.accumulate()
    one.summarize()
    return one


def loaded(coco: Any, truth: Any, results: Rows) -> Any:
    """Return the results as an engine's data set, none at all too."""
    if results:
        return truth.loadRes(results)
    empty = coco()
    empty.dataset = {**truth.dataset, "annotations": []}
    empty.createIndex()
    return empty


def matches(evaluator: Any) -> list[Any]:
    """Return of each image, category and size which detections are right, and which ignored."""
    found = []
    for one in evaluator.evalImgs:
        if one is not None:
            right = (np.asarray(one["dtMatches"]) > 0).tolist()
            ignored = np.asarray(one["dtIgnore"]).astype(bool).tolist()
            scores = [round(score, 6) for score in one["dtScores"]]
            key = one["image_id"], one["category_id"], tuple(map(float, one["aRng"]))
            found.append((key, scores, right, ignored))
    return sorted(found, key=lambda row: row[0])


def differences(document: dict[str, Any], results: Rows) -> list[str]:
    """Return by what the two engines differ on one set."""
    first, second = (
        evaluated(name, copy.deepcopy(document), copy.deepcopy(results)) for name in ENGINES
    )
    said = []
    if not np.array_equal(first.stats, np.array(second.stats)):
        gap = np.abs(np.array(first.stats) - np.array(second.stats)).max()
        said.append("figures" if gap > 1e-9 else "figures, in the last digits")
    for key in ("precision", "recall"):
        one, two = np.asarray(first.eval[key]), np.asarray(second.eval[key])
        if one.shape != two.shape:
            said.append(f"shape of {key}")
        elif not np.array_equal(one, two):
            said.append(key if np.abs(one - two).max() > 1e-9 else f"{key}, in the last digits")
    if matches(first) != matches(second):
        said.append("matches")
    return said


def cpu_seconds(work: Callable[[], object]) -> float:
    """Return the least CPU time of three turns."""
    spent = []
    for _ in range(3):
        began = time.process_time()
        work()
        spent.append(time.process_time() - began)
    return min(spent)


def main() -> None:
    """Write both comparisons."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sets", type=int, default=300)
    parser.add_argument("--images", type=int, default=5000)
    options = parser.parse_args()
    quiet = io.StringIO()
    found: Counter[str] = Counter()
    first: dict[str, int] = {}
    for seed in range(options.sets):
        with contextlib.redirect_stdout(quiet):
            said = differences(*random_set(seed)) or ["equal"]
        found.update(said)
        for one in said:
            first.setdefault(one, seed)
    for one, number in found.most_common():
        print(f"{number:4} of {options.sets} sets: {one} (first: {first[one]})")
    document, results = large_set(options.images)
    seconds = {}
    for name in ENGINES:
        with contextlib.redirect_stdout(quiet):
            seconds[name] = cpu_seconds(
                lambda name=name: evaluated(name, copy.deepcopy(document), copy.deepcopy(results))
            )
        print(f"{name:12} {seconds[name]:6.2f} s of CPU time ({options.images} images)")
    print(f"ratio {seconds['hotcoco'] / seconds['pycocotools']:.3f}")


if __name__ == "__main__":
    main()
