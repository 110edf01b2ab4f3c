"""OpenImages' tables of boxes."""

from __future__ import annotations

import pytest
from labelled_folders import boxes, codes, put, sizes

from detkit.data import open_dataset
from detkit.data.convert import convert

HEADER = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf"
HEADER += ",IsDepiction,IsInside\n"
TABLE = "annotations/oidv6-train-annotations-bbox.csv"


def folder(root, rows, more=None):
    return put(root, {"images/train/a.jpg": (20, 40), TABLE: HEADER + rows, **(more or {})})


def test_both_xs_come_before_both_ys_and_all_are_shares_of_the_sides(tmp_path):
    names = {"annotations/class-descriptions-boxable.csv": '/m/9,Zebra\n/m/1,"Cat, tame"\n'}
    rows = "a,xclick,/m/1,1,0.1,0.5,0.2,0.9,0,0,0,0,0\na,xclick,/m/9,1,0,1,0,1,-1,-1,-1,-1,-1\n"
    data = open_dataset(folder(tmp_path, rows, names))
    assert data.format == "openimages"
    found = boxes(data, "train")["images/train/a.jpg"]
    assert found[0] == ("Cat, tame", pytest.approx((4, 4, 20, 18)))
    assert found[1] == ("Zebra", (0, 0, 40, 20))
    assert data.class_names == ("Zebra", "Cat, tame")  # as the descriptions have them
    assert codes(data) == []


def test_columns_are_found_by_name_whatever_their_order(tmp_path):
    text = "XMin,YMin,XMax,YMax,LabelName,ImageID\n.1,.2,.5,.9,cat,a\n"
    data = open_dataset(put(tmp_path, {"a.jpg": (20, 40), "boxes.csv": text}))
    assert boxes(data)["a.jpg"] == [("cat", pytest.approx((4, 4, 20, 18)))]


def test_a_group_is_a_crowd_a_drawing_an_object_and_minus_one_unknown(tmp_path):
    rows = "a,x,/m/1,1,0,1,0,1,0,0,1,0,0\na,x,/m/1,1,0,.5,0,1,0,0,0,1,0\n"
    rows += "a,x,/m/1,1,0,.2,0,1,-1,-1,-1,-1,-1\n"
    (record,) = open_dataset(folder(tmp_path, rows)).splits["train"]
    assert [one.crowd for one in record.objects] == [True, False, False]
    assert not any(one.difficult for one in record.objects)


def test_a_machines_id_without_a_name_is_told(tmp_path):
    data = open_dataset(folder(tmp_path, "a,x,/m/0cmf2,1,0,1,0,1,0,0,0,0,0\n"))
    assert data.class_names == ("/m/0cmf2",)
    assert codes(data) == ["no-names"]


def test_an_image_that_only_the_list_names_has_no_objects_and_strange_ones_are_counted(tmp_path):
    listed = "ImageID,Subset,Rotation\na,train,0\nb,train,0\nz,validation,0\n"
    more = {"images/train/b.jpg": None, "annotations/image_ids_and_rotation.csv": listed}
    data = open_dataset(folder(tmp_path, "a,x,/m/1,1,0,1,0,1,0,0,0,0,0\n", more))
    assert boxes(data, "train")["images/train/b.jpg"] == []
    assert "1 listed image is not in the folder" in data.notes
    assert codes(data, "error") == []


def test_splits_come_from_the_tables_names(tmp_path):
    files = {}
    for word, split in (("oidv6-train", "train"), ("validation", "validation"), ("test", "test")):
        files[f"{split}/{split}1.jpg"] = None
        files[f"{word}-annotations-bbox.csv"] = f"{HEADER}{split}1,x,/m/1,1,0,1,0,1,0,0,0,0,0\n"
    assert sizes(open_dataset(put(tmp_path, files))) == {"train": 1, "val": 1, "test": 1}


def test_the_one_table_that_is_named_is_read_alone(tmp_path):
    other = {"annotations/test-annotations-bbox.csv": f"{HEADER}a,x,/m/2,1,0,1,0,1,0,0,0,0,0\n"}
    folder(tmp_path, "a,x,/m/1,1,0,1,0,1,0,0,0,0,0\n", other)
    assert open_dataset(tmp_path / TABLE).class_names == ("/m/1",)


def test_what_is_written_is_the_official_header_with_names_and_images(tmp_path):
    data = open_dataset(folder(tmp_path / "old", "a,x,/m/1,1,.25,.5,.25,.5,0,0,1,0,0\n"))
    convert(data, tmp_path / "new", "openimages")
    lines = (tmp_path / "new/annotations/train-annotations-bbox.csv").read_text().splitlines()
    assert lines == [HEADER.strip(), "a,xclick,/m/1,1,0.25,0.5,0.25,0.5,-1,-1,1,-1,-1"]
    described = tmp_path / "new/annotations/class-descriptions-boxable.csv"
    assert described.read_text() == "/m/1,/m/1\n"


def test_fiftyones_names_of_the_files_are_found_by_what_they_hold(tmp_path):
    files = {
        "data/a.jpg": (20, 40),
        "labels/detections.csv": f"{HEADER}a,x,/m/1,1,.1,.5,.2,.9,0,0,0,0,0\n",
        "labels/classifications.csv": "ImageID,Source,LabelName,Confidence\na,x,/m/1,1\n",
        "metadata/classes.csv": "/m/1,Cat\n/m/2,Dog\n",
    }
    data = open_dataset(put(tmp_path, files))
    assert data.class_names == ("Cat",)
    assert codes(data) == []
    assert "1 described class without objects left out" in data.notes
