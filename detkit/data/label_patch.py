"""Label patches: changes of single labels as a JSON file, put into a data set.

    {"format": "detkit label patch", "version": 1, "changes": [
      {"image": "JPEGImages/1.jpg", "object": 3,
       "old": {"label": "car", "box": [x1, y1, x2, y2]}, "new": {"label": "bus", "box": [...]}}]}

An object is named by its image's path in the data set and by its number among the image's
objects, from 1 on. `old` is what it is now, and `new` what it becomes: null takes it away. Where
`object` and `old` are null, `new` is added. Boxes are own pixels, 0-based and half-open. A patch
of which one change does not fit the data is not put in at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from detkit.data.records import Dataset, ImageRecord, ObjectRecord
from detkit.errors import DetkitError
from detkit.files import write_bytes
from detkit.text import counted, nearest_hint

FORMAT, VERSION = "detkit label patch", 1
TOLERANCE = 0.01  # own pixels: boxes are written with three places
PLACES = 3
MOST_PIXELS = 1e9  # of a corner
AGAIN = 0.9  # IoU: an added object of a class that lies so on another of it is there already
KEYS = ("image", "object", "old", "new")

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Labelled:
    """A class and a box in own pixels."""

    label: str
    box: Box


@dataclass(frozen=True, slots=True)
class Change:
    """One label that is added (no `old`), taken away (no `new`) or put right."""

    image: str  # the image's path in the data set
    object: int | None  # its number among the image's objects, from 1; None: added
    old: Labelled | None
    new: Labelled | None


def patch_to_json(changes: Sequence[Change]) -> dict[str, Any]:
    """Return a patch as JSON values."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "changes": [change_to_json(one) for one in changes],
    }


def change_to_json(change: Change) -> dict[str, Any]:
    """Return one change as JSON values."""

    def value(one: Labelled | None) -> dict[str, Any] | None:
        return None if one is None else {"label": one.label, "box": rounded(one.box)}

    return {
        "image": change.image,
        "object": change.object,
        "old": value(change.old),
        "new": value(change.new),
    }


def rounded(box: Sequence[float]) -> list[float]:
    """Return a box as patches have it."""
    return [round(float(value), PLACES) for value in box]


def write_patch(path: Path, changes: Sequence[Change]) -> None:
    """Write a patch; DetkitError when that cannot be done."""
    text = json.dumps(patch_to_json(changes), indent=1, ensure_ascii=False)
    write_bytes(path, f"{text}\n".encode("utf-8", errors="surrogateescape"))


def read_patch(path: Path) -> list[Change]:
    """Return the changes of a patch.

    Raises DetkitError naming the file and the change that is none.
    """
    try:
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise DetkitError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DetkitError(f"{path}: is no JSON, so no label patch: {error}") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise DetkitError(
            f'{path}: is no label patch, whose "format" is "{FORMAT}"; `detkit suspects --patch` '
            "writes one"
        )
    if found.get("version") != VERSION:
        raise DetkitError(
            f"{path}: a patch of version {found.get('version')!r}; this detkit reads {VERSION}"
        )
    changes = found.get("changes")
    if not isinstance(changes, list):
        raise DetkitError(f'{path}: "changes" is missing or no list')
    return [_change(one, f"{path}: change {number}") for number, one in enumerate(changes, 1)]


def apply_patch(dataset: Dataset, changes: Sequence[Change], source: str) -> Dataset:
    """Return the data set with all changes; an image in several splits changes in each.

    `source` is what messages call the patch. Raises DetkitError naming the first change that does
    not fit: its image or object is not there, is another by now, or changes twice, or its class is
    not known.
    """
    records = {one.image_id: one for split in dataset.splits.values() for one in split}
    by_image: dict[str, list[tuple[str, Change]]] = {}
    for number, change in enumerate(changes, 1):
        where = f"{source}: change {number}: {change.image}"
        if change.image not in records:
            hint = nearest_hint(change.image, list(records), "is the patch of another folder?")
            raise DetkitError(f"{where}: no such image in {dataset.root}; {hint}")
        if change.new is not None and change.new.label not in dataset.class_names:
            known = ", ".join(dataset.class_names[:20])
            raise DetkitError(f'{where}: "{change.new.label}" is no class of {known}')
        by_image.setdefault(change.image, []).append((where, change))
    changed = {
        image: _changed(records[image], of_image, dataset.root)
        for image, of_image in by_image.items()
    }
    splits = {
        name: tuple(
            replace(one, objects=changed[one.image_id]) if one.image_id in changed else one
            for one in split
        )
        for name, split in dataset.splits.items()
    }
    num_added = sum(one.old is None for one in changes)
    num_gone = sum(one.new is None for one in changes)
    note = (
        f"{source}: {counted(len(changes), 'change')}: {num_added} added, {num_gone} taken away, "
        f"{len(changes) - num_added - num_gone} put right"
    )
    return replace(dataset, splits=splits, notes=(note,))


