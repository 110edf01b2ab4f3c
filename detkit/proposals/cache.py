"""Proposals kept on disk: computed once an image, whoever asks again.

They are named by a hash of the image and the parameters, so nothing goes stale: a changed image
or parameter has another name.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detkit.cache import BOUND, FileCache, cache_folder
from detkit.structures import Proposals

BOX_BYTES = 20  # with its score


def key_of(image: NDArray[np.uint8], parameters: Mapping[str, Any]) -> str:
    """Return the name of an (H, W, 3) image's proposals under these parameters (JSON values)."""
    digest = hashlib.sha256(json.dumps([image.shape, dict(parameters)], sort_keys=True).encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


class ProposalCache(FileCache):
    """A folder of proposals by key: some 50 000 images of 2000 boxes in 2 GiB."""

    def __init__(self, folder: Path | None = None, max_bytes: int | None = None) -> None:
        """Use `folder`, by default that of `cache_folder`; nothing is written before `put`.

        The default bound is 2 GiB, or `DETKIT_CACHE_GIB`; UsageError when that is no number.
        """
        folder = cache_folder() if folder is None else folder
        super().__init__(folder / "proposals", "proposals", max_bytes)
        self.hits = 0

    def room_for(self, num_images: int, max_boxes: int) -> str:
        """Return how many images' proposals are kept, of so many boxes each at the most."""
        each = max(1, max_boxes * BOX_BYTES)
        if num_images * each <= self.max_bytes:
            return f"kept in {self.folder}"
        needed = math.ceil(num_images * each / 2**30)
        return (
            f"those of some {self.max_bytes // each:,} are kept in {self.folder} "
            f"({BOUND}={needed} keeps all)"
        )

    def get(self, key: str) -> Proposals | None:
        """Return the proposals of that key; None when there are none, or no whole ones."""
        content = self.read(key)
        if content is None:
            return None
        try:
            table = np.load(io.BytesIO(content), allow_pickle=False)
        except (ValueError, EOFError):  # cut short by a full disk or a crash: computed anew
            self.remove(key)
            return None
        if table.ndim != 2 or table.shape[1] != 5 or table.dtype != np.float32:
            return None
        self.hits += 1
        return Proposals(np.ascontiguousarray(table[:, :4]), np.ascontiguousarray(table[:, 4]))

    def put(self, key: str, proposals: Proposals) -> None:
        """Keep the proposals under that key; where that fails, say so once and go on."""
        content = io.BytesIO()
        np.save(content, np.column_stack([proposals.boxes, proposals.scores]).astype(np.float32))
        self.write(key, content.getvalue())
