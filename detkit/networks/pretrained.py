"""Pretrained weights of backbones: loaded, downloaded on request, recognised."""

from __future__ import annotations

from pathlib import Path

import torch
import torchvision

from detkit.errors import DetkitError, UsageError
from detkit.networks import timm_backbones
from detkit.networks.architectures import ARCHITECTURES
from detkit.networks.backbones import Backbone, backbone_names, build, find
from detkit.networks.weights import Colour, download, read_state_dict


def identify(path: Path) -> str:
    """Return the backbone whose torchvision classifier a weights file belongs to.

    Raises DetkitError where no backbone fits.
    """
    shapes = {key: value.shape for key, value in read_state_dict(path).items()}
    for name in backbone_names():
        with torch.device("meta"):
            wanted = build(name).state_dict()
        rename = ARCHITECTURES[name].rename
        have = {rename(key): shape for key, shape in shapes.items()}
        if all(
            have.get(key) == value.shape
            for key, value in wanted.items()
            if not key.endswith("num_batches_tracked")
        ):
            return name
    raise DetkitError(
        f"{path}: these weights fit none of the backbones {', '.join(backbone_names())}"
    )


def load_weights(backbone: Backbone, weights: str) -> None:
    """Fill a backbone from `none`, `imagenet` (torchvision's or timm's download) or a file.

    Raises DetkitError when the file does not fit or the download fails; the message then
    names the file to fetch by hand and where to put it.
    """
    if weights == "none":
        return
    if weights == "imagenet":
        published = published_file(backbone.name)
        if published is None:
            raise UsageError(
                f"--weights imagenet: there are none for {backbone.name}; "
                "choose --backbone mobilenet_v2, or --weights none"
            )
        backbone.load_classifier(download(*published), "imagenet")
        return
    backbone.load_classifier(read_state_dict(Path(weights)), weights)


def published_file(backbone: str) -> tuple[str, str] | None:
    """Return the address of a backbone's published weights and the file's name; None: no such."""
    if backbone.startswith(timm_backbones.PREFIX):
        return timm_backbones.published_file(backbone.removeprefix(timm_backbones.PREFIX))
    name = torchvision_name(backbone)
    if name is None:
        return None
    url = str(torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].url)
    return url, url.rpartition("/")[2]


def colours(backbone: str) -> tuple[Colour, Colour]:
    """Return the mean and standard deviation of the images that its published weights know.

    In shares of white, red first. Raises UsageError for an unknown name.
    """
    architecture = find(backbone)
    return architecture.mean, architecture.std


def torchvision_name(backbone: str) -> str | None:
    """Return the torchvision classifier whose published weights fit, None for our own `tiny`."""
    name = backbone.removesuffix("-atrous").removesuffix("-fc").removesuffix("-c5")
    return name if name in torchvision.models.list_models() else None
