"""Classification networks as backbones: their feature maps, and where their weights are from.

A `Backbone` is a sequence of blocks, some of which are *taps*: after them a feature map is
handed out. Which blocks and maps each network has is said in `architectures`. Shape shorthand:
B images, C_l channels and stride s_l of map l.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from detkit.errors import DetkitError, UsageError
from detkit.networks import timm_backbones
from detkit.networks.architectures import ARCHITECTURES, Architecture, Tap
from detkit.networks.caffe_networks import CLASSIFIERS
from detkit.text import agreed, counted, nearest_hint

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger(__name__)
CONNECTED = ("fc6", "fc7")  # blocks that a file of convolutions alone is without


class Backbone(nn.Module):
    """Feature maps of an image at several strides."""

    def __init__(self, name: str, architecture: Architecture) -> None:
        """Build the network with random weights."""
        super().__init__()
        self.name = name
        self.blocks = nn.ModuleDict(architecture.blocks())
        self.taps = architecture.taps
        self.generic_blocks = architecture.generic_blocks
        self._rename = architecture.rename
        self.pretrained = False
        self.folded_norms = False
        self.num_frozen = 0

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the tapped maps, (B, C_l, H / s_l, W / s_l) each, of (B, 3, H, W) images."""
        maps: list[Tensor] = []
        x = images
        for name, block in self.blocks.items():
            x = block(x)
            own = (tap for tap in self.taps if tap.block == name)
            maps += [x if isinstance(x, Tensor) else x[tap.index] for tap in own]
            if len(maps) == len(self.taps):
                break
        return maps

    @property
    def has_rest(self) -> bool:
        """Whether there are blocks behind the last tap, for `finish`."""
        return list(self.blocks)[-1] != self.taps[-1].block

    def finish(self, x: Tensor) -> Tensor:
        """Return what the blocks behind the last tap make of (R, C_L, h, w) maps.

        They are the classifier's own last layers, as a head for regions: VGG16's fc6 and fc7
        give (R, 4096), ResNet's last stage (R, C, h / 2, w / 2).
        """
        finished: Tensor = self.rest()(x)
        return finished

    def rest(self) -> nn.Sequential:
        """Return the blocks behind the last tap, which `forward` does not run."""
        names = list(self.blocks)
        return nn.Sequential(
            *(self.blocks[name] for name in names[names.index(self.taps[-1].block) + 1 :])
        )

    def freeze_blocks(self, number: int) -> None:
        """Make the first `number` blocks, from the image on, fixed, with their norms' statistics.

        Raises UsageError when there are not so many.
        """
        if number > len(self.blocks):
            raise UsageError(
                f"--set freeze_layers={number}: the backbone has {len(self.blocks)} blocks"
            )
        self.num_frozen = number
        for block in list(self.blocks.values())[:number]:
            block.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; fixed blocks stay in eval mode: they give what they gave."""
        super().train(mode)
        for block in list(self.blocks.values())[: self.num_frozen]:
            block.eval()
        return self

    def load_classifier(self, state: Mapping[str, Tensor], source: str) -> None:
        """Fill the blocks from a torchvision classifier's state dict (fp16 or fp32).

        A file of VGG16's or AlexNet's convolutions alone leaves fc6 and fc7 at He's random
        values (He et al. 2015, sec. 2.2), and the log says so. Raises DetkitError naming what
        else is missing or of another shape.
        """
        own = self.state_dict()
        new: dict[str, Tensor] = {}
        for key, value in state.items():
            target = self._rename(key)
            if target is None or target not in own:
                continue
            if _is_connected(target) and not bool(value.isfinite().any()):
                continue  # torchvision's IMAGENET1K_FEATURES of VGG16 fills its classifier with nan
            if own[target].shape != value.shape:
                value = _reduced(value, own[target].shape, source, key)
            new[target] = value.float() if value.is_floating_point() else value
        missing = [key for key in own if key not in new and not key.endswith("num_batches_tracked")]
        connected = [key for key in own if _is_connected(key)]
        if new and missing and missing == connected:
            self._restart_connected(source)
        elif missing:
            raise DetkitError(
                f"{source}: not the weights of {self.name}: {counted(len(missing), 'tensor')} "
                f"{agreed(len(missing), 'is', 'are')} missing, first {missing[0]}; "
                "see --backbone"
            )
        self.load_state_dict(new, strict=False)
        self.pretrained = True
        means = [value for key, value in new.items() if key.endswith("running_mean")]
        # Norms folded into the convolutions are the identity: they must stay as they are.
        self.folded_norms = bool(means) and all(bool((mean == 0).all()) for mean in means)

    def _restart_connected(self, source: str) -> None:
        """Give fc6 and fc7 He's random values, and say which weights they are without."""
        for name, layer in self.blocks.items():
            if isinstance(layer, nn.Linear | nn.Conv2d) and name in CONNECTED:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        logger.info("%s holds no fc6 and fc7: they start from random weights", source)


