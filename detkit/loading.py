"""Training images on their way to the network: decoded once, augmented and batched in workers.

Randomness belongs to the draw, not to the worker: draw number `n` of a run with seed `s` is
made from `(s, n)` alone. So any number of workers gives the same bits, resuming needs nothing
but a position, and several devices share one stream.

Shape shorthand: H x W own pixels.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from detkit.boxes import iou
from detkit.config import Recipe
from detkit.data.images import image_size, read_image
from detkit.data.records import ImageRecord, truth_of
from detkit.detector import Detector
from detkit.errors import DetkitError, UsageError
from detkit.machine import memory_of_machine, num_cores
from detkit.preparation import Preparation
from detkit.proposals.source import ProposalSource
from detkit.proposals.table import ProposalTable, boxes_of, make_table
from detkit.structures import Batch, Sample, Truth
from detkit.transforms import Compose, Transform, light_augmentation, mosaic

CACHE_SHARE = 0.25  # of the machine's memory: the rest belongs to the network and to others
FEW_IMAGES = 64  # below this, starting workers takes longer than they save
PREFETCHED = 2  # batches that each data worker makes ahead
ENDLESS = 2**62


@dataclass(frozen=True, slots=True)
class Pixels:
    """A decoded image, and the (height, width) it had before it was shrunk."""

    image: Tensor  # (H, W, 3) uint8 RGB
    size: tuple[int, int]


class TrainingImages:
    """Labelled images as samples, in their own pixels or shrunk to a longer side of `cache_size`.

    Images are shrunk whether they are kept in memory or not, so what the network sees does not
    depend on how much memory there is.
    """

    def __init__(
        self,
        records: Sequence[ImageRecord],
        class_names: Sequence[str],
        cache_size: int = 0,
        proposals: ProposalSource | None = None,
    ) -> None:
        """Take the records; nothing is decoded before `fill_cache` or the first sample.

        With `proposals`, samples have those of their images; see `fill_proposals`.
        """
        self.records = tuple(records)
        self.cache_size = cache_size
        self._class_index = {name: number for number, name in enumerate(class_names)}
        self._cache: list[Pixels | None] = [None] * len(self.records)
        self._source = proposals
        self._proposals: ProposalTable | None = None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        """Return one image with its objects; raises DetkitError when it cannot be read."""
        record = self.records[index]
        cached = self._cache[index]
        pixels = cached or self._decode(record)
        # An augmentation that works in place must not reach what is kept.
        image = pixels.image if cached is None else pixels.image.clone()
        truth = truth_of(record, self._class_index)
        height, width = image.shape[:2]
        scale = np.array([width / pixels.size[1], height / pixels.size[0]] * 2, np.float32)
        return Sample(
            image=image.permute(2, 0, 1),
            boxes=torch.from_numpy(truth.boxes * scale),
            labels=torch.from_numpy(truth.labels),
            difficult=torch.from_numpy(truth.difficult),
            proposals=self._proposals_of(index, torch.from_numpy(scale)),
            image_id=record.image_id,
        )

    def fill_proposals(self, *, first: int = 0) -> str:
        """Make the proposals of every image; return what is worth saying, or "".

        They are of the images as the files hold them, before any shrinking, and stay in memory,
        some 16 KB an image. `first` and errors: see `make_table`.
        """
        if self._source is None:
            return ""
        began = time.monotonic()
        paths = [record.path for record in self.records]
        table = make_table(self._source, paths, threads=num_cores(), first=first)
        if not _forks():
            table.boxes.share_memory_()  # type: ignore[no-untyped-call]
        self._proposals = table
        return (
            f"{len(table.boxes) / len(table):.0f} proposals an image, ready after "
            f"{time.monotonic() - began:.0f} s: {self._source.identity}"
        )

    def proposal_overlaps(self) -> tuple[Tensor, Tensor]:
        """Return (of each object, of each proposal) the best IoU with one of the other kind.

        (R,) and (P,) float32 over all images; of an image without objects no proposal counts.
        """
        of_objects, of_proposals = [torch.zeros(0)], [torch.zeros(0)]
        for index, record in enumerate(self.records):
            objects = torch.from_numpy(truth_of(record, self._class_index).boxes)
            proposals = self._proposals_of(index, torch.ones(4))
            if len(objects) and proposals is not None and len(proposals):
                overlaps = iou(objects, proposals)
                of_objects.append(overlaps.amax(dim=1))
                of_proposals.append(overlaps.amax(dim=0))
            else:
                of_objects.append(torch.zeros(len(objects)))
        return torch.cat(of_objects), torch.cat(of_proposals)

    def _proposals_of(self, index: int, scale: Tensor) -> Tensor | None:
        """Return an image's proposals times `scale`; None when they are not wanted."""
        if self._source is None:
            return None
        if self._proposals is None:
            return torch.from_numpy(boxes_of(self._source, self.records[index].path)) * scale
        return self._proposals[index] * scale

    def labelled(self) -> Iterator[tuple[Truth, tuple[int, int]]]:
        """Yield the objects and the (height, width) of each image, from the files' headers."""
        for record in self.records:
            yield truth_of(record, self._class_index), image_size(record.path)

    def fill_cache(self, limit: float | None = None) -> str:
        """Decode every image into memory until `limit` bytes; return what is worth saying, or "".

        The default limit is a quarter of the machine's memory. Raises DetkitError for an image
        that cannot be read.
        """
        if not self.cache_size:
            return ""
        limit = CACHE_SHARE * memory_of_machine() if limit is None else limit
        used, kept = 0, 0
        chunk = 64
        with ThreadPoolExecutor(num_cores()) as pool:
            for start in range(0, len(self), chunk):
                if used > limit:
                    break
                records = self.records[start : start + chunk]
                for index, pixels in enumerate(pool.map(self._decode, records), start):
                    if used > limit:
                        break
                    self._cache[index] = pixels
                    used += pixels.image.numel()
                    kept += 1
        if not _forks():  # a worker that is spawned gets a handle instead of a copy
            for cached in self._cache:
                if cached is not None:
                    cached.image.share_memory_()  # type: ignore[no-untyped-call]
        if kept < len(self):
            return (
                f"{kept} of {len(self)} images fit into memory ({used / 2**30:.1f} GiB); the rest "
                "are decoded each time (a smaller cache_size keeps more)"
            )
        return f"{kept} decoded images kept in memory ({used / 2**20:.0f} MiB)"

    def _decode(self, record: ImageRecord) -> Pixels:
        """Return the image file's pixels, shrunk to the longer side `cache_size`."""
        image = read_image(record.path)
        size = image.shape[0], image.shape[1]
        shrunk = torch.from_numpy(np.ascontiguousarray(_shrink(image, self.cache_size)))
        return Pixels(shrunk, size)


