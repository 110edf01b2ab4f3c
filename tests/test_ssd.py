"""SSD against loops, hand-made cases and torchvision's model with the same weights."""

import math
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn
from toy import photo_like

from detkit.detectors.ssd import (
    _TORCHVISION,
    SSD,
    SSDConfig,
    match_default_boxes,
    mine_hard_negatives,
    multibox_loss,
)
from detkit.geometry.boxes import iou
from detkit.geometry.matching import IGNORED
from detkit.networks.torchvision_detectors import Published
from detkit.structures import Sample

SHARED = Path(__file__).parents[2] / "shared"


def sample(image: Tensor, boxes: list[list[float]] = [], labels: list[int] = []) -> Sample:  # noqa: B006
    return Sample(
        image,
        torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        torch.tensor(labels, dtype=torch.int64),
        torch.zeros(len(labels), dtype=torch.bool),
    )


@pytest.mark.parametrize(("size", "expected"), [(300, 8732), (512, 24564)])
def test_ssd_on_vgg16_has_the_papers_number_of_default_boxes(size: int, expected: int) -> None:
    with torch.device("meta"):
        detector = SSD(SSDConfig(backbone="vgg16", size=size), ["a"])
    images = torch.empty(1, 3, size, size, device="meta")
    maps = detector.feature_maps(images)
    boxes = detector.default_boxes([(x.shape[2], x.shape[3]) for x in maps], (size, size))
    assert len(boxes) == expected
    if size == 300:
        assert [x.shape[2] for x in maps] == [38, 19, 10, 5, 3, 1]
        # The first place: centre (4, 4); 30 px square, sqrt(30 * 60) square, 2:1 and 1:2.
        sides = boxes[:4, 2:] - boxes[:4, :2]
        root = 2**0.5
        expected_sides = [[30, 30], [1800**0.5] * 2, [30 * root, 30 / root], [30 / root, 30 * root]]
        torch.testing.assert_close(sides, torch.tensor(expected_sides))
        torch.testing.assert_close(boxes[0], torch.tensor([-11.0, -11.0, 19.0, 19.0]))


def test_detkit_and_torchvision_give_the_same_boxes_and_scores_for_the_same_weights() -> None:
    torch.manual_seed(0)
    peer = torchvision.models.detection.ssd300_vgg16(
        weights=None, weights_backbone=None, num_classes=5
    ).eval()
    for module in peer.modules():  # random weights whose scores are well above the threshold
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    for conv in peer.head.classification_head.module_list:
        conv.weight.data.mul_(0.02)
    for conv in peer.head.regression_head.module_list:
        conv.weight.data.mul_(0.02)
    detector = SSD(_TORCHVISION, ["a", "b", "c", "d"]).eval()
    state = SSD.convert_foreign(peer.state_dict())
    assert state is not None
    detector.load_state_dict(state)
    files = sorted((SHARED / "data" / "voc100" / "JPEGImages").glob("*.jpg"))[:2]
    images = [torchvision.io.decode_image(str(file)) for file in files] or [
        torch.from_numpy(photo_like(0)).permute(2, 0, 1).contiguous()
    ]
    for image in images:
        with torch.no_grad():
            theirs = peer([image.float() / 255])[0]
        ours = detector.detect(detector.prepare([sample(image)]))[0]
        assert len(ours.scores) == len(theirs["scores"]) > 50
        torch.testing.assert_close(torch.tensor(ours.scores), theirs["scores"], atol=1e-4, rtol=0)
        # Scores that differ in the sixth digit may stand the other way round, and the last
        # ones of 200 may be others; all the rest must be there, box for box.
        worst = float(theirs["scores"][-1]) + 1e-4
        for box, score, label in zip(theirs["boxes"], theirs["scores"], theirs["labels"] - 1):
            near = (ours.labels == int(label)) & (abs(ours.scores - float(score)) < 1e-4)
            distance = abs(ours.boxes[near] - box.numpy()).max(axis=1, initial=0.0)
            assert float(score) < worst or distance.min(initial=9.0) < 1e-2


def test_dropping_a_class_from_published_weights_keeps_the_others_logits() -> None:
    config = SSDConfig(backbone="tiny", size=64)
    torch.manual_seed(0)
    full = SSD(config, ["a", "N/A", "c"]).eval()
    state = {"backbone.scale_weight": torch.zeros(1)}
    for key, value in full.state_dict().items():
        if key.startswith("class_head"):
            state[f"head.classification_head.module_list.{key.split('.', 2)[2]}"] = value
        if key.startswith("box_head"):
            state[f"head.regression_head.module_list.{key.split('.', 2)[2]}"] = value
    converted = SSD.convert_foreign(state, keep=[0, 1, 3])
    assert converted is not None
    small = SSD(config, ["a", "c"]).eval()
    small.load_state_dict(
        full.state_dict() | converted | {"norms.0.weight": torch.full((64,), 20.0)}
    )
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = full.predict(image)[0][..., [0, 1, 3]]
        torch.testing.assert_close(small.predict(image)[0], expected)


