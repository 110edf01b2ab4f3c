"""Scoring, sliding and refining windows over edge groups: the second half of Edge Boxes.

Zitnick and Dollar 2014, ECCV, sec. 3.2 to 3.4.

Shape shorthand: H x W pixels, G edge groups, N windows.

A window is `(x0, y0, x1, y1)` in whole pixels, both ends belonging to it: its border runs through
the pixels of columns x0 and x1 and rows y0 and y1.

Why it is fast: the ways of eq. 2 are found once an image, not once a window, so that all groups
and ways are met in loops without a branch, none of which could be foreseen. And a score only ever
falls while groups are taken off it, so a window is given up as soon as it falls to the score it
has to beat, which in the refinement is its start's. The answer is the same as without.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detkit.proposals.compiled import compiled
from detkit.proposals.edge_groups import MIN_AFFINITY, EdgeGroups, Floats, Ints, Numbers

# Sec. 3.2, eq. 3: the exponent that keeps large windows from winning by their size alone.
KAPPA = 1.5
# Sec. 3.4: the refinement ends when a step would be below this many pixels.
MIN_STEP = 2
# The signs of x and y in a number that holds x + 65536 y, for sides below 32768.
SIGNS = -0x7FFF8000
# Products are kept in steps of this size, so that one added to a whole number below MOST_WINDOWS
# is still exact in a float64, and scores do not depend on which number a window has.
PRODUCT_STEP = 2.0**-26
MOST_WINDOWS = 2.0**25


class WindowTables(NamedTuple):
    """What a window's score is looked up in; a tuple, since compiled code takes it."""

    magnitudes: Floats  # (G + 1,) m_i
    group_sums: Floats  # (H + 1, W + 1) integral image of m_i, each at its group's one pixel
    edge_sums: Floats  # (H + 1, W + 1) integral image of m_p over all pixels that are edges
    norms: Floats  # (H + W + 1,) the factor of eq. 3 for a half perimeter
    # Sec. 3.3's lists of the groups that rows and columns meet, one run of pixels an entry.
    met: Numbers  # all rows in one list, from left to right; then all columns, downwards
    # (H, W) twice the runs begun up to and with a pixel, all lines before included, and one more
    # if the pixel is in a run.
    row_runs: Ints
    column_runs: Ints  # (W, H)
    corners: Ints  # (G + 1,) x + 65536 y of each group's pixel
    way_starts: Numbers  # (G + 2,) the ways of group i are way_starts[i]:way_starts[i + 1] of ...
    way_ends: Numbers  # (W,) ... the groups that they lead to and ...
    products: Floats  # (W,) ... the largest product of affinities on the way


def window_tables(
    edges: NDArray[np.floating], groups: EdgeGroups, *, min_magnitude: float = 0.1
) -> WindowTables:
    """Return the tables that score the windows of an edge map, (H, W), with its groups."""
    height, width = groups.ids.shape
    strong = np.where(edges > min_magnitude, edges, 0).astype(np.float64)
    at_pixels = np.zeros((height, width), np.float64)
    at_pixels[groups.y[1:], groups.x[1:]] = groups.magnitudes[1:]
    # Released code: the sizes are halved before the power, which is 2^1.5 times eq. 3's factor,
    # and its other 2 is left out. Minimum scores, here and elsewhere, are stated on that scale.
    sizes = np.arange(height + width + 1, dtype=np.float64)
    norms = np.ones_like(sizes)
    norms[1:] = (sizes[1:] / 2) ** -KAPPA
    in_rows, row_runs = _runs(groups.ids)
    in_columns, column_runs = _runs(np.ascontiguousarray(groups.ids.T))
    column_runs += 2 * len(in_rows)
    met = np.concatenate((in_rows, in_columns))
    corners = groups.x + (groups.y << 16)
    return WindowTables(
        groups.magnitudes,
        _integral(at_pixels),
        _integral(strong),
        norms,
        met,
        row_runs,
        column_runs,
        corners,
        *_ways(groups.starts, groups.others, groups.affinities),
    )


@compiled
def _integral(values: Floats) -> Floats:
    """Return the (H + 1, W + 1) sums of all values above and left of each corner."""
    height, width = values.shape
    sums = np.zeros((height + 1, width + 1), np.float64)
    for y in range(height):
        along = 0.0
        for x in range(width):
            along += values[y, x]
            sums[y + 1, x + 1] = sums[y, x + 1] + along
    return sums


@compiled
def _runs(ids: Ints) -> tuple[Numbers, Ints]:
    """Return (`met`, `row_runs`) of the table's rows, a run being pixels in a row of one group."""
    height, width = ids.shape
    owners, begun = np.empty(ids.size, np.uint32), np.empty((height, width), np.int32)
    count = 0
    for y in range(height):
        before = 0
        for x in range(width):
            group = ids[y, x]
            if group != before and group > 0:
                owners[count] = group
                count += 1
            begun[y, x] = 2 * count + (group > 0)
            before = group
    return owners[:count].copy(), begun


