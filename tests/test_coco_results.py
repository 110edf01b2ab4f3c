"""`detect -f coco`: what it numbers, and that pycocotools takes it and finds the same scores."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from labelled_folders import put
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from running import detkit

from detkit.cli.coco_ids import open_ids
from detkit.cli.console import Console
from detkit.data import open_dataset
from detkit.data.demo.pictures import write_demo
from detkit.detectors.ssd import SSD, SSDConfig
from detkit.errors import DetkitError, UsageError
from detkit.model_file import save_model
from detkit.predictions.coco_results import CocoIds
from detkit.predictions.image import ImagePredictions, coco_category_ids
from detkit.predictions.readers import read_predictions
from detkit.predictions.writers import images_file, open_writer

NAMES = ["car", "bus"]
ONE = ("car", 0.5, (1, 2, 4, 8))


def image(name: str, *rows: Any) -> ImagePredictions:
    return ImagePredictions(
        image=name,
        width=640,
        height=480,
        labels=tuple(row[0] for row in rows),
        scores=np.array([row[1] for row in rows], np.float32),
        boxes=np.array([row[2] for row in rows], np.float32).reshape(-1, 4),
    )


def written(path: Path, images: list[ImagePredictions], **options: Any) -> list[dict[str, Any]]:
    with open_writer("coco", path, class_names=NAMES, **options) as writer:
        for one in images:
            writer.write(one)
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return rows


def ids_of(names: dict[str, int | str], categories: dict[str, int | str]) -> CocoIds:
    return CocoIds("truth.json", names.get, categories)


def test_without_ids_images_count_from_1_and_rows_say_what_the_numbers_mean(
    tmp_path: Path,
) -> None:
    images = [image("val/a.jpg", ONE), image("val/none.jpg"), image("b/a.jpg", ONE, ONE)]
    rows = written(tmp_path / "found.json", images)
    assert rows[0] == {
        "image_id": 1,
        "category_id": 1,
        "bbox": [1.0, 2.0, 3.0, 6.0],
        "score": 0.5,
        "file_name": "val/a.jpg",
        "category_name": "car",
    }
    assert [row["image_id"] for row in rows] == [1, 3, 3]
    listed = json.loads((tmp_path / "found.images.json").read_text(encoding="utf-8"))
    assert [(one["id"], one["file_name"]) for one in listed["images"]] == [
        (1, "val/a.jpg"),
        (2, "val/none.jpg"),
        (3, "b/a.jpg"),
    ]
    assert listed["images"][0] == {"id": 1, "file_name": "val/a.jpg", "width": 640, "height": 480}
    assert listed["categories"] == [{"id": 1, "name": "car"}, {"id": 2, "name": "bus"}]
    with contextlib.redirect_stdout(io.StringIO()):
        found = COCO(str(tmp_path / "found.images.json")).loadRes(str(tmp_path / "found.json"))
    assert sorted(found.getImgIds()) == [1, 2, 3]


def test_images_of_cocos_own_names_have_their_numbers_and_others_the_free_ones(
    tmp_path: Path,
) -> None:
    names = ["b.jpg", "val/000000000139.jpg", "COCO_val2014_000000001146.jpg"]
    names += ["000000000001.jpg", "0139.jpg", "train/000000000139.jpg"]
    rows = written(tmp_path / "found.json", [image(name, ONE) for name in names])
    assert [row["image_id"] for row in rows] == [1, 139, 1146, 2, 3, 4]
    assert [row["file_name"] for row in rows] == names


def test_cocos_80_classes_have_cocos_ids() -> None:
    assert coco_category_ids(NAMES) == [1, 2]
    names = [f"class{number}" for number in range(80)]
    names[0], names[39], names[79] = "person", "bottle", "toothbrush"
    ids = coco_category_ids(names)
    assert (len(ids), ids[0], ids[11], ids[39], ids[79]) == (80, 1, 13, 44, 90)


def test_read_back_the_names_decide_and_not_the_numbers(tmp_path: Path) -> None:
    written(tmp_path / "found.json", [image("val/a.jpg", ONE), image("b/a.jpg", ("bus", *ONE[1:]))])
    back = read_predictions(tmp_path / "found.json", class_names=["bus", "van", "car"])
    assert [(one.image, one.labels) for one in back] == [
        ("val/a.jpg", ("car",)),
        ("b/a.jpg", ("bus",)),
    ]


def test_a_data_sets_ids_are_written_as_it_has_them_and_nothing_beside(tmp_path: Path) -> None:
    ids = ids_of({"a.jpg": 17, "b.jpg": "x17"}, {"bus": 0, "car": 90})
    rows = written(tmp_path / "found.json", [image("a.jpg", ONE), image("b.jpg", ONE)], ids=ids)
    assert rows == [
        {"image_id": key, "category_id": 90, "bbox": [1.0, 2.0, 3.0, 6.0], "score": 0.5}
        for key in (17, "x17")
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]


def test_what_the_data_set_does_not_have_is_left_out_and_said(tmp_path: Path) -> None:
    ids = ids_of({"a.jpg": 1}, {"car": 1})
    stream = io.StringIO()
    with open_writer("coco", stream, class_names=NAMES, ids=ids) as writer:
        for one in (image("x.jpg", ONE), image("a.jpg", ONE, ("bus", *ONE[1:])), image("y.jpg")):
            writer.write(one)
    assert [row["image_id"] for row in json.loads(stream.getvalue())] == [1]
    assert list(writer.left_out) == [
        "2 images left out: truth.json does not have them (first: x.jpg)",
        "1 detection left out: truth.json has no class bus",
    ]


def test_another_data_sets_ids_are_an_error_and_leave_no_file(tmp_path: Path) -> None:
    with pytest.raises(DetkitError, match=r"has none of the 1 image \(first: x.jpg\)"):
        written(tmp_path / "a.json", [image("x.jpg", ONE)], ids=ids_of({"a.jpg": 1}, {"car": 1}))
    with pytest.raises(DetkitError, match="none of the classes car, bus; it has dog"):
        written(tmp_path / "a.json", [], ids=ids_of({}, {"dog": 1}))
    with pytest.raises(DetkitError, match="both have the image_id '1'"):
        two = [image("a.jpg", ONE), image("b.jpg", ONE)]
        written(tmp_path / "a.json", two, ids=ids_of({"a.jpg": 1, "b.jpg": 1}, {"car": 1}))
    assert list(tmp_path.iterdir()) == []


def test_neither_file_is_overwritten_without_force(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    images_file(path).write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match=r"found\.images\.json: exists"):
        written(path, [image("a.jpg", ONE)])
    assert not path.exists() and images_file(path).read_text(encoding="utf-8") == "mine"
    written(path, [image("a.jpg", ONE)], force=True)
    assert json.loads(images_file(path).read_text(encoding="utf-8"))["images"][0]["id"] == 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_demo(tmp_path / "demo", num_images=20)
    return tmp_path / "demo"


@pytest.fixture
def model(folder: Path, tmp_path: Path) -> Path:
    """Return a model that has learnt nothing, but finds a lot."""
    torch.manual_seed(3)
    detector = SSD(SSDConfig(size=64, score_thresh=0.02), open_dataset(folder).class_names)
    save_model(tmp_path / "model.safetensors", detector)
    return tmp_path / "model.safetensors"


def as_coco(folder: Path, out: Path) -> Path:
    """Return a split's COCO file, with ids as other tools have them: gaps, zeros, any order."""
    done = detkit("convert", folder, "--to", "coco", out)
    assert done.returncode == 0, done.stderr
    path = out / "annotations" / "instances_train.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    classes = {one["id"]: 30 - 7 * one["id"] for one in content["categories"]}
    images = {one["id"]: 1000 - 3 * one["id"] for one in content["images"]}
    for one in content["categories"]:
        one["id"] = classes[one["id"]]
    for one in content["images"]:
        one["id"] = images[one["id"]]
    for one in content["annotations"]:
        one["category_id"] = classes[one["category_id"]]
        one["image_id"] = images[one["image_id"]]
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def official(truth: Path, found: Path) -> float:
    """Return the AP that pycocotools gives of two files."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(truth))
        evaluator = COCOeval(coco, coco.loadRes(str(found)), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return float(evaluator.stats[0])


def own_map(*words: str | Path) -> float:
    done = detkit("eval", *words, "--metric", "coco", "--json")
    assert done.returncode == 0, done.stderr
    mean: float = json.loads(done.stdout)["mAP"]
    return mean


@pytest.mark.parametrize(("name", "kind"), [("nosuch.json", "file"), ("nosuch", "folder")])
def test_ids_of_a_place_that_is_not_there_name_the_option(
    tmp_path: Path, model: Path, name: str, kind: str
) -> None:
    place = tmp_path / name
    done = detkit("detect", model, tmp_path, "-f", "coco", "--ids", place)
    assert done.returncode == 3
    assert f"--ids {place}: no such {kind}" in done.stderr


def test_pycocotools_takes_the_results_on_a_coco_data_set_and_scores_them_alike(
    tmp_path: Path, folder: Path, model: Path
) -> None:
    truth = as_coco(folder, tmp_path / "coco")
    images = sorted((tmp_path / "coco" / "images").rglob("*.jpg"))
    found = tmp_path / "found.json"
    done = detkit("detect", model, *images, "-f", "coco", "--ids", truth, "-o", found)
    assert done.returncode == 0, done.stderr
    num_others = len(images) - len(json.loads(truth.read_text(encoding="utf-8"))["images"])
    assert f"{num_others} images left out: {truth} does not have them" in done.stderr
    assert not images_file(found).exists()
    mean = own_map(model, truth)
    assert mean > 0
    assert official(truth, found) == pytest.approx(mean, abs=1e-6)
    piped = detkit("detect", model, *images, "-f", "coco", "--ids", truth)
    assert piped.stdout == found.read_text(encoding="utf-8")


def test_any_folders_ids_are_those_that_convert_gives_it(
    tmp_path: Path, folder: Path, model: Path
) -> None:
    found = tmp_path / "found.json"
    words = ("detect", model, folder / "JPEGImages", "-f", "coco", "--ids", folder)
    assert detkit(*words, "-o", found).returncode == 0
    assert detkit("convert", folder, "--to", "coco", tmp_path / "coco").returncode == 0
    numbers = []
    for split in ("train", "val", "test"):
        truth = tmp_path / "coco" / "annotations" / f"instances_{split}.json"
        numbers += [one["id"] for one in json.loads(truth.read_text("utf-8"))["images"]]
        of_split = tmp_path / "of_split.json"
        ids = set(numbers[-len(json.loads(truth.read_text("utf-8"))["images"]) :])
        rows = [one for one in json.loads(found.read_text("utf-8")) if one["image_id"] in ids]
        of_split.write_text(json.dumps(rows), encoding="utf-8")
        expected = own_map(model, folder, "--split", split)
        assert official(truth, of_split) == pytest.approx(expected, abs=1e-6)
    assert sorted(numbers) == list(range(1, len(numbers) + 1))  # none twice, over all splits


def test_made_up_ids_score_alike_when_they_are_read_back(
    tmp_path: Path, folder: Path, model: Path
) -> None:
    names = (folder / "ImageSets" / "Main" / "test.txt").read_text(encoding="utf-8").split()
    images = [folder / "JPEGImages" / f"{name}.jpg" for name in names]
    found = tmp_path / "found.json"
    done = detkit("detect", model, *images, "-f", "coco", "-o", found)
    assert f"detections: {found}, images: {images_file(found)}" in done.stderr
    expected = own_map(model, folder, "--split", "test")
    assert own_map("--predictions", found, folder) == pytest.approx(expected, abs=1e-6)


def test_ids_that_are_texts_or_numbers_stay_what_they_are(tmp_path: Path) -> None:
    images = [{"id": key, "file_name": f"{n}.jpg"} for n, key in enumerate(("7", 8, "a"))]
    categories = [{"id": 0, "name": "car"}, {"id": 4, "name": "bus"}]
    text = json.dumps({"images": images, "annotations": [], "categories": categories})
    put(tmp_path, {"0.jpg": None, "1.jpg": None, "2.jpg": None, "labels.json": text})
    ids = open_ids(Console(quiet=True), str(tmp_path), "coco")
    assert ids is not None
    assert [ids.image_id(f"{n}.jpg") for n in range(4)] == ["7", 8, "a", None]
    assert ids.categories == {"car": 0, "bus": 4}


def test_files_that_number_a_class_in_two_ways_are_an_error(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "val")):
        categories = [{"id": number, "name": "car"}]
        content = {"images": [], "annotations": [], "categories": categories}
        content["images"] = [{"id": 1, "file_name": f"{split}.jpg"}]
        put(tmp_path, {f"{split}/{split}.jpg": None, f"{split}/a.coco.json": json.dumps(content)})
    with pytest.raises(DetkitError, match="car has the id 0 in train and 1 in val; name the one"):
        open_ids(Console(quiet=True), str(tmp_path), "coco")
    ids = open_ids(Console(quiet=True), str(tmp_path / "val" / "a.coco.json"), "coco")
    assert ids is not None and ids.categories == {"car": 1}


def test_ids_without_coco_or_without_a_data_set_are_refused(
    tmp_path: Path, folder: Path, model: Path
) -> None:
    words = ("detect", model, folder / "JPEGImages", "--ids")
    done = detkit(*words, folder, "-f", "csv")
    assert done.returncode == 2 and "add -f coco" in done.stderr
    done = detkit(*words, tmp_path / "gone.json", "-f", "coco")
    assert done.returncode == 3 and "gone.json" in done.stderr and done.stdout == ""


def test_an_image_of_which_the_data_set_is_not_sure_is_an_error(tmp_path: Path) -> None:
    images = [{"id": n, "file_name": f"{n}/a.jpg"} for n in (1, 2)]
    categories = [{"id": 0, "name": "car"}]
    text = json.dumps({"images": images, "annotations": [], "categories": categories})
    put(tmp_path, {"1/a.jpg": None, "2/a.jpg": None, "labels.json": text})
    ids = open_ids(Console(quiet=True), str(tmp_path), "coco")
    assert ids is not None and ids.image_id("2/a.jpg") == 2
    with pytest.raises(DetkitError, match="may be meant"):
        ids.image_id("elsewhere/a.jpg")
    assert replace(image("a.jpg"), error="broken").error  # and one that cannot be read has no row
    stream = io.StringIO()
    with open_writer("coco", stream, class_names=NAMES) as writer:
        writer.write(replace(image("a.jpg"), error="broken"))
    assert json.loads(stream.getvalue()) == []
