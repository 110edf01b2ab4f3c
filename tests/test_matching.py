"""Matching and sampling on tables small enough to read."""

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from detkit.geometry.matching import (
    IGNORED,
    NEGATIVE,
    best_overlaps_above,
    inside_ignored,
    match,
    match_each_truth,
    sample_balanced,
    spare_ignored,
)


def test_boxes_between_the_thresholds_are_ignored() -> None:
    overlaps = torch.tensor([[0.8, 0.4, 0.1, 0.7], [0.2, 0.45, 0.0, 0.75]])
    assert match(overlaps, 0.7, 0.3).tolist() == [0, IGNORED, NEGATIVE, 1]


def test_thresholds_are_inclusive_above_and_exclusive_below() -> None:
    assert match(torch.tensor([[0.5, 0.25]]), 0.5, 0.25).tolist() == [0, IGNORED]


def test_without_ground_truth_all_boxes_are_background() -> None:
    assert match(torch.empty(0, 3), 0.5, 0.5).tolist() == [NEGATIVE] * 3


def test_each_truth_gets_a_box_of_its_own_best_pair_first() -> None:
    overlaps = torch.tensor([[0.6, 0.5, 0.0], [0.7, 0.1, 0.0], [0.0, 0.0, 0.0]])
    truths, boxes = match_each_truth(overlaps)
    # (1, 0) is the best pair; truth 0 must then take box 1; truth 2 overlaps nothing.
    assert dict(zip(truths.tolist(), boxes.tolist())) == {1: 0, 0: 1}


def test_matching_no_truths_or_no_boxes_gives_no_pairs() -> None:
    for shape in ((0, 4), (4, 0)):
        truths, boxes = match_each_truth(torch.empty(shape))
        assert truths.tolist() == boxes.tolist() == []


def test_sampling_holds_the_share_of_positives_and_fills_with_negatives() -> None:
    matches = torch.tensor([0] * 10 + [NEGATIVE] * 50 + [IGNORED] * 40)
    positives, negatives = sample_balanced(matches, 16, 0.25)
    assert len(positives) == 4 and len(negatives) == 12
    assert (matches[positives] >= 0).all() and (matches[negatives] == NEGATIVE).all()
    assert len(set(negatives.tolist())) == 12  # without replacement


def test_sampling_takes_more_negatives_where_positives_are_few() -> None:
    positives, negatives = sample_balanced(torch.tensor([0] + [NEGATIVE] * 50), 16, 0.25)
    assert (len(positives), len(negatives)) == (1, 15)


def test_every_positive_is_drawn_equally_often() -> None:
    torch.manual_seed(0)
    matches = torch.tensor([0, 1, 2, 3] + [NEGATIVE] * 4)
    counts = torch.zeros(8)
    for _ in range(400):
        counts[sample_balanced(matches, 4, 0.5)[0]] += 1
    assert (counts[:4] > 150).all() and (counts[:4] < 250).all()


def boxes_on_a_raster(number: int, seed: int) -> torch.Tensor:
    """Return (number, 4) boxes whose corners are whole pixels: shares of exactly half occur."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.randint(0, 12, (number, 2), generator=generator)
    sides = torch.randint(1, 9, (number, 2), generator=generator)
    return torch.cat([corners, corners + sides], dim=1).float()


@pytest.mark.parametrize("seed", range(4))
def test_a_box_is_inside_when_half_of_its_pixels_are_those_of_one_ignored_box(seed: int) -> None:
    boxes, ignored = boxes_on_a_raster(300, seed), boxes_on_a_raster(3, seed + 100)
    wanted, exactly_half = [], 0
    for x1, y1, x2, y2 in boxes.int().tolist():
        pixels = {(x, y) for x in range(x1, x2) for y in range(y1, y2)}
        shares = []
        for left, top, right, bottom in ignored.int().tolist():
            seen = sum(left <= x < right and top <= y < bottom for x, y in pixels)
            shares.append(2 * seen / len(pixels))
        exactly_half += max(shares) == 1
        wanted.append(max(shares) >= 1)
    assert inside_ignored(boxes, ignored).tolist() == wanted
    assert exactly_half and 0 < sum(wanted) < len(wanted)


def test_inside_is_what_coco_says_of_crowds() -> None:
    boxes, ignored = boxes_on_a_raster(80, 7), boxes_on_a_raster(4, 8)
    theirs, crowds = (
        torch.cat([one[:, :2], one[:, 2:] - one[:, :2]], dim=1).double().numpy()
        for one in (boxes, ignored)
    )
    shares = coco_mask.iou(theirs, crowds, [1] * len(crowds))  # xywh; over the detection's area
    wanted = (np.asarray(shares) >= 0.5).any(axis=1)
    assert inside_ignored(boxes, ignored).tolist() == wanted.tolist()


def test_two_ignored_boxes_do_not_add_up_and_a_box_without_area_is_in_none() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [2, 2, 2, 8]])
    ignored = torch.tensor([[0.0, 0, 4, 10], [6, 0, 10, 10]])
    assert inside_ignored(boxes, ignored).tolist() == [False, False]
    assert inside_ignored(boxes, ignored[:0]).tolist() == [False, False]
    assert inside_ignored(boxes[:0], ignored).tolist() == []


def test_only_what_would_be_background_is_spared() -> None:
    boxes = torch.tensor([[0.0, 0, 4, 4], [1, 0, 5, 4], [0, 1, 4, 5], [20, 0, 24, 4]])
    matches = torch.tensor([3, NEGATIVE, IGNORED, NEGATIVE])
    found = spare_ignored(matches, boxes, torch.tensor([[0.0, 0, 8, 8]]))
    assert found.tolist() == [3, IGNORED, IGNORED, NEGATIVE]
    assert matches.tolist() == [3, NEGATIVE, IGNORED, NEGATIVE]
    assert spare_ignored(matches, boxes, torch.zeros(0, 4)).tolist() == matches.tolist()


def test_the_best_overlap_with_boxes_above_a_size_is_that_of_a_search() -> None:
    width, height, least_area = 6.0, 4.0, 40.0
    for side in ((2, 3), (5, 3), (6, 4), (8, 3), (3, 20), (7, 5), (9, 9)):
        best = 0.0
        for w in range(6, 30):
            for h in range(4, 30):
                if w * h >= least_area:  # around one corner: the best that two boxes can lie
                    both = min(w, side[0]) * min(h, side[1])
                    best = max(best, both / (w * h + side[0] * side[1] - both))
        found = best_overlaps_above(torch.tensor([side]).float(), width, height, least_area)
        # The area may be reached by sides that are no whole pixels, or past the object's.
        assert best - 1e-6 <= float(found) <= best + 0.12, side
    assert best_overlaps_above(torch.tensor([[3.0, 2.0]]), 0.0, 0.0, 0.0).tolist() == [1.0]
    assert best_overlaps_above(torch.zeros(0, 2), 1.0, 1.0, 1.0).shape == (0,)
