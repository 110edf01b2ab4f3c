"""Faster R-CNN against loops, hand-made cases and torchvision's model with the same weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from judged import judged, share_inside
from runs import run, stop_after
from test_contract import sample
from torch import Tensor, nn
from toy import CLASSES, photo_like, write_images

from detkit.data.records import ImageRecord
from detkit.data.sources import ImageSource
from detkit.detector import Detector
from detkit.detectors.fast_rcnn import RegionConfig
from detkit.detectors.faster_rcnn import _TORCHVISION, FasterRCNN, FasterRCNNConfig
from detkit.errors import UsageError
from detkit.geometry.anchors import anchor_shapes, grid_anchors
from detkit.geometry.boxes import decode, encode, iou
from detkit.geometry.matching import IGNORED, NEGATIVE
from detkit.inference.models import load_model
from detkit.inference.predict import predict
from detkit.networks.proposal_memory import ProposalMemory
from detkit.networks.rpn import (
    RegionProposalNetwork,
    ScoredAnchors,
    anchor_layout,
    best_regions,
    crosses_border,
    match_anchors,
    rpn_loss,
)
from detkit.networks.torchvision_detectors import Published
from detkit.structures import Batch, Sample, Step, Truth
from detkit.training.options import TrainOptions
from detkit.training.schedule import lr_factor

SHARED = Path(__file__).parents[2] / "shared"
TINY = FasterRCNNConfig(backbone="tiny", size=96)


def make(**settings: Any) -> FasterRCNN:
    torch.manual_seed(0)
    return FasterRCNN(dataclasses.replace(TINY, **settings), ("dark", "light"))


# --- anchors ------------------------------------------------------------------------------


def test_the_papers_nine_anchors_stand_around_the_middle_of_each_place() -> None:
    config = FasterRCNNConfig(backbone="vgg16")
    (shapes,) = anchor_layout(config, [16], 600)
    assert len(shapes) == 9
    areas = sorted(round(w * h) for w, h in shapes)
    assert areas == [128**2] * 3 + [256**2] * 3 + [512**2] * 3
    assert sorted({round(h / w, 2) for w, h in shapes}) == [0.5, 1.0, 2.0]
    (anchors,) = grid_anchors([(37, 62)], (600, 1000), [shapes])
    assert anchors.shape == (37 * 62 * 9, 4)  # sec. 3.1.1: about 20000 for a 1000 x 600 image
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    torch.testing.assert_close(centres[:9], torch.full((9, 2), 8.0))
    torch.testing.assert_close(centres[9], torch.tensor([24.0, 8.0]))
    torch.testing.assert_close(centres[62 * 9], torch.tensor([8.0, 24.0]))


def generated_anchors(base: int, ratios: list[float], scales: list[int]) -> list[list[float]]:
    """Return py-faster-rcnn's anchors around its first place, corners of pixels, ends included."""
    middle = (base - 1) / 2
    found = []
    for ratio in ratios:
        width = float(np.round(np.sqrt(base * base / ratio)))
        height = float(np.round(width * ratio))
        for scale in scales:
            half_w, half_h = (width * scale - 1) / 2, (height * scale - 1) / 2
            found.append([middle - half_w, middle - half_h, middle + half_w, middle + half_h])
    return found


def test_released_anchors_are_those_of_py_faster_rcnn() -> None:
    config = FasterRCNNConfig(backbone="vgg16", anchors="released")
    layout = anchor_layout(config, [16], 600)
    assert layout[0][:4] == ((184, 96), (368, 192), (736, 384), (128, 128))
    assert layout[0][6:] == ((88, 176), (176, 352), (352, 704))
    (anchors,) = grid_anchors([(2, 3)], (32, 48), layout)
    wanted = np.array(generated_anchors(16, [0.5, 1, 2], [8, 16, 32]))
    assert wanted[0].tolist() == [-84, -40, 99, 55]  # 184 x 96 around (7.5, 7.5)
    wanted[:, 2:] += 1  # half-open
    for place, shift in enumerate((x, y) for y in (0, 16) for x in (0, 16, 32)):
        of_place = anchors[9 * place : 9 * place + 9].numpy()
        np.testing.assert_array_equal(of_place, wanted + np.array(shift * 2))
    # On a pyramid the base is each map's stride, as in Detectron.
    config = dataclasses.replace(config, neck="fpn", anchor_sizes=(32, 64, 128, 256, 512))
    first, *_ = anchor_layout(config, [4, 8, 16, 32, 64], 800)
    boxes = np.array(generated_anchors(4, [0.5, 1, 2], [8]))
    np.testing.assert_array_equal(np.array(first), boxes[:, 2:] - boxes[:, :2] + 1)


