"""The order of the values in a row of detections, in words: `class score x1 y1 x2 y2`."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from detkit.errors import UsageError
from detkit.structures import DoubleArray
from detkit.text import nearest_hint

# The four numbers of a box by what they are; the first three are those that people mean mostly.
FORMS = {
    "corners": ("x1", "y1", "x2", "y2"),
    "sizes": ("x", "y", "w", "h"),
    "centres": ("cx", "cy", "w", "h"),
    "y before x": ("y1", "x1", "y2", "x2"),
    "x before y": ("x1", "x2", "y1", "y2"),
    "y before x, sizes": ("y", "x", "h", "w"),
}
BOX_WORDS = frozenset(word for words in FORMS.values() for word in words)
SAME = {
    **{"label": "class", "name": "class", "cls": "class", "conf": "score", "confidence": "score"},
    **{
        "file": "image",
        "skip": "_",
        "track": "id",
        "class-id": "classid",
        "category_id": "classid",
    },
    **{"xmin": "x1", "ymin": "y1", "xmax": "x2", "ymax": "y2", "left": "x1", "top": "y1"},
    **{"right": "x2", "bottom": "y2", "width": "w", "height": "h", "xc": "cx", "yc": "cy"},
    **{"normalised": "shares", "normalized": "shares", "relative": "shares", "absolute": "pixels"},
}
NUMBERINGS = {
    "class0": "counted from 0",
    "class1": "counted from 1",
    "classid": "ids of the data set",
}
UNITS = ("shares", "pixels")
WORDS = ("image", "class", *NUMBERINGS, "score", "id", "_", *sorted(BOX_WORDS), *UNITS)


@dataclass(frozen=True, slots=True)
class Layout:
    """What each value of a row is; of files whose keys say it, only what they leave open."""

    words: tuple[str, ...] = ()  # image, class, score, id, _ and four of `BOX_WORDS`, in order
    numbering: str | None = None  # one of `NUMBERINGS`; None: as the data set says
    unit: str | None = None  # one of `UNITS`; None: as the numbers say
    separator: str | None = None  # "," or ";"; None: whatever parts the values

    @property
    def box(self) -> tuple[str, ...]:
        """The four words of a box in their order; none where the layout names no box."""
        return tuple(word for word in self.words if word in BOX_WORDS)

    @property
    def is_of_rows(self) -> bool:
        """Whether more is said than what the numbers of a class and of a box mean."""
        return any(word not in BOX_WORDS and word != "class" for word in self.words)

    def __str__(self) -> str:
        """Return the words as `--layout` takes them."""
        words = [
            self.numbering if word == "class" and self.numbering else word for word in self.words
        ]
        return " ".join([*words, *([self.unit] if self.unit else [])])


def parse_layout(text: str) -> Layout:
    """Return the layout that words say, like `class score cx cy w h`; separators are free.

    Raises UsageError for an unknown word, one that comes twice, and half a box.
    """
    separator = next((sign for sign in ",;" if sign in text), None)
    words = [SAME.get(word, word) for word in re.split(r"[\s,;]+", text.strip().lower()) if word]
    if {"x1", "y1", "w", "h"} <= set(words):
        words = [{"x1": "x", "y1": "y"}.get(word, word) for word in words]
    for word in words:
        if word not in WORDS:
            hint = nearest_hint(word, WORDS, f"the words are {', '.join(WORDS)}")
            raise UsageError(f"--layout {text!r}: unknown word {word!r}; {hint}")
    unit = [word for word in words if word in UNITS]
    numbering = [word for word in words if word in NUMBERINGS]
    kept = tuple("class" if word in NUMBERINGS else word for word in words if word not in UNITS)
    for word in set(kept) - {"_", "id"}:
        if kept.count(word) > 1:
            raise UsageError(f"--layout {text!r}: {word} comes twice; name what is not read _")
    if len(unit) > 1:
        raise UsageError(f"--layout {text!r}: boxes are either shares or pixels")
    box = {word for word in kept if word in BOX_WORDS}
    if not words or (box and not any(box == set(form) for form in FORMS.values())):
        raise UsageError(
            f"--layout {text!r}: a box is x1 y1 x2 y2, x y w h, or cx cy w h, in any order"
        )
    layout = Layout(kept, numbering[0] if numbering else None, unit[0] if unit else None, separator)
    if layout.is_of_rows and not (box and "score" in kept):
        raise UsageError(f"--layout {text!r}: a row of detections has a score and a box, too")
    return layout


def to_corners(values: DoubleArray, box: tuple[str, ...]) -> DoubleArray:
    """Return (N, 4) boxes as x1 y1 x2 y2, their columns being the words of `box` in that order."""
    column = {word: values[:, place] for place, word in enumerate(box)}
    if "x1" in column:
        parts = [column[word] for word in ("x1", "y1", "x2", "y2")]
    else:
        width, height = column["w"], column["h"]
        if "cx" in column:
            left, top = column["cx"] - width / 2, column["cy"] - height / 2
        else:
            left, top = column["x"], column["y"]
        parts = [left, top, left + width, top + height]
    return np.stack(parts, axis=1)


def from_corners(boxes: DoubleArray, box: tuple[str, ...]) -> DoubleArray:
    """Return (N, 4) corners as the words of `box` say: the inverse of `to_corners`."""
    x1, y1, x2, y2 = boxes.T
    values = {
        **{"x1": x1, "y1": y1, "x2": x2, "y2": y2, "x": x1, "y": y1},
        **{"w": x2 - x1, "h": y2 - y1, "cx": (x1 + x2) / 2, "cy": (y1 + y2) / 2},
    }
    return np.stack([values[word] for word in box], axis=1)
