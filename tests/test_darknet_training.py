"""YOLOv1's training against darknet's: its gradients, its crops, its schedule, and what it fixes.

The functions that are named after darknet's do what its C does, one number after the other.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from detkit.config import Recipe, override
from detkit.detectors.yolov1 import YOLOv1, YOLOv1Config, assign_cells, first_of_each
from detkit.errors import UsageError
from detkit.structures import Sample
from detkit.training.schedule import lr_factor
from detkit.transforms.geometric import RandomHorizontalFlip, RandomScaleShift

SIDE, NUM, CLASSES = 7, 2, 20  # of yolo.cfg's detection layer
CLASS_NAMES = tuple(f"c{number}" for number in range(CLASSES))


def made_of(
    boxes: list[list[float]], labels: list[int], size: tuple[int, int], seed: int = 0
) -> Sample:
    generator = torch.Generator().manual_seed(seed)
    return Sample(
        torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator),
        torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        torch.tensor(labels, dtype=torch.int64),
        torch.zeros(len(boxes), dtype=torch.bool),
    )


# --- gradients ----------------------------------------------------------------------------


def fill_truth_region(boxes: list[list[float]], labels: list[int]) -> list[float]:
    """Return darknet's truth of an image; `boxes` are left, top, right, bottom in [0, 1]."""
    truth = [0.0] * (SIDE * SIDE * (5 + CLASSES))
    for (left, top, right, bottom), label in zip(boxes, labels, strict=True):
        x, y, w, h = (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
        if w < 0.005 or h < 0.005:
            continue
        column, row = int(x * SIDE), int(y * SIDE)
        index = (column + row * SIDE) * (5 + CLASSES)
        if truth[index]:
            continue
        truth[index] = 1
        truth[index + 1 + label] = 1
        truth[index + 1 + CLASSES : index + 5 + CLASSES] = [
            *(x * SIDE - column, y * SIDE - row, w, h)
        ]
    return truth


def box_iou(a: list[float], b: list[float]) -> float:
    across = min(a[0] + a[2] / 2, b[0] + b[2] / 2) - max(a[0] - a[2] / 2, b[0] - b[2] / 2)
    down = min(a[1] + a[3] / 2, b[1] + b[3] / 2) - max(a[1] - a[3] / 2, b[1] - b[3] / 2)
    if across < 0 or down < 0:
        return 0.0
    return across * down / (a[2] * a[3] + b[2] * b[3] - across * down)


def forward_detection_layer(output: list[float], truth: list[float]) -> list[float]:
    """Return `delta` of one image: what is added, times the rate, along the output."""
    places, delta = SIDE * SIDE, [0.0] * len(output)

    def box_of(index: int) -> list[float]:
        x, y, w, h = output[index : index + 4]
        return [x / SIDE, y / SIDE, w * w, h * h]

    for i in range(places):
        for j in range(NUM):
            p = places * CLASSES + i * NUM + j
            delta[p] = 0.5 * (0 - output[p])
        at = i * (5 + CLASSES)
        if not truth[at]:
            continue
        for j in range(CLASSES):
            delta[i * CLASSES + j] = truth[at + 1 + j] - output[i * CLASSES + j]
        goal = truth[at + 1 + CLASSES : at + 5 + CLASSES]
        scaled = [goal[0] / SIDE, goal[1] / SIDE, goal[2], goal[3]]
        best, best_iou, best_rmse = -1, 0.0, 20.0
        for j in range(NUM):
            box = box_of(places * (CLASSES + NUM) + (i * NUM + j) * 4)
            iou = box_iou(box, scaled)
            rmse = sum((one - other) ** 2 for one, other in zip(box, scaled, strict=True)) ** 0.5
            if best_iou > 0 or iou > 0:
                if iou > best_iou:
                    best, best_iou = j, iou
            elif rmse < best_rmse:
                best, best_rmse = j, rmse
        index = places * (CLASSES + NUM) + (i * NUM + best) * 4
        p = places * CLASSES + i * NUM + best
        delta[p] = box_iou(box_of(index), scaled) - output[p]
        delta[index] = 5 * (goal[0] - output[index])
        delta[index + 1] = 5 * (goal[1] - output[index + 1])
        delta[index + 2] = 5 * (goal[2] ** 0.5 - output[index + 2])
        delta[index + 3] = 5 * (goal[3] ** 0.5 - output[index + 3])
    return delta


class Outputs(YOLOv1):
    """Has its output as its only parameter, in place of a network."""

    outputs: Tensor

    def predict(self, images: Tensor):  # type: ignore[no-untyped-def]
        return self.split_cells(self.outputs)


@pytest.mark.parametrize("seed", range(5))
def test_the_gradient_of_the_loss_is_darknets_delta_over_the_batch(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    config = YOLOv1Config(backbone="tiny", size=64)
    detector = Outputs(config, CLASS_NAMES).eval()
    shape = (3, SIDE * SIDE * (CLASSES + 5 * NUM))
    detector.outputs = (torch.rand(shape, generator=generator) * 1.2 - 0.2).requires_grad_()
    samples, truths = [], []
    for _ in range(3):
        corners = torch.rand(4, 2, generator=generator) * 50
        boxes = torch.cat([corners, corners + 3 + torch.rand(4, 2, generator=generator) * 10], 1)
        labels = torch.randint(CLASSES, (4,), generator=generator).tolist()
        samples.append(made_of(boxes.tolist(), labels, (64, 64)))
        truths.append(fill_truth_region((boxes.double() / 64).tolist(), labels))
    sum(detector.losses(detector.prepare(samples)).values()).backward()  # type: ignore[union-attr]
    assert detector.outputs.grad is not None
    rows = detector.outputs.detach().double().tolist()
    wanted = [forward_detection_layer(*pair) for pair in zip(rows, truths, strict=True)]
    # update_network divides the rate by the batch.
    torch.testing.assert_close(
        -3 * detector.outputs.grad.double(), torch.tensor(wanted, dtype=torch.float64),
        rtol=1e-4, atol=1e-5,
    )  # fmt: skip


# --- crops --------------------------------------------------------------------------------


def correct_boxes(
    boxes: list[list[float]], margins: list[int], size: tuple[int, int], *, flip: bool
) -> list[list[float]]:
    """Return left, top, right, bottom in shares of the crop, as load_data_region calls it."""
    height, width = size
    left, top, right, bottom = margins
    sx, sy = (width - left - right) / width, (height - top - bottom) / height
    dx, dy = left / width / sx, top / height / sy
    corrected = []
    for x1, y1, x2, y2 in boxes:
        x1, x2 = x1 / width / sx - dx, x2 / width / sx - dx
        y1, y2 = y1 / height / sy - dy, y2 / height / sy - dy
        if flip:
            x1, x2 = 1 - x2, 1 - x1
        corrected.append([min(max(part, 0.0), 1.0) for part in (x1, y1, x2, y2)])
    return corrected


@pytest.mark.parametrize("flip", [False, True])
def test_objects_of_a_crop_are_darknets_with_the_centre_of_what_is_seen(flip: bool) -> None:
    size, kept_cut = (180, 240), 0
    boxes = [
        *([0.0, 40, 40, 120], [200.0, 10, 238, 90], [80.0, 60, 160, 130]),
        *([5.0, 150, 90, 178], [100.0, 2, 140, 8], [238.0, 0, 240, 60]),
    ]
    sample = made_of(boxes, list(range(6)), size)
    shift = RandomScaleShift(0.2, fill=None, min_side=0.005)
    for seed in range(60):
        torch.manual_seed(seed)
        moved = RandomHorizontalFlip(float(flip))(shift(sample))
        torch.manual_seed(seed)
        draws = [(-0.2 + 0.4 * float(torch.rand(()))) for _ in range(4)]
        margins = [int(side * draw) for side, draw in zip((240, 180, 240, 180), draws)]
        truth = fill_truth_region(correct_boxes(boxes, margins, size, flip=flip), list(range(6)))
        wanted = {}
        for cell in range(SIDE * SIDE):
            has_object, *classes = truth[cell * 25 : cell * 25 + 21]
            if has_object:
                wanted[cell] = (classes.index(1), truth[cell * 25 + 21 : cell * 25 + 25])
        crop = (moved.image.shape[1], moved.image.shape[2])
        assert crop == (180 - margins[1] - margins[3], 240 - margins[0] - margins[2])
        cells, targets = assign_cells(moved.boxes, crop, SIDE)
        first = first_of_each(cells).tolist()
        found = {int(cells[i]): (int(moved.labels[i]), targets[i].tolist()) for i in first}
        assert found.keys() == wanted.keys()
        for cell, (label, box) in found.items():
            assert label == wanted[cell][0]
            assert box == pytest.approx(wanted[cell][1], abs=1e-4)
        centres = [(x1 + x2) / 2 for x1, _, x2, _ in boxes]
        out = [not margins[0] < x < 240 - margins[2] for x in centres]
        kept_cut += sum(out[label] for label in moved.labels.tolist())
    assert kept_cut > 10  # those whose own centre is cut off


def test_beyond_the_border_are_the_pixels_of_the_border() -> None:
    sample = made_of([], [], (20, 30))
    for seed in range(30):
        torch.manual_seed(seed)
        moved = RandomScaleShift(0.3, fill=None)(sample)
        torch.manual_seed(seed)
        draws = [(-0.3 + 0.6 * float(torch.rand(()))) for _ in range(4)]
        left, top = int(30 * draws[0]), int(20 * draws[1])
        for row in range(moved.image.shape[1]):
            for column in range(moved.image.shape[2]):
                x, y = min(max(column + left, 0), 29), min(max(row + top, 0), 19)
                assert torch.equal(moved.image[:, row, column], sample.image[:, y, x])


# --- schedule, and what is fixed ----------------------------------------------------------


def get_current_rate(batch: int) -> float:
    """Return yolo.cfg's rate after so many batches."""
    rate = 0.001
    for step, scale in zip((200, 400, 600, 20_000, 30_000), (2.5, 2, 2, 0.1, 0.1), strict=True):
        if step > batch:
            return rate
        rate *= scale
    return rate


def test_the_rate_is_that_of_yolo_cfg_at_every_batch() -> None:
    recipe = YOLOv1.recipe
    recipe.validate()
    assert (recipe.max_steps, recipe.batch_size) == (40_000, 64)
    for batch in (0, 199, 200, 399, 400, 599, 600, 19_999, 20_000, 29_999, 30_000, 39_999):
        factor = lr_factor(recipe, batch / recipe.max_steps)
        assert recipe.lr * factor == pytest.approx(get_current_rate(batch))


def test_a_gamma_of_ones_own_is_one_number_or_one_a_milestone() -> None:
    _, recipe = override(YOLOv1Config(), Recipe(), {"gamma": "2,.1", "milestones": ".1,.5"})
    assert [lr_factor(recipe, at) for at in (0, 0.1, 0.5)] == pytest.approx([1, 2, 0.2])
    with pytest.raises(UsageError, match="gamma=2,0.5,0.1: expected one number, or 2"):
        override(YOLOv1Config(), Recipe(), {"gamma": "2,.5,.1"})
    with pytest.raises(UsageError, match="gamma"):
        override(YOLOv1Config(), Recipe(), {"gamma": "2,-1"})


@pytest.mark.parametrize(("backbone", "fixed"), [("darknet", 0), ("fast_yolo", 0), ("resnet18", 5)])
def test_no_layer_of_the_papers_networks_is_fixed_unless_asked_for(
    backbone: str, fixed: int
) -> None:
    for freeze_layers, wanted in ((None, fixed), (3, 3)):
        config = YOLOv1Config(
            backbone=backbone, head="convolutional", size=64, freeze_layers=freeze_layers
        )
        detector = YOLOv1(config, ["a"])
        detector.backbone.pretrained = True
        detector.load_weights("none")
        assert detector.backbone.num_frozen == wanted
        still = any(not one.requires_grad for one in detector.parameters())
        assert still == (wanted > 0)


def test_all_boxes_of_a_crowded_image_are_detections_as_in_darknet() -> None:
    detector = Outputs(YOLOv1Config(backbone="tiny", size=64, nms_thresh=1.0), CLASS_NAMES).eval()
    detector.outputs = torch.rand(1, SIDE * SIDE * (CLASSES + 5 * NUM)) * 0.8 + 0.1
    (found,) = detector.detect(detector.prepare([made_of([], [], (64, 64))]))
    assert len(found.scores) == 98 * CLASSES
