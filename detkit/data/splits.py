"""Training, validation and test splits: named, cut off or divided by a seed; classes chosen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from detkit.data.folder_splits import Records, in_order, rank
from detkit.data.formats.reading import read_folder
from detkit.data.groups import SAME_BYTES, Groups, find_groups
from detkit.data.paths import split_name
from detkit.data.records import Dataset, ImageRecord
from detkit.errors import DetkitError, UsageError
from detkit.text import agreed, counted, looks_like_a_path, nearest_hint

DEFAULT_FRACTION = 0.2  # ours: what is kept for validation where the folder does not say
MOST_OFF = 0.5  # ours: part of its size by which a split of whole groups may miss it


def select_classes(dataset: Dataset, classes: Sequence[str]) -> Dataset:
    """Return the data set with these classes only, in this order; images all stay.

    Raises UsageError for a class the data set does not have (naming the nearest one), one
    given twice, or none at all.
    """
    if not classes:
        raise UsageError("--classes: name at least one class")
    for name in classes:
        if name not in dataset.class_names:
            known = ", ".join(dataset.class_names[:20]) or "none"
            hint = nearest_hint(name, dataset.class_names, f"it has {known}")
            raise UsageError(f"--classes {name}: {dataset.root} has no such class; {hint}")
        if list(classes).count(name) > 1:
            raise UsageError(f"--classes {name}: given twice")
    chosen = set(classes)
    splits: dict[str, Records] = {}
    for split, records in dataset.splits.items():
        kept = []
        for record in records:
            objects = tuple(one for one in record.objects if one.region or one.name in chosen)
            same = len(objects) == len(record.objects)
            kept.append(record if same else replace(record, objects=objects))
        splits[split] = tuple(kept)
    left_out = _num_boxes(dataset.splits) - _num_boxes(splits)
    note = f"classes: {len(classes)} of {len(dataset.class_names)} chosen"
    if left_out:
        note += f"; {counted(left_out, 'box')} of other classes left out"
    changed = replace(dataset, class_names=tuple(classes), splits=splits)
    return replace(changed, notes=(*dataset.notes, note))


def _num_boxes(splits: dict[str, Records]) -> int:
    """Return how many boxes distinct images hold together."""
    images = {one.image_id: len(one.objects) for part in splits.values() for one in part}
    return sum(images.values())


def divide(records: Records, fraction: float, seed: int) -> tuple[Records, Records]:
    """Return (kept, cut): the same `fraction` of the images is cut for the same seed.

    Who is cut is decided by a hash of the seed and the image's name, so it depends neither
    on the order of the records nor on the machine, and adding images moves few others. Images
    that belong together (`groups.find_groups`) are cut together, so that the share may fall short;
    when all do, they are divided all the same. At least one image is cut and one kept; a single
    image is kept. Raises UsageError for a fraction that does not lie between 0 and 1.
    """
    kept, held, _ = _divide(records, fraction, seed)
    return kept, held


def _divide(records: Records, fraction: float, seed: int) -> tuple[Records, Records, str]:
    """Return (kept, cut, what belongs together, in words; "" when nothing does)."""
    if not 0.0 < fraction < 1.0:
        raise UsageError(f"{fraction}: the share kept for validation must lie between 0 and 1")
    if len(records) < 2:
        return records, (), ""
    number = min(max(round(len(records) * fraction), 1), len(records) - 1)
    together = find_groups(records)
    words = together.in_words() if together.num_groups < len(records) else ""
    if together.num_groups == 1:
        together = Groups({one.path: place for place, one in enumerate(records)}, ())
        words = "all images belong to one group, which is divided: the score will flatter"
    cut_ids: set[str] = set()
    groups = ranked(records, together, seed)
    for group in groups:
        if len(cut_ids) + len(group) <= number:
            cut_ids.update(one.image_id for one in group)
    if not cut_ids:
        cut_ids.update(one.image_id for one in min(groups, key=len))
    kept = tuple(one for one in records if one.image_id not in cut_ids)
    return kept, tuple(one for one in records if one.image_id in cut_ids), words


def cut(dataset: Dataset, fraction: float, seed: int) -> Dataset:
    """Return the data set with a share of its training images as "val", cut by the seed.

    Raises UsageError for a fraction that does not lie between 0 and 1.
    """
    name = training_name(dataset)
    train, val, words = _divide(dataset.splits[name], fraction, seed)
    rest = {key: part for key, part in dataset.splits.items() if key not in (name, "val")}
    return dataset.with_splits(
        in_order({**rest, "train": train, "val": val}), _cut_note(fraction, val, seed, name, words)
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
    note = f"{counted(len(train) - len(kept), 'image')} of the validation split not trained on"
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
    kept, val, words = _divide(train, fraction, seed)
    return kept, val, (_cut_note(fraction, val, seed, name, words),)


def _cut_note(fraction: float, val: Records, seed: int, name: str, words: str) -> str:
    """Return what is said when a validation split was cut."""
    if not val:
        return "one image: nothing kept for validation"
    why = "no split in the folder" if name == "all" else f"cut off {name}"
    share = f"{100 * fraction:g} % ({counted(len(val), 'image')})"
    return f"{why}: {share} kept for validation, seed {seed}" + f"; {words}" * bool(words)


def _is_number(word: str) -> bool:
    """Return whether a word is a number, though "1.5" has the looks of a suffix."""
    return word.replace(".", "", 1).isdecimal()


def _from_folder(dataset: Dataset, path: Path) -> tuple[Records, tuple[str, ...]]:
    """Return the validation images of another labelled folder, and notes on it."""
    if not path.exists():
        named = ", ".join(dataset.splits)
        is_path = looks_like_a_path(str(path)) and not _is_number(str(path))
        kind = DetkitError if is_path else UsageError
        raise kind(
            f"--val {path}: neither a split of {dataset.root} (it has {named}), nor a share "
            "like 0.2, nor a labelled folder"
        )
    other = read_folder(path)
    for split in ("val", "all", "test"):
        if split in other.splits:
            break
    else:
        split = next(iter(other.splits), "")
    records = other.splits.get(split, ())
    if not records:
        raise UsageError(f"--val {path}: the folder holds no image to validate on")
    notes = [f"validating on {split} of {path}: {counted(len(records), 'image')}"]
    strange = sorted(set(other.class_names) - set(dataset.class_names))
    if strange:
        notes.append(f"classes of {path} that are not trained, left out: {', '.join(strange)}")
    known = set(dataset.class_names)
    kept = tuple(
        replace(one, objects=tuple(it for it in one.objects if it.region or it.name in known))
        for one in records
    )
    return kept, tuple(notes)


def require_shares(val: float, test: float) -> None:
    """Raise UsageError for shares of `split` that leave nothing to train on, or divide nothing."""
    if not (0.0 <= val < 1.0 and 0.0 <= test < 1.0 and 0.0 < val + test < 1.0):
        raise UsageError(
            f"--val {val:g} --test {test:g}: must lie between 0 and 1, and leave some to train on"
        )


def split_dataset(
    dataset: Dataset,
    *,
    val: float,
    test: float = 0.0,
    seed: int,
    group: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Return the data set with its images divided into "train", "val" and "test".

    `val` and `test` are shares of all images. Without a share for it, an existing test split
    stays as it is. Images that belong together by the rule `group` (see `groups.find_groups`) stay
    together. Classes keep about their shares in each split: the rarest class is dealt out first
    (after Sechidis et al. 2011, iterative stratification), and a note says how far they do.
    `progress` hears (images looked at, in all). The same seed divides the same way on every
    machine, whatever the order of the images. Raises UsageError for shares out of range, a rule
    that there is not, and too few images or groups.
    """
    require_shares(val, test)
    kept = {} if test else {"test": dataset.splits.get("test", ())}
    held = {record.path for record in kept.get("test", ())}
    pool = {
        record.path: record
        for records in dataset.splits.values()
        for record in records
        if record.path not in held
    }
    records = tuple(pool.values())
    together = find_groups(records, group, progress)
    groups = sorted(ranked(records, together, seed), key=lambda group: -len(group))
    shares = {"train": 1.0 - val - test, "val": val, "test": test}
    shares = {name: share for name, share in shares.items() if share > 0}
    sizes = _sizes(len(pool), shares)
    place = deal(groups, sizes, shares)
    splits = {
        name: tuple(record for record in records if place[record.image_id] == name)
        for name in sizes
    }
    _require_fit(splits, sizes, together, shares)
    if kept.get("test"):
        splits["test"] = kept["test"]
    counts = ", ".join(f"{name} {len(records)}" for name, records in splits.items())
    note = f"divided anew with seed {seed}: {counts}"
    if kept.get("test"):
        note += " (the test split is as it was)"
    notes = [note, f"kept together: {together.in_words()}"]
    return dataset.with_splits(splits, *notes, *_balance(splits, shares))