@compiled
def _ways(starts: Numbers, others: Numbers, affinities: Floats) -> tuple[Numbers, Numbers, Floats]:
    """Return (`way_starts`, `way_ends`, `products`) of the table from affinities as `EdgeGroups`'.

    Eq. 2: of all ways between two groups the largest product of affinities, MIN_AFFINITY or more.
    """
    room, count = 4 * len(others) + 4, 0
    way_starts = np.zeros(len(starts), np.uint32)
    way_ends, products = np.empty(room, np.uint32), np.empty(room, np.float64)
    best = np.zeros(len(starts), np.float64)  # the largest product found on a way to each group
    waits = np.zeros(len(starts), np.bool_)  # whether its neighbours are to be looked at (anew)
    waiting = np.empty(len(starts), np.uint32)
    for origin in range(1, len(starts) - 1):
        best[origin] = 1.0
        waiting[0], num_waiting = origin, 1
        while num_waiting > 0:
            num_waiting -= 1
            group = waiting[num_waiting]
            waits[group] = False
            for entry in range(starts[group], starts[group + 1]):
                product = best[group] * affinities[entry]
                if product < MIN_AFFINITY:
                    break  # the rest are smaller
                other = others[entry]
                if product <= best[other]:
                    continue
                if best[other] == 0:
                    if count == room:
                        room *= 2
                        way_ends = np.concatenate((way_ends, np.empty_like(way_ends)))
                        products = np.concatenate((products, np.empty_like(products)))
                    way_ends[count] = other
                    count += 1
                best[other] = product
                if not waits[other]:
                    waits[other] = True
                    waiting[num_waiting] = other
                    num_waiting += 1
        best[origin] = 0
        for entry in range(way_starts[origin], count):
            products[entry] = math.floor(best[way_ends[entry]] / PRODUCT_STEP) * PRODUCT_STEP
            best[way_ends[entry]] = 0
        way_starts[origin + 1] = count
    return way_starts, way_ends[:count].copy(), products[:count].copy()


@compiled
def slide(
    height: int, width: int, alpha: float, min_area: float, max_aspect_ratio: float
) -> NDArray[np.int32]:
    """Return the windows, (N, 4) int32, that lie on an image with IoU `alpha` between neighbours.

    Sec. 3.4: a step in x, y, scale or aspect ratio leaves an IoU of alpha; aspect ratios from
    1 / `max_aspect_ratio` to it, sizes from `min_area` to the image's. Windows that reach over
    the image are cut at it.
    """
    scale_step = math.sqrt(1 / alpha)
    ratio_step = (1 + alpha) / (2 * alpha)
    shift = (1 - alpha) / (1 + alpha)  # as a share of the window's side
    side = math.sqrt(min_area)
    ratios = int(math.log(max_aspect_ratio) / math.log(ratio_step * ratio_step))
    scales = max(0, int(math.ceil(math.log(max(height, width) / side) / math.log(scale_step))))
    room, count = 1024, 0
    windows = np.empty((room, 4), np.int32)
    for scale in range(scales):
        size = side * scale_step**scale
        for ratio in range(-ratios, ratios + 1):
            high = int(size / ratio_step**ratio)
            wide = int(size * ratio_step**ratio)
            step_y, step_x = max(2, int(high * shift)), max(2, int(wide * shift))
            for y in range(0, height - high + step_y, step_y):
                for x in range(0, width - wide + step_x, step_x):
                    x1, y1 = min(x + wide, width - 1), min(y + high, height - 1)
                    if x1 <= x or y1 <= y:
                        continue
                    if count == room:
                        room *= 2
                        windows = np.concatenate((windows, np.empty_like(windows)))
                    windows[count, 0], windows[count, 1] = x, y
                    windows[count, 2], windows[count, 3] = x1, y1
                    count += 1
    cut: NDArray[np.int32] = windows[:count].copy()
    return cut


