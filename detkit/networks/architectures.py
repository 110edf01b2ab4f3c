"""The networks that serve as backbones: of what blocks they are, and which maps they hand out.

Blocks are torchvision's own modules in torchvision's own order, so a state dict of its
classifiers fits them; `Architecture.rename` says where each of its tensors goes. A network of
torchvision's is one entry of `ARCHITECTURES`: its parts, the maps, and what is special about it
(`classifier_parts.py` cuts it). Shape shorthand: C_l channels and stride s_l of map l.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn
from torchvision.models import vgg

from detkit.config import IMAGENET_MEAN, IMAGENET_STD
from detkit.networks import caffe_networks, darknet
from detkit.networks.classifier_parts import Part, cut, numbered, rename_by, targets_of

Colour = tuple[float, float, float]  # red, green, blue
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Tap:
    """A feature map of a backbone: after which block it is taken, and what it is like."""

    block: str
    channels: int
    stride: int
    index: int = 0  # which one, where the block hands out several


@dataclass(frozen=True)
class Architecture:
    """How a classifier becomes a backbone."""

    blocks: Callable[[], OrderedDict[str, nn.Module]]  # random weights, from the image on
    taps: tuple[Tap, ...]
    rename: Callable[[str], str | None]  # a key of torchvision's state dict -> ours, or None
    generic_blocks: int = 0  # the first blocks, whose filters serve any data (to stride 4)
    levels: tuple[Tap, ...] = ()  # the last map of each stride from 4 on, for region heads
    mean: Colour = IMAGENET_MEAN  # of the images that its published weights were trained on, in
    std: Colour = IMAGENET_STD  # shares of white


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


def _from_features(key: str) -> str | None:
    head, _, rest = key.partition(".")
    return f"blocks.{rest}" if head == "features" else None


def _vgg(plan: str = "D", norms: bool = False) -> OrderedDict[str, nn.Module]:
    """A VGG's convolutions, without pool5; its 120 million classifier weights are never made."""
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    for index, layer in enumerate(vgg.make_layers(vgg.cfgs[plan], norms)[:-1]):
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        blocks[str(index)] = layer
    return blocks


def _vgg_fc(plan: str = "D", norms: bool = False) -> OrderedDict[str, nn.Module]:
    """A VGG up to fc7, without pool5: RoI pooling takes its place (Fast R-CNN sec. 2.2)."""
    return OrderedDict({**_vgg(plan, norms), **_fc6_and_fc7(512 * 7 * 7)})


def _fc6_and_fc7(inputs: int) -> OrderedDict[str, nn.Module]:
    """The first two connected layers of AlexNet and VGG16, in the order of the papers' names."""
    blocks: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for name, before in (("6", inputs), ("7", 4096)):
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
    return OrderedDict({**_alexnet(), **_fc6_and_fc7(256 * 6 * 6)})


def _vgg16_atrous() -> OrderedDict[str, nn.Module]:
    """VGG16 as SSD changes it (sec. 3): pool5 3x3 at stride 1, fc6 and fc7 convolutions."""
    blocks = _vgg()
    pool3 = blocks["16"]
    assert isinstance(pool3, nn.MaxPool2d)
    pool3.ceil_mode = True  # 75 -> 38, the released code's map size
    blocks["pool5"] = nn.MaxPool2d(3, stride=1, padding=1)
    blocks["fc6"] = nn.Conv2d(512, 1024, 3, padding=6, dilation=6)
    blocks["relu6"] = nn.ReLU(inplace=True)
    blocks["fc7"] = nn.Conv2d(1024, 1024, 1)
    blocks["relu7"] = nn.ReLU(inplace=True)
    return blocks


def _rename_fc(key: str, fc6: int, fc7: int) -> str | None:
    """`classifier.N.weight` -> `blocks.fc6.weight` and fc7, which have these N; else a map's."""
    for number, name in ((fc6, "fc6"), (fc7, "fc7")):
        if key.startswith(f"classifier.{number}."):
            return f"blocks.{name}.{key.rpartition('.')[2]}"
    return _from_features(key)


_rename_vgg_fc = partial(_rename_fc, fc6=0, fc7=3)  # torchvision's VGG16: linear, ReLU, dropout
_rename_alexnet_fc = partial(_rename_fc, fc6=1, fc7=4)  # its AlexNet: dropout, linear, ReLU


def _torchvision(
    name: str,
    parts: Mapping[str, Part],
    levels: Sequence[Tap],
    generic_blocks: int,
    *,
    options: Mapping[str, Any] | None = None,
    mean: Colour = IMAGENET_MEAN,
    std: Colour = IMAGENET_STD,
) -> Architecture:
    """Return torchvision's classifier of this `name`, made with these `options`, in `parts`."""
    return Architecture(
        partial(cut, name, parts, options or {}),
        tuple(levels[1:]),
        partial(rename_by, targets_of(parts)),
        generic_blocks,
        tuple(levels),
        mean,
        std,
    )