def test_anchors_equal_torchvisions() -> None:
    sizes, ratios = ((32,), (64,)), ((0.5, 1.0, 2.0),) * 2
    peer = torchvision.models.detection.anchor_utils.AnchorGenerator(sizes, ratios)
    maps = [torch.zeros(1, 1, 20, 25), torch.zeros(1, 1, 10, 13)]
    images = torchvision.models.detection.image_list.ImageList(
        torch.zeros(1, 3, 160, 200), [(160, 200)]
    )
    (wanted,) = peer(images, maps)
    shapes = [anchor_shapes(some, ratios[0]) for some in sizes]
    found = grid_anchors([(20, 25), (10, 13)], (160, 200), shapes, offset=0, rounded=True)
    torch.testing.assert_close(torch.cat(found), wanted)


def test_a_pyramids_anchors_grow_with_its_maps() -> None:
    resnet = FasterRCNNConfig(backbone="resnet50", size=800)
    layout = anchor_layout(resnet, [4, 8, 16, 32, 64], 800)
    assert [round((w * h) ** 0.5) for ((w, h), *_) in layout] == [32, 64, 128, 256, 512]
    assert [len(shapes) for shapes in layout] == [3] * 5
    own = dataclasses.replace(TINY, anchor_boxes=((9.0, 9.0), (2.0, 3.0), (30.0, 4.0), (5.0, 5.0)))
    assert anchor_layout(own, [8, 16], 96) == [((2, 3), (5, 5)), ((9, 9), (30, 4))]
    with pytest.raises(UsageError, match="multiple of 3"):
        anchor_layout(own, [8, 16, 32], 96)


def test_matlabs_pyramid_of_boxes_has_its_counterpart() -> None:
    # MinBoxSizes [8 16] (height first there), BoxPyramidScale 3, NumBoxPyramidLevels 2.
    pyramid = dataclasses.replace(
        TINY, anchor_boxes=((16.0, 8.0),), anchor_box_scale=3.0, anchor_box_levels=2
    )
    assert anchor_layout(pyramid, [16], 96) == [((16, 8), (48, 24))]
    assert anchor_layout(pyramid, [8, 16], 96) == [((16, 8),), ((48, 24),)]


def test_estimated_anchors_become_part_of_the_config() -> None:
    boxes = torch.tensor([[0, 0, 20, 10]] * 40 + [[0, 0, 60, 80]] * 20).numpy().astype("float32")
    zeros = torch.zeros(60).numpy()
    labelled = [(Truth(boxes, zeros.astype("int64"), zeros.astype(bool), "a"), (48, 60))]
    asked = dataclasses.replace(TINY, anchors="auto")
    found = FasterRCNN.suited_config(asked, labelled)
    assert isinstance(found, FasterRCNNConfig)
    # The shorter side of 48 becomes 96: boxes twice as large. 3 anchors a map of the pyramid.
    assert (
        set(found.anchor_boxes) == {(40.0, 20.0), (120.0, 160.0)} and len(found.anchor_boxes) == 12
    )
    assert FasterRCNN.suited_config(TINY, labelled) is TINY
    FasterRCNN(found, ["a"])


# --- training the RPN ---------------------------------------------------------------------


def match_by_loops(overlaps: list[list[float]], high: float, low: float) -> list[int]:
    """Return sec. 3.1.2's assignment, anchor by anchor."""
    result = []
    for anchor in range(len(overlaps[0])):
        column = [row[anchor] for row in overlaps]
        best = max(column)
        truth = column.index(best)
        is_best = any(row[anchor] == max(row) > 0 for row in overlaps)
        if best >= high or is_best:
            result.append(truth)
        else:
            result.append(NEGATIVE if best < low else IGNORED)
    return result


def test_anchors_are_matched_as_by_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        overlaps = (torch.rand(4, 30, generator=generator) * 20).round() / 20  # with ties
        overlaps[0] = 0.0  # a ground truth that no anchor touches
        found = match_anchors(overlaps, 0.675, 0.325)
        assert found.tolist() == match_by_loops(overlaps.tolist(), 0.675, 0.325)
    assert match_anchors(torch.zeros(0, 3), 0.7, 0.3).tolist() == [NEGATIVE] * 3


def test_all_anchors_that_share_the_highest_overlap_are_positive() -> None:
    overlaps = torch.tensor([[0.4, 0.5, 0.5, 0.2]])
    assert match_anchors(overlaps, 0.7, 0.3).tolist() == [IGNORED, 0, 0, NEGATIVE]


def test_an_anchor_on_the_border_is_inside_and_one_pixel_on_is_not() -> None:
    anchors = torch.tensor([[0, 0, 20, 10], [-1, 0, 5, 5], [0, 0, 21, 10], [0, 0, 20, 11.0]])
    assert crosses_border(anchors, (10, 20)).tolist() == [False, True, True, True]


