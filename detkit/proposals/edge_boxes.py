"""Edge Boxes: windows ranked by the contours that lie wholly inside them.

Zitnick and Dollar 2014, "Edge Boxes: Locating Object Proposals from Edges", ECCV.

Shape shorthand: H x W pixels, N windows, P proposals.

Differences from the paper
- The edges are detkit's own (`detkit.proposals.edges`) unless given.
- Scores are on the released code's scale (2^2.5 times eq. 3), as its minimum score is.
- Windows start at 400 pixels. The released code's 1000 hide small objects; 100 crowd out others.
- Images are searched at a longer side of 500 px at most, the released code's as they are; a
  `Proposer` keeps 2000 boxes, the released code 10,000.
- Ways between groups (eq. 2) may leave the window, as the paper has it. The released code follows
  groups whose middle lies in it alone.

Where the equations are:
- sec. 3: `gradient_edges`, the edge map, which the paper has from structured edges
- sec. 3.1: `edge_groups._grow`, edge groups
- sec. 3.1: `edge_groups._merge_small`, small groups merged into their neighbours
- sec. 3.1, eq. 1: `edge_groups._affinities`, affinity of two groups
- sec. 3.2, eq. 2: `edge_windows._ways`, the largest product of affinities on a way
- sec. 3.2, eqs. 2-4: `edge_windows.score_windows`, w_b, and the score h_b less the middle
- sec. 3.2, eq. 3: `edge_windows.window_tables`, the size that a score is divided by
- sec. 3.3: `edge_windows._runs`, the groups that a row or column meets
- sec. 3.4: `edge_windows.slide`, the windows of the search
- sec. 3.4: `edge_windows.score_windows`, refinement of windows
- sec. 3.4: `suppress`, NMS
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from detkit.data.images import scaled_down
from detkit.errors import UsageError
from detkit.proposals import edge_windows
from detkit.proposals.compiled import compiled, first_call_notice
from detkit.proposals.edge_groups import Floats, Ints, edge_groups
from detkit.proposals.edges import gradient_edges
from detkit.proposals.proposer import USUAL, EdgeSearch
from detkit.structures import Proposals

MOST_PIXELS = 32766  # a side: what cv2.remap takes; edge_windows.SIGNS holds for one more
SIZE_STEP = math.log(4 / 3)  # suppress() sorts boxes by their sides in steps of this factor ...
MOST_CELLS = 128  # ... and by their centres into at most so many cells each way


def edge_boxes(
    image: NDArray[np.uint8],
    *,
    alpha: float = USUAL.edge_alpha,
    beta: float = USUAL.edge_beta,
    eta: float = USUAL.edge_eta,
    min_score: float = USUAL.edge_min_score,
    max_boxes: int = 10000,
    min_area: float = USUAL.edge_min_area,
    max_aspect_ratio: float = USUAL.edge_max_aspect_ratio,
    min_magnitude: float = 0.1,
    min_group_magnitude: float = 0.5,
    gamma: float = 2.0,
    max_side: int = 500,
    threads: int = 1,
    edges: NDArray[np.floating] | None = None,
    orientation: NDArray[np.floating] | None = None,
) -> Proposals:
    """Return the boxes of Edge Boxes, best first, in the image's own pixels.

    `image` is (H, W, 3) RGB or (H, W) grey. An image with a side above `max_side` is scaled down
    to it for the search, whose size time and memory depend on: 6000 x 4000 pixels take about 1 s
    and 300 MB at 500, 31 s and 2 GB at 6000 (one shared core). With `edges` and `orientation`,
    both (H, W), as `detkit.proposals.edges` describes them, the image's own are not looked for
    and nothing is scaled. An image without edges has no boxes.

    `alpha` is the IoU of neighbouring windows in the search and `beta` that above which the
    worse of two boxes goes; `eta` below 1 lowers beta with each box kept (sec. 3.4).
    `min_area` is in searched pixels. `min_magnitude`, `min_group_magnitude` and `gamma` are
    those of `edge_groups`. The boxes do not depend on `threads`. Raises UsageError for a
    parameter out of its range.
    """
    EdgeSearch(alpha, beta, eta, min_score, min_area, max_aspect_ratio)  # judges its numbers
    if not gamma > 0:
        raise UsageError(f"edge boxes: gamma is {gamma:g}, and has to be above 0")
    if min(max_boxes, max_side, threads) < 1:
        raise UsageError("edge boxes: max_boxes, max_side and threads are at least 1")
    height, width = image.shape[:2]
    if (edges is None) != (orientation is None):
        raise UsageError("edge boxes: edges and orientation are given together or not at all")
    if edges is None or orientation is None:
        if not height or not width:
            return Proposals(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
        small = scaled_down(image, max_side, narrowest=64, most=MOST_PIXELS)
        _check_size(small.shape)
        edges, orientation = gradient_edges(small)
    elif edges.shape != (height, width) or orientation.shape != (height, width):
        raise UsageError(
            f"edge boxes: edges {edges.shape} and orientation {orientation.shape} are not of the "
            f"image's size {(height, width)}"
        )
    _check_size(edges.shape)
    first_call_notice(edge_windows.score_windows, 15)
    groups = edge_groups(
        edges,
        orientation,
        min_magnitude=min_magnitude,
        min_group_magnitude=min_group_magnitude,
        gamma=gamma,
    )
    tables = edge_windows.window_tables(edges, groups, min_magnitude=min_magnitude)
    least, ratio = float(min_area), float(max_aspect_ratio)  # for whole ones it were compiled anew
    windows = edge_windows.slide(edges.shape[0], edges.shape[1], alpha, least, ratio)
    scores = _refined(tables, windows, alpha, min_score, threads)
    found = np.flatnonzero(scores > 0)
    order = found[np.argsort(-scores[found], kind="stable")]
    order = order[suppress(windows[order], beta, eta, max_boxes)]
    # Half-open: the outermost pixels belong to the window.
    boxes = (windows[order] + [0, 0, 1, 1]) * np.tile((width, height), 2)
    boxes = boxes / np.tile(edges.shape[::-1], 2)  # multiplied first: the far side is met exactly
    return Proposals(boxes.astype(np.float32), scores[order].astype(np.float32))


def _refined(
    tables: edge_windows.WindowTables,
    windows: Ints,
    alpha: float,
    min_score: float,
    threads: int,
) -> Floats:
    """Return the scores, (N,), of windows, (N, 4), refined in place, by several threads."""
    scores = np.empty(len(windows), np.float64)

    def refine(part: slice) -> None:  # every so-manieth window: large ones take longer
        own = np.ascontiguousarray(windows[part])
        scores[part] = edge_windows.score_windows(tables, own, True, alpha, min_score)
        windows[part] = own

    parts = [slice(start, None, threads) for start in range(threads)]
    if threads == 1:
        refine(parts[0])
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(refine, parts))
    return scores


def _check_size(shape: tuple[int, ...]) -> None:
    """Raise UsageError for a searched image that is larger than can be searched."""
    if max(shape[:2]) > MOST_PIXELS:
        raise UsageError(
            f"edge boxes: {shape[1]} x {shape[0]} pixels to search, and at most {MOST_PIXELS} a "
            "side can be: lower max_side"
        )


@compiled
def suppress(boxes: Ints, beta: float, eta: float, max_boxes: int) -> NDArray[np.int64]:
    """Return the indices, (P,), of the boxes that greedy NMS keeps of (N, 4) boxes, best first.

    Sec. 3.4: a box goes when its IoU with a better one that stays is above beta. Adaptive NMS
    (released code): with eta below 1, beta shrinks by that factor with each box kept, to .5.

    Each box is held against those near it only. Widths of boxes with an IoU above t differ by a
    factor below 1 / t, heights too, and their centres by less than (1 - t) / 2t of the smaller
    side: kept boxes are found by the logarithms of their sides and the cell of their centre.
    """
    kept = np.empty(min(len(boxes), max_boxes), np.int64)
    if len(boxes) == 0:
        return kept
    lowest = min(beta, 0.5) if eta < 1 else beta
    reach = int(math.ceil(-math.log(lowest) / SIZE_STEP))
    extent = max(boxes[:, 2].max(), boxes[:, 3].max()) + 1
    bins = int(math.log(extent) / SIZE_STEP) + 1
    cells, firsts = np.empty(bins, np.float64), np.empty(bins, np.int64)  # of each size
    total = 0
    for size in range(bins):
        cells[size] = max(math.exp(size * SIZE_STEP) / 2, extent / MOST_CELLS)
        firsts[size] = total
        total += int(extent / cells[size]) + 1
    newest = np.full((total, total), -1, np.int32)  # of the boxes in a cell the last kept ...
    before = np.empty(len(boxes), np.int32)  # ... and the one kept before each
    count, thresh = 0, beta
    for i in range(len(boxes)):
        if count == len(kept):
            break
        x0, y0, x1, y1 = boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3]
        by_width = int(math.log(x1 - x0) / SIZE_STEP)
        by_height = int(math.log(y1 - y0) / SIZE_STEP)
        if _covered(
            boxes, x0, y0, x1, y1, by_width, by_height, reach, thresh, cells, firsts, newest, before
        ):
            continue
        row = firsts[by_height] + int((y0 + y1) / 2 / cells[by_height])
        column = firsts[by_width] + int((x0 + x1) / 2 / cells[by_width])
        before[i], newest[row, column] = newest[row, column], i
        kept[count] = i
        count += 1
        if eta < 1 and thresh > 0.5:
            thresh *= eta
    return kept[:count]


@compiled
def _covered(
    boxes: Ints,
    x0: int,
    y0: int,
    x1: int,
    y1: int,
    by_width: int,
    by_height: int,
    reach: int,
    thresh: float,
    cells: Floats,
    firsts: NDArray[np.int64],
    newest: Ints,
    before: Ints,
) -> bool:
    """Return whether a box has an IoU above `thresh` with one of those in `suppress`'s cells."""
    wide, high = x1 - x0, y1 - y0
    area = wide * high
    away = (1 - thresh) / (2 * thresh)
    end = len(newest)
    for tall in range(max(0, by_height - reach), min(by_height + reach + 1, len(cells))):
        last = firsts[tall + 1] - 1 if tall + 1 < len(cells) else end - 1
        top = firsts[tall] + int(max(0.0, (y0 + y1) / 2 - away * high) / cells[tall])
        bottom = min(last, firsts[tall] + int(((y0 + y1) / 2 + away * high) / cells[tall]))
        for broad in range(max(0, by_width - reach), min(by_width + reach + 1, len(cells))):
            last = firsts[broad + 1] - 1 if broad + 1 < len(cells) else end - 1
            left = firsts[broad] + int(max(0.0, (x0 + x1) / 2 - away * wide) / cells[broad])
            right = min(last, firsts[broad] + int(((x0 + x1) / 2 + away * wide) / cells[broad]))
            for row in range(top, bottom + 1):
                for column in range(left, right + 1):
                    j = newest[row, column]
                    while j >= 0:
                        both = max(0, min(x1, boxes[j, 2]) - max(x0, boxes[j, 0])) * max(
                            0, min(y1, boxes[j, 3]) - max(y0, boxes[j, 1])
                        )
                        theirs = (boxes[j, 2] - boxes[j, 0]) * (boxes[j, 3] - boxes[j, 1])
                        if both > thresh * (area + theirs - both):
                            return True
                        j = before[j]
    return False
