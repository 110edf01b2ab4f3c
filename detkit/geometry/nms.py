"""Non-maximum suppression: greedy, class by class, and soft-NMS.

Shape shorthand: K candidate boxes, C classes, N boxes kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision import ops

from detkit.geometry.boxes import iou
from detkit.geometry.nms_numpy import NMSMethod

MOST_TOGETHER = 20_000  # boxes: of as many torchvision's kernel makes a table of 50 MB
_SURVIVORS = "(Tensor boxes, Tensor scores, float iou_thresh, int number) -> Tensor"


def nms(boxes: Tensor, scores: Tensor, iou_thresh: float) -> Tensor:
    """Return the indices, (N,) int64, of the boxes that greedy NMS keeps, best first.

    The textbook's four steps: sort by descending score; take the best; drop the boxes whose
    IoU with it is above `iou_thresh`; repeat. Equal scores keep their order.
    `boxes` is (K, 4), `scores` (K,).
    """
    order = scores.sort(stable=True, descending=True).indices
    return order[ops.nms(boxes[order], scores[order], iou_thresh)]


@torch.library.custom_op("detkit::nms_survivors", mutates_args=(), schema=_SURVIVORS)
def nms_survivors(boxes: Tensor, scores: Tensor, iou_thresh: float, number: int) -> Tensor:
    """Return, (B, K) bool, which of each image's boxes greedy NMS keeps: the best `number` of them.

    Scores of minus infinity are no boxes. `boxes` (B, K, 4), `scores` (B, K). An operator of its
    own, since ONNX has one that does all images at once.
    """
    survives = torch.zeros_like(scores, dtype=torch.bool)
    for index, (of_image, ranked) in enumerate(zip(boxes, scores)):
        rows = (ranked > -torch.inf).nonzero().flatten()
        survives[index, rows[nms(of_image[rows], ranked[rows], iou_thresh)[:number]]] = True
    return survives


@nms_survivors.register_fake
def _(boxes: Tensor, scores: Tensor, iou_thresh: float, number: int) -> Tensor:
    """Return what has `nms_survivors`' shape."""
    return torch.empty_like(scores, dtype=torch.bool)


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    *,
    sigma: float | None = 0.5,
    iou_thresh: float = 0.3,
    min_score: float = 0.001,
) -> tuple[Tensor, Tensor]:
    """Return (indices (N,), rescored scores (N,)) of soft-NMS, best first.

    Bodla et al. 2017 (arXiv:1704.04503), sec. 3: instead of dropping a box that overlaps the best
    one, its score is multiplied by `exp(-iou^2 / sigma)`; without a `sigma`, the linear form, by
    `1 - iou` where that is above `iou_thresh`, which the Gaussian form has no use for. A box goes
    whose score falls below `min_score`. The defaults are the released code's. `boxes` is (K, 4),
    `scores` (K,).
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
        if sigma is None:
            factors = torch.where(overlap > iou_thresh, 1 - overlap, 1.0)
        else:
            factors = (-(overlap**2) / sigma).exp()
        scores[remaining] *= factors
        remaining = remaining[scores[remaining] >= min_score]
    if not kept:
        return torch.empty(0, dtype=torch.int64, device=scores.device), scores[:0]
    return torch.stack(kept), torch.stack(kept_scores)


@dataclass(frozen=True, slots=True)
class Ranking:
    """What the selection leaves of one class's candidates."""

    label: int
    rows: Tensor  # (n,) candidates above the threshold, best first, cut at the class's limit
    boxes: Tensor  # (n, 4) of these
    kept: Tensor  # (m,) of these, by rank: those that NMS keeps, best first
    scores: Tensor  # (m,) of those, as soft-NMS leaves them


