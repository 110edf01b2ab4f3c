"""COCO files from the shell to the score: areas and crowds, held against pycocotools' figures."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelled_folders import put
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from running import detkit

from detkit.data import open_dataset
from detkit.evaluation.pairing import pair
from detkit.evaluation.scores import score
from detkit.evaluation.sizes import scores_by_size
from detkit.predictions.readers import read_predictions

FIGURES = ("mAP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
CLASSES = ("ant", "bee", "cat", "none of these")
# Square pixels on both sides of COCO's 32^2 and 96^2, and on them.
BORDERS = (1023.75, 1024.0, 1024.25, 9215.75, 9216.0, 9216.25)


def random_files(root: Path, seed: int, num_images: int = 6) -> tuple[Path, Path]:
    """Write a COCO file and detections: masks' areas, crowds, ties, a class without objects."""
    rng = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image in range(1, num_images + 1):
        for _ in range(int(rng.integers(0, 6))):
            box = (rng.integers(0, 800, 2) / 4).tolist() + (rng.integers(16, 700, 2) / 4).tolist()
            area = box[2] * box[3] * rng.uniform(0.1, 1.0)
            if rng.random() < 0.3:
                area = float(rng.choice(BORDERS))
            category = int(rng.integers(1, 4))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": category,
                    "bbox": box,
                    "area": area,
                    "iscrowd": int(rng.random() < 0.2),
                }
            )
            for _ in range(int(rng.integers(0, 4))):
                moved = np.array(box) + rng.integers(-40, 40, 4) / 4
                results.append(
                    {
                        "image_id": image,
                        "category_id": int(rng.integers(1, 5)) if rng.random() < 0.2 else category,
                        "bbox": [*moved[:2].tolist(), *np.maximum(moved[2:], 2).tolist()],
                        "score": int(rng.integers(1, 9)) / 8,
                    }
                )
    results = results or [{"image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "score": 0.5}]
    images = [
        {"id": image, "file_name": f"{image:02}.png", "width": 500, "height": 500}
        for image in range(1, num_images + 1)
    ]
    categories = [{"id": place, "name": name} for place, name in enumerate(CLASSES, start=1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    return written(root, content, results)


def written(root: Path, content: dict[str, Any], results: list[Any]) -> tuple[Path, Path]:
    put(root, {"truth.json": json.dumps(content), "found.json": json.dumps(results)})
    return root / "truth.json", root / "found.json"


def official(truth: Path, found: Path) -> list[Any]:
    """Return the twelve figures that pycocotools prints of the two files; None where it says -1."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(truth))
        evaluator = COCOeval(coco, coco.loadRes(str(found)), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return [None if value == -1 else pytest.approx(value, abs=1e-9) for value in evaluator.stats]


@pytest.mark.parametrize("part", range(10))
def test_files_with_areas_and_crowds_score_as_by_pycocotools(tmp_path: Path, part: int) -> None:
    with_sizes = 0
    for seed in range(30 * part, 30 * part + 30):
        truth, found = random_files(tmp_path, seed)
        data = open_dataset(truth)
        records = data.splits["all"]
        read = read_predictions(found, class_names=data.class_names)
        detections = pair(read, records, data.class_names).detections
        truths = data.truths("all")
        scores = score(detections, truths, data.class_names, "coco")
        assert [scores.figures[name] for name in FIGURES] == official(truth, found), seed
        by_size = [one.ap for one in scores_by_size(detections, truths, data.class_names)]
        assert by_size == [scores.figures[name] for name in ("APs", "APm", "APl")]
        with_sizes += None not in by_size
    assert with_sizes > 10  # the sets are no trifles


def test_the_protocol_says_by_which_areas_and_that_difficult_objects_are_crowds(
    tmp_path: Path,
) -> None:
    truth, _ = random_files(tmp_path, 1)
    content = json.loads(truth.read_text())
    first, second, *_ = content["annotations"]

    def rules() -> str:
        truth.write_text(json.dumps(content))
        data = open_dataset(truth)
        nothing = pair([], data.splits["all"], data.class_names).detections
        scores = score(nothing, data.truths("all"), data.class_names, "coco")
        return scores.protocol.partition(" an image, ")[2]

    for one in content["annotations"]:
        del one["area"]
    assert rules() == "sizes by box area"
    first["area"] = 5.0
    assert rules() == "sizes by annotation area, else box area"
    for one in content["annotations"]:
        one["area"] = 5.0
    assert rules() == "sizes by annotation area"
    second.update(ignore=1, iscrowd=0)
    assert rules() == "sizes by annotation area, difficult objects like crowds"


@pytest.fixture
def large_by_box(tmp_path: Path) -> Path:
    """Eight images with two objects each, a mask of .45 of whose box: large boxes, medium masks."""
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    sides = ((40.0, 40.0), (120.0, 100.0))
    for image in range(1, 9):
        for place, (width, height) in enumerate(sides):
            x, y = 20.0 + 150 * place, 10.0 + 5 * image
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": 1,
                    "bbox": [x, y, width, height],
                    "area": 0.45 * width * height,
                    "iscrowd": 0,
                }
            )
            box = [x + image + 3 * place, y, width, height]
            results.append(
                {"image_id": image, "category_id": 1, "bbox": box, "score": 1 - image / 10}
            )
    images = [
        {"id": image, "file_name": f"{image}.png", "width": 400, "height": 300}
        for image in range(1, 9)
    ]
    put(tmp_path, {f"{image}.png": (300, 400) for image in range(1, 9)})
    categories = [{"id": 1, "name": "ant"}]
    written(tmp_path, {"images": images, "annotations": annotations, "categories": categories}, [])
    return written(tmp_path, json.loads((tmp_path / "truth.json").read_text()), results)[0]


def eval_json(truth: Path, *words: str | Path) -> Any:
    found = truth.with_name("found.json")
    done = detkit("eval", "--predictions", found, truth, "--metric", "coco", "--json", *words)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_command_divides_sizes_by_the_masks_and_not_by_the_boxes(large_by_box: Path) -> None:
    report = eval_json(large_by_box)
    expected = official(large_by_box, large_by_box.with_name("found.json"))
    figures = {"mAP": report["mAP"], **report["extra"]}
    assert [figures[name] for name in FIGURES] == expected
    # .45 x 40 x 40 = 720 is small, .45 x 120 x 100 = 5400 medium; by boxes: medium and large.
    assert figures["APl"] is None and figures["APs"] is not None
    assert report["protocol"].endswith("sizes by annotation area")


@pytest.mark.parametrize("seed", [3, 11, 19])
def test_the_command_gives_pycocotools_figures_of_a_folder(tmp_path: Path, seed: int) -> None:
    truth, found = random_files(tmp_path, seed)
    put(tmp_path, {f"{image:02}.png": (500, 500) for image in range(1, 7)})
    report = eval_json(truth)
    figures = {"mAP": report["mAP"], **report["extra"]}
    assert [figures[name] for name in FIGURES] == official(truth, found)


def test_gates_and_baselines_hold_the_sizes_of_masks(large_by_box: Path) -> None:
    found = large_by_box.with_name("found.json")
    words = ("eval", "--predictions", found, large_by_box, "--metric", "coco")
    small = eval_json(large_by_box)["extra"]["APs"]
    assert detkit(*words, "--fail-under", f"APs={small - 0.01}").returncode == 0
    assert detkit(*words, "--fail-under", f"APs={small + 0.01}").returncode == 1
    assert detkit(*words, "--fail-under", "APl=.1").returncode == 1  # there are none
    baseline = large_by_box.with_name("before.json")
    baseline.write_text(json.dumps(eval_json(large_by_box, "--with-detections")))
    held = detkit(*words, "--baseline", baseline, "--max-drop", "0")
    assert held.returncode == 0, held.stderr


def test_coco_to_coco_keeps_areas_and_crowds_and_what_others_lose_is_said(tmp_path: Path) -> None:
    truth, _ = random_files(tmp_path / "from", 2)
    put(tmp_path / "from", {f"{image:02}.png": (500, 500) for image in range(1, 7)})
    before = open_dataset(truth)

    def crowds_and_areas(data: Any) -> list[Any]:
        return [
            (one.name, one.crowd, pytest.approx(one.area, abs=1e-6))
            for record in data.splits["all"]
            for one in record.objects
        ]

    done = detkit("convert", truth, "--to", "coco", tmp_path / "coco")
    assert done.returncode == 0, done.stderr
    assert "lost" not in done.stderr and "became" not in done.stderr
    objects = [one for record in before.splits["all"] for one in record.objects]
    num_crowds = sum(one.crowd for one in objects)
    assert num_crowds > 1
    after = open_dataset(tmp_path / "coco")
    assert [
        (one.name, one.crowd, one.area) for record in after.splits["all"] for one in record.objects
    ] == crowds_and_areas(before)

    done = detkit("convert", truth, "--to", "voc", tmp_path / "voc")
    assert f"{num_crowds} crowds became difficult objects: voc has no mark" in done.stderr
    assert f"{len(objects)} areas of outlines are lost: in voc there are boxes alone" in done.stderr
    marks = [
        one.difficult for r in open_dataset(tmp_path / "voc").splits["all"] for one in r.objects
    ]
    assert marks == [one.crowd for one in objects]

    done = detkit("convert", truth, "--to", "yolo", tmp_path / "yolo")
    assert f"{num_crowds} crowds became ordinary objects: yolo has no mark" in done.stderr