_RESNET_STAGES = ("layer1", "layer2", "layer3", "layer4")


def _resnet(name: str, expansion: int) -> Architecture:
    levels = [
        Tap(stage, width * expansion, stride)
        for stage, width, stride in zip(_RESNET_STAGES, (64, 128, 256, 512), (4, 8, 16, 32))
    ]
    parts = {part: part for part in ("conv1", "bn1", "relu", "maxpool", *_RESNET_STAGES)}
    return _torchvision(name, parts, levels, generic_blocks=5)


def _split(index: int, inner: str, number: int) -> dict[str, Part]:
    """Return a MobileNet's block in two, so that the map of its expansion can be tapped.

    `inner` is what torchvision calls its layers, `number` how many it has. Such a block has
    stride 2 and therefore no skip connection to carry around the cut.
    """
    first, *rest = (f"features.{index}.{inner}.{layer}" for layer in range(number))
    return {f"{index}expand": first, f"{index}rest": tuple(rest)}


_MOBILENET_V2 = {
    **numbered(0, 7),
    **_split(7, "conv", 4),
    **numbered(8, 14),
    **_split(14, "conv", 4),
    **numbered(15, 19),
}
_MOBILENET_V3 = {
    **numbered(0, 7),
    **_split(7, "block", 3),
    **numbered(8, 13),
    **_split(13, "block", 4),
    **numbered(14, 17),
}
# A dense block hands out sums of nothing yet normalised: the maps are taken behind the norm and
# the ReLU that follow it.
_DENSENET: dict[str, Part] = {
    **{part: f"features.{part}" for part in ("conv0", "norm0", "relu0", "pool0")},
    **{
        f"{kind}{number}{end}": paths
        for number in (1, 2, 3)
        for kind, end, paths in (
            ("denseblock", "", f"features.denseblock{number}"),
            (
                "transition",
                "norm",
                tuple(f"features.transition{number}.{k}" for k in ("norm", "relu")),
            ),
            (
                "transition",
                "pool",
                tuple(f"features.transition{number}.{k}" for k in ("conv", "pool")),
            ),
        )
    },
    "denseblock4": "features.denseblock4",
    "norm5": "features.norm5",
    "relu5": nn.ReLU,
}
_GOOGLENET = {
    part: part
    for part in (
        *("conv1", "maxpool1", "conv2", "conv3", "maxpool2"),
        *("inception3a", "inception3b", "maxpool3"),
        *(f"inception4{letter}" for letter in "abcde"),
        *("maxpool4", "inception5a", "inception5b"),
    )
}


def _inception_v3() -> dict[str, Part]:
    """Inception v3's layers, each that has no border where it needs one behind such a border.

    As published its maps lose up to a fifth of the image, and a place is not above its stride.
    """
    bare = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "maxpool1", "Conv2d_4a_3x3", "maxpool2")
    parts: dict[str, Part] = {}
    for name in (
        *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "maxpool1"),
        *("Conv2d_3b_1x1", "Conv2d_4a_3x3", "maxpool2"),
        *("Mixed_5b", "Mixed_5c", "Mixed_5d"),
        *(f"Mixed_6{letter}" for letter in "abcde"),
        *(f"Mixed_7{letter}" for letter in "abc"),
    ):
        if name in (*bare, "Mixed_6a", "Mixed_7a"):
            parts[f"{name}_border"] = partial(nn.ZeroPad2d, 1)
        parts[name] = name
    return parts


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
_MOBILENET_V3_LEVELS = (
    Tap("3", 24, 4),
    Tap("7expand", 240, 8),
    Tap("13expand", 672, 16),
    Tap("16", 960, 32),
)


def _vgg_architectures() -> dict[str, Architecture]:
    """Return VGG16 with batch norms and VGG19, up to conv5 and, with `-fc`, up to fc7."""
    found = {}
    for name, plan, norms, blocks in (
        ("vgg16_bn", "D", True, ("22", "32", "42")),
        ("vgg19", "E", False, ("17", "26", "35")),
    ):
        levels = tuple(Tap(*one) for one in zip(blocks, (256, 512, 512), (4, 8, 16)))
        for end, build, rename in (("", _vgg, _from_features), ("-fc", _vgg_fc, _rename_vgg_fc)):
            found[name + end] = Architecture(
                partial(build, plan, norms), levels[1:], rename, levels=levels
            )
    return found


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


