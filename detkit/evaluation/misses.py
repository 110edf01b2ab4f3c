"""Missed objects, the false negatives: at which of a detector's stages each was lost.

An object is lost at the stage after the last one that still had a box for it: a box of its
class, from the candidates on, whose IoU with it reaches that of a find. One that no stage had
a box for was lost at the first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from detkit.data.images import read_image
from detkit.proposals.source import source_for
from detkit.structures import BoolArray, Sample, Truth
from detkit.trace import Box, TraceStage

if TYPE_CHECKING:
    from detkit.data.records import Dataset
    from detkit.detector import Detector
    from detkit.proposals.source import ProposalSource

UNKNOWN = "classes", "the model does not know its class"
CLAIMED = "matching", "the box that reaches it counts for another object"


@dataclass(frozen=True, slots=True)
class Miss:
    """An object that was not found, and what became of its boxes."""

    image_id: str
    place: int  # among the image's objects
    label: str
    box: Box  # own pixels
    stage: str  # "nms"
    reason: str  # "its boxes are suppressed by NMS"
    detail: str  # the figures behind it, and what else stood in the way; "" if nothing did
    by: Box | None  # the box that threw the object's out, own pixels


def find_misses(
    detector: Detector,
    dataset: Dataset,
    split: str,
    found: Sequence[BoolArray],
    *,
    iou_thresh: float = 0.5,
    proposals: ProposalSource | None = None,
) -> Iterator[Miss]:
    """Yield the objects of a split that were not found, each with the stage that lost it.

    `found[i]` (R,) says which objects of image `i` were found, as `ErrorBreakdown.found` does;
    difficult ones do not count. The detector runs, in eval mode, on the images with misses
    alone. Raises DetkitError for an image that cannot be read.
    """
    source = source_for(detector, proposals)
    was_training = detector.training
    detector.eval()
    try:
        for record, truth, ok in zip(dataset.splits[split], dataset.truths(split), found):
            missed = np.flatnonzero(~ok & ~truth.difficult)
            if not len(missed):
                continue
            pixels = np.require(read_image(record.path), np.uint8, ["C", "W"])
            given = None if source is None else source(str(record.path), pixels).boxes
            known = {name: number for number, name in enumerate(detector.class_names)}
            labels = [known.get(dataset.class_names[label], -1) for label in truth.labels]
            traced = np.flatnonzero(np.array(labels, np.int64) >= 0)
            sample = Sample(
                image=torch.from_numpy(pixels).permute(2, 0, 1),
                boxes=torch.from_numpy(truth.boxes[traced]),
                labels=torch.tensor([labels[place] for place in traced], dtype=torch.int64),
                difficult=torch.from_numpy(truth.difficult[traced]),
                proposals=None if given is None else torch.from_numpy(given),
                image_id=record.image_id,
            )
            (stages,) = detector.trace(detector.prepare([sample]).to(detector.device), iou_thresh)
            row = {int(place): number for number, place in enumerate(traced)}
            for place in missed.tolist():
                name = dataset.class_names[int(truth.labels[place])]
                yield locate(truth, place, name, stages, row.get(place), record.image_id)
    finally:
        detector.train(was_training)


def locate(
    truth: Truth,
    place: int,
    label: str,
    stages: Sequence[TraceStage],
    row: int | None,
    image_id: str = "",
) -> Miss:
    """Return what became of the object at `place`, which is at `row` of the stages; None: unknown.

    `label` is the name of its class.
    """
    x1, y1, x2, y2 = truth.boxes[place].tolist()
    box = (x1, y1, x2, y2)
    if row is None:
        return Miss(image_id, place, label, box, *UNKNOWN, detail="", by=None)
    kept = [number for number, stage in enumerate(stages) if stage.kept[row]]
    last = kept[-1] if kept else -1
    if last == len(stages) - 1:
        name, reason, detail, by = *CLAIMED, "", None
    else:
        lost = stages[last + 1]
        name, reason, detail = lost.name, lost.loss, lost.details[row]
        by = lost.by[row] if lost.by else None
    also = [stage.loss for stage in stages[: max(last, 0)] if not stage.kept[row]]
    detail = "; also ".join(part for part in (detail, *also) if part)
    return Miss(image_id, place, label, box, name, reason, detail, by)


def count_by_stage(misses: Sequence[Miss]) -> list[tuple[str, str, int, dict[str, int]]]:
    """Return (stage, reason, number, number by class) for each stage, the most losses first."""
    counts = Counter((miss.stage, miss.reason) for miss in misses)
    return [
        (
            stage,
            reason,
            number,
            dict(Counter(miss.label for miss in misses if miss.stage == stage).most_common()),
        )
        for (stage, reason), number in counts.most_common()
    ]


def misses_to_json(misses: Sequence[Miss]) -> dict[str, Any]:
    """Return the numbers by stage and every miss, as JSON values."""
    return {
        "stages": [
            {"stage": stage, "reason": reason, "missed": number, "classes": classes}
            for stage, reason, number, classes in count_by_stage(misses)
        ],
        "objects": [
            {
                "image": miss.image_id,
                "label": miss.label,
                "box": [round(value, 3) for value in miss.box],
                "stage": miss.stage,
                "reason": miss.reason,
                "detail": miss.detail,
                "by": None if miss.by is None else [round(value, 3) for value in miss.by],
            }
            for miss in misses
        ],
    }
