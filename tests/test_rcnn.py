"""R-CNN's sampling, features, SVMs and box regressions, against plain loops and torchvision."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from numpy.typing import NDArray
from one_process import OneProcess
from running import detkit
from runs import run, stop_after
from toy import write_images

from detkit.config import Recipe, override
from detkit.data.demo.pictures import write_demo
from detkit.data.images import read_image
from detkit.detectors import rcnn
from detkit.detectors.rcnn import RCNN, RCNNConfig, at_most, sample_regions
from detkit.errors import DetkitError, UsageError
from detkit.geometry.boxes import iou
from detkit.inference.models import load_model, with_settings
from detkit.machine import memory_of_machine
from detkit.model_file import save_model
from detkit.networks import backbones
from detkit.networks.box_regression import box_pairs
from detkit.networks.svms import MinedSVM, SVMSettings, add_examples
from detkit.structures import Batch, Proposals, Sample

CLASSES = ("car", "dog")
SMALL = RCNNConfig(size=32, context=2, crops_per_batch=16, cache_gb=0.01)


NONE = torch.zeros(0, 4)


def make(config: RCNNConfig = SMALL) -> RCNN:
    torch.manual_seed(0)
    return RCNN(config, CLASSES).eval()


def boxes_of(seed: int, number: int, size: tuple[int, int] = (60, 90)) -> torch.Tensor:
    random = np.random.default_rng(seed)
    corners = random.uniform(0, 1, (number, 2, 2)) * (size[1] - 4, size[0] - 4)
    both = np.concatenate([corners.min(axis=1), corners.max(axis=1) + 4], axis=1)
    return torch.tensor(both, dtype=torch.float32)


def batch_of(detector: RCNN, counts: Iterable[int] = (30, 50)) -> Batch:
    """Return a batch of random images with two objects each, and proposals, some close to them."""
    samples = []
    for seed, count in enumerate(counts):
        pixels = np.random.default_rng(seed).integers(0, 255, (3, 60, 90), dtype=np.uint8)
        truths = torch.tensor([[5.0, 5, 40, 45], [45, 10, 85, 50]])
        near = truths.repeat(4, 1) + torch.randn(8, 4, generator=torch.Generator().manual_seed(9))
        samples.append(
            Sample(
                torch.from_numpy(pixels),
                truths,
                torch.tensor([seed % 2, 1]),
                torch.zeros(2, dtype=torch.bool),
                proposals=torch.cat([near, boxes_of(seed, count)]) if count else near[:0],
                image_id=f"{seed}.png",
            )
        )
    return detector.prepare(samples)


# Which proposals are judged


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_neighbours_are_judged_where_the_better_ranked_one_may_be_an_object(share: float) -> None:
    config = dataclasses.replace(SMALL, head="softmax", box_regression=False)
    every = make(dataclasses.replace(config, neighbour_thresh=1.0)).eval()
    with torch.no_grad():
        every.class_logits.weight.mul_(1000)  # so that the crops' scores differ
    batch = batch_of(every)
    with torch.no_grad():
        of_all = every.candidates(batch)
    least = float(torch.cat([one.scores.sum(dim=1) for one in of_all]).quantile(share))
    some = make(dataclasses.replace(config, neighbour_score=least)).eval()
    some.load_state_dict(every.state_dict())
    with torch.no_grad():
        found = some.candidates(batch)
    num_judged = sum(len(one.boxes) for one in found)
    assert (num_judged == 96) == (share == 0)
    for proposals, ours, theirs in zip(batch.proposals or [], found, of_all):
        assert torch.equal(theirs.boxes[:, 0], proposals)
        expected = naively_judged(proposals, theirs.scores.sum(dim=1), 0.7, least)
        rows = {tuple(box): score for box, score in zip(proposals.tolist(), theirs.scores.tolist())}
        judged = [tuple(box) for box in ours.boxes[:, 0].tolist()]
        assert sorted(judged) == sorted(tuple(proposals[row].tolist()) for row in expected)
        wanted = torch.tensor([rows[box] for box in judged])
        torch.testing.assert_close(ours.scores, wanted, rtol=1e-4, atol=1e-5)


def naively_judged(
    boxes: torch.Tensor, objectness: torch.Tensor, thresh: float, least: float
) -> list[int]:
    """Return which boxes are judged, by a loop over all pairs."""
    overlaps = iou(boxes, boxes)
    first: list[int] = []
    for row in range(len(boxes)):
        if all(overlaps[row, other] <= thresh for other in first):
            first.append(row)
    likely = [row for row in first if objectness[row] >= least]
    others = [row for row in range(len(boxes)) if row not in first]
    return first + [row for row in others if any(overlaps[row, one] > thresh for one in likely)]


# The network's input


def test_an_image_keeps_its_pixels_unless_it_is_too_large() -> None:
    assert at_most(1000, 375, 500) == (375, 500)
    assert at_most(1000, 1500, 2000) == (750, 1000)
    assert at_most(1000, 1, 3000) == (1, 1000)


def test_crops_have_the_papers_size_and_context_on_its_network() -> None:
    sizes = {name: RCNNConfig(backbone=name) for name in ("alexnet", "vgg16", "mobilenet_v2")}
    assert {name: one.crop_size for name, one in sizes.items()} == {
        "alexnet": 227,
        "vgg16": 224,
        "mobilenet_v2": 96,
    }
    assert [one.crop_context for one in sizes.values()] == [16, 16, 7]


def test_alexnets_features_are_torchvisions_pool5_and_fc7() -> None:
    torch.manual_seed(0)
    peer = torchvision.models.alexnet(weights=None).eval()
    detector = make(RCNNConfig(backbone="alexnet"))
    detector.backbone.load_classifier(peer.state_dict(), "peer")
    assert detector.box_weights.shape == (8, 9216) and detector.svm_weights.shape == (2, 4096)
    crops = torch.randn(2, 3, 227, 227)
    with torch.no_grad():
        pooled, top = detector.features(crops)
        expected = peer.features(crops)
        torch.testing.assert_close(pooled, expected.flatten(1))
        torch.testing.assert_close(top, peer.classifier[:6](expected.flatten(1)))


def test_what_stands_for_pool5_is_no_larger_than_alexnets() -> None:
    with torch.device("meta"):
        for name in backbones.backbone_names():
            if name in rcnn.CLASSIFIERS:
                continue
            detector = RCNN(RCNNConfig(backbone=name), CLASSES)
            crop = torch.zeros(2, 3, detector.config.crop_size, detector.config.crop_size)
            pooled, top = detector.eval().features(crop)
            assert pooled.shape == (2, detector.box_weights.shape[1])
            assert pooled.shape[1] <= 9216
            assert top.shape == (2, detector.svm_weights.shape[1])


# Fine-tuning


def test_a_step_learns_a_quarter_positives_of_all_images_together() -> None:
    truths = [torch.tensor([[0.0, 0, 20, 20]]), torch.tensor([[30.0, 0, 60, 30]])]
    labels = [torch.tensor([0]), torch.tensor([1])]
    near = [one + torch.rand(40, 4) for one in truths]
    far = [torch.tensor([[70.0, 40, 80, 50]]).repeat(80, 1)] * 2
    boxes = [torch.cat(pair) for pair in zip(near, far)]
    config = dataclasses.replace(SMALL, crops_per_batch=128)
    torch.manual_seed(0)
    owners, regions, targets = sample_regions(boxes, truths, labels, [NONE] * 2, config)
    assert len(regions) == 128 and int((targets > 0).sum()) == 32
    assert set(owners.tolist()) == {0, 1}
    for owner, region, target in zip(owners.tolist(), regions, targets.tolist()):
        overlap = float(iou(region[None], truths[owner]))
        assert target == (owner + 1 if overlap >= 0.5 else 0)


def test_background_fills_up_where_positives_are_few() -> None:
    truths, labels = [torch.tensor([[0.0, 0, 20, 20]])], [torch.tensor([1])]
    boxes = [torch.tensor([[50.0, 50, 60, 60]]).repeat(100, 1)]
    _, regions, targets = sample_regions(boxes, truths, labels, [NONE], SMALL)
    assert len(regions) == 16
    assert sorted(targets.tolist()) == [0] * 15 + [2]  # the ground truth itself is a region


def test_regions_in_an_ignored_object_are_no_background_unless_they_are_positive() -> None:
    truths, labels = torch.tensor([[0.0, 0, 20, 20]]), torch.tensor([1])
    positive, inside, half, less, far = (
        [1.0, 0, 20, 20],
        [0, 0, 18, 8],
        [12, 0, 32, 20],  # 10 of its 20 columns
        [13, 0, 33, 20],
        [60, 0, 80, 20],
    )
    boxes = torch.tensor([positive, inside, half, less, far])
    ignored = [torch.tensor([[0.0, 0, 22, 30]]), NONE]
    owners, regions, targets = sample_regions(
        [boxes, boxes], [truths, truths], [labels, labels], ignored, SMALL
    )
    found = [
        sorted((region, target) for owner, region, target in rows if owner == image)
        for image in (0, 1)
        for rows in [list(zip(owners.tolist(), regions.tolist(), targets.tolist()))]
    ]
    objects = [(truths[0].tolist(), 2), (positive, 2)]
    assert found[0] == sorted([*objects, (less, 0), (far, 0)])
    assert found[1] == sorted([*objects, (inside, 0), (half, 0), (less, 0), (far, 0)])


def test_the_loss_is_the_mean_cross_entropy_crop_by_crop(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = make()
    batch = batch_of(detector)
    owners = torch.tensor([0, 1, 1])
    boxes, targets = boxes_of(3, 3), torch.tensor([2, 0, 1])
    monkeypatch.setattr(rcnn, "sample_regions", lambda *_: (owners, boxes, targets))
    with torch.no_grad():
        loss = detector.losses(batch)["roi_class"]
        losses = []
        for owner, box, target in zip(owners, boxes, targets.tolist()):
            crop = detector.crops(detector._cutter(batch), owner[None], box[None])
            probs = detector.class_logits(detector.features(crop)[1]).softmax(dim=1)
            losses.append(-probs[0, target].log())
    torch.testing.assert_close(loss, torch.stack(losses).mean())


# Detection


def test_chunks_images_and_their_order_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = make()
    torch.nn.init.normal_(detector.box_weights, std=0.01)
    whole = batch_of(detector, (30, 0, 50))
    with torch.no_grad():
        together = detector.candidates(whole)
        monkeypatch.setattr(rcnn, "CHUNK", 7)
        alone = detector.candidates(whole)
    assert [len(one.scores) for one in together] == [38, 0, 58]
    for one, other in zip(together, alone):
        assert one.boxes.shape == (len(one.scores), 2, 4)
        torch.testing.assert_close(one.scores, other.scores, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(one.boxes, other.boxes, atol=1e-3, rtol=1e-4)


def test_looking_leaves_the_norms_that_are_still_to_learn() -> None:
    detector = make()
    batch = batch_of(detector)
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    with torch.no_grad():
        crops = detector.crops(detector._cutter(batch), torch.tensor([0, 1]), boxes_of(0, 2))
        twin = rcnn.without_norms(detector.backbone)
        for one, other in zip(detector.features(crops), detector.features(crops, twin)):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
        detector.candidates(batch)
    assert before.keys() == detector.state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())


def test_probabilities_stand_in_until_there_are_svms() -> None:
    detector = make()
    top = torch.randn(5, detector.svm_weights.shape[1])
    with torch.no_grad():
        probs = detector.class_logits(top).softmax(dim=1)[:, 1:]
        torch.testing.assert_close(detector.scores(top), probs)
        torch.nn.init.normal_(detector.svm_weights)
        detector.svm_biases.fill_(-0.5)
        detector.svm_fitted.fill_(True)
        margins = top @ detector.svm_weights.T - 0.5
        torch.testing.assert_close(detector.scores(top), margins)
        detector.config = dataclasses.replace(detector.config, head="softmax")
        torch.testing.assert_close(detector.scores(top), probs)


def test_both_heads_judge_one_pass_as_each_would_alone() -> None:
    detector = make()
    torch.nn.init.normal_(detector.svm_weights)
    torch.nn.init.normal_(detector.box_weights, std=1e-4)
    batch = batch_of(detector)
    assert list(detector.detect_by_head(batch)) == ["softmax"]  # no SVMs yet
    detector.svm_fitted.fill_(True)
    own = detector.config
    for order in (("svm", "softmax"), ("softmax", "svm")):
        detector.config = dataclasses.replace(own, head=order[0])  # type: ignore[arg-type]
        by_head = detector.detect_by_head(batch)
        assert tuple(by_head) == order
        for head, found in by_head.items():
            detector.config = dataclasses.replace(own, head=head)  # type: ignore[arg-type]
            for one, alone in zip(found, detector.detect(batch), strict=True):
                np.testing.assert_array_equal(one.scores, alone.scores)
                np.testing.assert_array_equal(one.boxes, alone.boxes)


def test_without_proposals_the_error_says_so() -> None:
    detector = make()
    bare = dataclasses.replace(batch_of(detector), proposals=None)
    with pytest.raises(DetkitError, match="no proposals beside them"):
        detector.losses(bare)


# SVMs and box regressions


class Recording(MinedSVM):
    """Remembers what it was given."""

    given: list[tuple[NDArray[np.float32], NDArray[np.float32]]]

    def add(self, positives: NDArray[np.float32], negatives: NDArray[np.float32]) -> None:
        self.given = [*getattr(self, "given", []), (positives, negatives)]


def test_positives_are_the_truths_and_negatives_what_overlaps_none_of_their_class() -> None:
    truths = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40]])
    boxes = torch.cat([truths, boxes_of(0, 60, (45, 45)), truths + 1, truths + 4])
    features = np.arange(len(boxes), dtype=np.float32)[:, None]
    settings = SVMSettings(
        c=1, positive_weight=1, bias_scale=1, hard_margin=-1, easy_margin=-2, retrain_after=9
    )
    svms = [Recording(settings, 1, 100) for _ in range(3)]
    add_examples(dict(enumerate(svms)), features, np.array([0, 2]), iou(truths, boxes).numpy(), 0.3)
    for number, svm in enumerate(svms):
        ((positives, negatives),) = svm.given
        of_class = [k for k, label in enumerate((0, 2)) if label == number]
        assert positives[:, 0].tolist() == of_class
        expected = [
            row
            for row, box in enumerate(boxes)
            if all(float(iou(truths[k : k + 1], box[None])) < 0.3 for k in of_class)
        ]
        assert negatives[:, 0].tolist() == expected


def test_no_svm_takes_a_region_in_an_ignored_object_for_a_negative(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    detector = make()
    batch = batch_of(detector, (40, 40))
    # The second object of the first image, which reaches from x = 45 to 85 and y = 10 to 50.
    ignored = batch.boxes[0][1:]
    batch = dataclasses.replace(
        batch,
        boxes=[batch.boxes[0][:1], batch.boxes[1]],
        labels=[batch.labels[0][:1], batch.labels[1]],
        ignored=[ignored, NONE],
    )
    judged: list[list[list[float]]] = []
    features_of = detector._features_of

    def record(batch: Batch, regions: Sequence[torch.Tensor], *, pooled: bool) -> Any:
        judged.extend(one.tolist() for one in regions)
        return features_of(batch, regions, pooled=pooled)

    monkeypatch.setattr(detector, "_features_of", record)
    list(detector.fit_svms(OneProcess([batch])))
    assert batch.proposals is not None
    wanted = []
    for x1, y1, x2, y2 in batch.proposals[0].tolist():
        both = max(0, min(x2, 85) - max(x1, 45)) * max(0, min(y2, 50) - max(y1, 10))
        if both < 0.5 * (x2 - x1) * (y2 - y1):
            wanted.append([x1, y1, x2, y2])
    assert len(wanted) < len(batch.proposals[0])
    # First the positives of all images, then what negatives are taken from.
    assert judged[:2] == [one.tolist() for one in batch.boxes]
    assert sorted(judged[2]) == sorted([*batch.boxes[0].tolist(), *wanted])
    assert sorted(judged[3]) == sorted([*batch.boxes[1].tolist(), *batch.proposals[1].tolist()])
    # A box regression learns from the proposals of an object, whatever else they lie in.
    judged.clear()
    list(detector.fit_boxes(OneProcess([batch])))
    bare = dataclasses.replace(batch, ignored=[])
    list(detector.fit_boxes(OneProcess([bare])))
    assert judged[0] and judged[:2] == judged[2:]


def test_a_class_without_examples_is_never_found() -> None:
    detector = RCNN(SMALL, ("car", "dog", "unicorn")).eval()
    list(detector.fit_svms(OneProcess([batch_of(detector)])))
    assert bool(detector.svm_fitted.all())
    with torch.no_grad():
        found = detector.candidates(batch_of(detector))[0]
    assert (found.scores[:, 2] < detector.config.score_thresh).all()
    assert (found.scores[:, :2] > -5).all()


def margins(detector: RCNN, batch: Batch, boxes: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the SVMs' (P, C) margins of all images' boxes."""
    return detector.scores(detector._features_of(batch, boxes, pooled=False))


