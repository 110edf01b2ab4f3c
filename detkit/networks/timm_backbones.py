"""The networks of timm (`pip install "detkit[timm]"`) as backbones, by `--backbone timm:NAME`.

A network that timm hands out as a sequence of layers becomes blocks of these names, each of which
can be fixed; any other is one block that hands out all its maps. Its weights are files in timm's
own layout, or those it publishes. Shape shorthand: C_l channels and stride s_l of map l.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detkit.errors import UsageError, naming_extras, require_installed
from detkit.networks.architectures import Architecture, Tap
from detkit.networks.classifier_parts import rename_by
from detkit.text import nearest_hint

PREFIX = "timm:"
WHOLE = "network"  # the block of a network that is no sequence
PROBES = ((128, 192), (101, 75))  # of images, whole strides and not
# What makes networks of a fixed image size take any: transformers' tables of places are resized.
ATTEMPTS: tuple[dict[str, Any], ...] = ({}, {"dynamic_img_size": True})


class PadToStride(nn.Module):
    """Zeros at the right and the bottom, until both sides are multiples of a stride."""

    def __init__(self, stride: int) -> None:
        """Keep the stride; there are no weights."""
        super().__init__()
        self.stride = stride

    def forward(self, images: Tensor) -> Tensor:
        """Return the (B, 3, H, W) images padded."""
        height, width = images.shape[-2:]
        return F.pad(images, (0, -width % self.stride, 0, -height % self.stride))


class WholeNetwork(nn.Module):
    """A network of timm's that hands out all its maps at once."""

    def __init__(self, network: nn.Module, *, channels_last: bool) -> None:
        """Keep the network; `channels_last` says that its maps are (B, H, W, C)."""
        super().__init__()
        self.network = network
        self.channels_last = channels_last

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the maps, (B, C_l, H / s_l, W / s_l) each, of (B, 3, H, W) images."""
        maps = self.network(images)
        return [x.permute(0, 3, 1, 2).contiguous() for x in maps] if self.channels_last else maps


@cache
def architecture(name: str) -> Architecture:
    """Return the blocks and maps of timm's network `name`, which may have timm's tag of weights.

    Raises MissingPackage without timm, UsageError for a name it does not have, naming the nearest,
    and for a network without maps of images of any size.
    """
    options, padded = _fitting(name)
    import timm

    with torch.device("meta"):
        network = timm.create_model(name, features_only=True, **options)
        classifier = timm.create_model(name, **options)
    info = network.feature_info
    maps = list(zip(info.channels(), info.reduction()))
    last = {stride: index for index, (_, stride) in enumerate(maps)}
    wanted = [index for stride, index in sorted(last.items()) if stride >= 4]
    if _is_sequence(network):
        names = list(network.return_layers)
        levels = tuple(Tap(names[index], *maps[index]) for index in wanted)
        inner, start = network, "blocks."
    else:
        levels = tuple(Tap(WHOLE, *maps[index], index) for index in wanted)
        inner, start = network, f"blocks.{WHOLE}.network."
        if type(network).__name__ == "FeatureGetterNet":  # which timm does not export
            inner, start = network.model, f"{start}model."
    paths = [path for path, _ in (*classifier.named_modules(), *_own_tensors(classifier))]
    kept = {child for child, _ in (*inner.named_children(), *_own_tensors(inner))}
    flat = {path: path.replace(".", "_") for path in paths}  # timm's own rule for a sequence
    targets = {path: start + own for path, own in flat.items() if own in kept}
    generic = 0
    if _is_sequence(network) and levels[0].stride == 4:
        generic = list(network).index(levels[0].block) + 1 + padded
    published = timm.models.get_pretrained_cfg(name)
    colours = {"mean": published.mean, "std": published.std} if published else {}
    return Architecture(
        partial(_blocks, name, tuple(options.items()), padded),
        tuple(tap for tap in levels if tap.stride > 4) or levels,
        partial(rename_by, targets),
        generic,
        levels,
        **colours,
    )


def published_file(name: str) -> tuple[str, str] | None:
    """Return the address of the weights that timm publishes, and a name for the file; or None."""
    import timm

    published = timm.models.get_pretrained_cfg(name)
    if published is None or not (published.hf_hub_id or published.url):
        return None
    if published.hf_hub_id:
        place = f"https://huggingface.co/{published.hf_hub_id}/resolve/main/model.safetensors"
        return place, f"{published.hf_hub_id.replace('/', '-')}.safetensors"
    return published.url, published.url.rpartition("/")[2]


def _own_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Return the tensors that are in none of the module's layers, with their names."""
    return [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]


def _is_sequence(network: nn.Module) -> bool:
    """Return whether timm runs the network's layers one after the other, on (B, C, H, W) maps."""
    import timm

    return type(network) is timm.models.FeatureListNet and not _is_channels_last(network)


def _is_channels_last(network: nn.Module) -> bool:
    return str(getattr(network, "output_fmt", "")).endswith("NHWC")


def _blocks(
    name: str, options: tuple[tuple[str, Any], ...], padded: bool
) -> OrderedDict[str, nn.Module]:
    import timm

    network = timm.create_model(name, features_only=True, **dict(options))
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    if padded:
        blocks["padding"] = PadToStride(max(network.feature_info.reduction()))
    if _is_sequence(network):
        blocks.update(network.items())
    else:
        blocks[WHOLE] = WholeNetwork(network, channels_last=_is_channels_last(network))
    return blocks


def _fitting(name: str) -> tuple[dict[str, Any], bool]:
    """Return the options with which a network takes images of any size, and whether padded ones.

    It is tried out without weights. Raises as `architecture`.
    """
    with naming_extras(f"--backbone {PREFIX}{name}"):
        require_installed("timm")
        import timm
    option = f"--backbone {PREFIX}{name}"
    if not timm.is_model(name):
        known = [*timm.list_models(), *timm.list_pretrained()]
        hint = nearest_hint(name, known, "", cutoff=0.4)
        raise UsageError(f"{option}: timm has no such network; {hint}".rstrip("; "))
    reason = ""
    for options in ATTEMPTS:
        try:
            with torch.device("meta"):
                network = timm.create_model(name, features_only=True, **options).eval()
            _probe(network, *PROBES[0])
        except Exception as error:  # whatever timm and the network think of it
            reason = reason or (str(error).strip() or type(error).__name__).splitlines()[0][:160]
            continue
        try:
            _probe(network, *PROBES[1])
        except Exception:
            return options, True
        return options, False
    raise UsageError(
        f"{option}: hands out no feature maps of images of any size ({reason}); choose a network "
        "with stages, as timm:resnet18 or timm:convnext_tiny"
    )


def _probe(network: Any, height: int, width: int) -> None:
    """Raise ValueError where the maps are not of the declared channels and strides."""
    maps = network(torch.empty(1, 3, height, width, device="meta"))
    info = network.feature_info
    for x, channels, stride in zip(maps, info.channels(), info.reduction(), strict=True):
        shape = x.permute(0, 3, 1, 2).shape if _is_channels_last(network) else x.shape
        far = [abs(have - side / stride) for have, side in zip(shape[2:], (height, width))]
        if shape[1] != channels or max(far) > 1:
            raise ValueError(
                f"its map of stride {stride} has {shape[2]} x {shape[3]} places of {height} x "
                f"{width} pixels"
            )
