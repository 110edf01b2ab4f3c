"""VoTT's files: exports and assets of version 2, and version 1, whose pixels are a view's."""

import json

from labelled_folders import boxes, codes, ids, put

from detkit.data import open_dataset
from detkit.data.convert import convert


def region(*tags, left=4, top=2, width=10, height=6, **more):
    box = {"left": left, "top": top, "width": width, "height": height}
    return {"id": "r", "type": "RECTANGLE", "tags": list(tags), "boundingBox": box, **more}


def asset(name, *regions, state=2, path=None):
    head = {"id": name, "name": name, "path": path or name, "state": state, "type": 1}
    head["size"] = {"width": 40, "height": 20}
    return {"asset": head, "regions": list(regions), "version": "2.2.0"}


def export(*assets, tags=("car", "bus")):
    listed = [{"name": one, "color": "#808000"} for one in tags]
    held = {one["asset"]["id"]: one for one in assets}
    return json.dumps({"name": "p", "version": "2.2.0", "tags": listed, "assets": held})


def test_an_export_is_read_and_a_region_of_two_tags_is_two_objects(tmp_path):
    text = export(asset("a.jpg", region("car", "bus")), asset("b.jpg", state=1))
    data = open_dataset(put(tmp_path, {"a.jpg": None, "b.jpg": None, "p-export.json": text}))
    assert data.format == "vott"
    assert data.class_names == ("car", "bus")
    assert boxes(data) == {
        "a.jpg": [("car", (4, 2, 14, 8)), ("bus", (4, 2, 14, 8))],
        "b.jpg": [],
    }
    assert codes(data) == []


def test_polygons_are_read_as_the_boxes_around_them_and_points_are_named(tmp_path):
    points = [{"x": 1, "y": 2}, {"x": 9, "y": 3}, {"x": 5, "y": 8}]
    polygon = {"type": "POLYGON", "tags": ["car"], "points": points}
    point = {**region("bus", width=0, height=0), "type": "POINT"}
    text = export(asset("a.jpg", polygon, point))
    data = open_dataset(put(tmp_path, {"a.jpg": None, "p-export.json": text}))
    assert boxes(data) == {"a.jpg": [("car", (1, 2, 9, 8))]}
    assert codes(data) == ["no-extent"]


def test_images_that_nobody_has_looked_at_are_left_out_aloud(tmp_path):
    text = export(asset("a.jpg", region("car")), asset("b.jpg", state=0))
    data = open_dataset(put(tmp_path, {"a.jpg": None, "b.jpg": None, "p-export.json": text}))
    assert ids(data, "all") == ["a.jpg"]
    assert codes(data) == ["unlabelled-task"]


def test_paths_of_other_machines_and_percent_encoded_names_are_found(tmp_path):
    one = asset("a%20b.jpg", region("car"), path="file:C:/Users/me/day%201/a%20b.jpg")
    data = open_dataset(put(tmp_path, {"a b.jpg": None, "p-export.json": export(one)}))
    assert ids(data, "all") == ["a b.jpg"]


def test_the_files_of_assets_are_read_where_there_is_no_export(tmp_path):
    text = json.dumps(asset("a.jpg", region("car")))
    data = open_dataset(put(tmp_path, {"a.jpg": None, "0f-asset.json": text}))
    assert boxes(data) == {"a.jpg": [("car", (4, 2, 14, 8))]}
    put(tmp_path, {"p-export.json": export(asset("a.jpg", region("bus")))})
    data = open_dataset(tmp_path)
    assert boxes(data) == {"a.jpg": [("bus", (4, 2, 14, 8))]}
    assert codes(data) == []


def test_boxes_of_version_1_are_scaled_from_the_view_to_the_image(tmp_path):
    one = {"x1": 10, "y1": 5, "x2": 60, "y2": 40, "width": 80, "height": 40, "tags": ["car"]}
    content = {"frames": {"a.jpg": [one]}, "framerate": "1", "inputTags": "bus, car"}
    text = json.dumps({**content, "visitedFrames": ["a.jpg", "b.jpg"]})
    data = open_dataset(put(tmp_path, {"a.jpg": None, "b.jpg": None, "photos.json": text}))
    assert data.class_names == ("bus", "car")
    assert boxes(data) == {"a.jpg": [("car", (5, 2.5, 30, 20))], "b.jpg": []}


def test_a_region_without_a_tag_is_an_error_and_one_of_an_unlisted_tag_a_warning(tmp_path):
    text = export(asset("a.jpg", region(), region("Car")))
    data = open_dataset(put(tmp_path, {"a.jpg": None, "p-export.json": text}))
    assert [(one.code, one.object_number) for one in data.findings] == [
        ("no-class", 1),
        ("unknown-class", 2),
    ]


def test_what_is_written_is_an_export_of_version_2(tmp_path):
    text = export(asset("a.jpg", region("car")), tags=("car",))
    data = open_dataset(put(tmp_path / "old", {"a.jpg": None, "p-export.json": text}))
    convert(data, tmp_path / "new", "vott")
    written = json.loads((tmp_path / "new" / "images" / "vott-export.json").read_text("utf-8"))
    assert [one["name"] for one in written["tags"]] == ["car"]
    (one,) = written["assets"].values()
    assert one["asset"]["size"] == {"width": 40, "height": 20}
    assert one["regions"][0]["boundingBox"] == {"left": 4, "top": 2, "width": 10, "height": 6}
    assert one["regions"][0]["points"][2] == {"x": 14, "y": 8}


def test_the_table_of_vott_counts_pixels_from_0_and_it_is_said(tmp_path):
    text = '"image","xmin","ymin","xmax","ymax","label"\n"a.jpg",4.5,2,14,8,"car"\n'
    data = open_dataset(put(tmp_path, {"a.jpg": None, "p-export.csv": text}))
    assert boxes(data) == {"a.jpg": [("car", (4.5, 2, 14, 8))]}
    assert any("whose pixels count from 0" in note for note in data.notes)
    other = text.replace('"image"', '"filename"')
    data = open_dataset(put(tmp_path, {"p-export.csv": other}))
    assert boxes(data) == {"a.jpg": [("car", (3.5, 1, 14, 8))]}
