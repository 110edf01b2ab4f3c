"""RoI pooling, RoI align, spatial pyramid: a map of fixed size for every region of interest.

Shape shorthand: R regions in all, of B images; L feature maps of C channels and stride s_l;
P x P places of a pooled map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision import ops

from detkit.geometry.boxes import area

Method = Literal["pool", "align", "spp"]
PYRAMID = (1, 2, 3, 6)  # SPPnet (He et al. 2014, arXiv:1406.4729) sec. 4.1: 50 bins
GRID = 1024  # of a network pixel: what differs by less is float32's inaccuracy
SAMPLES = 2  # Mask R-CNN (He et al. 2017) sec. 3: samples a bin and axis


class RoIPooling(nn.Module):
    """Cuts regions out of feature maps, each from the map that suits its size."""

    def __init__(
        self, method: Method, size: int, strides: Sequence[int], canonical: float = 224.0
    ) -> None:
        """Pool to `size` x `size`; a region of side `canonical` is cut from stride 16."""
        super().__init__()
        self.method = method
        self.size = size
        self.strides = tuple(strides)
        self.canonical = canonical

    def num_features(self, channels: int) -> int:
        """Return how many values a region has after pooling maps of so many channels."""
        if self.method == "spp":
            return channels * sum(bins * bins for bins in PYRAMID)
        return channels * self.size * self.size

    def forward(
        self,
        maps: Sequence[Tensor],
        rois: Tensor | Sequence[Tensor],
        pixels: Sequence[tuple[float, float]] | None = None,
    ) -> Tensor:
        """Return (R, C, P, P), for a spatial pyramid (R, C * 50), of B x (R_b, 4) regions.

        `maps` are L x (B, C, H_l, W_l); regions are xyxy in network pixels, and the rows come
        image by image, or the regions are (R, 5) with the image's number first. `pixels` are B x
        (width, height), network pixels, of a pixel of the image that the regions were proposed
        on: released code's right and bottom are the last pixel's there. None: they were proposed
        on the network's.
        """
        regions = boxes_with_image(rois)
        levels = self.levels(regions[:, 1:]) if len(self.strides) > 1 else None
        if self.method == "pool":
            corners = torch.cat(
                [regions[:, :3], regions[:, 3:] - _last_pixels(rois, pixels)], dim=1
            )
            # Half a place is common (375 pixels made 600), and is to be rounded up as it is there.
            regions = (corners * GRID).round() / GRID
        if levels is None:
            return self._cut(maps[0], regions, self.strides[0])
        size = (self.size, self.size)
        pooled = maps[0].new_zeros(regions.shape[0], maps[0].shape[1], *size)
        if self.method == "spp":
            pooled = pooled.new_zeros(regions.shape[0], self.num_features(maps[0].shape[1]))
        for level, stride in enumerate(self.strides):
            of_level = (levels == level).nonzero().flatten()
            pooled[of_level] = self._cut(maps[level], regions[of_level], stride).to(pooled.dtype)
        return pooled

    def levels(self, boxes: Tensor) -> Tensor:
        """Return (R,) int64: the map each box is cut from, counted from the finest.

        FPN (Lin et al. 2017, arXiv:1612.03144) eq. 1: `k = floor(4 + log2(sqrt(wh) / 224))`,
        where level 4 is the map of stride 16. Of maps of the same stride the first one counts.
        """
        first, last = (int(math.log2(self.strides[index])) for index in (0, -1))
        level = torch.floor(4 + torch.log2(area(boxes).sqrt() / self.canonical) + 1e-6)
        return level.clamp(first, last).long() - first

    def _cut(self, x: Tensor, where: Tensor, stride: int) -> Tensor:
        """Return the pooled regions, (R, 5) with the image first, of one map."""
        size = (self.size, self.size)
        if self.method == "align":
            if x.device.type == "cpu" and not (x.requires_grad or torch.compiler.is_exporting()):
                return align_by_bags(x, where, self.size, 1 / stride)
            aligned: Tensor = ops.roi_align(x, where, size, 1 / stride, SAMPLES)
            return aligned
        whole = x.float()  # the kernel wants map and boxes of one dtype; a maximum is exact in both
        if self.method == "pool":  # Fast R-CNN sec. 2.1; eq. 4, its gradient, is torchvision's
            pooled: Tensor = ops.roi_pool(whole, where, size, 1 / stride)
            return pooled.to(x.dtype)
        places = pyramid_places(where, stride, (x.shape[2], x.shape[3]))
        bins = [ops.roi_pool(whole, places, (n, n), 1.0).flatten(1) for n in PYRAMID]
        return torch.cat(bins, dim=1).to(x.dtype)


def pyramid_places(regions: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """Return (R, 5): the image, and the first and last column and row of each region's places.

    SPPnet, appendix A: the places whose centres, at multiples of the stride, lie inside the
    region: from `floor(x / S) + 1` to `ceil(x / S) - 1`. Where none does, its released code takes
    the one in the middle. `regions` (R, 5), the image first, network pixels; `size` is the map's.
    """
    first = torch.floor(regions[:, 1:3] / stride) + 1
    last = torch.ceil(regions[:, 3:5] / stride) - 1
    middle = torch.floor((first + last) / 2)
    none = first > last
    found = [torch.where(none, middle, one) for one in (first, last)]
    columns, rows = (
        [one[:, axis : axis + 1].clamp(0.0, size[1 - axis] - 1.0) for one in found]
        for axis in (0, 1)
    )
    return torch.cat([regions[:, :1], columns[0], rows[0], columns[1], rows[1]], dim=1)


def _last_pixels(
    rois: Tensor | Sequence[Tensor], pixels: Sequence[tuple[float, float]] | None
) -> Tensor | float:
    """Return the (width, height) of each region's pixel, (R, 2); 1 of the network's own."""
    if pixels is None:
        return 1.0
    sides = [
        torch.stack([boxes.new_full((len(boxes),), side) for side in pixel], dim=1)
        for boxes, pixel in zip(rois, pixels, strict=True)
    ]
    return torch.cat(sides)


def boxes_with_image(rois: Tensor | Sequence[Tensor]) -> Tensor:
    """Return (R, 5), the image's number before each box, of B x (R_b, 4) boxes."""
    if isinstance(rois, Tensor):
        return rois
    return torch.cat(
        [nn.functional.pad(boxes, (1, 0), value=image) for image, boxes in enumerate(rois)]
    )


