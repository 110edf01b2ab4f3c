"""How many injected label errors `detkit suspects` finds, and how many of its first 50 are right.

    python benchmarks/suspects.py [--data DIR] [--place DIR] [--minutes 3] [--folds 3] [WORDS]

A copy of the labels has errors of four kinds, each in 5 % of the objects: an object dropped, its
class swapped, its box shifted to an IoU of .3 to .6, and a box put on nothing. `detkit compare
--folds` trains on that copy, WORDS are its own; then the list of suspects is held against what was
injected. Without DIR the images are those that `detkit demo` draws. What is wrong in the labels
already counts as a false alarm here, so precision is a lower bound. With --share 0 nothing is
injected, and the place holds the list of the labels as they are.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from detkit.data import open_dataset
from detkit.data.checks.check import drop_bad, find_losses
from detkit.data.convert import convert
from detkit.data.images import image_size
from detkit.data.records import Dataset, ImageRecord, ObjectRecord
from detkit.evaluation.iou import iou_matrix

DETKIT = (sys.executable, "-m", "detkit")
KINDS = ("missing", "class", "shifted", "ghost")
SHIFTED = (0.3, 0.6)
MOST_OVERLAP = 0.1  # of a ghost with any object
FOUND_IOU = 0.5  # of a suspect's box with the injected error's
Box = tuple[float, float, float, float]


def main() -> None:
    """Print precision of the first 50, and recall by kind."""
    parser = argparse.ArgumentParser(usage="%(prog)s [options] [WORDS of detkit compare]")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--place", type=Path)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--share", type=float, default=0.05, help="of the objects, a kind")
    parser.add_argument("--seed", type=int, default=0)
    options, words = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        place = options.place or Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        data = options.data
        if data is None:
            data = Path(folder, "demo")
            subprocess.run([*DETKIT, "demo", data, "-q"], check=True)
        wrong, injected = place / "data", place / "injected.json"
        if not wrong.exists():
            dataset = open_dataset(data)
            dataset, _ = drop_bad(dataset, find_losses(dataset))
            spoilt, errors = inject(dataset, options.share, options.seed)
            convert(spoilt, wrong, "voc")
            injected.write_text(json.dumps(errors))
        command = [*DETKIT, "compare", str(wrong), "-o", str(place / "folds"), "--models", "ssd"]
        command += ["--folds", str(options.folds), "--max-minutes", str(options.minutes), "-q"]
        command += ["--skip-bad"]
        command += [*words, *(["--resume"] if (place / "folds").exists() else [])]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        listed = [*DETKIT, "suspects", str(wrong), "--folds", str(place / "folds"), "--split"]
        listed += ["all", "-n", "1000000", "--json"]
        out = subprocess.run(listed, check=True, stdout=subprocess.PIPE).stdout
        (place / "suspects.json").write_bytes(out)
        judge(json.loads(out)["suspects"], json.loads(injected.read_text()))


def judge(suspects: list[dict[str, Any]], errors: list[dict[str, Any]]) -> None:
    """Print how many of the first suspects are injected errors, and how many of these are found."""
    if not errors:
        print(f"{len(suspects)} suspects; nothing was injected")
        return
    right = hits(suspects, errors)
    for number in (50, 100, len(errors)):
        first = right[:number]
        share = np.mean([one is not None for one in first])
        print(f"precision of the first {len(first)}: {share:.2f}")
    alike = sum(
        one is not None and errors[one]["kind"] == suspects[rank]["kind"]
        for rank, one in enumerate(right[:50])
    )
    print(f"of the first 50 with their kind, too: {alike}")
    found = {one for one in right if one is not None}
    early = {one for one in right[: len(errors)] if one is not None}
    total = Counter(one["kind"] for one in errors)
    for kind in KINDS:
        own = {place for place, one in enumerate(errors) if one["kind"] == kind}
        print(
            f"{kind}: {total[kind]} injected, recall {len(own & found) / len(own):.2f} in "
            f"all {len(suspects)} suspects, {len(own & early) / len(own):.2f} in the first "
            f"{len(errors)}"
        )
    sure = np.array([one["sure"] for one in suspects])
    is_right = np.array([one is not None for one in right])
    for low, high in ((0.9, 1.01), (0.7, 0.9), (0.5, 0.7), (0.3, 0.5), (0.0, 0.3)):
        here = (sure >= low) & (sure < high)
        if here.any():
            share = is_right[here].mean()
            print(f"sure {low:.1f} to {min(high, 1):.1f}: {here.sum()}, right {share:.2f}")


def hits(suspects: list[dict[str, Any]], errors: list[dict[str, Any]]) -> list[int | None]:
    """Return for each suspect the injected error it is about, each error once; None: none."""
    taken: set[int] = set()
    found: list[int | None] = []
    for one in suspects:
        boxes = [box for box in (one["box"], (one["model"] or {}).get("box")) if box]
        best = None
        for place, error in enumerate(errors):
            if place in taken or Path(error["image"]).name != Path(one["image"]).name:
                continue
            ious = iou_matrix(np.array(boxes, np.float32), np.array([error["box"]], np.float32))
            if ious.max() >= FOUND_IOU:
                best = place
                break
        if best is not None:
            taken.add(best)
        found.append(best)
    return found


def inject(dataset: Dataset, share: float, seed: int) -> tuple[Dataset, list[dict[str, Any]]]:
    """Return the data set with errors, and what they are: the box is where to look for each."""
    chance = np.random.default_rng(seed)
    records = [one for split in dataset.splits.values() for one in split]
    objects = [
        (place, number)
        for place, record in enumerate(records)
        for number, one in enumerate(record.objects)
        if not one.difficult and not one.is_crowd
    ]
    chance.shuffle(objects)
    count = round(share * len(objects))
    kinds = {
        tuple(one): kind
        for kind, start in zip(KINDS[:3], range(0, 3 * count, max(count, 1)))
        for one in objects[start : start + count]
    }
    ghosts = Counter(chance.integers(len(records), size=count).tolist())
    errors: list[dict[str, Any]] = []
    changed: dict[Path, ImageRecord] = {}
    everything = [records[place].objects[number] for place, number in objects]
    for place, record in enumerate(records):
        kept: list[ObjectRecord] = []
        height, width = image_size(record.path)
        for number, one in enumerate(record.objects):
            kind = kinds.get((place, number))
            made: ObjectRecord | None = one
            if kind == "missing":
                made = None
            elif kind == "class":
                others = [name for name in dataset.class_names if name != one.name]
                made = replace(one, name=str(chance.choice(others)))
            elif kind == "shifted":
                made = replace(one, box=shifted(one.box, width, height, chance))
            if kind is not None:
                box = one.box if made is None else made.box
                errors.append({"kind": kind, "image": record.image_id, "box": box})
            kept += [] if made is None else [made]
        for _ in range(ghosts[place]):
            like = everything[chance.integers(len(everything))]
            box = on_nothing(like.box, [*record.objects, *kept], width, height, chance)
            if box is not None:
                kept.append(replace(like, box=box))
                errors.append({"kind": "ghost", "image": record.image_id, "box": box})
        changed[record.path] = replace(record, objects=tuple(kept))
    splits = {
        name: tuple(changed[one.path] for one in split) for name, split in dataset.splits.items()
    }
    return dataset.with_splits(splits), errors


def shifted(box: Box, width: int, height: int, chance: np.random.Generator) -> Box:
    """Return a box moved and stretched until its IoU with what it was lies in `SHIFTED`."""
    old = np.array(box)
    sides = np.tile(old[2:] - old[:2], 2)
    while True:
        new = (old + chance.normal(0, 0.3, 4) * sides).round()
        new = new.clip(0, [width, height, width, height])
        if (new[2:] - new[:2] < 4).any():
            continue
        value = float(iou_matrix(old[None].astype(np.float32), new[None].astype(np.float32))[0, 0])
        if SHIFTED[0] <= value <= SHIFTED[1]:
            x1, y1, x2, y2 = new.tolist()
            return x1, y1, x2, y2


def on_nothing(
    like: Box, objects: list[ObjectRecord], width: int, height: int, chance: np.random.Generator
) -> Box | None:
    """Return a box of the size of `like` where no object is; None where there is no room."""
    w, h = (min(like[axis + 2] - like[axis], (width, height)[axis] / 2) for axis in (0, 1))
    boxes = np.array([one.box for one in objects], np.float32).reshape(-1, 4)
    for shrink in (1.0, 0.7, 0.5):
        for _ in range(200):
            x, y = chance.integers(0, [int(width - w * shrink), int(height - h * shrink)])
            box = float(x), float(y), float(round(x + w * shrink)), float(round(y + h * shrink))
            if iou_matrix(np.array([box], np.float32), boxes).max(initial=0) < MOST_OVERLAP:
                return box
    return None


if __name__ == "__main__":
    main()
