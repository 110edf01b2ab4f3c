"""Columns of rows without a header, recognised by what they hold over all rows and images.

Shape shorthand: N rows, K columns of numbers.

A score lies within [0, 1] and is no count; the four numbers of a box stand together and lie
inside their images; a class is a whole number that the data set knows; whole numbers that no
image has twice, or that are all the same, are ids and flags, which nobody has to read.
Every order of these is tried. Usual boxes come before unusual ones (`RANKS`); of those that fit
as well as any, only one may be left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from detkit.errors import DetkitError
from detkit.predictions.layout import FORMS, UNITS, Layout, to_corners
from detkit.structures import BoolArray, DoubleArray, IntArray
from detkit.text import counted

# How usual a box is in rows of text: YOLO's shares and pixels of VOC or R. Padilla come first.
RANKS: dict[tuple[tuple[str, ...], str], int] = {
    (FORMS["centres"], "shares"): 0,
    (FORMS["corners"], "pixels"): 0,
    (FORMS["sizes"], "pixels"): 0,
    (FORMS["corners"], "shares"): 1,
    (FORMS["sizes"], "shares"): 1,
    (FORMS["centres"], "pixels"): 1,
}
UNUSUAL = 2  # y before x, and the like
PIXEL = 1.5  # how far a box may reach out of its image: a rounding, and a count from 1
SHARE = 0.01  # the same as a share of the image's side
ALIKE = 0.02  # readings of which so much more of the boxes reach out fit as well as the best
DOUBTED = 0.1  # a more usual reading of which no more reach out is not passed over in silence
WRONG = 0.25  # no reading of which more reach out is one: detectors that do not clip stay below
MOST_SCORE = 100  # percentages, and beyond any logit
MAX_EXTRAS = 3  # columns beside class, score and box: more would be guessing


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of numbers, and what is known of them."""

    values: DoubleArray  # (N, K)
    whole: BoolArray  # (N, K) written as a whole number
    images: IntArray  # (N,) which image each row is of
    sizes: DoubleArray  # (N, 2) width and height of the image; nan where not known
    named_at: int | None = None  # the column that class names stand before; None: numbers
    has_class: bool = True  # False: the file itself is of one class
    knows_class: Callable[[set[int]], bool] = bool  # whether numbers are those of classes
    stated: Layout = Layout()  # what is said of the box's numbers
    is_guess: bool = False  # no data set is known: the most usual of several readings is taken


@dataclass(frozen=True, slots=True)
class Reading:
    """What the columns are taken for."""

    score: int
    box: int  # the first of its four
    words: tuple[str, ...]
    unit: str
    label: int | None  # None: class names, or no class at all
    outside: float  # the share of boxes that reach out of their images

    @property
    def rank(self) -> int:
        """How unusual such a box is in rows of text, from 0."""
        return RANKS.get((self.words, self.unit), UNUSUAL)

    def layout(self, table: Table) -> Layout:
        """Return the columns in words."""
        words = ["_"] * table.values.shape[1]
        words[self.score] = "score"
        words[self.box : self.box + 4] = self.words
        if self.label is not None:
            words[self.label] = "class"
        elif table.named_at is not None:
            words.insert(table.named_at, "class")
        return Layout(tuple(words), unit=self.unit)

    def boxes(self, table: Table) -> DoubleArray:
        """Return (N, 4) corners, as shares or in pixels."""
        return to_corners(table.values[:, self.box : self.box + 4], self.words)


