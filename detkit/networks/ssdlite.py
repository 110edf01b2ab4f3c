"""SSDlite's layers: SSD's, each 3x3 convolution parted in one a channel and one across channels.

Sandler et al.: MobileNetV2, CVPR 2018, arXiv:1801.04381, sec. 6.2; widths, norms and how they
start are torchvision's `ssdlite320_mobilenet_v3_large`. Shape shorthand: C channels.
"""

from __future__ import annotations

from functools import partial

from torch import nn
from torchvision.ops import Conv2dNormActivation

NORM = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
WIDTHS = (512, 256, 256, 128)  # of the maps after the backbone's


def extra_layers(channels: int, halvings: int) -> tuple[list[nn.Module], list[int]]:
    """Return (layers after a map of C = `channels`, their channels): each halves the map."""
    layers: list[nn.Module] = []
    widths = list(WIDTHS[:halvings])
    for width in widths:
        middle = width // 2
        layers.append(
            nn.Sequential(
                _unit(channels, middle, 1),
                _unit(middle, middle, 3, stride=2, groups=middle),
                _unit(middle, width, 1),
            )
        )
        channels = width
    return [_started(layer) for layer in layers], widths


def predictor(channels: int, outputs: int) -> nn.Module:
    """Return what predicts so many values at each place of a map of C = `channels`."""
    return _started(
        nn.Sequential(
            _unit(channels, channels, 3, groups=channels), nn.Conv2d(channels, outputs, 1)
        )
    )


def _unit(before: int, after: int, side: int, *, stride: int = 1, groups: int = 1) -> nn.Module:
    unit: nn.Module = Conv2dNormActivation(
        before,
        after,
        side,
        stride,
        groups=groups,
        norm_layer=NORM,
        activation_layer=nn.ReLU6,
    )
    return unit


def _started(layers: nn.Module) -> nn.Module:
    """Return the layers, their convolutions drawn anew."""
    for layer in layers.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.03)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return layers
