import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_folders import SHARED, boxes, codes, ids, put, sizes, xml

from detkit.data import open_dataset
from detkit.data.formats.voc_xml import MAX_XML_BYTES, parse

numbers = st.one_of(
    st.integers(-10, 5000), st.floats(-10, 5000, allow_nan=False).map(lambda one: round(one, 3))
)


def parsed(text):
    return parse(text.encode(), Path("a.xml"))


def test_a_box_is_one_based_and_inclusive_in_the_file_and_half_open_here():
    found = parsed(xml(("car", 1, 1, 1, 1), ("car", 2, 3, 40, 20)))
    assert [one.box for one in found.objects] == [(0, 0, 1, 1), (1, 2, 40, 20)]
    assert (found.width, found.height) == (40, 20)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(numbers, numbers, numbers, numbers), max_size=5))
def test_any_numbers_come_back_less_one_on_the_left_and_top(rows):
    found = parsed(xml(*(("car", *row) for row in rows)))
    assert [one.box for one in found.objects] == [
        (float(a) - 1, float(b) - 1, float(c), float(d)) for a, b, c, d in rows
    ]
    assert found.findings == []


def test_every_object_carries_its_line_number_and_what_is_stated():
    text = (
        "<annotation>\n<object>\n<name>car</name>\n<bndbox><xmin>5</xmin><ymin>6</ymin>"
        "<xmax>7.5</xmax><ymax>8</ymax></bndbox></object>\n\n<object><name>cat</name>\n"
        "<bndbox><ymin>2</ymin><xmin>1</xmin><ymax>4</ymax><xmax>3</xmax></bndbox></object>\n"
        "</annotation>"
    )
    car, cat = parsed(text).objects
    assert (car.line, car.number, car.stated) == (2, 1, "xmin=5 ymin=6 xmax=7.5 ymax=8")
    assert (cat.line, cat.number, cat.box) == (6, 2, (0, 1, 3, 4))
    assert car.file == Path("a.xml")


def test_difficult_is_read_and_its_absence_is_zero():
    flags = ["", "<difficult>0</difficult>", "<difficult>1</difficult>", "<difficult/>"]
    flags += ["<difficult>true</difficult>", "<difficult> 1 </difficult>"]
    found = parsed(xml(*(("car", 1, 1, 2, 2, flag) for flag in flags)))
    assert [one.difficult for one in found.objects] == [False, False, True, False, True, True]
    odd = parsed(xml(("car", 1, 1, 2, 2, "<difficult>Unspecified</difficult>")))
    assert not odd.objects[0].difficult
    assert [one.code for one in odd.findings] == ["bad-number"]


def test_the_box_of_a_part_is_not_the_box_of_its_object():
    part = (
        "<part><name>head</name><bndbox><xmin>9</xmin><ymin>9</ymin><xmax>9</xmax>"
        "<ymax>9</ymax></bndbox></part>"
    )
    (person,) = parsed(xml(("person", 1, 2, 3, 4, part))).objects
    assert (person.name, person.box) == ("person", (0, 1, 3, 4))


@pytest.mark.parametrize(
    ("inside", "code"),
    [
        ("<name>car</name>", "no-box"),
        ("<bndbox><xmin>1</xmin></bndbox>", "no-class"),
        ("<name>car</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax></bndbox>", "no-box"),
        (
            "<name>car</name><bndbox><xmin>one</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax>"
            "</bndbox>",
            "bad-number",
        ),
        (
            "<name>car</name><bndbox><xmin>nan</xmin><ymin>1</ymin><xmax>inf</xmax><ymax>2</ymax>"
            "</bndbox>",
            "bad-number",
        ),
    ],
)
def test_a_bad_object_is_a_finding_with_its_line_and_the_others_stay(inside, code):
    good = xml(("cat", 1, 1, 2, 2))
    found = parsed(good.replace("<object>", f"<object>\n{inside}</object>\n<object>"))
    assert [(one.code, one.line, one.object_number) for one in found.findings] == [(code, 4, 1)]
    assert [(one.name, one.number) for one in found.objects] == [("cat", 2)]


