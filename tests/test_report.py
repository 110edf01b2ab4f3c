"""The pages: what they say is what was measured, and nothing in them is markup by accident."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from report_samples import EMPTY, HOSTILE, write_folder, write_found
from running import detkit

from detkit.comparison.table import Comparison, Row
from detkit.data import open_dataset
from detkit.data.summary import data_hash
from detkit.detectors.ssd import SSD, SSDConfig
from detkit.errors import DetkitError
from detkit.evaluation.bootstrap import Interval
from detkit.evaluation.error_breakdown import breakdown
from detkit.evaluation.pairing import pair
from detkit.evaluation.scores import score
from detkit.evaluation.sizes import scores_by_size
from detkit.model_file import save_model
from detkit.predictions.readers import read_predictions
from detkit.report.comparison_page import write_comparison
from detkit.report.confusion import confusion_matrices
from detkit.report.curve_points import at_thresholds, curve_points
from detkit.report.page import write_report
from detkit.report.pictures import LONG_SIDE, MOST_IMAGES, pictures, worst_first
from detkit.report.score_bins import score_bins
from detkit.structures import Detections, Scores, Truth

NAMES = ("car", "dog", "hen")


class Parsed(HTMLParser):
    """The tables, scripts and texts of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.tables: dict[str, list[list[str]]] = {}
        self.values: dict[str, list[list[str]]] = {}  # the exact ones of <data>
        self.text = ""
        self._table = self._script = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append((tag, given))
        if tag == "table":
            self._table = given.get("id") or ""
            self.tables[self._table], self.values[self._table] = [], []
        elif tag == "tr":
            self.tables[self._table].append([])
            self.values[self._table].append([])
        elif tag in ("td", "th"):
            self.tables[self._table][-1].append("")
        elif tag == "data" and self._table:
            self.values[self._table][-1].append(given.get("value") or "")
        elif tag == "script":
            self._script = given.get("id") or "code"

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._script = ""
        elif tag == "table":
            self._table = ""

    def handle_data(self, data: str) -> None:
        if self._script:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data
            return
        self.text += data
        if self._table and self.tables[self._table] and self.tables[self._table][-1]:
            self.tables[self._table][-1][-1] += data.strip()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("dätä"))


@pytest.fixture(scope="module")
def done(folder: Path) -> tuple[dict[str, Any], str]:
    """The JSON and the page of one evaluation."""
    page = folder.parent / "repört.html"
    found = write_found(folder.parent / "found.jsonl")
    here = detkit("eval", "--predictions", found, folder, "--json", "--report", page)
    assert here.returncode == 0, here.stderr
    return json.loads(here.stdout), page.read_text(encoding="utf-8")


def test_the_figures_of_the_page_are_those_of_json(done: tuple[dict[str, Any], str]) -> None:
    report, page = done
    parsed = Parsed(page)
    assert json.loads(parsed.scripts["figures"]) == report
    shown = parsed.values["by-class"][1:]
    for one, values in zip(report["classes"], shown, strict=True):
        wanted = [one["AP"], one["best_f1"], one["best_threshold"]]
        assert [float(value) if value else None for value in values] == wanted
    means = [given["value"] for tag, given in parsed.tags if given.get("id") == "mAP"]
    assert [float(str(mean)) for mean in means] == [report["mAP"]]
    assert [row[0] for row in parsed.tables["by-class"][1:]] == [
        one["name"] for one in report["classes"]
    ]


def test_a_class_named_like_markup_is_text(done: tuple[dict[str, Any], str]) -> None:
    _, page = done
    parsed = Parsed(page)
    assert HOSTILE in [row[0] for row in parsed.tables["by-class"]]
    assert HOSTILE in json.loads(parsed.scripts["data"])["classes"]
    assert [tag for tag, _ in parsed.tags].count("script") == 3
    assert HOSTILE not in page


def test_the_page_asks_nothing_of_the_network(done: tuple[dict[str, Any], str]) -> None:
    _, page = done
    for tag, given in Parsed(page).tags:
        for key in ("src", "href", "action", "data", "srcset"):
            value = given.get(key) or ""
            assert not value or value.startswith(("data:", "#")), (tag, value)
    assert "default-src 'none'" in page


def test_the_page_says_by_what_protocol_and_on_which_data(
    done: tuple[dict[str, Any], str], folder: Path
) -> None:
    report, page = done
    text = Parsed(page).text
    assert report["protocol"] in text
    assert data_hash(open_dataset(folder)) in text
    assert "3 (1 without objects)" in text


def test_errors_of_the_page_are_those_of_eval_errors(
    done: tuple[dict[str, Any], str], folder: Path
) -> None:
    found = folder.parent / "found.jsonl"
    here = detkit("eval", "--predictions", found, folder, "--json", "--errors")
    costs = json.loads(here.stdout)["errors"]["mean"]
    shown = [float(value) for value in Parsed(done[1]).values["errors"][1]]
    assert shown == [value for name, value in costs.items() if name != "AP"]