def test_the_rpns_loss_equals_a_loop_and_has_right_gradients() -> None:
    torch.manual_seed(0)
    logits, is_object = torch.randn(8), torch.tensor([True] * 3 + [False] * 5)
    deltas, targets = torch.randn(3, 4), torch.randn(3, 4)
    objectness = box = 0.0
    for logit, positive in zip(logits.tolist(), is_object.tolist()):
        prob = 1 / (1 + 2.718281828459045**-logit)
        objectness -= torch.tensor(prob if positive else 1 - prob).log().item() / 8
    for x in (deltas - targets).abs().flatten().tolist():
        box += (0.5 * 9 * x * x if x < 1 / 9 else x - 0.5 / 9) / 8  # sigma = 3
    found = rpn_loss(logits, deltas, is_object, targets, 10.0)
    assert float(found[0]) == pytest.approx(objectness, rel=1e-4)
    assert float(found[1]) == pytest.approx(10 * box, rel=1e-4)
    inputs = [x.double().requires_grad_() for x in (logits, deltas)]
    assert torch.autograd.gradcheck(
        lambda a, b: sum(rpn_loss(a, b, is_object, targets.double(), 1.0)), inputs
    )


def batch_of(detector: Detector, *counts: int) -> Batch:
    return detector.prepare([sample(i, objects=n, size=(96, 96)) for i, n in enumerate(counts)])


@pytest.mark.parametrize("cross_border", [True, False])
def test_the_rpns_losses_are_those_of_its_sampled_anchors(cross_border: bool) -> None:
    detector = make(cross_border=cross_border, anchors_per_image=10_000)  # all of them
    batch = batch_of(detector, 2, 0)
    scored = detector.rpn.score(detector.maps(batch.images), batch.images)
    found = [float(part.detach()) for part in detector.rpn.losses(scored, batch)]
    anchors = torch.cat(scored.anchors)
    logits, moves = torch.cat(scored.objectness, 1), torch.cat(scored.deltas, 1)
    losses, boxes, number = 0.0, 0.0, 0
    for image, gt_boxes in enumerate(batch.boxes):
        rows = [
            row
            for row, (x1, y1, x2, y2) in enumerate(anchors.tolist())
            if cross_border or (x1 >= 0 and y1 >= 0 and x2 <= 96 and y2 <= 96)
        ]
        overlaps = iou(gt_boxes, anchors[rows])
        matches = [NEGATIVE] * len(rows)
        if len(gt_boxes):
            matches = match_by_loops(overlaps.tolist(), 0.7, 0.3)
        for row, truth in zip(rows, matches):
            if truth == IGNORED:
                continue
            number += 1
            positive = truth >= 0
            prob = logits[image, row].detach().sigmoid()
            losses -= float((prob if positive else 1 - prob).log())
            if positive:
                target = encode(gt_boxes[truth, None], anchors[row, None])[0]
                x = (moves[image, row].detach() - target).abs()
                boxes += float(torch.where(x < 1 / 9, 4.5 * x * x, x - 0.5 / 9).sum())
    assert found == pytest.approx([losses / number, boxes / number], rel=1e-4)


def test_anchors_in_an_ignored_object_have_no_objectness_loss_unless_they_are_positive() -> None:
    config = dataclasses.replace(TINY, anchors_per_image=10_000, cross_border=True)
    rpn = RegionProposalNetwork(config, 8, [32], 96)
    # Squares of 32 pixels on 3 x 3 places, the middle one an object. The ignored box covers the
    # left column, 18 of the 32 pixels of the middle column, and 15 of those of the bottom row.
    anchors = torch.tensor([[x, y, x + 32, y + 32.0] for y in (0, 32, 64) for x in (0, 32, 64)])
    anchors = torch.cat([anchors, torch.tensor([[29.0, 32, 61, 64]])])  # an IoU of .83: positive
    logits = torch.zeros(2, 10, requires_grad=True)
    scored = ScoredAnchors([logits], [torch.zeros(2, 10, 4)], [anchors])
    labels = torch.zeros(1, dtype=torch.int64)
    batch = Batch(
        torch.zeros(2, 3, 96, 96),
        sizes=[(96, 96)] * 2,
        original_sizes=[(96, 96)] * 2,
        boxes=[anchors[4:5], anchors[:0]],
        labels=[labels, labels[:0]],
        difficult=[labels.bool(), labels[:0].bool()],
        ignored=[torch.tensor([[0.0, 0, 50, 79]]), torch.tensor([[64.0, 0, 96, 96]])],
    )
    rpn.losses(scored, batch)[0].backward()
    assert logits.grad is not None
    pushed = logits.grad.sign().int().tolist()  # towards background: 1, towards object: -1
    assert pushed[0] == [0, 0, 1, 0, -1, 1, 1, 1, 1, -1]
    assert pushed[1] == [1, 1, 0, 1, 1, 0, 1, 1, 0, 1]


