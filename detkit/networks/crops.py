"""Warped crops: regions of images at one size, many at once, on whatever device the images are.

Shape shorthand: B images, N regions in all, S x S pixels of a crop, H x W network pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from detkit.geometry.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh

LEVELS = 5  # an image and its halvings, down to a sixteenth: regions shrink no further


def with_context(boxes: Tensor, size: int, context: int, *, square: bool = False) -> Tensor:
    """Return the (N, 4) regions that crops of `size` pixels show for these boxes.

    R-CNN sec. 2.1 and appendix A: after warping, `context` pixels on each side lie around the
    box. With `square` the shorter side is first made as long as the longer one ("tightest
    square with context"). Regions may reach beyond the image.
    """
    cx, cy, w, h = xyxy_to_cxcywh(boxes).unbind(-1)
    if square:
        w = h = torch.maximum(w, h)
    scale = size / (size - 2 * context)
    return cxcywh_to_xyxy(torch.stack([cx, cy, w * scale, h * scale], dim=-1))


class CropCutter:
    """Cuts regions out of a batch's images and warps each to a square, whatever its shape.

    Where no image is, crops are 0: the mean, after normalisation. Between pixels values are
    interpolated. A region that shrinks is cut, with `antialias`, from the image halved as often
    as the less shrunk of its sides allows (Williams 1983); without, as in R-CNN's released
    code, from the image itself.
    """

    def __init__(
        self, images: Tensor, sizes: Sequence[tuple[int, int]], *, antialias: bool
    ) -> None:
        """Take (B, 3, H, W) images, normalised, of these own (height, width) inside."""
        self._levels: list[list[Tensor]] = []
        for image, (height, width) in zip(images, sizes):
            levels = [image[None, :, :height, :width]]
            for _ in range(LEVELS - 1 if antialias else 0):
                halved = F.avg_pool2d(levels[-1], 2, ceil_mode=True, count_include_pad=False)
                levels.append(halved)
            self._levels.append(levels)

    def cut(self, owners: Tensor, regions: Tensor, size: int) -> Tensor:
        """Return (N, 3, size, size) crops, channels last, of (N, 4) regions in network pixels.

        `owners`, (N,) int64, says which image each region is of.
        """
        crops = regions.new_empty(len(regions), size, size, 3)
        shrinking = (regions[:, 2:] - regions[:, :2]).amin(dim=1) / size
        of_level = shrinking.clamp(min=1).log2().floor().long().clamp(max=LEVELS - 1)
        for number in sorted(set(owners.tolist())):
            levels, here = self._levels[number], owners == number
            for level, image in enumerate(levels):
                last = level == len(levels) - 1
                rows = (here & (of_level >= level if last else of_level == level)).nonzero()
                if len(rows):
                    rows = rows.flatten()
                    warped = _warp(image, regions[rows] / 2**level, size)
                    # In the layout of `crops` first: to write by rows what is strided is slow.
                    crops[rows] = warped.permute(0, 2, 3, 1).contiguous()
        return crops.permute(0, 3, 1, 2)


def _warp(image: Tensor, regions: Tensor, size: int) -> Tensor:
    """Return (n, 3, size, size) crops of a (1, 3, h, w) image; beyond it they are 0."""
    number, (height, width) = len(regions), image.shape[2:]
    places = (torch.arange(size, device=image.device) + 0.5) / size
    x = regions[:, 0:1] + (regions[:, 2:3] - regions[:, 0:1]) * places
    y = regions[:, 1:2] + (regions[:, 3:4] - regions[:, 1:2]) * places
    shape = number, size, size
    grid = torch.stack(
        [
            (x * (2 / width) - 1)[:, None, :].expand(shape),
            (y * (2 / height) - 1)[:, :, None].expand(shape),
        ],
        dim=-1,
    )
    return F.grid_sample(image.expand(number, -1, -1, -1), grid, align_corners=False)
