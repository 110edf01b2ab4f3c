"""VIA's files of versions 1 to 3: shapes by hand, and which attribute is the class."""

import csv
import io
import json
import math

import pytest
from labelled_folders import boxes, codes, put

from detkit.data import open_dataset
from detkit.data.convert import convert

RECT = {"name": "rect", "x": 4, "y": 2, "width": 10, "height": 6}


def region(shape=RECT, **attributes):
    return {"shape_attributes": shape, "region_attributes": attributes}


def entry(name, *regions, **more):
    return {"filename": name, "size": 9, "regions": list(regions), "file_attributes": {}, **more}


def via(*entries):
    return json.dumps({f"{one['filename']}9": one for one in entries})


def project(*entries, **attributes):
    content = {"_via_settings": {}, "_via_img_metadata": json.loads(via(*entries))}
    return json.dumps({**content, "_via_attributes": {"region": attributes, "file": {}}})


def read(folder, text, name="via.json", images=("a.jpg",)):
    return open_dataset(put(folder, {**dict.fromkeys(images), name: text}))


def test_shapes_are_read_as_the_boxes_around_them(tmp_path):
    polygon = {"name": "polygon", "all_points_x": [1, 9, 5], "all_points_y": [2, 3, 8]}
    ellipse = {"name": "ellipse", "cx": 10, "cy": 10, "rx": 6, "ry": 2}
    shapes = [
        RECT,
        polygon,
        {"name": "circle", "cx": 10, "cy": 10, "r": 3.5},
        ellipse,
        {**ellipse, "theta": math.pi / 2},
    ]
    data = read(tmp_path, via(entry("a.jpg", *(region(one, kind="x") for one in shapes))))
    assert data.format == "via"
    found = [box for _, box in boxes(data)["a.jpg"]]
    assert found == [
        (4, 2, 14, 8),
        (1, 2, 9, 8),
        (6.5, 6.5, 13.5, 13.5),
        (4, 8, 16, 12),
        pytest.approx((8, 4, 12, 16)),
    ]
    assert "1 circle, 2 ellipses and 1 polygon are read as the boxes around them" in data.notes


def test_points_and_lines_are_named(tmp_path):
    point = {"name": "point", "cx": 3, "cy": 4}
    line = {"name": "polyline", "all_points_x": [1, 9], "all_points_y": [2, 3]}
    text = via(entry("a.jpg", region(point, c="eye"), region(line, c="wire"), region(c="car")))
    data = read(tmp_path, text)
    assert [(one.code, one.object_number, one.class_name) for one in data.findings] == [
        ("no-extent", 1, "eye"),
        ("no-extent", 2, "wire"),
    ]
    assert "cx=3 cy=4" in data.findings[0].message


def test_version_1_has_regions_by_number_and_a_hash_before_its_first_column(tmp_path):
    old = entry("a.jpg", fileref="", base64_img_data="")
    old["regions"] = {"0": region(kind="car"), "1": region({**RECT, "x": 5}, kind="bus")}
    expected = {"a.jpg": [("car", (4, 2, 14, 8)), ("bus", (5, 2, 15, 8))], "b.jpg": []}
    images = ("a.jpg", "b.jpg")
    assert boxes(read(tmp_path / "j", via(old, entry("b.jpg")), images=images)) == expected
    head = "#filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,"
    rows = [
        [
            "a.jpg",
            9,
            "{}",
            2,
            n,
            json.dumps(one["shape_attributes"]),
            json.dumps(one["region_attributes"]),
        ]
        for n, one in enumerate(old["regions"].values())
    ]
    rows.append(["b.jpg", 9, "{}", 0, 0, "{}", "{}"])
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    for first in (head, head[1:]):
        data = read(tmp_path / "c", f"{first}region_attributes\n{text.getvalue()}", "x.csv", images)
        assert data.format == "via"
        assert boxes(data) == expected
        assert [one.line for one in data.splits["all"][0].objects] == [2, 3]


@pytest.mark.parametrize(
    ("attributes", "name"),
    [
        ({"kind": "car"}, "car"),
        ({"kind": {"car": True, "bus": False}}, "car"),
        ({"colour": "red", "class": "car"}, "car"),
        ({"zone": "a", "Type": "car", "difficult": "1"}, "car"),
        ({"kind": " car\n"}, "car"),
        ({"kind": 3}, "3"),
    ],
)
def test_the_class_is_the_attribute_that_is_called_so_or_the_only_one(tmp_path, attributes, name):
    data = read(tmp_path, via(entry("a.jpg", region(**attributes))))
    assert [one for one, _ in boxes(data)["a.jpg"]] == [name]


def test_of_several_attributes_the_one_that_is_read_is_said_and_a_region_without_it_is_an_error(
    tmp_path,
):
    text = via(entry("a.jpg", region(part="wing", side="l"), region(part="leg"), region(side="r")))
    data = read(tmp_path, text)
    assert 'the class is the regions\' attribute "part" (not read: side)' in data.notes
    assert [one for one, _ in boxes(data)["a.jpg"]] == ["wing", "leg"]
    assert [(one.code, one.object_number) for one in data.findings] == [("no-class", 3)]


