"""Labelled folders as people have them: found, read, judged, converted. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detkit.data.folder_splits import in_order
from detkit.data.formats.reading import read_folder
from detkit.data.records import Dataset
from detkit.data.splits import select_classes, training_name, training_splits


def open_dataset(
    path: Path | str,
    *,
    classes: Sequence[str] | None = None,
    val: str | Path | float | None = None,
    seed: int = 0,
) -> Dataset:
    """Return the labelled folder at `path`, its format found by looking.

    `path` may also be one label file (COCO .json, data.yaml, .csv), which is then read and
    nothing else. The splits are those of the folder, or one called "all". `val`, a split's
    name, a share or another labelled folder, sets the split "val" as `training_splits`
    does. `classes` selects and orders. What was found is in `notes`, what could not be read
    in `findings`; nothing is dropped without one of the two.
    Raises DetkitError when there is no data set at `path`, UsageError for a class or `val`
    that does not exist.
    """
    dataset = read_folder(Path(path))
    if classes is not None:
        dataset = select_classes(dataset, classes)
    if val is not None:
        name = training_name(dataset)
        train, chosen, notes = training_splits(dataset, val, seed)
        splits = {key: part for key, part in dataset.splits.items() if key not in (name, "val")}
        dataset = dataset.with_splits(in_order({**splits, "train": train, "val": chosen}), *notes)
    return dataset
