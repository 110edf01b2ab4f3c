import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from labelled_folders import SHARED, boxes, codes, ids, put, sizes, xml

from detkit.data import open_dataset
from detkit.data.images import write_image
from detkit.data.paths import split_in_stem, split_name
from detkit.data.records import ImageRecord
from detkit.data.splits import cut, divide, training_splits
from detkit.errors import DetkitError, ExitCode, UsageError


def labelled(root, names, split=None, thing="car"):
    place = f"{split}/" if split else ""
    put(root, {f"{place}{name}.jpg": None for name in names})
    return put(root, {f"{place}{name}.xml": xml((thing, 1, 1, 9, 9)) for name in names})


def records(number):
    return tuple(ImageRecord(f"{index}.jpg", Path(f"{index}.jpg")) for index in range(number))


def test_a_path_that_is_not_there_is_one_line_naming_it(tmp_path):
    with pytest.raises(DetkitError, match="absent: no such folder"):
        open_dataset(tmp_path / "absent")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "no files"),
        ({"a.jpg": None, "b.JPG": None}, "there are images but no labels"),
        ({"a.jpg": None, "truth.mat": "x"}, "writetable"),
        ({"notes.txt": "hello", "a.jpg": None}, "1 .txt"),
        ({"cvat.xml": "<annotations/>", "a.jpg": None}, "1 .xml; export the labels as one of"),
        ({"images/a.jpg": None, "labels/train/a.txt": "0 .5 .5 .5 .5"}, "at the image's place un"),
        ({"labels.zip": "x", "a.jpg": None}, "unpack labels.zip first"),
        ({"a.csv": "ImageID,BBox\na,5\n", "a.jpg": None}, "a.csv has no column class, xmin"),
        ({"a.csv": "image,xmin,ymin,xmax,ymax\na,1,1,2,2\n"}, "a.csv has no column class"),
        ({"a.csv": "", "a.jpg": None}, "a.csv has no column filename, class, xmin, ymin, xmax"),
    ],
)
def test_a_folder_without_labels_says_what_was_looked_for_and_seen(tmp_path, files, said):
    with pytest.raises(DetkitError) as caught:
        open_dataset(put(tmp_path, files))
    message = str(caught.value)
    assert said in message
    assert all(word in message for word in ("Pascal VOC", "COCO", "YOLO", "CSV", "MATLAB"))
    assert "\n" not in message


def test_a_folder_whose_images_are_links_to_elsewhere_says_so(tmp_path):
    root = put(tmp_path / "in", {"labels/a.txt": "0 .5 .5 .5 .5\n", "images/README": ""})
    put(tmp_path, {"store/a.jpg": None})
    try:
        (root / "images" / "a.jpg").symlink_to(tmp_path / "store" / "a.jpg")
    except OSError:
        pytest.skip("no symbolic links here")
    with pytest.raises(DetkitError, match=r"images.a\.jpg: link leads out of the data folder"):
        open_dataset(root)


@pytest.mark.parametrize("name", ["images", "labels"])
def test_one_half_of_a_data_set_points_to_the_folder_above(tmp_path, name):
    put(tmp_path, {"images/a.jpg": None, "labels/a.txt": "0 .5 .5 .5 .5\n"})
    with pytest.raises(DetkitError, match="name the folder above it"):
        open_dataset(tmp_path / name)


def test_links_that_lead_to_themselves_are_left_out(tmp_path):
    labelled(tmp_path, "a")
    try:
        (tmp_path / "b.jpg").symlink_to("b.jpg")
        (tmp_path / "one").symlink_to("two")
        (tmp_path / "two").symlink_to("one")
    except OSError:
        pytest.skip("no symbolic links here")
    data = open_dataset(tmp_path)
    assert (ids(data, "all"), data.findings) == (["a.jpg"], ())


def test_a_folder_inside_that_cannot_be_read_is_an_error_naming_it(tmp_path, monkeypatch):
    labelled(tmp_path, "a")
    labelled(tmp_path, "b", split="locked")
    scandir = os.scandir

    def refusing(path):  # permissions do not stop root
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    (finding,) = open_dataset(tmp_path).findings
    assert (finding.severity, finding.code) == ("error", "unreadable-folder")
    assert finding.file == tmp_path / "locked"


