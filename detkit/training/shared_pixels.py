"""Decoded training images in memory that processes share, each kept by who decodes it first.

Shape shorthand: H x W pixels as kept.
"""

from __future__ import annotations

import mmap
import multiprocessing
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

BEING_KEPT = -1  # in place of an image's height, by who has room for it but has not copied it yet


@dataclass(frozen=True, slots=True)
class Pixels:
    """A decoded image, and the (height, width) it had before it was shrunk."""

    image: Tensor  # (H, W, 3) uint8 RGB
    size: tuple[int, int]


class SharedPixels:
    """Images by number, filled by this process and those forked from it; the first ones stay."""

    def __init__(self, num_images: int, num_bytes: int) -> None:
        """Make room; the system hands its pages out when they are written to."""
        self._pixels = torch.frombuffer(mmap.mmap(-1, max(1, num_bytes)), dtype=torch.uint8)
        table = mmap.mmap(-1, (1 + 5 * num_images) * 8)
        self._used = np.frombuffer(table, np.int64, count=1)
        # Of each image: where it begins; (height, width) as kept, 0 where it is not; and of its own
        self._rows = np.frombuffer(table, np.int64, offset=8).reshape(num_images, 5)
        self._lock = multiprocessing.get_context("fork").Lock()

    def __getitem__(self, index: int) -> Pixels | None:
        """Return an image, not to be changed; None where it is not kept."""
        with self._lock:
            begin, height, width, *size = self._rows[index].tolist()
        if height in (0, BEING_KEPT):
            return None
        pixels = self._pixels[begin : begin + 3 * height * width]
        return Pixels(pixels.view(height, width, 3), (size[0], size[1]))

    def keep(self, index: int, one: Pixels) -> None:
        """Keep an image where there is room for it and no other process has done so."""
        number = one.image.numel()
        with self._lock:
            begin = int(self._used[0])
            if self._rows[index, 1] or begin + number > len(self._pixels):
                return
            self._used[0] += number
            self._rows[index, 1] = BEING_KEPT
        self._pixels[begin : begin + number] = one.image.reshape(-1)
        with self._lock:
            self._rows[index] = begin, *one.image.shape[:2], *one.size
