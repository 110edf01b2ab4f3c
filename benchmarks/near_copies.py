"""How long `detkit check` takes on 10,000 images, and how many copies between splits it finds.

    python benchmarks/near_copies.py [--images 10000] [--photos DIR ...] [--folder DIR]

Images of 500 x 375 are drawn, as `detkit demo` does, or made of photographs: each is a mosaic of
four parts of four of them, enlarged, mirrored and coloured by chance. A tenth of the test images
is then replaced by copies of training images: saved again, half as large, 5 % cut off all sides,
a third each. With `--photos` the copies of the photographs themselves are counted, too, each
folder for itself, and what is taken for a copy in them without one.

Asked for: 95 % of the copies, no image that is none, 10,000 images in less than 2 minutes on two
cores. The time is that of the whole command, the second of it with the small pictures in the
cache. What else the machine does at that time is told by its load.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from detkit.data import open_dataset
from detkit.data.demo.pictures import write_demo
from detkit.data.image_files import open_images
from detkit.data.images import read_image
from detkit.data.looks import Looks
from detkit.data.near_duplicates import find_copies

HEIGHT, WIDTH = 375, 500
SUFFIXES = {".jpg", ".jpeg", ".png"}
Image = NDArray[np.uint8]


def copies(image: Image) -> Iterator[tuple[str, Image, int]]:
    """Yield each kind of copy: its name, pixels, and JPEG quality."""
    height, width = image.shape[:2]
    rows, columns = height // 20, width // 20
    half = cv2.resize(image, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    yield "saved again", image, 50
    yield "half as large", np.asarray(half, np.uint8), 90
    yield "5 % cut off", image[rows:-rows, columns:-columns], 90


def write_jpeg(path: Path, image: Image, quality: int) -> None:
    """Write RGB pixels as a JPEG of that quality."""
    pixels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    path.write_bytes(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1])


def mosaic(photos: list[Image], rng: np.random.Generator) -> Image:
    """Return four parts of photographs side by side, each changed by chance."""
    canvas = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    row, column = (int(rng.integers(side // 4, 3 * side // 4)) for side in (HEIGHT, WIDTH))
    for rows in (slice(0, row), slice(row, HEIGHT)):
        for columns in (slice(0, column), slice(column, WIDTH)):
            photo = photos[int(rng.integers(len(photos)))]
            height, width = photo.shape[:2]
            share = rng.uniform(0.4, 0.8)
            top, left = (int(rng.uniform(0, (1 - share) * side)) for side in (height, width))
            part = photo[top : top + int(share * height), left : left + int(share * width)]
            part = part[:, ::-1] if rng.random() < 0.5 else part
            size = (columns.stop - columns.start, rows.stop - rows.start)
            scaled = cv2.resize(part, size, interpolation=cv2.INTER_LINEAR).astype(np.float32)
            coloured = scaled * rng.uniform(0.6, 1.3, 3) + rng.uniform(-20, 20)
            canvas[rows, columns] = np.clip(coloured, 0, 255).astype(np.uint8)
    return canvas


def photographs(folder: Path) -> list[Path]:
    """Return the images below a folder."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def make(folder: Path, num_images: int, photos: list[Path]) -> dict[str, str]:
    """Write the folder; return the kind of copy that each replaced test image is."""
    write_demo(folder, num_images=num_images, image_size=(HEIGHT, WIDTH), seed=0)
    rng = np.random.default_rng(0)
    if photos:
        held = [read_image(path) for path in photos]
        for path in sorted((folder / "JPEGImages").iterdir()):
            write_jpeg(path, mosaic(held, rng), 85)
    splits = open_dataset(folder).splits
    kinds = {}
    number = max(3, len(splits["test"]) // 10)
    for place, (copy, seen) in enumerate(zip(splits["test"][:number], splits["train"])):
        kind, pixels, quality = list(copies(read_image(seen.path)))[place % 3]
        write_jpeg(copy.path, pixels, quality)
        kinds[copy.image_id] = kind
    return kinds


def check(folder: Path, cache: Path) -> tuple[set[str], float, float]:
    """Return the images that `detkit check` calls near copies, its wall time, its CPU time."""
    command = [sys.executable, "-m", "detkit", "check", str(folder), "--json", "-q"]
    before, start = os.times(), time.perf_counter()
    done = subprocess.run(
        command, capture_output=True, check=False, env={**os.environ, "DETKIT_CACHE": str(cache)}
    )
    seconds, after = time.perf_counter() - start, os.times()
    cpu = after.children_user + after.children_system - before.children_user
    findings = json.loads(done.stdout)["findings"]
    named = {str(one["image"]) for one in findings if one["code"] == "near-copy"}
    return named, seconds, cpu - before.children_system


def look_at(paths: list[Path]) -> Looks:
    """Return what the images of files look like."""
    return open_images(paths, looked_at=paths).looks


def judge_photographs(folder: Path) -> None:
    """Print how many copies of a folder's photographs are found, and what else is taken for one."""
    paths = photographs(folder)
    looks = look_at(paths)
    alike = find_copies(looks)
    pairs = ", ".join(f"{paths[one.image].name} {paths[one.other].name}" for one in alike[:20])
    print(f"{folder}: {len(paths)} images, {len(alike)} of them alike: {pairs or 'none'}")
    with tempfile.TemporaryDirectory() as place:
        for number in range(3):
            made = []
            for path in paths:
                kind, pixels, quality = list(copies(read_image(path)))[number]
                made.append(Path(place) / f"{path.stem}.jpg")
                write_jpeg(made[-1], pixels, quality)
            found = {one.image: one.other for one in find_copies(look_at(made), looks)}
            same = {(one.image, one.other) for one in alike}
            same |= {(other, image) for image, other in same}
            right = sum(image == other or (image, other) in same for image, other in found.items())
            print(f"  {kind}: {right} of {len(paths)} found, {len(found) - right} wrongly")


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--photos", type=Path, nargs="*", default=[])
    parser.add_argument("--folder", type=Path, help="keep the images here, or use those there are")
    options = parser.parse_args()
    for folder in options.photos:
        judge_photographs(folder)
    with tempfile.TemporaryDirectory() as place:
        folder = options.folder or Path(place) / "images"
        listed = Path(f"{folder}.copies.json")
        if not listed.exists():
            photos = [path for one in options.photos for path in photographs(one)]
            listed.parent.mkdir(parents=True, exist_ok=True)
            kinds = make(folder, options.images, photos)
            listed.write_text(json.dumps(kinds), encoding="utf-8")
        kinds = json.loads(listed.read_text(encoding="utf-8"))
        for turn in ("first", "again"):
            load = os.getloadavg()[0]
            named, seconds, cpu = check(folder, Path(place) / "cache")
            print(
                f"check, {turn}: {seconds:.1f} s ({cpu:.1f} s of CPU, load before {load:.1f}, "
                f"{os.cpu_count()} cores)"
            )
        for kind in dict.fromkeys(kinds.values()):
            own = {image for image, name in kinds.items() if name == kind}
            print(f"  {kind}: {len(own & named)} of {len(own)} found")
        print(f"  not a copy, and named: {len(named - set(kinds))}")


if __name__ == "__main__":
    main()
