"""Anchors for a data set: k-medians over the shapes of its objects, by IoU.

Redmon and Farhadi 2017 (YOLO9000, arXiv:1612.08242), sec. 2, "Dimension Clusters".

Difference from the paper: its k-means takes the mean of a cluster as the next centre, here it is
the median of each side, which few very large objects do not move.

Shape shorthand: N objects, k anchors; a shape is (width, height) in any one unit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detkit.errors import DetkitError
from detkit.structures import Truth

RESTARTS = 5  # the search ends in the next best place; the best of a few starts is stable
ROUNDS = 100
# Ours: shapes that are searched, evenly spread where there are more: all of VOC 2007 and 2012's
# (47,223). COCO's 800,000 took minutes.
MOST_SHAPES = 50_000

Shapes = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class AnchorEstimate:
    """Anchors for the shapes of a data set, and how well they fit."""

    anchors: Shapes  # (k, 2) width and height, by area
    mean_iou: float  # of each object with its best anchor, both around the same centre
    unreached: dict[float, float]  # {IoU: share of the objects that no anchor reaches it with}


def network_shapes(
    labelled: Iterable[tuple[Truth, tuple[int, int]]],
    network_size: Callable[[int, int], tuple[int, int]],
) -> Shapes:
    """Return the (N, 2) widths and heights, network pixels, of the objects that have an area.

    `labelled` are each image's objects and its own (height, width), which `network_size` turns
    into the network's.
    """
    shapes = [np.zeros((0, 2))]
    for truth, (height, width) in labelled:
        network = network_size(height, width)
        sides = truth.boxes[:, 2:].astype(np.float64) - truth.boxes[:, :2]
        shapes.append(sides * (network[1] / width, network[0] / height))
    every = np.concatenate(shapes)
    return np.asarray(every[(every > 0).all(axis=1)])


def shape_iou(shapes: Shapes, others: Shapes) -> Shapes:
    """Return the IoU (N, M) of boxes of these shapes, (N, 2) and (M, 2), around one centre.

    Shapes have no corners to compare: what two share is the smaller width times the smaller height.
    """
    both = np.minimum(shapes[:, None], others[None]).prod(axis=2)
    union = shapes.prod(axis=1)[:, None] + others.prod(axis=1)[None] - both
    return np.asarray(both / union)


def estimate_anchors(
    shapes: Shapes, k: int, *, seed: int = 0, thresholds: tuple[float, ...] = (0.5, 0.7)
) -> AnchorEstimate:
    """Return `k` anchors for objects of these (N, 2) shapes, all of a positive area.

    k-medians with the distance 1 - IoU, so that large objects do not count for more; its centres
    start as in k-means++ (Arthur and Vassilvitskii 2007). With fewer distinct shapes than `k`
    some anchors are alike. Of more than `MOST_SHAPES` some are searched, and all judged. Raises
    DetkitError when there is no shape.
    """
    if not len(shapes):
        raise DetkitError("no objects to estimate anchors from")
    generator = np.random.default_rng(seed)
    best: Shapes | None = None
    best_iou = -1.0
    some = shapes[:: -(-len(shapes) // MOST_SHAPES)]
    for _ in range(RESTARTS):
        centres = _cluster(some, _first_centres(some, k, generator))
        mean_iou = float(shape_iou(some, centres).max(axis=1).mean())
        if mean_iou > best_iou:
            best, best_iou = centres, mean_iou
    assert best is not None
    return mean_best_iou(shapes, best[np.argsort(best.prod(axis=1), kind="stable")], thresholds)


def mean_best_iou(
    shapes: Shapes, anchors: Shapes, thresholds: tuple[float, ...] = (0.5, 0.7)
) -> AnchorEstimate:
    """Return how well (k, 2) anchors fit objects of (N, 2) shapes."""
    reached = shape_iou(shapes, anchors).max(axis=1)
    unreached = {thresh: float((reached < thresh).mean()) for thresh in thresholds}
    return AnchorEstimate(anchors, float(reached.mean()), unreached)


def _first_centres(shapes: Shapes, k: int, generator: np.random.Generator) -> Shapes:
    """Return (k, 2) shapes, each drawn with a chance that grows with its distance to the others."""
    chosen = [int(generator.integers(len(shapes)))]
    distance = 1 - shape_iou(shapes, shapes[chosen])[:, 0]
    while len(chosen) < k:
        weights = distance**2
        total = weights.sum()
        chances = weights / total if total > 0 else None
        chosen.append(int(generator.choice(len(shapes), p=chances)))
        distance = np.minimum(distance, 1 - shape_iou(shapes, shapes[chosen[-1:]])[:, 0])
    return shapes[chosen]


def _cluster(shapes: Shapes, centres: Shapes) -> Shapes:
    """Return the centres (k, 2) that k-medians ends with."""
    members = np.full(len(shapes), -1)
    for _ in range(ROUNDS):
        nearest = shape_iou(shapes, centres).argmax(axis=1)
        if (nearest == members).all():
            break
        members = nearest
        centres = centres.copy()
        for index in range(len(centres)):
            if (members == index).any():
                centres[index] = np.median(shapes[members == index], axis=0)
    return centres
