"""Truncated SVD of fully connected layers: eq. 5 of Fast R-CNN, and whole detectors."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from running import detkit
from test_contract import sample
from torch import nn

from detkit.detectors import load_backend
from detkit.detectors.fast_rcnn import FastRCNN, FastRCNNConfig
from detkit.detectors.faster_rcnn import FasterRCNN, FasterRCNNConfig
from detkit.errors import UsageError
from detkit.inference.models import load_model
from detkit.model_file import save_model
from detkit.networks.truncated_svd import truncated

CONFIG = FasterRCNNConfig(backbone="tiny", size=96, head_width=48)


def test_all_singular_values_give_the_layer_itself() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(20, 12), torch.randn(5, 20)
    torch.testing.assert_close(truncated(layer, 12)(x), layer(x), atol=1e-5, rtol=1e-5)


def test_the_error_is_that_of_the_singular_values_left_out_and_no_less_is_possible() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(20, 12)
    left_out = torch.linalg.svdvals(layer.weight.detach())[5:]
    both = truncated(layer, 5)
    product = both[1].weight @ both[0].weight
    error = float((product - layer.weight).norm().detach())
    assert error == pytest.approx(math.sqrt(float((left_out**2).sum())), rel=1e-4)  # Eckart-Young
    weights = sum(p.numel() for p in both.parameters()) - layer.out_features
    assert weights == 5 * (20 + 12)  # sec. 3.1: t (u + v)


@pytest.mark.parametrize("rank", [0, 13])
def test_a_rank_that_there_is_not_is_refused(rank: int) -> None:
    with pytest.raises(ValueError, match="between 1 and 12"):
        truncated(nn.Linear(20, 12), rank)


def test_a_detector_with_all_its_singular_values_detects_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    detector = FasterRCNN(dataclasses.replace(CONFIG, score_thresh=0.0), ["a", "b"]).eval()
    shorter = detector.compressed((48, 48))
    batch = detector.prepare([sample(0)])
    before, after = detector.detect(batch)[0], shorter.detect(batch)[0]
    np.testing.assert_allclose(after.boxes, before.boxes, atol=1e-2)
    np.testing.assert_allclose(after.scores, before.scores, atol=1e-5)
    save_model(tmp_path / "m.safetensors", shorter)
    again = load_model(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(again.detect(batch)[0].boxes, after.boxes)


def test_few_singular_values_make_a_small_model_and_only_of_the_layer_named() -> None:
    detector = FasterRCNN(CONFIG, ["a"])
    shorter = detector.compressed((8, 0))
    shapes = {name: tuple(p.shape) for name, p in shorter.head.named_parameters()}
    assert shapes["fc6.0.weight"] == (8, 128 * 49) and shapes["fc6.1.weight"] == (48, 8)
    assert shapes["fc7.weight"] == (48, 48)
    for name, tensor in detector.rpn.state_dict().items():
        assert torch.equal(tensor, shorter.rpn.state_dict()[name])
    with pytest.raises(UsageError, match="before"):
        shorter.compressed((4, 4))


def test_vgg16s_own_layers_are_shortened_as_in_the_paper() -> None:
    with torch.device("meta"):
        detector = FastRCNN(FastRCNNConfig(backbone="vgg16", svd=(1024, 256)), ["a"])
    shapes = {name: tuple(p.shape) for name, p in detector.backbone.blocks.named_parameters()}
    assert shapes["fc6.0.weight"] == (1024, 25088) and shapes["fc6.1.weight"] == (4096, 1024)
    assert shapes["fc7.0.weight"] == (256, 4096) and shapes["fc7.1.weight"] == (4096, 256)


def test_what_cannot_be_shortened_is_said() -> None:
    with pytest.raises(UsageError, match="no fully connected layer fc6"):
        FasterRCNN(FasterRCNNConfig(backbone="resnet18", neck="single", svd=(8, 8)), ["a"])
    with pytest.raises(UsageError, match="more than the 48"):
        FasterRCNN(CONFIG, ["a"]).compressed((49, 0))
    with pytest.raises(UsageError, match="each must be at least 0"):
        dataclasses.replace(CONFIG, svd=(-1, 0)).validate()


def test_the_command_writes_a_smaller_model_and_refuses_others(tmp_path: Path) -> None:
    model, out = tmp_path / "m.safetensors", tmp_path / "small.safetensors"
    save_model(model, FasterRCNN(CONFIG, ["a"]), data_hash="abc")
    done = detkit("compress", model, "--svd", "8,4", "-o", out)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "million parameters of" in done.stderr
    assert load_model(out).config.svd == (8, 4)  # type: ignore[attr-defined]
    assert detkit("compress", model, "--svd", "8,4", "-o", out).returncode == 2
    assert detkit("compress", model, "--svd", "8", "-o", tmp_path / "x").returncode == 2
    ssd = load_backend("ssd")
    save_model(model, ssd(ssd.config_class(size=96), ["a"]))
    refused = detkit("compress", model, "--svd", "8,4", "-o", tmp_path / "x")
    assert refused.returncode == 2 and "no fully connected layers" in refused.stderr
