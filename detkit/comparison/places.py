"""Where trainings of a comparison run: one place each, several of them side by side."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from detkit.errors import Interrupted

ItemT = TypeVar("ItemT")
DoneT = TypeVar("DoneT")


class Work:
    """The processes that are at work, and whether they are to end."""

    def __init__(self) -> None:
        """Begin without any."""
        self._lock = threading.Lock()
        self._ends: dict[int, Callable[[], None]] = {}
        self.is_stopped = False

    @contextmanager
    def holding(self, process: object, end: Callable[[], None]) -> Iterator[None]:
        """Count a process among those at work in the block; `end` tells it to end.

        Raises Interrupted behind the block where it was told so.
        """
        with self._lock:
            self._ends[id(process)] = end
            is_late = self.is_stopped
        if is_late:
            end()
        try:
            yield
        finally:
            with self._lock:
                del self._ends[id(process)]
        if self.is_stopped:
            raise Interrupted("stopped with the others")

    def stop(self) -> None:
        """Tell all to end, and those that begin later."""
        with self._lock:
            self.is_stopped = True
            ends = list(self._ends.values())
        for end in ends:
            end()


@dataclass(frozen=True)
class Place:
    """What a training has for itself while it runs: a GPU, or a share of the cores."""

    environment: Mapping[str, str] = field(default_factory=dict)  # what tells it so
    work: Work = field(default_factory=Work)


HERE = Place()  # all of the machine, for one after the other


def side_by_side(
    items: Sequence[ItemT],
    do: Callable[[ItemT, Place], DoneT],
    environments: Sequence[Mapping[str, str]],
) -> dict[ItemT, Future[DoneT]]:
    """Return what became of each item; as many are done at once as there are environments.

    They are begun in their order, each where a place is free. What fails does not stop the
    others, but Interrupted, in one of them or here (Ctrl-C), does, and is raised.
    """
    work = Work()
    free: queue.SimpleQueue[Place] = queue.SimpleQueue()
    for environment in environments:
        free.put(Place(environment, work))

    def begin(item: ItemT) -> DoneT:
        place = free.get()
        try:
            return do(item, place)
        finally:
            free.put(place)

    with ThreadPoolExecutor(len(environments)) as pool:
        futures = {item: pool.submit(begin, item) for item in items}
        try:
            for one in as_completed(futures.values()):
                error = one.exception()
                if isinstance(error, Interrupted):
                    raise error
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            work.stop()
            if isinstance(error, KeyboardInterrupt):
                told = "interrupted; go on with the same command and --resume"
                raise Interrupted(told) from None
            raise
    return futures
