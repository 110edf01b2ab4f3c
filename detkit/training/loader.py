"""The data loader: training images augmented and batched in workers, on their way to the network.

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
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from detkit import machine
from detkit.config import Recipe
from detkit.detector import Detector
from detkit.errors import DetkitError, UsageError
from detkit.structures import Batch, Sample
from detkit.training.options import RunOptions
from detkit.training.tiles import TrainingImages
from detkit.transforms.augmentation import Compose, light_augmentation
from detkit.transforms.geometric import Transform
from detkit.transforms.mosaic import mosaic
from detkit.transforms.preparation import Preparation
from detkit.transforms.transfer import one_ahead

FEW_IMAGES = 64  # below this, starting workers takes longer than they save
PREFETCHED = 2  # batches that each data worker makes ahead
PIECES = PREFETCHED + 2  # of memory: for those, the one being unpacked and the one being made
ENDLESS = 2**62


@dataclass(frozen=True)
class SampleStream:
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
        order = self.images.order(self.seed, epoch)
        random.seed(f"{self.seed} {number}")
        np.random.seed(random.getrandbits(32))
        torch.default_generator.manual_seed(random.getrandbits(62))
        sample = self.images[int(order.samples[place])]
        if random.random() < self.mosaic:
            others = [self.images[i] for i in random.choices(order.near(place), k=3)]
            size = self.canvas(sample.image.shape[1], sample.image.shape[2])
            sample = mosaic([sample, *others], size)
        return self.augmentation(sample)


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
class PackedTensors:
    """A tensor an image, of any lengths, on their way: one array for them all.

    Each tensor would travel as a shared-memory file of its own, which for boxes and labels
    takes longer than decoding the image.
    """

    whole: NDArray[Any] | Tensor  # a tensor in page-locked memory, on the way to a GPU
    lengths: list[int]

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> PackedTensors:
        """Return the tensors, which differ in their first axis alone, one after the other."""
        return cls(torch.cat(list(tensors)).numpy(), [len(tensor) for tensor in tensors])

    def pin_memory(self) -> PackedTensors:
        """Return them in page-locked memory."""
        return replace(self, whole=torch.as_tensor(self.whole).pin_memory())

    def unpack(self, device: torch.device | str = "cpu") -> list[Tensor]:
        """Return the tensors on a device, from one copy."""
        whole = torch.as_tensor(self.whole)
        there = whole.to(device, non_blocking=str(device).startswith("cuda"))
        return list(torch.split(there, self.lengths))


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """A batch on its way out of a worker: one shared tensor, and everything small as numpy."""

    batch: Batch  # in grey levels, without boxes, labels and proposals
    boxes: PackedTensors
    labels: PackedTensors
    difficult: PackedTensors
    proposals: PackedTensors | None
    ignored: PackedTensors | None
    preparation: Preparation  # to be finished on arrival

    @classmethod
    def of(
        cls,
        samples: Iterable[Sample],
        preparation: Preparation,
        memory: Callable[[int], Tensor] | None = None,
    ) -> PackedBatch:
        """Return the samples' batch made ready to travel; `memory` is `Preparation.resize`'s."""
        batch = preparation.resize(samples, memory)
        return cls(
            replace(batch, boxes=[], labels=[], difficult=[], proposals=None, ignored=[]),
            PackedTensors.of(batch.boxes),
            PackedTensors.of(batch.labels),
            PackedTensors.of(batch.difficult),
            None if batch.proposals is None else PackedTensors.of(batch.proposals),
            PackedTensors.of(batch.ignored) if batch.ignored else None,
            preparation,
        )

    def pin_memory(self) -> PackedBatch:
        """Return it in page-locked memory (the DataLoader calls this for a GPU)."""
        return replace(
            self,
            batch=self.batch.pin_memory(),
            boxes=self.boxes.pin_memory(),
            labels=self.labels.pin_memory(),
            difficult=self.difficult.pin_memory(),
            proposals=None if self.proposals is None else self.proposals.pin_memory(),
            ignored=None if self.ignored is None else self.ignored.pin_memory(),
        )

    def unpack(self, device: torch.device | str = "cpu") -> Batch:
        """Return the whole batch on a device, normalised there."""
        whole = replace(
            self.batch.to(device),
            boxes=self.boxes.unpack(device),
            labels=self.labels.unpack(device),
            difficult=self.difficult.unpack(device),
            proposals=None if self.proposals is None else self.proposals.unpack(device),
            ignored=[] if self.ignored is None else self.ignored.unpack(device),
        )
        return self.preparation.normalise(whole)


class SharedBuffers:
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


class BatchStream(Dataset[PackedBatch | DetkitError]):
    """Batch `k` of the run, for any k; this process's share of it with several devices.

    Two devices with half the batch each see together what one sees alone: of every
    `batch_size` draws, the first half goes to rank 0, the second to rank 1.
    An image that cannot be read comes back as the error itself, because a worker's exception
    would reach the loop as a traceback.
    """

    def __init__(
        self,
        samples: SampleStream,
        preparation: Preparation,
        batch_size: int,
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Raise UsageError when the batch cannot be shared out evenly."""
        self.samples = samples
        self.preparation = preparation
        self.batch_size = batch_size
        self.rank = rank
        self.share = share_of(batch_size, world_size)
        self.memory: Callable[[int], Tensor] | None = None  # where a data worker puts its batches

    def __len__(self) -> int:
        """Return a number no run reaches: the stream has no end."""
        return ENDLESS

    def __getitem__(self, number: int) -> PackedBatch | DetkitError:
        """Return batch `number`, or the error that an image of it makes."""
        return self.draws(number * self.batch_size + self.rank * self.share, self.share)

    def draws(self, first: int, number: int) -> PackedBatch | DetkitError:
        """Return the batch of `number` draws from draw `first` on, or the error that one makes."""
        try:
            with random_states_kept():  # once a batch: it takes longer than to seed
                samples = (self.samples(first + index) for index in range(number))
                return PackedBatch.of(samples, self.preparation, self.memory)
        except DetkitError as error:
            return error


