"""NMS against the textbook's four steps."""

import math

import pytest
import torch
from torch import Tensor

from detkit.geometry import nms_numpy
from detkit.geometry.boxes import iou
from detkit.geometry.nms import nms, select, soft_nms


def textbook(boxes: Tensor, scores: Tensor, thresh: float) -> list[int]:
    """Sort; take the best; drop what overlaps it by more than `thresh`; repeat."""
    left = sorted(range(len(scores)), key=lambda i: -float(scores[i]))  # sorted() is stable
    kept = []
    while left:
        best = left.pop(0)
        kept.append(best)
        left = [i for i in left if float(iou(boxes[best][None], boxes[i][None])) <= thresh]
    return kept


def random_boxes(number: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(number, 2, generator=generator) * 50
    return torch.cat([corners, corners + 5 + torch.rand(number, 2, generator=generator) * 30], 1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("thresh", [0.0, 0.3, 0.7])
def test_nms_gives_the_textbooks_answer(seed: int, thresh: float) -> None:
    boxes = random_boxes(40, seed)
    scores = torch.rand(40, generator=torch.Generator().manual_seed(seed + 100))
    assert nms(boxes, scores, thresh).tolist() == textbook(boxes, scores, thresh)


@pytest.mark.parametrize("seed", range(5))
def test_equal_scores_keep_their_order(seed: int) -> None:
    boxes = random_boxes(40, seed)
    scores = torch.randint(1, 4, (40,), generator=torch.Generator().manual_seed(seed)) / 4
    assert nms(boxes, scores, 0.4).tolist() == textbook(boxes, scores, 0.4)


def test_nms_of_nothing_is_nothing() -> None:
    assert nms(torch.empty(0, 4), torch.empty(0), 0.5).tolist() == []


@pytest.mark.parametrize("class_specific", [False, True])
@pytest.mark.parametrize("ties", [False, True])
def test_select_equals_a_loop_over_classes(class_specific: bool, ties: bool) -> None:
    boxes = random_boxes(60, 1)
    if class_specific:
        boxes = boxes[:, None] + torch.arange(3.0)[None, :, None] * 4
    scores = torch.rand(60, 3, generator=torch.Generator().manual_seed(2))
    if ties:
        scores = (scores * 5).round() / 5
    expected = []
    for label in range(3):
        of_class = boxes[:, label] if class_specific else boxes
        rows = [i for i in range(60) if float(scores[i, label]) > 0.25]
        rows = sorted(rows, key=lambda i: -float(scores[i, label]))[:20]
        kept = textbook(of_class[rows], scores[rows, label], 0.45)
        expected += [(float(scores[rows[k], label]), label, rows[k]) for k in kept]
    expected.sort(key=lambda item: -item[0])
    expected = expected[:15]
    got_boxes, got_scores, got_labels = select(
        boxes, scores, score_thresh=0.25, nms_thresh=0.45, top_k=20, max_detections=15
    )
    assert got_scores.tolist() == pytest.approx([item[0] for item in expected])
    assert got_labels.tolist() == [item[1] for item in expected]
    wanted = [boxes[row, label] if class_specific else boxes[row] for _, label, row in expected]
    torch.testing.assert_close(got_boxes, torch.stack(wanted))


def test_select_keeps_no_score_at_or_below_the_threshold() -> None:
    boxes, scores = random_boxes(5, 0), torch.full((5, 2), 0.5)
    found = select(boxes, scores, score_thresh=0.5, nms_thresh=0.5, top_k=9, max_detections=9)
    assert [len(part) for part in found] == [0, 0, 0]


def test_soft_nms_lowers_scores_by_the_papers_factor() -> None:
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [1.0, 1.0, 3.0, 3.0], [50.0, 50.0, 52.0, 52.0]])
    kept, scores = soft_nms(boxes, torch.tensor([0.9, 0.8, 0.85]), sigma=0.5)
    assert kept.tolist() == [0, 2, 1]
    assert scores.tolist() == pytest.approx([0.9, 0.85, 0.8 * math.exp(-((1 / 7) ** 2) / 0.5)])


