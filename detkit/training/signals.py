"""Ctrl-C, SIGTERM and a closed terminal as a wish that the loop grants when files are whole."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]  # Windows has no SIGHUP


class StopSignal:
    """Notes the first of SIGNALS while the block lasts; the second acts at once."""

    def __init__(self) -> None:
        """Nothing is caught before the block begins."""
        self.received = False
        self._previous: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> StopSignal:
        """Catch the signals; only the main thread can, elsewhere nothing changes.

        One that is ignored stays so: `nohup` and a shell's `&` mean that.
        """
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
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