def test_at_most_half_of_the_sampled_anchors_are_positive(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = make(anchors_per_image=4, rpn_positive_thresh=0.31)
    batch = batch_of(detector, 2)
    seen: list[Tensor] = []

    def record(logits: Tensor, deltas: Tensor, is_object: Tensor, *rest: Any) -> Any:
        seen.append(is_object)
        return rpn_loss(logits, deltas, is_object, *rest)

    monkeypatch.setattr("detkit.networks.rpn.rpn_loss", record)
    detector(batch)
    assert seen[0].tolist() == [True, True, False, False]


# --- proposals ----------------------------------------------------------------------------


def proposals_by_loops(
    boxes: list[Tensor], scores: list[Tensor], side: float, thresh: float, number: int
) -> list[list[float]]:
    kept: list[tuple[float, list[float]]] = []
    for level_boxes, level_scores in zip(boxes, scores):
        left = sorted(zip(level_scores.tolist(), level_boxes.tolist()), key=lambda one: -one[0])
        left = [
            (s, b)
            for s, b in left
            if min(b[2] - b[0], b[3] - b[1]) >= side and b[2] > b[0] and b[3] > b[1]
        ]
        while left:
            best = left.pop(0)
            kept.append(best)
            left = [
                one
                for one in left
                if float(iou(torch.tensor([best[1]]), torch.tensor([one[1]]))) <= thresh
            ]
    return [box for _, box in sorted(kept, key=lambda one: -one[0])[:number]]


def test_the_best_regions_are_those_of_a_loop() -> None:
    torch.manual_seed(0)
    boxes = [torch.rand(40, 4).cumsum(1) * 50, torch.rand(30, 4).cumsum(1) * 50]
    boxes[1][3, 2] = boxes[1][3, 0]  # without an area
    scores = [torch.randn(40), torch.randn(30)]
    found = best_regions(boxes, scores, 10.0, 0.5, 12)
    wanted = proposals_by_loops(boxes, scores, 10.0, 0.5, 12)
    torch.testing.assert_close(found, torch.tensor(wanted))
    assert len(best_regions(boxes, scores, 1000.0, 0.5, 12)) == 0


def test_proposals_are_the_best_anchors_moved_and_cut_at_the_border() -> None:
    config = dataclasses.replace(TINY, rpn_pre_nms_test=2, rpn_nms_thresh=1.0)
    rpn = RegionProposalNetwork(config, 8, [8], 96)
    anchors = torch.tensor([[0, 0, 30, 30], [40, 40, 60, 60], [80, 80, 130, 120.0]])
    deltas = torch.tensor([[0, 0, 0, 0], [0.5, 0, 0, 0], [0, 0, 0.1, 0]])
    scored = ScoredAnchors([torch.tensor([[0.1, 0.3, 0.2]])], [deltas[None]], [anchors])
    (found,) = rpn.propose(scored, [(100, 110)], training=False)
    moved = decode(deltas, anchors)
    torch.testing.assert_close(found[0], moved[1])
    torch.testing.assert_close(found[1], torch.tensor([moved[2, 0], 80.0, 110.0, 100.0]))
    assert len(found) == 2


def test_training_keeps_more_proposals_than_detecting() -> None:
    detector = make(rpn_post_nms_train=50, rpn_post_nms_test=7, rpn_nms_thresh=1.0).eval()
    batch = batch_of(detector, 1)
    assert [len(one) for one in detector.propose(batch)] == [7]
    assert [len(one) for one in detector.propose(batch, training=True)] == [50]
    (found,) = detector.candidates(batch)
    assert found.boxes.shape == (7, 2, 4) and found.scores.shape == (7, 2)


def test_images_of_different_sizes_are_padded_and_hold_their_own_proposals() -> None:
    detector = make(rpn_post_nms_test=50).eval()
    small, large = sample(0, size=(96, 96)), sample(1, size=(96, 150))
    batch = detector.prepare([small, large])
    assert batch.images.shape[2:] == (96, 160) and batch.sizes == [(96, 96), (96, 150)]
    for boxes, (height, width) in zip(detector.propose(batch), batch.sizes):
        assert (boxes[:, 2] <= width).all() and (boxes[:, 3] <= height).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
    # Away from the padded side the maps are those of the image alone: what lies between is
    # the receptive field, which zeros beyond the border reach into either way.
    alone = detector.maps(detector.prepare([small]).images)
    together = detector.maps(batch.images[:1])
    torch.testing.assert_close(together[0][..., :4], alone[0][..., :4], atol=0.05, rtol=0.05)


# --- the four steps -----------------------------------------------------------------------


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(before: Mapping[str, Tensor], module: nn.Module) -> set[str]:
    after = module.state_dict()
    return {
        name.split(".")[0] for name, value in before.items() if not torch.equal(after[name], value)
    }


def test_alternating_training_follows_the_papers_four_steps() -> None:
    detector = make(training="alternating", step_lrs=(1.0, 0.5, 1.0, 0.1)).train()
    start = weights_of(detector)
    recipe = dataclasses.replace(FasterRCNN.short_recipe, max_steps=600, lr=0.01)
    stages = detector.stages(recipe)
    assert [stage.recipe.max_steps for stage in stages] == [150, 150, 150, 150]
    assert [stage.recipe.lr for stage in stages] == [0.01, 0.005, 0.01, 0.001]
    batch = batch_of(detector, 2, 1)
    learnt = []
    proposals_of_step_1: list[Tensor] = []
    for number, stage in enumerate(stages, 1):
        if number == 2:
            proposals_of_step_1 = detector.eval().propose(batch, training=True)
        assert stage.begin is not None
        stage.begin()
        if number == 2:  # from the starting weights again, on proposals of step 1's network
            assert changed(start, detector) == {"rpn"} or not changed(start, detector)
            again = detector._companions["proposer"].propose(batch, training=True)
            torch.testing.assert_close(again, proposals_of_step_1)
        before = weights_of(detector)
        detector.train()
        optimizer = torch.optim.SGD([p for p in detector.parameters() if p.requires_grad], lr=0.01)
        losses = detector(batch)
        assert set(losses) == (
            {"rpn_objectness", "rpn_box"} if number in (1, 3) else {"roi_class", "roi_box"}
        )
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        learnt.append(changed(before, detector))
    assert learnt == [{"backbone", "neck", "rpn"}, {"backbone", "neck", "head"}, {"rpn"}, {"head"}]
    assert not detector._companions


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_in_none_of_the_four_steps_an_ignored_object_is_background(step: int) -> None:
    detector = make(training="alternating", anchors_per_image=10**6, step_rois=10**6).train()
    for number in range(1, step + 1):
        detector._begin(number)
    detector.train()
    one = sample(3, size=(96, 96))
    batch = detector.prepare([dataclasses.replace(one, ignored=torch.tensor([False, True]))])
    ((boxes, learns),) = judged(detector, batch)
    objects, ignored = batch.boxes[0].tolist(), batch.ignored[0].tolist()
    seen = set()
    for box, learnt in zip(boxes.tolist(), learns.tolist()):
        if share_inside(box, objects) == 0:
            assert learnt == (share_inside(box, ignored) < 0.5)
            seen.add(learnt)
    assert seen == {False, True}


def test_the_blocks_that_serve_as_head_learn_only_with_fast_rcnn() -> None:
    config = FasterRCNNConfig(
        backbone="resnet18", neck="single", size=64, training="alternating", freeze_layers=5
    )
    detector = FasterRCNN(config, ["a"])
    detector.load_weights("none")
    for step, learns in ((1, False), (2, True), (3, False), (4, True)):
        detector._begin(step)
        trained = {name for name, p in detector.named_parameters() if p.requires_grad}
        assert any("layer4" in name for name in trained) == learns
        assert any("layer3" in name for name in trained) == (step <= 2)
        assert not any("backbone.blocks.conv1" in name for name in trained)
        assert any(name.startswith("rpn") for name in trained) == (step in (1, 3))
        detector.train()
        assert detector.backbone.blocks["layer2"].training == (step <= 2)
        assert detector.backbone.blocks["layer4"].training == (step != 3)


def test_what_later_steps_need_survives_a_resume() -> None:
    first = make(training="alternating")
    first._begin(1)
    with torch.no_grad():
        first.rpn.conv.weight.add_(1.0)
    second = make(training="alternating")
    second.load_state_dict(first.state_dict())
    second.load_stage_state(first.stage_state())
    batch = batch_of(first, 1)
    for detector in (first, second):
        detector._begin(2)
        detector.eval()
    for one, other in zip(first.state_dict().values(), second.state_dict().values()):
        assert torch.equal(one, other)
    torch.testing.assert_close(
        first._companions["proposer"].propose(batch), second._companions["proposer"].propose(batch)
    )
    middle = weights_of(second)
    second._begin(2)  # resumed in the middle of the step: nothing is begun anew
    assert not changed(middle, second)


def alternating(records: list[ImageRecord], run_dir: Path, **options: Any) -> Iterator[Step]:
    """Return the steps of an alternating training: two in each of its four."""
    torch.manual_seed(0)
    recipe = dataclasses.replace(
        FasterRCNN.short_recipe, batch_size=2, max_steps=8, augmentation="none"
    )
    config = dataclasses.replace(TINY, size=48, training="alternating")
    return run(records, run_dir, toy=FasterRCNN(config, CLASSES), recipe=recipe, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[ImageRecord], Path, list[Step]]:
    """Images, and a run on them that nothing stopped, with its steps."""
    folder = tmp_path_factory.mktemp("alternating")
    records = write_images(folder / "images")
    return records, folder / "whole", list(alternating(records, folder / "whole"))


@pytest.mark.parametrize("stop", [1, 2, 3, 6])  # in the middle and at the end of steps
def test_alternating_training_stopped_anywhere_ends_with_the_same_bits(
    whole: tuple[list[ImageRecord], Path, list[Step]], tmp_path: Path, stop: int
) -> None:
    records, folder, steps = whole
    assert [step.stage for step in steps] == (
        ["step 1: rpn"] * 2 + ["step 2: fast-rcnn"] * 2 + ["step 3: rpn"] * 2
    ) + ["step 4: fast-rcnn"] * 2
    stop_after(alternating(records, tmp_path / "parts"), stop)
    rest = list(alternating(records, tmp_path / "parts", resume=True))
    assert rest[0].step == stop + 1
    one, other = (load_model(at / "last.safetensors") for at in (folder, tmp_path / "parts"))
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


# --- torchvision --------------------------------------------------------------------------


def torchvisions(num_classes: int) -> nn.Module:
    """Return torchvision's model with random weights whose scores are well spread."""
    torch.manual_seed(0)
    peer = torchvision.models.detection.fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=num_classes
    ).eval()
    for name, module in peer.named_modules():
        if isinstance(module, nn.Conv2d) and "rpn.head" not in name:
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", mode="fan_out")
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.1)
            if name.endswith("bn3"):
                nn.init.constant_(module.weight, 0.3)
    box = peer.roi_heads.box_predictor
    for layer, std in (
        (peer.rpn.head.cls_logits, 0.1),
        (peer.rpn.head.bbox_pred, 0.02),
        (box.cls_score, 0.3),
        (box.bbox_pred, 0.1),
    ):
        nn.init.normal_(layer.weight, std=std)
    with torch.no_grad():
        for level, x in enumerate(list(peer.backbone(torch.randn(1, 3, 256, 256)).values())[:4]):
            peer.backbone.fpn.layer_blocks[level][0].weight.div_(x.std())
    return peer


