"""What is left of a detector's candidates: cut to the image before NMS or after it, as released."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from detkit.config import DetectorConfig
from detkit.detector import Detector
from detkit.detectors import load_backend
from detkit.structures import Batch, Candidates

SIDE = 100


class Given(Detector):
    """Finds the given boxes of one class in an image of 100 x 100 pixels."""

    name = "given"
    config_class = DetectorConfig

    def __init__(self, config: DetectorConfig, boxes: Tensor, scores: Tensor) -> None:
        super().__init__(config, ["thing"])
        self.found = Candidates(boxes, scores[:, None])

    def network_size(self) -> Callable[[int, int], tuple[int, int]]:
        return lambda height, width: (SIDE, SIDE)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        return {}

    def candidates(self, batch: Batch) -> list[Candidates]:
        return [self.found]


def cut(box: list[float]) -> list[float]:
    return [min(max(side, 0.0), float(SIDE)) for side in box]


def overlap(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return width * height / (areas - width * height)


def released(
    boxes: list[list[float]], scores: list[float], thresh: float, *, cut_first: bool
) -> list[list[float]]:
    """Greedy NMS, in whose loop the boxes are cut at once or only when they are written."""
    kept: list[list[float]] = []
    for index in sorted(range(len(boxes)), key=lambda index: -scores[index]):
        box = cut(boxes[index]) if cut_first else boxes[index]
        if all(overlap(box, other) <= thresh for other in kept):
            kept.append(box)
    return [cut(box) for box in kept]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("before", [True, False])
def test_boxes_are_cut_to_the_image_before_nms_or_after_it(seed: int, before: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.rand(60, 2, generator=generator) * SIDE  # all inside, many cut
    sides = 20 + 60 * torch.rand(60, 2, generator=generator)
    boxes = torch.cat([centres - sides / 2, centres + sides / 2], dim=1)
    scores = torch.rand(60, generator=generator) * 0.9 + 0.05
    config = DetectorConfig(clip_before_nms=before, nms_thresh=0.45)
    detector = Given(config, boxes, scores).eval()
    (found,) = detector.detect(detector.prepare_image(torch.zeros(SIDE, SIDE, 3).byte().numpy()))
    wanted, other = (
        released(boxes.tolist(), scores.tolist(), 0.45, cut_first=first)
        for first in (before, not before)
    )
    assert wanted != other
    torch.testing.assert_close(torch.from_numpy(found.boxes), torch.tensor(wanted))


def test_a_box_outside_the_image_is_no_detection_and_hides_none() -> None:
    boxes = torch.tensor([[-30.0, 10, -5, 40], [-30.0, 10, 1, 40]])
    for before in (True, False):
        config = DetectorConfig(clip_before_nms=before)
        detector = Given(config, boxes, torch.tensor([0.9, 0.8])).eval()
        image = torch.zeros(SIDE, SIDE, 3).byte().numpy()
        (found,) = detector.detect(detector.prepare_image(image))
        assert found.boxes.tolist() == [[0, 10, 1, 40]]


@pytest.mark.parametrize(
    ("backend", "before"),
    [("rcnn", True), ("fast-rcnn", True), ("faster-rcnn", True), ("ssd", False), ("yolov1", False)],
)
def test_backends_of_regions_cut_before_nms_and_those_of_one_stage_after(
    backend: str, before: bool
) -> None:
    assert load_backend(backend).config_class().clip_before_nms == before
