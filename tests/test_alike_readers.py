"""What one reader once minded and its neighbour did not: marks, twins, groups, names."""

from __future__ import annotations

import json

import pytest
from labelled_folders import boxes, codes, ids, put, xml
from running import detkit

from detkit.data import open_dataset
from detkit.data.convert import convert
from detkit.data.formats.format import flag

ROW = "0 .3 .35 .4 .5\n"


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        *(
            (no, False)
            for no in (None, 0, 0.0, False, "", "0", " 0 ", "0.0", "false", "False", "no", "NO")
        ),
        *((yes, True) for yes in (1, 1.0, True, "1", "1.0", "true", "TRUE", "yes", "Yes ", "2")),
        *((odd, None) for odd in ("maybe", "nan", float("nan"), [], {}, [0], "yess")),
    ],
)
def test_a_mark_means_what_people_mean_by_it(value: object, meant: bool | None) -> None:
    assert flag(value) is meant


@pytest.mark.parametrize("key", ["iscrowd", "ignore", "difficult"])
@pytest.mark.parametrize(
    ("stated", "is_set"),
    [("0", False), ("False", False), ("no", False), ("1", True), ("yes", True)],
)
def test_cocos_marks_may_be_texts(tmp_path, key, stated, is_set):
    content = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 2, 16, 10], key: stated}
        ],
        "categories": [{"id": 1, "name": "car"}],
    }
    data = open_dataset(put(tmp_path, {"a.png": None, "coco.json": json.dumps(content)}))
    (one,) = data.splits["all"][0].objects
    assert (one.crowd if key == "iscrowd" else one.difficult) is is_set
    assert codes(data) == []


def categories(root, *pairs, used=()):
    content = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [
            {"id": place, "image_id": 1, "category_id": place, "bbox": [4, 2, 16, place]}
            for place, (name, _) in enumerate(pairs, 1)
            if name in used
        ],
        "categories": [
            {"id": place, "name": name, "supercategory": above}
            for place, (name, above) in enumerate(pairs, 1)
        ],
    }
    return open_dataset(put(root, {"a.png": None, "coco.json": json.dumps(content)}))


@pytest.mark.parametrize(
    ("pairs", "used", "classes"),
    [
        ([("boat", "boat"), ("kite", "kite")], ["kite"], ("boat", "kite")),
        ([("boat", " boat "), ("kite ", "kite")], ["kite "], ("boat", "kite")),
        ([("boat", "none"), ("kite", "none")], ["kite"], ("boat", "kite")),
        ([("things", "none"), ("boat", "things"), ("kite", "things")], ["kite"], ("boat", "kite")),
        ([("things", "things"), ("boat", "things")], ["boat"], ("boat",)),
        ([("things", "none"), ("boat", "things")], ["things"], ("things", "boat")),
    ],
)
def test_a_category_that_groups_no_other_stays_a_class(tmp_path, pairs, used, classes):
    data = categories(tmp_path / "old", *pairs, used=used)
    assert data.class_names == classes
    convert(data, tmp_path / "new", "yolo")
    assert open_dataset(tmp_path / "new").class_names == classes


@pytest.mark.parametrize(
    "files",
    [
        {"images/k.png": None, "images/k.jpg": None, "labels/k.txt": ROW},
        {"images/k.png": None, "images/k.jpg": None, "images/k.txt": ROW},
        {"train/images/k.png": None, "train/images/k.webp": None, "train/labels/k.txt": ROW},
        {"k.PNG": None, "k.jpg": None, "k.txt": ROW},
    ],
)
def test_two_images_of_one_text_are_an_error_of_both_and_neither_has_its_box(tmp_path, files):
    data = open_dataset(put(tmp_path / "old", {**files, "classes.txt": "kite\n"}))
    assert codes(data, "error") == ["ambiguous-image"] * 2
    assert all(not one.objects for part in data.splits.values() for one in part)
    put(tmp_path / "old", {"images/z.png": None, "images/z.txt": ROW})
    refused = detkit("convert", tmp_path / "old", tmp_path / "new", "--to", "coco", "-q")
    assert refused.returncode == 3
    assert "may belong to several images" in refused.stderr


def test_an_image_of_the_same_name_in_another_split_is_no_twin(tmp_path):
    files = {
        f"{split}/{place}": content
        for split in ("train", "valid")
        for place, content in (("images/k.png", None), ("labels/k.txt", ROW))
    }
    assert codes(open_dataset(put(tmp_path, files))) == ["no-names"]


ENCODED = [
    ("a b.png", "a%20b"),
    ("ä.png", "%C3%A4"),
    ("a+b#1.png", "a%2Bb%231"),
    ("50%.png", "50%25"),
]


@pytest.mark.parametrize("is_label", [True, False])
@pytest.mark.parametrize(("image", "stem"), ENCODED)
@pytest.mark.parametrize("kind", ["voc", "yolo", "coco", "csv"])
def test_a_percent_encoded_name_means_the_image_on_either_side(
    tmp_path, kind, image, stem, is_label
):
    label, name = (f"{stem}.png", image) if is_label else (image, f"{stem}.png")
    base = label.removesuffix(".png")
    content = {
        "images": [{"id": 1, "file_name": label}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 2, 16, 10]}],
        "categories": [{"id": 1, "name": "car"}],
    }
    labels = {
        "voc": {f"Annotations/{base}.xml": xml(("car", 5, 3, 20, 12), filename=label)},
        "yolo": {f"labels/{base}.txt": ROW, "data.yaml": "names: [car]\ntrain: images\n"},
        "coco": {"coco.json": json.dumps(content)},
        "csv": {"l.csv": f"filename,class,xmin,ymin,xmax,ymax\n{label},car,5,3,20,12\n"},
    }
    data = open_dataset(put(tmp_path, {f"images/{name}": None, **labels[kind]}))
    (split,) = data.splits
    assert ids(data, split) == [f"images/{name}"]
    assert boxes(data, split)[f"images/{name}"] == [("car", pytest.approx((4, 2, 20, 12)))]
    assert codes(data, "error") == []


def test_a_name_that_is_there_as_it_stands_is_not_decoded(tmp_path):
    text = "filename,class,xmin,ymin,xmax,ymax\na%20b.png,car,5,3,20,12\n"
    data = open_dataset(put(tmp_path, {"a%20b.png": None, "a b.png": (30, 30), "l.csv": text}))
    assert ids(data, "all") == ["a%20b.png"]


def test_no_encoded_path_leads_out_of_the_folder(tmp_path):
    put(tmp_path, {"b.png": None})
    text = "filename,class,xmin,ymin,xmax,ymax\n..%2Fb.png,car,5,3,20,12\n%00.png,car,5,3,20,12\n"
    data = open_dataset(put(tmp_path / "in", {"a.png": None, "l.csv": text}))
    assert all(not one.path.is_file() for part in data.splits.values() for one in part)


def test_a_list_of_yolos_may_be_encoded(tmp_path):
    files = {
        "images/a b.png": None,
        "labels/a b.txt": ROW,
        "my%20lists/train.txt": "images/a%20b.png\n",
        "data.yaml": "names: [car]\ntrain: my lists/train.txt\n",
    }
    put(tmp_path, {**files, "my lists/train.txt": files.pop("my%20lists/train.txt")})
    put(tmp_path, {"data.yaml": "names: [car]\ntrain: my%20lists/train.txt\n"})
    assert ids(open_dataset(tmp_path), "train") == ["images/a b.png"]
