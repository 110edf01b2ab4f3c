"""The papers' Caffe networks train, freeze and export in each detector of regions.

What they compute is compared with Caffe's in `test_caffe_weights.py`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_contract import make, sample, total

from detkit.detector import Detector
from detkit.detectors import load_backend
from detkit.networks.caffe_networks import DropoutScaledInTest

NAMES = ("caffenet", "bvlc_alexnet", "zf", "vgg_cnn_m_1024")
SLOW = pytest.mark.slow
BACKENDS = ("rcnn", "fast-rcnn", "faster-rcnn")


def small(backend: str, backbone: str, **settings: object) -> Detector:
    """Return a detector on images of 96 pixels; its fc6 and fc7 are short, but for R-CNN's."""
    if backend != "rcnn":
        settings |= {"svd": (8, 8), "max_size": 160}
    return make(load_backend(backend), backbone=backbone, **settings)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_layer_of_a_network_learns_in_a_step(backend: str, name: str) -> None:
    sizes = {"crops_per_batch": 4} if backend == "rcnn" else {}
    detector = small(backend, name, **sizes).train()
    total(detector, detector.prepare([sample(0)])).backward()
    for key, parameter in detector.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), key
        assert bool(parameter.grad.any()), key


@pytest.mark.parametrize("name", NAMES)
def test_what_the_released_solvers_fix_is_frozen_once_there_are_weights(name: str) -> None:
    for backend in BACKENDS:
        with torch.device("meta"):
            detector = small(backend, name)
        for pretrained in (False, True):
            detector.backbone.pretrained = pretrained
            detector.load_weights("none")
            frozen = {key for key, one in detector.named_parameters() if not one.requires_grad}
            # fast-rcnn's train.prototxt: conv1 has lr_mult 0; ZF and R-CNN train all.
            fixes = pretrained and backend != "rcnn" and name != "zf"
            convs = {"backbone.blocks.conv1.weight", "backbone.blocks.conv1.bias"}
            assert frozen == (convs if fixes else set()), backend


@pytest.mark.parametrize(
    "name",
    [name if name in ("caffenet", "zf") else pytest.param(name, marks=SLOW) for name in NAMES],
)
def test_an_export_detects_the_same(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from detkit.inference.onnx import run_onnx
    from detkit.inference.onnx_export import export_onnx

    detector = small("faster-rcnn", name, score_thresh=0.005, max_detections=10, rpn_min_size=1.0)
    assert export_onnx(detector.eval(), tmp_path / "m.onnx").holds
    image = sample(0, size=(96, 96))
    (wanted,) = detector.detect(detector.prepare([image]))
    found = run_onnx(tmp_path / "m.onnx", image.image.permute(1, 2, 0).numpy())
    assert len(wanted.boxes) and found.labels.tolist() == wanted.labels.tolist()
    np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-4)
    np.testing.assert_allclose(found.boxes, wanted.boxes, atol=0.05)


@pytest.mark.parametrize("backend", ["ssd", "yolov1"])
@pytest.mark.parametrize("name", ["caffenet", "vgg_cnn_m_1024"])
def test_they_serve_the_other_backends_too(backend: str, name: str) -> None:
    detector = make(load_backend(backend), backbone=name, size=128).train()
    total(detector, detector.prepare([sample(0), sample(1)])).backward()
    for key, parameter in detector.named_parameters():
        assert parameter.grad is not None, key


@pytest.mark.parametrize("name", NAMES)
def test_anchors_stand_sixteen_pixels_apart_whatever_places_the_map_has(name: str) -> None:
    with torch.device("meta"):
        detector = small("faster-rcnn", name)
    anchors = detector.reference_boxes((96, 128)).view(-1, 9, 4)
    centres = (anchors[:, 0, :2] + anchors[:, 0, 2:]) / 2
    columns = int((centres[:, 1] == 8).sum())
    torch.testing.assert_close(centres[:columns, 0], 8.0 + 16 * torch.arange(columns))
    torch.testing.assert_close(
        centres[::columns, 1], 8.0 + 16 * torch.arange(len(centres) // columns)
    )


def test_dropout_that_scales_in_test_keeps_values_and_halves_them_later() -> None:
    dropout, x = DropoutScaledInTest(), torch.rand(100, 100) + 1
    torch.manual_seed(0)
    dropped = dropout.train()(x)
    assert set(torch.unique(dropped / x).tolist()) == {0.0, 1.0}
    assert abs(float((dropped > 0).float().mean()) - 0.5) < 0.02
    torch.testing.assert_close(dropout.eval()(x), x / 2)


def test_shortened_layers_stand_in_the_place_of_fc6_and_fc7() -> None:
    detector = small("fast-rcnn", "vgg_cnn_m_1024")
    rest = dict(detector.backbone.rest().named_modules())
    shapes = [tuple(one.weight.shape) for one in rest.values() if isinstance(one, torch.nn.Linear)]
    assert shapes == [(8, 18432), (4096, 8), (8, 4096), (1024, 8)]
