"""Difficult objects and crowds on their way from the label file to the losses."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from labelled_folders import put, xml
from pycocotools import mask as coco_mask
from running import detkit
from toy import CLASSES, make_toy, write_images

from detkit.config import TrainDifficult
from detkit.data import open_dataset
from detkit.data.records import ImageRecord, ObjectRecord
from detkit.detectors import load_backend
from detkit.detectors.fast_rcnn import FastRCNNConfig, sample_rois
from detkit.errors import DetkitError
from detkit.training.dataset import TrainingDataset
from detkit.training.difficult import difficult_note
from detkit.training.options import RunOptions
from detkit.training.tiles import tiled
from detkit.training.train import train

HARD = "<difficult>1</difficult>"
OBJECTS = (("car", 2, 2, 9, 9), ("car", 4, 4, 30, 18, HARD), ("dog", 12, 3, 20, 17))


def all_objects(annotation: ElementTree.Element) -> list[Any]:
    """R-CNN's `roidb_from_voc`, Fast R-CNN's first `pascal_voc.py`, SSD's `train_on_diff_gt`."""
    return list(annotation.iter("object"))


def without_difficult(annotation: ElementTree.Element) -> list[Any]:
    """Faster R-CNN's `pascal_voc.py` with `use_diff` False, darknet's `voc_label.py`."""
    kept = []
    for one in annotation.iter("object"):
        flag = one.find("difficult")
        if flag is not None and int(flag.text or 0) == 1:
            continue
        kept.append(one)
    return kept


RELEASED: dict[str, Callable[[ElementTree.Element], list[Any]]] = {
    "rcnn": all_objects,
    "fast-rcnn": all_objects,
    "faster-rcnn": without_difficult,
    "ssd": all_objects,
    "yolov1": without_difficult,
}


def voc(root: Path) -> list[ImageRecord]:
    """Return the records of a folder whose one image has a difficult object between two others."""
    put(root, {"a.jpg": None, "a.xml": xml(*OBJECTS, filename="a.jpg")})
    return list(open_dataset(root).splits["all"])


def with_crowd(root: Path) -> list[ImageRecord]:
    """Return the records of COCO's image with an object, a crowd and a difficult object."""
    row = {"image_id": 1, "category_id": 1}
    rows = [
        {**row, "id": 1, "bbox": [1, 1, 8, 8]},
        {**row, "id": 2, "bbox": [3, 3, 30, 16], "iscrowd": 1},
        {**row, "id": 3, "bbox": [20, 2, 9, 9], "difficult": 1},
    ]
    images = [{"id": 1, "file_name": "a.jpg", "width": 40, "height": 20}]
    content = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "car"}]}
    put(root, {"a.jpg": None, "instances.json": json.dumps(content)})
    return list(open_dataset(root).splits["all"])


@pytest.mark.parametrize("name", RELEASED)
def test_the_papers_recipe_learns_the_objects_that_the_release_learns(
    tmp_path: Path, name: str
) -> None:
    recipe = load_backend(name).recipe
    records = voc(tmp_path)
    images = TrainingDataset(records, ("car", "dog"), train_difficult=recipe.train_difficult)
    batch = make_toy().prepare([images[0]])
    expected = [
        [int(one.findtext(f"bndbox/{side}") or 0) for side in ("xmin", "ymin", "xmax", "ymax")]
        for one in RELEASED[name](ElementTree.parse(tmp_path / "a.xml").getroot())
    ]
    own = batch.boxes[0] / torch.tensor([32 / 40, 32 / 20] * 2)
    inclusive = own + torch.tensor([1.0, 1, 0, 0])
    assert inclusive.round().int().tolist() == expected
    assert batch.ignored == []


