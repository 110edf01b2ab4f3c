import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_folders import SHARED, boxes, codes, ids, put, sizes

from detkit.data import open_dataset
from detkit.data.checks.check import check
from detkit.data.formats.reading import format_of
from detkit.errors import DetkitError

CATEGORIES = [{"id": 7, "name": "zebra"}, {"id": 2, "name": "ant"}]
IMAGE = {"id": 1, "file_name": "a.jpg", "width": 40, "height": 20}


def coco(images=(IMAGE,), annotations=(), categories=CATEGORIES):
    parts = {"images": images, "annotations": annotations, "categories": categories}
    return json.dumps({key: list(value) for key, value in parts.items()})


def box(*values, image=1, category=7, **more):
    return {"id": 5, "image_id": image, "category_id": category, "bbox": list(values), **more}


def folder(root, **parts):
    return put(root, {"images/a.jpg": None, "annotations/instances_default.json": coco(**parts)})


def test_a_box_is_zero_based_x_y_width_height(tmp_path):
    data = open_dataset(folder(tmp_path, annotations=[box(0, 1, 10.5, 2), box(1, 2, 3, 4)]))
    assert boxes(data) == {"images/a.jpg": [("zebra", (0, 1, 10.5, 3)), ("zebra", (1, 2, 4, 6))]}
    first, second = data.splits["all"][0].objects
    assert (format_of(data).values(first), first.number) == ("bbox=[0, 1, 10.5, 2]", 1)
    assert (format_of(data).values(second), second.number) == ("bbox=[1, 2, 3, 4]", 2)
    record = data.splits["all"][0]
    assert (record.width, record.height, record.key) == (40, 20, "1")
    assert data.notes[0] == "coco: 1 image, 2 boxes, 2 classes; no splits"


def test_a_box_outside_its_image_is_told_in_the_numbers_of_the_file(tmp_path):
    data = open_dataset(folder(tmp_path, annotations=[box(30, 2.5, 12, 3), box(1, 2, 3, 4)]))
    (message,) = [one.message for one in check(data, read_images=False) if one.object_number]
    assert message.startswith("reaches out of the image, 40x20 (bbox=[30, 2.5, 12, 3]);")


def test_an_object_is_numbered_by_its_place_among_all_annotations_of_its_image(tmp_path):
    rows = [
        box(1, 1, 1, 1),
        box(2, 2, 2, 2, category=9),  # no such category
        box(3, 3, 3, 3, image=4),  # no such image
        box(4, 4, 4, "x"),  # no box
        box(5, 5, 5, 5, ignore=1),  # not read by the short way
        box(6, 6, 6, 6),
        box(7, 7, 7, 7, category=8),
        box(8, 8, 8, 8),
    ]
    data = open_dataset(folder(tmp_path, annotations=rows))
    objects = data.splits["all"][0].objects
    assert [(one.box[0], one.number) for one in objects] == [(1, 1), (5, 4), (6, 5), (8, 7)]
    refused = [(one.code, one.object_number) for one in data.findings]
    assert refused == [
        ("unknown-class", 2),
        ("unknown-image", None),
        ("bad-number", 3),
        ("unknown-class", 6),
    ]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(*[st.floats(-100, 5000)] * 4), max_size=4))
def test_any_numbers_come_back_as_corners(tmp_path_factory, rows):
    root = folder(tmp_path_factory.mktemp("c"), annotations=[box(*row) for row in rows])
    data = open_dataset(root)
    expected = [("zebra", (x, y, x + w, y + h)) for x, y, w, h in rows]
    assert boxes(data)["images/a.jpg"] == expected


def test_classes_are_in_the_order_of_their_ids(tmp_path):
    assert open_dataset(folder(tmp_path)).class_names == ("ant", "zebra")


@pytest.mark.parametrize(
    ("stated", "read"),
    [([10, 9, 1], [1, 9, 10]), (["b", "a"], ["a", "b"]), ([2, "a", 1], [2, "a", 1])],
)
def test_images_are_in_the_order_of_their_ids(tmp_path, stated, read):
    # pycocotools' order, which says what counts first among equal scores
    images = [{**IMAGE, "id": one, "file_name": f"{place}.jpg"} for place, one in enumerate(stated)]
    put(tmp_path, {f"images/{place}.jpg": None for place in range(len(stated))})
    data = open_dataset(folder(tmp_path, images=images))
    assert [one.key for one in data.splits["all"]] == [str(one) for one in read]


