"""Necks: the feature maps of detectors of regions, one of a backbone or a pyramid of several.

Shape shorthand: B images, L maps of C channels at strides s_l.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

from detkit.networks.architectures import Tap


class SingleMap(nn.Module):
    """One map, as Fast and Faster R-CNN use it, made narrower by a 1x1 convolution if asked."""

    def __init__(self, tap: Tap, width: int | None = None) -> None:
        """Keep the backbone's channels, or make them `width`."""
        super().__init__()
        self.channels = tap.channels if width is None else width
        self.strides = (tap.stride,)
        self.num_regional = 1
        self.reduce = nn.Identity() if width is None else nn.Conv2d(tap.channels, width, 1)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return the one map, (B, C, H, W)."""
        (x,) = maps
        return [self.reduce(x)]


class FeaturePyramid(nn.Module):
    """FPN (Lin et al. 2017, arXiv:1612.03144), and coarser maps above it for large anchors."""

    def __init__(
        self, taps: Sequence[Tap], width: int, coarsest: int = 64, *, norms: bool = False
    ) -> None:
        """Give all maps `width` channels; halve the last one until its stride is `coarsest`.

        With `norms` each convolution has a batch norm instead of a bias.
        """
        super().__init__()
        self.channels = width
        strides = [tap.stride for tap in taps]
        self.num_regional = len(strides)  # regions are cut from these, sec. 4.2
        while strides[-1] < coarsest:
            strides.append(2 * strides[-1])
        self.strides = tuple(strides)
        self.fpn = FeaturePyramidNetwork(
            [tap.channels for tap in taps], width, norm_layer=nn.BatchNorm2d if norms else None
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return the L maps, finest first, (B, C, H_l, W_l)."""
        named = OrderedDict((str(level), x) for level, x in enumerate(maps))
        merged: list[Tensor] = list(self.fpn(named).values())
        while len(merged) < len(self.strides):
            # Sec. 4.1, footnote: "P6 is simply a stride two subsampling of P5".
            merged.append(nn.functional.max_pool2d(merged[-1], 1, 2))
        return merged


def initialise(layers: Sequence[nn.Module], std: float) -> None:
    """Draw the weights from a normal distribution of this deviation; biases are 0."""
    for layer in layers:
        assert isinstance(layer, nn.Linear | nn.Conv2d) and layer.bias is not None
        nn.init.normal_(layer.weight, std=std)
        nn.init.zeros_(layer.bias)