def test_a_report_of_predictions_needs_no_torch(folder: Path, tmp_path: Path) -> None:
    found = write_found(tmp_path / "found.jsonl")
    words = ["eval", "--predictions", str(found), str(folder), "--report", str(tmp_path / "r.html")]
    script = (
        f"import sys\nfrom detkit.cli import main\ntry:\n main({words!r})\nexcept SystemExit:\n"
        " pass\nprint('torch' in sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, encoding="utf-8", check=True
    )
    assert ran.stdout.splitlines()[-1] == "False"
    assert (tmp_path / "r.html").stat().st_size > 10_000


def test_a_report_that_cannot_be_written_is_an_error_in_one_line(folder: Path) -> None:
    found = write_found(folder.parent / "found.jsonl")
    for place in (folder.parent / "no" / "r.html", folder.parent):
        here = detkit("eval", "--predictions", found, folder, "--report", place)
        assert here.returncode == 2
        assert here.stderr.startswith("detkit: error: --report ")
        assert len(here.stderr.splitlines()) == 1


def test_the_page_of_a_model_says_at_which_stage_objects_were_lost_as_eval_errors_does(
    folder: Path, tmp_path: Path
) -> None:
    dataset = open_dataset(folder)
    model, page = tmp_path / "model.safetensors", tmp_path / "r.html"
    torch.manual_seed(0)
    save_model(model, SSD(SSDConfig(size=64), dataset.class_names))
    words = ("eval", model, folder, "--device", "cpu", "--json")
    here = detkit(*words, "--errors", "--report", page)
    assert here.returncode == 0, here.stderr
    misses = json.loads(here.stdout)["misses"]
    parsed = Parsed(page.read_text(encoding="utf-8"))
    assert json.loads(parsed.scripts["figures"])["misses"] == misses["stages"]
    assert sum(one["missed"] for one in misses["stages"]) == len(misses["objects"]) > 0
    classes = [
        ", ".join(f"{name} {count}" for name, count in one["classes"].items())
        for one in misses["stages"]
    ]
    assert parsed.tables["misses"][1:] == [
        [one["stage"], str(one["missed"]), one["reason"], text]
        for one, text in zip(misses["stages"], classes, strict=True)
    ]


def test_the_page_of_a_file_has_no_stages(done: tuple[dict[str, Any], str]) -> None:
    assert "misses" not in Parsed(done[1]).tables


def evaluated(folder: Path) -> tuple[list[Detections], list[Truth], tuple[str, ...]]:
    dataset = open_dataset(folder)
    found = read_predictions(
        write_found(folder.parent / "found.jsonl"), class_names=dataset.class_names
    )
    detections = pair(found, dataset.splits["test"], dataset.class_names).detections
    return detections, dataset.truths("test"), dataset.class_names


def test_the_confusion_matrix_is_the_one_counted_by_hand(folder: Path) -> None:
    detections, truths, names = evaluated(folder)
    errors = breakdown(detections, truths, names)
    hostile, car, dog = (names.index(name) for name in (HOSTILE, "car", "dog"))
    [matrix] = confusion_matrices(detections, truths, errors, 3, [0.0])
    wanted = np.zeros((4, 4), int)
    wanted[car, car] = wanted[dog, dog] = 1
    wanted[car, dog] = 1  # the second car, taken for a dog
    wanted[hostile, 3] = wanted[dog, 3] = 1  # missed
    wanted[3, car] = 2  # the duplicate, and the one in the empty image
    wanted[3, hostile] = 1
    assert matrix.tolist() == wanted.tolist()
    [strict] = confusion_matrices(detections, truths, errors, 3, [0.75])
    assert strict[car].tolist().count(1) == 2  # one found; the other is missed now
    assert strict[car, 3] == 1
    assert strict[3, car] == 1


def test_images_without_objects_have_detections_of_background_alone() -> None:
    found = Detections(
        np.array([[0, 0, 9, 9], [3, 3, 8, 8]], np.float32),
        np.array([0.9, 0.2], np.float32),
        np.array([0, 2]),
    )
    nothing = Truth(np.empty((0, 4), np.float32), np.empty(0, np.int64), np.empty(0, np.bool_))
    errors = breakdown([found], [nothing], NAMES)
    [matrix] = confusion_matrices([found], [nothing], errors, 3, [0.0])
    assert matrix[3].tolist() == [1, 0, 1, 0]
    assert matrix.sum() == 2