@compiled
def score_windows(
    tables: WindowTables, windows: NDArray[np.int32], refine: bool, alpha: float, min_score: float
) -> Floats:
    """Return the scores h_in, (N,), of windows, (N, 4); 0 for those that do not pass `min_score`.

    Eq. 4: the magnitudes of the groups inside, each times w_b, less the edges in the middle, over
    the power of the half perimeter of eq. 3. w_b is 1 less the largest product of affinities on
    a way to the group from one on the window's border, eq. 2.

    With `refine` the windows that pass are changed in place, sec. 3.4: each of the four sides in
    turn is moved out by a step, or if that is no better in, and stays where the score grows; then
    the step is halved. The first step is that between windows, half of it.

    One function, since a call with all these tables takes as long as a typical score.
    """
    magnitudes, corners = tables.magnitudes, tables.corners
    starts, ends = tables.way_starts, tables.way_starts[1:]
    others, products = tables.way_ends, tables.products
    group_sums, edge_sums, norms = tables.group_sums, tables.edge_sums, tables.norms
    met, row_runs, column_runs = tables.met, tables.row_runs, tables.column_runs
    height, width = row_runs.shape
    # The number of the last window that met a group, plus the largest product on a way from its
    # border to the group: one number, so that to note both takes no branch.
    reached = np.zeros(len(magnitudes), np.float64)
    number = 0.0
    # The groups on the border that lead to others. One more than there are, since each is written
    # before it is known whether it stays.
    leading = np.empty(len(magnitudes) + 1, np.uint32)
    shift = (1 - alpha) / (1 + alpha)
    scores = np.zeros(len(windows), np.float64)
    for i in range(len(windows)):
        x0, y0, x1, y1 = windows[i, 0], windows[i, 1], windows[i, 2], windows[i, 3]
        best_x0, best_y0, best_x1, best_y1 = x0, y0, x1, y1
        best = min_score
        step_x, step_y = int((x1 - x0) * shift), int((y1 - y0) * shift)
        move = -1  # -1: the window itself; then side * 2 + (0 outwards, 1 inwards)
        while True:
            wide, high = (x1 - x0) // 2, (y1 - y0) // 2
            norm = norms[x1 - x0 + y1 - y0]
            floor = best / norm
            left, top = x0 + wide // 2, y0 + high // 2
            right, bottom = left + wide + 1, top + high + 1
            row0, row1 = group_sums[y0], group_sums[y1 + 1]
            value = row1[x1 + 1] - row0[x1 + 1] - row1[x0] + row0[x0]
            row0, row1 = edge_sums[top], edge_sums[bottom]
            value -= row1[right] - row0[right] - row1[left] + row0[left]
            if value > floor:
                number += 2
                if number > MOST_WINDOWS:
                    number = 2.0
                    reached[:] = 0
                first_corner, last_corner = np.int32(x0 + (y0 << 16)), np.int32(x1 + (y1 << 16))
                # S_b of sec. 3.2, the groups on the border: w_b = 0, all of each comes off.
                count = 0
                for side in range(4):
                    if side < 2:
                        line = y0 if side == 0 else y1
                        first, last = row_runs[line, x0], row_runs[line, x1]
                    else:
                        line = x0 if side == 2 else x1
                        first, last = column_runs[line, y0], column_runs[line, y1]
                    for run in range(np.uint32((first >> 1) - (first & 1)), np.uint32(last >> 1)):
                        group = met[run]
                        corner = corners[group]
                        signs = ((corner - first_corner) | (last_corner - corner)) & SIGNS
                        is_new = reached[group] < number
                        reached[group] = number + 1
                        value -= (is_new & (signs == 0)) * magnitudes[group]
                        leading[count] = group
                        count += is_new & (starts[group] < ends[group])
                    if value <= floor:
                        break
                # Eq. 2: of every other group as much as the best way to it says.
                for i_leading in range(count):
                    if value <= floor:
                        break
                    group = leading[i_leading]
                    for entry in range(starts[group], ends[group]):
                        other = others[entry]
                        corner = corners[other]
                        signs = ((corner - first_corner) | (last_corner - corner)) & SIGNS
                        before = max(reached[other], number)
                        now = max(before, number + products[entry])
                        reached[other] = now
                        value -= (signs == 0) * (now - before) * magnitudes[other]
            better = value > floor
            if better:
                best = value * norm
                best_x0, best_y0, best_x1, best_y1 = x0, y0, x1, y1
                scores[i] = best
            elif move < 0:
                break
            if not refine:
                break
            # The next move that changes the window: after a better one outwards, the next side.
            if better and move >= 0:
                move |= 1
            ended = False
            while True:
                move += 1
                if move == 8:
                    move = 0
                if move == 0:
                    step_x, step_y = step_x // 2, step_y // 2
                    if step_x <= MIN_STEP and step_y <= MIN_STEP:
                        ended = True
                        break
                    step_x, step_y = max(1, step_x), max(1, step_y)
                x0, y0, x1, y1 = best_x0, best_y0, best_x1, best_y1
                if move == 0:
                    y0 = max(0, y0 - step_y)
                elif move == 1:
                    y0 += step_y
                elif move == 2:
                    y1 = min(height - 1, y1 + step_y)
                elif move == 3:
                    y1 -= step_y
                elif move == 4:
                    x0 = max(0, x0 - step_x)
                elif move == 5:
                    x0 += step_x
                elif move == 6:
                    x1 = min(width - 1, x1 + step_x)
                else:
                    x1 -= step_x
                same = x0 == best_x0 and y0 == best_y0 and x1 == best_x1 and y1 == best_y1
                if x0 < x1 and y0 < y1 and not same:
                    break
            if ended:
                break
        if scores[i] > 0:
            windows[i, 0], windows[i, 1] = best_x0, best_y0
            windows[i, 2], windows[i, 3] = best_x1, best_y1
    return scores
