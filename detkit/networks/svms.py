"""R-CNN's linear SVMs, one a class, and the mining of their hard negatives.

Girshick et al. 2014, arXiv:1311.2524v5, sec. 2.3; what differs from the paper is said in
`detectors/rcnn.py`.

Shape shorthand: C classes, N examples, n regions of an image, the first G of them its ground
truths, D features of each behind the last layer.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from detkit.structures import FloatArray, IntArray

NEVER = -1e4  # the margin of a class that no SVM could be trained for
LEAST_CAPACITY = 64  # examples of a class, however little memory there is


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


class MinedSVM:
    """The SVM of one class, trained while its negatives stream by: R-CNN sec. 2.3.

    All positives are kept, and of the negatives those that are hard for the SVM so far
    (Felzenszwalb et al. 2010, sec. 4.4), at most `capacity` examples in all. Positives may fill
    half of it; `num_dropped` counts those that came when it was full. Of negatives the easiest
    make room for harder ones; `num_crowded_out` counts those that it took.
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
        self.num_crowded_out = 0
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
        """Take in (N, D) examples of one image; train anew when there are enough new ones.

        The first training is on the first negatives there are beside positives, as in R-CNN's
        released code.
        """
        settings = self.settings
        if len(positives):
            places = self.capacity // 2 - len(self.positives)
            self.positives = np.concatenate([self.positives, positives[:places]])
            self.num_dropped += max(0, len(positives) - places)
        if self.weights is not None:
            negatives = negatives[self.margins(negatives) > settings.hard_margin]
        if len(negatives):
            self._waiting.append(negatives)
            self._new += len(negatives)
        room = self.capacity - len(self.positives)
        is_full = self.num_negatives >= room
        if self.num_negatives > room:
            self._crowd_out(room)
        # A cache smaller than what the released code waits for learns anew at half its size.
        enough = min(settings.retrain_after, room // 2) if is_full else settings.retrain_after
        is_first = self.weights is None
        if len(self.positives) and self._new and (is_first or self._new >= enough):
            self.train()

    def _crowd_out(self, room: int) -> None:
        """Keep the `room` hardest negatives; without an SVM to judge them, the first ones."""
        kept = np.concatenate([self.negatives, *self._waiting])
        if len(self.positives):  # a class without any learns nothing from them
            self.num_crowded_out += len(kept) - room
        is_new = np.arange(len(kept)) >= len(self.negatives)
        if self.weights is None:
            stays = np.arange(room)
        else:
            stays = np.sort(np.argsort(-self.margins(kept), kind="stable")[:room])
        # Older ones that waited for a training are still new to it.
        self.negatives = kept[stays[~is_new[stays]]]
        newer = kept[stays[is_new[stays]]]
        self._waiting, self._new = [newer], len(newer)

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


class ClassSVMs:
    """A linear SVM a class on the last layer's features: sec. 2.3."""

    def __init__(
        self,
        settings: SVMSettings,
        shape: tuple[int, int],
        *,
        negative_thresh: float,
        feature_norm: float,
        cache_gb: float,
        own: Sequence[int] | None = None,
    ) -> None:
        """Start without examples of `shape`, (C, D); all together stay within `cache_gb`.

        Only the classes `own` are learnt here, by default all: the others are in other processes.
        """
        num_classes, width = shape
        self.width = width
        # The solver's copy of one class is in float64, beside one in float32.
        capacity = max(LEAST_CAPACITY, int(cache_gb * 2**30 / (4 * width * (num_classes + 3))))
        classes = range(num_classes) if own is None else own
        self.svms = {number: MinedSVM(settings, width, capacity) for number in classes}
        self.negative_thresh = negative_thresh
        self.feature_norm = feature_norm
        self.scale = 0.0  # of features; 0 until there are any
        self.alone = True  # no positives came before the stream

    def add(
        self,
        features: Sequence[FloatArray],
        labels: Sequence[IntArray],
        overlaps: Sequence[FloatArray],
    ) -> None:
        """Take in, of each image, (n, D) features, (G,) classes of its truths and (G, n) IoU.

        The truths are positives here only where `add_positives` has given none before.
        """
        self._set_scale(features)
        for top, classes, of_truths in zip(features, labels, overlaps, strict=True):
            add_examples(
                self.svms, top * self.scale, classes, of_truths, self.negative_thresh, self.alone
            )

    def add_positives(self, features: Sequence[FloatArray], labels: Sequence[IntArray]) -> None:
        """Take in the (G, D) features of each image's truths and their (G,) classes, unscaled.

        Released code (`rcnn_train.m`): those of all images come before the first negative.
        """
        self.alone = False
        for top, classes in zip(features, labels, strict=True):
            for number, svm in self.svms.items():
                svm.add(top[classes == number], top[:0])

    def _set_scale(self, features: Sequence[FloatArray]) -> None:
        """Scale all features from the first image with a region on, positives so far as well."""
        if self.scale:
            return
        self.scale = norm_scale(features, self.feature_norm)
        if self.scale:
            for svm in self.svms.values():
                svm.positives *= np.float32(self.scale)

    def figures(self) -> Mapping[str, float]:
        """Return how many examples are kept, and how many there was no room for."""
        crowded_out = sum(svm.num_crowded_out for svm in self.svms.values())
        dropped = sum(svm.num_dropped for svm in self.svms.values())
        return {
            "positives": float(sum(len(svm.positives) for svm in self.svms.values())),
            "hard_negatives": float(sum(svm.num_negatives for svm in self.svms.values())),
            # What `cache_gb` has no room for is said where it happens.
            **({"positives_left_out": float(dropped)} if dropped else {}),
            **({"negatives_left_out": float(crowded_out)} if crowded_out else {}),
        }

    def trained(self) -> tuple[FloatArray, FloatArray]:
        """Return weights (c, D) and biases (c,) for features as they come, trained on all.

        They are those of its own classes, in their order.
        """
        weights = np.zeros((len(self.svms), self.width), np.float32)
        biases = np.full(len(self.svms), NEVER, np.float32)
        for number, svm in enumerate(self.svms.values()):
            if svm.train() and svm.weights is not None:
                weights[number], biases[number] = svm.weights * self.scale, svm.bias
        return weights, biases


def add_examples(
    svms: Mapping[int, MinedSVM],
    features: FloatArray,
    labels: IntArray,
    overlaps: FloatArray,
    negative_thresh: float,
    with_positives: bool = True,
) -> None:
    """Give each class's SVM its examples among (n, D) features of an image's regions.

    Sec. 2.3: positives are the class's ground truths alone, negatives the regions whose IoU
    with each of these is below `negative_thresh`; the rest is left out. `labels` (G,) are the
    ground truths' classes, `overlaps` is (G, n). Without `with_positives` it has these already.
    """
    for number, svm in svms.items():
        of_class = labels == number
        best = overlaps[of_class].max(axis=0, initial=0.0)
        positives = features[: len(labels)][of_class]
        svm.add(positives if with_positives else positives[:0], features[best < negative_thresh])


def norm_scale(features: Sequence[FloatArray], norm: float) -> float:
    """Return the factor that gives (n, D) features of images this mean norm; 0 without any.

    Released code (`rcnn_scale_features`): the SVMs' C and the ridge's lambda are stated for it.
    """
    norms = np.linalg.norm(np.concatenate(list(features)), axis=1)
    return norm / max(float(norms.mean()), 1e-12) if len(norms) else 0.0
