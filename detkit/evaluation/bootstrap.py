"""How far mean AP, and the difference of two, would move on other images of the same kind.

The bootstrap (Efron 1979): images are drawn with replacement, as many as there are, again and
again, and each time AP is computed anew; what 95 % of these figures lie between is the
interval (percentiles). Two sets of detections are judged on the same draws, so that what makes
an image hard for both does not blur their difference: the paired bootstrap. It tells of chance
in the choice of test images alone, not of chance in training, which takes several seeds.

Matching an image's detections does not depend on the other images, so it is done once; a draw
only weighs the ranked detections by how often their image was drawn.

Shape shorthand: S draws, I images, C classes, n ranked detections of a class, h of them right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detkit.errors import UsageError
from detkit.evaluation import coco_map, voc_map
from detkit.evaluation.precision_recall import RankedHits
from detkit.structures import Detections, IntArray, Truth

VALUES_AT_ONCE = 4_000_000  # bounds the memory at some 100 MB
CONFIDENCE = 0.95

Draws = NDArray[np.int32]
Figures = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure, and what 95 % of the draws lie between."""

    value: float  # on the images as they are
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """Intervals of mean AP in [0, 1], and of the classes' APs, on draws of the same images."""

    samples: int
    mean: Interval | None  # None when no class has ground truth
    classes: list[Interval | None]  # as `class_names`; None without ground truth
    # Only where a second set of detections was given:
    other_mean: Interval | None = None
    other_classes: list[Interval | None] | None = None
    difference: Interval | None = None  # of the means, first minus second
    class_differences: list[Interval | None] | None = None


def bootstrap_map(
    detections: Sequence[Detections],
    truths: Sequence[Truth],
    class_names: Sequence[str],
    *,
    metric: str = "voc07",
    iou_thresh: float | None = None,
    samples: int = 1000,
    seed: int = 0,
    others: Sequence[Detections] | None = None,
) -> Bootstrap:
    """Return the bootstrap intervals of the mean AP of `detections[i]`, found where `truths[i]` is.

    With `others`, detections of the same images, also theirs and those of the difference.
    `metric` and `iou_thresh` are those of `evaluation.score`. Raises UsageError for an unknown
    metric or fewer than 1 sample, ValueError when the sequences differ in length.
    """
    draws = draw_images(len(truths), samples, seed)
    one = resampled(detections, truths, class_names, draws, metric=metric, iou_thresh=iou_thresh)
    mean, classes = _interval(mean_of_classes(one)), [_interval(column) for column in one.T]
    if others is None:
        return Bootstrap(samples, mean, classes)
    two = resampled(others, truths, class_names, draws, metric=metric, iou_thresh=iou_thresh)
    return Bootstrap(
        samples,
        mean,
        classes,
        other_mean=_interval(mean_of_classes(two)),
        other_classes=[_interval(column) for column in two.T],
        difference=_interval(mean_of_classes(one) - mean_of_classes(two)),
        class_differences=[_interval(column) for column in (one - two).T],
    )


def draw_images(num_images: int, samples: int, seed: int = 0) -> Draws:
    """Return how often each image is drawn, (1 + S, I); the first row is the images as they are.

    Raises UsageError for fewer than 1 sample.
    """
    if samples < 1:
        raise UsageError(f"{samples} bootstrap samples: must be at least 1")
    draws = np.ones((1 + samples, num_images), np.int32)
    if num_images:
        shares = np.full(num_images, 1 / num_images)
        draws[1:] = np.random.default_rng(seed).multinomial(num_images, shares, samples)
    return draws


def resampled(
    detections: Sequence[Detections],
    truths: Sequence[Truth],
    class_names: Sequence[str],
    draws: Draws,
    *,
    metric: str = "voc07",
    iou_thresh: float | None = None,
) -> Figures:
    """Return the AP of each class on each of `draw_images`' draws, (1 + S, C).

    NaN where a draw has no (non-difficult) object of a class. Raises as `bootstrap_map` does.
    """
    if metric not in _PRECISIONS:
        raise UsageError(f"--metric {metric}: choose from {', '.join(_PRECISIONS)}")
    if metric == "coco":
        ranked = coco_map.ranked_hits(detections, truths, len(class_names), iou_thresh)
    else:
        thresh = 0.5 if iou_thresh is None else iou_thresh
        voc = voc_map.ranked_hits(detections, truths, len(class_names), thresh)
        ranked = [[one] for one in voc]
    wanted = np.zeros((len(truths), len(class_names)), np.int32)
    for image, truth in enumerate(truths):
        np.add.at(wanted[image], truth.labels[~truth.difficult], 1)
    num_truths = draws @ wanted  # (1 + S, C)
    precision = _PRECISIONS[metric]
    figures = np.empty((len(draws), len(class_names)))
    for index, at_thresholds in enumerate(ranked):
        aps = [_weighted(one, draws, num_truths[:, index], precision) for one in at_thresholds]
        figures[:, index] = np.mean(aps, axis=0)
    return np.where(num_truths > 0, figures, np.nan)


