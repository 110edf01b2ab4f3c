import json
import math
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from detkit.data.image_names import ImageNames
from detkit.data.records import Dataset, ImageRecord, ObjectRecord
from detkit.errors import DetkitError, UsageError
from detkit.evaluation.evaluate import evaluate
from detkit.evaluation.gates import Gate, check_gates, parse_gate
from detkit.evaluation.held_out import HeldOut
from detkit.evaluation.metrics import METRICS
from detkit.evaluation.pairing import pair
from detkit.evaluation.scores import score, scores_to_json
from detkit.evaluation.voc_map import voc_map
from detkit.predictions.image import ImagePredictions
from detkit.predictions.readers import read_predictions
from detkit.report.plots import save_pr_curve
from detkit.structures import Detections, Truth
from detkit.training.validation import HeldOutImages

DATA = Path(__file__).parents[2] / "shared" / "data"


def record(image_id, key=None, **options):
    return ImageRecord(image_id, Path("/data") / image_id, key=key, **options)


def predicted(name, *rows, **options):
    """Predictions of (label, score) rows, the nth with the box (0, 0, n, n)."""
    return ImagePredictions(
        image=name,
        width=0,
        height=0,
        labels=tuple(row[0] for row in rows),
        scores=np.array([row[1] for row in rows], np.float32),
        boxes=np.array([[0, 0, n, n] for n in range(1, len(rows) + 1)], np.float32).reshape(-1, 4),
        **options,
    )


RECORDS = [
    record("test/images/000042.jpg"),
    record("test/images/b c.v1.jpg"),
    record("more/ü.png"),
]


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("test/images/000042.jpg", 0),
        ("/data/test/images/000042.jpg", 0),
        ("images/000042.jpg", 0),
        ("/somewhere/else/images/000042.jpg", 0),
        ("./test/images/000042.jpg", 0),
        ("test\\images\\000042.jpg", 0),
        ("C:\\data\\images\\000042.jpg", 0),
        ("000042.jpg", 0),
        ("000042", 0),
        ("42", 0),
        ("000042.png", 0),
        ("b c.v1.jpg", 1),
        ("b c.v1", 1),
        ("elsewhere/ü.png", 2),
    ],
)
def test_an_image_is_known_by_any_usual_name(name, index):
    assert ImageNames(RECORDS).find(name) == index


def test_a_bare_number_is_cocos_id_before_it_is_a_stem():
    names = ImageNames([record("val/1.jpg", key="2"), record("val/2.jpg", key="1")])
    assert names.find("1") == 1
    assert names.find("1.jpg") == 0
    assert ImageNames([record("val/1.jpg"), record("val/2.jpg")]).find("1") == 0
    assert ImageNames([record("a.jpg", key="x-7")]).find("x-7") == 0


def test_the_longest_end_of_a_path_decides():
    names = ImageNames([record("a/1.jpg"), record("b/1.jpg")])
    assert names.find("/home/me/b/1.jpg") == 1


def test_a_name_of_two_images_is_an_error_with_both():
    names = ImageNames([record("a/1.jpg"), record("b/1.jpg")])
    for name in ("1.jpg", "1", "c/1.jpg"):
        with pytest.raises(DetkitError, match=r"both a/1\.jpg and b/1\.jpg"):
            names.find(name)


def test_an_image_that_is_not_in_the_split_is_an_error_with_the_nearest_name():
    with pytest.raises(DetkitError, match=r"'000043\.jpg'.*3 images.*'000042\.jpg'"):
        pair([predicted("000043.jpg")], RECORDS, ["car"])


def test_an_image_predicted_twice_is_an_error_with_both_names():
    with pytest.raises(DetkitError, match=r"'000042\.jpg' twice"):
        pair([predicted("000042.jpg"), predicted("000042.jpg")], RECORDS, ["car"])
    with pytest.raises(DetkitError, match=r"'000042\.jpg' and '42'"):
        pair([predicted("000042.jpg"), predicted("42")], RECORDS, ["car"])


def test_detections_come_in_the_records_order_best_first_with_class_numbers():
    paired = pair(
        [
            predicted("ü.png", ("dog", 0.01), ("car", 0.9), ("dog", 0.9)),
            predicted("000042.jpg", ("car", 0.5)),
        ],
        RECORDS,
        ["car", "dog"],
    )
    assert [one.image_id for one in paired.detections] == [one.image_id for one in RECORDS]
    assert [len(one.scores) for one in paired.detections] == [1, 0, 3]
    last = paired.detections[2]
    assert last.scores.tolist() == pytest.approx([0.9, 0.9, 0.01])
    assert last.labels.tolist() == [0, 1, 1]
    assert last.boxes[:, 2].tolist() == [2, 3, 1]


