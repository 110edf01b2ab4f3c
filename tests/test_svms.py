"""SVMs, ridge regressions and samples against plain loops and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from detkit.networks.box_regression import Reservoir, fit_ridge
from detkit.networks.svms import MinedSVM, SVMSettings, fit_svm
from detkit.structures import FloatArray

SETTINGS = SVMSettings(
    c=0.05,
    positive_weight=2.0,
    bias_scale=10.0,
    hard_margin=-1.0001,
    easy_margin=-1.2,
    retrain_after=40,
)


def two_clouds(seed: int = 0, negatives: int = 300) -> tuple[FloatArray, FloatArray]:
    random = np.random.default_rng(seed)
    near = random.normal(1.0, 1.0, (30, 5)).astype(np.float32)
    far = random.normal(-1.0, 1.5, (negatives, 5)).astype(np.float32)
    return near, far


def objective(
    weights: NDArray[np.floating], bias: float, near: FloatArray, far: FloatArray
) -> float:
    """Return what liblinear's hinge-loss SVM minimises; the bias is a weight of its own."""
    hinge_near = np.maximum(0, 1 - (near @ weights + bias)).sum()
    hinge_far = np.maximum(0, 1 + (far @ weights + bias)).sum()
    size = weights @ weights + (bias / SETTINGS.bias_scale) ** 2
    return float(0.5 * size + SETTINGS.c * (SETTINGS.positive_weight * hinge_near + hinge_far))


def dual_ascent(near: FloatArray, far: FloatArray) -> tuple[NDArray[np.float64], float]:
    """Return (weights, bias) by plain dual coordinate ascent (Hsieh et al. 2008, algorithm 1)."""
    x = np.concatenate([near, far]).astype(np.float64)
    x = np.concatenate([x, np.full((len(x), 1), SETTINGS.bias_scale)], axis=1)
    y = np.repeat([1.0, -1.0], [len(near), len(far)])
    limit = SETTINGS.c * np.where(y > 0, SETTINGS.positive_weight, 1.0)
    alpha, w = np.zeros(len(x)), np.zeros(x.shape[1])
    for _ in range(60):
        for i in range(len(x)):
            step = (1 - y[i] * (w @ x[i])) / (x[i] @ x[i])
            new = min(max(alpha[i] + step, 0.0), limit[i])
            w += (new - alpha[i]) * y[i] * x[i]
            alpha[i] = new
    return w[:-1], w[-1] * SETTINGS.bias_scale


def test_the_svm_reaches_the_optimum_that_plain_dual_ascent_finds() -> None:
    near, far = two_clouds(negatives=80)
    weights, bias = fit_svm(near, far, SETTINGS)
    best = objective(*dual_ascent(near, far), near, far)
    assert objective(weights, bias, near, far) <= 1.02 * best


@pytest.mark.parametrize("examples", [7, 60])  # fewer than features: the dual, else the primal
def test_ridge_equals_the_closed_form_with_a_free_bias(examples: int) -> None:
    random = np.random.default_rng(0)
    x = random.normal(2.0, 1.0, (examples, 12)).astype(np.float32)
    y = random.normal(0.5, 1.0, (examples, 4)).astype(np.float32)
    weights, biases = fit_ridge(x, y, 3.0)
    x0, y0 = x - x.mean(axis=0), y - y.mean(axis=0)
    expected = np.linalg.solve(x0.T @ x0 + 3.0 * np.eye(12), x0.T @ y0).T
    np.testing.assert_allclose(weights, expected, atol=1e-4)
    np.testing.assert_allclose(biases, y.mean(axis=0) - expected @ x.mean(axis=0), atol=1e-4)


def streamed(capacity: int) -> tuple[MinedSVM, FloatArray, FloatArray]:
    near, far = two_clouds()
    svm = MinedSVM(SETTINGS, 5, capacity)
    for part, others in zip(np.array_split(near, 15), np.array_split(far, 15)):
        svm.add(part, others)
        assert len(svm.positives) + svm.num_negatives <= capacity
    assert svm.train()
    return svm, near, far


def test_hard_negatives_alone_give_the_svm_of_all_examples() -> None:
    svm, near, far = streamed(10_000)
    assert svm.num_negatives < len(far)
    assert svm.weights is not None
    whole = objective(*fit_svm(near, far, SETTINGS), near, far)
    assert objective(svm.weights, svm.bias, near, far) <= 1.03 * whole


def test_an_easy_negative_is_not_kept() -> None:
    svm, _, far = streamed(10_000)
    easy = far[svm.margins(far) < -1.5]
    before = svm.num_negatives
    svm.add(easy[:0], easy)
    assert len(easy) and svm.num_negatives == before


def test_no_more_is_kept_than_there_is_room_for() -> None:
    streamed(64)


def test_positives_that_there_is_no_room_for_are_counted() -> None:
    svm = MinedSVM(SETTINGS, 5, 64)
    near = np.random.default_rng(0).normal(size=(50, 5)).astype(np.float32)
    told = []
    for part in np.split(near, [20, 30, 40]):
        svm.add(part, part[:0])
        told.append((len(svm.positives), svm.num_dropped))
    assert told == [(20, 0), (30, 0), (32, 8), (32, 18)]
    np.testing.assert_array_equal(svm.positives, near[:32])


def test_without_positives_there_is_no_svm() -> None:
    svm = MinedSVM(SETTINGS, 5, 1000)
    svm.add(np.zeros((0, 5), np.float32), np.ones((100, 5), np.float32))
    assert not svm.train() and svm.weights is None


def test_a_sample_holds_every_row_with_the_same_chance() -> None:
    counts = np.zeros(20)
    for seed in range(400):
        sample = Reservoir(1, 5, seed)
        for start in range(0, 20, 4):
            sample.add(np.arange(start, start + 4, dtype=np.float32)[:, None])
        assert sample.num_seen == 20 and len(np.unique(sample.rows)) == 5
        counts[sample.rows[:, 0].astype(int)] += 1
    assert counts.min() > 65 and counts.max() < 140  # 100 each, four standard deviations of 8.7
