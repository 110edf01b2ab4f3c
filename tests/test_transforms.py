"""Augmentation: boxes must move with the pixels, labels with the boxes, and seeds with nothing."""

from __future__ import annotations

import colorsys
import pickle
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from detkit.structures import Sample
from detkit.transforms.augmentation import Compose, light_augmentation, ssd_augmentation
from detkit.transforms.geometric import (
    RandomErasing,
    RandomExpand,
    RandomHorizontalFlip,
    RandomInterpolation,
    RandomIoUCrop,
    RandomNoise,
    RandomRotation,
    RandomScaleShift,
    RandomVerticalFlip,
    Transform,
    zoom_of,
)
from detkit.transforms.mosaic import mosaic
from detkit.transforms.photometric import PhotometricDistort, adjust_colours, adjust_levels
from detkit.transforms.preparation import Preparation, shorter_side, square

RED = (250, 10, 10)
BLUE = (10, 10, 250)


def painted(
    boxes: list[tuple[int, int, int, int]],
    colours: list[tuple[int, int, int]],
    size: tuple[int, int] = (90, 120),
) -> Sample:
    """Return a sample with one filled rectangle for each box; labels 5, 6, ...

    Every second one is difficult, every third one ignored.
    """
    image = torch.full((3, *size), 60, dtype=torch.uint8)
    for (x1, y1, x2, y2), colour in zip(boxes, colours, strict=True):
        image[:, y1:y2, x1:x2] = torch.tensor(colour, dtype=torch.uint8)[:, None, None]
    return Sample(
        image=image,
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.arange(len(boxes)) + 5,
        difficult=torch.arange(len(boxes)) % 2 == 1,
        image_id="painted",
        ignored=torch.arange(len(boxes)) % 3 == 2,
    )


def region(image: Tensor, colour: tuple[int, int, int]) -> tuple[int, int, int, int] | None:
    """Return the box around the pixels that are nearer to the colour than to what is around."""
    distance = (image.float() - torch.tensor(colour)[:, None, None]).abs().amax(0)
    y, x = (distance < 90).nonzero(as_tuple=True)
    if len(x) == 0:
        return None
    return int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1


def run(transform: Callable[[Sample], Sample], sample: Sample, seed: int) -> Sample:
    torch.manual_seed(seed)
    return transform(sample)


SQUARE = partial(square, 96)
HALF = partial(shorter_side, 45, 1000)
GEOMETRIC: list[tuple[str, Transform, float]] = [
    ("horizontal flip", RandomHorizontalFlip(1.0), 0.0),
    ("vertical flip", RandomVerticalFlip(1.0), 0.0),
    ("IoU crop", RandomIoUCrop(), 0.0),
    ("expand", RandomExpand(p=1.0), 0.0),
    ("expand, shrunk", RandomExpand(p=1.0, max_pixels=90 * 120), 1.0),
    ("scale and shift", RandomScaleShift(0.3), 0.0),
    ("rotation", RandomRotation(20.0, p=1.0), 2.0),
    ("interpolation", RandomInterpolation(HALF), 1.5),
    ("noise", RandomNoise(p=1.0), 0.0),
]
EVERY: list[tuple[str, Transform]] = [
    *((name, transform) for name, transform, _ in GEOMETRIC),
    ("photometric", PhotometricDistort()),
    ("erasing", RandomErasing(p=1.0)),
    ("ssd", ssd_augmentation(SQUARE)),
    ("light", light_augmentation()),
    ("mosaic", lambda sample: mosaic([sample] * 4, (64, 96))),
]
geometric = pytest.mark.parametrize(
    ("transform", "tolerance"),
    [(transform, tolerance) for _, transform, tolerance in GEOMETRIC],
    ids=[name for name, _, _ in GEOMETRIC],
)
every = pytest.mark.parametrize(
    "transform", [transform for _, transform in EVERY], ids=[name for name, _ in EVERY]
)


