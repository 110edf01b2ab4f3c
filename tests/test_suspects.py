"""Suspects: each kind by hand, what stays out, and injected errors found among good labels."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from labelled_folders import put, xml
from running import detkit
from test_schema import faults

from detkit.cli.suspects import num_among
from detkit.evaluation.score_calibration import calibrate, isotonic
from detkit.evaluation.suspects import Suspect, find_suspects
from detkit.structures import Detections, Truth

CLASSES = ["car", "bus", "dog"]
CAR, BUS, DOG = range(3)
PLACES = [(60.0 * column, 60.0 * row) for row in range(3) for column in range(3)]


def box_at(place: int, side: float = 40.0) -> list[float]:
    x, y = PLACES[place]
    return [x, y, x + side, y + side]


def truth(boxes: list[list[float]], labels: list[int], difficult: list[int] | None = None) -> Truth:
    return Truth(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(labels, np.int64),
        np.array(difficult or [0] * len(labels), np.bool_),
    )


def found(boxes: list[list[float]], labels: list[int], scores: list[float]) -> Detections:
    order = np.argsort(-np.array(scores), kind="stable")
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4)[order],
        np.array(scores, np.float32)[order],
        np.array(labels, np.int64)[order],
    )


def good_images(number: int = 60) -> tuple[list[Detections], list[Truth]]:
    """Images whose labels and detections agree: a car, a bus and a dog each, and weak noise."""
    chance = np.random.default_rng(3)
    detections, truths = [], []
    for _ in range(number):
        places = chance.permutation(9)
        boxes = [box_at(place) for place in places[:3]]
        near = [(np.array(box) + chance.normal(0, 1.0, 4)).tolist() for box in boxes]
        noise = box_at(places[3], 30.0)
        scores = [*chance.uniform(0.8, 0.95, 3), 0.1]
        detections.append(found([*near, noise], [CAR, BUS, DOG, int(chance.integers(3))], scores))
        truths.append(truth(boxes, [CAR, BUS, DOG]))
    return detections, truths


def suspects_of(own: Detections, labels: Truth) -> list[Suspect]:
    """What is suspect in one more image beside good ones."""
    detections, truths = good_images()
    listed = find_suspects([*detections, own], [*truths, labels], CLASSES)
    assert not [one for one in listed if one.image < len(truths) and one.sure > 0.2]
    return [one for one in listed if one.image == len(truths) and one.sure > 0.3]


CARS = [box_at(0), box_at(1), box_at(2)]
SURE = [0.9, 0.9, 0.9]


def test_where_labels_and_model_agree_nothing_is_suspect() -> None:
    assert suspects_of(found(CARS, [CAR] * 3, SURE), truth(CARS, [CAR] * 3)) == []


def test_a_sure_detection_on_no_label_is_a_missing_object() -> None:
    (one,) = suspects_of(found(CARS, [CAR] * 3, SURE), truth(CARS[:2], [CAR] * 2))
    assert (one.kind, one.object, one.detection) == ("missing", None, 2)
    assert one.sure > 0.9


def test_a_weak_detection_on_no_label_says_nothing() -> None:
    assert suspects_of(found(CARS, [CAR] * 3, [0.9, 0.9, 0.1]), truth(CARS[:2], [CAR] * 2)) == []


def test_two_detections_of_one_missing_object_are_one_suspect() -> None:
    again = [2 + value for value in CARS[2]]
    listed = suspects_of(
        found([*CARS, again], [CAR] * 4, [0.9, 0.9, 0.9, 0.85]), truth(CARS[:2], [CAR] * 2)
    )
    assert [one.kind for one in listed] == ["missing"]


def test_a_sure_detection_of_another_class_is_a_wrong_class() -> None:
    (one,) = suspects_of(found(CARS, [CAR, CAR, BUS], SURE), truth(CARS, [CAR] * 3))
    assert (one.kind, one.object, one.detection) == ("class", 2, 2)
    assert one.sure > 0.9


def test_a_class_that_the_model_says_as_well_is_not_wrong() -> None:
    both = found([*CARS, CARS[2]], [CAR, CAR, CAR, BUS], [0.9, 0.9, 0.9, 0.85])
    assert suspects_of(both, truth(CARS, [CAR] * 3)) == []


def test_a_box_beside_a_sure_detection_is_shifted_when_detections_lie_well_elsewhere() -> None:
    moved = [15 + value if place % 2 == 0 else value for place, value in enumerate(CARS[2])]
    (one,) = suspects_of(
        found(CARS, [CAR] * 3, SURE), truth([*CARS[:2], moved], [CAR] * 3)
    )  # IoU 25 / 55 = .45
    assert (one.kind, one.object, one.detection) == ("shifted", 2, 2)
    assert one.sure > 0.9


def test_a_model_that_draws_badly_everywhere_makes_no_label_shifted() -> None:
    detections, truths = good_images()
    # Moved by 13 of 40 pixels: IoU 27 / 53 = .51 for all
    bad = [
        replace(one, boxes=one.boxes + np.array([13, 0, 13, 0], np.float32)) for one in detections
    ]
    assert not [one for one in find_suspects(bad, truths, CLASSES) if one.kind == "shifted"]


def test_a_label_without_any_detection_is_a_ghost_where_such_labels_are_found() -> None:
    (one,) = suspects_of(found(CARS[:2], [CAR] * 2, SURE[:2]), truth(CARS, [CAR] * 3))
    assert (one.kind, one.object, one.detection) == ("ghost", 2, None)
    assert one.sure > 0.9


def test_labels_of_a_class_that_the_model_hardly_finds_are_no_ghosts() -> None:
    detections, truths = good_images()
    blind = []
    for number, one in enumerate(detections):
        keep = (one.labels != DOG) | (number % 3 == 0)
        blind.append(Detections(one.boxes[keep], one.scores[keep], one.labels[keep]))
    assert not [one for one in find_suspects(blind, truths, CLASSES) if one.sure > 0.2]


def test_labels_of_a_size_that_the_model_hardly_finds_are_no_ghosts() -> None:
    detections, truths = good_images()
    small = [[200.0 + 30 * n, 200.0, 210.0 + 30 * n, 210.0] for n in range(2)]
    truths = [
        truth([*one.boxes.tolist(), *small], [*one.labels.tolist(), CAR, BUS]) for one in truths
    ]
    assert not [one for one in find_suspects(detections, truths, CLASSES) if one.sure > 0.2]


def test_labels_of_an_image_on_which_the_model_fails_are_no_ghosts() -> None:
    boxes = [box_at(place) for place in range(9)]
    assert suspects_of(found([], [], []), truth(boxes, [CAR] * 9)) == []


def test_a_class_that_the_model_takes_for_another_everywhere_is_not_wrong() -> None:
    detections, truths = good_images()
    confused = []
    for number, one in enumerate(detections):
        labels = np.where((one.labels == DOG) & (number % 2 == 0), BUS, one.labels)
        confused.append(Detections(one.boxes, one.scores, labels))
    listed = find_suspects(confused, truths, CLASSES)
    assert not [one for one in listed if one.kind == "class" and one.sure > 0.1]


def test_a_second_box_of_one_object_is_a_duplicate_and_the_better_stays() -> None:
    again = [4 + value if place % 2 == 0 else value for place, value in enumerate(CARS[0])]
    for labels, gone in (([*CARS, again], 3), ([again, *CARS], 0)):
        (one,) = suspects_of(found(CARS, [CAR] * 3, SURE), truth(labels, [CAR] * 4))
        assert (one.kind, one.object) == ("duplicate", gone)


def test_an_object_labelled_as_two_classes_keeps_the_one_that_the_model_says() -> None:
    listed = suspects_of(
        found(CARS, [CAR, CAR, BUS], SURE), truth([*CARS, CARS[2]], [CAR, CAR, CAR, BUS])
    )
    assert [(one.kind, one.object) for one in listed] == [("duplicate", 2)]


def test_two_objects_that_hide_each_other_are_no_duplicates_where_both_are_found() -> None:
    near = [6 + value if place % 2 == 0 else value for place, value in enumerate(CARS[0])]
    boxes = [*CARS, near]  # IoU 34 / 46 = .74
    assert suspects_of(found(boxes, [CAR] * 4, [*SURE, 0.85]), truth(boxes, [CAR] * 4)) == []


def test_difficult_objects_and_what_lies_on_them_are_not_suspect() -> None:
    hard = truth([*CARS, box_at(4)], [CAR] * 4, [0, 0, 1, 1])
    assert suspects_of(found(CARS, [CAR, CAR, BUS], SURE), hard) == []


def test_a_detection_that_overlaps_a_difficult_object_is_no_missing_object() -> None:
    beside = [17 + value if place % 2 == 0 else value for place, value in enumerate(CARS[2])]
    for difficult, kinds in ((1, []), (0, ["shifted"])):  # IoU 23 / 57 = .40
        labels = truth([*CARS[:2], beside], [CAR] * 3, [0, 0, difficult])
        listed = suspects_of(found(CARS, [CAR] * 3, SURE), labels)
        assert [one.kind for one in listed] == kinds


def test_detections_inside_a_crowd_are_no_missing_objects() -> None:
    crowd = replace(
        truth([*CARS, [100.0, 100.0, 170.0, 170.0]], [CAR] * 4, [0, 0, 0, 1]),
        crowd=np.array([False, False, False, True]),
    )
    inside = [box_at(8)]
    assert suspects_of(found([*CARS, *inside], [CAR] * 4, [*SURE, 0.9]), crowd) == []
    plain = truth(CARS, [CAR] * 3)
    (one,) = suspects_of(found([*CARS, *inside], [CAR] * 4, [*SURE, 0.9]), plain)
    assert one.kind == "missing"


def test_a_label_without_area_is_left_to_check() -> None:
    flat = truth([*CARS, [100.0, 100.0, 100.0, 140.0]], [CAR] * 4)
    assert suspects_of(found(CARS, [CAR] * 3, SURE), flat) == []


def test_no_images_and_no_objects_have_no_suspects() -> None:
    assert find_suspects([], [], CLASSES) == []
    assert find_suspects([found([], [], [])], [truth([], [])], CLASSES) == []


def test_injected_errors_come_first_and_with_their_kind() -> None:
    detections, truths = good_images(120)
    chance = np.random.default_rng(0)
    wanted = {}
    for image in chance.permutation(120)[:32].tolist():
        kind = ("missing", "class", "shifted", "ghost")[len(wanted) % 4]
        wanted[image] = kind
        boxes, labels = truths[image].boxes.tolist(), truths[image].labels.tolist()
        if kind == "missing":
            boxes, labels = boxes[1:], labels[1:]
        elif kind == "class":
            labels = [BUS, *labels[1:]]
        elif kind == "shifted":
            boxes[0] = [boxes[0][0] + 16, boxes[0][1], boxes[0][2] + 16, boxes[0][3]]
        else:
            boxes, labels = [*boxes, [200.0, 200.0, 240.0, 240.0]], [*labels, DOG]
        truths[image] = truth(boxes, labels)
    listed = find_suspects(detections, truths, CLASSES)
    assert {one.image: one.kind for one in listed[:32]} == wanted
    assert all(0 <= one.sure <= 1 for one in listed)


def test_isotonic_shares_are_those_of_a_naive_regression() -> None:
    chance = np.random.default_rng(1)
    scores = np.sort(chance.uniform(0, 1, 200))
    hits = (chance.uniform(0, 1, 200) < scores).astype(np.float64)
    middles, shares = isotonic(scores, hits)
    assert len(middles) == 20 and (np.diff(shares) >= 0).all()
    means = hits.reshape(20, 10).mean(axis=1)
    # Max-min formula of isotonic regression (Robertson, Wright, Dykstra 1988), bins of one size
    for place, share in enumerate(shares):
        naive = max(
            min(means[low : high + 1].mean() for high in range(place, 20))
            for low in range(place + 1)
        )
        assert share == pytest.approx(naive)


def test_a_class_with_few_detections_has_the_calibration_of_all() -> None:
    labels = np.array([0] * 100 + [1] * 5)
    scores, ious = np.linspace(0, 1, 105), np.array([0.0, 0.9] * 50 + [0.0] * 5)
    found = calibrate(labels, scores, ious, 2, enough=40)
    assert found.prob(0, 0.5, 0.5) == pytest.approx(0.5, abs=0.1)
    assert found.prob(1, 0.5, 0.5) == pytest.approx(0.5, abs=0.1)


def test_a_tighter_iou_is_reached_by_fewer() -> None:
    labels, scores = np.zeros(100, np.int64), np.full(100, 0.9)
    ious = np.linspace(0.505, 0.995, 100)
    found = calibrate(labels, scores, ious, 1)
    assert found.prob(0, 0.9, 0.5) == 1.0
    assert found.prob(0, 0.9, 0.75) == pytest.approx(0.5, abs=0.02)


# The command


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 sound images and a bad one; `found.jsonl` beside it has the detections of all."""
    root = tmp_path_factory.mktemp("suspects")
    detections, truths = good_images()
    detections.append(found([box_at(0), box_at(1), box_at(2)], [CAR, BUS, DOG], SURE))
    truths.append(truth([box_at(0), box_at(1), box_at(5)], [BUS, BUS, DOG]))
    files, lines = {}, []
    for number, (one, labels) in enumerate(zip(detections, truths)):
        objects = [
            (CLASSES[label], int(x1) + 1, int(y1) + 1, int(x2), int(y2))
            for label, (x1, y1, x2, y2) in zip(labels.labels.tolist(), labels.boxes.tolist())
        ]
        name = f"{number:03}"
        files[f"Annotations/{name}.xml"] = xml(*objects, filename=f"{name}.jpg", size=(180, 180))
        files[f"JPEGImages/{name}.jpg"] = (180, 180)
        rows = [
            {"label": CLASSES[label], "score": score, "box": box}
            for label, score, box in zip(
                one.labels.tolist(), one.scores.tolist(), one.boxes.tolist()
            )
        ]
        line = {"image": f"JPEGImages/{name}.jpg", "width": 180, "height": 180, "detections": rows}
        lines.append(json.dumps(line))
    data = put(root / "data", files)
    (root / "found.jsonl").write_text("\n".join(lines) + "\n")
    return data


