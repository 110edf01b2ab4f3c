"""Which boxes of an image a detector's losses judge, and which of them they teach anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from detkit.detector import Detector
from detkit.networks.rpn import RegionProposalNetwork
from detkit.structures import Batch

# Nothing is left to chance and nothing to the hardest: every box that may be judged is.
ALL_JUDGED = {
    "negatives_per_positive": 1e6,
    "anchors_per_image": 10**6,
    "rois_per_image": 10**6,
    "crops_per_batch": 10**6,
    "negative_range": (0.0, 0.5),
    "grid": 6,
}
Judged = tuple[Tensor, Tensor]  # boxes (K, 4) network pixels, (K,) bool: their scores learn


class Watched:
    """The inputs and the outputs of a module that learns, whose gradients are kept."""

    def __init__(self, module: nn.Module) -> None:
        self.inputs: list[Any] = []
        self.outputs: list[Tensor] = []
        module.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: Any, output: Any) -> None:
        logits = output[0] if isinstance(output, tuple) else output
        if logits.requires_grad:  # else it is of a network that rests
            logits.retain_grad()
            self.inputs.append(inputs)
            self.outputs.append(logits)

    @property
    def learns(self) -> list[Tensor]:
        """Which numbers of each output have a gradient, bool."""
        return [
            torch.zeros_like(one).bool() if one.grad is None else one.grad != 0
            for one in self.outputs
        ]


def learn(detector: Detector, batch: Batch) -> None:
    """Let every loss of the batch reach what it teaches."""
    torch.stack(list(detector(batch).values())).sum().backward()


def judged(detector: Detector, batch: Batch) -> list[Judged]:
    """Return the judged boxes of a batch of one image, a list entry for each kind of them."""
    return OF_BACKEND[detector.name](detector, batch)


def of_ssd(detector: Any, batch: Batch) -> list[Judged]:
    """Return the default boxes."""
    head = Watched(detector.class_head)
    learn(detector, batch)
    (boxes,) = detector._default_boxes.values()
    return [(boxes, head.learns[0][0].any(dim=1))]


def of_yolov1(detector: Any, batch: Batch) -> list[Judged]:
    """Return the cells, each as a speck around its centre."""
    head = Watched(detector.head)
    learn(detector, batch)
    grid, (height, width) = detector.config.grid, batch.sizes[0]
    centres = torch.tensor(
        [
            [(column + 0.5) * width / grid, (row + 0.5) * height / grid]
            for row in range(grid)
            for column in range(grid)
        ]
    )
    found = detector.split_cells(head.learns[0])
    return [(torch.cat([centres - 0.01, centres + 0.01], dim=1), found.confidences[0].any(dim=1))]


def of_rcnn(detector: Any, batch: Batch) -> list[Judged]:
    """Return the proposals."""
    layer, crops = Watched(detector.class_logits), detector.crops
    cut: list[Tensor] = []

    def record(cutter: Any, owners: Tensor, boxes: Tensor) -> Tensor:
        cut.append(boxes)
        return crops(cutter, owners, boxes)

    with patch.object(detector, "crops", record):
        learn(detector, batch)
    assert batch.proposals is not None
    (boxes,) = batch.proposals
    return [(boxes, rows_among(boxes, cut[0], *layer.learns))]


def of_fast_rcnn(detector: Any, batch: Batch) -> list[Judged]:
    """Return the proposals."""
    head = Watched(detector.head)
    learn(detector, batch)
    assert batch.proposals is not None
    (boxes,), rois = batch.proposals, head.inputs[0][1][0]
    return [(boxes, rows_among(boxes, rois, *head.learns))]


def of_faster_rcnn(detector: Any, batch: Batch) -> list[Judged]:
    """Return the anchors, if the step of training has them, and the proposals, if it has those."""
    objectness, head = Watched(detector.rpn.objectness), Watched(detector.head)
    proposed: list[Tensor] = []
    propose = RegionProposalNetwork.propose

    def record(self: RegionProposalNetwork, *args: Any, **options: Any) -> list[Tensor]:
        proposed[:] = propose(self, *args, **options)
        return list(proposed)

    with patch.object(RegionProposalNetwork, "propose", record):
        learn(detector, batch)
    found = []
    if objectness.outputs:
        (anchors,) = detector.rpn._anchors.values()
        learns = [one.permute(0, 2, 3, 1).flatten(1)[0] for one in objectness.learns]
        found.append((torch.cat(anchors), torch.cat(learns)))
    if head.outputs:
        rois = head.inputs[0][1][0]
        found.append((proposed[0], rows_among(proposed[0], rois, *head.learns)))
    return found


def rows_among(boxes: Tensor, sampled: Tensor, learns: Tensor) -> Tensor:
    """Return (K,) bool: which of (K, 4) boxes are among those of the sampled (r, 4) that learn."""
    taught = {tuple(box) for box in sampled[learns.any(dim=1)].tolist()}
    return torch.tensor([tuple(box) in taught for box in boxes.tolist()])


OF_BACKEND: dict[str, Callable[[Any, Batch], list[Judged]]] = {
    "ssd": of_ssd,
    "yolov1": of_yolov1,
    "rcnn": of_rcnn,
    "fast-rcnn": of_fast_rcnn,
    "faster-rcnn": of_faster_rcnn,
}


def share_inside(box: list[float], others: list[list[float]]) -> float:
    """Return how much of a box's area lies in one of the others at most, in [0, 1]."""
    x1, y1, x2, y2 = box
    shares = [
        max(0.0, min(x2, right) - max(x1, left)) * max(0.0, min(y2, bottom) - max(y1, top))
        for left, top, right, bottom in others
    ]
    return max(shares, default=0.0) / max((x2 - x1) * (y2 - y1), 1e-9)
