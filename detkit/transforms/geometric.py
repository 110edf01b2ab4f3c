"""Geometric augmentation: flips, crops, expansion, scale and shift, in which boxes follow pixels.

Shape shorthand: R boxes, P proposals, H x W own pixels.

Geometry and noise come from `torchvision.transforms.v2`. Two parts are written anew because
torchvision's cost more than decoding the image: the photometric distortion (photometric.py)
and the search for an IoU crop (up to 60 ms, one trial at a time, against 1), whose windows are
others than the released code's as well.

One rule says which objects stay, that of SSD sec. 2.2: those whose centre is still inside.
Their boxes are clipped; those left without a whole pixel go. `RandomScaleShift` can follow
YOLOv1's released code instead, which keeps what is seen of any. `labels`, `difficult` and
`ignored` follow. An ignored object stays wherever its centre is, since what is seen of it would
be background otherwise.
Everything works on images without objects. All randomness is from torch's global generator,
which the loader seeds for each sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from detkit.config import IMAGENET_MEAN
from detkit.geometry import boxes as box_ops
from detkit.structures import Sample

Transform = Callable[[Sample], Sample]
Colour = tuple[int, int, int]  # RGB, 0 to 255


def mean_colour(mean: Sequence[float]) -> Colour:
    """Return the 8-bit colour of a normalisation mean in [0, 1]: what `prepare` turns into 0."""
    red, green, blue = (round(255 * value) for value in mean)
    return red, green, blue


MEAN_COLOUR = mean_colour(IMAGENET_MEAN)


def zoom_of(transform: Transform) -> float:
    """Return how many times larger things become at most: its `zoom`, 1 of one without any.

    So many times as large as the network's image an image has to be, for no pixel to be made up.
    """
    return float(getattr(transform, "zoom", 1.0))


class TorchvisionTransform:
    """Lets a `torchvision.transforms.v2` transform of images and boxes work on a `Sample`."""

    def __init__(self, transform: v2.Transform) -> None:
        self.transform = transform

    def __call__(self, sample: Sample) -> Sample:
        """Return the sample with image, boxes and proposals moved together."""
        # The centres travel along as boxes without area: v2 clips boxes at the border, so
        # that afterwards only a centre tells whether its object is still there.
        groups = [sample.boxes, _centres(sample.boxes).repeat(1, 2)]
        if sample.proposals is not None:
            groups.append(sample.proposals)
        image, moved = self.transform(
            tv_tensors.Image(sample.image),
            tv_tensors.BoundingBoxes(
                torch.cat(groups),
                format=tv_tensors.BoundingBoxFormat.XYXY,
                canvas_size=(sample.image.shape[1], sample.image.shape[2]),
            ),
        )
        num_boxes = len(sample.boxes)
        boxes, centres, proposals = moved.as_subclass(Tensor).tensor_split(
            [num_boxes, 2 * num_boxes]
        )
        return _with_objects(sample, image.as_subclass(Tensor), boxes, centres[:, :2], proposals)


class RandomHorizontalFlip(TorchvisionTransform):
    """Mirrors left and right, with probability `p`: all five papers."""

    def __init__(self, p: float = 0.5) -> None:
        super().__init__(v2.RandomHorizontalFlip(p))


class RandomVerticalFlip(TorchvisionTransform):
    """Turns upside down, with probability `p`: for pictures without an up, like cells."""

    def __init__(self, p: float = 0.5) -> None:
        super().__init__(v2.RandomVerticalFlip(p))


class RandomRotation(TorchvisionTransform):
    """Turns about the centre by up to `degrees` either way; the size stays.

    A box becomes the upright rectangle around its turned corners, and so too loose for large
    angles: keep to some 10 degrees.
    """

    def __init__(self, degrees: float = 10.0, p: float = 0.5, fill: Colour = MEAN_COLOUR) -> None:
        rotation = v2.RandomRotation(
            degrees,
            interpolation=v2.InterpolationMode.BILINEAR,
            fill={tv_tensors.Image: fill, "others": 0},
        )
        super().__init__(v2.RandomApply([rotation], p))


class RandomNoise:
    """Adds Gaussian noise of standard deviation `sigma` grey levels, with probability `p`."""

    def __init__(self, sigma: float = 8.0, p: float = 0.5) -> None:
        self.sigma = sigma
        self.p = p

    def __call__(self, sample: Sample) -> Sample:
        """Return the sample, its image noisy."""
        if not _happens(self.p):
            return sample
        # torchvision 0.21 adds noise to float images only.
        pixels = F.to_dtype(sample.image.contiguous(), torch.float32, scale=True)
        noisy = F.gaussian_noise(pixels, sigma=self.sigma / 255)
        return replace(sample, image=F.to_dtype(noisy, torch.uint8, scale=True))


class RandomErasing:
    """Fills a rectangle of 2 to 20 % of the image, with probability `p` (arXiv:1708.04896).

    An object stays as long as any part of its box does, hidden parts included, as the paper's
    occlusions; one that is erased whole has left no evidence to learn from, and goes.
    """

    def __init__(
        self,
        p: float = 0.5,
        scale: tuple[float, float] = (0.02, 0.2),
        fill: Colour = MEAN_COLOUR,
    ) -> None:
        self.p = p
        self.erasing = v2.RandomErasing(p=1.0, scale=scale, value=list(fill))

    def __call__(self, sample: Sample) -> Sample:
        """Return the sample with a rectangle filled."""
        if not _happens(self.p):
            return sample
        params = self.erasing.make_params([sample.image])
        if params["v"] is None:  # no rectangle of the wanted shape fits this image
            return sample
        image = F.erase(sample.image, **params)
        x1, y1, x2, y2 = sample.boxes.unbind(-1)
        top, left = params["i"], params["j"]
        hidden = (x1 >= left) & (x2 <= left + params["w"])
        hidden &= (y1 >= top) & (y2 <= top + params["h"])
        return _select(replace(sample, image=image), ~hidden)


class RandomExpand:
    """Puts the image somewhere on a canvas up to `max_ratio` times as wide and high, filled.

    SSD sec. 3.6 ("zoom out"). A canvas beyond `max_pixels` is made smaller together with its
    image: four times the sides of a photo of 12 megapixels would be 580 MB.
    """

    def __init__(
        self,
        fill: Colour = MEAN_COLOUR,
        max_ratio: float = 4.0,  # SSD sec. 3.6: 16 times the area
        p: float = 0.5,  # SSD released code: expand_param
        max_pixels: int = 2048 * 2048,
    ) -> None:
        self.fill = fill
        self.max_ratio = max_ratio
        self.p = p
        self.max_pixels = max_pixels

    def __call__(self, sample: Sample) -> Sample:
        """Return the sample on its canvas."""
        if not _happens(self.p):
            return sample
        height, width = sample.image.shape[1:]
        ratio = _uniform(1.0, self.max_ratio)
        shrink = min(1.0, math.sqrt(self.max_pixels / (height * width)) / ratio)
        size = max(1, round(height * shrink)), max(1, round(width * shrink))
        image = sample.image
        if size != (height, width):
            image = F.resize(image, list(size), antialias=True)
        bottom, right = (int(side * ratio) - side for side in size)
        left, top = int(_uniform(0, right + 1)), int(_uniform(0, bottom + 1))
        image = F.pad(image, [left, top, right - left, bottom - top], fill=list(self.fill))
        return _placed(sample, image, (size[1] / width, size[0] / height), (left, top))


class RandomIoUCrop:
    """Crops a window that overlaps an object by a drawn minimum IoU, or leaves the image whole.

    SSD sec. 2.2, with the released code's distribution (`sampler.cpp` as of the paper; chainercv
    has the same): for each minimum the first good one of `num_trials` windows, and of these and
    the whole image any. A window's area is the square of a number drawn from `scale`, its ratio is
    of shares of the image, not of pixels, and its object may have its centre outside: then the
    window may hold none. An image without objects, ignored ones aside, stays whole.
    """

    def __init__(
        self,
        min_overlaps: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9, 0.0),  # 0: any window
        scale: tuple[float, float] = (0.3, 1.0),  # released code; the paper says .1 of the area
        ratio: tuple[float, float] = (0.5, 2.0),
        num_trials: int = 50,  # released code
    ) -> None:
        self.min_overlaps = tuple(min_overlaps)
        self.scale = scale
        self.ratio = ratio
        self.num_trials = num_trials

    @property
    def zoom(self) -> float:
        """What a window of the middle size is enlarged by, its sides' mean drawn from `scale`.

        Less than the most there is. For the smallest windows, .3 of a side, an image would have to
        be kept with 11 times the pixels that the network sees, for the middle ones with 2.4.
        """
        return 2.0 / (self.scale[0] + self.scale[1])

    def __call__(self, sample: Sample) -> Sample:
        """Return what the window shows."""
        boxes = sample.boxes[~sample.is_ignored]
        window = self.draw_window(boxes, (sample.image.shape[1], sample.image.shape[2]))
        if window is None:
            return sample
        left, top, right, bottom = window
        image = F.crop(sample.image, top, left, bottom - top, right - left)
        return _placed(sample, image, (1.0, 1.0), (-left, -top))

    def draw_window(self, boxes: Tensor, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
        """Return a window (x1, y1, x2, y2) in an image of `size` (height, width), or None: whole.

        `boxes` (R, 4) are the objects that it may be drawn for.
        """
        if len(boxes) == 0:
            return None
        whole = torch.tensor([size[1], size[0]])
        wanted = torch.tensor(self.min_overlaps)
        windows = self._windows(torch.rand(len(wanted), self.num_trials, 4))
        best = box_ops.iou(windows.flatten(0, 1), boxes / whole.repeat(2)).amax(1)
        good = best.view(windows.shape[:2]) >= wanted[:, None]
        found = good.any(dim=1).nonzero().flatten().tolist()
        index = int(torch.randint(len(found) + 1, ()))
        if index == len(found):
            return None
        window = windows[found[index], int(good[found[index]].int().argmax())]
        start = (window[:2] * whole).long()
        extent = ((window[2:] - window[:2]) * whole).long().clamp(min=1)
        left, top, right, bottom = torch.cat([start, start + extent]).tolist()
        return left, top, right, bottom

    def _windows(self, draws: Tensor) -> Tensor:
        """Return (..., 4) windows x1, y1, x2, y2 in shares of the image, of (..., 4) in [0, 1)."""
        scale = self.scale[0] + (self.scale[1] - self.scale[0]) * draws[..., 0]
        area = scale.square()
        low, high = area.clamp(min=self.ratio[0]), (1 / area).clamp(max=self.ratio[1])
        root = (low + (high - low) * draws[..., 1]).sqrt()
        sides = torch.stack([scale * root, scale / root], dim=-1).clamp(max=1.0)
        start = (1 - sides) * draws[..., 2:]
        return torch.cat([start, start + sides], dim=-1)


class RandomInterpolation:
    """Resizes to the network's size in one of five ways of interpolation, each as likely.

    SSD's released code, `interp_mode`: OpenCV's linear, area, nearest, cubic and Lanczos, of
    which only area is without aliasing where it shrinks. What sees an image of the network's size
    does not resize it again. `network_size` is a detector's rule from the own (height, width).
    """

    WAYS = (
        *(cv2.INTER_LINEAR, cv2.INTER_AREA, cv2.INTER_NEAREST),
        *(cv2.INTER_CUBIC, cv2.INTER_LANCZOS4),
    )

    def __init__(self, network_size: Callable[[int, int], tuple[int, int]]) -> None:
        self.network_size = network_size

    def __call__(self, sample: Sample) -> Sample:
        """Return the sample in the network's size."""
        height, width = sample.image.shape[1:]
        size = self.network_size(height, width)
        way = self.WAYS[int(torch.randint(len(self.WAYS), ()))]
        pixels = np.ascontiguousarray(sample.image.permute(1, 2, 0).numpy())
        image = torch.from_numpy(cv2.resize(pixels, size[::-1], interpolation=way))
        scale = size[1] / width, size[0] / height
        return _placed(sample, image.permute(2, 0, 1), scale, (0.0, 0.0))


