"""SSD's own augmentation against its released code: crops, interpolation, hue.

The functions that are named `released_...` do what its C++ does, one number after the other.
"""

from __future__ import annotations

import colorsys
import random
from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from test_transforms import RED, painted, run

from detkit.transforms.geometric import RandomInterpolation, RandomIoUCrop
from detkit.transforms.photometric import PhotometricDistort, adjust_colours
from detkit.transforms.preparation import Preparation

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
