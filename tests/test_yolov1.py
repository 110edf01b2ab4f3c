"""YOLOv1 against loops over cells, hand-made cases and the paper's numbers."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from running import detkit
from torch import Tensor, nn

from detkit.detectors.yolov1 import (
    Grid,
    Objects,
    YOLOv1,
    YOLOv1Config,
    assign_cells,
    decode_grid,
    elementwise_iou,
    first_of_each,
    grid_loss,
    ignored_cells,
    responsible_predictors,
)
from detkit.errors import UsageError
from detkit.networks.yolo_heads import CellPooling
from detkit.structures import Sample
from detkit.transforms.photometric import RandomExposure

SHARED = Path(__file__).parents[2] / "shared" / "data"


def sample(boxes: list[list[float]], size: tuple[int, int] = (100, 100)) -> Sample:
    return Sample(
        torch.randint(0, 256, (3, *size), dtype=torch.uint8),
        torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        torch.zeros(len(boxes), dtype=torch.int64),
        torch.zeros(len(boxes), dtype=torch.bool),
    )


def make(**settings: object) -> YOLOv1:
    torch.manual_seed(0)
    values = {"backbone": "tiny", "size": 96, "grid": 3, **settings}
    return YOLOv1(YOLOv1Config(**values), ("a", "b"))  # type: ignore[arg-type]


def random_grid(
    images: int = 2,
    grid: int = 3,
    boxes: int = 2,
    classes: int = 3,
    dtype: torch.dtype | None = None,
) -> Grid:
    shape = (images, grid * grid)
    return Grid(
        torch.randn(*shape, classes, dtype=dtype),
        torch.randn(*shape, boxes, dtype=dtype),
        torch.randn(*shape, boxes, 4, dtype=dtype) * 0.4 + 0.4,
    )


# --- the networks -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backbone", "convolutions", "linears"), [("darknet", 24, 2), ("fast_yolo", 9, 3)]
)
def test_the_papers_networks_have_its_layers_and_give_7_x_7_x_30(
    backbone: str, convolutions: int, linears: int
) -> None:
    with torch.device("meta"):
        detector = YOLOv1(YOLOv1Config(backbone=backbone), [str(n) for n in range(20)]).eval()
    modules = list(detector.modules())
    assert sum(isinstance(one, nn.Conv2d) for one in modules) == convolutions
    assert sum(isinstance(one, nn.Linear) for one in modules) == linears
    assert not any(isinstance(one, nn.BatchNorm2d) for one in modules)
    assert {one.negative_slope for one in modules if isinstance(one, nn.LeakyReLU)} == {0.1}
    assert [one.p for one in modules if isinstance(one, nn.Dropout)] == [0.5]
    found = detector.predict(torch.empty(1, 3, 448, 448, device="meta"))
    assert found.probs.shape == (1, 49, 20)
    assert found.confidences.shape == (1, 49, 2)  # 98 boxes
    assert found.boxes.shape == (1, 49, 2, 4)


def test_the_head_is_connected_on_the_papers_networks_alone_unless_asked_for() -> None:
    def weights(**settings: object) -> int:
        with torch.device("meta"):
            detector = YOLOv1(YOLOv1Config(**settings), ["a"])  # type: ignore[arg-type]
        return sum(one.numel() for one in detector.head.parameters())

    assert weights(backbone="darknet") > 200e6
    assert weights(backbone="mobilenet_v2") < 3e6
    assert weights(backbone="vgg16", head="connected") > 200e6  # the paper's YOLO VGG16
    assert weights(backbone="darknet", head="convolutional") < 3e6


@pytest.mark.parametrize("backbone", ["tiny", "mobilenet_v2", "squeezenet1_0", "resnet18"])
@pytest.mark.parametrize(("size", "grid"), [(64, 7), (150, 4), (96, 13)])
def test_any_backbone_size_and_number_of_cells_fit(backbone: str, size: int, grid: int) -> None:
    config = YOLOv1Config(backbone=backbone, size=size, grid=grid, boxes_a_cell=3)
    detector = YOLOv1(config, ["a", "b"]).eval()
    with torch.no_grad():
        found = detector.predict(torch.zeros(2, 3, size, size))
    assert found.boxes.shape == (2, grid * grid, 3, 4)


def test_a_connected_head_on_another_backbone_learns_too() -> None:
    detector = make(head="connected", size=64).train()
    batch = detector.prepare([sample([[10, 10, 60, 50]])])
    sum(detector(batch).values()).backward()  # type: ignore[union-attr]
    assert all(parameter.grad is not None for parameter in detector.parameters())


@pytest.mark.parametrize(("side", "grid"), [(14, 7), (6, 3), (5, 3), (3, 7), (7, 7)])
def test_cells_are_the_mean_of_the_places_they_cover(side: int, grid: int) -> None:
    x = torch.randn(2, 3, side, side)
    # Every place cut into `grid` parts makes cells of whole parts.
    fine = x.repeat_interleave(grid, 2).repeat_interleave(grid, 3)
    expected = nn.functional.avg_pool2d(fine, side)
    torch.testing.assert_close(CellPooling(side, grid)(x), expected, atol=1e-5, rtol=1e-5)


def test_every_predictor_begins_in_its_cell_at_a_size_of_its_own() -> None:
    detector = make(boxes_a_cell=2, grid=5).eval()
    with torch.no_grad():
        found = detector.predict(torch.rand(1, 3, 96, 96))
    boxes, scores = decode_grid(found, (100, 100))
    sides = (boxes[0, :, 2:] - boxes[0, :, :2]).view(25, 2, 2)
    assert ((sides[:, 0] - 33).abs() < 12).all() and ((sides[:, 1] - 67).abs() < 12).all()
    assert scores.max() < 0.2
    loss = sum(make(grid=7)(make().prepare([sample([[20, 20, 70, 60]])])).values())
    assert float(torch.as_tensor(loss).detach()) < 5.0


# --- who learns what ----------------------------------------------------------------------


def test_the_cell_of_an_objects_centre_is_responsible_for_it() -> None:
    # In an image 70 wide and 140 high, cells are 10 x 20 pixels; the centre is (25, 70).
    boxes = torch.tensor([[20.0, 40.0, 30.0, 100.0], [0, 0, 70, 140], [60, 120, 80, 160]])
    cells, targets = assign_cells(boxes, (140, 70), 7)
    assert cells.tolist() == [3 * 7 + 2, 3 * 7 + 3, 6 * 7 + 6]  # the last centre is on the border
    expected = torch.tensor([[0.5, 0.5, 10 / 70, 60 / 140], [0.5, 0.5, 1.0, 1.0]])
    torch.testing.assert_close(targets[:2], expected)


def test_the_first_of_several_objects_of_a_cell_is_kept() -> None:
    assert first_of_each(torch.tensor([4, 2, 4, 9, 2, 4])).tolist() == [0, 1, 3]
    assert first_of_each(torch.tensor([], dtype=torch.int64)).tolist() == []


def test_in_training_any_object_of_a_shared_cell_is_learnt_else_the_first() -> None:
    detector = make()
    batch = detector.prepare([sample([[40, 40, 60, 60], [30, 30, 70, 70], [0, 0, 20, 20]])])
    assert len(detector.eval().objects(batch).cells) == 2

    def widths() -> set[float]:
        """Return the widths learnt in the middle cell, over many looks at the image."""
        drawn = [detector.objects(batch) for _ in range(40)]
        return {round(float(one.boxes[one.cells == 4, 2]), 3) for one in drawn}

    assert widths() == {0.2}
    detector.train()
    assert widths() == {0.2, 0.4}


def test_of_objects_that_share_a_cell_only_the_first_is_within_reach() -> None:
    boxes = torch.tensor([[40.0, 40, 60, 60], [30, 30, 70, 70], [0, 0, 20, 20]])
    size = (100, 100)  # both centres of the first two are at (50, 50)
    assert make(grid=7).reachable(boxes, size, size).tolist() == [True, False, True]
    near = torch.tensor([[0.0, 0, 10, 10], [8, 8, 18, 18]])  # centres 5 and 13: cells of 14.3, 7.1
    assert make(grid=7).reachable(near, size, size).tolist() == [True, False]
    assert make(grid=14).reachable(near, size, size).tolist() == [True, True]
    assert make(grid=7).reachable(boxes[:0], size, size).tolist() == []


def test_an_object_below_8_px_or_an_eighth_of_a_cell_is_out_of_reach() -> None:
    size = (448, 448)  # cells of 64: an eighth is 8
    sides = {7: False, 9: True}
    for side, within in sides.items():
        boxes = torch.tensor([[100.0, 100, 100 + side, 100 + side]])
        assert make(grid=7).reachable(boxes, size, size).tolist() == [within]
        assert make(grid=28).reachable(boxes, size, size).tolist() == [within]
    wide = torch.tensor([[10.0, 10, 26, 26]])  # 16 of cells of 224 are less than an eighth
    assert make(grid=2).reachable(wide, size, size).tolist() == [False]
    assert make(grid=3).reachable(wide, size, size).tolist() == [False]  # 149 / 8 is 18.7
    assert make(grid=4).reachable(wide, size, size).tolist() == [True]  # 112 / 8 is 14


def test_train_says_how_many_objects_it_cannot_learn(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    lines = ["filename,width,height,class,xmin,ymin,xmax,ymax"]
    for number in range(4):
        cv2.imwrite(str(data / f"{number}.png"), np.full((80, 80, 3), 40 * number, np.uint8))
        lines += [f"{number}.png,80,80,a,10,10,30,30", f"{number}.png,80,80,a,12,12,28,28"]
    (data / "labels.csv").write_text("\n".join(lines) + "\n")
    words = ["--set", "size=64", "--set", "batch_size=2", "--max-steps", "2", "--device", "cpu"]
    done = detkit(
        "train", data, "--model", "yolov1", *words, "--val", ".25", "-o", tmp_path / "run"
    )
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stderr.split())
    assert "3 of 6 objects (50.0%) are hardly within reach of yolov1" in said
    assert "sharing their cell of the 7 x 7 grid with another" in said


# --- the loss -----------------------------------------------------------------------------


def naive_iou(a: list[float], b: list[float]) -> float:
    """Return the IoU of two boxes cx, cy, w, h."""
    width = min(a[0] + a[2] / 2, b[0] + b[2] / 2) - max(a[0] - a[2] / 2, b[0] - b[2] / 2)
    height = min(a[1] + a[3] / 2, b[1] + b[3] / 2) - max(a[1] - a[3] / 2, b[1] - b[3] / 2)
    both = max(width, 0.0) * max(height, 0.0)
    return both / (a[2] * a[3] + b[2] * b[3] - both) if both else 0.0


def naive_loss(
    found: Grid, truths: dict[tuple[int, int], tuple[list[float], int]], grid: int
) -> list[float]:
    """Eq. 3 in loops; `truths` has a box (x, y, w, h), shares of the image, and a label a cell."""
    centre = size = with_object = without = classes = 0.0
    images, cells, number = found.confidences.shape
    for image in range(images):
        for cell in range(cells):
            row, column = divmod(cell, grid)
            confidence = found.confidences[image, cell].tolist()
            raw = found.boxes[image, cell].tolist()
            responsible = None
            if (image, cell) in truths:
                truth, label = truths[image, cell]
                boxes = [
                    [(x + column) / grid, (y + row) / grid, p * p, q * q] for x, y, p, q in raw
                ]
                overlaps = [naive_iou(box, truth) for box in boxes]
                errors = [math.dist(box, truth) for box in boxes]
                if max(overlaps) > 0:
                    responsible = overlaps.index(max(overlaps))
                else:
                    responsible = errors.index(min(errors))
                x, y, p, q = raw[responsible]
                centre += 5 * (x - (truth[0] * grid - column)) ** 2
                centre += 5 * (y - (truth[1] * grid - row)) ** 2
                size += 5 * (p - truth[2] ** 0.5) ** 2 + 5 * (q - truth[3] ** 0.5) ** 2
                with_object += (confidence[responsible] - overlaps[responsible]) ** 2
                for index, prob in enumerate(found.probs[image, cell].tolist()):
                    classes += (prob - (index == label)) ** 2
            without += 0.5 * sum(c * c for j, c in enumerate(confidence) if j != responsible)
    return [part / images for part in (centre, size, with_object, without, classes)]


def objects_of(truths: dict[tuple[int, int], tuple[list[float], int]], grid: int) -> Objects:
    cells, boxes, labels = [], [], []
    for (image, cell), ((x, y, w, h), label) in truths.items():
        cells.append(image * grid * grid + cell)
        row, column = divmod(cell, grid)
        boxes.append([x * grid - column, y * grid - row, w, h])
        labels.append(label)
    return Objects(torch.tensor(cells), torch.tensor(boxes), torch.tensor(labels))


def loss_of(found: Grid, objects: Objects, spared: Tensor | None = None) -> dict[str, Tensor]:
    """Return the loss on 3 x 3 cells, of which none are spared unless it is said."""
    none = torch.zeros(found.probs.shape[:2].numel(), dtype=torch.bool)
    cells = none if spared is None else spared
    return grid_loss(found, objects, cells, grid=3, lambda_coord=5.0, lambda_noobj=0.5)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("number", [1, 2, 3])
def test_loss_equals_a_plain_loop_over_cells_and_predictors(seed: int, number: int) -> None:
    torch.manual_seed(seed)
    found = random_grid(images=2, grid=3, boxes=number)
    if seed == 0:  # far from every object: only the squared error can choose
        found.boxes[..., :2] += 20
    truths = {
        (0, 4): ([0.5, 0.45, 0.3, 0.2], 2),
        (0, 0): ([0.1, 0.3, 0.2, 0.9], 0),
        (1, 8): ([0.9, 0.7, 0.0, 0.4], 1),  # without area: all IoU are 0
    }
    parts = loss_of(found, objects_of(truths, 3))
    assert list(parts) == ["centre_box", "size_box", "object", "noobject", "class"]
    wanted = naive_loss(found, truths, 3)
    assert [float(part) for part in parts.values()] == pytest.approx(wanted, rel=1e-4, abs=1e-6)


def test_spared_cells_have_no_loss_unless_they_have_an_object() -> None:
    torch.manual_seed(0)
    found = random_grid(images=2, grid=3, boxes=2)
    truths = {(0, 4): ([0.5, 0.45, 0.3, 0.2], 2)}
    spared = torch.zeros(2, 9, dtype=torch.bool)
    spared[0, [3, 4, 5]] = True  # the object's cell among them
    spared[1, 8] = True
    parts = loss_of(found, objects_of(truths, 3), spared.flatten())
    wanted = naive_loss(found, truths, 3)
    for image, cell in ((0, 3), (0, 5), (1, 8)):
        wanted[3] -= 0.5 * sum(c * c for c in found.confidences[image, cell].tolist()) / 2
    assert [float(part) for part in parts.values()] == pytest.approx(wanted, rel=1e-4, abs=1e-6)


def test_an_ignored_object_speaks_for_the_cells_whose_centre_it_holds_and_for_its_own() -> None:
    # In an image 80 wide and 40 high, cells are 20 x 10: centres at 10, 30, 50, 70 and 5, 15, ...
    def cells(*boxes: list[float]) -> list[list[int]]:
        found = ignored_cells(torch.tensor(boxes).view(-1, 4), (40, 80), 4)
        return found.int().view(4, 4).tolist()

    none = [0, 0, 0, 0]
    assert cells([10.0, 5, 50, 26]) == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], none]
    assert cells([10.1, 5, 50.1, 25]) == [[0, 1, 1, 0], [0, 1, 1, 0], none, none]
    assert cells([61.0, 31, 64, 34]) == [none, none, none, [0, 0, 0, 1]]  # holds no centre
    assert cells([61.0, 31, 64, 34], [0, 0, 12, 8]) == [[1, 0, 0, 0], none, none, [0, 0, 0, 1]]
    assert cells() == [none] * 4


def test_loss_passes_gradcheck_and_does_not_pull_at_the_iou() -> None:
    torch.manual_seed(1)
    start = random_grid(images=1, dtype=torch.float64)
    leaves = [one.requires_grad_() for one in (start.probs, start.confidences, start.boxes)]
    objects = objects_of({(0, 4): ([0.5, 0.45, 0.3, 0.2], 2)}, 3)
    objects = dataclasses.replace(objects, boxes=objects.boxes.double())

    def loss(*tensors: Tensor) -> Tensor:
        parts = loss_of(Grid(*tensors), objects)
        # `object` has the IoU as its target, which numeric differences would follow.
        return torch.stack([parts[k] for k in parts if k != "object"]).sum()

    assert torch.autograd.gradcheck(loss, leaves)
    parts = loss_of(Grid(*leaves), objects)
    (of_boxes,) = torch.autograd.grad(parts["object"], leaves[2], allow_unused=True)
    assert of_boxes is None


def test_sizes_of_zero_have_a_finite_gradient() -> None:
    found = random_grid()
    found.boxes[..., 2:] = 0.0
    found.boxes.requires_grad_()
    truths = {(0, 4): ([0.5, 0.45, 0.0, 0.2], 2)}
    parts = loss_of(found, objects_of(truths, 3))
    parts["size_box"].backward()
    assert found.boxes.grad is not None and found.boxes.grad.isfinite().all()
    assert found.boxes.grad.abs().sum() > 0  # the side that is not zero is still learnt


def test_the_predictor_of_highest_iou_is_responsible_else_the_nearest() -> None:
    boxes = torch.tensor(
        [
            [[0.5, 0.5, 0.1, 0.1], [0.5, 0.5, 0.5, 0.5]],  # IoU .0625 and .64
            [[0.9, 0.9, 0.1, 0.1], [0.7, 0.9, 0.1, 0.1]],  # none overlaps; the second is nearer
        ]
    )
    targets = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.2, 0.9, 0.1, 0.1]])
    best, overlap = responsible_predictors(boxes, targets)
    assert best.tolist() == [1, 1]
    assert overlap.tolist() == pytest.approx([0.64, 0.0])


def test_iou_of_boxes_without_area_is_zero() -> None:
    boxes = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.5, 0.5, 0.2, 0.2], [0.1, 0.1, 0.2, 0.2]])
    others = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.5, 0.5, 0.1, 0.4], [0.9, 0.9, 0.2, 0.2]])
    assert elementwise_iou(boxes, others).tolist() == pytest.approx([0.0, 1 / 3, 0.0])


# --- detection ----------------------------------------------------------------------------


def test_decoding_equals_a_loop_over_cells_and_scores_are_prob_times_confidence() -> None:
    torch.manual_seed(2)
    found = random_grid(images=2, grid=3, boxes=2)
    boxes, scores = decode_grid(found, (60, 90))
    assert boxes.shape == (2, 18, 4) and scores.shape == (2, 18, 3)
    for image, cell, j in [(0, 0, 0), (1, 5, 1), (0, 7, 1)]:
        x, y, p, q = found.boxes[image, cell, j].tolist()
        row, column = divmod(cell, 3)
        cx, cy, w, h = (column + x) * 30, (row + y) * 20, p * p * 90, q * q * 60
        wanted = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
        assert boxes[image, cell * 2 + j].tolist() == pytest.approx(wanted, abs=1e-3)
        confidence = max(0.0, float(found.confidences[image, cell, j]))
        wanted = [max(0.0, float(prob)) * confidence for prob in found.probs[image, cell]]
        assert scores[image, cell * 2 + j].tolist() == pytest.approx(wanted)


def test_two_negative_numbers_make_no_detection() -> None:
    found = random_grid()
    found.probs.fill_(-1.0)
    found.confidences.fill_(-1.0)
    assert decode_grid(found, (60, 90))[1].max() == 0.0


# --- settings and augmentation ------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [{"size": 32}, {"grid": 0}, {"boxes_a_cell": 0}, {"dropout": 1.0}, {"lambda_coord": -1.0}],
)
def test_settings_that_cannot_work_are_refused_by_name(settings: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=f"--set {next(iter(settings))}="):
        YOLOv1Config(**settings).validate()  # type: ignore[arg-type]


def test_exposure_and_saturation_change_by_up_to_half_and_hue_stays() -> None:
    pixels = np.zeros((2, 2, 3), np.uint8)
    pixels[:] = (120, 60, 60)
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    change = RandomExposure(1.5)
    values, saturations = [], []
    for seed in range(60):
        torch.manual_seed(seed)
        changed = change(dataclasses.replace(sample([]), image=image)).image
        high, low = int(changed.max()), int(changed.min())
        assert abs(int(changed[1, 0, 0]) - int(changed[2, 0, 0])) <= 2  # still red
        values.append(high / 120)
        saturations.append((1 - low / high) / 0.5)
    for factors in (values, saturations):
        assert 1 / 1.5 - 0.03 < min(factors) < 0.8 and 1.25 < max(factors) < 1.5 + 0.03


@pytest.mark.skipif(not SHARED.is_dir(), reason="no folder of real data")
def test_a_crowded_folder_loses_objects_to_shared_cells_and_fewer_with_more_cells() -> None:
    from detkit.data import open_dataset

    dataset = open_dataset(SHARED / "bccd")
    everything = [truth.boxes for truth in dataset.truths("train")]
    sound = [boxes[(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) > 64] for boxes in everything]
    lost = []
    for grid in (7, 14):
        size, detector = (480, 640), make(grid=grid)
        reached = [detector.reachable(torch.from_numpy(boxes), size, size) for boxes in sound]
        lost.append(sum(int((~one).sum()) for one in reached))
        naive = 0
        for boxes in sound:
            x, y = (boxes[:, :2] + boxes[:, 2:]).T / 2
            places = {
                (min(int(b / 480 * grid), grid - 1), min(int(a / 640 * grid), grid - 1))
                for a, b in zip(x, y)
            }
            naive += len(boxes) - len(places)
        assert lost[-1] == naive
    assert lost[0] > 5 * lost[1] > 0
