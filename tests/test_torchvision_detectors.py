"""Torchvision's published detectors: the same detections from the same weights, and what follows.

The published files cannot be had in tests; torchvision's own constructors, with random weights
that are spread, stand for them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from test_contract import sample, total
from torch import Tensor, nn
from toy import photo_like

from detkit.detector import Detector
from detkit.detectors import load_backend
from detkit.detectors.faster_rcnn import FasterRCNN
from detkit.inference.models import new_model, open_model
from detkit.inference.onnx_export import export_onnx
from detkit.networks import torchvision_detectors
from detkit.networks.roi_pooling import RoIPooling
from detkit.networks.torchvision_detectors import Published
from detkit.structures import Sample

# Our name, the backend, torchvision's constructor.
MODELS = {
    "fasterrcnn-mobilenet-v3-large-fpn-coco": ("faster-rcnn", "fasterrcnn_mobilenet_v3_large_fpn"),
    "fasterrcnn-mobilenet-v3-large-320-fpn-coco": (
        "faster-rcnn",
        "fasterrcnn_mobilenet_v3_large_320_fpn",
    ),
    "fasterrcnn-resnet50-fpn-v2-coco": ("faster-rcnn", "fasterrcnn_resnet50_fpn_v2"),
    "ssdlite320-mobilenet-v3-large-coco": ("ssd", "ssdlite320_mobilenet_v3_large"),
}
NAMES = list(MODELS)
SMALL, LARGE = [NAMES[1], NAMES[3]], [NAMES[0], NAMES[2]]


def photo() -> Tensor:
    """Return a picture with structure, (3, H, W) uint8."""
    return torch.from_numpy(photo_like(0)).permute(2, 0, 1).contiguous()


def published(name: str, num_classes: int = 91) -> nn.Module:
    """Return torchvision's model with random weights whose scores are well spread."""
    torch.manual_seed(0)
    build = getattr(torchvision.models.detection, MODELS[name][1])
    peer: nn.Module = build(weights=None, weights_backbone=None, num_classes=num_classes).eval()
    for layer, module in peer.named_modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", mode="fan_in")
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.3 if layer.endswith("bn3") else 0.8, 1.2)
            nn.init.normal_(module.bias, std=0.1)
    # Norms first see images, so that no map vanishes or grows, and then are moved off it.
    norms = [module for module in peer.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        peer.backbone(torch.rand(2, 3, 256, 256) * 4 - 2)
        for norm in norms:
            norm.eval()
            norm.running_mean += 0.05 * torch.randn_like(norm.running_mean)
            norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.8, 1.2)
    spreads: list[tuple[nn.Module, float]] = []
    if "ssd" in name:
        for kind, spread in (("classification_head", 1.5), ("regression_head", 1.0)):
            spreads += [(one[1], spread) for one in getattr(peer.head, kind).module_list]
    else:
        box = peer.roi_heads.box_predictor
        spreads = [(peer.rpn.head.cls_logits, 1.0), (peer.rpn.head.bbox_pred, 0.3)]
        spreads += [(box.cls_score, 1.5), (box.bbox_pred, 0.5)]
    hooks = [layer.register_forward_hook(to_spread(spread)) for layer, spread in spreads]
    with torch.no_grad():
        peer([photo().float() / 255])
    for hook in hooks:
        hook.remove()
    return peer


def to_spread(wanted: float) -> Callable[[Any, Any, Tensor], Tensor]:
    """Return a hook that gives a layer weights whose outputs lie so far around zero."""

    def scaled(layer: Any, given: Any, made: Tensor) -> Tensor:
        dims = [dim for dim in range(made.ndim) if dim != 1]
        spread = (made - made.mean(dim=dims, keepdim=True)).square().mean().sqrt()
        factor = wanted / float(spread) if spread > 0 else 1.0
        layer.bias.sub_(made.mean(dim=dims)).mul_(factor)
        layer.weight.mul_(factor)
        return (made - made.mean(dim=dims, keepdim=True)) * factor

    return scaled


@pytest.fixture(scope="module", params=NAMES)
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, nn.Module, Path]:
    """A model's name, torchvision's own, and the file of its weights."""
    peer = published(request.param)
    file = tmp_path_factory.mktemp("published") / f"{MODELS[request.param][1]}.pth"
    torch.save(peer.state_dict(), file)
    return request.param, peer, file


