"""Matching and sampling on tables small enough to read."""

import torch

from detkit.geometry.matching import IGNORED, NEGATIVE, match, match_each_truth, sample_balanced


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
