"""The labels of one image as the page sends them: judged, and turned into records and back."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from detkit.data.records import ObjectRecord
from detkit.text import is_plain

STATES = ("todo", "done", "empty", "skipped")
IN_FOLDER = ("done", "empty")  # the states of images that the labelled folder holds
MAX_CLASSES, LONGEST_CLASS = 10_000, 100  # ours; signs of a name
MAX_OBJECTS = 10_000  # ours: far more than anybody draws in one image
BORDER = 1e-3  # pixels: what a page's arithmetic may leave beyond the border; it is cut
Size = tuple[int, int]  # (height, width)


class BadLabels(ValueError):
    """Labels that make no sense, told in one line."""


@dataclass(frozen=True, slots=True)
class Labels:
    """What is known of one image: its state, its objects, how often they were changed."""

    state: str = "todo"
    objects: tuple[ObjectRecord, ...] = ()
    revision: int = 0

    @property
    def is_in_folder(self) -> bool:
        """Whether the labelled folder holds the image."""
        return self.state in IN_FOLDER


def to_json(one: ObjectRecord) -> dict[str, Any]:
    """Return an object as the page and the journal have it; what is not set is left out."""
    values: dict[str, Any] = {
        "label": one.name,
        "box": list(one.box),
        "difficult": one.difficult,
        "machine_made": one.machine_made,
    }
    if one.score is not None:
        values["score"] = one.score
    if one.crowd:
        values["crowd"] = True
    if one.area is not None:
        values["area"] = one.area
    if one.region:
        values["region"] = True
    return values


def from_json(values: Mapping[str, Any]) -> ObjectRecord:
    """Return the object of a line of the journal."""
    x1, y1, x2, y2 = map(float, values["box"])
    return ObjectRecord(
        name=values["label"],
        box=(x1, y1, x2, y2),
        difficult=values["difficult"],
        machine_made=values["machine_made"],
        score=values.get("score"),
        crowd=values.get("crowd", False),
        area=values.get("area"),
        region=values.get("region", False),
    )


def numbered(objects: Sequence[ObjectRecord]) -> tuple[ObjectRecord, ...]:
    """Return the objects by their place, without what tied them to their old label file."""
    return tuple(
        replace(one, number=place, file=None, line=None, stated="")
        for place, one in enumerate(objects, start=1)
    )


def labels_of(
    body: Mapping[str, Any], class_names: Collection[str], size: Size | None, now: Labels
) -> Labels:
    """Return the labels that a page sends for an image of `size`, as the next revision.

    What the page knows nothing of (a crowd, the area of a mask, a region) stays with an object
    whose box and class stay. A box that makes no sense is taken only where it stands there
    `now` already, so that of several bad ones each can be mended by itself. Raises BadLabels.
    """
    state, rows = body.get("state"), body.get("objects")
    if state not in STATES:
        raise BadLabels(f"state: expected one of {', '.join(STATES)}")
    if not isinstance(rows, list):
        raise BadLabels("objects: expected a list")
    if len(rows) > MAX_OBJECTS:
        raise BadLabels(f"objects: {len(rows)}, at most {MAX_OBJECTS} are taken")
    before: dict[tuple[str, tuple[float, ...]], ObjectRecord] = {
        (one.name, one.box): one for one in now.objects if not one.region
    }
    objects = [
        _object(row, place, class_names, size, before) for place, row in enumerate(rows, start=1)
    ]
    if state == "done" and not objects:
        raise BadLabels('state "done" without objects; "empty" says that there is none')
    if state == "empty" and objects:
        raise BadLabels('state "empty" with objects; "done" is for these')
    if state in IN_FOLDER and size is None:
        raise BadLabels("the image cannot be read, so it can only be skipped")
    regions = [one for one in now.objects if one.region]
    return Labels(state, numbered([*objects, *regions]), now.revision + 1)


def bad_class_name(name: str, names: Collection[str]) -> str:
    """Return why a class may not be called so, or ""."""
    if not name or name != name.strip():
        return "a class needs a name, without spaces around it"
    if not is_plain(name):
        return "the name of a class is plain text in one line"
    if len(name) > LONGEST_CLASS:
        return f"the name of a class has at most {LONGEST_CLASS} signs"
    if name in names:
        return f'there is a class "{name}" already'
    return f"at most {MAX_CLASSES} classes" if len(names) >= MAX_CLASSES else ""


def _object(
    row: Any,
    place: int,
    class_names: Collection[str],
    size: Size | None,
    before: Mapping[tuple[str, tuple[float, ...]], ObjectRecord],
) -> ObjectRecord:
    """Return one object of the page's; raise BadLabels."""
    who = f"object {place}"
    if not isinstance(row, dict):
        raise BadLabels(f"{who}: expected an object with label and box")
    name, box = row.get("label"), row.get("box")
    if not isinstance(name, str) or name not in class_names:
        raise BadLabels(f"{who}: unknown class; add it first")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise BadLabels(f"{who}: expected a box of four finite numbers, x1, y1, x2, y2")
    x1, y1, x2, y2 = map(float, box)
    found = before.get((name, (x1, y1, x2, y2)))
    if found is None:
        x1, y1, x2, y2 = _inside((x1, y1, x2, y2), who, size)
    for mark in ("difficult", "machine_made"):
        if not isinstance(row.get(mark, False), bool):
            raise BadLabels(f"{who}: {mark}: expected true or false")
    is_made, score = row.get("machine_made", False), row.get("score")
    if score is not None and not _is_number(score):
        raise BadLabels(f"{who}: score: expected a finite number")
    return ObjectRecord(
        name,
        (x1, y1, x2, y2),
        difficult=row.get("difficult", False),
        machine_made=is_made,
        score=float(score) if is_made and score is not None else None,
        crowd=found is not None and found.crowd,
        area=None if found is None else found.area,
    )


def _is_number(value: Any) -> bool:
    """Return whether a value is a finite number that a float holds; true and false are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1e9 and math.isfinite(value)


def _inside(
    box: tuple[float, float, float, float], who: str, size: Size | None
) -> tuple[float, float, float, float]:
    """Return the box, rounding beyond the border cut; raise BadLabels for one that is no box."""
    x1, y1, x2, y2 = box
    if not (x1 < x2 and y1 < y2):
        raise BadLabels(f"{who}: a box without area; expected x1 < x2 and y1 < y2")
    if size is None:
        return box
    height, width = size
    if min(x1, y1) < -BORDER or x2 > width + BORDER or y2 > height + BORDER:
        raise BadLabels(f"{who}: reaches out of the image, {width} x {height}")
    x1, y1, x2, y2 = max(0.0, x1), max(0.0, y1), min(float(width), x2), min(float(height), y2)
    if not (x1 < x2 and y1 < y2):
        raise BadLabels(f"{who}: lies outside the image, {width} x {height}")
    return x1, y1, x2, y2
