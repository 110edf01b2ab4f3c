"""Pretrained weights of backbones: loaded, downloaded on request, recognised."""

from __future__ import annotations

from pathlib import Path

import torch
import torchvision

from detkit.errors import DetkitError, UsageError
from detkit.networks.architectures import ARCHITECTURES
from detkit.networks.backbones import Backbone, backbone_names, build
from detkit.networks.weights import download, read_state_dict


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
    """Fill a backbone from `none`, `imagenet` (torchvision's download) or a file.

    Raises DetkitError when the file does not fit or the download fails; the message then
    names the file to fetch by hand and where to put it.
    """
    if weights == "none":
        return
    if weights == "imagenet":
        published = torchvision_name(backbone.name)
        if published is None:
            raise UsageError(
                f"--weights imagenet: there are none for {backbone.name}; "
                "choose --backbone mobilenet_v2, or --weights none"
            )
        url = torchvision.models.get_model_weights(published)["IMAGENET1K_V1"].url
        backbone.load_classifier(download(url), "imagenet")
        return
    backbone.load_classifier(read_state_dict(Path(weights)), weights)


def torchvision_name(backbone: str) -> str | None:
    """Return the torchvision classifier whose published weights fit, None for our own `tiny`."""
    name = backbone.removesuffix("-atrous").removesuffix("-fc")
    return name if name in torchvision.models.list_models() else None
