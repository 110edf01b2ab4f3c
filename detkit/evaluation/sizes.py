"""AP of small, medium and large objects, as COCO divides them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detkit.evaluation.coco_map import coco_map
from detkit.structures import Detections, Truth

# COCO's areas in pixels, both ends included: an object of 32 x 32 is small and medium.
SIZES = (("small", 0.0, 32.0**2), ("medium", 32.0**2, 96.0**2), ("large", 96.0**2, np.inf))


@dataclass(frozen=True, slots=True)
class SizeScore:
    """The figures of the objects of one size, under COCO's protocol."""

    name: str
    num_truths: int  # difficult ones not counted
    ap: float | None  # mean over IoU .5 to .95
    ap50: float | None
    recall: float | None  # AR: mean over those IoU, at most 100 detections an image


def scores_by_size(
    detections: Sequence[Detections], truths: Sequence[Truth], class_names: Sequence[str]
) -> list[SizeScore]:
    """Return the figures of small, medium and large objects, by `Truth.areas`."""
    strict = coco_map(detections, truths, class_names).extra
    loose = coco_map(detections, truths, class_names, iou_thresh=0.5).extra
    areas = np.concatenate([np.empty(0), *(truth.areas[~truth.difficult] for truth in truths)])
    return [
        SizeScore(
            name=name,
            num_truths=int(((areas >= low) & (areas <= high)).sum()),
            ap=strict[f"AP{name[0]}"],
            ap50=loose[f"AP{name[0]}"],
            recall=strict[f"AR{name[0]}"],
        )
        for name, low, high in SIZES
    ]
