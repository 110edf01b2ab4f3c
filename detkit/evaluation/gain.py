"""What another way of looking at the images brings a model: tiles, or test-time augmentation.

Shape shorthand: R objects of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detkit.evaluation.scores import errors_of
from detkit.evaluation.sizes import SizeScore, scores_by_size
from detkit.structures import BoolArray, Detections, Scores, Truth


@dataclass(frozen=True)
class Looked:
    """What a model found by one way of looking, and the seconds it took."""

    name: str  # "plain", "tiles of 640 px"
    detections: Sequence[Detections]
    scores: Scores
    seconds: float


@dataclass(frozen=True)
class FoundOnly:
    """An object that one way of looking found and the other did not."""

    image_id: str
    place: int  # among the image's objects
    label: str
    box: tuple[float, float, float, float]  # own pixels


@dataclass(frozen=True)
class Gain:
    """Two ways of looking, side by side."""

    before: Looked
    after: Looked
    sizes_before: Sequence[SizeScore]
    sizes_after: Sequence[SizeScore]
    only_after: Sequence[FoundOnly]
    only_before: Sequence[FoundOnly]

    @property
    def time_ratio(self) -> float:
        """Return how many times the seconds of the first way the second one takes."""
        return self.after.seconds / max(self.before.seconds, 1e-9)


def gain_of(
    before: Looked, after: Looked, truths: Sequence[Truth], class_names: Sequence[str]
) -> Gain:
    """Return what the second way brings over the first on the same images.

    An object is found when a detection of its class reaches the metric's IoU, as the error
    breakdown matches them; difficult ones are left out.
    """
    found = [
        errors_of(one.detections, truths, class_names, one.scores).found for one in (before, after)
    ]
    return Gain(
        before,
        after,
        scores_by_size(before.detections, truths, class_names),
        scores_by_size(after.detections, truths, class_names),
        _only(found[1], found[0], truths, class_names),
        _only(found[0], found[1], truths, class_names),
    )


def _only(
    found: Sequence[BoolArray],
    other: Sequence[BoolArray],
    truths: Sequence[Truth],
    class_names: Sequence[str],
) -> list[FoundOnly]:
    """Return the objects that are `found` and not so by the `other` way, (R,) an image each."""
    objects = []
    for mine, others, truth in zip(found, other, truths, strict=True):
        for place in np.flatnonzero(mine & ~others & ~truth.difficult).tolist():
            x1, y1, x2, y2 = truth.boxes[place].tolist()
            name = class_names[int(truth.labels[place])]
            objects.append(FoundOnly(truth.image_id, place, name, (x1, y1, x2, y2)))
    return objects


def gain_to_json(gain: Gain) -> dict[str, Any]:
    """Return both ways' figures and the objects that only one of them found, as JSON values."""
    return {
        "before": _looked(gain.before, gain.sizes_before),
        "after": _looked(gain.after, gain.sizes_after),
        "time_ratio": round(gain.time_ratio, 3),
        "found_only_after": [_object(one) for one in gain.only_after],
        "found_only_before": [_object(one) for one in gain.only_before],
    }


def _looked(looked: Looked, sizes: Sequence[SizeScore]) -> dict[str, Any]:
    """Return one way's figures as JSON values."""
    return {
        "name": looked.name,
        "mAP": looked.scores.mean,
        "seconds": round(looked.seconds, 3),
        "sizes": [
            {
                "size": one.name,
                "objects": one.num_truths,
                "AP": one.ap,
                "AP50": one.ap50,
                "recall": one.recall,
            }
            for one in sizes
        ],
    }


def _object(one: FoundOnly) -> dict[str, Any]:
    """Return an object as JSON values."""
    return {
        "image": one.image_id,
        "label": one.label,
        "box": [round(value, 3) for value in one.box],
    }
