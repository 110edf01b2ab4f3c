"""Class names that look like one name spelt in two ways."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations

MIN_LETTERS = 4  # "cat" and "car" are two words; "person" and "persom" most likely one


def similar_names(names: Sequence[str]) -> list[tuple[str, str, str]]:
    """Return (name, other name, how they differ) for each pair that may be one class.

    Names differ "in case, spaces or hyphens", or "by one letter" when both have four letters
    or more. Two digits that differ ("type1", "type2") are two classes.
    """
    pairs = []
    for name, other in combinations(names, 2):
        short, long = sorted((_plain(name), _plain(other)), key=len)
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
