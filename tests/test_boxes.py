"""Box arithmetic on numbers one can check by hand, against loops, and as properties."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detkit.geometry.boxes import area, clip, cxcywh_to_xyxy, decode, encode, iou, xyxy_to_cxcywh

side = st.floats(0.5, 500)
corner = st.floats(-200, 500)


@st.composite
def some_boxes(draw: st.DrawFn, number: int = 3) -> Tensor:
    rows = []
    for _ in range(number):
        x, y = draw(corner), draw(corner)
        rows.append([x, y, x + draw(side), y + draw(side)])
    return torch.tensor(rows, dtype=torch.float64)


def test_iou_of_boxes_that_overlap_by_a_quarter_is_a_seventh() -> None:
    a = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
    b = torch.tensor([[1.0, 1.0, 3.0, 3.0], [0.0, 0.0, 2.0, 2.0], [2.0, 0.0, 4.0, 2.0]])
    torch.testing.assert_close(iou(a, b), torch.tensor([[1 / 7, 1.0, 0.0]]))


def test_iou_of_boxes_without_area_is_zero_and_not_nan() -> None:
    nothing = torch.tensor([[5.0, 5.0, 5.0, 5.0]])
    assert iou(nothing, nothing).tolist() == [[0.0]]


def test_iou_of_no_boxes_has_no_rows() -> None:
    assert iou(torch.empty(0, 4), torch.rand(3, 4)).shape == (0, 3)


@given(some_boxes(), some_boxes())
@settings(max_examples=50, deadline=None)
def test_iou_equals_a_loop_over_pairs(boxes: Tensor, others: Tensor) -> None:
    got = iou(boxes, others)
    for i, (ax1, ay1, ax2, ay2) in enumerate(boxes.tolist()):
        for j, (bx1, by1, bx2, by2) in enumerate(others.tolist()):
            width = max(0.0, min(ax2, bx2) - max(ax1, bx1))
            height = max(0.0, min(ay2, by2) - max(ay1, by1))
            union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - width * height
            assert float(got[i, j]) == pytest.approx(width * height / union, abs=1e-9)


def test_area_is_width_times_height() -> None:
    assert area(torch.tensor([[1.0, 2.0, 4.0, 7.0]])).tolist() == [15.0]


def test_clip_cuts_at_the_borders_given_as_height_and_width() -> None:
    boxes = torch.tensor([[-3.0, -2.0, 50.0, 40.0]])
    assert clip(boxes, (10, 20)).tolist() == [[0.0, 0.0, 20.0, 10.0]]


@given(some_boxes())
@settings(max_examples=50, deadline=None)
def test_both_box_formats_convert_back(boxes: Tensor) -> None:
    torch.testing.assert_close(cxcywh_to_xyxy(xyxy_to_cxcywh(boxes)), boxes)


def test_encode_by_hand() -> None:
    reference = torch.tensor([[0.0, 0.0, 10.0, 20.0]])  # centre (5, 10)
    box = torch.tensor([[5.0, 10.0, 25.0, 20.0]])  # centre (15, 15), 20 x 10
    expected = torch.tensor([[1.0, 0.25, math.log(2), math.log(0.5)]])
    torch.testing.assert_close(encode(box, reference), expected)
    torch.testing.assert_close(
        encode(box, reference, (0.1, 0.1, 0.2, 0.2)),
        expected / torch.tensor([0.1, 0.1, 0.2, 0.2]),
    )


@given(some_boxes(), some_boxes())
@settings(max_examples=50, deadline=None)
def test_decode_undoes_encode(boxes: Tensor, references: Tensor) -> None:
    ratio = (boxes[:, 2:] - boxes[:, :2]) / (references[:, 2:] - references[:, :2])
    usable = (ratio < 1000 / 16).all(dim=1)
    variances = (0.1, 0.1, 0.2, 0.2)
    back = decode(encode(boxes, references, variances), references, variances)
    torch.testing.assert_close(back[usable], boxes[usable], atol=1e-6, rtol=1e-6)


def test_decode_of_an_absurd_delta_stays_finite() -> None:
    boxes = decode(torch.full((1, 4), 1e4), torch.tensor([[0.0, 0.0, 8.0, 8.0]]))
    assert boxes.isfinite().all()
    assert float(boxes[0, 2] - boxes[0, 0]) == pytest.approx(8 * 1000 / 16)


def test_encode_and_decode_pass_gradcheck() -> None:
    references = torch.tensor([[0.0, 0.0, 10.0, 20.0], [3.0, 4.0, 9.0, 5.0]], dtype=torch.float64)
    boxes = torch.tensor([[5.0, 10.0, 25.0, 20.0], [1.0, 1.0, 2.0, 8.0]], dtype=torch.float64)
    boxes.requires_grad_()
    assert torch.autograd.gradcheck(lambda b: encode(b, references), (boxes,))
    deltas = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda d: decode(d, references), (deltas,))
