"""Names as long as a file system takes: what is written beside them, or named after them, fits."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from labelled_folders import boxes, put
from running import detkit

from detkit.data import open_dataset
from detkit.data.convert import convert
from detkit.data.images import read_image, write_image
from detkit.detectors.ssd import SSD, SSDConfig
from detkit.errors import DetkitError
from detkit.files import beside, fitting_name, write_bytes
from detkit.model_file import save_model
from detkit.predictions.image import ImagePredictions
from detkit.predictions.writers import FORMATS, images_file, open_writer

LONG = "é" * 122 + "x"  # 245 bytes: 249 with a suffix, and 255 with what may stand before it
GREY = np.full((16, 16, 3), 90, np.uint8)

pytestmark = pytest.mark.skipif(os.name == "nt", reason="paths are short there")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a model that has learnt nothing."""
    torch.manual_seed(0)
    path = tmp_path / "m.safetensors"
    save_model(path, SSD(SSDConfig(backbone="tiny", size=64), ("car", "dog")))
    return path


@pytest.mark.parametrize("name", ["a" * 255, "é" * 127 + "a", f"{'猫' * 80}.jpeg", "a.jpg"])
def test_a_name_is_kept_whole_where_it_fits_and_else_cut_with_its_suffix(name: str) -> None:
    assert fitting_name(name) == name
    longer = [f"1{name}", f"2{name}"] if len(name.encode()) > 200 else [name]
    cut = [fitting_name(one, 100) for one in longer]
    assert all(len(one.encode()) <= 100 for one in cut)
    assert len(set(cut)) == len(longer)
    assert all(one.endswith(name[-5:]) for one in cut)


def test_a_name_that_is_not_utf8_is_cut_by_its_bytes() -> None:
    name = os.fsdecode(b"\xff" * 200 + b".jpg")
    assert len(os.fsencode(fitting_name(name, 143))) <= 143


def test_the_place_beside_a_file_is_another_and_always_the_same(tmp_path: Path) -> None:
    path = tmp_path / f"{LONG}.jpg"
    assert beside(path, "lock") == beside(path, "lock") != beside(path, "1.partial")
    assert beside(tmp_path / "a.jpg", "lock").name == ".a.jpg.lock"


@pytest.mark.parametrize("name", [f"{LONG}.png", "é" * 125 + "x.png"])
def test_a_file_of_the_longest_name_is_written(tmp_path: Path, name: str) -> None:
    write_image(tmp_path / name, GREY)
    assert (read_image(tmp_path / name) == GREY).all()
    write_bytes(tmp_path / name, b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(name, b"new")]


@pytest.mark.parametrize("form", FORMATS)
def test_detections_are_written_under_the_longest_name(tmp_path: Path, form: str) -> None:
    out = tmp_path / f"{LONG}.{form}"
    found = ImagePredictions(
        f"in/{LONG}.jpg", 8, 8, ("car",), np.ones(1, np.float32), np.array([[1, 1, 5, 5]], "f4")
    )
    with open_writer(form, out, class_names=("car",)) as writer:
        writer.write(found)
    beside = [images_file(out)] if form == "coco" else []
    assert set(tmp_path.iterdir()) == {out, *beside}
    texts = [path for path in [out, *out.rglob("*")] if path.is_file()]
    assert any(path.stat().st_size > 20 for path in texts)


def test_detect_draws_images_of_long_names_in_folders_of_one_name_each(
    tmp_path: Path, model: Path
) -> None:
    for name in (f"a/{LONG}.jpg", f"b/{LONG}.jpg", "c/short.jpg"):
        (tmp_path / "in" / name).parent.mkdir(parents=True)
        write_image(tmp_path / "in" / name, GREY)
    drawn = tmp_path / "drawn"
    done = detkit("detect", model, tmp_path / "in", "--draw", drawn)
    assert done.returncode == 0, done.stderr
    names = {path.name for path in drawn.iterdir()}
    assert len(names) == 3 and {f"{LONG}.jpg", "short.jpg"} < names
    assert all(name.endswith(".jpg") for name in names)


def test_a_picture_that_cannot_be_written_is_one_line_and_the_others_are_drawn(
    tmp_path: Path, model: Path
) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / "in").mkdir(exist_ok=True)
        write_image(tmp_path / "in" / f"{name}.png", GREY)
    drawn = tmp_path / "drawn"
    (drawn / "b.png").mkdir(parents=True)
    words = ("detect", model, tmp_path / "in", "--draw", drawn, "--force", "-q", "-f", "jsonl")
    done = detkit(*words)
    assert done.returncode == 3
    first, last = done.stderr.splitlines()
    assert first.startswith(f"detkit: warning: {drawn / 'b.png'}: cannot be written: ")
    assert last == "detkit: error: 1 image could not be drawn"
    assert [Path(json.loads(line)["image"]).name for line in done.stdout.splitlines()] == [
        *("a.png", "b.png", "c.png")
    ]
    assert sorted(path.name for path in drawn.iterdir() if path.is_file()) == ["a.png", "c.png"]


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_an_image_too_wide_for_its_kind_is_one_line(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(DetkitError, match=f"a{suffix}: 70000 x 1 pixels cannot be written"):
        write_image(tmp_path / f"a{suffix}", np.zeros((1, 70_000, 3), np.uint8))


@pytest.mark.parametrize("to", ["voc", "coco", "yolo", "csv"])
def test_images_of_one_long_name_stay_two_in_every_format(tmp_path: Path, to: str) -> None:
    row = "0 .5 .5 .5 .5\n"
    files: dict[str, str | None] = {"data.yaml": "names: [car]\n"}
    for place in ("a", "b"):
        files |= {f"images/{place}/{LONG}.jpg": None, f"labels/{place}/{LONG}.txt": row}
    data = open_dataset(put(tmp_path / "old", files))
    convert(data, tmp_path / ("n" * 250), to)
    back = open_dataset(tmp_path / ("n" * 250))
    assert [len(one) for one in boxes(back).values()] == [1, 1]
    assert all(record.path.is_file() for record in back.splits["all"])


def test_training_draws_its_first_images_whatever_their_names(tmp_path: Path) -> None:
    files: dict[str, str | None] = {"data.yaml": "names: [car]\n"}
    for number in range(4):
        name = f"{'é' * 124}{number}x"  # with "1-" before it, 256 bytes
        files |= {f"images/{name}.png": None, f"labels/{name}.txt": "0 .5 .5 .5 .5\n"}
    data = put(tmp_path / "data", files)
    words = ["--model", "ssd", "--backbone", "tiny", "--set", "size=64", "--device", "cpu"]
    words += ["--max-steps", "1", "--batch-size", "2", "--num-workers", "0", "-q"]
    done = detkit("train", data, *words, "-o", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "run" / "samples").iterdir())) == 2
    again = detkit("train", data, *words, "-o", tmp_path / "run", "--force")
    assert again.returncode == 0, again.stderr
    assert len(list((tmp_path / "run" / "samples").iterdir())) == 2


def test_proposals_go_to_a_file_of_the_longest_name_and_are_taken_up_again(tmp_path: Path) -> None:
    from detkit.proposals.writer import ProposalWriter

    out = tmp_path / f"{LONG}.jsonl"
    with pytest.raises(KeyError), ProposalWriter(out, {"method": "x"}) as writer:
        writer.write_error("a.jpg", "gone")
        raise KeyError
    with ProposalWriter(out, {"method": "x"}) as writer:
        assert writer.partial.exists()
    assert list(tmp_path.iterdir()) == [out]
