"""Other light on a training image: brightness, contrast, saturation and hue.

Written anew because `v2.RandomPhotometricDistort` takes 12 ms on 400x300, its hue going through
float HSV, where 8-bit tables take 1 ms: a data worker would do little else.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from detkit.structures import Sample


class PhotometricDistort:
    """Changes brightness, contrast, saturation and hue, each with probability `p`.

    SSD sec. 2.2 by its released code: brightness is added to, contrast and saturation are
    factors, hue is turned, and contrast comes before or after the colours as a coin says. No
    change of channel order: the released code has it at probability 0. 8-bit throughout, by
    tables of 256 entries; hue in steps of 360 / 256 degrees.

    The released code adds 18 to OpenCV's 8-bit hue, whose 180 levels are the 360 degrees. What
    would fall below 0 stays there, so that red does not turn towards magenta; what passes 360
    goes on from 0. With `hue_wraps` it goes on both ways, as in chainercv's port.
    """

    def __init__(
        self,
        brightness: float = 32.0,  # at most so many grey levels up or down
        contrast: tuple[float, float] = (0.5, 1.5),
        saturation: tuple[float, float] = (0.5, 1.5),
        hue: float = 36.0,  # degrees either way
        p: float = 0.5,
        *,
        hue_wraps: bool = False,
    ) -> None:
        self.brightness = brightness
        self.contrast = contrast
        self.saturation = saturation
        self.hue = hue
        self.hue_wraps = hue_wraps
        self.p = p

    def __call__(self, sample: Sample) -> Sample:
        """Return the sample in other colours; its boxes stay."""
        added = _uniform(-self.brightness, self.brightness) if _happens(self.p) else 0.0
        factor = _uniform(*self.contrast) if _happens(self.p) else 1.0
        saturation = _uniform(*self.saturation) if _happens(self.p) else 1.0
        hue = _uniform(-self.hue, self.hue) if _happens(self.p) else 0.0
        contrast_first = _happens(0.5)
        pixels = np.ascontiguousarray(sample.image.permute(1, 2, 0).numpy())
        pixels = adjust_levels(pixels, added, factor if contrast_first else 1.0)
        pixels = adjust_colours(pixels, saturation, hue, wraps=self.hue_wraps)
        pixels = adjust_levels(pixels, 0.0, 1.0 if contrast_first else factor)
        return replace(sample, image=torch.from_numpy(pixels).permute(2, 0, 1))


class RandomExposure:
    """Changes exposure and saturation in HSV by a factor of up to `factor`, up or down, each.

    YOLOv1 sec. 2.2: "we randomly adjust the exposure and saturation of the image by up to a
    factor of 1.5 in the HSV color space"; up and down are equally likely, as in its released
    code. 8-bit, by tables of 256 entries.
    """

    def __init__(self, factor: float = 1.5) -> None:
        self.factor = factor

    def __call__(self, sample: Sample) -> Sample:
        """Return the sample under other light; its boxes stay."""
        saturation, exposure = (self._draw() for _ in range(2))
        pixels = np.ascontiguousarray(sample.image.permute(1, 2, 0).numpy())
        pixels = adjust_colours(pixels, saturation, 0.0, exposure)
        return replace(sample, image=torch.from_numpy(pixels).permute(2, 0, 1))

    def _draw(self) -> float:
        factor = _uniform(1.0, self.factor)
        return factor if _happens(0.5) else 1.0 / factor


def adjust_levels(
    pixels: NDArray[np.uint8], brightness: float, contrast: float
) -> NDArray[np.uint8]:
    """Return (H, W, 3) `(pixels + brightness) * contrast`, rounded and cut to 0 to 255 twice."""
    if brightness == 0.0 and contrast == 1.0:
        return pixels
    levels = np.clip(np.arange(256) + round(brightness), 0, 255) * contrast
    return np.asarray(cv2.LUT(pixels, _levels(levels)), np.uint8)


def adjust_colours(
    pixels: NDArray[np.uint8],
    saturation: float,
    hue: float,
    exposure: float = 1.0,
    *,
    wraps: bool = True,
) -> NDArray[np.uint8]:
    """Return (H, W, 3) RGB pixels, their hue in HSV turned by degrees.

    Saturation and value are multiplied by `saturation` and `exposure`. Unless hue `wraps`, it is
    not turned below 0.
    """
    turn = round(hue / 360 * 256)
    if saturation == 1.0 and turn == 0 and exposure == 1.0:
        return pixels
    levels = np.arange(256)
    turned = levels + turn if wraps else np.maximum(levels + turn, 0)
    table = np.stack([turned % 256, levels * saturation, levels * exposure], axis=-1)
    hsv = cv2.LUT(cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV_FULL), _levels(table)[None])
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL), np.uint8)


def _levels(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the values as 8-bit levels, rounded and cut."""
    levels: NDArray[np.uint8] = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return levels


def _uniform(low: float, high: float) -> float:
    """Return a number drawn from [low, high) by torch's global generator."""
    return low + (high - low) * float(torch.rand(()))


def _happens(p: float) -> bool:
    """Return True with probability `p`."""
    return _uniform(0.0, 1.0) < p
