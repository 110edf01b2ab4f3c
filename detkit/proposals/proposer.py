"""Region proposals, boxes that may hold any object: one interface to all methods.

Shape shorthand: P boxes, H x W own pixels.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from detkit.config import ProposalConfig, ProposalMethod, ProposalScaling, require_within
from detkit.errors import UsageError
from detkit.files import sha256_of
from detkit.structures import Proposals
from detkit.text import nearest_hint

__all__ = ["METHODS", "EdgeSearch", "Proposer", "propose"]

METHODS: tuple[str, ...] = get_args(ProposalMethod)
# Raised when a method proposes other boxes than before: what the cache holds is then stale.
VERSIONS = {"selective-search": 2, "selective-search-quality": 2, "edge-boxes": 2}

# A config has the defaults and their bounds, and says where they are from.
USUAL = ProposalConfig()
# The parameters of a method as a file of proposals has them, and their place in a config.
IN_CONFIG = {
    "max_boxes": "max_proposals",
    "max_side": "proposal_side",
    "seed": "proposal_seed",
    "min_side": "proposal_min_side",
    "scaling": "proposal_scaling",
    "alpha": "edge_alpha",
    "beta": "edge_beta",
    "eta": "edge_eta",
    "min_score": "edge_min_score",
    "min_area": "edge_min_area",
    "max_aspect_ratio": "edge_max_aspect_ratio",
}


def _option(name: str) -> str:
    """Return a parameter's name as the shell's option."""
    return f"--{name.replace('_', '-')}"


def _require(name: str, value: float) -> None:
    """Raise UsageError, which names the option, for a number out of the bounds of its setting."""
    require_within(USUAL, IN_CONFIG[name], value, f"{_option(name)} {value:g}")


@dataclass(frozen=True, slots=True)
class EdgeSearch:
    """How Edge Boxes looks for boxes; see `edge_boxes`."""

    alpha: float = USUAL.edge_alpha
    beta: float = USUAL.edge_beta
    eta: float = USUAL.edge_eta
    min_score: float = USUAL.edge_min_score
    min_area: float = USUAL.edge_min_area
    max_aspect_ratio: float = USUAL.edge_max_aspect_ratio

    def __post_init__(self) -> None:
        """Raise UsageError for a number out of its bounds."""
        for field in dataclasses.fields(self):
            _require(field.name, getattr(self, field.name))

    @property
    def unusual(self) -> dict[str, float]:
        """What is not by default, by name."""
        values = ((one, float(getattr(self, one.name))) for one in dataclasses.fields(self))
        return {one.name: value for one, value in values if value != one.default}


@dataclass(frozen=True, slots=True)
class Proposer:
    """A method and all that its boxes depend on besides the image; picklable."""

    method: str
    max_boxes: int = USUAL.max_proposals  # the best so many; MATLAB's NumStrongestRegions
    max_side: int = USUAL.proposal_side  # the image is shrunk to this longer side; 0: never
    seed: int = USUAL.proposal_seed  # of selective search's ranking
    edge_model: Path | None = None  # OpenCV's structured forest, for Edge Boxes
    min_side: float = USUAL.proposal_min_side  # of selective search's boxes, searched pixels
    scaling: ProposalScaling = USUAL.proposal_scaling  # selective search: what `max_side` is of
    edges: EdgeSearch = EdgeSearch()

    def __post_init__(self) -> None:
        """Raise UsageError for an unknown method or a number that makes no sense.

        DetkitError for an edge model that cannot be used here, before any image is.
        """
        if self.method not in METHODS:
            hint = nearest_hint(self.method, METHODS, f"choose from {', '.join(METHODS)}")
            raise UsageError(f"--method {self.method}: unknown; {hint}")
        for name in ("max_boxes", "max_side", "seed", "min_side"):
            _require(name, getattr(self, name))
        if self.scaling not in get_args(ProposalScaling):
            raise UsageError(
                f"--scaling {self.scaling}: choose from {', '.join(get_args(ProposalScaling))}"
            )
        if self.scaling == "width" and not self.max_side:
            raise UsageError("--scaling width: takes a --max-side above 0")
        of_edges = [*([] if self.edge_model is None else ["edge_model"]), *self.edges.unusual]
        if of_edges and self.method != "edge-boxes":
            raise UsageError(f"{_option(of_edges[0])}: is for edge-boxes; {self.method} has none")
        of_search = [
            name
            for name in ("min_side", "scaling")
            if getattr(self, name) != getattr(USUAL, IN_CONFIG[name])
        ]
        if of_search and self.method == "edge-boxes":
            raise UsageError(f"{_option(of_search[0])}: is for selective search, not edge-boxes")
        if self.edge_model is not None:
            from detkit.proposals.edges import edge_detector

            edge_detector(self.edge_model)

    @classmethod
    def of(cls, config: ProposalConfig) -> Proposer:
        """Return the one that a detector's config names; UsageError when that is a file's."""
        numbers = (config.max_proposals, config.proposal_side, config.proposal_seed)
        if config.proposals == "edge-boxes":
            own = {
                one.name: getattr(config, IN_CONFIG[one.name])
                for one in dataclasses.fields(EdgeSearch)
            }
            return cls(config.proposals, *numbers, edges=EdgeSearch(**own))
        return cls(
            config.proposals,
            *numbers,
            min_side=config.proposal_min_side,
            scaling=config.proposal_scaling,
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
            min_side=self.min_side,
            scaling=self.scaling,
            edges=self.edges,
        )

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
            values["min_side"] = float(self.min_side)
            values["scaling"] = self.scaling
        if self.edge_model is not None:
            values["edge_model"] = sha256_of(self.edge_model)[:16]
        return {**values, **self.edges.unusual}


def propose(
    method: str,
    image: NDArray[np.uint8],
    *,
    max_boxes: int = USUAL.max_proposals,
    max_side: int = USUAL.proposal_side,
    seed: int = USUAL.proposal_seed,
    edge_model: Path | None = None,
    min_side: float = USUAL.proposal_min_side,
    scaling: ProposalScaling = USUAL.proposal_scaling,
    edges: EdgeSearch | None = None,
) -> Proposals:
    """Return the first `max_boxes` proposals of an (H, W, 3) RGB image, in its own pixels.

    `method` is one of `METHODS`. The image is first shrunk to the longer side `max_side` (0:
    never); corners come back rounded to whole pixels. `edge_model` and `edges` are for Edge
    Boxes, `min_side` and `scaling` are for selective search and described there.
    Raises UsageError for an unknown method, DetkitError when `edge_model` cannot be used.
    """
    height, width = image.shape[:2]
    side = max_side or max(height, width, 1)
    if method == "edge-boxes":
        found = _edge_boxes(image, max_boxes, side, edge_model, edges or EdgeSearch())
    elif method in METHODS:
        from detkit.proposals.selective_search import selective_search

        mode: Literal["fast", "quality"] = "quality" if method.endswith("quality") else "fast"
        found = selective_search(
            image,
            mode=mode,
            seed=seed,
            min_side=min_side,
            max_boxes=max_boxes,
            max_side=side,
            scaling=scaling,
        )
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
    own: EdgeSearch,
) -> Proposals:
    """Return what Edge Boxes finds, in the image's own pixels."""
    from detkit.proposals.edge_boxes import edge_boxes

    search = partial(
        edge_boxes,
        alpha=own.alpha,
        beta=own.beta,
        eta=own.eta,
        min_score=own.min_score,
        max_boxes=max_boxes,
        min_area=own.min_area,
        max_aspect_ratio=own.max_aspect_ratio,
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