def test_a_category_that_only_groups_the_others_is_no_class(tmp_path):
    categories = [
        {"id": 0, "name": "beasts", "supercategory": "none"},
        {"id": 1, "name": "ant", "supercategory": "beasts"},
        {"id": 2, "name": "bee", "supercategory": "beasts"},
    ]
    data = open_dataset(folder(tmp_path, categories=categories))
    assert data.class_names == ("ant", "bee")
    assert any("beasts" in note for note in data.notes)
    used = folder(tmp_path, categories=categories, annotations=[box(1, 1, 2, 2, category=0)])
    assert open_dataset(used).class_names == ("beasts", "ant", "bee")


@pytest.mark.parametrize("flag", ["iscrowd", "ignore", "difficult"])
def test_crowds_are_crowds_and_ignored_objects_difficult(tmp_path, flag):
    rows = [box(1, 1, 2, 2, **{flag: 1}), box(1, 1, 2, 2, **{flag: 0}), box(1, 1, 2, 2)]
    objects = open_dataset(folder(tmp_path, annotations=rows)).splits["all"][0].objects
    marked, none = [True, False, False], [False] * 3
    assert [one.crowd for one in objects] == (marked if flag == "iscrowd" else none)
    assert [one.difficult for one in objects] == (none if flag == "iscrowd" else marked)


def test_a_stated_area_is_read_and_what_is_no_area_is_warned_of(tmp_path):
    rows = [box(1, 1, 2, 2, area=area) for area in (3.5, 0, None, -1, "4", True)]
    data = open_dataset(folder(tmp_path, annotations=[*rows, box(1, 1, 2, 2)]))
    areas = [one.area for one in data.splits["all"][0].objects]
    assert areas == [3.5, 0.0, None, None, None, None, None]
    assert codes(data, "warning") == ["bad-number"] * 3
    assert codes(data, "error") == []
    assert "area -1 is no number of pixels; that of the box is read" in data.findings[0].message
    (truth,) = data.truths("all")
    assert truth.areas.tolist() == [3.5, 0.0, 4.0, 4.0, 4.0, 4.0, 4.0]


def test_the_tree_of_coco_itself_is_found(tmp_path):
    for split in ("train2017", "val2017"):
        put(tmp_path, {f"{split}/a.jpg": None, f"annotations/instances_{split}.json": coco()})
        put(tmp_path, {f"annotations/captions_{split}.json": coco(categories=[])})
    data = open_dataset(tmp_path)
    assert {name: ids(data, name) for name in data.splits} == {
        "train": ["train2017/a.jpg"],
        "val": ["val2017/a.jpg"],
    }
    assert data.findings == ()
    assert any("captions_train2017.json" in note for note in data.notes)


def test_one_json_in_each_split_folder_is_found(tmp_path):
    for split in ("train", "valid", "test"):
        put(tmp_path, {f"{split}/a.jpg": None, f"{split}/_annotations.coco.json": coco()})
    data = open_dataset(tmp_path)
    assert sizes(data) == {"train": 1, "val": 1, "test": 1}
    assert ids(data, "val") == ["valid/a.jpg"]
    assert data.findings == ()


@pytest.mark.parametrize("name", ["images/a.jpg", "./images/a.jpg", "images\\a.jpg", "a.JPG"])
def test_file_names_with_folders_and_other_letter_case_are_found(tmp_path, name):
    data = open_dataset(folder(tmp_path, images=[{**IMAGE, "file_name": name}]))
    assert ids(data, "all") == ["images/a.jpg"]
    assert data.findings == ()


@pytest.mark.parametrize("name", ["../../../etc/passwd", "/etc/passwd", "C:\\x\\b.jpg", "../../b"])
def test_a_file_name_that_leads_out_of_the_folder_is_an_error_and_not_used(tmp_path, name):
    images = [{**IMAGE, "file_name": name}]
    root = folder(tmp_path / "in", images=images, annotations=[box(1, 1, 2, 2)])
    data = open_dataset(root)
    assert codes(data, "error") == ["path-outside"]
    assert data.splits == {"all": ()}


