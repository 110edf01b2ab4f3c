"""Time data loading alone against a bare loop that decodes and resizes the same files.

    python benchmarks/loading.py [IMAGE_FOLDER] [--workers 2] [--size 300] [--augmentation none]
                                 [--kept]

Asked for: at least .8 of the bare loop's images a second, on as many processes. The bare loop
is `cv2.imdecode` and a bilinear `cv2.resize`, no more: no colour order, no checks, no labels, no
normalisation, no batch. Without a folder, 256 photo-like JPEGs of 500 x 375 are made up. The two
take turns and the median ratio counts, because other programs disturb both. With `--kept` the
loader keeps decoded images in memory, as trainings do; the bare loop still decodes.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from detkit.config import IMAGENET_MEAN, IMAGENET_STD
from detkit.data.images import WRITTEN_SUFFIXES, write_image
from detkit.data.records import ImageRecord, ObjectRecord
from detkit.machine import keep_freed_memory
from detkit.training.dataset import KeptSize, TrainingDataset
from detkit.training.loader import BatchStream, SampleStream, batches, open_loader
from detkit.transforms.augmentation import Compose, light_augmentation, ssd_augmentation
from detkit.transforms.geometric import Transform, zoom_of
from detkit.transforms.preparation import Preparation, square

BATCH_SIZE = 32
NetworkSize = Callable[[int, int], tuple[int, int]]
AUGMENTATIONS: dict[str, Callable[[NetworkSize], Transform]] = {
    "none": lambda _: Compose([]),
    "light": lambda _: light_augmentation(),
    "ssd": ssd_augmentation,
}


def make_images(folder: Path, count: int = 256) -> None:
    """Write JPEGs about as detailed as photos: some 80 kB each."""
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        fine = rng.normal(0, 12, (375, 500, 3))
        image = cv2.resize(coarse, (500, 375), interpolation=cv2.INTER_CUBIC) + fine
        write_image(folder / f"{number:04d}.jpg", np.clip(image, 0, 255).astype(np.uint8))


def bare_loop(paths: list[Path], size: int, ready: object, go: object) -> None:
    """Decode and resize files: what a process of the bare loop does."""
    cv2.setNumThreads(0)
    ready.release()  # type: ignore[attr-defined]
    go.wait()  # type: ignore[attr-defined]
    for path in paths:
        image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
        cv2.resize(image, (size, size))


def time_bare_loop(paths: list[Path], size: int, workers: int, rounds: int) -> float:
    """Return the bare loop's images a second, starting the processes not counted."""
    ready, go = multiprocessing.Semaphore(0), multiprocessing.Event()
    shares = [paths[worker::workers] * rounds for worker in range(workers)]
    processes = [
        multiprocessing.Process(target=bare_loop, args=(share, size, ready, go)) for share in shares
    ]
    for process in processes:
        process.start()
    for _ in processes:
        ready.acquire()
    started = time.perf_counter()
    go.set()
    for process in processes:
        process.join()
    return len(paths) * rounds / (time.perf_counter() - started)


def time_loader(
    paths: list[Path],
    size: int,
    workers: int,
    rounds: int,
    augment: str,
    kept: bool,
) -> float:
    """Return the loader's images a second, from its fourth batch a worker on."""
    objects = (ObjectRecord("object", (40.0, 40.0, 200.0, 200.0)),)
    records = [ImageRecord(path.name, path, objects) for path in paths]
    canvas = functools.partial(square, size)
    augmentation = AUGMENTATIONS[augment](canvas)
    kept_size = KeptSize(canvas, zoom_of(augmentation)) if kept else None
    images = TrainingDataset(records, ["object"], kept_size)
    images.fill_cache()
    draw = SampleStream(images, augmentation, 0.0, canvas, 0)
    preparation = Preparation(canvas, IMAGENET_MEAN, IMAGENET_STD, antialias=True)
    stream = BatchStream(draw, preparation, BATCH_SIZE)
    loader = batches(open_loader(stream, 0, num_workers=workers, pin_memory=False))
    for _ in range(4 * workers):  # the queue is full before and after the measurement
        next(loader)
    num_batches = max(4, len(paths) * rounds // BATCH_SIZE)
    started = time.perf_counter()
    for _ in range(num_batches):
        next(loader)
    rate = num_batches * BATCH_SIZE / (time.perf_counter() - started)
    loader.close()  # type: ignore[attr-defined]
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--size", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=4, help="how often each file is read")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--augmentation", choices=sorted(AUGMENTATIONS), default="none")
    parser.add_argument("--kept", action="store_true")
    options = parser.parse_args()
    keep_freed_memory()  # as training does; the bare loop's processes inherit it
    with tempfile.TemporaryDirectory() as made:
        folder = options.folder or Path(made)
        if options.folder is None:
            make_images(folder)
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in WRITTEN_SUFFIXES)
        ratios = []
        for _ in range(options.turns):
            bare = time_bare_loop(paths, options.size, options.workers, options.rounds)
            ours = time_loader(
                paths,
                options.size,
                options.workers,
                options.rounds,
                options.augmentation,
                options.kept,
            )
            ratios.append(ours / bare)
            print(f"bare loop {bare:8.1f} images/s   detkit {ours:8.1f} images/s")
    ratio = statistics.median(ratios)
    print(
        f"{options.workers} processes, augmentation {options.augmentation}, "
        f"images {'kept in memory' if options.kept else 'decoded each time'}: "
        f"detkit / bare loop {ratio:.2f}   (asked: >= .8 without augmentation)"
    )


if __name__ == "__main__":
    main()
