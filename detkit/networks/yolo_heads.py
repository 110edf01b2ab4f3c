"""Heads over a grid of cells: from a backbone's maps to the numbers of each of S x S cells.

Shape shorthand: B images a batch, S x S cells, C_l channels of map l, `outputs` numbers a cell.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detkit.networks.architectures import Tap, leaky_convolution
from detkit.networks.darknet import DETECTION

WIDTH = 256  # channels of `ConvolutionalHead`: SSD's extra layers have as many


class ConnectedHead(nn.Module):
    """Four convolutions and two fully connected layers over the whole image: YOLOv1, Fig. 3.

    On `fast_yolo`, whose convolutions are all in the backbone, connected layers of 256 (linear)
    and 4096 as in its released `yolo-tiny.cfg`.
    """

    def __init__(self, backbone: str, tap: Tap, side: int, dropout: float, outputs: int) -> None:
        """Build for the backbone's last map of `side` x `side` places; `outputs` of all cells."""
        super().__init__()
        channels = tap.channels
        self.convs = nn.Sequential()
        if backbone != "fast_yolo":
            # Down to stride 64 as in the paper; from 16 (VGG16) in two steps.
            strides = (2 if tap.stride <= 16 else 1, 2, 1, 1)
            for (after, kernel), step in zip(DETECTION, strides):
                self.convs.append(leaky_convolution(channels, after, kernel, step))
                channels, side = after, -(-side // step)
        flat = channels * side * side
        if backbone == "fast_yolo":
            self.fcs = nn.ModuleList([nn.Linear(flat, 256), nn.Linear(256, 4096)])
        else:
            self.fcs = nn.ModuleList([nn.Linear(flat, 4096)])
        self.fcs.append(nn.Linear(4096, outputs))
        self.activation = nn.LeakyReLU(0.1)  # eq. 2
        self.dropout = nn.Dropout(dropout)

    @property
    def predictor(self) -> nn.Linear:
        """The last layer."""
        last = self.fcs[-1]
        assert isinstance(last, nn.Linear)
        return last

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return (B, outputs), in darknet's order: all probs, all confidences, all boxes."""
        x = self.convs(maps[-1]).flatten(1)
        for fc in self.fcs[:-1]:
            x = fc(x)
        found: Tensor = self.predictor(self.dropout(self.activation(x)))
        return found


class CellPooling(nn.Module):
    """The mean of a square map over each of S x S cells; cells need not end where places do."""

    cover: Tensor

    def __init__(self, side: int, grid: int) -> None:
        """Weigh each of `side` places by the share of the cell that it covers."""
        super().__init__()
        edges = torch.arange(grid + 1, dtype=torch.float64) * side / grid
        places = torch.arange(side, dtype=torch.float64)
        upper = torch.minimum(edges[1:, None], places + 1)
        lower = torch.maximum(edges[:-1, None], places)
        cover = (upper - lower).clamp(min=0) * grid / side  # (S, side), rows sum to 1
        self.register_buffer("cover", cover.float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, S, S) of a (B, C, side, side) map."""
        cover = self.cover.to(x.dtype)
        return cover @ x @ cover.t()


class ConvolutionalHead(nn.Module):
    """Convolutions and a predictor that sees each cell and its surroundings: ours.

    From 2 x 2 places a cell, which one convolution of stride 2 puts together: at 448 pixels and
    7 x 7 cells just as the paper's second one for detection. Where the last map has fewer places,
    the ones before it are looked at, too, up to the first that has enough: else neighbouring
    cells would look alike.
    """

    def __init__(self, taps: Sequence[Tap], sides: Sequence[int], grid: int, outputs: int) -> None:
        """Build for the backbone's maps and the side of each; `outputs` of each cell."""
        super().__init__()
        places = 2 * grid
        self.first = next((n for n in reversed(range(len(sides))) if sides[n] >= places), 0)
        self.lookers = nn.ModuleList(
            nn.Sequential(
                *_normed(tap.channels, WIDTH, 1),
                *([CellPooling(side, places)] if side != places else []),
            )
            for tap, side in zip(taps[self.first :], sides[self.first :])
        )
        self.mixer = nn.Sequential(
            *_normed(WIDTH * len(self.lookers), WIDTH, 3, stride=2), *_normed(WIDTH, WIDTH, 3)
        )
        self.predictor = nn.Conv2d(WIDTH, outputs, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return (B, outputs, S, S): of each cell its probs, confidences and boxes."""
        seen = [look(x) for look, x in zip(self.lookers, maps[self.first :])]
        found: Tensor = self.predictor(self.mixer(torch.cat(seen, dim=1)))
        return found


def _normed(before: int, after: int, side: int, stride: int = 1) -> list[nn.Module]:
    """Return a convolution, batch norm and leaky ReLU."""
    convolution = nn.Conv2d(before, after, side, stride, side // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, a=0.1, nonlinearity="leaky_relu")
    return [convolution, nn.BatchNorm2d(after), nn.LeakyReLU(0.1, inplace=True)]
