"""Caffe's weights give here what its layers give there: written out below in plain torch.

Caffe sees blue, green, red in 0 to 255, less a mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from caffe_files import write, write_large
from numpy.typing import NDArray
from running import detkit
from torch import Tensor
from torch.nn import functional as F

from detkit.config import IMAGENET_MEAN
from detkit.detectors.fast_rcnn import FastRCNN
from detkit.detectors.faster_rcnn import FasterRCNN
from detkit.detectors.rcnn import RCNN
from detkit.detectors.ssd import SSD
from detkit.detectors.yolov1 import VOC_CLASSES
from detkit.errors import DetkitError
from detkit.inference.models import (
    load_model,
    starting_config,
    with_settings,
    with_starting_weights,
)
from detkit.networks import backbones, pretrained
from detkit.networks.weights import read_state_dict

Layers = dict[str, list[NDArray[np.float32]]]
RANDOM = np.random.default_rng(3)
REGION_MEAN = (102.9801, 115.9465, 122.7717)  # blue first, as in fast-rcnn's config.py
BASE = RANDOM.standard_normal(1_000_003, dtype=np.float32)

# Each network's layers, read off its prototxt: outputs, inputs a group, side.
CAFFENET = {"conv1": (96, 3, 11), "conv2": (256, 48, 5), "conv3": (384, 256, 3)}
CAFFENET |= {"conv4": (384, 192, 3), "conv5": (256, 192, 3)}
ZF = {"conv1": (96, 3, 7), "conv2": (256, 96, 5), "conv3": (384, 256, 3)}
ZF |= {"conv4": (384, 384, 3), "conv5": (256, 384, 3)}
CNN_M = {"conv1": (96, 3, 7), "conv2": (256, 96, 5), "conv3": (512, 256, 3)}
CNN_M |= {"conv4": (512, 512, 3), "conv5": (512, 512, 3)}
VGG16 = {"conv1_1": (64, 3, 3), "conv1_2": (64, 64, 3), "conv2_1": (128, 64, 3)}
VGG16 |= {"conv2_2": (128, 128, 3), "conv3_1": (256, 128, 3), "conv3_2": (256, 256, 3)}
VGG16 |= {"conv3_3": (256, 256, 3), "conv4_1": (512, 256, 3), "conv4_2": (512, 512, 3)}
VGG16 |= {f"conv{name}": (512, 512, 3) for name in ("4_3", "5_1", "5_2", "5_3")}


def drawn(*shape: int, scale: float | None = None) -> NDArray[np.float32]:
    """Return random numbers at He's scale; a million of them again and again, since it is fast."""
    start = int(RANDOM.integers(1000))
    if scale is None:
        scale = math.sqrt(2 / math.prod(shape[1:]))
    return np.resize(BASE[start:], shape) * np.float32(scale)


def conv_layers(shapes: Mapping[str, tuple[int, int, int]]) -> Layers:
    return {
        name: [drawn(after, before, side, side), drawn(after, scale=0.1)]
        for name, (after, before, side) in shapes.items()
    }


def fc(outputs: int, inputs: int, scale: float | None = None) -> list[NDArray[np.float32]]:
    return [drawn(outputs, inputs, scale=scale), drawn(outputs, scale=0.1)]


# What Caffe's layers do.


def conv(x: Tensor, layers: Layers, name: str, **how: int) -> Tensor:
    weight, *bias = map(torch.from_numpy, layers[name])
    return F.conv2d(x, weight, *bias, **how)


def inner(x: Tensor, layers: Layers, name: str) -> Tensor:
    weight, bias = map(torch.from_numpy, layers[name])
    return x.flatten(1) @ weight.t() + bias


