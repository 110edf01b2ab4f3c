"""Bootstrap intervals of mean AP, and of the difference of two: other images of the same kind.

The bootstrap (Efron 1979): images are drawn with replacement, as many as there are, again and
again, and each time AP is computed anew; what 95 % of these figures lie between is the
interval (percentiles). Two sets of detections are scored on the same draws, so that what makes
an image hard for both does not blur their difference: the paired bootstrap. It tells of chance
in the choice of test images alone, not of chance in training, which takes several seeds.

Matching an image's detections does not depend on the other images, so it is done once; a draw
only weighs the ranked detections by how often their image was drawn.

Shape shorthand: S draws, I images, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detkit.errors import UsageError
from detkit.evaluation.average_precision import Draws, Figures
from detkit.evaluation.metrics import find_metric
from detkit.structures import Detections, Truth

CONFIDENCE = 0.95


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
    # Of the means, first minus second; only where a second set of detections was given.
    difference: Interval | None = None


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

    With `others`, detections of the same images, also that of the difference.
    `metric` and `iou_thresh` are those of `scores.score`. Raises UsageError for an unknown
    metric or fewer than 1 sample, ValueError when the sequences differ in length.
    """
    draws = draw_images(len(truths), samples, seed)
    one = resampled(detections, truths, class_names, draws, metric=metric, iou_thresh=iou_thresh)
    mean, classes = interval(mean_of_classes(one)), [interval(column) for column in one.T]
    if others is None:
        return Bootstrap(samples, mean, classes)
    two = resampled(others, truths, class_names, draws, metric=metric, iou_thresh=iou_thresh)
    difference = interval(mean_of_classes(one) - mean_of_classes(two))
    return Bootstrap(samples, mean, classes, difference)


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
    own = find_metric(metric)
    rules = own.rules
    ranked = rules.ranked_hits(detections, truths, len(class_names), own.iou(iou_thresh))
    if rules.change is not None:  # which `ranked_hits` makes by itself
        _, truths = rules.change(detections, truths)
    wanted = np.zeros((len(truths), len(class_names)), np.int32)
    for image, truth in enumerate(truths):
        np.add.at(wanted[image], truth.labels[~truth.difficult], 1)
    num_truths = draws @ wanted  # (1 + S, C)
    figures = np.empty((len(draws), len(class_names)))
    for index, at_thresholds in enumerate(ranked):
        aps = [rules.on_draws(one, draws, num_truths[:, index]) for one in at_thresholds]
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


def interval(figures: Figures) -> Interval | None:
    """Return the interval of the draws' figures, the first of which is the images' own."""
    if np.isnan(figures[0]):
        return None
    drawn = figures[1:][~np.isnan(figures[1:])]
    if not len(drawn):
        return None
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return Interval(float(figures[0]), float(low), float(high))
