"""Tiles: a large image cut into overlapping windows, and their detections merged to the image's.

Plain NumPy, for detectors with and without torch.

Shape shorthand: H x W pixels of an image, T tiles, N detections.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from detkit.geometry.nms_numpy import iou, over_smaller
from detkit.structures import BoolArray, FloatArray, IntArray

CUT_MARGIN = 0.01  # of a tile's side: how near a border a cut object's box ends
CUT_OVERLAP = 0.5  # SAHI's default for postprocessing: intersection over the smaller area
# Ours: the least share of a box's score that another has which explains it. Detectors give dozens
# of boxes with scores of some hundredths, one of which lies around anything.
CREDIBLE = 0.5
BEYOND = (
    0.15  # ours: of a whole box's side; one that reaches no farther beyond is of the same extent
)


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
    2. A cut box that lies at least by half in a whole one, of half its score and more, is a part of
       it, and goes; unless the whole one hardly reaches beyond it: then the object does end at the
       border, and both are its boxes.
    3. Cut boxes of different tiles that overlap by half of the smaller, with no more than twice the
       score of each other, are parts of one object: the box around them stands for them, with the
       best of their scores.
    4. What is left goes through NMS together.

    A cut box that nothing explains stays as it is.
    """
    kept_boxes, kept_scores = [np.empty((0, 4), np.float32)], [np.empty(0, np.float32)]
    kept_labels = [np.empty(0, np.int64)]
    for label in np.unique(labels).tolist():
        rows = np.flatnonzero(labels == label)
        rows = rows[np.argsort(-scores[rows], kind="stable")]
        whole = rows[~cut[rows]]
        whole = whole[_nms(boxes[whole], tiles[whole], nms_thresh)]
        parts = rows[cut[rows]]
        rows, of_whole = _pairs(boxes[parts], tiles[parts], boxes[whole], over_smaller, CUT_OVERLAP)
        # A box of the same extent is no part: the better of the two stays, by NMS below.
        is_part = _beyond(boxes[whole][of_whole], boxes[parts][rows]) > BEYOND
        is_part &= scores[whole][of_whole] >= CREDIBLE * scores[parts][rows]
        parts = np.delete(parts, np.unique(rows[is_part]))
        joined, joined_scores, homes = _joined(boxes[parts], scores[parts], tiles[parts])
        of_class = np.concatenate([boxes[whole], joined])
        class_scores = np.concatenate([scores[whole], joined_scores])
        order = np.argsort(-class_scores, kind="stable")
        homes = np.concatenate([tiles[whole], homes])
        kept = order[_nms(of_class[order], homes[order], nms_thresh)]
        kept_boxes.append(of_class[kept])
        kept_scores.append(class_scores[kept])
        kept_labels.append(np.full(len(kept), label, np.int64))
    all_scores = np.concatenate(kept_scores)
    best = np.argsort(-all_scores, kind="stable")
    return np.concatenate(kept_boxes)[best], all_scores[best], np.concatenate(kept_labels)[best]


def _beyond(boxes: FloatArray, parts: FloatArray) -> FloatArray:
    """Return, (N,), how far each box reaches beyond its part, both (N, 4), at most on any side.

    As a share of the box's own side.
    """
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], np.float32(1e-6))
    reach = np.maximum(parts[:, :2] - boxes[:, :2], boxes[:, 2:] - parts[:, 2:])
    return np.asarray((reach / sides).max(axis=1, initial=-np.inf))


def _nms(boxes: FloatArray, tiles: IntArray, iou_thresh: float) -> IntArray:
    """Return the indices, (N,), of the (K, 4) boxes, best first, that greedy NMS keeps.

    As `nms_numpy.nms`, but `tiles` (K,) say which boxes are near each other: of a panorama there
    are too many to compare each with each.
    """
    first, second = _pairs(boxes, tiles, boxes, iou, np.nextafter(iou_thresh, 2))
    ahead = first < second  # in the order of scores
    order = np.lexsort((second[ahead], first[ahead]))
    gone = np.zeros(len(boxes), np.bool_)
    for better, worse in zip(first[ahead][order].tolist(), second[ahead][order].tolist()):
        if not gone[better]:
            gone[worse] = True
    return np.flatnonzero(~gone)


def _joined(
    boxes: FloatArray, scores: FloatArray, tiles: IntArray
) -> tuple[FloatArray, FloatArray, IntArray]:
    """Return the boxes and scores of cut objects whose parts are joined, and a tile of each.

    A part joins the best object that it overlaps and that has none of its tiles yet; an object
    that has grown may meet another, so this goes on until nothing joins. Best first.
    """
    boxes, seen_in = boxes.copy(), [{tile} for tile in tiles.tolist()]
    alive = np.ones(len(boxes), np.bool_)
    looked = np.arange(len(boxes))  # what may have new neighbours: at first all
    while len(looked):
        first, second = _pairs(boxes[looked], tiles[looked], boxes, over_smaller, CUT_OVERLAP)
        first = looked[first]
        pairs = np.stack([np.minimum(first, second), np.maximum(first, second)], axis=1)
        grown = set()
        for better, worse in np.unique(pairs, axis=0).tolist():
            if better == worse or not (alive[better] and alive[worse]):
                continue
            if seen_in[better] & seen_in[worse] or scores[worse] < CREDIBLE * scores[better]:
                continue
            boxes[better, :2] = np.minimum(boxes[better, :2], boxes[worse, :2])
            boxes[better, 2:] = np.maximum(boxes[better, 2:], boxes[worse, 2:])
            seen_in[better] |= seen_in[worse]
            alive[worse] = False
            grown.add(better)
        looked = np.array(sorted(one for one in grown if alive[one]), np.int64)
        boxes[~alive] = 0.0  # without area it overlaps nothing
    return boxes[alive], scores[alive], tiles[alive]


def _pairs(
    boxes: FloatArray,
    tiles: IntArray,
    others: FloatArray,
    overlap: Callable[[FloatArray, FloatArray], FloatArray],
    least: float,
) -> tuple[IntArray, IntArray]:
    """Return (rows, rows) of the (N, 4) boxes and (M, 4) others that overlap by `least` and more.

    Boxes of one of the `tiles` (N,) are compared together, with the others near them alone.
    """
    found = [(np.empty(0, np.int64), np.empty(0, np.int64))]
    x1, y1, x2, y2 = np.ascontiguousarray(others.T)  # by column: many times faster
    for tile in np.unique(tiles).tolist():
        mine = np.flatnonzero(tiles == tile)
        low, high = boxes[mine, :2].min(axis=0), boxes[mine, 2:].max(axis=0)
        near = np.flatnonzero((x1 < high[0]) & (x2 > low[0]) & (y1 < high[1]) & (y2 > low[1]))
        overlaps = overlap(boxes[mine, None], others[None, near])
        rows, columns = np.nonzero(overlaps.astype(np.float64) >= least)
        found.append((mine[rows], near[columns]))
    return np.concatenate([one for one, _ in found]), np.concatenate([one for _, one in found])