def test_published_weights_are_a_model_name_with_cocos_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = torchvision.models.detection.ssd300_vgg16(weights=None, weights_backbone=None)
    file = tmp_path / "ssd300_vgg16_coco-b556d3b4.pth"
    torch.save({key: value.half() for key, value in peer.state_dict().items()}, file)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(Published, "url", property(lambda self: file.as_uri()))
    detector = SSD.from_published("ssd300-coco")
    assert len(detector.class_names) == 80
    assert detector.class_names[:2] == ("person", "bicycle") and "N/A" not in detector.class_names
    assert (tmp_path / "home" / "hub" / "checkpoints" / file.name).is_file()
    # The same file as a start for other classes: all but the class head is taken over.
    start = SSD(_TORCHVISION, ["cell"])
    before = start.class_head.convs[0].weight.clone()
    start.load_weights(str(file))
    torch.testing.assert_close(start.box_head.state_dict(), detector.box_head.state_dict())
    torch.testing.assert_close(start.backbone.state_dict(), detector.backbone.state_dict())
    torch.testing.assert_close(start.class_head.convs[0].weight, before)
    assert start.pretrained


def naive_match(gt: list[list[float]], boxes: Tensor, thresh: float) -> list[int]:
    """Sec. 2.2 in loops over single pairs."""
    overlap = [[float(iou(torch.tensor([g]), b[None])) for b in boxes] for g in gt]
    result = []
    for k in range(len(boxes)):
        best = max(range(len(gt)), key=lambda r: overlap[r][k])
        result.append(best if overlap[best][k] > thresh else -1)
    pairs = sorted(
        ((overlap[r][k], -r, -k) for r in range(len(gt)) for k in range(len(boxes))), reverse=True
    )
    used_r: set[int] = set()
    used_k: set[int] = set()
    for value, r, k in pairs:
        if value > 0 and -r not in used_r and -k not in used_k:
            result[-k] = -r
            used_r.add(-r)
            used_k.add(-k)
    return result


