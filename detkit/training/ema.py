"""EMA: the exponential moving average of a network's weights over training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EMA:
    """An exponential moving average of a module's parameters and of its norms' statistics.

    Polyak and Juditsky 1992. The decay rises as `(1 + t) / (10 + t)` (TensorFlow's
    `ExponentialMovingAverage`), so the first steps, which start from noise, are soon forgotten.
    Other buffers are not averaged: they are constants or counters.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        """Start from the module's present weights."""
        self.decay = decay
        self.updates = 0
        self._module = module
        self.weights = {name: tensor.detach().clone() for name, tensor in self._averaged()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the module's present weights."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        present = [tensor.detach() for _, tensor in self._averaged()]
        torch._foreach_lerp_(list(self.weights.values()), present, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average into the module for the block, and the present weights back after it."""
        present = {name: tensor.detach().clone() for name, tensor in self._averaged()}
        self.apply()
        try:
            yield
        finally:
            self._fill(present)

    def apply(self) -> None:
        """Put the average into the module for good."""
        self._fill(self.weights)

    def load(self, weights: dict[str, Tensor], updates: int) -> None:
        """Go on from a saved average."""
        for name, tensor in self.weights.items():
            tensor.copy_(weights[name])
        self.updates = updates

    @torch.no_grad()
    def _fill(self, weights: dict[str, Tensor]) -> None:
        for name, tensor in self._averaged():
            tensor.copy_(weights[name])

    def _averaged(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the parameters and the norms' running statistics, by name."""
        yield from self._module.named_parameters()
        for name, buffer in self._module.named_buffers():
            if name.rpartition(".")[2] in ("running_mean", "running_var"):
                yield name, buffer
