"""Work on many images in threads, on all cores, with what is found in the images' order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from detkit.machine import num_cores

Item = TypeVar("Item")
Found = TypeVar("Found")


def in_threads(
    function: Callable[[Item], Found],
    items: Iterable[Item],
    at_once: int = 1,
    *,
    threads: int | None = None,
) -> Generator[Found, None, None]:
    """Yield what `function` finds of each item, in their order, a few ahead of the caller.

    There are so many `threads`, one for each core where that is not given: enough where the work
    is done without Python's lock. A thread takes so many items `at_once`. When the caller leaves,
    by Ctrl-C for one, no further item is begun.
    """
    threads = threads or num_cores()
    left = threading.Event()

    def some(few: Sequence[Item]) -> list[Found]:
        found = []
        for item in few:
            if left.is_set():
                break
            found.append(function(item))
        return found

    source, waiting = iter(items), deque[Future[list[Found]]]()
    with ThreadPoolExecutor(threads) as pool:
        try:
            while few := list(islice(source, at_once)):
                waiting.append(pool.submit(some, few))
                if len(waiting) >= 2 * threads:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            left.set()
            pool.shutdown(cancel_futures=True)
