"""Splits and classes of a data set: gathered from the folder, chosen, or cut by a seed."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from detkit.data.records import Dataset, Finding, ImageRecord
from detkit.data.tree import Tree, images_finding, split_in, split_name
from detkit.errors import UsageError

DEFAULT_FRACTION = 0.2  # ours: what is kept for validation where the folder does not say

_ORDER = {"train": 0, "trainval": 1, "val": 2, "test": 3}

Records = tuple[ImageRecord, ...]


def in_order(splits: dict[str, Records]) -> dict[str, Records]:
    """Return the splits as train, trainval, val, test, then the others by name; no empty ones."""
    names = sorted(splits, key=lambda name: (_ORDER.get(name, 9), name))
    return {name: splits[name] for name in names if splits[name]}


def folder_splits(
    tree: Tree, records: Iterable[ImageRecord], findings: list[Finding]
) -> dict[str, Records]:
    """Return the splits that the images' folders are named after, or all images as "all"."""
    groups: dict[str | None, list[ImageRecord]] = {}
    for record in records:
        groups.setdefault(split_in(record.image_id), []).append(record)
    return named_splits(tree, groups, findings)


def named_splits(
    tree: Tree, groups: Mapping[str | None, Sequence[ImageRecord]], findings: list[Finding]
) -> dict[str, Records]:
    """Return the groups of records by split; the group None is "all" when it is alone.

    Beside named splits, images without one are not used, and a finding says so.
    """
    named = {name: tuple(group) for name, group in groups.items() if name is not None}
    if not named:
        return {"all": tuple(groups.get(None, ()))}
    sorted_in = {one.image_id for group in named.values() for one in group}
    rest = [one for one in groups.get(None, ()) if one.image_id not in sorted_in]
    if rest:
        message = f"in no split, beside {', '.join(sorted(named))}; not used: sort them in"
        images = [one.image_id for one in rest]
        findings.append(images_finding(tree, "in-no-split", images, message))
    return named


def unlabelled_folder(tree: Tree, folder: str, images: list[str]) -> Finding:
    """Return the warning about a folder of images of which not one has labels."""
    where = folder or "the top folder"
    message = f"and no label for any of them in {where}; not used"
    return images_finding(tree, "unlabelled-folder", images, message)


def without_union(splits: dict[str, Records], union: str) -> tuple[dict[str, Records], str | None]:
    """Return the splits without the one that only repeats the others, and a note about it.

    "trainval" repeats train and val; a list of all images repeats every other.
    """
    if union not in splits:
        return splits, None
    parts = ("train", "val") if union == "trainval" else tuple(n for n in splits if n != union)
    inside = {one.image_id for name in parts for one in splits.get(name, ())}
    if not inside or any(one.image_id not in inside for one in splits[union]):
        return splits, None
    rest = {name: records for name, records in splits.items() if name != union}
    have = " + ".join(name for name in parts if name in splits)
    return rest, f"{union} ({len(splits[union])} images) repeats {have} and is not listed twice"


def summary(dataset: Dataset) -> str:
    """Return the line that says what was found: format, images, boxes, classes, splits."""
    images = {one.image_id: len(one.objects) for part in dataset.splits.values() for one in part}
    counts = [
        _count(len(images), "image"),
        _count(sum(images.values()), "box"),
        _count(len(dataset.class_names), "class"),
    ]
    parts = ", ".join(f"{name} {len(part)}" for name, part in dataset.splits.items())
    named = "no splits" if not set(dataset.splits) - {"all"} else f"splits {parts}"
    return f"{dataset.format}: {', '.join(counts)}; {named}"


