"""`detkit schema` against what the commands write, and `detkit --help-json`."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from labelled_folders import put, xml
from running import detkit, process
from test_markdown import write_found

from detkit.cli.schema import NAMES
from detkit.comparison.table import Comparison, FoldScore, Row, comparison_to_json
from detkit.data.demo.pictures import write_demo
from detkit.evaluation.bootstrap import Interval
from detkit.evaluation.misses import Miss, misses_to_json
from detkit.predictions.image import ImagePredictions
from detkit.predictions.texts import json_line
from detkit.proposals.writer import ProposalWriter
from detkit.structures import Proposals


def validator(name: str) -> Draft202012Validator:
    schema = json.loads(detkit("schema", name).stdout)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def faults(name: str, report: Any) -> list[str]:
    return [f"{one.json_path}: {one.message}" for one in validator(name).iter_errors(report)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("schema") / "data"
    write_demo(folder, num_images=24)
    return folder


@pytest.fixture(scope="module")
def found(data: Path) -> Path:
    return write_found(data.parent / "found.jsonl", data, 2)


def evaluated(*words: str | Path) -> dict[str, Any]:
    done = detkit("eval", *words, "--json", "-q")
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.mark.parametrize("name", NAMES)
def test_a_schema_is_of_draft_2020_12_and_says_what_it_is_of(name: str) -> None:
    schema = validator(name).schema
    assert isinstance(schema, dict)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"].endswith(name) and schema["title"] and schema["description"]


@pytest.mark.parametrize("name", NAMES)
def test_every_object_of_a_schema_names_what_it_holds_and_what_it_must(name: str) -> None:
    objects = list(objects_of(validator(name).schema))
    assert objects
    for one in objects:
        assert "additionalProperties" in one, one
        if "properties" in one:
            assert one["additionalProperties"] is False
            assert set(one["required"]) <= set(one["properties"])


def objects_of(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield schema
        for value in schema.values():
            yield from objects_of(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from objects_of(value)


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--metric", "coco"),
        ("--metric", "coco", "--errors", "--explain"),
        ("--errors", "--tide", "tidecv"),
        ("--explain", "--like", "voc-devkit"),
        ("--metric", "voc12", "--iou", ".7", "--interval"),
        ("--explain", "--errors", "--interval", "--with-detections"),
        ("--classes", "car"),
    ],
)
def test_what_eval_writes_has_its_schema(
    data: Path, found: Path, words: tuple[str, ...], tmp_path: Path
) -> None:
    assert faults("eval", evaluated("--predictions", found, data, *words)) == []


def test_what_eval_writes_of_no_detections_and_of_classes_without_objects_has_its_schema(
    data: Path, tmp_path: Path
) -> None:
    nothing = write_found(tmp_path / "nothing.jsonl", data, 0)
    report = evaluated("--predictions", nothing, data, "--interval", "--errors", "--explain")
    assert faults("eval", report) == []
    hard = "<difficult>1</difficult>"
    files = {"Annotations/1.xml": xml(("a", 1, 1, 9, 9, hard), filename="1.jpg")}
    only = put(tmp_path / "only", {**files, "JPEGImages/1.jpg": None})
    (tmp_path / "f.json").write_text('{"image": "1", "width": 0, "height": 0, "detections": []}\n')
    report = evaluated("--predictions", tmp_path / "f.json", only, "--errors", "--interval")
    assert report["mAP"] is None
    assert faults("eval", report) == []


@pytest.mark.parametrize("detections", [(), ("--with-detections",)])
def test_what_eval_writes_against_a_baseline_has_its_schema(
    data: Path, found: Path, tmp_path: Path, detections: tuple[str, ...]
) -> None:
    old = tmp_path / "old.json"
    old.write_text(json.dumps(evaluated("--predictions", found, data, *detections)))
    report = evaluated("--predictions", found, data, "--baseline", old)
    assert (report["baseline"]["interval"] is None) == (detections == ())
    assert faults("eval", report) == []


def test_heads_and_missed_objects_of_a_model_have_their_schema(data: Path, found: Path) -> None:
    report = evaluated("--predictions", found, data)
    heads = {key: report[key] for key in report if key not in {"data", "split", "leaks"}}
    box = (1.0, 2.0, 3.0, 4.0)
    missed = [
        Miss("1", 0, "car", box, "nms", "hidden by another", "", box),
        Miss("2", 0, "car", box, "score", "too low", "0.01", None),
    ]
    report |= {"heads": {"svm": heads}, "misses": misses_to_json(missed)}
    assert faults("eval", json.loads(json.dumps(report))) == []


def test_what_check_writes_has_its_schema_with_and_without_faults(
    data: Path, tmp_path: Path
) -> None:
    report = json.loads(detkit("check", data, "--json").stdout)
    assert report["splits"]["train"]["difficult"] > 0
    assert faults("check", report) == []
    files = {
        "Annotations/1.xml": xml(("a", 9, 1, 2, 5), filename="1.jpg"),
        "JPEGImages/2.jpg": None,
    }
    done = detkit("check", put(tmp_path, files), "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 1 and report["errors"] > 0
    assert faults("check", report) == []


def test_lines_of_detect_have_their_schema() -> None:
    box = np.array([[0, 1, 20.5, 30]], np.float32)
    score = np.array([1.25], np.float32)
    none = np.zeros((0, 4), np.float32)
    lines = [
        ImagePredictions("a.jpg", 40, 30, ("car",), score, box),
        ImagePredictions("b.jpg", 40, 30, (), score[:0], none),
        ImagePredictions("c.jpg", 0, 0, (), score[:0], none, error="cannot be read"),
    ]
    for line in lines:
        assert faults("detect", json.loads(json_line(line))) == []


def test_lines_of_propose_have_their_schema(tmp_path: Path) -> None:
    found = Proposals(np.array([[0, 0, 4, 5.5]], np.float32), np.array([0.5], np.float32))
    with ProposalWriter(tmp_path / "p.jsonl", {"method": "edge-boxes", "max_boxes": 9}) as writer:
        writer.write("a.jpg", (30, 40), found)
        writer.write_error("b.jpg", "cannot be read")
    lines = (tmp_path / "p.jsonl").read_text().splitlines()
    assert len(lines) == 2
    for line in lines:
        assert faults("propose", json.loads(line)) == []


def test_what_compare_writes_has_its_schema_with_a_model_that_failed() -> None:
    best = Row(
        name="ssd",
        backend="ssd",
        seeds=(0, None),
        maps=(0.5, None),
        mean=0.5,
        spread=0.1,
        interval=Interval(0.5, 0.4, 0.6),
        difference=Interval(-0.1, -0.2, 0.0),
        classes={"car": None},
        sizes={"small": 0.1, "large": None},
        seconds=0.1,
        stages={"network": 0.1},
        memory_mib=5.0,
        model_bytes=7,
        training_seconds=1.0,
        training_memory_mib=2.0,
        folds=(FoldScore(0, 1, 2, 0.5), FoldScore(None, 2, 2, None)),
        warnings=("2 images have no predictions",),
    )
    rows = (best, Row("lost", errors=("no memory",)))
    table = Comparison("VOC 2007", "test", 4, 1000, rows, 3, 2)
    report = {"data": "data", "data_hash": "00", **comparison_to_json(table)}
    assert faults("compare", json.loads(json.dumps(report))) == []


def without(key: str) -> Callable[[dict[str, Any]], Any]:
    return lambda report: report.pop(key)


@pytest.mark.parametrize(
    "spoil",
    [
        without("protocol"),
        without("mAP"),
        lambda report: report.update(mAP="0.5"),
        lambda report: report.update(mAP=1.5),
        lambda report: report.update(surprise=1),
        lambda report: report["classes"][0].pop("AP"),
        lambda report: report["classes"][0].update(num_truths=-1),
        lambda report: report["images"][0]["detections"].append({"label": "car"}),
        lambda report: report["images"].append({"image": 3}),
    ],
)
def test_a_wrong_output_of_eval_is_refused(
    data: Path, found: Path, spoil: Callable[[dict[str, Any]], Any]
) -> None:
    report = evaluated("--predictions", found, data, "--with-detections")
    spoilt = copy.deepcopy(report)
    spoil(spoilt)
    assert faults("eval", report) == []
    assert faults("eval", spoilt) != []


@pytest.mark.parametrize(
    "line",
    [
        {"image": "a"},
        {"image": "a", "error": "x", "detections": []},
        {"image": "a", "width": 1, "height": 1, "detections": [{"label": "b", "score": 1}]},
    ],
)
def test_a_wrong_line_of_detect_is_refused(line: dict[str, Any]) -> None:
    assert faults("detect", line) != []


def test_schema_alone_lists_the_names_and_an_unknown_one_gets_the_nearest() -> None:
    assert detkit("schema").stdout.split() == list(NAMES)
    done = detkit("schema", "compair")
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean compare?" in done.stderr


@pytest.fixture(scope="module")
def tree() -> dict[str, Any]:
    done = process("--help-json")
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_help_json_has_every_command_and_option_of_the_help_texts(tree: dict[str, Any]) -> None:
    listed = detkit("--help").stdout
    assert [one["name"] for one in tree["commands"]]
    for one in tree["commands"]:
        assert f"\n  {one['name']} " in listed
        text = detkit(one["name"], "--help").stdout
        names = [name for option in one["options"] for name in option["names"]]
        assert set(names) <= {word.strip(",/[]") for word in text.replace("/", " ").split()}


def test_help_json_says_of_an_option_what_it_takes(tree: dict[str, Any]) -> None:
    (command,) = (one for one in tree["commands"] if one["name"] == "eval")
    options = {one["name"]: one for one in command["options"]}
    (places,) = command["arguments"]
    assert places["repeatable"] and places["required"] and places["type"] == "string"
    assert options["--fail-under"]["repeatable"]
    assert options["--predictions"]["type"] == "path"
    assert not options["--predictions"]["required"]
    assert options["--metric"]["default"] == "voc07"
    assert {"voc07", "coco"} <= set(options["--metric"]["choices"])
    assert (options["--max-drop"]["minimum"], options["--max-drop"]["maximum"]) == (0, 1)
    assert options["--batch-size"]["type"] == "integer"
    assert options["--json"]["flag"] and options["--json"]["default"] is False
    assert options["--quiet"]["names"] == ["--quiet", "-q"]


def test_help_json_has_no_placeholder_and_a_help_text_for_everything(tree: dict[str, Any]) -> None:
    for command in tree["commands"]:
        for one in (*command["arguments"], *command["options"]):
            assert one["help"] and "FORMATS" not in one["help"], (command["name"], one["name"])


@pytest.mark.parametrize("words", [("--help-json",), ("schema", "eval")])
def test_schemas_and_the_tree_of_commands_need_no_torch(words: tuple[str, ...]) -> None:
    code = (
        "import sys\nfrom detkit.cli import main\n"
        f"try:\n    main({list(words)!r})\nexcept SystemExit:\n    pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False)
    assert done.returncode == 0