def test_svms_tell_the_truths_from_what_lies_elsewhere() -> None:
    config = dataclasses.replace(SMALL, svm_c=1.0)
    detector = make(config)
    batch = batch_of(detector)
    figures = list(detector.fit_svms(OneProcess([batch] * 2)))
    assert [one["positives"] for one in figures] == [8.0, 8.0]  # those of all images come first
    with torch.no_grad():
        own = margins(detector, batch, batch.boxes)[torch.arange(4), torch.cat(batch.labels)]
        far = [p[iou(t, p).amax(dim=0) < 0.1] for t, p in zip(batch.boxes, batch.proposals or [])]
        others = margins(detector, batch, far)
    assert own.min() > others.max()


def test_a_first_batch_without_any_region_does_not_spoil_the_svms() -> None:
    detector = make()
    batch = batch_of(detector)
    bare = dataclasses.replace(
        batch,
        boxes=[one[:0] for one in batch.boxes],
        labels=[one[:0] for one in batch.labels],
        proposals=[one[:0] for one in batch.proposals or []],
    )
    torch.manual_seed(0)
    list(detector.fit_svms(OneProcess([bare, batch])))
    assert bool(detector.svm_fitted.all()) and bool(detector.svm_weights.any())
    alone = make()
    torch.manual_seed(0)
    list(alone.fit_svms(OneProcess([batch])))
    torch.testing.assert_close(detector.svm_weights, alone.svm_weights, rtol=0, atol=0)
    list(detector.fit_svms(OneProcess([bare])))
    assert not detector.svm_fitted.any()  # so that the softmax classifier judges


