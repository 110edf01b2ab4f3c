"""Gradients of a batch added up from its parts, where the whole of it does not fit into memory.

What the parts' losses are weighted with makes their sum the loss of the whole batch. What is drawn
by chance (regions, dropout) is drawn part by part, so that it differs; batch norm that still learns
sees a part. Both are as likely, but not the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from detkit.detector import Detector
from detkit.structures import Batch


def parts_of(batch: Batch, number: int) -> list[Batch]:
    """Return the batch cut into `number` runs of images, but none without an image.

    They keep the whole batch's padding. Longer runs come first.
    """
    size, number = len(batch), max(1, min(number, len(batch)))
    bounds = [0]
    for place in range(number):
        bounds.append(bounds[-1] + size // number + (place < size % number))
    return [_cut(batch, slice(*pair)) for pair in zip(bounds, bounds[1:])]


def _cut(batch: Batch, images: slice) -> Batch:
    """Return the batch with these of its images alone."""
    values: dict[str, Any] = {
        field.name: value[images]
        for field in dataclasses.fields(batch)
        if isinstance(value := getattr(batch, field.name), Tensor | list) and len(value)
    }
    return dataclasses.replace(batch, **values)


@torch.no_grad()
def part_weights(
    detector: Detector, parts: Sequence[Batch], share: float = 1.0
) -> list[dict[str, float]]:
    """Return the weight of each loss of each part; "" is that of losses not named.

    The parts are such a share of all devices' images. A loss is a mean over so many things as
    `Detector.loss_sizes` says, else over the images. The state of chance is left as it is.
    """
    device = parts[0].images.device
    sizes = []
    forked = {} if device.type == "cpu" else {"device_type": device.type}
    with torch.random.fork_rng([] if device.type == "cpu" else [device], **forked):
        for part in parts:
            detector.batch_share = share * len(part) / sum(map(len, parts))
            sizes.append({"": float(len(part)), **detector.loss_sizes(part)})
    detector.batch_share = 1.0
    totals = {name: sum(one[name] for one in sizes) for name in sizes[0]}
    return [{name: size / (totals[name] or 1.0) for name, size in one.items()} for one in sizes]
