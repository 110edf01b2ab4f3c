"""ONNX files of Faster R-CNN: images of any number and size a run, or of a size that was asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_onnx_ends import CLASSES, Plain, found_in, picture

from detkit.cli import main
from detkit.cli.export_checks import network_input
from detkit.detector import Detector
from detkit.detectors import load_backend
from detkit.errors import ExitCode, UsageError
from detkit.geometry.nms import nms_survivors
from detkit.inference.onnx import NetworkSize, OnnxDetector
from detkit.inference.onnx_ends import with_ends
from detkit.inference.onnx_export import _in_order, exported
from detkit.inference.onnx_int8 import quantised
from detkit.model_file import save_model
from detkit.networks.winograd import use_winograd
from detkit.transforms.preparation import shorter_side

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

# Portrait, landscape, square, smaller than the network's least side, long and narrow.
SIZES = ((120, 80), (90, 170), (96, 96), (17, 30), (60, 500))


def faster_rcnn(**settings: object) -> Detector:
    backend = load_backend("faster-rcnn")
    torch.manual_seed(0)
    values = {"backbone": "tiny", "size": 96, "score_thresh": 0.005, **settings}
    return backend(backend.config_class(**values), CLASSES).eval()


@pytest.fixture(scope="module")
def free() -> tuple[Detector, bytes]:
    """Return a detector as `detect` runs it, with Winograd's convolutions, and its file."""
    detector = faster_rcnn()
    assert use_winograd(detector) > 0
    content, parity = exported(detector)
    assert parity.holds and parity.side > 96
    return detector, content


def test_a_file_of_any_size_has_the_detectors_candidates_at_each(
    free: tuple[Detector, bytes],
) -> None:
    detector, content = free
    model = OnnxDetector(content)
    assert model.at_once is None and model.input_shape[1:] == (3, "height", "width")
    for seed, size in enumerate(SIZES):
        pair = [picture(seed, *size), picture(seed + 50, *size)]
        batch = detector.joined([detector.prepare_image(image) for image in pair])
        height, width = batch.sizes[0]
        with torch.no_grad():
            wanted = detector.candidates(batch)
        # Of the same pixels, two images at once.
        found = model.run(batch.images[:, :, :height, :width].numpy())
        for one, boxes, scores in zip(wanted, *map(torch.from_numpy, found), strict=True):
            number = len(one.scores)
            assert 0 < number <= scores.shape[0] and not scores[number:].any()
            expected = one.boxes[None], one.scores[None]
            got = _in_order(expected, (boxes[None, :number], scores[None, :number]), side=width)
            torch.testing.assert_close(got[0], expected[0], atol=0.01, rtol=0)
            torch.testing.assert_close(got[1], expected[1], atol=1e-5, rtol=0)


def test_the_files_rule_of_sizes_is_the_models() -> None:
    generator = np.random.default_rng(0)
    rule = NetworkSize((600, 1000), "free")
    for height, width in generator.integers(1, 3000, (500, 2)).tolist():
        assert rule(height, width) == shorter_side(600, 1000, height, width)


def test_pixels_and_boxes_in_a_file_of_any_size_find_what_it_does_without(
    free: tuple[Detector, bytes],
) -> None:
    _, content = free
    images = [picture(seed, *size) for seed, size in enumerate(SIZES)]
    plain = found_in(content, images)
    ends = [with_ends(content, raw=raw, nms=True) for raw in (False, True)]
    for file, tolerance in zip(ends, (1e-5, 1e-3), strict=True):
        for wanted, found in zip(plain, found_in(file, images), strict=True):
            number = min(20, len(wanted.scores))
            assert number > 3 and abs(len(found.scores) - len(wanted.scores)) <= 2
            np.testing.assert_allclose(
                found.scores[:number], wanted.scores[:number], atol=tolerance
            )
    model = OnnxDetector(ends[1])
    one, other = picture(1, 90, 170), picture(2, 90, 170)
    both = model.detect(model.joined([model.prepare_image(image) for image in (one, other)]))
    for alone, together in zip(found_in(ends[1], [one, other]), both, strict=True):
        np.testing.assert_allclose(together.scores, alone.scores, atol=1e-5)
        assert (together.boxes[:, 2:] <= (170, 90)).all()