def test_what_the_memory_has_no_room_for_is_among_the_figures() -> None:
    detector = make(dataclasses.replace(SMALL, cache_gb=1e-9))  # room for 64 examples a class
    batch = batch_of(detector)
    crowded = dataclasses.replace(
        batch,
        boxes=[one.repeat(40, 1) for one in batch.boxes],
        labels=[one.repeat(40) for one in batch.labels],
    )
    (svm,) = detector.fit_svms(OneProcess([crowded]))
    assert svm["positives"] + svm["positives_left_out"] == 160
    assert svm["positives"] == 64  # half of the room of two classes
    figures = list(detector.fit_boxes(OneProcess([batch] * 40)))
    assert "pairs_left_out" not in figures[0]
    assert figures[-1]["pairs"] + figures[-1]["pairs_left_out"] == 40 * figures[0]["pairs"]


def test_fitted_boxes_lie_closer_to_the_truths_than_the_proposals() -> None:
    config = dataclasses.replace(SMALL, ridge_penalty=0.1)
    detector = make(config)
    batch = batch_of(detector)
    assert batch.proposals is not None

    def overlaps() -> list[float]:
        with torch.no_grad():
            found = detector.candidates(batch)
        return [
            float(iou(truths[k : k + 1], one.boxes[k:8:2, label])[0].mean())
            for truths, labels, one in zip(batch.boxes, batch.labels, found)
            for k, label in enumerate(labels.tolist())
        ]

    before = overlaps()
    figures = list(detector.fit_boxes(OneProcess([batch])))
    near = [
        iou(t, torch.cat([t, p])).amax(dim=0) >= 0.6 for t, p in zip(batch.boxes, batch.proposals)
    ]
    assert figures == [{"pairs": float(torch.cat(near).sum())}]
    assert all(after > first for after, first in zip(overlaps(), before))
    detector.config = dataclasses.replace(config, box_regression=False)
    assert overlaps() == pytest.approx(before)


