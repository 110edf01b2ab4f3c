"""Scores on other scales than [0, 1]: percentages, logits, margins."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from detkit.errors import DetkitError
from detkit.predictions.image import ImagePredictions
from detkit.structures import DoubleArray

logger = logging.getLogger(__name__)

SCALES = ("percent", "logits", "raw")
WHAT = {
    "percent": "percentages: --scores percent divides them by 100",
    "logits": "logits: --scores logits takes their sigmoid",
    "raw": "--scores raw takes them as they are, for their order alone",
}
LARGEST_MARGIN = 20.0  # ours: a sigmoid is 1 in float32 there, and no SVM's margin is as large


def to_unit_scores(
    images: list[ImagePredictions], scale: str | None, path: Path, *, is_own: bool = False
) -> list[ImagePredictions]:
    """Return the detections with scores in [0, 1], scaled as `scale` says; "raw" is as they are.

    Files that detkit wrote (`is_own`) may hold the margins of SVMs, which are no probabilities.
    Raises DetkitError for scores out of [0, 1] of which nothing is said, and for those that are
    not on the scale that is.
    """
    every = [one.scores for one in images if len(one.scores)]
    if not every:
        return images
    scores = np.concatenate(every).astype(np.float64)
    low, high = float(scores.min()), float(scores.max())
    between = f"{path}: scores lie between {low:.4g} and {high:.4g}"
    if len(scores) > 1 and low == high:
        logger.warning(
            "%s: all %d scores are %.4g: nothing ranks the detections, and AP means little",
            path,
            len(scores),
            low,
        )
    if scale is None:
        if low >= 0 and high <= 1:
            return images
        if is_own and (low < 0 or high <= LARGEST_MARGIN):
            logger.info("%s: margins, no probabilities; taken for their order alone", between)
            return images
        raise DetkitError(f"{between}, not within 0 and 1; {_likely(low, high)}")
    if scale == "raw":
        return images
    if scale == "percent":
        if low < 0 or high > 100:
            raise DetkitError(f"{between}: no percentages (0 to 100); leave --scores percent out")
        if high <= 1:
            raise DetkitError(f"{between}: no percentages, but shares; leave --scores percent out")
    elif low >= 0 and high <= 1:
        raise DetkitError(f"{between}: probabilities already; leave --scores logits out")
    scaled = [replace(one, scores=_scaled(one.scores.astype(np.float64), scale)) for one in images]
    before = len(np.unique(scores))
    after = len(np.unique(np.concatenate([one.scores for one in scaled])))
    done = "divided by 100" if scale == "percent" else "made probabilities by the sigmoid"
    lost = before - after
    logger.info(
        "%s; %s%s", between, done, f"; {lost} different scores became equal" if lost else ""
    )
    return scaled


def _scaled(scores: DoubleArray, scale: str) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Return (N,) scores as probabilities."""
    if scale == "percent":
        return (scores / 100).astype(np.float32)
    # Of large numbers neither half overflows.
    half = np.exp(-np.abs(scores))
    return np.where(scores >= 0, 1 / (1 + half), half / (1 + half)).astype(np.float32)


def _likely(low: float, high: float) -> str:
    """Return what scores between two numbers may be, and the options that say so."""
    if low < 0:
        kinds: Sequence[str] = ("logits", "raw")
    elif high <= LARGEST_MARGIN:
        kinds = ("percent", "logits", "raw")
    elif high <= 100:
        kinds = ("percent", "raw")
    else:
        kinds = ("raw",)
    return "; ".join(WHAT[kind] for kind in kinds)
