"""Four training images put together to one: small sets look larger, and small objects appear.

Shape shorthand: R boxes, P proposals, H x W own pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from detkit.config import IMAGENET_MEAN
from detkit.structures import Sample

Span = tuple[int, int]  # from the first pixel to the one after the last
MEAN_COLOUR = tuple(round(255 * value) for value in IMAGENET_MEAN)


def mosaic(
    samples: Sequence[Sample],
    size: tuple[int, int],
    *,
    scale: tuple[float, float] = (0.5, 1.0),
    min_visible: float = 0.2,
    fill: Sequence[int] = MEAN_COLOUR,
) -> Sample:
    """Return one sample of `size` (height, width) that shows parts of four.

    YOLOv4 sec. 3.3 (arXiv:2004.10934). The canvas is divided at a point drawn from its middle
    half. Each image is stretched to the canvas, as SSD's input is, times a number drawn from
    `scale`, and a window of it drawn at random fills its quarter; one that is too small stands
    at the dividing point, with the RGB colour `fill` around. Boxes are clipped; those of which
    less than the share `min_visible` of the area or less than 2 pixels is seen are dropped, ignored
    ones only for the latter.
    Proposals are taken in turns, the best of each image first, as many as one image has at most.

    Raises ValueError unless there are four samples.
    """
    if len(samples) != 4:
        raise ValueError(f"a mosaic takes 4 samples, not {len(samples)}")
    height, width = size
    middle_x = int(width * _uniform(0.25, 0.75))
    middle_y = int(height * _uniform(0.25, 0.75))
    canvas = torch.tensor(fill, dtype=torch.uint8).expand(height, width, 3).clone()
    canvas = canvas.permute(2, 0, 1)
    columns = (0, middle_x), (middle_x, width)
    rows = (0, middle_y), (middle_y, height)
    parts = []
    for index, sample in enumerate(samples):
        zoom = _uniform(*scale)
        row, column = divmod(index, 2)
        x, seen_x = _fit(columns[column], sample.image.shape[2], zoom * width, column == 0)
        y, seen_y = _fit(rows[row], sample.image.shape[1], zoom * height, row == 0)
        if x[1] > x[0] and y[1] > y[0]:
            piece = sample.image[:, slice(*seen_y), slice(*seen_x)]
            canvas[:, slice(*y), slice(*x)] = F.resize(
                piece, [y[1] - y[0], x[1] - x[0]], antialias=True
            )
            parts.append(_moved(sample, (seen_x, seen_y), (x, y), min_visible))
    proposals = [part.proposals for part in parts if part.proposals is not None]
    most = max(0 if one.proposals is None else len(one.proposals) for one in samples)
    return Sample(
        image=canvas,
        boxes=torch.cat([part.boxes for part in parts]),
        labels=torch.cat([part.labels for part in parts]),
        difficult=torch.cat([part.difficult for part in parts]),
        ignored=torch.cat([part.is_ignored for part in parts]),
        proposals=_in_turns(proposals)[:most] if len(proposals) == len(parts) else None,
        image_id="+".join(sample.image_id for sample in samples),
    )


def _fit(room: Span, side: int, scaled_side: float, at_end: bool) -> tuple[Span, Span]:
    """Return which span of the room is covered, and which span of the image's side covers it."""
    start, end = room
    scaled = max(1, round(scaled_side))
    if scaled <= end - start:
        return ((end - scaled, end) if at_end else (start, start + scaled)), (0, side)
    length = min(side, max(1, round(side * (end - start) / scaled)))
    offset = int(_uniform(0, side - length + 1))
    return room, (offset, offset + length)


def _moved(
    sample: Sample, window: tuple[Span, Span], place: tuple[Span, Span], min_visible: float
) -> Sample:
    """Return the sample, boxes on the canvas: the window (x, y) of it fills the place (x, y)."""
    starts, ends = (torch.tensor(side).repeat(2) for side in zip(*window))
    low, high = (torch.tensor(side).repeat(2) for side in zip(*place))
    scales = (high - low) / (ends - starts)
    whole = (sample.boxes - starts) * scales + low
    seen = whole.clamp(low, high)
    share = _sides(seen).prod(1) / _sides(whole).prod(1)
    keep = ((share >= min_visible) | sample.is_ignored) & (_sides(seen) >= 2).all(1)
    proposals = sample.proposals
    if proposals is not None:
        proposals = ((proposals - starts) * scales + low).clamp(low, high)
        proposals = proposals[(_sides(proposals) >= 1).all(1)]
    return replace(
        sample,
        boxes=seen[keep],
        labels=sample.labels[keep],
        difficult=sample.difficult[keep],
        ignored=sample.is_ignored[keep],
        proposals=proposals,
    )


def _in_turns(ranked: Sequence[Tensor]) -> Tensor:
    """Return all boxes of several (P, 4): the first of each, the second of each, and so on."""
    ranks = torch.cat([torch.arange(len(boxes)) for boxes in ranked])
    return torch.cat(list(ranked))[ranks.argsort(stable=True)]


def _sides(boxes: Tensor) -> Tensor:
    """Return the (R, 2) widths and heights of (R, 4) boxes."""
    return boxes[:, 2:] - boxes[:, :2]


def _uniform(low: float, high: float) -> float:
    """Return a number drawn from [low, high) by torch's global generator."""
    return low + (high - low) * float(torch.rand(()))
