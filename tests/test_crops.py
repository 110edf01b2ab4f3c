"""Crops against plain loops over pixels, and on cases worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from detkit.networks.crops import CropCutter, with_context

SIZE = 8


def images(number: int = 2, height: int = 20, width: int = 30) -> Tensor:
    return torch.randn(number, 3, height, width, generator=torch.Generator().manual_seed(0))


def naive_crop(image: Tensor, region: list[float], size: int) -> Tensor:
    """Return a crop by a loop over its pixels; outside the image every value is 0."""
    height, width = image.shape[1:]

    def value(row: int, column: int) -> Tensor:
        inside = 0 <= row < height and 0 <= column < width
        return image[:, row, column] if inside else torch.zeros(3)

    x1, y1, x2, y2 = region
    crop = torch.zeros(3, size, size)
    for i in range(size):
        for j in range(size):
            y = y1 + (y2 - y1) * (i + 0.5) / size - 0.5
            x = x1 + (x2 - x1) * (j + 0.5) / size - 0.5
            row, column = math.floor(y), math.floor(x)
            down, right = y - row, x - column
            crop[:, i, j] = (
                (1 - down) * (1 - right) * value(row, column)
                + (1 - down) * right * value(row, column + 1)
                + down * (1 - right) * value(row + 1, column)
                + down * right * value(row + 1, column + 1)
            )
    return crop


def test_a_region_of_the_crops_size_is_copied_pixel_by_pixel() -> None:
    batch = images()
    cutter = CropCutter(batch, [(20, 30)] * 2, antialias=True)
    (crop,) = cutter.cut(torch.tensor([1]), torch.tensor([[5.0, 7, 13, 15]]), SIZE)
    torch.testing.assert_close(crop, batch[1, :, 7:15, 5:13], atol=1e-5, rtol=0)


REGIONS = [
    [3.2, 1.7, 9.9, 17.3],
    [-6.0, -3.0, 12.0, 4.0],
    [20.0, 10.0, 44.0, 31.0],
    [0.0, 0.0, 30.0, 20.0],
    [7.0, 7.0, 7.0, 7.0],
    [40.0, 30.0, 50.0, 44.0],
]


def test_crops_equal_a_loop_over_their_pixels_also_beyond_the_border() -> None:
    batch = images()
    cutter = CropCutter(batch, [(20, 30)] * 2, antialias=False)
    owners = torch.tensor([0, 1, 0, 1, 0, 1])
    crops = cutter.cut(owners, torch.tensor(REGIONS), SIZE)
    for crop, owner, region in zip(crops, owners.tolist(), REGIONS):
        torch.testing.assert_close(crop, naive_crop(batch[owner], region, SIZE), atol=1e-4, rtol=0)


def test_what_lies_beside_a_smaller_image_of_the_batch_is_not_seen() -> None:
    batch = images()
    batch[0, :, 10:] = 99.0
    cutter = CropCutter(batch, [(10, 30), (20, 30)], antialias=True)
    region = torch.tensor([[0.0, 0, 30, 20]])
    (crop,) = cutter.cut(torch.tensor([0]), region, SIZE)
    assert (crop[:, SIZE // 2 + 1 :] == 0).all() and crop.abs().max() < 10


def test_shrinking_smooths_only_with_antialiasing() -> None:
    fine = torch.zeros(1, 3, 64, 64)
    fine[..., ::2] = 1.0  # stripes a pixel wide
    region = torch.tensor([[0.0, 0, 64, 64]])
    owners = torch.tensor([0])
    smooth = CropCutter(fine, [(64, 64)], antialias=True).cut(owners, region, SIZE)
    torch.testing.assert_close(smooth, torch.full_like(smooth, 0.5))
    shifted = region + torch.tensor([0.5, 0, 0.5, 0])
    raw = CropCutter(fine, [(64, 64)], antialias=False).cut(owners, shifted, SIZE)
    assert float(raw.std()) < 1e-5 and abs(float(raw.mean()) - 0.5) > 0.4  # one stripe's colour


def test_levels_agree_where_the_image_is_flat_and_order_is_kept() -> None:
    flat = torch.stack([torch.full((3, 90, 120), float(k)) for k in (1, 2)])
    sides = torch.tensor([4.0, 9.0, 20.0, 40.0, 80.0])
    regions = torch.stack([torch.full_like(sides, 3.0)] * 2 + [3 + sides] * 2, dim=1)
    owners = torch.tensor([1, 0, 1, 0, 1])
    crops = CropCutter(flat, [(90, 120)] * 2, antialias=True).cut(owners, regions, SIZE)
    assert crops.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(crops.mean((1, 2, 3)), owners + 1.0, atol=1e-4, rtol=0)


def test_no_region_gives_no_crop() -> None:
    cutter = CropCutter(images(), [(20, 30)] * 2, antialias=True)
    crops = cutter.cut(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4), SIZE)
    assert crops.shape == (0, 3, SIZE, SIZE)


@pytest.mark.parametrize("box", [[10.0, 20, 110, 70], [0.0, 0, 39, 195]])
def test_the_context_is_so_many_pixels_of_the_crop(box: list[float]) -> None:
    (region,) = with_context(torch.tensor([box]), 227, 16)
    for low, high in ((0, 2), (1, 3)):
        scale = 227 / float(region[high] - region[low])  # crop pixels a network pixel
        assert scale * (box[low] - float(region[low])) == pytest.approx(16, abs=1e-3)
        assert scale * (float(region[high]) - box[high]) == pytest.approx(16, abs=1e-3)


def test_the_tightest_square_has_the_longer_side_around_the_same_centre() -> None:
    (region,) = with_context(torch.tensor([[10.0, 20, 110, 70]]), 100, 0, square=True)
    torch.testing.assert_close(region, torch.tensor([10.0, -5, 110, 95]))
