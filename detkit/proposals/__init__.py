"""Boxes that may hold an object, whatever it is: one interface to all methods.

Shape shorthand: P boxes, H x W own pixels.
"""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from detkit.config import ProposalConfig, ProposalMethod
from detkit.errors import DetkitError, UsageError
from detkit.structures import Proposals

__all__ = ["METHODS", "Proposer", "propose"]

METHODS: tuple[str, ...] = get_args(ProposalMethod)
# Raised when a method proposes other boxes than before: what the cache holds is then stale.
VERSIONS = {"selective-search": 1, "selective-search-quality": 1, "edge-boxes": 2}


@dataclass(frozen=True, slots=True)
class Proposer:
    """A method and all that its boxes depend on besides the image; picklable."""

    method: str
    max_boxes: int = 2000  # the best so many; R-CNN sec. 2.1, MATLAB's NumStrongestRegions
    max_side: int = 500  # the image is shrunk to this longer side first; 0: never
    seed: int = 0  # of selective search's ranking
    edge_model: Path | None = None  # OpenCV's structured forest, for Edge Boxes

    def __post_init__(self) -> None:
        """Raise UsageError for an unknown method or a number that makes no sense."""
        if self.method not in METHODS:
            near = difflib.get_close_matches(self.method, METHODS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(METHODS)}"
            raise UsageError(f"--method {self.method}: unknown; {hint}")
        if self.max_boxes < 1:
            raise UsageError(f"--max-boxes {self.max_boxes}: must be at least 1")
        if self.max_side < 0:
            raise UsageError(f"--max-side {self.max_side}: must not be below 0")
        if self.edge_model is None:
            return
        if self.method != "edge-boxes":
            raise UsageError(f"--edge-model: is for edge-boxes; {self.method} sees no edges")
        if not self.edge_model.is_file():
            raise DetkitError(f"{self.edge_model}: there is no such edge model file")

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
        )

    @property
    def parameters(self) -> dict[str, Any]:
        """All that the boxes depend on besides the image, as JSON values."""
        values = dataclasses.asdict(self)
        if self.method == "edge-boxes":
            del values["seed"]  # nothing there is left to chance
        if self.edge_model is None:
            del values["edge_model"]
        else:
            values["edge_model"] = _digest(self.edge_model)
        return {"method": values.pop("method"), "version": VERSIONS[self.method], **values}


def propose(
    method: str,
    image: NDArray[np.uint8],
    *,
    max_boxes: int = 2000,
    max_side: int = 500,
    seed: int = 0,
    edge_model: Path | None = None,
) -> Proposals:
    """Return the first `max_boxes` proposals of an (H, W, 3) RGB image, in its own pixels.

    `method` is one of `METHODS`. The image is first shrunk to the longer side `max_side`, as
    R-CNN's released code does (500 px; 0: never); corners come back rounded to whole pixels.
    Raises UsageError for an unknown method, DetkitError when `edge_model` cannot be used.
    """
    height, width = image.shape[:2]
    side = max_side or max(height, width, 1)
    if method == "edge-boxes":
        found = _edge_boxes(image, max_boxes, side, edge_model)
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
    image: NDArray[np.uint8], max_boxes: int, max_side: int, edge_model: Path | None
) -> Proposals:
    """Return what Edge Boxes finds, in the image's own pixels."""
    from detkit.proposals.edge_boxes import edge_boxes

    if edge_model is None:
        return edge_boxes(image, max_boxes=max_boxes, max_side=max_side)
    from detkit.proposals.edges import structured_edges

    small = _shrink(image, max_side)
    edges, orientation = structured_edges(small, edge_model)
    found = edge_boxes(small, max_boxes=max_boxes, edges=edges, orientation=orientation)
    stretch = np.array([image.shape[1] / small.shape[1], image.shape[0] / small.shape[0]] * 2)
    return Proposals((found.boxes * stretch).astype(np.float32), found.scores)


def _shrink(image: NDArray[np.uint8], longer_side: int) -> NDArray[np.uint8]:
    """Return the image with at most this longer side."""
    import cv2

    height, width = image.shape[:2]
    if max(height, width) <= longer_side:
        return image
    scale = longer_side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _digest(path: Path) -> str:
    """Return what stands for a file's content."""
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
