"""KITTI's labels as the kit and other tools write them."""

from __future__ import annotations

import numpy as np
import pytest
from labelled_folders import boxes, codes, ids, put, sizes

from detkit.data import open_dataset
from detkit.data.convert import convert, losses
from detkit.data.formats.kitti import _parsed as parsed
from detkit.data.records import truth_of

NO_3D = "-1 -1 -1 -1000 -1000 -1000 -10"
CAR = "Car 0.00 0 1.85 3.5 2 21.25 12 1.67 1.87 3.69 -16.53 2.39 58.49 1.57"
DONT_CARE = f"DontCare -1 -1 -10 30 1 39 9 {NO_3D}"


def kitti(root, rows, images=("a",)):
    """Write the kit's training folder: left and right camera, labels of the left one."""
    files = {
        f"training/{camera}/{one}.png": None for camera in ("image_2", "image_3") for one in images
    }
    return put(root, {**files, "training/label_2/a.txt": rows})


def test_the_four_pixels_after_alpha_are_the_half_open_box(tmp_path):
    data = open_dataset(kitti(tmp_path, f"{CAR}\n"))
    assert data.format == "kitti"
    assert boxes(data, "train") == {"training/image_2/a.png": [("Car", (3.5, 2, 21.25, 12))]}
    assert data.splits["train"][0].objects[0].line == 1


def test_the_right_cameras_images_are_not_those_of_the_labels(tmp_path):
    data = open_dataset(kitti(tmp_path, f"{CAR}\n"))
    assert ids(data, "train") == ["training/image_2/a.png"]
    assert codes(data, "error") == []
    assert codes(data) == ["unlabelled-folder"]


def test_dont_care_is_no_class_and_is_left_out_for_every_class(tmp_path):
    data = open_dataset(kitti(tmp_path, f"{CAR}\nVan 0 0 0 1 1 9 9 {NO_3D}\n{DONT_CARE}\n"))
    assert data.class_names == ("Car", "Van")
    (record,) = data.splits["train"]
    assert [one.name for one in record.counted] == ["Car", "Van"]
    truth = truth_of(record, {"Car": 0, "Van": 1})
    assert truth.labels.tolist() == [0, 1, 0, 1]
    assert truth.is_crowd.tolist() == [False, False, True, True]
    assert truth.difficult.tolist() == [False, False, True, True]
    assert np.array_equal(truth.boxes[2:], [[30, 1, 39, 9]] * 2)


@pytest.mark.parametrize(
    ("row", "name", "left"),
    [
        (CAR, "Car", 3.5),
        (f"{CAR} 0.87", "Car", 3.5),  # a result's score
        (f"traffic light 0 0 -10 4 2 9 9 {NO_3D}", "traffic light", 4),
        (f"car 1 0 0 -10 4 2 9 9 {NO_3D}", "car 1", 4),
        (f"5 0 0 -10 4 2 9 9 {NO_3D}", "5", 4),
        (f"Car\t0\t0\t-10\t4\t2\t9\t9\t{NO_3D}", "Car", 4),
    ],
)
def test_a_type_may_hold_blanks_and_a_row_may_end_in_a_score(row, name, left):
    found, values = parsed(row)
    assert (found, values[3]) == (name, left)


@pytest.mark.parametrize(
    "row", ["", "Car 0 0 -10 4 2 9 9", CAR.replace("3.5", "nan"), "0 .5 .5 .5 .5"]
)
def test_other_rows_are_none(row):
    assert parsed(row) is None


@pytest.mark.parametrize(
    "rows",
    [
        "0 .5 .5 .2 .2\n",
        "0 .1 .1 .5 .1 .5 .5 .3 .6 .2 .6 .1 .5 .1 .2\n",  # a polygon of 7 points: 15 values
        "0 .5 .5 .2 .2 .5 .5 2 .5 .5 2 .5 .5 2 .4 .4 1\n",
    ],
)
def test_rows_of_yolo_are_not_taken_for_kittis(tmp_path, rows):
    data = open_dataset(put(tmp_path, {"images/a.png": None, "labels/a.txt": rows}))
    assert data.format == "yolo"