def test_soft_nms_drops_what_falls_below_the_threshold() -> None:
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.0]])
    kept, _ = soft_nms(boxes, torch.tensor([0.9, 0.8]), sigma=0.1, min_score=0.01)
    assert kept.tolist() == [0]


def released_soft_nms(
    boxes: list[list[float]], scores: list[float], method: str, nms_thresh: float, sigma: float
) -> list[tuple[int, float]]:
    """The loop of Bodla et al.'s released code, on half-open boxes: (index, score), best first."""
    left = [[index, score] for index, score in enumerate(scores)]
    found = []
    while left:
        best = max(left, key=lambda one: one[1])
        left.remove(best)
        found.append((int(best[0]), best[1]))
        x1, y1, x2, y2 = boxes[int(best[0])]
        for one in left:
            u1, v1, u2, v2 = boxes[int(one[0])]
            both = max(0.0, min(x2, u2) - max(x1, u1)) * max(0.0, min(y2, v2) - max(y1, v1))
            overlap = both / ((x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - both)
            if method == "soft":
                one[1] *= math.exp(-(overlap**2) / sigma)
            elif overlap > nms_thresh:
                one[1] *= 1 - overlap
        left = [one for one in left if one[1] >= 0.001]
    return found


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("method", "nms_thresh", "sigma"),
    [("soft", 0.3, 0.5), ("soft", 0.3, 0.05), ("soft-linear", 0.3, 0.5), ("soft-linear", 0.1, 0.5)],
)
def test_both_forms_of_soft_nms_are_the_released_loop_with_and_without_torch(
    seed: int, method: str, nms_thresh: float, sigma: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    boxes = random_boxes(60, seed)
    scores = torch.rand(60, 1, generator=generator) * 0.9 + 0.02
    wanted = released_soft_nms(
        boxes.tolist(), scores[:, 0].tolist(), method, nms_thresh, sigma=sigma
    )
    options = {
        "score_thresh": 0.01,
        "nms_thresh": nms_thresh,
        "top_k": 100,
        "max_detections": 100,
        "method": method,
        "sigma": sigma,
    }
    by_torch = select(boxes, scores, **options)  # type: ignore[arg-type]
    by_numpy = nms_numpy.select(boxes.numpy(), scores.numpy(), **options)  # type: ignore[arg-type]
    assert any(score < 0.01 for _, score in wanted)  # the threshold is for what enters
    for found_boxes, found_scores, _ in (by_torch, by_numpy):
        assert found_scores.tolist() == pytest.approx([score for _, score in wanted], rel=1e-4)
        assert found_boxes.tolist() == [boxes[index].tolist() for index, _ in wanted]


def test_soft_nms_without_a_sigma_leaves_alone_what_overlaps_little() -> None:
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [1.0, 1.0, 3.0, 3.0], [0.0, 0.0, 2.0, 4.0]])
    kept, scores = soft_nms(boxes, torch.tensor([0.9, 0.8, 0.7]), sigma=None, iou_thresh=0.3)
    assert kept.tolist() == [0, 1, 2]  # overlaps with the first: 1/7, 1/2; of the last two 1/5
    assert scores.tolist() == pytest.approx([0.9, 0.8, 0.7 * 0.5])


@pytest.mark.parametrize("number", [1, nms_numpy.BLOCK, 3 * nms_numpy.BLOCK + 7])
def test_nms_in_numpy_gives_the_textbooks_answer_for_any_number_of_blocks(number: int) -> None:
    boxes = random_boxes(number, 3)
    scores = torch.arange(number, 0, -1, dtype=torch.float32)
    assert nms_numpy.nms(boxes.numpy(), 0.3).tolist() == textbook(boxes, scores, 0.3)


@pytest.mark.parametrize("limit", [0, 1, 7, 40, 41, 100])
def test_the_best_first_are_a_stable_sorts_whatever_the_limit(limit: int) -> None:
    scores = torch.randint(0, 4, (40,), generator=torch.Generator().manual_seed(5)) / 4
    by_loop = sorted(range(40), key=lambda place: -float(scores[place]))[:limit]
    assert nms_numpy.best_first(scores.numpy(), limit).tolist() == by_loop
