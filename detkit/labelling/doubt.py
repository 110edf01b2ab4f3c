"""How much a detector doubts what it found in an image, and which classes need objects most.

Active learning for detection as Brust, Kaeding and Denzler have it ("Active Learning for Deep
Object Detection", VISAPP 2019, arXiv:1809.09875): each detection's 1-vs-2 margin, summed over the
image, each weighted by how rare its class is. Roy, Unmesh and Namboodiri ("Deep Active Learning for
Object Detection", BMVC 2018) and Haussmann et al. ("Scalable Active Learning for Object
Detection", arXiv:2004.04699) take the entropy or the committee's quarrel instead of the margin: a
detection's one score is all that every detector here, and every file, has.

Shape shorthand: N detections of one image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEAST_SCORE = 0.1  # ours: what scores less is what NMS left over, and there are hundreds of it
DOUBTFUL = 0.25  # ours: of a detection's doubt; scores of .25 to .75


@dataclass(frozen=True, slots=True)
class Doubt:
    """What a detector doubts in one image."""

    total: float = 0.0  # the detections' doubts added up, at least 0
    need: float = 1.0  # how much their classes need objects, on average by doubt; 1: as others
    num_doubtful: int = 0  # detections
    neediest: str | None = None  # the class among the doubtful ones that needs objects most


def detection_doubts(scores: ArrayLike) -> NDArray[np.float64]:
    """Return how doubtful detections (N,) are, 0 to 1: 1 at a score of .5.

    It is (1 - (p1 - p2))^2 (the 1-vs-2 margin of Brust et al.), where the second class is
    the background: p1 and p2 are the score and what is left of 1, the larger first. Scores beyond
    0 and 1 count as these. Below `LEAST_SCORE` there is no doubt.
    """
    probs = np.clip(np.asarray(scores, np.float64), 0.0, 1.0)
    doubts = (1.0 - np.abs(2.0 * probs - 1.0)) ** 2
    return np.asarray(np.where(probs < LEAST_SCORE, 0.0, doubts), np.float64)


def image_doubt(labels: Sequence[str], scores: ArrayLike, needs: Mapping[str, float]) -> Doubt:
    """Return the doubt of an image with these N detections; a class not in `needs` needs 1.

    `total` times `need` is the weighted sum of Brust et al.
    """
    doubts = detection_doubts(scores)
    if not doubts.any():
        return Doubt()
    weights = np.array([needs.get(label, 1.0) for label in labels])
    doubtful = [label for label, doubt in zip(labels, doubts) if doubt >= DOUBTFUL]
    return Doubt(
        total=float(doubts.sum()),
        need=float(doubts @ weights / doubts.sum()),
        num_doubtful=len(doubtful),
        neediest=max(doubtful, key=lambda label: needs.get(label, 1.0), default=None),
    )


def class_needs(
    class_names: Sequence[str],
    counts: Mapping[str, int] | None = None,
    aps: Mapping[str, float | None] | None = None,
) -> dict[str, float]:
    """Return how much each class needs objects; 1 is a class as frequent as the average.

    `counts` are the labelled objects of each class. Of S objects in C classes, n of this one, Brust
    et al. weigh by (S + C) / (n + 1); here it is the root of that over C: else one
    glimpse of a class without any object is worth more than all other doubt. A class's AP in `aps`
    makes it 1.5 times as needy at 0, half as needy at 1 (ours).
    """
    needs = dict.fromkeys(class_names, 1.0)
    if counts is not None:
        total, num = sum(counts.get(name, 0) for name in needs), len(needs)
        for name in needs:
            needs[name] = float(np.sqrt((total + num) / num / (counts.get(name, 0) + 1)))
    for name, ap in (aps or {}).items():
        if name in needs and ap is not None:
            needs[name] *= 1.5 - min(max(ap, 0.0), 1.0)
    return needs
