"""Where the time goes: seconds by stage, of which the inner ones are not counted twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stopwatch:
    """Adds up the seconds of named stages; within an inner stage the outer one stands still.

    It is of one thread. Without `seconds` it does not run, and costs nothing.
    """

    def __init__(
        self, seconds: dict[str, float] | None = None, wait: Callable[[], None] | None = None
    ) -> None:
        """Add to `seconds`; `wait` returns when the device has done what it was given."""
        self.seconds = seconds
        self._wait = wait
        self._stages: list[str] = []
        self._since = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Return a block whose time is that of the stage `name`."""
        if self.seconds is None:
            yield
            return
        self._count()
        self._stages.append(name)
        try:
            yield
        finally:
            self._count()
            self._stages.pop()

    def _count(self) -> None:
        """Give the time since the last change to the stage under way."""
        if self._wait is not None:
            self._wait()
        now = time.perf_counter()
        if self._stages and self.seconds is not None:
            stage = self._stages[-1]
            self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._since
        self._since = now
