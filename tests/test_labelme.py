"""labelme's files: shapes by hand, versions, image paths of any system, and what has no box."""

import base64
import json

import cv2
import numpy as np
import pytest
from labelled_folders import boxes, codes, ids, put

from detkit.data import open_dataset
from detkit.data.checks.check import check
from detkit.data.convert import convert
from detkit.errors import DetkitError


def shape(label, kind, *points, **more):
    return {"label": label, "points": [list(one) for one in points], "shape_type": kind, **more}


def labelme(*shapes, path="a.jpg", size=(40, 20), **more):
    head = {"version": "5.4.1", "flags": {}, "shapes": list(shapes), "imagePath": path}
    head |= {"imageData": None, "imageHeight": size[1], "imageWidth": size[0]}
    return json.dumps({**head, **more})


def png(mask):
    return base64.b64encode(bytes(cv2.imencode(".png", mask)[1])).decode()


def test_shapes_are_read_as_the_boxes_around_them_and_it_is_said(tmp_path):
    mask = np.zeros((4, 6), np.uint8)
    mask[1:3, 2:5] = 1
    text = labelme(
        shape("car", "rectangle", (30, 12), (10, 2)),  # corners in any order
        shape("hill", "polygon", (1, 1), (7, 3), (4, 9)),
        shape("wheel", "circle", (10, 10), (13, 14)),  # radius 5
        shape("blob", "mask", (20.7, 10.2), (25.7, 13.2), mask=png(mask)),
        shape("ship", "rotation", (5, 0), (10, 5), (5, 10), (0, 5)),
        shape("van", "rectangle", (1, 2), (9, 2), (9, 8), (1, 8)),
    )
    data = open_dataset(put(tmp_path, {"a.jpg": None, "a.json": text}))
    assert data.format == "labelme"
    assert boxes(data) == {
        "a.jpg": [
            ("car", (10, 2, 30, 12)),
            ("hill", (1, 1, 7, 9)),
            ("wheel", (5, 5, 15, 15)),
            ("blob", (22, 11, 25, 13)),
            ("ship", (0, 0, 10, 10)),
            ("van", (1, 2, 9, 8)),
        ]
    }
    assert codes(data) == []
    assert (
        "1 circle, 1 mask, 1 polygon and 1 rotated box are read as the boxes around them"
        in data.notes
    )


def test_points_and_lines_are_named_with_their_place_and_no_other_object_is_lost(tmp_path):
    text = labelme(
        shape("nose", "point", (3, 4)),
        shape("wire", "line", (0, 0), (9, 9)),
        shape("road", "linestrip", (0, 0), (9, 9), (3, 1)),
        shape("bad", "polygon", (1, 1), (2, 2)),
        shape("car", "rectangle", (1, 1), (5, 5)),
    )
    data = open_dataset(put(tmp_path, {"a.jpg": None, "a.json": text}))
    assert codes(data, "warning") == ["no-extent"] * 4
    assert [(one.object_number, one.class_name, one.image_id) for one in data.findings] == [
        (1, "nose", "a.jpg"),
        (2, "wire", "a.jpg"),
        (3, "road", "a.jpg"),
        (4, "bad", "a.jpg"),
    ]
    assert data.findings[0].message.startswith("a point has no area (point 3 4)")
    (car,) = data.splits["all"][0].objects
    assert (car.name, car.number) == ("car", 5)


def test_outlines_of_one_class_and_group_are_one_object_and_rectangles_are_not(tmp_path):
    text = labelme(
        shape("sofa", "polygon", (0, 0), (4, 0), (4, 4), group_id=1),
        shape("cat", "polygon", (5, 5), (6, 5), (6, 6), group_id=1),
        shape("sofa", "polygon", (10, 2), (14, 2), (14, 8), group_id=1),
        shape("sofa", "polygon", (20, 2), (24, 2), (24, 8), group_id=2),
        shape("car", "rectangle", (1, 1), (2, 2), group_id=5),
        shape("car", "rectangle", (3, 3), (5, 5), group_id=5),
    )
    data = open_dataset(put(tmp_path, {"a.jpg": None, "a.json": text}))
    assert boxes(data)["a.jpg"] == [
        ("sofa", (0, 0, 14, 8)),
        ("cat", (5, 5, 6, 6)),
        ("sofa", (20, 2, 24, 8)),
        ("car", (1, 1, 2, 2)),
        ("car", (3, 3, 5, 5)),
    ]
    said = "1 outline joined to another of the same class and group_id: parts of one object"
    assert said in data.notes


