"""Training on tiles: what a tile shows, which are used, in which order, and that runs repeat."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from runs import assert_same_run, run, stop_after
from torch import Tensor
from toy import CLASSES, RECIPE, FixedSize, Toy, make_toy, photo_like

from detkit import machine
from detkit.config import DetectorConfig
from detkit.data.image_names import ImageNames
from detkit.data.records import ImageRecord, ObjectRecord
from detkit.detector import Detector
from detkit.detectors import load_backend
from detkit.errors import DetkitError, UsageError
from detkit.geometry.tiles import tile_windows
from detkit.proposals.cache import ProposalCache
from detkit.proposals.proposer import Proposer
from detkit.proposals.reader import ProposalFile
from detkit.proposals.source import ComputedProposals, FileProposals
from detkit.structures import Batch, Proposals, Sample, Truth
from detkit.training import epoch_order, tile_plan, tiles
from detkit.training.dataset import TrainingDataset
from detkit.training.loader import BatchStream, SampleStream, batches, open_loader
from detkit.training.options import RunOptions
from detkit.training.tile_plan import cost_in_words, plan_tiles
from detkit.training.tiles import TiledDataset
from detkit.training.train import train
from detkit.transforms.augmentation import light_augmentation

CONFIG = DetectorConfig(tile=40, tile_overlap=0.25)
OF_PHOTOS = DetectorConfig(tile=64, tile_overlap=0.25)
SIZES = [(90, 120), (30, 35), (75, 40), (130, 61)]  # the second is no larger than a tile
BOXES = [
    [(2, 3, 20, 25), (30, 40, 70, 88), (100, 10, 119.5, 30), (33, 2, 41, 8)],
    [(5, 5, 25, 20)],
    [],
    [(20, 20, 50, 50), (-10, 100, 12, 140), (58, 60, 61, 66)],
]


@pytest.fixture
def records(tmp_path: Path) -> list[ImageRecord]:
    """Images of noise, so that no two crops are alike."""
    random = np.random.default_rng(0)
    made = []
    for number, (size, boxes) in enumerate(zip(SIZES, BOXES)):
        path = tmp_path / f"{number}.png"
        pixels = random.integers(0, 255, (*size, 3), dtype=np.uint8)
        assert cv2.imwrite(str(path), pixels)
        objects = tuple(
            ObjectRecord(CLASSES[at % 2], tuple(map(float, box)), difficult=at == 1)
            for at, box in enumerate(boxes)
        )
        made.append(ImageRecord(path.name, path, objects))
    return made


def tiled(records: list[ImageRecord], *, seed: int = 0, **settings: float) -> TiledDataset:
    return TiledDataset(TrainingDataset(records, CLASSES), replace(CONFIG, **settings), seed)


def window_of(sample: Sample) -> tuple[str, int, int]:
    """Return a tile's image and corner, by its name."""
    found = re.fullmatch(r"(.+)@(\d+),(\d+)", sample.image_id)
    assert found is not None
    return found[1], int(found[2]), int(found[3])


def shown_objects(
    boxes: list[tuple[float, ...]], size: tuple[int, int], window: tuple[int, ...], visible: float
) -> list[tuple[tuple[float, ...], int, bool]]:
    """Return (box in the window, number, is ignored) of each object seen, one by one."""
    found = []
    for number, box in enumerate(boxes):
        x1, y1, x2, y2 = max(box[0], 0), max(box[1], 0), min(box[2], size[1]), min(box[3], size[0])
        left, top = max(x1, window[0]), max(y1, window[1])
        right, bottom = min(x2, window[2]), min(y2, window[3])
        if right <= left or bottom <= top:
            continue
        share = (right - left) * (bottom - top) / ((x2 - x1) * (y2 - y1))
        inside = (left - window[0], top - window[1], right - window[0], bottom - window[1])
        found.append((inside, number, share < visible))
    return found


# What a tile shows


