"""The example scripts, run as a reader would run them."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from running import detkit, process

from detkit.data.demo.pictures import write_demo
from detkit.detectors.ssd import SSD, SSDConfig
from detkit.model_file import save_model

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(script: str, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(EXAMPLES / script), *words],
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
        check=False,
    )


def test_train_from_python_trains_scores_and_detects(tmp_path: Path) -> None:
    write_demo(tmp_path / "data", num_images=12)
    done = run("train_from_python.py", str(tmp_path / "data"), str(tmp_path / "run"), "2")
    assert done.returncode == 0, done.stderr
    assert "step 2: loss" in done.stdout
    assert "VOC 2007 11-point AP" in done.stdout
    assert (tmp_path / "run" / "best.safetensors").is_file()


@pytest.mark.slow
def test_train_torchvision_leaves_detections_of_the_test_images_for_compare(
    tmp_path: Path,
) -> None:
    write_demo(tmp_path / "data", num_images=12)
    script = shlex.join([sys.executable, str(EXAMPLES / "train_torchvision.py")])
    done = process(
        *("compare", tmp_path / "data", "-o", tmp_path / "out", "--max-minutes", ".001", "--json"),
        *("--command", f"torchvision={script} {{data}} {{out}} {{minutes}} {{seed}}"),
    )
    assert done.returncode == 0, done.stderr
    [row] = json.loads(done.stdout)["models"]
    assert row["mAP"] is not None
    found = json.loads((tmp_path / "out" / "torchvision-0" / "detections.json").read_text())
    assert {"image_id", "category_id", "bbox", "score"} == set(found[0])
    log = (tmp_path / "out" / "torchvision-0.log").read_text(encoding="utf-8")
    assert log.startswith("step 1: loss ")


def test_count_objects_counts_by_class_above_a_score() -> None:
    def found(label: str, score: float) -> dict[str, object]:
        return {"label": label, "score": score, "box": [0, 0, 1, 1]}

    images = [
        {"image": "a.jpg", "detections": [found("car", 0.9), found("car", 0.8)]},
        {"image": "b.jpg", "detections": [found("sheep", 0.7), found("car", 0.1)]},
        {"image": "c.jpg", "detections": []},
    ]
    done = run("count_objects.py", "0.5", stdin="\n".join(map(json.dumps, images)))
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert rows == [
        ["image", "car", "sheep"],
        ["a.jpg", "2", "0"],
        ["b.jpg", "0", "1"],
        ["c.jpg", "0", "0"],
    ]
    assert done.returncode == 0


def test_count_objects_names_unreadable_images_on_stderr_and_leaves_with_3() -> None:
    done = run("count_objects.py", stdin=json.dumps({"image": "a.jpg", "error": "cut short"}))
    assert done.returncode == 3
    assert "a.jpg: cut short" in done.stderr


@pytest.fixture
def untrained(tmp_path: Path) -> Path:
    """Return a folder with a labelled folder, `data`, and a model that has learnt nothing."""
    write_demo(tmp_path / "data", num_images=12)
    torch.manual_seed(0)
    model = SSD(SSDConfig(size=64), ["balloon", "car", "sheep"])
    save_model(tmp_path / "m.safetensors", model)
    return tmp_path


def test_the_worker_for_ray_finds_what_detect_does(untrained: Path) -> None:
    script = EXAMPLES / "detect_in_ray.py"
    spec = importlib.util.spec_from_file_location("detect_in_ray", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)  # without Ray, which only `main` imports
    paths = sorted((untrained / "data" / "JPEGImages").iterdir())
    bad = untrained / "bad.jpg"
    bad.write_bytes(b"no image")
    before = torch.get_num_threads()
    try:
        worker = module.FindObjects(str(untrained / "m.safetensors"))
        halves = [worker({"path": np.array([*map(str, half)])}) for half in (paths[:6], paths[6:])]
        told = json.loads(worker({"path": [str(bad)]})["line"][0])
    finally:
        torch.set_num_threads(before)
    lines = [json.loads(line) for half in halves for line in half["line"]]
    done = detkit("detect", untrained / "m.safetensors", *paths, "--device", "cpu")
    wanted = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["image"] for one in lines] == [one["image"] for one in wanted]
    for one, other in zip(lines, wanted, strict=True):
        assert [d["label"] for d in one["detections"]] == [d["label"] for d in other["detections"]]
        for key in ("score", "box"):
            mine, theirs = ([d[key] for d in each["detections"]] for each in (one, other))
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-4)
    assert told["image"] == str(bad) and "not an image" in told["error"]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_ray_data_finds_what_detect_does_in_order(untrained: Path) -> None:
    images = untrained / "data" / "JPEGImages"
    done = run("detect_in_ray.py", str(untrained / "m.safetensors"), str(images))
    assert done.returncode == 0, done.stderr
    names = [json.loads(line)["image"] for line in done.stdout.splitlines()]
    assert names == sorted(str(path.absolute()) for path in images.iterdir())
    (untrained / "found.jsonl").write_text(done.stdout, encoding="utf-8")
    scored = detkit("eval", "--predictions", untrained / "found.jsonl", untrained / "data")
    assert scored.returncode == 0, scored.stderr