@pytest.mark.parametrize("seed", range(5))
def test_matching_equals_a_loop_over_pairs(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(40, 2, generator=generator) * 60
    boxes = torch.cat([corners, corners + 5 + torch.rand(40, 2, generator=generator) * 40], 1)
    corners = torch.rand(6, 2, generator=generator) * 60
    gt = torch.cat([corners, corners + 5 + torch.rand(6, 2, generator=generator) * 40], 1)
    matches = match_default_boxes(iou(gt, boxes), 0.5)
    assert matches.tolist() == naive_match(gt.tolist(), boxes, 0.5)


def test_two_truths_with_the_same_best_default_box_both_get_one() -> None:
    overlaps = torch.tensor([[0.4, 0.3, 0.0], [0.45, 0.0, 0.2]])
    # Truth 1 takes box 0 (.45), truth 0 its next best, box 1.
    assert match_default_boxes(overlaps, 0.5).tolist() == [1, 0, -1]


def test_hard_negatives_are_the_three_highest_losses_a_positive() -> None:
    loss = torch.tensor([[0.1, 5.0, 0.2, 0.9, 0.8, 0.3], [9.0, 9.0, 9.0, 9.0, 9.0, 9.0]])
    targets = torch.tensor([[0, 2, 0, 0, 0, 0], [0] * 6])
    mined = mine_hard_negatives(loss, targets, 3.0)
    assert mined[0].tolist() == [False, False, False, True, True, True]
    assert not mined[1].any()  # no positive, no negative


def test_ignored_default_boxes_are_not_mined_however_hard_and_have_no_loss() -> None:
    loss = torch.tensor([[0.1, 5.0, 0.2, 0.9, 0.8, 0.3]])
    targets = torch.tensor([[0, 2, 0, IGNORED, IGNORED, 0]])
    mined = mine_hard_negatives(loss, targets, 3.0)
    assert mined[0].tolist() == [True, False, True, False, False, True]
    assert mine_hard_negatives(loss, targets, 2.0)[0].nonzero().flatten().tolist() == [2, 5]
    # Worked by hand: three alike logits are a loss of log 3, for the positive and three others.
    logits, zeros = torch.zeros(1, 6, 3, requires_grad=True), torch.zeros(1, 6, 4)
    found, _ = multibox_loss(
        logits, zeros, targets, zeros, negatives_per_positive=9.0, loc_weight=1.0
    )
    assert float(found.detach()) == pytest.approx(4 * math.log(3))
    found.backward()
    assert logits.grad is not None
    assert logits.grad[0].any(dim=1).tolist() == [True, True, True, False, False, True]


def test_default_boxes_in_an_ignored_object_are_spared_unless_they_learn_another() -> None:
    # One map of 3 x 3 places and a square default box of 32 pixels on each of them.
    detector = SSD(SSDConfig(size=96, negatives_per_positive=9.0), ["a"])
    squares = torch.tensor([[x, y, x + 32, y + 32.0] for y in (0, 32, 64) for x in (0, 32, 64)])
    logits = torch.zeros(1, 9, 2, requires_grad=True)
    detector.predict = lambda _: (logits, torch.zeros(1, 9, 4), squares)  # type: ignore[method-assign]
    image = torch.zeros(3, 96, 96, dtype=torch.uint8)
    # The middle one is an object; the left half and a little more of the image is ignored.
    boxes = torch.tensor([[32.0, 32, 64, 64], [0, 0, 50, 96]])
    both = torch.zeros(2, dtype=torch.int64)
    ignored = torch.tensor([False, True])
    one = Sample(image, boxes, both, both.bool(), ignored=ignored)
    detector.losses(detector.prepare([one]))["class"].backward()
    assert logits.grad is not None
    learns = logits.grad[0].any(dim=1).view(3, 3).tolist()
    assert learns == [[False, False, True], [False, True, True], [False, False, True]]


def test_loss_equals_a_plain_loop_over_default_boxes() -> None:
    torch.manual_seed(3)
    logits, deltas = torch.randn(2, 12, 4), torch.randn(2, 12, 4) * 2
    targets = torch.zeros(2, 12, dtype=torch.int64)
    targets[0, 3], targets[0, 7], targets[1, 5] = 1, 3, 2
    wanted = torch.randn(2, 12, 4)
    confidence = localisation = 0.0
    for image in range(2):
        probs = logits[image].softmax(-1)
        positives = [k for k in range(12) if targets[image, k] > 0]
        negatives = sorted(
            (k for k in range(12) if targets[image, k] == 0), key=lambda k: float(probs[k, 0])
        )[: 3 * len(positives)]
        for k in positives + negatives:
            confidence -= math.log(probs[k, targets[image, k]])
        for k in positives:
            for difference in (deltas[image, k] - wanted[image, k]).abs().tolist():
                small = difference < 1
                localisation += 0.5 * difference**2 if small else difference - 0.5
    got = multibox_loss(logits, deltas, targets, wanted, negatives_per_positive=3.0, loc_weight=2.0)
    assert float(got[0]) == pytest.approx(confidence / 3, rel=1e-5)
    assert float(got[1]) == pytest.approx(2.0 * localisation / 3, rel=1e-5)


def test_loss_passes_gradcheck() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 6, 3, dtype=torch.float64, requires_grad=True)
    deltas = torch.randn(1, 6, 4, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([[0, 1, 0, 2, 0, 0]])
    wanted = torch.randn(1, 6, 4, dtype=torch.float64)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        parts = multibox_loss(x, y, targets, wanted, negatives_per_positive=3.0, loc_weight=1.0)
        return parts[0] + parts[1]

    assert torch.autograd.gradcheck(loss, (logits, deltas))


@pytest.mark.parametrize("backbone", ["tiny", "mobilenet_v2", "squeezenet1_0", "resnet18"])
@pytest.mark.parametrize("size", [64, 150])
def test_every_backbone_and_size_has_a_default_box_for_every_prediction(
    backbone: str, size: int
) -> None:
    detector = SSD(SSDConfig(backbone=backbone, size=size), ["a", "b"]).eval()
    with torch.no_grad():
        logits, deltas, boxes = detector.predict(torch.zeros(2, 3, size, size))
    assert logits.shape == (2, len(boxes), 3)
    assert deltas.shape == (2, len(boxes), 4)


def test_starting_from_a_model_of_other_classes_says_what_was_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from detkit.model_file import save_model

    config = SSDConfig(size=96)
    save_model(tmp_path / "a.safetensors", SSD(config, ("car",)))
    with caplog.at_level("INFO", logger="detkit"):
        SSD(config, ("car", "dog")).load_weights(str(tmp_path / "a.safetensors"))
    assert "tensors taken; new from chance: class_head" in caplog.text


def test_under_the_papers_recipe_biases_learn_twice_as_fast_and_no_other_and_do_not_decay() -> None:
    detector = SSD(SSDConfig(), ["a"])
    detector.backbone.pretrained = True
    groups = detector.parameter_groups(SSD.recipe)
    names = {id(parameter): name for name, parameter in detector.named_parameters()}
    told = {
        names[id(one)]: (group["lr"], group["weight_decay"])
        for group in groups
        for one in group["params"]
    }
    assert told.keys() == set(names.values())
    for name, parameter in detector.named_parameters():
        decay = 5e-4 if parameter.ndim > 1 else 0.0
        assert told[name] == (2e-3 if name.endswith(".bias") else 1e-3, decay), name
