"""A small labelled folder to try everything on: drawn here, offline, the same for a seed.

Balloons, cars and sheep in a landscape with trees, boulders, hay bales and clouds, as a
Pascal VOC tree. The boxes are those of the pixels that were drawn and can be seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from detkit.data.demo.objects import PAINTERS, SCENERY, FloatImage, cloud
from detkit.data.formats.voc_xml import xml_text
from detkit.data.output import new_folder
from detkit.data.records import ObjectRecord
from detkit.errors import DetkitError, UsageError
from detkit.text import agreed, counted

CLASS_NAMES = tuple(PAINTERS)
SHARES = {"train": 12 / 17, "val": 2 / 17, "test": 3 / 17}  # 240, 40 and 60 of 340
SIZES = ((240, 320), (270, 360), (300, 400), (320, 256))  # (height, width)
MIN_SIDE, MAX_SIDE = 64, 10_000  # of a picture of a size asked for
MIN_OBJECT = 10  # pixels; of a smaller one hardly a shape is left
MOST_OBJECTS, MOST_SMALL_OBJECTS = 6, 40  # in a picture; in one with much room for them
ROOM = 64  # an object of a size asked for has so many times its square to itself
JPEG_QUALITY = 88

# Zenith, horizon, far hills, near meadow, tint of everything: RGB.
SKIES = (
    ((92, 158, 220), (214, 234, 244), (120, 156, 150), (112, 160, 74), (1.0, 1.0, 1.0)),
    ((70, 130, 190), (250, 226, 190), (130, 140, 140), (136, 150, 66), (1.03, 1.0, 0.94)),
    ((96, 92, 150), (250, 178, 130), (116, 100, 128), (110, 118, 74), (1.06, 0.95, 0.9)),
    ((160, 178, 192), (226, 230, 232), (140, 154, 156), (110, 136, 86), (0.96, 0.98, 1.0)),
    ((126, 176, 206), (240, 240, 226), (164, 172, 150), (190, 172, 96), (1.0, 0.99, 0.95)),
)
SKY, AIR, GROUND = range(3)  # what is painted first, second, third
MIN_VISIBLE = 0.35  # share of an object's pixels that must stay in sight
DIFFICULT_VISIBLE = 0.5  # below this share it is marked difficult, as in VOC
DIFFICULT_SIDE = 20  # and so it is when its longer side has fewer pixels than this


@dataclass(frozen=True, slots=True)
class Picture:
    """One drawn image (H, W, 3) uint8 RGB with its objects."""

    image: NDArray[np.uint8]
    objects: tuple[ObjectRecord, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Placed:
    """A sprite with its place in a picture; `name` is None for scenery."""

    name: str | None
    layer: int  # SKY, AIR or GROUND
    color: FloatImage  # (h, w, 3)
    opacity: FloatImage  # (h, w)
    left: int
    top: int

    def window(self, height: int, width: int) -> tuple[slice, slice, slice, slice]:
        """Return rows and columns in the picture, then the same in the sprite."""
        rows, columns = self.opacity.shape
        y0, x0 = max(0, self.top), max(0, self.left)
        y1, x1 = min(height, self.top + rows), min(width, self.left + columns)
        return (
            slice(y0, max(y0, y1)),
            slice(x0, max(x0, x1)),
            slice(y0 - self.top, max(y0, y1) - self.top),
            slice(x0 - self.left, max(x0, x1) - self.left),
        )


def write_demo(
    folder: Path,
    *,
    num_images: int = 340,
    seed: int = 0,
    image_size: tuple[int, int] | None = None,
    object_size: tuple[int, int] | None = None,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write `num_images` drawn pictures and their labels as a Pascal VOC tree into `folder`.

    12 of 17 pictures are for training, 2 for validation, 3 for testing. The same seed draws
    the same pictures. `image_size` is the (height, width) of all pictures, `object_size` the
    least and the largest longer side of an object; see `draw_picture`. `progress` hears
    (done, total). Raises UsageError when the folder is not empty (unless forced), fewer than 6
    pictures are asked for, or objects of that size do not fit into such pictures.
    """
    if num_images < 6:
        raise UsageError(
            f"demo: {counted(num_images, 'image')} {agreed(num_images, 'is', 'are')} too few for "
            "three splits; ask for 6"
        )
    _require_drawable(image_size, object_size)
    num_val = max(1, round(num_images * SHARES["val"]))
    num_test = max(1, round(num_images * SHARES["test"]))
    names = [f"{number:06d}" for number in range(1, num_images + 1)]
    num_train = num_images - num_val - num_test
    splits = {
        "train": names[:num_train],
        "val": names[num_train : num_train + num_val],
        "test": names[num_train + num_val :],
    }
    with new_folder(folder, force=force) as root:
        for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (root / part).mkdir(parents=True)
        for number, name in enumerate(names):
            rng = np.random.default_rng([seed, number])
            picture = draw_picture(rng, image_size, object_size)
            _write_jpeg(root / "JPEGImages" / f"{name}.jpg", picture.image)
            height, width = picture.image.shape[:2]
            text = xml_text(f"{name}.jpg", width, height, picture.objects, database="detkit demo")
            (root / "Annotations" / f"{name}.xml").write_text(text, "utf-8", newline="\n")
            if progress is not None:
                progress(number + 1, num_images)
        for split, members in splits.items():
            lines = "".join(f"{name}\n" for name in members)
            (root / "ImageSets" / "Main" / f"{split}.txt").write_text(lines, "utf-8", newline="\n")