def test_an_empty_text_is_an_image_without_objects_and_none_an_error(tmp_path):
    kitti(tmp_path, f"{CAR}\n", images="abc")
    put(tmp_path, {"training/label_2/b.txt": ""})
    data = open_dataset(tmp_path)
    records = {one.image_id[-5]: one for one in data.splits["train"]}
    assert {name: one.label_file is not None for name, one in records.items()} == {
        "a": True,
        "b": True,
        "c": False,
    }


def test_other_tools_folders_are_read_and_their_labels_found_by_stem(tmp_path):
    files = {"images/sub folder/a b.asdf.jpg": None, "labels/a b.asdf.txt": f"{CAR}\n"}
    data = open_dataset(put(tmp_path, files))
    assert boxes(data) == {"images/sub folder/a b.asdf.jpg": [("Car", (3.5, 2, 21.25, 12))]}


def test_regions_survive_a_copy_and_become_crowds_of_each_class_in_coco(tmp_path):
    data = open_dataset(kitti(tmp_path / "old", f"{CAR}\nVan 0 0 0 1 1 9 9 {NO_3D}\n{DONT_CARE}\n"))
    for to in ("kitti", "mot"):
        convert(data, tmp_path / to, to)
        (record,) = open_dataset(tmp_path / to).splits["train"]
        assert [(one.box, one.region) for one in record.objects] == [
            ((3.5, 2, 21.25, 12), False),
            ((1, 1, 9, 9), False),
            ((30, 1, 39, 9), True),
        ]
    convert(data, tmp_path / "coco", "coco")
    (record,) = open_dataset(tmp_path / "coco").splits["train"]
    assert [(one.name, one.crowd) for one in record.objects] == [
        ("Car", False),
        ("Van", False),
        ("Car", True),
        ("Van", True),
    ]
    assert losses(data, "coco") == [
        "1 region left out for every class became a crowd of each class"
    ]
    assert losses(data, "yolo") == [
        "1 region left out for every class is lost: yolo has no mark for them, and what they hold "
        "counts as background"
    ]
    convert(data, tmp_path / "yolo", "yolo")
    assert sizes(open_dataset(tmp_path / "yolo")) == {"train": 1}
    assert len(open_dataset(tmp_path / "yolo").splits["train"][0].objects) == 2


def test_crowds_of_one_class_become_regions(tmp_path):
    text = (
        '{"images": [{"id": 1, "file_name": "a.png"}], "categories": [{"id": 1, "name": "car"}], '
        '"annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], '
        '"iscrowd": 1}, {"id": 2, "image_id": 1, "category_id": 1, "bbox": [9, 2, 3, 4]}]}'
    )
    data = open_dataset(put(tmp_path / "old", {"a.png": None, "coco.json": text}))
    assert losses(data, "kitti") == [
        "1 crowd became regions left out for every class: kitti has no mark for them"
    ]
    convert(data, tmp_path / "new", "kitti")
    rows = (tmp_path / "new" / "label_2" / "a.txt").read_text().splitlines()
    assert [row.split()[0] for row in rows] == ["DontCare", "car"]


def test_lists_in_imagesets_say_the_split(tmp_path):
    files = {f"training/image_2/{one}.png": None for one in "abc"}
    files |= {f"training/label_2/{one}.txt": f"{CAR}\n" for one in "abc"}
    lists = {"train": "a\n", "val": "b\nc\n", "trainval": "a\nb\nc\n"}
    put(tmp_path, {**files, **{f"ImageSets/{name}.txt": text for name, text in lists.items()}})
    data = open_dataset(tmp_path)
    assert sizes(data) == {"train": 1, "val": 2}
    assert codes(data) == []


def test_a_score_is_none_of_a_type_of_two_words(tmp_path):
    assert parsed(f"traffic {CAR} 0.5")[0] == "traffic Car"


def test_rows_of_the_tracking_labels_are_told_apart(tmp_path):
    data = open_dataset(kitti(tmp_path, f"0 7 {CAR}\n"))
    assert codes(data, "error") == ["bad-row"]
    assert "tracking" in data.findings[0].message
