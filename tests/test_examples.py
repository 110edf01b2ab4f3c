"""The example scripts, run as a reader would run them."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from running import process

from detkit.data.demo.pictures import write_demo

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
