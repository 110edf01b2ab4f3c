"""Whether the images that `detkit next` lists teach more than as many drawn by chance.

    python benchmarks/label_next.py DATA [--first 20] [--more 20] [--seeds 3] [--place DIR]

DATA is a labelled folder with a test split; what else it holds is the pool. With each seed a few
images are "labelled", a model is trained on them, more are chosen (by the list, by novelty alone,
and twice by chance), and the model is trained anew on all; each is scored on the test split.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from detkit.data import open_dataset
from detkit.data.convert import convert
from detkit.data.records import Dataset, ImageRecord

DETKIT = (sys.executable, "-m", "detkit")
TRAIN = (
    *("--model", "ssd", "--set", "size=160", "--max-steps", "400", "--batch-size", "8"),
    *("--val", ".2", "--skip-bad", "--num-workers", "0", "-q", "--force"),
)


def main() -> None:
    """Print the mAP of each way to choose, and what was labelled by it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--first", type=int, default=20)
    parser.add_argument("--more", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--place", type=Path)
    options = parser.parse_args()
    dataset = open_dataset(options.data)
    members = {one.path: one for part in dataset.splits.values() for one in part}
    test = {one.path for one in dataset.splits["test"]}
    rest = sorted((one for one in members.values() if one.path not in test), key=_name)
    with tempfile.TemporaryDirectory() as made:
        place = options.place or Path(made)
        for seed in range(options.seeds):
            first = random.Random(seed).sample(rest, options.first)
            known = {one.path for one in first}
            pool = [one for one in rest if one.path not in known]
            start = score(dataset, first, place, seed)
            print(f"seed {seed}: {options.first} images: {told(start, first)}", flush=True)
            for name, chosen in choices(dataset, first, pool, options.more, place, seed).items():
                found = score(dataset, [*first, *chosen], place, seed)
                print(f"  {name}: {told(found, chosen)}", flush=True)


def choices(
    dataset: Dataset,
    first: Sequence[ImageRecord],
    pool: Sequence[ImageRecord],
    more: int,
    place: Path,
    seed: int,
) -> dict[str, list[ImageRecord]]:
    """Return the images that each way chooses; the model is the one scored last."""
    by_path = {str(one.path): one for one in pool}
    listed = place / "pool.txt"
    listed.write_text("\n".join(by_path), encoding="utf-8")
    convert(dataset.with_splits({"all": tuple(first)}), place / "labelled", "voc", force=True)
    words = [listed, "--labelled", place / "labelled", "--paths", "-n", more, "-q"]
    ways = {"list": ["--model", place / "run" / "last.safetensors"], "novelty": []}
    chosen = {
        name: [by_path[path] for path in detkit("next", *words, *own).splitlines()]
        for name, own in ways.items()
    }
    for number in range(2):
        draw = random.Random(100 + 10 * seed + number)
        chosen[f"chance {number}"] = draw.sample(list(pool), more)
    return chosen


def score(
    dataset: Dataset, train: Sequence[ImageRecord], place: Path, seed: int
) -> dict[str, float]:
    """Return the AP of each class, and "mAP", of a model that is trained on these images."""
    data, run = place / "data", place / "run"
    splits = {"train": tuple(train), "test": tuple(dataset.splits["test"])}
    convert(dataset.with_splits(splits), data, "voc", force=True)
    detkit("train", data, "-o", run, "--seed", seed, *TRAIN)
    words = ("--split", "test", "--json", "-q")
    report = json.loads(detkit("eval", run / "last.safetensors", data, *words))
    return {"mAP": report["mAP"], **{one["name"]: one["AP"] for one in report["classes"]}}


def told(found: dict[str, float], chosen: Sequence[ImageRecord]) -> str:
    """Return scores, and how many objects of each class the images hold."""
    counts = Counter(one.name for record in chosen for one in record.counted)
    scores = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
    return f"{scores} ({', '.join(f'{count} {name}' for name, count in counts.items())})"


def detkit(*words: object) -> str:
    """Return what a command writes to stdout; stop where it fails."""
    done = subprocess.run(
        [*DETKIT, *map(str, words)], stdout=subprocess.PIPE, encoding="utf-8", check=True
    )
    return done.stdout


def _name(record: ImageRecord) -> str:
    """Return what images are sorted by."""
    return record.image_id


if __name__ == "__main__":
    main()
