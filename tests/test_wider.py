"""WIDER FACE's lists."""

from __future__ import annotations

from labelled_folders import boxes, codes, put, sizes

from detkit.data import open_dataset
from detkit.data.convert import convert

LIST = "wider_face_split/wider_face_train_bbx_gt.txt"
VAL = "wider_face_split/wider_face_val_bbx_gt.txt"


def folder(root, text, *images):
    return put(root, {**{f"WIDER_train/images/{one}": None for one in images}, LIST: text})


def test_faces_are_left_top_width_height_and_invalid_ones_are_left_out(tmp_path):
    text = "0--Parade/a.jpg\n2\n3 2 10 8 2 0 0 0 1 0\n20 1 5 6 0 0 0 1 0 0 \n"
    data = open_dataset(folder(tmp_path, text, "0--Parade/a.jpg"))
    assert (data.format, data.class_names) == ("wider", ("face",))
    (record,) = data.splits["train"]
    assert [(one.name, one.box, one.region, one.line) for one in record.objects] == [
        ("face", (3, 2, 13, 10), False, 3),
        ("face", (20, 1, 25, 7), True, 4),
    ]
    assert codes(data) == []


def test_an_image_without_faces_has_a_row_of_zeros_or_none(tmp_path):
    text = "a.jpg\n0\n0 0 0 0 0 0 0 0 0 0\nb.jpg\n0\nc.jpg\n1\n1 1 5 5 0 0 0 0 0 0\n"
    data = open_dataset(folder(tmp_path, text, "a.jpg", "b.jpg", "c.jpg"))
    assert [len(one) for one in boxes(data, "train").values()] == [0, 0, 1]
    assert codes(data) == []


def test_a_number_that_is_not_that_of_the_rows_is_told_and_the_rows_count(tmp_path):
    text = "a.jpg\n3\n1 1 5 5 0 0 0 0 0 0\n2 2 5 5 0 0 0 0 0 0\nb.jpg\n0\n0 0 0 0 0 0 0 0 0 0\n"
    data = open_dataset(folder(tmp_path, text, "a.jpg", "b.jpg"))
    assert [len(one) for one in boxes(data, "train").values()] == [2, 0]
    assert codes(data) == ["face-count"]
    assert data.findings[0].line == 2


def test_one_name_in_two_splits_is_the_image_in_the_folder_of_its_own(tmp_path):
    face = "a.jpg\n1\n1 1 5 5 0 0 0 0 0 0\n"
    folder(tmp_path, face, "a.jpg")
    put(tmp_path, {"WIDER_val/images/a.jpg": None, VAL: face.replace("1 1 5", "2 2 5")})
    data = open_dataset(tmp_path)
    assert sizes(data) == {"train": 1, "val": 1}
    assert boxes(data, "val") == {"WIDER_val/images/a.jpg": [("face", (2, 2, 7, 7))]}
    assert codes(data) == []


def test_what_is_written_is_what_was_read(tmp_path):
    text = "a.jpg\n2\n3 2 10 8 0 0 0 0 0 0\n20 1 5.5 6 0 0 0 1 0 0\nb.jpg\n0\n0 0 0 0 0 0 0 0 0 0\n"
    data = open_dataset(folder(tmp_path / "old", text, "a.jpg", "b.jpg"))
    convert(data, tmp_path / "new", "wider")
    assert (tmp_path / "new" / LIST).read_text() == text
    assert (tmp_path / "new" / "WIDER_train" / "images" / "b.jpg").is_file()


def test_datumaros_rows_may_hold_a_class_and_marks_that_are_not_known(tmp_path):
    text = "a.jpg\n4\n1 1 5 5\n2 2 5 5 - - - - - - cat\n3 3 5 5 dog\n4 4 5 5 0 0 0 1 0 0 cat\n"
    data = open_dataset(folder(tmp_path, text, "a.jpg"))
    (record,) = data.splits["train"]
    assert [(one.name, one.region) for one in record.objects] == [
        ("face", False),
        ("cat", False),
        ("dog", False),
        ("cat", True),
    ]
    assert data.class_names == ("face", "cat", "dog")
    assert codes(data) == []
