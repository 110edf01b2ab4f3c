"""What a score would be with more of something: images, objects of a class, minutes.

A learning curve is close to a power law, y(x) = a - b x^-c (Hestness et al. 2017, "Deep Learning
Scaling is Predictable, Empirically"). Few points on it do not tell its exponent c, and no one
shape extrapolates best (Mahmood et al. 2022, "How Much More Data Do I Need?"). So there is a curve
for each of `EXPONENTS` (0 is a logarithm), and each weighs as well as it fits: by its likelihood,
as models of equally many parameters do by Akaike's weights (Burnham and Anderson 2002).

Two doubts go into an interval, both drawn S times:

- chance in the choice of the images that are judged: the figures are those of the bootstrap's
  draws, the same draws for all runs, so what makes an image hard for all of them cancels out;
- chance in training and in which images a part holds: from runs that differ in nothing else
  (`noise_of`), with as few degrees of freedom as there are (Student's t).

The curve may fall as well as rise: an interval that holds 0 says that no gain can be told.

Shape shorthand: R runs, S draws, E exponents.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detkit.evaluation.bootstrap import CONFIDENCE, Interval

Floats = NDArray[np.float64]

# Hestness et al. found .07 to .35 for the errors of networks on large sets, and a "small data
# region" before, where more brings little at first: below 0. A detector that starts from
# pretrained features is near its best soon: up to 1.4.
EXPONENTS = (-0.3, -0.15, 0.0, 0.15, 0.3, 0.5, 0.7, 1.0, 1.4)


@dataclass(frozen=True, slots=True)
class Noise:
    """The spread of figures over runs that differ by chance alone."""

    deviation: float  # standard deviation of one run's figure
    degrees: int  # of freedom

    def draws(self, number: int, random: np.random.Generator) -> Floats:
        """Return standard deviations (S,) that could have made what was seen."""
        return self.deviation * np.sqrt(self.degrees / random.chisquare(self.degrees, number))


@dataclass(frozen=True, slots=True)
class Curve:
    """Draws of the power law through some runs: where it is at `here`, and how it goes on."""

    here: float  # the x that gains are counted from
    level: Floats  # (S,) y at `here`
    slope: Floats  # (S,) what a doubling of x brings, from `here` on
    exponent: Floats  # (S,)

    def at(self, x: float) -> Floats:
        """Return the draws (S,) of y at x, cut to [0, 1]."""
        return np.clip(self.level + self.slope * _rise(x / self.here, self.exponent), 0.0, 1.0)

    def value(self, x: float) -> Interval:
        """Return y at x: the median of the draws, and what 95 % of them lie between."""
        return interval_of(self.at(x))

    def gain(self, x: float) -> Interval:
        """Return what x brings over `here`."""
        return interval_of(self.at(x) - np.clip(self.level, 0.0, 1.0))


def noise_of(levels: Sequence[Hashable], figures: Floats) -> Noise | None:
    """Return the spread of figures (R,) within runs of the same level, pooled over the levels.

    None when no level has two runs.
    """
    squares, degrees = 0.0, 0
    for level in dict.fromkeys(levels):
        own = figures[[one == level for one in levels]]
        squares += float(((own - own.mean()) ** 2).sum())
        degrees += len(own) - 1
    return None if degrees < 1 else Noise(float(np.sqrt(squares / degrees)), degrees)


def fit(
    xs: Sequence[float], figures: Floats, noise: Noise, here: float, *, seed: int = 0
) -> Curve | None:
    """Return the curve through runs at `xs` (R,) with `figures` (S, R), a row a draw.

    A row with a figure that is not known (NaN) is left out. None when fewer than two different
    xs, or no row, are left.
    """
    known = ~np.isnan(figures).any(axis=1)
    rows = figures[known]
    if len(set(xs)) < 2 or not len(rows):
        return None
    random = np.random.default_rng(seed)
    deviations = noise.draws(len(rows), random)
    exponents = np.array(EXPONENTS)
    ratios = np.asarray(xs, np.float64) / here
    rises = np.stack([_rise(ratios, np.full(len(ratios), one)) for one in exponents])  # (E, R)
    middles = rises.mean(axis=1)
    centred = rises - middles[:, None]
    lengths = (centred**2).sum(axis=1)  # (E,)
    means = rows.mean(axis=1)
    slopes = (rows - means[:, None]) @ centred.T / lengths  # (S, E), least squares
    left = ((rows - means[:, None]) ** 2).sum(axis=1)[:, None] - slopes**2 * lengths
    fits = -left / (2 * np.maximum(deviations, 1e-12)[:, None] ** 2)
    chosen = _one_each(fits, random)
    each = np.arange(len(rows))
    error = deviations / np.sqrt(lengths[chosen])
    slope = slopes[each, chosen] + error * random.standard_normal(len(rows))
    middle = means + deviations / np.sqrt(len(xs)) * random.standard_normal(len(rows))
    level = middle - slope * middles[chosen]
    return Curve(here, level, slope, exponents[chosen])


def _rise(ratio: Floats | float, exponent: Floats) -> Floats:
    """Return how far a curve that rises by 1 with the first doubling rises to `ratio` times x.

    That is (1 - ratio^-c) / (1 - 2^-c), and log2(ratio) where c is 0.
    """
    ratio = np.asarray(ratio, np.float64)
    safe = np.where(exponent == 0, 1.0, exponent)
    return np.where(exponent != 0, (1 - ratio**-safe) / (1 - 2**-safe), np.log2(ratio))


def _one_each(fits: Floats, random: np.random.Generator) -> NDArray[np.intp]:
    """Return a column for each row of log likelihoods (S, E), drawn as often as it is likely."""
    weights = np.exp(fits - fits.max(axis=1, keepdims=True))
    steps = np.cumsum(weights, axis=1) / weights.sum(axis=1, keepdims=True)
    columns = (steps < random.random((len(fits), 1))).sum(axis=1)
    return np.asarray(columns.clip(max=fits.shape[1] - 1), np.intp)


def interval_of(draws: Floats) -> Interval:
    """Return the median of draws (S,), and what 95 % of them lie between."""
    tail = 100 * (1 - CONFIDENCE) / 2
    low, middle, high = np.percentile(draws, [tail, 50, 100 - tail])
    return Interval(float(middle), float(low), float(high))