@geometric
@settings(max_examples=25, deadline=None)
@given(
    x=st.integers(35, 55), y=st.integers(25, 40), w=st.integers(8, 30), h=st.integers(8, 25),
    seed=st.integers(0, 10_000),
)  # fmt: skip
def test_a_box_moves_with_its_pixels(
    transform: Transform, tolerance: float, x: int, y: int, w: int, h: int, seed: int
) -> None:
    moved = run(transform, painted([(x, y, x + w, y + h)], [RED]), seed)
    seen = region(moved.image, RED)
    if len(moved.boxes) == 0:  # its centre was cut off
        return
    assert seen is not None
    assert np.abs(np.subtract(moved.boxes[0].tolist(), seen)).max() <= tolerance
    assert moved.labels.tolist() == [5]
    assert moved.image.dtype == torch.uint8


@geometric
def test_what_is_kept_and_what_is_dropped_follows_the_centre(
    transform: Transform, tolerance: float
) -> None:
    """The right one of two objects may leave; its colour's middle must then be out of sight."""
    sample = painted([(5, 40, 35, 60), (85, 40, 115, 60)], [RED, BLUE])
    for seed in range(30):
        moved = run(transform, sample, seed)
        kept = dict(zip(moved.labels.tolist(), moved.boxes.tolist(), strict=True))
        flags = dict(zip(moved.labels.tolist(), moved.difficult.tolist(), strict=True))
        for label, colour in ((5, RED), (6, BLUE)):
            seen = region(moved.image, colour)
            if label in kept:
                assert seen is not None
                if tolerance <= 1:
                    assert np.abs(np.subtract(kept[label], seen)).max() <= tolerance
                assert flags[label] == (label == 6)
            elif seen is not None:
                # A box that was dropped shows at most half of its width or of its height.
                width, height = seen[2] - seen[0], seen[3] - seen[1]
                assert width <= 15 + tolerance or height <= 10 + tolerance


@every
def test_an_image_without_objects_passes(transform: Transform) -> None:
    for seed in range(12):
        moved = run(transform, painted([], []), seed)
        assert moved.boxes.shape == (0, 4)
        assert moved.boxes.dtype == torch.float32
        assert moved.labels.shape == (0,) and moved.labels.dtype == torch.int64
        assert moved.difficult.shape == (0,) and moved.difficult.dtype == torch.bool
        assert moved.image.ndim == 3 and moved.image.dtype == torch.uint8


@every
def test_the_global_seed_decides_everything(transform: Transform) -> None:
    sample = painted([(20, 20, 60, 50), (70, 30, 100, 80)], [RED, BLUE])
    first, again = run(transform, sample, 3), run(transform, sample, 3)
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.boxes, again.boxes)
    assert torch.equal(first.labels, again.labels)


@every
def test_the_input_is_left_as_it_was(transform: Transform) -> None:
    sample = painted([(20, 20, 60, 50)], [RED])
    image, boxes = sample.image.clone(), sample.boxes.clone()
    for seed in range(5):
        run(transform, sample, seed)
    assert torch.equal(sample.image, image)
    assert torch.equal(sample.boxes, boxes)


@every
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_boxes_stay_inside_the_image_and_in_step_with_labels(
    transform: Transform, data: st.DataObject
) -> None:
    height, width = data.draw(st.integers(2, 40)), data.draw(st.integers(2, 40))
    boxes = data.draw(
        st.lists(
            st.tuples(
                st.integers(0, width - 1), st.integers(0, height - 1),
                st.integers(1, 20), st.integers(1, 20),
            ).map(lambda b: (b[0], b[1], min(width, b[0] + b[2]), min(height, b[1] + b[3]))),
            max_size=5,
        )
    )  # fmt: skip
    sample = painted(boxes, [RED] * len(boxes), (height, width))
    moved = run(transform, sample, data.draw(st.integers(0, 1000)))
    size = torch.tensor([moved.image.shape[2], moved.image.shape[1]] * 2)
    assert len(moved.boxes) == len(moved.labels) == len(moved.difficult)
    assert (moved.boxes >= 0).all() and (moved.boxes <= size).all()
    assert ((moved.boxes[:, 2:] - moved.boxes[:, :2]) >= 1).all()
    assert ((moved.labels - 5) % 2 == moved.difficult.long()).all()
    assert torch.equal((moved.labels - 5) % 3 == 2, moved.is_ignored)


