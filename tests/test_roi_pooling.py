"""RoI pooling against loops over bins, and the choice of the map."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchvision import ops

from detkit.networks.roi_pooling import RoIPooling, align_by_bags


def pooled_by_loops(
    x: torch.Tensor, box: list[float], stride: int, bins: int, pixel: tuple[float, float] = (1, 1)
) -> torch.Tensor:
    """Return (C, bins, bins): Caffe's ROIPoolingLayer, bin by bin, of a half-open box.

    Which is in own pixels, of which each has `pixel` network pixels as width and height.
    """
    ends = zip((box[0], box[1], box[2] - 1, box[3] - 1), pixel * 2)
    inclusive = [float(np.float32(end * side)) for end, side in ends]
    left, top, right, bottom = (math.floor(side / stride + 0.5) for side in inclusive)
    return pooled_places(x, (left, top, right, bottom), bins)


def pooled_places(x: torch.Tensor, places: tuple[int, int, int, int], bins: int) -> torch.Tensor:
    """Return (C, bins, bins): the maxima of the bins of these columns and rows, the last ones too.

    In the precision of the released code, whose bins are single floats.
    """
    left, top, right, bottom = places
    width, height = max(right - left + 1, 1), max(bottom - top + 1, 1)
    bin_w, bin_h = np.float32(width) / np.float32(bins), np.float32(height) / np.float32(bins)
    out = torch.zeros(x.shape[0], bins, bins)
    for row in range(bins):
        for column in range(bins):
            y1, y2 = math.floor(np.float32(row) * bin_h), math.ceil(np.float32(row + 1) * bin_h)
            x1 = math.floor(np.float32(column) * bin_w)
            x2 = math.ceil(np.float32(column + 1) * bin_w)
            y1, y2 = (min(max(y + top, 0), x.shape[1]) for y in (y1, y2))
            x1, x2 = (min(max(c + left, 0), x.shape[2]) for c in (x1, x2))
            if y2 > y1 and x2 > x1:
                out[:, row, column] = x[:, y1:y2, x1:x2].amax(dim=(1, 2))
    return out


def pyramid_by_loops(x: torch.Tensor, box: list[float], stride: int) -> torch.Tensor:
    """Return (C * 50,): SPPnet, appendix A, and its released `spm_pool`, place by place."""
    sides = []
    for low, high, number in ((box[0], box[2], x.shape[2]), (box[1], box[3], x.shape[1])):
        first, last = math.floor(low / stride) + 1, math.ceil(high / stride) - 1
        if first > last:
            first = last = (first + last) // 2
        sides.append([min(max(one, 0), number - 1) for one in (first, last)])
    (left, right), (top, bottom) = sides
    levels = [pooled_places(x, (left, top, right, bottom), bins).flatten() for bins in (1, 2, 3, 6)]
    return torch.cat(levels)


def random_boxes(number: int, width: float, height: float) -> torch.Tensor:
    """Return (number, 4) boxes, of any size, in an image of these sides."""
    ends = torch.rand(number, 2, 2) * torch.tensor([width, height])
    return torch.cat([ends.amin(dim=1), ends.amax(dim=1)], dim=1)


def aligned_by_loops(x: torch.Tensor, box: list[float], stride: int, bins: int) -> torch.Tensor:
    """Return (C, bins, bins): the mean of 2 x 2 bilinear samples of each bin."""
    left, top, right, bottom = (side / stride for side in box)
    bin_w, bin_h = max(right - left, 1) / bins, max(bottom - top, 1) / bins
    out = torch.zeros(x.shape[0], bins, bins)
    for row in range(bins):
        for column in range(bins):
            for i in (0.25, 0.75):
                for j in (0.25, 0.75):
                    out[:, row, column] += bilinear(
                        x, top + (row + i) * bin_h, left + (column + j) * bin_w
                    )
    return out / 4


def bilinear(x: torch.Tensor, y: float, c: float) -> torch.Tensor:
    height, width = x.shape[1:]
    if y < -1 or y > height or c < -1 or c > width:
        return torch.zeros(x.shape[0])
    y, c = min(max(y, 0), height - 1), min(max(c, 0), width - 1)
    y0, x0 = int(y), int(c)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    a, b = y - y0, c - x0
    top = x[:, y0, x0] * (1 - b) + x[:, y0, x1] * b
    bottom = x[:, y1, x0] * (1 - b) + x[:, y1, x1] * b
    return top * (1 - a) + bottom * a


BOXES = [[0, 0, 64, 64], [11, 23, 90, 71], [40, 8, 47, 13], [80, 60, 130, 140]]


@pytest.mark.parametrize(
    ("method", "loops"), [("pool", pooled_by_loops), ("align", aligned_by_loops)]
)
def test_regions_of_two_images_are_pooled_as_bin_by_bin(method: str, loops: object) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 9)
    rois = [torch.tensor(BOXES[:3], dtype=torch.float32), torch.tensor(BOXES[3:]).float()]
    found = RoIPooling(method, 3, [16])([x], rois)  # type: ignore[arg-type]
    for index, (image, box) in enumerate(zip((0, 0, 0, 1), BOXES)):
        wanted = loops(x[image], box, 16, 3)  # type: ignore[operator]
        torch.testing.assert_close(found[index], wanted)


@pytest.mark.parametrize("scale", [0.4, 1.0, 1.6, 1.8, 3.3])
def test_regions_of_the_images_own_pixels_are_pooled_as_by_caffes_layer(scale: float) -> None:
    """The released code has the last pixel's corner, scales it and then rounds to places."""
    torch.manual_seed(round(10 * scale))
    x = torch.randn(1, 2, 20, 30)
    own = (random_boxes(200, 480 / scale, 320 / scale) + 0.5).floor()
    own[:, 2:] += 1  # at least a pixel
    found = RoIPooling("pool", 7, [16])([x], [own * scale], [(scale, scale)])
    for index, box in enumerate(own.tolist()):
        wanted = pooled_by_loops(x[0], box, 16, 7, (scale, scale))
        torch.testing.assert_close(found[index], wanted)
    # One network pixel less instead would be other regions, though not at VOC's usual scale.
    of_network = RoIPooling("pool", 7, [16])([x], [own * scale])
    assert torch.equal(found, of_network) == (scale in (1.0, 1.6))