def _shrink(image: NDArray[np.uint8], longer_side: int) -> NDArray[np.uint8]:
    """Return the (H, W, 3) image with at most this longer side; 0 leaves it as it is."""
    height, width = image.shape[:2]
    if not longer_side or max(height, width) <= longer_side:
        return image
    scale = longer_side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    shrunk = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return np.asarray(shrunk, np.uint8)


@dataclass(frozen=True)
class Draw:
    """Everything that turns a draw number into an augmented sample; goes to the workers."""

    images: TrainingImages
    augmentation: Transform
    mosaic: float  # probability
    canvas: Callable[[int, int], tuple[int, int]]  # (height, width) of an image -> of its mosaic
    seed: int

    def __call__(self, number: int) -> Sample:
        """Return draw `number` of the endless stream: each epoch is one permutation.

        The global generators of torch (CPU), numpy and random are left seeded for this draw.
        """
        epoch, place = divmod(number, len(self.images))
        order = epoch_order(self.seed, epoch, len(self.images))
        generator = np.random.default_rng([self.seed, 1, number])
        seed = int(generator.integers(2**62))
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        sample = self.images[int(order[place])]
        if generator.random() < self.mosaic:
            others = [self.images[int(i)] for i in generator.integers(len(self.images), size=3)]
            size = self.canvas(sample.image.shape[1], sample.image.shape[2])
            sample = mosaic([sample, *others], size)
        return self.augmentation(sample)


@lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, num_images: int) -> NDArray[np.int64]:
    """Return the (num_images,) order in which an epoch shows the images."""
    return np.random.default_rng([seed, 0, epoch]).permutation(num_images)


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Put the states of torch's (CPU), numpy's and random's generators back after the block."""
    state = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(state[0])
        np.random.set_state(state[1])
        random.setstate(state[2])


def make_augmentation(detector: Detector, recipe: Recipe) -> Transform:
    """Return the augmentation that the recipe names."""
    if recipe.augmentation == "paper":
        return detector.augmentation()
    if recipe.augmentation == "light":
        return light_augmentation(detector.config.mean)
    return Compose([])


@dataclass(frozen=True, slots=True)
class Shipment:
    """A batch on its way out of a worker: one shared tensor, and everything small as numpy.

    Each tensor would travel as a shared-memory file of its own, which for boxes and labels
    takes longer than decoding the image.
    """

    batch: Batch  # in grey levels, without boxes, labels and proposals
    arrays: tuple[list[NDArray[Any]], ...]  # of each image: boxes, labels, difficult, proposals
    preparation: Preparation  # to be finished on arrival

    @classmethod
    def of(
        cls,
        samples: Sequence[Sample],
        preparation: Preparation,
        room: Callable[[int], Tensor] | None = None,
    ) -> Shipment:
        """Return the samples' batch made ready to travel; `room` is `Preparation.resize`'s."""
        batch = preparation.resize(samples, room)
        parts = (batch.boxes, batch.labels, batch.difficult, batch.proposals or [])
        return cls(
            replace(batch, boxes=[], labels=[], difficult=[], proposals=None),
            tuple([tensor.numpy() for tensor in part] for part in parts),
            preparation,
        )

    def pin_memory(self) -> Shipment:
        """Return it with the images in page-locked memory (the DataLoader calls this)."""
        return replace(self, batch=self.batch.pin_memory())

    def unpack(self, device: torch.device | str = "cpu") -> Batch:
        """Return the whole batch on a device, normalised there."""
        boxes, labels, difficult, proposals = (
            [torch.from_numpy(array) for array in part] for part in self.arrays
        )
        whole = replace(
            self.batch,
            boxes=boxes,
            labels=labels,
            difficult=difficult,
            proposals=proposals or None,
        )
        return self.preparation.normalise(whole.to(device))


class SharedRoom:
    """Shared memory for a data worker's batches, the same few pieces over and over.

    To make a new piece for each batch takes a fifth of the time of reading its images: the
    system hands its pages out one by one, zeroed, and so does it on arrival.
    """

    def __init__(self, pieces: int) -> None:
        """Take turns among `pieces`: one more than there are batches of a worker on their way."""
        self._pieces = [torch.empty(0, dtype=torch.uint8) for _ in range(pieces)]
        self._turn = 0

    def __call__(self, num_bytes: int) -> Tensor:
        """Return the next piece, (num_bytes,) uint8; it grows where it is too small."""
        self._turn = (self._turn + 1) % len(self._pieces)
        if self._pieces[self._turn].numel() < num_bytes:
            piece = torch.empty(num_bytes, dtype=torch.uint8)
            self._pieces[self._turn] = piece.share_memory_()  # type: ignore[no-untyped-call]
        return self._pieces[self._turn][:num_bytes]


