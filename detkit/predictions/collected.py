"""Detections as a reader collects them: anything at all, judged when the file has ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detkit.errors import DetkitError
from detkit.predictions.image import ImagePredictions

IMAGE_KEYS = ("image", "file_name", "filename", "image_id", "path", "file")
WHAT_IS_READ = (
    "expected detkit's jsonl, json or csv, COCO results, a folder of VOC comp4 files, or a "
    "folder of one .txt an image"
)


@dataclass
class Collected:
    """The detections of one image as they are collected, with the place of each for errors."""

    name: str
    width: int = 0
    height: int = 0
    labels: list[Any] = field(default_factory=list)
    scores: list[Any] = field(default_factory=list)
    boxes: list[Any] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    error: str | None = None
    normalised: bool = False

    def add(self, label: Any, score: Any, box: Any, place: str) -> None:
        """Add a detection."""
        self.labels.append(label)
        self.scores.append(score)
        self.boxes.append(box)
        self.places.append(place)

    def finish(self) -> ImagePredictions:
        """Return the detections as arrays; raise DetkitError for one that makes no sense."""
        # As float32 first: -1 and back of a 1-based format must not put corners out of order.
        boxes = _numbers(self.boxes, 4, "box", self.places).astype(np.float32)
        scores = _numbers([[score] for score in self.scores], 1, "score", self.places)[:, 0]
        for number in np.flatnonzero((boxes[:, 2:] < boxes[:, :2]).any(axis=1)):
            x1, y1, x2, y2 = boxes[number].tolist()
            raise DetkitError(
                f"{self.places[number]}: box ({x1:g}, {y1:g}, {x2:g}, {y2:g}): the second corner "
                "lies before the first; corners swapped, or is it x y w h?"
            )
        for place, label in zip(self.places, self.labels, strict=True):
            if not isinstance(label, str):
                raise DetkitError(f"{place}: label {label!r} is not a class name")
        return ImagePredictions(
            image=self.name,
            width=self.width,
            height=self.height,
            labels=tuple(self.labels),
            scores=scores.astype(np.float32),
            boxes=boxes,
            error=self.error,
            normalised=self.normalised,
        )


def _numbers(values: list[Any], width: int, what: str, places: list[str]) -> NDArray[np.float64]:
    """Return rows of `width` finite numbers as (N, width); DetkitError names what is not."""
    try:
        array = np.array(values, np.float64).reshape(len(values), width)
        if np.isfinite(array).all():
            return array
    except (TypeError, ValueError):
        pass
    for value, place in zip(values, places, strict=True):
        shown = value[0] if width == 1 else value
        try:
            row = np.array(value, np.float64)
        except (TypeError, ValueError):
            raise DetkitError(f"{place}: {what} {shown!r} is not {_numbers_of(width)}") from None
        if row.shape != (width,):
            raise DetkitError(f"{place}: {what} {shown!r} is not {_numbers_of(width)}")
        if not np.isfinite(row).all():
            raise DetkitError(f"{place}: {what} {shown!r} is not finite; did training diverge?")
    raise AssertionError("a row that is fine alone is fine among others")


def _numbers_of(width: int) -> str:
    return "a number" if width == 1 else f"{width} numbers"


def size_or_zero(value: Any) -> int:
    """Return a width or height; 0 when it is not known."""
    return int(value) if isinstance(value, (int, float)) and value > 0 else 0
