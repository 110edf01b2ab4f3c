"""CSV cells that hold whole lists: longer than Python's csv module takes by itself."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager

MAX_CELL_CHARACTERS = 1 << 24  # ours: a polygon of a million corners


@contextmanager
def wide_cells() -> Iterator[None]:
    """Let csv take cells of `MAX_CELL_CHARACTERS`; its limit, one for all, is put back."""
    before = csv.field_size_limit(MAX_CELL_CHARACTERS)
    try:
        yield
    finally:
        csv.field_size_limit(before)
