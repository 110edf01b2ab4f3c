"""What the processes of a training tell each other besides gradients.

All of them call each function at the same place; of one process it costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from detkit.errors import DetkitError
from detkit.training.lost_process import ToldByFirst

T = TypeVar("T")


def over_devices(fabric: Fabric, values: Tensor, how: str) -> Tensor:
    """Return the "mean" or the "max" of all processes' `values`, the same in each."""
    if fabric.world_size == 1:
        return values
    # Fabric's own has all wait at a barrier before it, as often as three times a step.
    kind = torch.distributed.ReduceOp.MAX if how == "max" else torch.distributed.ReduceOp.SUM
    reduced = values.clone()
    torch.distributed.all_reduce(reduced, kind)
    return reduced / fabric.world_size if how == "mean" else reduced


def of_all(fabric: Fabric, value: T) -> list[T]:
    """Return what each process gives, in their order; what it is can be pickled and is small."""
    if fabric.world_size == 1:
        return [value]
    values = [value] * fabric.world_size
    torch.distributed.all_gather_object(values, value)
    return values


def together(fabric: Fabric, work: Callable[[], T]) -> T:
    """Return what this process's work gives; a DetkitError of one of them is raised in all."""
    if fabric.world_size == 1:
        return work()
    done: list[T] = []
    failure = ""
    try:
        done.append(work())
    except DetkitError as error:
        failure = str(error)
    flag = torch.tensor(float(bool(failure)), device=fabric.device)
    if bool(over_devices(fabric, flag, "max") > 0):
        raise ToldByFirst(next(text for text in of_all(fabric, failure) if text))
    return done[0]


def handed_on(fabric: Fabric, seen: tuple[Tensor, T] | None, owner: int) -> tuple[Tensor, T]:
    """Return what process `owner` has: a float tensor on the CPU, and what is small beside it."""
    if fabric.world_size == 1:
        assert seen is not None
        return seen
    mine = fabric.global_rank == owner
    told: tuple[torch.Size, T] | None = None
    if mine and seen is not None:
        told = seen[0].shape, seen[1]
    told = fabric.broadcast(told, owner)
    assert told is not None
    shape, beside = told
    if mine and seen is not None:
        values = seen[0].to(fabric.device).contiguous()
    else:
        values = torch.empty(shape, device=fabric.device)
    if values.numel():
        torch.distributed.broadcast(values, owner)
    return values.cpu(), beside


@torch.no_grad()
def as_in_first(fabric: Fabric, module: nn.Module) -> None:
    """Give a module in all processes the weights that it has in the first, which are kept.

    They differ in what norms have seen: a process's own images, since the last step began.
    """
    if fabric.world_size == 1:
        return
    for tensor in (*module.parameters(), *module.buffers()):
        values = tensor.contiguous()
        torch.distributed.broadcast(values, 0)
        if values is not tensor:
            tensor.copy_(values)


def leave_group() -> None:
    """Take leave of the other processes, when all have come to the same end."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