def pool(x: Tensor, side: int, stride: int, pad: int = 0) -> Tensor:
    """Return pooling_layer.cpp's: sizes rounded up, no window that begins beyond the border."""

    def places(length: int) -> list[slice]:
        number = math.ceil((length + 2 * pad - side) / stride) + 1
        if pad and (number - 1) * stride >= length + pad:
            number -= 1
        starts = [n * stride - pad for n in range(number)]
        return [slice(max(start, 0), min(start + side, length)) for start in starts]

    rows = [x[:, :, one].amax(dim=2) for one in places(x.shape[2])]
    x = torch.stack(rows, dim=2)
    return torch.stack([x[..., one].amax(dim=3) for one in places(x.shape[3])], dim=3)


def norm_across(x: Tensor, alpha: float, k: float = 1.0) -> Tensor:
    """Return lrn_layer.cpp's ACROSS_CHANNELS, local_size 5, beta .75."""
    out = torch.empty_like(x)
    for channel in range(x.shape[1]):
        near = x[:, max(0, channel - 2) : channel + 3]
        scale = k + alpha / 5 * near.square().sum(dim=1)
        out[:, channel] = x[:, channel] * scale**-0.75
    return out


def norm_within(x: Tensor) -> Tensor:
    """Return lrn_layer.cpp's WITHIN_CHANNEL, local_size 3, alpha .00005, beta .75."""
    padded = F.pad(x.square(), (1, 1, 1, 1))
    height, width = x.shape[2:]
    total = sum(padded[:, :, r : r + height, c : c + width] for r in range(3) for c in range(3))
    return x * (1 + 0.00005 * total / 9) ** -0.75


def caffenet(x: Tensor, layers: Layers, *, norm_first: bool = False, border: int = 0) -> Tensor:
    x = conv(x, layers, "conv1", stride=4, padding=5 * border).relu()
    if norm_first:
        x = pool(norm_across(x, 0.0001), 3, 2, border)
    else:
        x = norm_across(pool(x, 3, 2, border), 0.0001)
    x = conv(x, layers, "conv2", padding=2, groups=2).relu()
    if norm_first:
        x = pool(norm_across(x, 0.0001), 3, 2, border)
    else:
        x = norm_across(pool(x, 3, 2, border), 0.0001)
    x = conv(x, layers, "conv3", padding=1).relu()
    x = conv(x, layers, "conv4", padding=1, groups=2).relu()
    return conv(x, layers, "conv5", padding=1, groups=2).relu()


def zf(x: Tensor, layers: Layers) -> Tensor:
    x = pool(norm_within(conv(x, layers, "conv1", stride=2, padding=3).relu()), 3, 2, 1)
    x = pool(norm_within(conv(x, layers, "conv2", stride=2, padding=2).relu()), 3, 2, 1)
    for name in ("conv3", "conv4", "conv5"):
        x = conv(x, layers, name, padding=1).relu()
    return x


def cnn_m(x: Tensor, layers: Layers) -> Tensor:
    x = pool(norm_across(conv(x, layers, "conv1", stride=2).relu(), 0.0005, 2.0), 3, 2)
    x = pool(norm_across(conv(x, layers, "conv2", stride=2, padding=1).relu(), 0.0005, 2.0), 3, 2)
    for name in ("conv3", "conv4", "conv5"):
        x = conv(x, layers, name, padding=1).relu()
    return x


def vgg16(x: Tensor, layers: Layers) -> dict[str, Tensor]:
    """Return the maps of conv4_3 and conv5_3."""
    maps = {}
    for block, number in enumerate((2, 2, 3, 3, 3), 1):
        for layer in range(1, number + 1):
            x = conv(x, layers, f"conv{block}_{layer}", padding=1).relu()
        maps[f"conv{block}_{number}"] = x
        x = pool(x, 2, 2)
    return maps


def seen_by_caffe(image: NDArray[np.uint8], mean: tuple[float, float, float]) -> Tensor:
    """Return the blob of an RGB image: BGR in 0 to 255, less the mean, blue first."""
    bgr = torch.from_numpy(image[:, :, ::-1].astype(np.float32) - np.float32(mean))
    return bgr.permute(2, 0, 1)[None].contiguous()


def photo(height: int, width: int) -> NDArray[np.uint8]:
    return RANDOM.integers(0, 256, (height, width, 3), dtype=np.uint8)


