"""Edge groups and their affinities: the first half of Edge Boxes.

Zitnick and Dollar 2014, "Edge Boxes: Locating Object Proposals from Edges", ECCV, sec. 3.1.

Shape shorthand: H x W pixels, G edge groups (numbered from 1; 0 is no group), K entries of the
sparse matrix of affinities.

Orientations are those of the gradient, across the edge, in radians modulo pi, y downwards:
what `detkit.proposals.edges` gives and OpenCV's `computeOrientation` too. The paper's theta is
the edge's own direction, a right angle from it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detkit.proposals.compiled import compiled

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
# What is used as an index in hot loops: numba asks of signed ones whether they count from the end.
Numbers = NDArray[np.uint32]

# Two groups are neighbours when pixels of theirs are at most this many rows and columns apart:
# a gap of one pixel is bridged (released code).
NEIGHBOURHOOD = 2
# Products of affinities below this count as 0 (released code), which keeps the lists short.
MIN_AFFINITY = 0.05


class EdgeGroups(NamedTuple):
    """The edge groups of one image; a tuple, since that is what compiled code can take."""

    ids: Ints  # (H, W) the group of each pixel, 0 for none
    magnitudes: Floats  # (G + 1,) m_i of sec. 3.1: summed edge magnitudes
    x: Ints  # (G + 1,) a pixel of each group, sec. 3.2: any of its pixels does ...
    y: Ints  # ... since a group that no window border crosses is inside or outside as a whole
    starts: Numbers  # (G + 2,) the entries of group i are starts[i]:starts[i + 1] in ...
    others: Numbers  # (K,) ... the groups it has an affinity with and ...
    affinities: Floats  # (K,) ... that affinity, descending, in [MIN_AFFINITY, 1]


def edge_groups(
    edges: NDArray[np.floating],
    orientation: NDArray[np.floating],
    *,
    min_magnitude: float = 0.1,
    min_group_magnitude: float = 0.5,
    gamma: float = 2.0,
) -> EdgeGroups:
    """Return the groups of an edge map and the affinities of neighbouring groups.

    `edges` is (H, W), about [0, 1], thin; `orientation` (H, W) in radians modulo pi, across the
    edge. Pixels of at most `min_magnitude` are no edges, nor are those at the image's border;
    groups that sum to at most `min_group_magnitude` are merged into their neighbours (sec. 3.1);
    `gamma` is the sensitivity of eq. 1.
    """
    magnitude = np.ascontiguousarray(edges, np.float64)
    angle = np.ascontiguousarray(orientation, np.float64)
    ids, count = _grow(magnitude, angle, min_magnitude)
    _merge_small(ids, count, magnitude, angle, min_group_magnitude)
    magnitudes, x, y, mean_x, mean_y, mean_angle = _measure(ids, count, magnitude, angle)
    starts, others, affinities = _affinities(ids, mean_x, mean_y, mean_angle, gamma)
    return EdgeGroups(ids, magnitudes, x, y, starts, others, affinities)


@compiled
def _grow(magnitude: Floats, angle: Floats, min_magnitude: float) -> tuple[Ints, int]:
    """Return (group of each pixel (H, W), G): edge pixels linked until they turn by pi/2.

    Sec. 3.1: "a simple greedy approach that combines 8-connected edges until the sum of their
    orientation differences is above a threshold (pi/2)". The next pixel is the one, of all that
    touch the group, whose orientation is nearest to the pixel it was found from.
    """
    height, width = magnitude.shape
    ids = np.zeros((height, width), np.int32)
    found_by = np.zeros((height, width), np.int32)  # the last group whose edge the pixel was on
    room = 64
    border_x, border_y = np.empty(room, np.int32), np.empty(room, np.int32)
    turns = np.empty(room, np.float64)
    count = 0
    for top in range(1, height - 1):
        for left in range(1, width - 1):
            if ids[top, left] != 0 or not magnitude[top, left] > min_magnitude:
                continue
            count += 1
            y, x, total, size = top, left, 0.0, 0
            while True:
                ids[y, x] = count
                if size + 8 > room:
                    room *= 2
                    border_x = np.concatenate((border_x, np.empty_like(border_x)))
                    border_y = np.concatenate((border_y, np.empty_like(border_y)))
                    turns = np.concatenate((turns, np.empty_like(turns)))
                for row in range(max(y - 1, 1), min(y + 2, height - 1)):
                    for column in range(max(x - 1, 1), min(x + 2, width - 1)):
                        if (
                            ids[row, column] != 0
                            or found_by[row, column] == count
                            or not magnitude[row, column] > min_magnitude
                        ):
                            continue
                        turn = abs(angle[row, column] - angle[y, x])
                        border_x[size], border_y[size] = column, row
                        turns[size] = min(turn, math.pi - turn)  # orientations wrap at pi
                        found_by[row, column] = count
                        size += 1
                if size == 0:
                    break
                best = 0
                for i in range(1, size):
                    if turns[i] < turns[best]:
                        best = i
                total += turns[best]
                if total >= math.pi / 2:
                    break
                y, x = border_y[best], border_x[best]
                size -= 1
                for i in range(best, size):  # keeps the order: of equals the first found wins
                    border_x[i], border_y[i] = border_x[i + 1], border_y[i + 1]
                    turns[i] = turns[i + 1]
    return ids, count


@compiled
def _merge_small(
    ids: Ints, count: int, magnitude: Floats, angle: Floats, min_group_magnitude: float
) -> None:
    """Give the pixels of small groups to the neighbouring group of nearest orientation, in place.

    What has no neighbour left is no group (0). Group numbers may have gaps afterwards.
    """
    height, width = ids.shape
    sums = np.zeros(count + 1, np.float64)
    for y in range(height):
        for x in range(width):
            sums[ids[y, x]] += magnitude[y, x]
    loose = 0
    loose_x, loose_y = np.empty(ids.size, np.int32), np.empty(ids.size, np.int32)
    for y in range(height):
        for x in range(width):
            if ids[y, x] > 0 and sums[ids[y, x]] <= min_group_magnitude:
                ids[y, x] = 0
                loose_x[loose], loose_y[loose] = x, y
                loose += 1
    changed = True
    while changed:
        changed, left = False, 0
        for i in range(loose):
            x, y = loose_x[i], loose_y[i]
            nearest, joined = math.inf, 0
            for row in range(y - 1, y + 2):  # groups keep off the border: never outside
                for column in range(x - 1, x + 2):
                    if ids[row, column] > 0:
                        turn = abs(angle[row, column] - angle[y, x])
                        turn = min(turn, math.pi - turn)
                        if turn < nearest:
                            nearest, joined = turn, ids[row, column]
            ids[y, x] = joined
            if joined:
                changed = True
            else:
                loose_x[left], loose_y[left] = x, y
                left += 1
        loose = left


@compiled
def _measure(
    ids: Ints, count: int, magnitude: Floats, angle: Floats
) -> tuple[Floats, Ints, Ints, Floats, Floats, Floats]:
    """Return (magnitudes, x, y, mean x, mean y, mean angle), each (G + 1,); closes gaps in `ids`.

    Means are weighted by magnitude. The mean orientation is that of the doubled angles, halved:
    orientations modulo pi have no other.
    """
    height, width = ids.shape
    numbers = np.zeros(count + 1, np.int32)
    groups = 0
    for y in range(height):
        for x in range(width):
            old = ids[y, x]
            if old > 0:
                if numbers[old] == 0:
                    groups += 1
                    numbers[old] = groups
                ids[y, x] = numbers[old]
    magnitudes = np.zeros(groups + 1, np.float64)
    some_x, some_y = np.zeros(groups + 1, np.int32), np.zeros(groups + 1, np.int32)
    mean_x, mean_y = np.zeros(groups + 1, np.float64), np.zeros(groups + 1, np.float64)
    cosines, sines = np.zeros(groups + 1, np.float64), np.zeros(groups + 1, np.float64)
    for y in range(height):
        for x in range(width):
            group = ids[y, x]
            if group > 0:
                weight = magnitude[y, x]
                magnitudes[group] += weight
                mean_x[group] += weight * x
                mean_y[group] += weight * y
                cosines[group] += weight * math.cos(2 * angle[y, x])
                sines[group] += weight * math.sin(2 * angle[y, x])
                some_x[group], some_y[group] = x, y
    mean_angle = np.zeros(groups + 1, np.float64)
    for group in range(1, groups + 1):
        mean_x[group] /= magnitudes[group]
        mean_y[group] /= magnitudes[group]
        mean_angle[group] = math.atan2(sines[group], cosines[group]) / 2
    return magnitudes, some_x, some_y, mean_x, mean_y, mean_angle


@compiled
def _affinities(
    ids: Ints, mean_x: Floats, mean_y: Floats, mean_angle: Floats, gamma: float
) -> tuple[Numbers, Numbers, Floats]:
    """Return (starts (G + 2,), others (K,), affinities (K,)) of neighbouring groups, eq. 1."""
    height, width = ids.shape
    groups = len(mean_x) - 1
    # A chain of pairs for each group: first[i] is its last pair, following[pair] the one before.
    room, pairs = 4 * groups + 4, 0
    first, following = np.full(groups + 1, -1, np.int32), np.empty(room, np.int32)
    partner, origin = np.empty(room, np.int32), np.empty(room, np.int32)
    for y in range(height):
        for x in range(width):
            group = ids[y, x]
            if group == 0:
                continue
            for row in range(y, min(y + NEIGHBOURHOOD + 1, height)):
                left = x + 1 if row == y else max(x - NEIGHBOURHOOD, 0)
                for column in range(left, min(x + NEIGHBOURHOOD + 1, width)):
                    near = ids[row, column]
                    if near == 0 or near == group:
                        continue
                    low, high = min(group, near), max(group, near)
                    pair = first[low]
                    while pair >= 0 and partner[pair] != high:
                        pair = following[pair]
                    if pair >= 0:
                        continue
                    if pairs == room:
                        room *= 2
                        following = np.concatenate((following, np.empty_like(following)))
                        partner = np.concatenate((partner, np.empty_like(partner)))
                        origin = np.concatenate((origin, np.empty_like(origin)))
                    partner[pairs], origin[pairs] = high, low
                    following[pairs], first[low] = first[low], pairs
                    pairs += 1
    values = np.empty(pairs, np.float64)
    starts = np.zeros(groups + 2, np.int32)
    for pair in range(pairs):
        i, j = origin[pair], partner[pair]
        between = math.atan2(mean_y[i] - mean_y[j], mean_x[i] - mean_x[j])
        # Eq. 1: |cos(theta_i - theta_ij) cos(theta_j - theta_ij)|^gamma; theta is along the
        # edge and our angle across it, which turns the cosines into sines.
        product = math.sin(mean_angle[i] - between) * math.sin(mean_angle[j] - between)
        values[pair] = abs(product) ** gamma
        if values[pair] >= MIN_AFFINITY:
            starts[i + 1] += 1
            starts[j + 1] += 1
    for group in range(1, groups + 2):
        starts[group] += starts[group - 1]
    others, affinities = np.empty(starts[-1], np.uint32), np.empty(starts[-1], np.float64)
    filled = starts.copy()
    for pair in range(pairs):
        if values[pair] < MIN_AFFINITY:
            continue
        for i, j in ((origin[pair], partner[pair]), (partner[pair], origin[pair])):
            place = filled[i]
            while place > starts[i] and affinities[place - 1] < values[pair]:
                others[place], affinities[place] = others[place - 1], affinities[place - 1]
                place -= 1
            others[place], affinities[place] = j, values[pair]
            filled[i] += 1
    return starts.astype(np.uint32), others, affinities
