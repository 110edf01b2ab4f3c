"""Suspects with what a reader needs: file, line and number of each label, and its change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detkit.data.label_patch import Box, Change, Labelled, change_to_json, rounded
from detkit.data.records import Dataset, ImageRecord, ObjectRecord
from detkit.evaluation.suspects import Suspect
from detkit.structures import Detections


@dataclass(frozen=True, slots=True)
class Entry:
    """One suspect as it is shown."""

    record: ImageRecord
    kind: str  # one of `suspects.KINDS`
    sure: float  # in [0, 1]
    object: ObjectRecord | None  # None: no label yet
    found: Labelled | None  # what the model says: None for nothing
    score: float | None  # the model's own, of that
    change: Change  # what puts it right, if the model is

    @property
    def label(self) -> str | None:
        """The class that the label states."""
        return None if self.object is None else self.object.name

    @property
    def box(self) -> Box | None:
        """The box that the label states."""
        return None if self.object is None else self.object.box

    @property
    def file(self) -> Path | None:
        """The label file, if there is one."""
        if self.object is not None and self.object.file is not None:
            return self.object.file
        return self.record.label_file


def entries_of(
    suspects: Sequence[Suspect], detections: Sequence[Detections], dataset: Dataset, split: str
) -> list[Entry]:
    """Return what `suspects.find_suspects` found in a split, in its order."""
    records, names = dataset.splits[split], dataset.class_names
    entries = []
    for one in suspects:
        record = records[one.image]
        # In the order of `records.truth_of`
        known = [each for each in record.objects if not each.region and each.name in names]
        thing = None if one.object is None else known[one.object]
        found, score = None, None
        if one.detection is not None:
            image = detections[one.image]
            x1, y1, x2, y2 = rounded(image.boxes[one.detection].tolist())
            found = Labelled(names[int(image.labels[one.detection])], (x1, y1, x2, y2))
            score = float(image.scores[one.detection])
        change = _change(one.kind, record, thing, found)
        entries.append(Entry(record, one.kind, one.sure, thing, found, score, change))
    return entries


def _change(
    kind: str, record: ImageRecord, thing: ObjectRecord | None, found: Labelled | None
) -> Change:
    """Return what puts a suspect right."""
    old = None if thing is None else Labelled(thing.name, thing.box)
    number = None if thing is None else thing.number
    new = found
    if kind in ("ghost", "duplicate"):
        new = None
    elif kind == "class" and found is not None and thing is not None:
        new = Labelled(found.label, thing.box)  # a person's box is kept
    return Change(record.image_id, number, old, new)


def where(entry: Entry, root: Path) -> str:
    """Return `file:line: object n`, the file relative to `root`; of no label the image."""
    if entry.object is None:
        return entry.record.image_id
    place = entry.record.image_id if entry.file is None else _relative(entry.file, root)
    line = "" if entry.object.line is None else f":{entry.object.line}"
    return f"{place}{line}: object {entry.object.number}"


def list_to_json(
    dataset: Dataset,
    split: str,
    entries: Sequence[Entry],
    num_suspects: int,
    sure: float,
    num_sure: int,
) -> dict[str, Any]:
    """Return a list as JSON values; `num_sure` of all `num_suspects` are `sure` or more."""
    return {
        "data": str(dataset.root),
        "split": split,
        "num_images": len(dataset.splits[split]),
        "num_suspects": num_suspects,
        "sure": sure,
        "num_sure": num_sure,
        "suspects": [entry_to_json(one, dataset.root) for one in entries],
    }


def entry_to_json(entry: Entry, root: Path) -> dict[str, Any]:
    """Return a suspect as JSON values; `change` is a change of a patch."""
    found = entry.found
    return {
        "image": entry.record.image_id,
        "kind": entry.kind,
        "sure": round(entry.sure, 4),
        "file": None if entry.file is None else _relative(entry.file, root),
        "line": None if entry.object is None else entry.object.line,
        "object": None if entry.object is None else entry.object.number,
        "label": entry.label,
        "box": None if entry.box is None else rounded(entry.box),
        "model": None
        if found is None or entry.score is None
        else {"label": found.label, "score": round(entry.score, 4), "box": rounded(found.box)},
        "change": change_to_json(entry.change),
    }


def _relative(path: Path, root: Path) -> str:
    """Return a path as messages have it: below the data set's folder without that."""
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()
