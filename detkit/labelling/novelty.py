"""What is new about an image: how far its scene is from all that is labelled or chosen already.

A scene is its histograms of oriented gradients (Dalal and Triggs, "Histograms of Oriented
Gradients for Human Detection", CVPR 2005), here of the whole image.

Shape shorthand: N images, M labelled ones, D numbers of a scene.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detkit.data.looks import GREY_SIDE, Looks

_CELLS, _BINS = 4, 9  # cells along a side of the small grey picture; directions
_CELL = GREY_SIDE // _CELLS  # pixels
NUM_FEATURES = (_CELLS - 1) ** 2 * 4 * _BINS
_PICTURES = 256  # that are worked on at once
_BLOCK = 1024  # rows of a table of distances that are held at once


def scene_features(looks: Looks) -> NDArray[np.float64]:
    """Return what N images show in the large, (N, D), each of length 1; 0 for a plain one."""
    features = np.zeros((len(looks), NUM_FEATURES))
    for start in range(0, len(looks), _PICTURES):
        rows = slice(start, start + _PICTURES)
        features[rows] = oriented_gradients(looks.grey[rows])
    features[~looks.shows] = 0.0
    return _of_length_one(features)


def oriented_gradients(grey: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the histograms of oriented gradients of (N, 96, 96) grey pictures, (N, 324).

    As Dalal and Triggs have them (sec. 6): gradients by differences of the two neighbours, each
    pixel's vote divided between the nearest two of 9 unsigned directions, 4 x 4 cells, and 3 x 3
    blocks of 2 x 2 cells that overlap, each brought to length 1. Pixels at the border have no
    gradient across it.
    """
    wide = grey.astype(np.float32)
    across, down = np.zeros_like(wide), np.zeros_like(wide)
    across[:, :, 1:-1] = wide[:, :, 2:] - wide[:, :, :-2]
    down[:, 1:-1] = wide[:, 2:] - wide[:, :-2]
    strength = np.hypot(across, down)
    turn = np.mod(np.arctan2(down, across) / np.pi, 1.0) * _BINS
    low = np.floor(turn)
    upper = turn - low
    cells = np.zeros((len(grey), _CELLS, _CELLS, _BINS))
    for number in range(_BINS):
        votes = np.where(low % _BINS == number, 1.0 - upper, 0.0)
        votes += np.where((low + 1) % _BINS == number, upper, 0.0)
        of_cells = (votes * strength).reshape(-1, _CELLS, GREY_SIDE // _CELLS, _CELLS, _CELL)
        cells[..., number] = of_cells.sum(axis=(2, 4))
    blocks = [
        cells[:, row : row + 2, column : column + 2].reshape(len(grey), -1)
        for row in range(_CELLS - 1)
        for column in range(_CELLS - 1)
    ]
    return np.concatenate([_of_length_one(block) for block in blocks], axis=1)


def _of_length_one(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return rows (N, D) of length 1, those of nothing as they are."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 0, lengths, 1.0), np.float64)


def distances(features: NDArray[np.float64], one: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Euclidean distance of each of N scenes (N, D) to one (D,), as (N,)."""
    lengths = np.einsum("nd,nd->n", features, features)
    return _root(lengths, features @ one, float(one @ one))


def nearest(
    features: NDArray[np.float64], others: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the distance of each of N scenes to the nearest of M others, and which that is.

    Both are (N,); without others the distance is infinite and the place -1.
    """
    away = np.full(len(features), np.inf)
    places = np.full(len(features), -1, np.int64)
    if not len(others):
        return away, places
    lengths = np.einsum("md,md->m", others, others)
    for start in range(0, len(features), _BLOCK):
        block = features[start : start + _BLOCK]
        own = np.einsum("nd,nd->n", block, block)[:, None]
        table = _root(own, block @ others.T, lengths)
        near = table.argmin(1)
        places[start : start + _BLOCK] = near
        away[start : start + _BLOCK] = table[np.arange(len(block)), near]
    return away, places


def scale_of(features: NDArray[np.float64]) -> float:
    """Return how far two of the N scenes are from each other, as a rule: what novelty is told in.

    It is the root of the mean squared distance of all pairs, which their spread around the mean
    gives in one pass; 1 where all are the same.
    """
    if len(features) < 2:
        return 1.0
    spread = float(((features - features.mean(0)) ** 2).sum(1).mean())
    return float(np.sqrt(2.0 * spread)) or 1.0


def as_features(values: ArrayLike) -> NDArray[np.float64]:
    """Return (N, D) numbers as float64; an empty list is (0, 0)."""
    features = np.asarray(values, np.float64)
    return features if features.ndim == 2 else features.reshape(len(features), 0)


def _root(
    own: NDArray[np.float64], products: NDArray[np.float64], other: NDArray[np.float64] | float
) -> NDArray[np.float64]:
    """Return distances out of squared lengths and products; what rounding makes negative is 0."""
    return np.asarray(np.sqrt(np.maximum(own + other - 2.0 * products, 0.0)), np.float64)
