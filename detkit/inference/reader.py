"""Prefetching for inference: images decoded and prepared in threads while the network works."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from detkit.data.sources import ImageSource
from detkit.errors import DetkitError
from detkit.machine import num_cores
from detkit.proposals.source import ProposalSource
from detkit.stopwatch import Stopwatch
from detkit.structures import FloatArray

# A source that is silent this long is a slow pipe: what has come is not kept waiting for more.
PATIENCE_SECONDS = 0.2
LINGER_SECONDS = 0.5  # how long the end waits for a source that it cannot wake
MAX_THREADS = 8


BatchT = TypeVar("BatchT")
BatchT_co = TypeVar("BatchT_co", covariant=True)


class Prepare(Protocol[BatchT_co]):
    """A detector's `prepare_image`."""

    def __call__(
        self, pixels: NDArray[np.uint8], image_id: str = "", proposals: FloatArray | None = None
    ) -> BatchT_co:
        """Return an (H, W, 3) uint8 RGB image, with its proposals (P, 4), as a batch of one."""


@dataclass(frozen=True, slots=True)
class ReadImage(Generic[BatchT]):
    """An image that has been read and prepared, or why it has not."""

    name: str
    pixels: NDArray[np.uint8] | None
    batch: BatchT | None  # of this image alone
    error: str | None
    seconds: dict[str, float]  # by stage
    time: float | None = None  # of a video's frame: seconds from the beginning


@dataclass(frozen=True)
class ReadAndPrepare(Generic[BatchT]):
    """What the threads do with each image."""

    prepare: Prepare[BatchT]
    proposals: ProposalSource | None

    def __call__(self, source: ImageSource) -> ReadImage[BatchT]:
        """Return the image of a source, ready for the network."""
        seconds: dict[str, float] = {}
        watch = Stopwatch(seconds)
        boxes = None
        try:
            with watch.stage("decode"):
                pixels = np.require(source.read(), np.uint8, ["C", "W"])
            if self.proposals is not None:
                with watch.stage("propose"):
                    boxes = self.proposals(source.name, pixels).boxes
        except DetkitError as error:
            reason = str(error).removeprefix(f"{source.name}: ")
            return ReadImage(source.name, None, None, reason, seconds, source.seconds)
        with watch.stage("prepare"):
            batch = self.prepare(pixels, source.name, boxes)
        return ReadImage(source.name, pixels, batch, None, seconds, source.seconds)


class ImageReader(Generic[BatchT]):
    """Reads images ahead in threads, at most `capacity` at a time, and gives them in order."""

    def __init__(
        self,
        images: Iterable[ImageSource | Path | str],
        read: Callable[[ImageSource], ReadImage[BatchT]],
        capacity: int,
    ) -> None:
        """Start the threads."""
        self._images = images
        self._read = read
        self._slots = threading.Semaphore(capacity)
        self._queue: queue.SimpleQueue[Future[ReadImage[BatchT]] | BaseException | None] = (
            queue.SimpleQueue()
        )
        self._stopped = threading.Event()
        self._waiting_for_source = False
        self._pool = ThreadPoolExecutor(min(MAX_THREADS, num_cores()), "detkit-decode")
        # A daemon: it may wait for stdin when the program ends, and nothing can wake it there.
        self._feeder = threading.Thread(target=self._feed, name="detkit-feed", daemon=True)
        self._feeder.start()

    def windows(self, size: int) -> Iterator[deque[ReadImage[BatchT]]]:
        """Yield the images by up to `size`, fewer only at the end or when a slow source pauses.

        Raises what the source raises, after the images before.
        """
        window: deque[ReadImage[BatchT]] = deque()
        while True:
            try:
                item = self._queue.get(timeout=PATIENCE_SECONDS)
            except queue.Empty:
                if window:
                    yield window
                    window = deque()
                continue
            if isinstance(item, Future):
                window.append(item.result())
                del item  # else it keeps the image alive
                if len(window) < size:
                    continue
                yield window
                window = deque()
                continue
            if window:
                yield window
            if item is not None:
                raise item
            return

    def release(self) -> None:
        """Let one more image be read: the caller is done with one."""
        self._slots.release()

    def close(self) -> None:
        """Stop the threads."""
        self._stopped.set()
        self._slots.release()
        self._pool.shutdown(cancel_futures=True)
        # A camera's next frame comes soon, a line on stdin perhaps never.
        self._feeder.join(LINGER_SECONDS if self._waiting_for_source else None)

    def _feed(self) -> None:
        """Hand the images to the pool: the feeding thread's work."""
        end: BaseException | None = None
        try:
            images = iter(self._images)
            while True:
                self._waiting_for_source = True
                image = next(images, None)
                self._waiting_for_source = False
                if image is None:
                    break
                source = image if isinstance(image, ImageSource) else ImageSource.of_file(image)
                self._slots.acquire()
                if self._stopped.is_set():
                    break
                self._queue.put(self._pool.submit(self._read, source))
                del image, source
        except BaseException as error:  # it is the caller's: raised there by `windows`
            end = error
        finally:
            self._waiting_for_source = False
        self._queue.put(end)
