"""Supervisely's projects: nested data sets, bitmaps, tags, and shapes without area."""

import base64
import json
import zlib

import cv2
import numpy as np
import pytest
from labelled_folders import boxes, codes, ids, put, sizes

from detkit.data import open_dataset
from detkit.data.convert import convert


def thing(title, kind="rectangle", points=((4, 2), (14, 8)), **more):
    outline = {"exterior": [list(one) for one in points], "interior": []}
    return {"classTitle": title, "geometryType": kind, "points": outline, "tags": [], **more}


def annotation(*things, tags=(), size=(40, 20)):
    head = {"description": "", "tags": [{"name": one, "value": None} for one in tags]}
    shape = {"height": size[1], "width": size[0]}
    return json.dumps({**head, "size": shape, "objects": list(things)})


def meta(*titles):
    classes = [{"title": one, "shape": "rectangle", "color": "#FF0000"} for one in titles]
    return json.dumps({"classes": classes, "tags": [], "projectType": "images"})


def bitmap(mask, x, y):
    data = base64.b64encode(zlib.compress(bytes(cv2.imencode(".png", mask)[1]))).decode()
    return {"data": data, "origin": [x, y]}


def test_a_rectangle_may_begin_at_any_corner(tmp_path):
    drawn = [((4, 2), (14, 8)), ((14, 8), (4, 2)), ((4, 8), (14, 2)), ((14, 2), (4, 8))]
    for place, points in enumerate(drawn):
        files = {
            "meta.json": meta("car"),
            "one/img/a.jpg": None,
            "one/ann/a.jpg.json": annotation(thing("car", points=points)),
        }
        data = open_dataset(put(tmp_path / str(place), files))
        assert boxes(data) == {"one/img/a.jpg": [("car", (4, 2, 14, 8))]}
        assert codes(data) == []


def test_rectangles_polygons_and_bitmaps_of_nested_data_sets_are_read(tmp_path):
    mask = np.zeros((6, 8), np.uint8)
    mask[1:5, 2:7] = 255
    alpha = np.zeros((6, 8, 4), np.uint8)
    alpha[2:4, 3:5, 3] = 255
    files = {
        "project/meta.json": meta("zoo", "car"),
        "project/one/img/a.jpg": None,
        "project/one/ann/a.jpg.json": annotation(
            thing("car"),
            thing("car", "polygon", ((1, 1), (9, 3), (4, 9))),
            thing("zoo", "bitmap", (), bitmap=bitmap(mask, 10, 5)),
            thing("zoo", "bitmap", (), bitmap=bitmap(alpha, 10, 5)),
        ),
        "project/one/datasets/two/img/b.jpg": None,
        "project/one/datasets/two/ann/b.jpg.json": annotation(),
    }
    data = open_dataset(put(tmp_path, files))
    assert data.format == "supervisely"
    assert data.class_names == ("zoo", "car")
    assert boxes(data) == {
        "project/one/img/a.jpg": [
            ("car", (4, 2, 14, 8)),
            ("car", (1, 1, 9, 9)),
            ("zoo", (12, 6, 17, 10)),
            ("zoo", (13, 7, 15, 9)),
        ],
        "project/one/datasets/two/img/b.jpg": [],
    }
    assert "2 bitmaps and 1 polygon are read as the boxes around them" in data.notes
    assert codes(data) == []


def test_images_of_one_name_in_two_data_sets_are_told_apart(tmp_path):
    files = {"meta.json": meta("car")}
    for name, width in (("one", 6), ("two", 7)):
        files[f"{name}/img/a.jpg"] = (20, 40 + width)
        files[f"{name}/ann/a.jpg.json"] = annotation(thing("car", points=((0, 0), (width, 5))))
    data = open_dataset(put(tmp_path, files))
    assert {image: found[0][1][2] for image, found in boxes(data).items()} == {
        "one/img/a.jpg": 6,
        "two/img/a.jpg": 7,
    }
    assert codes(data) == []


