"""What R-CNN fits in passes over the images: a class's linear SVM, and its box regressions.

Girshick et al. 2014, arXiv:1311.2524v5, sec. 2.3 and appendix C; how one is fitted is in
`svms`, what differs from the paper is said in `detectors/rcnn.py`.

Shape shorthand: C classes, n regions of an image, the first G of them its ground truths, D
features of a region behind the last layer, Q at pool5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from detkit.geometry.boxes import encode, iou
from detkit.geometry.matching import match
from detkit.networks.svms import MinedSVM, RowSample, SVMSettings, fit_ridge
from detkit.structures import FloatArray

NEVER = -1e4  # the margin of a class that no SVM could be trained for
LEAST_ROOM = 64  # examples of a class, however little memory there is


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
    ) -> None:
        """Start without examples of `shape`, (C, D); all together stay within `cache_gb`."""
        num_classes, width = shape
        # The solver's copy of one class is in float64, beside one in float32.
        room = max(LEAST_ROOM, int(cache_gb * 2**30 / (4 * width * (num_classes + 3))))
        self.svms = [MinedSVM(settings, width, room) for _ in range(num_classes)]
        self.negative_thresh = negative_thresh
        self.feature_norm = feature_norm
        self.scale = 0.0  # of features; 0 until there are any

    def add(
        self,
        features: Sequence[FloatArray],
        labels: Sequence[FloatArray],
        overlaps: Sequence[FloatArray],
    ) -> None:
        """Take in, of each image, (n, D) features, (G,) classes of its truths and (G, n) IoU."""
        self.scale = self.scale or norm_scale(features, self.feature_norm)
        for top, classes, of_truths in zip(features, labels, overlaps, strict=True):
            add_examples(self.svms, top * self.scale, classes, of_truths, self.negative_thresh)

    def figures(self) -> Mapping[str, float]:
        """Return how many examples are kept, and how many positives there was no room for."""
        dropped = sum(svm.num_dropped for svm in self.svms)
        return {
            "positives": float(sum(len(svm.positives) for svm in self.svms)),
            "hard_negatives": float(sum(svm.num_negatives for svm in self.svms)),
            # What `cache_gb` has no room for is said where it happens.
            **({"positives_left_out": float(dropped)} if dropped else {}),
        }

    def trained(self) -> tuple[FloatArray, FloatArray]:
        """Return weights (C, D) and biases (C,) for features as they come, trained on all."""
        weights = np.zeros((len(self.svms), self.svms[0].positives.shape[1]), np.float32)
        biases = np.full(len(self.svms), NEVER, np.float32)
        for number, svm in enumerate(self.svms):
            if svm.train() and svm.weights is not None:
                weights[number], biases[number] = svm.weights * self.scale, svm.bias
        return weights, biases


def add_examples(
    svms: Sequence[MinedSVM],
    features: FloatArray,
    labels: FloatArray,
    overlaps: FloatArray,
    negative_thresh: float,
) -> None:
    """Give each class's SVM its examples among (n, D) features of an image's regions.

    Sec. 2.3: positives are the class's ground truths alone, negatives the regions whose IoU
    with each of these is below `negative_thresh`; the rest is left out. `labels` (G,) are the
    ground truths' classes, `overlaps` is (G, n).
    """
    for number, svm in enumerate(svms):
        of_class = labels == number
        best = overlaps[of_class].max(axis=0, initial=0.0)
        positives = features[: len(labels)][of_class]
        svm.add(positives, features[best < negative_thresh])


class ClassBoxes:
    """Four ridge regressions a class, from pool5 features to deltas: appendix C, eq. 5."""

    def __init__(
        self,
        penalty: float,
        shape: tuple[int, int],
        *,
        feature_norm: float,
        cache_gb: float,
    ) -> None:
        """Start without pairs for weights of `shape`, (4 C, Q); all stay within `cache_gb`."""
        num_classes, width = shape[0] // 4, shape[1]
        # Half for the sums and the centred copy that the solver makes of one class.
        room = max(LEAST_ROOM, int(cache_gb * 2**29 / (4 * (width + 4) * num_classes)))
        self.pairs = [RowSample(width + 4, room, number) for number in range(num_classes)]
        self.penalty = penalty
        self.feature_norm = feature_norm
        self.scale = 0.0  # of features; 0 until there are any

    def add(
        self,
        features: Sequence[FloatArray],
        labels: Sequence[FloatArray],
        deltas: Sequence[FloatArray],
    ) -> None:
        """Take in each image's pairs: (n, Q) features, (n,) classes, (n, 4) deltas to learn."""
        self.scale = self.scale or norm_scale(features, self.feature_norm)
        for pooled, classes, moves in zip(features, labels, deltas, strict=True):
            rows = np.concatenate([pooled * np.float32(self.scale), moves], axis=1)
            for number in np.unique(classes):
                self.pairs[number].add(rows[classes == number])

    def figures(self) -> Mapping[str, float]:
        """Return how many pairs are kept, and how many there was no room for."""
        kept = sum(len(one.rows) for one in self.pairs)
        seen = sum(one.num_seen for one in self.pairs)
        return {
            "pairs": float(kept),
            **({"pairs_left_out": float(seen - kept)} if seen > kept else {}),
        }

    def fitted(self) -> tuple[FloatArray, FloatArray]:
        """Return weights (4 C, Q) and biases (4 C,) for features as they come; 0 without pairs."""
        num_classes, width = len(self.pairs), self.pairs[0].rows.shape[1] - 4
        weights = np.zeros((num_classes, 4, width), np.float32)
        biases = np.zeros((num_classes, 4), np.float32)
        for number, sample in enumerate(self.pairs):
            if len(sample.rows):
                features, targets = sample.rows[:, :-4], sample.rows[:, -4:]
                own, biases[number] = fit_ridge(features, targets, self.penalty)
                weights[number] = own * np.float32(self.scale)
        return weights.reshape(-1, width), biases.reshape(-1)


def box_pairs(
    proposals: Tensor, gt_boxes: Tensor, gt_labels: Tensor, ridge_thresh: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (regions (n, 4), classes (n,), deltas (n, 4)) that an image's boxes are fitted to.

    Appendix C: a proposal learns the deltas, eqs. 6-9, to the ground truth that it overlaps
    most, if by more than `ridge_thresh`; the rest is left out.
    """
    overlaps = iou(gt_boxes, proposals)
    near = (overlaps > ridge_thresh).any(dim=0).nonzero().flatten()
    truth = match(overlaps, ridge_thresh, ridge_thresh)[near]
    return proposals[near], gt_labels[truth], encode(gt_boxes[truth], proposals[near])


def norm_scale(features: Sequence[FloatArray], norm: float) -> float:
    """Return the factor that gives (n, D) features of images this mean norm; 0 without any.

    Released code (`rcnn_scale_features`): the SVMs' C and the ridge's lambda are stated for it.
    """
    norms = np.linalg.norm(np.concatenate(list(features)), axis=1)
    return norm / max(float(norms.mean()), 1e-12) if len(norms) else 0.0
