"""Tests of where a detector's proposals come from, in training, detection and evaluation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import pytest
import torch
from given_boxes import RECIPE, GivenBoxes, GivenBoxesConfig
from numpy.typing import NDArray
from runs import assert_same, stop_after
from toy import CLASSES, FixedSize, make_toy, write_images

from detkit.data.records import Dataset, ImageRecord
from detkit.errors import DetkitError, UsageError
from detkit.evaluation.evaluate import evaluate
from detkit.inference.predict import detect_images, predict
from detkit.proposals import proposer
from detkit.proposals.cache import ProposalCache
from detkit.proposals.proposer import EdgeSearch, Proposer
from detkit.proposals.reader import line_of, read_proposals
from detkit.proposals.source import (
    ComputedProposals,
    FileProposals,
    config_for,
    open_source,
    source_for,
)
from detkit.structures import Proposals
from detkit.training.dataset import KeptSize, TrainingDataset
from detkit.training.options import RunOptions
from detkit.training.resume import load_resume
from detkit.training.train import train

RANKED = np.array([[4, 6, 20, 30], [0, 0, 48, 40], [10, 10, 12, 39]], np.float32)
SCORES = np.array([0.9, 0.5, 0.1], np.float32)


@pytest.fixture(autouse=True)
def no_cache_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETKIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Replace the methods by three boxes; return what they were asked for."""
    calls: list[tuple[str, int]] = []

    def stand_in(method: str, image: NDArray[np.uint8], **parameters: object) -> Proposals:
        calls.append((method, int(image[0, 0, 0])))
        most = parameters["max_boxes"]
        assert isinstance(most, int)
        return Proposals(RANKED[:most], SCORES[:most])

    monkeypatch.setattr(proposer, "propose", stand_in)
    return calls


@pytest.fixture
def records(tmp_path: Path) -> list[ImageRecord]:
    return write_images(tmp_path / "bïlder", count=6)


def make(**settings: object) -> GivenBoxes:
    torch.manual_seed(0)
    return GivenBoxes(GivenBoxesConfig(**settings), CLASSES)


def run(
    records: list[ImageRecord], folder: Path, detector: GivenBoxes | None = None, **options: object
):  # type: ignore[no-untyped-def]
    options = {"device": "cpu", "precision": "32-true", "num_workers": 0, **options}
    return train(detector or make(), records, RECIPE, folder, RunOptions(**options))


def write_file(path: Path, images: list[str], boxes: NDArray[np.float32] = RANKED, **made: object):  # type: ignore[no-untyped-def]
    found = Proposals(boxes, SCORES[: len(boxes)])
    path.write_text(
        "".join(f"{line_of(name, (40, 48), found, made)}\n" for name in images), encoding="utf-8"
    )
    return path


def test_training_proposes_once_an_image_whatever_the_number_of_epochs(
    records: list[ImageRecord], tmp_path: Path, asked: list[tuple[str, int]]
) -> None:
    steps = list(run(records, tmp_path / "run", epochs=5))
    assert len(asked) == len(records) and {method for method, _ in asked} == {"selective-search"}
    assert any("3 proposals an image" in note for step in steps for note in step.notes)
    list(run(records, tmp_path / "again", epochs=1))
    assert len(asked) == len(records)  # they were in the cache


def test_an_edge_model_is_hashed_once_however_many_images_there_are(
    tmp_path: Path, asked: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model.yml.gz"
    model.write_bytes(b"")
    monkeypatch.setattr(cv2, "ximgproc", mock.Mock(), raising=False)
    read = mock.Mock(wraps=proposer.sha256_of)
    monkeypatch.setattr(proposer, "sha256_of", read)
    source = ComputedProposals(Proposer("edge-boxes", edge_model=model), ProposalCache())
    for grey in range(3):
        source("a.png", np.full((40, 48, 3), grey, np.uint8))
    assert "edge_model e3b0c44298fc1c14" in source.identity  # SHA-256 of nothing
    assert read.call_count == 1 and len(asked) == 3


def test_samples_have_the_proposals_of_their_image_in_its_decoded_pixels(
    records: list[ImageRecord], asked: list[tuple[str, int]]
) -> None:
    source = ComputedProposals(Proposer("edge-boxes"), ProposalCache())
    plain = TrainingDataset(records, CLASSES, proposals=source)
    found = plain[0].proposals  # without filling, as it is asked for
    assert found is not None and found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy(), RANKED)
    shrunk = TrainingDataset(records, CLASSES, KeptSize(FixedSize(), most=24), source)
    assert "3 proposals an image" in shrunk.fill_proposals()
    halved = shrunk[1]
    assert halved.image.shape == (3, 20, 24) and halved.proposals is not None
    np.testing.assert_array_equal(halved.proposals.numpy(), RANKED / 2)
    assert TrainingDataset(records, CLASSES)[0].proposals is None


