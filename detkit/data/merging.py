"""Several labelled folders as one: classes united by name, splits kept, nothing written to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

from detkit.data.class_names import similar_names
from detkit.data.folder_splits import Records, in_order
from detkit.data.formats.reading import format_of
from detkit.data.identical_files import identical_files
from detkit.data.paths import stem_of
from detkit.data.records import Dataset, ImageRecord
from detkit.errors import UsageError
from detkit.text import agreed, counted


def merge(datasets: Sequence[Dataset]) -> Dataset:
    """Return one data set of all images; one alone is returned as it is.

    Classes are united by name, in the order in which they come. Splits of one name are put
    together; the images of a set without splits join "train" where another has splits. An image
    of a name that another set has, too, gets that of its folder before it. What there is to be said
    of that is in the notes. Raises UsageError for a folder that is given twice, or lies in another.
    """
    if len(datasets) == 1:
        return datasets[0]
    _require_apart(datasets)
    titles = _titles(datasets)
    stems = Counter(chain.from_iterable(map(_stems, datasets)))
    have_splits = any(set(one.splits) - {"all"} for one in datasets)
    splits: dict[str, Records] = {}
    notes: list[str] = []
    for dataset, title in zip(datasets, titles):
        is_whole = set(dataset.splits) <= {"all"}
        if is_whole and have_splits:
            notes.append(f"{dataset.root} has no splits: its images join train")
        for split, records in dataset.splits.items():
            joined = "train" if is_whole and have_splits else split
            own = tuple(_renamed(dataset, record, title, stems) for record in records)
            splits[joined] = (*splits.get(joined, ()), *own)
    if clashing := sum(number > 1 for number in stems.values()):
        are = agreed(clashing, "is", "are")
        notes.append(f"{counted(clashing, 'image name')} {are} in several folders: told apart")
    notes += _alike(datasets) + _copies(datasets)
    first = datasets[0]
    names = chain.from_iterable(one.class_names for one in datasets)
    return Dataset(
        root=first.root,
        format=first.format,
        class_names=tuple(dict.fromkeys(names)),
        splits=in_order(splits),
        findings=tuple(chain.from_iterable(one.findings for one in datasets)),
        notes=tuple(notes),
    )


def _require_apart(datasets: Sequence[Dataset]) -> None:
    """Raise UsageError where a folder is given twice or lies in another one."""
    roots = [one.root.resolve() for one in datasets]
    for place, root in enumerate(roots):
        for other in roots[:place]:
            if root == other:
                raise UsageError(f"{datasets[place].root}: given twice; name each folder once")
            if other in root.parents or root in other.parents:
                outer, inner = sorted((root, other), key=lambda one: len(one.parts))
                raise UsageError(f"{inner}: lies in {outer}, which is given, too; name one of them")


def _titles(datasets: Sequence[Dataset]) -> list[str]:
    """Return a name of each folder that no other has: its own, or with what is above it."""
    parts = [one.root.resolve().parts for one in datasets]
    for length in range(1, max(map(len, parts)) + 1):
        titles = ["_".join(one[-length:]).strip("/\\:") for one in parts]
        if len(set(titles)) == len(titles):
            break
    return titles


def _renamed(dataset: Dataset, record: ImageRecord, title: str, stems: Counter[str]) -> ImageRecord:
    """Return an image as it is in the union: its id of its own, and labelled if that is meant.

    Where a missing label file means that there is no object, that is so in any other format.
    """
    is_shared = stems[stem_of(record.image_id).casefold()] > 1
    is_empty = record.label_file is None and format_of(dataset).unlabelled_is_empty
    return replace(
        record,
        image_id=f"{title}/{record.image_id}" if is_shared else record.image_id,
        label_file=record.path if is_empty else record.label_file,
    )


def _stems(dataset: Dataset) -> set[str]:
    """Return the stems of a set's images, as they clash where labels are named by them."""
    return {
        stem_of(record.image_id).casefold() for part in dataset.splits.values() for record in part
    }


def _alike(datasets: Sequence[Dataset]) -> list[str]:
    """Return a note on each pair of classes of two folders that look like one name."""
    names = dict.fromkeys(chain.from_iterable(one.class_names for one in datasets))
    return [
        f'"{name}" and "{other}" differ only {how}; if they are one class: --rename {other}={name}'
        for name, other, how in similar_names([*names])
        if not any({name, other} <= set(one.class_names) for one in datasets)
    ]


def _copies(datasets: Sequence[Dataset]) -> list[str]:
    """Return the note on images that several folders hold, byte for byte."""
    roots = {
        record.path: place
        for place, one in enumerate(datasets)
        for part in one.splits.values()
        for record in part
        if record.path.is_file()
    }
    groups = [group for group in identical_files(roots) if len({roots[one] for one in group}) > 1]
    if not groups:
        return []
    first = ", ".join(str(path) for path in groups[0][:2])
    are = agreed(len(groups), "is", "are")
    return [
        f"{counted(len(groups), 'image')} {are} in several folders, byte for byte (the first: "
        f"{first}), and will be there more than once"
    ]