def align_by_bags(x: Tensor, rois: Tensor, bins: int, scale: float) -> Tensor:
    """Return what `torchvision.ops.roi_align` returns, (R, C, P, P), some times faster on a CPU.

    A bin is a weighted sum of 16 places of the map: 2 x 2 samples, each between 2 x 2 places.
    `embedding_bag` forms such sums over all channels at once, on all cores, and with a map in
    channels_last nothing is copied before. `x` is (B, C, H, W), `rois` (R, 5), P = `bins`.
    """
    _, channels, height, width = x.shape
    left, top, right, bottom = (rois[:, 1:] * scale).unbind(dim=1)
    columns, of_columns = _taps(left, right - left, bins, width)
    rows, of_rows = _taps(top, bottom - top, bins, height)
    image = rois[:, 0].long().view(-1, 1, 1, 1, 1) * (height * width)
    places = image + rows[:, :, None, :, None] * width + columns[:, None, :, None, :]
    weights = of_rows[:, :, None, :, None] * of_columns[:, None, :, None, :]
    taps = (2 * SAMPLES) ** 2
    sums = nn.functional.embedding_bag(
        places.view(-1, taps),
        x.permute(0, 2, 3, 1).reshape(-1, channels),
        mode="sum",
        per_sample_weights=weights.view(-1, taps).to(x.dtype),
    )
    return sums.view(len(rois), bins, bins, channels).permute(0, 3, 1, 2)


def _taps(start: Tensor, length: Tensor, bins: int, size: int) -> tuple[Tensor, Tensor]:
    """Return (places, weights), (R, P, 4) each: what a bin takes from one axis of the map.

    `start` and `length`, (R,), in places of the map, which has `size` of them.
    """
    step = length.clamp(min=1.0) / bins  # a region is at least one place wide
    samples = torch.arange(bins * SAMPLES, device=start.device)
    at = start[:, None] + (samples + 0.5) / SAMPLES * step[:, None]
    outside = (at < -1) | (at > size)
    at = at.clamp(min=0, max=size - 1)
    low = at.floor()
    share = at - low
    first = low.long()
    places = torch.stack([first, (first + 1).clamp(max=size - 1)], dim=-1)
    weights = torch.stack([1 - share, share], dim=-1).masked_fill(outside[..., None], 0.0)
    shape = (len(start), bins, 2 * SAMPLES)
    return places.view(shape), weights.view(shape) / SAMPLES
