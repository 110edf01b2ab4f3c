"""Images so small or narrow that a map of the network nearly vanishes, one at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from labelled_folders import put, xml
from running import detkit
from test_contract import NAMES, make, sample, total

from detkit.data.images import write_image
from detkit.detectors import backend_names, load_backend
from detkit.networks.architectures import ARCHITECTURES
from detkit.structures import Sample

LIGHT = ("tiny", "alexnet", "squeezenet1_0", "mobilenet_v2", "resnet18", "fast_yolo")
WORDS = ("--batch-size", "1", "--max-steps", "2", "--device", "cpu", "--num-workers", "0", "-q")


def narrow() -> Sample:
    """Return an image thirty times as wide as high, with an object and proposals."""
    image = torch.full((3, 10, 300), 99, dtype=torch.uint8)
    image[:, 2:9, 2:40] = 240
    proposals = torch.tensor([[2.0, 2, 40, 9], [50, 1, 90, 8]])
    one = torch.zeros(1, dtype=torch.int64)
    plain = replace(sample(0), image=image, boxes=proposals[:1], proposals=proposals)
    return replace(plain, labels=one, difficult=one > 0)


@pytest.fixture
def five(tmp_path: Path) -> Path:
    pixels = np.full((40, 60, 3), 90, np.uint8)
    pixels[4:30, 4:30] = (240, 20, 20)
    names = [f"{number}.xml" for number in range(5)]
    label = xml(("car", 5, 5, 30, 30), size=(60, 40))
    folder = put(tmp_path / "five", dict.fromkeys(names, label))
    for name in names:
        write_image(folder / name.replace("xml", "png"), pixels)
    return folder


@pytest.mark.parametrize("backbone", LIGHT)
@pytest.mark.parametrize("name", ["fast-rcnn", "faster-rcnn"])
def test_a_long_narrow_image_is_learnt_from_and_looked_at_alone(name: str, backbone: str) -> None:
    detector = make(load_backend(name), backbone=backbone, size=32, max_size=64)
    batch = detector.prepare([narrow()])
    assert torch.isfinite(total(detector.train(), batch))
    with torch.inference_mode():
        (found,) = detector.eval().detect(batch)
    assert (found.boxes[:, 3] <= 10).all()


@pytest.mark.parametrize("name", sorted(NAMES))
def test_training_on_tiny_images_one_at_a_time_runs_or_says_in_a_line_what_to_raise(
    five: Path, tmp_path: Path, name: str
) -> None:
    words = ("--model", name, "--set", "size=32", *WORDS, "-o", tmp_path / "run")
    backbone = ("--backbone", "tiny") if name in backend_names() else ()
    done = detkit("train", five, *words, *backbone)
    if done.returncode:
        assert done.returncode in (2, 3)
        (line,) = (line for line in done.stderr.splitlines() if "error: " in line)
        assert "size=" in line and "defect" not in line
    if name == "ssd":
        assert "of 1 image at once, 32 x 32 pixels, a map of the network is one value" in line
        assert "raise --batch-size or --set size=" in line
        enough = ("--set", "size=32", *WORDS, "--batch-size", "2", "-o", tmp_path / "enough")
        done = detkit("train", five, "--model", "ssd", "--backbone", "tiny", *enough)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("backbone", ["squeezenet1_0", "fast_yolo"])
def test_an_image_of_which_no_map_is_left_is_one_line(
    five: Path, tmp_path: Path, backbone: str
) -> None:
    assert backbone in ARCHITECTURES
    words = ("--model", "ssd", "--backbone", backbone, "--set", "size=16", *WORDS)
    done = detkit("train", five, *words, "-o", tmp_path / "run")
    assert (done.returncode, done.stderr) == (
        3,
        "detkit: error: ssd: 16 x 16 pixels are too few for this network, of which a map has no "
        "place left; raise --set size=\n",
    )