def random_case(seed: int, images: int = 20) -> tuple[list[Detections], list[Truth]]:
    random = np.random.default_rng(seed)
    detections, truths = [], []
    for _ in range(images):
        count, made = random.integers(0, 4), random.integers(0, 9)
        corner = random.uniform(0, 60, (count, 2))
        boxes = np.concatenate([corner, corner + random.uniform(5, 40, (count, 2))], 1)
        near = boxes[random.integers(0, count, made)] if count else np.zeros((made, 4))
        near = near + random.normal(0, 4, (made, 4))
        scores = -np.sort(-random.uniform(0, 1, made)).astype(np.float32)
        detections.append(Detections(near.astype(np.float32), scores, random.integers(0, 3, made)))
        truths.append(
            Truth(
                boxes.astype(np.float32), random.integers(0, 3, count), random.random(count) < 0.2
            )
        )
    return detections, truths


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("least", [0.0, 0.5])
def test_rows_of_the_confusion_matrix_are_the_objects_and_the_diagonal_the_finds(
    seed: int, least: float
) -> None:
    detections, truths = random_case(seed)
    errors = breakdown(detections, truths, NAMES)
    [matrix] = confusion_matrices(detections, truths, errors, 3, [least])
    wanted = np.concatenate([one.labels[~one.difficult] for one in truths])
    assert matrix[:3].sum(axis=1).tolist() == np.bincount(wanted, minlength=3).tolist()
    shown = [
        Detections(one.boxes[keep], one.scores[keep], one.labels[keep])
        for one in detections
        for keep in [one.scores >= least]
    ]
    for index, one in enumerate(score(shown, truths, NAMES).classes):
        finds = round(float(one.recall[-1]) * one.num_truths) if len(one.recall) else 0
        assert matrix[index, index] == finds
        judged = len(one.scores)
        assert matrix[:, index].sum() == judged


def test_scores_are_counted_in_their_bins() -> None:
    found = Detections(
        np.zeros((4, 4), np.float32),
        np.array([1.0, 0.72, 0.71, 0.0], np.float32),
        np.array([0, 0, 1, 0]),
    )
    kinds = [np.array([0, 0, 5, 6])]  # right, right, background, ignored
    bins = score_bins([found], kinds, 2)
    assert bins.right[0].nonzero()[0].tolist() == [14, 19]
    assert bins.wrong[1].nonzero()[0].tolist() == [14]
    assert bins.right.sum() + bins.wrong.sum() == 3


def test_scores_that_are_no_probabilities_span_the_bins() -> None:
    found = Detections(
        np.zeros((2, 4), np.float32), np.array([1.7, -0.4], np.float32), np.array([0, 0])
    )
    bins = score_bins([found], [np.array([0, 5])], 1)
    assert (bins.low, bins.high) == (pytest.approx(-0.4), pytest.approx(1.7))
    assert bins.right[0, -1] == 1
    assert bins.wrong[0, 0] == 1


def curve(count: int) -> Any:
    detections, truths = random_case(7, images=count)
    return max(score(detections, truths, NAMES).classes, key=lambda one: len(one.scores))


def test_a_thinned_curve_has_exact_points_and_its_ends() -> None:
    one = curve(400)
    ranks = curve_points(one)
    assert len(one.scores) > 400
    assert len(ranks) <= 200
    assert (ranks[0], ranks[-1]) == (0, len(one.scores) - 1)
    assert (np.diff(ranks) > 0).all()
    points = np.stack([one.recall, one.precision], axis=1)
    gaps = np.hypot(*(points[:, None] - points[ranks][None]).transpose(2, 0, 1)).min(axis=1)
    assert gaps.max() < 0.03  # no point lies far from one that is drawn


def test_precision_and_recall_at_a_threshold_are_those_of_what_reaches_it() -> None:
    one = curve(40)
    least = [0.0, float(one.scores[3]), 0.5, 2.0]
    table = at_thresholds(one, least)
    for (precision, recall), threshold in zip(table.tolist(), least):
        count = sum(value >= threshold for value in one.scores.tolist())
        if count == 0:
            assert np.isnan(precision)
            assert recall == 0
        else:
            assert (precision, recall) == (one.precision[count - 1], one.recall[count - 1])


def test_objects_are_divided_by_cocos_areas() -> None:
    sides = [31.9, 32.0, 95.9, 96.0]
    boxes = np.array([[0, 0, side, side] for side in sides], np.float32)
    truths = [Truth(box[None], np.zeros(1, np.int64), np.zeros(1, np.bool_)) for box in boxes]
    detections = [
        Detections(truth.boxes, np.array([0.9], np.float32), truth.labels) for truth in truths[:2]
    ] + [
        Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64))
        for _ in truths[2:]
    ]
    small, medium, large = scores_by_size(detections, truths, ("car",))
    assert (small.num_truths, medium.num_truths, large.num_truths) == (2, 3, 1)
    assert (small.ap50, large.ap50) == (pytest.approx(1.0), pytest.approx(0.0))
    assert medium.recall == pytest.approx(1 / 3)


