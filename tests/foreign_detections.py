"""One labelled folder, and perfect detections of it in any tool's format, with any mistake."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from labelled_folders import put

WIDTH, HEIGHT = 160, 100
NAMES = ["kite", "traffic light", "boat"]
IDS = {"kite": 3, "traffic light": 7, "boat": 12}
IMAGES = [f"b{number}.png" for number in range(1, 9)]


@dataclass(frozen=True)
class Found:
    """One detection: what a row of any format is made of."""

    image: str
    label: str
    score: float
    box: tuple[float, ...]  # xyxy in pixels, or whatever a mistake makes of it


def objects() -> list[Found]:
    """Return three objects an image, all over it; the scores are those of perfect detections."""
    random = np.random.default_rng(3)
    found = []
    for number, image in enumerate(IMAGES):
        for place, name in enumerate(NAMES):
            width, height = random.integers(12, 60), random.integers(10, 50)
            x, y = random.integers(0, WIDTH - width), random.integers(0, HEIGHT - height)
            box = tuple(map(float, (x, y, x + width, y + height)))
            found.append(Found(image, name, 0.95 - 0.02 * number - 0.2 * place, box))
    return found


def detections() -> list[Found]:
    """Return the objects, each found, and one that is none, with a low score."""
    return [*objects(), Found(IMAGES[0], "boat", 0.04, (1.0, 60.0, 9.0, 71.0))]


def coco_folder(root: Path, ids: dict[str, object] = IDS) -> Path:
    """Write the labelled folder as COCO JSON, image ids from 11."""
    keys = {name: number for number, name in enumerate(IMAGES, start=11)}
    content = {
        "images": [
            {"id": keys[name], "file_name": name, "width": WIDTH, "height": HEIGHT}
            for name in IMAGES
        ],
        "categories": [{"id": key, "name": name} for name, key in ids.items()],
        "annotations": [
            {
                "id": number,
                "image_id": keys[one.image],
                "category_id": ids[one.label],
                "bbox": sized(one.box),
                "iscrowd": 0,
            }
            for number, one in enumerate(objects(), start=1)
        ],
    }
    files = {"annotations/instances_test.json": json.dumps(content)}
    return put(root, files | {f"images/{name}": (HEIGHT, WIDTH) for name in IMAGES})


def yolo_folder(root: Path) -> Path:
    """Write the labelled folder as YOLO text files."""
    files: dict[str, object] = {"classes.txt": "\n".join(NAMES)}
    for name in IMAGES:
        rows = [
            f"{NAMES.index(one.label)} {text(centred(shares(one.box)))}"
            for one in objects()
            if one.image == name
        ]
        files[f"labels/{Path(name).stem}.txt"] = "\n".join(rows) + "\n"
        files[f"images/{name}"] = (HEIGHT, WIDTH)
    return put(root, files)


# --- boxes, as tools give them -----------------------------------------------------------------


def sized(box: Sequence[float]) -> list[float]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def centred(box: Sequence[float]) -> list[float]:
    return [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0], box[3] - box[1]]


def shares(box: Sequence[float]) -> list[float]:
    return [box[0] / WIDTH, box[1] / HEIGHT, box[2] / WIDTH, box[3] / HEIGHT]


def turned(box: Sequence[float]) -> list[float]:
    return [box[1], box[0], box[3], box[2]]


def stretched(box: Sequence[float]) -> list[float]:
    return [value * 640 for value in shares(box)]


def text(values: Sequence[float]) -> str:
    return " ".join(f"{value:.6f}" for value in values)


def with_scores(found: Sequence[Found], change: Callable[[float], float]) -> list[Found]:
    return [replace(one, score=change(one.score)) for one in found]


def logit(score: float) -> float:
    return math.log(score / (1 - score))


# --- formats: each writes detections whose boxes are four numbers, whatever these are ---------


def write_coco(path: Path, found: Sequence[Found]) -> Path:
    rows = [
        {
            "image_id": IMAGES.index(one.image) + 11,
            "category_id": IDS[one.label],
            "bbox": list(one.box),
            "score": one.score,
        }
        for one in found
    ]
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def write_jsonl(path: Path, found: Sequence[Found]) -> Path:
    lines = [
        {
            "image": image,
            "detections": [
                {"label": one.label, "score": one.score, "box": list(one.box)}
                for one in found
                if one.image == image
            ],
        }
        for image in IMAGES
    ]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return path


def write_csv(path: Path, found: Sequence[Found]) -> Path:
    lines = ["filename,class,confidence,xmin,ymin,xmax,ymax"]
    lines += [f"{one.image},{one.label},{one.score},{','.join(map(str, one.box))}" for one in found]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def write_voc(path: Path, found: Sequence[Found]) -> Path:
    """VOC's comp4 files; boxes of corners are written 1-based, both inside."""
    path.mkdir()
    for name in NAMES:
        lines = [
            f"{Path(one.image).stem} {one.score:.6f} {text(one.box)}"
            for one in found
            if one.label == name
        ]
        (path / f"comp4_det_test_{name}.txt").write_text("\n".join(lines), encoding="utf-8")
    return path


def write_text(path: Path, found: Sequence[Found], row: str = "class score box") -> Path:
    """A folder of a text file an image, with rows of these words; `n` is the class's number."""
    path.mkdir()
    counts = 0
    for image in IMAGES:
        lines = []
        for one in found:
            if one.image != image:
                continue
            counts += 1
            values = {
                "class": one.label,
                "n": str(NAMES.index(one.label)),
                "score": f"{one.score:.6f}",
                "box": text(one.box),
                "id": str(counts),
                "1": "1",
            }
            lines.append(" ".join(values[word] for word in row.split()))
        (path / f"{Path(image).stem}.txt").write_text("\n".join(lines), encoding="utf-8")
    return path


def with_boxes(
    found: Sequence[Found], *changes: Callable[[Sequence[float]], Sequence[float]]
) -> list[Found]:
    """Return the detections with their boxes changed by each function in turn."""
    changed = list(found)
    for change in changes:
        changed = [replace(one, box=tuple(change(one.box))) for one in changed]
    return changed


def one_based(box: Sequence[float]) -> list[float]:
    return [box[0] + 1, box[1] + 1, box[2], box[3]]
