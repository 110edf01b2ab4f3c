"""Proposals of a network that no longer learns, which are made once for each image.

Shape shorthand: P proposals of an image of H x W network pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from torch import Tensor

MOST = 50_000  # images; at 2000 proposals each 1.6 GB of the processor's memory
EVERY = 4  # of an image's rows and columns, by which it is known again


class ProposalMemory:
    """Proposals by the image as the network sees it: mirrored it is another one.

    The released code makes them in a pass over the images between two steps of alternating
    training; so does this, in the course of the next step's first epochs.
    """

    def __init__(self, most: int = MOST) -> None:
        """Keep the proposals of the first `most` images; those of others are made each time."""
        self._most = most
        self._kept: dict[bytes, Tensor] = {}

    def __len__(self) -> int:
        """Return the number of images whose proposals are kept."""
        return len(self._kept)

    def __call__(self, image: Tensor, name: str, make: Callable[[], Tensor]) -> Tensor:
        """Return the image's proposals, (P, 4), from memory or as `make` makes them.

        `image` is (3, H, W), without padding; of two with the same `name` it tells which it is.
        """
        shown = image[:, ::EVERY, ::EVERY].detach().float().cpu().contiguous().numpy()
        words = f"{name} {tuple(image.shape)}".encode()
        key = hashlib.blake2b(words + shown.tobytes(), digest_size=16).digest()
        if key not in self._kept:
            made = make()
            if len(self) >= self._most:
                return made
            self._kept[key] = made.detach().cpu()
        return self._kept[key].to(image.device)
