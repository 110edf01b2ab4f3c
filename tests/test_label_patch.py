"""Patches of labels: put in by the command from and into formats, and refused when stale."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from labelled_folders import put, xml
from running import detkit
from test_schema import faults

from detkit.data import open_dataset
from detkit.data.label_patch import Change, Labelled, apply_patch, patch_to_json, read_patch
from detkit.errors import DetkitError

CAR, BUS = (2.0, 3.0, 12.0, 13.0), (20.0, 5.0, 30.0, 15.0)
Objects = list[tuple[str, tuple[float, ...]]]


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    objects = ("car", 3, 4, 12, 13), ("bus", 21, 6, 30, 15), ("car", 1, 16, 10, 20)
    files = {
        "Annotations/a.xml": xml(*objects, filename="a.jpg"),
        "Annotations/b.xml": xml(("bus", 3, 4, 12, 13), filename="b.jpg"),
        "JPEGImages/a.jpg": None,
        "JPEGImages/b.jpg": None,
        "ImageSets/Main/train.txt": "a\nb\n",
    }
    return put(tmp_path / "voc", files)


def patch_of(folder: Path) -> dict[str, Any]:
    """Relabel, move, delete and add in the image a, by how the folder calls it."""
    (image,) = (one for one in open_dataset(folder).splits["train"] if one.path.stem == "a")
    one, two, three = image.objects
    changes = [
        Change(image.image_id, one.number, Labelled("car", one.box), Labelled("bus", one.box)),
        Change(
            image.image_id,
            two.number,
            Labelled("bus", two.box),
            Labelled("bus", (22.0, 5.0, 33.0, 15.5)),
        ),
        Change(image.image_id, three.number, Labelled("car", three.box), None),
        Change(image.image_id, None, None, Labelled("car", (14.0, 2.0, 19.0, 9.0))),
    ]
    return patch_to_json(changes)


def labels(folder: Path, stem: str) -> Objects:
    records = [one for split in open_dataset(folder).splits.values() for one in split]
    (image,) = (one for one in records if one.path.stem == stem)
    return sorted((one.name, tuple(round(value, 1) for value in one.box)) for one in image.objects)


@pytest.mark.parametrize("source", ["voc", "yolo", "coco"])
def test_a_patch_goes_into_a_new_folder_of_any_format(
    voc: Path, tmp_path: Path, source: str
) -> None:
    folder = tmp_path / "source"
    assert detkit("convert", voc, folder, "--to", source).returncode == 0
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    patch = tmp_path / "patch.json"
    patch.write_text(json.dumps(patch_of(folder)))
    assert faults("patch", json.loads(patch.read_text())) == []
    done = detkit("convert", folder, tmp_path / "out", "--apply", patch)
    assert done.returncode == 0, done.stderr
    assert "4 changes: 1 added, 1 taken away, 2 put right" in done.stderr
    assert open_dataset(tmp_path / "out").format == source
    moved = (22.0, 5.0, 33.0, 15.0 if source == "voc" else 15.5)  # VOC has whole pixels
    got = [
        one if one[0] != "bus" or one[1][0] != 22.0 else ("bus", moved)
        for one in labels(tmp_path / "out", "a")
    ]
    assert got == [("bus", CAR), ("bus", moved), ("car", (14.0, 2.0, 19.0, 9.0))]
    assert labels(tmp_path / "out", "b") == [("bus", CAR)]
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_other_formats_are_written_with_to_and_classes_are_renamed_after_it(
    voc: Path, tmp_path: Path
) -> None:
    (tmp_path / "p.json").write_text(json.dumps(patch_of(voc)))
    words = ("--to", "coco", "--apply", tmp_path / "p.json", "--rename", "bus=coach")
    assert detkit("convert", voc, tmp_path / "out", *words).returncode == 0
    assert [name for name, _ in labels(tmp_path / "out", "a")] == ["car", "coach", "coach"]


def test_without_a_patch_a_format_has_to_be_named(voc: Path, tmp_path: Path) -> None:
    done = detkit("convert", voc, tmp_path / "out")
    assert done.returncode == 2 and "--to" in done.stderr


def test_a_patch_is_of_one_folder(voc: Path, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(json.dumps(patch_of(voc)))
    words = ("convert", voc, voc, tmp_path / "out", "--to", "voc", "--apply", tmp_path / "p.json")
    done = detkit(*words)
    assert done.returncode == 2 and "one folder" in done.stderr


def stale(change: dict[str, Any], key: str) -> dict[str, Any]:
    if key == "label":
        change["old"]["label"] = "bus"
    elif key == "box":
        change["old"]["box"][0] += 1
    elif key == "object":
        change["object"] = 9
    elif key == "image":
        change["image"] = "JPEGImages/z.jpg"
    else:
        change["new"]["label"] = "tram"
    return change


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("label", '"car" at 2 3 12 13 in '),
        ("box", "3 3 12 13 in the patch"),
        ("object", "object 9: the image has 3 objects"),
        ("image", "no such image"),
        ("class", '"tram" is no class of '),
    ],
)
def test_a_patch_that_fits_no_more_is_refused_naming_the_first_that_differs(
    voc: Path, tmp_path: Path, key: str, said: str
) -> None:
    value = patch_of(voc)
    good, bad = value["changes"][1], stale(value["changes"][0], key)
    value["changes"] = [good, bad]
    (tmp_path / "p.json").write_text(json.dumps(value))
    done = detkit("convert", voc, tmp_path / "out", "--apply", tmp_path / "p.json", "-q")
    assert done.returncode == 3 and "change 2: JPEGImages/" in done.stderr and said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_patch_is_not_put_in_twice(voc: Path, tmp_path: Path) -> None:
    value = patch_of(voc)
    value["changes"] = value["changes"][3:]
    (tmp_path / "p.json").write_text(json.dumps(value))
    first = tmp_path / "out"
    assert detkit("convert", voc, first, "--apply", tmp_path / "p.json").returncode == 0
    done = detkit("convert", first, tmp_path / "again", "--apply", tmp_path / "p.json", "-q")
    assert done.returncode == 3 and "is there already" in done.stderr


def test_one_object_does_not_change_twice(voc: Path) -> None:
    change = Change(
        "JPEGImages/a.jpg", 1, Labelled("car", CAR), Labelled("bus", (2.0, 3.0, 12.0, 13.0))
    )
    with pytest.raises(DetkitError, match="changes twice"):
        apply_patch(open_dataset(voc), [change, change], "p.json")


HEAD = {"format": "detkit label patch", "version": 1}
LABEL = {"label": "car", "box": [0, 0, 1, 1]}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("{", "is no JSON"),
        ("[]", "is no label patch"),
        ({"format": "other"}, "is no label patch"),
        ({**HEAD, "version": 2, "changes": []}, "version 2"),
        (HEAD, '"changes" is missing'),
        ({**HEAD, "changes": [3]}, "change 1: expected an object"),
        ({**HEAD, "changes": [{"image": "a", "object": None}]}, "nothing changes"),
        ({**HEAD, "changes": [{"image": "a", "object": 1, "new": LABEL}]}, "go together"),
        ({**HEAD, "changes": [{"image": "a", "objekt": 1, "new": LABEL}]}, '"objekt" is no key'),
        ({**HEAD, "changes": [{"image": "a", "object": True, "old": LABEL}]}, "whole number"),
        (
            {**HEAD, "changes": [{"image": "a", "new": {"label": "car", "box": [1, 1, 1, 2]}}]},
            "has no area",
        ),
        (
            {**HEAD, "changes": [{"image": "a", "new": {"label": "car", "box": [1, 1, "2", 2]}}]},
            "expected null or",
        ),
        (
            '{"format": "detkit label patch", "version": 1, "changes": [{"image": "a", '
            '"new": {"label": "car", "box": [NaN, 0, 1, 1]}}]}',
            "expected null or",
        ),
    ],
)
def test_what_is_no_patch_is_told_in_one_line(tmp_path: Path, value: Any, said: str) -> None:
    path = tmp_path / "p.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    with pytest.raises(DetkitError, match="p.json") as error:
        read_patch(path)
    assert said in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(DetkitError, match="cannot be read"):
        read_patch(tmp_path / "none.json")