@geometric
def test_an_ignored_object_stays_as_long_as_it_is_seen(
    transform: Transform, tolerance: float
) -> None:
    """The right one of two objects is ignored, and many windows show a part of it alone."""
    sample = painted([(5, 40, 35, 60), (85, 40, 115, 60)], [RED, BLUE])
    sample = replace(sample, ignored=torch.tensor([False, True]))
    parts = 0
    for seed in range(60):
        moved = run(transform, sample, seed)
        ignored = moved.boxes[moved.is_ignored].tolist()
        assert moved.labels[moved.is_ignored].tolist() == [6] * len(ignored)
        seen = region(moved.image, BLUE)
        if seen is None:
            assert not ignored
            continue
        assert np.abs(np.subtract(ignored[0], seen)).max() <= tolerance
        parts += seen[2] - seen[0] < 15  # its centre is cut off
    if isinstance(transform, (RandomIoUCrop, RandomScaleShift)):
        assert parts


def test_a_crop_is_not_drawn_for_an_ignored_object() -> None:
    crop = RandomIoUCrop()
    sample = painted([(20, 20, 50, 60), (70, 30, 110, 80)], [RED, BLUE])
    both = replace(sample, ignored=torch.tensor([False, True]))
    alone = replace(sample, boxes=sample.boxes[:1], labels=sample.labels[:1])
    alone = replace(alone, difficult=sample.difficult[:1], ignored=None)
    nothing = replace(sample, ignored=torch.tensor([True, True]))
    for seed in range(20):
        assert torch.equal(run(crop, both, seed).image, run(crop, alone, seed).image)
        assert torch.equal(run(crop, nothing, seed).image, sample.image)


def test_a_mosaic_drops_an_ignored_object_only_where_it_is_not_seen() -> None:
    sample = painted([(80, 60, 120, 90)], [RED])
    empty = painted([], [])
    dropped = 0
    for seed in range(60):
        torch.manual_seed(seed)
        plain = mosaic([sample, empty, empty, empty], (150, 200), min_visible=0.9)
        torch.manual_seed(seed)
        marked = replace(sample, ignored=torch.tensor([True]))
        kept = mosaic([marked, empty, empty, empty], (150, 200), min_visible=0.9)
        assert kept.is_ignored.all() and not plain.is_ignored.any()
        seen = region(kept.image, RED)
        if seen is None or min(seen[2] - seen[0], seen[3] - seen[1]) < 4:
            continue
        assert np.abs(np.subtract(kept.boxes[0].tolist(), seen)).max() <= 2.0  # soft edges
        dropped += len(plain.boxes) == 0
    assert dropped


@pytest.mark.parametrize("flip", [RandomHorizontalFlip(1.0), RandomVerticalFlip(1.0)])
def test_flipping_twice_gives_the_image_back(flip: Transform) -> None:
    sample = painted([(3, 5, 47, 33), (50, 20, 119, 90)], [RED, BLUE])
    twice = flip(flip(sample))
    assert torch.equal(twice.image, sample.image)
    assert torch.equal(twice.boxes, sample.boxes)


def test_proposals_move_like_boxes_but_are_no_reason_for_a_crop() -> None:
    sample = painted([(30, 30, 60, 60)], [RED])
    proposals = torch.cat([sample.boxes, torch.tensor([[0.0, 0.0, 3.0, 3.0]])])
    with_proposals = Sample(
        sample.image, sample.boxes, sample.labels, sample.difficult, proposals, "x"
    )
    for name, transform, _ in GEOMETRIC:
        for seed in range(8):
            moved = run(transform, with_proposals, seed)
            alone = run(transform, sample, seed)
            # Not to the bit: a matrix product may round other numbers of rows differently.
            assert torch.allclose(moved.boxes, alone.boxes, rtol=0, atol=1e-3), name
            assert moved.proposals is not None and alone.proposals is None
            if len(moved.boxes):
                assert torch.allclose(moved.proposals[0], moved.boxes[0]), name