BOMB = (
    '<!DOCTYPE lolz [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">'
    '<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]><annotation><filename>&c;</filename></annotation>'
)
THIEF = (
    '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
    "<annotation><filename>&a;</filename></annotation>"
)


@pytest.mark.parametrize("text", [BOMB, THIEF])
def test_entities_are_refused_as_a_finding(text):
    found = parsed(text)
    assert [one.code for one in found.findings] == ["unsafe-xml"]
    assert not found.objects


@pytest.mark.parametrize("text", ["", "<annotation>", "no xml", "<a></b>", "<a>\x00</a>"])
def test_broken_xml_is_a_finding_with_a_line(text):
    (finding,) = parsed(text).findings
    assert (finding.code, finding.severity) == ("bad-xml", "error")
    assert finding.line == 1


def test_files_that_are_too_large_or_oddly_encoded_do_not_crash():
    (finding,) = parse(b" " * (MAX_XML_BYTES + 1), Path("a.xml")).findings
    assert finding.code == "too-large"
    text = '<?xml version="1.0" encoding="klingon"?><annotation/>'
    assert [one.code for one in parsed(text).findings] == ["bad-xml"]
    text = '<?xml version="1.0" encoding="gbk"?><annotation/>'
    (finding,) = parsed(text).findings
    assert finding.message.endswith("save it as UTF-8")
    wide = xml(("кошка", 1, 1, 2, 2)).encode("utf-16")
    assert parse(wide, Path("a.xml")).objects[0].name == "кошка"


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 300))
def test_no_bytes_crash_the_parser(noise, place):
    text = xml(("car", 1, 1, 2, 2)).encode()
    parse(text[:place] + noise + text[place:], Path("a.xml"))
    parse(text[:place] + noise, Path("a.xml"))


def voc_tree(root, names, lists):
    files = {f"JPEGImages/{name}.jpg": None for name in names}
    files |= {f"Annotations/{name}.xml": xml(("car", 1, 1, 9, 9)) for name in names}
    files |= {f"ImageSets/Main/{name}.txt": text for name, text in lists.items()}
    return put(root, files)


def test_image_sets_make_the_splits_in_their_order_and_trainval_is_no_third_one(tmp_path):
    lists = {"train": "c\na\n", "val": "b\n", "trainval": "a\nb\nc\n", "test": "d\n"}
    lists |= {"car_train": "a  1\nc -1\n"}
    data = open_dataset(voc_tree(tmp_path, "abcd", lists))
    assert ids(data, "train") == ["JPEGImages/c.jpg", "JPEGImages/a.jpg"]
    assert sizes(data) == {"train": 2, "val": 1, "test": 1}
    assert data.notes[0] == "voc: 4 images, 4 boxes, 1 class; splits train 2, val 1, test 1"
    assert any("trainval (3 images) repeats train + val" in note for note in data.notes)


def test_a_single_list_called_default_is_no_split_and_beside_others_it_is(tmp_path):
    assert sizes(open_dataset(voc_tree(tmp_path / "1", "ab", {"default": "a\nb\n"}))) == {"all": 2}
    lists = {"default": "a\n", "train": "b\n"}
    assert sizes(open_dataset(voc_tree(tmp_path / "2", "ab", lists))) == {"train": 1, "default": 1}


def test_lists_of_one_class_are_no_splits_whatever_the_split_is_called(tmp_path):
    lists = {"default": "a\nb\n", "car_default": "a  1\nb -1\n", "red_car_default": "a -1\nb  1\n"}
    assert sizes(open_dataset(voc_tree(tmp_path / "1", "ab", lists))) == {"all": 2}
    lists = {"one": "a\n", "fold_one": "b\n"}  # images, not marks: a split of its own
    assert sizes(open_dataset(voc_tree(tmp_path / "2", "ab", lists))) == {"fold_one": 1, "one": 1}


