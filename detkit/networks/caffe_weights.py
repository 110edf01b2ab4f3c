"""The weights of Caffe's networks as state dicts: what its layers are here, colours turned.

Caffe sees blue, green, red in 0 to 255, less a mean; here it is red, green, blue. So the first
convolution's inputs are turned, and the config of such weights has Caffe's mean and a deviation
of 1/255: pixels are then Caffe's exactly, and zeros beyond the border are the mean in both.

`read_weights` gives the backbone under the names that `Architecture.rename` takes: VGG16's as
torchvision's classifier, others by their layers. All other layers are `caffe.LAYER.weight` and
`.bias`; `region_head`, `region_proposals` and `multibox_heads` say what they are in a detector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from detkit.errors import DetkitError
from detkit.networks.caffe_networks import LAYERS
from detkit.networks.caffemodel import CaffeModel, read_caffemodel
from detkit.networks.darknet import VOC_CLASSES
from detkit.text import counted

Colour = tuple[float, float, float]

# Torchvision's places of VGG16's layers in its classifier.
_VGG16_CONVS = (
    *("1_1", "1_2", "2_1", "2_2", "3_1", "3_2", "3_3", "4_1", "4_2", "4_3"),
    *("5_1", "5_2", "5_3"),
)
_VGG16_PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
_VGG16 = {
    **{f"conv{layer}": f"features.{place}" for layer, place in zip(_VGG16_CONVS, _VGG16_PLACES)},
    "fc6": "classifier.0",
    "fc7": "classifier.3",
}
_OTHERS = {name: name for name in LAYERS}
# Red, green, blue. fast-rcnn and py-faster-rcnn, `PIXEL_MEANS`; SSD; the ImageNet mean of Caffe,
# of which R-CNN and the small classifiers subtract the image; VGG16's own.
_REGION_MEAN = (122.7717, 115.9465, 102.9801)
_SSD_MEAN = (123.0, 117.0, 104.0)
_IMAGENET_MEAN = (122.679, 116.669, 104.007)
_VGG16_MEAN = (123.68, 116.779, 103.939)
# py-faster-rcnn's test.py; images are resized by OpenCV, which does not smooth.
_REGION_SETTINGS = {"antialias": False, "score_thresh": 0.05}
RPN_KEY, SSD_KEY = "caffe.rpn_cls_score.weight", "caffe.conv4_3_norm_mbox_loc.weight"
HEAD_KEY = "caffe.bbox_pred.weight"
NETWORK = "caffe.network."  # the beginning of a key that says which network it is


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the state dict of a `.caffemodel` file, its first convolution's colours turned.

    Raises DetkitError for a file that is broken, or of a network that detkit does not know.
    """
    model = read_caffemodel(path)
    blobs = {layer.name: layer.blobs for layer in model.layers if layer.blobs}
    network = _identify(path, model, blobs)
    names = _VGG16 if network == "vgg16" else _OTHERS
    state: dict[str, Tensor] = {}
    for layer, values in blobs.items():
        name = names.get(layer, f"caffe.{layer}")
        for kind, blob in zip(("weight", "bias"), values):
            state[f"{name}.{kind}"] = _tensor(path, layer, kind, blob)
    first = f"{names[_first_layer(network)]}.weight"
    state[first] = state[first].flip(1).contiguous()
    for one in model.layers:
        if one.box_sides:
            state[f"caffe.{one.name}.sides"] = torch.tensor(one.box_sides, dtype=torch.float64)
    state[NETWORK + network] = torch.zeros(0)
    _require_whole(path, state)
    mean = _mean(state, network)
    state["pixels.mean"] = torch.tensor(mean, dtype=torch.float64) / 255
    state["pixels.std"] = torch.full((3,), 1 / 255, dtype=torch.float64)
    return state


def trained_with(state: Mapping[str, Tensor]) -> tuple[str, Colour, Colour] | None:
    """Return the backbone, mean and std of what `read_weights` returned; None for other states."""
    named = [key for key in state if key.startswith(NETWORK)]
    if not named:
        return None
    mean, std = (tuple(state[f"pixels.{name}"].tolist()) for name in ("mean", "std"))
    return named[0].removeprefix(NETWORK), mean, std