def mean_of_classes(figures: Figures) -> Figures:
    """Return the mean AP of each draw, (1 + S,), over the classes it has objects of; else NaN."""
    known = ~np.isnan(figures)
    count = known.sum(axis=1)
    total = np.where(known, figures, 0.0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def interval_to_json(interval: Interval | None) -> dict[str, float] | None:
    """Return an interval as JSON values."""
    if interval is None:
        return None
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def _interval(figures: Figures) -> Interval | None:
    """Return the interval of the draws' figures, the first of which is the images' own."""
    if np.isnan(figures[0]):
        return None
    drawn = figures[1:][~np.isnan(figures[1:])]
    if not len(drawn):
        return None
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return Interval(float(figures[0]), float(low), float(high))


# --- average precision of weighted detections ---------------------------------------------
# A function of: how many times each right detection counts, (s, h); how many objects are found
# and how many detections made with it, (s, h) each; the number of objects, (s, 1).

_Precision = Callable[[Draws, Draws, Draws, IntArray], Figures]


def _weighted(
    ranked: RankedHits, draws: Draws, num_truths: IntArray, precision: _Precision | None
) -> Figures:
    """Return the AP of one class on each draw, (1 + S,)."""
    if precision is None:
        return _roc_areas(ranked, draws, num_truths)
    places = np.flatnonzero(ranked.hits)
    if not len(places):
        return np.zeros(len(draws))
    images = ranked.images[: places[-1] + 1]  # what is ranked below the last find does not matter
    parts = []
    for part, wanted in _in_parts(draws, num_truths, len(images)):
        made = np.cumsum(part[:, images], axis=1, dtype=np.int32)[:, places]
        times = part[:, images[places]]
        found = np.cumsum(times, axis=1, dtype=np.int32)
        parts.append(precision(times, found, made, wanted))
    return np.concatenate(parts)


def _in_parts(draws: Draws, num_truths: IntArray, width: int) -> Iterator[tuple[Draws, IntArray]]:
    """Yield so many draws at a time, with their (s, 1) objects, that (s, width) fits memory."""
    step = max(1, VALUES_AT_ONCE // max(1, width))
    for start in range(0, len(draws), step):
        end = start + step
        yield draws[start:end], np.maximum(num_truths[start:end, None], 1)


def _envelope(found: Draws, made: Draws) -> Figures:
    """Return the best precision at each find or a later one, (s, h)."""
    precision = found / np.maximum(made, 1)
    envelope: Figures = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    return envelope


def _newly_reached(reached: IntArray) -> IntArray:
    """Return how many recall points each find reaches that none before it did, (s, h)."""
    return np.diff(reached, axis=1, prepend=0)


def _voc07(times: Draws, found: Draws, made: Draws, wanted: IntArray) -> Figures:
    reached = np.minimum(10 * found // wanted, 10) + 1  # recall 0 is reached at once
    aps: Figures = (_envelope(found, made) * _newly_reached(reached)).sum(axis=1) / 11
    return aps


def _voc12(times: Draws, found: Draws, made: Draws, wanted: IntArray) -> Figures:
    aps: Figures = (_envelope(found, made) * times).sum(axis=1) / wanted[:, 0]
    return aps


def _coco(times: Draws, found: Draws, made: Draws, wanted: IntArray) -> Figures:
    points = np.linspace(0.0, 1.0, 101)
    reached = np.searchsorted(points, found / wanted, side="right")
    aps: Figures = (_envelope(found, made) * _newly_reached(reached)).sum(axis=1) / 101
    return aps


def _roc_areas(ranked: RankedHits, draws: Draws, num_truths: IntArray) -> Figures:
    """Return `auc` on each draw: see `voc_map`."""
    images, hits = ranked.images, ranked.hits
    wrong = np.flatnonzero(~hits)
    higher = np.searchsorted(-ranked.scores, -ranked.scores[wrong], side="left")
    parts = []
    for part, wanted in _in_parts(draws, num_truths, len(images)):
        found = np.zeros((len(part), len(images) + 1))
        np.cumsum(part[:, images] * hits, axis=1, out=found[:, 1:])
        times = part[:, images[wrong]]
        number = times.sum(axis=1)
        above = (found[:, higher] * times).sum(axis=1) / np.maximum(number, 1)
        parts.append(np.where(number > 0, above, found[:, -1]) / wanted[:, 0])
    return np.concatenate(parts)


_PRECISIONS: dict[str, Any] = {"voc07": _voc07, "voc12": _voc12, "auc": None, "coco": _coco}