def test_images_without_predictions_are_counted_and_said():
    paired = pair([predicted("ü.png", ("car", 0.01))], RECORDS, ["car"])
    assert paired.num_missing == 2
    (warning,) = paired.warnings
    assert warning.startswith("2 of 3 images have no predictions and count as missed")
    assert "000042.jpg" in warning


def test_an_image_without_predictions_counts_its_objects_as_missed():
    box = (0.0, 0.0, 1.0, 1.0)
    records = [
        record("a.jpg", objects=(ObjectRecord("car", box),)),
        record("b.jpg", objects=(ObjectRecord("car", box),)),
    ]
    dataset = Dataset(Path(), "voc", ("car",), {"test": tuple(records)})
    paired = pair([predicted("a.jpg", ("car", 0.9))], records, ["car"])
    scores = score(paired.detections, dataset.truths("test"), ["car"], "voc12")
    assert scores.mean == 0.5


def test_an_unknown_label_is_an_error_with_the_nearest_class():
    with pytest.raises(DetkitError, match=r"'Car' of 2 detections .*ü\.png.*did you mean car"):
        pair([predicted("ü.png", ("Car", 0.5), ("Car", 0.4))], RECORDS, ["car", "dog"])
    with pytest.raises(DetkitError, match=r"1 more unknown.*choose from car, dog"):
        pair([predicted("ü.png", ("xyz", 0.5), ("qq", 0.4))], RECORDS, ["car", "dog"])


@pytest.mark.parametrize(("lowest", "is_cut"), [(0.25, True), (0.051, True), (0.05, False)])
def test_a_cut_above_a_twentieth_is_warned_of(lowest, is_cut):
    predictions = [predicted(one.image_id, ("car", 0.9), ("car", lowest)) for one in RECORDS]
    warnings = pair(predictions, RECORDS, ["car"]).warnings
    assert [f"no score is below {lowest}" in one for one in warnings] == [True] * is_cut


def test_no_detection_at_all_is_no_cut():
    assert pair([predicted(one.image_id) for one in RECORDS], RECORDS, ["car"]).warnings == ()


def test_images_the_detector_could_not_read_are_said():
    predictions = [predicted(one.image_id) for one in RECORDS[1:]]
    predictions.append(predicted("000042.jpg", error="truncated"))
    (warning,) = pair(predictions, RECORDS, ["car"]).warnings
    assert warning.startswith("1 image could not be read")
    assert "truncated" in warning


def test_normalised_boxes_take_the_size_of_the_image(tmp_path):
    predictions = [
        ImagePredictions(
            "a",
            0,
            0,
            ("car",),
            np.array([0.01], np.float32),
            np.array([[0.25, 0.5, 0.75, 1]], np.float32),
            normalised=True,
        )
    ]
    stated = ImageRecord("a.png", tmp_path / "a.png", width=400, height=100)
    (found,) = pair(predictions, [stated], ["car"]).detections
    assert found.boxes.tolist() == [[100, 50, 300, 100]]
    cv2.imencode(".png", np.zeros((50, 200, 3), np.uint8))[1].tofile(tmp_path / "a.png")
    (found,) = pair(predictions, [stated], ["car"]).detections
    assert found.boxes.tolist() == [[50, 25, 150, 50]]
    (tmp_path / "a.png").unlink()
    with pytest.raises(DetkitError, match="no size"):
        pair(predictions, [ImageRecord("a.png", tmp_path / "a.png")], ["car"])


def toy():
    truths = [
        Truth(
            np.array([[0, 0, 10, 10], [50, 0, 60, 10]], np.float32),
            np.array([0, 1]),
            np.zeros(2, np.bool_),
        ),
    ]
    detections = [
        Detections(
            np.array([[0, 0, 10, 10], [80, 0, 90, 10]], np.float32),
            np.array([0.9, 0.8], np.float32),
            np.array([0, 1]),
        ),
    ]
    return detections, truths, ["car", "dog", "cat"]


BEST = {"ultralytics": 0.995}  # the AP of a perfect detector, elsewhere 1