def test_files_of_versions_2_and_3_without_types_sizes_and_version_are_read(tmp_path):
    old = {
        "imagePath": "a.jpg",
        "shapes": [
            {
                "line_color": None,
                "points": [[2, 3], [8, 3], [8, 9.5]],
                "fill_color": None,
                "label": "person-1",
            }
        ],
        "lineColor": [0, 255, 0, 128],
        "imageData": None,
    }
    data = open_dataset(put(tmp_path, {"a.jpg": None, "a.json": json.dumps(old)}))
    assert boxes(data)["a.jpg"] == [("person-1", (2, 3, 8, 9.5))]
    assert data.splits["all"][0].width is None


@pytest.mark.parametrize(
    ("files", "path", "image"),
    [
        (["img/a.jpg", "ann/a.json"], "..\\img\\a.jpg", "img/a.jpg"),
        (["img/a.jpg", "ann/a.json"], "../img/a.jpg", "img/a.jpg"),
        (["a.jpg", "a.json"], "C:\\Users\\me\\photos\\a.jpg", "a.jpg"),
        (["a.jpg", "a.json"], "/home/me/a.jpg", "a.jpg"),
        (["parent/stem.jpg", "x.json"], "parent\\stem.jpg", "parent/stem.jpg"),
        (["a.png", "a.json"], "a.jpg", "a.png"),  # saved as another kind since
        (["a.jpg", "a.json"], "", "a.jpg"),
    ],
)
def test_an_image_is_found_by_a_path_of_any_system(tmp_path, files, path, image):
    put(
        tmp_path,
        {files[0]: None, files[1]: labelme(shape("x", "rectangle", (0, 0), (2, 2)), path=path)},
    )
    data = open_dataset(tmp_path)
    assert ids(data, "all") == [image]
    assert codes(data) == []


def test_another_name_than_the_files_own_is_a_warning_that_says_which_image_was_read(tmp_path):
    text = labelme(shape("x", "rectangle", (0, 0), (2, 2)), path="b.jpg")
    put(tmp_path, {"a.jpg": None, "a.json": text})
    data = open_dataset(tmp_path)
    assert (ids(data, "all"), codes(data)) == (["a.jpg"], ["filename-differs"])
    put(tmp_path, {"b.jpg": None})
    data = open_dataset(tmp_path)
    assert codes(data) == ["filename-differs"]
    assert "read for b.jpg" in data.findings[0].message
    labelled = [one.image_id for one in data.splits["all"] if one.label_file]
    assert labelled == ["b.jpg"]


def test_an_image_that_is_inside_the_file_alone_is_said_to_be_there(tmp_path):
    picture = base64.b64encode(b"x" * 999).decode()
    put(tmp_path, {"a.json": labelme(shape("x", "rectangle", (0, 0), (2, 2)), imageData=picture)})
    found = check(open_dataset(tmp_path))
    (missing,) = [one for one in found if one.code == "missing-image"]
    assert "imageData holds it: write it out there" in missing.message


def test_an_embedded_image_before_the_shapes_does_not_hide_what_the_file_is(tmp_path):
    head = {"imageData": "A" * 3_000_000, "imagePath": "a.jpg"}
    head["shapes"] = [shape("x", "rectangle", (0, 0), (2, 2))]
    put(tmp_path, {"a.jpg": None, "a.json": json.dumps(head)})
    assert boxes(open_dataset(tmp_path)) == {"a.jpg": [("x", (0, 0, 2, 2))]}


def test_two_files_for_one_image_are_an_error_unless_they_agree(tmp_path):
    one = labelme(shape("x", "rectangle", (0, 0), (2, 2)))
    put(tmp_path, {"a.jpg": None, "a.json": one, "copy.json": one})
    assert codes(open_dataset(tmp_path), "warning") == ["image-twice"]
    put(tmp_path, {"copy.json": labelme(shape("y", "rectangle", (0, 0), (2, 2)))})
    assert codes(open_dataset(tmp_path), "error") == ["image-twice"]


