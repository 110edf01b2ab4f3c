"""The short ways by which large label files are read say what the careful ones say."""

import gc
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_folders import codes, put

from detkit.data import open_dataset
from detkit.data.checks.boxes import check_boxes
from detkit.data.formats import coco, coco_json, voc, voc_xml
from detkit.data.records import (
    ImageRecord,
    ObjectRecord,
    image_record,
    object_record,
    object_records,
)
from detkit.machine import paused_collector
from detkit.predictions.readers import read_predictions
from detkit.predictions.reference import Reference
from detkit.predictions.voc_columns import plain_detections

FILE = Path("a.xml")


def test_a_record_made_fast_is_the_frozen_record():
    values = ("cat", (1.0, 2.0, 3.0, 4.0), True, FILE, 3, 2, "x", True, 5.0, False, True, 0.5)
    for count in range(2, len(values) + 1):
        plain = ObjectRecord(*values[:count])
        rows = object_records(*([value] for value in values[:count]))
        for made in (object_record(*values[:count]), *rows):
            assert made == plain and type(made) is ObjectRecord and hash(made) == hash(plain)
            with pytest.raises(AttributeError):
                made.name = "dog"


def test_a_record_of_an_image_made_fast_is_the_frozen_one():
    values = ("a.jpg", FILE, (object_record("cat", (1.0, 2.0, 3.0, 4.0)),), 9, 8, FILE, "7")
    for count in range(2, len(values) + 1):
        made, plain = image_record(*values[:count]), ImageRecord(*values[:count])
        assert made == plain and type(made) is ImageRecord and hash(made) == hash(plain)
        with pytest.raises(AttributeError):
            made.width = 1


def test_the_collector_is_as_it_was_after_a_pause_that_fails():
    assert gc.isenabled()
    with pytest.raises(ValueError), paused_collector():
        assert not gc.isenabled()
        raise ValueError
    assert gc.isenabled()


NUMBER = st.one_of(
    st.integers(-5, 700),
    st.floats(-5, 700),
    st.sampled_from([0, 1e301, float("nan"), float("inf"), 10**400, "3", None, True, [1]]),
)


@settings(max_examples=200, deadline=None)
@given(
    box=st.one_of(st.lists(NUMBER, min_size=3, max_size=5), NUMBER),
    more=st.fixed_dictionaries(
        {},
        optional={
            "id": st.sampled_from([5, "5", None, True]),
            "area": NUMBER,
            "iscrowd": st.sampled_from([0, 1, 2, "1", True, None, 0.5]),
            "segmentation": st.sampled_from([[], [[1, 2, 3, 4, 5, 6]], None, {"counts": "x"}]),
            "image_id": st.sampled_from([1, 2, 3, "1", True, None, []]),
            "category_id": st.sampled_from([7, 8, "7", True, None, {}]),
            "ignore": st.sampled_from([0, 1, "x"]),
            "score": st.sampled_from([0.5, "x"]),
        },
    ),
)
def test_a_plain_coco_annotation_is_read_as_a_careful_one(tmp_path_factory, box, more):
    annotation = {"id": 5, "image_id": 1, "category_id": 7, "bbox": box, **more}
    images = [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "../../b.jpg"}]
    content = {
        "images": images,
        "annotations": [annotation, {**annotation, "id": 6}],
        "categories": [{"id": 7, "name": "zebra"}],
    }
    root = put(tmp_path_factory.mktemp("c"), {"a.jpg": None, "x.json": json.dumps(content)})
    short = open_dataset(root / "x.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coco_json, "plain_annotation", None)
        careful = open_dataset(root / "x.json")
    assert short == careful


def test_what_looks_like_an_annotation_elsewhere_is_said_as_it_stands(tmp_path):
    row = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "segmentation": [9]}
    content = {"images": [row], "annotations": [row], "categories": [row]}
    root = put(tmp_path, {"a.jpg": None, "instances_x.json": json.dumps(content)})
    messages = [one.message for one in open_dataset(root).findings]
    assert any(one.startswith("image without id and file_name ({'bbox'") for one in messages)