def test_a_box_learns_the_truth_it_overlaps_most_and_by_more_than_the_threshold() -> None:
    truths = torch.tensor([[0.0, 0, 10, 10], [100, 0, 110, 10]])
    proposals = torch.tensor(
        [
            [0.0, 0, 10, 6],  # IoU .6, which is not above it
            [0, 0, 10, 7],  # .7
            [102, 0, 110, 10],  # .8 with the second
            [50, 50, 60, 60],  # none
        ]
    )
    regions, classes, deltas = box_pairs(proposals, truths, torch.tensor([4, 7]), 0.6)
    # The truths themselves, which learn to stay, and the two proposals near one.
    assert regions.tolist() == [*truths.tolist(), *proposals[1:3].tolist()]
    assert classes.tolist() == [4, 7, 4, 7]
    # Eqs. 6-9: (5 - 3.5) / 7 down and 10 / 7 as high; (105 - 106) / 8 left and 10 / 8 as wide.
    expected = [[0.0] * 4] * 2 + [[0, 1.5 / 7, 0, np.log(10 / 7)], [-1 / 8, 0, np.log(10 / 8), 0]]
    np.testing.assert_allclose(deltas.numpy(), expected, rtol=1e-5, atol=1e-6)
    for nothing in box_pairs(proposals, truths[:0], torch.zeros(0, dtype=torch.int64), 0.6):
        assert len(nothing) == 0


