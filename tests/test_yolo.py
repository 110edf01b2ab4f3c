import shutil
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_folders import SHARED, boxes, codes, ids, put, sizes

from detkit.data import open_dataset
from detkit.data.checks.check import drop_bad
from detkit.data.formats.reading import format_of
from detkit.errors import DetkitError

ROW = "0 0.5 0.5 0.5 0.5\n"  # (10, 5, 30, 15) of the 40 x 20 pictures


def one_image(root, rows, yaml="names: [car, cat]\ntrain: images\n"):
    return put(root, {"images/a.jpg": None, "labels/a.txt": rows, "data.yaml": yaml})


def test_shares_of_the_image_become_zero_based_pixels_with_line_and_number(tmp_path):
    data = open_dataset(one_image(tmp_path, "\n1 0.5 0.5 0.5 0.5\n\n0.0 .25 .25 0.5 0.5\n"))
    assert boxes(data, "train") == {
        "images/a.jpg": [("cat", (10, 5, 30, 15)), ("car", (0, 0, 20, 10))]
    }
    cat, car = data.splits["train"][0].objects
    assert (cat.line, cat.number, car.line, car.number) == (2, 1, 4, 2)
    assert cat.file == tmp_path / "labels" / "a.txt"
    assert format_of(data).values(cat) == "cx=0.5 cy=0.5 width=0.5 height=0.5"
    assert format_of(data).values(car) == "cx=.25 cy=.25 width=0.5 height=0.5"
    corners = "x1=10 y1=5 x2=30 y2=15"
    assert format_of(data).values(replace(cat, line=None)) == corners
    cat.file.write_text("1 0.4")  # since the set was opened
    assert [*map(format_of(data).values, (cat, car))] == [corners, "x1=0 y1=0 x2=20 y2=10"]
    cat.file.unlink()
    assert format_of(data).values(cat) == corners
    assert data.findings == ()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(*[st.floats(0, 1)] * 4), max_size=5))
def test_any_shares_come_back_as_corners_of_an_upright_image(tmp_path_factory, rows):
    root = tmp_path_factory.mktemp("y")
    one_image(root, "".join(f"0 {' '.join(map(repr, row))}\n" for row in rows))
    found = boxes(open_dataset(root), "train")["images/a.jpg"]
    for (_, got), (cx, cy, w, h) in zip(found, rows, strict=True):
        expected = (40 * (cx - w / 2), 20 * (cy - h / 2), 40 * (cx + w / 2), 20 * (cy + h / 2))
        assert got == pytest.approx(expected, abs=1e-9)


LAYOUTS = {
    "images/train/1.jpg": "labels/train/1.txt",
    "train/images/1.jpg": "train/labels/1.txt",
    "train/1.jpg": "train/1.txt",
    "sub/images/train/1.jpg": "sub/labels/train/1.txt",
    "images/train/deep/1.jpg": "labels/train/deep/1.txt",
}


@pytest.mark.parametrize("image", LAYOUTS)
@pytest.mark.parametrize("val", ["val", "valid"])
def test_both_nesting_orders_and_labels_beside_images_are_found(tmp_path, image, val):
    for split in ("train", val):
        files = {image: None, LAYOUTS[image]: ROW}
        put(tmp_path, {name.replace("train", split): text for name, text in files.items()})
    put(tmp_path, {"classes.txt": "car\n"})
    data = open_dataset(tmp_path)
    assert sizes(data) == {"train": 1, "val": 1}
    assert boxes(data, "val") == {image.replace("train", val): [("car", (10, 5, 30, 15))]}
    assert data.findings == ()


@pytest.mark.parametrize(
    "names",
    [
        "names: [car, 'no']",
        "names:\n- car\n- no",
        "names: {0: car, 1: no}",
        "names:\n  1: no\n  0: car\n",
        "nc: 2\nnames: ['car', 'no']",
    ],
)
def test_names_are_a_list_or_a_map_and_stay_texts(tmp_path, names):
    data = open_dataset(one_image(tmp_path, "1 .5 .5 .5 .5", f"train: images\n{names}\n"))
    assert data.class_names == ("car", "no")
    assert [name for name, _ in boxes(data, "train")["images/a.jpg"]] == ["no"]
    assert data.findings == ()