OBJECT = (
    "<object>\n<name>cat</name><difficult>1</difficult>\n<bndbox><xmin>1</xmin><ymin>2</ymin>"
    "<xmax>3.5</xmax><ymax>4</ymax></bndbox></object>\n"
)
HEAD = "<filename>a.jpg</filename><size><width>9</width><height>8</height></size>\n"
START = '<?xml version="1.0" encoding="utf-8"?>\n'


@pytest.mark.parametrize(
    "change",
    [
        ("", ""),
        ("<name>cat</name>", "<name>\u00e4\U0001f600</name>"),
        ("<name>cat</name>", "<name>a&amp;b</name>"),
        ("<name>cat</name>", "<name>a<b/>c</name>"),
        ("<name>cat</name>", "<name>a</name><name>b</name>"),
        ("<name>cat</name>", "<part><object/><name>leg</name></part><name>cat</name>"),
        ("<name>cat</name>", "<part><name>leg</name><bndbox><xmin>7</xmin></bndbox></part>"),
        ("<name>cat</name>", "<name>cat</name><score>0.25</score>"),
        ("<name>cat</name>", "<name>cat</name><machine_made>1</machine_made>"),
        ("<name>cat</name>", ""),
        ("<name>cat</name>", "<!-- <object> --><name>cat</name>"),
        ("<name>cat</name>", "<?x <object> ?><name>cat</name>"),
        ("<name>cat</name>", "<name><![CDATA[<object>]]></name>"),
        ("<name>cat</name>", "<name>cat</nam>"),
        ("<name>cat</name>", "<name>\x01</name>"),
        ("<difficult>1</difficult>", ""),
        ("<difficult>1</difficult>", "<difficult>maybe</difficult>"),
        ("<difficult>1</difficult>", "<difficult/>"),
        ("<xmin>1</xmin>", "<xmin>nan</xmin>"),
        ("<xmin>1</xmin>", "<xmin>1e999</xmin>"),
        ("<xmin>1</xmin>", "<xmin>one</xmin>"),
        ("<xmin>1</xmin>", "<xmin> 1 </xmin>"),
        ("<xmin>1</xmin>", "<xmin></xmin>"),
        ("<xmin>1</xmin>", "<xmin>1</xmin><xmin>2</xmin>"),
        ("</object>", "<bndbox/></object>"),
        ("<filename>a.jpg", "<filename></filename><filename>a.jpg"),
        ("<filename>a.jpg</filename>", ""),
        ("<width>9", "<width>wide"),
        ("<size>", "<size><filename>b.jpg</filename>"),
        ("<annotation>", '<annotation verified="yes">'),
        ("annotation>", "annotations>"),
        ("\n", "\r\n"),
        ("\n", "\r"),
        ("utf-8", "latin-1"),
        ("utf-8", "utf-7"),
        ('<?xml version="1.0" encoding="utf-8"?>\n', "\n"),
        ("<annotation>", "<!DOCTYPE annotation [<!ENTITY a 'b'>]><annotation>"),
        ("</annotation>", ""),
        ("</annotation>", "</annotation><annotation></annotation>"),
    ],
    ids=str,
)
def test_a_plain_voc_file_is_read_as_a_careful_one(change):
    text = f"{START}<annotation>\n{HEAD}\n{OBJECT}\n<x/>{OBJECT}</annotation>"
    for data in (text.replace(*change).encode(), text.replace(*change, 1).encode("utf-16")):
        assert voc_xml.parse(data, FILE) == voc_xml._careful_annotation(data, FILE)


def test_usual_voc_files_take_the_short_way():
    data = f"{START}<annotation>\n{HEAD}\n{OBJECT}{OBJECT}</annotation>".encode()
    found = voc_xml._plain_annotation(data, FILE)
    assert found is not None
    assert [one.line for one in found.objects] == [5, 8]  # counted by hand