@pytest.mark.parametrize("place", ["", "VOC/"])
def test_lists_called_like_splits_count_where_there_is_no_imagesets(tmp_path, place):
    root = voc_tree(tmp_path / place, "abc", {})
    put(root, {"train.txt": "a\nb.jpg\n", "val.txt": "JPEGImages/c.jpg\n"})
    put(root, {"test.txt": "tests passed\n", "notes.txt": "a\n", "yolo/test.txt": "a\n"})
    data = open_dataset(tmp_path)
    assert (sizes(data), data.findings) == ({"train": 2, "val": 1}, ())


def test_an_image_in_no_list_of_the_top_folder_is_said(tmp_path):
    (finding,) = open_dataset(put(voc_tree(tmp_path, "ab", {}), {"train.txt": "a\n"})).findings
    assert finding.message.startswith("1 image (first: JPEGImages/b.jpg) in no list of the top f")


@pytest.mark.parametrize("above", ["", "JPEGImages/", "/home/me/VOC/JPEGImages/"])
def test_a_folder_in_a_list_tells_images_of_one_name_apart(tmp_path, above):
    names = ["left/0", "right/0", "right/1"]
    lists = {"train": f"{above}left/0\n{above}right/1\n", "val": f"{above}right/0.jpg\n"}
    data = open_dataset(voc_tree(tmp_path, names, lists))
    assert ids(data, "train") == ["JPEGImages/left/0.jpg", "JPEGImages/right/1.jpg"]
    assert (ids(data, "val"), data.findings) == (["JPEGImages/right/0.jpg"], ())


def test_trainval_without_train_is_kept(tmp_path):
    data = open_dataset(voc_tree(tmp_path, "abc", {"trainval": "a\nb", "test": "c"}))
    assert sizes(data) == {"trainval": 2, "test": 1}


def test_images_in_no_list_are_said_and_not_used(tmp_path):
    data = open_dataset(voc_tree(tmp_path, "abcd", {"train": "a\nb"}))
    assert sizes(data) == {"train": 2}
    (finding,) = data.findings
    assert finding.code == "in-no-split"
    assert "2 images (first: JPEGImages/c.jpg)" in finding.message
    assert any("2 of 4 images are in no list" in note for note in data.notes)


def test_lists_take_suffixes_spaces_class_flags_and_blank_lines(tmp_path):
    names = ["a", "two words", "v1.5", "7 1"]
    lists = {"train": "a.jpg\n\n  two words  \r\nv1.5\n", "val": "7 1\n", "test": "a  1\n"}
    data = open_dataset(voc_tree(tmp_path, names, lists))
    assert ids(data, "train") == [f"JPEGImages/{name}.jpg" for name in names[:3]]
    assert ids(data, "val") == ["JPEGImages/7 1.jpg"]
    assert ids(data, "test") == ["JPEGImages/a.jpg"]


def test_a_listed_image_without_a_file_is_kept_for_the_check_and_twice_listed_is_said(tmp_path):
    data = open_dataset(voc_tree(tmp_path, "ab", {"train": "a\nb\nghost\nb\n"}))
    assert ids(data, "train")[-1] == "JPEGImages/ghost.jpg"
    ghost = data.splits["train"][-1]
    assert ghost.label_file is None
    assert not ghost.path.exists()
    assert [(one.code, one.line) for one in data.findings] == [("listed-twice", 4)]


def test_several_voc_years_under_one_roof_are_one_data_set(tmp_path):
    for year in ("VOC2007", "VOC2012"):
        voc_tree(tmp_path / year, ["000001", f"only{year}"], {"train": f"000001\nonly{year}\n"})
    data = open_dataset(tmp_path)
    assert sorted(ids(data, "train")) == [
        "VOC2007/JPEGImages/000001.jpg",
        "VOC2007/JPEGImages/onlyVOC2007.jpg",
        "VOC2012/JPEGImages/000001.jpg",
        "VOC2012/JPEGImages/onlyVOC2012.jpg",
    ]
    assert data.findings == ()


