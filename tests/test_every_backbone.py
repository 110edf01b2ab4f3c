"""Backbones within a detector: each trains a step, keeps what is fixed, and exports."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_contract import make, sample, total
from torch import nn

from detkit.detector import Detector
from detkit.detectors import load_backend
from detkit.inference.onnx_export import export_onnx

NEW = {
    "vgg19": 10,
    "vgg16_bn": 14,
    "googlenet": 4,
    "inception_v3": 10,
    "densenet121": 6,
    "mobilenet_v3_large": 4,
    "resnet152": 5,
    "convnext_tiny": 2,
}
QUICK = ("googlenet", "mobilenet_v3_large", "convnext_tiny")


def with_slow(names: list[str], quick: tuple[str, ...]) -> list[object]:
    return [n if n in quick else pytest.param(n, marks=pytest.mark.slow) for n in names]


def step(detector: Detector) -> None:
    """Learn from two images, by a step that no parameter with a gradient can come out of as is."""
    optimizer = torch.optim.SGD([p for p in detector.parameters() if p.requires_grad], lr=1e-3)
    loss = total(detector, detector.prepare([sample(0), sample(1)]))
    loss.backward()
    assert torch.isfinite(loss)
    optimizer.step()


@pytest.mark.parametrize("name", list(NEW))
def test_a_step_moves_all_but_the_fixed_blocks_and_their_statistics(name: str) -> None:
    detector = make(load_backend("ssd"), backbone=name, size=64).train()
    backbone = detector.backbone
    first = NEW[name]
    backbone.freeze_blocks(first)
    detector.train()
    before = {key: value.clone() for key, value in backbone.blocks.state_dict().items()}
    step(detector)
    fixed = set(list(backbone.blocks)[:first])
    for key, parameter in backbone.blocks.named_parameters():
        assert (parameter.grad is None) == (key.partition(".")[0] in fixed), key
    moved = {
        key for key, value in backbone.blocks.state_dict().items() if (value != before[key]).any()
    }
    assert not {key for key in moved if key.partition(".")[0] in fixed}
    means = {key for key in before if key.endswith("running_mean")}
    assert {key for key in means if key.partition(".")[0] not in fixed} <= moved


@pytest.mark.parametrize("name", list(NEW))
def test_what_pretrained_weights_fix_ends_where_the_finest_map_begins(name: str) -> None:
    # VGGs: the detectors of regions fix them up to conv2, as Fast R-CNN sec. 4.5.
    backend = load_backend("faster-rcnn" if name.startswith("vgg") else "ssd")
    with torch.device("meta"):
        backbone = make(backend, backbone=name).backbone
        images = torch.empty(1, 3, 128, 128)
        x = images
        for block in list(backbone.blocks.values())[: backbone.generic_blocks]:
            x = block(x)
    assert backbone.generic_blocks == NEW[name]
    assert x.shape[2:] == (32, 32)


@pytest.mark.parametrize("name", with_slow(list(NEW), QUICK))
def test_it_exports_to_what_it_detects(name: str, tmp_path: Path) -> None:
    detector = make(load_backend("ssd"), backbone=name, size=64)
    generator = torch.Generator().manual_seed(0)
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):  # so that a norm left out would show
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.uniform_(-0.1, 0.1, generator=generator)
            module.running_var.uniform_(0.8, 1.2, generator=generator)
    parity = export_onnx(detector.eval(), tmp_path / "m.onnx")
    assert parity.scores < 1e-4 and parity.boxes < 1e-2


@pytest.mark.parametrize("name", ["vgg19", "vgg16_bn"])
def test_vggs_lend_fc6_and_fc7_to_regions(name: str) -> None:
    with torch.device("meta"):
        detector = make(load_backend("fast-rcnn"), backbone=name, size=None)
    assert [tap.stride for tap in detector.backbone.taps] == [16]
    assert {"fc6", "fc7"} <= set(detector.backbone.blocks)
    assert detector.head.class_logits.in_features == 4096


@pytest.mark.parametrize(
    ("name", "channels"), [("resnet152", 2048), ("convnext_tiny", 768), ("densenet121", 1024)]
)
def test_a_single_map_has_the_last_stage_as_its_head(name: str, channels: int) -> None:
    with torch.device("meta"):
        detector = make(load_backend("fast-rcnn"), backbone=name, neck="single")
        pooled = torch.empty(3, detector.backbone.taps[-1].channels, 14, 14)
        made = detector.backbone.finish(pooled)
    assert detector.head.pooling.size == 14
    assert made.shape == (3, channels, 7, 7)
    assert detector.head.class_logits.in_features == channels


@pytest.mark.parametrize("name", ["rcnn", "faster-rcnn", "yolov1"])
@pytest.mark.parametrize("backbone", ["mobilenet_v3_large", "googlenet"])
def test_every_backend_takes_them(name: str, backbone: str) -> None:
    detector = make(load_backend(name), backbone=backbone).train()
    step(detector)
    (found,) = detector.eval().detect(detector.prepare([sample(2)]))
    assert found.boxes.shape == (len(found.scores), 4)
