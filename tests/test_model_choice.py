"""Which model `eval` and `detect` work with, and what they compute in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from report_samples import write_folder
from running import detkit

from detkit import machine
from detkit.data import open_dataset
from detkit.detectors.ssd import SSD, SSDConfig
from detkit.model_file import save_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "dätä")


@pytest.fixture
def run_dir(folder: Path, tmp_path: Path) -> Path:
    """Return a folder with a model, as a run is; the model has learnt nothing."""
    run = tmp_path / "run"
    run.mkdir()
    torch.manual_seed(0)
    model = SSD(SSDConfig(size=64), open_dataset(folder).class_names)
    save_model(run / "best.safetensors", model)
    return run


def test_a_run_folder_stands_for_its_best_model(run_dir: Path, folder: Path) -> None:
    (run_dir / "last.safetensors").write_bytes(b"another")
    for words in (("eval", "MODEL", folder, "--json"), ("detect", "MODEL", folder / "JPEGImages")):
        by_file, by_folder = (
            detkit(*(model if word == "MODEL" else word for word in words), "--device", "cpu")
            for model in (run_dir / "best.safetensors", run_dir)
        )
        assert by_folder.returncode == 0, by_folder.stderr
        assert by_folder.stdout == by_file.stdout != ""


def test_a_folder_without_a_model_is_no_run(folder: Path) -> None:
    done = detkit("detect", folder, folder / "JPEGImages")
    assert done.returncode == 3
    assert "no model there" in done.stderr


@pytest.mark.parametrize("command", ["eval", "detect"])
def test_models_compute_in_the_precision_asked_for(
    run_dir: Path, folder: Path, command: str
) -> None:
    data = folder if command == "eval" else folder / "JPEGImages"
    words = (command, run_dir, data, "--device", "cpu", "--set", "score_thresh=0")
    words += ("--json", "--with-detections") if command == "eval" else ()

    def scores(precision: str) -> list[float]:
        done = detkit(*words, "--precision", precision)
        assert done.returncode == 0, done.stderr
        images = (
            json.loads(done.stdout)["images"]
            if command == "eval"
            else map(json.loads, done.stdout.splitlines())
        )
        return [one["score"] for image in images for one in image["detections"][:5]]

    full, half = scores("32-true"), scores("bf16-mixed")
    assert full == scores("32-true")
    assert full != half
    assert half == pytest.approx(full, abs=0.02)


@pytest.mark.parametrize(
    ("model", "precision", "message"),
    [
        ("best.safetensors", "bf17", "bf17"),
        ("m.onnx", "bf16-mixed", "an ONNX file is as it was exported"),
    ],
)
@pytest.mark.parametrize("command", ["eval", "detect"])
def test_a_precision_there_is_not_is_wrong_usage(
    run_dir: Path, folder: Path, command: str, model: str, precision: str, message: str
) -> None:
    (run_dir / "m.onnx").write_bytes(b"not looked at")
    data = folder if command == "eval" else folder / "JPEGImages"
    done = detkit(command, run_dir / model, data, "--precision", precision, "--device", "cpu")
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("command", ["eval", "detect"])
def test_a_model_computes_on_the_free_cores_or_on_the_threads_asked_for(
    run_dir: Path, folder: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int] = []
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    monkeypatch.setattr(machine, "num_cores", lambda: 4)
    monkeypatch.setattr(machine, "free_cores", lambda: 3)
    words = (command, run_dir, folder if command == "eval" else folder / "JPEGImages")
    words += ("--device", "cpu")
    chosen, asked = detkit(*words), detkit(*words, "--threads", "2")
    assert "3 CPU threads, since other programs keep cores busy" in chosen.stderr
    assert "2 CPU threads, as asked\n" in asked.stderr
    assert used == [3, 2]
    assert chosen.stdout == asked.stdout != ""
