"""Class names that no label file can keep, and those that look like one spelt in two ways."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

from detkit.data.records import Dataset, Finding
from detkit.text import is_plain, printable

MIN_LETTERS = 4  # "cat" and "car" are two words; "person" and "persom" most likely one


def without_bad_names(dataset: Dataset) -> Dataset:
    """Return the data set without classes whose name is not plain text, each an error finding.

    Such a name breaks the line it stands in, a terminal, or the file it is written to.
    """
    records = [record for members in dataset.splits.values() for record in members]
    used = {one.name: None for record in records for one in record.objects}
    every = {**dict.fromkeys(dataset.class_names), **used}
    bad = [name for name in every if not name or not is_plain(name)]
    if not bad:
        return dataset
    objects = [one for record in records for one in record.objects]
    findings = []
    for name in bad:
        first = next((one for one in objects if one.name == name), None)
        message = (
            f'the class name "{printable(name)}" is empty, not UTF-8 or holds control characters; '
            "its objects are not used: rename it, or save the file as UTF-8"
        )
        file, line = (first.file, first.line) if first else (None, None)
        findings.append(Finding("error", "bad-class-name", message, file, line, class_name=name))
    splits = {
        split: tuple(
            replace(one, objects=tuple(thing for thing in one.objects if thing.name not in bad))
            for one in members
        )
        for split, members in dataset.splits.items()
    }
    return replace(
        dataset,
        class_names=tuple(name for name in dataset.class_names if name not in bad),
        splits=splits,
        findings=(*dataset.findings, *findings),
    )


def similar_names(names: Sequence[str]) -> list[tuple[str, str, str]]:
    """Return (name, other name, how they differ) for each pair that may be one class.

    Names differ "in case, spaces or hyphens", or "by one letter" when both have four letters
    or more. Two digits that differ ("type1", "type2") are two classes.
    """
    pairs = []
    for (name, one), (other, two) in combinations([(name, _plain(name)) for name in names], 2):
        if abs(len(one) - len(two)) > 1:
            continue
        short, long = sorted((one, two), key=len)
        if short == long:
            pairs.append((name, other, "in case, spaces or hyphens"))
        elif len(short) >= MIN_LETTERS and _one_edit_apart(short, long):
            pairs.append((name, other, "by one letter"))
    return pairs


def _plain(name: str) -> str:
    """Return a name without case, spaces, hyphens and underscores."""
    return re.sub(r"[\s_\-]+", "", name).casefold()


def _one_edit_apart(short: str, long: str) -> bool:
    """Return whether one letter added, changed, or swapped with its neighbour makes them equal."""
    if len(long) - len(short) > 1:
        return False
    start = 0
    while start < len(short) and short[start] == long[start]:
        start += 1
    rest, other = short[start:], long[start:]
    if len(short) == len(long):
        changed = rest[1:] == other[1:]
        swapped = rest[:2] == other[1::-1] and rest[2:] == other[2:]
        return (changed or swapped) and not (rest[0].isdigit() or other[0].isdigit())
    return rest == other[1:] and not other[0].isdigit()
