"""A data set with some of its objects or images left out, or its classes called otherwise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from detkit.data.image_names import ImageNames
from detkit.data.records import Dataset, ImageRecord, ObjectRecord
from detkit.errors import DetkitError, UsageError
from detkit.files import open_text
from detkit.text import counted, cut, is_plain, nearest_hint


def rename_classes(dataset: Dataset, names: Mapping[str, str]) -> Dataset:
    """Return the data set with classes called otherwise, {old: new}, all at once.

    Two classes of one new name become one. Raises UsageError for a class that is not there or a
    new name that no label file can hold.
    """
    for old, new in names.items():
        _require_class(dataset, "--rename", old)
        if not new.strip() or not is_plain(new):
            raise UsageError(f"--rename {old}={cut(new)}: name the class in a line of plain text")

    def renamed(one: ObjectRecord) -> ObjectRecord:
        return replace(one, name=names.get(one.name, one.name)) if one.name in names else one

    classes = tuple(dict.fromkeys(names.get(name, name) for name in dataset.class_names))
    return replace(_each(dataset, renamed), class_names=classes, notes=())


def drop_classes(dataset: Dataset, names: Sequence[str]) -> Dataset:
    """Return the data set without the objects of some classes; their images stay.

    Raises UsageError for a class that is not there, or when none is left.
    """
    for name in names:
        _require_class(dataset, "--drop", name)
    left = tuple(name for name in dataset.class_names if name not in names)
    if not left:
        raise UsageError("--drop: no class is left")
    kept = _each(dataset, lambda one: None if one.name in names and not one.region else one)
    lost = _num_objects(dataset) - _num_objects(kept)
    note = f"--drop: {counted(lost, 'box')} of {', '.join(names)} left out"
    return replace(kept, class_names=left, notes=(note,))


def drop_small(dataset: Dataset, min_side: float) -> Dataset:
    """Return the data set without objects whose shorter side is less than so many own pixels."""

    def is_kept(one: ObjectRecord) -> bool:
        x1, y1, x2, y2 = one.box
        return one.region or min(x2 - x1, y2 - y1) >= min_side

    kept = _each(dataset, lambda one: one if is_kept(one) else None)
    lost = _num_objects(dataset) - _num_objects(kept)
    note = f"--min-side: {counted(lost, 'box')} smaller than {min_side:g} pixels left out"
    return replace(kept, notes=(note,))


def only_images(dataset: Dataset, file: Path) -> Dataset:
    """Return the data set with no images but those that a text file names, one a line.

    A name is an image's path, the end of one, or its stem. Splits that hold none of them are
    left out. Raises DetkitError for a file that cannot be read, a name that no image has or
    several have, and for a file that names none.
    """
    try:
        with open_text(file) as opened:
            lines = [line.strip() for line in opened.read(1 << 28).splitlines()]
    except OSError as error:
        raise DetkitError(f"{file}: cannot be read: {error.strerror}") from error
    by_path = {one.path: one for part in dataset.splits.values() for one in part}
    records = list(by_path.values())
    names = ImageNames(records)
    chosen: set[Path] = set()
    for line, name in enumerate(lines, 1):
        if name:
            chosen.add(records[_found(names, records, name, f"{file}:{line}")].path)
    if not chosen:
        raise DetkitError(f"{file}: names no image; write one a line")
    splits = {
        split: kept
        for split, part in dataset.splits.items()
        if (kept := tuple(one for one in part if one.path in chosen))
    }
    lost = len(records) - len(chosen)
    gone = [split for split in dataset.splits if split not in splits]
    note = f"--only-images: {counted(len(chosen), 'image')} kept, {lost} left out"
    note += f"; nothing is left of {', '.join(gone)}" if gone else ""
    return replace(dataset, splits=splits, notes=(note,))


def _found(names: ImageNames, records: Sequence[ImageRecord], name: str, where: str) -> int:
    """Return the number of the record that a name means; DetkitError where none or several fit."""
    fitting = names.fitting(name)
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        several = " and ".join(records[one].image_id for one in fitting[:2])
        raise DetkitError(f"{where}: {cut(name)}: {several} may be meant; write the path")
    known = [record.path.name for record in records]
    hint = nearest_hint(Path(name).name, known, "write an image's path or name a line")
    raise DetkitError(
        f"{where}: {cut(name)}: none of the {counted(len(records), 'image')} is called so; {hint}"
    )


def _require_class(dataset: Dataset, option: str, name: str) -> None:
    """Raise UsageError where the data set has no such class."""
    if name not in dataset.class_names:
        known = ", ".join(dataset.class_names[:20]) or "none"
        hint = nearest_hint(name, dataset.class_names, f"it has {known}")
        raise UsageError(f"{option} {cut(name)}: there is no such class; {hint}")


def _each(dataset: Dataset, change: Callable[[ObjectRecord], ObjectRecord | None]) -> Dataset:
    """Return the data set with every object changed; None takes it away."""

    def changed(record: ImageRecord) -> ImageRecord:
        objects = tuple(new for one in record.objects if (new := change(one)) is not None)
        return record if objects == record.objects else replace(record, objects=objects)

    splits = {
        split: tuple(changed(record) for record in records)
        for split, records in dataset.splits.items()
    }
    return replace(dataset, splits=splits)


def _num_objects(dataset: Dataset) -> int:
    """Return how many objects distinct images hold together."""
    counts = Counter(
        {one.path: len(one.objects) for part in dataset.splits.values() for one in part}
    )
    return counts.total()
