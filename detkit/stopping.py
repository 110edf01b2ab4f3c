"""Ctrl-C and SIGTERM as a wish that the loop grants when its files can be left whole."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class StopSignal:
    """Notes the first SIGINT or SIGTERM while the block lasts; the second acts at once."""

    def __init__(self) -> None:
        """Nothing is caught before the block begins."""
        self.received = False
        self._previous: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> StopSignal:
        """Catch the signals; only the main thread can, elsewhere nothing changes."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let the signals act as before."""
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
