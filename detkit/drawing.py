"""Boxes on an image, readable at any size.

Line and letter sizes follow the image. Each class has its colour, from a palette that colour-
blind readers can tell apart (Okabe and Ito, 2008), fixed by the position of its name in
`class_names`. Where labels would hide the image or one another, a legend stands below it.
"""

from __future__ import annotations

import functools
import logging
import math
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from detkit.text import counted

Colour = tuple[int, int, int]  # RGB, 0 to 255
Rectangle = tuple[int, int, int, int]  # xyxy, half-open

# Okabe and Ito, "Color Universal Design", 2008; without black, which is no marking on a photo.
PALETTE: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
MAX_LABELS = 15  # more boxes than this have a legend instead of labels
MIN_LONG_SIDE = 256  # smaller images are enlarged: no letter would fit

logger = logging.getLogger(__name__)


def draw(
    image: NDArray[np.uint8],
    labels: Sequence[str],
    boxes: ArrayLike,
    scores: ArrayLike | None,
    *,
    class_names: Sequence[str],
) -> NDArray[np.uint8]:
    """Return a new (H, W, 3) RGB image with the N boxes drawn on it, best on top.

    `boxes` are (N, 4) xyxy in the image's pixels, `scores` (N,) are written as ".93". An image
    whose longer side is below 256 pixels comes back enlarged by a whole number, one with more
    than 15 boxes, or with labels that find no free place, comes back higher: by a legend.

    Raises ValueError when `labels`, `boxes` and `scores` are not as many.
    """
    shown = np.asarray(boxes, np.float64).reshape(-1, 4)
    values = None if scores is None else np.asarray(scores, np.float64).reshape(-1)
    if len(labels) != len(shown) or (values is not None and len(values) != len(shown)):
        raise ValueError(
            f"{counted(len(labels), 'label')}, {counted(len(shown), 'box')}: must be as many"
        )
    factor = max(1, math.ceil(MIN_LONG_SIDE / max(image.shape[:2])))
    canvas = Image.fromarray(np.ascontiguousarray(image))
    if factor > 1:
        size = canvas.width * factor, canvas.height * factor
        canvas = canvas.resize(size, Image.Resampling.NEAREST)
    order = range(len(shown)) if values is None else np.argsort(values, kind="stable").tolist()
    marks = [
        _Mark(
            name=" ".join(labels[index].split()),
            score="" if values is None else _score_text(float(values[index])),
            box=_pixels(shown[index] * factor, canvas.width, canvas.height),
            colour=colour_of(labels[index], class_names),
        )
        for index in order
        if np.isfinite(shown[index]).all()
    ]
    style = _Style.of(canvas)
    pen = ImageDraw.Draw(canvas)
    for mark in marks:
        _draw_box(pen, mark, style.line)
    places = _label_places(pen, marks, style)
    if places is not None:
        for mark, place in zip(marks, places, strict=True):
            _draw_label(pen, mark, place, style)
    elif marks:
        canvas = _with_legend(canvas, marks, style)
    return np.array(canvas, np.uint8)


def crossed_out(image: NDArray[np.uint8], boxes: ArrayLike) -> NDArray[np.uint8]:
    """Return a new (H, W, 3) RGB image with an outline and diagonals in each of the N boxes.

    `boxes` are (N, 4) xyxy in the image's pixels. White with a black rim is no class's colour, and
    stands out from any ground.
    """
    canvas = Image.fromarray(np.ascontiguousarray(image))
    pen = ImageDraw.Draw(canvas)
    for box in np.asarray(boxes, np.float64).reshape(-1, 4):
        x1, y1, x2, y2 = _pixels(box, canvas.width, canvas.height)
        right, bottom = x2 - 1, y2 - 1
        corners = [(x1, y1), (right, y1), (right, bottom), (x1, bottom), (x1, y1), (right, bottom)]
        for colour, width in ((BLACK, 3), (WHITE, 1)):
            pen.line(corners, fill=colour, width=width)
            pen.line([(x1, bottom), (right, y1)], fill=colour, width=width)
    return np.array(canvas, np.uint8)