def close(found: Tensor, expected: Tensor) -> None:
    """Compare to a ten thousandth of the largest number there is."""
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


IMAGENET = (104.007, 116.669, 122.679)
CLASSIFIERS = {
    "caffenet": (CAFFENET, lambda x, layers: caffenet(x, layers), IMAGENET),
    "bvlc_alexnet": (CAFFENET, lambda x, layers: caffenet(x, layers, norm_first=True), IMAGENET),
    "zf": (ZF, zf, IMAGENET),
    "vgg_cnn_m_1024": (CNN_M, cnn_m, IMAGENET),
    "vgg16": (VGG16, lambda x, layers: vgg16(x, layers)["conv5_3"], (103.939, 116.779, 123.68)),
}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_gives_caffes_maps_of_an_image(tmp_path: Path, name: str) -> None:
    shapes, run, mean = CLASSIFIERS[name]
    layers = conv_layers(shapes)
    layers["fc7"] = fc(1024 if name == "vgg_cnn_m_1024" else 4096, 3)  # it tells them apart
    order = ("norm1", "pool1") if name == "bvlc_alexnet" else ("pool1", "norm1")
    path = write_large(tmp_path / "net.caffemodel", {**dict.fromkeys(order, []), **layers})
    config = starting_config(SSD, None, str(path))
    assert config.backbone == name
    size = 304 if name == "vgg16" else 300  # 300 / 8 is rounded up there, and down here
    with torch.device("meta"):
        detector = SSD(replace(config, size=size), ["a"])
    backbone = backbones.build(name).eval()
    pretrained.load_weights(backbone, str(path))
    image = photo(size, size)
    with torch.no_grad():
        maps = backbone(detector.prepare_image(image).images)
        close(maps[-1], run(seen_by_caffe(image, mean), layers))


def test_caffenet_in_rcnn_gives_caffes_pool5_and_fc7_of_a_crop(tmp_path: Path) -> None:
    layers = conv_layers(CAFFENET) | {"fc6": fc(4096, 9216), "fc7": fc(4096, 4096)}
    path = write_large(tmp_path / "caffe_reference_imagenet_model.caffemodel", layers)
    config = starting_config(RCNN, None, str(path))
    assert (config.backbone, config.crop_size) == ("caffenet", 227)
    detector = with_starting_weights(RCNN, config, ["a"], str(path)).eval()
    image = photo(227, 227)
    with torch.no_grad():
        pooled, top = detector.features(detector.prepare_image(image).images)
        x = pool(caffenet(seen_by_caffe(image, IMAGENET), layers), 3, 2)
        close(pooled, x.flatten(1))
        x = inner(inner(x, layers, "fc6").relu(), layers, "fc7").relu()
    close(top, x)


def roi_pool(x: Tensor, rois: Tensor, size: int) -> Tensor:
    """Return roi_pooling_layer.cpp's of (R, 4) regions whose right and bottom are inclusive."""
    out = torch.zeros(len(rois), x.shape[1], size, size)
    for index, roi in enumerate(rois.tolist()):
        left, top, right, bottom = (math.floor(side / 16 + 0.5) for side in roi)
        width, height = max(right - left + 1, 1), max(bottom - top + 1, 1)
        for row in range(size):
            for column in range(size):
                y = [math.floor(row * height / size), math.ceil((row + 1) * height / size)]
                z = [math.floor(column * width / size), math.ceil((column + 1) * width / size)]
                y = [min(max(side + top, 0), x.shape[2]) for side in y]
                z = [min(max(side + left, 0), x.shape[3]) for side in z]
                if y[0] < y[1] and z[0] < z[1]:
                    bin_ = x[0, :, y[0] : y[1], z[0] : z[1]]
                    out[index, :, row, column] = bin_.amax(dim=(1, 2))
    return out


