"""Winograd's convolutions that learn: forth and back with a quarter of the products.

Lavin and Gray 2016, as in `winograd.py`. An output tile is A^T [(G g G^T) * (B^T d B)] A, linear in
the filter g and in the data d: the gradient to each is the transposed of these transforms around
products of the same number. With m the gradient to the products, A dY A^T, that to the filter is
G^T [sum over tiles of m * (B^T d B)] G, and that to the data B [m * (G g G^T)] B^T.

Shape shorthand: N images, C and D channels in and out, H x W pixels, T tiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from detkit.networks.winograd import (
    TakenOver,
    Tiling,
    convolved,
    filter_transform,
    is_plain,
    product,
    replace_convolutions,
    transformed_filters,
    transforms,
)
from detkit.networks.winograd_matrices import ALL_ONES, TILE


@dataclass(frozen=True)
class Gain:
    """From where on Winograd's form learns faster than a direct one: ours, measured on a core."""

    fewer: int  # channels, of in and out
    more: int
    tiles: int  # of all images; below, transforming the weights takes longer than what is saved


GAINS = {"AVX2": Gain(64, 64, 48), "AVX512": Gain(128, 256, 128)}  # by the processor's vectors
MOST_PADDING = 1.5  # as many pixels in the tiles as in the map; narrow maps fill them badly


class LearningWinogradConv2d(TakenOver):
    """A 3 x 3 convolution in Winograd's domain whose weights learn.

    On small maps, and in anything but float32 on a CPU, it is the direct one, as in an export.
    While gradients are off, its filters are kept transformed until the weights change.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        """Take over a convolution that `is_plain`."""
        super().__init__(convolution)
        # Address and version of the weights; these, so that no others come there; and G g G^T.
        self._kept: tuple[tuple[int, int], Tensor, Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy has, too: its weights count their versions anew."""
        return {**self.__dict__, "_kept": None}

    def forward(self, input: Tensor) -> Tensor:
        """Return the (N, D, H', W') convolution of (N, C, H, W)."""
        tiling = Tiling.of(input, self)
        if (
            input.device.type != "cpu"
            or not input.dtype == self.weight.dtype == torch.float32
            or torch.is_autocast_enabled("cpu")
            or torch.compiler.is_compiling()  # exporting, too: a file is to hold a convolution
            or not pays(tiling)
        ):
            return super().forward(input)
        if not torch.is_grad_enabled():
            return convolved(input, self._filters(), self.bias, tiling)
        self._kept = None
        result: Tensor = _Convolution.apply(input, self.weight, self.bias, tiling)
        return result

    def _filters(self) -> Tensor:
        """Return the transformed filters of the present weights."""
        with torch.inference_mode(False), torch.no_grad():
            weight = self.weight.detach()
            state = weight.data_ptr(), weight._version
            if self._kept is None or self._kept[0] != state:
                self._kept = state, weight, transformed_filters(weight)
        return self._kept[2]


class _Convolution(torch.autograd.Function):
    """The convolution forth and back. What a direct one keeps for the way back is all it keeps."""

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, tiling: Tiling
    ) -> Tensor:
        """Return the (N, D, H', W') outputs, channels last."""
        ctx.save_for_backward(images, weight)
        ctx.tiling = tiling
        return convolved(images, transformed_filters(weight), bias, tiling)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients to images, weight and bias, of those that are wanted."""
        images, weight = ctx.saved_tensors
        tiling: Tiling = ctx.tiling
        to_images, to_weight, to_bias, _ = ctx.needs_input_grad
        outputs, values = gradient.permute(0, 2, 3, 1), images.permute(0, 2, 3, 1)
        of_data, of_products = transforms(gradient)
        filters = transformed_filters(weight).transpose(1, 2)
        data_gradient = torch.zeros_like(values, memory_format=torch.contiguous_format)
        filter_gradient = torch.zeros_like(filters)
        bias_gradient = outputs.new_zeros(outputs.shape[3])
        for block in tiling.blocks():
            products = product(of_products.t(), block.outputs(outputs))  # A dY A^T
            if to_bias:
                bias_gradient += products[ALL_ONES].sum(dim=0)
            if to_weight:
                data = product(of_data, block.inputs(values))  # B^T d B
                filter_gradient.baddbmm_(products.transpose(1, 2), data)
            if to_images:
                tiles = product(of_data.t(), torch.bmm(products, filters))  # B [...] B^T
                block.add_inputs(tiles, data_gradient)
        of_filter = filter_transform(gradient).t()
        filter_gradient = product(of_filter, filter_gradient).permute(1, 2, 0)  # G^T [...] G
        return (
            data_gradient.permute(0, 3, 1, 2) if to_images else None,
            filter_gradient.reshape(weight.shape) if to_weight else None,
            bias_gradient if to_bias else None,
            None,
        )


def pays(tiling: Tiling) -> bool:
    """Return whether Winograd's form of a convolution is the faster one on maps of this tiling."""
    gain = GAINS.get(torch.backends.cpu.get_cpu_capability())
    tiles, (height, width) = tiling.rows * tiling.columns, tiling.size
    return (
        gain is not None
        and not tiling.empty
        and tiling.num * tiles >= gain.tiles
        and tiles * TILE**2 <= MOST_PADDING * height * width
    )


def learns_faster(module: nn.Module) -> bool:
    """Return whether a module is a convolution that learns faster in Winograd's form here."""
    gain = GAINS.get(torch.backends.cpu.get_cpu_capability())
    if gain is None or type(module) is not nn.Conv2d or not is_plain(module):
        return False
    channels = module.in_channels, module.out_channels
    return min(channels) >= gain.fewer and max(channels) >= gain.more


def learn_by_winograd(network: nn.Module) -> int:
    """Return how many convolutions of a network were replaced by Winograd's, which learn."""
    return replace_convolutions(network, learns_faster, LearningWinogradConv2d)