def rankings(
    boxes: Tensor,
    scores: Tensor,
    *,
    score_thresh: float,
    nms_thresh: float,
    top_k: int,
    method: NMSMethod = "greedy",
    sigma: float = 0.5,
    min_score: float = 0.001,
) -> list[Ranking]:
    """Return what is left of each class that has a candidate above `score_thresh`.

    For each class by itself: candidates that score above `score_thresh`, of these the best
    `top_k`, then NMS; `sigma` and `min_score` are `soft_nms`'s. `boxes` is (K, 4) or,
    class-specific, (K, C, 4); `scores` is (K, C).
    """
    if not len(scores):
        return []
    class_scores = scores.t().contiguous()  # (C, K)
    passed = class_scores > score_thresh
    if class_scores.shape[1] > top_k:
        # The k-th best score of each class is a cheap bound; ties beyond it are cut below.
        passed &= class_scores >= class_scores.topk(top_k, dim=1).values[:, -1:]
    found = []
    # (`passed.any(dim=1)` says the same and takes longer than all of NMS on a CPU.)
    for label in (class_scores.amax(dim=1) > score_thresh).nonzero().flatten().tolist():
        rows = passed[label].nonzero().flatten()
        of_class = class_scores[label, rows]
        order = of_class.sort(stable=True, descending=True).indices[:top_k]
        rows, of_class = rows[order], of_class[order]
        class_boxes = boxes[rows] if boxes.ndim == 2 else boxes[rows, label]
        if method == "greedy":
            kept = ops.nms(class_boxes, of_class, nms_thresh)
            of_class = of_class[kept]
        else:
            kept, of_class = soft_nms(
                class_boxes,
                of_class,
                sigma=sigma if method == "soft" else None,
                iou_thresh=nms_thresh,
                min_score=min_score,
            )
        found.append(Ranking(label, rows, class_boxes, kept, of_class))
    return found


def best_first(ranked: Sequence[Ranking], scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return (order (n,), scores (n,)): all that NMS keeps, class after class, ranked together.

    `scores` (K, C) gives the dtype and device where nothing is kept.
    """
    kept = torch.cat([scores.new_empty(0), *(one.scores for one in ranked)])
    order = kept.sort(stable=True, descending=True).indices
    return order, kept[order]


def select(
    boxes: Tensor,
    scores: Tensor,
    *,
    score_thresh: float,
    nms_thresh: float,
    top_k: int,
    max_detections: int,
    method: NMSMethod = "greedy",
    sigma: float = 0.5,
    min_score: float = 0.001,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (boxes (N, 4), scores (N,), labels (N,)) of one image, best first.

    What `rankings` leaves of each class; over all classes the best `max_detections` are kept.
    `boxes` is (K, 4) or, class-specific, (K, C, 4); `scores` is (K, C).
    """
    if scores.is_cuda and method == "greedy":
        found = select_together(
            boxes,
            scores,
            score_thresh=score_thresh,
            nms_thresh=nms_thresh,
            top_k=top_k,
            max_detections=max_detections,
        )
        if found is not None:
            return found
    ranked = rankings(
        boxes,
        scores,
        score_thresh=score_thresh,
        nms_thresh=nms_thresh,
        top_k=top_k,
        method=method,
        sigma=sigma,
        min_score=min_score,
    )
    order, ordered = best_first(ranked, scores)
    best = order[:max_detections]
    kept = torch.cat([boxes.new_empty(0, 4), *(one.boxes[one.kept] for one in ranked)])
    labels = [one.label for one in ranked for _ in range(len(one.kept))]
    of_class = torch.tensor(labels, dtype=torch.int64, device=scores.device)
    return kept[best], ordered[:max_detections], of_class[best]


def select_together(
    boxes: Tensor,
    scores: Tensor,
    *,
    score_thresh: float,
    nms_thresh: float,
    top_k: int,
    max_detections: int,
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return what `select` does by greedy NMS, from a few operations on all classes at once.

    A GPU, which takes longer to be asked than to compute, is asked for some ten operations instead
    of as many a class, and is waited for twice. Each class's boxes are moved to a place of their
    own, where one NMS does for all of them; in float64, since in float32 their sides would lose
    digits there. None where more than `MOST_TOGETHER` boxes are to be compared with each other.
    """
    ranked, rows = scores.t().sort(dim=1, stable=True, descending=True)
    ranked, rows = ranked[:, :top_k], rows[:, :top_k]
    labels, ranks = (ranked > score_thresh).nonzero(as_tuple=True)  # class after class
    if not 0 < len(labels) <= MOST_TOGETHER:
        empty = boxes.new_empty(0, 4), scores.new_empty(0), labels
        return None if len(labels) else empty
    rows, of_class = rows[labels, ranks], ranked[labels, ranks]
    found = (boxes[rows] if boxes.ndim == 2 else boxes[rows, labels]).double()
    apart = found + (labels * (found.amax() - found.amin() + 1))[:, None]
    kept = ops.nms(apart, of_class.double(), nms_thresh)[:max_detections]
    return found[kept].to(boxes.dtype), of_class[kept], labels[kept]
