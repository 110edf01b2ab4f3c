"""DOTA's rows of four corners."""

from __future__ import annotations

import pytest
from labelled_folders import boxes, put

from detkit.data import open_dataset
from detkit.data.convert import convert
from detkit.data.formats.dota import _parsed as parsed

HEADER = "imagesource:GoogleEarth\ngsd:0.146\n"


def dota(root, rows, header=HEADER):
    return put(root, {"images/P1.png": None, "labelTxt/P1.txt": header + rows})


def test_the_box_is_that_around_the_corners_and_is_not_cut_at_the_border(tmp_path):
    data = open_dataset(dota(tmp_path, "10 1 22.5 4 20 13 -3 9 large-vehicle 1\n"))
    assert data.format == "dota"
    assert boxes(data) == {"images/P1.png": [("large-vehicle", (-3, 1, 22.5, 13))]}
    assert data.splits["all"][0].objects[0].difficult
    assert "1 rotated box: read as the bounding box" in data.notes


def test_upright_boxes_are_not_called_rotated(tmp_path):
    data = open_dataset(dota(tmp_path, "1 2 9 2 9 8 1 8 ship 0\n9 8 9 2 1 2 1 8 ship 0\n"))
    assert not any("rotated" in note for note in data.notes)


@pytest.mark.parametrize("header", ["", HEADER, "imagesource:x\ngsd:null\n"])
@pytest.mark.parametrize(
    ("row", "name", "difficult"),
    [
        ("1 2 9 2 9 8 1 8 ship 0", "ship", False),
        ("1.0 2.0 9.0 2.0 9.0 8.0 1.0 8.0 ship 1", "ship", True),
        ("1 2 9 2 9 8 1 8 ship 2", "ship", True),
        ("1 2 9 2 9 8 1 8 ship", "ship", False),
        ("1 2 9 2 9 8 1 8 small vehicle 1", "small vehicle", True),
        ("1 2 9 2 9 8 1 8 small\tvehicle\t1", "small\tvehicle", True),
    ],
)
def test_headers_and_the_mark_may_be_missing(tmp_path, header, row, name, difficult):
    assert parsed(row)[1] == name
    if "\t" in name:
        return
    (found,) = open_dataset(dota(tmp_path, row + "\n", header)).splits["all"][0].objects
    assert (found.name, found.box, found.difficult) == (name, (1, 2, 9, 8), difficult)
    assert found.line == 1 + header.count("\n")


@pytest.mark.parametrize("rows", ["0 .1 .1 .5 .1 .5 .5 .1 .5\n", "0 .5 .5 .2 .2 .1 .1 2 .2 .2 2\n"])
def test_rows_of_yolos_corners_and_key_points_are_not_dotas(tmp_path, rows):
    data = open_dataset(put(tmp_path, {"images/a.png": None, "labels/a.txt": rows}))
    assert data.format == "yolo"


def test_the_versions_of_a_split_lie_in_folders_of_their_own(tmp_path):
    files = {
        "train/images/P1.png": None,
        "train/labelTxt-v1.5/DOTA-v1.5_train/P1.txt": HEADER + "1 2 9 2 9 8 1 8 ship 0\n",
        "val/images/P2.png": None,
        "val/labelTxt-v1.5/DOTA-v1.5_val/P2.txt": HEADER,
    }
    data = open_dataset(put(tmp_path, files))
    assert boxes(data, "train") == {"train/images/P1.png": [("ship", (1, 2, 9, 8))]}
    assert boxes(data, "val") == {"val/images/P2.png": []}


def test_corners_are_written_clockwise_from_the_top_left_one(tmp_path):
    data = open_dataset(dota(tmp_path / "old", "1 2 9 2 9 8 1 8 ship 1\n"))
    convert(data, tmp_path / "new", "dota")
    text = (tmp_path / "new" / "labelTxt" / "P1.txt").read_text()
    assert text == "imagesource:unknown\ngsd:null\n1 2 9 2 9 8 1 8 ship 1\n"
