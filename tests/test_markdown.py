"""Markdown for a job's summary: `--markdown` of eval, check and compare, and its escapes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from labelled_folders import put, xml
from running import detkit

from detkit.cli.compare_tables import tell
from detkit.cli.console import Console
from detkit.cli.markdown import escaped, paragraph
from detkit.comparison.table import Comparison, Row
from detkit.data import open_dataset
from detkit.data.demo.pictures import write_demo


def tables(text: str) -> list[list[list[str]]]:
    """Return the cells of each Markdown table, read by GitHub's rules: `\\|` is no border."""
    found: list[list[list[str]]] = []
    before = ""
    for line in text.splitlines():
        if line.startswith("|"):
            if not before.startswith("|"):
                found.append([])
            cells = re.split(r"(?<!\\)\|", line)[1:-1]
            found[-1].append([cell.strip() for cell in cells])
        before = line
    for table in found:
        assert all(len(row) == len(table[0]) for row in table), table
        assert all(re.fullmatch(r"---:?", cell) for cell in table.pop(1))
    return found


def write_found(path: Path, data: Path, most: int) -> Path:
    """Write the first `most` true boxes of each test image as detections."""
    rows = []
    for record in open_dataset(data).splits["test"]:
        found = [
            {"label": one.name, "score": 0.04, "box": list(one.box)}
            for one in record.objects[:most]
        ]
        rows.append({"image": record.image_id, "width": 0, "height": 0, "detections": found})
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("markdown") / "data"
    write_demo(folder, num_images=24)
    return folder


def test_no_sign_of_a_name_ends_a_cell_or_begins_html_or_code() -> None:
    assert escaped("a|b") == r"a\|b"
    assert escaped("a\nb\r\nc") == "a b c"
    assert escaped("`rm`") == r"\`rm\`"
    assert escaped("<img src=x onerror=y>&amp;") == "&lt;img src=x onerror=y&gt;&amp;amp;"
    assert escaped("back\\|slash") == r"back\\\|slash"
    assert escaped("[x](http://y)") == r"\[x\](http://y)"


@pytest.mark.parametrize("text", ["- a", "+ a", "# a", "1. a", "1) a", "> a", "---", "==="])
def test_a_line_makes_no_list_heading_or_quote(text: str) -> None:
    written = paragraph(text)
    assert not re.match(r"[-+#>=]|\d+[.)]", written)


def test_a_figure_at_the_beginning_of_a_line_stays_as_it_is() -> None:
    assert paragraph("95 % of draws, -0.5") == "95 % of draws, -0.5"
    assert paragraph("0.5 of all") == "0.5 of all"


def test_eval_has_the_figures_of_its_json_the_protocol_the_change_and_the_gates(
    tmp_path: Path, data: Path
) -> None:
    old = write_found(tmp_path / "old.jsonl", data, 1)
    new = write_found(tmp_path / "new.jsonl", data, 9)
    before = detkit("eval", "--predictions", old, data, "--json", "--with-detections", "-q")
    baseline = tmp_path / "old.json"
    baseline.write_text(before.stdout, encoding="utf-8")
    told = json.loads(before.stdout)
    done = detkit(
        *("eval", "--predictions", new, data, "--markdown", "--baseline", baseline, "-q"),
        *("--fail-under", "mAP=.9", "--fail-under", f"{told['classes'][0]['name']}=1"),
    )
    assert done.returncode == 0, done.stderr
    scores, change, gates = tables(done.stdout)
    assert scores[0] == ["class", "AP", "objects", "detections", "best F1", "at score"]
    assert [row[1] for row in scores[1:]] == ["1.000"] * 3
    assert "VOC 2007 11-point AP, IoU &gt;= 0.5" in done.stdout
    assert change[0] == ["class", "AP", "before", "change"]
    for row, one in zip(change[1:], [*told["classes"], {"name": "mAP", "AP": told["mAP"]}]):
        gain = f"{1 - one['AP']:+.3f}"
        assert row == [one["name"], "1.000", f"{one['AP']:.3f}", gain]
    assert re.search(
        r"interval over \d+ images, paired bootstrap: mAP \+0\.\d{3} to \+\d", done.stdout
    )
    assert [row[1] for row in gates] == ["outcome", "met", "met", "met"]


def test_a_gate_that_is_not_met_is_named_and_the_exit_code_is_1(tmp_path: Path, data: Path) -> None:
    found = write_found(tmp_path / "found.jsonl", data, 1)
    done = detkit("eval", "--predictions", found, data, "--markdown", "--fail-under", "mAP=.99")
    assert done.returncode == 1
    gate = tables(done.stdout)[-1][1]
    assert gate[0] == "mAP &gt;= 0.99"
    assert gate[1].startswith("not met: mAP")


def test_a_baseline_without_detections_has_its_classes_but_no_interval(
    tmp_path: Path, data: Path
) -> None:
    found = write_found(tmp_path / "found.jsonl", data, 1)
    baseline = tmp_path / "old.json"
    baseline.write_text(detkit("eval", "--predictions", found, data, "--json").stdout)
    done = detkit("eval", "--predictions", found, data, "--markdown", "--baseline", baseline)
    assert done.returncode == 0, done.stderr
    assert [row[3] for row in tables(done.stdout)[1][1:]] == ["+0.000"] * 4
    assert "bootstrap" not in done.stdout


def test_check_counts_its_rules_shows_the_first_findings_and_says_how_many_more(
    tmp_path: Path,
) -> None:
    files = {
        f"Annotations/{number:03}.xml": xml(("a|&lt;b>", 9, 1, 2, 5), filename=f"{number:03}.jpg")
        for number in range(60)
    }
    data = put(tmp_path, {**files, **{f"JPEGImages/{n:03}.jpg": None for n in range(60)}})
    done = detkit("check", data, "--markdown", "-q")
    assert done.returncode == 1, done.stderr
    report = json.loads(detkit("check", data, "--json", "-q").stdout)
    rules, findings, counts = tables(done.stdout)
    numbers = {row[0]: int(row[2]) for row in rules[1:]}
    codes = [one["code"] for one in report["findings"]]
    assert numbers == {code: codes.count(code) for code in codes}
    assert len(findings) == 1 + 50
    assert f"and {len(codes) - 50} more" in done.stdout
    assert r'"a\|&lt;b&gt;"' in findings[1][2]
    assert counts[0][0] == ""


def test_compare_has_its_models_and_protocol(capsys: pytest.CaptureFixture[str]) -> None:
    rows = (Row("ssd|300", maps=(0.5,), mean=0.5), Row("lost", errors=("ssd: no memory",)))
    tell(Console(markdown=True), Comparison("VOC 2007", "test", 4, 1000, rows, 4))
    text = capsys.readouterr().out
    (models,) = tables(text)
    assert [row[:3] for row in models] == [
        ["model", "seeds", "mAP"],
        [r"ssd\|300", "1", "0.500"],
        ["lost", "0", "failed"],
    ]
    assert "VOC 2007; test, 4 images" in text


@pytest.mark.parametrize("command", ["eval", "check", "compare"])
def test_markdown_and_json_together_are_wrong_usage(command: str, data: Path) -> None:
    own = {"eval": ["--predictions", "x"], "compare": ["--run", "r", "-o", "out"]}
    done = detkit(command, *own.get(command, []), data, "--json", "--markdown")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--json and --markdown" in done.stderr