def test_a_mosaic_takes_the_best_proposals_of_its_images_in_turns() -> None:
    firsts = torch.tensor([[10.0, 10, 90, 80]])
    ranked = torch.cat([firsts, torch.tensor([[0.0, 0, 120, 90]]).repeat(5, 1)])
    parts = [
        replace(painted([(10, 10, 90, 80)], [RED]), proposals=ranked[:count])
        for count in (6, 1, 3, 2)
    ]
    for seed in range(5):
        torch.manual_seed(seed)
        combined = mosaic(parts, (90, 120), min_visible=0.0)
        assert combined.proposals is not None and len(combined.proposals) == 6  # not 12
        # Of each image the first is where its object is, and stands before any second.
        assert torch.allclose(combined.proposals[: len(combined.boxes)], combined.boxes)


OBJECTS = [[10.0, 10, 50, 60], [55, 20, 118, 88], [0, 0, 8, 8]]
Window = tuple[float, float, float, float]  # shares of the image


def released_window(uniform: Callable[[float, float], float]) -> Window:
    """SampleBBox of SSD's sampler.cpp, step by step, with its draws in its order."""
    scale = uniform(0.3, 1.0)
    ratio = uniform(max(0.5, scale**2), min(2.0, 1 / scale**2))
    width, height = scale * ratio**0.5, scale / ratio**0.5
    left, top = uniform(0.0, 1 - width), uniform(0.0, 1 - height)
    return left, top, left + width, top + height


def released_crops(
    boxes: list[list[float]], size: tuple[int, int], trials: list[list[Window]]
) -> list[Window]:
    """GenerateBatchSamples: what each of the six samplers finds among its trials, if anything."""
    height, width = size
    found = []
    for least, of_sampler in zip((0.1, 0.3, 0.5, 0.7, 0.9, 0.0), trials, strict=True):
        for window in of_sampler:
            x1, y1, x2, y2 = (part * side for part, side in zip(window, (width, height) * 2))
            overlaps = []
            for left, top, right, bottom in boxes:
                across, down = min(x2, right) - max(x1, left), min(y2, bottom) - max(y1, top)
                both = max(0.0, across) * max(0.0, down)
                areas = (x2 - x1) * (y2 - y1) + (right - left) * (bottom - top)
                overlaps.append(both / (areas - both))
            if any(overlap >= least for overlap in overlaps):
                found.append(window)
                break
    return found


def test_the_iou_crop_is_the_window_of_the_released_loop_on_the_same_draws() -> None:
    crop, size = RandomIoUCrop(), (90, 120)
    found = 0
    for seed in range(80):
        torch.manual_seed(seed)
        window = crop.draw_window(torch.tensor(OBJECTS), size)
        torch.manual_seed(seed)
        trials = []
        for of_sampler in torch.rand(6, 50, 4).double().tolist():
            trials.append([])
            for draws in map(iter, of_sampler):
                uniform = lambda low, high, draws=draws: low + (high - low) * next(draws)  # noqa: E731
                trials[-1].append(released_window(uniform))
        crops = released_crops(OBJECTS, size, trials)
        chosen = [*crops, None][int(torch.randint(len(crops) + 1, ()))]
        assert (window is None) == (chosen is None)
        if window is not None and chosen is not None:
            wanted = np.multiply(chosen, (120, 90, 120, 90))
            assert np.abs(np.subtract(window, wanted)).max() <= 2  # a border and a side are cut off
            found += 1
    assert 40 < found < 80