def test_an_image_without_a_file_beside_labelled_ones_is_not_labelled(tmp_path):
    put(tmp_path, {"a.jpg": None, "b.jpg": (21, 40), "a.json": labelme()})
    data = open_dataset(tmp_path)
    assert ids(data, "all") == ["a.jpg", "b.jpg"]
    assert [one.code for one in check(data) if one.severity == "error"] == ["missing-label"]


def test_broken_files_beside_an_image_are_named_and_others_read(tmp_path):
    put(tmp_path, {f"{name}.jpg": None for name in "abc"})
    put(tmp_path, {"a.json": labelme(shape("x", "rectangle", (0, 0), (2, 2)))})
    put(tmp_path, {"b.json": labelme()[:-20], "c.json": '{"info": 1}', "other.json": "{}"})
    data = open_dataset(tmp_path)
    assert codes(data) == ["bad-json", "not-labelme"]
    assert boxes(data)["a.jpg"] == [("x", (0, 0, 2, 2))]


def test_marks_of_difficult_objects_and_crowds_are_read_however_they_are_written(tmp_path):
    text = labelme(
        shape("a", "rectangle", (0, 0), (2, 2), flags={"difficult": True}),
        shape("b", "rectangle", (0, 0), (2, 3), difficult=True),
        shape("c", "rectangle", (0, 0), (2, 4), difficult="false", flags={"difficult": False}),
        shape("d", "rectangle", (0, 0), (2, 5), flags={"crowd": True}),
    )
    data = open_dataset(put(tmp_path, {"a.jpg": None, "a.json": text}))
    found = [(one.difficult, one.crowd) for one in data.splits["all"][0].objects]
    assert found == [(True, False), (True, False), (False, False), (False, True)]


def test_classes_are_those_of_labelmes_own_list_in_its_order(tmp_path):
    text = labelme(shape("zoo", "rectangle", (0, 0), (2, 2)))
    put(tmp_path, {"a.jpg": None, "a.json": text})
    put(tmp_path, {"labels.txt": "__ignore__\n_background_\nzoo\nant\n"})
    assert open_dataset(tmp_path).class_names == ("zoo", "ant")


def test_splits_are_those_of_the_folders_and_not_of_an_images_name(tmp_path):
    text = labelme(shape("x", "rectangle", (0, 0), (2, 2)), path="train_1.jpg")
    put(tmp_path, {"train_1.jpg": None, "train_1.json": text})
    assert set(open_dataset(tmp_path).splits) == {"all"}
    moved = {"train/train_1.jpg": None, "train/train_1.json": text}
    assert set(open_dataset(put(tmp_path / "new", moved)).splits) == {"train"}


def test_a_file_can_be_named_alone_and_one_of_another_program_is_none(tmp_path):
    text = labelme(shape("x", "rectangle", (0, 0), (2, 2)))
    put(tmp_path, {"a.jpg": None, "b.jpg": None, "a.json": text, "o.json": '{"shapes": [1]}'})
    assert boxes(open_dataset(tmp_path / "a.json")) == {"a.jpg": [("x", (0, 0, 2, 2))]}
    with pytest.raises(DetkitError):
        open_dataset(put(tmp_path / "new", {"a.jpg": None, "a.json": '{"shapes": [1]}'}))


def test_what_is_written_has_the_keys_that_labelme_needs(tmp_path):
    text = labelme(shape("car", "rectangle", (1.25, 2), (9, 8)))
    data = open_dataset(put(tmp_path / "old", {"a.jpg": None, "a.json": text}))
    convert(data, tmp_path / "new", "labelme")
    written = json.loads((tmp_path / "new" / "images" / "a.json").read_text("utf-8"))
    # labelme/label_file.py, LabelFile.load
    needed = {"version", "imageData", "imagePath", "shapes", "flags", "imageHeight", "imageWidth"}
    assert needed == set(written)
    (one,) = written["shapes"]
    assert (one["label"], one["shape_type"], one["points"]) == (
        "car",
        "rectangle",
        [[1.25, 2], [9, 8]],
    )
    assert {"flags", "group_id"} <= set(one)
    assert (written["imagePath"], written["imageHeight"], written["imageWidth"]) == (
        "a.jpg",
        20,
        40,
    )
    assert (tmp_path / "new" / "labels.txt").read_text("utf-8") == "car\n"
