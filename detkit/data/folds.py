"""Folds for cross-validation: each image is held out once, with all that belongs to it.

The images are dealt out as `splits.split_dataset` does: groups stay whole, and classes keep about
their shares in each fold. Of what is left for training in a fold a share is cut off to validate
on, by the same groups, so that the fold itself decides nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from detkit.data.folder_splits import Records
from detkit.data.groups import SAME_BYTES, Groups, find_groups
from detkit.data.records import Dataset, ImageRecord
from detkit.data.splits import DEFAULT_FRACTION, MOST_OFF, deal, ranked
from detkit.errors import UsageError
from detkit.text import counted


@dataclass(frozen=True)
class Fold:
    """One division of the images: to train on, to validate on while training, and held out."""

    train: Records
    val: Records
    test: Records


@dataclass(frozen=True)
class Folds:
    """All divisions; each image is in `test` of exactly one."""

    folds: tuple[Fold, ...]
    groups: Groups
    balance: str  # how far classes are from having their shares, in words; "" without objects


def pooled(dataset: Dataset, split: str | None = None) -> Dataset:
    """Return the data set with all its images, or those of one split, as the one split "all".

    Raises UsageError for a split that there is not.
    """
    if split is not None and split not in dataset.splits:
        known = ", ".join(dataset.splits)
        raise UsageError(f"--split {split}: {dataset.root} has {known}")
    chosen = dataset.splits.values() if split is None else [dataset.splits[split]]
    records = {record.path: record for members in chosen for record in members}
    return dataset.with_splits({"all": tuple(records.values())})


def divide_into_folds(
    records: Records,
    number: int,
    *,
    val: float = DEFAULT_FRACTION,
    group: str = "auto",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Folds:
    """Return the images divided into `number` folds by the seed.

    `val` is the share of each fold's other images that is kept to validate on. Images that belong
    together by the rule `group` (see `groups.find_groups`) are in one fold, and on one side of
    that cut unless all others are of one group. `progress` hears (images looked at, in all).
    Raises UsageError for fewer than two folds, a share that does not lie between 0 and 1, a rule
    that there is not, and too few images or groups.
    """
    if number < 2:
        raise UsageError(f"--folds {number}: must be at least 2")
    if not 0.0 < val < 1.0:
        raise UsageError(f"--val {val:g}: the share kept to validate on must lie between 0 and 1")
    # Two images in each fold's rest at least: one to train and one to validate on.
    if len(records) < max(number, 3):
        raise UsageError(f"--folds {number}: too many for {counted(len(records), 'image')}")
    together = find_groups(records, group, progress)
    names = [f"fold {place}" for place in range(1, number + 1)]
    sizes = {
        name: len(records) // number + (place < len(records) % number)
        for place, name in enumerate(names)
    }
    groups = sorted(ranked(records, together, seed), key=lambda one: -len(one))
    place = deal(groups, sizes, dict.fromkeys(names, 1 / number))
    held = {name: tuple(one for one in records if place[one.image_id] == name) for name in names}
    _require_fit(held, sizes, together)
    folds = []
    for name in names:
        rest = tuple(one for one in records if place[one.image_id] != name)
        train, kept = _cut(rest, val, together, seed)
        folds.append(Fold(train, kept, held[name]))
    return Folds(tuple(folds), together, _balance(held))


def as_dataset(dataset: Dataset, fold: Fold) -> Dataset:
    """Return the data set of a fold as a trainer gets it: the test images without their objects.

    Who trains can then neither learn them nor choose a model by them.
    """
    blank = tuple(
        ImageRecord(one.image_id, one.path, (), one.width, one.height, one.label_file, one.key)
        for one in fold.test
    )
    return dataset.with_splits({"train": fold.train, "val": fold.val, "test": blank})


def _cut(rest: Records, share: float, together: Groups, seed: int) -> tuple[Records, Records]:
    """Return (to train on, to validate on) of a fold's other images; neither is empty."""
    number = min(max(round(len(rest) * share), 1), len(rest) - 1)
    groups = sorted(ranked(rest, together, seed), key=lambda one: -len(one))
    if len(groups) == 1:
        groups = [[one] for one in groups[0]]
    shares = {"train": 1.0 - share, "val": share}
    place = deal(groups, {"train": len(rest) - number, "val": number}, shares)
    sides = {side: tuple(one for one in rest if place[one.image_id] == side) for side in shares}
    if not all(sides.values()):  # two groups that both fitted into one side
        smallest = {one.image_id for one in min(groups, key=len)}
        sides["val"] = tuple(one for one in rest if one.image_id in smallest)
        sides["train"] = tuple(one for one in rest if one.image_id not in smallest)
    return sides["train"], sides["val"]


def _require_fit(held: Mapping[str, Records], sizes: Mapping[str, int], together: Groups) -> None:
    """Raise UsageError when groups are too few or too large for folds of about one size."""
    number = len(sizes)
    same_bytes = all(rule.startswith(SAME_BYTES) for rule in together.rules)
    for name, size in sizes.items():
        off = abs(len(held[name]) - size)
        if not held[name] or (off > max(size * MOST_OFF, 2) and not same_bytes):
            raise UsageError(
                f"--folds {number}: {together.in_words()}: {name} would have "
                f"{counted(len(held[name]), 'image')} and not about {size}. Fewer folds, --group "
                "with an expression that tells finer groups, or --group none"
            )


def _balance(held: Mapping[str, Records]) -> str:
    """Return how many images, and objects of the rarest class, the folds have, in words."""
    counts = [
        Counter(one.name for record in part for one in record.objects) for part in held.values()
    ]
    total = sum(counts, Counter[str]())
    if not total:
        return ""
    rarest = min(total, key=lambda name: (total[name], name))
    images = _range(len(part) for part in held.values())
    objects = _range(one[rarest] for one in counts)
    kind = f"of the rarest class, {rarest}," if len(total) > 1 else f"of {rarest}"
    return f"each fold has {images} images; {kind} {objects} of {counted(total[rarest], 'object')}"


def _range(values: Iterable[int]) -> str:
    """Return `3 to 5`, or the one number all are."""
    known = sorted(values)
    return str(known[0]) if known[0] == known[-1] else f"{known[0]} to {known[-1]}"
