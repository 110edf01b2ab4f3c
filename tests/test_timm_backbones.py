"""Backbones of timm, where it is installed; without it the line that says what to install."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_contract import make, sample, total
from torch import nn

from detkit.detectors import load_backend
from detkit.errors import MissingPackage, UsageError, is_installed
from detkit.inference.models import starting_config
from detkit.inference.onnx_export import export_onnx
from detkit.networks import backbones, pretrained

needs_timm = pytest.mark.skipif(not is_installed("timm"), reason="needs timm")
# A sequence of layers; one network with several maps; maps with channels last; a single stride.
KINDS = (
    "resnet18",
    "convnext_atto",
    "efficientnet_b0",
    "swin_tiny_patch4_window7_224",
    "vit_tiny_patch16_224",
)


@pytest.mark.skipif(is_installed("timm"), reason="timm is installed")
def test_without_timm_one_line_says_what_to_install() -> None:
    with pytest.raises(MissingPackage, match=r"--backbone timm:resnet18 needs timm: pip install"):
        backbones.build("timm:resnet18")


def peer_of(name: str) -> nn.Module:
    """Return timm's classifier with random weights, its norms too."""
    import timm

    torch.manual_seed(1)
    size = {"dynamic_img_size": True} if name.startswith(("swin", "vit")) else {}
    network: nn.Module = timm.create_model(name, **size).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
    return network


@needs_timm
@pytest.mark.parametrize("name", KINDS)
def test_the_maps_are_those_of_the_classifier_with_the_same_weights(name: str) -> None:
    peer = peer_of(name)
    backbone = backbones.build(f"timm:{name}").eval()
    backbone.load_classifier(peer.state_dict(), "peer")
    assert backbone.pretrained
    image = torch.randn(1, 3, 128, 192)
    with torch.no_grad():
        theirs = peer.forward_intermediates(image, intermediates_only=True)  # type: ignore[operator]
        if name == "convnext_atto":
            theirs = theirs[-4:]
        maps = backbone(image)
        assert len(maps) == len(backbone.taps)
        for tap, x in zip(backbone.taps, maps):
            assert x.shape == (1, tap.channels, 128 // tap.stride, 192 // tap.stride)
        torch.testing.assert_close(maps[-1], theirs[-1], rtol=1e-4, atol=1e-4)


@needs_timm
@pytest.mark.parametrize("backend", ["ssd", "faster-rcnn", "yolov1"])
@pytest.mark.parametrize("name", KINDS)
def test_a_detector_learns_on_it_and_looks_at_images_of_any_size(name: str, backend: str) -> None:
    detector = make(load_backend(backend), backbone=f"timm:{name}", size=75).train()
    total(detector, detector.prepare([sample(0), sample(1)])).backward()
    assert all(p.grad is not None for p in detector.parameters())
    (found,) = detector.eval().detect(detector.prepare([sample(2, size=(33, 71))]))
    assert found.boxes.shape == (len(found.scores), 4)


@needs_timm
@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0"])
def test_it_exports_to_what_it_detects(name: str, tmp_path: Path) -> None:
    detector = make(load_backend("ssd"), backbone=f"timm:{name}", size=64)
    detector.backbone.load_classifier(peer_of(name).state_dict(), "peer")
    parity = export_onnx(detector.eval(), tmp_path / "m.onnx")
    assert parity.scores < 1e-4 and parity.boxes < 1e-2


@needs_timm
def test_pretrained_weights_fix_a_sequence_up_to_stride_4() -> None:
    backbone = backbones.build("timm:resnet18")
    backbone.load_classifier(peer_of("resnet18").state_dict(), "peer")
    backbone.freeze_blocks(backbone.generic_blocks)
    backbone.train()
    sum(x.sum() for x in backbone(torch.randn(2, 3, 64, 64))).backward()
    without = {
        key.partition(".")[0] for key, p in backbone.blocks.named_parameters() if p.grad is None
    }
    assert without == {"conv1", "bn1", "layer1"}


@needs_timm
def test_a_name_there_is_not_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="timm has no such network; did you mean efficientnet_b0"):
        backbones.build("timm:eficientnet_b0")


@needs_timm
def test_a_network_of_one_image_size_is_refused_in_a_line() -> None:
    with pytest.raises(UsageError, match="levit_128: hands out no feature maps") as caught:
        backbones.build("timm:levit_128")
    assert "\n" not in str(caught.value)


@needs_timm
def test_images_are_normalised_as_its_weights_were_trained() -> None:
    config = starting_config(load_backend("ssd"), "timm:vit_tiny_patch16_224", "none")
    assert config.mean == config.std == (0.5, 0.5, 0.5)


@needs_timm
def test_published_weights_are_asked_for_by_a_name_of_their_own() -> None:
    address, file = pretrained.published_file("timm:resnet18.a1_in1k") or ("", "")
    assert address == "https://huggingface.co/timm/resnet18.a1_in1k/resolve/main/model.safetensors"
    assert file == "timm-resnet18.a1_in1k.safetensors"