def test_iou_crops_have_the_released_samplers_statistics() -> None:
    """The port draws by itself, so that order and number of draws do not matter."""
    crop, size = RandomIoUCrop(), (300, 400)
    boxes = [[40.0, 60, 110, 160], [250, 30, 390, 280]]
    rng, number = random.Random(5), 1500
    theirs: list[Window | None] = []
    for _ in range(number):
        trials = [[released_window(rng.uniform) for _ in range(50)] for _ in range(6)]
        theirs.append(rng.choice([*released_crops(boxes, size, trials), None]))
    torch.manual_seed(3)
    ours = []
    for _ in range(number):
        window = crop.draw_window(torch.tensor(boxes), size)
        ours.append(None if window is None else tuple(np.divide(window, (400, 300, 400, 300))))

    def figures(windows: list[Window | None]) -> list[list[float]]:
        cut = [one for one in windows if one is not None]
        x = [[(left + right) / 2 for left, _, right, _ in boxes]]
        y = [[(top + bottom) / 2 for _, top, _, bottom in boxes]]
        held = [
            sum(x1 < a / 400 < x2 and y1 < b / 300 < y2 for a, b in zip(x[0], y[0], strict=True))
            for x1, y1, x2, y2 in cut
        ]
        return [
            [one is None for one in windows],
            [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in cut],
            [(x2 - x1) * (y2 - y1) > 0.7 for x1, y1, x2, y2 in cut],
            [np.log((x2 - x1) / (y2 - y1)) for x1, y1, x2, y2 in cut],
            [min(x2 - x1, y2 - y1) for x1, y1, x2, y2 in cut],
            [number == 0 for number in held],  # no object left
            [number == 2 for number in held],
        ]

    for mine, wanted in zip(figures(ours), figures(theirs), strict=True):
        doubt = np.hypot(np.std(mine) / len(mine) ** 0.5, np.std(wanted) / len(wanted) ** 0.5)
        assert abs(np.mean(mine) - np.mean(wanted)) < 4 * doubt
    assert 0.01 < np.mean(figures(ours)[5]) < 0.2


def test_an_image_is_resized_in_each_of_opencvs_five_ways_equally_often() -> None:
    resize = RandomInterpolation(lambda height, width: (60, 50))
    noise = torch.randint(256, (3, 90, 120), dtype=torch.uint8)
    sample = replace(painted([(30, 20, 90, 80)], [RED]), image=noise)
    ways = {
        cv2.resize(noise.permute(1, 2, 0).numpy(), (50, 60), interpolation=way).tobytes(): way
        for way in range(5)  # nearest, linear, cubic, area, Lanczos
    }
    assert len(ways) == 5
    counts = dict.fromkeys(range(5), 0)
    for seed in range(300):
        moved = run(resize, sample, seed)
        counts[ways[moved.image.permute(1, 2, 0).contiguous().numpy().tobytes()]] += 1
        scale = torch.tensor([50 / 120, 60 / 90] * 2)
        torch.testing.assert_close(moved.boxes, sample.boxes * scale)
    assert all(35 < count < 90 for count in counts.values())


@pytest.mark.parametrize("antialias", [True, False])
def test_an_image_of_the_networks_size_is_not_resized_again(antialias: bool) -> None:
    sample = run(RandomInterpolation(lambda height, width: (60, 50)), painted([], []), 0)
    noise = torch.randint(256, (3, 60, 50), dtype=torch.uint8)
    prepare = Preparation(lambda height, width: (60, 50), (0, 0, 0), (1, 1, 1), antialias)
    batch = prepare.resize([replace(sample, image=noise)])
    assert torch.equal(batch.images[0].float(), noise.float())


def test_expand_never_makes_a_canvas_beyond_the_limit() -> None:
    expand = RandomExpand(p=1.0, max_pixels=10_000)
    for seed in range(20):
        moved = run(expand, painted([(20, 20, 90, 70)], [RED]), seed)
        assert moved.image.shape[1] * moved.image.shape[2] <= 10_000 * 1.05
        assert len(moved.boxes) == 1


def test_the_expanded_canvas_has_the_mean_colour() -> None:
    sample = painted([(0, 0, 120, 90)], [RED])
    moved = run(RandomExpand((1, 2, 3), p=1.0), sample, 2)
    seen = region(moved.image, RED)
    outside = moved.image.clone().permute(1, 2, 0)
    assert seen is not None
    outside[seen[1] : seen[3], seen[0] : seen[2]] = torch.tensor([1, 2, 3], dtype=torch.uint8)
    assert (outside == torch.tensor([1, 2, 3])).all()


def test_erasing_drops_only_objects_that_are_hidden_whole() -> None:
    sample = painted([(10, 10, 14, 14), (40, 20, 110, 85)], [RED, BLUE])
    dropped = 0
    for seed in range(150):
        erased = run(RandomErasing(p=1.0, scale=(0.1, 0.4)), sample, seed)
        for label, colour in ((5, RED), (6, BLUE)):
            assert (label in erased.labels.tolist()) == (region(erased.image, colour) is not None)
        dropped += len(erased.labels) < 2
    assert dropped > 0