def find_reading(table: Table, scores: str = "unit", *, only: bool = False) -> Reading:
    """Return the one reading that fits all rows.

    `scores` says what scores are: "unit" (in [0, 1]), "percent" (in [0, 100]) or "any". Where
    no column can hold unit scores, percentages and logits are looked for, unless `only`.
    Raises DetkitError, with the layouts, where none or more than one fits.
    """
    found = list(_readings(table, scores))
    if (
        not found and scores == "unit" and not only
    ):  # whoever looks at the scores' scale will tell of it
        found = list(_readings(table, "no ids"))
    if not found:
        raise DetkitError(_nothing_fits(table))
    best = min(one.outside for one in found)
    if best > WRONG:
        likely = min(found, key=lambda one: (one.outside, one.rank))
        share = f"{likely.outside:.0%}"
        raise DetkitError(
            f"in no order of their columns do the boxes lie inside their images: read as "
            f"`{likely.layout(table)}`, {share} reach out; made for images of another size? "
            "else say what the columns are: --layout"
        )
    if table.is_guess:
        usual = [one for one in found if one.outside <= max(DOUBTED, best)]
        return min(usual, key=lambda one: one.rank)
    fitting = [one for one in found if one.outside <= best + ALIKE]
    rank = min(one.rank for one in fitting)
    chosen = _distinct([one for one in fitting if one.rank == rank], table)
    doubts = [one for one in found if one.outside <= DOUBTED and one.rank < rank]
    several = [*chosen, *_distinct(doubts, table)]
    if len(several) > 1:
        first, second = (f"--layout '{one.layout(table)}'" for one in several[:2])
        more = f" ({len(several) - 2} more)" if several[2:] else ""
        raise DetkitError(f"two readings of the columns fit: {first} and {second}{more}; say which")
    column = chosen[0].score
    if scores == "unit" and "id" in _kind_of(table, column, scores):
        raise DetkitError(
            f"column {_place(table, column)} holds whole numbers alone "
            f"({table.values[0, column]:g}): scores or track ids? if they are scores, say --layout "
            f"'{chosen[0].layout(table)}'"
        )
    return chosen[0]


def _distinct(readings: list[Reading], table: Table) -> list[Reading]:
    """Return the readings that give different detections."""
    kept: list[Reading] = []
    for one in readings:
        if not any(_same(one, other, table) for other in kept):
            kept.append(one)
    return kept


def _same(one: Reading, other: Reading, table: Table) -> bool:
    """Return whether two readings make the same detections of all rows."""
    if (one.label is None) != (other.label is None) or one.unit != other.unit:
        return False
    values = table.values
    return (
        bool((values[:, one.score] == values[:, other.score]).all())
        and (one.label is None or bool((values[:, one.label] == values[:, other.label]).all()))
        and bool(np.allclose(one.boxes(table), other.boxes(table)))
    )


def _readings(table: Table, scores: str) -> Iterator[Reading]:
    """Yield each reading in which every column is what it is taken for."""
    num_columns = table.values.shape[1]
    numbered = table.has_class and table.named_at is None
    kinds = [_kind_of(table, column, scores) for column in range(num_columns)]
    for box in range(num_columns - 3):
        if table.named_at is not None and box < table.named_at < box + 4:
            continue
        rest = [column for column in range(num_columns) if not box <= column < box + 4]
        if not 1 + numbered <= len(rest) <= 1 + numbered + MAX_EXTRAS:
            continue
        boxes = None
        for score, *others in permutations(rest, 1 + numbered):
            label = others[0] if numbered else None
            extras = [column for column in rest if column not in (score, label)]
            if "score" not in kinds[score] or any("id" not in kinds[one] for one in extras):
                continue
            if label is not None and "class" not in kinds[label]:
                continue
            if boxes is None:
                boxes = list(_boxes(table, box))
            for words, unit, share in boxes:
                yield Reading(score, box, words, unit, label, share)


def _kind_of(table: Table, column: int, scores: str) -> set[str]:
    """Return what a column may be: "score", "class", "id"."""
    values, whole = table.values[:, column], bool(table.whole[:, column].all())
    kinds = set()
    is_unique = whole and not _repeats(table.images, values)
    if whole and (is_unique or bool((values == values[0]).all())):
        kinds.add("id")
    if scores == "unit":
        may_score = bool(((values >= 0) & (values <= 1)).all())
    elif scores == "percent":
        may_score = bool(((values >= 0) & (values <= 100)).all())
    else:
        is_scale = bool(((values >= -MOST_SCORE) & (values <= MOST_SCORE)).all())
        may_score = scores == "any" or (is_scale and not whole)
    if may_score:
        kinds.add("score")
    if bool((values == np.round(values)).all()) and bool((np.abs(values) < 1e9).all()):
        numbers = set(values.astype(np.int64).tolist())
        if table.knows_class(numbers):
            kinds.add("class")
    return kinds