def settings(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the settings of a detector under which the weights in the file are right.

    Empty for a classifier. Images were resized by OpenCV, which does not smooth.
    """
    if RPN_KEY in state:
        number = len(_of(state, "caffe.rpn_cls_score.bias")) // 2
        # py-faster-rcnn: scales 8, 16, 32 of 16 pixels for VOC, 4 before these for COCO.
        sizes = {9: (128.0, 256.0, 512.0), 12: (64.0, 128.0, 256.0, 512.0)}
        if number not in sizes:
            raise DetkitError(f"a detector of {number} anchors a place; 9 or 12 are known")
        return {
            **_REGION_SETTINGS,
            "anchors": "released",
            "anchor_sizes": sizes[number],
            "rpn_width": len(_of(state, "caffe.rpn_conv/3x3.bias")),
        }
    if HEAD_KEY in state:
        return _REGION_SETTINGS
    if is_ssd(state):
        size = 512 if "caffe.conv10_2.weight" in state else 300
        return {"antialias": False, "size": size, "scales": _scales(state, size)}
    return {}


def _scales(state: Mapping[str, Tensor], size: int) -> tuple[float, ...]:
    """Return the scales of SSD's default boxes, shares of the image's `size`; () if not known."""
    keys = [f"caffe.{source}_mbox_priorbox.sides" for source in _sources(state)]
    sides = [state[key].tolist() for key in keys if key in state]
    if len(sides) < len(keys):
        return ()
    if any(len(pair) != 2 for pair in sides) or any(
        one[1] != other[0] for one, other in zip(sides, sides[1:])
    ):
        raise DetkitError(
            f"default boxes of {sides} pixels: a map's larger side is not the smaller one's of the "
            "next map"
        )
    return (*(least / size for least, _ in sides), sides[-1][1] / size)


def _sources(state: Mapping[str, Tensor]) -> list[str]:
    """Return the layers whose maps SSD's heads are on, the finest first."""
    extra = [f"conv{level}_2" for level in range(6, 11)]
    return [
        "conv4_3_norm",
        "fc7",
        *(name for name in extra if f"caffe.{name}.weight" in state),
    ]


def _of(state: Mapping[str, Tensor], key: str) -> Tensor:
    """Return a tensor; raise DetkitError when the file lacks its layer."""
    if key not in state:
        layer = key.removeprefix("caffe.").rpartition(".")[0]
        raise DetkitError(f"a Caffe model of a detector without its layer {layer}; is it whole?")
    return state[key]


def backbone_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the backbone's part under our names: `backbone.blocks.conv1.weight` and so on."""
    from detkit.networks.architectures import ARCHITECTURES

    (network,) = (key.removeprefix(NETWORK) for key in state if key.startswith(NETWORK))
    rename = ARCHITECTURES[f"{network}-fc"].rename
    own = {rename(key): value for key, value in state.items() if not key.startswith("caffe.")}
    return {f"backbone.{key}": value for key, value in own.items() if key is not None}


def region_head(state: Mapping[str, Tensor], variances: Sequence[float]) -> dict[str, Tensor]:
    """Return the two sibling layers of Fast R-CNN's head under our names.

    The released snapshots give plain deltas, the normalisation of the targets undone; here a head
    gives them divided by `variances`. Boxes of the background, the first class, are left out.
    """
    own = {}
    for kind in ("weight", "bias"):
        own[f"head.class_logits.{kind}"] = _of(state, f"caffe.cls_score.{kind}")
        deltas = _of(state, f"caffe.bbox_pred.{kind}")
        each = deltas.new_tensor(variances).view(4, *[1] * (deltas.ndim - 1))
        rows = deltas.view(-1, 4, *deltas.shape[1:])[1:] / each
        own[f"head.deltas.{kind}"] = rows.flatten(0, 1)
    return own


def region_proposals(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the region proposal network under our names.

    Caffe's softmax over two scores, all anchors' background before all anchors' object, is the
    logistic function of their difference: that is our one logit an anchor.
    """
    own = {}
    for kind in ("weight", "bias"):
        own[f"rpn.conv.{kind}"] = _of(state, f"caffe.rpn_conv/3x3.{kind}")
        background, foreground = _of(state, f"caffe.rpn_cls_score.{kind}").chunk(2)
        own[f"rpn.objectness.{kind}"] = foreground - background
        own[f"rpn.deltas.{kind}"] = _of(state, f"caffe.rpn_bbox_pred.{kind}")
    return own


def multibox_heads(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return SSD's extra layers, its norm and its heads under our names."""
    own = {"norms.0.weight": _of(state, "caffe.conv4_3_norm.weight").flatten()}
    for number, source in enumerate(_sources(state)):
        for kind in ("weight", "bias"):
            for head, theirs in (("box_head", "loc"), ("class_head", "conf")):
                key = f"caffe.{source}_mbox_{theirs}.{kind}"
                own[f"{head}.convs.{number}.{kind}"] = _of(state, key)
            for part, place in ((1, 0), (2, 2)) if number > 1 else ():
                key = f"caffe.{source[:-1]}{part}.{kind}"
                own[f"extras.{number - 2}.{place}.{kind}"] = _of(state, key)
    return own


def is_region_detector(state: Mapping[str, Tensor], *, proposes: bool) -> bool:
    """Return whether this is Fast R-CNN, or with an RPN in it, as `proposes` says, Faster R-CNN."""
    has_rpn = RPN_KEY in state
    return HEAD_KEY in state and has_rpn == proposes


def is_ssd(state: Mapping[str, Tensor]) -> bool:
    """Return whether this is a whole SSD."""
    return SSD_KEY in state


def fill(detector: nn.Module, own: Mapping[str, Tensor], source: str) -> None:
    """Put a file's tensors under our names into a detector without weights.

    Raises DetkitError, naming the file as `source`, for one that lacks a tensor or has it in
    another shape.
    """
    for key, wanted in detector.state_dict().items():
        shape = tuple(own[key].shape) if key in own else None
        if shape != wanted.shape:
            found = "missing" if shape is None else f"of shape {shape}"
            raise DetkitError(
                f"{source}: no weights of {getattr(detector, 'name', 'this detector')}: {key} is "
                f"{found}, expected {tuple(wanted.shape)}"
            )
    detector.load_state_dict(own, assign=True)


def class_names(number: int, source: str) -> tuple[str, ...]:
    """Return the names of a released detector's classes, without background: VOC's 20, COCO's 80.

    Raises DetkitError for another number, whose names the file, `source`, does not hold.
    """
    if number == len(VOC_CLASSES):
        return VOC_CLASSES
    if number == 80:
        from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

        names = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
        return tuple(name for name in names[1:] if name != "N/A")
    raise DetkitError(
        f"{source}: a detector of {counted(number, 'class')}, whose names the file does not hold; "
        "start a training from it with --weights"
    )


def _require_whole(path: Path, state: Mapping[str, Tensor]) -> None:
    """Raise DetkitError, which names the file, for a detector that lacks layers."""
    try:
        settings(state)
        if HEAD_KEY in state:
            region_head(state, (1.0,) * 4)
        if RPN_KEY in state:
            region_proposals(state)
        if is_ssd(state):
            multibox_heads(state)
    except DetkitError as error:
        raise DetkitError(f"{path}: {error}") from None
    except (RuntimeError, ValueError) as error:  # what torch says of shapes
        raise DetkitError(
            f"{path}: the layers of its detector are not of the shapes that they have in the "
            "released networks"
        ) from error


def _identify(path: Path, model: CaffeModel, blobs: Mapping[str, tuple[NDArray[Any], ...]]) -> str:
    """Return which network's layers these are; raise DetkitError for one that is not known."""
    shapes = {layer: values[0].shape for layer, values in blobs.items()}
    if shapes.get("conv1_1") == (64, 3, 3, 3) and shapes.get("conv5_3") == (512, 512, 3, 3):
        return "vgg16"
    first, third = shapes.get("conv1"), shapes.get("conv3")
    top = (0, 0, *shapes.get("fc7", ()))[-2]  # a matrix, in old files behind two ones
    if first == (96, 3, 11, 11) and third == (384, 256, 3, 3):
        order = [layer.name for layer in model.layers if layer.name in ("norm1", "pool1")]
        return "bvlc_alexnet" if order[:1] == ["norm1"] else "caffenet"
    if first == (96, 3, 7, 7) and third == (384, 256, 3, 3) and top == 4096:
        return "zf"
    if first == (96, 3, 7, 7) and third == (512, 256, 3, 3) and top == 1024:
        return "vgg_cnn_m_1024"
    found = ", ".join(list(blobs)[:3])
    raise DetkitError(
        f"{path}: a Caffe model of a network that is not known (its layers begin {found}); VGG16, "
        "CaffeNet, BVLC's AlexNet, ZF and VGG_CNN_M_1024 are, and detectors on them"
    )


def _first_layer(network: str) -> str:
    return "conv1_1" if network == "vgg16" else "conv1"


def _mean(state: Mapping[str, Tensor], network: str) -> Colour:
    """Return the mean, red first, that the network in a file was trained with."""
    if "caffe.cls_score.weight" in state:
        return _REGION_MEAN
    if network != "vgg16":
        return _IMAGENET_MEAN
    fc6 = state.get("classifier.0.weight")  # SSD's is a convolution, also of its classifier
    return _SSD_MEAN if fc6 is not None and fc6.ndim == 4 else _VGG16_MEAN


def _tensor(path: Path, layer: str, kind: str, blob: NDArray[Any]) -> Tensor:
    """Return a blob as float32, without the leading ones that matrices have in old files."""
    with np.errstate(over="ignore"):  # of float64; told below
        values = np.array(blob, np.float32)
    if not values.size:
        raise DetkitError(f"{path}: damaged: {layer} has a blob without numbers")
    if not np.isfinite(values).all():
        raise DetkitError(f"{path}: damaged: {layer} holds numbers that are not finite")
    sides = values.shape
    if kind == "bias" or (len(sides) == 4 and sides[:2] == (1, 1)):
        wanted = (-1,) if kind == "bias" else sides[2:]
        values = values.reshape(wanted)
    return torch.from_numpy(values)
