"""Tests of the stream of training batches."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import CLASSES, RECIPE, FixedSize, make_toy, write_images

from detkit import machine
from detkit.data.images import read_image
from detkit.data.records import ImageRecord, ObjectRecord
from detkit.detectors.ssd import SSD, SSDConfig
from detkit.errors import DetkitError, UsageError
from detkit.structures import Batch, Sample
from detkit.training import dataset, loader
from detkit.training.dataset import KeptSize, TrainingDataset
from detkit.training.loader import BatchStream, PackedBatch, SampleStream, batches, open_loader
from detkit.transforms.augmentation import Compose, light_augmentation
from detkit.transforms.preparation import Preparation, shorter_side

KEPT = KeptSize(FixedSize(), most=24)


@pytest.fixture
def records(tmp_path: Path) -> list[ImageRecord]:
    return write_images(tmp_path / "images")


def make_stream(
    records: list[ImageRecord],
    *,
    batch_size: int = 4,
    mosaic: float = 0.5,
    rank: int = 0,
    world_size: int = 1,
    augment: bool = True,
) -> BatchStream:
    draw = SampleStream(
        TrainingDataset(records, CLASSES),
        light_augmentation() if augment else Compose([]),
        mosaic,
        FixedSize(),
        seed=5,
    )
    return BatchStream(draw, make_toy().preparation, batch_size, rank=rank, world_size=world_size)


def take(stream: BatchStream, count: int, *, first: int = 0, workers: int = 0) -> list[Batch]:
    loader = open_loader(stream, first, num_workers=workers, pin_memory=False)
    return list(islice(batches(loader), count))


def assert_equal(one: Batch, other: Batch) -> None:
    assert one.image_ids == other.image_ids
    assert torch.equal(one.images, other.images)
    for name in ("boxes", "labels", "difficult", "ignored"):
        for mine, theirs in zip(getattr(one, name), getattr(other, name), strict=True):
            assert torch.equal(mine, theirs)


def test_any_number_of_workers_gives_the_same_batches(records: list[ImageRecord]) -> None:
    alone = take(make_stream(records), 6)
    for one, other in zip(alone, take(make_stream(records), 6, workers=2), strict=True):
        assert_equal(one, other)


def ignore_the_first(sample: Sample) -> Sample:
    """Mark an image's first object."""
    return replace(sample, ignored=torch.arange(len(sample.boxes)) == 0)


def test_ignored_objects_leave_a_worker_beside_the_others(records: list[ImageRecord]) -> None:
    stream = make_stream(records, mosaic=0.0, augment=False)
    plain = take(stream, 3)
    stream.samples = replace(stream.samples, augmentation=ignore_the_first)
    marked = take(stream, 3, workers=1)
    for one, other in zip(take(stream, 3), marked, strict=True):
        assert_equal(one, other)
    num_ignored = 0
    for before, batch in zip(plain, marked, strict=True):
        assert before.ignored == [] and [len(one) for one in before.ignored_boxes] == [0] * 4
        assert len(batch.ignored) == 4 and batch.ignored_boxes is batch.ignored
        for index, boxes in enumerate(before.boxes):
            assert torch.equal(batch.ignored[index], boxes[:1])  # both in network pixels
            assert torch.equal(batch.boxes[index], boxes[1:])
            assert torch.equal(batch.labels[index], before.labels[index][1:])
            num_ignored += len(batch.ignored[index])
    assert num_ignored


def tensors_of(batch: Batch) -> list[torch.Tensor]:
    values = [getattr(batch, one.name) for one in fields(batch)]
    flat = [part for value in values for part in (value if isinstance(value, list) else [value])]
    return [one for one in flat if isinstance(one, torch.Tensor)]