def listed(folder: Path, *words: str | Path, code: int = 0) -> str:
    done = detkit("suspects", folder, "--predictions", folder.parent / "found.jsonl", *words)
    assert done.returncode == code, done.stderr
    return done.stdout


def test_the_command_names_file_line_and_object_and_what_the_model_says(folder: Path) -> None:
    report = json.loads(listed(folder, "--json", "--sure", ".5"))
    assert faults("suspects", report) == []
    first = {one["kind"]: one for one in report["suspects"][: report["num_sure"]]}
    assert set(first) == {"class", "missing", "ghost"}
    wrong = first["class"]
    lines = (folder / wrong["file"]).read_text().splitlines()
    assert wrong["object"] == 1 and lines[wrong["line"] - 1].startswith("<object><name>bus")
    assert (wrong["label"], wrong["model"]["label"]) == ("bus", "car")
    assert wrong["change"]["new"] == {"label": "car", "box": [0, 0, 40, 40]}
    assert first["missing"]["object"] is None and first["missing"]["model"]["label"] == "dog"
    assert first["ghost"]["model"] is None and first["ghost"]["change"]["new"] is None
    table = listed(folder, "-n", "3", "-q").splitlines()
    assert len(table) == 4 and table[0].startswith("sure")
    assert any("Annotations/060.xml:4: object 1" in line for line in table)


