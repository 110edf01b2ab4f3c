"""The proposals of many images, made in threads, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from detkit.data.sources import ImageSource
from detkit.errors import DetkitError
from detkit.proposals.source import ProposalSource
from detkit.structures import Proposals


@dataclass(frozen=True, slots=True)
class Made:
    """The proposals of an image, or why there are none."""

    image: str
    size: tuple[int, int]  # (height, width), own pixels
    found: Proposals | None
    error: DetkitError | None = None


def make_all(
    source: ProposalSource, images: Iterable[ImageSource], threads: int
) -> Generator[Made, None, None]:
    """Yield the proposals of each image, in the images' order, a few images ahead of the caller.

    Threads are enough for all cores: the methods' compiled code runs without Python's lock.
    """

    def make(image: ImageSource) -> Made:
        try:
            pixels = image.read()
            return Made(image.name, (pixels.shape[0], pixels.shape[1]), source(image.name, pixels))
        except DetkitError as error:
            return Made(image.name, (0, 0), None, error)

    waiting: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(threads, "detkit-propose") as pool:
        try:
            for image in images:
                waiting.append(pool.submit(make, image))
                if len(waiting) >= 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)  # Ctrl-C, or the caller had enough