def generate_anchors(sizes: tuple[int, ...]) -> Tensor:
    """Return generate_anchors.py's, inclusive corners around the first place."""
    anchors = []
    for ratio in (0.5, 1.0, 2.0):
        width = float(np.round(np.sqrt(256 / ratio)))
        height = float(np.round(width * ratio))
        for size in sizes:
            w, h = width * size / 16, height * size / 16
            half = (w - 1) / 2, (h - 1) / 2
            anchors.append([7.5 - half[0], 7.5 - half[1], 7.5 + half[0], 7.5 + half[1]])
    return torch.tensor(anchors)


def detector_layers(
    shapes: Mapping[str, tuple[int, int, int]], places: int, top: int = 4096, anchors: int = 9
) -> Layers:
    channels = list(shapes.values())[-1][0]
    width = 512 if channels == 512 and top == 4096 else 256
    return {
        **conv_layers(shapes),
        "rpn_conv/3x3": [drawn(width, channels, 3, 3), drawn(width, scale=0.1)],
        "rpn_cls_score": [drawn(2 * anchors, width, 1, 1), drawn(2 * anchors, scale=0.1)],
        "rpn_bbox_pred": [drawn(4 * anchors, width, 1, 1), drawn(4 * anchors, scale=0.1)],
        "fc6": fc(4096, channels * places**2),
        "fc7": fc(top, 4096),
        "cls_score": fc(21, top),
        "bbox_pred": fc(84, top),
    }


ROIS = torch.tensor([[0.0, 0, 60, 50], [17, 9, 120, 95], [40, 30, 47, 90], [3, 60, 127, 70]])


@pytest.mark.parametrize(
    ("name", "anchors"),
    [
        ("zf", 9),
        pytest.param("vgg_cnn_m_1024", 9, marks=pytest.mark.slow),
        pytest.param("vgg16", 12, marks=pytest.mark.slow),
    ],
)
def test_py_faster_rcnns_detectors_give_what_caffe_gives(
    tmp_path: Path, name: str, anchors: int
) -> None:
    shapes, run, _ = CLASSIFIERS[name]
    places, top = 7 if name == "vgg16" else 6, 1024 if name == "vgg_cnn_m_1024" else 4096
    layers = detector_layers(shapes, places, top, anchors)
    path = write_large(tmp_path / "faster_rcnn_final.caffemodel", layers)
    state = read_state_dict(path)
    for layer, (weight, bias) in layers.items():
        if layer.startswith("rpn") or layer in ("cls_score", "bbox_pred"):
            torch.testing.assert_close(state[f"caffe.{layer}.weight"], torch.from_numpy(weight))
            torch.testing.assert_close(state[f"caffe.{layer}.bias"], torch.from_numpy(bias))
    detector = FasterRCNN.from_foreign(state, str(path))
    assert detector is not None and detector.class_names == VOC_CLASSES
    assert detector.config.anchors == "released" and detector.config.sides == (600, 1000)
    del state
    detector = with_settings(detector, ["size=96", "max_size=160"])
    assert isinstance(detector, FasterRCNN)

    image = photo(96, 128)
    batch = detector.prepare_image(image)
    with torch.no_grad():
        maps = detector.maps(batch.images)
        scored = detector.rpn.score(maps, batch.images)
        logits, deltas = detector.head(maps, [ROIS + torch.tensor([0, 0, 1, 1])], detector.backbone)

        blob = seen_by_caffe(image, REGION_MEAN)
        x = run(blob, layers)
        close(maps[0], x)
        hidden = conv(x, layers, "rpn_conv/3x3", padding=1).relu()
        scores = conv(hidden, layers, "rpn_cls_score")
        # rpn_cls_score_reshape, rpn_cls_prob: background and object of each anchor.
        probs = scores.view(1, 2, -1, scores.shape[3]).softmax(dim=1).view_as(scores)
        moves = conv(hidden, layers, "rpn_bbox_pred")
        # proposal_layer.py: (1, H, W, A) and (1, H, W, A * 4), flattened.
        objects = probs[:, anchors:].permute(0, 2, 3, 1).reshape(-1)
        moves = moves.permute(0, 2, 3, 1).reshape(-1, 4)
        torch.testing.assert_close(scored.objectness[0].sigmoid()[0], objects, atol=1e-4, rtol=0)
        close(scored.deltas[0][0], moves)

        half = 0.5 if name == "zf" else 1.0  # drop6 and drop7 of ZF: scale_train is false
        x = roi_pool(x, ROIS, places)
        x = inner(x, layers, "fc6").relu() * half
        x = inner(x, layers, "fc7").relu() * half
        classes = inner(x, layers, "cls_score").softmax(dim=1)
        boxes = inner(x, layers, "bbox_pred").view(len(ROIS), 21, 4)
    torch.testing.assert_close(logits.softmax(dim=1), classes, atol=1e-4, rtol=0)
    close(deltas * torch.tensor([0.1, 0.1, 0.2, 0.2]), boxes[:, 1:])

    shifts = [(16 * c, 16 * r) for r in range(maps[0].shape[2]) for c in range(maps[0].shape[3])]
    base = generate_anchors((128, 256, 512) if anchors == 9 else (64, 128, 256, 512))
    wanted = torch.cat([base + torch.tensor([x, y, x, y]) for x, y in shifts])
    torch.testing.assert_close(scored.anchors[0] - torch.tensor([0, 0, 1, 1]), wanted)


