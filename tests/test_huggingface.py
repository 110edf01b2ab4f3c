"""Hugging Face's metadata beside the images of a folder."""

from __future__ import annotations

import csv
import io
import json

import pytest
from labelled_folders import boxes, codes, put, sizes
from running import detkit

from detkit.data import open_dataset

# Two boxes of a 40 x 20 image, xyxy, and what other kinds make of them.
FIRST, SECOND = (4, 2, 20, 12), (10, 5, 40, 20)


def rows(*lines):
    return "".join(f"{json.dumps(line)}\n" for line in lines)


def folder(root, *lines, more=None):
    images = {"train/a.png": None, "train/b.png": None}
    return put(root, {**images, "train/metadata.jsonl": rows(*lines), **(more or {})})


def objects(*found, category=("cat", "dog"), key="category"):
    return {"bbox": [list(one) for one in found], key: list(category[: len(found)])}


def as_kind(kind, box):
    x1, y1, x2, y2 = box
    shares = (x1 / 40, y1 / 20, x2 / 40, y2 / 20)
    return {
        "xywh": (x1, y1, x2 - x1, y2 - y1),
        "xyxy": box,
        "cxcywh": ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1),
        "yolo": ((x1 + x2) / 80, (y1 + y2) / 40, (x2 - x1) / 40, (y2 - y1) / 20),
        "albumentations": shares,
    }[kind]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("xywh", "COCO's [x, y, width, height]"),
        ("xyxy", "[x1, y1, x2, y2]"),
        ("cxcywh", "[cx, cy, width, height]"),
        ("yolo", "[cx, cy, width, height] as shares"),
        ("albumentations", "[x1, y1, x2, y2] as shares"),
    ],
)
def test_the_kind_of_box_is_the_one_in_which_all_lie_in_their_images(tmp_path, kind, said):
    # A third box, in a corner, without which a corner could be a centre.
    corner = (30, 10, 40, 20)
    stated = [as_kind(kind, box) for box in (FIRST, SECOND, corner)]
    line = {"file_name": "a.png", "objects": objects(*stated, category=("cat", "dog", "cat"))}
    data = open_dataset(folder(tmp_path, line))
    assert data.format == "huggingface"
    assert f"boxes read as {said}" in data.notes
    for (_, found), expected in zip(boxes(data, "train")["train/a.png"], (FIRST, SECOND, corner)):
        assert found == pytest.approx(expected)


@pytest.mark.parametrize("key", ["category", "categories", "label", "labels", "class_name"])
def test_the_lists_have_several_names(tmp_path, key):
    line = {"file_name": "a.png", "objects": objects((4, 2, 16, 10), key=key)}
    data = open_dataset(folder(tmp_path, line))
    assert boxes(data, "train")["train/a.png"] == [("cat", FIRST)]


def test_objects_may_be_a_list_of_objects_and_absent(tmp_path):
    one = {"bbox": [4, 2, 16, 10], "category": "cat", "iscrowd": 1}
    data = open_dataset(
        folder(tmp_path, {"file_name": "a.png", "objects": [one]}, {"file_name": "b.png"})
    )
    assert boxes(data, "train") == {"train/a.png": [("cat", FIRST)], "train/b.png": []}
    assert data.splits["train"][0].objects[0].crowd


def test_numbers_are_named_by_the_data_sets_card(tmp_path):
    card = """---
dataset_info:
  features:
  - name: image
    dtype: image
  - name: objects
    sequence:
    - name: bbox
      sequence: float32
      length: 4
    - name: category
      dtype:
        class_label:
          names:
            '0': coverall
            '1': mask
---
# A data set
"""
    line = {"file_name": "a.png", "objects": objects((4, 2, 16, 10), category=(1,))}
    data = open_dataset(folder(tmp_path / "named", line, more={"README.md": card}))
    assert boxes(data, "train")["train/a.png"] == [("mask", FIRST)]
    assert codes(data) == ["unlisted-image"]
    data = open_dataset(folder(tmp_path / "bare", line))
    assert data.class_names == ("1",)
    assert codes(data) == ["no-names", "unlisted-image"]