@pytest.mark.parametrize("name", RELEASED)
def test_short_recipes_ignore_difficult_objects_as_scores_do(tmp_path: Path, name: str) -> None:
    rule = load_backend(name).short_recipe.train_difficult
    sample = TrainingDataset(voc(tmp_path), ("car", "dog"), train_difficult=rule)[0]
    assert sample.is_ignored.tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("rule", "kept", "ignored"), [("yes", 3, [1]), ("no", 2, [1]), ("ignore", 3, [1, 2])]
)
def test_crowds_are_ignored_by_every_rule(
    tmp_path: Path, rule: TrainDifficult, kept: int, ignored: list[int]
) -> None:
    images = TrainingDataset(with_crowd(tmp_path), ("car",), train_difficult=rule)
    sample = images[0]
    assert len(sample.boxes) == kept
    assert sample.is_ignored.nonzero().flatten().tolist() == ignored
    batch = make_toy().prepare([sample])
    assert (len(batch.boxes[0]), len(batch.ignored[0])) == (kept - len(ignored), len(ignored))
    ((truth, _),) = images.labelled()  # what anchors and reach are judged by
    assert len(truth.boxes) == kept - len(ignored) and not truth.is_crowd.any()
    assert len(images.proposal_overlaps()[0]) == kept - len(ignored)


def test_what_is_ignored_in_an_image_is_so_in_its_tiles(tmp_path: Path) -> None:
    config = dataclasses.replace(make_toy().config, tile=20, tile_visible=0.01)
    plain = TrainingDataset(with_crowd(tmp_path), ("car",), train_difficult="ignore")
    images = tiled(plain, config, 0, lambda boxes, size: torch.ones(len(boxes)).bool())
    assert len(images) > 2
    for index in range(len(images)):
        sample = images[index]
        assert torch.equal(sample.is_ignored, sample.difficult)  # here both are those two
    assert any(bool((~images[index].is_ignored).any()) for index in range(len(images)))


@pytest.mark.parametrize("seed", range(8))
def test_regions_in_crowds_leave_training_as_released_but_for_what_the_header_says(
    seed: int,
) -> None:
    generator = np.random.default_rng(seed)

    def random_boxes(number: int, most: int) -> Any:
        corners = generator.integers(0, 60, (number, 2))
        return np.concatenate([corners, corners + generator.integers(8, most, (number, 2))], axis=1)

    gt_boxes, crowds, proposals = random_boxes(3, 40), random_boxes(2, 60), random_boxes(300, 50)
    proposals = np.unique(proposals, axis=0)

    # py-faster-rcnn: `_filter_crowd_proposals` of coco.py, then `_sample_rois` of minibatch.py.
    def xywh(boxes: Any) -> Any:
        return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).astype(float)

    shares = coco_mask.iou(xywh(proposals), xywh(crowds), [1, 1]).max(axis=1)
    overlaps = coco_mask.iou(xywh(proposals), xywh(gt_boxes), [0, 0, 0]).max(axis=1)
    foreground, background, half_inside, positive_inside = set(), set(), set(), set()
    for number, (share, overlap) in enumerate(zip(shares, overlaps)):
        reaches = overlap >= 0.5
        if reaches and share > 0.7:
            positive_inside.add(number)
        elif reaches:
            foreground.add(number)
        elif overlap >= 0.1 and share <= 0.7:
            background.add(number)
            if share >= 0.5:
                half_inside.add(number)

    config = FastRCNNConfig(rois_per_image=10**6, positive_thresh=0.5, negative_range=(0.1, 0.5))
    given, truths, ignored = (
        torch.from_numpy(one.astype(np.float32)) for one in (proposals, gt_boxes, crowds)
    )
    found = sample_rois(given, truths, torch.zeros(3, dtype=torch.int64), ignored, config)
    place = {tuple(box): number for number, box in enumerate(proposals.tolist())}
    learnt: tuple[set[int], set[int]] = set(), set()
    for box, label in zip(found.rois.int().tolist(), found.labels.tolist()):
        if tuple(box) in place:
            learnt[label].add(place[tuple(box)])
    assert learnt[1] == foreground | positive_inside
    assert learnt[0] == background - half_inside
    assert learnt[0] and (shares > 0.7).any()


