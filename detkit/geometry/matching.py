"""Matching of boxes to ground truths by IoU, and sampling of the matched boxes.

Shape shorthand: R ground-truth boxes, I ignored ones, K boxes to match (anchors, default boxes,
proposals).
"""

from __future__ import annotations

import torch
from torch import Tensor

from detkit.geometry.boxes import area, iou

NEGATIVE = -1
IGNORED = -2
INSIDE = 0.5  # of a box's area; the lowest of the thresholds at which COCO compares boxes


def best_overlaps(gt_boxes: Tensor, boxes: Tensor) -> Tensor:
    """Return (R,): the largest IoU of each ground truth (R, 4) with any of the boxes (K, 4)."""
    overlaps = iou(gt_boxes.float(), boxes.float())
    return overlaps.amax(dim=1) if len(boxes) else overlaps.new_zeros(len(gt_boxes))


def best_overlaps_of_small(gt_boxes: Tensor, boxes: Tensor, thresh: float) -> Tensor:
    """Return (R,): `best_overlaps` of ground truths smaller than all boxes, 1 for all others.

    It is right where it is `thresh` or more. Boxes too large for that are not looked at, which for
    the default boxes of an image are most: no IoU is above the ratio of the areas.
    """
    areas = area(boxes)
    smallest = areas.amin()
    small = area(gt_boxes) < smallest
    best = gt_boxes.new_ones(len(gt_boxes))
    near = boxes[areas * thresh <= smallest]
    best[small] = best_overlaps(gt_boxes[small], near)
    return best


def best_overlaps_above(sides: Tensor, width: float, height: float, least_area: float) -> Tensor:
    """Return the IoU (R,) at most, of objects (R, 2) wide and high, with boxes above some size.

    That is at least so wide and high, and of at least that area. A box around an object has as
    its IoU the share of it that the object fills.
    """
    least = sides.new_tensor([width, height])
    shares = torch.where(sides < least, sides / least, 1.0).prod(dim=1)
    areas = sides.prod(dim=1)
    return torch.where(areas < least_area, torch.minimum(shares, areas / least_area), shares)


def match(overlaps: Tensor, positive_thresh: float, negative_thresh: float) -> Tensor:
    """Return (K,) int64: the index of the ground truth to learn, `NEGATIVE` or `IGNORED`.

    `overlaps` is the (R, K) IoU. A box whose best IoU is at least `positive_thresh` learns
    that ground truth; one below `negative_thresh` is background; between them it is left
    out. With no ground truth all boxes are background.
    """
    if len(overlaps) == 0:
        return torch.full(overlaps.shape[1:], NEGATIVE, dtype=torch.int64, device=overlaps.device)
    best, truth = overlaps.max(dim=0)
    matches = torch.where(best >= negative_thresh, IGNORED, NEGATIVE)
    return torch.where(best >= positive_thresh, truth, matches)


def match_each_truth(overlaps: Tensor) -> tuple[Tensor, Tensor]:
    """Return (truths, boxes), (M,) int64 each: one box of its own for every ground truth.

    Greedy bipartite matching, as in SSD's released code (sec. 2.2, "best jaccard overlap"):
    the pair with the largest IoU first; its box is taken, and the next pair. Ground truths
    that overlap no free box get none. `overlaps` is (R, K).
    """
    device = overlaps.device
    free = overlaps.to("cpu", copy=True)  # each step below looks at a value: a GPU would wait
    truths: list[int] = []
    boxes: list[int] = []
    if free.numel() == 0:
        empty = torch.empty(0, dtype=torch.int64, device=device)
        return empty, empty
    best, where = free.max(dim=1)
    for _ in range(min(free.shape)):
        truth = int(best.argmax())
        if best[truth] <= 0:
            break
        box = int(where[truth])
        truths.append(truth)
        boxes.append(box)
        free[:, box] = -1.0
        best[truth] = -1.0
        free[truth] = -1.0
        stale = (where == box) & (best > 0)  # their best box was just taken
        if stale.any():
            best[stale], where[stale] = free[stale].max(dim=1)
    pairs = torch.tensor([truths, boxes], dtype=torch.int64, device=device)
    return pairs[0], pairs[1]


def inside_ignored(boxes: Tensor, ignored: Tensor) -> Tensor:
    """Return (K,) bool: which boxes lie by half of their area or more in one of the ignored.

    COCO's rule for detections in a crowd region, intersection over the detection's own area
    (pycocotools, `iou` with `iscrowd`): the region may be as large as it likes. A box without
    area lies in none. `boxes` (K, 4) and `ignored` (I, 4) are in the same pixels.
    """
    top_left = torch.maximum(boxes[:, None, :2], ignored[:, :2])
    bottom_right = torch.minimum(boxes[:, None, 2:], ignored[:, 2:])
    shared = (bottom_right - top_left).clamp(min=0).prod(dim=2)
    return ((shared >= INSIDE * area(boxes)[:, None]) & (shared > 0)).any(dim=1)


def spare_ignored(matches: Tensor, boxes: Tensor, ignored: Tensor) -> Tensor:
    """Return the (K,) `matches` with `IGNORED` for each `NEGATIVE` box that is `inside_ignored`.

    What is positive stays so. `boxes` (K, 4) and `ignored` (I, 4) are in the same pixels.
    """
    if not len(ignored):
        return matches
    return matches.masked_fill((matches == NEGATIVE) & inside_ignored(boxes, ignored), IGNORED)


def sample_balanced(
    matches: Tensor, number: int, positive_fraction: float
) -> tuple[Tensor, Tensor]:
    """Return (positives, negatives): indices of a random sample of `number` boxes in all.

    At most `positive_fraction` of them are positive; negatives fill the rest (Fast R-CNN
    sec. 2.3, Faster R-CNN sec. 3.1.3). Ignored boxes are never drawn. `matches` is `match`'s.
    """
    positives = (matches >= 0).nonzero().flatten()
    negatives = (matches == NEGATIVE).nonzero().flatten()
    num_positives = min(len(positives), int(number * positive_fraction))
    num_negatives = min(len(negatives), number - num_positives)
    chosen = torch.randperm(len(positives), device=matches.device)[:num_positives]
    rejected = torch.randperm(len(negatives), device=matches.device)[:num_negatives]
    return positives[chosen], negatives[rejected]