def _repeats(images: IntArray, values: DoubleArray) -> bool:
    """Return whether some image has a value twice."""
    order = np.lexsort((values, images))
    images, values = images[order], values[order]
    return bool(((images[1:] == images[:-1]) & (values[1:] == values[:-1])).any())


def _place(table: Table, column: int) -> int:
    """Return where a column of numbers stands in its row, from 1; a class name is one, too."""
    return column + 1 + int(table.named_at is not None and column >= table.named_at)


def _boxes(table: Table, start: int) -> Iterator[tuple[tuple[str, ...], str, float]]:
    """Yield words, unit, and share outside their images, of what four columns may be."""
    four = table.values[:, start : start + 4]
    if not np.isfinite(four).all():
        return
    for words in [table.stated.box] if table.stated.box else FORMS.values():
        corners = to_corners(four, words)
        sides = corners[:, 2:] - corners[:, :2]
        if "w" in words and (sides < 0).any():
            continue
        for unit in [table.stated.unit] if table.stated.unit else UNITS:
            if not (table.stated.unit or _may_be(unit, sides, four)):
                continue
            yield words, unit, float(outside(corners, table.sizes, unit).mean())


def _may_be(unit: str, sides: DoubleArray, four: DoubleArray) -> bool:
    """Return whether boxes can be shares, or pixels: those are no specks within the first."""
    if unit == "shares":
        return bool((np.abs(four) <= 1.5).all())
    are_shares = (np.abs(four) <= 1.0).all(axis=0) & (four != np.round(four)).any(axis=0)
    return not bool(are_shares.any()) and float(np.median(sides)) >= 1.0


def outside(corners: DoubleArray, sizes: DoubleArray, unit: str) -> BoolArray:
    """Return which (N, 4) boxes reach out of their images, or have corners out of order.

    Where the size of an image is not known, only what lies left or above of it is outside.
    """
    if unit == "shares":
        scale, slack = np.ones_like(sizes), np.full_like(sizes, SHARE)
    else:
        scale = np.where(np.isnan(sizes), np.inf, sizes)
        slack = np.maximum(PIXEL, SHARE * np.where(np.isinf(scale), 0.0, scale))
    rounding = 1e-6 if unit == "shares" else 1e-3
    bad = (corners[:, 2:] < corners[:, :2] - rounding) | (corners[:, :2] < -slack)
    bad |= corners[:, 2:] > scale + slack
    result: BoolArray = np.asarray(bad.any(axis=1))
    return result


def _nothing_fits(table: Table) -> str:
    """Return the message that the columns are no detections, naming a column of ids."""
    num_columns = table.values.shape[1]
    needed = 6 if table.has_class and table.named_at is None else 5
    ids = [
        column
        for column in range(num_columns)
        if table.whole[:, column].all()
        and table.values[:, column].max() > 1
        and not _repeats(table.images, table.values[:, column])
    ]
    say = "say what the columns are: --layout, like 'class score cx cy w h id'"
    if ids and num_columns <= needed + MAX_EXTRAS:
        place = ids[-1]
        shown = ", ".join(f"{value:g}" for value in table.values[:3, place])
        percent = bool((table.values[:, place] <= MOST_SCORE).all())
        or_what = " Or percentages: --scores percent?" if percent else ""
        return (
            f"column {_place(table, place)} holds whole numbers ({shown}): track ids?{or_what} No "
            f"column of scores is left; write the scores (Ultralytics: save_conf=True), or {say}"
        )
    return f"the {counted(num_columns, 'column')} of numbers are no score and box; {say}"
