"""Variants of a model: each combination of the values that `compare --set` was given."""

from __future__ import annotations

import itertools
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detkit.config import Recipe
from detkit.errors import UsageError

OPEN, CLOSED = "([{", ")]}"


@dataclass(frozen=True, slots=True)
class Variant:
    """A model with settings: what its row is called, and the words of `--set` it is trained with.

    Only settings of several values are in the name.
    """

    name: str
    settings: tuple[str, ...]


def variants(model: str, settings: Sequence[str], config_class: type[Any]) -> list[Variant]:
    """Return a variant for each combination of the settings' values, the first setting outermost.

    `settings` are words KEY=VALUE. Several values of a key are parted by commas, unless the key
    takes several numbers itself, as `milestones` does: there the commas are part of one value, and
    the word is repeated for each further value. Raises UsageError for a word that is neither, and
    a value that is empty or given twice.
    """
    kinds = {**typing.get_type_hints(Recipe), **typing.get_type_hints(config_class)}
    values: dict[str, list[str]] = {}
    for word in settings:
        key, equals, text = word.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key:
            raise UsageError(f"--set {word}: expected key=value, like --set nms_thresh=0.5")
        several = takes_several(kinds.get(key))
        for value in [text.strip()] if several else _parted(text):
            if not value:
                raise UsageError(f"--set {word}: a value is missing")
            if value in values.setdefault(key, []):
                raise UsageError(f"--set {key}={value}: given twice")
            values[key].append(value)
    axes = {key for key, given in values.items() if len(given) > 1}
    return [
        Variant(
            " ".join([model, *(f"{key}={value}" for key, value in chosen if key in axes)]),
            tuple(f"{key}={value}" for key, value in chosen),
        )
        for chosen in _combinations(values)
    ]


def takes_several(kind: Any) -> bool:
    """Return whether a field of this type may be several values: a tuple, or a tuple or other."""
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return any(map(takes_several, typing.get_args(kind)))
    return origin is tuple


def _combinations(values: Mapping[str, Sequence[str]]) -> Iterator[tuple[tuple[str, str], ...]]:
    """Yield a value of each key, as (key, value), the last key changing first."""
    for chosen in itertools.product(*values.values()):
        yield tuple(zip(values, chosen))


def _parted(text: str) -> list[str]:
    """Return what commas part that stand in no brackets."""
    parts, depth = [""], 0
    for sign in text:
        depth += (sign in OPEN) - (sign in CLOSED)
        if sign == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += sign
    return [part.strip() for part in parts]