def test_a_file_of_any_size_is_quantised(free: tuple[Detector, bytes]) -> None:
    _, content = free
    images = [picture(seed, *size) for seed, size in enumerate(SIZES[:3])]
    small = quantised(content, iter(images))
    assert len(small) < 0.5 * len(content)
    before, after = (
        found_in(content, images),
        found_in(with_ends(small, raw=True, nms=True), images),
    )
    for one, other in zip(before, after, strict=True):
        assert len(other.scores) and abs(one.scores[0] - other.scores[0]) < 0.1


def test_a_size_that_was_asked_is_fixed_and_images_are_fitted_into_it() -> None:
    # On one map drawn pictures give some anchors the same score: equal ones keep their order.
    detector = faster_rcnn(neck="single", roi_pooling="pool")
    content, parity = exported(detector, size=(96, 160), batch_size=1)
    model = OnnxDetector(content)
    assert parity.holds and model.input_shape == (1, 3, 96, 160)
    assert model.rule == NetworkSize((96, 160), "fit")
    (found,) = found_in(content, [picture(1, 400, 100)])
    assert len(found.scores) and (found.boxes[:, 2:] <= (100, 400)).all()


def test_sizes_that_cannot_be_are_told_in_one_line() -> None:
    for size in ("any", (40, 40)):
        with pytest.raises(UsageError, match=r"--size .*: plain works on images of one size, "):
            exported(Plain().eval(), size=size)  # type: ignore[arg-type]
    assert network_input("any") == "any" and network_input("320x480") == (320, 480)
    for word in ("320", "0x5", "any5", "320x", "-3x40", "99999x99999", "３２x４"):
        with pytest.raises(UsageError, match="expected any, or height x width"):
            network_input(word)


def test_survivors_of_a_batch_are_those_of_each_image_by_a_loop() -> None:
    torch.manual_seed(0)
    corners = torch.rand(2, 60, 2) * 40
    boxes = torch.cat([corners, corners + 5 + torch.rand(2, 60, 2) * 30], dim=2)
    scores = torch.randn(2, 60)
    scores[1, ::3] = -torch.inf
    found = nms_survivors(boxes, scores, 0.4, 9)
    for image in range(2):
        left = sorted(
            (i for i in range(60) if scores[image, i] > -torch.inf), key=lambda i: -scores[image, i]
        )
        kept: list[int] = []
        while left and len(kept) < 9:
            best = left.pop(0)
            kept.append(best)
            left = [i for i in left if overlap(boxes[image, best], boxes[image, i]) <= 0.4]
        assert sorted(kept) == found[image].nonzero().flatten().tolist()


def overlap(one: torch.Tensor, other: torch.Tensor) -> float:
    width, height = (
        max(0.0, float(min(one[i + 2], other[i + 2]) - max(one[i], other[i]))) for i in (0, 1)
    )
    areas = [float((box[2] - box[0]) * (box[3] - box[1])) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


def test_the_command_refuses_any_size_of_ssd_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backend = load_backend("ssd")
    detector = backend(backend.config_class(backbone="tiny", size=96), CLASSES)
    model, out = tmp_path / "m.safetensors", tmp_path / "m.onnx"
    save_model(model, detector, data_hash=None, scores=None)
    with pytest.raises(SystemExit) as end:
        main(["export", str(model), "-o", str(out), "--size", "any"])
    assert end.value.code == ExitCode.USAGE and not out.exists()
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "--size any: ssd works on images of one size, here 96x96" in printed.err


def test_a_networks_own_size_may_be_asked() -> None:
    model = OnnxDetector(exported(Plain().eval(), size=(48, 64))[0])
    assert model.rule == NetworkSize((48, 64), "stretch")