@pytest.fixture
def detector(
    model: tuple[str, nn.Module, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Detector:
    """Our model of that name, from that file as if it were downloaded."""
    name, _, file = model
    monkeypatch.setattr(Published, "url", property(lambda self: file.as_uri()))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    return load_backend(MODELS[name][0]).from_published(name)


def as_sample(image: Tensor) -> Sample:
    none = torch.zeros(0)
    return Sample(image, none.view(0, 4), none.long(), none.bool())


@pytest.mark.parametrize("name", NAMES)
def test_the_detections_are_torchvisions(name: str) -> None:
    peer = published(name, num_classes=5)
    backend = load_backend(MODELS[name][0])
    detector = backend(backend.published[name].config, ["a", "b", "c", "d"]).eval()
    state = backend.convert_foreign(peer.state_dict())
    assert state is not None
    detector.load_state_dict(state)
    image = photo()
    with torch.no_grad():
        (theirs,) = peer([image.float() / 255])
    (ours,) = detector.detect(detector.prepare([as_sample(image)]))
    assert len(ours.scores) == len(theirs["scores"]) > 20
    torch.testing.assert_close(torch.tensor(ours.scores), theirs["scores"], atol=1e-4, rtol=0)
    # Scores that differ in the sixth digit may stand the other way round, and the last ones may
    # be others; all the rest must be there, box for box.
    worst = float(theirs["scores"][-1]) + 1e-4
    compared = 0
    for box, score, label in zip(theirs["boxes"], theirs["scores"], theirs["labels"] - 1):
        near = (ours.labels == int(label)) & (abs(ours.scores - float(score)) < 1e-4)
        distance = np.abs(ours.boxes[near] - box.numpy()).max(axis=1, initial=0.0)
        assert float(score) < worst or distance.min(initial=9.0) < 1e-2
        compared += float(score) >= worst
    assert compared > 20


def test_proposals_end_at_the_threshold_of_objectness_as_torchvisions() -> None:
    name = torchvision_detectors.MOBILENET_320
    peer = published(name, num_classes=5)
    nn.init.constant_(peer.rpn.head.cls_logits.bias, -7.5)
    backend = load_backend("faster-rcnn")
    detector = backend(backend.published[name].config, ["a", "b", "c", "d"]).eval()
    detector.load_state_dict(backend.convert_foreign(peer.state_dict()) or {})
    theirs: list[Tensor] = []
    peer.rpn.register_forward_hook(lambda module, given, made: theirs.extend(made[0]))
    with torch.no_grad():
        peer([photo().float() / 255])
    assert isinstance(detector, FasterRCNN)
    (ours,) = detector.propose(detector.prepare([as_sample(photo())]))
    assert 0 < len(theirs[0]) < 100  # of the 150 there may be
    assert len(ours) == len(theirs[0])
    # Scores that differ in the last digit may stand the other way round.
    apart = (ours[:, None] - theirs[0]).abs().amax(dim=2)
    assert max(apart.amin(dim=0).max(), apart.amin(dim=1).max()) < 1e-2


def test_of_two_maps_of_one_stride_the_first_is_pooled_as_torchvision_does() -> None:
    torch.manual_seed(0)
    maps = [torch.randn(1, 4, 25, 42), torch.randn(1, 4, 25, 42)]
    regions = torch.tensor([[10.0, 10.0, 60.0, 90.0], [0.0, 0.0, 1333.0, 790.0]])
    peer = torchvision.ops.MultiScaleRoIAlign(["0", "1"], 7, 2)
    wanted = peer(dict(zip("01", maps)), [regions], [(800, 1333)])
    ours = RoIPooling("align", 7, (32, 32))(maps, [regions])
    torch.testing.assert_close(ours, wanted)
    assert not torch.allclose(maps[0], maps[1])


def test_the_published_classes_without_a_name_are_none_of_ours(
    model: tuple[str, nn.Module, Path], detector: Detector
) -> None:
    name, peer, _ = model
    categories = detector.published[name].categories
    assert list(detector.class_names) == [word for word in categories[1:] if word != "N/A"]
    assert len(detector.class_names) == 80
    image = torch.rand(1, 3, 320, 320)
    last = [0, *(i for i, word in enumerate(categories) if i and word != "N/A")]
    with torch.no_grad():
        if name.startswith("ssd"):
            maps = list(peer.backbone(image).values())
            wanted = peer.head(maps)["cls_logits"][..., last]
            torch.testing.assert_close(detector.predict(image)[0], wanted, atol=1e-3, rtol=1e-3)
        else:
            regions = torch.rand(7, peer.backbone.out_channels, 7, 7)
            hidden = peer.roi_heads.box_head(regions)
            logits, deltas = peer.roi_heads.box_predictor(hidden)
            head = detector.head
            if head.has_convs:
                own = head.fc6(head.convs(regions).flatten(1)).relu()
            else:
                own = head.fc7(head.fc6(regions.flatten(1)).relu()).relu()
            torch.testing.assert_close(head.class_logits(own), logits[:, last])
            theirs = deltas.view(7, 91, 4)[:, last[1:]].flatten(1)
            torch.testing.assert_close(head.deltas(own), theirs)


def test_the_file_is_known_for_what_it_is(model: tuple[str, nn.Module, Path]) -> None:
    name, peer, _ = model
    # The two MobileNets' tensors are alike; without its name a file is the larger one's.
    alike = torchvision_detectors.MOBILENET if "mobilenet" in name and "ssd" not in name else name
    assert torchvision_detectors.name_of(peer.state_dict()) == alike


def test_a_file_starts_a_training_on_other_classes(
    model: tuple[str, nn.Module, Path], detector: Detector
) -> None:
    name, _, file = model
    backend = MODELS[name][0]
    start, _ = new_model(backend, ["dark", "light"], weights=str(file))
    expected = "mobilenet_v3_large" if "mobilenet" in name else "resnet50"
    assert start.config.backbone.startswith(expected)
    own, theirs = start.state_dict(), detector.state_dict()
    foreign = start.class_tensors()
    assert foreign and all(re.match(r"(head|class_head)\.", key) for key in foreign)
    for key in own.keys() - foreign:
        assert torch.equal(own[key], theirs[key]), key
    assert start.backbone.num_frozen == start.backbone.generic_blocks > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_step_of_it_reaches_every_parameter_that_is_not_fixed(name: str) -> None:
    backend = load_backend(MODELS[name][0])
    settings: dict[str, Any] = {"size": 128} | ({} if backend.name == "ssd" else {"max_size": 160})
    if backend.name == "ssd":
        settings = {"size": 320}
    torch.manual_seed(0)
    config = backend.published[name].config
    detector = backend(type(config)(**(vars(config) | settings)), ("dark", "light")).train()
    detector.backbone.freeze_blocks(detector.backbone.generic_blocks)
    total(detector, detector.prepare([sample(0), sample(1)])).backward()
    without = {key for key, one in detector.named_parameters() if one.grad is None}
    fixed = list(detector.backbone.blocks)[: detector.backbone.generic_blocks]
    expected = {
        f"backbone.blocks.{block}.{key}"
        for block in fixed
        for key, _ in detector.backbone.blocks[block].named_parameters()
    }
    assert without == expected


@pytest.mark.slow  # `test_contract` exports each backend, `test_onnx_sizes` at every kind of size
@pytest.mark.parametrize("name", NAMES)
def test_it_exports_to_what_it_detects(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "published.pth"
    torch.save(published(name).state_dict(), file)
    monkeypatch.setattr(Published, "url", property(lambda self: file.as_uri()))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    detector = load_backend(MODELS[name][0]).from_published(name)
    parity = export_onnx(detector, tmp_path / "m.onnx")
    assert parity.scores < 1e-3 and parity.boxes / parity.side < 1e-3


def test_a_models_name_opens_it(model: tuple[str, nn.Module, Path], detector: Detector) -> None:
    opened = open_model(model[0])  # the file is there since `detector` asked for it
    assert isinstance(opened, Detector) and not opened.training
    assert opened.class_names == detector.class_names and opened.config == detector.config


def test_weights_of_another_backend_are_not_taken() -> None:
    with torch.device("meta"):
        ssdlite = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
            weights=None, weights_backbone=None
        ).state_dict()
    assert load_backend("faster-rcnn").convert_foreign(ssdlite) is None
    assert load_backend("ssd").convert_foreign(ssdlite) is not None
