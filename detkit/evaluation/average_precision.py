"""Average precision of one class's ranked detections, as they are and on a bootstrap's draws.

`voc07`: mean of the best precision at the recalls 0, .1, ..., 1, compared in integers, which is
ours: the kit (`VOCevaldet.m`) compares floats, by which three of ten objects fall short of the
recall .3; on VOC's own sets no class is as small. `voc12` (2010 and later): the area
under the monotone envelope of the curve. `auc`: before 2007 the kit drew the ROC curve for
the classification task (VOC2006 kit, `VOCroc.m`; detection never had one). Ours carries that
definition, the area under the lower envelope, over to ranked detections: the share of the
objects found at scores strictly above a false detection, averaged over the false detections;
without any it is the share found at all. It is blind to how many false ones there are.

On a draw a detection counts as often as its image was drawn (see `bootstrap`).

Shape shorthand: n ranked detections of a class, h of them right, S draws, s of them at once, I
images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detkit.evaluation.precision_recall import RankedHits
from detkit.structures import BoolArray, FloatArray, IntArray

VALUES_AT_ONCE = 4_000_000  # bounds the memory at some 100 MB

Draws = NDArray[np.int32]
Figures = NDArray[np.float64]
# A function of a ranking, draws (1 + S, I) and the number of objects (1 + S,): AP (1 + S,).
OnDraws = Callable[[RankedHits, Draws, IntArray], Figures]
# A function of: how many times each right detection counts, (s, h); how many objects are found
# and how many detections made with it, (s, h) each; the number of objects, (s, 1). AP (s,).
AtFinds = Callable[[Draws, Draws, Draws, IntArray], Figures]


@dataclass(frozen=True, slots=True)
class RankedAp:
    """An AP of ranked detections, whatever made them right or wrong."""

    metric: str  # that is its mean over classes: "voc07"
    protocol: str  # in words
    plain: Callable[[BoolArray, FloatArray, int], float]  # of hits, scores, number of objects > 0
    on_draws: OnDraws


def average_precision(
    hits: BoolArray, scores: FloatArray, num_truths: int, metric: str | RankedAp
) -> float | None:
    """Return the AP in [0, 1] of one class's ranked detections; None without ground truth.

    `hits` (n,) says which detections are right, best first; `scores` (n,) matter for `auc`.
    """
    return None if num_truths == 0 else ranked_ap(metric).plain(hits, scores, num_truths)


def ranked_ap(metric: str | RankedAp) -> RankedAp:
    """Return the AP of that name, or the one given."""
    return RANKED_APS[metric] if isinstance(metric, str) else metric


def at_finds(precision: AtFinds) -> OnDraws:
    """Return the AP on draws of which `precision` says what it is from the right detections."""

    def on_draws(ranked: RankedHits, draws: Draws, num_truths: IntArray) -> Figures:
        places = np.flatnonzero(ranked.hits)
        if not len(places):
            return np.zeros(len(draws))
        images = ranked.images[: places[-1] + 1]  # below the last find nothing matters
        parts = []
        for part, wanted in _in_parts(draws, num_truths, len(images)):
            made = np.cumsum(part[:, images], axis=1, dtype=np.int32)[:, places]
            times = part[:, images[places]]
            found = np.cumsum(times, axis=1, dtype=np.int32)
            parts.append(precision(times, found, made, wanted))
        return np.concatenate(parts)

    return on_draws


def envelope(found: Draws, made: Draws) -> Figures:
    """Return the best precision at each find or a later one, (s, h)."""
    precision = found / np.maximum(made, 1)
    best: Figures = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    return best


def newly_reached(reached: IntArray) -> IntArray:
    """Return how many recall points each find reaches that none before it did, (s, h)."""
    return np.diff(reached, axis=1, prepend=0)


def found_and_best(hits: BoolArray) -> tuple[IntArray, Figures]:
    """Return how many objects are found (n,), and the best precision (n,) from each rank on."""
    found: IntArray = np.cumsum(hits)
    precision = found / np.arange(1, len(hits) + 1)
    return found, np.maximum.accumulate(precision[::-1])[::-1]


def eleven_points(hits: BoolArray, scores: FloatArray, num_truths: int) -> float:
    """Return the mean, in [0, 1], of the best precision at the recalls 0, .1, ..., 1.

    VOC 2007's AP of (n,) hits, best first; `num_truths` is above 0.
    """
    found, best = found_and_best(hits)
    reached = np.searchsorted(10 * found, np.arange(11) * num_truths)
    return float(best[reached[reached < len(hits)]].sum() / 11)


def eleven_float_points(points: Figures, hits: BoolArray, num_truths: int) -> float:
    """Return the same mean with recalls compared as floats to the (11,) `points`.

    As VOC's kit and its ports do, where a point computed as .1 + .1 + .1 lies above .3.
    """
    found, best = found_and_best(hits)
    reached = np.searchsorted(found / num_truths, points)
    return float(best[reached[reached < len(hits)]].sum() / 11)


def _eleven_points_on_draws(times: Draws, found: Draws, made: Draws, wanted: IntArray) -> Figures:
    reached = np.minimum(10 * found // wanted, 10) + 1  # recall 0 is reached at once
    aps: Figures = (envelope(found, made) * newly_reached(reached)).sum(axis=1) / 11
    return aps


def area_under_curve(hits: BoolArray, scores: FloatArray, num_truths: int) -> float:
    """Return the area, in [0, 1], under the monotone envelope of precision over recall.

    VOC 2010's AP of (n,) hits, best first; `num_truths` is above 0.
    """
    return float(found_and_best(hits)[1][hits].sum() / num_truths)


def _area_on_draws(times: Draws, found: Draws, made: Draws, wanted: IntArray) -> Figures:
    aps: Figures = (envelope(found, made) * times).sum(axis=1) / wanted[:, 0]
    return aps


def roc_area(hits: BoolArray, scores: FloatArray, num_truths: int) -> float:
    """Return the area, in [0, 1], under the ROC curve's lower envelope (see the head of this file).

    Of (n,) hits, best first, and their (n,) scores; `num_truths` is above 0.
    """
    found = np.concatenate([[0], np.cumsum(hits)])
    if hits.all():
        return float(found[-1] / num_truths)
    higher = np.searchsorted(-scores, -scores[~hits], side="left")  # how many score above each
    return float(found[higher].mean() / num_truths)


def _roc_area_on_draws(ranked: RankedHits, draws: Draws, num_truths: IntArray) -> Figures:
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


def _in_parts(draws: Draws, num_truths: IntArray, width: int) -> Iterator[tuple[Draws, IntArray]]:
    """Yield so many draws at a time, with their (s, 1) objects, that (s, width) fits memory."""
    step = max(1, VALUES_AT_ONCE // max(1, width))
    for start in range(0, len(draws), step):
        end = start + step
        yield draws[start:end], np.maximum(num_truths[start:end, None], 1)


def _float_points(points: list[float]) -> RankedAp:
    """Return VOC 2007's AP with its recall points as these floats."""
    row = np.array(points)

    def on_draws(times: Draws, found: Draws, made: Draws, wanted: IntArray) -> Figures:
        reached = np.searchsorted(row, found / wanted, side="right")
        aps: Figures = (envelope(found, made) * newly_reached(reached)).sum(axis=1) / 11
        return aps

    return RankedAp(
        "voc07",
        "VOC 2007 11-point AP",
        lambda hits, scores, num_truths: eleven_float_points(row, hits, num_truths),
        at_finds(on_draws),
    )


# `np.arange(0, 1.1, .1)`, as VOC's ports have it; and MATLAB's `0:0.1:1`, which counts the second
# half down from its end.
NUMPY_RECALLS = _float_points([0.1 * point for point in range(11)])
MATLAB_RECALLS = _float_points(
    [0.1 * point if point <= 5 else 1 - 0.1 * (10 - point) for point in range(11)]
)
VOC07 = RankedAp("voc07", "VOC 2007 11-point AP", eleven_points, at_finds(_eleven_points_on_draws))
VOC12 = RankedAp(
    "voc12", "VOC 2010+ AP (area under the curve)", area_under_curve, at_finds(_area_on_draws)
)
AUC = RankedAp("auc", "area under the ROC curve of ranked detections", roc_area, _roc_area_on_draws)
RANKED_APS = {one.metric: one for one in (VOC07, VOC12, AUC)}
