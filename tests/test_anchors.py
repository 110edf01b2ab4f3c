"""Default boxes against the formula of SSD sec. 2.2 in loops."""

import pytest
import torch

from detkit.geometry.anchors import default_boxes


def test_default_boxes_equal_a_loop_over_places() -> None:
    maps, scales, ratios = [(2, 3), (1, 1)], [0.2, 0.5, 0.9], [[2.0], [2.0, 3.0]]
    expected = []
    for level, (rows, columns) in enumerate(maps):
        for row in range(rows):
            for column in range(columns):
                cx, cy = (column + 0.5) / columns * 90, (row + 0.5) / rows * 60
                shapes = [(scales[level],) * 2, ((scales[level] * scales[level + 1]) ** 0.5,) * 2]
                for ratio in ratios[level]:
                    for a in (ratio, 1 / ratio):
                        shapes.append((scales[level] * a**0.5, scales[level] / a**0.5))
                for w, h in shapes:
                    w, h = w * 90, h * 60
                    expected.append([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
    got = default_boxes(maps, (60, 90), scales, ratios)
    torch.testing.assert_close(got, torch.tensor(expected))


def test_steps_place_the_centres_in_pixels() -> None:
    boxes = default_boxes([(1, 2)], (20, 20), [0.5, 0.5], [[]], steps=[8.0])
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    assert centres.tolist() == [[4.0, 4.0]] * 2 + [[12.0, 4.0]] * 2


def test_clip_sides_bounds_sides_but_not_positions() -> None:
    boxes = default_boxes([(1, 1)], (10, 10), [0.9, 1.0], [[4.0]], steps=[2.0], clip_sides=True)
    assert float((boxes[:, 2] - boxes[:, 0]).max()) == 10.0
    assert float(boxes[:, 0].min()) == -4.0  # centre 1, side 10: not cut at the border


def test_scales_that_do_not_fit_the_maps_are_refused() -> None:
    with pytest.raises(ValueError, match="one more scale"):
        default_boxes([(1, 1)], (10, 10), [0.5], [[]])