def test_an_archive_in_place_of_a_folder_is_to_be_unpacked(tmp_path):
    put(tmp_path, {"data.zip": "PK"})
    with pytest.raises(DetkitError, match=r"data\.zip: not a label file .*; unpack it"):
        open_dataset(tmp_path / "data.zip")


def test_lists_names_and_labels_that_windows_wrote_as_utf_16_are_read(tmp_path):
    put(tmp_path / "yolo", {"images/a.jpg": None, "images/b.jpg": None})
    texts = {
        "classes.txt": "Größe\r\ncar\r\n",
        "labels/a.txt": "1 .5 .5 .5 .5\r\n",
        "train.txt": "images/a.jpg\r\n",
        "val.txt": "images/b.jpg\r\n",
    }
    put(tmp_path / "yolo", {name: text.encode("utf-16") for name, text in texts.items()})
    data = open_dataset(tmp_path / "yolo")
    assert data.class_names == ("Größe", "car")
    assert boxes(data, "train") == {"images/a.jpg": [("car", (10, 5, 30, 15))]}
    assert ids(data, "val") == ["images/b.jpg"]
    table = "filename,class,xmin,ymin,xmax,ymax\r\na.jpg,Größe,1,1,9,9\r\n"
    put(tmp_path / "csv", {"a.jpg": None, "labels.csv": table.encode("utf-16")})
    assert boxes(open_dataset(tmp_path / "csv")) == {"a.jpg": [("Größe", (0, 0, 9, 9))]}


def test_a_file_that_holds_no_labels_is_one_line_naming_it(tmp_path):
    put(tmp_path, {"a.csv": "x,y\n1,2\n", "a.txt": "", "a.jpg": None})
    with pytest.raises(DetkitError, match=r"a\.csv: no labels in it"):
        open_dataset(tmp_path / "a.csv")
    with pytest.raises(DetkitError, match=r"a\.txt: no labels in it"):
        open_dataset(tmp_path / "a.txt")


def test_xml_is_preferred_and_the_other_labels_are_named(tmp_path):
    labelled(tmp_path, "ab")
    put(tmp_path, {"labels.csv": "filename,class,xmin,ymin,xmax,ymax\na.jpg,cat,1,1,2,2\n"})
    put(tmp_path, {"coco.json": '{"images": [], "annotations": [], "categories": []}'})
    data = open_dataset(tmp_path)
    assert data.format == "voc"
    assert any("labels.csv" in note and "not read" in note for note in data.notes)
    assert any("coco.json" in note and "not read" in note for note in data.notes)
    assert open_dataset(tmp_path / "labels.csv").class_names == ("cat",)


@pytest.mark.parametrize(
    ("word", "split"),
    [
        ("train", "train"),
        ("Training", "train"),
        ("train2017", "train"),
        ("valid", "val"),
        ("validation", "val"),
        ("VAL", "val"),
        ("test_2012", "test"),
        ("trainval", "trainval"),
        ("contest", None),
        ("training set", None),
        ("2007", None),
    ],
)
def test_what_counts_as_the_name_of_a_split(word, split):
    assert split_name(word) == split


@pytest.mark.parametrize(
    ("stem", "split"),
    [("instances_train2017", "train"), ("test_labels", "test"), ("labels-valid.v2", "val")],
)
def test_a_split_is_found_in_a_files_stem(stem, split):
    assert split_in_stem(stem) == split
    assert split_in_stem(stem.replace(stem, "raccoon_labels")) is None


def test_classes_select_and_order_and_every_image_stays(tmp_path):
    labelled(tmp_path, "a", thing="car")
    labelled(tmp_path, "b", thing="cat")
    labelled(tmp_path, "c", thing="dog")
    data = open_dataset(tmp_path, classes=["dog", "car"])
    assert data.class_names == ("dog", "car")
    assert [len(things) for things in boxes(data).values()] == [1, 0, 1]
    assert any("1 box of other classes left out" in note for note in data.notes)
    assert data.truths("all")[2].labels.tolist() == [0]


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (["Cra"], "did you mean car"),
        (["CAR"], "did you mean car"),
        (["zebra"], "it has car"),
        (["car", "car"], "given twice"),
        ([], "at least one"),
    ],
)
def test_a_class_that_is_not_there_is_a_usage_error(tmp_path, classes, said):
    with pytest.raises(UsageError, match=said):
        open_dataset(labelled(tmp_path, "a"), classes=classes)


