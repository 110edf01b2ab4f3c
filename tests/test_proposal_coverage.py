"""What proposals offer to learn, on numbers worked by hand and through the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from running import process

from detkit.data.demo.pictures import write_demo
from detkit.data.images import write_image
from detkit.data.records import ImageRecord, ObjectRecord
from detkit.errors import DetkitError
from detkit.proposals.reader import read_proposals
from detkit.proposals.source import FileProposals
from detkit.training.dataset import TrainingDataset, coverage


def write_proposals(path: Path, boxes: dict[str, list[list[int]]]) -> Path:
    lines = [{"image": name, "boxes": found} for name, found in boxes.items()]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    return path


def test_the_share_of_objects_with_a_proposal_to_learn_from_is_told() -> None:
    line = coverage(torch.tensor([0.5, 0.49, 0.9, 0.0]), torch.tensor([0.9, 0.5, 0.1]), 0.5)
    assert line == "2 of 4 objects (50.0%) have a proposal with an IoU of 0.5 and more"


def test_nothing_is_told_of_images_without_objects() -> None:
    assert coverage(torch.zeros(0), torch.zeros(0), 0.5) == ""


def test_where_no_proposal_can_be_positive_the_error_counts_those_that_reach_less() -> None:
    of_proposals = torch.tensor([0.39, 0.25, 0.2, 0.15, 0.05])
    with pytest.raises(DetkitError) as raised:
        coverage(torch.tensor([0.39, 0.1]), of_proposals, 0.4)
    text = str(raised.value)
    assert "none of 5 proposals has an IoU of 0.4 with one of 2 objects; the best has 0.39" in text
    assert "at least so much: 4 of 0.1, 3 of 0.2, 1 of 0.3;" in text
    assert "--set positive_thresh" in text and "--proposals FILE" in text


def test_overlaps_are_each_objects_and_each_proposals_best_in_its_own_image(
    tmp_path: Path,
) -> None:
    records = [
        ImageRecord(
            "a",
            tmp_path / "a.png",
            (ObjectRecord("x", (0.0, 0.0, 10.0, 10.0)), ObjectRecord("x", (20.0, 0.0, 30.0, 10.0))),
        ),
        ImageRecord("b", tmp_path / "b.png", ()),
    ]
    for record in records:
        write_image(record.path, np.zeros((20, 40, 3), np.uint8))
    given = {"a.png": [[0, 0, 10, 5], [0, 0, 10, 10], [30, 10, 40, 20]], "b.png": [[0, 0, 10, 10]]}
    file = write_proposals(tmp_path / "p.jsonl", given)
    images = TrainingDataset(records, ["x"], 0, FileProposals.of(read_proposals(file)))
    images.fill_proposals()
    of_objects, of_proposals = images.proposal_overlaps()
    assert of_objects.tolist() == [1.0, 0.0]
    assert of_proposals.tolist() == [0.5, 1.0, 0.0]  # b has no object that one could be near


@pytest.mark.parametrize("model", ["rcnn", "fast-rcnn"])
def test_a_training_without_a_positive_proposal_ends_before_its_first_step(
    tmp_path: Path, model: str
) -> None:
    write_demo(tmp_path / "data", num_images=6)
    names = [path.name for path in (tmp_path / "data" / "JPEGImages").iterdir()]
    file = write_proposals(tmp_path / "p.jsonl", {name: [[0, 0, 2, 2]] for name in names})
    run = tmp_path / "run"
    done = process(
        "train", tmp_path / "data", "--model", model, "--proposals", file, "-o", run, "-q"
    )
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "nothing to learn from: none of" in done.stderr
    assert not (run / "last.safetensors").exists()
