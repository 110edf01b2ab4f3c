"""Tiles: a large image cut into overlapping windows, and their detections merged to the image's.

Plain NumPy, for detectors with and without torch.

Shape shorthand: H x W pixels of an image, T tiles, N detections.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from detkit.geometry.nms_numpy import nms, over_smaller
from detkit.structures import BoolArray, FloatArray, IntArray

CUT_MARGIN = 0.01  # of a tile's side: how near a border a cut object's box ends
CUT_OVERLAP = 0.5  # SAHI's default for postprocessing: intersection over the smaller area


def tile_windows(height: int, width: int, side: int, overlap: float) -> IntArray:
    """Return the (T, 4) windows x1, y1, x2, y2 of `side` pixels that cover an H x W image.

    Row by row, evenly spaced, two neighbours sharing at least the part `overlap` of their side.
    Along a side of the image that is not longer there is one window, as long as that side.
    """
    rows, columns = (_starts(length, side, overlap) for length in (height, width))
    return np.array(
        [
            (x, y, min(x + side, width), min(y + side, height))
            for y in rows.tolist()
            for x in columns.tolist()
        ],
        np.int64,
    )


def num_tiles(height: int, width: int, side: int, overlap: float) -> int:
    """Return T, the number of `tile_windows`; 0 for a `side` of 0, and where one shows all."""
    if not side or max(height, width) <= side:
        return 0
    return len(_starts(height, side, overlap)) * len(_starts(width, side, overlap))


def _starts(length: int, side: int, overlap: float) -> IntArray:
    """Return where the windows along one side begin."""
    if length <= side:
        return np.zeros(1, np.int64)
    step = max(1, math.floor(side * (1 - overlap)))
    count = math.ceil((length - side) / step) + 1
    starts: IntArray = np.linspace(0, length - side, count).round().astype(np.int64)
    return starts


def cut_by(boxes: FloatArray, window: IntArray, height: int, width: int) -> BoolArray:
    """Return, (N,) bool, which boxes end at a border of the window (4,) inside the H x W image.

    What the border cuts goes on beyond it; a border of the image itself cuts nothing.
    """
    margin = CUT_MARGIN * max(window[2] - window[0], window[3] - window[1])
    x1, y1, x2, y2 = window.tolist()
    return np.asarray(
        ((boxes[:, 0] < x1 + margin) & (x1 > 0))
        | ((boxes[:, 1] < y1 + margin) & (y1 > 0))
        | ((boxes[:, 2] > x2 - margin) & (x2 < width))
        | ((boxes[:, 3] > y2 - margin) & (y2 < height))
    )


def merge(
    boxes: FloatArray,
    scores: FloatArray,
    labels: IntArray,
    tiles: IntArray,
    cut: BoolArray,
    *,
    nms_thresh: float,
) -> tuple[FloatArray, FloatArray, IntArray]:
    """Return the (boxes, scores, labels) of an image, best first, from those of its tiles.

    `boxes` (N, 4) are in the image's pixels, `tiles` (N,) says which window found them, `cut`
    (N,) which end at its border. Class by class:

    1. Whole boxes go through greedy NMS: one of an IoU above `nms_thresh` with a better goes.
    2. A cut box that lies at least by half in a whole one is a part of it, and goes.
    3. Cut boxes of different tiles that overlap by half of the smaller are parts of one object:
       the box around them stands for them, with the best of their scores.
    4. What is left goes through NMS together.

    A cut box that nothing explains stays as it is.
    """
    kept_boxes, kept_scores = [np.empty((0, 4), np.float32)], [np.empty(0, np.float32)]
    kept_labels = [np.empty(0, np.int64)]
    for label in np.unique(labels).tolist():
        rows = np.flatnonzero(labels == label)
        rows = rows[np.argsort(-scores[rows], kind="stable")]
        whole = rows[~cut[rows]]
        whole = whole[nms(boxes[whole], nms_thresh)]
        parts = rows[cut[rows]]
        parts = parts[_share_inside(boxes[parts], boxes[whole]) < CUT_OVERLAP]
        joined, joined_scores = _joined(boxes[parts], scores[parts], tiles[parts])
        of_class = np.concatenate([boxes[whole], joined])
        class_scores = np.concatenate([scores[whole], joined_scores])
        order = np.argsort(-class_scores, kind="stable")
        kept = order[nms(of_class[order], nms_thresh)]
        kept_boxes.append(of_class[kept])
        kept_scores.append(class_scores[kept])
        kept_labels.append(np.full(len(kept), label, np.int64))
    all_scores = np.concatenate(kept_scores)
    best = np.argsort(-all_scores, kind="stable")
    return np.concatenate(kept_boxes)[best], all_scores[best], np.concatenate(kept_labels)[best]


def _joined(
    boxes: FloatArray, scores: FloatArray, tiles: IntArray
) -> tuple[FloatArray, FloatArray]:
    """Return the boxes and scores of cut objects, best first, whose parts are joined.

    A part joins the best object that it overlaps and that has none of its tile yet; an object
    that has grown may meet another, so this goes on until nothing joins.
    """
    objects = [
        (box, float(score), {tile}) for box, score, tile in zip(boxes, scores, tiles.tolist())
    ]
    grown = True
    while grown:
        grown, rest, objects = False, objects, []
        for box, score, seen_in in rest:
            others = np.array([one[0] for one in objects], np.float32).reshape(-1, 4)
            near = np.flatnonzero(over_smaller(box, others) >= CUT_OVERLAP).tolist()
            mate = next((at for at in near if not objects[at][2] & seen_in), None)
            if mate is None:
                objects.append((box, score, seen_in))
                continue
            other, best, its_tiles = objects[mate]
            around = np.concatenate(
                [np.minimum(box[:2], other[:2]), np.maximum(box[2:], other[2:])]
            )
            objects[mate] = (around, best, its_tiles | seen_in)
            grown = True
    return (
        np.array([one[0] for one in objects], np.float32).reshape(-1, 4),
        np.array([one[1] for one in objects], np.float32),
    )


def _share_inside(boxes: FloatArray, others: FloatArray) -> FloatArray:
    """Return, (N,), the most that each box shares with one of the others, of the smaller area."""
    shares: Iterable[float] = (over_smaller(box, others).max(initial=0.0) for box in boxes)
    return np.fromiter(shares, np.float32, len(boxes))