class RandomScaleShift:
    """Moves each border in or out by up to `jitter` of the image's side.

    YOLOv1 sec. 2.2: "random scaling and translations of up to 20 % of the original image
    size", in the way of its released code: what is moved in is cut off, what is moved out is
    filled, and the resize of `prepare` does the scaling. With `fill` None the pixels of the border
    are repeated there. With `min_side` an object stays, with the box of what is seen of it, as long
    as that is so large a share of the image's sides, wherever its centre was. The released code has
    both, and .005.
    """

    def __init__(
        self,
        jitter: float = 0.2,
        fill: Colour | None = MEAN_COLOUR,
        min_side: float | None = None,
    ) -> None:
        if not 0.0 <= jitter < 0.5:
            raise ValueError(f"jitter must lie in [0, .5), not {jitter}")
        self.jitter = jitter
        self.fill = fill
        self.min_side = min_side

    @property
    def zoom(self) -> float:
        """What is left between two borders that are moved in as far as can be is enlarged by."""
        return 1.0 / (1.0 - 2.0 * self.jitter)

    def __call__(self, sample: Sample) -> Sample:
        """Return the sample between its new borders."""
        height, width = sample.image.shape[1:]
        left, top, right, bottom = (
            int(side * _uniform(-self.jitter, self.jitter))
            for side in (width, height, width, height)
        )
        if self.fill is None:
            rows = torch.arange(top, height - bottom).clamp(0, height - 1)
            columns = torch.arange(left, width - right).clamp(0, width - 1)
            image = sample.image[:, rows][:, :, columns]
        else:
            image = sample.image[
                :, max(top, 0) : height - max(bottom, 0), max(left, 0) : width - max(right, 0)
            ]
            padding = [max(-margin, 0) for margin in (left, top, right, bottom)]
            if any(padding):
                image = F.pad(image, padding, fill=list(self.fill))
        return _placed(sample, image, (1.0, 1.0), (-left, -top), self.min_side)