@given(st.integers(2, 60), st.floats(0.01, 0.99), st.integers(0, 5), st.randoms())
def test_a_cut_is_a_partition_of_the_asked_size_and_ignores_the_order(number, share, seed, random):
    images = records(number)
    kept, held = divide(images, share, seed)
    assert sorted(one.image_id for one in (*kept, *held)) == sorted(one.image_id for one in images)
    assert len(held) == min(max(round(number * share), 1), number - 1)
    shuffled = list(images)
    random.shuffle(shuffled)
    assert set(divide(tuple(shuffled), share, seed)[1]) == set(held)


def test_another_seed_cuts_other_images_and_a_new_image_moves_few():
    images = records(100)
    held = {one.image_id for one in divide(images, 0.2, 0)[1]}
    assert held != {one.image_id for one in divide(images, 0.2, 1)[1]}
    more = {one.image_id for one in divide(records(105), 0.2, 0)[1]}
    assert len(held & more) >= 16


def test_the_cut_is_the_same_in_another_process():
    code = (
        "from detkit.data.splits import divide\nfrom detkit.data.records import ImageRecord\n"
        "from pathlib import Path\n"
        "images = tuple(ImageRecord(f'{i}.jpg', Path(f'{i}.jpg')) for i in range(30))\n"
        "print([one.image_id for one in divide(images, .2, 3)[1]])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8")
    assert result.stdout.strip() == str([one.image_id for one in divide(records(30), 0.2, 3)[1]])


def test_without_a_split_a_fifth_is_kept_for_validation_and_said(tmp_path):
    labelled(tmp_path, "0123456789")
    for shade in range(10):  # else all are one group
        write_image(tmp_path / f"{shade}.jpg", np.full((20, 40, 3), 25 * shade, np.uint8))
    data = open_dataset(tmp_path)
    assert sizes(data) == {"all": 10}
    train, val, notes = training_splits(data, None, 0)
    assert (len(train), len(val)) == (8, 2)
    assert notes == ("no split in the folder: 20 % (2 images) kept for validation, seed 0",)
    again = cut(data, 0.2, 0)
    assert (again.splits["train"], again.splits["val"]) == (train, val)
    assert again.notes[-1] == notes[0]


def test_the_folders_own_validation_split_is_taken_and_test_is_never_touched(tmp_path):
    labelled(tmp_path, "abcde", "train")
    labelled(tmp_path, "xy", "test")
    data = open_dataset(tmp_path)
    train, val, notes = training_splits(data, None, 0)
    assert (len(train), len(val)) == (4, 1)
    assert {one.image_id for one in (*train, *val)} == {f"train/{name}.jpg" for name in "abcde"}
    assert "cut off train" in notes[0]
    labelled(tmp_path, "v", "valid")
    train, val, notes = training_splits(open_dataset(tmp_path), None, 0)
    assert [one.image_id for one in val] == ["valid/v.jpg"]
    assert (len(train), notes) == (5, ())


@pytest.mark.parametrize("val", ["test", "Testing"])
def test_val_may_name_a_split(tmp_path, val):
    labelled(tmp_path, "ab", "train")
    labelled(tmp_path, "xy", "test")
    train, chosen, _ = training_splits(open_dataset(tmp_path), val, 0)
    assert (len(train), [one.image_id for one in chosen]) == (2, ["test/x.jpg", "test/y.jpg"])


@pytest.mark.parametrize("val", [0.5, "0.5", ".5"])
def test_val_may_be_a_share(tmp_path, val):
    data = open_dataset(labelled(tmp_path, "abcd"), val=val, seed=1)
    assert sizes(data) == {"train": 2, "val": 2}
    assert "50 % (2 images) kept for validation, seed 1" in data.notes[-1]


def test_val_may_be_another_folder_whose_unknown_classes_are_said(tmp_path):
    labelled(tmp_path / "one", "ab")
    labelled(tmp_path / "two", "x")
    labelled(tmp_path / "two", "y", thing="yak")
    for val in (tmp_path / "two", str(tmp_path / "two")):
        data = open_dataset(tmp_path / "one", val=val)
        assert sizes(data) == {"train": 2, "val": 2}
        assert [len(things) for things in boxes(data, "val").values()] == [1, 0]
        assert any("yak" in note for note in data.notes)
        assert all(one.path.is_file() for one in data.splits["val"])