def ranked(records: Records, together: Groups, seed: int) -> list[list[ImageRecord]]:
    """Return the images by group, the groups in an order of the seed's."""
    members: dict[int, list[ImageRecord]] = {}
    for record in records:
        members.setdefault(together.number_of[record.path], []).append(record)
    return sorted(
        members.values(), key=lambda group: rank(min(one.image_id for one in group), seed)
    )


def _require_fit(
    splits: Mapping[str, Records],
    sizes: Mapping[str, int],
    together: Groups,
    shares: Mapping[str, float],
) -> None:
    """Raise UsageError when groups are too few or too large for the splits to have their sizes.

    Files of the same bytes alone are no reason: they are to be deleted.
    """
    if all(rule.startswith(SAME_BYTES) for rule in together.rules):
        return
    for name, size in sizes.items():
        off = abs(len(splits[name]) - size)
        if not splits[name] or off > max(size * MOST_OFF, 2):
            raise UsageError(
                f"{together.in_words()}: too few for {name} to have {100 * shares[name]:.0f} % "
                f"({counted(size, 'image')}; it would have {len(splits[name])}). Other shares, "
                "--group with an expression that tells finer groups, or --group none"
            )


def _balance(splits: Mapping[str, Records], shares: Mapping[str, float]) -> list[str]:
    """Return notes on how far classes are from their shares in each split, and which lack some."""
    counts = {
        name: Counter(one.name for record in splits[name] for one in record.counted)
        for name in shares
    }
    total = sum(counts.values(), Counter[str]())
    off = [
        (abs(counts[name][one] / total[one] - share), one, name)
        for name, share in shares.items()
        for one in total
    ]
    if not off:
        return []
    most, one, name = max(off)
    number = counts[name][one]
    notes = [
        f"classes have their shares of objects within {100 * most:.0f} points (most off: {one}, "
        f"{number} of {total[one]} in {name}, {100 * shares[name]:.0f} % asked)"
    ]
    for name in shares:
        if missing := [one for one in total if not counts[name][one]]:
            more = f" and {counted(len(missing) - 8, 'class')} more" if missing[8:] else ""
            notes.append(f"{name} has no object of {', '.join(sorted(missing)[:8])}{more}")
    return notes


