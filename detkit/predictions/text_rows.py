"""Rows of text cut into values: numbers in columns, and the class names between them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from detkit.errors import DetkitError
from detkit.predictions.layout import Layout
from detkit.structures import BoolArray, DoubleArray
from detkit.text import counted, short

MIN_NUMBERS = 4  # a row with a box has as many
WHOLE = re.compile(r"[+-]?\d+")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a file that is not empty."""

    place: str  # file:line
    cells: list[str]


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows with what is text in them, and the rest as numbers."""

    labels: list[str] | None  # one a row; None: a column of numbers, or none at all
    places: list[str]
    cells: list[list[str]]  # those of numbers, as many in each row
    named_at: int | None  # where the class names stand

    def whole(self) -> BoolArray:
        """Return (N, K): which numbers are written as whole ones."""
        return np.array(
            [[WHOLE.fullmatch(cell) is not None for cell in row] for row in self.cells], np.bool_
        )

    def values(self) -> DoubleArray:
        """Return the numbers as (N, K). Raises DetkitError for what is none."""
        try:
            return np.array(self.cells, np.float64).reshape(len(self.cells), -1)
        except ValueError:
            for place, cells in zip(self.places, self.cells, strict=True):
                numbers(cells, place)
            raise


def split_rows(lines: Iterable[tuple[str, str]], separator: str | None = None) -> list[Row]:
    """Return the values of lines (place, text); lines that begin with # are comments.

    Values are parted by what all lines have: commas, semicolons or tabs, else by blanks.
    """
    kept = [(place, line) for place, line in lines if not line.startswith("#")]
    if separator is None:
        separator = next(
            (sign for sign in ",;\t" if kept and all(line.count(sign) > 3 for _, line in kept)),
            None,
        )
    return [Row(place, [cell.strip() for cell in line.split(separator)]) for place, line in kept]


def is_row(line: str, separator: str) -> bool:
    """Return whether a line is a row of detections and no header: it has a score and a box."""
    return sum(is_number(cell) for cell in line.split(separator)) >= MIN_NUMBERS


def is_header(rows: Sequence[Row]) -> bool:
    """Return whether the first of several rows names the columns: no value of it is a number."""
    return bool(rows) and not any(is_number(cell) for cell in rows[0].cells)


def is_number(text: str) -> bool:
    """Return whether a text is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def numbers(cells: Sequence[str], place: str) -> list[float]:
    """Return the numbers in text cells."""
    try:
        return [float(cell) for cell in cells]
    except ValueError as error:
        raise DetkitError(f"{place}: not numbers: {short(' '.join(cells))}") from error


def without_names(rows: Sequence[Row], *, has_class: bool) -> Rows:
    """Return rows as numbers, and the class names that stand among them, blanks and all."""
    words = [[n for n, cell in enumerate(row.cells) if not is_number(cell)] for row in rows]
    places = [row.place for row in rows]
    if not any(words):
        return Rows(None, places, _as_long(rows), None)
    if not has_class:
        row = next(row for row, found in zip(rows, words, strict=True) if found)
        raise DetkitError(f"{row.place}: not numbers: {short(' '.join(row.cells))}")
    before = min(found[0] for found in words if found)
    after = min(len(row.cells) - found[-1] - 1 for row, found in zip(rows, words) if found)
    labels, cells = [], []
    for row in rows:
        end = len(row.cells) - after
        if end <= before or before + after < 4:
            raise DetkitError(
                f"{row.place}: expected a class and five numbers: {short(' '.join(row.cells))}"
            )
        labels.append(" ".join(row.cells[before:end]))
        cells.append(row.cells[:before] + row.cells[end:])
    return Rows(labels, places, cells, before)


def by_layout(rows: Sequence[Row], layout: Layout) -> Rows:
    """Return rows as numbers without the classes, which may hold blanks."""
    words = layout.words
    labels: list[str] = []
    cells = []
    for row in rows:
        more = len(row.cells) - len(words)
        if more < 0 or (more and "class" not in words):
            raise DetkitError(
                f"{row.place}: {counted(len(row.cells), 'value')}, but --layout names "
                f"{len(words)}: {short(' '.join(row.cells))}"
            )
        if "class" in words:
            at = words.index("class")
            label = " ".join(row.cells[at : at + more + 1])
            if more and label.replace(" ", "").replace(".", "").isdecimal():
                raise DetkitError(
                    f"{row.place}: {counted(len(row.cells), 'value')}, but --layout names "
                    f"{len(words)}: {short(' '.join(row.cells))}"
                )
            labels.append(str(int(float(label))) if is_whole(label) else label)
            cells.append(row.cells[:at] + row.cells[at + more + 1 :])
        else:
            cells.append(row.cells)
    read = [
        n
        for n, word in enumerate(word for word in words if word != "class")
        if word not in ("_", "id")
    ]
    kept = [[cell if n in read else "0" for n, cell in enumerate(row)] for row in cells]
    return Rows(labels if "class" in words else None, [row.place for row in rows], kept, None)


def is_whole(text: str) -> bool:
    """Return whether a text is a whole number, also written as 3.0."""
    return is_number(text) and len(text) < 10 and float(text).is_integer()


def _as_long(rows: Sequence[Row]) -> list[list[str]]:
    """Return the cells of rows that have as many. Raises DetkitError for the first that differs."""
    lengths = Counter(len(row.cells) for row in rows)
    usual = lengths.most_common(1)[0][0]
    for row in rows:
        if len(row.cells) != usual:
            raise DetkitError(
                f"{row.place}: {counted(len(row.cells), 'value')}, but most rows have {usual}: "
                f"{short(' '.join(row.cells))}"
            )
    return [row.cells for row in rows]
