"""Torchvision's classifiers cut into a sequence of blocks, and their tensors' new names.

A plan names each block and says what of the classifier it is: a module by its dotted path,
several one behind the other, or a layer without weights that the classifier has as a function.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torchvision
from torch import nn

Part = str | tuple[str, ...] | Callable[[], nn.Module]


def numbered(start: int, stop: int) -> dict[str, Part]:
    """Return the plan of the blocks `start` to `stop - 1` of a network's `features`."""
    return {str(index): f"features.{index}" for index in range(start, stop)}


def cut(
    name: str, parts: Mapping[str, Part], options: Mapping[str, Any]
) -> OrderedDict[str, nn.Module]:
    """Return the blocks of torchvision's classifier `name`, with random weights."""
    network = getattr(torchvision.models, name)(weights=None, **options)
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    for block, part in parts.items():
        if isinstance(part, str):
            blocks[block] = network.get_submodule(part)
        elif isinstance(part, tuple):
            blocks[block] = nn.Sequential(*(network.get_submodule(path) for path in part))
        else:
            blocks[block] = part()
    return blocks


def targets_of(parts: Mapping[str, Part]) -> dict[str, str]:
    """Return where each module of the plan, named by its path, is in a backbone."""
    targets = {}
    for block, part in parts.items():
        if isinstance(part, str):
            targets[part] = f"blocks.{block}"
        elif isinstance(part, tuple):
            targets.update({path: f"blocks.{block}.{index}" for index, path in enumerate(part)})
    return targets


def rename_by(targets: Mapping[str, str], key: str) -> str | None:
    """Return the name in a backbone of a classifier's tensor; None for what it does not have."""
    # DenseNet's published weights are of a time when names could hold dots.
    key = re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)\.", r"\1\2.", key)
    path = key
    while path:
        if path in targets:
            return targets[path] + key.removeprefix(path)
        path = path.rpartition(".")[0]
    return None