def test_regions_of_which_none_has_an_attribute_are_all_of_one_class_and_it_is_said(tmp_path):
    data = read(tmp_path, via(entry("a.jpg", region(), region({**RECT, "x": 6}))))
    assert [name for name, _ in boxes(data)["a.jpg"]] == ["object", "object"]
    assert [(one.code, one.severity) for one in data.findings] == [("no-class", "warning")]


def test_the_classes_of_a_project_are_its_options_in_their_order_by_id(tmp_path):
    options = {"zoo": "Zoo animal", "ant": "", "cat": ""}
    text = project(
        entry("a.jpg", region(kind="ant"), region(kind="zoo")),
        kind={"type": "dropdown", "options": options},
    )
    data = read(tmp_path, text)
    assert data.class_names == ("zoo", "ant", "cat")
    assert "classes by their ids, as regions have them (zoo: Zoo animal)" in data.notes


VERSION_3 = {
    "project": {"pid": "__VIA_PROJECT_ID__", "vid_list": ["1", "2"]},
    "config": {},
    "attribute": {
        "1": {"aname": "TEMPORAL", "type": 4, "options": {"default": "x"}},
        "2": {"aname": "kind", "type": 4, "options": {"0": "car", "1": "bus"}},
    },
    "file": {
        "1": {"fid": "1", "fname": "a.jpg", "type": 2, "loc": 1, "src": ""},
        "2": {"fid": "2", "fname": "b.jpg", "type": 2, "loc": 1, "src": ""},
    },
    "metadata": {
        "1_q": {"vid": "1", "flg": 0, "z": [], "xy": [2, 4, 2, 10, 6], "av": {"2": "1"}},
        "1_r": {"vid": "1", "flg": 0, "z": [], "xy": [7, 1, 2, 9, 3, 5, 8], "av": {"2": "0"}},
        "1_s": {"vid": "1", "flg": 0, "z": [], "xy": [3, 10, 10, 3], "av": {"2": "0"}},
        "1_t": {"vid": "1", "flg": 0, "z": [], "xy": [1, 3, 4], "av": {"2": "0"}},
        "1_u": {"vid": "1", "flg": 0, "z": [], "xy": [], "av": {"2": "0"}},
    },
    "view": {"1": {"fid_list": ["1"]}, "2": {"fid_list": ["2"]}},
}


def test_a_project_of_version_3_is_read_with_its_options_by_text(tmp_path):
    data = read(tmp_path, json.dumps(VERSION_3), images=("a.jpg", "b.jpg"))
    assert boxes(data) == {
        "a.jpg": [("bus", (4, 2, 14, 8)), ("car", (1, 2, 9, 8)), ("car", (7, 7, 13, 13))],
        "b.jpg": [],
    }
    assert codes(data) == ["no-extent"]


def test_a_csv_of_version_3_is_read(tmp_path):
    rows = [
        ["1_a", '["a.jpg"]', 0, "[]", "[2,4,2,10,6]", '{"1":"car"}'],
        ["1_b", '["b.jpg"]', 0, "[]", "[]", "{}"],
    ]
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows(rows)
    head = "# Exported using VGG Image Annotator\n# CSV_HEADER = metadata_id,file_list,flags,"
    head += "temporal_coordinates,spatial_coordinates,metadata\n"
    data = read(tmp_path, head + text.getvalue(), "x.csv", ("a.jpg", "b.jpg"))
    assert boxes(data) == {"a.jpg": [("car", (4, 2, 14, 8))], "b.jpg": []}


def test_a_csv_and_a_json_of_one_project_repeat_each_other_and_that_is_said(tmp_path):
    head = ",".join(
        (
            "filename",
            "file_size",
            "file_attributes",
            "region_count",
            "region_id",
            "region_shape_attributes",
            "region_attributes",
        )
    )
    text = io.StringIO()
    csv.writer(text).writerow(["a.jpg", 9, "{}", 1, 0, json.dumps(RECT), '{"kind": "car"}'])
    put(tmp_path, {"x.csv": f"{head}\n{text.getvalue()}"})
    data = read(tmp_path, via(entry("a.jpg", region(kind="car"))))
    assert codes(data) == ["image-twice"]
    assert data.findings[0].severity == "warning"


def test_what_is_written_is_a_project_that_via_opens(tmp_path):
    data = read(tmp_path / "old", via(entry("a.jpg", region(kind="car"))))
    convert(data, tmp_path / "new", "via")
    written = json.loads((tmp_path / "new" / "images" / "via_project.json").read_text("utf-8"))
    # via.js, project_open_parse_json_file
    assert {"_via_settings", "_via_img_metadata", "_via_attributes"} <= set(written)
    (one,) = written["_via_img_metadata"].values()
    assert one["regions"] == [{"shape_attributes": RECT, "region_attributes": {"class": "car"}}]
    assert written["_via_attributes"]["region"]["class"]["options"] == {"car": ""}
