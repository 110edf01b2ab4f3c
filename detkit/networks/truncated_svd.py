"""Fully connected layers made shorter by truncated SVD.

Girshick 2015 (Fast R-CNN, arXiv:1504.08083), sec. 3.1, eq. 5.
"""

from __future__ import annotations

import torch
from torch import nn


def factored(inputs: int, outputs: int, rank: int) -> nn.Sequential:
    """Return two linear layers with random weights: `inputs` to `rank`, on to `outputs`."""
    return nn.Sequential(nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs))


@torch.no_grad()
def truncated(layer: nn.Linear, rank: int) -> nn.Sequential:
    """Return the two layers nearest to `layer` (u x v weights) with `rank` values between.

    Eq. 5: W ~ U diag(s) V^T of the largest `rank` singular values; the first layer is
    diag(s) V^T without a bias, the second U with the layer's own. Parameters: rank (u + v)
    instead of u v. Raises ValueError for a rank that the weights do not have.
    """
    if not 1 <= rank <= min(layer.weight.shape):
        raise ValueError(f"rank {rank}: must lie between 1 and {min(layer.weight.shape)}")
    u, s, vt = torch.linalg.svd(layer.weight.float(), full_matrices=False)
    both = factored(layer.in_features, layer.out_features, rank).to(layer.weight.device)
    weights = {"0.weight": s[:rank, None] * vt[:rank], "1.weight": u[:, :rank]}
    both.load_state_dict({**weights, "1.bias": layer.bias})
    return both
