"""Winograd's convolutions: 3 x 3 ones with a quarter of the products, for detection on a CPU.

Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks" (arXiv:1509.09308),
F(4 x 4, 3 x 3): of 4 x 4 outputs from 6 x 6 inputs 36 products a channel pair, not 144. The rest
is additions. Sums round otherwise than in a direct convolution, by some 1e-5 of the values.

Shape shorthand: N images, C and D channels in and out, H x W pixels, T tiles.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# The equations of sec. 4.3: data, filter and inverse transform.
B_T = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
G = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
A_T = (
    (1, 1, 1, 1, 1, 0),
    (0, 1, -1, 2, -2, 0),
    (0, 1, 1, 4, 4, 0),
    (0, 1, -1, 8, -8, 1),
)
TILE = 4  # pixels a side of a tile's outputs, m in the paper
INPUT_TILE = 6  # pixels a side of its inputs, m + r - 1
# Ours, measured on a Xeon core: where the transforms cost less than the products that they save.
FEWEST_CHANNELS = 64  # in and out; one of both must have twice as many
FEWEST_PIXELS = 256  # of an output; below, reading four times the weights takes longer
BLOCK_BYTES = 2**21  # of transformed values at a time, that they stay in the cache


class WinogradConv2d(nn.Conv2d):
    """A 3 x 3 convolution that multiplies in Winograd's domain; small maps go the direct way.

    It holds its weights in both forms, five times the memory of one, and does not learn.
    """

    transformed: Tensor
    of_data: Tensor
    of_products: Tensor

    def __init__(self, convolution: nn.Conv2d) -> None:
        """Take over a convolution that `suits`; the weights are shared, not copied."""
        pad_y, pad_x = (int(pad) for pad in convolution.padding)
        super().__init__(
            convolution.in_channels,
            convolution.out_channels,
            (3, 3),
            padding=(pad_y, pad_x),
            bias=convolution.bias is not None,
            device="meta",
        )
        self.weight, self.bias = convolution.weight, convolution.bias
        weight = convolution.weight.detach()
        self.register_buffer("transformed", transformed_filters(weight), persistent=False)
        for name, matrix in (("of_data", B_T), ("of_products", A_T)):
            both_ways = torch.kron(torch.tensor(matrix), torch.tensor(matrix))
            self.register_buffer(name, both_ways.to(weight), persistent=False)
        self.train(convolution.training)

    def forward(self, input: Tensor) -> Tensor:
        """Return the (N, D, H', W') convolution of (N, C, H, W)."""
        if torch.compiler.is_exporting():  # other programs have their own way to convolve
            return super().forward(input)
        pad_y, pad_x = (int(pad) for pad in self.padding)
        size = input.shape[2] + 2 * pad_y - 2, input.shape[3] + 2 * pad_x - 2
        if size[0] * size[1] < FEWEST_PIXELS or min(size) < 1 or input.dtype != self.weight.dtype:
            return super().forward(input)
        with torch.autocast(input.device.type, enabled=False):
            values = self._products(input, size)
        return (values if self.bias is None else values + self.bias).permute(0, 3, 1, 2)

    def _products(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the (N, H', W', D) outputs of `size` without the bias."""
        num, channels, height, width = images.shape
        (pad_y, pad_x), out = (int(pad) for pad in self.padding), self.out_channels
        rows, columns = (-(-side // TILE) for side in size)
        padded = images.new_zeros(num, rows * TILE + 2, columns * TILE + 2, channels)
        padded[:, pad_y : pad_y + height, pad_x : pad_x + width] = images.permute(0, 2, 3, 1)
        image, row, pixel, channel = padded.stride()
        tiles = padded.as_strided(  # overlapping: each tile's inputs, d in the paper
            (INPUT_TILE, INPUT_TILE, num, rows, columns, channels),
            (row, pixel, image, TILE * row, TILE * pixel, channel),
        )
        result = images.new_empty(num, rows, TILE, columns, TILE, out)
        row_bytes = INPUT_TILE**2 * columns * max(channels, out) * images.element_size()
        block = max(BLOCK_BYTES, self.transformed.nbytes)  # the weights are read once a block
        at_once = max(1, block // row_bytes)
        images_at_once = max(1, at_once // rows)
        for first in range(0, num, images_at_once):
            some = slice(first, first + images_at_once)
            for top in range(0, rows, at_once):
                strip = slice(top, top + at_once)
                data = tiles[:, :, some, strip].reshape(INPUT_TILE**2, -1)
                data = (self.of_data @ data).view(INPUT_TILE**2, -1, channels)  # B^T d B
                products = torch.bmm(data, self.transformed).view(INPUT_TILE**2, -1)
                shape = (TILE, TILE, *result[some, strip].shape[:2], columns, out)
                inverse = (self.of_products @ products).view(shape)  # A^T [...] A
                result[some, strip] = inverse.permute(2, 3, 0, 4, 1, 5)
        whole = result.view(num, rows * TILE, columns * TILE, out)
        return whole[:, : size[0], : size[1]]


def transformed_filters(weight: Tensor) -> Tensor:
    """Return (36, C, D) of (D, C, 3, 3) filters: G g G^T, the paper's U, for each pixel of a tile.

    Computed in float64, since G's fractions are no binary ones.
    """
    both_ways = torch.kron(*[torch.tensor(G, dtype=torch.float64, device=weight.device)] * 2)
    filters = weight.permute(2, 3, 1, 0).reshape(9, -1).double()
    return (both_ways @ filters).to(weight).view(-1, *weight.shape[1::-1])


def suits(module: nn.Module) -> bool:
    """Return whether a module is a convolution that Winograd's form makes faster."""
    return (
        type(module) is nn.Conv2d
        and (module.kernel_size, module.stride, module.dilation) == ((3, 3), (1, 1), (1, 1))
        and (module.groups, module.padding_mode) == (1, "zeros")
        and not isinstance(module.padding, str)
        and min(module.in_channels, module.out_channels) >= FEWEST_CHANNELS
        and max(module.in_channels, module.out_channels) >= 2 * FEWEST_CHANNELS
        and module.weight.dtype == torch.float32
    )


def use_winograd(network: nn.Module) -> int:
    """Return how many convolutions of a network were replaced by Winograd's."""
    found = [
        (parent, name, child)
        for parent in network.modules()
        for name, child in parent.named_children()
        if suits(child)
    ]
    for parent, name, child in found:
        assert isinstance(child, nn.Conv2d)
        setattr(parent, name, WinogradConv2d(child))
    return len(found)