class BatchStream(Dataset[Shipment | DetkitError]):
    """Batch `k` of the run, for any k; this process's share of it with several devices.

    Two devices with half the batch each see together what one sees alone: of every
    `batch_size` draws, the first half goes to rank 0, the second to rank 1.
    An image that cannot be read comes back as the error itself, because a worker's exception
    would reach the loop as a traceback.
    """

    def __init__(
        self,
        draw: Draw,
        preparation: Preparation,
        batch_size: int,
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Raise UsageError when the batch cannot be shared out evenly."""
        if batch_size % world_size:
            raise UsageError(
                f"batch_size {batch_size} cannot be shared by {world_size} devices; "
                f"use a multiple of {world_size}"
            )
        self.draw = draw
        self.preparation = preparation
        self.batch_size = batch_size
        self.rank = rank
        self.share = batch_size // world_size
        self.room: Callable[[int], Tensor] | None = None  # where a data worker puts its batches

    def __len__(self) -> int:
        """Return a number no run reaches: the stream has no end."""
        return ENDLESS

    def __getitem__(self, number: int) -> Shipment | DetkitError:
        """Return batch `number`, or the error that an image of it makes."""
        return self.draws(number * self.batch_size + self.rank * self.share, self.share)

    def draws(self, first: int, number: int) -> Shipment | DetkitError:
        """Return the batch of `number` draws from draw `first` on, or the error that one makes."""
        try:
            with random_states_kept():  # once a batch: it takes longer than to seed
                samples = [self.draw(first + index) for index in range(number)]
            return Shipment.of(samples, self.preparation, self.room)
        except DetkitError as error:
            return error


def open_loader(
    stream: BatchStream, first: int, *, num_workers: int, pin_memory: bool
) -> DataLoader[Shipment | DetkitError]:
    """Return the loader of the stream's batches from number `first` on, without end."""
    context = None
    if num_workers:
        context = multiprocessing.get_context("fork" if _forks() else "spawn")
    return DataLoader(
        stream,
        batch_size=None,
        sampler=range(first, ENDLESS),
        collate_fn=_as_it_is,
        num_workers=num_workers,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # else it draws from the one the network draws from
        prefetch_factor=PREFETCHED if num_workers else None,
        worker_init_fn=_begin_worker,
        multiprocessing_context=context,
    )


def batches(
    loader: DataLoader[Shipment | DetkitError], device: torch.device | str = "cpu"
) -> Iterator[Batch]:
    """Yield the loader's batches, ready for the network on `device`.

    Raises DetkitError naming an image that cannot be read, or when a worker was killed.
    """
    stream = iter(loader)
    while True:
        try:
            shipment = next(stream)
        except RuntimeError as error:
            if "DataLoader worker" in str(error) and "exited unexpectedly" in str(error):
                raise DetkitError(
                    "a data worker was killed, most likely because memory ran out; use fewer "
                    "workers or a smaller cache_size, and go on with --resume"
                ) from error
            raise
        if isinstance(shipment, DetkitError):
            raise shipment
        yield shipment.unpack(device)


def default_workers(num_images: int, *, on_cpu: bool, processes: int = 1) -> int:
    """Return a sensible number of data workers for each of `processes` on this machine.

    Where the network computes on the same cores, one worker is enough to prepare a batch while
    it runs. On a GPU, up to eight: more only wait for each other.
    """
    if num_images < FEW_IMAGES:
        return 0
    cores = num_cores() // processes
    if on_cpu:
        return 1 if cores > 1 else 0
    return max(1, min(8, cores - 1))


def _forks() -> bool:
    """Return whether workers are forked: they then share the decoded images for nothing."""
    return sys.platform.startswith("linux")


def _as_it_is(value: Any) -> Any:
    """Return the value: batches leave the stream ready made."""
    return value


def _begin_worker(worker: int) -> None:
    """Make a worker a single thread that leaves Ctrl-C and SIGTERM to the main process."""
    cv2.setNumThreads(0)
    info = get_worker_info()
    if info is not None and isinstance(info.dataset, BatchStream):
        # Besides those on their way: the one being unpacked, the one being made.
        info.dataset.room = SharedRoom(PREFETCHED + 2)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgid"):  # a signal to the whole group is meant for the run
        os.setpgid(0, 0)
