"""Classification networks as backbones: their feature maps, and where their weights are from.

A `Backbone` is a sequence of blocks, some of which are *taps*: after them a feature map is
handed out. Blocks are torchvision's own modules in torchvision's own order, so a state dict
of its classifiers fits them. Shape shorthand: B images, C_l channels and stride s_l of map l.
"""

from __future__ import annotations

import difflib
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import vgg
from torchvision.models.mobilenetv2 import InvertedResidual

from detkit import darknet
from detkit.errors import DetkitError, UsageError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tap:
    """A feature map of a backbone: after which block it is taken, and what it is like."""

    block: str
    channels: int
    stride: int


@dataclass(frozen=True)
class Architecture:
    """How a torchvision classifier becomes a backbone."""

    blocks: Callable[[], OrderedDict[str, nn.Module]]  # random weights, from the image on
    taps: tuple[Tap, ...]
    rename: Callable[[str], str | None]  # a key of torchvision's state dict -> ours, or None
    generic_blocks: int = 0  # the first blocks, whose filters serve any data (to stride 4)
    levels: tuple[Tap, ...] = ()  # the last map of each stride from 4 on, for region heads


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
        maps = []
        tapped = {tap.block for tap in self.taps}
        x = images
        for name, block in self.blocks.items():
            x = block(x)
            if name in tapped:
                maps.append(x)
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
        """Make the first `number` blocks, from the image on, fixed.

        Raises UsageError when there are not so many.
        """
        if number > len(self.blocks):
            raise UsageError(
                f"--set freeze_layers={number}: the backbone has {len(self.blocks)} blocks"
            )
        self.num_frozen = number
        for block in list(self.blocks.values())[:number]:
            block.requires_grad_(False)

    def load_classifier(self, state: Mapping[str, Tensor], source: str) -> None:
        """Fill the blocks from a torchvision classifier's state dict (fp16 or fp32).

        Raises DetkitError naming what is missing or of another shape.
        """
        own = self.state_dict()
        new: dict[str, Tensor] = {}
        for key, value in state.items():
            target = self._rename(key)
            if target is None or target not in own:
                continue
            if own[target].shape != value.shape:
                value = _reduced(value, own[target].shape, source, key)
            new[target] = value.float() if value.is_floating_point() else value
        missing = [key for key in own if key not in new and not key.endswith("num_batches_tracked")]
        if missing:
            raise DetkitError(
                f"{source}: not the weights of {self.name}: {len(missing)} tensors are missing, "
                f"first {missing[0]}; see --backbone"
            )
        self.load_state_dict(new, strict=False)
        self.pretrained = True
        means = [value for key, value in new.items() if key.endswith("running_mean")]
        # Norms folded into the convolutions are the identity: they must stay as they are.
        self.folded_norms = bool(means) and all(bool((mean == 0).all()) for mean in means)


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


# --- tiny: ours ---------------------------------------------------------------------------


def _tiny() -> OrderedDict[str, nn.Module]:
    def unit(before: int, after: int, stride: int = 1) -> list[nn.Module]:
        return [
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
        ]

    widths = [16, 32, 64, 128, 192]
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    before = 3
    for index, width in enumerate(widths):
        layers = unit(before, width, stride=2)
        if index:
            layers += unit(width, width)
        blocks[str(index)] = nn.Sequential(*layers)
        before = width
    return blocks


# --- torchvision's classifiers ------------------------------------------------------------


def _from_features(key: str) -> str | None:
    head, _, rest = key.partition(".")
    return f"blocks.{rest}" if head == "features" else None


def _vgg16() -> OrderedDict[str, nn.Module]:
    """VGG16's convolutions up to conv5_3; its 120 million classifier weights are never made."""
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    for index, layer in enumerate(vgg.make_layers(vgg.cfgs["D"])[:30]):
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        blocks[str(index)] = layer
    return blocks


def _vgg16_fc() -> OrderedDict[str, nn.Module]:
    """VGG16 up to fc7, without pool5: RoI pooling takes its place (Fast R-CNN sec. 2.2)."""
    blocks = _vgg16()
    blocks["flatten"] = nn.Flatten()
    for name, before in (("6", 512 * 7 * 7), ("7", 4096)):
        blocks[f"fc{name}"] = nn.Linear(before, 4096)
        blocks[f"relu{name}"] = nn.ReLU(inplace=True)
        blocks[f"drop{name}"] = nn.Dropout(0.5)
    return blocks


