"""What a label format is: one object that finds, reads and writes it.

Writers write a number as the shortest text that reads back as the value, rounded where binary
fractions end and the label's own digits begin, so that a box survives any number of trips.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from detkit.data.paths import split_name
from detkit.data.records import Dataset, ObjectRecord
from detkit.data.tree import Tree

PIXEL_DIGITS = 9  # a billionth of a pixel: below what any label states, above float noise


@dataclass(frozen=True, slots=True)
class Labelled:
    """One image as it is written: its new name, real size, and objects."""

    name: str  # relative to the folder of its split's images, with "/"
    width: int
    height: int
    objects: tuple[ObjectRecord, ...]
    key: str | None = None


Splits = Mapping[str, Sequence[Labelled]]


def is_common_split(split: str) -> bool:
    """Return whether any reader gives a split back under this name; "all" is to have none."""
    return split == "all" or split_name(split) == split


def is_never_inclusive(_: ObjectRecord) -> bool:
    """Return that a box counts pixels from 0 and ends before the last one named."""
    return False


def corners_text(one: ObjectRecord) -> str:
    """Return an object's box, xyxy in own pixels, as words."""
    return "x1={:g} y1={:g} x2={:g} y2={:g}".format(*one.box)


@dataclass(frozen=True, kw_only=True)
class Format:
    """One label format: how it is read and written; what follows has defaults."""

    name: str  # of `--to` and `Dataset.format`
    title: str  # what people call it: "VOC XML"
    looked_for: str  # the files it is known by, for the message that there are none
    suffixes: tuple[str, ...]  # of the files that hold labels, lower case
    # Returns the data set of a folder, or None where it has none; given a file, of that alone.
    read: Callable[[Tree, str | None], Dataset | None]
    # Yields the path, relative to the new folder, and the text of each label file; None: only read.
    write: Callable[[Splits, Sequence[str]], Iterable[tuple[str, str]]] | None = None

    # Files that stand for a whole data set: one may be named instead of a folder.
    file_suffixes: tuple[str, ...] = ()
    files: Callable[[Tree], list[str]] = lambda tree: []  # those in a folder
    hint: Callable[[Tree], str] = lambda tree: ""  # why a folder's files are not of this format

    # Where `write` expects the images.
    images: str = "images"
    by_split: bool = False  # in a sub-folder for each split
    images_of: Callable[[str], str] | None = None  # by the split's name, where it is not `images`
    is_flat: bool = False  # in no further sub-folders
    is_numbered: bool = False  # called by their number in the split: 000001.jpg

    # What it cannot keep.
    keeps_split: Callable[[str], bool] = is_common_split
    keeps_difficult: bool = True
    difficult_as: str = ""  # by what they are kept where that is worth a word
    keeps_crowds: bool = False
    keeps_regions: bool = False  # what is left out for every class
    keeps_areas: bool = False  # that are not their boxes'
    keeps_machine_made: bool = False  # the mark of objects that are a detector's
    marks_whole_sets: bool = False  # that mark where it is all objects', in formats without one
    keeps_scores: bool = False  # of such objects
    keeps_classes: bool = True  # those without objects
    keeps_order: bool = True  # that of the classes
    refusal: Callable[[Sequence[str]], str] = lambda names: ""  # why not a set of these classes
    names_images: bool = True  # else only images of the usual kinds are found again

    # What `check` has to know.
    unlabelled_is_empty: bool = False  # an image without a label file has no objects
    # Whether a box counts pixels from 1 and names the last one: xmin = xmax was never drawn.
    is_inclusive: Callable[[ObjectRecord], bool] = is_never_inclusive
    # Whether boxes are of whole objects, also of what lies outside of the image.
    reaches_out: bool = False
    # How files state the box of an object that does not say it itself.
    stated: Callable[[ObjectRecord], str] = corners_text
    # What may be meant by a box (xyxy, own pixels) that leaves its image of (height, width).
    box_hint: Callable[[tuple[float, ...], tuple[int, int]], str] = lambda box, size: ""

    def values(self, one: ObjectRecord) -> str:
        """Return the values of an object's box as its file states them."""
        return one.stated or self.stated(one)

    def place(self, split: str) -> str:
        """Return the folder of a split's images; "all" is a set without splits."""
        if self.images_of is not None:
            return self.images_of(split)
        return f"{self.images}/{split}" if self.by_split and split != "all" else self.images


def number(value: float, digits: int = PIXEL_DIGITS) -> str:
    """Return the shortest text of a number; no point where it is whole."""
    value = round(float(value), digits)
    if value.is_integer():
        return str(int(value))
    text = repr(value)
    return f"{value:.{digits}f}".rstrip("0") if "e" in text else text


def json_number(value: float) -> float | int:
    """Return a number as JSON writes it best: whole ones as integers."""
    value = round(float(value), PIXEL_DIGITS)
    return int(value) if value.is_integer() else value


def made_by(mark: object, score: object) -> tuple[bool, float | None]:
    """Return whether an object is machine-made, by its mark and its score, and that score.

    A mark decides; where there is none (None), a score does: people state none. The score of
    an object that is not machine-made, as one is whose mark was taken back, is none any more.
    """
    if isinstance(score, str):
        try:
            score = float(score)
        except ValueError:
            score = None
    is_score = isinstance(score, int | float) and not isinstance(score, bool)
    found = float(score) if is_score and math.isfinite(score) else None  # type: ignore[arg-type]
    is_made = found is not None if mark is None else bool(flag(mark))
    return is_made, found if is_made else None


_FLAGS = {"": False, "0": False, "false": False, "no": False, "n": False, "f": False, "none": False}
_FLAGS |= {"1": True, "true": True, "yes": True, "y": True, "t": True}


def flag(value: object) -> bool | None:
    """Return whether a mark is set, be it a flag, a number or a text; None where that is no mark.

    "0", "false", "no" and what is not there are no; any number but 0 is yes.
    """
    if value is None or isinstance(value, bool):
        return bool(value)
    if isinstance(value, int | float):
        return value != 0 if value == value else None
    if not isinstance(value, str):
        return None
    text = value.strip().lower()
    if text in _FLAGS:
        return _FLAGS[text]
    try:
        return flag(float(text))
    except ValueError:
        return None