def _count(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural where it needs one."""
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun}{'es' if noun.endswith(('s', 'x')) else 's'}"


def select_classes(dataset: Dataset, classes: Sequence[str]) -> Dataset:
    """Return the data set with these classes only, in this order; images all stay.

    Raises UsageError for a class the data set does not have (naming the nearest one), one
    given twice, or none at all.
    """
    if not classes:
        raise UsageError("--classes: name at least one class")
    for name in classes:
        if name not in dataset.class_names:
            folded = {one.casefold(): one for one in dataset.class_names}
            near = difflib.get_close_matches(name.casefold(), folded, n=1)
            known = ", ".join(dataset.class_names[:20]) or "none"
            hint = f"did you mean {folded[near[0]]}?" if near else f"it has {known}"
            raise UsageError(f"--classes {name}: {dataset.root} has no such class; {hint}")
        if list(classes).count(name) > 1:
            raise UsageError(f"--classes {name}: given twice")
    chosen = set(classes)
    splits: dict[str, Records] = {}
    for split, records in dataset.splits.items():
        kept = []
        for record in records:
            objects = tuple(one for one in record.objects if one.name in chosen)
            same = len(objects) == len(record.objects)
            kept.append(record if same else replace(record, objects=objects))
        splits[split] = tuple(kept)
    left_out = _num_boxes(dataset.splits) - _num_boxes(splits)
    note = f"classes: {len(classes)} of {len(dataset.class_names)} chosen"
    if left_out:
        note += f"; {_count(left_out, 'box')} of other classes left out"
    changed = replace(dataset, class_names=tuple(classes), splits=splits)
    return replace(changed, notes=(*dataset.notes, note))


def _num_boxes(splits: dict[str, Records]) -> int:
    """Return how many boxes distinct images hold together."""
    images = {one.image_id: len(one.objects) for part in splits.values() for one in part}
    return sum(images.values())


def divide(records: Records, fraction: float, seed: int) -> tuple[Records, Records]:
    """Return (kept, cut): the same `fraction` of the images is cut for the same seed.

    Who is cut is decided by a hash of the seed and the image's name, so it depends neither
    on the order of the records nor on the machine, and adding images moves few others. At
    least one image is cut and one kept; a single image is kept.
    Raises UsageError for a fraction that does not lie between 0 and 1.
    """
    if not 0.0 < fraction < 1.0:
        raise UsageError(f"{fraction}: the share kept for validation must lie between 0 and 1")
    if len(records) < 2:
        return records, ()

    def rank(record: ImageRecord) -> bytes:
        return hashlib.sha256(f"{seed}:{record.image_id}".encode()).digest()

    number = min(max(round(len(records) * fraction), 1), len(records) - 1)
    cut_ids = {one.image_id for one in sorted(records, key=rank)[:number]}
    kept = tuple(one for one in records if one.image_id not in cut_ids)
    return kept, tuple(one for one in records if one.image_id in cut_ids)


def cut(dataset: Dataset, fraction: float, seed: int) -> Dataset:
    """Return the data set with a share of its training images as "val", cut by the seed.

    Raises UsageError for a fraction that does not lie between 0 and 1.
    """
    name = training_name(dataset)
    train, val = divide(dataset.splits[name], fraction, seed)
    rest = {key: part for key, part in dataset.splits.items() if key not in (name, "val")}
    return dataset.with_splits(
        in_order({**rest, "train": train, "val": val}), _cut_note(fraction, val, seed, name)
    )


def training_name(dataset: Dataset) -> str:
    """Return the split to train on: "train", else "trainval", else the only one there is.

    Raises UsageError when the data set has none of them.
    """
    for name in ("train", "trainval", "all"):
        if name in dataset.splits:
            return name
    if len(dataset.splits) == 1:
        return next(iter(dataset.splits))
    named = ", ".join(dataset.splits) or "no images at all"
    raise UsageError(f"{dataset.root}: no split to train on (it has {named}); name one train")


def training_splits(
    dataset: Dataset, val: str | Path | float | None, seed: int
) -> tuple[Records, Records, tuple[str, ...]]:
    """Return (images to train on, images to validate on, notes on what was chosen or cut).

    `val` is the name of a split, a share of the training images to cut off ("0.2"), or the
    path of another labelled folder; None takes the folder's own "val", or cuts
    `DEFAULT_FRACTION`. "test" is never touched unless it is named. Images chosen for
    validation are not trained on, unless the training split itself was named.
    Raises UsageError when `val` is none of these.
    """
    name = training_name(dataset)
    train = dataset.splits[name]
    if val is None:
        if dataset.splits.get("val") and name != "val":
            return _apart(train, dataset.splits["val"])
        return _cut_off(train, DEFAULT_FRACTION, seed, name)
    if (fraction := _as_fraction(val)) is not None:
        return _cut_off(train, fraction, seed, name)
    known = str(val) if str(val) in dataset.splits else split_name(str(val))
    if known in dataset.splits:
        if known == name:
            return train, train, (f"validating on the training images ({name})",)
        return _apart(train, dataset.splits[known])
    return train, *_from_folder(dataset, Path(str(val)))


def _apart(train: Records, val: Records) -> tuple[Records, Records, tuple[str, ...]]:
    """Return the two splits with no image in both, and a note when there was one."""
    held_out = {one.image_id for one in val}
    kept = tuple(one for one in train if one.image_id not in held_out)
    if len(kept) == len(train) or not kept:
        return train, val, ()
    note = f"{_count(len(train) - len(kept), 'image')} of the validation split not trained on"
    return kept, val, (note,)


def _as_fraction(val: str | Path | float) -> float | None:
    """Return the share between 0 and 1 that `val` is or spells, or None."""
    try:
        share = float(str(val))
    except ValueError:
        return None
    return share if 0.0 < share < 1.0 else None


def _cut_off(
    train: Records, fraction: float, seed: int, name: str
) -> tuple[Records, Records, tuple[str, ...]]:
    """Return the training images without a share of them, that share, and the note."""
    kept, val = divide(train, fraction, seed)
    return kept, val, (_cut_note(fraction, val, seed, name),)


def _cut_note(fraction: float, val: Records, seed: int, name: str) -> str:
    """Return what is said when a validation split was cut."""
    if not val:
        return "one image: nothing kept for validation"
    why = "no split in the folder" if name == "all" else f"cut off {name}"
    share = f"{100 * fraction:g} % ({_count(len(val), 'image')})"
    return f"{why}: {share} kept for validation, seed {seed}"


def _from_folder(dataset: Dataset, path: Path) -> tuple[Records, tuple[str, ...]]:
    """Return the validation images of another labelled folder, and notes on it."""
    from detkit.data.folder import open_dataset

    if not path.exists():
        named = ", ".join(dataset.splits)
        raise UsageError(
            f"--val {path}: neither a split of {dataset.root} (it has {named}), nor a share "
            "like 0.2, nor a labelled folder"
        )
    other = open_dataset(path)
    for split in ("val", "all", "test"):
        if split in other.splits:
            break
    else:
        split = next(iter(other.splits), "")
    records = other.splits.get(split, ())
    if not records:
        raise UsageError(f"--val {path}: the folder holds no image to validate on")
    notes = [f"validating on {split} of {path}: {_count(len(records), 'image')}"]
    strange = sorted(set(other.class_names) - set(dataset.class_names))
    if strange:
        notes.append(f"classes of {path} that are not trained, left out: {', '.join(strange)}")
    known = set(dataset.class_names)
    kept = tuple(
        replace(one, objects=tuple(thing for thing in one.objects if thing.name in known))
        for one in records
    )
    return kept, tuple(notes)