def _alexnet() -> OrderedDict[str, nn.Module]:
    """AlexNet's convolutions up to conv5, in torchvision's widths (Krizhevsky 2014)."""
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    plan = [(0, 64, 11, 4, 2), (3, 192, 5, 1, 2), (6, 384, 3, 1, 1), (8, 256, 3, 1, 1)]
    before = 3
    for index, after, side, stride, padding in [*plan, (10, 256, 3, 1, 1)]:
        convolution = nn.Conv2d(before, after, side, stride, padding)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        assert convolution.bias is not None
        nn.init.zeros_(convolution.bias)
        blocks[str(index)] = convolution
        blocks[str(index + 1)] = nn.ReLU(inplace=True)
        if index < 6:
            blocks[str(index + 2)] = nn.MaxPool2d(3, 2)
        before = after
    return blocks


def _alexnet_fc() -> OrderedDict[str, nn.Module]:
    """AlexNet up to fc7, without pool5: a detector of regions pools in its own way."""
    blocks = _alexnet()
    blocks["flatten"] = nn.Flatten()
    for name, before in (("6", 256 * 6 * 6), ("7", 4096)):
        blocks[f"fc{name}"] = nn.Linear(before, 4096)
        blocks[f"relu{name}"] = nn.ReLU(inplace=True)
        blocks[f"drop{name}"] = nn.Dropout(0.5)
    return blocks


def _rename_alexnet_fc(key: str) -> str | None:
    for number, name in (("1", "fc6"), ("4", "fc7")):
        if key.startswith(f"classifier.{number}."):
            return f"blocks.{name}.{key.rpartition('.')[2]}"
    return _from_features(key)


def _vgg16_atrous() -> OrderedDict[str, nn.Module]:
    """VGG16 as SSD changes it (sec. 3): pool5 3x3 at stride 1, fc6 and fc7 convolutions."""
    blocks = _vgg16()
    pool3 = blocks["16"]
    assert isinstance(pool3, nn.MaxPool2d)
    pool3.ceil_mode = True  # 75 -> 38, the released code's map size
    blocks["pool5"] = nn.MaxPool2d(3, stride=1, padding=1)
    blocks["fc6"] = nn.Conv2d(512, 1024, 3, padding=6, dilation=6)
    blocks["relu6"] = nn.ReLU(inplace=True)
    blocks["fc7"] = nn.Conv2d(1024, 1024, 1)
    blocks["relu7"] = nn.ReLU(inplace=True)
    return blocks


def _rename_atrous(key: str) -> str | None:
    for number, name in (("0", "fc6"), ("3", "fc7")):
        if key.startswith(f"classifier.{number}."):
            return f"blocks.{name}.{key.rpartition('.')[2]}"
    return _from_features(key)


def _rename_fc(key: str) -> str | None:
    for number, name in (("0", "fc6"), ("3", "fc7")):
        if key.startswith(f"classifier.{number}."):
            return f"blocks.{name}.{key.rpartition('.')[2]}"
    return _from_features(key)


def _mobilenet_v2() -> OrderedDict[str, nn.Module]:
    """MobileNetV2 with the expansions of blocks 7 and 14 apart, so that they can be tapped."""
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    for index, block in enumerate(torchvision.models.mobilenet_v2(weights=None).features):
        if index in (7, 14):
            # Both have stride 2 and therefore no skip connection to carry around the cut.
            assert isinstance(block, InvertedResidual) and not block.use_res_connect
            blocks[f"{index}expand"] = block.conv[0]
            blocks[f"{index}rest"] = nn.Sequential(*block.conv[1:])
        else:
            blocks[str(index)] = block
    return blocks


def _rename_mobilenet_v2(key: str) -> str | None:
    for index in (7, 14):
        prefix = f"features.{index}.conv."
        if key.startswith(prefix):
            number, _, rest = key.removeprefix(prefix).partition(".")
            if number == "0":
                return f"blocks.{index}expand.{rest}"
            return f"blocks.{index}rest.{int(number) - 1}.{rest}"
    return _from_features(key)


def _squeezenet() -> OrderedDict[str, nn.Module]:
    features = torchvision.models.squeezenet1_0(weights=None).features
    return OrderedDict((str(i), layer) for i, layer in enumerate(features))