def test_plain_comp4_files_are_read_as_a_loop_reads_them(tmp_path):
    rng = np.random.default_rng(0)
    rows = {"cat": [], "dog": []}
    for name, own in rows.items():
        for _ in range(200):
            x1, y1 = rng.integers(1, 50, 2).tolist()
            x2, y2 = x1 + int(rng.integers(1, 40)), y1 + int(rng.integers(1, 40))
            own.append(
                (f"2008_{rng.integers(9):06d}", round(float(rng.random()), 6), x1, y1, x2, y2)
            )
        lines = "".join(" ".join(map(str, row)) + "\n" for row in own)
        (tmp_path / f"comp4_det_test_{name}.txt").write_text(lines)
    expected: dict[str, list] = {}
    for name, own in rows.items():
        for image, score, x1, y1, x2, y2 in own:
            expected.setdefault(image, []).append((name, score, x1 - 1, y1 - 1, x2, y2))
    found = read_predictions(tmp_path, class_names=["cat", "dog"])
    assert [one.image for one in found] == list(expected)
    for one in found:
        labels, scores, *sides = zip(*expected[one.image])
        assert one.labels == labels
        assert one.scores.tolist() == np.array(scores, np.float32).tolist()
        assert one.boxes.T.tolist() == [list(map(float, side)) for side in sides]


@pytest.mark.parametrize(
    "text",
    [
        "a 0.5 1 1 9 9\nb 0.5 1 1 9\nc 0.5 1 1 9 9 9\n",  # as many words as two rows of six
        "a  0.5 1 1 9\n",
        "# a 0.5 1 1 9\n",
        "a,0.5,1,1,9,9\n",
        "a 0.5 1 1 nan 9\n",
        "a 0.5 9 1 1 9\n",
        "a x 1 1 9 9\n",
        "a 0.5 0.1 0.1 0.5 0.5\n",
        "a\u00a0b 0.5 1 1 9 9\n",
        "\n",
    ],
)
def test_odd_comp4_rows_are_left_to_the_careful_reader(text):
    assert plain_detections([("cat", "a 0.5 1 1 9 9\n")], Reference()) is not None
    assert plain_detections([("cat", text)], Reference()) is None


def test_images_that_are_missing_stay_inside_a_folder_with_links(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.jpg").touch()
    names = ["gone.jpg", "out.jpg", "OUT.jpg", "far/x.jpg", "../set/in.jpg", "../../o.jpg", ".."]
    images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    content = {"images": images, "annotations": [], "categories": []}
    root = put(tmp_path / "set", {"a.jpg": None, "instances_x.json": json.dumps(content)})
    try:
        os.symlink(outside / "secret.jpg", root / "out.jpg")  # noqa: PTH211
        os.symlink(outside, root / "far")  # noqa: PTH211
    except OSError:
        pytest.skip("no links here")
    data = open_dataset(root / "instances_x.json")
    kept = [one.image_id for part in data.splits.values() for one in part]
    assert "gone.jpg" in kept and "out.jpg" not in kept and "far/x.jpg" not in kept
    for record in (one for part in data.splits.values() for one in part):
        assert record.path.resolve().is_relative_to(root.resolve())
    assert codes(data).count("path-outside") >= 4


SIDE = st.sampled_from(
    [0.0, -0.0, -1.0, -1.5, 1.0, 1.0000001, 9.0, 10.0, 11.0, 11.5, 1e308, -1e308]
)
ODD_SIDE = st.one_of(SIDE, st.sampled_from([float("nan"), float("inf"), -float("inf")]))


@settings(max_examples=300, deadline=None)
@given(
    boxes=st.lists(st.tuples(*[ODD_SIDE] * 4), max_size=4),
    sound=st.lists(st.tuples(*[st.sampled_from([0.0, 1.0, 2.0])] * 2), max_size=3),
    size=st.sampled_from([None, (10, 10), (10, 11)]),
    form=st.sampled_from([voc.FORMAT, coco.FORMAT]),
)
def test_boxes_that_are_soon_told_to_be_sound_are_so_one_by_one(boxes, sound, size, form):
    boxes = [*boxes[: len(boxes) // 2], *((x, y, x + 5, y + 5) for x, y in sound)]
    objects = tuple(ObjectRecord("cat", box) for box in boxes)
    record = ImageRecord("a.jpg", Path("a.jpg"), objects)
    short = [*check_boxes(record, size, form)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("detkit.data.checks.boxes._all_sound", lambda *_: False)
        assert [*check_boxes(record, size, form)] == short