def _caffe_architectures() -> dict[str, Architecture]:
    """Return the papers' other Caffe networks, up to conv5 and, with `-fc`, up to fc7."""
    found = {}
    for name, plan in caffe_networks.PLANS.items():
        first, second, *_, last = (outputs for outputs, *_ in plan.convs)
        of_stride_4 = "relu1" if plan.convs[0][2] == 4 else "pool1"
        levels = (Tap(of_stride_4, first, 4), Tap("relu2", second, 8), Tap("relu5", last, 16))
        for end, blocks in (("", caffe_networks.convolutions), ("-fc", caffe_networks.with_fc)):
            build = partial(blocks, name)
            found[name + end] = Architecture(
                build, levels[1:], caffe_networks.rename, levels=levels
            )
    return found


ARCHITECTURES: Mapping[str, Architecture] = {
    "tiny": Architecture(
        _tiny,
        (Tap("2", 64, 8), Tap("3", 128, 16), Tap("4", 192, 32)),
        _from_features,
        levels=(Tap("1", 32, 4), Tap("2", 64, 8), Tap("3", 128, 16), Tap("4", 192, 32)),
    ),
    "vgg16": Architecture(
        _vgg,
        _VGG16_LEVELS[1:],
        _from_features,
        levels=_VGG16_LEVELS,
    ),
    "vgg16-fc": Architecture(_vgg_fc, _VGG16_LEVELS[1:], _rename_vgg_fc, levels=_VGG16_LEVELS),
    "alexnet": Architecture(
        _alexnet,
        _ALEXNET_LEVELS[1:],
        _from_features,
        levels=_ALEXNET_LEVELS,
    ),
    "alexnet-fc": Architecture(
        _alexnet_fc, _ALEXNET_LEVELS[1:], _rename_alexnet_fc, levels=_ALEXNET_LEVELS
    ),
    **_caffe_architectures(),
    "vgg16-atrous": Architecture(
        _vgg16_atrous,
        (Tap("22", 512, 8), Tap("relu7", 1024, 16)),  # conv4_3, fc7
        _rename_vgg_fc,
    ),
    **_vgg_architectures(),
    "mobilenet_v2": _torchvision("mobilenet_v2", _MOBILENET_V2, _MOBILENET_LEVELS, 4),
    "mobilenet_v3_large": _torchvision(
        "mobilenet_v3_large", _MOBILENET_V3, _MOBILENET_V3_LEVELS, 4
    ),
    # In torchvision's detectors: Faster R-CNN takes both maps of stride 32, SSDlite half the last
    # blocks' widths.
    "mobilenet_v3_large-c5": _torchvision(
        "mobilenet_v3_large",
        _MOBILENET_V3,
        (*_MOBILENET_V3_LEVELS[:1], Tap("13rest", 160, 32), Tap("16", 960, 32)),
        4,
        options={"norm_layer": nn.BatchNorm2d},
    ),
    "mobilenet_v3_large-reduced": _torchvision(
        "mobilenet_v3_large",
        _MOBILENET_V3,
        (*_MOBILENET_V3_LEVELS[:1], Tap("13expand", 672, 16), Tap("16", 480, 32)),
        4,
        options={
            "reduced_tail": True,
            "norm_layer": partial(nn.BatchNorm2d, eps=0.001, momentum=0.03),
        },
    ),
    "squeezenet1_0": _torchvision("squeezenet1_0", numbered(0, 13), _SQUEEZENET_LEVELS, 6),
    "resnet18": _resnet("resnet18", 1),
    "resnet34": _resnet("resnet34", 1),
    "resnet50": _resnet("resnet50", 4),
    "resnet101": _resnet("resnet101", 4),
    "resnet152": _resnet("resnet152", 4),
    "googlenet": _torchvision(
        "googlenet",
        _GOOGLENET,
        (
            Tap("conv3", 192, 4),
            Tap("inception3b", 480, 8),
            Tap("inception4e", 832, 16),
            Tap("inception5b", 1024, 32),
        ),
        4,
        options={"aux_logits": False, "init_weights": True},
        mean=HALF,  # torchvision's weights are ported, with their `transform_input`
        std=HALF,
    ),
    "inception_v3": _torchvision(
        "inception_v3",
        _inception_v3(),
        (
            Tap("Conv2d_4a_3x3", 192, 4),
            Tap("Mixed_5d", 288, 8),
            Tap("Mixed_6e", 768, 16),
            Tap("Mixed_7c", 2048, 32),
        ),
        10,
        options={"aux_logits": False, "init_weights": True},
        mean=HALF,
        std=HALF,
    ),
    "densenet121": _torchvision(
        "densenet121",
        _DENSENET,
        (
            Tap("transition1norm", 256, 4),
            Tap("transition2norm", 512, 8),
            Tap("transition3norm", 1024, 16),
            Tap("relu5", 1024, 32),
        ),
        6,
    ),
    "convnext_tiny": _torchvision(
        "convnext_tiny",
        numbered(0, 8),
        (Tap("1", 96, 4), Tap("3", 192, 8), Tap("5", 384, 16), Tap("7", 768, 32)),
        2,
    ),
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
