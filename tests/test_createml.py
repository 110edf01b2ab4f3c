"""Create ML's files: centres, both spellings of the keys, splits by folder."""

import json

from labelled_folders import boxes, codes, put, sizes

from detkit.data import open_dataset
from detkit.data.checks.check import check
from detkit.data.convert import convert


def thing(label, x, y, width, height):
    return {"label": label, "coordinates": {"x": x, "y": y, "width": width, "height": height}}


def createml(name, *things):
    return {"image": name, "annotations": list(things)}


def test_x_and_y_are_the_centre_of_a_box(tmp_path):
    text = json.dumps([createml("a.jpg", thing("car", 10, 8.5, 4, 3)), createml("b.jpg")])
    data = open_dataset(put(tmp_path, {"a.jpg": None, "b.jpg": None, "x.json": text}))
    assert data.format == "createml"
    assert boxes(data) == {"a.jpg": [("car", (8, 7, 12, 10))], "b.jpg": []}
    assert codes(data) == []


def test_both_spellings_of_the_keys_are_read(tmp_path):
    other = {"imagefilename": "a.jpg", "annotation": [thing("car", 10, 8.5, 4, 3)]}
    data = open_dataset(put(tmp_path, {"a.jpg": None, "x.json": json.dumps([other])}))
    assert boxes(data) == {"a.jpg": [("car", (8, 7, 12, 10))]}


def test_files_in_folders_of_splits_and_one_file_an_image_are_read_together(tmp_path):
    name = "_annotations.createml.json"
    one, two = (json.dumps([createml("a.jpg", thing("car", 10, 8, 4, 2 * n))]) for n in (1, 2))
    put(tmp_path / "s", {"train/a.jpg": None, f"train/{name}": one})
    put(tmp_path / "s", {"valid/a.jpg": (9, 50), f"valid/{name}": two})
    data = open_dataset(tmp_path / "s")
    assert sizes(data) == {"train": 1, "val": 1}
    assert boxes(data, "val") == {"valid/a.jpg": [("car", (8, 6, 12, 10))]}
    put(tmp_path / "i", {"a.jpg": None, "b.jpg": None, "a.json": one})
    put(tmp_path / "i", {"b.json": one.replace("a.jpg", "b.jpg")})
    assert sizes(open_dataset(tmp_path / "i")) == {"all": 2}


def test_corners_taken_for_centres_get_a_hint(tmp_path):
    text = json.dumps([createml("a.jpg", thing("car", 1, 1, 8, 8))])
    (found,) = check(open_dataset(put(tmp_path, {"a.jpg": None, "x.json": text})))
    assert found.code == "outside-image"
    assert "x, y of the top left corner? Create ML has the centre" in found.message


def test_an_image_that_no_file_lists_is_a_warning(tmp_path):
    text = json.dumps([createml("a.jpg", thing("car", 10, 8, 4, 2))])
    data = open_dataset(put(tmp_path, {"a.jpg": None, "b.jpg": None, "x.json": text}))
    assert codes(data) == ["unlisted-image"]


def test_what_is_written_has_centres_and_apples_keys(tmp_path):
    text = json.dumps([createml("a.jpg", thing("car", 10.25, 8.5, 4.5, 3))])
    data = open_dataset(put(tmp_path / "old", {"a.jpg": None, "x.json": text}))
    convert(data, tmp_path / "new", "createml")
    written = (tmp_path / "new" / "images" / "_annotations.createml.json").read_text("utf-8")
    assert json.loads(written) == json.loads(text)
