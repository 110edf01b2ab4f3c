"""Which page may write: the first one, until it is silent or another one takes the folder over."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

SILENCE = 15.0  # seconds after which a page that says nothing has gone; it speaks every 3
LONGEST = 64  # signs of a page's name


class Editors:
    """The page that holds the folder."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with none; `clock` counts seconds."""
        self._clock = clock
        self.holder: str | None = None
        self._heard = 0.0

    def greet(self, editor: str | None, *, take: bool) -> tuple[str, bool, float]:
        """Return a page's name, whether it may write, and for how long the holder was silent."""
        name = editor or secrets.token_urlsafe(12)
        if take:
            self.holder = None
        silent = 0.0 if self.holder in (None, name) else self._clock() - self._heard
        return name, self.may_write(name), silent

    def may_write(self, editor: str) -> bool:
        """Return whether this page holds the folder, which it takes where nobody does."""
        now = self._clock()
        if self.holder is None or now - self._heard > SILENCE:
            self.holder = editor
        if self.holder != editor:
            return False
        self._heard = now
        return True
