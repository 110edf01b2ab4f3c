"""The example scripts, run as a reader would run them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

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