def test_fast_rcnns_caffenet_gives_what_caffe_gives(tmp_path: Path) -> None:
    layers = detector_layers(CAFFENET, 6)
    layers = {name: blobs for name, blobs in layers.items() if not name.startswith("rpn")}
    path = write_large(tmp_path / "caffenet_fast_rcnn_iter_40000.caffemodel", layers)
    state = read_state_dict(path)
    assert FasterRCNN.from_foreign(state, str(path)) is None
    detector = FastRCNN.from_foreign(state, str(path))
    assert detector is not None and detector.config.backbone == "caffenet"
    detector = with_settings(detector, ["size=96", "max_size=160"])
    image = photo(96, 128)
    with torch.no_grad():
        maps = detector.maps(detector.prepare_image(image).images)
        logits, _ = detector.head(maps, [ROIS + torch.tensor([0, 0, 1, 1])], detector.backbone)
        x = roi_pool(caffenet(seen_by_caffe(image, REGION_MEAN), layers, border=1), ROIS, 6)
        x = inner(inner(x, layers, "fc6").relu(), layers, "fc7").relu()
    wanted = inner(x, layers, "cls_score").softmax(dim=1)
    torch.testing.assert_close(logits.softmax(dim=1), wanted, atol=1e-4, rtol=0)


SOURCES = {"conv4_3_norm": (512, 4), "fc7": (1024, 6), "conv6_2": (512, 6), "conv7_2": (256, 6)}
SOURCES |= {"conv8_2": (256, 4), "conv9_2": (256, 4)}
SIDES = [(30, 60), (60, 111), (111, 162), (162, 213), (213, 264), (264, 315)]


def ssd_layers(classes: int) -> Layers:
    layers = conv_layers(VGG16)
    layers["conv4_3_norm"] = [drawn(512, scale=1.0) + 20]
    extra = {"fc6": (1024, 512, 3), "fc7": (1024, 1024, 1), "conv6_1": (256, 1024, 1)}
    extra |= {"conv6_2": (512, 256, 3), "conv7_1": (128, 512, 1), "conv7_2": (256, 128, 3)}
    extra |= {"conv8_1": (128, 256, 1), "conv8_2": (256, 128, 3), "conv9_1": (128, 256, 1)}
    layers |= conv_layers({**extra, "conv9_2": (256, 128, 3)})
    for source, (channels, priors) in SOURCES.items():
        for kind, number in (("loc", 4 * priors), ("conf", classes * priors)):
            weight = drawn(number, channels, 3, 3) * np.float32(0.01)  # scores of some units
            layers[f"{source}_mbox_{kind}"] = [weight, drawn(number, scale=0.1)]
    return layers


