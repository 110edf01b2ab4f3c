"""Pascal VOC's development kit: the years that lie in a folder, and what the papers trained on.

Years are told by the folders VOC2007 and VOC2012, side by side, below others or the labelled
folder itself.
"""

from __future__ import annotations

import re
from pathlib import PurePath

from detkit.data.folder_splits import Records, in_order
from detkit.data.records import Dataset, ImageRecord
from detkit.errors import DetkitError
from detkit.text import counted

_YEAR = re.compile(r"VOC[-_ ]?(20\d\d)(?!\d)", re.IGNORECASE)
_YEARS = {"voc07": ("2007",), "voc0712": ("2007", "2012")}
_TRAINED_ON = ("train", "trainval", "val")


def year_in(path: PurePath) -> str | None:
    """Return the year of the last folder of a path that is named after one, or None."""
    for part in reversed(path.parts):
        if found := _YEAR.search(part):
            return found[1]
    return None


def by_year(dataset: Dataset) -> dict[str, dict[str, Records]]:
    """Return the splits of each year that a folder of VOC annotations holds; {} without any."""
    above = year_in(dataset.root.absolute())
    years: dict[str, dict[str, list[ImageRecord]]] = {}
    for split, records in dataset.splits.items() if dataset.format == "voc" else ():
        for record in records:
            if year := year_in(PurePath(record.image_id)) or above:
                years.setdefault(year, {}).setdefault(split, []).append(record)
    return {
        year: {split: tuple(records) for split, records in splits.items()}
        for year, splits in sorted(years.items())
    }


def official(dataset: Dataset, data: str, asked: str) -> Dataset | None:
    """Return the data set whose "train" is what a paper trained on: trainval of VOC07, or 07+12.

    None where that is the folder's own training split: for `data` "coco", and in a folder of no
    VOC year for "voc07", since a paper's schedule may be wanted on any data. `asked` is the option
    that wants it, for messages. Raises DetkitError naming the years, or lists, that are missing.
    """
    wanted, years = _YEARS.get(data), by_year(dataset)
    if wanted is None or (data == "voc07" and not years):
        return None
    images: dict[str, ImageRecord] = {}
    counts = []
    for year in wanted:
        splits = years.get(year, {})
        found = {one.image_id: one for name in _TRAINED_ON for one in splits.get(name, ())}
        if not found:
            there = ", ".join(f"VOC{one} {'+'.join(have)}" for one, have in years.items())
            raise DetkitError(
                f"{dataset.root}: {asked} trains on trainval of VOC{' and VOC'.join(wanted)}, and "
                f"VOC{year}'s is missing (there is {there or 'no VOC year'}); unpack it beside"
            )
        images |= found
        counts.append(f"{len(found)} of VOC{year}")
    others = [f"VOC{year}" for year in years if year not in wanted]
    note = f"{asked}: trainval, {' + '.join(counts)} = {counted(len(images), 'image')}"
    note += f"; not trained on: {', '.join(others)}" if others else ""
    test = years["2007"].get("test", ())
    notes = [note]
    if not test:
        notes.append(f"VOC2007's test split is missing in {dataset.root}: the figures are of it")
    rest = {name: part for name, part in dataset.splits.items() if name not in ("trainval", "all")}
    rest = {**rest, "train": tuple(images.values()), "test": test}
    return dataset.with_splits(in_order(rest), *notes)
