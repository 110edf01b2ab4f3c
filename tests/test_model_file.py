"""Tests of the model file and the resume file: whole, safe to read, and clear when broken."""

from __future__ import annotations

import errno
import json
import math
import os
import random
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from runs import assert_same
from toy import CLASSES, Toy, make_toy

from detkit import __version__, detectors
from detkit.errors import DetkitError
from detkit.files import append_text, write_bytes
from detkit.inference.models import load_model
from detkit.model_file import is_model, model_info, save_model
from detkit.training.resume import load_resume, random_state, save_resume, set_random_state


@pytest.fixture(autouse=True)
def toy_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(detectors._plugins, "toy", Toy)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "modèle.safetensors"
    save_model(path, make_toy(), data_hash="abc", scores={"mAP": 0.5})
    return path


def rewrite(path: Path, **changes: Any) -> None:
    """Change values of a model file's header; None drops them."""
    with safetensors.safe_open(path, framework="np") as file:
        header = json.loads(file.metadata()["detkit"])
    for key, value in changes.items():
        del header[key]
        if value is not None:
            header[key] = value
    metadata = {"detkit": json.dumps(header)}
    path.write_bytes(safetensors.torch.save(safetensors.torch.load_file(path), metadata))


def test_a_model_comes_back_with_its_weights_names_and_config(model: Path) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    detector = load_model(model)
    assert torch.equal(before, torch.get_rng_state())
    assert isinstance(detector, Toy)
    assert not detector.training
    assert detector.class_names == CLASSES
    assert detector.config == make_toy().config
    for name, tensor in make_toy().state_dict().items():
        assert torch.equal(detector.state_dict()[name], tensor)


def test_the_header_tells_all_without_the_weights(model: Path) -> None:
    info = model_info(model)
    assert info["backend"] == "toy"
    assert info["class_names"] == list(CLASSES)
    assert info["data_hash"] == "abc"
    assert info["scores"] == {"mAP": 0.5}
    assert info["detkit"] == __version__
    assert info["preprocessing"]["mean"] == list(make_toy().config.mean)


def test_weights_are_stored_in_float32_whatever_they_are_computed_in(tmp_path: Path) -> None:
    toy = make_toy().half().to(memory_format=torch.channels_last)
    save_model(tmp_path / "m.safetensors", toy)
    tensors = safetensors.torch.load_file(tmp_path / "m.safetensors")
    kinds = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    assert kinds == {torch.float32}
    weight = tensors["backbone.0.weight"]
    assert torch.equal(weight, toy.backbone[0].weight.detach().float())


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DetkitError, match="gone.safetensors: there is no such model file"):
        load_model(tmp_path / "gone.safetensors")


@pytest.mark.parametrize("length", [0, 5, 200, -10])
def test_a_file_that_was_cut_short_is_one_line(model: Path, length: int) -> None:
    model.write_bytes(model.read_bytes()[:length])
    with pytest.raises(DetkitError, match="modèle.safetensors: ") as caught:
        load_model(model)
    assert "\n" not in str(caught.value)


def test_another_kind_of_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "resnet.pth"
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(DetkitError, match="not a detkit model"):
        load_model(path)


def test_weights_of_another_program_are_not_a_model(tmp_path: Path) -> None:
    path = tmp_path / "theirs.safetensors"
    safetensors.torch.save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(DetkitError, match="without detkit's header.*--weights"):
        load_model(path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": 99}, "in a format this detkit .* does not know; update detkit"),
        ({"backend": "yolov9"}, "made by the backend 'yolov9', which is not here .*--plugin"),
        ({"class_names": ["car"]}, "do not fit toy with 1 class: size mismatch"),
        ({"class_names": "car"}, "its header is broken"),
        ({"class_names": None}, "its header is broken"),
        ({"class_names": ["car", "car"]}, "the class 'car' is named twice"),
        ({"config": {"depth": 3}}, "unknown field depth"),
        ({"config": {"nms_thresh": 7.0}}, "nms_thresh=7.0: must lie between 0 and 1"),
        ({"config": [1]}, "its header is broken"),
    ],
)
def test_a_header_that_does_not_fit_is_one_line(
    model: Path, changes: dict[str, Any], said: str
) -> None:
    rewrite(model, **changes)
    with pytest.raises(DetkitError, match=said) as caught:
        load_model(model)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(model))


def test_weights_that_are_not_finite_leave_the_old_model(model: Path) -> None:
    before = model.read_bytes()
    toy = make_toy()
    toy.head.bias.data[1] = math.nan
    with pytest.raises(DetkitError, match=r"not written, since the weights head\.bias"):
        save_model(model, toy)
    assert model.read_bytes() == before


