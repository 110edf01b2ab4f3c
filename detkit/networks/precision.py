"""Precision, device and memory layout: what a network trains and detects in."""

from __future__ import annotations

import copy
import time
import warnings
from functools import partial
from typing import TypeVar

import torch
from torch import nn

from detkit.errors import UsageError
from detkit.networks.fold_norms import fold_norms
from detkit.networks.winograd import use_winograd
from detkit.text import counted

Network = TypeVar("Network", bound=nn.Module)
DTYPES = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
PRECISIONS = ("auto", *DTYPES)
GAIN = 1.2  # bf16 must be this much faster to be worth its three digits


def find_device(device: str) -> torch.device:
    """Return the device that `auto`, `cpu`, `cuda`, `cuda:1` or `mps` stands for here.

    Raises UsageError for a device this machine does not have.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"--device {device}: choose auto, cpu, cuda, cuda:N or mps") from error
    if found.type not in ("cpu", "cuda", "mps"):
        raise UsageError(f"--device {device}: choose auto, cpu, cuda, cuda:N or mps")
    if found.type == "cuda":
        missing = _why_no_gpu(found.index or 0)
    else:
        here = found.type == "cpu" or torch.backends.mps.is_available()
        missing = "" if here and not found.index else "there is no such device here"
    if missing:
        raise UsageError(f"--device {device}: {missing}; try --device auto")
    return torch.device("cpu") if found.type == "cpu" else found


def _why_no_gpu(index: int) -> str:
    """Return why GPU number `index` cannot be used; "" if it can."""
    if torch.version.cuda is None and torch.version.hip is None:
        return f"this PyTorch ({torch.__version__}) is built without GPUs"
    with warnings.catch_warnings(record=True) as said:  # of a driver that is too old, say
        warnings.simplefilter("always")
        is_available = torch.cuda.is_available()
    if not is_available:
        reason = "".join(f" ({str(one.message).partition('.')[0]})" for one in said[:1])
        return f"PyTorch {torch.__version__} finds no GPU here{reason}"
    number = torch.cuda.device_count()
    return "" if index < number else f"this machine has {counted(number, 'GPU')}, the first cuda:0"


def choose_precision(
    precision: str, device: torch.device, *, measure: bool = True
) -> tuple[str, str]:
    """Return the precision that `auto` stands for on this device, and why, for the log.

    On a GPU bf16 is chosen where its cores have it: a small convolution takes no longer there than
    to ask for it, so that measuring one says nothing. On a CPU it is chosen where a convolution
    measured now is clearly faster in it; a processor without bf16 instructions computes it right
    but slower. Without `measure`, as with several processes that must all choose the same, a CPU
    keeps float32. Raises UsageError for a precision there is not.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"--precision {precision}: choose from {', '.join(PRECISIONS)}")
    if precision != "auto":
        return precision, f"precision {precision}, as asked"
    if device.type == "mps":
        return "32-true", "precision 32-true (bf16 is not measured on mps)"
    if device.type == "cuda":
        if has_bf16_cores(device):
            return "bf16-mixed", "precision bf16-mixed: this GPU computes in bf16"
        return "32-true", "precision 32-true: this GPU has no bf16; 16-mixed may be faster"
    if not measure:
        return "32-true", "precision 32-true on cpu, the same in all processes"
    gain = bf16_gain(device)
    if gain >= GAIN:
        return "bf16-mixed", f"precision bf16-mixed: a convolution is {gain:.1f}x faster in bf16"
    return "32-true", f"precision 32-true: in bf16 a convolution takes {1 / gain:.1f}x the time"


def require_trainable(precision: str, device: torch.device) -> None:
    """Raise UsageError for fp16 on a CPU, which detects in it but which Fabric trains in bf16."""
    if precision == "16-mixed" and device.type == "cpu":
        raise UsageError(
            f"--precision {precision}: only a GPU trains in it; choose bf16-mixed or 32-true"
        )


def has_bf16_cores(device: torch.device) -> bool:
    """Return whether a GPU multiplies in bf16: of NVIDIA's those since Ampere (2020)."""
    return torch.version.hip is not None or torch.cuda.get_device_capability(device)[0] >= 8


def bf16_gain(device: torch.device) -> float:
    """Return how many times faster a convolution runs in bf16 than in fp32, forth and back.

    The two take turns, so that what else the machine does hits both; each one's best time counts.
    """
    with torch.random.fork_rng(devices=[]):
        convolution = nn.Conv2d(64, 64, 3, padding=1)
        images = torch.randn(2, 64, 40, 40)
    runs = []
    for dtype in (torch.float32, torch.bfloat16):
        layer = copy.deepcopy(convolution).to(device=device, dtype=dtype)
        runs.append(partial(forth_and_back, layer, images.to(device=device, dtype=dtype)))
    for run in runs:
        run()
    seconds = [[run() for run in runs] for _ in range(8)]
    full, reduced = (min(times) for times in zip(*seconds, strict=True))
    return float(full / max(reduced, 1e-9))


def forth_and_back(layer: nn.Module, values: torch.Tensor) -> float:
    """Return the seconds of one run through a layer and back."""
    start = time.perf_counter()
    layer(values).sum().backward()
    return time.perf_counter() - start


def for_inference(
    network: Network, device: torch.device, dtype: torch.dtype = torch.float32
) -> Network:
    """Return the network made ready to detect on the device as fast as it can; it is changed.

    In eval mode, norms folded into the convolutions, in the layout that suits it, and on a CPU
    that computes in float32 with Winograd's convolutions.
    """
    network = network.to(device).eval().requires_grad_(False)
    fold_norms(network)
    if device.type == "cpu" and dtype == torch.float32:
        use_winograd(network)
    return network.to(memory_format=memory_format(network, device, training=False))


def memory_format(
    network: nn.Module, device: torch.device, *, training: bool = True
) -> torch.memory_format:
    """Return the layout in which the network's convolutions run fastest on the device.

    A rule and not a measurement, because the layout changes the last bits of the result: the
    same command must give the same model. On a GPU channels_last suits the tensor cores, and
    on a CPU it is faster without gradients. In training it is, too, where the processor has
    AVX-512 (a step of vgg16 .99 s against 1.14, of resnet18 .51 against .60; in bf16 .51
    against .59 and .28 against .34). With AVX2 it makes depthwise convolutions twice as fast
    and costs the others up to half (mobilenet_v2 .75 s against 1.40; resnet18 8.0 against 6.7;
    vgg16 1.9 against 1.2).
    """
    if device.type == "cuda":
        return torch.channels_last
    if device.type != "cpu":
        return torch.contiguous_format
    depthwise = any(
        isinstance(module, nn.Conv2d) and module.groups > 1 for module in network.modules()
    )
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return torch.channels_last if depthwise or wide or not training else torch.contiguous_format