def draw_picture(
    rng: np.random.Generator,
    image_size: tuple[int, int] | None = None,
    object_size: tuple[int, int] | None = None,
) -> Picture:
    """Return one drawn landscape with 0 to 6 objects; boxes tight to a pixel, in own pixels.

    `image_size` is its (height, width), else one of `SIZES`. `object_size` is the least and the
    largest longer side of an object, pixels, where nothing hides a part of it; else the picture
    sets the scale. Where objects of that size have room there are more of them, up to 40.
    """
    height, width = SIZES[rng.integers(len(SIZES))] if image_size is None else image_size
    most = _most_objects(height, width, object_size)
    sky = SKIES[rng.integers(len(SKIES))]
    horizon = round(height * rng.uniform(0.34, 0.56))
    canvas = _landscape(rng, height, width, horizon, sky)
    num_objects = 0 if rng.random() < 0.06 else int(rng.integers(1, most + 1))
    things = _scenery(rng, height, width, horizon, most)
    for name in rng.choice(CLASS_NAMES, num_objects):
        for _ in range(12):
            trial = [*things, _place(rng, str(name), height, width, horizon, object_size)]
            if min(_visible(_in_order(trial), height, width)) >= MIN_VISIBLE:
                things = trial
                break
    things = _in_order(things)
    owner = np.full((height, width), -1, np.int32)
    for number, thing in enumerate(things):
        _paint(canvas, owner, thing, number, _haze(thing, height, horizon), sky[1])
    canvas *= np.array(sky[4], np.float32) * np.float32(rng.uniform(0.9, 1.06))
    canvas += 2.5 * rng.standard_normal((height, width, 1), np.float32)
    image = np.clip(canvas, 0, 255, out=canvas).astype(np.uint8)
    # A side that was asked for is no reason to call an object difficult.
    least_side = DIFFICULT_SIDE if object_size is None else 0
    return Picture(image, _objects(things, owner, least_side))


