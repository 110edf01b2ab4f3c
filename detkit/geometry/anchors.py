"""Anchors and default boxes: the reference boxes of the RPN and of SSD over feature maps.

Shape shorthand: L feature maps, K boxes in all, A anchors a place. Sizes are (height, width),
shapes of anchors (width, height).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def default_boxes(
    map_sizes: Sequence[tuple[int, int]],
    image_size: tuple[int, int],
    scales: Sequence[float],
    ratios: Sequence[Sequence[float]],
    steps: Sequence[float] | None = None,
    *,
    clip_sides: bool = False,
) -> Tensor:
    """Return SSD's default boxes, (K, 4) xyxy in network pixels, map by map, row by row.

    SSD sec. 2.2, eq. 4: map k has boxes of scale `scales[k]` (a share of the image's side)
    with aspect ratio 1 and each of `ratios[k]` and its inverse, and one square of scale
    `sqrt(scales[k] * scales[k + 1])`; so `scales` has L + 1 entries. Centres are at
    `((i + 0.5) / |f_k|, ...)` or, with `steps` in pixels, at `(i + 0.5) * step` as in the
    released code. Boxes are not clipped; with `clip_sides` no side is longer than the
    image's, as in torchvision's port. Order at a place: 1, the larger square, then for each
    ratio `a`: `a`, `1/a` (the order of the released code's weights).
    """
    if len(scales) != len(map_sizes) + 1 or len(ratios) != len(map_sizes):
        raise ValueError("default_boxes: expected one more scale than maps, one ratio list a map")
    height, width = image_size
    levels = []
    for level, (rows, columns) in enumerate(map_sizes):
        scale, larger = scales[level], (scales[level] * scales[level + 1]) ** 0.5
        shapes = [(scale, scale), (larger, larger)]
        for ratio in ratios[level]:
            root = ratio**0.5
            shapes += [(scale * root, scale / root), (scale / root, scale * root)]
        step_y = steps[level] if steps else height / rows
        step_x = steps[level] if steps else width / columns
        cy = (torch.arange(rows) + 0.5) * step_y
        cx = (torch.arange(columns) + 0.5) * step_x
        grid_y, grid_x = torch.meshgrid(cy, cx, indexing="ij")
        centres = torch.stack([grid_x, grid_y], dim=-1).view(-1, 1, 2)  # (rows * columns, 1, 2)
        shares = torch.tensor(shapes)
        if clip_sides:
            shares = shares.clamp(max=1.0)
        half = shares * torch.tensor([width, height]) / 2  # (A, 2)
        levels.append(torch.cat([centres - half, centres + half], dim=-1).view(-1, 4))
    return torch.cat(levels)


def anchor_shapes(
    sizes: Sequence[float], ratios: Sequence[float], base: int | None = None
) -> list[tuple[float, float]]:
    """Return the (width, height) of every size with every ratio of height to width.

    A size is the square root of the area (Faster R-CNN sec. 3.1.1), in the unit wanted back. With
    a `base`, a side in pixels, they are the released code's: a square of that side takes each
    ratio by sides of whole pixels, an area not quite its own, and is then enlarged to each size.
    Order: ratio by ratio, as in the weights that torchvision and py-faster-rcnn publish.
    """
    if base is None:
        return [(size / ratio**0.5, size * ratio**0.5) for ratio in ratios for size in sizes]
    widths = [round((base * base / ratio) ** 0.5) for ratio in ratios]
    return [
        (width * size / base, round(width * ratio) * size / base)
        for width, ratio in zip(widths, ratios)
        for size in sizes
    ]


def grid_anchors(
    map_sizes: Sequence[tuple[int, int]],
    image_size: tuple[int, int],
    shapes: Sequence[Sequence[tuple[float, float]]],
    *,
    offset: float = 0.5,
    rounded: bool = False,
    strides: Sequence[int] | None = None,
) -> list[Tensor]:
    """Return each map's anchors, L x (H_l * W_l * A, 4) xyxy in network pixels, row by row.

    Faster R-CNN sec. 3.1.1: at each place of map l the boxes `shapes[l]`, all around the same
    point: `offset` strides behind the place's left top corner (.5, its centre, in the released
    code; 0 in torchvision). A stride is the image's side divided by the map's, whole pixels, if
    it is not in `strides`: a map may have a place more or less than the image has strides.
    With `rounded` the corners are whole pixels before the shift, as in torchvision; what the
    released code rounds is said in `anchor_shapes`.
    """
    levels = []
    for level, ((rows, columns), level_shapes) in enumerate(zip(map_sizes, shapes, strict=True)):
        half = torch.tensor(level_shapes).view(-1, 2) / 2
        around = torch.cat([-half, half], dim=1)  # (A, 4)
        if rounded:
            around = around.round()
        step_y, step_x = image_size[0] // rows, image_size[1] // columns
        if strides is not None:
            step_y = step_x = strides[level]
        y = (torch.arange(rows) + offset) * step_y
        x = (torch.arange(columns) + offset) * step_x
        along = x.view(-1, 1, 1) * torch.tensor([1.0, 0.0, 1.0, 0.0])
        points = y.view(-1, 1, 1, 1) * torch.tensor([0.0, 1.0, 0.0, 1.0]) + along
        levels.append((points + around).view(-1, 4))
    return levels