def test_detkit_and_torchvision_give_the_same_detections_for_the_same_weights() -> None:
    peer = torchvisions(5)
    state = FasterRCNN.convert_foreign(peer.state_dict())
    assert state is not None
    detector = FasterRCNN(_TORCHVISION, ["a", "b", "c", "d"]).eval()
    detector.load_state_dict(state)
    files = sorted((SHARED / "data/voc100/JPEGImages").glob("*.jpg"))[:1]
    images = [torchvision.io.decode_image(str(file)) for file in files] or [
        torch.from_numpy(photo_like(0)).permute(2, 0, 1).contiguous()
    ]
    for image in images:
        with torch.no_grad():
            (wanted,) = peer([image.float() / 255])
        none = torch.zeros(0)
        (found,) = detector.detect(
            detector.prepare([Sample(image, none.view(0, 4), none.long(), none.bool())])
        )
        assert len(found.boxes) == len(wanted["boxes"]) > 20
        assert (found.labels == wanted["labels"].numpy() - 1).all()
        torch.testing.assert_close(
            torch.from_numpy(found.scores), wanted["scores"], atol=1e-4, rtol=0
        )
        torch.testing.assert_close(
            torch.from_numpy(found.boxes), wanted["boxes"], atol=1e-2, rtol=0
        )


