"""Files of weights: read without running any code from them, downloaded only when asked to."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor

from detkit.errors import DetkitError
from detkit.networks import caffe_weights, darknet

Colour = tuple[float, float, float]

logger = logging.getLogger(__name__)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the state dict in a `.pth`, `.safetensors`, `.caffemodel` or `.weights` file.

    No code from it is run. Raises DetkitError for a missing file or one that is not a state dict.
    """
    if path.suffix == ".weights":
        return darknet.read_weights(path)
    if path.suffix == ".caffemodel":
        return caffe_weights.read_weights(path)
    if not path.is_file():
        raise DetkitError(f"{path}: no such weights file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if reason.startswith("Weights only load failed"):  # torch's advice there is to run its code
            reason = "it is no state dict, or holds more than tensors, or is cut short"
        raise DetkitError(f"{path}: not a readable weights file: {reason[:160]}") from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise DetkitError(f"{path}: expected a state dict (names to tensors)")
    return dict(state)


def trained_with(state: Mapping[str, Tensor]) -> tuple[str, Colour, Colour] | None:
    """Return the backbone, mean and std of darknet's and Caffe's weights; None for others."""
    return caffe_weights.trained_with(state) or darknet.trained_with(state)


def download(url: str, file: str | None = None) -> dict[str, Tensor]:
    """Return the state dict at `url`, through torch.hub's cache, after saying so.

    `file` is its name there; none: the address's own.

    Raises DetkitError naming the address and where to put the file by hand.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    target = folder / (file or Path(urlparse(url).path).name)
    if not target.is_file():
        logger.info("downloading %s to %s", url, target)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(target), progress=False)
        except Exception as error:
            raise DetkitError(
                f"cannot download {url} ({error}); fetch it by hand and put it at {target}"
            ) from error
    return read_state_dict(target)
