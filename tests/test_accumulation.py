"""Tests of gradients added up from the parts of a batch: equal to those of the whole of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from judged import ALL_JUDGED
from runs import run, stop_after
from test_contract import make, sample
from torch import Tensor
from toy import RECIPE, make_toy, write_images

from detkit.detector import Detector
from detkit.detectors import load_backend
from detkit.errors import DetkitError, UsageError
from detkit.structures import Batch
from detkit.training.accumulation import part_weights, parts_of
from detkit.training.learner import Learner, make_fabric

OBJECTS = (2, 0, 1, 2)  # of four images: their parts have unequally many


def gradients(detector: Detector, batch: Batch, parts: int) -> tuple[dict[str, float], Tensor]:
    """Return the losses and the gradient of a step in `parts` parts, as the learner has them."""
    recipe = replace(detector.short_recipe, batch_size=len(batch), accumulate=parts, ema_decay=0)
    fabric = make_fabric(torch.device("cpu"), 1, 1, "32-true")
    learner = Learner(fabric, detector, recipe, "32-true")
    detector.eval()  # no dropout, no norms over the batch, no object of a cell by chance
    losses = learner.gradients(batch)
    found = [one.grad.flatten() for one in detector.parameters() if one.grad is not None]
    return losses, torch.cat(found)


@pytest.mark.parametrize("parts", [2, 3, 4])
@pytest.mark.parametrize("name", ["fast-rcnn", "faster-rcnn", "rcnn", "ssd", "yolov1"])
def test_the_parts_of_a_batch_have_the_gradients_of_the_whole(name: str, parts: int) -> None:
    settings = dict(ALL_JUDGED)  # else regions are drawn by chance
    images = [sample(seed, objects=number) for seed, number in enumerate(OBJECTS)]
    if name == "faster-rcnn":
        settings["size"] = 64  # its head judges all anchors that NMS leaves
        images = [sample(3)] * 4  # means over images, as Caffe's iter_size: alike where these are
    detector = make(load_backend(name), **settings)
    batch = detector.prepare(images)
    (whole, expected), (losses, found) = (gradients(detector, batch, n) for n in (1, parts))
    assert losses == pytest.approx(whole, rel=1e-4)
    assert expected.abs().max() > 0
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_without_weights_the_parts_of_ssd_would_not_have_them() -> None:
    detector = make(load_backend("ssd"), **ALL_JUDGED)
    batch = detector.prepare([sample(seed, objects=n) for seed, n in enumerate(OBJECTS)])
    whole, _ = gradients(detector, batch, 1)
    with torch.no_grad():
        plain = [float(detector(part)["box"]) for part in parts_of(batch, 4)]
    assert sum(plain) / 4 != pytest.approx(whole["box"], rel=0.05)


def test_a_part_of_rcnns_batch_has_its_share_of_the_crops() -> None:
    detector = make(load_backend("rcnn"), crops_per_batch=32)
    batch = detector.prepare([sample(seed) for seed in range(4)])
    parts = parts_of(batch, 2)
    assert part_weights(detector, parts) == [{"": 0.5, "roi_class": 0.5}] * 2
    detector.batch_share = 0.5
    owners, _, targets = detector.sample(parts[1])  # type: ignore[operator]
    assert len(targets) == 16 and (targets > 0).sum() <= 4 and set(owners.tolist()) == {0, 1}


def test_parts_are_runs_of_images_and_none_is_empty() -> None:
    detector = make(load_backend("fast-rcnn"))
    batch = detector.prepare([sample(seed, size=(80 + seed, 120)) for seed in range(5)])
    parts = parts_of(batch, 3)
    assert [part.image_ids for part in parts] == [
        ["0.jpg", "1.jpg"],
        ["2.jpg", "3.jpg"],
        ["4.jpg"],
    ]
    assert torch.equal(torch.cat([part.images for part in parts]), batch.images)
    assert [len(part.proposals or []) for part in parts] == [2, 2, 1]
    assert len(parts_of(batch, 9)) == 5


def test_weights_leave_chance_as_it_was_and_are_shares() -> None:
    detector = make(load_backend("fast-rcnn"))
    parts = parts_of(detector.prepare([sample(0), sample(1, objects=0)]), 2)
    torch.manual_seed(5)
    before = torch.rand(1)
    torch.manual_seed(5)
    weights = part_weights(detector, parts)
    assert torch.equal(torch.rand(1), before)
    assert sum(one["roi_class"] for one in weights) == pytest.approx(1)


def test_a_run_in_parts_is_resumed_to_the_bit_and_not_with_other_parts(tmp_path: Path) -> None:
    records = write_images(tmp_path / "images")
    recipe = replace(RECIPE, accumulate=2)
    whole = make_toy()
    list(run(records, tmp_path / "whole", toy=whole, recipe=recipe))
    stop_after(run(records, tmp_path / "cut", toy=make_toy(), recipe=recipe), 3)
    again = make_toy(1)
    resumed = [
        one.step for one in run(records, tmp_path / "cut", toy=again, recipe=recipe, resume=True)
    ]
    assert resumed[-1] == 8
    for one, other in zip(again.state_dict().values(), whole.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(UsageError, match="accumulate 2, not"):
        list(run(records, tmp_path / "cut", toy=make_toy(), recipe=RECIPE, resume=True))


def test_more_parts_than_images_are_refused(tmp_path: Path) -> None:
    records = write_images(tmp_path / "images")
    with pytest.raises(UsageError, match=r"accumulate=5: a step has 4 images a device"):
        list(run(records, tmp_path / "run", recipe=replace(RECIPE, accumulate=5)))


def test_out_of_memory_advises_more_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records, toy = write_images(tmp_path / "images"), make_toy()
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
    seen = []

    def losses(batch: Batch) -> dict[str, Tensor]:
        seen.append(len(batch))
        raise error

    monkeypatch.setattr(toy, "losses", losses)
    with pytest.raises(DetkitError, match="in 2 parts; try --set accumulate=4 .* or --batch-size"):
        list(run(records, tmp_path / "run", toy=toy, recipe=replace(RECIPE, accumulate=2)))
    assert seen == [2]  # images at once
