"""Region proposals, boxes that may hold any object: one interface to all methods.

Shape shorthand: P boxes, H x W own pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from detkit.config import SMALLEST_PROPOSAL, ProposalConfig, ProposalMethod
from detkit.errors import UsageError
from detkit.structures import Proposals
from detkit.text import nearest_hint

__all__ = ["METHODS", "Proposer", "propose"]

METHODS: tuple[str, ...] = get_args(ProposalMethod)
# Raised when a method proposes other boxes than before: what the cache holds is then stale.
VERSIONS = {"selective-search": 1, "selective-search-quality": 1, "edge-boxes": 2}

# Edge Boxes' limits on its windows, said here since this module is imported without its code.
MIN_AREA = float(SMALLEST_PROPOSAL["edge-boxes"])
LEAST_AREA = 16  # px, below which there are too many windows
MAX_ASPECT_RATIO = 3.0  # sec. 3.4
MOST_ASPECT_RATIO = 1000


@dataclass(frozen=True, slots=True)
class Proposer:
    """A method and all that its boxes depend on besides the image; picklable."""

    method: str
    max_boxes: int = 2000  # the best so many; R-CNN sec. 2.1, MATLAB's NumStrongestRegions
    max_side: int = 500  # the image is shrunk to this longer side first; 0: never
    seed: int = 0  # of selective search's ranking
    edge_model: Path | None = None  # OpenCV's structured forest, for Edge Boxes
    min_area: float = MIN_AREA  # of Edge Boxes' windows, in pixels of the shrunk image
    max_aspect_ratio: float = MAX_ASPECT_RATIO  # of Edge Boxes' windows

    def __post_init__(self) -> None:
        """Raise UsageError for an unknown method or a number that makes no sense.

        DetkitError for an edge model that cannot be used here, before any image is.
        """
        if self.method not in METHODS:
            hint = nearest_hint(self.method, METHODS, f"choose from {', '.join(METHODS)}")
            raise UsageError(f"--method {self.method}: unknown; {hint}")
        if self.max_boxes < 1:
            raise UsageError(f"--max-boxes {self.max_boxes}: must be at least 1")
        if self.max_side < 0:
            raise UsageError(f"--max-side {self.max_side}: must not be below 0")
        if self.seed < 0:
            raise UsageError(f"--seed {self.seed}: must not be below 0")
        if not LEAST_AREA <= self.min_area < math.inf:
            raise UsageError(f"--min-area {self.min_area:g}: must be at least {LEAST_AREA} pixels")
        if not 1 <= self.max_aspect_ratio <= MOST_ASPECT_RATIO:
            raise UsageError(
                f"--max-aspect-ratio {self.max_aspect_ratio:g}: must be from 1 to "
                f"{MOST_ASPECT_RATIO}"
            )
        of_edges = [*([] if self.edge_model is None else ["edge-model"]), *self.windows]
        if of_edges and self.method != "edge-boxes":
            option = of_edges[0].replace("_", "-")
            raise UsageError(f"--{option}: is for edge-boxes; {self.method} sees no edges")
        if self.edge_model is not None:
            from detkit.proposals.edges import edge_detector

            edge_detector(self.edge_model)

    @classmethod
    def of(cls, config: ProposalConfig) -> Proposer:
        """Return the one that a detector's config names; UsageError when that is a file's."""
        return cls(
            config.proposals, config.max_proposals, config.proposal_side, config.proposal_seed
        )

    def __call__(self, image: NDArray[np.uint8]) -> Proposals:
        """Return the proposals of an (H, W, 3) RGB image, best first, in its own pixels."""
        return propose(
            self.method,
            image,
            max_boxes=self.max_boxes,
            max_side=self.max_side,
            seed=self.seed,
            edge_model=self.edge_model,
            min_area=self.min_area,
            max_aspect_ratio=self.max_aspect_ratio,
        )

    @property
    def windows(self) -> dict[str, float]:
        """What is not as usual with Edge Boxes' windows."""
        usual = {"min_area": MIN_AREA, "max_aspect_ratio": MAX_ASPECT_RATIO}
        own = {name: float(getattr(self, name)) for name in usual}
        return {name: own[name] for name in usual if own[name] != usual[name]}

    @property
    def parameters(self) -> dict[str, Any]:
        """All that the boxes depend on besides the image, as JSON values."""
        values: dict[str, Any] = {
            "method": self.method,
            "version": VERSIONS[self.method],
            "max_boxes": self.max_boxes,
            "max_side": self.max_side,
        }
        if self.method != "edge-boxes":  # nothing there is left to chance
            values["seed"] = self.seed
        if self.edge_model is not None:
            values["edge_model"] = _digest(self.edge_model)
        return {**values, **self.windows}


def propose(
    method: str,
    image: NDArray[np.uint8],
    *,
    max_boxes: int = 2000,
    max_side: int = 500,
    seed: int = 0,
    edge_model: Path | None = None,
    min_area: float = MIN_AREA,
    max_aspect_ratio: float = MAX_ASPECT_RATIO,
) -> Proposals:
    """Return the first `max_boxes` proposals of an (H, W, 3) RGB image, in its own pixels.

    `method` is one of `METHODS`. The image is first shrunk to the longer side `max_side`, as
    R-CNN's released code does (500 px; 0: never); corners come back rounded to whole pixels.
    `edge_model` and the limits on windows are for Edge Boxes.
    Raises UsageError for an unknown method, DetkitError when `edge_model` cannot be used.
    """
    height, width = image.shape[:2]
    side = max_side or max(height, width, 1)
    if method == "edge-boxes":
        found = _edge_boxes(image, max_boxes, side, edge_model, (min_area, max_aspect_ratio))
    elif method in METHODS:
        from detkit.proposals.selective_search import selective_search

        mode: Literal["fast", "quality"] = "quality" if method.endswith("quality") else "fast"
        found = selective_search(image, mode=mode, seed=seed, max_boxes=max_boxes, max_side=side)
    else:
        raise UsageError(f"{method}: no such method; choose from {', '.join(METHODS)}")
    # Halves upwards, both sides alike: rounded to even, a box a pixel wide could lose it.
    boxes = np.floor(found.boxes.astype(np.float64) + 0.5)
    boxes = np.minimum(boxes, [width, height, width, height]).astype(np.float32)
    return Proposals(boxes, found.scores)


def _edge_boxes(
    image: NDArray[np.uint8],
    max_boxes: int,
    max_side: int,
    edge_model: Path | None,
    windows: tuple[float, float],
) -> Proposals:
    """Return what Edge Boxes finds, in the image's own pixels; `windows` are their limits."""
    from detkit.proposals.edge_boxes import edge_boxes

    search = partial(
        edge_boxes, max_boxes=max_boxes, min_area=windows[0], max_aspect_ratio=windows[1]
    )
    if edge_model is None:
        return search(image, max_side=max_side)
    from detkit.data.images import scaled_down
    from detkit.proposals.edges import structured_edges

    small = scaled_down(image, max_side)
    edges, orientation = structured_edges(small, edge_model)
    found = search(small, edges=edges, orientation=orientation)
    stretch = np.array([image.shape[1] / small.shape[1], image.shape[0] / small.shape[0]] * 2)
    return Proposals((found.boxes * stretch).astype(np.float32), found.scores)


def _digest(path: Path) -> str:
    """Return what stands for a file's content."""
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