def _require_drawable(
    image_size: tuple[int, int] | None, object_size: tuple[int, int] | None
) -> None:
    """Raise UsageError for pictures or objects of a size that cannot be drawn."""
    if image_size is not None:
        height, width = image_size
        if not MIN_SIDE <= min(image_size) <= max(image_size) <= MAX_SIDE:
            raise UsageError(
                f"--image-size {width}x{height}: both sides must lie between {MIN_SIDE} and "
                f"{MAX_SIDE}"
            )
    if object_size is None:
        return
    least, largest = object_size
    given = f"--object-size {least}-{largest}"
    if least > largest:
        raise UsageError(f"{given}: the least comes first; expected MIN-MAX, like 14-24")
    if least < MIN_OBJECT:
        raise UsageError(f"{given}: must be at least {MIN_OBJECT}; of less hardly a shape is left")
    shorter = min(image_size or map(min, SIZES))
    if largest > shorter // 2:
        raise UsageError(
            f"{given}: must be at most {shorter // 2}, half the shorter side of the smallest "
            "picture; --image-size WxH draws larger ones"
        )


def _most_objects(height: int, width: int, object_size: tuple[int, int] | None) -> int:
    """Return how many objects a picture has at most."""
    if object_size is None:
        return MOST_OBJECTS
    room = height * width // (ROOM * object_size[1] ** 2)
    return min(max(room, MOST_OBJECTS), MOST_SMALL_OBJECTS)