def _changed(
    record: ImageRecord, changes: Sequence[tuple[str, Change]], root: Path
) -> tuple[ObjectRecord, ...]:
    """Return an image's objects after its changes; DetkitError for the first that does not fit."""
    objects: list[ObjectRecord | None] = list(record.objects)
    places = {one.number: place for place, one in enumerate(record.objects)}
    touched: set[int] = set()
    added: list[ObjectRecord] = []
    for where, change in changes:
        if change.old is None or change.object is None:
            if change.new is not None:
                _require_new(change.new, record, where, root)
                added.append(_made(change.new, record, len(objects) + len(added) + 1))
            continue
        where = f"{where}: object {change.object}"
        if change.object in touched:
            raise DetkitError(f"{where}: changes twice; keep one of the two")
        touched.add(change.object)
        place = places.get(change.object)
        if place is None:
            raise DetkitError(
                f"{where}: the image has {counted(len(record.objects), 'object')} in {root}; the "
                "patch was made for other labels: make it anew"
            )
        now = record.objects[place]
        if now.name != change.old.label or not _same(now.box, change.old.box):
            raise DetkitError(
                f"{where}: is {_words(now.name, now.box)} in {root} and "
                f"{_words(change.old.label, change.old.box)} in the patch, which was made for "
                "other labels: make it anew"
            )
        if change.new is None:
            objects[place] = None
        else:
            moved = not _same(now.box, change.new.box)
            objects[place] = replace(
                now,
                name=change.new.label,
                box=change.new.box if moved else now.box,
                area=None if moved else now.area,  # that of the old place
                machine_made=False,  # a person has said so
                score=None,
            )
    return (*(one for one in objects if one is not None), *added)


def _require_new(new: Labelled, record: ImageRecord, where: str, root: Path) -> None:
    """Raise DetkitError when an object that is to be added is there already."""
    for one in record.objects:
        if one.name == new.label and not one.region and _iou(one.box, new.box) >= AGAIN:
            raise DetkitError(
                f"{where}: {_words(new.label, new.box)} is to be added and is there already in "
                f"{root}, as object {one.number}: is the patch in it already?"
            )


def _made(new: Labelled, record: ImageRecord, number: int) -> ObjectRecord:
    """Return a new object of an image."""
    return ObjectRecord(new.label, new.box, file=record.label_file, number=number)


def _change(value: Any, where: str) -> Change:
    """Return a change from JSON values; DetkitError for what is none, beginning with `where`."""
    if not isinstance(value, Mapping) or not isinstance(value.get("image"), str):
        raise DetkitError(f'{where}: expected an object with {", ".join(KEYS)}; "image" a text')
    where = f"{where}: {value['image']}"
    unknown = [key for key in value if key not in KEYS]
    if unknown:
        raise DetkitError(f'{where}: "{unknown[0]}" is no key of a change: {", ".join(KEYS)}')
    number = value.get("object")
    old, new = (_labelled(value.get(key), f'{where}: "{key}"') for key in ("old", "new"))
    if number is not None and (not isinstance(number, int) or isinstance(number, bool)):
        raise DetkitError(f'{where}: "object" is {number!r}; expected a whole number or null')
    if (number is None) != (old is None):
        raise DetkitError(f'{where}: "object" and "old" go together: give both, or null for both')
    if old is None and new is None:
        raise DetkitError(f'{where}: neither "old" nor "new": nothing changes')
    return Change(value["image"], number, old, new)


def _labelled(value: Any, where: str) -> Labelled | None:
    """Return a class and box from JSON values; DetkitError for what is none."""
    if value is None:
        return None
    found = value if isinstance(value, Mapping) else {}
    label, box = found.get("label"), found.get("box")
    is_box = isinstance(box, list) and len(box) == 4 and all(map(_is_finite, box))
    if not isinstance(label, str) or not isinstance(box, list) or not is_box:
        raise DetkitError(f'{where}: expected null or {{"label": text, "box": [x1, y1, x2, y2]}}')
    x1, y1, x2, y2 = map(float, box)
    if where.endswith('"new"') and not (x1 < x2 and y1 < y2):
        raise DetkitError(f"{where}: the box {box} has no area")
    return Labelled(label, (x1, y1, x2, y2))


def _is_finite(value: Any) -> bool:
    """Return whether a value of JSON is a number that a box can have."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and abs(value) < MOST_PIXELS  # NaN is not


def _same(box: Sequence[float], other: Sequence[float]) -> bool:
    return all(abs(a - b) <= TOLERANCE for a, b in zip(box, other, strict=True))


def _iou(box: Box, other: Box) -> float:
    """Return the IoU of two boxes."""
    first, second = np.array(box), np.array(other)
    sides = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    inside = float(sides.clip(min=0).prod())
    union = sum(float((one[2:] - one[:2]).prod()) for one in (first, second)) - inside
    return inside / union if union > 0 else 0.0


def _words(label: str, box: Sequence[float]) -> str:
    """Return a label as messages have it: "car" at 3 4 20 30."""
    return f'"{label}" at {" ".join(f"{value:g}" for value in rounded(box))}'