def test_a_link_that_leads_out_of_the_folder_is_an_error_and_not_followed(tmp_path):
    put(tmp_path, {"secret/b.jpg": None})
    root = folder(tmp_path / "in", images=[IMAGE, {**IMAGE, "id": 2, "file_name": "link/b.jpg"}])
    try:
        (root / "images" / "link").symlink_to(tmp_path / "secret", target_is_directory=True)
        (root / "b.jpg").symlink_to(tmp_path / "secret" / "b.jpg")
    except OSError:
        pytest.skip("no symbolic links here")
    data = open_dataset(root)
    assert ids(data, "all")[0] == "images/a.jpg"
    assert codes(data, "error").count("link-outside") == 2
    assert not any(one.path.exists() for one in data.splits["all"][1:])


def test_an_image_without_a_file_is_kept_for_the_check(tmp_path):
    images = [IMAGE, {**IMAGE, "id": 2, "file_name": "ghost.jpg"}]
    data = open_dataset(folder(tmp_path, images=images))
    assert ids(data, "all") == ["images/a.jpg", "images/ghost.jpg"]


def test_an_image_that_no_json_lists_is_said(tmp_path):
    root = put(folder(tmp_path), {"images/extra.jpg": None})
    data = open_dataset(root)
    assert codes(data) == ["unlisted-image"]
    assert "images/extra.jpg" in data.findings[0].message


@pytest.mark.parametrize(
    ("annotation", "code"),
    [
        ({"bbox": [1, 2, 3]}, "bad-number"),
        ({"bbox": [1, 2, 3, "4"]}, "bad-number"),
        ({"bbox": [1, 2, 3, True]}, "bad-number"),
        ({"bbox": [1, 2, 3, float("nan")]}, "bad-number"),
        ({"bbox": [1, 2, 3, float("inf")]}, "bad-number"),
        ({"bbox": [1, 2, 3, 10**400]}, "bad-number"),
        ({"bbox": None}, "bad-number"),
        ({"bbox": "x" * 10_000}, "bad-number"),
        ({"category_id": 99}, "unknown-class"),
        ({"category_id": [1]}, "unknown-class"),
        ({"image_id": 99}, "unknown-image"),
        ({"image_id": None}, "unknown-image"),
    ],
)
def test_a_bad_annotation_is_one_finding_and_the_others_stay(tmp_path, annotation, code):
    rows = [{**box(1, 1, 2, 2), **annotation}, box(3, 3, 4, 4)]
    data = open_dataset(folder(tmp_path, annotations=rows))
    assert codes(data) == [code]
    assert boxes(data)["images/a.jpg"] == [("zebra", (3, 3, 7, 7))]
    assert "annotation 5" in data.findings[0].message
    assert len(data.findings[0].message) < 200


def test_a_polygon_without_a_box_is_read_as_its_bounds_with_a_warning(tmp_path):
    row = {"id": 1, "image_id": 1, "category_id": 2, "segmentation": [[1, 2, 9, 3, 4, 8]]}
    data = open_dataset(folder(tmp_path, annotations=[row]))
    assert boxes(data)["images/a.jpg"] == [("ant", (1, 2, 9, 8))]
    assert codes(data, "warning") == ["polygon"]


@pytest.mark.parametrize(
    "order", list(itertools.permutations(["images", "categories", "annotations"]))
)
def test_a_large_file_of_any_name_is_found_whatever_the_order_of_its_keys(tmp_path, order):
    images = [{"id": index, "file_name": f"{index}.jpg"} for index in range(3000)]
    rows = [{"image_id": index, "category_id": 1, "bbox": [0, 0, 1, 1]} for index in range(3000)]
    content = {"images": images, "categories": [{"id": 1, "name": "a"}], "annotations": rows}
    put(tmp_path, {"result.json": json.dumps({key: content[key] for key in order})})
    assert (tmp_path / "result.json").stat().st_size > 1 << 17
    assert open_dataset(tmp_path).notes[0].startswith("coco: 3000 images, 3000 boxes, 1 class")