def test_the_released_ssd300_gives_what_caffe_gives(tmp_path: Path) -> None:
    layers = ssd_layers(21)
    sides = dict(zip([f"{source}_mbox_priorbox" for source in SOURCES], SIDES))
    path = write_large(tmp_path / "VGG_VOC0712_SSD_300x300.caffemodel", layers, sides)
    detector = SSD.from_foreign(read_state_dict(path), str(path))
    assert detector is not None and detector.class_names == VOC_CLASSES
    image = photo(300, 300)
    with torch.no_grad():
        logits, deltas, boxes = detector.predict(detector.prepare_image(image).images)
        found = vgg16(seen_by_caffe(image, (104, 117, 123)), layers)
        x, maps = found["conv4_3"], []
        norm = x.square().sum(dim=1, keepdim=True).sqrt() + 1e-10
        maps.append(x / norm * torch.from_numpy(layers["conv4_3_norm"][0])[:, None, None])
        x = pool(found["conv5_3"], 3, 1, 1)
        x = conv(x, layers, "fc6", padding=6, dilation=6).relu()
        x = conv(x, layers, "fc7").relu()
        maps.append(x)
        for level, stride in ((6, 2), (7, 2), (8, 1), (9, 1)):
            x = conv(x, layers, f"conv{level}_1").relu()
            x = conv(x, layers, f"conv{level}_2", stride=stride, padding=stride - 1).relu()
            maps.append(x)
        # Each source: a convolution, Permute to (H, W, C), Flatten; then all of them in a row.
        by_kind = {
            kind: torch.cat(
                [
                    conv(x, layers, f"{source}_mbox_{kind}", padding=1)
                    .permute(0, 2, 3, 1)
                    .flatten(1)
                    for source, x in zip(SOURCES, maps)
                ],
                dim=1,
            )
            for kind in ("loc", "conf")
        }
    probs = by_kind["conf"].view(1, -1, 21).softmax(dim=2)
    torch.testing.assert_close(logits.softmax(dim=2), probs, atol=1e-4, rtol=0)
    close(deltas, by_kind["loc"].view(1, -1, 4))
    # prior_box_layer.cpp: the first place of the first map; ratio 2 after the two squares.
    for box, side in zip(boxes[:2], (30.0, math.sqrt(30 * 60))):
        torch.testing.assert_close(box, torch.tensor([4 - side / 2] * 2 + [4 + side / 2] * 2))
    w, h = 30 * math.sqrt(2), 30 / math.sqrt(2)
    torch.testing.assert_close(boxes[2], torch.tensor([4 - w / 2, 4 - h / 2, 4 + w / 2, 4 + h / 2]))


def test_default_boxes_are_those_that_the_file_says(tmp_path: Path) -> None:
    names = [f"{source}_mbox_priorbox" for source in SOURCES]
    other = [(21, 45), (45, 99), (99, 153), (153, 207), (207, 261), (261, 315)]
    path = tmp_path / "VGG_coco_SSD_300x300.caffemodel"
    write_large(path, ssd_layers(81), dict(zip(names, other)))
    detector = SSD.from_foreign(read_state_dict(path), str(path))
    assert detector is not None and len(detector.class_names) == 80
    wanted = (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05)  # ssd_coco.py's
    assert detector.scales == pytest.approx(wanted)
    write_large(path, ssd_layers(7), dict(zip(names, [(21, 50), *other[1:]])))
    with pytest.raises(DetkitError, match="SSD_300x300.caffemodel: default boxes of"):
        read_state_dict(path)
    write_large(path, ssd_layers(7))
    with pytest.raises(DetkitError, match="a detector of 6 classes, whose names"):
        SSD.from_foreign(read_state_dict(path), str(path))


