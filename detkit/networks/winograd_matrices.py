"""The numbers of Winograd's convolutions, for any program that multiplies by them.

Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks" (arXiv:1509.09308),
F(4 x 4, 3 x 3): of 4 x 4 outputs from 6 x 6 inputs 36 products a channel pair, not 144.
"""

from __future__ import annotations

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
ALL_ONES = INPUT_TILE + 1  # of the 36 products the one that A^T m A adds once to all 16 outputs
# Ours, measured in torch on a Xeon core and in onnxruntime on an EPYC one: where the transforms
# cost less than the products that they save.
FEWEST_CHANNELS = 64  # in and out; one of both must have twice as many
FEWEST_PIXELS = 256  # of an output; below, reading four times the weights takes longer
