"""Non-maximum suppression in NumPy: what `geometry.nms` does, without torch.

For ONNX models, and for what is found in the tiles of an image.

Shape shorthand: K candidate boxes, C classes, N boxes kept.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from detkit.structures import FloatArray, IntArray

NMSMethod = Literal["greedy", "soft", "soft-linear"]
BLOCK = 128  # boxes, ours: what greedy NMS compares with all others at once


def select(
    boxes: FloatArray,
    scores: FloatArray,
    *,
    score_thresh: float,
    nms_thresh: float,
    top_k: int,
    max_detections: int,
    method: NMSMethod = "greedy",
    sigma: float = 0.5,
    min_score: float = 0.001,
) -> tuple[FloatArray, FloatArray, IntArray]:
    """Return (boxes (N, 4), scores (N,), labels (N,)) of one image, best first.

    For each class by itself: candidates that score above `score_thresh`, of these the best
    `top_k`, then NMS; over all classes the best `max_detections` are kept. Equal scores keep
    their order. `sigma` and `min_score` are `soft_nms`'s. `boxes` is (K, 4) or, class-specific,
    (K, C, 4); `scores` is (K, C).
    """
    kept_boxes = [np.empty((0, 4), np.float32)]
    kept_scores = [np.empty(0, np.float32)]
    kept_labels = [np.empty(0, np.int64)]
    passed = scores > np.float32(score_thresh)
    for label in np.flatnonzero(passed.any(axis=0)).tolist():
        rows = np.flatnonzero(passed[:, label])
        rows = rows[best_first(scores[rows, label], top_k)]
        of_class = scores[rows, label]
        class_boxes = boxes[rows] if boxes.ndim == 2 else boxes[rows, label]
        if method == "greedy":
            kept = nms(class_boxes, nms_thresh)
            of_class = of_class[kept]
        else:
            kept, of_class = soft_nms(
                class_boxes,
                of_class,
                sigma=sigma if method == "soft" else None,
                iou_thresh=nms_thresh,
                min_score=min_score,
            )
        kept_boxes.append(class_boxes[kept])
        kept_scores.append(of_class)
        kept_labels.append(np.full(len(kept), label, np.int64))
    all_scores = np.concatenate(kept_scores)
    best = best_first(all_scores, max_detections)
    return np.concatenate(kept_boxes)[best], all_scores[best], np.concatenate(kept_labels)[best]


def best_first(scores: FloatArray, limit: int) -> IntArray:
    """Return the places of the best `limit` of (K,) scores, equal ones in their order."""
    places = np.arange(len(scores))
    if 0 < limit < len(scores):  # only these need to be put in order
        places = np.flatnonzero(scores >= np.partition(scores, -limit)[-limit])
    return places[np.argsort(-scores[places], kind="stable")[:limit]]


def nms(boxes: FloatArray, iou_thresh: float) -> IntArray:
    """Return the indices, (N,), of the (K, 4) boxes, best first, that greedy NMS keeps.

    A box goes whose IoU with a kept one before it is above `iou_thresh`.
    """
    remaining = np.arange(len(boxes))
    kept: list[int] = []
    while len(remaining):
        # A block against all that are left at once: one box at a time is ten times slower.
        # In float64, as torchvision compares: an IoU of .3 in float32 is above .3.
        block = boxes[remaining[:BLOCK], None]
        spared = ~(iou(block, boxes[remaining]).astype(np.float64) > iou_thresh)
        stays = np.ones(len(remaining), np.bool_)
        for row in range(len(block)):
            if stays[row]:
                kept.append(remaining[row])
                stays &= spared[row]
        remaining = remaining[BLOCK:][stays[BLOCK:]]
    return np.array(kept, np.int64)


def soft_nms(
    boxes: FloatArray,
    scores: FloatArray,
    *,
    sigma: float | None = 0.5,
    iou_thresh: float = 0.3,
    min_score: float = 0.001,
) -> tuple[IntArray, FloatArray]:
    """Return (indices (N,), rescored scores (N,)) of soft-NMS, best first.

    Bodla et al. 2017, in both forms, as `geometry.nms.soft_nms`.
    """
    remaining = np.arange(len(scores))
    scores = scores.copy()
    kept = []
    while len(remaining):
        place = int(scores[remaining].argmax())
        best = remaining[place]
        kept.append(best)
        remaining = np.delete(remaining, place)
        overlap = iou(boxes[best], boxes[remaining])
        if sigma is None:
            # Compared in float32, as torch compares it with a plain number.
            factors = np.where(overlap > np.float32(iou_thresh), 1 - overlap, np.float32(1))
        else:
            factors = np.exp(-(overlap**2) / np.float32(sigma))
        scores[remaining] *= factors
        remaining = remaining[scores[remaining] >= np.float32(min_score)]
    indices = np.array(kept, np.int64)
    return indices, scores[indices]


def over_smaller(boxes: FloatArray, others: FloatArray) -> FloatArray:
    """Return the intersections (...) of (..., 4) boxes, over the smaller of both areas."""
    inter, areas, other_areas = _areas(boxes, others)
    smaller = np.minimum(areas, other_areas)
    return np.asarray(np.divide(inter, smaller, out=np.zeros_like(inter), where=smaller > 0))


def iou(boxes: FloatArray, others: FloatArray) -> FloatArray:
    """Return the intersections (...) of (..., 4) boxes, over their union."""
    inter, areas, other_areas = _areas(boxes, others)
    union = areas + other_areas - inter
    return np.asarray(np.divide(inter, union, out=np.zeros_like(inter), where=union > 0))


def _areas(boxes: FloatArray, others: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the intersections (...) of (..., 4) boxes, and the areas of both."""
    # Each side of all boxes beside each other, as a processor takes several at once.
    x1, y1, x2, y2 = np.ascontiguousarray(np.moveaxis(boxes, -1, 0))
    u1, v1, u2, v2 = np.ascontiguousarray(np.moveaxis(others, -1, 0))
    inter = np.maximum(np.minimum(x2, u2) - np.maximum(x1, u1), 0)
    inter = inter * np.maximum(np.minimum(y2, v2) - np.maximum(y1, v1), 0)
    return inter, (x2 - x1) * (y2 - y1), (u2 - u1) * (v2 - v1)