def test_a_stopped_and_resumed_run_ends_with_the_same_bits(
    records: list[ImageRecord], tmp_path: Path, asked: list[tuple[str, int]]
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    list(run(records, whole, max_steps=6))
    stop_after(run(records, parts, max_steps=6), 3)
    list(run(records, parts, max_steps=6, resume=True))
    ends = [load_resume(folder / "resume.ckpt")["model"] for folder in (whole, parts)]
    assert_same(*ends)


def test_a_run_does_not_go_on_with_other_proposals(
    records: list[ImageRecord], tmp_path: Path, asked: list[tuple[str, int]]
) -> None:
    stop_after(run(records, tmp_path / "run"), 2)
    other = open_source("edge-boxes", GivenBoxesConfig())
    with pytest.raises(UsageError, match="started with proposals from"):
        list(run(records, tmp_path / "run", resume=True, proposals=other))


def test_detection_proposes_on_the_fly_as_the_model_was_trained(
    records: list[ImageRecord], asked: list[tuple[str, int]]
) -> None:
    detector = make(proposals="selective-search-quality", max_proposals=2, score_thresh=0.0)
    timing: dict[str, float] = {}
    (found,) = predict(detector, [records[0].path], nms_thresh=1.0, timing=timing)
    assert [method for method, _ in asked] == ["selective-search-quality"]
    assert {tuple(box) for box in found.boxes.round(3).tolist()} == {
        tuple(box) for box in RANKED[:2].tolist()
    }
    stages = ["decode", "propose", "prepare", "network", "features", "selection"]
    assert list(timing) == stages and min(timing.values()) > 0


def test_a_detector_is_judged_on_proposals_of_a_file(
    records: list[ImageRecord], tmp_path: Path, asked: list[tuple[str, int]]
) -> None:
    file = write_file(tmp_path / "p.jsonl", [record.image_id for record in records], RANKED[:1])
    dataset = Dataset(tmp_path, "voc", CLASSES, {"test": tuple(records)})
    source = open_source(str(file), GivenBoxesConfig())
    scores = evaluate(make(score_thresh=0.0), dataset, "test", proposals=source)
    assert not asked and scores.num_images == len(records)
    assert {one.num_detections for one in scores.classes} == {len(records)}  # one box an image


def test_an_image_that_the_file_does_not_hold_is_named_before_anything_is_done(
    records: list[ImageRecord], tmp_path: Path
) -> None:
    file = write_file(tmp_path / "p.jsonl", [record.image_id for record in records[:-1]])
    source = open_source(str(file), GivenBoxesConfig())
    dataset = Dataset(tmp_path, "voc", CLASSES, {"test": tuple(records)})
    missing = r"p\.jsonl: holds no proposals for .*bïld-5\.png \(of its 5 images"
    with pytest.raises(DetkitError, match=missing):
        evaluate(make(), dataset, "test", proposals=source)
    with pytest.raises(DetkitError, match=missing):
        list(run(records, tmp_path / "run", proposals=source))
    (found,) = detect_images(make(), [records[-1].path], proposals=source)
    assert "holds no proposals" in str(found.predictions.error)


def test_images_of_the_same_name_in_two_folders_are_told_apart(tmp_path: Path) -> None:
    file = write_file(tmp_path / "p.jsonl", ["x/train/a.png", "x/val/a.png", "x/val/b.png"])
    source = FileProposals.of(read_proposals(file))
    blank = np.zeros((40, 48, 3), np.uint8)
    for name in ("x/val/a.png", "/elsewhere/x/train/a.png", "val/a.png", "b", "y/b.jpg"):
        assert len(source(name, blank).boxes) == 3
    with pytest.raises(DetkitError, match="may be those of x/train/a.png or of x/val/a.png"):
        source("a.png", blank)


def test_proposals_of_an_image_of_another_size_are_refused(tmp_path: Path) -> None:
    source = FileProposals.of(read_proposals(write_file(tmp_path / "p.jsonl", ["a.png"])))
    with pytest.raises(DetkitError, match="are of 48 x 40 pixels, a.png has 96 x 80"):
        source("a.png", np.zeros((80, 96, 3), np.uint8))


def test_boxes_of_a_file_are_cut_to_the_image_and_to_the_number_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    boxes = [[-5, -5, 20, 20], [47.5, 0, 60, 40], [2, 3, 9, 9], [1, 1, 5, 5]]
    lines = [{"image": "a.png", "boxes": boxes}, {"image": "b.png", "boxes": [[20, 20, 30, 30]]}]
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    source = FileProposals.of(read_proposals(file), max_boxes=2)
    found = source("a.png", np.zeros((40, 48, 3), np.uint8))
    assert found.boxes.tolist() == [[0, 0, 20, 20], [2, 3, 9, 9]]
    with pytest.raises(DetkitError, match="no box of b.png lies in its 1 x 1 pixels"):
        source("b.png", np.zeros((1, 1, 3), np.uint8))


def test_a_file_of_our_own_method_is_put_down_as_that_method(tmp_path: Path) -> None:
    made = Proposer("edge-boxes", max_boxes=300, max_side=0).parameters
    ours = open_source(str(write_file(tmp_path / "ours.jsonl", ["a.png"], **made)))
    config = config_for(GivenBoxesConfig(), ours)
    assert (config.proposals, config.max_proposals, config.proposal_side) == ("edge-boxes", 300, 0)
    assert Proposer.of(config).parameters == made
    edges = EdgeSearch(0.7, 0.8, 0.9, 0.1, 100, 4)
    search = Proposer("selective-search-quality", 300, 400, 5, min_side=20, scaling="width")
    for mine in (Proposer("edge-boxes", edges=edges), search):
        file = write_file(tmp_path / "mine.jsonl", ["a.png"], **mine.parameters)
        config = config_for(GivenBoxesConfig(), open_source(str(file)))
        assert Proposer.of(config) == mine
    less = replace(GivenBoxesConfig(), max_proposals=7)
    assert config_for(less, ours).max_proposals == 7
    others = (
        *({"version": 99}, {"version": 1}, {"edge_model": "abc"}, {"max_boxes": True}),
        *({"min_area": 1.0}, {"alpha": "high"}, {"unknown": 3}, {"max_side": -1}),
    )
    for other in ({}, *({**made, **one} for one in others)):
        file = write_file(tmp_path / "theirs.jsonl", ["a.png"], **other)
        assert config_for(GivenBoxesConfig(), open_source(str(file))).proposals == "file"


def test_a_model_trained_on_a_file_asks_for_one() -> None:
    with pytest.raises(UsageError, match="judges proposals from a file: .* by --proposals FILE"):
        source_for(make(proposals="file"))


def test_a_detector_that_finds_its_boxes_itself_gets_none() -> None:
    toy = make_toy()
    assert source_for(toy) is None
    with pytest.raises(UsageError, match="toy takes none"):
        source_for(toy, open_source("edge-boxes"))


def test_what_is_neither_a_method_nor_a_file_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="--proposals slective: no such file, nor a method"):
        open_source("slective")


@pytest.mark.parametrize(
    "wrong", [{"max_proposals": 0}, {"proposal_side": -1}, {"proposal_seed": -1}]
)
def test_settings_no_proposals_can_be_made_with_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        replace(GivenBoxesConfig(), **wrong).validate()
