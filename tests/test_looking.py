"""`--tile`, `--overlap` and `--tta` of `detect` and `eval`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from running import detkit
from test_schema import faults

from detkit.cli.looking import Looking, looking_of
from detkit.config import DetectorConfig
from detkit.data.demo.pictures import write_demo
from detkit.detectors.ssd import SSD, SSDConfig
from detkit.errors import ExitCode, UsageError
from detkit.inference.models import load_model
from detkit.model_file import save_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("looking")
    write_demo(folder / "data", num_images=12)
    torch.manual_seed(0)
    config = SSDConfig(size=96, tile=160, tile_overlap=0.25, score_thresh=0.3)
    save_model(folder / "m.safetensors", SSD(config, ["balloon", "car", "sheep"]))
    return folder


def test_the_options_say_how_images_are_looked_at() -> None:
    config = DetectorConfig(tile=640, tile_overlap=0.1)
    assert looking_of(None, None, None) == Looking()
    assert looking_of(None, None, None).words(config) == "tiles of 640 px that overlap by 0.1"
    assert looking_of("none", None, None).words(config) == ""
    both = looking_of("300", 0.3, "flip, scale")
    assert both == Looking(300, 0.3, ("flip", "scale"))
    assert both.words(config) == "tiles of 300 px that overlap by 0.3 and TTA (flip, scale)"
    compared = looking_of("compare=300", None, None, comparable=True)
    assert compared == Looking(300, compare=True) and compared.is_measured
    assert compared.plain == Looking(0)
    assert looking_of("compare", None, None, comparable=True) == Looking(compare=True)


@pytest.mark.parametrize("word", ["", "0", "-1", "12.5", "many", "31", "compare=none", "compare=x"])
def test_a_side_that_no_tile_has_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match=f"--tile {word}: "):
        looking_of(word, None, None, comparable=True)


def test_compare_is_for_eval_and_variants_have_names() -> None:
    with pytest.raises(UsageError, match="--tile compare: expected a number of pixels, none$"):
        looking_of("compare", None, None)
    with pytest.raises(UsageError, match="--tta flop: no such variant; did you mean flip"):
        looking_of(None, None, "flop")
    with pytest.raises(UsageError, match="--tta: no variant named"):
        looking_of(None, None, ",")


def test_the_model_file_remembers_its_tiles(folder: Path) -> None:
    config = load_model(folder / "m.safetensors").config
    assert (config.tile, config.tile_overlap) == (160, 0.25)
    done = detkit("detect", folder / "m.safetensors", folder / "data" / "JPEGImages")
    assert done.returncode == 0
    assert "looking at whole images and tiles of 160 px that overlap by 0.25" in done.stderr
    plain = detkit(
        "detect", folder / "m.safetensors", folder / "data" / "JPEGImages", "--tile", "none"
    )
    assert "looking at" not in plain.stderr and plain.stdout != done.stdout


def test_eval_compares_with_and_without_tiles(folder: Path) -> None:
    page = folder / "page.html"
    words = ["eval", folder / "m.safetensors", folder / "data", "--tile", "compare"]
    report = json.loads(detkit(*words, "--json", "--report", page).stdout)
    assert faults("eval", report) == []
    gain = report["gain"]
    assert gain["before"]["name"] == "plain"
    assert gain["after"]["name"] == "tiles of 160 px that overlap by 0.25"
    assert gain["after"]["mAP"] == report["mAP"]
    plain = json.loads(detkit(*words[:3], "--tile", "none", "--json").stdout)
    assert "gain" not in plain and gain["before"]["mAP"] == plain["mAP"]
    assert 'id="gain"' in page.read_text(encoding="utf-8")
    table = detkit(*words, "--markdown").stdout
    assert "| size | objects | plain AP50 | tiled AP50 |" in table


def test_eval_says_what_variants_bring_and_cost_in_one_line(folder: Path) -> None:
    words = ["eval", folder / "m.safetensors", folder / "data", "--tile", "none"]
    last = detkit(*words, "--tta", "flip").stdout.splitlines()[-1]
    assert last.startswith("TTA (flip): mAP ") and "plain " in last and "times the time" in last


def test_what_cannot_be_looked_at_is_refused_in_one_line(folder: Path) -> None:
    data, found = folder / "data", folder / "found.jsonl"
    found.write_text("", encoding="utf-8")
    done = detkit("eval", "--predictions", found, data, "--tile", "160")
    assert done.returncode == ExitCode.USAGE and "--tile is for a model" in done.stderr
    other = folder / "other.safetensors"
    torch.manual_seed(0)
    save_model(other, SSD(SSDConfig(size=96), ["car"]))
    done = detkit("eval", other, data, "--tile", "compare")
    assert done.returncode == ExitCode.USAGE
    assert "knows no tiles; say their side: compare=640" in done.stderr