_RESNET_STEM = ("conv1", "bn1", "relu", "maxpool")
_RESNET_STAGES = ("layer1", "layer2", "layer3", "layer4")


def _resnet(name: str) -> Callable[[], OrderedDict[str, nn.Module]]:
    def build() -> OrderedDict[str, nn.Module]:
        network = getattr(torchvision.models, name)(weights=None)
        return OrderedDict((part, getattr(network, part)) for part in _RESNET_STEM + _RESNET_STAGES)

    return build


def _rename_resnet(key: str) -> str | None:
    return None if key.startswith("fc.") else f"blocks.{key}"


def _resnet_architecture(name: str, expansion: int) -> Architecture:
    taps = tuple(
        Tap(stage, width * expansion, stride)
        for stage, width, stride in zip(_RESNET_STAGES, (64, 128, 256, 512), (4, 8, 16, 32))
    )
    return Architecture(_resnet(name), taps[1:], _rename_resnet, generic_blocks=5, levels=taps)


_ALEXNET_LEVELS = (Tap("1", 64, 4), Tap("4", 192, 8), Tap("11", 256, 16))  # conv1, 2, 5
_VGG16_LEVELS = (Tap("15", 256, 4), Tap("22", 512, 8), Tap("29", 512, 16))  # conv3_3 to conv5_3


_MOBILENET_LEVELS = (
    Tap("3", 24, 4),
    Tap("7expand", 192, 8),
    Tap("14expand", 576, 16),
    Tap("18", 1280, 32),
)
_DARKNET_LEVELS = (
    Tap("conv2", 192, 4),
    Tap("conv6", 512, 8),
    Tap("conv16", 1024, 16),
    Tap("conv20", 1024, 32),
)
_FAST_YOLO_LEVELS = (
    Tap("conv3", 64, 4),
    Tap("conv4", 128, 8),
    Tap("conv5", 256, 16),
    Tap("conv6", 512, 32),
    Tap("conv9", 1024, 64),
)
_SQUEEZENET_LEVELS = (Tap("5", 256, 4), Tap("10", 512, 8), Tap("12", 512, 16))  # fire4, 8, 9


# --- YOLOv1's own -------------------------------------------------------------------------


