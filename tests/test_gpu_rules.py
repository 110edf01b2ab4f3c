"""What a GPU asks of the code, held on a GPU that is none: one device, streams, few waits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import islice

import numpy as np
import pytest
import torch
from simulated_gpu import GPU, OnGpu, simulated_gpu
from test_contract import CLASSES, make, sample
from torchvision import ops

from detkit.detector import Detector
from detkit.detectors import backend_names, load_backend
from detkit.errors import DetkitError
from detkit.geometry import nms
from detkit.networks import roi_pooling
from detkit.networks.roi_pooling import SAMPLES
from detkit.structures import Batch, Sample
from detkit.training.loader import PackedBatch
from detkit.transforms.preparation import Preparation
from detkit.transforms.transfer import arrived, copying, one_ahead

PAPERS = ("fast-rcnn", "faster-rcnn", "rcnn", "ssd", "yolov1")


@pytest.fixture(params=backend_names())
def backend(request: pytest.FixtureRequest) -> type[Detector]:
    return load_backend(request.param)


def pinned(samples: list[Sample], preparation: Preparation) -> PackedBatch:
    return PackedBatch.of(samples, preparation).pin_memory()


def gradients_of(detector: Detector, batch: Batch) -> dict[str, float]:
    """Return the losses, whose gradients are left; all that is drawn begins at the same seed."""
    torch.manual_seed(3)
    losses = detector(batch)
    torch.stack(list(losses.values())).sum().backward()
    return {name: float(loss.detach().cpu()) for name, loss in losses.items()}


def test_a_backend_learns_on_the_gpu_what_it_learns_on_the_cpu(
    backend: type[Detector], monkeypatch: pytest.MonkeyPatch
) -> None:
    there, here = make(backend).train(), make(backend).train()
    samples = [sample(1), sample(2, objects=0), sample(3)]
    wanted = gradients_of(here, here.prepare(samples))
    with simulated_gpu(monkeypatch):
        packed = pinned(samples, here.preparation)
        there.to("cuda")
        assert there.device == GPU
        with copying(GPU):
            batch = packed.unpack(GPU)
        arrived([batch], GPU)
        assert gradients_of(there, batch) == wanted
        for name, parameter in there.named_parameters():
            expected = here.get_parameter(name).grad
            assert isinstance(parameter.grad, OnGpu) and expected is not None
            assert torch.equal(parameter.grad.cpu(), expected), name


def test_a_backend_finds_on_the_gpu_what_it_finds_on_the_cpu(
    backend: type[Detector], monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a CPU alone regions are cut in an own way, equal to torchvision's but for the last bits.
    align = partial(ops.roi_align, sampling_ratio=SAMPLES)
    monkeypatch.setattr(roi_pooling, "align_by_bags", align)
    there, here = (make(backend, score_thresh=0.0).eval() for _ in range(2))
    images = [sample(seed) for seed in (4, 5)]
    pixels = [np.ascontiguousarray(one.image.permute(1, 2, 0).numpy()) for one in images]
    given = [None if one.proposals is None else one.proposals.numpy() for one in images]

    def found_by(detector: Detector) -> Iterator[np.ndarray]:
        with detector.detecting():
            batches = [
                detector.prepare_image(image, str(number), boxes)
                for number, (image, boxes) in enumerate(zip(pixels, given))
            ]
            for one in detector.detect(detector.joined(batches)):
                yield np.column_stack([one.boxes, one.scores, one.labels])

    wanted = list(found_by(here))
    with simulated_gpu(monkeypatch):
        there.to("cuda")
        found = list(found_by(there))
    for one, other in zip(found, wanted, strict=True):
        assert len(one) and one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", PAPERS)
def test_the_host_waits_as_often_for_a_crowd_as_for_two_objects(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = make(load_backend(name)).train()
    few, crowd = sample(1, objects=2), sample(1, objects=2)
    boxes = crowd.boxes.repeat(20, 1) + torch.arange(40.0)[:, None] / 4
    crowd = replace(
        crowd,
        boxes=boxes,
        labels=crowd.labels.repeat(20),
        difficult=crowd.difficult.repeat(20),
    )
    waits = []
    with simulated_gpu(monkeypatch) as waited:
        detector.to("cuda")
        for one in (few, few, crowd):  # with the first, anchors go to the GPU
            packed = pinned([one], detector.preparation)
            waited.clear()
            batch = packed.unpack(GPU)
            assert waited == [], "a batch in page-locked memory"
            torch.stack(list(detector(batch).values())).sum().backward()
            waits.append(sorted(waited))
    assert waits[1] == waits[2] and len(waits[1]) <= 15, waits


def test_a_batch_is_on_its_way_while_the_one_before_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    preparation = make(load_backend("ssd")).preparation
    begun: list[int] = []

    def packed() -> Iterator[PackedBatch]:
        for number in range(3):
            begun.append(number)
            yield pinned([sample(number)], preparation)
        raise DetkitError("bad.png: cannot be read")

    with simulated_gpu(monkeypatch) as waited:
        stream = one_ahead(packed(), partial(PackedBatch.unpack, device=GPU), GPU)
        for number in range(3):
            batch = next(stream)
            assert begun == list(range(min(number + 2, 3)))
            assert waited == []
            wanted = preparation([sample(number)])
            assert torch.equal(batch.images.cpu(), wanted.images)
            assert torch.equal(batch.boxes[0].cpu(), wanted.boxes[0])
            waited.clear()
        with pytest.raises(DetkitError, match="bad.png"):
            next(stream)  # in its own turn: what came before it was learnt from
        begun.clear()
        stream = one_ahead(packed(), PackedBatch.unpack, torch.device("cpu"))
        assert len(list(islice(stream, 2))) == 2 and begun == [0, 1]


def test_a_batch_that_has_not_arrived_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    preparation = make(load_backend("ssd")).preparation
    with simulated_gpu(monkeypatch):
        packed = pinned([sample(1)], preparation)
        with copying(GPU):
            batch = packed.unpack(GPU)
        with pytest.raises(RuntimeError, match="may not have arrived"):
            batch.images.sum()
        arrived([replace(batch, labels=[])], GPU)
        assert batch.images.sum().cpu() == preparation([sample(1)]).images.sum()
        with pytest.raises(RuntimeError, match="may not have arrived"):
            batch.labels[0].sum()  # whose memory was not lent to this stream


def test_two_devices_in_one_operation_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    with simulated_gpu(monkeypatch) as waited:
        there = torch.arange(3.0).to("cuda")
        assert (there + 1).tolist() == [1, 2, 3] and waited == ["to", "tolist"]
        with pytest.raises(RuntimeError, match=r"aten::add: tensors on cuda:0 and on the CPU"):
            there + torch.ones(3)


@pytest.mark.parametrize("class_specific", [False, True])
def test_all_classes_together_are_selected_as_one_by_one(class_specific: bool) -> None:
    random = torch.Generator().manual_seed(0)
    for number, thresh in ((0, 0.1), (1, 0.1), (60, 0.5), (400, 0.2), (400, 2.0)):
        shape = (number, len(CLASSES), 2) if class_specific else (number, 2)
        corners = torch.rand(shape, generator=random) * 90 - 5
        sides = torch.rand(shape, generator=random) * 60
        boxes = torch.cat([corners, corners + sides], dim=-1)
        scores = torch.rand((number, len(CLASSES)), generator=random)
        scores = (scores * 20).round() / 20  # many are equal
        scores[::7] = -torch.inf
        settings = {"score_thresh": thresh, "nms_thresh": 0.4, "top_k": 50, "max_detections": 30}
        wanted = nms.select(boxes, scores, **settings)
        found = nms.select_together(boxes, scores, **settings)
        assert found is not None
        for one, other in zip(found, wanted, strict=True):
            assert one.dtype == other.dtype
            assert torch.equal(one, other), (number, thresh)


def test_far_more_boxes_than_one_table_holds_are_selected_class_by_class(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nms, "MOST_TOGETHER", 5)
    boxes = torch.arange(12.0).view(-1, 1) * 10 + torch.tensor([0.0, 0, 8, 8])
    scores = torch.full((12, 1), 0.5)
    settings = {"score_thresh": 0.1, "nms_thresh": 0.4, "top_k": 50, "max_detections": 30}
    assert nms.select_together(boxes, scores, **settings) is None
    monkeypatch.setattr(nms, "select_together", lambda *_, **__: None)
    with simulated_gpu(monkeypatch):
        found, _, _ = nms.select(boxes.to(GPU), scores.to(GPU), **settings)
        assert torch.equal(found.cpu(), boxes)


def test_images_of_many_sizes_are_normalised_at_once_to_the_same_bits() -> None:
    preparation = make(load_backend("faster-rcnn")).preparation
    sizes = ((80, 120), (60, 90), (120, 80))
    batch = preparation.resize([sample(9, size=size) for size in sizes])
    assert len({*batch.sizes}) > 1
    at_once = preparation.normalised_at_once(batch.images, batch.sizes)
    assert torch.equal(at_once, preparation.normalise(batch).images)
    assert batch.images.dtype == torch.uint8, "as it was"


def test_what_comes_back_to_the_cpu_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, bool]] = []

    def to(tensor: torch.Tensor, device: str, *, non_blocking: bool) -> torch.Tensor:
        asked.append((device, non_blocking))
        return tensor

    batch = make(load_backend("ssd")).prepare([sample(1)])
    monkeypatch.setattr(torch.Tensor, "to", to)
    for device in ("cpu", "mps", "cuda:1"):
        batch.to(device)
    assert {*asked} == {("cpu", False), ("mps", False), ("cuda:1", True)}