def test_each_images_own_pixels_count() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 2, 20, 30)
    pixels = [(3.0, 2.0), (1.0, 5.0)]
    own = [random_boxes(40, 480 / w, 320 / h) for w, h in pixels]
    rois = [boxes * torch.tensor(pixel * 2) for boxes, pixel in zip(own, pixels)]
    both = RoIPooling("pool", 7, [16])([x], rois, pixels)
    for image, pixel in enumerate(pixels):
        for index, box in enumerate(own[image].tolist()):
            wanted = pooled_by_loops(x[image], box, 16, 7, pixel)
            torch.testing.assert_close(both[40 * image + index], wanted)


def test_a_spatial_pyramid_is_sppnets_levels_one_after_the_other() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 2, 8, 9)
    layer = RoIPooling("spp", 7, [16])
    boxes = [*BOXES, [17, 17, 30, 30], [16, 16, 16, 32], *random_boxes(100, 144, 128).tolist()]
    found = layer([x], [torch.tensor(boxes).float()])
    assert found.shape == (len(boxes), layer.num_features(2)) == (len(boxes), 2 * 50)
    for index, box in enumerate(boxes):
        torch.testing.assert_close(found[index], pyramid_by_loops(x[0], box, 16))


def test_a_region_of_imagenets_size_is_cut_from_stride_16_and_half_of_it_one_finer() -> None:
    layer = RoIPooling("align", 7, [4, 8, 16, 32], canonical=224)
    sides = [8, 56, 111, 112, 223, 224, 447, 448, 2000]
    boxes = torch.tensor([[0, 0, side, side] for side in sides], dtype=torch.float32)
    assert layer.levels(boxes).tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]
    assert layer.levels(torch.tensor([[5.0, 5.0, 5.0, 9.0]])).tolist() == [0]  # no area


