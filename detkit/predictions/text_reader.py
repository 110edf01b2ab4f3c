"""Reads rows of text without a header: YOLO's, R. Padilla's, VOC's comp4, any order of columns."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from detkit.errors import DetkitError
from detkit.predictions.columns import ALIKE, SHARE, WRONG, Reading, Table, find_reading, outside
from detkit.predictions.layout import FORMS, Layout
from detkit.predictions.numbering import chosen_numbering, find_numbering, numberings
from detkit.predictions.reference import Reference
from detkit.predictions.text_rows import Row, Rows, by_layout, is_number, without_names
from detkit.predictions.unchecked import Unchecked
from detkit.structures import DoubleArray
from detkit.text import counted, short

logger = logging.getLogger(__name__)

ONE_BASED = np.array([1, 1, 0, 0])  # what VOC's corners, both inside, lie from half-open ones
BETTER = 5  # so many times fewer boxes leave their images where rows of comp4 are no corners
INVERTED = 0.5  # of which so many leave them are none, whatever else they are
MOST_CLASSES = 10_000  # ours: a larger number is no class
YOLO = Layout(("class", *FORMS["centres"], "score"), unit="shares")
VOC = Layout(("image", "score", *FORMS["corners"]), unit="pixels")


@dataclass(frozen=True, slots=True)
class Found:
    """What the columns of N rows hold."""

    labels: list[str] | None  # of a column of numbers; None: names, or no column
    scores: DoubleArray  # (N,)
    boxes: DoubleArray  # (N, 4) as `words` say
    words: tuple[str, ...]
    unit: str


class TextReader:
    """Reads the rows of one file or of a file an image, all of them in one layout."""

    def __init__(
        self, path: Path, reference: Reference, layout: Layout | None, scores: str | None
    ) -> None:
        self.path = path
        self.reference = reference
        self.layout = layout if layout and layout.is_of_rows else None
        self.hints = layout or Layout()
        # `--scores` says that they are no shares of 1.
        self.scores = {None: "unit", "percent": "percent"}.get(scores, "any")

    def read_files(
        self, files: Sequence[tuple[Path, Sequence[Row]]], known: Layout | None = None
    ) -> list[Unchecked]:
        """Return the detections of files of which each is of the image that it is called by.

        `known` is the layout of files that detkit wrote itself.
        """
        layout = self.layout or known
        if layout and "image" in layout.words:
            return self.read_table([row for _, rows in files for row in rows], layout)
        images: list[Unchecked] = []
        owners: list[Unchecked] = []
        rows: list[Row] = []
        for path, own in files:
            images.append(Unchecked(path.stem))
            owners += [images[-1]] * len(own)
            rows += own
        if rows:
            self._read(owners, rows, layout)
        return images

    def read_table(
        self,
        rows: Sequence[Row],
        layout: Layout | None,
        classes: Sequence[str] | None = None,
        usual: Layout | None = None,
    ) -> list[Unchecked]:
        """Return the detections of rows that name their images.

        `classes` has the class of each row where no column has; `usual` is the layout that such
        a file has by its definition, and is taken where it fits.
        """
        if layout is None:
            column = 0 if usual else self._column_of_images(rows)
        else:
            column = layout.words.index("image")
            layout = replace(layout, words=tuple(one for one in layout.words if one != "image"))
        images: dict[str, Unchecked] = {}
        owners, rest = [], []
        for row in rows:
            cells = list(row.cells)
            if len(cells) <= column:
                raise DetkitError(f"{row.place}: {counted(len(cells), 'value')} only")
            if usual:  # the image comes first, and may hold blanks
                count = len(usual.words) - 1
                name, cells = " ".join(cells[:-count]), cells[-count:]
            else:
                name = cells.pop(column)
            if not name:
                raise DetkitError(f"{row.place}: no image is named")
            owners.append(images.setdefault(name, Unchecked(name)))
            rest.append(Row(row.place, cells))
        if rest:
            self._read(owners, rest, layout, classes, usual)
        return list(images.values())

    def names_images(self, rows: Sequence[Row]) -> bool:
        """Return whether some column of rows names images of the data set."""
        return self._find_column_of_images(rows) is not None

    def _column_of_images(self, rows: Sequence[Row]) -> int:
        column = self._find_column_of_images(rows)
        if column is None:
            first = rows[0]
            raise DetkitError(
                f"{first.place}: no column names images of the data set: "
                f"{short(' '.join(first.cells))}; say what the columns are, like "
                "--layout 'image class score x1 y1 x2 y2'"
            )
        return column

    def _find_column_of_images(self, rows: Sequence[Row]) -> int | None:
        knows = self.reference.knows
        fewest = min(len(row.cells) for row in rows)
        for column in range(fewest):
            names = {row.cells[column] for row in rows}
            if not any(map(is_number, names)) and any(map(knows, names)):
                return column
        return None

    def _read(
        self,
        owners: Sequence[Unchecked],
        rows: Sequence[Row],
        layout: Layout | None,
        classes: Sequence[str] | None = None,
        usual: Layout | None = None,
    ) -> None:
        """Give each image the detections of its rows."""
        if layout is not None:
            split = by_layout(rows, layout)
            found = self._stated(split, layout)
        else:
            split = without_names(rows, has_class=classes is None)
            found = self._recognised(owners, split, classes is None, usual)
        if classes is not None:
            names = list(classes)
        elif split.labels is not None:
            names = self._named(split.labels, split.places, found)
        elif found.labels is not None:
            names = self._named(found.labels, split.places, found)
        else:
            names = [self._only_class()] * len(rows)
        four = found.boxes
        if usual is VOC and found.unit == "pixels" and "cx" not in found.words:
            four = four - np.array([word in ("x", "y", "x1", "y1") for word in found.words])
        for image, name, score, box, place in zip(
            owners, names, found.scores.tolist(), four.tolist(), split.places, strict=True
        ):
            image.normalised, image.box_words = found.unit == "shares", found.words
            image.add(name, score, box, place)

    def _stated(self, rows: Rows, layout: Layout) -> Found:
        """Return what the columns hold that a layout names."""
        values = rows.values()
        columns = [word for word in layout.words if word != "class"]
        boxes = values[:, [columns.index(word) for word in layout.box]]
        unit = layout.unit or unit_of(boxes)
        if layout.unit is None:
            say_unit(self.path, unit)
        return Found(None, values[:, columns.index("score")], boxes, layout.box, unit)

    def _recognised(
        self,
        owners: Sequence[Unchecked],
        rows: Rows,
        has_class: bool,
        usual: Layout | None,
    ) -> Found:
        """Return what the columns of rows are taken for, and say so."""
        values = rows.values()
        place = rows.places[0]
        needed = 5 + (has_class and rows.labels is None)
        if values.shape[1] == needed - 1:
            count = "five" if needed == 6 else "four"
            what = "values" if needed == 6 else "numbers"
            raise DetkitError(
                f"{place}: {count} {what}, so no score; Ultralytics writes it with save_conf=True"
            )
        if values.shape[1] < needed:
            shown = short(" ".join(rows.cells[0]))
            raise DetkitError(f"{place}: expected a class and five numbers: {shown}")
        finite = np.isfinite(values).all(axis=1)
        if not finite.all():
            bad = int(np.flatnonzero(~finite)[0])
            shown = short(" ".join(rows.cells[bad]))
            raise DetkitError(
                f"{rows.places[bad]}: {shown}: a number is not finite; did training diverge?"
            )
        number: dict[int, int] = {}
        images = np.array([number.setdefault(id(one), len(number)) for one in owners])
        first = {number[id(one)]: one.name for one in owners}
        sizes = [self.reference.size_of(first[index]) for index in range(len(first))]
        shape = [(np.nan, np.nan) if one is None else (one[1], one[0]) for one in sizes]
        table = Table(
            values,
            rows.whole(),
            images,
            np.array(shape, np.float64)[images],
            rows.named_at,
            has_class,
            self._knows_class,
            self.hints,
            not self.reference.is_data_set,
        )
        reading = None
        if usual is VOC and not (self.hints.box or self.hints.unit):
            reading = self._of_voc(table)
        if reading is None:
            reading = self._find(table, rows)
            unit = f" in {reading.unit}" + " of width and height" * (reading.unit == "shares")
            logger.info(
                "%s: rows read as `%s`%s (--layout says otherwise)",
                self.path,
                replace(reading.layout(table), unit=None),
                unit,
            )
        labels = None
        if reading.label is not None:
            labels = [str(int(value)) for value in values[:, reading.label].tolist()]
        four = values[:, reading.box : reading.box + 4]
        return Found(labels, values[:, reading.score], four, reading.words, reading.unit)

    def _of_voc(self, table: Table) -> Reading | None:
        """Return the reading of comp4 rows as VOC defines it, None where another is far better."""
        if table.values.shape[1] != 5:
            return None
        # No share of a box inside an image begins at 1 or beyond, but all pixels of VOC's do.
        begins_inside = bool((table.values[:, 1:3] < 1).any())
        if begins_inside and unit_of(table.values[:, 1:]) == "shares":
            return None
        corners = table.values[:, 1:] - ONE_BASED
        share = float(outside(corners, table.sizes, "pixels").mean())
        usual = Reading(0, 1, FORMS["corners"], "pixels", None, share)
        if share <= (WRONG if table.is_guess else ALIKE):
            return usual
        try:
            return None if find_reading(table, self.scores).outside * BETTER <= share else usual
        except DetkitError:
            return usual if share < INVERTED else None

    def _find(self, table: Table, rows: Rows) -> Reading:
        """Return the one reading that fits; errors begin with where the rows are."""
        try:
            return find_reading(table, self.scores)
        except DetkitError as error:
            # Numbers that no class has: said as such, where nothing else is wrong.
            try:
                known = replace(table, knows_class=_may_be_classes)
                return find_reading(known, self.scores, only=True)
            except DetkitError:
                raise DetkitError(f"{rows.places[0]}: {error}") from error

    def _knows_class(self, numbers: set[int]) -> bool:
        """Return whether each of these numbers is a class's, or a class's name."""
        names = self.reference.class_names
        if not names:
            return min(numbers) >= 0
        if {str(number) for number in numbers} <= set(names):
            return True
        if self.hints.numbering:
            return chosen_numbering(self.hints.numbering, self.reference).fits(list(numbers))
        return any(one.fits(list(numbers)) for one in numberings("table", self.reference))

    def _named(self, labels: list[str], places: Sequence[str], found: Found) -> list[str]:
        """Return labels as class names."""
        is_yolo = found.unit == "shares" and "cx" in found.words
        kind = "rows" if is_yolo else "table"
        return names_of(labels, places, kind, self.reference, self.hints, self.path)

    def _only_class(self) -> str:
        """Return the one class of the data set. Raises DetkitError where there are more."""
        names = self.reference.class_names
        if len(names) != 1:
            raise DetkitError(
                f"{self.path}: no column is the class, and the data set has "
                f"{counted(len(names), 'class')}; name it in --layout"
            )
        return names[0]


def names_of(
    labels: Sequence[str],
    places: Sequence[str],
    kind: str,
    reference: Reference,
    layout: Layout,
    path: Path,
) -> list[str]:
    """Return labels out of text as class names: numbers by `numbering`, names as they are."""
    are_names = set(labels) <= set(reference.class_names)
    if not all(label.isdecimal() for label in labels) or (are_names and not layout.numbering):
        return list(labels)
    if not labels:
        return []
    for label, place in zip(labels, places, strict=True):
        if len(label) > 9:
            count = counted(len(reference.class_names), "class")
            raise DetkitError(
                f"{place}: class number of {len(label)} digits, but there are {count}"
            )
    if layout.numbering:
        numbering = chosen_numbering(layout.numbering, reference)
    else:
        numbers = {int(label) for label in set(labels)}
        numbering, said = find_numbering(numbers, kind, reference, str(path))
        if said:
            logger.info("%s: %s", path, said)
    for label, place in zip(labels, places, strict=True):
        if int(label) not in numbering.names:
            raise DetkitError(
                f"{place}: class number {label}, but classes are {numbering.name}: "
                f"{short([f'{number} {name}' for number, name in numbering.names.items()])}"
            )
    return [numbering.names[int(label)] for label in labels]


def unit_of(boxes: DoubleArray) -> str:
    """Return "shares" where all numbers of boxes lie within 0 and 1, to a rounding."""
    return "shares" if len(boxes) and bool((np.abs(boxes) <= 1 + SHARE).all()) else "pixels"


def say_unit(path: Path, unit: str) -> None:
    """Say what boxes are taken to be measured in."""
    of = " of width and height" if unit == "shares" else ""
    logger.info("%s: boxes are %s%s (--layout '... %s' to make sure)", path, unit, of, unit)


def _may_be_classes(numbers: set[int]) -> bool:
    """Return whether numbers could be those of classes, of whatever data set."""
    return min(numbers) >= 0 and max(numbers) < MOST_CLASSES