def test_more_sure_suspects_than_max_leave_with_1(folder: Path) -> None:
    listed(folder, "--max", "3")
    listed(folder, "--max", "2", code=1)
    listed(folder, "--max", "0", "--sure", "1", code=0)


def test_the_mended_folder_of_its_patch_has_no_sure_suspects(folder: Path, tmp_path: Path) -> None:
    patch = tmp_path / "patch.json"
    listed(folder, "--patch", patch, "-n", "1")
    written = json.loads(patch.read_text())
    assert len(written["changes"]) == 3 and faults("patch", written) == []
    done = detkit("convert", folder, tmp_path / "mended", "--apply", patch)
    assert done.returncode == 0, done.stderr
    assert "3 changes: 1 added, 1 taken away, 1 put right" in done.stderr
    found = folder.parent / "found.jsonl"
    done = detkit("suspects", tmp_path / "mended", "--predictions", found, "--max", "0", "-q")
    assert done.returncode == 0


def test_images_that_detections_do_not_tell_of_are_left_out(folder: Path, tmp_path: Path) -> None:
    lines = (folder.parent / "found.jsonl").read_text().splitlines()
    (tmp_path / "few.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    done = detkit("suspects", folder, "--predictions", tmp_path / "few.jsonl", "--json")
    assert "1 image is left out" in done.stderr
    report = json.loads(done.stdout)
    assert report["num_images"] == 60 and report["num_sure"] == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "choose one of --folds, --model and --predictions: none is given"),
        (("--folds", "a", "--model", "b"), "--folds and --model are given"),
        (("--folds", "nowhere"), "--folds nowhere: no such folder"),
        (("--predictions", "f", "--split", "x"), "--split x"),
    ],
)
def test_wrong_usage_is_one_line(folder: Path, words: tuple[str, ...], said: str) -> None:
    done = detkit("suspects", folder, *words)
    assert done.returncode == 2 and said in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2


