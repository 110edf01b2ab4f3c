"""The things in the demo's pictures, drawn with OpenCV: balloon, car, sheep, and scenery.

Every painter draws on a square canvas in units of its side and returns it as a `Sprite`.
The canvas is larger than the thing will be; shrinking in `fit` smooths the edges.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

FloatImage = NDArray[np.float32]
Color = tuple[int, int, int]

# Of the canvas, pixels; a thing is drawn at twice its size, one beyond `MAX_SIDE` at its size.
MIN_SIDE, MAX_SIDE = 96, 320

BALLOON_COLORS: list[tuple[Color, Color]] = [
    ((222, 60, 56), (250, 214, 92)),
    ((38, 120, 196), (245, 245, 240)),
    ((126, 66, 160), (248, 160, 70)),
    ((22, 150, 136), (252, 232, 130)),
    ((232, 110, 40), (250, 240, 225)),
    ((196, 48, 110), (250, 190, 205)),
]
CAR_COLORS: list[Color] = [
    (200, 44, 44),
    (40, 92, 180),
    (236, 178, 40),
    (34, 140, 120),
    (226, 226, 222),
    (70, 76, 92),
    (226, 120, 50),
]
WOOL_COLORS: list[Color] = [(246, 243, 234), (238, 230, 212), (226, 220, 208), (92, 84, 82)]
GLASS: Color = (176, 212, 230)
RUBBER: Color = (34, 34, 38)


class Sprite:
    """A drawn thing: its colours and where it is opaque."""

    def __init__(self, size: int) -> None:
        """Start with an empty canvas for a thing of `size` pixels."""
        self.size = size
        self.side = max(min(max(2 * size, MIN_SIDE), MAX_SIDE), size)
        self.image: NDArray[np.uint8] = np.zeros((self.side, self.side, 3), np.uint8)
        self.opacity = np.zeros((self.side, self.side), np.uint8)

    def polygon(self, points: NDArray[Any], color: Color) -> None:
        """Fill a polygon given as (n, 2) points in canvas units of 0 to 1."""
        corners = np.round(points * self.side).astype(np.int32)
        cv2.fillPoly(self.image, [corners], color)
        cv2.fillPoly(self.opacity, [corners], 255)

    def ellipse(self, centre: tuple[float, float], axes: tuple[float, float], color: Color) -> None:
        """Fill an upright ellipse: its centre and half axes in canvas units of 0 to 1."""
        at = (round(centre[0] * self.side), round(centre[1] * self.side))
        half = (max(1, round(axes[0] * self.side)), max(1, round(axes[1] * self.side)))
        cv2.ellipse(self.image, at, half, 0, 0, 360, color, -1)
        cv2.ellipse(self.opacity, at, half, 0, 0, 360, 255, -1)

    def line(
        self, start: tuple[float, float], end: tuple[float, float], width: float, color: Color
    ) -> None:
        """Draw a straight line; everything in canvas units of 0 to 1."""
        ends = [(round(x * self.side), round(y * self.side)) for x, y in (start, end)]
        thick = max(1, round(width * self.side))
        cv2.line(self.image, ends[0], ends[1], color, thick)
        cv2.line(self.opacity, ends[0], ends[1], 255, thick)

    def shade(self, side: float, foot: float) -> None:
        """Lighten towards the left by `side` and darken towards the foot by `foot` (shares)."""
        across = np.linspace(1 + side, 1 - side, self.side, dtype=np.float32)
        down = np.linspace(1 + foot / 2, 1 - foot, self.side, dtype=np.float32)
        light = np.repeat((down[:, None] * across)[..., None], 3, axis=2)
        self.image = np.asarray(cv2.multiply(self.image, light, dtype=cv2.CV_8U), np.uint8)

    def fit(self, *, mirror: bool = False) -> tuple[FloatImage, FloatImage]:
        """Return colours (h, w, 3) and opacity (h, w) in [0, 1], longer side `size` pixels."""
        left, top, width, height = cv2.boundingRect(self.opacity)
        part = np.s_[top : top + height, left : left + width]
        image, opacity = self.image[part], self.opacity[part].astype(np.float32) / 255
        if mirror:
            image, opacity = image[:, ::-1], opacity[:, ::-1]
        scale = self.size / max(height, width)
        shape = (max(2, round(width * scale)), max(2, round(height * scale)))
        small = cv2.resize(opacity, shape, interpolation=cv2.INTER_AREA)
        weighted = image.astype(np.float32) * opacity[..., None]
        color = cv2.resize(weighted, shape, interpolation=cv2.INTER_AREA)
        color = color / np.maximum(small, 1e-3)[..., None]
        return np.asarray(color, np.float32), np.asarray(small, np.float32)

    def fit_opaque(self, *, mirror: bool = False) -> tuple[FloatImage, FloatImage]:
        """Return what `fit` does, grown until the pixels that count as the thing span `size`.

        Those are more than half opaque. Of a small thing they lack a pixel or two in `fit`, since
        a tip as thin as a pixel is half seen through.
        """
        wanted = self.size
        color, opacity = self.fit(mirror=mirror)
        while max(cv2.boundingRect((opacity > 0.5).astype(np.uint8))[2:]) < wanted:
            self.size += 1
            color, opacity = self.fit(mirror=mirror)
        self.size = wanted
        return color, opacity


def _tint(color: Color, rng: np.random.Generator, spread: int = 18) -> Color:
    """Return the colour, a little changed."""
    red, green, blue = np.clip(np.add(color, rng.integers(-spread, spread + 1, 3)), 0, 255)
    return int(red), int(green), int(blue)


def _darker(color: Color, share: float) -> Color:
    """Return the colour at this share of its brightness."""
    return int(color[0] * share), int(color[1] * share), int(color[2] * share)


def balloon(rng: np.random.Generator, size: int) -> Sprite:
    """Return a hot-air balloon with striped envelope and basket."""
    sprite = Sprite(size)
    dark, bright = BALLOON_COLORS[rng.integers(len(BALLOON_COLORS))]
    dark, bright = _tint(dark, rng), _tint(bright, rng)
    height, half = 0.78, rng.uniform(0.31, 0.37)
    turn = np.linspace(0, 1, 40)
    # A circle above, tapering to the mouth below.
    profile = np.where(
        turn < 0.45,
        np.sqrt(np.clip(1 - ((0.45 - turn) / 0.45) ** 2, 0, 1)),
        0.2 + 0.8 * np.cos((turn - 0.45) / 0.55 * np.pi / 2) ** 0.9,
    )
    rows = 0.02 + turn * height
    for corner in (-1, 1):
        sprite.line((0.5 + corner * 0.07, 0.78), (0.5 + corner * 0.05, 0.92), 0.01, (70, 54, 44))
    num_stripes = int(rng.integers(2, 4))
    widths = np.linspace(1, 0.16, 2 * num_stripes)
    for number, width in enumerate(widths):
        left = np.stack([0.5 - half * width * profile, rows], axis=1)
        right = np.stack([0.5 + half * width * profile, rows], axis=1)
        sprite.polygon(np.concatenate([left, right[::-1]]), dark if number % 2 == 0 else bright)
    sprite.shade(0.16, 0.18)
    if rng.random() < 0.5:  # a band round the middle
        band = np.array([[-1, 0.40], [1, 0.40], [1, 0.47], [-1, 0.47]]) * [half * 0.99, 1]
        sprite.polygon(band + [0.5, 0], _darker(dark, 0.85))
    basket = np.array([[0.43, 0.89], [0.57, 0.89], [0.555, 0.98], [0.445, 0.98]])
    sprite.polygon(basket, (134, 88, 46))
    sprite.line((0.43, 0.895), (0.57, 0.895), 0.018, (92, 58, 30))
    return sprite


def car(rng: np.random.Generator, size: int) -> Sprite:
    """Return a car from the side: a saloon or a van."""
    sprite = Sprite(size)
    paint = _tint(CAR_COLORS[rng.integers(len(CAR_COLORS))], rng)
    if rng.random() < 0.6:
        roof = rng.uniform(0.33, 0.37)
        cabin = [[0.2, 0.52], [0.33, roof], [0.62, roof], [0.78, 0.52]]
        glass = [
            [[0.26, 0.51], [0.35, roof + 0.03], [0.46, roof + 0.03], [0.46, 0.51]],
            [[0.49, 0.51], [0.49, roof + 0.03], [0.60, roof + 0.03], [0.71, 0.51]],
        ]
        body = [[0.03, 0.55], [0.1, 0.5], [0.78, 0.51], [0.94, 0.56], [0.97, 0.68], [0.03, 0.68]]
    else:
        roof = rng.uniform(0.25, 0.3)
        cabin = [[0.06, 0.55], [0.07, roof], [0.68, roof], [0.84, 0.52]]
        glass = [
            [[0.12, 0.46], [0.12, roof + 0.05], [0.28, roof + 0.05], [0.28, 0.46]],
            [[0.33, 0.46], [0.33, roof + 0.05], [0.49, roof + 0.05], [0.49, 0.46]],
            [[0.54, 0.49], [0.54, roof + 0.05], [0.66, roof + 0.05], [0.77, 0.49]],
        ]
        body = [[0.05, 0.46], [0.84, 0.5], [0.95, 0.56], [0.96, 0.68], [0.05, 0.68]]
    sprite.polygon(np.array(cabin), paint)
    sprite.polygon(np.array(body), paint)
    sprite.shade(0.05, 0.16)
    for pane in glass:
        sprite.polygon(np.array(pane), _tint(GLASS, rng, 8))
    sprite.line((0.04, 0.67), (0.96, 0.67), 0.022, _darker(paint, 0.5))
    sprite.line((0.10, 0.585), (0.90, 0.585), 0.008, _darker(paint, 0.75))
    sprite.ellipse((0.945, 0.595), (0.016, 0.022), (255, 238, 150))
    sprite.ellipse((0.05, 0.585), (0.014, 0.022), (180, 24, 24))
    for x in (0.25, 0.76):
        sprite.ellipse((x, 0.69), (0.093, 0.093), RUBBER)
        sprite.ellipse((x, 0.69), (0.05, 0.05), (176, 178, 184))
        sprite.ellipse((x, 0.69), (0.018, 0.018), (90, 92, 98))
    return sprite


def sheep(rng: np.random.Generator, size: int) -> Sprite:
    """Return a sheep from the side, standing or grazing; now and then a black one."""
    sprite = Sprite(size)
    wool = _tint(WOOL_COLORS[rng.choice(4, p=[0.4, 0.25, 0.25, 0.1])], rng, 8)
    face = (44, 38, 40) if rng.random() < 0.8 else (196, 172, 150)
    grazing = rng.random() < 0.35
    for x in (0.27, 0.37, 0.58, 0.68):
        sprite.line((x, 0.6), (x + rng.uniform(-0.02, 0.02), 0.83), 0.045, _darker(face, 0.9))
    sprite.ellipse((0.48, 0.5), (0.29, 0.17), wool)
    for angle in np.linspace(0, 2 * np.pi, 13)[:-1]:
        bump = (0.48 + 0.27 * np.cos(angle), 0.5 + 0.16 * np.sin(angle))
        sprite.ellipse(bump, (0.085, 0.08), wool)
    for _ in range(9):  # curls
        x, y = 0.48 + rng.uniform(-0.24, 0.24), 0.5 + rng.uniform(-0.14, 0.14)
        sprite.ellipse((x, y), (0.045, 0.04), _darker(wool, rng.uniform(0.9, 0.99)))
    sprite.shade(0.03, 0.2)
    x, y = (0.86, 0.66) if grazing else (0.84, 0.38)
    sprite.ellipse((x - 0.055, y - 0.045), (0.055, 0.025), _darker(face, 0.8))
    sprite.ellipse((x, y), (0.075, 0.105), face)
    sprite.ellipse((x - 0.03, y - 0.1), (0.06, 0.04), wool)
    sprite.ellipse((x + 0.025, y - 0.03), (0.013, 0.015), (250, 250, 250))
    return sprite


def pine(rng: np.random.Generator, size: int) -> Sprite:
    """Return a fir tree."""
    sprite = Sprite(size)
    green = _tint((44, 92, 62), rng)
    sprite.line((0.5, 0.8), (0.5, 0.98), 0.06, (92, 66, 44))
    for top, foot, half in ((0.46, 0.86, 0.27), (0.25, 0.63, 0.21), (0.04, 0.40, 0.15)):
        sprite.polygon(np.array([[0.5, top], [0.5 + half, foot], [0.5 - half, foot]]), green)
        green = _darker(green, 1.08)
    sprite.shade(0.12, 0.15)
    return sprite


def tree(rng: np.random.Generator, size: int) -> Sprite:
    """Return a round tree."""
    sprite = Sprite(size)
    green = _tint((84, 132, 62) if rng.random() < 0.75 else (190, 128, 52), rng)
    sprite.line((0.5, 0.55), (0.5, 0.97), 0.07, (98, 72, 50))
    for _ in range(9):
        at = (0.5 + rng.uniform(-0.18, 0.18), 0.34 + rng.uniform(-0.17, 0.17))
        sprite.ellipse(at, (0.15, 0.14), _darker(green, rng.uniform(0.85, 1.05)))
    sprite.shade(0.1, 0.2)
    return sprite


def rock(rng: np.random.Generator, size: int) -> Sprite:
    """Return a boulder."""
    sprite = Sprite(size)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
    reach = rng.uniform(0.32, 0.46, 9)
    points = np.stack([0.5 + reach * np.cos(angles), 0.5 + 0.6 * reach * np.sin(angles)], axis=1)
    points[:, 1] = np.minimum(points[:, 1], 0.66)
    sprite.polygon(points, _tint((142, 138, 134), rng))
    sprite.shade(0.1, 0.45)
    return sprite


def bale(rng: np.random.Generator, size: int) -> Sprite:
    """Return a round bale of hay."""
    sprite = Sprite(size)
    straw = _tint((214, 178, 92), rng)
    sprite.ellipse((0.5, 0.5), (0.36, 0.36), straw)
    for radius in (0.28, 0.2, 0.12, 0.05):
        straw = _darker(straw, 0.9 if radius != 0.2 else 1.08)
        sprite.ellipse((0.5, 0.5), (radius, radius), straw)
    sprite.shade(0.06, 0.12)
    return sprite


def cloud(rng: np.random.Generator, size: int) -> Sprite:
    """Return a cloud."""
    sprite = Sprite(size)
    for _ in range(8):
        x = rng.uniform(0.2, 0.8)
        at = (x, 0.5 - 0.12 * np.cos((x - 0.5) * 4) + rng.uniform(-0.02, 0.05))
        sprite.ellipse(at, (rng.uniform(0.1, 0.17), rng.uniform(0.06, 0.11)), (0, 0, 0))
    sprite.image[:] = (250, 250, 252)  # also where it is not opaque: its edge is blurred later
    sprite.shade(0.0, 0.14)
    return sprite


Painter = Callable[[np.random.Generator, int], Sprite]
PAINTERS: dict[str, Painter] = {
    "balloon": balloon,
    "car": car,
    "sheep": sheep,
}
SCENERY: list[Painter] = [pine, pine, tree, tree, rock, bale]
