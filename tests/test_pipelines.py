"""The GitHub action and the pre-commit hook, run as GitHub and pre-commit run them."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_markdown import tables, write_found

from detkit.data.demo.pictures import write_demo

ROOT = Path(__file__).parents[1]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
STEPS = {step["name"]: step for step in ACTION["runs"]["steps"] if "name" in step}
(HOOK,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
BASH = shutil.which("bash")
INPUT = re.compile(r"\$\{\{ inputs\.([\w-]+) \}\}")
needs_bash = pytest.mark.skipif(BASH is None or os.name == "nt", reason="needs bash")


@dataclass
class Step:
    """What a step of the action left behind."""

    code: int
    log: str
    summary: str
    outputs: dict[str, str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with the demo data, detections of it, and a `detkit` command."""
    write_demo(tmp_path / "my data", num_images=24)
    write_found(tmp_path / "found.jsonl", tmp_path / "my data", 9)
    write_found(tmp_path / "few.jsonl", tmp_path / "my data", 1)
    command(tmp_path / "bin" / "detkit", f'exec "{sys.executable}" -m detkit "$@"')
    command(tmp_path / "bin" / "python", 'printf "%s\\n" "$@" > words')
    return tmp_path


def command(path: Path, script: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)


def environment(folder: Path) -> dict[str, str]:
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(path),
        "OMP_NUM_THREADS": "1",
    }