def colour_of(label: str, class_names: Sequence[str]) -> Colour:
    """Return a class's RGB colour, the same in every image; 21 are different."""
    try:
        index = class_names.index(label)
    except ValueError:  # not one of the model's classes: any colour, but always the same
        index = zlib.crc32(label.encode())
    red, green, blue = PALETTE[index % len(PALETTE)]
    turn = index // len(PALETTE) % 3
    if turn == 1:
        return red * 11 // 20, green * 11 // 20, blue * 11 // 20
    if turn == 2:
        return (red + 255) // 2, (green + 255) // 2, (blue + 255) // 2
    return red, green, blue


@dataclass(frozen=True, slots=True)
class _Mark:
    """One box to draw."""

    name: str
    score: str  # empty without one
    box: Rectangle
    colour: Colour

    @property
    def text(self) -> str:
        return f"{self.name} {self.score}".rstrip()


@dataclass(frozen=True, slots=True)
class _Style:
    """Sizes in pixels for one image."""

    line: int
    letter: int
    margin: int

    @classmethod
    def of(cls, canvas: Image.Image) -> _Style:
        """Return sizes that look alike when images are viewed at one width."""
        side = math.sqrt(canvas.width * canvas.height)
        letter = max(12, round(side / 34))
        return cls(line=max(2, round(side / 220)), letter=letter, margin=max(2, letter // 6))


def _score_text(score: float) -> str:
    """Return ".93" for .93, "1.00" for 1; scores of a linear SVM may be "-.25" or "1.37"."""
    text = f"{score:.2f}"
    if text.startswith("0."):
        return text[1:]
    return f"-{text[2:]}" if text.startswith("-0.") else text


def _pixels(box: NDArray[np.float64], width: int, height: int) -> Rectangle:
    """Return the whole pixels a box touches, at least one, cut at the image's borders."""
    x1, y1 = (min(max(math.floor(low), 0), size - 1) for low, size in zip(box[:2], (width, height)))
    x2, y2 = (
        min(max(math.ceil(high), low + 1), size)
        for high, low, size in zip(box[2:], (x1, y1), (width, height))
    )
    return x1, y1, x2, y2


def _draw_box(pen: ImageDraw.ImageDraw, mark: _Mark, line: int) -> None:
    """Draw the box's outline with a dark rim, which sets it off from a background of its colour."""
    x1, y1, x2, y2 = mark.box
    rim = max(1, line // 3)
    dark = (mark.colour[0] // 4, mark.colour[1] // 4, mark.colour[2] // 4)
    inner = (x1 + line, y1 + line, x2 - 1 - line, y2 - 1 - line)
    if line > 1 and inner[2] - inner[0] > 4 * line and inner[3] - inner[1] > 4 * line:
        pen.rectangle(inner, outline=dark, width=rim)
    pen.rectangle((x1, y1, x2 - 1, y2 - 1), outline=mark.colour, width=line)


def _label_places(
    pen: ImageDraw.ImageDraw, marks: Sequence[_Mark], style: _Style
) -> list[Rectangle] | None:
    """Return where each label goes, none upon another; None when there is no such arrangement.

    The best mark chooses first: they come last.
    """
    if len(marks) > MAX_LABELS:
        return None
    width, height = pen.im.size
    taken: list[Rectangle] = []
    for mark in reversed(marks):
        size = _label_size(mark.text, style)
        if size[0] > width or size[1] > height:
            return None
        free = (
            place
            for place in _candidate_places(mark.box, size, (width, height))
            if not any(_overlap(place, other) for other in taken)
        )
        place = next(free, None)
        if place is None:
            return None
        taken.append(place)
    return taken[::-1]


def _candidate_places(
    box: Rectangle, size: tuple[int, int], image_size: tuple[int, int]
) -> Iterator[Rectangle]:
    """Yield places for a label of this (width, height): above, inside, below; left, then right.

    In a box not twice as high it would hide the object: below comes first there.
    """
    x1, y1, x2, y2 = box
    w, h = size
    width, height = image_size
    tops = (y1 - h, y1, y2, y2 - h) if y2 - y1 >= 2 * h else (y1 - h, y2, y1, y2 - h)
    for y in tops:
        if 0 <= y <= height - h:
            for x in (x1, x2 - w):
                x = min(max(x, 0), width - w)
                yield x, y, x + w, y + h


def _overlap(one: Rectangle, other: Rectangle) -> bool:
    """Return whether two rectangles share a pixel."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _label_size(text: str, style: _Style) -> tuple[int, int]:
    """Return the (width, height) of a text with its margin."""
    font = _font(text, style.letter)
    ascent, descent = font.getmetrics()
    return math.ceil(font.getlength(text)) + 2 * style.margin, ascent + descent


def _draw_label(pen: ImageDraw.ImageDraw, mark: _Mark, place: Rectangle, style: _Style) -> None:
    """Draw a mark's text on a ground of its colour."""
    x1, y1, x2, y2 = place
    pen.rectangle((x1, y1, x2 - 1, y2 - 1), fill=mark.colour)
    font = _font(mark.text, style.letter)
    pen.text((x1 + style.margin, y1), mark.text, fill=_ink(mark.colour), font=font)


def _ink(ground: Colour) -> Colour:
    """Return black or white, whichever stands out more from the ground (ITU-R BT.601 luma)."""
    luma = 0.299 * ground[0] + 0.587 * ground[1] + 0.114 * ground[2]
    return BLACK if luma > 128 else WHITE


def _with_legend(canvas: Image.Image, marks: Sequence[_Mark], style: _Style) -> Image.Image:
    """Return the image with a strip below: each class's colour, name and number of boxes."""
    counts = Counter(mark.name for mark in marks)
    colours = {mark.name: mark.colour for mark in marks}
    swatch = style.letter
    gap = 2 * style.margin
    entries: list[tuple[int, int, str, Colour]] = []  # x, row, text, colour
    x, row = gap, 0
    for name, count in counts.most_common():
        text = _shortened(f"{name} × {count}", canvas.width - swatch - 3 * gap, style)
        width = swatch + gap + _label_size(text, style)[0] + gap
        if x > gap and x + width > canvas.width:
            x, row = gap, row + 1
        entries.append((x, row, text, colours[name]))
        x += width
    line_height = max(_label_size(text, style)[1] for _, _, text, _ in entries) + style.margin
    height = canvas.height + (row + 1) * line_height + style.margin
    extended = Image.new("RGB", (canvas.width, height), WHITE)
    extended.paste(canvas, (0, 0))
    pen = ImageDraw.Draw(extended)
    for x, row, text, colour in entries:
        y = canvas.height + style.margin + row * line_height
        top = y + (line_height - style.margin - swatch) // 2
        pen.rectangle((x, top, x + swatch - 1, top + swatch - 1), fill=colour)
        pen.text((x + swatch + gap, y), text, fill=BLACK, font=_font(text, style.letter))
    return extended


def _shortened(text: str, room: int, style: _Style) -> str:
    """Return the text, its end replaced by "…" where it is wider than the room."""
    if _label_size(text, style)[0] <= room:
        return text
    while len(text) > 1 and _label_size(text + "…", style)[0] > room:
        text = text[:-1]
    return text + "…"


def _font(text: str, size: int) -> ImageFont.FreeTypeFont:
    """Return a font that has the letters of the text: DejaVu Sans, or one of the system's."""
    return _font_file(_font_for(frozenset(text)), size)


@functools.lru_cache(maxsize=64)
def _font_file(path: str, size: int) -> ImageFont.FreeTypeFont:
    """Return the font of this file at this size in pixels."""
    return ImageFont.truetype(path, size)


@functools.lru_cache(maxsize=1024)
def _font_for(letters: frozenset[str]) -> str:
    """Return the first font file that has all letters; DejaVu Sans, and a warning, when none does.

    Its frames in the place of letters would otherwise tell nobody why they are there.
    """
    import matplotlib  # ships DejaVu Sans, which has Latin, Greek, Cyrillic, Arabic and more

    default = str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))
    wanted = {ord(letter) for letter in letters if not letter.isspace()}
    if wanted <= _letters_of(default):
        return default
    from matplotlib import font_manager

    # "LastResort" has a picture frame for every letter there is.
    others = sorted(
        entry.fname
        for entry in font_manager.fontManager.ttflist
        if not Path(entry.fname).name.startswith("LastResort")
    )
    found = next((path for path in others if wanted <= _letters_of(path)), None)
    if found is None:
        _warn_of(frozenset(map(chr, wanted - _letters_of(default))))
    return found or default


@functools.cache
def _warn_of(letters: frozenset[str]) -> None:
    """Log, once, that these letters are drawn as frames."""
    logger.warning(
        "no font on this machine has the letters %s: they are drawn as empty frames; install one "
        "that has them (Noto Sans has a font for each script)",
        " ".join(sorted(letters)),
    )


@functools.cache
def _letters_of(path: str) -> frozenset[int]:
    """Return the code points a font file has; none for one that cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
