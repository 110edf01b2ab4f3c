"""Detections as a file states them, anything at all: checked when it has ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detkit.errors import DetkitError
from detkit.predictions.image import ImagePredictions
from detkit.predictions.layout import FORMS, to_corners
from detkit.text import short

IMAGE_KEYS = ("image", "file_name", "filename", "image_id", "path", "file")
WHAT_IS_READ = (
    "expected detkit's jsonl, json or csv, COCO results, a folder of VOC comp4 files, or a "
    "folder of one .txt an image"
)
LARGEST = 1e30  # ours: no score or pixel is as large, and float32 holds sums of two such
LARGEST_SIDE = 1 << 31  # ours: pixels of an image


@dataclass
class Unchecked:
    """The detections of one image as a file states them, with the place of each for errors."""

    name: str
    width: int = 0
    height: int = 0
    labels: list[Any] = field(default_factory=list)
    scores: list[Any] = field(default_factory=list)
    boxes: list[Any] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    error: str | None = None
    normalised: bool = False
    box_words: tuple[str, ...] = FORMS["corners"]  # what the four numbers of a box are
    image_id: str | None = None  # COCO's, beside a name or as the name

    def add(self, label: Any, score: Any, box: Any, place: str) -> None:
        """Add a detection."""
        self.labels.append(label)
        self.scores.append(score)
        self.boxes.append(box)
        self.places.append(place)

    def finish(self) -> ImagePredictions:
        """Return the detections as arrays; raise DetkitError for one that makes no sense."""
        # As float32 first: -1 and back of a 1-based format must not put corners out of order.
        wide = _numbers(self.boxes, 4, "box", self.places)
        boxes = to_corners(wide, self.box_words).astype(np.float32)
        scores = _numbers([[score] for score in self.scores], 1, "score", self.places)[:, 0]
        for number in np.flatnonzero((boxes[:, 2:] < boxes[:, :2]).any(axis=1)):
            x1, y1, x2, y2 = boxes[number].tolist()
            what = "the second corner lies before the first; corners swapped, or is it x y w h?"
            if "w" in self.box_words:
                what = "a width or height below 0"
            raise DetkitError(
                f"{self.places[number]}: box ({x1:g}, {y1:g}, {x2:g}, {y2:g}): {what} "
                "--layout says what the four numbers are, like 'x y w h'"
            )
        for place, label in zip(self.places, self.labels, strict=True):
            if not isinstance(label, str):
                raise DetkitError(f"{place}: label {short(label)} is not a class name")
        return ImagePredictions(
            image=self.name,
            width=self.width,
            height=self.height,
            labels=tuple(self.labels),
            scores=scores.astype(np.float32),
            boxes=boxes,
            error=self.error,
            normalised=self.normalised,
            box_words=self.box_words,
            image_id=self.image_id,
        )


def _numbers(values: list[Any], width: int, what: str, places: list[str]) -> NDArray[np.float64]:
    """Return rows of `width` finite numbers as (N, width); DetkitError names what is not."""
    try:
        # numpy would take the text "1" and true for numbers as well.
        if set(map(type, chain.from_iterable(values))) <= {int, float}:
            array = np.array(values, np.float64).reshape(len(values), width)
            if (np.abs(array) < LARGEST).all():
                return array
    except (TypeError, ValueError, OverflowError):
        pass
    for value, place in zip(values, places, strict=True):
        shown = short(value[0] if width == 1 else value)
        is_row = isinstance(value, list | tuple) and len(value) == width
        if not is_row or not {type(one) for one in value} <= {int, float}:
            raise DetkitError(f"{place}: {what} {shown} is not {_numbers_of(width)}")
        if not all(abs(one) < LARGEST for one in value):
            raise DetkitError(f"{place}: {what} {shown} is not finite; did training diverge?")
    raise AssertionError("a row that is fine alone is fine among others")


def _numbers_of(width: int) -> str:
    return "a number" if width == 1 else f"{width} numbers"


def size_or_zero(value: Any) -> int:
    """Return a width or height; 0 when it is not known, or none that an image can have."""
    return int(value) if isinstance(value, int | float) and 0 < value < LARGEST_SIDE else 0