@pytest.mark.parametrize("metric", METRICS)
def test_scores_as_json_have_the_protocol_and_no_nan(metric):
    report = scores_to_json(score(*toy(), metric))
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["metric"] == metric
    assert report["protocol"]
    best = BEST.get(metric, 1.0)
    assert report["mAP"] == pytest.approx(best / 2)
    assert report["iou_thresh"] == (None if metric in ("coco", "ultralytics") else 0.5)
    assert report["classes"][0] == {
        "name": "car",
        "AP": pytest.approx(best),
        "num_truths": 1,
        "num_detections": 1,
        "best_f1": 1.0,
        "best_threshold": pytest.approx(0.9),
        "ECE": pytest.approx(0.1, abs=1e-6),
    }
    assert report["classes"][2]["AP"] is None
    assert ("extra" in report) == (metric in ("coco", "ultralytics"))


def test_a_mean_that_there_is_none_of_is_null():
    empty = Truth(np.empty((0, 4), np.float32), np.empty(0, np.int64), np.empty(0, np.bool_))
    nothing = Detections(
        np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64)
    )
    for metric in METRICS:
        text = json.dumps(scores_to_json(score([nothing], [empty], ["a"], metric)))
        assert json.loads(text)["mAP"] is None
        assert "NaN" not in text


def test_the_iou_reaches_every_metric():
    detections, truths, names = toy()
    looser = [Detections(one.boxes * np.float32(0.7), one.scores, one.labels) for one in detections]
    for metric in METRICS:
        best = BEST.get(metric, 1.0)
        assert score(looser, truths, names, metric, 0.45).classes[0].ap == pytest.approx(best)
        assert score(looser, truths, names, metric, 0.55).classes[0].ap == 0.0


def test_unknown_metrics_and_senseless_ious_are_wrong_usage():
    with pytest.raises(UsageError, match="choose from voc07, voc12, auc, coco"):
        score(*toy(), "voc08")
    for iou in (0.0, 1.5, math.nan):
        with pytest.raises(UsageError, match="--iou"):
            score(*toy(), "voc07", iou)


def test_gates_are_read_from_words():
    assert parse_gate("mAP=.6") == Gate("mAP", 0.6)
    assert parse_gate("traffic light = 0.25") == Gate("traffic light", 0.25)
    assert parse_gate("a=b=1") == Gate("a=b", 1.0)


@pytest.mark.parametrize("text", ["mAP", "=.5", "mAP=", "mAP=x", "mAP=60", "mAP=-1", "mAP=nan"])
def test_what_is_no_gate_is_wrong_usage(text):
    with pytest.raises(UsageError, match="expected NAME=X"):
        parse_gate(text)


def test_a_gate_that_is_not_met_says_by_how_much():
    scores = score(*toy())
    assert check_gates(scores, [Gate("mAP", 0.5), Gate("car", 1.0)]) == []
    assert check_gates(scores, [Gate("mAP", 0.6), Gate("car", 0.9), Gate("dog", 0.05)]) == [
        "mAP .5000 is .1000 below .6",
        "dog .0000 is .0500 below .05",
    ]
    (line,) = check_gates(scores, [Gate("mAP", 0.500001)])
    assert line.endswith("is 1e-06 below .500001")
    (line,) = check_gates(scores, [Gate("cat", 0.1)])
    assert line == "cat has no value, for want of objects; asked 0.1"


def test_a_gate_on_something_unknown_is_wrong_usage_with_the_nearest_name():
    with pytest.raises(UsageError, match="did you mean mAP"):
        check_gates(score(*toy()), [Gate("map", 0.5)])
    with pytest.raises(UsageError, match="did you mean car"):
        check_gates(score(*toy()), [Gate("cars", 0.5)])
    assert check_gates(score(*toy(), "coco"), [Gate("AP50", 0.5)]) == []


def test_a_detector_is_scored_on_a_split(monkeypatch):
    class FakeInference:
        @staticmethod
        def detect_images(detector, images, **asked):
            assert detector is judged
            for path in images:
                one = predicted(str(path), ("car", 0.9), ("tree", 0.8), error=detectors_error)
                yield SimpleNamespace(predictions=one, by_head={"": one})

    box = (0.0, 0.0, 1.0, 1.0)
    records = tuple(record(name, objects=(ObjectRecord("car", box),)) for name in ("a", "b"))
    dataset = Dataset(Path(), "voc", ("car",), {"test": records})
    monkeypatch.setitem(sys.modules, "detkit.inference.predict", FakeInference)
    judged = SimpleNamespace(class_names=("tree", "car"), heads=("",))
    detectors_error = None
    assert evaluate(judged, dataset, "test").mean == 1.0
    with pytest.raises(UsageError, match="has test"):
        evaluate(judged, dataset, "val")
    with pytest.raises(UsageError, match="choose from"):
        evaluate(judged, dataset, "test", metric="voc08")
    detectors_error = "truncated"
    with pytest.raises(DetkitError, match="truncated"):
        evaluate(judged, dataset, "test")