def _sizes(count: int, shares: dict[str, float]) -> dict[str, int]:
    """Return how many images each split takes: at least one, train what is left."""
    if count < len(shares):
        raise UsageError(
            f"{counted(count, 'image')} {agreed(count, 'is', 'are')} too few for {len(shares)} "
            "splits"
        )
    sizes = {name: max(1, round(count * shares[name])) for name in shares if name != "train"}
    while sum(sizes.values()) >= count:
        sizes[max(sizes, key=lambda name: sizes[name])] -= 1
    return {"train": count - sum(sizes.values()), **sizes}


def deal(
    groups: list[list[ImageRecord]], sizes: dict[str, int], shares: dict[str, float]
) -> dict[str, str]:
    """Return the split of each image by its id: whole groups, each class by its share.

    `sizes` are images of each split, `shares` of all objects. Of each class, the rarest first, the
    groups with most objects of it go first, each to the split that lacks the largest part of its
    share; the first to a split called train, which is to know every class.
    """
    counts = [Counter(one.name for record in group for one in record.counted) for group in groups]
    total = sum(counts, Counter[str]())
    wanted = {name: {one: total[one] * shares[name] for one in total} for name in sizes}
    waiting = dict.fromkeys(range(len(groups)))
    free = dict(sizes)
    place: dict[str, str] = {}
    # The rarest class first: later ones have more images to make up for it. Then the empty.
    known: set[str] = set()  # classes of train
    for one in [*sorted(total, key=lambda name: (total[name], name)), None]:
        holding = [number for number in waiting if one is None or counts[number][one]]
        for number in holding if one is None else sorted(holding, key=lambda n: -counts[n][one]):
            del waiting[number]
            size = len(groups[number])
            fitting = [name for name in free if free[name] >= size]
            fitting = fitting or [max(free, key=lambda name: free[name])]

            def need(name: str, one: str | None = one) -> tuple[bool, float, float]:
                if one is None:
                    return False, 0.0, free[name] / shares[name]
                is_first = name == "train" and one not in known
                return is_first, wanted[name][one] / shares[name], free[name] / shares[name]

            chosen = max(fitting, key=need)
            free[chosen] -= size
            known.update(counts[number] if chosen == "train" else ())
            for label, count in counts[number].items():
                wanted[chosen][label] -= count
            place |= {record.image_id: chosen for record in groups[number]}
    return place
