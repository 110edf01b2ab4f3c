"""Winograd's convolutions: 3 x 3 ones with a quarter of the products, for detection on a CPU.

Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks" (arXiv:1509.09308),
F(4 x 4, 3 x 3): of 4 x 4 outputs from 6 x 6 inputs 36 products a channel pair, not 144. The rest
is additions. Sums round otherwise than in a direct convolution, by some 1e-5 of the values.

Shape shorthand: N images, C and D channels in and out, H x W pixels, T tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detkit.networks.winograd_matrices import (
    A_T,
    ALL_ONES,
    B_T,
    FEWEST_CHANNELS,
    FEWEST_PIXELS,
    INPUT_TILE,
    TILE,
    G,
)

BLOCK_BYTES = 2**21  # of transformed values at a time, that they stay in the cache


class TakenOver(nn.Conv2d):
    """A 3 x 3 convolution that takes another's place, with the same parameters."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        """Take over a convolution that `is_plain`; its parameters are shared, not copied."""
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
        self.train(convolution.training)


class WinogradConv2d(TakenOver):
    """A 3 x 3 convolution that multiplies in Winograd's domain; small maps go the direct way.

    It holds its weights in both forms, five times the memory of one, and does not learn.
    """

    transformed: Tensor

    def __init__(self, convolution: nn.Conv2d) -> None:
        """Take over a convolution that `suits`."""
        super().__init__(convolution)
        filters = transformed_filters(convolution.weight.detach().double())
        filters = filters.to(convolution.weight).contiguous()
        self.register_buffer("transformed", filters, persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        """Return the (N, D, H', W') convolution of (N, C, H, W)."""
        if torch.compiler.is_exporting():  # other programs have their own way to convolve
            return super().forward(input)
        tiling = Tiling.of(input, self)
        height, width = tiling.size
        if height * width < FEWEST_PIXELS or tiling.empty or input.dtype != self.weight.dtype:
            return super().forward(input)
        with torch.autocast(input.device.type, enabled=False):
            return convolved(input, self.transformed, self.bias, tiling)


@dataclass(frozen=True)
class Tiling:
    """How a convolution's maps are parted into tiles; what is taken at once is a block of rows."""

    num: int  # images
    size: tuple[int, int]  # (H', W') of the outputs
    padding: tuple[int, int]
    channels: tuple[int, int]  # in and out
    rows: int  # of tiles, of an image
    columns: int

    @classmethod
    def of(cls, images: Tensor, convolution: nn.Conv2d) -> Tiling:
        """Return the tiling of a convolution of (N, C, H, W) images."""
        pad_y, pad_x = (int(pad) for pad in convolution.padding)
        height, width = images.shape[2] + 2 * pad_y - 2, images.shape[3] + 2 * pad_x - 2
        return cls(
            images.shape[0],
            (height, width),
            (pad_y, pad_x),
            (convolution.in_channels, convolution.out_channels),
            -(-height // TILE),
            -(-width // TILE),
        )

    @property
    def empty(self) -> bool:
        """Whether there are no outputs."""
        return min(self.size) < 1

    def blocks(self) -> Iterator[Block]:
        """Yield blocks of rows of tiles of some images: so many that their values stay in cache.

        But no fewer than the transformed weights have values, since they are read once a block.
        """
        before, after = self.channels
        weights = before * after
        row = self.columns * max(before, after)
        at_once = max(1, max(BLOCK_BYTES // (4 * INPUT_TILE**2), weights) // row)
        images_at_once = max(1, at_once // self.rows)
        for first in range(0, self.num, images_at_once):
            for top in range(0, self.rows, at_once):
                yield Block(
                    self,
                    slice(first, min(first + images_at_once, self.num)),
                    top,
                    min(top + at_once, self.rows),
                )


@dataclass(frozen=True)
class Block:
    """Rows `top` to `bottom` of tiles of `some` images."""

    tiling: Tiling
    some: slice
    top: int
    bottom: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Images, rows and columns of tiles."""
        return self.some.stop - self.some.start, self.bottom - self.top, self.tiling.columns

    def inputs(self, images: Tensor) -> Tensor:
        """Return (36, T, C), each tile's 6 x 6 inputs (d in the paper) of (N, H, W, C) images."""
        num, rows, columns = self.shape
        (pad_y, pad_x), (height, width) = self.tiling.padding, images.shape[1:3]
        top, bottom = TILE * self.top - pad_y, TILE * self.bottom + 2 - pad_y
        inside = images[self.some, max(top, 0) : max(0, min(bottom, height))]
        above, right = max(-top, 0), TILE * columns + 2 - pad_x - width
        below = TILE * rows + 2 - above - inside.shape[1]
        padded = F.pad(inside, (0, 0, pad_x, right, above, below))
        image, row, pixel, channel = padded.stride()
        overlapping = padded.as_strided(
            (INPUT_TILE, INPUT_TILE, num, rows, columns, padded.shape[3]),
            (row, pixel, image, TILE * row, TILE * pixel, channel),
        )
        return overlapping.reshape(INPUT_TILE**2, -1, padded.shape[3])

    def add_inputs(self, tiles: Tensor, images: Tensor) -> None:
        """Add (36, T, C) tiles to the pixels of (N, H, W, C) images that `inputs` took them from.

        Where tiles overlap they add up; what lies in the padding is dropped.
        """
        (num, rows, columns), channels = self.shape, tiles.shape[2]
        (pad_y, pad_x), (height, width) = self.tiling.padding, images.shape[1:3]
        placed = tiles.view(INPUT_TILE, INPUT_TILE, num, rows, columns, channels)
        placed = placed.permute(2, 3, 0, 4, 1, 5)
        whole = tiles.new_zeros(num, rows + 1, TILE, columns + 1, TILE, channels)
        whole[:, :rows, :, :columns] = placed[:, :, :TILE, :, :TILE]
        whole[:, 1:, :2, :columns] += placed[:, :, TILE:, :, :TILE]
        whole[:, :rows, :, 1:, :2] += placed[:, :, :TILE, :, TILE:]
        whole[:, 1:, :2, 1:, :2] += placed[:, :, TILE:, :, TILE:]
        pixels = whole.view(num, TILE * (rows + 1), TILE * (columns + 1), channels)
        top, bottom = TILE * self.top - pad_y, TILE * self.bottom + 2 - pad_y
        first, last = max(top, 0), max(0, min(bottom, height))
        images[self.some, first:last] += pixels[:, first - top : last - top, pad_x : pad_x + width]

    def outputs(self, images: Tensor) -> Tensor:
        """Return (16, T, D), each tile's 4 x 4 pixels of (N, H', W', D); beyond the map 0."""
        num, rows, columns = self.shape
        height, width = self.tiling.size
        inside = images[self.some, TILE * self.top : min(TILE * self.bottom, height)]
        below, right = TILE * rows - inside.shape[1], TILE * columns - width
        if below or right:
            inside = F.pad(inside, (0, 0, 0, right, 0, below))
        tiles = inside.reshape(num, rows, TILE, columns, TILE, -1).permute(2, 4, 0, 1, 3, 5)
        return tiles.reshape(TILE**2, num * rows * columns, -1)

    def set_outputs(self, tiles: Tensor, images: Tensor) -> None:
        """Write (16, T, D) tiles to their pixels of (N, H', W', D); what is beyond is dropped."""
        (num, rows, columns), (height, width) = self.shape, self.tiling.size
        placed = tiles.view(TILE, TILE, num, rows, columns, -1).permute(2, 3, 0, 4, 1, 5)
        pixels = placed.reshape(num, TILE * rows, TILE * columns, -1)
        inside = images[self.some, TILE * self.top : min(TILE * self.bottom, height)]
        inside[:] = pixels[:, : inside.shape[1], :width]


def convolved(images: Tensor, filters: Tensor, bias: Tensor | None, tiling: Tiling) -> Tensor:
    """Return the (N, D, H', W') outputs, channels last, of (N, C, H, W) images.

    `filters` are (36, C, D), as `transformed_filters` gives them.
    """
    values, shape = images.permute(0, 2, 3, 1), (tiling.num, filters.shape[2], *tiling.size)
    result = torch.empty(  # no view: autograd forbids changing a function's view in place
        shape, dtype=images.dtype, device=images.device, memory_format=torch.channels_last
    )
    outputs = result.permute(0, 2, 3, 1)
    of_data, of_products = transforms(images)
    for block in tiling.blocks():
        data = product(of_data, block.inputs(values))  # B^T d B
        products = torch.bmm(data, filters)
        if bias is not None:
            products[ALL_ONES] += bias
        block.set_outputs(product(of_products, products), outputs)  # A^T [...] A
    return result


def transforms(like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the (36, 36) matrix of B^T d B and the (16, 36) one of A^T m A, of flat tiles."""
    data, products = (torch.tensor(matrix, dtype=like.dtype) for matrix in (B_T, A_T))
    return torch.kron(data, data).to(like.device), torch.kron(products, products).to(like.device)


def product(matrix: Tensor, tiles: Tensor) -> Tensor:
    """Return the (M, T, C) products of an (M, K) matrix and (K, T, C) tiles."""
    return (matrix @ tiles.flatten(1)).view(-1, *tiles.shape[1:])


def filter_transform(like: Tensor) -> Tensor:
    """Return the (36, 9) matrix of G g G^T, of flat filters."""
    matrix = torch.tensor(G, dtype=torch.float64)
    return torch.kron(matrix, matrix).to(like)


def transformed_filters(weight: Tensor) -> Tensor:
    """Return (36, C, D) of (D, C, 3, 3) filters: G g G^T, the paper's U, for each pixel of a tile.

    In float64 G's fractions, which are no binary ones, are near enough to lose nothing.
    """
    filters = weight.permute(2, 3, 0, 1).reshape(9, *weight.shape[:2])
    return product(filter_transform(weight), filters).transpose(1, 2)


def is_plain(convolution: nn.Conv2d) -> bool:
    """Return whether a convolution is 3 x 3, of stride 1, in float32 and nothing else."""
    sides = convolution.kernel_size, convolution.stride, convolution.dilation
    return (
        sides == ((3, 3), (1, 1), (1, 1))
        and (convolution.groups, convolution.padding_mode) == (1, "zeros")
        and not isinstance(convolution.padding, str)
        and convolution.weight.dtype == torch.float32
    )


def suits(module: nn.Module) -> bool:
    """Return whether a module is a convolution that Winograd's form makes faster."""
    return (
        type(module) is nn.Conv2d
        and is_plain(module)
        and min(module.in_channels, module.out_channels) >= FEWEST_CHANNELS
        and max(module.in_channels, module.out_channels) >= 2 * FEWEST_CHANNELS
    )


def use_winograd(network: nn.Module) -> int:
    """Return how many convolutions of a network were replaced by Winograd's."""
    return replace_convolutions(network, suits, WinogradConv2d)


def replace_convolutions(
    network: nn.Module, is_chosen: Callable[[nn.Module], bool], form: type[TakenOver]
) -> int:
    """Return how many convolutions of a network, those chosen, now have another form."""
    found = [
        (parent, name, child)
        for parent in network.modules()
        for name, child in parent.named_children()
        if is_chosen(child)
    ]
    for parent, name, child in found:
        assert isinstance(child, nn.Conv2d)
        setattr(parent, name, form(child))
    return len(found)
