"""SVMs, ridge regressions and samples against plain loops and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from detkit.networks.box_regression import Reservoir, fit_ridge
from detkit.networks.svms import ClassSVMs, MinedSVM, SVMSettings, fit_svm
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


Image = tuple[FloatArray, NDArray[np.int64], FloatArray]  # features, truths' labels, IoU


def made_up(num_images: int, classes: int, features: int, seed: int) -> list[Image]:
    """Images of one or two objects, beside them look-alikes of every class."""
    random = np.random.default_rng(0)
    centre, twin = random.normal(0, 1, (2, classes, features))
    random = np.random.default_rng(seed)
    images = []
    for _ in range(num_images):
        labels = random.choice(classes, random.integers(1, 3), replace=False)
        of = random.integers(0, classes, 60)
        rows = np.concatenate([centre[labels], 0.7 * centre[of] + 0.7 * twin[of]])
        rows = rows + random.normal(0, 0.8, rows.shape)
        overlaps = np.zeros((len(labels), len(rows)), np.float32)
        overlaps[np.arange(len(labels)), np.arange(len(labels))] = 1
        images.append((rows.astype(np.float32), labels, overlaps))
    return images


def released_order(images: list[Image], number: int) -> tuple[FloatArray, float]:
    """rcnn_train.m: all positives, then each image's negatives, with no limit to what is kept."""
    positives = np.concatenate([x[: len(own)][own == number] for x, own, _ in images])
    kept, new, svm = positives[:0], 0, None
    for place, (x, own, overlaps) in enumerate(images):
        for row, of in zip(x, overlaps.T):
            is_far = all(of[k] < 0.3 for k in range(len(own)) if own[k] == number)
            if is_far and (svm is None or row @ svm[0] + svm[1] > SETTINGS.hard_margin):
                kept, new = np.concatenate([kept, row[None]]), new + 1
        if svm is None or new >= SETTINGS.retrain_after or place == len(images) - 1:
            svm, new = fit_svm(positives, kept, SETTINGS), 0
            kept = kept[kept @ svm[0] + svm[1] >= SETTINGS.easy_margin]
    assert svm is not None
    return svm


def average_precision(scores: FloatArray, is_positive: NDArray[np.bool_]) -> float:
    hits = is_positive[np.argsort(-scores)]
    return float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())


def test_a_small_cache_mines_every_class_as_well_as_the_released_code_without_a_limit() -> None:
    classes, width, rows = 12, 24, 90
    images, unseen = made_up(100, classes, width, 1), made_up(150, classes, width, 2)
    svms = ClassSVMs(
        SETTINGS,
        (classes, width),
        negative_thresh=0.3,
        feature_norm=float(np.linalg.norm(images[0][0], axis=1).mean()),  # the scale is 1
        cache_gb=rows * 4 * width * (classes + 3) / 2**30,
    )
    for x, own, _ in images:
        svms.add_positives([x[: len(own)]], [own])
    trainings = np.zeros(classes)
    last: list[FloatArray | None] = [None] * classes
    for x, own, overlaps in images:
        svms.add([x], [own], [overlaps])
        for number, svm in svms.svms.items():
            trainings[number] += svm.weights is not last[number]
            last[number] = svm.weights
            assert len(svm.positives) + svm.num_negatives <= rows
    assert trainings.min() >= 3  # the mining never stops
    assert svms.figures()["negatives_left_out"] > 0
    weights, biases = svms.trained()
    features = np.concatenate([x for x, _, _ in unseen])
    ours, theirs = [], []
    for number in range(classes):
        truth = [np.arange(len(x)) < len(own) for x, own, _ in unseen]
        for one, (_, own, _) in zip(truth, unseen):
            one[: len(own)] &= own == number
        is_positive = np.concatenate(truth)
        ours.append(average_precision(features @ weights[number] + biases[number], is_positive))
        w, b = released_order(images, number)
        theirs.append(average_precision(features @ w + b, is_positive))
    assert np.mean(ours) > np.mean(theirs) - 0.01
    assert min(np.subtract(ours, theirs)) > -0.05
