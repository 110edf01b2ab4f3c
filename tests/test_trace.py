"""Where objects are lost: every stage by a case worked by hand, and over all backends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from test_contract import make, sample
from toy import CLASSES, make_toy

from detkit.config import DetectorConfig
from detkit.data.records import Dataset, ImageRecord, ObjectRecord
from detkit.detectors import backend_names, load_backend
from detkit.evaluation.iou import iou_matrix
from detkit.evaluation.misses import count_by_stage, find_misses, locate, misses_to_json
from detkit.structures import Truth
from detkit.trace import TraceStage, box_stage, cell_stage, selection_stages

OBJECT = [0.0, 0.0, 10.0, 10.0]
FAR = [50.0, 50.0, 60.0, 60.0]


def lost_at(
    rows: Sequence[tuple[float, list[float]]], **settings: Any
) -> tuple[str, str, tuple[float, ...] | None]:
    """Return at which stage the object is lost among candidates of (score, box), and why."""
    stages = selection_stages(
        torch.tensor([box for _, box in rows]).view(-1, 4),
        torch.tensor([score for score, _ in rows]).view(-1, 1),
        torch.tensor([OBJECT]),
        torch.tensor([0]),
        DetectorConfig(**settings),
        iou_thresh=0.5,
        scale=torch.tensor([2.0, 2.0, 2.0, 2.0]),
    )
    lost = next(stage for stage in stages if not stage.kept[0])
    return lost.name, lost.details[0], lost.by[0]


def test_no_candidate_reaches_the_object() -> None:
    assert lost_at([(0.9, FAR), (0.8, [0.0, 0.0, 4.0, 10.0])])[:2] == (
        "candidates",
        "best IoU 0.40",
    )


def test_its_candidate_scores_below_the_threshold() -> None:
    stage, detail, _ = lost_at([(0.9, FAR), (0.2, OBJECT)], score_thresh=0.3)
    assert (stage, detail) == ("score", "its best box scores 0.2, the threshold is 0.3")


def test_its_candidate_ranks_out_of_its_class() -> None:
    stage, detail, _ = lost_at([(0.9, FAR), (0.8, FAR), (0.7, OBJECT)], pre_nms_top_k=2)
    assert (stage, detail) == ("ranking", "its best box is number 3, the first 2 are kept")


def test_nms_suppresses_it_and_the_box_that_did_is_named_in_own_pixels() -> None:
    # IoU with the object .4 (4 x 10), with the object's box (8 x 10) 40 / 80.
    rival = [0.0, 0.0, 4.0, 10.0]
    stage, detail, by = lost_at([(0.9, rival), (0.5, [0.0, 0.0, 8.0, 10.0])], nms_thresh=0.45)
    assert stage == "nms" and by == (0, 0, 2, 5)
    assert detail == "its box (0.50) overlaps by 0.50 with the better one (0.90) at 0, 0, 2, 5"


def test_its_detection_ranks_out_of_its_image() -> None:
    stage, detail, _ = lost_at([(0.9, FAR), (0.7, OBJECT)], max_detections=1)
    assert (stage, detail) == ("limit", "its box is number 2, the first 1 are kept")


def test_soft_nms_may_lose_it_as_well() -> None:
    rows = [(0.9, [0.0, 0.0, 4.9, 10.0]), (0.05, [0.0, 0.0, 6.0, 10.0])]
    assert lost_at(rows, nms_method="soft", nms_min_score=0.04)[0] == "nms"


def test_objects_of_one_cell_share_it() -> None:
    assert cell_stage([3, 5, 3, 4]).kept.tolist() == [False, True, False, True]


def test_a_stage_of_boxes_keeps_the_objects_that_one_reaches() -> None:
    objects = torch.tensor([OBJECT, FAR])
    assert box_stage("b", "", objects, torch.tensor([OBJECT]), 0.5).kept.tolist() == [True, False]
    assert not box_stage("b", "", objects, torch.zeros(0, 4), 0.5).kept.any()


@pytest.mark.parametrize(
    ("kept", "stage", "detail"),
    [
        ([False, False, False], "first", "why first"),
        ([True, False, False], "second", "why second"),
        ([False, True, False], "third", "why third; also no first"),
        ([True, True, True], "matching", ""),
    ],
)
def test_an_object_is_lost_after_the_last_stage_that_had_a_box_for_it(
    kept: list[bool], stage: str, detail: str
) -> None:
    stages = [
        TraceStage(name, f"no {name}", np.array([one]), (f"why {name}",))
        for name, one in zip(("first", "second", "third"), kept)
    ]
    truth = Truth(np.array([OBJECT], np.float32), np.array([0]), np.array([False]))
    miss = locate(truth, 0, "car", stages, 0)
    assert (miss.stage, miss.detail) == (stage, detail)
    assert locate(truth, 0, "car", stages, None).stage == "classes"


@pytest.mark.parametrize("backend", backend_names())
@pytest.mark.parametrize("score_thresh", [0.0, 0.3])
def test_the_last_stage_of_a_backend_is_what_it_detects(backend: str, score_thresh: float) -> None:
    detector = make(
        load_backend(backend), score_thresh=score_thresh, pre_nms_top_k=20, max_detections=30
    ).eval()
    samples = [sample(seed) for seed in range(3)]
    batch = detector.prepare(samples)
    for one, stages, found in zip(samples, detector.trace(batch, 0.3), detector.detect(batch)):
        reached = iou_matrix(one.boxes.numpy(), found.boxes) >= 0.3
        reached &= one.labels.numpy()[:, None] == found.labels[None]
        assert stages[-1].kept.tolist() == reached.any(axis=1).tolist()
        assert len(stages) > 5, "it declares what its candidates are made of"


def test_misses_are_found_in_a_data_set_by_name_of_class(tmp_path: Path) -> None:
    path = tmp_path / "ü.png"
    cv2.imencode(".png", np.zeros((32, 32, 3), np.uint8))[1].tofile(path)
    # The toy finds (0, 0, 8, 8) of either class; the data set has them in another order.
    objects = (
        ObjectRecord(CLASSES[0], (0.0, 0.0, 8.0, 8.0)),
        ObjectRecord(CLASSES[1], (20.0, 20.0, 30.0, 30.0)),
        ObjectRecord("bird", (0.0, 0.0, 8.0, 8.0)),
        ObjectRecord(CLASSES[0], (9.0, 9.0, 20.0, 20.0), difficult=True),
    )
    records = {"test": [ImageRecord(path.name, path, objects)]}
    dataset = Dataset(tmp_path, "voc", ("bird", CLASSES[1], CLASSES[0]), records)
    misses = list(find_misses(make_toy(), dataset, "test", [np.zeros(4, np.bool_)]))
    assert [(miss.label, miss.stage) for miss in misses] == [
        (CLASSES[0], "matching"),
        (CLASSES[1], "candidates"),
        ("bird", "classes"),
    ]
    assert {row[0]: row[2] for row in count_by_stage(misses)} == {
        "matching": 1,
        "candidates": 1,
        "classes": 1,
    }
    assert misses_to_json(misses)["objects"][1]["box"] == [20, 20, 30, 30]
