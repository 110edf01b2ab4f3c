"""What more images, more objects of a class or more minutes would bring a model.

The trainings of `part_runs` are scored on the same images and the same draws of them, and a curve
(`power_law`) goes through their scores. It holds for a training of the same length: with more
images and no more minutes, each is seen less often.

Shape shorthand: R runs, S draws of the judged images, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from detkit.comparison.part_runs import PartRun, PartRuns
from detkit.comparison.power_law import Curve, Floats, Noise, fit, interval_of, noise_of
from detkit.comparison.runs import Outcome
from detkit.data.groups import Groups
from detkit.data.records import Dataset
from detkit.errors import DetkitError
from detkit.evaluation.average_precision import Draws
from detkit.evaluation.bootstrap import (
    Interval,
    draw_images,
    interval_to_json,
    mean_of_classes,
    resampled,
)
from detkit.evaluation.pairing import pair
from detkit.evaluation.scores import score
from detkit.predictions.readers import read_predictions

DRAWN_POINTS = 25  # of a curve on the page
FURTHEST = 2.0  # ours: what is asked beyond this many times what there is, is a guess


@dataclass(frozen=True, slots=True)
class Gain:
    """What more of one thing brings."""

    of: str  # "images", "minutes" or "objects"
    class_name: str | None  # whose objects
    now: float  # what there is: images or objects to train on, minutes of a training
    more: float
    score: float | None  # AP of the class, else mAP, with what there is: the mean over draws
    gain: Interval | None  # of that score; None where too few runs tell

    @property
    def value(self) -> float:
        """The gain, less than any where too few runs tell of it."""
        return -np.inf if self.gain is None else self.gain.value

    @property
    def is_told(self) -> bool:
        """Whether it can be told apart from none at all."""
        return self.gain is not None and not self.gain.low <= 0 <= self.gain.high


@dataclass(frozen=True, slots=True)
class Scored:
    """A training with its scores."""

    run: PartRun
    mean: float | None  # mAP
    classes: Mapping[str, float | None]  # AP


@dataclass(frozen=True, slots=True)
class Forecast:
    """What the smaller parts alone say of the whole, and what came out there."""

    num_images: int  # of the largest part that it is made from
    predicted: Interval  # the mean mAP of the whole's trainings
    came_out: float

    @property
    def holds(self) -> bool:
        """Whether what came out lies in the interval."""
        return self.predicted.low <= self.came_out <= self.predicted.high


@dataclass(frozen=True, slots=True)
class Point:
    """A place on a curve."""

    x: float
    y: Interval


@dataclass(frozen=True, slots=True)
class Gains:
    """The figures of all trainings, and what more of each thing would bring."""

    protocol: str
    num_judged: int  # images
    num_groups: int  # of them, as they are drawn
    samples: int  # draws
    scored: tuple[Scored, ...]
    mean: Interval | None  # mAP with all there is
    noise: Noise | None  # of mAP, in trainings alike
    gains: tuple[Gain, ...]
    forecast: Forecast | None
    curves: Mapping[str, tuple[Point, ...]]  # over images, over minutes

    @property
    def is_short(self) -> bool:
        """Whether the trainings are so short that twice their minutes bring more than images do."""
        images = max(one.value for one in self.gains if one.of == "images")
        return any(
            one.of == "minutes" and one.is_told and one.value > max(images, 0.0)
            for one in self.gains
        )


def gains_of(
    plan: PartRuns,
    outcomes: Sequence[Outcome],
    judged: Dataset,
    together: Groups,
    more: Sequence[int],
    *,
    metric: str = "voc07",
    iou_thresh: float | None = None,
    samples: int = 1000,
) -> Gains:
    """Return what more would bring: `more` images each, twice the minutes, twice a class's objects.

    `judged` holds the judged images as its split "all"; `together` are the groups in which they
    are drawn, by these images' paths. Runs that failed are left out. Raises DetkitError when no
    whole training, or no two trainings alike, are left.
    """
    names = judged.class_names
    records, truths = judged.splits["all"], judged.truths("all")
    draws = draw_groups([together.number_of[one.path] for one in records], samples)
    protocol, scored, figures = "", [], []
    for run, outcome in zip(plan.runs, outcomes, strict=True):
        if outcome.measured is None:
            continue
        found = read_predictions(outcome.cell.found, class_names=names)
        detections = pair(found, records, names).detections
        scores = score(detections, truths, names, metric, iou_thresh)
        protocol = scores.protocol
        scored.append(Scored(run, scores.mean, {one.name: one.ap for one in scores.classes}))
        figures.append(
            resampled(detections, truths, names, draws, metric=metric, iou_thresh=iou_thresh)
        )
    runs = [one.run for one in scored]
    levels = [(run.share, run.time_share) for run in runs]
    if (1.0, 1.0) not in levels or len(set(levels)) == len(levels):
        raise DetkitError(
            "too many trainings failed to tell what more would bring: one on all images and two "
            "alike are needed; mend what is told above and go on with --resume"
        )
    widening = widening_of(together.num_groups, samples)
    by_class = _widened(np.stack(figures), widening[:, None])  # (R, 1 + S, C)
    means = _widened(np.stack([mean_of_classes(one) for one in figures]), widening)  # (R, 1 + S)
    noise = noise_of(levels, means[:, 0])
    whole = next(run for run in runs if (run.share, run.time_share) == (1.0, 1.0))
    whole_mean = _mean_at(runs, means[:, 0], whole)
    images = _curve([run.num_images for run in runs], runs, means, whole.num_images, "images")
    minutes = _curve([run.minutes for run in runs], runs, means, whole.minutes, "minutes")
    gains = [_gain("images", None, whole.num_images, number, whole_mean, images) for number in more]
    gains.append(_gain("minutes", None, whole.minutes, whole.minutes, whole_mean, minutes))
    by_object = []
    for index, name in enumerate(names) if len(names) > 1 else ():
        own, now = by_class[:, :, index], whole.objects[name]
        xs = [run.objects[name] for run in runs]
        curve = _curve(xs, runs, own, now, "images") if now else None
        value = _mean_at(runs, own[:, 0], whole)
        by_object.append(_gain("objects", name, now, now, value, curve))
    gains += sorted(by_object, key=lambda one: one.value, reverse=True)
    return Gains(
        protocol,
        len(records),
        together.num_groups,
        samples,
        tuple(scored),
        None if images is None else images.value(whole.num_images),
        noise,
        tuple(gains),
        _forecast(runs, means[:, 0], whole, samples),
        {"images": _points(images), "minutes": _points(minutes)},
    )


def draw_groups(groups: Sequence[int], samples: int, seed: int = 0) -> Draws:
    """Return how often each image is drawn, (1 + S, I), when whole groups are drawn.

    `groups` numbers each image's group. The first row is the images as they are.
    """
    numbers, place = np.unique(np.asarray(groups, np.int64), return_inverse=True)
    return draw_images(len(numbers), samples, seed)[:, place]


def widening_of(num_groups: int, samples: int, seed: int = 2) -> Floats:
    """Return by how much more than the draws do (S,), figures of a few groups vary.

    The draws vary among the groups there are. Times sqrt(G / (G - 1)), and with Student's t of
    G - 1 degrees of freedom for the normal curve, they vary as those that the groups were taken
    from (after Hesterberg 2015, "What teachers should know about the bootstrap").
    """
    degrees = num_groups - 1
    random = np.random.default_rng(seed)
    widening: Floats = np.sqrt(num_groups / random.chisquare(degrees, samples))
    return widening


def _widened(figures: Floats, widening: Floats) -> Floats:
    """Return figures (R, 1 + S, ...) with their draws further from the first by `widening`."""
    own = figures[:, :1]
    return np.concatenate([own, own + (figures[:, 1:] - own) * widening], axis=1)


def gains_to_json(gains: Gains) -> dict[str, Any]:
    """Return the figures as JSON values; what there is none of is None."""
    forecast = gains.forecast
    return {
        "protocol": gains.protocol,
        "num_images": gains.num_judged,
        "num_groups": gains.num_groups,
        "bootstrap_samples": gains.samples,
        "mAP": interval_to_json(gains.mean),
        "spread": None if gains.noise is None else gains.noise.deviation,
        "more": [
            {
                "of": one.of,
                "class": one.class_name,
                "now": one.now,
                "more": one.more,
                "score": one.score,
                "gain": interval_to_json(one.gain),
                "told": one.is_told,
            }
            for one in gains.gains
        ],
        "forecast": None
        if forecast is None
        else {
            "num_images": forecast.num_images,
            "predicted": interval_to_json(forecast.predicted),
            "came_out": forecast.came_out,
            "holds": forecast.holds,
        },
        "runs": [
            {
                "name": one.run.name,
                "draw": one.run.draw,
                "images": one.run.num_images,
                "minutes": one.run.minutes,
                "objects": dict(one.run.objects),
                "mAP": one.mean,
                "classes": dict(one.classes),
            }
            for one in gains.scored
        ],
        "curves": {
            name: [{"x": point.x, **asdict(point.y)} for point in points]
            for name, points in gains.curves.items()
        },
    }


def _curve(
    xs: Sequence[float], runs: Sequence[PartRun], figures: Floats, here: float, axis: str
) -> Curve | None:
    """Return the curve over one way to have less, through figures (R, 1 + S).

    The spread is that of all runs, those of the other way, too. Runs without any of it are left
    out: they say nothing of how it goes on.
    """
    levels = [(run.share, run.time_share) for run in runs]
    known = ~np.isnan(figures[:, 0])
    noise = noise_of([one for one, is_known in zip(levels, known) if is_known], figures[known, 0])
    own = [
        place
        for place, run in enumerate(runs)
        if known[place] and xs[place] > 0 and (run.time_share == 1 or axis == "minutes")
        if run.share == 1 or axis == "images"
    ]
    if noise is None or not own:
        return None
    return fit([xs[place] for place in own], figures[own, 1:].T, noise, here)


def _mean_at(runs: Sequence[PartRun], values: Floats, whole: PartRun) -> float | None:
    """Return the mean of figures (R,) over the trainings on all images for all their time."""
    own = [
        value
        for run, value in zip(runs, values)
        if (run.share, run.time_share) == (whole.share, whole.time_share)
    ]
    mean = float(np.mean(own))
    return None if np.isnan(mean) else mean


def _gain(
    of: str,
    class_name: str | None,
    now: float,
    more: float,
    value: float | None,
    curve: Curve | None,
) -> Gain:
    gain = None if curve is None or value is None else curve.gain(now + more)
    return Gain(of, class_name, now, more, value, gain)


def _forecast(
    runs: Sequence[PartRun], means: Floats, whole: PartRun, samples: int
) -> Forecast | None:
    """Return what the parts alone say of the whole, on the judged images as they are."""
    full = [run.time_share == 1 for run in runs]
    parts = [place for place, run in enumerate(runs) if full[place] and run.share < 1]
    noise = noise_of([runs[place].share for place in parts], means[parts]) if parts else None
    came_out = _mean_at(runs, means, whole)
    if noise is None or came_out is None or np.isnan(means[parts]).any():
        return None
    largest = max(runs[place].num_images for place in parts)
    rows = np.repeat(means[None, parts], samples, axis=0)
    curve = fit([runs[place].num_images for place in parts], rows, noise, largest)
    if curve is None:
        return None
    number = sum(one and run.share == 1 for one, run in zip(full, runs))
    random = np.random.default_rng(1)
    chance = noise.draws(samples, random) / np.sqrt(number) * random.standard_normal(samples)
    drawn = np.clip(curve.at(whole.num_images) + chance, 0.0, 1.0)
    return Forecast(largest, interval_of(drawn), came_out)


def _points(curve: Curve | None) -> tuple[Point, ...]:
    """Return places of a curve from the smallest part to `FURTHEST` times what there is."""
    if curve is None:
        return ()
    xs = curve.here * np.geomspace(0.2, FURTHEST, DRAWN_POINTS)
    return tuple(Point(float(x), curve.value(float(x))) for x in xs)