def test_files_of_unknown_or_broken_networks_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "net.caffemodel"
    write(path, {"conv1": [drawn(20, 1, 5, 5)], "ip1": [drawn(5, 4)]})
    with pytest.raises(DetkitError, match=r"net.caffemodel: .* not known \(its layers begin conv1"):
        read_state_dict(path)
    layers = conv_layers(ZF) | {"fc7": fc(4096, 2)}
    layers["conv2"][0][3, 4, 1, 2] = np.nan
    write_large(path, layers)
    with pytest.raises(DetkitError, match="damaged: conv2 holds numbers that are not finite"):
        read_state_dict(path)
    layers = detector_layers(ZF, 1)
    del layers["rpn_bbox_pred"]
    write_large(path, layers)
    with pytest.raises(DetkitError, match=r"net.caffemodel: .* without its layer rpn_bbox_pred"):
        read_state_dict(path)
    write_large(path, detector_layers(ZF, 1))
    with pytest.raises(
        DetkitError, match=r"net.caffemodel: .*fc6.weight is of shape \(4096, 256\)"
    ):
        FasterRCNN.from_foreign(read_state_dict(path), str(path))
    write_large(path, detector_layers(ZF, 1, anchors=5))
    with pytest.raises(DetkitError, match="net.caffemodel: a detector of 5 anchors"):
        read_state_dict(path)


@pytest.mark.parametrize(
    ("layer", "blobs", "words"),
    [
        ("rpn_cls_score", [drawn(1, 256, 1, 1), drawn(1, scale=1)], "of 0 anchors"),
        ("bbox_pred", [drawn(83, 4096), drawn(83, scale=1)], "not of the shapes"),
        ("fc7", [np.array(1, np.float32)], "not known"),
        ("cls_score", [np.zeros((0, 4), np.float32)], "cls_score has a blob without numbers"),
    ],
)
def test_layers_of_odd_shapes_are_one_line(
    tmp_path: Path, layer: str, blobs: list[NDArray[np.float32]], words: str
) -> None:
    layers = detector_layers(ZF, 1) | {layer: blobs}
    path = write_large(tmp_path / "odd.caffemodel", layers)
    with pytest.raises(DetkitError, match=words) as caught:
        read_state_dict(path)
    assert "odd.caffemodel: " in str(caught.value) and "\n" not in str(caught.value)


def test_detect_takes_a_caffemodel_in_the_shell(tmp_path: Path) -> None:
    path = write_large(tmp_path / "zf.caffemodel", detector_layers(ZF, 6))
    cv2.imwrite(str(tmp_path / "a.png"), photo(70, 90))
    words = ("--set", "size=64", "--set", "max_size=96", "--device", "cpu")
    done = detkit("detect", path, tmp_path / "a.png", "-f", "jsonl", *words)
    assert done.returncode == 0 and '"detections": [' in done.stdout, done.stderr


@pytest.mark.slow
def test_training_starts_from_a_caffemodel_in_the_shell(tmp_path: Path) -> None:
    layers = detector_layers(ZF, 6)
    path = write_large(tmp_path / "zf.caffemodel", layers)
    data = tmp_path / "data"
    data.mkdir()
    lines = ["filename,width,height,class,xmin,ymin,xmax,ymax"]
    for number in range(4):
        cv2.imwrite(str(data / f"{number}.png"), np.full((80, 80, 3), 40 * number, np.uint8))
        lines.append(f"{number}.png,80,80,a,10,10,40,40")
    (data / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    words = ("--set", "size=64", "--set", "max_size=96", "--device", "cpu", "--max-steps", "1")
    words += ("--set", "batch_size=1", "--set", "freeze_layers=1", "-o", tmp_path / "run")
    done = detkit("train", data, "--model", "faster-rcnn", "--weights", path, *words)
    assert done.returncode == 0, done.stderr
    assert "zf.caffemodel: " in done.stderr and "taken; new from chance: head" in done.stderr
    trained = load_model(tmp_path / "run" / "last.safetensors")
    assert trained.config.backbone == "zf" and trained.config.std == (1 / 255,) * 3
    first = torch.from_numpy(layers["conv1"][0][:, ::-1].copy())
    torch.testing.assert_close(trained.backbone.get_parameter("blocks.conv1.weight").data, first)


def test_other_weights_keep_imagenets_mean(tmp_path: Path) -> None:
    assert starting_config(SSD, "zf", "none").mean == IMAGENET_MEAN