@pytest.mark.parametrize("name", ["head.bias", "backbone.1.running_var"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_model_whose_weights_are_not_finite_is_refused(
    model: Path, name: str, value: float
) -> None:
    tensors = safetensors.torch.load_file(model)
    tensors[name][0] = value
    with safetensors.safe_open(model, framework="np") as file:
        metadata = file.metadata()
    model.write_bytes(safetensors.torch.save(tensors, metadata))
    with pytest.raises(DetkitError, match=f"the weights {re.escape(name)} are not finite"):
        load_model(model)


# A full disk


@contextmanager
def limited_files() -> Iterator[None]:
    """Let no file of this process grow beyond 100 bytes.

    Inside the test alone: between its phases pytest itself writes, perhaps into a file.
    """
    resource = pytest.importorskip("resource")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


@contextmanager
def full_disk() -> Iterator[None]:
    """Make writing fail as a full disk would."""

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        yield


@pytest.mark.parametrize("trouble", [limited_files, full_disk])
def test_a_full_disk_is_one_line_and_leaves_the_old_file(
    model: Path, trouble: Callable[[], AbstractContextManager[None]]
) -> None:
    before = model.read_bytes()
    for write in (
        lambda: save_model(model, make_toy(1)),
        lambda: save_resume(model, {"model": make_toy().state_dict()}),
        lambda: write_bytes(model, b"x" * 1000),
    ):
        with trouble(), pytest.raises(DetkitError, match="not written, the disk is full") as caught:
            write()
        assert "\n" not in str(caught.value)
    assert model.read_bytes() == before
    assert [path.name for path in model.parent.iterdir()] == [model.name]


def test_a_log_in_a_folder_that_is_gone_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DetkitError, match=r"log\.txt: cannot be written: No such file"):
        append_text(tmp_path / "gone" / "log.txt", "line\n")


# The resume file


class Bomb:
    """Pickles into a call that makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


def test_a_resume_file_runs_no_code(tmp_path: Path) -> None:
    torch.save({"format": 1, "model": Bomb(tmp_path / "boom")}, tmp_path / "resume.ckpt")
    with pytest.raises(DetkitError, match="resume.ckpt: cannot be resumed from") as caught:
        load_resume(tmp_path / "resume.ckpt")
    assert not (tmp_path / "boom").exists()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no such thing", b"PK\x03\x04 half a zip"])
def test_a_broken_resume_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "resume.ckpt").write_bytes(content)
    with pytest.raises(DetkitError, match="resume.ckpt: cannot be resumed from") as caught:
        load_resume(tmp_path / "resume.ckpt")
    assert "\n" not in str(caught.value)


def test_a_damaged_byte_of_a_resume_file_never_becomes_another_state(tmp_path: Path) -> None:
    path = tmp_path / "resume.ckpt"
    save_resume(path, {"model": make_toy().state_dict(), "position": {"step": 3}})
    whole, state = path.read_bytes(), load_resume(path)
    with zipfile.ZipFile(path) as file:
        places = range(0, file.start_dir, 13)  # of what it holds; then comes the list of that
    refused = 0
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        try:
            assert_same(load_resume(path), state)  # of the gaps between the tensors
        except DetkitError as error:
            assert "cannot be resumed from" in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > len(places) / 2


def test_a_resume_file_of_another_format_is_refused(tmp_path: Path) -> None:
    torch.save({"format": 0}, tmp_path / "resume.ckpt")
    with pytest.raises(DetkitError, match="not a resume file of this detkit"):
        load_resume(tmp_path / "resume.ckpt")


def test_the_random_generators_go_on_where_they_were(tmp_path: Path) -> None:
    np.random.standard_normal()  # leaves a second one in store
    random.gauss(0, 1)
    save_resume(tmp_path / "resume.ckpt", {"model": {}, "random": random_state()})

    def draw() -> list[float]:
        return [
            torch.rand(1).item(),
            np.random.standard_normal(),
            np.random.rand(),
            random.gauss(0, 1),
            random.random(),
        ]

    expected = draw()
    set_random_state(load_resume(tmp_path / "resume.ckpt")["random"])
    assert draw() == expected


def test_only_detkits_own_files_count_as_models(tmp_path: Path) -> None:
    save_model(tmp_path / "model.safetensors", make_toy())
    safetensors.torch.save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("no", encoding="utf-8")
    names = ["model.safetensors", "other.safetensors", "text.safetensors", "gone.safetensors"]
    assert [is_model(tmp_path / name) for name in names] == [True, False, False, False]
