"""Exported files with Winograd's convolutions: what they find as they are, in less time."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_onnx_ends import CLASSES, picture
from torch.nn import functional as F

from detkit.data.sources import ImageSource
from detkit.detectors import load_backend
from detkit.errors import DetkitError
from detkit.inference.models import open_model
from detkit.inference.onnx import OnnxDetector
from detkit.inference.onnx_export import exported
from detkit.inference.onnx_int8 import quantised
from detkit.inference.onnx_winograd import with_winograd
from detkit.inference.predict import predict

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def layer(
    path: Path,
    shape: tuple[int | str, ...],
    filters: np.ndarray[Any, Any],
    bias: np.ndarray[Any, Any] | None = None,
    size: tuple[int, int] | tuple[str, str] | None = None,
    **attributes: Any,
) -> Path:
    """Write a file of detkit that holds one convolution, of maps of `size`, and a ReLU."""
    helper, number = onnx.helper, onnx.TensorProto.FLOAT
    given = {"pads": [1] * 4, "strides": [1, 1], "dilations": [1, 1], "group": 1, **attributes}
    constants = {"filters": filters} | ({} if bias is None else {"bias": bias})
    nodes = [
        helper.make_node("Conv", ["x", *constants], ["map"], **given),
        helper.make_node("Relu", ["map"], ["y"]),
    ]
    out = [shape[0], len(filters), *(size or shape[2:])]
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", number, shape)],
        [helper.make_tensor_value_info("y", number, out)],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
        value_info=[helper.make_tensor_value_info("map", number, out)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    model.metadata_props.add(key="detkit", value='"1"')
    onnx.save(model, path)
    return path


def drawn(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


# All rests of a side by the 4 pixels of a tile; one and two images; files of any number and size.
@pytest.mark.parametrize("size", [(16, 16), (17, 18), (19, 21), (23, 22), (1, 256)])
@pytest.mark.parametrize("num", [1, 2])
@pytest.mark.parametrize("is_free", [False, True])
def test_a_convolution_computed_so_is_the_direct_one(
    tmp_path: Path, size: tuple[int, int], num: int, is_free: bool
) -> None:
    filters, bias, images = drawn(128, 64, 3, 3) / 24, drawn(128), drawn(num, 64, *size)
    shape = ("batch", 64, "height", "width") if is_free else (num, 64, *size)
    for given in (bias, None):
        content = with_winograd(layer(tmp_path / "m.onnx", shape, filters, given))
        assert content is not None
        assert {
            tuple(one.dims[2:])
            for one in onnx.load_from_string(content).graph.initializer
            if len(one.dims) == 4 and one.name != "filters"
        } == {(3, 1), (4, 1), (1, 3), (1, 4)}  # of the tiles' transform
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {"x": images})
        tensors = (
            None if one is None else torch.from_numpy(one).double()
            for one in (images, filters, given)
        )
        wanted = F.conv2d(*tensors, padding=1).relu()
        np.testing.assert_allclose(found, wanted.numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "filters", "attributes"),
    [
        ((1, 64, 15, 17), (128, 64, 3, 3), {}),  # 255 pixels
        ((1, 64, 32, 32), (128, 64, 3, 3), {"size": (16, 16), "strides": [2, 2]}),
        ((1, 64, 18, 18), (128, 64, 3, 3), {"size": (16, 16), "pads": [0] * 4}),
        ((1, 64, 16, 16), (128, 64, 3, 3), {"pads": [2] * 4, "dilations": [2, 2]}),
        ((1, 128, 16, 16), (128, 64, 3, 3), {"group": 2}),
        ((1, 64, 16, 16), (64, 64, 3, 3), {}),
        ((1, 63, 16, 16), (128, 63, 3, 3), {}),
        ((1, 64, 16, 16), (128, 64, 5, 5), {"pads": [2] * 4}),
    ],
)
def test_convolutions_that_it_does_not_make_faster_stay(
    tmp_path: Path,
    shape: tuple[int, ...],
    filters: tuple[int, ...],
    attributes: dict[str, Any],
) -> None:
    file = layer(tmp_path / "m.onnx", shape, drawn(*filters), **attributes)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": drawn(*shape)})[0].ndim == 4  # a sound file, but
    assert with_winograd(file) is None


def ssd_file(path: Path) -> bytes:
    backend = load_backend("ssd")
    torch.manual_seed(0)
    config = backend.config_class(backbone="tiny", size=300, score_thresh=0.01)
    detector = backend(config, CLASSES).eval()
    for name, parameter in detector.named_parameters():
        if name.endswith("bias"):  # they start at 0, and are left out of a file then
            parameter.data += 0.1 * torch.randn_like(parameter)
    content, _ = exported(detector)
    path.write_bytes(content)
    return content


def test_an_opened_file_finds_what_it_does_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    content = ssd_file(path)
    fast = with_winograd(path)
    assert fast is not None and fast != content and path.read_bytes() == content
    images = [ImageSource.of_pixels(str(seed), picture(seed, 300, 300)) for seed in range(3)]
    model, runs = open_model(path, threads=1), []
    session = model._session

    class Counted:
        def run(self, names: list[str], inputs: dict[str, Any]) -> Any:
            runs.append(len(inputs["images"]))
            return session.run(names, inputs)

    model._session = Counted()
    together = predict(OnnxDetector(content, 1), images)
    for one, other in zip(predict(model, images), together, strict=True):
        assert len(one.labels) > 20 and one.labels == other.labels
        assert not np.array_equal(one.scores, other.scores)  # since it is another form
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
        np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-2)
    assert runs == [1, 1, 1]  # the tiles of several images would fill the memory


def test_a_network_of_any_size_is_changed_too(tmp_path: Path) -> None:
    backend = load_backend("faster-rcnn")
    torch.manual_seed(0)
    config = backend.config_class(backbone="tiny", size=96, score_thresh=0.005)
    content, _ = exported(backend(config, CLASSES).eval())
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    assert with_winograd(path) is not None
    for seed, size in enumerate([(96, 150), (120, 80)]):
        image = [ImageSource.of_pixels("x", picture(seed, *size))]
        (one,) = predict(open_model(path, threads=1), image)
        (other,) = predict(OnnxDetector(content, 1), image)
        assert len(one.labels) > 3 and len(one.labels) == len(other.labels)
        np.testing.assert_allclose(np.sort(one.scores), np.sort(other.scores), atol=1e-5)


def test_files_of_others_broken_ones_and_those_in_eight_bits_are_left_to_onnxruntime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = layer(tmp_path / "m.onnx", (1, 64, 16, 16), drawn(128, 64, 3, 3))
    whole = onnx.load(path)
    del whole.metadata_props[:]
    onnx.save(whole, tmp_path / "foreign.onnx")
    (tmp_path / "broken.onnx").write_bytes(path.read_bytes()[:1000])
    for name, reason in (("foreign", "not an ONNX file of detkit"), ("broken", "cannot open it")):
        assert with_winograd(tmp_path / f"{name}.onnx") is None
        with pytest.raises(DetkitError, match=f"{name}.onnx: .*{reason}"):
            open_model(tmp_path / f"{name}.onnx")
    onnx.save(onnx.load(path), tmp_path / "apart.onnx", save_as_external_data=True)
    assert with_winograd(tmp_path / "apart.onnx") is None
    content = ssd_file(path)
    (tmp_path / "int8.onnx").write_bytes(quantised(content, [picture(0, 300, 300)]))
    assert with_winograd(tmp_path / "int8.onnx") is None
    monkeypatch.setitem(sys.modules, "onnx", None)  # onnxruntime alone is enough to detect
    assert with_winograd(path) is None
    assert open_model(path).class_names == CLASSES