def test_segmentation_masks_are_neither_images_nor_rivals_of_the_photograph(tmp_path):
    root = voc_tree(tmp_path, "ab", {"train": "a\nb"})
    put(root, {"SegmentationClass/a.png": None, "SegmentationObject/b.png": None})
    data = open_dataset(root)
    assert ids(data, "train") == ["JPEGImages/a.jpg", "JPEGImages/b.jpg"]
    assert data.findings == ()


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("", ""),
        ("images", "annotations"),
        ("train/images", "train/annotations"),
        ("images/train", "annotations/train"),
        ("train", "train"),
        ("train", "train/xml"),
        ("images/train2017", "annotations/train2017"),
        ("dataset/JPEGImages", "dataset/Annotations"),
        ("photographs", "markings"),
    ],
)
def test_xml_is_found_beside_the_images_and_in_the_sibling_folder(tmp_path, images, labels):
    put(tmp_path, {f"{images}/a.JPG".lstrip("/"): None})
    put(tmp_path, {f"{labels}/a.xml".lstrip("/"): xml(("car", 1, 1, 2, 2))})
    data = open_dataset(tmp_path)
    (record,) = next(iter(data.splits.values()))
    assert record.image_id == f"{images}/a.JPG".lstrip("/")
    assert record.path.is_file()
    assert record.label_file == tmp_path / labels / "a.xml"
    assert list(data.splits) == (["train"] if "train" in images else ["all"])
    assert data.findings == ()


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Valid", "val2017"])
def test_split_folders_keep_images_of_the_same_name_apart(tmp_path, val):
    for split in ("train", val, "test"):
        put(tmp_path, {f"{split}/images/1.jpg": None, f"{split}/annotations/1.xml": xml()})
    data = open_dataset(tmp_path)
    assert sizes(data) == {"train": 1, "val": 1, "test": 1}
    assert ids(data, "val") == [f"{val}/images/1.jpg"]
    assert data.findings == ()


def test_the_label_of_one_split_is_never_matched_with_the_image_of_another(tmp_path):
    put(tmp_path, {"train/a.xml": xml(), "val/a.jpg": None, "val/b.jpg": None, "val/b.xml": xml()})
    data = open_dataset(tmp_path)
    assert ids(data, "train") == ["train/a.jpg"]
    assert not data.splits["train"][0].path.exists()
    assert [one.label_file is None for one in data.splits["val"]] == [True, False]


def test_an_image_without_label_file_differs_from_one_with_an_empty_one(tmp_path):
    data = open_dataset(put(tmp_path, {"a.jpg": None, "b.jpg": None, "a.xml": xml()}))
    empty, unlabelled = data.splits["all"]
    assert (empty.objects, unlabelled.objects) == ((), ())
    assert empty.label_file == tmp_path / "a.xml"
    assert unlabelled.label_file is None


def test_a_folder_of_images_without_any_label_is_said_and_not_used(tmp_path):
    put(tmp_path, {"train/a.jpg": None, "train/a.xml": xml(), "extra/x.jpg": None})
    data = open_dataset(tmp_path)
    assert sizes(data) == {"train": 1}
    assert codes(data) == ["unlabelled-folder"]


def test_filename_that_differs_is_said_and_the_image_of_the_same_stem_is_taken(tmp_path):
    put(tmp_path, {"a.png": None, "a.xml": xml(filename="renamed.jpg")})
    data = open_dataset(tmp_path)
    assert ids(data, "all") == ["a.png"]
    assert codes(data) == ["filename-differs"]
    assert "renamed.jpg" in data.findings[0].message


def test_filename_finds_the_image_where_the_stem_does_not(tmp_path):
    put(tmp_path, {"photo.jpg": None, "label_1.xml": xml(filename="photo.jpg")})
    data = open_dataset(tmp_path)
    assert ids(data, "all") == ["photo.jpg"]
    assert codes(data) == ["filename-differs"]


