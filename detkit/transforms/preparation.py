"""Preprocessing: samples resized, padded and normalised to a batch, as the network was trained.

Shape shorthand: B images a batch, H x W network pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import cv2
import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as F

from detkit.structures import Batch, Sample


@dataclass(frozen=True)
class Preparation:
    """Resizes, pads and normalises samples; small and picklable, for the data workers."""

    network_size: Callable[[int, int], tuple[int, int]]  # own (height, width) -> network's
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    antialias: bool
    stride: int = 1  # the padded size is a multiple of it
    least: int = 1  # the padded size is no less, so that no map of a long narrow image vanishes

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """Return the batch of the samples, padded with zeros at the right and the bottom."""
        return self.normalise(self.resize(samples))

    def resize(
        self, samples: Iterable[Sample], memory: Callable[[int], Tensor] | None = None
    ) -> Batch:
        """Return the batch with its images still in grey levels of 0 to 255: `normalise` is due.

        They are uint8, a quarter of what the network sees, for the way out of a data worker;
        without antialiasing float32, since nothing is rounded there. `memory` gives what they are
        put into: uint8 of a number of bytes. Samples may be made on the way: each is resized
        as it comes, while its pixels are in the processor's cache, and let go.
        """
        original_sizes, resized = [], []
        for sample in samples:
            original = sample.image.shape[1], sample.image.shape[2]
            image = self._resized(sample.image, self.network_size(*original))
            original_sizes.append(original)
            resized.append(replace(sample, image=image))
        ignored, resized = without_ignored(resized)
        sizes = [(sample.image.shape[1], sample.image.shape[2]) for sample in resized]
        scales = [scale_between(*pair) for pair in zip(original_sizes, sizes, strict=True)]
        proposals = [
            sample.proposals * scale
            for sample, scale in zip(resized, scales, strict=True)
            if sample.proposals is not None
        ]
        return Batch(
            images=self._side_by_side([sample.image for sample in resized], memory),
            sizes=sizes,
            original_sizes=original_sizes,
            boxes=[sample.boxes * scale for sample, scale in zip(resized, scales, strict=True)],
            labels=[sample.labels for sample in resized],
            difficult=[sample.difficult for sample in resized],
            proposals=proposals if len(proposals) == len(resized) else None,
            image_ids=[sample.image_id for sample in resized],
            ignored=[boxes * scale for boxes, scale in zip(ignored, scales)],
        )

    def normalise(self, batch: Batch) -> Batch:
        """Return `resize`'s batch, on whatever device it is, as the network sees it."""
        levels = batch.images
        if levels.device.type != "cpu":
            return replace(batch, images=self.normalised_at_once(levels, batch.sizes))
        padded = any(size != tuple(levels.shape[2:]) for size in batch.sizes)
        fill = torch.zeros_like if padded else torch.empty_like
        images = fill(levels, dtype=torch.float32)
        # In numpy: for an operation as short as one on a plane of an image torch would wake its
        # threads, which then wait for a core that a data worker holds.
        planes, sources = images.numpy(), levels.numpy()
        # One plane after the other: what fits into the processor's cache is passed once.
        for index, (height, width) in enumerate(batch.sizes):
            for channel, mean, std in zip(range(3), self.mean, self.std, strict=True):
                into = planes[index, channel, :height, :width]
                into[:] = sources[index, channel, :height, :width]
                into -= 255.0 * mean
                into *= 1.0 / (255.0 * std)
        return replace(batch, images=images)

    def normalised_at_once(self, levels: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
        """Return (B, 3, H, W) grey levels normalised, to the bit as `normalise` does on a CPU.

        A GPU takes as long to be asked for a plane of an image as for that of all images.
        """
        images = levels.to(torch.float32, copy=True)
        for channel, mean, std in zip(range(3), self.mean, self.std, strict=True):
            images[:, channel].sub_(255.0 * mean).mul_(1.0 / (255.0 * std))
        for image, (height, width) in zip(images, sizes, strict=True):
            image[:, height:] = 0.0
            image[:, :, width:] = 0.0
        return images

    def _resized(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the (3, H, W) uint8 image as (3, h, w): uint8, without antialiasing float32."""
        if self.antialias:
            # uint8 in, uint8 out: several times faster than float, and within half a grey level.
            resized: Tensor = F.resize_image(image, list(size), antialias=True)
            return resized
        return nn.functional.interpolate(
            image[None].float(), size=size, mode="bilinear", align_corners=False
        )[0]

    def padded_size(self, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
        """Return the (height, width) of a batch of images of these `sizes`, network pixels."""
        height, width = (
            -(-max(self.least, *sides) // self.stride) * self.stride for sides in zip(*sizes)
        )
        return height, width

    def _side_by_side(
        self, resized: Sequence[Tensor], memory: Callable[[int], Tensor] | None
    ) -> Tensor:
        """Return (B, 3, H, W) of the (3, h, w) images, zero beyond each."""
        height, width = self.padded_size([(one.shape[1], one.shape[2]) for one in resized])
        shape, dtype = (len(resized), 3, height, width), resized[0].dtype
        if memory is None:
            images = torch.empty(shape, dtype=dtype)
        else:
            images = memory(math.prod(shape) * dtype.itemsize).view(dtype).view(shape)
        for image, place in zip(resized, images, strict=True):
            if image.shape != place.shape:  # only what no image covers must be zero
                place = place.zero_()[:, : image.shape[1], : image.shape[2]]
            _put(image, place)
        return images


def without_ignored(samples: Sequence[Sample]) -> tuple[list[Tensor], list[Sample]]:
    """Return the (I, 4) ignored boxes of each sample, [] if no sample has any; and the rest."""
    if not any(bool(sample.is_ignored.any()) for sample in samples):
        return [], [replace(sample, ignored=None) for sample in samples]
    keeps = [~sample.is_ignored for sample in samples]
    return [sample.boxes[~keep] for sample, keep in zip(samples, keeps)], [
        replace(
            sample,
            boxes=sample.boxes[keep],
            labels=sample.labels[keep],
            difficult=sample.difficult[keep],
            ignored=None,
        )
        for sample, keep in zip(samples, keeps)
    ]


def _put(image: Tensor, into: Tensor) -> None:
    """Copy the (3, h, w) image to its place."""
    interleaved = image.permute(1, 2, 0)
    if not interleaved.is_contiguous():
        into.copy_(image)
        return
    # OpenCV takes colours apart many times faster than torch copies across strides.
    if into.is_contiguous():
        cv2.split(interleaved.numpy(), list(into.numpy()))
        return
    for channel, plane in zip(into, cv2.split(interleaved.numpy()), strict=True):
        channel.copy_(torch.from_numpy(plane))


def scale_between(original: tuple[int, int], network: tuple[int, int]) -> Tensor:
    """Return the (4,) factors from own pixels to network pixels."""
    y, x = network[0] / original[0], network[1] / original[1]
    return torch.tensor([x, y, x, y])


def shorter_side(side: int, longest: int, height: int, width: int) -> tuple[int, int]:
    """Return the network's (height, width): the shorter side is `side`, no side above `longest`.

    Fast R-CNN sec. 5.2: 600 and 1000. Rounded down, as in torchvision; at least one pixel.
    """
    scale = min(side / min(height, width), longest / max(height, width))
    return max(1, int(height * scale)), max(1, int(width * scale))


def square(side: int, height: int, width: int) -> tuple[int, int]:
    """Return the network's (height, width) of any image, warped to one square as SSD's, YOLO's."""
    return side, side