def test_outlines_beside_boxes_are_left_out_and_that_is_said(tmp_path):
    row = {"id": 1, "image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4]}
    polygon, crowd = {"segmentation": [[1, 2, 9, 3, 4, 8]]}, {"segmentation": {"counts": "a"}}
    rows = [{**row, **polygon}, {**row, **crowd, "id": 2}, {**row, "segmentation": [], "id": 3}]
    notes = open_dataset(folder(tmp_path, annotations=rows)).notes
    assert "2 objects with an outline: only box and area are read" in notes
    assert not any("outline" in note for note in open_dataset(folder(tmp_path)).notes)


def test_ids_given_twice_and_heads_without_them_are_errors(tmp_path):
    images = [IMAGE, {**IMAGE, "file_name": "b.jpg"}, {"id": 3}, "nonsense"]
    categories = [*CATEGORIES, {"id": 7, "name": "cat"}, {"name": "dog"}, 5]
    data = open_dataset(folder(tmp_path, images=images, categories=categories))
    assert codes(data) == ["bad-category"] * 2 + ["bad-image"] * 2 + ["duplicate-id"] * 2


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (coco()[:-5], "bad-json"),
        ("[" * 200_000, "bad-json"),
        ('{"images": 5, "annotations": [], "categories": []}', "bad-json"),
        ("[]", "bad-json"),
        (b"\xff\xfe\x00", "bad-json"),
        ('{"images": [{"id": ' + "9" * 6000 + "}]}", "bad-json"),
    ],
)
def test_a_broken_file_is_a_finding_beside_a_good_one(tmp_path, text, code):
    put(tmp_path, {"train/a.jpg": None, "train/_annotations.coco.json": coco()})
    put(tmp_path, {"valid/b.jpg": None, "valid/_annotations.coco.json": text})
    data = open_dataset(tmp_path)
    assert code in codes(data, "error")
    assert sizes(data) == {"train": 1}


@pytest.mark.parametrize(
    "width", [10**400, -(10**400), float("inf"), float("nan"), "40", [40]], ids=range(6)
)
def test_a_size_that_no_image_has_is_taken_as_not_stated(tmp_path, width):
    data = open_dataset(folder(tmp_path, images=[{**IMAGE, "width": width}]))
    assert [one.width for one in data.splits["all"]] == [None]
    assert {one.code for one in check(data)} <= {"empty-split"}


def test_a_byte_order_mark_is_accepted(tmp_path):
    data = b"\xef\xbb\xbf" + coco().encode()
    put(tmp_path, {"a.jpg": None, "labels.json": data})
    assert ids(open_dataset(tmp_path), "all") == ["a.jpg"]


def test_other_json_is_not_taken_for_labels(tmp_path):
    put(tmp_path, {"a.jpg": None, "package.json": '{"name": "x"}', "b.json": '{"images": []}'})
    with pytest.raises(DetkitError, match="no labelled folder"):
        open_dataset(tmp_path)


def test_one_file_of_several_is_read_alone_when_named(tmp_path):
    for split in ("train", "val"):
        put(tmp_path, {f"images/{split}.jpg": None})
        images = [{**IMAGE, "file_name": f"{split}.jpg"}]
        put(tmp_path, {f"annotations/instances_{split}.json": coco(images=images)})
    data = open_dataset(tmp_path / "annotations" / "instances_val.json")
    assert sizes(data) == {"val": 1}
    assert ids(data, "val") == ["images/val.jpg"]


def test_an_image_in_two_files_of_one_split_is_used_once_and_said(tmp_path):
    put(tmp_path, {"a.jpg": None, "one.json": coco(), "two.json": coco()})
    data = open_dataset(tmp_path)
    assert sizes(data) == {"all": 1}
    assert codes(data) == ["image-twice"]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")
@pytest.mark.parametrize("twin", ["coco_format_v1", "coco_format_v2"])
def test_the_coco_twin_of_real_voc_labels_has_the_same_boxes(twin):
    """Its author took VOC's 1-based numbers as they are, so left and top differ by one."""
    voc = open_dataset(SHARED / "voc100")
    data = open_dataset(SHARED / "voc100" / "other-formats" / twin)
    assert set(data.class_names) == set(voc.class_names)
    found = {name.rpartition("/")[2]: sorted(things) for name, things in boxes(data).items()}
    assert len(found) == 100
    for name, things in boxes(voc).items():
        expected = sorted((cls, (b[0] + 1, b[1] + 1, b[2], b[3])) for cls, b in things)
        assert found[name.rpartition("/")[2]] == expected
