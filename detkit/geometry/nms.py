"""Non-maximum suppression: greedy, class by class, and soft-NMS.

Shape shorthand: K candidate boxes, C classes, N boxes kept.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torchvision import ops

from detkit.geometry.boxes import iou


def nms(boxes: Tensor, scores: Tensor, iou_thresh: float) -> Tensor:
    """Return the indices, (N,) int64, of the boxes that greedy NMS keeps, best first.

    The textbook's four steps: sort by descending score; take the best; drop the boxes whose
    IoU with it is above `iou_thresh`; repeat. Equal scores keep their order.
    `boxes` is (K, 4), `scores` (K,).
    """
    order = scores.sort(stable=True, descending=True).indices
    return order[ops.nms(boxes[order], scores[order], iou_thresh)]


def soft_nms(
    boxes: Tensor, scores: Tensor, sigma: float = 0.5, score_thresh: float = 0.001
) -> tuple[Tensor, Tensor]:
    """Return (indices (N,), rescored scores (N,)) of Gaussian soft-NMS, best first.

    Bodla et al. 2017, eq. 3: instead of dropping a box that overlaps the best one, its score
    is multiplied by `exp(-iou^2 / sigma)`; boxes below `score_thresh` go.
    """
    remaining = torch.arange(len(scores), device=scores.device)
    scores = scores.clone()
    kept, kept_scores = [], []
    while len(remaining):
        best = scores[remaining].argmax()
        index = remaining[best]
        kept.append(index)
        kept_scores.append(scores[index].clone())
        remaining = torch.cat([remaining[:best], remaining[best + 1 :]])
        overlap = iou(boxes[index][None], boxes[remaining])[0]
        scores[remaining] *= (-(overlap**2) / sigma).exp()
        remaining = remaining[scores[remaining] >= score_thresh]
    if not kept:
        return torch.empty(0, dtype=torch.int64, device=scores.device), scores[:0]
    return torch.stack(kept), torch.stack(kept_scores)


def select(
    boxes: Tensor,
    scores: Tensor,
    *,
    score_thresh: float,
    nms_thresh: float,
    top_k: int,
    max_detections: int,
    method: Literal["greedy", "soft"] = "greedy",
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (boxes (N, 4), scores (N,), labels (N,)) of one image, best first.

    For each class by itself: candidates that score above `score_thresh`, of these the best
    `top_k`, then NMS; over all classes the best `max_detections` are kept. `boxes` is (K, 4)
    or, class-specific, (K, C, 4); `scores` is (K, C).
    """
    if not len(scores):
        return boxes.new_empty(0, 4), scores.new_empty(0), scores.new_empty(0, dtype=torch.int64)
    class_scores = scores.t().contiguous()  # (C, K)
    passed = class_scores > score_thresh
    if class_scores.shape[1] > top_k:
        # The k-th best score of each class is a cheap bound; ties beyond it are cut below.
        passed &= class_scores >= class_scores.topk(top_k, dim=1).values[:, -1:]
    kept_boxes, kept_scores, kept_labels = [boxes.new_empty(0, 4)], [scores.new_empty(0)], []
    # (`passed.any(dim=1)` says the same and takes longer than all of NMS on a CPU.)
    for label in (class_scores.amax(dim=1) > score_thresh).nonzero().flatten().tolist():
        rows = passed[label].nonzero().flatten()
        of_class = class_scores[label, rows]
        order = of_class.sort(stable=True, descending=True).indices[:top_k]
        rows, of_class = rows[order], of_class[order]
        class_boxes = boxes[rows] if boxes.ndim == 2 else boxes[rows, label]
        if method == "greedy":
            keep = ops.nms(class_boxes, of_class, nms_thresh)
            of_class = of_class[keep]
        else:
            keep, of_class = soft_nms(class_boxes, of_class, score_thresh=score_thresh)
        kept_boxes.append(class_boxes[keep])
        kept_scores.append(of_class)
        kept_labels += [label] * len(keep)
    all_scores = torch.cat(kept_scores)
    best = all_scores.sort(stable=True, descending=True).indices[:max_detections]
    labels = torch.tensor(kept_labels, dtype=torch.int64, device=scores.device)
    return torch.cat(kept_boxes)[best], all_scores[best], labels[best]