def test_a_map_with_gaps_keeps_its_indices(tmp_path):
    root = one_image(tmp_path, "7 .5 .5 .5 .5", "train: images\nnames: {7: late, 2: early}\n")
    data = open_dataset(root)
    assert data.class_names == ("early", "late")
    assert boxes(data, "train")["images/a.jpg"][0][0] == "late"


@pytest.mark.parametrize(
    "yaml",
    [
        "train: images/train\nval: images/val",
        "train: ../images/train\nval: ../images/val",
        "path: .\ntrain: images/train\nval: images/val",
        "path: ../datasets/mine\ntrain: images/train\nvalid: images/val",
        "path: /content/datasets/mine\ntrain: images/train\nval: [images/val]",
        "train: /content/x/images/train/\nval: ./images/val",
        "path: images\ntrain: train\nvalidation:\n- val\ntest:\n",
        "train: train.txt\nval: [lists/val.txt]",
    ],
)
def test_the_ways_in_which_data_yaml_names_its_splits(tmp_path, yaml):
    for split in ("train", "val"):
        put(tmp_path, {f"images/{split}/{split}.jpg": None, f"labels/{split}/{split}.txt": ROW})
    put(tmp_path, {"train.txt": "./images/train/train.jpg\n", "lists/val.txt": "val.jpg\n"})
    put(tmp_path, {"data.yaml": f"{yaml}\nnames: [car]\n"})
    data = open_dataset(tmp_path)
    assert ids(data, "train") == ["images/train/train.jpg"]
    assert ids(data, "val") == ["images/val/val.jpg"]
    assert list(data.splits) == ["train", "val"]
    assert len(boxes(data, "val")["images/val/val.jpg"]) == 1
    assert codes(data) == []


def test_a_split_of_the_yaml_that_is_not_there_is_an_error_not_another_split(tmp_path):
    root = one_image(tmp_path, ROW, "names: [car]\ntrain: images\nval: ../valid/images\n")
    data = open_dataset(root)
    assert sizes(data) == {"train": 1}
    (finding,) = data.findings
    assert (finding.code, finding.split) == ("path-outside", "val")


@pytest.mark.parametrize("entry", ["../test/images", "test/images", "/content/test/images"])
def test_a_test_split_that_a_tool_names_without_exporting_it_is_a_warning(tmp_path, entry):
    yaml = f"names: [car]\ntrain: ../images\ntest: {entry}\n"
    data = open_dataset(one_image(tmp_path, ROW, yaml))
    assert sizes(data) == {"train": 1}
    assert codes(data) == ["no-test"]


def test_a_test_split_that_is_not_there_is_an_error_where_another_is_missing_too(tmp_path):
    yaml = "names: [car]\ntrain: images\nval: gone/val\ntest: gone/test\n"
    data = open_dataset(one_image(tmp_path, ROW, yaml))
    assert codes(data, "error") == ["missing-file", "missing-file"]


@pytest.mark.parametrize("entry", ["/etc", "../../..", "../secret", "secret.txt"])
def test_a_split_outside_the_folder_is_an_error_and_not_read(tmp_path, entry):
    put(tmp_path, {"secret/x.jpg": None, "secret/x.txt": ROW})
    yaml = f"names: [car]\ntrain: images\nval: {entry}\n"
    data = open_dataset(one_image(tmp_path / "in", ROW, yaml))
    assert codes(data, "error") in (["path-outside"], ["missing-file"])
    assert sizes(data) == {"train": 1}


def test_a_line_of_a_list_that_leads_out_is_an_error_with_its_line(tmp_path):
    put(tmp_path, {"secret/x.jpg": None})
    root = one_image(tmp_path / "in", ROW, "names: [car]\ntrain: train.txt\n")
    put(root, {"train.txt": "images/a.jpg\n../secret/x.jpg\n/etc/passwd\nimages/ghost.jpg\n"})
    data = open_dataset(root)
    assert [(one.code, one.line) for one in data.findings] == [
        ("path-outside", 2),
        ("path-outside", 3),
    ]
    assert ids(data, "train") == ["images/a.jpg", "images/ghost.jpg"]


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ("0 0.5 0.5 0.5", "bad-row"),
        ("0 0.5 0.5 0.5 0.5 0.9", "bad-row"),
        ("car 0.5 0.5 0.5 0.5", "bad-row"),
        ("0 0.5 0.5 0.5 nan", "bad-row"),
        ("0 0.5 0.5 0.5 half", "bad-row"),
        ("-1 0.5 0.5 0.5 0.5", "bad-row"),
        ("0.5 0.5 0.5 0.5 0.5", "bad-row"),
        ("0,0.5,0.5,0.5,0.5", "bad-row"),
        ("2 0.5 0.5 0.5 0.5", "unknown-class"),
        ("9" * 400 + " 0.5 0.5 0.5 0.5", "bad-row"),
    ],
)
def test_a_bad_row_is_an_error_with_its_line_and_the_others_stay(tmp_path, row, code):
    data = open_dataset(one_image(tmp_path, f"{ROW}{row}\n{ROW}"))
    (finding,) = data.findings
    assert (finding.code, finding.line, finding.object_number) == (code, 2, 2)
    assert (finding.severity, finding.image_id) == ("error", "images/a.jpg")
    assert [one.number for one in data.splits["train"][0].objects] == [1, 3]


