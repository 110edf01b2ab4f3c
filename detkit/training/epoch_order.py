"""The order of an epoch, made of (seed, epoch) alone: all shuffled, or group after group.

Shape shorthand: S samples, I images that they are cut from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from detkit.structures import IntArray


@dataclass(frozen=True, slots=True)
class EpochOrder:
    """In which order an epoch shows the samples, and which of them are at hand together."""

    samples: IntArray  # (S,) a permutation
    starts: IntArray | None = None  # where its groups begin, the first at 0; None: one group

    def near(self, place: int) -> Sequence[int]:
        """Return the samples of the group at `place` of the order, by number."""
        if self.starts is None:
            return range(len(self.samples))
        group = int(np.searchsorted(self.starts, place, side="right"))
        first, last = self.starts[group - 1], [*self.starts, len(self.samples)][group]
        return list(np.sort(self.samples[first:last]).tolist())


@lru_cache(maxsize=2)
def shuffled(seed: int, epoch: int, num_samples: int) -> EpochOrder:
    """Return the order in which every place may hold any sample."""
    return EpochOrder(np.random.default_rng([seed, 0, epoch]).permutation(num_samples))


def grouped(
    seed: int, epoch: int, image_of: IntArray, num_bytes: IntArray, group_bytes: int
) -> EpochOrder:
    """Return an order that shows the samples of a few images, all mixed, before the next few.

    `image_of` (S,) is the image each sample is cut from, `num_bytes` (I,) what an image takes.
    The images are shuffled and divided so that a group takes `group_bytes` and at most one image
    more.
    """
    random = np.random.default_rng([seed, 0, epoch])
    images = random.permutation(len(num_bytes))
    group_of = np.empty(len(num_bytes), np.int64)
    group_of[images] = (np.cumsum(num_bytes[images]) - 1) // group_bytes
    samples = random.permutation(len(image_of))
    groups = group_of[image_of[samples]]
    by_group = np.argsort(groups, kind="stable")
    _, starts = np.unique(groups[by_group], return_index=True)
    return EpochOrder(samples[by_group], starts)