def test_every_tensor_of_a_batch_moves_and_is_pinned(
    records: list[ImageRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = TrainingDataset(records, CLASSES)[2]
    sample = replace(ignore_the_first(sample), proposals=sample.boxes + 1)
    batch = make_toy().prepare([sample, sample])
    assert len(tensors_of(batch)) == 1 + 5 * 2 and len(batch.ignored[0]) == 1
    assert {one.device.type for one in tensors_of(batch.to("meta"))} == {"meta"}
    pinned: list[torch.Tensor] = []  # a machine without a GPU pins nothing
    monkeypatch.setattr(
        torch.Tensor, "pin_memory", lambda self: pinned.append(self.clone()) or pinned[-1]
    )
    assert [id(one) for one in tensors_of(batch.pin_memory())] == [id(one) for one in pinned]
    assert len(pinned) == len(tensors_of(batch))
    assert [id(one) for one in batch.tensors] == [id(one) for one in tensors_of(batch)]


def test_a_packed_batch_is_pinned_with_all_that_travels_beside_its_images(
    records: list[ImageRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = TrainingDataset(records, CLASSES)[2]
    sample = replace(ignore_the_first(sample), proposals=sample.boxes + 1)
    pinned: list[torch.Tensor] = []
    packed = PackedBatch.of([sample, sample], make_toy().preparation)
    wanted = packed.unpack()
    monkeypatch.setattr(
        torch.Tensor, "pin_memory", lambda self: pinned.append(self.clone()) or pinned[-1]
    )
    locked = packed.pin_memory()
    assert len(pinned) == 1 + 5  # not one for each image
    assert_equal(locked.unpack(), wanted)
    homes = {one.untyped_storage().data_ptr() for one in pinned[1:]}
    assert {one.untyped_storage().data_ptr() for one in locked.unpack().tensors[1:]} == homes


@pytest.mark.slow
def test_spawned_workers_share_the_decoded_images_and_give_the_same(
    records: list[ImageRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = take(make_stream(records), 3)
    monkeypatch.setattr(machine, "forks", lambda: False)
    stream = make_stream(records)
    stream.samples.images.kept_size = KeptSize(OwnSize())
    stream.samples.images.fill_cache()
    for one, other in zip(alone, take(stream, 3, workers=1), strict=True):
        assert_equal(one, other)


def test_the_stream_can_be_entered_at_any_batch(records: list[ImageRecord]) -> None:
    assert_equal(take(make_stream(records), 4)[3], take(make_stream(records), 1, first=3)[0])


def test_two_devices_see_together_what_one_sees_alone(records: list[ImageRecord]) -> None:
    alone = take(make_stream(records, augment=False), 3)
    ranks = [
        take(make_stream(records, rank=rank, world_size=2, augment=False), 3) for rank in (0, 1)
    ]
    for whole, first, second in zip(alone, *ranks, strict=True):
        assert whole.image_ids == first.image_ids + second.image_ids
        assert torch.equal(whole.images, torch.cat([first.images, second.images]))


def test_a_batch_that_cannot_be_shared_out_is_refused(records: list[ImageRecord]) -> None:
    with pytest.raises(UsageError, match="batch_size 5 cannot be shared by 2 devices"):
        make_stream(records, batch_size=5, world_size=2)


def test_every_epoch_shows_every_image_once_across_batch_borders(
    records: list[ImageRecord],
) -> None:
    names = [name for batch in take(make_stream(records, mosaic=0), 10) for name in batch.image_ids]
    epochs = [names[start : start + 10] for start in range(0, 40, 10)]
    assert all(sorted(epoch) == sorted(record.image_id for record in records) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_a_set_smaller_than_a_batch_fills_it_by_going_round(records: list[ImageRecord]) -> None:
    batch = take(make_stream(records[:3], mosaic=0), 1)[0]
    assert len(batch) == 4
    assert len(set(batch.image_ids)) == 3


def test_a_mosaic_shows_four_images(records: list[ImageRecord]) -> None:
    batch = take(make_stream(records, mosaic=1.0), 1)[0]
    assert all(len(name.split("+")) == 4 for name in batch.image_ids)


def test_loading_draws_nothing_from_the_generators_of_the_network(
    records: list[ImageRecord],
) -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    take(make_stream(records), 2)
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_shrunk_images_take_their_boxes_with_them(records: list[ImageRecord]) -> None:
    sample = TrainingDataset(records, CLASSES, KEPT)[2]  # 48 x 40 becomes 24 x 20
    assert sample.image.shape == (3, 20, 24)
    assert torch.allclose(sample.boxes[0], torch.tensor([2.0, 3.0, 11.0, 15.0]))


def test_what_the_network_sees_does_not_depend_on_what_fits_into_memory(
    records: list[ImageRecord],
) -> None:
    decoded, some, all_kept = (TrainingDataset(records, CLASSES, KEPT) for _ in range(3))
    said = some.fill_cache(limit=4 * 24 * 20 * 3)
    assert said[0].startswith("5 of 10 images fit into memory")
    assert "decoded each time, to the same size" in said[0]
    assert all_kept.fill_cache()[0].startswith("10 decoded images kept in memory")
    for record in records:
        record.path.rename(record.path.with_suffix(".gone"))
    with pytest.raises(DetkitError):
        some[9]
    for record in records:
        record.path.with_suffix(".gone").rename(record.path)
    for index in range(len(records)):
        for images in (some, all_kept):
            assert torch.equal(images[index].image, decoded[index].image)
            assert torch.equal(images[index].boxes, decoded[index].boxes)


@pytest.fixture
def many(records: list[ImageRecord], monkeypatch: pytest.MonkeyPatch) -> list[ImageRecord]:
    """Have the images be more than are decoded before the first step."""
    if not machine.forks():
        pytest.skip("data workers that are not forked share no memory with each other")
    monkeypatch.setattr(dataset, "MOST_BEFOREHAND", len(records) - 1)
    return records


def hide(records: list[ImageRecord]) -> None:
    for record in records:
        record.path.rename(record.path.with_suffix(".gone"))


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_data_worker_has_decoded_of_many_images_is_there_for_all_processes(
    many: list[ImageRecord], workers: int
) -> None:
    decoded = TrainingDataset(many, CLASSES, KEPT)
    wanted = [decoded[index] for index in range(len(many))]
    images = TrainingDataset(many, CLASSES, KEPT)
    images.fill_cache()
    draw = SampleStream(images, Compose([]), 0.0, FixedSize(), seed=5)
    take(BatchStream(draw, make_toy().preparation, len(many)), 1, workers=workers)
    hide(many)
    for index, sample in enumerate(wanted):
        assert torch.equal(images[index].image, sample.image)
        assert torch.equal(images[index].boxes, sample.boxes)
    images[0].image.zero_()  # as an augmentation that works in place does
    assert torch.equal(images[0].image, wanted[0].image)


def test_of_many_images_those_asked_for_first_are_kept_as_far_as_they_fit(
    many: list[ImageRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    monkeypatch.setattr(dataset, "read_image", lambda path: read.append(path) or read_image(path))
    images = TrainingDataset(many, CLASSES, KEPT)
    said = images.fill_cache(limit=5 * 24 * 20 * 3)
    assert read == []
    assert said[0] == "decoded images are kept in memory as they come, up to 0.0 GiB"
    assert said[1].startswith("cache_size=24 is less than the network needs of 10 of 10 images")
    asked = [images[index].image for index in (7, 2, 9, 0, 5, 1)]
    hide(many)
    for index, image in zip((7, 2, 9, 0, 5), asked):
        assert torch.equal(images[index].image, image)
    with pytest.raises(DetkitError, match="bïld-1.png"):
        images[1]
    assert len(read) == 7


def test_of_many_images_none_is_kept_where_the_system_gives_no_memory(
    many: list[ImageRecord],
) -> None:
    images = TrainingDataset(many, CLASSES, KEPT)
    said = images.fill_cache(limit=2.0**60)  # more than a process can address
    assert said[0].startswith("decoded images are not kept, but decoded each time: Cannot allocate")
    assert torch.equal(images[3].image, TrainingDataset(many, CLASSES, KEPT)[3].image)


def fixed(side: int, height: int, width: int) -> tuple[int, int]:
    return side, side


@pytest.mark.parametrize(
    ("rule", "zoom", "most", "size", "kept"),
    [
        # A square of 300 takes 2000 -> 300 along the shorter side; the shape stays.
        (partial(fixed, 300), 1.0, 0, (2000, 3000), (300, 450)),
        (partial(fixed, 300), 1.25, 0, (2000, 3000), (375, 563)),  # 562.5 is made no smaller
        (partial(fixed, 1024), 1.25, 0, (2000, 3000), (1280, 1920)),
        (partial(fixed, 300), 1.25, 0, (375, 500), (375, 500)),
        (partial(fixed, 1024), 1.25, 0, (375, 500), (375, 500)),  # never enlarged
        (partial(fixed, 300), 1.25, 480, (2000, 3000), (320, 480)),  # a user's upper bound
        (partial(fixed, 192), 1.25, 480, (2000, 3000), (240, 360)),  # ... is no lower bound
        (partial(shorter_side, 320, 533), 1.25, 0, (2000, 3000), (400, 600)),
        # What limits is 533 / 3000, along the longer side; times the zoom, rounded up.
        (partial(shorter_side, 320, 533), 1.25, 0, (500, 3000), (112, 667)),
        (partial(fixed, 300), 1.25, 20, (1, 3000), (1, 20)),
    ],
)
def test_images_are_kept_as_large_as_the_network_and_its_augmentation_need(
    rule: Callable[[int, int], tuple[int, int]],
    zoom: float,
    most: int,
    size: tuple[int, int],
    kept: tuple[int, int],
) -> None:
    assert KeptSize(rule, zoom, most)(*size) == kept


@settings(max_examples=200, deadline=None)
@given(
    side=st.integers(16, 1200),
    zoom=st.floats(1.0, 4.0),
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
)
def test_no_window_of_the_zoom_is_enlarged_unless_the_file_itself_is_too_small(
    side: int, zoom: float, height: int, width: int
) -> None:
    rows, columns = KeptSize(partial(fixed, side), zoom)(height, width)
    assert rows == height or rows / zoom >= side - 1e-3
    assert columns == width or columns / zoom >= side - 1e-3
    assert rows <= height and columns <= width


def test_a_cache_size_below_what_is_needed_is_named(records: list[ImageRecord]) -> None:
    (_, said) = TrainingDataset(records, CLASSES, KEPT).fill_cache()
    assert said.startswith("cache_size=24 is less than the network needs of 10 of 10 images")
    assert "up to 39 px" in said  # 48 x 32 / 40, rounded up
    assert len(TrainingDataset(records, CLASSES, KeptSize(FixedSize())).fill_cache()) == 1
    assert TrainingDataset(records, CLASSES).fill_cache() == []


def test_the_memory_for_images_is_shared_by_the_processes(
    records: list[ImageRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "memory_of_machine", lambda: 4 * 8 * 24 * 20 * 3)  # for 8 images
    kept = [TrainingDataset(records, CLASSES, KEPT).fill_cache(processes=n)[0] for n in (1, 2)]
    assert [said.split()[0] for said in kept] == ["9", "5"]  # the one that no longer fits ends it


def test_a_larger_network_trains_on_more_detail(tmp_path: Path) -> None:
    # Stripes 4 px wide of 1500: at 480 px, where images were cut before, they would be grey.
    path = tmp_path / "stripes.png"
    row = np.where(np.arange(1500) // 4 % 2, 255, 0).astype(np.uint8)
    cv2.imencode(".png", np.tile(row, (1000, 1))[..., None].repeat(3, 2))[1].tofile(path)
    record = ImageRecord(path.name, path, (ObjectRecord(CLASSES[0], (0.0, 0.0, 900.0, 900.0)),))
    spreads = []
    for size in (300, 1000):
        config = SSDConfig(size=size)
        with torch.device("meta"):
            detector = SSD(config, CLASSES)
        images = TrainingDataset([record], CLASSES, KeptSize(detector.network_size()))
        spreads.append(float(detector.prepare([images[0]]).images.std()))
    assert spreads[1] > 4 * spreads[0]


def test_an_augmentation_that_works_in_place_does_not_reach_the_cache(
    records: list[ImageRecord],
) -> None:
    images = TrainingDataset(records, CLASSES, KEPT)
    images.fill_cache()
    before = images[0].image.clone()
    images[0].image.zero_()
    assert torch.equal(images[0].image, before)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read_is_one_line_with_its_name(
    records: list[ImageRecord], workers: int
) -> None:
    records[7].path.write_bytes(b"no image")
    with pytest.raises(DetkitError, match="bïld-7.png") as caught:
        take(make_stream(records), 3, workers=workers)
    assert "\n" not in str(caught.value)


def test_an_image_that_cannot_be_read_stops_the_filling_of_the_cache(
    records: list[ImageRecord],
) -> None:
    records[7].path.write_bytes(b"no image")
    with pytest.raises(DetkitError, match="bïld-7.png"):
        TrainingDataset(records, CLASSES, KEPT).fill_cache()


def test_a_missing_image_is_told_from_a_label_of_a_class_that_is_not_trained(
    records: list[ImageRecord],
) -> None:
    images = TrainingDataset([replace(records[2], path=Path("gone.png"))], ("car",))
    with pytest.raises(DetkitError, match="gone.png"):
        images[0]
    assert TrainingDataset(records, ("dog",))[2].labels.tolist() == [0]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_worker_is_one_line_when_the_next_batch_is_due(
    records: list[ImageRecord],
) -> None:
    loader = open_loader(make_stream(records), 0, num_workers=1, pin_memory=False)
    stream = batches(loader)
    next(stream)
    for worker in multiprocessing.active_children():
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
    time.sleep(0.5)  # the main process is elsewhere when the worker's end is known
    with pytest.raises(DetkitError, match="a data worker was killed"):
        list(stream)


def test_few_images_need_no_workers_and_a_cpu_one() -> None:
    assert loader.default_workers(10, on_cpu=True) == 0
    assert loader.default_workers(1000, on_cpu=True) == (1 if machine.num_cores() > 1 else 0)
    assert 1 <= loader.default_workers(1000, on_cpu=False) <= 8


def test_the_recipe_names_the_augmentation() -> None:
    toy, make = make_toy(), loader.make_augmentation
    kinds = {
        name: [type(one) for one in make(toy, replace(RECIPE, augmentation=name)).transforms]
        for name in ("none", "light", "paper")
    }
    assert kinds["none"] == []
    assert kinds["light"] == [type(one) for one in light_augmentation().transforms]
    assert kinds["paper"] == [type(one) for one in toy.augmentation().transforms]


@dataclass(frozen=True)
class OwnSize:
    """A network that sees images in their own size."""

    def __call__(self, height: int, width: int) -> tuple[int, int]:
        return height, width


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("workers", [0, 1])
def test_what_leaves_the_loader_is_normalised_like_prepare_and_zero_around_the_images(
    records: list[ImageRecord], antialias: bool, workers: int
) -> None:
    small = cv2.imread(str(records[0].path))[:23, :31]
    cv2.imencode(".png", small)[1].tofile(records[0].path)
    mean, std = (0.5, 0.25, 0.125), (0.25, 0.5, 1.0)
    preparation = Preparation(OwnSize(), mean, std, antialias, stride=16)
    draw = SampleStream(TrainingDataset(records, CLASSES), Compose([]), 0.0, OwnSize(), seed=5)
    (batch,) = take(BatchStream(draw, preparation, len(records)), 1, workers=workers)
    assert batch.images.dtype == torch.float32
    assert torch.equal(batch.images, preparation([draw(i) for i in range(len(records))]).images)
    assert batch.images.shape == (len(records), 3, 48, 48)
    index = batch.image_ids.index(records[0].image_id)
    pixels = torch.from_numpy(small[:, :, ::-1].copy()).permute(2, 0, 1)
    wanted = (pixels / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    image = batch.images[index]
    assert torch.allclose(image[:, :23, :31], wanted, atol=1e-6)
    assert image[:, 23:].count_nonzero() == image[:, :, 31:].count_nonzero() == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_workers_memory_is_used_again_only_when_its_batch_has_been_unpacked(
    records: list[ImageRecord], workers: int
) -> None:
    for record, side in zip(records, range(20, 60, 4)):  # batches of many sizes
        image = cv2.imread(str(record.path))
        cv2.imencode(".png", cv2.resize(image, (side, side + 3)))[1].tofile(record.path)
    preparation = Preparation(OwnSize(), (0.5,) * 3, (0.25,) * 3, antialias=True)
    draw = SampleStream(TrainingDataset(records, CLASSES), Compose([]), 0.0, OwnSize(), seed=5)
    stream = BatchStream(draw, preparation, 2)
    loader = batches(open_loader(stream, 0, num_workers=workers, pin_memory=False))
    for number in range(24):
        batch = next(loader)
        if number % 5 == 0:
            time.sleep(0.1)  # the workers go as far ahead as they may
        wanted = stream[number]
        assert isinstance(wanted, PackedBatch)
        assert_equal(batch, wanted.unpack())


def test_images_travel_as_bytes_and_are_finished_on_arrival(records: list[ImageRecord]) -> None:
    packed = make_stream(records)[0]
    assert isinstance(packed, PackedBatch)
    assert packed.batch.images.dtype == torch.uint8
    assert packed.unpack().images.dtype == torch.float32
