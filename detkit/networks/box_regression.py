"""R-CNN's bounding-box regression: four ridge regressions a class on pool5 features.

Girshick et al. 2014, arXiv:1311.2524v5, appendix C; what differs from the paper is said in
`detectors/rcnn.py`.

Shape shorthand: C classes, N examples of D features and T targets, n regions of an image, Q
features of a region at pool5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from detkit.geometry.boxes import encode, iou
from detkit.geometry.matching import match
from detkit.networks.svms import LEAST_CAPACITY, norm_scale
from detkit.structures import FloatArray, IntArray


class BoxRegressors:
    """Four ridge regressions a class, from pool5 features to deltas: appendix C, eq. 5."""

    def __init__(
        self,
        penalty: float,
        shape: tuple[int, int],
        *,
        feature_norm: float,
        cache_gb: float,
        own: Sequence[int] | None = None,
    ) -> None:
        """Start without pairs for weights of `shape`, (4 C, Q); all stay within `cache_gb`.

        Only the classes `own` are fitted here, by default all: the others are in other processes.
        """
        num_classes, width = shape[0] // 4, shape[1]
        classes = range(num_classes) if own is None else own
        self.width = width
        # Half for the sums and the centred copy that the solver makes of one class.
        capacity = max(LEAST_CAPACITY, int(cache_gb * 2**29 / (4 * (width + 4) * num_classes)))
        self.pairs = {number: Reservoir(width + 4, capacity, number) for number in classes}
        self.penalty = penalty
        self.feature_norm = feature_norm
        self.scale = 0.0  # of features; 0 until there are any

    def add(
        self,
        features: Sequence[FloatArray],
        labels: Sequence[IntArray],
        deltas: Sequence[FloatArray],
    ) -> None:
        """Take in each image's pairs: (n, Q) features, (n,) classes, (n, 4) deltas to learn."""
        self.scale = self.scale or norm_scale(features, self.feature_norm)
        for pooled, classes, moves in zip(features, labels, deltas, strict=True):
            rows = np.concatenate([pooled * np.float32(self.scale), moves], axis=1)
            for number in self.pairs.keys() & set(classes.tolist()):
                self.pairs[number].add(rows[classes == number])

    def figures(self) -> Mapping[str, float]:
        """Return how many pairs are kept, and how many there was no room for."""
        kept = sum(len(one.rows) for one in self.pairs.values())
        seen = sum(one.num_seen for one in self.pairs.values())
        return {
            "pairs": float(kept),
            **({"pairs_left_out": float(seen - kept)} if seen > kept else {}),
        }

    def fitted(self) -> tuple[FloatArray, FloatArray]:
        """Return weights (c, 4, Q) and biases (c, 4) for features as they come; 0 without pairs.

        They are those of its own classes, in their order.
        """
        weights = np.zeros((len(self.pairs), 4, self.width), np.float32)
        biases = np.zeros((len(self.pairs), 4), np.float32)
        for number, sample in enumerate(self.pairs.values()):
            if len(sample.rows):
                features, targets = sample.rows[:, :-4], sample.rows[:, -4:]
                own, biases[number] = fit_ridge(features, targets, self.penalty)
                weights[number] = own * np.float32(self.scale)
        return weights, biases


def box_pairs(
    proposals: Tensor, gt_boxes: Tensor, gt_labels: Tensor, ridge_thresh: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (regions (n, 4), classes (n,), deltas (n, 4)) that an image's boxes are fitted to.

    Appendix C: a proposal learns the deltas, eqs. 6-9, to the ground truth that it overlaps
    most, if by more than `ridge_thresh`; the rest is left out. A ground truth is a proposal, too,
    that learns to stay, as in the released code.
    """
    proposals = torch.cat([gt_boxes, proposals])
    overlaps = iou(gt_boxes, proposals)
    near = (overlaps > ridge_thresh).any(dim=0).nonzero().flatten()
    truth = match(overlaps, ridge_thresh, ridge_thresh)[near]
    return proposals[near], gt_labels[truth], encode(gt_boxes[truth], proposals[near])


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


class Reservoir:
    """Reservoir sampling: at most `capacity` rows, a uniform random sample of all it was given."""

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