def test_val_may_be_the_training_images_when_that_is_asked_for(tmp_path):
    data = open_dataset(labelled(tmp_path, "ab", "train"))
    train, val, notes = training_splits(data, "train", 0)
    assert train == val
    assert "validating on the training images" in notes[0]


@pytest.mark.parametrize("val", ["tets", "1.5", 0, "0", 1.0, "nan"])
def test_a_val_that_means_nothing_is_a_usage_error(tmp_path, val):
    with pytest.raises(UsageError):
        training_splits(open_dataset(labelled(tmp_path, "abc")), val, 0)


def test_a_folder_for_val_that_is_not_there_is_bad_input(tmp_path):
    with pytest.raises(DetkitError, match="--val no/such/folder: neither") as caught:
        training_splits(open_dataset(labelled(tmp_path, "abc")), "no/such/folder", 0)
    assert caught.value.exit_code == ExitCode.BAD_INPUT


def test_one_image_is_trained_on_and_nothing_is_kept(tmp_path):
    train, val, notes = training_splits(open_dataset(labelled(tmp_path, "a")), None, 0)
    assert (len(train), val) == (1, ())
    assert notes == ("one image: nothing kept for validation",)


def test_images_of_the_validation_list_are_not_trained_on(tmp_path):
    for name in "abc":
        put(tmp_path, {f"JPEGImages/{name}.jpg": None, f"Annotations/{name}.xml": xml()})
    put(tmp_path, {"ImageSets/Main/trainval.txt": "a\nb\n", "ImageSets/Main/val.txt": "b\nc\n"})
    data = open_dataset(tmp_path)
    train, val, notes = training_splits(data, None, 0)
    assert [one.image_id for one in train] == ["JPEGImages/a.jpg"]
    assert [one.image_id for one in val] == ["JPEGImages/b.jpg", "JPEGImages/c.jpg"]
    assert "1 image of the validation split not trained on" in notes[0]


def test_images_beside_split_folders_are_said_and_not_used(tmp_path):
    labelled(tmp_path, "a")
    labelled(tmp_path, "b", "train")
    data = open_dataset(tmp_path)
    assert sizes(data) == {"train": 1}
    assert codes(data) == ["in-no-split"]


def test_a_folder_of_broken_labels_is_a_data_set_of_findings(tmp_path):
    put(tmp_path, {"a.jpg": None, "a.xml": "<annotation>"})
    data = open_dataset(tmp_path)
    assert codes(data, "error") == ["bad-xml"]
    assert ids(data, "all") == ["a.jpg"]


def test_folders_with_names_that_are_not_ascii_are_read(tmp_path):
    root = tmp_path / "données 图像"
    data = open_dataset(labelled(root, ["кот", "a b"]))
    assert ids(data, "all") == ["a b.jpg", "кот.jpg"]


def test_reading_labels_imports_neither_torch_nor_decoders(tmp_path):
    labelled(tmp_path, "a")
    code = (
        "import sys; from pathlib import Path; from detkit.data import open_dataset\n"
        f"open_dataset(Path({str(tmp_path)!r}))\n"
        "print(sorted({'torch', 'cv2', 'PIL', 'yaml', 'pycocotools'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8")
    assert result.stdout.strip() == "[]", result.stderr


def test_a_thousand_annotations_are_read_in_a_moment(tmp_path):
    text = xml(*[("car", 1, 1, 9, 9)] * 3)
    picture = b"\xff\xd8\xff"
    put(tmp_path, {f"images/{index}.jpg": picture for index in range(1000)})
    put(tmp_path, {f"annotations/{index}.xml": text for index in range(1000)})
    started = time.process_time()
    data = open_dataset(tmp_path)
    assert time.process_time() - started < 3  # about 0.4 s on an idle core
    assert data.notes[0] == "voc: 1000 images, 3000 boxes, 1 class; no splits"


