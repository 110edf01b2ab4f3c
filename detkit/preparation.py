"""Samples on their way to a network: resized, padded and normalised as it was trained.

Shape shorthand: B images a batch, H x W network pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

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

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """Return the batch of the samples, padded with zeros at the right and the bottom."""
        return self.normalise(self.resize(samples))

    def resize(
        self, samples: Sequence[Sample], room: Callable[[int], Tensor] | None = None
    ) -> Batch:
        """Return the batch with its images still in grey levels of 0 to 255: `normalise` is due.

        They are uint8, a quarter of what the network sees, for the way out of a data worker;
        without antialiasing float32, since nothing is rounded there. `room` gives the memory they
        are put into: uint8 of a number of bytes.
        """
        original_sizes = [(sample.image.shape[1], sample.image.shape[2]) for sample in samples]
        sizes = [self.network_size(height, width) for height, width in original_sizes]
        height, width = (
            -(-max(size[axis] for size in sizes) // self.stride) * self.stride for axis in (0, 1)
        )
        shape = len(samples), 3, height, width
        dtype = torch.uint8 if self.antialias else torch.float32
        if room is None:
            images = torch.empty(shape, dtype=dtype)
        else:
            images = room(math.prod(shape) * dtype.itemsize).view(dtype).view(shape)
        if set(sizes) != {(height, width)}:  # only what no image covers must be zero
            images.zero_()
        boxes, proposals = [], []
        for index, (sample, size) in enumerate(zip(samples, sizes, strict=True)):
            self._write(sample.image, images[index, :, : size[0], : size[1]])
            scale = scale_between(original_sizes[index], size)
            boxes.append(sample.boxes * scale)
            if sample.proposals is not None:
                proposals.append(sample.proposals * scale)
        return Batch(
            images=images,
            sizes=sizes,
            original_sizes=original_sizes,
            boxes=boxes,
            labels=[sample.labels for sample in samples],
            difficult=[sample.difficult for sample in samples],
            proposals=proposals if len(proposals) == len(samples) else None,
            image_ids=[sample.image_id for sample in samples],
        )

    def normalise(self, batch: Batch) -> Batch:
        """Return `resize`'s batch, on whatever device it is, as the network sees it."""
        levels = batch.images
        padded = any(size != tuple(levels.shape[2:]) for size in batch.sizes)
        fill = torch.zeros_like if padded else torch.empty_like
        images = fill(levels, dtype=torch.float32)
        planes, sources = _in_numpy(images), _in_numpy(levels)
        # One plane after the other: what fits into the processor's cache is passed once.
        for index, (height, width) in enumerate(batch.sizes):
            for channel, mean, std in zip(range(3), self.mean, self.std, strict=True):
                into = planes[index, channel, :height, :width]
                into[:] = sources[index, channel, :height, :width]
                into -= 255.0 * mean
                into *= 1.0 / (255.0 * std)
        return replace(batch, images=images)

    def _write(self, image: Tensor, into: Tensor) -> None:
        """Fill the (3, h, w) slice with the resized (3, H, W) uint8 image."""
        size = (into.shape[1], into.shape[2])
        if not self.antialias:
            into.copy_(
                nn.functional.interpolate(
                    image[None].float(), size=size, mode="bilinear", align_corners=False
                )[0]
            )
            return
        # uint8 in, uint8 out: several times faster than float, and within half a grey level.
        resized = F.resize(image, list(size), antialias=True)
        interleaved = resized.permute(1, 2, 0)
        if not interleaved.is_contiguous():
            into.copy_(resized)
            return
        # OpenCV takes colours apart many times faster than torch copies across strides.
        if into.is_contiguous():
            cv2.split(interleaved.numpy(), list(into.numpy()))
            return
        for channel, plane in zip(into, cv2.split(interleaved.numpy()), strict=True):
            channel.copy_(torch.from_numpy(plane))


def _in_numpy(images: Tensor) -> Any:
    """Return the tensor on a CPU as an array of the same memory, on other devices itself.

    Both take the same indices and operators. For an operation as short as one on a plane of an
    image torch would wake its threads, which then wait for a core that a data worker holds.
    """
    return images.numpy() if images.device.type == "cpu" else images


def scale_between(original: tuple[int, int], network: tuple[int, int]) -> Tensor:
    """Return the (4,) factors from own pixels to network pixels."""
    y, x = network[0] / original[0], network[1] / original[1]
    return torch.tensor([x, y, x, y])