def test_a_detector_of_other_classes_is_scored_on_those_it_shares(monkeypatch, caplog):
    class FakeInference:
        @staticmethod
        def detect_images(detector, images, **asked):
            for path in images:
                one = predicted(str(path), ("car", 0.9), ("tree", 0.8))
                yield SimpleNamespace(predictions=one, by_head={"": one})

    objects = (ObjectRecord("car", (0.0, 0.0, 1.0, 1.0)), ObjectRecord("dog", (0.0, 0.0, 9.0, 9.0)))
    dataset = Dataset(Path(), "voc", ("car", "dog"), {"test": (record("a", objects=objects),)})
    monkeypatch.setitem(sys.modules, "detkit.inference.predict", FakeInference)
    with caplog.at_level("INFO", logger="detkit"):
        scores = evaluate(
            SimpleNamespace(class_names=("tree", "car"), heads=("",)), dataset, "test"
        )
    assert [one.ap for one in scores.classes] == [1.0, 0.0]
    assert "detections of tree are left out" in caplog.text
    assert "does not know dog" in caplog.text
    with pytest.raises(DetkitError, match="no class in common"):
        evaluate(SimpleNamespace(class_names=("tree",), heads=("",)), dataset, "test")


def test_scoring_a_file_imports_neither_torch_nor_plots_nor_pycocotools():
    code = (
        "import sys, detkit.evaluation.evaluate, detkit.predictions, detkit.evaluation.voc_map\n"
        "import detkit.evaluation.coco_map, detkit.report\n"
        "heavy = {'torch', 'torchvision', 'pycocotools', 'matplotlib', 'numba', 'sklearn'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True
    )
    assert done.stdout == "[]\n"


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the real data")
def test_published_detections_are_read_and_scored_in_a_moment():
    names = (DATA / "voc100" / "voc.names").read_text(encoding="utf-8").split()
    records = [
        record(f"JPEGImages/{path.stem}.jpg")
        for path in sorted((DATA / "voc100" / "Annotations").glob("*.xml"))
    ]
    empty = Truth(np.empty((0, 4), np.float32), np.empty(0, np.int64), np.empty(0, np.bool_))
    started = time.perf_counter()
    predictions = read_predictions(DATA / "eval/voc100/abs_xyx2y2", class_names=names)
    paired = pair(predictions, records, names)
    voc_map(paired.detections, [empty] * len(records), names)
    assert time.perf_counter() - started < 3
    assert sum(len(one.scores) for one in paired.detections) == 452


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_the_curve_is_drawn_with_protocol_and_classes(suffix, tmp_path):
    path = tmp_path / f"kürve{suffix}"
    save_pr_curve(score(*toy()), path)
    content = path.read_bytes()
    assert content.startswith({".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix])
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    if suffix == ".svg":
        text = content.decode()
        for word in ("11-point", "car", "recall"):
            assert word in text


def test_a_curve_of_nothing_or_of_many_classes_can_be_drawn(tmp_path):
    save_pr_curve(voc_map([], [], ["a"]), tmp_path / "none.png")
    names = [f"class{number}" for number in range(30)]
    truth = Truth(
        np.tile(np.array([[0, 0, 9, 9]], np.float32), (30, 1)),
        np.arange(30),
        np.zeros(30, np.bool_),
    )
    nothing = Detections(
        np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64)
    )
    save_pr_curve(voc_map([nothing], [truth], names), tmp_path / "many.svg")
    assert "lowest 20 of 30 classes" in (tmp_path / "many.svg").read_text(encoding="utf-8")


def test_a_plot_of_an_unknown_kind_or_place_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"\.png"):
        save_pr_curve(score(*toy()), tmp_path / "curve.txt")
    with pytest.raises(DetkitError, match="cannot be written"):
        save_pr_curve(score(*toy()), tmp_path / "no" / "curve.png")


def test_a_part_of_held_out_images_is_spread_over_all_of_them() -> None:
    records = tuple(record(f"{n}.png") for n in range(10))
    dataset = Dataset(
        root=Path("/data"), format="voc", class_names=("a",), splits={"val": records}, findings=()
    )
    held_out = HeldOut(dataset, "val")
    assert held_out.num_images == 10
    part = held_out.part(3)
    assert [one.image_id for one in part.dataset.splits["val"]] == ["0.png", "3.png", "6.png"]
    assert isinstance(part, HeldOutImages)
