"""The trace of a detector: which objects each of its stages still has a box for.

A stage is anything that makes boxes or throws some away: default boxes, proposals, the moved
and scored candidates, the score threshold, NMS. A detector declares those before its candidates
(`Detector.origins`); those after are the same for all and stand here.

Shape shorthand: R ground truths of an image, K candidates, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detkit.config import DetectorConfig
from detkit.geometry.boxes import iou
from detkit.geometry.matching import best_overlaps
from detkit.geometry.nms import Ranking, best_first, rankings
from detkit.structures import BoolArray

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class TraceStage:
    """Which of an image's objects still have a box after a stage."""

    name: str  # "default boxes"
    loss: str  # what is said of an object lost here: "no default box reaches it"
    kept: BoolArray  # (R,)
    details: tuple[str, ...]  # (R,) the figures behind it; "" where there are none
    by: tuple[Box | None, ...] = ()  # (R,) the box that threw the object's out, own pixels


def box_stage(
    name: str, loss: str, gt_boxes: Tensor, boxes: Tensor, iou_thresh: float
) -> TraceStage:
    """Return the stage that leaves `boxes`, (K, 4), of any class, for (R, 4) ground truths."""
    best = best_overlaps(gt_boxes, boxes)
    details = tuple(f"best IoU {value:.2f}" for value in best.tolist())
    return TraceStage(name, loss, (best >= iou_thresh).cpu().numpy(), details)


def selection_stages(
    boxes: Tensor,
    scores: Tensor,
    gt_boxes: Tensor,
    gt_labels: Tensor,
    config: DetectorConfig,
    *,
    iou_thresh: float,
    scale: Tensor,
) -> list[TraceStage]:
    """Return the stages from the candidates of an image to its detections, as `nms.select` goes.

    `boxes` (K, 4) or (K, C, 4) and `gt_boxes` (R, 4) are network pixels, `scores` (K, C);
    `scale` (4,) leads from own pixels to network pixels.
    """
    selection = _Selection.of(boxes, scores, config)
    journeys = [
        _journey(selection, box, int(label), config, iou_thresh, scale)
        for box, label in zip(gt_boxes.float(), gt_labels)
    ]
    columns = [
        ("candidates", "no candidate box of its class reaches it"),
        ("score", "its boxes score below the threshold"),
        ("ranking", "its boxes rank too low in their class"),
        ("nms", "its boxes are suppressed by NMS"),
        ("limit", "its boxes rank too low in their image"),
    ]
    return [
        TraceStage(
            name,
            loss,
            torch.tensor([one.passed > number for one in journeys], dtype=torch.bool).numpy(),
            tuple(one.detail if one.passed == number else "" for one in journeys),
            tuple(one.by if one.passed == number else None for one in journeys),
        )
        for number, (name, loss) in enumerate(columns)
    ]


@dataclass(frozen=True, slots=True)
class _Selection:
    """What each stage of the selection leaves of an image's candidates."""

    boxes: Tensor  # (K, 4) or (K, C, 4) network pixels
    scores: Tensor  # (K, C)
    classes: dict[int, Ranking]  # those with a candidate above the threshold
    ranks: dict[tuple[int, int], int]  # (class, candidate) -> place among all that NMS keeps

    @classmethod
    def of(cls, boxes: Tensor, scores: Tensor, config: DetectorConfig) -> _Selection:
        """Return the selection by a detector's config, as `nms.select` makes it."""
        ranked = rankings(
            boxes,
            scores,
            score_thresh=config.score_thresh,
            nms_thresh=config.nms_thresh,
            top_k=config.pre_nms_top_k,
            method=config.nms_method,
            sigma=config.nms_sigma,
            min_score=config.nms_min_score,
        )
        survivors = [(one.label, row) for one in ranked for row in one.rows[one.kept].tolist()]
        order, _ = best_first(ranked, scores)
        ranks = {survivors[index]: rank for rank, index in enumerate(order.tolist())}
        return cls(boxes, scores, {one.label: one for one in ranked}, ranks)

    def of_class(self, label: int) -> Tensor:
        """Return the (K, 4) boxes of a class."""
        return self.boxes if self.boxes.ndim == 2 else self.boxes[:, label]


@dataclass(frozen=True, slots=True)
class _Journey:
    """How many stages some box of an object passes, and what stopped the last."""

    passed: int  # 5: it is among the detections
    detail: str = ""
    by: Box | None = None


def _journey(
    selection: _Selection,
    gt_box: Tensor,
    label: int,
    config: DetectorConfig,
    iou_thresh: float,
    scale: Tensor,
) -> _Journey:
    """Return how far the boxes that reach one object come."""
    boxes, scores = selection.of_class(label), selection.scores[:, label]
    overlaps = iou(gt_box[None], boxes)[0]
    reaching = overlaps >= iou_thresh
    if not bool(reaching.any()):
        best = float(overlaps.max()) if len(overlaps) else 0.0
        return _Journey(0, f"best IoU {best:.2f}")
    best_score = float(scores[reaching].max())
    if not bool((scores[reaching] > config.score_thresh).any()):
        return _Journey(
            1, f"its best box scores {best_score:.2g}, the threshold is {config.score_thresh:g}"
        )
    ranked = selection.classes[label]
    places = reaching[ranked.rows].nonzero().flatten()
    if not len(places):
        higher = int((scores > best_score).sum())
        return _Journey(
            2, f"its best box is number {higher + 1}, the first {config.pre_nms_top_k} are kept"
        )
    left = ranked.kept[reaching[ranked.rows[ranked.kept]]]
    if not len(left):
        return _suppressed(boxes, scores, ranked, int(places[0]), scale)
    rank = min(selection.ranks[label, row] for row in ranked.rows[left].tolist())
    if rank >= config.max_detections:
        return _Journey(
            4, f"its box is number {rank + 1}, the first {config.max_detections} are kept"
        )
    return _Journey(5)


def _suppressed(
    boxes: Tensor, scores: Tensor, ranked: Ranking, place: int, scale: Tensor
) -> _Journey:
    """Return what the box at `place` of the ranking lost to: the kept one that overlaps it most."""
    rivals = ranked.rows[ranked.kept[ranked.kept < place]]
    if not len(rivals):
        return _Journey(3)
    overlaps = iou(boxes[ranked.rows[place]][None], boxes[rivals])[0]
    most = int(overlaps.argmax())
    x1, y1, x2, y2 = (boxes[rivals[most]] / scale).tolist()
    score = float(scores[rivals[most]])
    own = float(scores[ranked.rows[place]])
    return _Journey(
        3,
        f"its box ({own:.2f}) overlaps by {float(overlaps[most]):.2f} with the better one "
        f"({score:.2f}) at {x1:.0f}, {y1:.0f}, {x2:.0f}, {y2:.0f}",
        (x1, y1, x2, y2),
    )


def no_stages(number: int) -> list[list[TraceStage]]:
    """Return an empty list for each of `number` images."""
    return [[] for _ in range(number)]


def cell_stage(cells: Sequence[int]) -> TraceStage:
    """Return the stage that has one object a cell, for objects in these cells."""
    shared = [sum(cell == other for other in cells) for cell in cells]
    return TraceStage(
        "cells",
        "it shares its cell of the grid with another object",
        torch.tensor([number == 1 for number in shared], dtype=torch.bool).numpy(),
        tuple(f"{number} objects in the cell" if number > 1 else "" for number in shared),
    )
