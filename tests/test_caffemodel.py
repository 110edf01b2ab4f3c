"""Caffe's model files are read whole, whoever wrote them, and broken ones told in a line."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from caffe_files import field, messages, varint, write
from running import detkit

from detkit.errors import DetkitError
from detkit.networks.caffemodel import read_caffemodel
from detkit.networks.weights import read_state_dict

RANDOM = np.random.default_rng(0)
LAYERS = {
    "conv1": [RANDOM.standard_normal(shape).astype(np.float32) for shape in ((4, 3, 5, 5), (4,))],
    "relu1": [],
    "rpn_conv/3x3": [RANDOM.standard_normal((2, 4, 3, 3)).astype(np.float32)],
    "fc6": [RANDOM.standard_normal(shape).astype(np.float32) for shape in ((90, 60), (90,))],
}


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("form", ["layer", "layers", "oldest"])
def test_every_form_of_the_file_gives_back_each_layers_blobs_by_name(
    tmp_path: Path, form: str, legacy: bool, packed: bool, double: bool
) -> None:
    path = tmp_path / "nét.caffemodel"
    write(path, LAYERS, form=form, legacy=legacy, packed=packed, double=double)
    model = read_caffemodel(path)
    assert [layer.name for layer in model.layers] == list(LAYERS)
    for layer, (name, blobs) in zip(model.layers, LAYERS.items()):
        assert len(layer.blobs) == len(blobs), name
        for found, wanted in zip(layer.blobs, blobs):
            shape = (1,) * (4 - wanted.ndim) + wanted.shape if legacy else wanted.shape
            assert found.shape == shape
            np.testing.assert_array_equal(found, wanted.reshape(shape))


def test_blobs_may_come_in_parts_and_numbers_with_and_without_a_tag(tmp_path: Path) -> None:
    values = RANDOM.standard_normal(9000).astype("<f4")
    tagged = b"".join(varint(5 << 3 | 5) + one.tobytes() for one in values[:8500])
    blob = field(7, field(1, varint(9000))) + tagged + field(5, values[8500:].tobytes())
    path = tmp_path / "a.caffemodel"
    path.write_bytes(field(100, field(1, b"ip") + field(7, blob)))
    (layer,) = read_caffemodel(path).layers
    np.testing.assert_array_equal(layer.blobs[0], values)


def test_sides_of_prior_boxes_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.caffemodel", LAYERS, sides={"fc7_mbox_priorbox": (30.0, 60.0)})
    assert read_caffemodel(path).layers[-1].box_sides == (30.0, 60.0)


def whole() -> bytes:
    net = messages()["NetParameter"]()
    blob = net.layer.add(name="conv1").blobs.add()
    blob.shape.dim.extend([2, 3])
    blob.data.extend(range(6))
    return bytes(net.SerializeToString())


def misshapen() -> bytes:
    blob = field(7, field(1, bytes([2, 4]))) + field(5, bytes(24))
    return field(100, field(1, b"conv1") + field(7, blob))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (whole()[:-3], "cut short"),
        (whole()[:1], "cut short at byte 1"),
        (field(1, b"a name alone"), "no layer with weights"),
        (field(100, field(1, b"relu1")), "no layer with weights"),
        (misshapen(), "layer 'conv1' has 6 values for a shape of 2 x 4"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "HDF5"),
        (b"<!DOCTYPE html><html>Not found</html>", "not a readable Caffe model"),
        (b'name: "CaffeNet"\nlayer {\n  name: "conv1"\n}\n', "not a readable Caffe model"),
        (b"\xff" * 40, "no number at byte"),
        (bytes(40), "no field at byte"),
        (varint(100 << 3) + varint(7), "no message at byte"),
        (field(100, field(7, field(5, bytes(7)))), "no whole number of floats"),
        (field(100, field(7, field(7, field(1, bytes([1] * 50))))), "has 50 axes"),
    ],
)
def test_a_broken_file_is_one_line_that_says_what_is_wrong(
    tmp_path: Path, content: bytes, words: str
) -> None:
    path = tmp_path / "bäd.caffemodel"
    path.write_bytes(content)
    with pytest.raises(DetkitError, match=words) as caught:
        read_state_dict(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_every_cut_of_a_file_is_refused_and_none_crashes(tmp_path: Path) -> None:
    content, path = whole(), tmp_path / "cut.caffemodel"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(DetkitError):
            read_caffemodel(path)


def test_random_damage_is_read_or_refused_and_never_crashes(tmp_path: Path) -> None:
    small = {f"conv{number}": [np.ones((2, 1), np.float32)] for number in range(9)}
    content = write(tmp_path / "good.caffemodel", small, form="layers").read_bytes()
    path, random = tmp_path / "hit.caffemodel", np.random.default_rng(1)
    refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        for place in random.integers(0, len(content), 3):
            damaged[place] = random.integers(256)
        path.write_bytes(damaged)
        try:
            read_caffemodel(path)
        except DetkitError:
            refused += 1
    assert 50 < refused < 300


def test_a_missing_and_a_huge_file_are_refused_without_being_read(tmp_path: Path) -> None:
    with pytest.raises(DetkitError, match="no such weights file"):
        read_caffemodel(tmp_path / "none.caffemodel")
    path = tmp_path / "huge.caffemodel"
    with path.open("wb") as file:
        file.truncate(2**31)
    with pytest.raises(DetkitError, match="2147483648 bytes are more than one may have"):
        read_caffemodel(path)


def test_lengths_that_a_file_only_claims_take_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "claims.caffemodel"
    claim = varint(5 << 3 | 2) + varint(2**40)
    shape = field(7, field(1, varint(2**40) + varint(2**40)))
    path.write_bytes(field(100, field(1, b"conv1") + field(7, shape + claim)))
    tracemalloc.start()
    with pytest.raises(DetkitError, match="cut short"):
        read_caffemodel(path)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_a_file_of_countless_tiny_fields_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "tiny.caffemodel"
    path.write_bytes(b"\x28\x00" * 1_500_000)
    with pytest.raises(DetkitError, match="too many fields"):
        read_caffemodel(path)


def test_the_shell_tells_a_broken_file_in_a_line_and_exits_with_3(tmp_path: Path) -> None:
    path = tmp_path / "cut.caffemodel"
    path.write_bytes(whole()[:-3])
    image = tmp_path / "a.png"
    cv2.imwrite(str(image), np.zeros((20, 20, 3), np.uint8))
    done = detkit("detect", path, image)
    assert done.returncode == 3 and "cut.caffemodel: not a readable Caffe model" in done.stderr
    assert "Traceback" not in done.stderr