def test_a_pass_without_any_pair_moves_no_box() -> None:
    detector = make()
    batch = batch_of(detector, (0,))
    bare = dataclasses.replace(
        batch,
        boxes=[one[:0] for one in batch.boxes],
        labels=[one[:0] for one in batch.labels],
    )
    assert list(detector.fit_boxes(OneProcess([bare]))) == [{"pairs": 0.0}]
    assert not detector.box_weights.any() and not detector.box_biases.any()


def test_features_may_take_a_quarter_of_the_memory_unless_it_is_said() -> None:
    suited = RCNN.suited_config(RCNNConfig(), [])
    assert suited.cache_gb == pytest.approx(memory_of_machine() / 4 / 2**30, abs=0.01)
    assert RCNN.suited_config(RCNNConfig(cache_gb=2.5), []).cache_gb == 2.5


# Settings and stages


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({}, ["fine-tune", "svm", "boxes"]),
        ({"head": "softmax"}, ["fine-tune", "boxes"]),
        ({"head": "softmax", "box_regression": "no"}, ["fine-tune"]),
        ({"box_regression": "no"}, ["fine-tune", "svm"]),
    ],
)
def test_stages_follow_from_the_head(settings: dict[str, str], names: list[str]) -> None:
    config, recipe = override(SMALL, RCNN.short_recipe, settings)
    assert isinstance(config, RCNNConfig)
    assert [stage.name for stage in make(config).stages(recipe)] == names


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"context": "16"}, "a crop must be larger than the context"),
        ({"crops_per_batch": "0"}, "crops_per_batch=0: must be above 0"),
        ({"ridge_thresh": "1.5"}, "ridge_thresh=1.5"),
        ({"nms_method": "soft"}, "add --set head=softmax"),
        ({"nms_method": "soft-linear"}, "nms_method=soft-linear: multiplies scores"),
        ({"svm_easy_margin": "0"}, "must not be above svm_hard_margin"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, str], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        override(SMALL, Recipe(), settings)


