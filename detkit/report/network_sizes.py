"""The objects of a data set as large as networks see them, and which are too small for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detkit.structures import BoolArray, FloatArray, IntArray

EDGES = (0, 4, 8, 16, 32, 64, 128, 256, 512)  # network pixels, the root of the area


@dataclass(frozen=True, slots=True)
class NetworkSizes:
    """M objects on the network's image of one backend; those with an area alone."""

    model: str
    resized: str  # how large images become: "300 x 300", "up to 1000 x 600"
    labels: IntArray  # (M,), places in `class_names`
    class_names: tuple[str, ...]
    images: tuple[Path, ...]  # (M,), the image of each
    sides: FloatArray  # (M, 2) width and height, network pixels
    reached: BoolArray  # (M,) whether the backend can find it
    words: str = ""  # what is too small and what would help; "" where nothing is

    @property
    def share(self) -> float:
        """Return the share of the objects that is out of reach."""
        return 1.0 - float(self.reached.mean()) if len(self.reached) else 0.0

    @property
    def median(self) -> float:
        """Return the median root of the area, network pixels; 0 without objects."""
        import numpy as np

        return float(np.median(np.sqrt(self.sides.prod(axis=1)))) if len(self.sides) else 0.0


def sizes_to_page(
    sizes: Sequence[NetworkSizes], index: Mapping[str, int], held: Mapping[Path, list[int]]
) -> dict[str, Any]:
    """Return the objects as JSON values: classes and splits once, sizes for each backend."""
    if not sizes:
        return {"edges": EDGES, "classes": [], "splits": [], "models": []}
    first = sizes[0]
    names = first.class_names
    return {
        "edges": EDGES,
        "classes": [index.get(names[label], -1) for label in first.labels.tolist()],
        "splits": [held.get(path, []) for path in first.images],
        "models": [
            {
                "name": one.model,
                "sides": [[round(w, 1), round(h, 1)] for w, h in one.sides.tolist()],
                "reached": one.reached.astype(int).tolist(),
            }
            for one in sizes
        ],
    }