def _placed(
    sample: Sample,
    image: Tensor,
    scale: tuple[float, float],
    shift: tuple[float, float],
    min_side: float | None = None,
) -> Sample:
    """Return the sample with a new image in which x, y of the old lie at `scale * x + shift`.

    With `min_side` objects stay of which so much is seen, a share of either side of the image.
    """
    scales, shifts = torch.tensor(scale), torch.tensor(shift)

    def move(boxes: Tensor) -> Tensor:
        return boxes * scales.repeat(2) + shifts.repeat(2)

    boxes = move(sample.boxes)
    proposals = sample.boxes[:0] if sample.proposals is None else move(sample.proposals)
    return _with_objects(sample, image, boxes, _centres(boxes), proposals, min_side)


def _with_objects(
    sample: Sample,
    image: Tensor,
    boxes: Tensor,
    centres: Tensor,
    proposals: Tensor,
    min_side: float | None = None,
) -> Sample:
    """Return the sample with a new image and those moved objects whose centre is on it.

    Of an ignored object a pixel is enough.
    """
    size = (image.shape[1], image.shape[2])
    boxes, proposals = box_ops.clip(boxes, size), box_ops.clip(proposals, size)
    extent = torch.tensor([size[1], size[0]])
    if min_side is None:
        holds_centre = ((centres > 0) & (centres < extent)).all(1)
        keep = (holds_centre | sample.is_ignored) & _has_pixel(boxes)
    else:
        seen = ((boxes[:, 2:] - boxes[:, :2]) >= min_side * extent).all(1)
        keep = torch.where(sample.is_ignored, _has_pixel(boxes), seen)
    return _select(
        replace(
            sample,
            image=image,
            boxes=boxes,
            proposals=None if sample.proposals is None else proposals[_has_pixel(proposals)],
        ),
        keep,
    )


def _select(sample: Sample, keep: Tensor) -> Sample:
    """Return the sample with those objects where `keep`, (R,) bool, is true."""
    return replace(
        sample,
        boxes=sample.boxes[keep],
        labels=sample.labels[keep],
        difficult=sample.difficult[keep],
        ignored=None if sample.ignored is None else sample.ignored[keep],
    )


def _centres(boxes: Tensor) -> Tensor:
    """Return the (R, 2) centres x, y of (R, 4) boxes."""
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def _has_pixel(boxes: Tensor) -> Tensor:
    """Return, (R,) bool, which boxes are at least a pixel wide and high."""
    return ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(1)


def _uniform(low: float, high: float) -> float:
    """Return a number drawn from [low, high) by torch's global generator."""
    return low + (high - low) * float(torch.rand(()))


def _happens(p: float) -> bool:
    """Return True with probability `p`."""
    return _uniform(0.0, 1.0) < p