def test_margins_may_be_cut_anywhere() -> None:
    config, _ = override(SMALL, Recipe(), {"score_thresh": "-0.7"})
    assert config.score_thresh == -0.7


def test_a_trained_model_takes_other_settings_that_leave_its_weights_as_they_are() -> None:
    detector = make()
    torch.nn.init.normal_(detector.svm_weights)
    detector.svm_fitted.fill_(True)
    other = with_settings(detector, ["head=softmax", "nms_thresh=.4"])
    assert isinstance(other, RCNN) and not other.training
    assert (other.config.head, other.config.nms_thresh) == ("softmax", 0.4)
    top = torch.randn(3, detector.svm_weights.shape[1])
    with torch.no_grad():
        torch.testing.assert_close(detector.scores(top), top @ detector.svm_weights.T)
        torch.testing.assert_close(
            other.scores(top), detector.class_logits(top).softmax(dim=1)[:, 1:]
        )


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("size=96", "makes another network of it than was trained"),
        ("lr=.1", "no setting of rcnn"),
        ("haed=svm", "did you mean head"),
        ("head=forest", "choose from svm, softmax"),
    ],
)
def test_a_setting_that_a_trained_model_cannot_take_is_refused(word: str, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        with_settings(make(), [word])


class AnyBoxes:
    """A source of random proposals."""

    identity = "by chance"

    def __call__(self, name: str, image: NDArray[np.uint8]) -> Proposals:
        boxes = boxes_of(1, 25, (image.shape[0], image.shape[1])).numpy()
        return Proposals(boxes, np.linspace(1, 0, len(boxes), dtype=np.float32))

    def of_file(self, path: Path) -> Proposals:
        return self(str(path), read_image(path))

    def require(self, names: Iterable[str]) -> None:
        pass


def test_a_run_fine_tunes_then_fits_and_goes_on_after_an_interruption(tmp_path: Path) -> None:
    records = write_images(tmp_path / "images")
    recipe = Recipe(batch_size=4, max_steps=2, lr=1e-3)
    options = {"recipe": recipe, "proposals": AnyBoxes()}
    stopped = stop_after(run(records, tmp_path / "run", toy=make(), **options), 3)
    assert [step.stage for step in stopped] == ["fine-tune"] * 2 + ["svm"]
    rest = list(run(records, tmp_path / "run", toy=make(), resume=True, **options))
    assert [step.stage for step in rest] == ["svm"] * 3 + ["boxes"] * 3
    assert rest[2].figures["positives"] == sum(len(record.objects) for record in records)
    model = load_model(tmp_path / "run" / "best.safetensors")
    assert isinstance(model, RCNN) and bool(model.svm_fitted.all())


def test_eval_scores_both_heads_of_a_model_as_it_scores_each_alone(tmp_path: Path) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    write_demo(data, num_images=6)
    few = ["--set", "max_proposals=40", "--set", "size=32"]
    trained = detkit("train", data, "--model", "rcnn", *few, "--max-steps", "3", "-o", run, "-q")
    assert trained.returncode == 0, trained.stderr
    model, words = run / "last.safetensors", [data, "--split", "train", "--json", "-q"]
    both = json.loads(detkit("eval", model, *words, "--heads").stdout)
    assert list(both["heads"]) == ["svm", "softmax"]
    for head, scores in both["heads"].items():
        alone = json.loads(detkit("eval", model, *words, "--set", f"head={head}").stdout)
        assert scores["mAP"] == alone["mAP"] and scores["classes"] == alone["classes"]
    assert both["mAP"] == both["heads"]["svm"]["mAP"]
    table = detkit("eval", model, data, "--split", "train", "--heads", "-q").stdout
    assert "by head, on the same features" in table
    softmax = detkit("eval", model, *words, "--heads", "--set", "head=softmax").stdout
    assert list(json.loads(softmax)["heads"]) == ["softmax", "svm"]


def test_heads_are_refused_of_a_model_with_one(tmp_path: Path) -> None:
    write_demo(tmp_path / "data", num_images=6)
    save_model(tmp_path / "m.safetensors", make(), data_hash=None, scores=None)
    done = detkit("eval", tmp_path / "m.safetensors", tmp_path / "data", "--heads")
    assert done.returncode == 2
    assert "m.safetensors has one head only" in done.stderr