def test_a_folder_of_nothing_but_bad_rows_is_a_data_set_of_findings(tmp_path):
    put(tmp_path / "1", {"images/a.jpg": None, "labels/a.txt": "car 1 2 3\n"})
    assert codes(open_dataset(tmp_path / "1"), "error") == ["bad-row"]
    put(tmp_path / "2", {"a.jpg": None, "a.txt": "car 1 2 3\n", "b.jpg": None, "b.txt": ROW})
    assert codes(open_dataset(tmp_path / "2"), "error") == ["bad-row"]


def test_polygons_are_read_as_their_bounds_with_one_warning(tmp_path):
    rows = "0 .1 .2 .9 .3 .4 .8\n1 0 0 1 0 1 1 0 1\n"
    put(tmp_path, {"images/b.jpg": None, "labels/b.txt": "0 .1 .2 .9 .3 .4 .8\n"})
    data = open_dataset(one_image(tmp_path, rows))
    (_, first), (_, second) = boxes(data, "train")["images/a.jpg"]
    assert first == pytest.approx((4, 4, 36, 16))
    assert second == (0, 0, 40, 20)
    assert [(one.code, one.severity) for one in data.findings] == [("polygon", "warning")]
    assert data.findings[0].message.startswith("3 rows of polygons in 2 files")
    assert (data.findings[0].file.name, data.findings[0].line) == ("a.txt", 1)
    assert "3 rows of polygons: only the bounding box is read" in data.notes


def test_a_row_with_a_score_is_told_from_another_bad_one(tmp_path):
    rows = "0 .5 .5 .5 .5 .9\n0 .5 .5 .5 x .9\n"
    scored, bad = open_dataset(one_image(tmp_path, rows)).findings
    assert scored.message.endswith("; remove the score at its end?")
    assert bad.message.endswith("; mend or remove the row")


def test_key_points_after_a_box_are_left_out(tmp_path):
    yaml = "names: [car]\ntrain: images\nkpt_shape: [2, 3]\n"
    data = open_dataset(one_image(tmp_path, "0 .5 .5 .5 .5 .1 .1 2 .2 .2 2\n", yaml))
    assert boxes(data, "train")["images/a.jpg"] == [("car", (10, 5, 30, 15))]


def two_folders(root, first, second, row="1 .5 .5 .5 .5\n"):
    """Labels with a file of names in each of two folders, as labelImg leaves them."""
    for folder, names in (("one", first), ("two", second)):
        files = {"a.jpg": None, "a.txt": row, "classes.txt": "\n".join(names)}
        put(root / folder, files)
    return open_dataset(root)


def test_files_of_names_that_number_the_classes_otherwise_are_an_error(tmp_path):
    data = two_folders(tmp_path, ["car", "cat", "bus"], ["car", "bus", "cat", "cow"])
    (finding,) = data.findings
    assert (finding.severity, finding.code) == ("error", "names-differ")
    assert (finding.file, finding.line) == (tmp_path / "two" / "classes.txt", 2)
    assert finding.message.startswith("class 1 is bus here and cat in one/classes.txt")
    kept, dropped = drop_bad(data, data.findings)
    assert dropped == 1
    assert boxes(kept) == {"one/a.jpg": [("cat", (10, 5, 30, 15))]}


