"""Conventions of other evaluators, each a name that `--metric` takes behind its own: `voc07+NAME`.

A convention changes what is scored, the detections and the truth, or it is a variant of the metric,
which the metric then has in `Rules.variants`. All that is made of a metric follows: scores, gates,
intervals, baselines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from detkit.errors import UsageError
from detkit.evaluation.metrics import Change, Found, Rules, Wanted
from detkit.structures import Detections, Scores
from detkit.text import nearest_hint


@dataclass(frozen=True, slots=True)
class Convention:
    """One departure from a metric's own rules."""

    name: str
    words: str  # as `--explain` says it
    protocol: str  # the same, short
    change: Change | None = None  # of detections and truth; None: a variant of the metric


def _difficult_counted(detections: Found, truths: Wanted) -> tuple[Found, Wanted]:
    return detections, [replace(truth, difficult=truth.is_crowd) for truth in truths]


def _difficult_dropped(detections: Found, truths: Wanted) -> tuple[Found, Wanted]:
    return detections, [one.rows(~one.difficult) for one in truths]


def _end_pixels_inside(detections: Found, truths: Wanted) -> tuple[Found, Wanted]:
    step = np.array([0, 0, 1, 1], np.float32)
    return (
        [replace(found, boxes=found.boxes + step) for found in detections],
        [replace(truth, boxes=truth.boxes + step) for truth in truths],
    )


def _one_pixel_off(detections: Found, truths: Wanted) -> tuple[Found, Wanted]:
    return [replace(found, boxes=found.boxes + np.float32(1)) for found in detections], truths


def _counted_from_1(detections: Found, truths: Wanted) -> tuple[Found, Wanted]:
    step = np.array([1, 1, 0, 0], np.float32)
    return [replace(found, boxes=found.boxes - step) for found in detections], truths


def _whole_pixels(detections: Found, truths: Wanted) -> tuple[Found, Wanted]:
    # Halves up, as the 1-based corners of a result file are rounded.
    return [
        replace(found, boxes=np.floor(found.boxes + np.float32(0.5))) for found in detections
    ], (truths)


def _cut_at(least: float) -> Change:
    """Return the change that leaves out detections that score below `least`."""

    def cut(detections: Found, truths: Wanted) -> tuple[Found, Wanted]:
        return [
            Detections(one.boxes[keep], one.scores[keep], one.labels[keep], one.image_id)
            for one in detections
            for keep in [one.scores >= np.float32(least)]
        ], truths

    return cut


CONVENTIONS = (
    Convention(
        "count-difficult",
        "difficult objects counted like others",
        "difficult objects counted",
        _difficult_counted,
    ),
    Convention(
        "drop-difficult",
        "difficult objects dropped, finding them is wrong",
        "difficult objects dropped",
        _difficult_dropped,
    ),
    Convention(
        "end-pixels",
        "boxes with both end pixels (+1 pixel)",
        "boxes with both end pixels",
        _end_pixels_inside,
    ),
    Convention(
        "one-pixel-off",
        "detections one pixel off (1-based boxes read as 0-based)",
        "detections one pixel off",
        _one_pixel_off,
    ),
    Convention(
        "voc-pixels",
        "detections counted from 1 with both end pixels (VOC's, left as they are)",
        "detections counted from 1 with both end pixels",
        _counted_from_1,
    ),
    Convention(
        "whole-pixels",
        "detections rounded to whole pixels, as in many VOC result files",
        "detections in whole pixels",
        _whole_pixels,
    ),
    Convention(
        "best-free",
        "a detection takes the best object still free (COCO), not the best of all",
        "the best free object",
    ),
    Convention(
        "numpy-recalls",
        "recall points as NumPy's floats: .3, .6 and .7 are missed by a hair",
        "recall points as NumPy's floats",
    ),
    Convention(
        "matlab-recalls",
        "recall points as MATLAB's floats (VOC's kit): .3 is missed by a hair",
        "recall points as MATLAB's floats",
    ),
)
CUT = "cut"  # with a score behind it: cut=.5


def cut(least: float) -> Convention:
    """Return the convention of detections that were cut at a score."""
    words = f"detections cut at a score of {least:g}"
    return Convention(f"{CUT}={least:g}", words, words, _cut_at(least))


def with_conventions(rules: Rules, names: Sequence[str], metric: str) -> Rules:
    """Return the rules of a metric, `rules`, with these conventions; `metric` is the whole name.

    Raises UsageError for a name that is none, or that the metric cannot have.
    """
    changes: list[Change] = []
    words = []
    for name in names:
        one = _named(name, rules, metric)
        words.append(one.protocol)
        if one.change is None:
            rules = rules.variants[one.name]()
        else:
            changes.append(one.change)
    if rules.change is not None:
        changes.append(rules.change)

    def change(detections: Found, truths: Wanted) -> tuple[Found, Wanted]:
        for step in changes:
            detections, truths = step(detections, truths)
        return detections, truths

    own = rules

    def scored(
        detections: Found,
        truths: Wanted,
        class_names: Sequence[str],
        *,
        iou_thresh: float | None,
    ) -> Scores:
        scores = own.score(*change(detections, truths), class_names, iou_thresh=iou_thresh)
        return replace(scores, metric=metric, protocol=", ".join([scores.protocol, *words]))

    return replace(
        own,
        score=scored,
        ranked_hits=lambda found, wanted, *rest: own.ranked_hits(*change(found, wanted), *rest),
        change=change,
    )


def known_to(rules: Rules) -> list[Convention]:
    """Return the conventions that a metric of these rules can have, but for cuts."""
    return [one for one in CONVENTIONS if one.change is not None or one.name in rules.variants]


def _named(name: str, rules: Rules, metric: str) -> Convention:
    """Return the convention of a name; UsageError for one that there is not."""
    word, _, number = name.partition("=")
    if word == CUT:
        try:
            least = float(number)
        except ValueError:
            least = math.nan
        if math.isfinite(least):
            return cut(least)
        raise UsageError(f"--metric {metric}: {CUT} takes a score, like {CUT}=.5")
    known = {one.name: one for one in known_to(rules)}
    if name not in known:
        names = [*known, f"{CUT}=X"]
        hint = nearest_hint(name, names, f"choose from {', '.join(names)}")
        raise UsageError(f"--metric {metric}: {name!r} is no convention of this metric; {hint}")
    return known[name]
