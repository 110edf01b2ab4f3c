"""Passes over batches that are at hand, as a training in one process makes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from torch import Tensor

from detkit.detector import Look
from detkit.structures import Batch

T = TypeVar("T")


class OneProcess:
    """All is seen and learnt here."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self.batches = batches

    def seen(self, look: Look[T]) -> Iterator[tuple[Tensor, T]]:
        for batch in self.batches:
            yield look(batch, lambda: 1.0)

    def own(self, number: int) -> range:
        return range(number)

    def of_all(self, value: T) -> list[T]:
        return [value]
