"""`--ids`: by which numbers a labelled folder, or a COCO file, knows its images and classes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from detkit.cli.console import Console
from detkit.cli.options import open_named
from detkit.errors import DetkitError, UsageError
from detkit.text import counted

if TYPE_CHECKING:
    from detkit.data.records import Dataset, ImageRecord
    from detkit.predictions.coco_results import CocoIds, Id


def open_ids(console: Console, place: str | None, form: str) -> CocoIds | None:
    """Return the ids of `--ids`; None without it.

    A COCO file's are its own, any other labelled folder's those that `detkit convert --to coco`
    gives it. Raises UsageError for another format than coco, DetkitError, which names --ids, when
    there is no data set at `place` or its files number one class in two ways.
    """
    if place is None:
        return None
    if form != "coco":
        raise UsageError(f"--ids numbers COCO's results: add -f coco, not -f {form}")
    from detkit.data.image_names import ImageNames
    from detkit.predictions.coco_results import CocoIds

    dataset = open_named("--ids", Path(place))
    by_image = _image_ids(dataset)
    records = [record for record, _ in by_image.values()]
    numbers = [number for _, number in by_image.values()]
    names = ImageNames(records)

    def image_id(image: str) -> Id | None:
        return numbers[names.find(image)] if names.fitting(image) else None

    categories = _category_ids(dataset, place)
    number = counted(len(categories), "class")
    console.note(f"ids: {counted(len(records), 'image')}, {number} of {place}")
    return CocoIds(place, image_id, categories)


def _image_ids(dataset: Dataset) -> dict[str, tuple[ImageRecord, Id]]:
    """Return each image of all splits with its id, by its name in the data set."""
    from detkit.data.formats.coco_json import numbered, stated_ids

    counted_up = numbered(dataset.splits)
    found: dict[str, tuple[ImageRecord, Id]] = {}
    stated: dict[Path, dict[str, Id]] = {}
    for split, records in dataset.splits.items():
        for record, number in zip(records, counted_up[split], strict=True):
            own: Id = number
            if dataset.format == "coco" and record.label_file and record.key is not None:
                if record.label_file not in stated:
                    stated[record.label_file] = stated_ids(record.label_file)
                own = stated[record.label_file][record.key]
            found.setdefault(record.image_id, (record, own))
    return found


def _category_ids(dataset: Dataset, place: str) -> dict[str, Id]:
    """Return the id of each class; DetkitError where two files differ about one."""
    if dataset.format != "coco":
        return {name: number for number, name in enumerate(dataset.class_names, start=1)}
    ids: dict[str, tuple[Id, str]] = {}
    for split in dataset.splits:
        own: dict[str, Id] = {}
        for number, name in dataset.ids_of(split).items():
            own.setdefault(name, number)
        for name, number in own.items():
            first, where = ids.setdefault(name, (number, split))
            if first != number:
                raise DetkitError(
                    f"--ids {place}: class {name} has the id {first} in {where} and {number} in "
                    f"{split}; name the one JSON file"
                )
    return {name: number for name, (number, _) in ids.items()}
