"""Prefetching for inference: images decoded and prepared in threads while the network works."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from detkit.data.sources import ImageSource
from detkit.errors import DetkitError
from detkit.inference.strips import Strips, in_strips
from detkit.inference.views import View, proposals_of
from detkit.machine import num_cores
from detkit.proposals.source import ProposalSource
from detkit.stopwatch import Stopwatch
from detkit.structures import FloatArray

# A source that is silent this long is a slow pipe: what has come is not kept waiting for more.
PATIENCE_SECONDS = 0.2
LINGER_SECONDS = 0.5  # how long the end waits for a source that it cannot wake
MAX_THREADS = 8
# An image of more takes the place of several in memory: with each, of 12 million pixels are most.
PIXELS_A_SLOT = 16_000_000


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
    pixels: NDArray[np.uint8] | Strips | None
    views: Sequence[View]  # what the detector looks at; none where there are no pixels
    batch: BatchT | None  # of the first view; others are prepared when it is their turn
    error: str | None
    seconds: dict[str, float]  # by stage
    time: float | None = None  # of a video's frame: seconds from the beginning

    @property
    def size(self) -> tuple[int, int]:
        """The (height, width) of its pixels; 0, 0 without."""
        return (0, 0) if self.pixels is None else (self.pixels.shape[0], self.pixels.shape[1])

    def failed(self, error: DetkitError) -> ReadImage[BatchT]:
        """Return it as one that could not be read, which shows in strips of it only later."""
        reason = _reason(error, self.name)
        return replace(self, pixels=None, views=(), batch=None, error=reason)

    def add(self, seconds: Mapping[str, float]) -> None:
        """Add seconds by stage."""
        for stage, spent in seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + spent


def _reason(error: DetkitError, name: str) -> str:
    """Return why an image cannot be read, without its name."""
    return str(error).removeprefix(f"{name}: ")


@dataclass(frozen=True)
class ReadAndPrepare(Generic[BatchT]):
    """What the threads do with each image."""

    prepare: Prepare[BatchT]
    proposals: ProposalSource | None
    views: Callable[[int, int], Sequence[View]]  # of an image of (height, width)
    fill: Sequence[int]  # the RGB colour beyond an image
    in_tiles: bool  # so that very large images may be read in strips

    def __call__(self, source: ImageSource) -> ReadImage[BatchT]:
        """Return the image of a source, its first view ready for the network."""
        seconds: dict[str, float] = {}
        try:
            with Stopwatch(seconds).stage("decode"):
                pixels = self._read(source)
            views = self.views(pixels.shape[0], pixels.shape[1])
            image: ReadImage[BatchT] = ReadImage(source.name, pixels, views, None, None, seconds)
            batch, spent = self.prepared(image, views[0])
        except DetkitError as error:
            reason = _reason(error, source.name)
            return ReadImage(source.name, None, (), None, reason, seconds, source.seconds)
        image.add(spent)
        return replace(image, batch=batch, time=source.seconds)

    def _read(self, source: ImageSource) -> NDArray[np.uint8] | Strips:
        """Return a source's pixels, C-contiguous and writable where they are an array."""
        strips = in_strips(source.file) if self.in_tiles and source.file is not None else None
        return np.require(source.read(), np.uint8, ["C", "W"]) if strips is None else strips

    def prepared(self, image: ReadImage[BatchT], view: View) -> tuple[BatchT, dict[str, float]]:
        """Return a view of an image that was read as a batch of one, and the seconds by stage.

        With its proposals. Raises DetkitError when there are none of the image.
        """
        seconds: dict[str, float] = {}
        watch = Stopwatch(seconds)
        boxes = None
        assert image.pixels is not None
        with watch.stage("prepare"):
            shown = view.pixels_of(image.pixels, self.fill)
        if self.proposals is not None:
            with watch.stage("propose"):
                boxes = proposals_of(self.proposals, image.name, image.pixels, view, shown)
        with watch.stage("prepare"):
            return self.prepare(shown, image.name, boxes), seconds


class ImageReader(Generic[BatchT]):
    """Reads images ahead in threads, at most `capacity` at a time, and gives them in order."""

    def __init__(
        self,
        images: Iterable[ImageSource | Path | str],
        read: Callable[[ImageSource], ReadImage[BatchT]],
        capacity: int,
    ) -> None:
        """Start the threads.

        An image of more than `PIXELS_A_SLOT` counts as several, but never as more than half.
        """
        self._images = images
        self._most_slots = max(1, capacity // 2)
        self._held: deque[int] = deque()  # slots of each image that was given out or will be
        self._read = read
        self._slots = threading.Semaphore(capacity)
        self._queue: queue.SimpleQueue[
            tuple[Future[ReadImage[BatchT]], int] | BaseException | None
        ] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._waiting_for_source = False
        self._pool = ThreadPoolExecutor(min(MAX_THREADS, num_cores()), "detkit-decode")
        # A daemon: it may wait for stdin when the program ends, and nothing can wake it there.
        self._feeder = threading.Thread(target=self._feed, name="detkit-feed", daemon=True)
        self._feeder.start()

    def windows(self, size: int) -> Iterator[deque[ReadImage[BatchT]]]:
        """Yield the images by up to `size`, fewer at the end or when a slow source pauses.

        Fewer, too, if they are large.

        Raises what the source raises, after the images before.
        """
        window: deque[ReadImage[BatchT]] = deque()
        filled = 0
        while True:
            try:
                item = self._queue.get(timeout=PATIENCE_SECONDS)
            except queue.Empty:
                if window:
                    yield window
                    window, filled = deque(), 0
                continue
            if isinstance(item, tuple):
                window.append(item[0].result())
                filled += item[1]
                del item  # else it keeps the image alive
                if filled < size:
                    continue
                yield window
                window, filled = deque(), 0
                continue
            if window:
                yield window
            if item is not None:
                raise item
            return

    def release(self) -> None:
        """Let more be read: the caller is done with the first image that is still held."""
        self._slots.release(self._held.popleft())

    def close(self) -> None:
        """Stop the threads."""
        self._stopped.set()
        self._slots.release(self._most_slots)
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
                slots = min(self._most_slots, 1 + source.num_pixels() // PIXELS_A_SLOT)
                for _ in range(slots):
                    self._slots.acquire()
                if self._stopped.is_set():
                    break
                self._held.append(slots)
                self._queue.put((self._pool.submit(self._read, source), slots))
                del image, source
        except BaseException as error:  # it is the caller's: raised there by `windows`
            end = error
        finally:
            self._waiting_for_source = False
        self._queue.put(end)