def test_other_names_beside_no_labels_are_a_warning(tmp_path):
    put(tmp_path, {"one/a.jpg": None, "one/a.txt": ROW, "one/classes.txt": "car\ncat\n"})
    put(tmp_path, {"two/classes.txt": "cat\ncar\n"})
    data = open_dataset(tmp_path)
    assert [(one.severity, one.code) for one in data.findings] == [("warning", "names-differ")]
    assert drop_bad(data, data.findings) == (data, 0)


def test_names_that_only_a_further_file_has_are_added(tmp_path):
    data = two_folders(tmp_path, ["car", "cat"], ["car", "cat", "cow"], "2 .5 .5 .5 .5\n")
    assert (data.class_names, data.findings) == (("car", "cat", "cow"), ())
    assert [name for ((name, _),) in boxes(data).values()] == ["cow", "cow"]


def test_data_yaml_counts_against_other_names_in_classes_txt_and_that_is_a_warning(tmp_path):
    put(tmp_path, {"labels/classes.txt": "cat\ncar\ncow\n"})
    data = open_dataset(one_image(tmp_path, ROW))
    assert data.class_names == ("car", "cat")
    assert [(one.severity, one.code) for one in data.findings] == [("warning", "names-differ")]
    put(tmp_path, {"labels/classes.txt": "car\n"})
    assert open_dataset(tmp_path).findings == ()


@pytest.mark.parametrize("place", ["images/", "", "obj_train_data/more/"])
def test_labels_of_an_export_without_images_go_with_images_put_elsewhere(tmp_path, place):
    names = {"obj.data": "names = data/obj.names\ntrain = data/train.txt\n", "obj.names": "car\n"}
    put(tmp_path, {**names, "train.txt": "data/obj_train_data/a.jpg\ndata/obj_train_data/b.jpg\n"})
    put(tmp_path, {f"{place}a.jpg": None, f"{place}b.jpg": None})
    put(tmp_path, {"obj_train_data/a.txt": ROW, "obj_train_data/b.txt": ""})
    data = open_dataset(tmp_path)
    car = [("car", (10, 5, 30, 15))]
    assert boxes(data, "train") == {f"{place}a.jpg": car, f"{place}b.jpg": []}
    assert data.findings == ()
    assert "labels in obj_train_data: matched to images elsewhere by name alone" in data.notes


def test_an_image_without_a_label_takes_none_from_a_folder_of_old_ones(tmp_path):
    root = put(one_image(tmp_path, ROW), {"images/b.jpg": None, "labels_old/b.txt": ROW})
    assert [one.label_file is None for one in open_dataset(root).splits["train"]] == [False, True]


def test_an_empty_label_file_is_no_missing_one(tmp_path):
    root = put(one_image(tmp_path, ""), {"images/b.jpg": None})
    empty, missing = open_dataset(root).splits["train"]
    assert empty.label_file == tmp_path / "labels" / "a.txt"
    assert missing.label_file is None


def test_a_label_file_without_an_image_is_an_error(tmp_path):
    root = put(one_image(tmp_path, ROW), {"labels/ghost.txt": ROW, "README.txt": "hello"})
    data = open_dataset(root)
    assert [(one.code, one.file.name) for one in data.findings] == [("missing-image", "ghost.txt")]


def test_images_that_no_split_of_the_yaml_holds_are_said(tmp_path):
    root = put(one_image(tmp_path, ROW), {"test/images/b.jpg": None, "test/labels/b.txt": ROW})
    data = open_dataset(root)
    assert codes(data) == ["in-no-split"]
    assert sizes(data) == {"train": 1}


def test_classes_without_names_are_called_by_number_and_that_is_said(tmp_path):
    put(tmp_path, {"a.jpg": None, "a.txt": f"10{ROW[1:]}2{ROW[1:]}"})
    data = open_dataset(tmp_path)
    assert data.class_names == ("2", "10")
    assert codes(data) == ["no-names"]


def test_an_image_whose_size_cannot_be_known_is_an_error(tmp_path):
    root = put(one_image(tmp_path, ROW), {"images/a.jpg": b"nonsense"})
    data = open_dataset(root)
    assert codes(data, "error") == ["unreadable-image"]
    assert data.splits["train"][0].objects == ()


def test_boxes_are_shares_of_the_upright_image(tmp_path):
    from PIL import Image

    root = one_image(tmp_path, ROW)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(root / "images" / "a.jpg", exif=exif)
    assert boxes(open_dataset(root), "train")["images/a.jpg"] == [("car", (5, 10, 15, 30))]


