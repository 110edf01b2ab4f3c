"""Reads CSV tables with a header: detkit's own, and those of other tools by usual names."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from detkit.errors import DetkitError
from detkit.predictions.layout import FORMS, Layout
from detkit.predictions.reference import Reference
from detkit.predictions.text_reader import names_of, say_unit, unit_of
from detkit.predictions.text_rows import numbers
from detkit.predictions.texts import CSV_COLUMNS
from detkit.predictions.unchecked import IMAGE_KEYS, Unchecked
from detkit.text import counted, short

logger = logging.getLogger(__name__)

NAMES = {
    "image": (*IMAGE_KEYS, "image_name", "imageid", "img", "image_path"),
    "label": (
        *("label", "name", "class_name", "category", "category_name", "class", "labelname"),
        *("class_id", "category_id", "cls"),
    ),
    "score": ("score", "confidence", "conf", "prob", "probability"),
}
# The three ways to name a box's numbers, by the words of a layout.
BOXES: Mapping[str, Mapping[str, Sequence[str]]] = {
    "corners": {
        "x1": ("x1", "xmin", "x_min", "left"),
        "y1": ("y1", "ymin", "y_min", "top"),
        "x2": ("x2", "xmax", "x_max", "right"),
        "y2": ("y2", "ymax", "y_max", "bottom"),
    },
    "centres": {
        "cx": ("cx", "xc", "x_center", "xcenter", "center_x", "x_centre", "centre_x"),
        "cy": ("cy", "yc", "y_center", "ycenter", "center_y", "y_centre", "centre_y"),
        "w": ("w", "width", "box_width", "bbox_width"),
        "h": ("h", "height", "box_height", "bbox_height"),
    },
    "sizes": {
        "x": ("x", "left", "x1", "xmin", "x_min", "bbox_x"),
        "y": ("y", "top", "y1", "ymin", "y_min", "bbox_y"),
        "w": ("w", "width", "box_width", "bbox_width"),
        "h": ("h", "height", "box_height", "bbox_height"),
    },
}


class TableReader:
    """Reads a table with a header, a row a detection."""

    def __init__(self, path: Path, reference: Reference, layout: Layout | None) -> None:
        self.path = path
        self.reference = reference
        self.layout = layout or Layout()
        self.is_own = False  # has the columns that detkit writes

    def read(self, text: str, delimiter: str) -> list[Unchecked]:
        """Return the detections of the table."""
        rows = csv_rows(self.path, text, delimiter)
        _, stated = next(rows, ("", []))
        header = [name.strip().lower() for name in stated]
        self.is_own = tuple(header) == CSV_COLUMNS
        columns = {name: self._column(header, name, names) for name, names in NAMES.items()}
        words, box_columns = self._box(header)
        images: dict[str, Unchecked] = {}
        for place, cells in rows:
            if len(cells) <= max(*columns.values(), *box_columns):
                count = counted(len(cells), "cell")
                raise DetkitError(f"{place}: {count}, fewer than the header's")
            name = cells[columns["image"]].strip()
            if not name:
                raise DetkitError(f"{place}: no image is named")
            image = images.setdefault(name, Unchecked(name, box_words=words))
            score = cells[columns["score"]].strip()
            label = cells[columns["label"]].strip()
            values = [cells[column].strip() for column in box_columns]
            if not label and not score and not any(values):
                continue  # an image with nothing in it
            if not score:
                raise DetkitError(f"{place}: no score: {short(','.join(cells))}")
            numbered, *box = numbers([score, *values], place)
            image.add(label, numbered, tuple(box), place)
        found = list(images.values())
        self._name(found)
        self._measure(found)
        return found

    def _column(self, header: Sequence[str], column: str, names: Sequence[str]) -> int:
        present = [name for name in names if name in header]
        if not present:
            raise DetkitError(
                f"{self.path}:1: no column {column!r} (or {', '.join(names[1:])}) among "
                f"{', '.join(header)}"
            )
        return header.index(present[0])

    def _box(self, header: Sequence[str]) -> tuple[tuple[str, ...], list[int]]:
        """Return the words of the box's four columns, and where these are."""
        for form, words in BOXES.items():
            if all(any(name in header for name in names) for names in words.values()):
                columns = [self._column(header, word, names) for word, names in words.items()]
                stated = self.layout.box
                if stated:  # the layout's say is about the columns in their order
                    return stated, sorted(columns)
                return FORMS[form], columns
        for word, names in BOXES["corners"].items():
            self._column(header, word, names)
        raise AssertionError("a table with all corners has a box")

    def _name(self, images: Sequence[Unchecked]) -> None:
        """Put class names in the place of numbers."""
        labels = [label for image in images for label in image.labels]
        places = [place for image in images for place in image.places]
        named = iter(names_of(labels, places, "table", self.reference, self.layout, self.path))
        for image in images:
            image.labels = [next(named) for _ in image.labels]

    def _measure(self, images: Sequence[Unchecked]) -> None:
        """Find out whether boxes are shares; those of detkit are not."""
        boxes = np.array([box for image in images for box in image.boxes], np.float64)
        unit = self.layout.unit
        if unit is None and not self.is_own:
            unit = unit_of(boxes.reshape(-1, 4))
            if unit == "shares":
                say_unit(self.path, unit)
        for image in images:
            image.normalised = unit == "shares"


def csv_rows(path: Path, text: str, delimiter: str) -> Iterator[tuple[str, list[str]]]:
    """Yield `file:line` and the cells of each row of a table that is not empty."""
    reader = csv.reader(io.StringIO(text), delimiter=delimiter)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield f"{path}:{reader.line_num}", cells
    except csv.Error as error:
        raise DetkitError(f"{path}:{reader.line_num}: not CSV: {error}") from error
