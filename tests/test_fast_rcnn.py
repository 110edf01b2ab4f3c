"""Fast R-CNN's parts against loops and hand-made cases."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from detkit.detectors.fast_rcnn import (
    FastRCNN,
    FastRCNNConfig,
    RegionConfig,
    build_maps,
    multi_task_loss,
    sample_rois,
)
from detkit.errors import DetkitError, UsageError
from detkit.geometry.boxes import encode, iou
from detkit.structures import Sample
from detkit.transforms.preparation import shorter_side

TINY = FastRCNNConfig(backbone="tiny", size=96)
NONE = torch.zeros(0, 4)


def sample(proposals: Tensor | None, size: tuple[int, int] = (96, 96)) -> Sample:
    return Sample(
        torch.randint(0, 255, (3, *size), dtype=torch.uint8),
        torch.tensor([[10.0, 10.0, 50.0, 50.0]]),
        torch.tensor([0]),
        torch.tensor([False]),
        proposals=proposals,
    )


def weights_of(detector: FastRCNN) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in detector.named_parameters()}


def loss_by_loops(
    logits: Tensor, deltas: Tensor, labels: list[int], targets: Tensor
) -> tuple[float, float]:
    """Return eqs. 1-3 with lambda = 1, region by region."""
    class_loss = box_loss = 0.0
    for row, label in enumerate(labels):
        scores = [math.exp(value) for value in logits[row].tolist()]
        class_loss += -math.log(scores[label] / sum(scores))
        if label >= 1:
            for moved, target in zip(deltas[row, label - 1].tolist(), targets[row].tolist()):
                x = abs(moved - target)
                box_loss += 0.5 * x * x if x < 1 else x - 0.5
    return class_loss / len(labels), box_loss / len(labels)


def test_the_multi_task_loss_equals_a_loop_over_regions() -> None:
    torch.manual_seed(0)
    logits, deltas, targets = torch.randn(6, 4), 2 * torch.randn(6, 3, 4), torch.randn(6, 4)
    labels = [0, 3, 1, 0, 2, 3]
    found = multi_task_loss(logits, deltas, torch.tensor(labels), targets)
    wanted = loss_by_loops(logits, deltas, labels, targets)
    assert [float(part) for part in found] == pytest.approx(wanted, rel=1e-5)
    doubled = multi_task_loss(logits, deltas, torch.tensor(labels), targets, box_weight=2)[1]
    assert float(doubled) == pytest.approx(2 * wanted[1], rel=1e-5)


def test_the_multi_task_losses_gradients_are_right() -> None:
    torch.manual_seed(1)
    logits = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    deltas = torch.randn(4, 2, 4, dtype=torch.float64, requires_grad=True)
    labels, targets = torch.tensor([0, 1, 2, 1]), torch.randn(4, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda a, b: sum(multi_task_loss(a, b, labels, targets)), (logits, deltas)
    )


def test_without_regions_the_loss_is_zero_and_keeps_its_gradients() -> None:
    logits = torch.zeros(0, 3, requires_grad=True)
    deltas = torch.zeros(0, 2, 4, requires_grad=True)
    parts = multi_task_loss(logits, deltas, torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
    assert [float(part.detach()) for part in parts] == [0, 0]
    sum(parts).backward()  # type: ignore[union-attr]
    assert logits.grad is not None and deltas.grad is not None


def test_regions_are_sampled_by_their_overlap() -> None:
    torch.manual_seed(0)
    gt_boxes, gt_labels = torch.tensor([[0.0, 0.0, 100.0, 100.0]]), torch.tensor([4])
    heights = torch.arange(1, 100, dtype=torch.float32)  # IoU = height / 100
    proposals = torch.stack([0 * heights, 0 * heights, 0 * heights + 100, heights], dim=1)
    config = dataclasses.replace(TINY, rois_per_image=32)
    for _ in range(5):
        found = sample_rois(proposals, gt_boxes, gt_labels, NONE, config)
        overlaps = iou(gt_boxes, found.rois)[0]
        positive = found.labels > 0
        assert len(found.rois) == 32 and int(positive.sum()) == 8  # 25 %
        assert set(found.labels.tolist()) == {0, 5}
        assert (overlaps[positive] >= 0.5).all()
        assert ((overlaps[~positive] >= 0.1) & (overlaps[~positive] < 0.5)).all()
        wanted = encode(gt_boxes.expand(8, 4), found.rois[positive], config.box_variances)
        torch.testing.assert_close(found.delta_targets[positive], wanted)
        assert (found.delta_targets[~positive] == 0).all()


def test_ground_truths_are_regions_too_and_far_ones_background_only_in_need() -> None:
    gt_boxes, gt_labels = torch.tensor([[0.0, 0.0, 10.0, 10.0]]), torch.tensor([0])
    far = torch.tensor([[50.0, 50.0, 60.0, 60.0], [70.0, 70.0, 90.0, 90.0]])
    found = sample_rois(far, gt_boxes, gt_labels, NONE, TINY)
    assert found.rois[found.labels > 0].tolist() == gt_boxes.tolist()
    assert len(found.rois[found.labels == 0]) == 2  # no region has an IoU in [.1, .5)
    near = torch.cat([far, torch.tensor([[0.0, 0.0, 10.0, 3.0]])])
    found = sample_rois(near, gt_boxes, gt_labels, NONE, TINY)
    assert found.rois[found.labels == 0].tolist() == [[0, 0, 10, 3]]


def test_an_image_without_objects_gives_background_alone() -> None:
    no_labels = torch.zeros(0, dtype=torch.int64)
    found = sample_rois(torch.rand(90, 4).cumsum(1), NONE, no_labels, NONE, TINY)
    assert len(found.rois) == 64 and (found.labels == 0).all()
    none = sample_rois(NONE, NONE, no_labels, NONE, TINY)
    assert len(none.rois) == 0


def test_regions_in_an_ignored_object_are_no_background_unless_they_are_positive() -> None:
    gt_boxes, gt_labels = torch.tensor([[0.0, 0, 20, 20]]), torch.tensor([2])
    proposals = [
        [2.0, 0, 20, 20],  # an IoU of .9 with the object: positive, though inside
        [0, 0, 20, 8],  # an IoU of .4, inside
        [12, 0, 32, 20],  # an IoU of .25, and inside by exactly half: the ignored box ends at 22
        [14, 0, 34, 20],  # an IoU of .18, inside by .4
        [8, 12, 20, 36],  # an IoU of .15 or so, inside by .4: the ignored box is 22 high
        [60, 60, 80, 80],  # far from everything
    ]
    ignored = torch.tensor([[0.0, 0, 22, 22]])
    found = sample_rois(torch.tensor(proposals), gt_boxes, gt_labels, ignored, TINY)
    assert found.rois[found.labels == 3].tolist() in (
        [proposals[0], gt_boxes[0].tolist()],
        [gt_boxes[0].tolist(), proposals[0]],
    )
    background = found.rois[found.labels == 0].tolist()
    assert sorted(background) == sorted([proposals[3], proposals[4]])
    # Without those two there is no background in the range of IoU, and the far one serves.
    rows = [0, 1, 2, 5]
    few = sample_rois(torch.tensor(proposals)[rows], gt_boxes, gt_labels, ignored, TINY)
    assert few.rois[few.labels == 0].tolist() == [proposals[5]]


def test_an_image_whose_every_proposal_is_ignored_has_no_loss_but_gradients() -> None:
    torch.manual_seed(0)
    detector = FastRCNN(TINY, ["a"]).train()
    one = Sample(
        torch.zeros(3, 96, 96, dtype=torch.uint8),
        torch.tensor([[0.0, 0, 96, 96]]),
        torch.zeros(1, dtype=torch.int64),
        torch.zeros(1, dtype=torch.bool),
        proposals=torch.tensor([[10.0, 10, 40, 40], [30, 0, 80, 70]]),
        ignored=torch.ones(1, dtype=torch.bool),
    )
    parts = detector(detector.prepare([one]))
    assert [float(part.detach()) for part in parts.values()] == [0, 0]
    sum(parts.values()).backward()
    assert all(parameter.grad is not None for parameter in detector.parameters())


@pytest.mark.parametrize(
    ("size", "expected"),
    [((375, 500), (600, 800)), ((500, 375), (800, 600)), ((300, 900), (333, 1000))],
)
def test_the_network_sees_a_shorter_side_of_600_and_none_above_1000(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert shorter_side(600, 1000, *size) == expected


def test_vgg16_is_the_papers_network() -> None:
    config = FastRCNNConfig(backbone="vgg16")
    with torch.device("meta"):
        detector = FastRCNN(config, [f"class {i}" for i in range(20)])
    assert config.sides == (600, 1000) and detector.neck.strides == (16,)
    shapes = {name: tuple(p.shape) for name, p in detector.named_parameters()}
    assert shapes["backbone.blocks.fc6.weight"] == (4096, 25088)  # 7 x 7 x 512
    assert shapes["backbone.blocks.fc7.weight"] == (4096, 4096)
    assert shapes["head.class_logits.weight"] == (21, 4096)
    assert shapes["head.deltas.weight"] == (80, 4096)
    assert detector.head.pooling.method == "pool" and detector.head.pooling.size == 7


def test_vgg16_learns_on_a_spatial_pyramid_with_an_fc6_of_its_length() -> None:
    torch.manual_seed(0)
    config = FastRCNNConfig(backbone="vgg16", size=64, roi_pooling="spp", svd=(0, 8))
    detector = FastRCNN(config, ["a"])
    shapes = {name: tuple(p.shape) for name, p in detector.named_parameters()}
    assert shapes["head.fc6.weight"] == (4096, 512 * (1 + 4 + 9 + 36))
    assert not any("blocks.fc6" in name for name in shapes)
    before = weights_of(detector)
    batch = detector.prepare([sample(torch.tensor([[8.0, 8.0, 48.0, 50.0]]))])
    losses = detector.train()(batch)
    torch.stack(list(losses.values())).sum().backward()
    torch.optim.SGD(detector.parameters(), lr=0.01).step()
    learnt = {name for name, p in detector.named_parameters() if not torch.equal(p, before[name])}
    assert {"head.fc6.weight", "backbone.blocks.fc7.0.weight", "head.class_logits.weight"} <= learnt


def test_a_last_stage_that_wants_a_map_takes_no_pyramid() -> None:
    config = FastRCNNConfig(backbone="resnet18", neck="single", roi_pooling="spp")
    with pytest.raises(UsageError, match="roi_pooling=spp: .* add --set neck=fpn"):
        FastRCNN(config, ["a"])


def test_regions_are_pooled_by_the_images_own_pixels() -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(TINY, neck="single", roi_pooling="pool")
    detector = FastRCNN(config, ["a"]).eval()
    given = []
    detector.head.pooling.register_forward_hook(lambda _, args, out: given.append((args, out)))
    proposals = torch.tensor([[0.0, 0.0, 13.0, 13.0]])
    batch = detector.prepare([sample(proposals, (48, 48)), sample(proposals, (96, 64))])
    assert batch.sizes == [(96, 96), (144, 96)]
    detector.losses(batch)
    detector.candidates(batch)
    assert [pixels for (_, _, pixels), _ in given] == [[(2.0, 2.0), (1.5, 1.5)]] * 2
    # 26 network pixels long, and the last own one begins at 24: half a place, place 2 then.
    (maps, _, _), out = given[1]
    torch.testing.assert_close(out[0].amax(dim=(1, 2)), maps[0][0, :, :3, :3].amax(dim=(1, 2)))


@pytest.mark.parametrize("neck", ["single", "fpn"])
def test_of_pretrained_vgg16_conv3_1_and_up_are_trained(
    monkeypatch: pytest.MonkeyPatch, neck: str
) -> None:
    def load(detector: FastRCNN, weights: str, class_names: object) -> None:
        detector.backbone.pretrained = True

    monkeypatch.setattr(FastRCNN, "_load_weights", load)
    with torch.device("meta"):
        detector = FastRCNN(FastRCNNConfig(backbone="vgg16", neck=neck), ["a"])  # type: ignore[arg-type]
    detector.load_weights("imagenet")
    fixed = {name for name, p in detector.named_parameters() if not p.requires_grad}
    blocks = (0, 2, 5, 7)  # conv1_1, conv1_2, conv2_1, conv2_2
    assert fixed == {f"backbone.blocks.{i}.{p}" for i in blocks for p in ("weight", "bias")}


def test_layers_of_a_given_model_are_shortened_as_svd_says(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(TINY, neck="fpn")
    whole = FastRCNN(config, ["a"])
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    for source in ("whole.pth", "short.pth"):
        short = FastRCNN(dataclasses.replace(config, svd=(8, 4)), ["a"])
        short.load_weights(str(tmp_path / source), ["a"])
        torch.save(short.state_dict(), tmp_path / "short.pth")
        wanted = whole.compressed((8, 4)).state_dict()
        for name, value in short.state_dict().items():
            torch.testing.assert_close(value, wanted[name], msg=name)


@pytest.mark.parametrize(
    ("backbone", "neck", "strides"),
    [
        ("resnet18", "single", (16,)),
        ("resnet18", "fpn", (4, 8, 16, 32, 64)),
        ("mobilenet_v2", "auto", (8, 16, 32, 64)),
        ("squeezenet1_0", "auto", (8, 16, 32, 64)),
        ("tiny", "single", (16,)),
    ],
)
def test_other_backbones_have_maps_of_known_strides(
    backbone: str, neck: str, strides: tuple[int, ...]
) -> None:
    config = FastRCNNConfig(backbone=backbone, neck=neck, size=64)  # type: ignore[arg-type]
    trunk, maps = build_maps(config)
    assert maps.strides == strides
    found = maps(trunk.eval()(torch.zeros(1, 3, 64, 64)))
    assert [x.shape[1] for x in found] == [maps.channels] * len(strides)
    for x, stride in zip(found, strides):
        assert abs(x.shape[2] - 64 / stride) < 1.01
    detector = FastRCNN(config, ["a"]).eval()
    boxes = torch.tensor([[3.0, 4.0, 40.0, 50.0], [0.0, 0.0, 64.0, 64.0]])
    with torch.no_grad():
        (seen,) = detector.candidates(detector.prepare([sample(boxes, (64, 64))]))
    assert seen.boxes.shape == (2, 1, 4) and seen.scores.shape == (2, 1)


def test_detections_come_from_the_proposals_and_nothing_else() -> None:
    torch.manual_seed(0)
    detector = FastRCNN(
        dataclasses.replace(TINY, score_thresh=0.0, nms_thresh=1.0), ["a", "b"]
    ).eval()
    proposals = torch.tensor([[0.0, 0.0, 40.0, 40.0], [20.0, 20.0, 90.0, 90.0]])
    torch.nn.init.zeros_(detector.head.deltas.weight)
    (found,) = detector.detect(detector.prepare([sample(proposals)]))
    assert sorted(map(tuple, found.boxes.tolist())) == sorted(map(tuple, proposals.tolist() * 2))
    (none,) = detector.detect(detector.prepare([sample(torch.zeros(0, 4))]))
    assert len(none.boxes) == 0


def test_images_without_proposals_are_an_error_that_says_so() -> None:
    detector = FastRCNN(TINY, ["a"]).eval()
    with pytest.raises(DetkitError, match="no proposals"):
        detector.detect(detector.prepare([sample(None)]))


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ({"negative_range": (0.5, 0.1)}, "negative_range"),
        ({"size": 600, "max_size": 10}, "--set max_size=10: the longer side must be at least size"),
        ({"max_size": 319}, "the shorter one's 320"),
        ({"negative_range": (0.1, 0.9)}, "negative_range"),
        ({"positive_fraction": 0.0}, "positive_fraction"),
        ({"rois_per_image": 0}, "rois_per_image"),
        ({"box_variances": (0.1, 0.1, 0.0, 0.2)}, "box_variances"),
        ({"size": 0}, "size"),
    ],
)
def test_settings_that_cannot_work_are_refused(setting: dict[str, object], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        dataclasses.replace(RegionConfig(), **setting).validate()  # type: ignore[arg-type]