def test_the_worst_images_come_first(folder: Path) -> None:
    detections, truths, names = evaluated(folder)
    scores = score(detections, truths, names)
    errors = breakdown(detections, truths, names)
    # Best F1: car at .95 (1 of 2), dog at .8 (1 of 2); nothing found of the third class.
    assert worst_first(detections, truths, errors, scores) == [(0, 0, 2), (1, 0, 1), (2, 0, 0)]
    detections, truths = detections[::-1], truths[::-1]
    turned = worst_first(detections, truths, breakdown(detections, truths, names), scores)
    assert turned == [(2, 0, 2), (1, 0, 1), (0, 0, 0)]


def test_pictures_are_few_and_small_and_an_unreadable_one_is_named(tmp_path: Path) -> None:
    dataset = open_dataset(write_folder(tmp_path))
    record = dataset.splits["test"][0]
    large = np.random.default_rng(0).integers(0, 255, (1000, 600, 3), dtype=np.uint8)
    cv2.imencode(".jpg", large)[1].tofile(record.path)
    broken = dataset.splits["test"][1]
    broken.path.write_bytes(b"no image")
    order = [(1, 1, 0)] + [(0, 1, 0)] * (MOST_IMAGES + 5)
    chosen, unread = pictures(order, dataset.splits["test"])
    assert len(chosen) == MOST_IMAGES - 1
    assert (chosen[0].width, chosen[0].height) == (600, 1000)
    small = cv2.imdecode(np.frombuffer(chosen[0].jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert small.shape == (LONG_SIDE, 240, 3)
    assert [str(broken.path) in line for line in unread] == [True]


def test_the_bytes_of_pictures_are_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = open_dataset(folder).splits["test"]
    [one, *_], _ = pictures([(0, 0, 0)], records)
    monkeypatch.setattr("detkit.report.pictures.MOST_BYTES", 2 * len(one.jpeg))
    chosen, _ = pictures([(0, 0, 0)] * 5, records)
    assert len(chosen) == 2


@pytest.mark.parametrize("metric", ["voc12", "coco", "auc"])
def test_every_protocol_has_a_page(folder: Path, tmp_path: Path, metric: str) -> None:
    detections, truths, names = evaluated(folder)
    scores = score(detections, truths, names, metric)
    write_report(tmp_path / "r.html", open_dataset(folder), "test", detections, scores, source="x")
    assert scores.protocol in Parsed((tmp_path / "r.html").read_text(encoding="utf-8")).text


def test_a_split_without_objects_or_detections_has_a_page(tmp_path: Path) -> None:
    dataset = open_dataset(write_folder(tmp_path / "data"))
    only = tuple(one for one in dataset.splits["test"] if EMPTY in one.image_id)
    part = dataset.with_splits({"test": only})
    nothing = Detections(
        np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64)
    )
    scores: Scores = score([nothing], part.truths("test"), part.class_names)
    write_report(tmp_path / "r.html", part, "test", [nothing], scores, source="x")
    parsed = Parsed((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "n/a" in parsed.text
    assert "nan" not in parsed.scripts["data"].lower()


def test_the_page_of_a_comparison_has_its_figures(folder: Path, tmp_path: Path) -> None:
    row = Row(
        "ssd",
        "ssd",
        (0, 1),
        (0.8, 0.6),
        0.7,
        0.1414,
        None,
        dict.fromkeys(("car", "dog"), 0.7),
        {"small": None, "medium": 0.5, "large": 0.9},
        0.02,
        {"network": 0.01},
        300.0,
        9_000_000,
        600.0,
        900.0,
    )
    dataset = open_dataset(folder)
    row = replace(row, classes=dict.fromkeys(dataset.class_names, 0.7))
    second = replace(
        row,
        name="yolo",
        mean=0.5,
        maps=(0.5,),
        spread=None,
        difference=Interval(-0.2, -0.3, -0.1),
    )
    failed = Row(HOSTILE, errors=("boom-0: <b>out of memory</b>",))
    table = Comparison("VOC 2007", "test", 3, 1000, (row, second, failed), 2)
    with pytest.raises(DetkitError):
        write_comparison(tmp_path / "no" / "c.html", table, dataset, "abc")
    write_comparison(tmp_path / "c.html", table, dataset, "abc")
    page = (tmp_path / "c.html").read_text(encoding="utf-8")
    parsed = Parsed(page)
    assert [row[0] for row in parsed.tables["models"][1:]] == ["ssd", "yolo", HOSTILE]
    assert parsed.values["models"][1][0] == "0.7"
    cells = [cell.replace(" ", "") for cell in parsed.tables["models"][2]]  # two spans, a line each
    assert "-0.200(-0.300to-0.100)" in cells
    assert "<b>" not in page
    assert json.loads(parsed.scripts["figures"])["models"][0]["mAP"] == 0.7
