"""Any tool's detections are read as they were meant, or refused in a line: never scored wrong."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from foreign_detections import (
    HEIGHT,
    IDS,
    IMAGES,
    NAMES,
    WIDTH,
    centred,
    coco_folder,
    detections,
    logit,
    one_based,
    shares,
    sized,
    stretched,
    turned,
    with_boxes,
    with_scores,
    write_coco,
    write_csv,
    write_jsonl,
    write_text,
    write_voc,
    yolo_folder,
)
from labelled_folders import put
from running import detkit

from detkit.predictions.layout import FORMS, from_corners, parse_layout, to_corners

DOCS = Path(__file__).parents[1] / "docs" / "data-formats.md"


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    return coco_folder(tmp_path_factory.mktemp("coco"))


@pytest.fixture(scope="module")
def yolo(tmp_path_factory):
    return yolo_folder(tmp_path_factory.mktemp("yolo"))


def judge(path, data, *words):
    done = detkit("eval", "--predictions", path, data, "--json", *words)
    assert "Traceback" not in done.stderr
    return done


def is_right(done):
    """Whether every object was found: the detections are perfect."""
    if done.returncode:
        return False
    return json.loads(done.stdout)["mAP"] == 1.0


def refusal(done):
    """The one line that says why a file is refused."""
    assert done.returncode == 3, done.stderr + done.stdout
    assert done.stdout == ""
    (line,) = [one for one in done.stderr.splitlines() if one.startswith("detkit: error: ")]
    return line


# How each format writes its boxes where nothing is wrong, and how it writes detections.
FORMATS = {
    "COCO results": (write_coco, (sized,)),
    "JSON Lines": (write_jsonl, ()),
    "CSV with a header": (write_csv, ()),
    "VOC comp4": (write_voc, (one_based,)),
    "text rows": (write_text, ()),
}

READ = "read"
# What happens to the four numbers of a box: "read", or words of the refusal; with the layout that
# it names the file is read.
BOX_MISTAKES = {
    "corners for sizes": {
        "COCO results": ((), r"as `x y w h`: --layout 'x1 y1 x2 y2'"),
        "text rows": ((), READ),
    },
    "sizes for corners": {
        "JSON Lines": ((sized,), r"second corner lies before .*--layout .* 'x y w h'"),
        "CSV with a header": ((sized,), r"second corner lies before .*--layout .* 'x y w h'"),
        "VOC comp4": ((sized,), READ),
        "text rows": ((sized,), READ),
    },
    "centres for corners": {
        "COCO results": ((centred,), r"--layout 'cx cy w h'"),
        "JSON Lines": ((centred,), r"second corner lies before .*--layout"),
        "CSV with a header": ((centred,), r"second corner lies before .*--layout"),
        "VOC comp4": ((centred,), READ),
        "text rows": ((centred,), READ),
    },
    "y before x": {
        "COCO results": ((sized, turned), r"--layout 'y x h w'"),
        "JSON Lines": ((turned,), r"swapped x and y.*--layout 'y1 x1 y2 x2'"),
        "CSV with a header": ((turned,), r"swapped x and y.*--layout 'y1 x1 y2 x2'"),
        "VOC comp4": ((turned,), READ),
        "text rows": ((turned,), READ),
    },
    "shares for pixels": {
        "COCO results": ((shares, sized), r"shares of the .*--layout 'x y w h shares'"),
        "JSON Lines": ((shares,), r"shares of the .*--layout 'x1 y1 x2 y2 shares'"),
        "CSV with a header": ((shares,), READ),
        "VOC comp4": ((shares,), READ),
        "text rows": ((shares,), READ),
    },
    "pixels of a resized image": {
        "COCO results": ((stretched, sized), r"leave their images|stretched to 640x640"),
        "JSON Lines": ((stretched,), r"leave their images|stretched to 640x640"),
        "CSV with a header": ((stretched,), r"leave their images|stretched to 640x640"),
        "VOC comp4": ((stretched,), r"made for images of another size"),
        "text rows": ((stretched,), r"made for images of another size"),
    },
}
BOX_CASES = [
    (mistake, name, *case) for mistake, of in BOX_MISTAKES.items() for name, case in of.items()
]


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_written_rightly_is_read_and_scored_without_a_doubt(name, coco, tmp_path):
    write, changes = FORMATS[name]
    done = judge(write(tmp_path / "found", with_boxes(detections(), *changes)), coco)
    assert is_right(done), done.stderr
    assert "warning" not in done.stderr


@pytest.mark.parametrize(("mistake", "name", "changes", "outcome"), BOX_CASES)
def test_boxes_that_mean_something_else_are_read_so_or_refused(
    mistake, name, changes, outcome, coco, tmp_path
):
    write, _ = FORMATS[name]
    path = write(tmp_path / "found", with_boxes(detections(), *changes))
    done = judge(path, coco)
    if outcome == READ:
        assert is_right(done), done.stderr
        assert "(--layout" in done.stderr  # one line says how
        return
    line = refusal(done)
    assert re.search(outcome, line), line
    assert str(path) in line
    named = re.findall(r"--layout '([^']+)'", line)
    for layout in named[:1]:
        assert is_right(judge(path, coco, "--layout", layout))


ORDERS = {
    "class score box": "class score",
    "class box score": "class",
    "score class box": "score class",
    "score box class": "score",
    "box score class": "",
    "box class score": "",
    "n box score": "class",
    "n score box": "class score",
    "box score n": "",
    "n box score id": "class",
    "id n box score": "_ class",
    "class id box score": "class _",
    "n score box 1": "class score",
    "class box score 1 id": "class",
}


@pytest.mark.parametrize("row", ORDERS)
@pytest.mark.parametrize(
    ("form", "changes"),
    [
        ("cx cy w h", (shares, centred)),
        ("x1 y1 x2 y2", (shares,)),
        ("x y w h", (shares, sized)),
        ("x1 y1 x2 y2", ()),
        ("x y w h", (sized,)),
        ("cx cy w h", (centred,)),
    ],
)
def test_columns_in_any_order_are_recognised_over_all_rows(row, form, changes, yolo, tmp_path):
    path = write_text(tmp_path / "found", with_boxes(detections(), *changes), row)
    done = judge(path, yolo)
    assert is_right(done), done.stderr
    (said,) = re.findall(r"rows read as `([^`]+)` in (?:shares|pixels)", done.stderr)
    assert f"{ORDERS[row]} {form}".strip() in said
    assert is_right(judge(path, yolo, "--layout", said))  # and a flag fixes it


@pytest.mark.parametrize("row", ["class box id", "n box id", "n id box"])
def test_track_ids_are_no_scores(row, yolo, tmp_path):
    found = with_boxes(detections(), shares, centred)
    line = refusal(judge(write_text(tmp_path / "found", found, row), yolo))
    assert "track ids?" in line
    assert "--layout" in line


def test_a_single_whole_number_may_be_a_score_or_an_id(yolo, tmp_path):
    first = [one for one in with_boxes(detections(), shares, centred) if one.label == "kite"]
    path = write_text(tmp_path / "found", first, "class box 1")
    assert "scores or track ids?" in refusal(judge(path, yolo))
    done = judge(path, yolo, "--layout", "class cx cy w h score")
    assert done.returncode == 0
    assert "all 8 scores are 1" in done.stderr


def test_rows_that_fit_two_readings_are_refused_with_both(yolo, tmp_path):
    (tmp_path / "b1.txt").write_text("0 0.5 0.5 0.5 0.25 0.4\n", encoding="utf-8")
    line = refusal(judge(tmp_path, yolo))
    assert "two readings of the columns fit" in line
    assert "--layout 'class cx cy w h score shares'" in line
    assert "--layout 'class score cx cy w h shares'" in line
    for layout in ("class cx cy w h score", "class score cx cy w h"):
        assert judge(tmp_path, yolo, "--layout", layout).returncode == 0


def test_a_file_of_rows_that_name_their_images_needs_no_header(coco, tmp_path):
    for separator in (",", ";", "\t", " "):
        path = tmp_path / "found.txt"
        rows = [
            separator.join([one.image, one.label.replace(" ", "_"), f"{one.score:.4f}"])
            + separator
            + separator.join(map(str, one.box))
            for one in detections()
            if one.label != "traffic light"
        ]
        path.write_text("\n".join(rows), encoding="utf-8")
        done = judge(path, coco, "--classes", "kite,boat")
        assert is_right(done), done.stderr
        assert "`class score x1 y1 x2 y2` in pixels" in done.stderr
    words = "image class score x1 y1 x2 y2"
    assert is_right(judge(path, coco, "--classes", "kite,boat", "--layout", words))


def test_a_row_that_is_not_as_long_as_the_layout_is_named(yolo, tmp_path):
    path = write_text(tmp_path / "found", with_boxes(detections(), shares, centred), "n box score")
    line = refusal(judge(path, yolo, "--layout", "class score cx cy w h id"))
    assert "b1.txt:1: 6 values, but --layout names 7" in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("class scroe cx cy w h", "unknown word 'scroe'; did you mean score"),
        ("class score cx cy x2 y2", "a box is x1 y1 x2 y2, x y w h, or cx cy w h"),
        ("class score score x y w h", "score comes twice"),
        ("class cx cy w h id", "a row of detections has a score and a box"),
        ("score x y w h shares pixels", "either shares or pixels"),
        ("", "a box is x1 y1 x2 y2"),
    ],
)
def test_a_layout_that_is_none_is_wrong_usage(words, message, yolo, tmp_path):
    (tmp_path / "b1.txt").write_text("0 0.5 0.5 0.5 0.25 0.4\n", encoding="utf-8")
    done = judge(tmp_path, yolo, "--layout", words)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize("words", FORMS.values())
def test_boxes_survive_the_way_to_any_words_and_back(words):
    draw = np.random.default_rng(0)
    low = draw.uniform(0, 50, (20, 2))
    boxes = np.concatenate([low, low + draw.uniform(1, 50, (20, 2))], axis=1)
    assert to_corners(from_corners(boxes, words), words) == pytest.approx(boxes)
    assert parse_layout(" ".join(words)).box == words


# --- scores -------------------------------------------------------------------------------------


SCORES = {
    "percentages": (lambda score: score * 100, "percent", r"--scores percent"),
    "logits": (logit, "logits", r"--scores logits"),
    "a scale of its own": (lambda score: score * 900, "raw", r"--scores raw"),
}


@pytest.mark.parametrize("name", set(FORMATS) - {"JSON Lines"})
@pytest.mark.parametrize("scale", SCORES)
def test_scores_on_another_scale_are_refused_until_it_is_said(scale, name, coco, tmp_path):
    change, word, message = SCORES[scale]
    write, changes = FORMATS[name]
    found = with_scores(with_boxes(detections(), *changes), change)
    path = write(tmp_path / "found", found)
    if scale == "a scale of its own" and name == "text rows":
        assert "--layout" in refusal(judge(path, coco))
        return
    assert re.search(message, refusal(judge(path, coco)))
    done = judge(path, coco, "--scores", word)
    assert is_right(done), done.stderr
    classes = {one["name"]: one for one in json.loads(done.stdout)["classes"]}
    if word != "raw":  # back in [0, 1], as they were: kite's lowest that is right
        assert classes["kite"]["best_threshold"] == pytest.approx(0.95 - 0.14, abs=1e-5)


@pytest.mark.parametrize(("scale", "message"), [("percent", "no percentages"), ("logits", "alr")])
def test_a_scale_that_scores_are_not_on_is_refused(scale, message, coco, tmp_path):
    path = write_jsonl(tmp_path / "found.jsonl", detections())
    assert message in refusal(judge(path, coco, "--scores", scale))
    assert judge(path, coco, "--scores", "%").returncode == 2


def test_margins_in_files_of_detkits_own_are_taken_for_their_order(coco, tmp_path):
    path = write_jsonl(tmp_path / "found.jsonl", with_scores(detections(), logit))
    done = judge(path, coco)
    assert is_right(done)
    assert "margins, no probabilities" in done.stderr
    path = write_jsonl(tmp_path / "found.jsonl", with_scores(detections(), lambda one: one * 100))
    assert "--scores percent" in refusal(judge(path, coco))


@pytest.mark.parametrize("name", FORMATS)
def test_equal_scores_are_warned_of(name, coco, tmp_path):
    write, changes = FORMATS[name]
    found = with_scores(with_boxes(detections(), *changes), lambda score: 0.5)
    done = judge(write(tmp_path / "found", found), coco)
    assert done.returncode == 0
    assert "all 25 scores are 0.5" in done.stderr


@pytest.mark.parametrize("name", FORMATS)
def test_a_score_that_is_no_number_is_refused_with_its_place(name, coco, tmp_path):
    write, changes = FORMATS[name]
    found = with_boxes(detections(), *changes)
    found[2] = replace(found[2], score=float("nan"))
    line = refusal(judge(write(tmp_path / "found", found), coco))
    assert "not finite" in line
    assert str(tmp_path / "found") in line


def test_a_missing_score_is_refused_with_its_place(coco, yolo, tmp_path):
    path = write_csv(tmp_path / "found.csv", detections())
    path.write_text(path.read_text().replace("0.95,", ",", 1))
    assert "found.csv:2: no score" in refusal(judge(path, coco))
    path = write_coco(tmp_path / "found.json", with_boxes(detections(), sized))
    path.write_text(path.read_text().replace('"score": 0.95', '"x": 0', 1))
    assert "entry 1: no 'score'" in refusal(judge(path, coco))
    path = write_text(tmp_path / "text", with_boxes(detections(), shares, centred), "n box")
    assert "five values, so no score" in refusal(judge(path, yolo))


# --- numbers of classes -------------------------------------------------------------------------


def results(path, numbers, rows=None, **more):
    """COCO results whose category ids are `numbers` of the classes."""
    found = with_boxes(detections(), sized) if rows is None else rows
    content = [
        {
            "image_id": IMAGES.index(one.image) + 11,
            "category_id": numbers[one.label],
            "bbox": list(one.box),
            "score": one.score,
            **{key: value(one) for key, value in more.items()},
        }
        for one in found
    ]
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize("first", [[0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 17, 18], [90, 7, 1]])
@pytest.mark.parametrize("as_text", [False, True])
def test_a_number_in_results_is_an_id_of_the_coco_file(first, as_text, tmp_path):
    ids = dict(zip(NAMES, first))
    data = coco_folder(tmp_path / "data", ids)
    written = {name: str(number) if as_text else number for name, number in ids.items()}
    done = judge(results(tmp_path / "found.json", written), data)
    assert is_right(done), done.stderr
    assert "classes are numbers" not in done.stderr


def test_ids_that_are_texts_are_read_as_such(tmp_path):
    ids = {"kite": "k", "traffic light": "t", "boat": "12"}
    data = coco_folder(tmp_path / "data", ids)
    done = judge(results(tmp_path / "found.json", ids), data)
    assert is_right(done), done.stderr


def test_numbers_that_are_no_ids_are_refused_with_the_flag_that_reads_them(coco, tmp_path):
    for first in (0, 1):
        numbers = {name: number for number, name in enumerate(NAMES, start=first)}
        path = results(tmp_path / "found.json", numbers)
        line = refusal(judge(path, coco))
        assert f"no class has the number {first} (3 classes, ids of the data set" in line
        assert f"--layout class{first}" in line
        assert is_right(judge(path, coco, "--layout", f"class{first}"))
    assert judge(path, coco, "--layout", "class9").returncode == 2


def test_numbers_on_a_folder_without_ids_are_told_by_all_of_them(yolo, tmp_path):
    for first in (0, 1):
        numbers = {name: number for number, name in enumerate(NAMES, start=first)}
        path = results(tmp_path / "found.json", numbers, file_name=lambda one: one.image)
        done = judge(path, yolo)
        assert is_right(done), done.stderr
        assert f"classes are numbers, counted from {first}" in done.stderr
    middle = [one for one in with_boxes(detections(), sized) if one.label == "traffic light"]
    path = results(
        tmp_path / "found.json", {"traffic light": 1}, middle, file_name=lambda one: one.image
    )
    line = refusal(judge(path, yolo))
    assert "1, which may be kite (counted from 1) or traffic light (counted from 0)" in line
    assert "--layout class1 or --layout class0" in line


def test_results_that_detect_wrote_before_stay_readable(coco, tmp_path):
    numbers = {name: number for number, name in enumerate(NAMES, start=1)}
    path = results(tmp_path / "found.json", numbers)
    rows = json.loads(path.read_text())
    for row in rows:
        row["image_id"] = IMAGES[row["image_id"] - 11]
    path.write_text(json.dumps(rows))
    assert is_right(judge(path, coco))


def test_the_numbers_of_rows_are_those_of_the_yolo_folder(tmp_path):
    data = yolo_folder(tmp_path / "data")
    (data / "classes.txt").unlink()
    names = "\n".join(f"  {number * 5}: {name}" for number, name in enumerate(NAMES))
    (data / "data.yaml").write_text(f"train: images\nnames:\n{names}\n", encoding="utf-8")
    for path in (data / "labels").glob("*.txt"):
        rows = [line.split(" ", 1) for line in path.read_text().splitlines()]
        path.write_text("".join(f"{int(number) * 5} {rest}\n" for number, rest in rows))
    found = with_boxes(detections(), shares, centred)
    path = write_text(tmp_path / "found", found, "n box score")
    for one in path.glob("*.txt"):
        rows = [line.split(" ", 1) for line in one.read_text().splitlines()]
        one.write_text("".join(f"{int(number) * 5} {rest}\n" for number, rest in rows))
    done = judge(path, data)
    assert is_right(done), done.stderr


# --- names and ids of images --------------------------------------------------------------------


def test_file_names_in_rows_decide_over_image_ids(coco, tmp_path):
    path = results(tmp_path / "found.json", IDS, file_name=lambda one: one.image)
    rows = json.loads(path.read_text())
    assert is_right(judge(path, coco))
    for row in rows:
        row["image_id"] = int(row["file_name"][1]) + 12  # each is the id of the next image
    path.write_text(json.dumps(rows))
    done = judge(path, coco)
    assert is_right(done), done.stderr
    assert "the file name decides: images/b1.png has the image_id 13, which is" in done.stderr
    assert "images/b3.png in the data set" in done.stderr


@pytest.mark.parametrize("seed", range(3))
def test_image_ids_are_the_data_sets_and_not_the_numbers_in_file_names(seed, tmp_path):
    names = [f"{number:04}.png" for number in range(1, 9)]
    keys = random.Random(seed).sample(range(1, 9), 8)
    box = {"kite": (10, 10, 50, 40)}
    boxes = {name: [5 * n, 4 * n, 30 + 2 * n, 20] for n, name in enumerate(names)}
    content = {
        "images": [
            {"id": key, "file_name": name, "width": WIDTH, "height": HEIGHT}
            for key, name in zip(keys, names)
        ],
        "categories": [{"id": 1, "name": next(iter(box))}],
        "annotations": [
            {"id": n, "image_id": key, "category_id": 1, "bbox": boxes[name]}
            for n, (key, name) in enumerate(zip(keys, names))
        ],
    }
    files = {"annotations/instances_test.json": json.dumps(content)}
    data = put(tmp_path / "data", files | {f"images/{name}": (HEIGHT, WIDTH) for name in names})

    def rows(ids):
        found = [
            {"image_id": one, "category_id": 1, "bbox": boxes[name], "score": 0.9 - n / 10}
            for n, (one, name) in enumerate(zip(ids, names))
        ]
        (tmp_path / "found.json").write_text(json.dumps(found))
        return tmp_path / "found.json"

    assert is_right(judge(rows(keys), data))
    content["images"] = [{**one, "id": one["id"] + 100} for one in content["images"]]
    content["annotations"] = [
        {**one, "image_id": one["image_id"] + 100} for one in content["annotations"]
    ]
    (data / "annotations" / "instances_test.json").write_text(json.dumps(content))
    done = judge(rows(range(1, 9)), data)  # no ids, but all are numbers in file names
    assert is_right(done), done.stderr
    assert "read as numbers in file names" in done.stderr


def test_detections_of_other_images_of_the_folder_are_left_out_and_counted(tmp_path):
    data = coco_folder(tmp_path / "data")
    label_file = data / "annotations" / "instances_test.json"
    content = json.loads(label_file.read_text())
    own = {one["id"] for one in content["images"][:5]}
    for split, keep in (("test", True), ("train", False)):
        part = {
            **content,
            "images": [one for one in content["images"] if (one["id"] in own) is keep],
            "annotations": [
                one for one in content["annotations"] if (one["image_id"] in own) is keep
            ],
        }
        (data / "annotations" / f"instances_{split}.json").write_text(json.dumps(part))
    put(data, {"images/unlisted.png": (HEIGHT, WIDTH)})
    by_name = write_jsonl(tmp_path / "found.jsonl", detections())
    with by_name.open("a") as file:
        file.write('\n{"image": "unlisted.png", "detections": []}\n')
    done = judge(by_name, data)
    assert is_right(done), done.stderr
    assert "predictions for 4 images that are not of the split" in done.stderr
    assert "(3 of train, 1 of no split; first: b6.png) left out" in done.stderr
    assert "--strict allows none" in refusal(judge(by_name, data, "--strict"))
    by_id = write_coco(tmp_path / "found.json", with_boxes(detections(), sized))
    done = judge(by_id, data)
    assert is_right(done), done.stderr
    told = r"3 images that are not of the split \(3 of train; first: \S*b6.png, id \d+\) left out"
    assert re.search(told, done.stderr), done.stderr
    only_train = [one for one in detections() if one.image > "b5.png"]
    path = write_csv(tmp_path / "train.csv", only_train)
    assert "and none for its own; choose another --split" in refusal(judge(path, data))
    with by_name.open("a") as file:
        file.write('{"image": "nowhere.png", "detections": []}\n')
    assert "'nowhere.png': not among the split's 5 images" in refusal(judge(by_name, data))


def test_ids_of_another_splits_file_are_refused_with_its_name(tmp_path):
    data = coco_folder(tmp_path / "data")
    label_file = data / "annotations" / "instances_test.json"
    content = json.loads(label_file.read_text())
    few = {one["id"] for one in content["images"][:3]}
    val = {
        **content,
        "images": [
            {**one, "file_name": f"v{one['file_name']}"}
            for one in content["images"]
            if one["id"] in few
        ],
        "annotations": [one for one in content["annotations"] if one["image_id"] in few],
    }
    (data / "annotations" / "instances_val.json").write_text(json.dumps(val))
    put(data, {f"images/vb{number}.png": (HEIGHT, WIDTH) for number in (1, 2, 3)})
    path = write_coco(tmp_path / "found.json", with_boxes(detections(), sized))
    assert "all are of 'test': --split test" in refusal(judge(path, data, "--split", "val"))
    assert is_right(judge(path, data, "--split", "test"))


@pytest.mark.parametrize(
    "name",
    [
        "D:\\photos\\Grün 1.JPG",
        "/home/me/Gr%C3%BCn%201.jpg",
        "https://host/bucket/gr%c3%bcn%201.jpg?versionId=3",
        "images/Gru\u0308n 1.jpg",
        "GRÜN 1",
    ],
)
def test_names_that_are_spelt_otherwise_are_found(name, tmp_path):
    files = {
        "classes.txt": "kite\n",
        "labels/Grün 1.txt": "0 .5 .5 .2 .2\n",
        "images/Grün 1.jpg": (HEIGHT, WIDTH),
        "labels/other.txt": "0 .5 .5 .2 .4\n",
        "images/other.jpg": (HEIGHT, WIDTH),
    }
    data = put(tmp_path / "data", files)
    lines = [
        {"image": name, "detections": [{"label": "kite", "score": 0.9, "box": [64, 40, 96, 60]}]},
        {
            "image": "other",
            "detections": [{"label": "kite", "score": 0.8, "box": [64, 30, 96, 70]}],
        },
    ]
    path = tmp_path / "found.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    done = judge(path, data)
    assert is_right(done), done.stderr


def test_a_name_in_another_spelling_of_two_images_is_refused(tmp_path):
    files = {f"images/{name}": (HEIGHT, WIDTH) for name in ("ab.jpg", "AB.jpg", "c.jpg")}
    labels = {f"labels/{name}.txt": "0 .5 .5 .2 .2\n" for name in ("ab", "AB", "c")}
    data = put(tmp_path / "data", {"classes.txt": "kite\n", **files, **labels})
    path = tmp_path / "found.jsonl"
    box = '"detections": [{"label": "kite", "score": 0.9, "box": [64, 40, 96, 60]}]'
    path.write_text(f'{{"image": "aB.jpg", {box}}}\n{{"image": "c", {box}}}')
    line = refusal(judge(path, data))
    assert "both images/AB.jpg and images/ab.jpg may be meant" in line


def test_sizes_that_predictions_state_must_be_the_images(coco, tmp_path):
    path = write_jsonl(tmp_path / "found.jsonl", detections())
    lines = [json.loads(line) | {"width": WIDTH, "height": HEIGHT} for line in path.open()]
    path.write_text("\n".join(map(json.dumps, lines)))
    assert is_right(judge(path, coco))
    for size, hint in (((300, 300), "resized?"), ((HEIGHT, WIDTH), "before its EXIF rotation?")):
        lines[3] |= {"width": size[0], "height": size[1]}
        path.write_text("\n".join(map(json.dumps, lines)))
        line = refusal(judge(path, coco))
        assert f"images/b4.png: predicted on an image of {size[0]}x{size[1]}" in line
        assert hint in line


def test_a_detector_that_is_merely_bad_is_scored_as_it_is(coco, tmp_path):
    draw = random.Random(5)
    for _ in range(30):
        found = []
        for one in detections():
            x1, y1, x2, y2 = one.box
            dx, dy = draw.uniform(-30, 30), draw.uniform(-30, 30)
            if draw.random() < 0.5:
                dx, dy = dx / 30, dy / 30
            box = (
                max(0, x1 + dx),
                max(0, y1 + dy),
                min(WIDTH, x2 + dx),
                min(HEIGHT, y2 + dy),
            )
            if box[2] <= box[0] or box[3] <= box[1]:
                continue
            found.append(replace(one, box=box))
        path = write_jsonl(tmp_path / "found.jsonl", found)
        assert judge(path, coco).returncode == 0


def test_boxes_that_are_not_cut_at_the_border_are_no_mistake(coco, tmp_path):
    found = []
    for number, one in enumerate(detections()):
        x1, y1, x2, y2 = one.box
        reach = 12 if number % 5 == 0 else 0
        found.append(replace(one, box=(x1, y1, max(x2, WIDTH) + reach if reach else x2, y2)))
    for name, (write, changes) in FORMATS.items():
        path = write(tmp_path / name, with_boxes(found, *changes))
        done = judge(path, coco)
        assert done.returncode == 0, done.stderr


def test_the_page_on_formats_tells_of_every_mistake_that_is_tried_here():
    text = DOCS.read_text(encoding="utf-8")
    table = text[text.index("| mistake |") :]
    rows = re.findall(r"^\| ([^|]+) \|", table[: table.index("\n\n")], re.MULTILINE)
    tried = {*BOX_MISTAKES, *SCORES}
    assert tried <= set(rows), tried - set(rows)