def test_a_tile_is_the_images_own_pixels_with_the_objects_that_a_plain_loop_finds_in_it(
    records: list[ImageRecord],
) -> None:
    images = tiled(records, tile_empty=1000)
    by_name = {record.image_id: number for number, record in enumerate(records)}
    seen = set()
    for index in range(len(records), len(images)):
        sample = images[index]
        name, x, y = window_of(sample)
        number = by_name[name]
        height, width = SIZES[number]
        window = (x, y, min(x + 40, width), min(y + 40, height))
        pixels = cv2.imread(str(records[number].path))[y : window[3], x : window[2], ::-1]
        assert np.array_equal(sample.image.permute(1, 2, 0).numpy(), pixels)
        wanted = shown_objects(BOXES[number], SIZES[number], window, 0.7)
        assert sample.boxes.tolist() == [pytest.approx(box) for box, _, _ in wanted]
        assert sample.labels.tolist() == [at % 2 for _, at, _ in wanted]
        assert sample.difficult.tolist() == [at == 1 for _, at, _ in wanted]
        assert sample.is_ignored.tolist() == [hidden for _, _, hidden in wanted]
        seen.add((number, *window))
    every = {
        (number, *window)
        for number, size in enumerate(SIZES)
        if max(size) > 40
        for window in tile_windows(*size, 40, 0.25).tolist()
    }
    assert seen == every  # with no bound on the empty ones all are there


@pytest.mark.parametrize(
    ("box", "ignored"),
    [
        ((0.0, 0, 10, 10), [False]),  # whole
        ((33.0, 0, 43, 10), [False]),  # 7 of 10 columns
        ((33.1, 0, 43.1, 10), [True]),  # 6.9 of them
        ((36.0, 36, 46, 46), [True]),  # 16 of 100 pixels
        ((40.0, 0, 50, 10), []),  # begins where the window ends
        ((-20.0, 0, 10, 10), [False]),  # of what lies in the image all is seen
        ((0.0, 0, 60, 60), [True]),  # larger than the tile
    ],
)
def test_an_object_is_learnt_where_seven_tenths_of_its_area_are_seen(
    box: tuple[float, ...], ignored: list[bool]
) -> None:
    truth = Truth(np.array([box], np.float32), np.zeros(1, np.int64), np.zeros(1, np.bool_))
    (tile,) = tile_plan.cut(0, truth, (100, 100), np.array([[0, 0, 40, 40]]), 0.7)
    assert tile.ignored.tolist() == ignored


def test_whole_images_are_samples_as_they_are_without_tiles(records: list[ImageRecord]) -> None:
    plain, images = TrainingDataset(records, CLASSES), tiled(records)
    for index in range(len(records)):
        assert torch.equal(images[index].image, plain[index].image)
        assert torch.equal(images[index].boxes, plain[index].boxes)
        assert images[index].image_id == records[index].image_id


def test_an_augmentation_that_works_in_place_does_not_reach_what_is_kept(
    records: list[ImageRecord],
) -> None:
    images = tiled(records)
    images.fill_cache()
    before = images[5].image.clone()
    images[5].image.zero_()
    images[5].boxes.zero_()
    assert torch.equal(images[5].image, before)
    assert images[5].boxes.any()


def test_a_tiles_objects_without_the_ignored_ones_are_what_anchors_and_remarks_go_by(
    records: list[ImageRecord],
) -> None:
    images = tiled(records)
    for index, (truth, size) in enumerate(images.labelled()):
        sample = images[index]
        assert size == tuple(sample.image.shape[1:])
        assert truth.boxes.tolist() == sample.boxes[~sample.is_ignored].tolist()


# Which are used


def test_of_tiles_without_an_object_a_quarter_as_many_are_used_as_there_are_others(
    records: list[ImageRecord],
) -> None:
    plan = tiled(records).plan
    num_with = sum(
        bool(shown_objects(boxes, size, tuple(window), 0.7))
        for boxes, size in zip(BOXES, SIZES)
        if max(size) > 40
        for window in tile_windows(*size, 40, 0.25).tolist()
    )
    assert plan.num_made - plan.num_empty == num_with
    assert plan.num_empty_used == round(num_with / 4) == len(plan.tiles) - num_with
    assert f"4 images make {plan.num_made} tiles ({plan.num_empty} of them empty" in plan.note
    assert f"an epoch shows {len(plan.tiles) + 4} samples" in plan.note


def test_which_empty_tiles_are_used_depends_on_the_seed_alone(records: list[ImageRecord]) -> None:
    def empty(seed: int) -> set[tuple[int, ...]]:
        plan = tiled(records, seed=seed).plan
        return {(one.image, *one.window.tolist()) for one in plan.tiles if not len(one.ignored)}

    assert empty(0) == empty(0)
    assert len({frozenset(empty(seed)) for seed in range(8)}) > 1


