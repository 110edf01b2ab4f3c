"""Names that no text can hold: not UTF-8, control characters, half a character."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from labelled_folders import boxes, codes, ids, put, xml
from running import detkit

from detkit.data import open_dataset
from detkit.data.convert import convert
from detkit.data.formats import reading
from detkit.data.records import ImageRecord
from detkit.data.splits import divide

FORMATS = [form.name for form in reading.FORMATS if form.write and not form.refusal(["car"])]
ROW = "0 .5 .5 .5 .5\n"
HEADER = "filename,class,xmin,ymin,xmax,ymax\n"
FOLDERS: dict[str, dict[str, str | None]] = {
    "voc": {"a.jpg": None, "a.xml": xml(("car", 1, 1, 9, 9))},
    "yolo": {"images/a.jpg": None, "labels/a.txt": ROW, "data.yaml": "names: [car]\ntrain: images"},
    "csv": {"a.jpg": None, "labels.csv": HEADER + "a.jpg,car,1,1,9,9\n"},
}


def coco(name: str, file_name: str = "a.jpg") -> str:
    """Return a COCO document of one image and one object, its class called so."""
    return json.dumps(
        {
            "images": [{"id": 1, "file_name": file_name}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9]}],
            "categories": [{"id": 1, "name": name}],
        }
    )


def with_copies(root: Path, name: bytes) -> Path:
    """Add to each file called `a.*` a copy of another name."""
    for path in [one for one in root.rglob("a.*") if one.is_file()]:
        shutil.copyfile(path, os.fsencode(path.parent) + b"/" + name + path.suffix.encode())
    return root


@pytest.mark.skipif(os.name != "posix", reason="elsewhere a file cannot be called so")
@pytest.mark.parametrize("name", [b"\xff\xfe", b"b\nc", b"b\x1b[2J"])
@pytest.mark.parametrize("kind", FOLDERS)
def test_a_file_that_no_label_can_name_is_an_error_and_its_neighbours_are_read(
    tmp_path: Path, kind: str, name: bytes
) -> None:
    data = open_dataset(with_copies(put(tmp_path, FOLDERS[kind]), name))
    assert data.format == kind
    assert set(codes(data, "error")) == {"bad-file-name"}
    assert os.fsencode(data.findings[0].file or "").endswith(name + b".jpg")
    assert [Path(one).name for split in data.splits for one in ids(data, split)] == ["a.jpg"]


@pytest.mark.skipif(os.name != "posix", reason="elsewhere a file cannot be called so")
def test_the_shell_refuses_such_a_file_in_one_line_and_leaves_it_out_when_told_to(
    tmp_path: Path,
) -> None:
    root = with_copies(put(tmp_path / "photos", FOLDERS["voc"]), b"\xff\n\x1b")
    found = detkit("check", root)
    assert found.returncode == 1
    first, second = (line for line in found.stdout.split("\n") if line.startswith("error: "))
    assert first.startswith(r"error: \xff\n\x1b.jpg: the name is not UTF-8")
    assert second.startswith(r"error: \xff\n\x1b.xml: ")
    refused = detkit("convert", root, tmp_path / "new", "--to", "voc")
    assert refused.returncode == 3
    assert r"\xff\n\x1b.jpg: the name" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "new").exists()
    written = detkit("convert", root, tmp_path / "new", "--to", "voc", "--skip-bad")
    assert written.returncode == 0
    assert written.stderr.endswith("new: all 1 image as voc\n")
    assert boxes(open_dataset(tmp_path / "new")) == {"JPEGImages/a.jpg": [("car", (0, 0, 9, 9))]}


@pytest.mark.parametrize(
    ("files", "shown"),
    [
        ({"a.json": coco("\ud800x")}, r'"\ud800x"'),
        ({"a.json": coco("c\u0001\nctl")}, r'"c\x01\nctl"'),
        ({"a.xml": xml(("c&#x9b;1m", 1, 1, 9, 9))}, r'"c\x9b1m"'),
        ({"a.txt": ROW, "data.yaml": 'names: ["c\\e[2J"]\ntrain: .'}, r'"c\x1b[2J"'),
        ({"l.csv": (HEADER + "a.jpg,T\xfcr,1,1,9,9\n").encode("latin-1")}, r'"T\xfcr"'),
    ],
)
def test_a_class_that_no_line_can_hold_is_one_error_and_is_not_used(
    tmp_path: Path, files: dict[str, str | bytes], shown: str
) -> None:
    root = put(tmp_path / "photos", {"a.jpg": None, **files})
    data = open_dataset(root)
    assert codes(data, "error") == ["bad-class-name"]
    assert data.class_names == ()
    said = detkit("check", root).stdout
    assert said.endswith("\n1 error, 1 warning\n")
    (line,) = (line for line in said.split("\n") if "error: " in line)
    assert f"the class name {shown} is empty, not UTF-8 or holds control characters" in line
    assert detkit("convert", root, tmp_path / "new", "--to", "voc").returncode == 3
    text = detkit("check", root, "--json").stdout
    report = json.loads(text.encode())  # which a text that is not UTF-8 would not bear
    assert report["findings"][0]["class"] == data.findings[0].class_name


def test_two_classes_that_are_not_utf8_are_not_taken_for_one(tmp_path: Path) -> None:
    text = HEADER + "a.jpg,M\xe4n,1,1,9,9\na.jpg,M\xf6n,1,1,5,5\na.jpg,car,1,1,7,7\n"
    data = open_dataset(put(tmp_path, {"a.jpg": None, "l.csv": text.encode("latin-1")}))
    assert codes(data) == ["bad-class-name"] * 2
    assert [one.line for one in data.findings] == [2, 3]
    assert boxes(data) == {"a.jpg": [("car", (0, 0, 7, 7))]}


def test_an_image_named_by_half_a_character_is_an_error(tmp_path: Path) -> None:
    data = open_dataset(put(tmp_path, {"a.jpg": None, "l.json": coco("car", "\ud800.jpg")}))
    assert codes(data, "error") == ["path-outside"]


def test_a_seed_divides_images_whatever_they_are_called() -> None:
    names = ["a.jpg", "\udcff\udcfe.jpg", "\ud800.jpg", "b.jpg"]
    kept, cut = divide(tuple(ImageRecord(name, Path(name)) for name in names), 0.5, seed=0)
    assert len(kept) == len(cut) == 2


ODD = ["c\\d", " h ", "classes", "labels", "readme", "license_plate_1", "k.l", "a,b;'c\""]
ODD += ["street", "street 1", "train", "aeroplane_train", "-1", "~#%", "n&o", "ä ö"]


@pytest.mark.skipif(os.name != "posix", reason="elsewhere a file cannot be called so")
@pytest.mark.parametrize("to", FORMATS)
def test_odd_names_that_a_text_can_hold_keep_their_labels_in_every_format(
    tmp_path: Path, to: str
) -> None:
    files: dict[str, str | None] = {f"images/{name}.jpg": None for name in ODD}
    for number, name in enumerate(ODD):
        files[f"labels/{name}.txt"] = f"{number} .5 .5 .5 .5\n"
    files["data.yaml"] = f"names: [{', '.join(f'n{number}' for number in range(len(ODD)))}]\ntrain:"
    data = open_dataset(put(tmp_path / "old", files))
    assert codes(data, "error") == []
    found = sorted(one.name for record in data.splits["all"] for one in record.objects)
    assert len(found) == len(ODD)
    convert(data, tmp_path / "new", to)
    back = open_dataset(tmp_path / "new")
    assert back.findings == ()
    assert sorted(one.name for record in back.splits["all"] for one in record.objects) == found
    assert all(record.path.is_file() for record in back.splits["all"])


@pytest.mark.parametrize("to", FORMATS)
def test_a_hidden_image_that_a_label_names_is_not_hidden_in_the_copy(
    tmp_path: Path, to: str
) -> None:
    data = open_dataset(put(tmp_path / "old", {".a.jpg": None, "l.json": coco("car", ".a.jpg")}))
    convert(data, tmp_path / "new", to)
    assert [len(one) for one in boxes(open_dataset(tmp_path / "new")).values()] == [1]