@pytest.mark.parametrize("name", ["a", "a.jpg", "C:\\pictures\\a.jpg", "/home/me/a.jpg", ""])
def test_filename_with_another_machines_folder_or_no_suffix_is_no_finding(tmp_path, name):
    data = open_dataset(put(tmp_path, {"a.jpg": None, "a.xml": xml(filename=name)}))
    assert data.findings == ()


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "..\\..\\secret.jpg"])
def test_filename_that_leads_out_of_the_folder_is_an_error(tmp_path, name):
    put(tmp_path, {"in/b.jpg": None, "in/b.xml": xml(), "in/a.xml": xml(filename=name)})
    data = open_dataset(tmp_path / "in")
    assert "path-outside" in codes(data, "error")
    root = (tmp_path / "in").resolve()
    assert all(one.path.resolve().is_relative_to(root) for one in data.splits["all"])


def test_linked_folders_outside_are_not_followed_by_any_name(tmp_path):
    put(tmp_path, {"secret/a.jpg": None})
    root = put(tmp_path / "in", {"Annotations/a.xml": xml(filename="a.jpg")})
    put(root, {"ImageSets/Main/train.txt": "a\nsecret/a\n../../secret/a\nb"})
    try:
        (root / "JPEGImages").symlink_to(tmp_path / "secret", target_is_directory=True)
    except OSError:
        pytest.skip("no symbolic links here")
    data = open_dataset(root)
    assert {"link-outside", "path-outside"} <= set(codes(data, "error"))
    for record in (one for part in data.splits.values() for one in part):
        assert record.path.resolve().is_relative_to(root.resolve())


def test_an_image_that_is_a_link_outside_is_not_blamed_on_its_plain_filename(tmp_path):
    put(tmp_path, {"secret/a.jpg": None})
    root = put(tmp_path / "in", {"Annotations/a.xml": xml(filename="a.jpg")})
    (root / "JPEGImages").mkdir()
    try:
        (root / "JPEGImages" / "a.jpg").symlink_to(tmp_path / "secret" / "a.jpg")
    except OSError:
        pytest.skip("no symbolic links here")
    (of_label,) = (one for one in open_dataset(root).findings if one.code == "path-outside")
    assert of_label.message == (
        "<filename>a.jpg</filename> leads out of the data folder; a link there is not followed"
    )


def test_links_inside_the_folder_are_followed_and_circles_end(tmp_path):
    put(tmp_path, {"store/a.jpg": None, "Annotations/a.xml": xml()})
    try:
        (tmp_path / "JPEGImages").mkdir()
        (tmp_path / "JPEGImages" / "a.jpg").symlink_to(tmp_path / "store" / "a.jpg")
        (tmp_path / "round").symlink_to(tmp_path, target_is_directory=True)
    except OSError:
        pytest.skip("no symbolic links here")
    assert "JPEGImages/a.jpg" in ids(open_dataset(tmp_path), "all")


def test_two_images_of_one_stem_are_told_apart_by_filename_or_are_an_error(tmp_path):
    put(tmp_path, {"a.jpg": None, "a.png": None, "a.xml": xml(filename="a.png")})
    named = {one.image_id: one.label_file for one in open_dataset(tmp_path).splits["all"]}
    assert named == {"a.jpg": None, "a.png": tmp_path / "a.xml"}
    put(tmp_path, {"a.xml": xml(filename="a.gif")})
    assert "ambiguous-image" in codes(open_dataset(tmp_path), "error")


def test_a_second_label_file_for_one_image_is_said(tmp_path):
    put(tmp_path, {"images/a.jpg": None, "annotations/a.xml": xml(("car", 1, 1, 2, 2))})
    put(tmp_path, {"a_backup/a.xml": xml(("cat", 1, 1, 2, 2))})
    data = open_dataset(tmp_path)
    assert boxes(data)["images/a.jpg"] == [("car", (0, 0, 2, 2))]
    assert codes(data) == ["two-labels"]


