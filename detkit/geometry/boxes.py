"""Arithmetic on boxes: area, IoU, clipping, formats, and the regression targets.

Shape shorthand: N, M boxes. All boxes are float `(x1, y1, x2, y2)`, 0-based, half-open,
unless a name says `cxcywh` (centre x, centre y, width, height).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchvision.ops import box_area, box_convert, box_iou, clip_boxes_to_image

__all__ = [
    "area",
    "clip",
    "cxcywh_to_xyxy",
    "decode",
    "encode",
    "iou",
    "xyxy_to_cxcywh",
]

# A decoded box may be at most this many times larger than its reference (the released code
# of Fast R-CNN's successors: log(1000 / 16)); keeps exp() finite for an untrained network.
MAX_LOG_SCALE = math.log(1000.0 / 16.0)


def area(boxes: Tensor) -> Tensor:
    """Return the areas, (N,), of (N, 4) boxes."""
    areas: Tensor = box_area(boxes)
    return areas


def iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the intersection over union, (N, M) in [0, 1], of (N, 4) and (M, 4) boxes.

    Two boxes without area have IoU 0, never NaN.
    """
    overlaps: Tensor = box_iou(boxes, others).nan_to_num_(0.0)
    return overlaps


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the (..., 4) boxes cut at the borders of an image of `size` (height, width)."""
    inside: Tensor = clip_boxes_to_image(boxes, size)
    return inside


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Return (..., 4) corner boxes of (..., 4) centre-and-size boxes."""
    corners: Tensor = box_convert(boxes, "cxcywh", "xyxy")
    return corners


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Return (..., 4) centre-and-size boxes of (..., 4) corner boxes."""
    centred: Tensor = box_convert(boxes, "xyxy", "cxcywh")
    return centred


def encode(
    boxes: Tensor, references: Tensor, variances: tuple[float, float, float, float] = (1, 1, 1, 1)
) -> Tensor:
    """Return the (N, 4) deltas that turn the `references` into the `boxes`.

    R-CNN appendix C, eqs. 6-9; Faster R-CNN eq. 2; SSD eq. 2:
    `dx = (x - xr) / wr`, `dy` alike, `dw = log(w / wr)`, `dh` alike, each divided by one of the
    `variances`, as SSD's released code calls what are standard deviations. Sizes below a
    thousandth of a pixel count as that, so a box without area encodes to something finite.
    """
    cx, cy, w, h = xyxy_to_cxcywh(boxes).unbind(-1)
    rx, ry, rw, rh = xyxy_to_cxcywh(references).unbind(-1)
    tiny = 1e-3
    rw, rh = rw.clamp(min=tiny), rh.clamp(min=tiny)
    deltas = (
        (cx - rx) / rw,
        (cy - ry) / rh,
        (w.clamp(min=tiny) / rw).log(),
        (h.clamp(min=tiny) / rh).log(),
    )
    # Divided by numbers: a tensor of them would have to be sent to a GPU, which waits for it.
    return torch.stack([one / by for one, by in zip(deltas, variances, strict=True)], dim=-1)


def decode(
    deltas: Tensor, references: Tensor, variances: tuple[float, float, float, float] = (1, 1, 1, 1)
) -> Tensor:
    """Return the (..., 4) boxes that (..., 4) deltas make of the references: `encode` undone.

    R-CNN appendix C, eqs. 1-4. `dw` and `dh` are cut at `MAX_LOG_SCALE`.
    """
    dx, dy, dw, dh = (one * by for one, by in zip(deltas.unbind(-1), variances, strict=True))
    rx, ry, rw, rh = xyxy_to_cxcywh(references).unbind(-1)
    cx, cy = dx * rw + rx, dy * rh + ry
    half_w = 0.5 * rw * dw.clamp(max=MAX_LOG_SCALE).exp()
    half_h = 0.5 * rh * dh.clamp(max=MAX_LOG_SCALE).exp()
    return torch.stack([cx - half_w, cy - half_h, cx + half_w, cy + half_h], dim=-1)
