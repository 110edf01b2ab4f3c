"""The learning curve of a run, from lines as `detkit train` writes them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from running import detkit

from detkit.errors import DetkitError, UsageError
from detkit.report.learning_curve import read_curves, save_run_plot


def step(number: int, stage: str = "train") -> dict[str, Any]:
    losses = {"class": 4.0 / number, "box": 2.0 / number}
    return {"step": number, "stage": stage, "losses": losses, "lr": 1e-3 * number}


def validation(number: int, mean: float | None, *, best: bool) -> dict[str, Any]:
    told = {"protocol": "VOC", "mAP": mean, "classes": {"car": mean, "none": None}}
    return {"step": number, "stage": "train", "best": best, "validation": told}


def write_run(folder: Path, *lines: dict[str, Any], end: str = "") -> Path:
    folder.mkdir()
    text = "".join(json.dumps(line) + "\n" for line in lines) + end
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
    return folder


def test_curves_are_what_the_lines_say(tmp_path: Path) -> None:
    lines = (
        step(1),
        step(2),
        validation(2, 0.5, best=True),
        step(4, "second"),
        validation(4, 0.4, best=False),
    )
    curves = read_curves(write_run(tmp_path / "run", *lines, end='{"step": 5, "lo'))
    assert curves.steps == [1, 2, 4] and curves.totals == [6.0, 3.0, 1.5]
    assert curves.losses["box"] == ([1, 2, 4], [2.0, 1.0, 0.5])
    assert curves.stages == [(1, "train"), (4, "second")]
    assert curves.validated == [(2, 0.5), (4, 0.4)] and curves.best == (2, 0.5)
    assert list(curves.classes) == ["car"]


def test_a_run_is_drawn_by_the_command(tmp_path: Path) -> None:
    run = write_run(tmp_path / "lauf ü", step(1), validation(1, 0.5, best=True), step(2))
    out = tmp_path / "ü.png"
    done = detkit("plot", run, "-o", out)
    assert done.returncode == 0 and done.stdout == ""
    picture = cv2.imdecode(np.fromfile(out, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None and picture.std() > 5
    assert detkit("plot", run, "-o", out).returncode == 2  # never overwritten unasked
    assert detkit("plot", run, "-o", out, "--force").returncode == 0


def test_its_axes_are_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", step(1), validation(1, None, best=False))
    save_run_plot(run, tmp_path / "plot.svg")
    text = (tmp_path / "plot.svg").read_text(encoding="utf-8")
    for name in ("training loss", "learning rate", "validation AP", "step"):
        assert f"<!-- {name} -->" in text


def test_names_are_drawn_as_they_are_called(tmp_path: Path) -> None:
    names = ("$x^$", "_of $\\me$", "提案")  # no formula could be made of the first two
    told = validation(1, 0.5, best=True)
    told["validation"]["classes"] = dict.fromkeys(names, 0.5)
    run = write_run(tmp_path / "cost $^$", step(1, "$_$"), told, step(2, "$^$"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # as of letters that the font lacks
        save_run_plot(run, tmp_path / "plot.svg")
    drawn = (tmp_path / "plot.svg").read_text(encoding="utf-8").replace(r"\$", "$")
    for name in (*names, run.name, "$_$ | $^$"):
        assert f"{name} -->" in drawn
    assert sorted(path.name for path in tmp_path.iterdir()) == [run.name, "plot.svg"]


def test_what_is_no_run_or_no_plot_is_told(tmp_path: Path) -> None:
    with pytest.raises(DetkitError, match="no run folder"):
        read_curves(tmp_path)
    with pytest.raises(DetkitError, match="nothing measured yet"):
        read_curves(write_run(tmp_path / "empty"))
    with pytest.raises(DetkitError, match="metrics.jsonl:1: not a line"):
        read_curves(write_run(tmp_path / "bad", {"loss": 1}, step(1)))
    with pytest.raises(UsageError, match="one of"):
        save_run_plot(write_run(tmp_path / "run", step(1)), tmp_path / "plot.bmp")