def _landscape(
    rng: np.random.Generator,
    height: int,
    width: int,
    horizon: int,
    sky: tuple[tuple[float, ...], ...],
) -> FloatImage:
    """Return sky, hills and meadow (H, W, 3) without anything in them."""
    zenith, low, hill, meadow = (np.array(color, np.float32) for color in sky[:4])
    zenith, low, hill, meadow = (
        color + 6 * rng.standard_normal(3, np.float32) for color in (zenith, low, hill, meadow)
    )
    share = np.clip(np.arange(height, dtype=np.float32) / horizon, 0, 1)[:, None, None]
    canvas = np.asarray(zenith * (1 - share) + low * share, np.float32).repeat(width, axis=1)
    x = np.arange(width)
    num_ridges = 3
    for ridge in range(num_ridges):
        wave = sum(
            rng.uniform(0.3, 1) * np.sin(2 * np.pi * (k * x / width + rng.random())) / k
            for k in (1, 2, 3)
        )
        crest = horizon - height * (0.12 - 0.05 * ridge) - wave * height * 0.0125 * (3 - ridge)
        mix = (ridge + 0.6) / num_ridges
        color = (low * 0.45 + hill * 0.55) * (1 - mix) + (hill * 0.4 + meadow * 0.6) * mix
        outline = np.stack([x, crest], axis=1)
        outline = np.concatenate([outline, [[width, height], [0, height]]]).round()
        cv2.fillPoly(canvas, [outline.astype(np.int32)], color.tolist())
    depth = np.linspace(0, 1, height - horizon, dtype=np.float32)[:, None, None]
    canvas[horizon:] = meadow * (1.08 - 0.28 * depth)
    # Tufts and patches: coarse noise, flattened by perspective, on the ground only.
    for rows, columns, strength in ((height // 3, width // 6, 7.0), (height // 16, width // 60, 6)):
        coarse = strength * rng.standard_normal((max(2, rows), max(2, columns)), np.float32)
        noise = cv2.resize(coarse, (width, height - horizon), interpolation=cv2.INTER_CUBIC)
        canvas[horizon:] += noise[..., None]
    return canvas


def _scenery(
    rng: np.random.Generator, height: int, width: int, horizon: int, most: int
) -> list[_Placed]:
    """Return clouds, then up to `most` things on the ground that are no objects."""
    things = []
    for _ in range(rng.integers(0, 4)):
        color, opacity = cloud(rng, int(rng.uniform(0.12, 0.32) * width)).fit()
        color[color.sum(axis=2) == 0] = 246  # the blurred edge reaches beyond what was drawn
        color = np.pad(color, ((5, 5), (5, 5), (0, 0)), mode="edge")
        opacity = np.pad(opacity, 5) * np.float32(rng.uniform(0.6, 0.95))
        opacity = np.asarray(cv2.GaussianBlur(opacity, (0, 0), 1.5), np.float32)
        left, top = int(rng.uniform(-0.1, 0.9) * width), int(rng.uniform(-0.02, 0.6) * horizon)
        things.append(_Placed(None, SKY, color, opacity, left, top))
    for _ in range(rng.integers(1, most + 1)):
        painter = SCENERY[rng.integers(len(SCENERY))]
        depth = rng.random() ** 2 * 0.8
        size = 26 + 120 * depth
        if painter.__name__ in ("rock", "bale"):
            size *= 0.5
        color, opacity = painter(rng, int(size * rng.uniform(0.8, 1.2))).fit()
        foot = horizon + depth * (height - horizon) + 4
        left = int(rng.uniform(-0.1, 1) * width)
        things.append(_Placed(None, GROUND, color, opacity, left, int(foot) - opacity.shape[0]))
    return things


def _place(
    rng: np.random.Generator,
    name: str,
    height: int,
    width: int,
    horizon: int,
    object_size: tuple[int, int] | None,
) -> _Placed:
    """Return an object of the class at a fitting place and size."""
    mirror = rng.random() < 0.5
    is_balloon = name == "balloon"
    depth = 0.0 if is_balloon else rng.random()
    if object_size is not None:
        size = float(rng.integers(object_size[0], object_size[1] + 1))
        color, opacity = PAINTERS[name](rng, int(size)).fit_opaque(mirror=mirror)
    else:
        if is_balloon:
            size = np.exp(rng.uniform(np.log(28), np.log(0.62 * min(height, 1.5 * width))))
        else:
            largest = (0.5 if name == "car" else 0.36) * min(width, 2 * height)
            size = (24 + (largest - 24) * depth**1.4) * rng.uniform(0.85, 1.2)
        color, opacity = PAINTERS[name](rng, int(size)).fit(mirror=mirror)
    if is_balloon:
        top = int(rng.uniform(-0.1 * size, max(horizon + 0.1 * height - size, 0.05 * height)))
    else:
        foot = horizon + 6 + depth * (height - horizon) * 0.98
        top = int(foot) - opacity.shape[0]
    margin = opacity.shape[1]
    left = int(rng.uniform(-0.15 * margin, width - 0.85 * margin))
    layer = AIR if is_balloon else GROUND
    return _Placed(name, layer, color, opacity, left, top)


def _in_order(things: list[_Placed]) -> list[_Placed]:
    """Return the things from far to near: clouds, balloons by size, the rest by their feet."""

    def nearness(thing: _Placed) -> tuple[int, int]:
        rows = thing.opacity.shape[0]
        return thing.layer, thing.top + rows if thing.layer == GROUND else rows

    return sorted(things, key=nearness)


def _visible(things: list[_Placed], height: int, width: int) -> list[float]:
    """Return for each object (not scenery) the share of its pixels that can be seen."""
    shares: list[float] = []
    windows = [thing.window(height, width) for thing in things]
    for number, thing in enumerate(things):
        if thing.name is None:
            continue
        rows, columns, own_rows, own_columns = windows[number]
        seen = thing.opacity[own_rows, own_columns] > 0.5
        for nearer, window in zip(things[number + 1 :], windows[number + 1 :]):
            top, bottom = max(rows.start, window[0].start), min(rows.stop, window[0].stop)
            left, right = max(columns.start, window[1].start), min(columns.stop, window[1].stop)
            if top < bottom and left < right:
                hides = nearer.opacity[
                    top - nearer.top : bottom - nearer.top, left - nearer.left : right - nearer.left
                ]
                seen[
                    top - rows.start : bottom - rows.start,
                    left - columns.start : right - columns.start,
                ] &= hides <= 0.5
        shares.append(np.count_nonzero(seen) / np.count_nonzero(thing.opacity > 0.5))
    return shares or [1.0]


def _haze(thing: _Placed, height: int, horizon: int) -> float:
    """Return how much of the horizon's colour lies over a thing: more the farther it is."""
    rows: int = thing.opacity.shape[0]
    if thing.layer == SKY:
        return 0.0
    if thing.layer == AIR:
        return 0.22 * max(0.0, 1 - rows / (0.4 * height))
    nearness = (thing.top + rows - horizon) / (0.5 * (height - horizon))
    return 0.22 * min(1.0, max(0.0, 1 - nearness))


def _paint(
    canvas: FloatImage,
    owner: NDArray[np.int32],
    thing: _Placed,
    number: int,
    haze: float,
    haze_color: tuple[float, ...],
) -> None:
    """Put the thing with its shadow into the canvas, and its number where it is opaque."""
    height, width = owner.shape
    rows, columns, own_rows, own_columns = thing.window(height, width)
    if thing.layer == GROUND:
        _cast_shadow(canvas, thing)
    opacity = thing.opacity[own_rows, own_columns][..., None]
    color = (
        thing.color[own_rows, own_columns] * (1 - haze) + np.array(haze_color, np.float32) * haze
    )
    canvas[rows, columns] = canvas[rows, columns] * (1 - opacity) + color * opacity
    owner[rows, columns][opacity[..., 0] > 0.5] = number


def _cast_shadow(canvas: FloatImage, thing: _Placed) -> None:
    """Darken the ground under a standing thing."""
    rows, columns = thing.opacity.shape
    half = (max(2, int(columns * 0.45)), max(1, rows // 14))
    soft = 1 + rows / 60
    margin = int(3 * soft) + 1
    # A shadow is a little sprite: opaque where it is dark.
    shade: FloatImage = np.zeros((2 * (half[1] + margin), 2 * (half[0] + margin)), np.float32)
    centre = (shade.shape[1] // 2, shade.shape[0] // 2)
    cv2.ellipse(shade, centre, half, 0, 0, 360, 0.35, -1)
    shade = np.asarray(cv2.GaussianBlur(shade, (0, 0), soft), np.float32)
    left = thing.left + columns // 2 - centre[0]
    top = thing.top + rows - max(1, rows // 40) - centre[1]
    height, width = canvas.shape[:2]
    place = _Placed(None, GROUND, shade[..., None], shade, left, top).window(height, width)
    canvas[place[0], place[1]] *= (1 - shade[place[2], place[3]])[..., None]


def _objects(
    things: list[_Placed], owner: NDArray[np.int32], least_side: int
) -> tuple[ObjectRecord, ...]:
    """Return the records of the objects: the tight boxes of the pixels that can be seen.

    One whose longer side is below `least_side`, or of which little is seen, is difficult.
    """
    records = []
    for number, thing in enumerate(things):
        if thing.name is None:
            continue
        window = thing.window(*owner.shape)
        seen = owner[window[:2]] == number
        rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
        rows, columns = rows + window[0].start, columns + window[1].start
        box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        share = np.count_nonzero(seen) / np.count_nonzero(thing.opacity > 0.5)
        longer = max(box[2] - box[0], box[3] - box[1])
        difficult = bool(share < DIFFICULT_VISIBLE or longer < least_side)
        x1, y1, x2, y2 = (float(value) for value in box)
        records.append(ObjectRecord(thing.name, (x1, y1, x2, y2), difficult))
    return tuple(records)


def _write_jpeg(path: Path, image: NDArray[np.uint8]) -> None:
    """Write an RGB image; `imencode` and not `imwrite`, which fails on non-ASCII paths."""
    done, data = cv2.imencode(
        ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    )
    if not done:
        raise DetkitError(f"{path}: the picture could not be encoded")
    path.write_bytes(data.tobytes())  # not `tofile`, which forgets why it failed