def share_of(batch_size: int, world_size: int) -> int:
    """Return each device's part of a batch; raises UsageError when it cannot be shared evenly."""
    if batch_size % world_size:
        raise UsageError(
            f"batch_size {batch_size} cannot be shared by {world_size} devices; use a multiple of "
            f"{world_size}"
        )
    return batch_size // world_size


def training_batches(
    images: TrainingImages,
    detector: Detector,
    recipe: Recipe,
    options: RunOptions,
    fabric: Fabric,
    first: int,
) -> Iterator[Batch]:
    """Return this process's batches of a stage from step `first` on, ready on its device.

    Raises UsageError when the devices cannot share the batch evenly.
    """
    world_size, kind = fabric.world_size, fabric.device.type
    num_workers = options.num_workers
    if num_workers is None:
        num_workers = default_workers(len(images), on_cpu=kind == "cpu", processes=world_size)
    augmentation, canvas = make_augmentation(detector, recipe), detector.network_size()
    samples = SampleStream(images, augmentation, recipe.mosaic, canvas, options.seed)
    stream = BatchStream(
        samples,
        detector.preparation,
        recipe.batch_size,
        rank=fabric.global_rank,
        world_size=world_size,
    )
    loader = open_loader(stream, first, num_workers=num_workers, pin_memory=kind == "cuda")
    return batches(loader, fabric.device)


def open_loader(
    stream: BatchStream, first: int, *, num_workers: int, pin_memory: bool
) -> DataLoader[PackedBatch | DetkitError]:
    """Return the loader of the stream's batches from number `first` on, without end."""
    context = None
    if num_workers:
        context = multiprocessing.get_context("fork" if machine.forks() else "spawn")
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
    loader: DataLoader[PackedBatch | DetkitError], device: torch.device | str = "cpu"
) -> Iterator[Batch]:
    """Yield the loader's batches, ready for the network on `device`.

    Of a GPU the next one is on its way there meanwhile. Raises DetkitError naming an image that
    cannot be read, or when a worker was killed.
    """
    place = torch.device(device)
    return one_ahead(_packed_batches(loader), partial(PackedBatch.unpack, device=place), place)


def _packed_batches(loader: DataLoader[PackedBatch | DetkitError]) -> Iterator[PackedBatch]:
    """Yield the loader's batches as they come; raises what `batches` does."""
    stream = _begun(loader)
    # The workers' memory stays mapped here, since mapping it anew takes as long as normalising.
    # (What is page-locked is a copy of it.)
    kept = 0 if loader.pin_memory else loader.num_workers * PIECES
    pieces: deque[Tensor] = deque(maxlen=kept)
    while True:
        try:
            packed = next(stream)
        except RuntimeError as error:
            if "DataLoader worker" in str(error) and "exited unexpectedly" in str(error):
                raise DetkitError(
                    "a data worker was killed, most likely because memory ran out; use fewer "
                    "workers or a smaller cache_size, and go on with --resume"
                ) from error
            raise
        if isinstance(packed, DetkitError):
            raise packed
        pieces.append(packed.batch.images)
        yield packed


def _begun(loader: DataLoader[PackedBatch | DetkitError]) -> Iterator[PackedBatch | DetkitError]:
    """Return the loader's iterator, which alone tells of a dead worker: when it is asked for more.

    torch has a signal handler raise its error besides, wherever the main process then is: in a
    layer of the network, or in what comes after the loop.
    """
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        return iter(loader)
    before = signal.getsignal(signal.SIGCHLD)
    stream = iter(loader)
    signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)
    return stream


def default_workers(num_images: int, *, on_cpu: bool, processes: int = 1) -> int:
    """Return a sensible number of data workers for each of `processes` on this machine.

    Where the network computes on the same cores, one worker is enough to prepare a batch while
    it runs. On a GPU, up to eight: more only wait for each other.
    """
    if num_images < FEW_IMAGES:
        return 0
    cores = machine.num_cores() // processes
    if on_cpu:
        return 1 if cores > 1 else 0
    return max(1, min(8, cores - 1))


def _as_it_is(value: Any) -> Any:
    """Return the value: batches leave the stream ready made."""
    return value


def _begin_worker(worker: int) -> None:
    """Make a worker a single thread that leaves Ctrl-C and SIGTERM to the main process."""
    cv2.setNumThreads(0)
    info = get_worker_info()
    if info is not None and isinstance(info.dataset, BatchStream):
        info.dataset.memory = SharedBuffers(PIECES)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgid"):  # a signal to the whole group is meant for the run
        os.setpgid(0, 0)