def records_of(*objects: ObjectRecord) -> list[ImageRecord]:
    return [ImageRecord("a.png", Path("a.png"), objects)]


PLAIN = ObjectRecord("car", (0, 0, 9, 9))
DIFFICULT = dataclasses.replace(PLAIN, difficult=True)
CROWD = dataclasses.replace(PLAIN, crowd=True)


@pytest.mark.parametrize(
    ("objects", "rule", "words"),
    [
        ([PLAIN], "no", ""),
        ([PLAIN, DIFFICULT], "yes", "1 difficult object is learnt like others (--set "),
        ([PLAIN, DIFFICULT, DIFFICULT], "no", "2 difficult objects are left out: their place is b"),
        ([PLAIN, DIFFICULT], "ignore", "1 difficult object is ignored: neither objects nor back"),
        ([PLAIN, CROWD, CROWD], "yes", "2 crowds are ignored"),
        ([PLAIN, CROWD, DIFFICULT], "yes", "train_difficult=yes|no|ignore); 1 crowd is ignored"),
        ([DIFFICULT], "yes", "1 difficult object is learnt"),
        ([dataclasses.replace(DIFFICULT, name="cat")], "no", ""),  # no class that is asked for
    ],
)
def test_the_note_counts_difficult_objects_and_crowds_and_says_what_is_done(
    objects: list[ObjectRecord], rule: TrainDifficult, words: str
) -> None:
    note = difficult_note(records_of(*objects), ("car",), rule)
    assert words in note and bool(words) == bool(note)


@pytest.mark.parametrize(
    ("objects", "rule"),
    [([DIFFICULT], "no"), ([DIFFICULT, CROWD], "ignore"), ([CROWD, CROWD], "yes")],
)
def test_where_nothing_is_left_to_learn_training_is_refused(
    objects: list[ObjectRecord], rule: TrainDifficult
) -> None:
    with pytest.raises(DetkitError, match=r"nothing to learn: of \d training object"):
        difficult_note(records_of(*objects), ("car",), rule)


def test_a_training_tells_the_note_once_and_in_its_log(tmp_path: Path) -> None:
    records = write_images(tmp_path / "images", 4)
    hard = ObjectRecord(CLASSES[0], (1.0, 1.0, 9.0, 9.0), difficult=True)
    records[0] = dataclasses.replace(records[0], objects=(hard,))
    recipe = dataclasses.replace(make_toy().recipe, train_difficult="no", max_steps=3)
    options = RunOptions(device="cpu", num_workers=0)
    notes = [
        note
        for step in train(make_toy(), records, recipe, tmp_path / "run", options)
        for note in step.notes
        if "difficult" in note
    ]
    words = "1 difficult object is left out: their place is background"
    assert len(notes) == 1 and notes[0].startswith(words)
    assert (tmp_path / "run" / "log.txt").read_text().count(words) == 1


def test_the_command_says_what_becomes_of_difficult_objects_and_stores_the_rule(
    tmp_path: Path,
) -> None:
    for name in "abcd":
        annotation = xml(*OBJECTS, filename=f"{name}.jpg")
        put(tmp_path / "photos", {f"{name}.jpg": None, f"{name}.xml": annotation})
    words = ("--model", "ssd", "--device", "cpu", "--num-workers", "0", "--set", "size=64")
    run = tmp_path / "run"
    done = detkit("train", tmp_path / "photos", *words, "--max-steps", "1", "-o", run)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if "difficult" in line]
    assert len(said) == 1 and "3 difficult objects are ignored" in said[0], done.stderr
    recipe = json.loads((run / "config.json").read_text())["plan"]["recipe"]
    assert recipe["train_difficult"] == "ignore"