def renamed_as_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict with the names of the published file, which is older."""
    return {
        key.replace("blocks.0.0.", "blocks.0.")
        .replace("blocks.1.0.", "blocks.1.")
        .replace("blocks.2.0.", "blocks.2.")
        .replace("blocks.3.0.", "blocks.3.")
        .replace("rpn.head.conv.0.0.", "rpn.head.conv."): value
        for key, value in state.items()
        if not key.endswith("num_batches_tracked")
    }


def test_published_weights_load_with_their_older_names_and_their_epsilon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.device("cpu"):
        peer = torchvision.models.detection.fasterrcnn_resnet50_fpn(
            weights=None, weights_backbone=None
        )
    state = peer.state_dict()
    file = tmp_path / "fasterrcnn_resnet50_fpn_coco.pth"
    torch.save(renamed_as_published(state), file)
    monkeypatch.setattr(Published, "url", property(lambda self: file.as_uri()))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    detector = FasterRCNN.from_published("fasterrcnn-resnet50-fpn-coco")
    assert len(detector.class_names) == 80 and "N/A" not in detector.class_names
    norm = detector.backbone.blocks["bn1"]
    theirs = state["backbone.body.bn1.running_var"]
    torch.testing.assert_close(norm.running_var + norm.eps, theirs)  # type: ignore[operator]
    # Class 90 of theirs, with background 0, is the last of ours.
    logits, deltas = detector.head.class_logits.weight, detector.head.deltas.weight
    torch.testing.assert_close(logits[-1], state["roi_heads.box_predictor.cls_score.weight"][90])
    torch.testing.assert_close(
        deltas[-4:], state["roi_heads.box_predictor.bbox_pred.weight"][90 * 4 : 91 * 4]
    )


def test_other_state_dicts_are_not_taken_for_one() -> None:
    with torch.device("meta"):
        resnet = torchvision.models.resnet18()
    assert FasterRCNN.convert_foreign(resnet.state_dict()) is None


@pytest.mark.parametrize(
    "setting",
    [
        {"rpn_positive_thresh": 5.0},
        {"rpn_negative_thresh": 0.8},
        {"rpn_nms_thresh": 0.0},
        {"rpn_post_nms_test": 0},
        {"anchor_ratios": ()},
        {"anchor_sizes": (0.0,)},
        {"step_shares": (1.0, 1.0, 0.0, 1.0)},
        {"rpn_box_weight": -1.0},
    ],
)
def test_settings_that_cannot_work_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(setting)).split("_")[0]):
        dataclasses.replace(TINY, **setting).validate()


def test_the_paper_recipe_of_alternating_training_is_the_released_schedule() -> None:
    """As `train_faster_rcnn_alt_opt.py` and its four solvers have it, with a drop at 3/4."""
    config = dataclasses.replace(TINY, training="alternating")
    assert FasterRCNN.paper_recipe(TINY) == FasterRCNN.recipe
    recipe = FasterRCNN.paper_recipe(config)
    recipe.validate()
    stages = FasterRCNN(config, ["a"]).stages(recipe)
    assert [stage.recipe.max_steps for stage in stages] == [80_000, 40_000, 80_000, 40_000]
    assert [stage.recipe.batch_size for stage in stages] == [1, 2, 1, 2]
    for stage, drop in zip(stages, (60_000, 30_000, 60_000, 30_000)):
        steps = stage.recipe.max_steps
        rates = [
            stage.recipe.lr * lr_factor(stage.recipe, at / steps) for at in (0, drop - 1, drop)
        ]
        assert rates == pytest.approx([0.001, 0.001, 0.0001])
        assert lr_factor(stage.recipe, (steps - 1) / steps) == pytest.approx(0.1)


def test_a_budget_divides_alternating_training_by_its_images() -> None:
    config = dataclasses.replace(TINY, training="alternating")
    stages = FasterRCNN(config, ["a"]).stages(FasterRCNN.paper_recipe(config))
    budgets = TrainOptions(epochs=4).budgets(stages, 300, 2)
    # An epoch of the 300 images in each: steps of 1 and of 2 images.
    assert [budget.steps for budget in budgets] == [300, 150, 300, 150]
    larger = dataclasses.replace(FasterRCNN.alternating_recipe, batch_size=8)
    batches = [stage.recipe.batch_size for stage in FasterRCNN(config, ["a"]).stages(larger)]
    assert batches == [4, 8, 4, 8]


@pytest.mark.parametrize(
    ("training", "shares", "words"),
    [
        ("alternating", (0.5, 1.0), "stage_batches=0.5,1: this training has 4 stages .* 4 shares"),
        ("joint", (0.5,), r"stage_batches=0.5: this training has 1 stage .* give \(\)"),
    ],
)
def test_batches_of_other_stages_than_there_are_are_refused(
    tmp_path: Path, training: str, shares: tuple[float, ...], words: str
) -> None:
    recipe = dataclasses.replace(FasterRCNN.recipe, stage_batches=shares)
    detector = FasterRCNN(dataclasses.replace(TINY, training=training), CLASSES)
    records = write_images(tmp_path / "images")
    with pytest.raises(UsageError, match=words):
        next(run(records, tmp_path / "run", toy=detector, recipe=recipe))
    assert not (tmp_path / "run").exists()


def passes_of(module: nn.Module) -> list[int]:
    """Return a list that grows by the number of images at each pass through the module."""
    passes: list[int] = []
    module.register_forward_hook(lambda _, given, out: passes.append(len(given[0])))
    return passes


def test_a_fixed_network_proposes_once_for_each_image_and_the_backbone_runs_once_a_step() -> None:
    detector = make(training="alternating", step_rois=16).train()
    recipe = dataclasses.replace(FasterRCNN.alternating_recipe, batch_size=2)
    stages = detector.stages(recipe)
    images = [sample(index, size=(96, 64 + 32 * index)) for index in range(3)]
    pairs = [detector.prepare([images[i] for i in pair]) for pair in ((0, 1), (1, 2), (2, 0))]
    for step, stage in enumerate(stages, 1):
        assert stage.begin is not None
        stage.begin()
        detector.train()
        if step not in (2, 4):
            continue
        proposer = detector._companions.get("proposer", detector)
        own = passes_of(detector.backbone)
        proposing = own if proposer is detector else passes_of(proposer.backbone)
        for batch in pairs:
            detector(batch)
        if step == 2:  # two networks, of which the fixed one sees each image once, by itself
            assert own == [2, 2, 2] and proposing == [1, 1, 1]
        else:
            assert sorted(own) == [1, 1, 1, 2, 2, 2]
        del own[:]
        for batch in pairs:
            detector(batch)
        assert own == [2, 2, 2]
        memory = detector._memory
        assert memory is not None and len(memory) == 3
        # They are what the network says of each image alone, in whatever batch it comes.
        known = detector._fixed_proposals(pairs[1], detector.maps(pairs[1].images))
        for index, found in zip((1, 2), known):
            alone = detector.prepare([images[index]])
            (wanted,) = proposer.eval().propose(alone, training=True)
            assert torch.equal(found, wanted)
        detector.train()


def test_a_mirrored_image_has_proposals_of_its_own() -> None:
    memory, made = ProposalMemory(most=2), []

    def make_some() -> Tensor:
        made.append(torch.rand(3, 4))
        return made[-1]

    image = torch.rand(3, 40, 60)
    first = memory(image, "a", make_some)
    assert torch.equal(memory(image, "a", make_some), first) and len(made) == 1
    assert not torch.equal(memory(image.flip(2), "a", make_some), first) and len(made) == 2
    memory(image, "b", make_some)  # there is no room for a third
    memory(image, "b", make_some)
    assert len(made) == 4 and len(memory) == 2
    assert torch.equal(memory(image.flip(2), "a", make_some), made[1])


@pytest.mark.parametrize("augmentation", ["light", "paper"])
def test_images_that_are_never_the_same_are_not_remembered(augmentation: str) -> None:
    detector = make(training="alternating").train()
    recipe = dataclasses.replace(FasterRCNN.short_recipe, augmentation=augmentation)
    batch = batch_of(detector, 2, 1)
    for step, stage in enumerate(detector.stages(recipe), 1):
        assert stage.begin is not None
        stage.begin()
        detector.train()
        assert (detector._memory is not None) == (augmentation == "paper" and step in (2, 4))
        passes = passes_of(detector.backbone)
        detector(batch)
        if augmentation == "light":  # in step 4 the maps just made are the proposer's too
            assert passes == [2]


def test_all_anchors_of_a_map_enter_the_nms_of_a_fixed_network() -> None:
    config = dataclasses.replace(TINY, rpn_nms_thresh=1.0, rpn_post_nms_train=10**6)
    rpn = RegionProposalNetwork(config, 8, [8], 96)
    number = 12_500
    corners = torch.rand(number, 2) * 600
    anchors = torch.cat([corners, corners + 50], dim=1)
    scored = ScoredAnchors([torch.rand(1, number)], [torch.zeros(1, number, 4)], [anchors])
    for fixed, kept in ((False, 12_000), (True, number)):
        (found,) = rpn.propose(scored, [(700, 700)], training=True, fixed=fixed)
        assert len(found) == kept


def test_the_head_is_configured_as_fast_rcnns_but_for_its_samples() -> None:
    own, heads = FasterRCNNConfig(), RegionConfig()
    differing = {
        field.name
        for field in dataclasses.fields(heads)
        if getattr(own, field.name) != getattr(heads, field.name)
    }
    assert differing == {"rois_per_image", "negative_range"}


def test_images_of_any_sizes_are_found_in_batches_as_one_at_a_time() -> None:
    torch.manual_seed(0)
    config = FasterRCNNConfig(backbone="tiny", size=96, score_thresh=0.01)
    detector = FasterRCNN(config, CLASSES).eval()
    with torch.no_grad():
        for module in detector.modules():
            if isinstance(module, nn.BatchNorm2d):  # as trained: of zeros they make other values
                module.bias.normal_()
        detector.head.class_logits.weight.mul_(20)
    sizes = [(300, 90), (90, 300), (300, 90), (120, 100), (600, 180)]  # three of one network size
    assert detector.network_size()(300, 90) == detector.network_size()(600, 180)
    images = [
        ImageSource.of_pixels(str(seed), photo_like(seed, *size)) for seed, size in enumerate(sizes)
    ]
    alone, together = (list(predict(detector, images, batch_size=number)) for number in (1, 5))
    for one, other in zip(alone, together, strict=True):
        assert len(one.scores) > 5 and one.labels == other.labels
        np.testing.assert_allclose(other.scores, one.scores, atol=1e-5)
        np.testing.assert_allclose(other.boxes, one.boxes, atol=0.01)
    # Side by side in one batch they are not: see `Detector.detect`.
    none = torch.zeros(0)
    samples = [
        Sample(
            torch.from_numpy(image.transpose(2, 0, 1)), none.view(0, 4), none.long(), none.bool()
        )
        for image in (photo_like(0, 300, 90), photo_like(1, 90, 300))
    ]
    padded = detector.detect(detector.prepare(samples))[0]
    assert np.abs(padded.scores[:5] - np.array(alone[0].scores[:5])).max() > 1e-3