def test_broken_and_unsafe_files_name_their_image_and_the_rest_is_read(tmp_path):
    put(tmp_path, {f"{name}.jpg": None for name in "abc"})
    put(tmp_path, {"a.xml": xml(("car", 1, 1, 2, 2)), "b.xml": "<annotation>", "c.xml": BOMB})
    data = open_dataset(tmp_path)
    found = {(one.code, one.image_id) for one in data.findings}
    assert found == {("bad-xml", "b.jpg"), ("unsafe-xml", "c.jpg")}
    assert len(boxes(data)["a.jpg"]) == 1


def test_other_xml_in_the_folder_is_said_and_left_alone(tmp_path):
    put(tmp_path, {"a.jpg": None, "a.xml": xml(), "cvat.xml": "<annotations/>"})
    data = open_dataset(tmp_path)
    assert codes(data) == ["not-voc"]
    assert ids(data, "all") == ["a.jpg"]


def test_classes_are_sorted_or_in_the_order_of_a_names_file_that_has_them(tmp_path):
    text = xml(("zebra", 1, 1, 2, 2), ("ant", 1, 1, 2, 2))
    put(tmp_path, {"a.jpg": None, "a.xml": text})
    assert open_dataset(tmp_path).class_names == ("ant", "zebra")
    put(tmp_path, {"classes.txt": "dog\n"})
    assert open_dataset(tmp_path).class_names == ("ant", "zebra")
    put(tmp_path, {"classes.txt": "zebra\ncow\nant\n"})
    assert open_dataset(tmp_path).class_names == ("zebra", "cow", "ant")


def test_names_match_across_letter_case_and_unicode_form(tmp_path):
    decomposed, composed = "e\u0301te\u0301", "\u00e9t\u00e9"
    put(tmp_path, {f"images/{decomposed}.JPG": None, f"annotations/{composed}.xml": xml()})
    data = open_dataset(tmp_path)
    (record,) = data.splits["all"]
    assert record.path.is_file()
    assert record.label_file is not None


def test_apple_double_and_hidden_files_are_no_labels(tmp_path):
    put(tmp_path, {"a.jpg": None, "a.xml": xml(), "._a.xml": "\0", "__MACOSX/a.xml": "\0"})
    put(tmp_path, {".idea/workspace.xml": "<project/>"})
    assert open_dataset(tmp_path).findings == ()


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")
@pytest.mark.parametrize(
    ("name", "images", "objects", "classes", "difficult"),
    [("bccd", 364, 4888, 3, 0), ("raccoon", 200, 217, 1, 0), ("voc100", 100, 273, 20, 38)],
)
def test_real_folders_give_their_documented_counts(name, images, objects, classes, difficult):
    started = time.perf_counter()
    data = open_dataset(SHARED / name)
    seconds = time.perf_counter() - started
    records = [one for part in data.splits.values() for one in part]
    things = [thing for one in records for thing in one.objects]
    assert (len(records), len(things), len(data.class_names)) == (images, objects, classes)
    assert sum(thing.difficult for thing in things) == difficult
    assert data.findings == ()
    assert all(one.path.is_file() for one in records)
    assert seconds < 5
    if name == "bccd":
        assert sizes(data) == {"train": 205, "val": 87, "test": 72}
        points = [one for one in things if one.box[2] - one.box[0] == 1]  # xmin = xmax there
        assert {one.file.stem for one in points} == {"BloodImage_00338", "BloodImage_00343"}
    if name == "raccoon":
        assert any("data/raccoon_labels.csv" in note for note in data.notes)


def test_an_object_with_two_boxes_is_an_error_and_neither_is_taken(tmp_path):
    text = xml(("car", 1, 1, 9, 9), ("bus", 1, 1, 5, 5)).replace(
        "</bndbox>", "</bndbox><bndbox><xmin>2</xmin></bndbox>", 1
    )
    data = open_dataset(put(tmp_path, {"a.jpg": None, "a.xml": text}))
    assert [(one.code, one.object_number) for one in data.findings] == [("two-boxes", 1)]
    assert boxes(data) == {"a.jpg": [("bus", (0, 0, 5, 5))]}
