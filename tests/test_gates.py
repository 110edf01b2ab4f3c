"""Explanations and gates of `detkit eval`, and the example pipelines, through the command."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running import detkit
from test_error_breakdown import drawn

from detkit.cli.gates import annotation
from detkit.data import open_dataset
from detkit.data.demo.pictures import write_demo
from detkit.evaluation.junit import TestCase, junit_xml
from detkit.evaluation.protocols import explain
from detkit.evaluation.voc_map import voc_map
from detkit.structures import Detections, Truth

EXAMPLES = Path(__file__).parents[1] / "examples" / "ci"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gates") / "dätä"
    write_demo(folder, num_images=16)
    return folder


def write_found(path: Path, data: Path, share: float) -> Path:
    """Write detections of the first `share` of the test objects, and one false one an image."""
    dataset = open_dataset(data)
    rows = []
    for record in dataset.splits["test"]:
        one = [
            {"label": item.name, "score": 0.9 - 0.01 * number, "box": list(item.box)}
            for number, item in enumerate(record.objects)
        ]
        kept = one[: max(1, round(len(one) * share))]
        kept.append({"label": dataset.class_names[0], "score": 0.01, "box": [0, 0, 3, 3]})
        rows.append({"image": record.image_id, "width": 0, "height": 0, "detections": kept})
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def evaluated(*words: str | Path) -> dict[str, Any]:
    done = detkit("eval", "--predictions", *words, "--json", "-q")
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_a_fall_below_the_baseline_fails_with_its_interval(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = (write_found(tmp_path / f"{x}.jsonl", data, x) for x in (1.0, 0.4))
    old = tmp_path / "old.json"
    old.write_text(json.dumps(evaluated(good, data, "--with-detections")), encoding="utf-8")
    same = evaluated(good, data, "--baseline", old)
    assert same["baseline"]["drop"] == 0 and same["baseline"]["interval"]["high"] == 0

    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    junit = tmp_path / "j.xml"
    words = ("--baseline", old, "--junit", junit, "--json", "--fail-under", "mAP=.01")
    done = detkit("eval", "--predictions", bad, data, *words)
    assert done.returncode == 1
    drop = json.loads(done.stdout)["baseline"]
    assert 0 < drop["interval"]["low"] <= drop["drop"] <= drop["interval"]["high"]
    drawn = r"95 % interval of paired bootstrap draws of the \d+ images \+0\.\d+ to \+0\."
    assert re.search(drawn, done.stderr)
    assert re.search(r"^::error title=detkit eval::mAP", done.stderr, re.MULTILINE)
    suite = ET.parse(junit).getroot()
    gates = [case for case in suite.iter("testcase") if "gates" in case.attrib["classname"]]
    assert [case.find("failure") is not None for case in gates] == [False, True]
    num_classes = len(open_dataset(data).class_names)
    assert suite.attrib["tests"] == str(2 + num_classes) and suite.attrib["failures"] == "1"

    monkeypatch.delenv("GITHUB_ACTIONS")
    allowed = detkit("eval", "--predictions", bad, data, "--baseline", old, "--max-drop", "1")
    assert allowed.returncode == 0 and "::error" not in allowed.stderr
    assert "below" in allowed.stderr  # told all the same


def test_how_far_it_may_fall_is_nothing_without_a_baseline(tmp_path: Path, data: Path) -> None:
    found = write_found(tmp_path / "found.jsonl", data, 1.0)
    done = detkit("eval", "--predictions", found, data, "--max-drop", ".01")
    assert done.returncode == 2 and done.stdout == ""
    assert "--max-drop is how far mAP may fall below --baseline" in done.stderr


def test_a_baseline_without_detections_must_be_of_the_same_protocol(
    tmp_path: Path, data: Path
) -> None:
    good, bad = (write_found(tmp_path / f"{x}.jsonl", data, x) for x in (1.0, 0.4))
    old = tmp_path / "old.json"
    old.write_text(json.dumps(evaluated(good, data)), encoding="utf-8")
    done = detkit("eval", "--predictions", bad, data, "--baseline", old)
    assert done.returncode == 1 and "no interval" in done.stderr
    other = detkit("eval", "--predictions", bad, data, "--baseline", old, "--metric", "voc12")
    assert other.returncode == 3 and "Measure it anew" in other.stderr


def test_what_is_no_baseline_is_told_in_a_line(tmp_path: Path, data: Path) -> None:
    good = write_found(tmp_path / "found.jsonl", data, 1.0)
    words = ("eval", "--predictions", good, data)
    told = "a baseline is what `detkit eval MODEL DATA --json > old.json` wrote"
    for text in (None, "[]", "{", '{"mAP": "x"}', '{"mAP": 1, "protocol": "", "split": ""}'):
        old = tmp_path / f"{text is None}.json"
        if text is not None:
            old.write_text(text, encoding="utf-8")
        done = detkit(*words, "--baseline", old)
        assert (done.returncode, done.stderr.count("\n")) == (3, 1)
        assert f"--baseline {old}: " in done.stderr and told in done.stderr
        assert "Error" not in done.stderr  # no name out of Python
    assert detkit(*words, "--with-detections").returncode == 2


@pytest.mark.parametrize("form", ["jsonl", "json", "coco"])
def test_detections_for_a_baseline_are_told_apart_with_how_to_score_them(
    tmp_path: Path, data: Path, form: str
) -> None:
    good = write_found(tmp_path / "found.jsonl", data, 1.0)
    lines = [json.loads(line) for line in good.read_text(encoding="utf-8").splitlines()]
    box = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1}
    old = tmp_path / f"old.{form}"
    rows = {"jsonl": good.read_text(encoding="utf-8"), "json": json.dumps(lines)}
    old.write_text(rows.get(form, json.dumps([box])), encoding="utf-8")
    done = detkit("eval", "--predictions", good, data, "--baseline", old)
    assert done.returncode == 3
    assert f"detkit eval --predictions {old} DATA --json > old.json" in done.stderr


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-0.1", "50.8"])
def test_a_baseline_whose_map_is_no_share_is_refused(
    tmp_path: Path, data: Path, value: str
) -> None:
    good = write_found(tmp_path / "found.jsonl", data, 1.0)
    report = json.dumps(evaluated(good, data) | {"mAP": "VALUE"})
    (tmp_path / "old.json").write_text(report.replace('"VALUE"', value), encoding="utf-8")
    done = detkit("eval", "--predictions", good, data, "--baseline", tmp_path / "old.json")
    assert done.returncode == 3 and "not between 0 and 1" in done.stderr


def test_a_baseline_with_a_score_that_is_no_number_is_refused(tmp_path: Path, data: Path) -> None:
    good = write_found(tmp_path / "found.jsonl", data, 1.0)
    report = evaluated(good, data, "--with-detections")
    report["images"][0]["detections"][0]["score"] = float("nan")
    (tmp_path / "old.json").write_text(json.dumps(report), encoding="utf-8")
    done = detkit("eval", "--predictions", good, data, "--baseline", tmp_path / "old.json")
    assert done.returncode == 3 and "not finite" in done.stderr


def test_a_baseline_nested_too_deeply_is_told_in_a_line(tmp_path: Path, data: Path) -> None:
    good = write_found(tmp_path / "found.jsonl", data, 1.0)
    (tmp_path / "old.json").write_text("[" * 100_000, encoding="utf-8")
    done = detkit("eval", "--predictions", good, data, "--baseline", tmp_path / "old.json")
    assert done.returncode == 3 and "not JSON; a baseline is what" in done.stderr


def test_labels_of_a_baseline_that_the_data_lack_are_named_and_not_all_may(
    tmp_path: Path, data: Path
) -> None:
    good, bad = (write_found(tmp_path / f"{x}.jsonl", data, x) for x in (1.0, 0.4))
    report, old = evaluated(good, data, "--with-detections"), tmp_path / "old.json"
    first, *_ = names = open_dataset(data).class_names
    words = ("eval", "--predictions", bad, data, "--baseline", old, "--max-drop", "1")

    def with_renamed(renamed: tuple[str, ...]) -> None:
        for image in report["images"]:
            for one in image["detections"]:
                if one["label"] in renamed:
                    one["label"] = one["label"].upper()
        old.write_text(json.dumps(report), encoding="utf-8")

    with_renamed((first,))
    done = detkit(*words)
    assert done.returncode == 0
    assert f"detections of {first.upper()} are left out" in done.stderr
    with_renamed(names)
    done = detkit(*words)
    assert done.returncode == 3
    assert "none of a class that is scored here" in done.stderr


def test_tables_and_json_say_the_same_of_rules_errors_and_intervals(
    tmp_path: Path, data: Path
) -> None:
    found = write_found(tmp_path / "found.jsonl", data, 0.6)
    options = ("--explain", "--errors", "--interval")
    report = evaluated(found, data, *options)
    table = detkit("eval", "--predictions", found, data, *options).stdout
    assert f"{report['interval']['mAP']['low']:.3f}" in table
    assert report["errors"]["mean"]["AP"] == pytest.approx(report["mAP"])
    assert f"{report['errors']['mean']['missed']:.3f}" in table
    for rule in report["explain"]:
        assert f"{rule['rule']}" in table and f"{rule['difference']:+.3f}" in table


def test_errors_go_by_the_paper_or_by_its_tool(tmp_path: Path, data: Path) -> None:
    found = write_found(tmp_path / "found.jsonl", data, 0.6)
    by_paper = evaluated(found, data, "--errors")["errors"]
    assert evaluated(found, data, "--errors", "--tide", "paper")["errors"] == by_paper
    by_tool = evaluated(found, data, "--errors", "--tide", "tidecv")["errors"]
    assert (by_paper["metric"], by_tool["metric"]) == ("voc07", "tidecv")
    words = ("eval", "--predictions", found, data, "--tide")
    table = detkit(*words, "tidecv", "--errors").stdout
    assert "(TIDE; tidecv, IoU 0.5)" in table
    assert f"{by_tool['mean']['missed']:.3f}" in table
    for more, message in (
        (("tidecv",), "--tide says by whose rules --errors"),
        (("tool", "--errors"), "--tide tool: choose from paper, tidecv"),
    ):
        wrong = detkit(*words, *more)
        assert wrong.returncode == 2 and message in wrong.stderr


def test_each_rule_is_what_the_evaluator_says_of_it() -> None:
    detections, truths = drawn(7, images=30)
    names = ["a", "b", "c"]
    rules = {rule.name: rule for rule in explain(detections, truths, names)}
    asked = voc_map(detections, truths, names).mean
    assert asked is not None
    expected = {
        "voc12: area under the curve, IoU .5": voc_map(
            detections, truths, names, metric="voc12"
        ).mean,
        "difficult objects counted like others": voc_map(
            detections, truths, names, count_difficult=True
        ).mean,
        "boxes with both end pixels (+1 pixel)": voc_map(
            detections, truths, names, pixel_inclusive=True
        ).mean,
        "difficult objects dropped, finding them is wrong": voc_map(
            detections,
            [
                Truth(one.boxes[keep], one.labels[keep], one.difficult[keep])
                for one in truths
                for keep in [~one.difficult]
            ],
            names,
        ).mean,
        "detections cut at a score of 0.5": voc_map(
            [
                Detections(one.boxes[keep], one.scores[keep], one.labels[keep])
                for one in detections
                for keep in [one.scores >= 0.5]
            ],
            names and truths,
            names,
        ).mean,
    }
    for name, mean in expected.items():
        assert rules[name].mean == pytest.approx(mean), name
        assert rules[name].difference == pytest.approx(mean - asked)
    assert not any(name.startswith("voc07") for name in rules)  # it is the one asked for
    in_coco = explain(detections, truths, names, metric="coco")
    assert not any(rule.name.startswith("coco AP:") for rule in in_coco)


def test_explaining_nothing_says_that_there_is_no_figure() -> None:
    none = Truth(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.bool_))
    empty = Detections(none.boxes, np.zeros(0, np.float32), none.labels)
    assert all(rule.mean is None for rule in explain([empty], [none], ["a"]))


def test_junit_escapes_what_xml_cannot_hold() -> None:
    xml = junit_xml(
        "s", [TestCase("g", "<a> & \x00", failure='"\x1b'), TestCase("g", "b", skipped="x")]
    )
    cases = list(ET.fromstring(xml).iter("testcase"))
    assert cases[0].attrib["name"] == "<a> & \ufffd"
    assert cases[1].find("skipped") is not None


def test_an_annotation_stays_on_one_line() -> None:
    assert annotation("a: b, c", "1 %\nmore") == "::error title=a%3A b%2C c::1 %25%0Amore"


@pytest.mark.skipif(os.name == "nt", reason="a Unix shell's script")
def test_the_example_pipeline_writes_its_baseline_then_passes_then_fails(
    tmp_path: Path, data: Path
) -> None:
    program = tmp_path / "bin" / "detkit"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m detkit "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"

    def gate(found: Path) -> int:
        return subprocess.run(
            [EXAMPLES / "gate.sh", found, data, tmp_path / "baseline.json", tmp_path / "out"],
            env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            timeout=300,
            check=False,
        ).returncode

    good, bad = (write_found(tmp_path / f"{x}.jsonl", data, x) for x in (1.0, 0.4))
    assert [gate(good), gate(good), gate(bad)] == [0, 0, 1]
    assert (tmp_path / "out" / "detkit.xml").is_file()


def test_the_example_workflow_runs_commands_that_there_are() -> None:
    text = (EXAMPLES / "detector.yml").read_text(encoding="utf-8")
    command = re.search(r"detkit eval (.*?)> scores.json", text, re.DOTALL)
    assert command is not None
    helped = detkit("eval", "--help").stdout
    for option in re.findall(r"--[a-z-]+", command[1]):
        assert option in helped
