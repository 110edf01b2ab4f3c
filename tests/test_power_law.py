"""The curve through scores of trainings on parts: known curves are found, intervals hold them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from detkit.comparison.power_law import Noise, fit, noise_of

SHARES = (0.25, 0.5, 1.0)


def power_law(x: float, c: float, gain: float) -> float:
    """Return a - b x^-c with y(1) = .6 and y(2) = .6 + gain; a logarithm where c is 0."""
    if c == 0:
        return 0.6 + gain * math.log2(x)
    b = gain / (1 - 2**-c)
    return 0.6 + b - b * x**-c


@pytest.mark.parametrize("c", [-0.3, 0.0, 0.5, 1.0])
def test_a_curve_without_noise_is_found_and_goes_on_as_it_does(c: float) -> None:
    ys = np.array([[power_law(x, c, 0.05) for x in SHARES]])
    curve = fit(SHARES, np.repeat(ys, 50, axis=0), Noise(1e-7, 3), 1.0)
    assert curve is not None
    assert set(curve.exponent) == {c}
    for x in (0.25, 1.0, 1.5, 2.0):
        found = curve.value(x)
        assert found.value == pytest.approx(power_law(x, c, 0.05), abs=1e-5)
        assert found.high - found.low < 1e-5
    assert curve.gain(2.0).value == pytest.approx(0.05, abs=1e-5)


def test_amounts_may_be_of_any_unit() -> None:
    rows = np.random.default_rng(0).normal(0.6, 0.02, (200, 6))
    xs = [x for x in SHARES for _ in range(2)]
    one = fit(xs, rows, Noise(0.02, 3), 1.0)
    other = fit([205 * x for x in xs], rows, Noise(0.02, 3), 205.0)
    assert one is not None and other is not None
    assert one.gain(2.0) == other.gain(410.0)


def test_the_noise_is_the_pooled_standard_deviation_within_levels() -> None:
    noise = noise_of(["a", "b", "a", "b", "b", "c"], np.array([0.1, 0.5, 0.3, 0.6, 0.7, 0.9]))
    # a: .1, .3 about .2, squares .02; b: .5, .6, .7 about .6, squares .02; c alone tells nothing
    assert noise is not None
    assert noise.degrees == 3
    assert noise.deviation == pytest.approx(math.sqrt(0.04 / 3))
    assert noise_of(["a", "b"], np.array([0.1, 0.5])) is None


def test_two_points_with_one_exponent_have_the_t_interval_of_textbooks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("detkit.comparison.power_law.EXPONENTS", (0.0,))
    # A logarithm through x = .5 and 1, two runs each: the slope is the difference of two means,
    # its standard error deviation x sqrt(1/2 + 1/2), with Student's t of 2 degrees.
    xs, ys = [0.5, 0.5, 1.0, 1.0], np.array([0.50, 0.52, 0.60, 0.63])
    noise = noise_of(xs, ys)
    assert noise is not None and noise.degrees == 2
    curve = fit(xs, np.repeat(ys[None], 40_000, axis=0), noise, 1.0)
    assert curve is not None
    found = curve.gain(2.0)
    assert found.value == pytest.approx(0.105, abs=0.001)
    half = 4.303 * noise.deviation  # the 97.5 % point of t with 2 degrees
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.05)


@pytest.mark.parametrize("c", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("gain", [0.0, 0.02, 0.06])
def test_intervals_hold_the_true_gain_about_as_often_as_they_say(c: float, gain: float) -> None:
    random = np.random.default_rng(7)
    xs = [x for x in SHARES for _ in range(2)]
    truth = np.array([power_law(x, c, gain) for x in xs])
    rising = np.log2(xs)
    held, trials = 0, 150
    for trial in range(trials):
        # Chance in training, of each run; chance in the images, of all runs alike: it lifts the
        # curve, and tilts it.
        lift, tilt = random.normal(0, [0.02, 0.008])
        seen = truth + random.normal(0, 0.015, len(xs)) + lift + tilt * rising
        drawn = random.normal(0, [0.02, 0.008], (300, 2))
        rows = seen + drawn[:, :1] + drawn[:, 1:] * rising
        noise = noise_of(xs, seen)
        assert noise is not None
        curve = fit(xs, rows, noise, 1.0, seed=trial)
        assert curve is not None
        found = curve.gain(2.0)
        held += found.low <= gain <= found.high
    assert held / trials >= 0.9


def test_a_flat_curve_holds_no_gain_and_a_steep_one_does_not() -> None:
    xs = [x for x in SHARES for _ in range(3)]
    noise = np.random.default_rng(3).normal(0, 0.01, (1, 9))
    steep = np.array([power_law(x, 0.3, 0.1) for x in xs])
    for truth, is_flat in ((np.full(9, 0.6), True), (steep, False)):
        rows = np.repeat(truth + noise, 500, axis=0)
        told = noise_of(xs, rows[0])
        assert told is not None
        curve = fit(xs, rows, told, 1.0)
        assert curve is not None
        found = curve.gain(2.0)
        assert (found.low <= 0 <= found.high) is is_flat


def test_what_is_not_known_is_left_out_and_one_amount_is_no_curve() -> None:
    rows = np.array([[0.5, 0.6], [np.nan, 0.7], [0.5, 0.6]])
    curve = fit([0.5, 1.0], rows, Noise(1e-9, 1), 1.0)
    assert curve is not None
    assert len(curve.level) == 2
    assert fit([1.0, 1.0], rows, Noise(0.1, 1), 1.0) is None
    assert fit([0.5, 1.0], rows[1:2], Noise(0.1, 1), 1.0) is None


def test_no_score_is_predicted_above_1_or_below_0() -> None:
    rows = np.repeat([[0.5, 0.7, 0.95]], 100, axis=0)
    curve = fit(SHARES, rows, Noise(0.01, 3), 1.0)
    assert curve is not None
    assert curve.value(64.0).high == 1.0
    assert curve.value(0.001).low == 0.0


def test_runs_that_agree_to_the_bit_are_no_reason_to_fail() -> None:
    curve = fit(SHARES, np.zeros((20, 3)), Noise(0.0, 3), 1.0)
    assert curve is not None
    assert curve.gain(2.0).value == 0.0
