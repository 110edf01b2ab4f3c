"""A GPU that is none: tensors that say they are on one, and are computed with on the CPU.

It shows without a GPU what goes wrong on one: tensors of two devices in one operation are refused,
and so are those of another stream that have not arrived; and each time that the host waits, for a
value or for a copy from memory that is not page-locked, is written down. It says nothing of speed
and of a GPU's own rounding, and holds for one thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from detkit.transforms.transfer import copy_stream

GPU = torch.device("cuda", 0)
# Operations whose result has as many rows as there are values of some kind, or is a value.
LOOK_AT_VALUES = (
    *("aten::_local_scalar_dense", "aten::nonzero", "aten::nonzero_numpy", "aten::_unique2"),
    *("aten::masked_select", "aten::equal", "aten::repeat_interleave", "torchvision::nms"),
)
INDEXING = ("aten::index", "aten::index_put", "aten::index_put_")


class Stream:
    """A queue of the GPU: how much was told to it, and how much of the others it has waited for."""

    def __init__(self, device: Any = None) -> None:
        self.told = 0
        self.waited_for: dict[Stream, int] = {}

    def wait_stream(self, other: Stream) -> None:
        self.waited_for[other] = other.told


class State:
    """What the GPU that is none is doing."""

    waits: list[str] = []  # what the host has waited for, by the name of the operation
    asked_there: list[bool] = [False]  # of each call under way: are tensors of the GPU in it?
    stream = Stream()


class OnGpu(torch.Tensor):
    """A tensor on the GPU that is none; to all that is not Python it is one without memory."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> OnGpu:
        with torch.inference_mode(False):
            made: OnGpu = torch.Tensor._make_wrapper_subclass(
                cls, held.shape, held.stride(), held.storage_offset(), dtype=held.dtype
            )
        return made

    def __init__(self, held: torch.Tensor) -> None:
        self.held = held
        State.stream.told += 1
        self.made_by, self.number = State.stream, State.stream.told
        self.lent_to = {State.stream}

    device = property(lambda self: GPU)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})

    def __deepcopy__(self, memo: dict[int, Any]) -> OnGpu:
        memo[id(self)] = OnGpu(self.held.detach().clone()).requires_grad_(self.requires_grad)
        return memo[id(self)]

    def record_stream(self, stream: Any) -> None:
        self.lent_to.add(stream)

    def require_arrived(self, name: str) -> None:
        """Raise what stands for wrong values: the stream that uses it may be ahead of its own."""
        here = State.stream
        if here not in self.lent_to or (
            self.made_by is not here and here.waited_for.get(self.made_by, 0) < self.number
        ):
            raise RuntimeError(f"{name}: a tensor of another stream that may not have arrived")


def is_gpu(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def compute(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Return what an operation returns, on the GPU if its tensors are there."""
    name = func._schema.name
    tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
    there = [one for one in tensors if isinstance(one, OnGpu)]
    args, kwargs = tree_map(
        lambda one: one.held if isinstance(one, OnGpu) else one, (tuple(args), dict(kwargs))
    )
    on_gpu = bool(there) or State.asked_there[-1]
    if kwargs.get("device") is not None:
        on_gpu |= is_gpu(kwargs["device"])
        kwargs["device"] = torch.device("cpu")
    for one in there:
        one.require_arrived(name)
    strays = [one for one in tensors if there and not isinstance(one, OnGpu) and one.ndim]
    if strays and name != "aten::copy_":
        raise RuntimeError(f"{name}: tensors on {GPU} and on the CPU")
    if strays or there and (name in LOOK_AT_VALUES or chooses_by_values(name, args)):
        State.waits.append(name)
    same = {id(one.held): one for one in there}

    def there_too(one: Any) -> Any:
        if not on_gpu or not isinstance(one, torch.Tensor) or isinstance(one, OnGpu):
            return one
        return same[id(one)] if id(one) in same else OnGpu(one)

    return tree_map(there_too, func(*args, **kwargs))


def chooses_by_values(name: str, args: Sequence[Any]) -> bool:
    """Return whether a mask chooses rows, by its values; to fill them waits for none."""
    if name not in INDEXING:
        return False
    fills = name != "aten::index" and args[2].numel() == 1 and len(args[1]) == 1
    return not fills and any(one is not None and one.dtype == torch.bool for one in args[1])


class Operations(TorchDispatchMode):
    """What is asked of torch's kernels."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


class Copies(TorchFunctionMode):
    """What copies to the GPU and back, before torch would look for one."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), dict(kwargs or {})
        own = args[0] if args and isinstance(args[0], torch.Tensor) else None
        if name == "tensor" and is_gpu(kwargs.get("device")):
            State.waits.append(name)
            return OnGpu(torch.tensor(*args, **kwargs | {"device": "cpu"}))
        if own is not None and name == "to":
            return moved(own, list(args[1:]), kwargs)
        if own is not None and name == "pin_memory":
            own.is_locked = True  # type: ignore[attr-defined]
            return own
        if isinstance(own, OnGpu) and name in ("cpu", "tolist", "new_tensor"):
            State.waits.append(name)
            own.require_arrived(name)
            if name == "tolist":
                return own.held.detach().tolist()
            return own.held if name == "cpu" else OnGpu(own.held.new_tensor(*args[1:], **kwargs))
        State.asked_there.append(any(isinstance(x, OnGpu) for x in tree_leaves((args, kwargs))))
        try:
            return func(*args, **kwargs)
        finally:
            State.asked_there.pop()


def moved(tensor: torch.Tensor, args: list[Any], kwargs: dict[str, Any]) -> torch.Tensor:
    """Return what `tensor.to(...)` does."""
    others = [one for one in args if isinstance(one, torch.Tensor)]
    devices = [one for one in args if isinstance(one, str | torch.device)]
    devices += [kwargs.pop("device")] if kwargs.get("device") is not None else []
    devices += [one.device for one in others]
    args = [one for one in args if not isinstance(one, str | torch.device | torch.Tensor | bool)]
    args = [one for one in args if one is not None] + [one.dtype for one in others]
    does_not_wait = kwargs.pop("non_blocking", False) and getattr(tensor, "is_locked", False)
    goes = bool(devices) and is_gpu(devices[0]) != isinstance(tensor, OnGpu)
    if args or kwargs:
        with torch._C.DisableTorchFunction():
            tensor = tensor.to(*args, **kwargs)
    if not goes:
        return tensor
    if not does_not_wait:
        State.waits.append("to")
    if isinstance(tensor, OnGpu):
        tensor.require_arrived("to")
        return tensor.held
    return OnGpu(tensor.detach().clone())


@contextmanager
def _on(stream: Stream) -> Iterator[None]:
    before, State.stream = State.stream, stream
    try:
        yield
    finally:
        State.stream = before


@contextmanager
def simulated_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Return the block in which `cuda` is the GPU that is none; gives what was waited for."""
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", _on)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: State.stream)
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    copy_stream.cache_clear()
    State.waits.clear()
    try:
        with Operations(), Copies():
            yield State.waits
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)
        copy_stream.cache_clear()
