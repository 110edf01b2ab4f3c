"""Copies to a GPU on a stream of their own, while the network computes on another one.

A copy from page-locked memory that the network's own stream makes waits for all that the network
was told before. On a CPU, and on devices that have no such streams, nothing here has an effect.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch

from detkit.structures import Batch

Packed = TypeVar("Packed")


@functools.cache
def copy_stream(device: torch.device) -> torch.cuda.Stream | None:
    """Return the stream for copies to a device, one for all of them; None if it is no GPU."""
    if device.type != "cuda":
        return None
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def copying(device: torch.device) -> AbstractContextManager[object]:
    """Return the block in which batches are put on their way to the device.

    Any thread may do so. Before such a batch is used `arrived` is due.
    """
    stream = copy_stream(device)
    return nullcontext() if stream is None else torch.cuda.stream(stream)


def arrived(batches: Iterable[Batch], device: torch.device) -> None:
    """Let the device use batches of `copying` only when all of them are there.

    It waits, the caller does not. Their memory, which is the copying stream's, is lent to the
    network's until that has done what it was told by the time they are let go.
    """
    stream = copy_stream(device)
    if stream is None:
        return
    here = torch.cuda.current_stream(device)
    here.wait_stream(stream)
    for batch in batches:
        for tensor in batch.tensors:
            tensor.record_stream(here)


def one_ahead(
    packed: Iterator[Packed], unpack: Callable[[Packed], Batch], device: torch.device
) -> Iterator[Batch]:
    """Yield the batches that `unpack` makes on the device, the next one already on its way.

    Where there is no stream for copies, none is. What making the next one raises is raised when
    it is asked for.
    """
    if copy_stream(device) is None:
        yield from map(unpack, packed)
        return

    def begun() -> Batch | BaseException:
        try:
            with copying(device):
                return unpack(next(packed))
        except Exception as error:
            return error

    coming = begun()
    while isinstance(coming, Batch):
        arrived([coming], device)  # before the next is begun, which nobody is to wait for
        ready, coming = coming, begun()
        yield ready
        del ready  # else it stays on the device until there is another one
    if not isinstance(coming, StopIteration):
        raise coming
