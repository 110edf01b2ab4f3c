"""What R-CNN fits on features without gradients: linear SVMs and ridge regressions.

Shape shorthand: N examples of D features.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from detkit.structures import FloatArray


@dataclass(frozen=True, kw_only=True)
class SVMSettings:
    """The numbers of a linear SVM and of the search for its hard negatives."""

    c: float
    positive_weight: float  # of a positive's error, beside a negative's
    bias_scale: float  # the constant feature that the bias is the weight of
    hard_margin: float  # a negative above this margin is hard
    easy_margin: float  # one below this is let go after a training
    retrain_after: int  # new hard negatives


def fit_svm(
    positives: FloatArray, negatives: FloatArray, settings: SVMSettings
) -> tuple[FloatArray, float]:
    """Return (weights (D,), bias) of the linear SVM between (N, D) positives and negatives.

    Hinge loss in the dual, by liblinear as in R-CNN's released code, with its tolerance.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    svm = LinearSVC(
        C=settings.c,
        loss="hinge",
        class_weight={1: settings.positive_weight},
        intercept_scaling=settings.bias_scale,
        tol=0.1,
        random_state=0,
    )
    labels = np.repeat([1, 0], [len(positives), len(negatives)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        svm.fit(np.concatenate([positives, negatives]), labels)
    return np.asarray(svm.coef_[0], np.float32), float(svm.intercept_[0])


def fit_ridge(
    features: FloatArray, targets: FloatArray, penalty: float
) -> tuple[FloatArray, FloatArray]:
    """Return (weights (T, D), biases (T,)) of ridge regressions of (N, T) targets, R-CNN eq. 5.

    In closed form: the normal equations, or their dual where there are fewer examples than
    features. The biases are not penalised.
    """
    from sklearn.linear_model import Ridge

    ridge = Ridge(alpha=penalty, solver="cholesky").fit(features, targets)
    return np.asarray(ridge.coef_, np.float32), np.asarray(ridge.intercept_, np.float32)


class MinedSVM:
    """The SVM of one class, trained while its examples stream by: R-CNN sec. 2.3.

    All positives are kept, and of the negatives those that are hard for the SVM so far
    (Felzenszwalb et al. 2010, sec. 4.4), at most `capacity` examples in all. Positives may fill
    half of it; `num_dropped` counts those that came when it was full.
    """

    def __init__(self, settings: SVMSettings, num_features: int, capacity: int) -> None:
        """Start without examples."""
        self.settings = settings
        self.capacity = capacity
        self.positives = np.zeros((0, num_features), np.float32)
        self.negatives = np.zeros((0, num_features), np.float32)
        self.weights: FloatArray | None = None
        self.bias = 0.0
        self.num_dropped = 0
        self._waiting: list[FloatArray] = []
        self._new = 0

    @property
    def num_negatives(self) -> int:
        """How many negatives are kept."""
        return len(self.negatives) + sum(map(len, self._waiting))

    def margins(self, features: FloatArray) -> FloatArray:
        """Return the margins, (N,), that the SVM so far gives to (N, D) features."""
        assert self.weights is not None
        margins: FloatArray = features @ self.weights + np.float32(self.bias)
        return margins

    def add(self, positives: FloatArray, negatives: FloatArray) -> None:
        """Take in (N, D) examples of one image; train anew when there are enough new ones."""
        settings = self.settings
        if len(positives):
            places = self.capacity // 2 - len(self.positives)
            self.positives = np.concatenate([self.positives, positives[:places]])
            self.num_dropped += max(0, len(positives) - places)
        if self.weights is not None:
            negatives = negatives[self.margins(negatives) > settings.hard_margin]
        room = self.capacity - len(self.positives) - self.num_negatives
        negatives = negatives[: max(0, room)]
        if len(negatives):
            self._waiting.append(negatives)
            self._new += len(negatives)
        if self._new >= settings.retrain_after or (self._new and room <= len(negatives)):
            self.train()

    def train(self) -> bool:
        """Train on what is kept, let easy negatives go; return whether there was enough for it."""
        self.negatives = np.concatenate([self.negatives, *self._waiting])
        self._waiting, self._new = [], 0
        if not len(self.positives) or not len(self.negatives):
            return False
        self.weights, self.bias = fit_svm(self.positives, self.negatives, self.settings)
        hard = self.margins(self.negatives) >= self.settings.easy_margin
        self.negatives = self.negatives[hard]
        return True


class RowSample:
    """A uniform random sample, of at most `capacity` rows, of all rows it was given."""

    def __init__(self, width: int, capacity: int, seed: int) -> None:
        """Start empty."""
        self.rows = np.zeros((0, width), np.float32)
        self.num_seen = 0
        self.capacity = capacity
        self._keys = np.zeros(0)
        self._random = np.random.default_rng(seed)

    def add(self, rows: FloatArray) -> None:
        """Take in (n, width) rows: each draws a number, and the lowest ones stay."""
        self.num_seen += len(rows)
        self.rows = np.concatenate([self.rows, rows])
        self._keys = np.concatenate([self._keys, self._random.random(len(rows))])
        if len(self.rows) > self.capacity:
            keep = np.sort(np.argpartition(self._keys, self.capacity)[: self.capacity])
            self.rows, self._keys = self.rows[keep], self._keys[keep]
