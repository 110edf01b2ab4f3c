"""The proposals of a whole training set in memory, which every epoch needs again.

Shape shorthand: P boxes.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from detkit.data.images import read_image
from detkit.data.threads import in_threads
from detkit.proposals.source import ProposalSource
from detkit.structures import FloatArray, IntArray, Proposals

logger = logging.getLogger(__name__)
SECONDS_BETWEEN_LINES = 15.0  # of progress, since the first time this may take many minutes


class ProposalTable:
    """The boxes of many images in one tensor: small, and shared by workers as it is."""

    def __init__(self, boxes: Sequence[FloatArray]) -> None:
        """Take the (P, 4) boxes of each image; whole pixels are kept in two bytes each."""
        table = np.concatenate([np.empty((0, 4), np.float32), *boxes])
        self._ends = np.cumsum([len(one) for one in boxes])
        is_whole = np.array_equal(table, np.rint(table))
        fits = is_whole and np.abs(table).max(initial=0) < 2**15
        self.boxes = torch.from_numpy(table.astype(np.int16) if fits else table)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._ends)

    def __getitem__(self, index: int) -> Tensor:
        """Return the (P, 4) float32 boxes of an image."""
        start = 0 if index == 0 else int(self._ends[index - 1])
        return self.boxes[start : int(self._ends[index])].float()


def make_table(
    source: ProposalSource,
    paths: Sequence[Path],
    *,
    threads: int,
    first: int = 0,
    windows: Sequence[IntArray] | None = None,
) -> ProposalTable:
    """Return the proposals of every image file; says how far it is, if it takes long.

    With `windows` they are those of one window (4,) of each file, own pixels, relative to its
    corner; a file named several times in a row is hardly ever decoded anew. `first` is the image
    to begin with: processes that share a cache divide the work by beginning at different ones.
    Raises DetkitError for an image that cannot be read or has none.
    """
    source.require(map(str, paths))
    order = [*range(first, len(paths)), *range(first)]
    found: list[FloatArray] = [np.empty((0, 4), np.float32)] * len(paths)
    began = told = time.monotonic()
    read = lru_cache(maxsize=2)(read_image)

    def make(index: int) -> Proposals:
        path = paths[index]
        if windows is None:
            return source.of_file(path)
        return source.within(str(path), read(path), windows[index])

    with contextlib.closing(in_threads(make, order, threads=threads)) as all_made:
        for done, (index, made) in enumerate(zip(order, all_made), start=1):
            found[index] = made.boxes
            now = time.monotonic()
            if now - told > SECONDS_BETWEEN_LINES:
                told, left = now, (now - began) / done * (len(paths) - done) / 60
                kind = "images" if windows is None else "tiles"
                logger.info(
                    "proposals: %d of %d %s, %.1f minutes left", done, len(paths), kind, left
                )
    return ProposalTable(found)