def leaky_convolution(before: int, after: int, side: int, stride: int = 1) -> nn.Sequential:
    """Return a convolution that keeps the map's size, but for its stride, and leaky ReLU of .1.

    YOLOv1 eq. 2. It starts at He's scale for that slope: the paper's networks have no norms.
    """
    convolution = nn.Conv2d(before, after, side, stride, side // 2)
    nn.init.kaiming_normal_(convolution.weight, a=0.1, nonlinearity="leaky_relu")
    assert convolution.bias is not None
    nn.init.zeros_(convolution.bias)
    return nn.Sequential(convolution, nn.LeakyReLU(0.1, inplace=True))


def _darknet() -> OrderedDict[str, nn.Module]:
    """The 20 convolutions that YOLOv1 trains on ImageNet (Fig. 3 and sec. 2.2)."""
    return _darknet_blocks(darknet.EXTRACTION, pooled_after=(1, 2, 6, 16), strided=(1,))


def _fast_yolo() -> OrderedDict[str, nn.Module]:
    """Fast YOLO's 9 convolutions (sec. 2.1; widths from the released `yolo-tiny.cfg`)."""
    return _darknet_blocks(darknet.FAST, pooled_after=(1, 2, 3, 4, 5, 6))


def _darknet_blocks(
    convolutions: tuple[darknet.Convolution, ...],
    pooled_after: tuple[int, ...],
    strided: tuple[int, ...] = (),
) -> OrderedDict[str, nn.Module]:
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    before = 3
    for number, (after, side) in enumerate(convolutions, 1):
        stride = 2 if number in strided else 1
        blocks[f"conv{number}"] = leaky_convolution(before, after, side, stride)
        if number in pooled_after:
            blocks[f"pool{number}"] = nn.MaxPool2d(2)
        before = after
    return blocks


def _rename_darknet(key: str) -> str | None:
    """`convs.0.weight` -> `blocks.conv1.0.weight`; the layers after those are the detector's."""
    kind, _, rest = key.partition(".")
    number, _, name = rest.partition(".")
    return f"blocks.conv{int(number) + 1}.0.{name}" if kind == "convs" else None


ARCHITECTURES: Mapping[str, Architecture] = {
    "tiny": Architecture(
        _tiny,
        (Tap("2", 64, 8), Tap("3", 128, 16), Tap("4", 192, 32)),
        _from_features,
        levels=(Tap("1", 32, 4), Tap("2", 64, 8), Tap("3", 128, 16), Tap("4", 192, 32)),
    ),
    "vgg16": Architecture(
        _vgg16,
        _VGG16_LEVELS[1:],
        _from_features,
        levels=_VGG16_LEVELS,
    ),
    "vgg16-fc": Architecture(_vgg16_fc, _VGG16_LEVELS[1:], _rename_fc, levels=_VGG16_LEVELS),
    "alexnet": Architecture(
        _alexnet,
        _ALEXNET_LEVELS[1:],
        _from_features,
        levels=_ALEXNET_LEVELS,
    ),
    "alexnet-fc": Architecture(
        _alexnet_fc, _ALEXNET_LEVELS[1:], _rename_alexnet_fc, levels=_ALEXNET_LEVELS
    ),
    "vgg16-atrous": Architecture(
        _vgg16_atrous,
        (Tap("22", 512, 8), Tap("relu7", 1024, 16)),  # conv4_3, fc7
        _rename_atrous,
    ),
    "mobilenet_v2": Architecture(
        _mobilenet_v2,
        _MOBILENET_LEVELS[1:],
        _rename_mobilenet_v2,
        generic_blocks=4,
        levels=_MOBILENET_LEVELS,
    ),
    "squeezenet1_0": Architecture(
        _squeezenet,
        _SQUEEZENET_LEVELS[1:],
        _from_features,
        generic_blocks=6,
        levels=_SQUEEZENET_LEVELS,
    ),
    "resnet18": _resnet_architecture("resnet18", 1),
    "resnet34": _resnet_architecture("resnet34", 1),
    "resnet50": _resnet_architecture("resnet50", 4),
    "resnet101": _resnet_architecture("resnet101", 4),
    "darknet": Architecture(
        _darknet,
        _DARKNET_LEVELS[1:],
        _rename_darknet,
        generic_blocks=3,
        levels=_DARKNET_LEVELS,
    ),
    "fast_yolo": Architecture(
        _fast_yolo,
        _FAST_YOLO_LEVELS[1:],
        _rename_darknet,
        generic_blocks=5,
        levels=_FAST_YOLO_LEVELS,
    ),
}


def backbone_names() -> list[str]:
    """Return the names that `--backbone` takes."""
    return [name for name in ARCHITECTURES if "-" not in name]


def build(name: str, strides: Sequence[int] | None = None, *, whole: bool = False) -> Backbone:
    """Return a backbone with random weights.

    With `strides` the maps it hands out are the last ones of those strides that it has, and
    it ends there, unless `whole`: then the blocks behind serve `Backbone.finish`. Raises
    UsageError for an unknown name, naming the nearest one, and where it has no such map.
    """
    architecture = _find(name)
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


def _find(name: str) -> Architecture:
    """Return the architecture of this name; raise UsageError where there is none."""
    if name not in ARCHITECTURES:
        near = difflib.get_close_matches(name, backbone_names(), n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UsageError(
            f"--backbone {name}: no such backbone; {hint}(there are {', '.join(backbone_names())})"
        )
    return ARCHITECTURES[name]


def last_tap(name: str) -> Tap:
    """Return the coarsest map of a backbone; raise UsageError for an unknown name."""
    architecture = _find(name)
    return (architecture.levels or architecture.taps)[-1]


def last_channels(name: str) -> int:
    """Return the number of values that the last layer of a backbone with its rest gives."""
    return 4096 if name.endswith("-fc") else ARCHITECTURES[name].levels[-1].channels


# --- weights ------------------------------------------------------------------------------


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the state dict in a `.pth`, `.safetensors` or darknet's `.weights` file.

    No code from it is run. Raises DetkitError for a missing file or one that is not a state dict.
    """
    if path.suffix == ".weights":
        return darknet.read_weights(path)
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


def download(url: str) -> dict[str, Tensor]:
    """Return the state dict at `url`, through torch.hub's cache, after saying so.

    Raises DetkitError naming the address and where to put the file by hand.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    target = folder / Path(urlparse(url).path).name
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