@pytest.mark.parametrize("dump", [json.dumps, repr])
def test_a_table_holds_the_objects_as_a_text(tmp_path, dump):
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(["file_name", "objects"])
    table.writerow(["train/a.png", dump(objects((4, 2, 16, 10)))])
    data = open_dataset(put(tmp_path, {"train/a.png": None, "metadata.csv": text.getvalue()}))
    assert (data.format, sizes(data)) == ("huggingface", {"train": 1})
    assert boxes(data, "train")["train/a.png"] == [("cat", FIRST)]
    assert open_dataset(tmp_path / "metadata.csv").format == "huggingface"


@pytest.mark.parametrize("text", ["__import__('os').system('touch x')", "[" * 9999, "{1: }"])
def test_a_cell_runs_nothing(tmp_path, text):
    csv_text = io.StringIO()
    csv.writer(csv_text).writerows([["file_name", "objects"], ["a.png", text]])
    data = open_dataset(put(tmp_path, {"a.png": None, "metadata.csv": csv_text.getvalue()}))
    assert codes(data, "error") == ["bad-row"]
    assert not list(tmp_path.parent.rglob("x"))


@pytest.mark.parametrize(
    ("stated", "code"),
    [
        ({"bbox": [[4, 2, 16, 10]], "category": ["a", "b"]}, "bad-row"),
        ({"bbox": 7, "category": [1]}, "bad-row"),
        ({"bbox": [[4, 2, 16]], "category": [1]}, "bad-number"),
        ({"bbox": [[4, 2, True, 10]], "category": [1]}, "bad-number"),
        ({"bbox": [[4, 2, 1e999, 10]], "category": [1]}, "bad-number"),
        ({"bbox": [[4, 2, 16, 10]]}, "no-class"),
        ({"bbox": [[4, 2, 16, 10]], "category": [-1]}, "no-class"),
        ("none", "bad-row"),
    ],
)
def test_objects_of_another_shape_are_errors_with_their_line(tmp_path, stated, code):
    lines = [{"file_name": "b.png", "objects": objects((4, 2, 16, 10))}]
    data = open_dataset(folder(tmp_path, *lines, {"file_name": "a.png", "objects": stated}))
    (found,) = [one for one in data.findings if one.severity == "error"]
    assert (found.code, found.line, found.image_id) == (code, 2, "train/a.png")


def test_a_card_of_yaml_that_refers_to_itself_takes_no_time(tmp_path):
    bomb = "a0: &a0 [x, x]\n"
    bomb += "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 20))
    card = f"---\n{bomb}dataset_info: *a19\n---\n"
    line = {"file_name": "a.png", "objects": objects((4, 2, 16, 10), category=(1,))}
    data = open_dataset(folder(tmp_path, line, more={"README.md": card}))
    assert data.class_names == ("1",)


def test_the_format_is_read_and_not_written(tmp_path):
    root = folder(tmp_path / "a", {"file_name": "a.png", "objects": objects((4, 2, 16, 10))})
    refused = detkit("convert", root, tmp_path / "out", "--to", "huggingface")
    assert refused.returncode == 2
    assert "--to huggingface: no such format; choose from voc, coco" in refused.stderr
    put(root, {"train/metadata.jsonl": rows(*({"file_name": f"{n}.png"} for n in "ab"))})
    lines = [{"file_name": f"{n}.png", "objects": objects((4, 2, 16, 10))} for n in "ab"]
    put(root, {"train/metadata.jsonl": rows(*lines)})
    done = detkit("split", root, tmp_path / "cut", "--val", ".5", "--group", "none")
    assert done.returncode == 0
    assert open_dataset(tmp_path / "cut").format == "coco"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.txt", "coverall\nmask\n"),
        (
            "dataset_infos.json",
            json.dumps(
                {
                    "default": {
                        "features": {
                            "objects": {
                                "feature": {
                                    "category": {
                                        "names": ["coverall", "mask"],
                                        "_type": "ClassLabel",
                                    }
                                }
                            }
                        }
                    }
                }
            ),
        ),
    ],
)
def test_names_may_stand_in_other_files(tmp_path, name, text):
    line = {"file_name": "a.png", "annotations": [{"bbox": [4, 2, 16, 10], "category_id": 1}]}
    data = open_dataset(folder(tmp_path, line, more={name: text}))
    assert boxes(data, "train")["train/a.png"] == [("mask", FIRST)]