@pytest.mark.parametrize("kind", ["yolo", "voc", "csv"])
def test_a_thousand_clips_whose_frames_have_one_name_are_read_in_a_moment(tmp_path, kind):
    clips = [f"clip{index}" for index in range(1500)]
    put(tmp_path, {f"images/{clip}/0001.jpg": b"\xff\xd8\xff" for clip in clips})
    if kind == "yolo":
        put(tmp_path, {f"labels/{clip}/0001.txt": "" for clip in clips})
    elif kind == "voc":
        put(tmp_path, {f"annotations/{clip}/0001.xml": xml() for clip in clips})
    else:
        rows = "".join(f"{clip}/0001.jpg,car,1,1,9,9\n" for clip in clips)
        put(tmp_path, {"labels.csv": f"filename,class,xmin,ymin,xmax,ymax\n{rows}"})
    started = time.process_time()
    data = open_dataset(tmp_path)
    assert time.process_time() - started < 3  # about 0.3 s; 10 s when each is held against all
    assert (data.format, sizes(data), data.findings) == (kind, {"all": 1500}, ())


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")
def test_reading_changes_nothing_in_the_folder():
    folder = SHARED / "raccoon"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    open_dataset(folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_images_of_kinds_that_are_not_looked_for_are_a_warning_unless_a_label_names_them(tmp_path):
    labelled(tmp_path, ["a"])
    put(tmp_path, {"b.psd": "", "c.jxl": "", "masks/d.gif": "", "notes.pdf": "", "e/f.MP4": ""})
    (finding,) = open_dataset(tmp_path).findings
    assert (finding.severity, finding.code) == ("warning", "unread-image")
    assert finding.message.startswith(
        "3 left out (the first: b.psd), of kinds that are not read here: 1 .jxl, 1 .mp4, 1 .psd; "
    )
    put(tmp_path, {"b.xml": xml(("car", 1, 1, 9, 9), filename="b.psd")})
    put(tmp_path, {"c.xml": xml(("car", 1, 1, 9, 9), filename="c.jxl")})
    data = open_dataset(tmp_path)
    assert ids(data, "all") == ["a.jpg", "b.psd", "c.jxl"]
    assert [one.message[:10] for one in data.findings] == ["1 left out"]


TABLE = "filename,class,xmin,ymin,xmax,ymax\na.jpg,{},1,1,9,9\n"
COCO = (
    '{{"images": [{{"id": 1, "file_name": "a.jpg"}}], "categories": [{{"id": 1, "name": "{}"}}], '
    '"annotations": [{{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9]}}]}}'
)


@pytest.mark.parametrize(
    ("first", "second", "text"),
    [
        ("a.csv", "b.csv", TABLE),
        ("a.json", "b.json", COCO),
        ("a.xml", "Annotations/a.xml", xml(("{}", 1, 1, 9, 9))),
    ],
)
def test_other_labels_of_an_image_in_a_second_file_are_an_error_and_the_same_ones_are_not(
    tmp_path, first, second, text
):
    put(tmp_path, {"a.jpg": None, first: text.format("car"), second: text.format("bus")})
    data = open_dataset(tmp_path)
    assert len(codes(data, "error")) == 1
    assert sum(map(len, boxes(data).values())) == 1
    put(tmp_path, {second: text.format("car")})
    assert codes(open_dataset(tmp_path), "error") == []


@pytest.mark.parametrize(("name", "text"), [("a.csv", TABLE), ("a.json", COCO)])
def test_a_folder_of_images_that_no_file_names_is_told_of(tmp_path, name, text):
    put(tmp_path, {"x/a.jpg": None, "y/b.jpg": None, name: text.format("car")})
    (finding,) = open_dataset(tmp_path).findings
    assert (finding.code, finding.file) == ("unlabelled-folder", tmp_path / "y")


def test_letter_case_tells_files_apart_where_both_are_there(tmp_path):
    put(tmp_path / "voc", {"a.png": None, "A.png": None})
    if len(list((tmp_path / "voc").iterdir())) < 2:
        pytest.skip("letter case does not tell files apart here")
    put(tmp_path / "voc", {"a.xml": xml(("car", 1, 1, 9, 9)), "A.xml": xml(("bus", 1, 1, 5, 5))})
    data = open_dataset(tmp_path / "voc")
    expected = {"A.png": [("bus", (0, 0, 5, 5))], "a.png": [("car", (0, 0, 9, 9))]}
    assert (data.findings, boxes(data)) == ((), expected)
    put(tmp_path / "yolo", {"a.png": None, "A.png": None, "classes.txt": "car\nbus\n"})
    put(tmp_path / "yolo", {"a.txt": "0 .5 .5 .5 .5\n", "A.txt": "1 .5 .5 .5 .5\n"})
    data = open_dataset(tmp_path / "yolo")
    assert data.findings == ()
    assert {image: one[0][0] for image, one in boxes(data).items()} == {
        "a.png": "car",
        "A.png": "bus",
    }