def test_darknets_own_description_is_read(tmp_path):
    text = "classes = 1\ntrain = data/train.txt\nvalid=data/valid.txt\nnames = data/obj.names\n"
    put(tmp_path, {"obj.data": text, "obj.names": "car\n\n"})
    for split in ("train", "valid"):
        put(tmp_path, {f"{split}.txt": f"data/obj_train_data/{split}1.jpg\n"})
        put(tmp_path, {f"obj_train_data/{split}1.jpg": None, f"obj_train_data/{split}1.txt": ROW})
    data = open_dataset(tmp_path)
    assert ids(data, "train") == ["obj_train_data/train1.jpg"]
    assert ids(data, "val") == ["obj_train_data/valid1.jpg"]
    assert data.class_names == ("car",)
    assert data.findings == ()


@pytest.mark.parametrize(
    "yaml",
    [
        "names: [car\ntrain: images",
        "a: &a [x, x]\nb: &b [*a, *a]\nnames: *b\ntrain: images",
        "names: [car, car]\ntrain: images",
        "names: !!python/object/apply:os.system ['true']\ntrain: images",
        "names: {first: car}\ntrain: images",
        "\t",
        "[" * 1500,
    ],
)
def test_a_bad_data_yaml_is_findings_never_a_crash_and_runs_nothing(tmp_path, yaml):
    try:
        data = open_dataset(one_image(tmp_path, ROW, yaml))
    except DetkitError as error:
        assert "\n" not in str(error)
    else:
        assert data.findings or not data.class_names or data.splits


def test_a_number_of_classes_that_differs_from_the_names_is_said(tmp_path):
    data = open_dataset(one_image(tmp_path, ROW, "nc: 3\nnames: [car]\ntrain: images\n"))
    assert codes(data) == ["class-count"]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")
def test_the_yolo_twin_of_real_voc_labels_has_the_same_boxes(tmp_path):
    """Its author took VOC's 1-based numbers as they are, so left and top differ by one."""
    twin = SHARED / "voc100" / "other-formats" / "yolo_format"
    for name in ("obj.data", "obj.names", "train.txt"):
        shutil.copyfile(twin / name, tmp_path / name)
    shutil.copytree(twin / "obj_train_data", tmp_path / "obj_train_data")
    for image in (SHARED / "voc100" / "JPEGImages").iterdir():
        shutil.copyfile(image, tmp_path / "obj_train_data" / image.name)
    data = open_dataset(tmp_path)
    assert data.findings == ()
    assert data.notes[0] == "yolo: 100 images, 273 boxes, 20 classes; splits train 100"
    found = {name.rpartition("/")[2]: sorted(rows) for name, rows in boxes(data, "train").items()}
    for name, things in boxes(open_dataset(SHARED / "voc100")).items():
        expected = sorted((cls, (b[0] + 1, b[1] + 1, b[2], b[3])) for cls, b in things)
        rows = found[name.rpartition("/")[2]]
        assert [cls for cls, _ in rows] == [cls for cls, _ in expected]
        for (_, got), (_, wanted) in zip(rows, expected, strict=True):
            assert got == pytest.approx(wanted, abs=1e-3)


def test_names_that_are_endless_when_written_out_are_refused_at_once_in_short_lines(tmp_path):
    anchors = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    for above, name in zip("abcdefgh", "bcdefghi"):
        anchors.append(f"{name}: &{name} [{', '.join([f'*{above}'] * 9)}]")
    yaml = "\n".join([*anchors, "names: [*i, *i, car]", "train: images"])
    began = time.monotonic()
    data = open_dataset(one_image(tmp_path, "2 0.5 0.5 0.5 0.5\n", yaml))
    assert time.monotonic() - began < 5
    assert codes(data) == ["bad-yaml"] * 2
    assert all(len(one.message) < 200 for one in data.findings)
    assert boxes(data, "train") == {"images/a.jpg": [("car", (10, 5, 30, 15))]}


def test_an_index_of_thousands_of_digits_is_no_class(tmp_path):
    yaml = f"train: images\nnames:\n  0: car\n  ? '{'1' * 5000}'\n  : cat\n"
    data = open_dataset(one_image(tmp_path, ROW, yaml))
    assert codes(data) == ["bad-yaml"]
    assert data.class_names == ("car",)
