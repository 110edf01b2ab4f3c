"""CPU contention: whether other programs leave the cores to the threads of a network."""

from __future__ import annotations

import statistics
import time

import torch
from torch import nn

from detkit.networks.precision import forth_and_back

ROUNDS = 24
PATIENCE = 0.5  # seconds; on contended cores a few rounds say enough
CONTENDED = 1.5  # of the cost; free cores gave .7 to .9, one busy program on two cores 4 to 5


def threads_cost() -> float:
    """Return the time a convolution takes on all of torch's threads by that on one thread.

    On cores of its own well below 1. The threads of a layer wait for the last of them, so a
    single one whose core is taken holds up all, at every layer. The two take turns, so that
    what else the machine does hits both, and means count: delays are what is looked for.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        return 1.0
    with torch.random.fork_rng(devices=[]):
        layer = nn.Conv2d(32, 32, 3, padding=1)
        images = torch.randn(2, 32, 40, 40)
    seconds: dict[int, list[float]] = {1: [], threads: []}
    began = time.perf_counter()
    try:
        for number in range(ROUNDS):
            for count, times in seconds.items():
                torch.set_num_threads(count)
                took = forth_and_back(layer, images)
                if number:  # the first finds threads and code asleep
                    times.append(took)
            if number and time.perf_counter() - began > PATIENCE:
                break
    finally:
        torch.set_num_threads(threads)
    return statistics.fmean(seconds[threads]) / statistics.fmean(seconds[1])


def contention_note() -> str:
    """Return what to do where one thread is faster than all of them now, or ""."""
    cost = threads_cost()
    if cost < CONTENDED:
        return ""
    return (
        f"other programs keep the cores busy: a convolution takes {cost:.1f}x the time on "
        f"{torch.get_num_threads()} threads that it takes on one; close them, or set "
        "OMP_NUM_THREADS=1"
    )
