"""Difficult objects in COCO's files: one rule for pycocotools, for detkit and on the way back."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_folders import put, xml
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from running import detkit

from detkit.data import open_dataset
from detkit.data.convert import convert
from detkit.data.records import Dataset
from detkit.training.difficult import difficult_note, learnt

DIFFICULT = "<difficult>1</difficult>"


def voc_folder(root: Path, seed: int) -> Path:
    """Write random VOC labels, about a third of them difficult."""
    rng = np.random.default_rng(seed)
    files: dict[str, Any] = {}
    for image in range(1, 7):
        objects = []
        for _ in range(int(rng.integers(1, 6))):
            x, y = (int(value) for value in rng.integers(1, 150, 2))
            width, height = (int(value) for value in rng.integers(5, 140, 2))
            mark = DIFFICULT if rng.random() < 0.35 else ""
            objects.append((str(rng.choice(["ant", "bee"])), x, y, x + width, y + height, mark))
        files[f"JPEGImages/i{image}.jpg"] = (300, 300)
        files[f"Annotations/i{image}.xml"] = xml(
            *objects, filename=f"i{image}.jpg", size=(300, 300)
        )
    return put(root, files)


def found_on(data: Dataset, path: Path, seed: int) -> Path:
    """Write detections near the objects, difficult ones too, two or three of each."""
    rng = np.random.default_rng(seed)
    lines = []
    for record in data.splits["all"]:
        found = []
        for one in record.objects:
            for _ in range(int(rng.integers(1, 4))):
                x1, y1, x2, y2 = np.array(one.box) + rng.normal(0, 5, 4)
                box = [round(float(value), 1) for value in (x1, y1, max(x2, x1), max(y2, y1))]
                score = float(rng.integers(1, 20)) / 20
                found.append({"label": one.name, "score": score, "box": box})
        lines.append(json.dumps({"image": record.image_id, "detections": found}))
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def official(truth: Path, found: Path) -> list[float]:
    """Return pycocotools' twelve figures, of a JSON Lines file of detections."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(truth))
        images = {Path(one["file_name"]).name: one["id"] for one in coco.dataset["images"]}
        classes = {one["name"]: one["id"] for one in coco.dataset["categories"]}
        rows = []
        for line in found.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            for one in entry["detections"]:
                x1, y1, x2, y2 = one["box"]
                rows.append(
                    {
                        "image_id": images[Path(entry["image"]).name],
                        "category_id": classes[one["label"]],
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "score": one["score"],
                    }
                )
        evaluator = COCOeval(coco, coco.loadRes(rows), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return [float(value) for value in evaluator.stats]


def own(found: Path, data: Path) -> tuple[list[float], str]:
    done = detkit("eval", "--predictions", found, data, "--metric", "coco", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    figures = [report["mAP"], *report["extra"].values()]
    return [-1.0 if value is None else value for value in figures], report["protocol"]


@pytest.mark.parametrize("seed", range(8))
def test_pycocotools_gives_the_converted_folder_what_detkit_gives_it_and_the_first(
    tmp_path: Path, seed: int
) -> None:
    voc = voc_folder(tmp_path / "voc", seed)
    done = detkit("convert", voc, "--to", "coco", tmp_path / "coco")
    data = open_dataset(voc)
    number = sum(one.difficult for record in data.splits["all"] for one in record.objects)
    assert number > 0
    assert f"{number} difficult object" in done.stderr
    assert "marked as crowds (iscrowd), too, which pycocotools leaves out" in done.stderr
    found = found_on(data, tmp_path / "found.jsonl", seed)
    expected = official(tmp_path / "coco" / "annotations" / "instances.json", found)
    assert 0 < expected[0] < 1
    for folder in (voc, tmp_path / "coco"):
        figures, protocol = own(found, folder)
        assert figures == pytest.approx(expected, abs=1e-6)
        assert protocol.endswith("difficult objects like crowds")


mark = st.tuples(st.booleans(), st.booleans())  # difficult, crowd


@settings(max_examples=25, deadline=None)
@given(marks=st.lists(mark, min_size=1, max_size=6))
def test_marks_survive_coco_and_back_whatever_they_are(
    marks: list[tuple[bool, bool]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("marks")
    rows = [
        {
            "id": number,
            "image_id": 1,
            "category_id": 1,
            "bbox": [number, 1, 5, 5],
            "iscrowd": int(crowd or difficult),
            **({"difficult": 1} if difficult else {}),
        }
        for number, (difficult, crowd) in enumerate(marks, start=1)
    ]
    images = [{"id": 1, "file_name": "a.jpg", "width": 40, "height": 20}]
    content = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "ant"}]}
    put(root / "first", {"a.jpg": None, "labels.json": json.dumps(content)})

    def read(folder: str) -> list[tuple[bool, bool]]:
        (record,) = open_dataset(root / folder).splits["all"]
        return [(one.difficult, one.is_crowd) for one in record.objects]

    expected = [(difficult, crowd and not difficult) for difficult, crowd in marks]
    assert read("first") == expected
    convert(open_dataset(root / "first"), root / "coco", "coco")
    assert read("coco") == expected
    convert(open_dataset(root / "coco"), root / "voc", "voc")
    assert read("voc") == [(difficult or crowd, False) for difficult, crowd in expected]


def test_training_sees_in_the_converted_folder_what_it_sees_in_the_first(tmp_path: Path) -> None:
    voc = voc_folder(tmp_path / "voc", 3)
    convert(open_dataset(voc), tmp_path / "coco", "coco")
    first, second = (open_dataset(folder) for folder in (voc, tmp_path / "coco"))
    for rule in ("yes", "no", "ignore"):
        for one, other in zip(first.truths("all"), second.truths("all"), strict=True):
            left, right = learnt(one, rule), learnt(other, rule)
            assert left[0].boxes.tolist() == right[0].boxes.tolist()
            assert left[1].tolist() == right[1].tolist()
    notes = [
        difficult_note(data.splits["all"], data.class_names, "yes") for data in (first, second)
    ]
    assert notes[0] == notes[1] != ""


def test_a_crowd_that_is_also_ignored_stays_a_crowd(tmp_path: Path) -> None:
    """As tools write regions that are to be left out, like VisDrone's."""
    row = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "iscrowd": 1}
    images = [{"id": 1, "file_name": "a.jpg", "width": 40, "height": 20}]
    content = {"images": images, "categories": [{"id": 1, "name": "ant"}]}
    content["annotations"] = [{**row, "ignore": 1}]
    put(tmp_path, {"a.jpg": None, "labels.json": json.dumps(content)})
    (truth,) = open_dataset(tmp_path).truths("all")
    assert truth.is_crowd.tolist() == [True]
    (record,) = open_dataset(tmp_path).splits["all"]
    assert not record.objects[0].difficult