def _is_connected(key: str) -> bool:
    """Return whether a tensor of a backbone is of its connected layers."""
    return key.split(".")[1] in CONNECTED


def _reduced(value: Tensor, shape: torch.Size, source: str, key: str) -> Tensor:
    """Return VGG's fc6 or fc7 as a smaller convolution, by taking every n-th element.

    SSD sec. 3: "we subsample parameters from fc6 and fc7": 4096 x 512 x 7 x 7 -> 1024 x 512 x
    3 x 3 keeps every 4th filter and every 3rd row and column; 4096 x 4096 -> 1024 x 1024.
    """
    if key.startswith("classifier.") and len(shape) in (1, 4):
        if len(shape) == 4:
            value = value.view(4096, 512, 7, 7) if key.startswith("classifier.0") else value
            value = value.reshape(*value.shape[:2], *value.shape[2:] or (1, 1))
        strides = [-(-have // want) for have, want in zip(value.shape, shape)]
        value = value[tuple(slice(None, None, stride) for stride in strides)]
        if value.shape == shape:
            return value
    raise DetkitError(
        f"{source}: {key} has shape {tuple(value.shape)}, expected {tuple(shape)}; "
        "another width of this network?"
    )


def backbone_names() -> list[str]:
    """Return the names that `--backbone` takes, beside timm's."""
    return [name for name in ARCHITECTURES if "-" not in name]


def build(name: str, strides: Sequence[int] | None = None, *, whole: bool = False) -> Backbone:
    """Return a backbone with random weights.

    With `strides` the maps it hands out are the last ones of those strides that it has, and
    it ends there, unless `whole`: then the blocks behind serve `Backbone.finish`. Raises
    UsageError for an unknown name, naming the nearest one, and where it has no such map.
    """
    architecture = find(name)
    if strides is None:
        return Backbone(name, architecture)
    taps = tuple(tap for tap in architecture.levels or architecture.taps if tap.stride in strides)
    if not taps:
        raise UsageError(f"--backbone {name}: has no map of stride {', '.join(map(str, strides))}")
    backbone = Backbone(name, replace(architecture, taps=taps))
    if not whole:
        names = list(backbone.blocks)
        for behind in names[names.index(taps[-1].block) + 1 :]:
            del backbone.blocks[behind]
    return backbone


def find(name: str) -> Architecture:
    """Return the architecture of this name; raise UsageError where there is none."""
    if name.startswith(timm_backbones.PREFIX):
        return timm_backbones.architecture(name.removeprefix(timm_backbones.PREFIX))
    if name not in ARCHITECTURES:
        hint = nearest_hint(name, backbone_names(), "", cutoff=0.4)
        known = f"{hint} (there are {', '.join(backbone_names())}, timm:NAME)".strip()
        raise UsageError(f"--backbone {name}: no such backbone; {known}")
    return ARCHITECTURES[name]


def last_tap(name: str) -> Tap:
    """Return the coarsest map of a backbone; raise UsageError for an unknown name."""
    architecture = find(name)
    return (architecture.levels or architecture.taps)[-1]


def last_channels(name: str) -> int:
    """Return the number of values that the last layer of a backbone with its rest gives."""
    if name.endswith("-fc"):
        return CLASSIFIERS[name.removesuffix("-fc").removesuffix("-borders")].top
    return last_tap(name).channels
