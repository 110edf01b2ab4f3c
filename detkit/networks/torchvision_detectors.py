"""Torchvision's detectors: whose a state dict is, and its tensors under our names.

Torchvision (BSD-3) publishes weights of six models for boxes, trained on COCO; their names here
are those of `Detector.published`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torchvision
from torch import Tensor

from detkit.config import DetectorConfig
from detkit.networks.architectures import ARCHITECTURES

RESNET = "fasterrcnn-resnet50-fpn-coco"
RESNET_V2 = "fasterrcnn-resnet50-fpn-v2-coco"
MOBILENET = "fasterrcnn-mobilenet-v3-large-fpn-coco"
MOBILENET_320 = "fasterrcnn-mobilenet-v3-large-320-fpn-coco"
SSD300 = "ssd300-coco"
SSDLITE = "ssdlite320-mobilenet-v3-large-coco"


@dataclass(frozen=True)
class Published:
    """Detection weights that torchvision publishes, and the config under which they are right."""

    builder: str  # the name of torchvision's model
    weights: str  # the name of its weights
    config: DetectorConfig

    @property
    def url(self) -> str:
        """The address that torchvision downloads them from."""
        return str(torchvision.models.get_model_weights(self.builder)[self.weights].url)

    @property
    def categories(self) -> list[str]:
        """Its class names, background first; unused ones are called "N/A"."""
        weights = torchvision.models.get_model_weights(self.builder)[self.weights]
        return list(weights.meta["categories"])


# The backbone of each; the tensors of both MobileNets have the same names and shapes.
BACKBONES = {
    RESNET: "resnet50",
    RESNET_V2: "resnet50",
    MOBILENET: "mobilenet_v3_large-c5",
    SSD300: "vgg16",
    SSDLITE: "mobilenet_v3_large-reduced",
}

# The beginnings of names, torchvision's (newer and older) and ours.
_FASTER_RCNN = (
    ("backbone.fpn.", "neck.fpn."),
    ("rpn.head.conv.0.0.", "rpn.conv."),
    ("rpn.head.conv.1.0.", "rpn.more_convs.0."),
    ("rpn.head.conv.", "rpn.conv."),
    ("rpn.head.cls_logits.", "rpn.objectness."),
    ("rpn.head.bbox_pred.", "rpn.deltas."),
    ("roi_heads.box_head.fc", "head.fc"),
    ("roi_heads.box_head.5.", "head.fc6."),
    ("roi_heads.box_head.", "head.convs."),
    ("roi_heads.box_predictor.cls_score.", "head.class_logits."),
    ("roi_heads.box_predictor.bbox_pred.", "head.deltas."),
)
_SSDLITE = (
    ("backbone.extra.", "extras."),
    ("head.classification_head.module_list.", "class_head.convs."),
    ("head.regression_head.module_list.", "box_head.convs."),
)
SPLIT = 13  # the block of MobileNetV3 that SSDlite cuts behind its first layer


def name_of(state: Mapping[str, Tensor]) -> str | None:
    """Return our name of the published model whose tensors these are like; None for others."""
    if any(key.startswith("rpn.head.") for key in state):
        if any(key.startswith("roi_heads.box_head.5.") for key in state):
            return RESNET_V2
        return MOBILENET if "backbone.body.0.0.weight" in state else RESNET
    if "backbone.scale_weight" in state:
        return SSD300
    return SSDLITE if "head.regression_head.module_list.0.0.0.weight" in state else None


def convert(
    state: Mapping[str, Tensor], keep: Sequence[int] | None = None
) -> dict[str, Tensor] | None:
    """Return the state dict of a torchvision detector under our names, else None.

    `keep` are the classes, background included, whose outputs stay; None keeps all.
    """
    name = name_of(state)
    if name is None:
        return None
    if name == SSD300:
        return _with_classes(_ssd300(state), keep)
    if name == SSDLITE:
        return _with_classes(_ssdlite(state), keep)
    return _faster_rcnn(state, BACKBONES[name], keep)


def _renamed(key: str, rules: Sequence[tuple[str, str]]) -> str | None:
    for theirs, ours in rules:
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    return None


def _in_backbone(backbone: str, key: str) -> str | None:
    """Return our name of a tensor of the classifier inside a detector."""
    target = ARCHITECTURES[backbone].rename(key)
    return None if target is None else f"backbone.{target}"


def _faster_rcnn(
    state: Mapping[str, Tensor], backbone: str, keep: Sequence[int] | None
) -> dict[str, Tensor]:
    own: dict[str, Tensor] = {}
    for key, value in state.items():
        part = key.removeprefix("backbone.body.")
        if part != key:
            path = f"features.{part}" if part[0].isdigit() else part
            target = _in_backbone(backbone, path)
        else:
            name = re.sub(r"(inner_blocks\.\d|layer_blocks\.\d)\.(?=[wb])", r"\1.0.", key)
            target = _renamed(name, _FASTER_RCNN)
        if target is not None:
            own[target] = value
    if keep is not None:
        classes = list(keep)
        for kind in ("weight", "bias"):
            own[f"head.class_logits.{kind}"] = own[f"head.class_logits.{kind}"][classes]
            deltas = own[f"head.deltas.{kind}"]
            rows = deltas.view(-1, 4, *deltas.shape[1:])[classes]
            own[f"head.deltas.{kind}"] = rows.flatten(0, 1)
    for kind in ("weight", "bias"):  # they also move the background's boxes
        own[f"head.deltas.{kind}"] = own[f"head.deltas.{kind}"][4:]
    return own


def _ssd300(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    own: dict[str, Tensor] = {}
    fc = {"1": "fc6", "3": "fc7"}  # inside torchvision's `extra.0.7`
    for key, value in state.items():
        parts = key.split(".")
        if key == "backbone.scale_weight":
            own["norms.0.weight"] = value
        elif parts[1] == "features":
            own[f"backbone.blocks.{parts[2]}.{parts[-1]}"] = value
        elif parts[1] == "extra" and parts[2] == "0" and parts[3] == "7":
            own[f"backbone.blocks.{fc[parts[4]]}.{parts[-1]}"] = value
        elif parts[1] == "extra" and parts[2] == "0":
            # pool4 to conv5_3: torchvision counts on from conv4_3's ReLU, block 22.
            own[f"backbone.blocks.{int(parts[3]) + 23}.{parts[-1]}"] = value
        elif parts[1] == "extra":
            own[f"extras.{int(parts[2]) - 1}.{parts[3]}.{parts[-1]}"] = value
        elif parts[1] == "regression_head":
            own[f"box_head.convs.{parts[3]}.{parts[-1]}"] = value
        elif parts[1] == "classification_head":
            own[f"class_head.convs.{parts[3]}.{parts[-1]}"] = value
    return own


def _ssdlite(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    own: dict[str, Tensor] = {}
    for key, value in state.items():
        target = _renamed(key, _SSDLITE)
        found = re.match(r"backbone\.features\.(\d)\.(\d+)\.(.*)", key)
        if found:
            part, index, rest = int(found[1]), int(found[2]), found[3]
            if part == 0:
                path = f"{SPLIT}.block.0.{rest}" if index == SPLIT else f"{index}.{rest}"
            else:
                path = f"{SPLIT + index}.{rest}" if index else f"{SPLIT}.block.{rest}"
            target = _in_backbone(BACKBONES[SSDLITE], f"features.{path}")
        if target is not None:
            own[target] = value
    return own


def _with_classes(own: dict[str, Tensor], keep: Sequence[int] | None) -> dict[str, Tensor]:
    """Return an SSD's state dict with the outputs of these classes alone; None: of all."""
    lite = "class_head.convs.0.1.weight" in own
    names = re.compile(r"class_head\.convs\.\d+\." + (r"1\.\w+" if lite else r"\w+"))
    for key in [key for key in own if keep is not None and names.fullmatch(key)]:
        boxes_a_place = own[key.replace("class", "box", 1)].shape[0] // 4
        shape = (boxes_a_place, -1, *own[key].shape[1:])
        rows = own[key].view(shape)[:, list(keep or ())]
        own[key] = rows.flatten(0, 1)
    return own