def test_data_sets_and_tags_called_like_splits_are_splits(tmp_path):
    files = {"meta.json": meta("car")}
    for name, tags in (("train", ()), ("ds", ("val", "sunny"))):
        files[f"{name}/img/{name}.jpg"] = None
        files[f"{name}/ann/{name}.jpg.json"] = annotation(thing("car"), tags=tags)
    assert sizes(open_dataset(put(tmp_path, files))) == {"train": 1, "val": 1}


def test_old_annotations_without_the_images_suffix_and_geometry_are_read(tmp_path):
    old = thing("car")
    del old["geometryType"]
    files = {"meta.json": meta("car"), "ds/img/a.png": None, "ds/ann/a.json": annotation(old)}
    data = open_dataset(put(tmp_path, files))
    assert boxes(data) == {"ds/img/a.png": [("car", (4, 2, 14, 8))]}


def test_points_lines_and_graphs_are_named_and_empty_masks_are_errors(tmp_path):
    nodes = {"nodes": {"n": {"loc": [3, 4]}}}
    text = annotation(
        thing("eye", "point", ((3, 4),)),
        thing("wire", "line", ((1, 1), (5, 5))),
        {"classTitle": "man", "geometryType": "graph", **nodes},
        thing("blob", "bitmap", (), bitmap=bitmap(np.zeros((3, 3), np.uint8), 1, 1)),
        thing("blob", "bitmap", (), bitmap={"data": "AAAA", "origin": [1, 1]}),
    )
    files = {"meta.json": meta("eye", "wire", "man", "blob"), "ds/img/a.jpg": None}
    data = open_dataset(put(tmp_path, {**files, "ds/ann/a.jpg.json": text}))
    assert [(one.code, one.object_number, one.class_name) for one in data.findings] == [
        ("no-extent", 1, "eye"),
        ("no-extent", 2, "wire"),
        ("no-extent", 3, "man"),
        ("bad-mask", 4, "blob"),
        ("bad-mask", 5, "blob"),
    ]


def test_a_class_that_the_project_does_not_list_is_a_warning(tmp_path):
    files = {"meta.json": meta("car"), "ds/img/a.jpg": None}
    files["ds/ann/a.jpg.json"] = annotation(thing("Car"))
    data = open_dataset(put(tmp_path, files))
    assert codes(data) == ["unknown-class"]
    assert data.class_names == ("car", "Car")


def test_an_image_without_an_annotation_is_not_labelled(tmp_path):
    files = {"meta.json": meta("car"), "ds/img/a.jpg": None, "ds/img/b.jpg": None}
    data = open_dataset(put(tmp_path, {**files, "ds/ann/a.jpg.json": annotation(thing("car"))}))
    assert ids(data, "all") == ["ds/img/a.jpg", "ds/img/b.jpg"]
    assert [one.label_file is None for one in data.splits["all"]] == [False, True]


def test_a_bomb_is_not_inflated(tmp_path):
    bomb = base64.b64encode(zlib.compress(b"\0" * (65 << 20))).decode()
    text = annotation(thing("blob", "bitmap", (), bitmap={"data": bomb, "origin": [0, 0]}))
    files = {"meta.json": meta("blob"), "ds/img/a.jpg": None, "ds/ann/a.jpg.json": text}
    assert codes(open_dataset(put(tmp_path, files)), "error") == ["bad-mask"]


@pytest.mark.parametrize("split", ["all", "train"])
def test_what_is_written_is_a_project_with_data_sets(tmp_path, split):
    files = {"meta.json": meta("car"), f"{split}/img/a.jpg": None}
    files[f"{split}/ann/a.jpg.json"] = annotation(thing("car"))
    convert(open_dataset(put(tmp_path / "old", files)), tmp_path / "new", "supervisely")
    name = "dataset" if split == "all" else split
    assert (tmp_path / "new" / name / "img" / "a.jpg").is_file()
    written = json.loads((tmp_path / "new" / name / "ann" / "a.jpg.json").read_text("utf-8"))
    assert written["size"] == {"height": 20, "width": 40}
    (one,) = written["objects"]
    assert one["points"] == {"exterior": [[4, 2], [14, 8]], "interior": []}
    listed = json.loads((tmp_path / "new" / "meta.json").read_text("utf-8"))
    assert [(one["title"], one["shape"]) for one in listed["classes"]] == [("car", "rectangle")]