def test_noise_has_the_stated_strength() -> None:
    sample = painted([], [], (100, 100))
    noisy = run(RandomNoise(sigma=10.0, p=1.0), sample, 0)
    difference = noisy.image.float() - sample.image.float()
    assert abs(float(difference.std()) - 10.0) < 0.5
    assert abs(float(difference.mean())) < 0.7


def test_probability_zero_changes_nothing() -> None:
    sample = painted([(10, 10, 50, 50)], [RED])
    for transform in (
        RandomHorizontalFlip(0.0), RandomVerticalFlip(0.0), RandomRotation(p=0.0),
        RandomNoise(p=0.0), RandomErasing(p=0.0), RandomExpand(p=0.0), PhotometricDistort(p=0.0),
        RandomScaleShift(0.0), RandomIoUCrop(min_overlaps=[]),
    ):  # fmt: skip
        moved = run(transform, sample, 1)
        assert torch.equal(moved.image, sample.image)
        assert torch.equal(moved.boxes, sample.boxes)


def test_levels_are_shifted_then_multiplied_as_in_a_plain_loop() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    for brightness, contrast in ((20.0, 1.0), (-32.0, 1.5), (0.0, 0.5), (31.4, 0.7)):
        ours = adjust_levels(pixels, brightness, contrast)
        for before, after in zip(pixels.ravel().tolist(), ours.ravel().tolist(), strict=True):
            shifted = min(255, max(0, before + round(brightness)))
            assert abs(after - min(255.0, shifted * contrast)) <= 0.5


def test_colours_change_as_pythons_own_hsv_says() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    for saturation, hue in ((0.5, 0.0), (1.5, 0.0), (1.0, 18.0), (0.7, -14.0)):
        ours = adjust_colours(pixels, saturation, hue)
        expected = []
        for red, green, blue in pixels.reshape(-1, 3) / 255.0:
            h, s, v = colorsys.rgb_to_hsv(red, green, blue)
            turned = colorsys.hsv_to_rgb((h + hue / 360) % 1, min(1.0, s * saturation), v)
            expected.append(turned)
        error = np.abs(ours.reshape(-1, 3) - 255 * np.array(expected))
        assert error.mean() < 1.0
        assert error.max() <= 9  # hue within 2.1 degrees: three times rounded to steps of 1.4


def released_hue(pixels: NDArray[np.uint8], delta: float) -> NDArray[np.uint8]:
    """AdjustHue of SSD's im_transforms.cpp: `delta` of the 180 levels that OpenCV's hue has."""
    hsv = cv2.cvtColor(pixels[..., ::-1].copy(), cv2.COLOR_BGR2HSV)
    hsv[..., 0] = np.clip(np.rint(hsv[..., 0] + np.float64(delta)), 0, 255)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[..., ::-1]


def test_hue_is_turned_as_by_the_released_code_and_not_below_red() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    pixels[:10] = (200, 60, 70)  # hue 356: goes on from 0
    pixels[10:20] = (200, 70, 60)  # hue 4: no lower than 0
    for delta in (-18.0, -7.3, 5.0, 18.0):
        ours = adjust_colours(pixels, 1.0, 2 * delta, wraps=False).astype(int)
        error = np.abs(ours - released_hue(pixels, delta))
        # Steps of 1.4 and of 2 degrees; a hue of 359 is 0 in the coarser ones, and stays there.
        assert error.mean() < 2.0 and np.quantile(error, 0.995) <= 8
    lowered = adjust_colours(pixels, 1.0, -36.0, wraps=False)[15, 0]
    assert abs(int(lowered[1]) - int(lowered[2])) <= 2  # red
    assert int(adjust_colours(pixels, 1.0, -36.0)[15, 0, 2]) > 110  # magenta


def test_the_papers_hue_is_turned_by_up_to_36_degrees() -> None:
    turns = []
    image = torch.tensor([60, 200, 60], dtype=torch.uint8)[:, None, None].expand(3, 4, 4)
    for seed in range(300):
        red, green, blue = run(
            PhotometricDistort(brightness=0, contrast=(1, 1), saturation=(1, 1), p=1.0),
            replace(painted([], []), image=image.clone()),
            seed,
        ).image[:, 0, 0].tolist()  # fmt: skip
        turns.append(360 * colorsys.rgb_to_hsv(red / 255, green / 255, blue / 255)[0] - 120)
    assert -38 < min(turns) < -33 and 33 < max(turns) < 38