def test_far_too_many_tiles_are_refused_with_their_number(
    records: list[ImageRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tile_plan, "MAX_TILES", 10)
    with pytest.raises(UsageError, match=r"--tile 40: 4 images make \d+ tiles, above the limit of"):
        tiled(records)


def test_images_no_larger_than_a_tile_are_shown_whole_alone(records: list[ImageRecord]) -> None:
    images = tiled(records, tile=500)
    assert len(images) == len(records)
    assert images.plan.note == "4 images make no tiles: nothing is larger than a tile"


# In which order


def test_a_grouped_epoch_shows_every_sample_once_and_the_images_of_a_group_together() -> None:
    random = np.random.default_rng(3)
    image_of, num_bytes = random.integers(0, 30, 400), random.integers(1, 100, 30)
    order = epoch_order.grouped(5, 2, image_of, num_bytes, 300)
    assert sorted(order.samples.tolist()) == list(range(400))
    assert order.starts is not None and len(order.starts) > 3
    ends = [*order.starts.tolist()[1:], 400]
    groups = [order.samples[a:b] for a, b in zip(order.starts.tolist(), ends)]
    shown = [set(image_of[group].tolist()) for group in groups]
    assert sum(map(len, shown)) == len(set(image_of.tolist()))  # no image is in two groups
    assert all(num_bytes[list(images)].sum() <= 300 + 100 for images in shown)
    for place in (0, 57, 399):
        (group,) = (one for one in groups if order.samples[place] in one)
        assert list(order.near(place)) == sorted(group.tolist())
    mixed = image_of[groups[0]]
    assert (mixed[1:] != mixed[:-1]).mean() > 0.5  # within a group they are shuffled
    again = epoch_order.grouped(5, 2, image_of, num_bytes, 300)
    assert np.array_equal(order.samples, again.samples)
    other = epoch_order.grouped(5, 3, image_of, num_bytes, 300)
    assert not np.array_equal(order.samples, other.samples)


def test_images_that_fit_into_one_group_are_shuffled_as_without_groups(
    records: list[ImageRecord],
) -> None:
    images = tiled(records)
    order, plain = images.order(4, 1), epoch_order.shuffled(4, 1, len(images))
    assert np.array_equal(order.samples, plain.samples) and order.starts is None


def counted_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the images that tiles are decoded for, as it happens."""
    names: list[str] = []
    read = tiles.read_image

    def counting(path: Path) -> np.ndarray:
        names.append(path.name)
        return read(path)

    monkeypatch.setattr(tiles, "read_image", counting)
    return names


def test_an_epoch_decodes_an_image_once_where_a_group_fits_but_not_all(
    records: list[ImageRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "GROUP_BYTES", 3 * 90 * 120)
    names = counted_reads(monkeypatch)
    for seed in range(10):
        images = tiled(records)
        for index in images.order(seed, 0).samples.tolist():
            images[index]
        assert sorted(names) == ["0.png", "2.png", "3.png"]  # 1.png has no tiles
        names.clear()


def test_what_is_seen_does_not_depend_on_what_fits_into_memory(
    records: list[ImageRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = counted_reads(monkeypatch)
    none, some, every = tiled(records), tiled(records), tiled(records)
    assert "0 of 3 fit unshrunk for tiles" in none.fill_cache(limit=0)[-1]
    assert "2 of 3 fit unshrunk for tiles" in some.fill_cache(limit=3 * (90 * 120 + 75 * 40))[-1]
    assert every.fill_cache()[-1].startswith("3 kept unshrunk for tiles (")
    names.clear()
    for index in range(len(none)):
        assert torch.equal(every[index].image, none[index].image)
        assert torch.equal(every[index].image, some[index].image)
    assert sorted(names) == ["0.png", "2.png", "3.png", "3.png"]


def test_the_last_few_images_are_forgotten_above_their_room(
    records: list[ImageRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [3 * height * width for height, width in SIZES]
    monkeypatch.setattr(tiles, "_room", lambda largest: sizes[0] + sizes[1])
    names = counted_reads(monkeypatch)
    decoded = tiled(records).decoded
    for index in (0, 1, 0, 1, 2, 0):  # 2 makes 0, which was used longest ago, go
        decoded[index]
    assert names == ["0.png", "1.png", "2.png", "0.png"]


def test_the_room_for_images_is_shared_by_the_data_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "memory_of_machine", lambda: 2**30)
    assert tiles._room(2**20) == 2**28
    monkeypatch.setattr(tiles, "get_worker_info", lambda: type("Info", (), {"num_workers": 4}))
    assert tiles._room(2**20) == 2**26


# That runs repeat


@dataclass(frozen=True)
class Seen:
    """What a stream gives of a batch."""

    names: list[str]
    tensors: list[torch.Tensor]


def seen(images: TiledDataset, workers: int, count: int = 8, first: int = 0) -> list[Seen]:
    draw = SampleStream(images, light_augmentation(), 0.4, FixedSize(), seed=5)
    loader = open_loader(
        BatchStream(draw, make_toy().preparation, 4), first, num_workers=workers, pin_memory=False
    )
    taken: Iterator[Batch] = islice(batches(loader), count)
    return [
        Seen(one.image_ids, [one.images, *one.boxes, *one.labels, *one.ignored]) for one in taken
    ]


@pytest.mark.parametrize("group_bytes", [tiles.GROUP_BYTES, 20_000], ids=["one", "groups"])
def test_any_number_of_workers_and_any_entry_give_the_same_bits(
    records: list[ImageRecord], monkeypatch: pytest.MonkeyPatch, group_bytes: int
) -> None:
    monkeypatch.setattr(tiles, "GROUP_BYTES", group_bytes)
    alone = seen(tiled(records), 0)
    assert any("@" in name for one in alone for name in one.names)
    assert any(len(one.tensors) > 9 for one in alone)  # something is ignored
    later = seen(tiled(records), 0, count=3, first=5)
    for others in (seen(tiled(records), 1), seen(tiled(records), 2), [*alone[:5], *later]):
        for one, other in zip(alone, others, strict=True):
            assert one.names == other.names
            assert len(one.tensors) == len(other.tensors)
            assert all(map(torch.equal, one.tensors, other.tensors))


@pytest.mark.slow
def test_spawned_workers_give_the_same_bits(
    records: list[ImageRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = seen(tiled(records), 0, count=2)
    monkeypatch.setattr(machine, "forks", lambda: False)
    images = tiled(records)
    images.fill_cache()
    for one, other in zip(alone, seen(images, 1, count=2), strict=True):
        assert one.names == other.names
        assert all(map(torch.equal, one.tensors, other.tensors))


def test_a_mosaic_of_a_group_takes_its_tiles_from_that_group(
    records: list[ImageRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "GROUP_BYTES", 1)  # a group an image
    draw = SampleStream(tiled(records), lambda sample: sample, 1.0, FixedSize(), seed=5)
    for number in range(40):
        names = {name.partition("@")[0] for name in draw(number).image_id.split("+")}
        assert len(names) == 1


def toy_of_tiles(seed: int = 0) -> Toy:
    toy = make_toy(seed)
    toy.config = replace(toy.config, tile=40, tile_overlap=0.25)
    return toy


@pytest.mark.parametrize("group_bytes", [tiles.GROUP_BYTES, 20_000], ids=["one", "groups"])
def test_a_run_that_is_stopped_and_goes_on_ends_with_the_same_bits(
    tmp_path: Path,
    records: list[ImageRecord],
    monkeypatch: pytest.MonkeyPatch,
    group_bytes: int,
) -> None:
    monkeypatch.setattr(tiles, "GROUP_BYTES", group_bytes)
    list(run(records, tmp_path / "whole", toy=toy_of_tiles()))
    stop_after(run(records, tmp_path / "parts", toy=toy_of_tiles()), 3)
    list(run(records, tmp_path / "parts", toy=toy_of_tiles(9), resume=True))
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_run_on_tiles_does_not_go_on_without_them(
    tmp_path: Path, records: list[ImageRecord]
) -> None:
    stop_after(run(records, tmp_path / "run", toy=toy_of_tiles()), 3)
    with pytest.raises(UsageError, match="--resume: this run was started with num_images"):
        list(run(records, tmp_path / "run", resume=True))


def test_epochs_count_tiles_and_the_log_says_how_many_there_are(
    tmp_path: Path, records: list[ImageRecord]
) -> None:
    steps = list(run(records, tmp_path / "run", toy=toy_of_tiles(), epochs=2))
    plan = tiled(records).plan
    number = len(plan.tiles) + len(records)
    assert len(steps) == math.ceil(2 * number / RECIPE.batch_size)
    assert steps[-1].epoch == pytest.approx(len(steps) * RECIPE.batch_size / number)
    assert plan.note in (tmp_path / "run" / "log.txt").read_text(encoding="utf-8")


def test_an_image_of_tiles_that_cannot_be_read_ends_the_run_with_its_name(
    tmp_path: Path, records: list[ImageRecord]
) -> None:
    records[3].path.write_bytes(b"no image")
    with pytest.raises(DetkitError, match=r"3\.png"):
        list(run(records, tmp_path / "run", toy=toy_of_tiles()))


# Proposals


def propose(folder: Path) -> ComputedProposals:
    return ComputedProposals(Proposer("selective-search"), ProposalCache(folder))


@pytest.fixture
def photos(tmp_path: Path) -> list[ImageRecord]:
    """Two pictures of soft shapes with a rectangle to find in each quarter."""
    made = []
    for number in range(2):
        path = tmp_path / f"photo-{number}.png"
        pixels = photo_like(number, 96, 120)
        boxes = [(8, 8, 30, 28), (84, 12, 110, 34), (20, 60, 44, 86), (80, 64, 104, 90)]
        for at, (x1, y1, x2, y2) in enumerate(boxes):
            pixels[y1:y2, x1:x2] = 250 if at % 2 else 5
        assert cv2.imwrite(str(path), pixels)
        objects = tuple(
            ObjectRecord(CLASSES[at % 2], tuple(map(float, box))) for at, box in enumerate(boxes)
        )
        made.append(ImageRecord(path.name, path, objects))
    return made


def test_the_proposals_of_a_tile_are_those_of_its_pixels_and_are_kept_for_the_next_run(
    tmp_path: Path, photos: list[ImageRecord]
) -> None:
    source = propose(tmp_path / "cache")
    images = TiledDataset(TrainingDataset(photos, CLASSES, proposals=source), OF_PHOTOS, 0)
    lazy = images[3].proposals
    said = images.fill_proposals()
    assert re.search(r"proposals an image, .*; \d+ a tile", said)
    for index in range(2, len(images)):
        sample = images[index]
        _, x, y = window_of(sample)
        pixels = cv2.imread(str(tmp_path / sample.image_id.partition("@")[0]))[..., ::-1]
        height, width = sample.image.shape[1:]
        crop = np.ascontiguousarray(pixels[y : y + height, x : x + width])
        assert sample.proposals is not None
        assert np.array_equal(sample.proposals.numpy(), Proposer("selective-search")(crop).boxes)
    assert lazy is not None and torch.equal(lazy, images[3].proposals)
    again = propose(tmp_path / "cache")
    TiledDataset(TrainingDataset(photos, CLASSES, proposals=again), OF_PHOTOS, 0).fill_proposals(
        first=3
    )
    assert again.cache.hits == len(images)


def test_proposals_of_a_file_are_those_of_which_a_tile_shows_half_cut_to_it(
    tmp_path: Path, photos: list[ImageRecord]
) -> None:
    boxes = np.array([[0, 0, 50, 50], [60, 30, 100, 90], [63.5, 0, 64.25, 9]], np.float32)
    given = Proposals(boxes, np.array([3, 2, 1], np.float32))
    names = [record.path.name for record in photos]
    path = tmp_path / "given.jsonl"
    path.write_text("", encoding="utf-8")
    file = ProposalFile(path, names, [given, given], [(96, 120)] * 2, {})
    source = FileProposals(file, ImageNames([ImageRecord(name, Path(name)) for name in names]))
    images = TiledDataset(TrainingDataset(photos, CLASSES, proposals=source), OF_PHOTOS, 0)
    images.fill_proposals()
    for index in range(2, len(images)):
        sample = images[index]
        _, x, y = window_of(sample)
        wanted = []
        for x1, y1, x2, y2 in boxes.tolist():
            left, top = max(x1 - x, 0), max(y1 - y, 0)
            right = min(x2 - x, sample.image.shape[2])
            bottom = min(y2 - y, sample.image.shape[1])
            area = (right - left) * (bottom - top)
            if right - left >= 1 and bottom - top >= 1 and 2 * area >= (x2 - x1) * (y2 - y1):
                wanted.append([left, top, right, bottom])
        assert sample.proposals is not None
        assert sample.proposals.tolist() == wanted


# All backends


def small(name: str) -> Detector:
    backend = load_backend(name)
    wanted = {
        "size": 96,
        "crops_per_batch": 16,
        "tile": 64,
        "max_proposals": 60,
        "positive_thresh": 0.3,
    }
    known = backend.config_class.__dataclass_fields__
    torch.manual_seed(0)
    settings = {key: value for key, value in wanted.items() if key in known}
    return backend(backend.config_class(**settings), CLASSES)


@pytest.mark.parametrize("name", ["faster-rcnn", "fast-rcnn", "rcnn", "ssd", "yolov1"])
def test_every_backend_trains_on_tiles(
    tmp_path: Path, photos: list[ImageRecord], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETKIT_CACHE", str(tmp_path / "cache"))
    detector = small(name)
    recipe = replace(detector.short_recipe, batch_size=2, max_steps=2)
    options = RunOptions(device="cpu", precision="32-true", num_workers=0, threads=1)
    plan = plan_tiles(TrainingDataset(photos, CLASSES).labelled(), detector.config, 0)
    steps = list(train(detector, photos, recipe, tmp_path / "run", options))
    learnt = [step for step in steps if step.losses]
    assert len(learnt) == 2
    assert all(math.isfinite(loss) for step in learnt for loss in step.losses.values())
    num_samples = len(photos) + len(plan.tiles)
    for stage in {step.stage for step in steps if not step.losses}:  # R-CNN's passes
        assert sum(step.stage == stage for step in steps) == math.ceil(num_samples / 2)
    assert learnt[-1].epoch == pytest.approx(4 / num_samples)


def test_what_is_too_small_in_a_whole_image_is_ignored_there_where_it_has_tiles(
    records: list[ImageRecord],
) -> None:
    def reachable(boxes: Tensor, size: tuple[int, int]) -> Tensor:
        return (boxes[:, 2] - boxes[:, 0]) >= 15

    plain = TrainingDataset(records, CLASSES)
    images = TiledDataset(plain, CONFIG, 0, reachable)
    seen = 0
    for index, record in enumerate(records):
        sample, (height, width) = images[index], images.plan.sizes[index]
        small = [one.box[2] - one.box[0] < 15 for one in record.objects]
        if not small or max(height, width) <= CONFIG.tile:
            assert sample.ignored is None
        else:
            assert sample.ignored is not None and sample.ignored.tolist() == small
            seen += sum(small)
    assert seen
    assert all(TiledDataset(plain, CONFIG, 0)[at].ignored is None for at in range(len(records)))


# What it costs


def truth_of_squares(side: float, number: int = 10) -> Truth:
    boxes = [[at * 3 * side, 5, at * 3 * side + side, 5 + side] for at in range(number)]
    shapes = np.array(boxes, np.float32).reshape(-1, 4)
    return Truth(shapes, np.zeros(number, np.int64), np.zeros(number, np.bool_))


def test_the_cost_of_tiles_is_what_they_multiply_an_epoch_and_a_detection_by() -> None:
    labelled = [(truth_of_squares(60), (3000, 3000))] * 4
    config = DetectorConfig(tile=608)
    num, plan = len(tile_windows(3000, 3000, 608, 0.2)), plan_tiles(labelled, config, 0)
    assert cost_in_words(labelled, config) == (
        f"{num} tiles an image: an epoch takes {(4 + len(plan.tiles)) / 4:.1f} times as long, "
        f"detection {1 + num:.1f} times"
    )


def test_as_each_object_is_seen_largest_it_is_shown_in_tiles_where_there_are_some(
    records: list[ImageRecord],
) -> None:
    images = tiled(records)
    sizes = [size for _, size in images.labelled(most=10_000)]
    tiles = [size for truth, size in images.labelled() if len(truth.boxes)][-len(sizes) :]
    assert sizes and max(max(size) for size in sizes) <= CONFIG.tile
    assert set(sizes) <= {*tiles, *(size for _, size in images.images.labelled())}


def test_the_line_stands_in_the_log_of_a_run_without_tiles_and_not_with_them(
    tmp_path: Path,
) -> None:
    path = tmp_path / "large.png"
    assert cv2.imwrite(str(path), photo_like(0, 600, 600))
    objects = tuple(ObjectRecord("car", (x, 50.0, x + 30, 80.0)) for x in (10.0, 200.0, 400.0))
    record = ImageRecord("large.png", path, objects)
    list(run([record], tmp_path / "run", max_steps=1))
    log = (tmp_path / "run" / "log.txt").read_text(encoding="utf-8")
    assert "--tile 512 leaves" not in log and "warning: most objects will hardly be found" in log