def test_a_comparison_has_one_file_and_others_are_named(folder: Path, tmp_path: Path) -> None:
    text = (folder.parent / "found.jsonl").read_text()
    (tmp_path / "ssd-0-fold-1.jsonl").write_text(text)
    done = detkit("suspects", folder, "--folds", tmp_path)
    assert done.returncode == 2 and "not all folds are there yet" in done.stderr
    (tmp_path / "ssd-0.jsonl").write_text(text)
    assert detkit("suspects", folder, "--folds", tmp_path, "-q").returncode == 0
    (tmp_path / "yolov1-0.jsonl").write_text(text)
    done = detkit("suspects", folder, "--folds", tmp_path)
    assert done.returncode == 2 and "ssd-0.jsonl, yolov1-0.jsonl" in done.stderr
    assert detkit("suspects", folder, "--folds", tmp_path / "ssd-0.jsonl").returncode == 0


def test_images_that_were_trained_on_are_told_by_path_and_as_copies(tmp_path: Path) -> None:
    own, seen = tmp_path / "own", tmp_path / "seen"
    for number, (mine, learnt) in enumerate([(b"a", b"a"), (b"b", b"c"), (b"d", b"b")]):
        for root, data in ((own, mine), (seen, learnt)):
            root.mkdir(exist_ok=True)
            (root / f"{number}.jpg").write_bytes(data)
    mine = sorted(own.iterdir())
    assert num_among(mine, sorted(seen.iterdir())) == 2  # a and b
    assert num_among(mine, mine[:1]) == 1
    assert num_among(mine, []) == 0