def test_a_grey_picture_stays_grey_under_any_colour_change() -> None:
    grey = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    assert np.array_equal(adjust_colours(grey, 1.5, 18.0), grey)


def test_a_mosaic_shows_four_images_and_moves_their_boxes_with_the_pixels() -> None:
    colours = [RED, BLUE, (10, 250, 10), (250, 250, 10)]
    sizes = [(90, 120), (60, 60), (200, 80), (100, 300)]
    samples = []
    for index, (colour, (height, width)) in enumerate(zip(colours, sizes, strict=True)):
        box = (width // 4, height // 4, width // 2, height * 3 // 4)
        sample = painted([box], [colour], (height, width))
        labels = torch.tensor([index])
        samples.append(Sample(sample.image, sample.boxes, labels, sample.difficult))
    seen_labels = set()
    for seed in range(40):
        torch.manual_seed(seed)
        combined = mosaic(samples, (150, 200))
        assert combined.image.shape == (3, 150, 200)
        for label, box in zip(combined.labels.tolist(), combined.boxes.tolist(), strict=True):
            seen = region(combined.image, colours[label])
            assert seen is not None
            assert np.abs(np.subtract(box, seen)).max() <= 2.0  # resized: soft edges
            seen_labels.add(label)
        for label in {0, 1, 2, 3} - set(combined.labels.tolist()):
            seen = region(combined.image, colours[label])
            if seen is not None:
                zoomed = 0.25 * 200 * 0.5 * 150  # the box at scale 1
                assert (seen[2] - seen[0]) * (seen[3] - seen[1]) < 0.3 * zoomed
    assert seen_labels == {0, 1, 2, 3}


def test_a_mosaic_of_other_than_four_is_refused() -> None:
    with pytest.raises(ValueError, match="4 samples, not 3"):
        mosaic([painted([], [])] * 3, (50, 50))


def test_transforms_can_be_sent_to_data_workers() -> None:
    sample = painted([(10, 10, 50, 50)], [RED])
    everything = Compose(
        [ssd_augmentation(SQUARE), light_augmentation(), RandomErasing(), RandomNoise()]
    )
    copy = pickle.loads(pickle.dumps(everything))
    assert torch.equal(run(copy, sample, 4).image, run(everything, sample, 4).image)


def test_no_border_moved_in_enlarges_more_than_the_zoom_says() -> None:
    shift = RandomScaleShift(0.1)
    shown = [run(shift, painted([], []), seed).image.shape[1:] for seed in range(400)]
    zooms = [max(90 / height, 120 / width) for height, width in shown]
    assert 1.2 < max(zooms) <= 1.26  # 1.25, and what whole pixels round off
    assert shift.zoom == pytest.approx(1.25)


def test_an_iou_crop_states_the_zoom_of_its_middle_windows() -> None:
    crop = RandomIoUCrop()
    sample = painted([(300, 200, 700, 600)], [RED], size=(900, 1200))
    sides = []
    for seed in range(400):
        height, width = run(crop, sample, seed).image.shape[1:]
        sides += [] if (height, width) == (900, 1200) else [900 / height, 1200 / width]
    larger = sum(zoom > crop.zoom for zoom in sides) / len(sides)
    assert 0.35 < larger < 0.65


def test_the_zooms_of_transforms_multiply_and_others_have_none() -> None:
    assert zoom_of(Compose([])) == zoom_of(RandomHorizontalFlip()) == 1
    assert zoom_of(lambda sample: sample) == 1
    both = Compose([RandomScaleShift(0.1), RandomExpand(), RandomScaleShift(0.25)])
    assert zoom_of(both) == pytest.approx(1.25 * 2)
    assert zoom_of(light_augmentation()) == pytest.approx(1.25)
    assert zoom_of(ssd_augmentation(SQUARE)) == pytest.approx(1 / 0.65)