@pytest.mark.parametrize("method", ["pool", "align", "spp"])
def test_each_region_of_a_pyramid_comes_from_its_own_map(method: str) -> None:
    torch.manual_seed(0)
    maps = [torch.randn(1, 2, 32 // s, 32 // s) for s in (1, 2)]
    layer = RoIPooling(method, 2, [8, 16], canonical=200)  # type: ignore[arg-type]
    boxes = torch.tensor([[0, 0, 240, 240], [8, 8, 60, 70], [0.0, 0.0, 90.0, 90.0]])
    assert layer.levels(boxes).tolist() == [1, 0, 0]
    found = layer(maps, [boxes])
    for index, level in enumerate((1, 0, 0)):
        alone = RoIPooling(method, 2, [(8, 16)[level]])  # type: ignore[arg-type]
        torch.testing.assert_close(found[index], alone([maps[level]], [boxes[index, None]])[0])


def test_no_region_at_all_gives_no_row() -> None:
    none = [torch.zeros(0, 4), torch.zeros(0, 4)]
    assert RoIPooling("align", 7, [16])([torch.zeros(2, 5, 4, 4)], none).shape == (0, 5, 7, 7)
    two = [torch.zeros(2, 5, 4, 4), torch.zeros(2, 5, 2, 2)]
    assert RoIPooling("pool", 7, [16, 32])(two, none).shape == (0, 5, 7, 7)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_sums_by_bags_equal_torchvisions_roi_align(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 12, 9).to(memory_format=layout)
    corners = torch.rand(60, 2) * 220 - 40  # some begin or end outside of the map
    boxes = torch.cat([corners, corners + torch.rand(60, 2) * 150 - 5], dim=1)
    rois = torch.cat([torch.randint(0, 2, (60, 1)).float(), boxes], dim=1)
    wanted = ops.roi_align(x, rois, (7, 7), 1 / 16, 2)
    torch.testing.assert_close(align_by_bags(x, rois, 7, 1 / 16), wanted, atol=1e-5, rtol=1e-5)


def test_training_and_detecting_pool_the_same() -> None:
    torch.manual_seed(0)
    x, layer = torch.randn(1, 4, 8, 9), RoIPooling("align", 7, [16])
    learns = x.clone().requires_grad_()
    pooled = layer([learns], [torch.tensor(BOXES).float()])
    assert pooled.requires_grad
    detected = layer([x], [torch.tensor(BOXES).float()])
    torch.testing.assert_close(detected, pooled.detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("strides", [[16], [16, 32]])
@pytest.mark.parametrize("method", ["pool", "align", "spp"])
def test_maps_of_16_bits_are_pooled_forth_and_back_as_those_of_32(
    method: str, strides: list[int]
) -> None:
    torch.manual_seed(0)
    maps = [torch.randn(2, 3, 256 // stride, 256 // stride).bfloat16() for stride in strides]
    rois = [torch.tensor(BOXES[:3]).float(), torch.tensor(BOXES[3:]).float()]
    layer = RoIPooling(method, 3, strides, canonical=60)  # type: ignore[arg-type]
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        learn = [one.to(dtype).requires_grad_() for one in maps]
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            pooled = layer(learn, rois)
        pooled.float().sum().backward()
        results.append(
            (pooled.float(), *(one.grad.float() for one in learn if one.grad is not None))
        )
    for full, reduced in zip(*results, strict=True):
        torch.testing.assert_close(reduced, full, atol=0.03, rtol=0.02)
