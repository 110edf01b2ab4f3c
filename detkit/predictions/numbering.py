"""What the numbers mean that files have in the place of class names.

A number may be an id of the data set's own files, or count the classes from 0 or from 1. Which of
these a file means is seen from all its numbers together; where two meanings fit and differ, the
error names both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from detkit.errors import DetkitError
from detkit.predictions.image import coco_category_ids
from detkit.predictions.layout import NUMBERINGS
from detkit.predictions.reference import Id, Reference
from detkit.text import counted, short


@dataclass(frozen=True, slots=True)
class Numbering:
    """Class names by number, and whose numbers these are."""

    name: str  # "counted from 0"
    names: Mapping[Id, str]
    flag: str  # the word of `--layout` that says so; "" where none does

    def fits(self, numbers: Sequence[int]) -> bool:
        """Return whether each of these numbers is one of a class."""
        return all(number in self.names for number in numbers)

    def meaning(self, numbers: Sequence[int]) -> tuple[str, ...]:
        """Return the classes of these numbers."""
        return tuple(self.names[number] for number in numbers)


def counted_from(first: int, class_names: Sequence[str]) -> Numbering:
    """Return the numbering of the classes from 0 or from 1."""
    names: dict[Id, str] = dict(enumerate(class_names, start=first))
    return Numbering(f"counted from {first}", names, f"class{first}")


def _coco_names(class_names: Sequence[str]) -> dict[Id, str]:
    return dict(zip(coco_category_ids(class_names), class_names, strict=True))


def ids_of(reference: Reference) -> Numbering:
    """Return the numbering by the data set's own ids; a text of digits is a number, too."""
    names: dict[Id, str] = {}
    for number, name in reference.ids.items():
        is_digits = isinstance(number, str) and number.isdecimal() and len(number) < 10
        names.setdefault(int(number) if is_digits else number, name)
    return Numbering(NUMBERINGS["classid"], names, "classid")


def chosen_numbering(word: str, reference: Reference) -> Numbering:
    """Return the numbering that `--layout` names."""
    if word == "classid":
        if not reference.ids:
            raise DetkitError(
                "--layout classid: the data set has names and no ids; say class0 or class1"
            )
        return ids_of(reference)
    return counted_from(int(word.removeprefix("class")), reference.class_names)


def numberings(kind: str, reference: Reference) -> list[Numbering]:
    """Return what numbers may mean in a file of a kind, likeliest first.

    Kinds: "results" (COCO), "own" (COCO's, with file names as image ids: `detect -f coco` up
    to 0.1), "labels" (torchvision), "rows" (YOLO), "table" (CSV, and rows in pixels).
    """
    names = reference.class_names
    if kind == "own" and not reference.is_coco:  # never counted from 0
        return [Numbering("as `detect -f coco` wrote them", _coco_names(names), "class1")]
    from_0, from_1 = counted_from(0, names), counted_from(1, names)
    ids = [ids_of(reference)] if reference.ids else []
    if reference.is_coco and kind == "results":
        return ids
    if reference.is_coco and kind == "own":
        return [from_1, *ids]
    official = [Numbering("COCO's own ids", _coco_names(names), "")] if len(names) == 80 else []
    if kind == "results":
        return [*official, from_1, from_0, *ids]
    if kind == "labels":
        return [*(ids if reference.is_coco else []), *official, from_1, from_0]
    if reference.ids and not reference.is_coco:
        return ids  # a YOLO folder: rows of numbers are the data set's own
    if kind == "rows" and not ids:
        return [from_0]
    return [from_0, *ids, from_1]


def find_numbering(
    numbers: set[int], kind: str, reference: Reference, place: str
) -> tuple[Numbering, str]:
    """Return what numbers mean, and what to say of it ("": they are the data set's own).

    `place` names the file. Raises DetkitError where two meanings fit, or none does.
    """
    if not reference.class_names:
        raise DetkitError(f"{place}: classes are numbers; their names are needed")
    known = numberings(kind, reference)
    used = sorted(numbers)
    fitting = [one for one in known if one.fits(used)]
    if not fitting:
        raise DetkitError(_none_fits(used, known, reference, place))
    first = fitting[0]
    other = next((one for one in fitting if one.meaning(used) != first.meaning(used)), None)
    if other is not None and reference.is_data_set:
        number = next(one for one in used if first.names[one] != other.names[one])
        raise DetkitError(
            f"{place}: a class is given as {number}, which may be {first.names[number]} "
            f"({first.name}) or {other.names[number]} ({other.name}); say which: "
            f"--layout {first.flag or 'classid'} or --layout {other.flag or 'classid'}"
        )
    is_plain = first.flag == "classid" or (kind == "rows" and first.flag == "class0")
    if is_plain and first is known[0]:
        return first, ""
    examples = ", ".join(f"{one} {first.names[one]}" for one in used[:3])
    return first, f"classes are numbers, {first.name}: {examples}" + (
        f" (--layout {first.flag} to make sure)" if first.flag else ""
    )


def _none_fits(
    used: Sequence[int], known: Sequence[Numbering], reference: Reference, place: str
) -> str:
    """Return the message that some number is that of no class."""
    first = known[0]
    bad = next(number for number in used if number not in first.names)
    shown = str(bad) if abs(bad) < 10**9 else f"of {len(str(bad))} digits"
    few = short([f"{number} {name}" for number, name in first.names.items()])
    message = (
        f"{place}: no class has the number {shown} ({counted(len(first.names), 'class')}, "
        f"{first.name}: {few})"
    )
    counting = [counted_from(0, reference.class_names), counted_from(1, reference.class_names)]
    others = [one for one in counting if one.flag != first.flag and one.fits(used)]
    if others:
        message += "; if they are " + " or ".join(
            f"{one.name}, say --layout {one.flag}" for one in others
        )
    return message