def run(name: str, folder: Path, **given: str) -> Step:
    """Run a step's script as the runner does: its inputs in the environment, bash -eo pipefail."""
    inputs = {key: one.get("default", "") for key, one in ACTION["inputs"].items()}
    inputs |= {key.replace("_", "-"): value for key, value in given.items()}

    def value(text: str) -> str:
        filled = INPUT.sub(lambda match: inputs[match[1]], text)
        return filled.replace("${{ github.action_path }}", str(ROOT))

    files = {key: folder / key for key in ("GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT")}
    for file in files.values():
        file.write_text("", encoding="utf-8")
    script = folder / "step.sh"
    script.write_text(STEPS[name]["run"], encoding="utf-8")
    done = subprocess.run(
        [str(BASH), "--noprofile", "--norc", "-eo", "pipefail", script],
        cwd=folder,
        env={
            **environment(folder),
            **{key: value(text) for key, text in STEPS[name]["env"].items()},
            **{key: str(file) for key, file in files.items()},
            "RUNNER_TEMP": str(folder),
            "GITHUB_ACTIONS": "true",
        },
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    lines = files["GITHUB_OUTPUT"].read_text(encoding="utf-8").splitlines()
    return Step(
        done.returncode,
        done.stdout + done.stderr,
        files["GITHUB_STEP_SUMMARY"].read_text(encoding="utf-8"),
        dict((line.split("=", 1)[0], line.split("=", 1)[1]) for line in lines),
    )


def test_no_script_of_the_action_has_an_input_in_its_text() -> None:
    for step in ACTION["runs"]["steps"]:
        assert "${{" not in step.get("run", "")
        assert "run" not in step or step["shell"] == "bash"  # which stops at the first failure


def test_every_input_of_the_action_is_used_and_every_used_one_is_declared() -> None:
    used = set(re.findall(r"inputs\.([\w-]+)", (ROOT / "action.yml").read_text(encoding="utf-8")))
    assert used == set(ACTION["inputs"])


@needs_bash
def test_the_action_installs_its_own_source_or_the_version_asked_for(folder: Path) -> None:
    def words(**inputs: str) -> str:
        assert run("Install", folder, **inputs).code == 0
        return (folder / "words").read_text(encoding="utf-8").splitlines()[-1]

    assert words() == str(ROOT)
    assert words(extras="onnx") == f"{ROOT}[onnx]"
    assert words(version="0.1.0") == "detkit==0.1.0"
    assert words(version="0.1.0", extras="train") == "detkit[train]==0.1.0"


@needs_bash
def test_a_sound_folder_passes_and_one_with_a_fault_fails_with_its_table(folder: Path) -> None:
    done = run("Check the labels", folder, data="my data")
    assert done.code == 0, done.log
    assert "0 errors" in done.summary
    break_a_label(folder / "my data")
    done = run("Check the labels", folder, data="my data")
    assert done.code == 1, done.log
    rules, findings, _ = tables(done.summary)
    assert rules[1][1:] == ["error", "1"]
    assert ".xml" in findings[1][2]


@needs_bash
def test_gates_that_are_met_pass_with_a_table_and_a_junit_file(folder: Path) -> None:
    done = run(
        *("Score the detections", folder),
        data="my data",
        predictions="found.jsonl",
        fail_under="mAP=.9\n\n  \ncar=.9\r\n",
    )
    assert done.code == 0, done.log
    assert [row[1] for row in tables(done.summary)[-1][1:]] == ["met", "met"]
    cases = ET.parse(done.outputs["junit"]).iter("testcase")
    assert sum(case.get("classname") == "detkit eval.gates" for case in cases) == 2


@needs_bash
def test_gates_that_are_not_met_fail_with_the_table_and_the_junit_file_all_the_same(
    folder: Path,
) -> None:
    done = run(
        *("Score the detections", folder),
        data="my data",
        predictions="few.jsonl",
        fail_under="mAP=.99",
        junit="out.xml",
    )
    assert done.code == 1, done.log
    assert tables(done.summary)[-1][1][1].startswith("not met")
    assert done.outputs == {"junit": "out.xml"}
    assert ET.parse(folder / "out.xml").getroot().get("failures") == "1"
    assert "::error title=detkit eval::" in done.log


@needs_bash
def test_a_fall_below_the_baseline_fails_the_action(folder: Path) -> None:
    old = subprocess.run(
        ["detkit", "eval", "--predictions", "found.jsonl", "my data", "--json"],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        check=True,
    )
    (folder / "old.json").write_bytes(old.stdout)
    given = {"data": "my data", "baseline": "old.json"}
    assert run("Score the detections", folder, predictions="found.jsonl", **given).code == 0
    assert run("Score the detections", folder, predictions="few.jsonl", **given).code == 1
    given["max-drop"] = "1"
    assert run("Score the detections", folder, predictions="few.jsonl", **given).code == 0


@needs_bash
@pytest.mark.parametrize(
    "text", ["$(touch pwned)", "`touch pwned`", "x; touch pwned", '"; touch pwned; "', "--help"]
)
def test_an_input_is_never_run_nor_taken_for_an_option(folder: Path, text: str) -> None:
    hostile: dict[str, Any] = dict.fromkeys(set(ACTION["inputs"]) - {"model"}, text)
    assert run("Install", folder, **hostile).code == 0
    for step in ("Check the labels", "Score the detections"):
        done = run(step, folder, **hostile)
        assert done.code in (2, 3), done.log
    given = {"data": text, "model": text}
    assert run("Score the detections", folder, **given).code in (2, 3)
    assert not (folder / "pwned").exists()


@needs_bash
def test_predictions_and_a_model_together_are_wrong_usage(folder: Path) -> None:
    given = {"data": "my data", "predictions": "found.jsonl", "model": "m.onnx"}
    done = run("Score the detections", folder, **given)
    assert done.code == 2
    assert "::error title=detkit::" in done.log


@needs_bash
def test_the_hook_passes_a_sound_folder_and_stops_a_fault(folder: Path) -> None:
    def code() -> int:
        words = [*shlex.split(HOOK["entry"]), "my data"]
        return subprocess.run(words, cwd=folder, env=environment(folder), check=False).returncode

    assert code() == 0
    break_a_label(folder / "my data")
    assert code() == 1


def test_the_hook_looks_at_labels_and_images_of_every_format_and_at_nothing_else() -> None:
    assert HOOK["pass_filenames"] is False
    files = re.compile(HOOK["files"])
    for name in ("a/1.xml", "a/1.txt", "b/instances.json", "t.csv", "data.yaml", "a/1.JPG"):
        assert files.search(name), name
    for name in ("a.py", "README.md", "xml/a.rs"):
        assert not files.search(name), name


def break_a_label(data: Path) -> None:
    """Give the first object of a folder's labels a name of no letters at all."""
    place = sorted((data / "Annotations").glob("*.xml"))[0]
    place.write_text("<annotation><object>", encoding="utf-8")
