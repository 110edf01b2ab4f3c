"""A data set divided anew into train, val and test, by a seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from detkit.data.checks.duplicates import identical_files
from detkit.data.folder_splits import rank
from detkit.data.records import Dataset, ImageRecord
from detkit.errors import UsageError


def split_dataset(dataset: Dataset, *, val: float, test: float = 0.0, seed: int) -> Dataset:
    """Return the data set with its images divided into "train", "val" and "test".

    `val` and `test` are shares of all images. Without a share for it, an existing test split
    stays as it is. Classes keep about their shares in each split: the rarest class is dealt
    out first (after Sechidis et al. 2011, iterative stratification). Images with the same
    bytes stay together. The same seed divides the same way on every machine, whatever the
    order of the images. Raises UsageError for shares out of range or too few images.
    """
    if not (0.0 <= val < 1.0 and 0.0 <= test < 1.0 and 0.0 < val + test < 1.0):
        raise UsageError(
            f"--val {val:g} --test {test:g}: must lie between 0 and 1, and leave some to train on"
        )
    kept = {} if test else {"test": dataset.splits.get("test", ())}
    held = {record.path for record in kept.get("test", ())}
    pool = {
        record.path: record
        for records in dataset.splits.values()
        for record in records
        if record.path not in held
    }
    groups = _groups(list(pool.values()), seed)
    shares = {"train": 1.0 - val - test, "val": val, "test": test}
    room = _rooms(len(pool), {name: share for name, share in shares.items() if share > 0})
    place = _deal(groups, room, shares)
    splits = {
        name: tuple(record for record in pool.values() if place[record.image_id] == name)
        for name in room
    }
    if kept.get("test"):
        splits["test"] = kept["test"]
    counts = ", ".join(f"{name} {len(records)}" for name, records in splits.items())
    note = f"divided anew with seed {seed}: {counts}"
    if kept.get("test"):
        note += " (the test split is as it was)"
    return dataset.with_splits(splits, note)


def _groups(records: Sequence[ImageRecord], seed: int) -> list[list[ImageRecord]]:
    """Return the images in an order of the seed's, those with the same bytes together."""
    group_of = {record.path: [record] for record in records}
    for paths in identical_files(group_of):
        together = [group_of[path][0] for path in paths]
        for path in paths[1:]:
            del group_of[path]
        group_of[paths[0]] = together

    return sorted(
        group_of.values(), key=lambda group: rank(min(one.image_id for one in group), seed)
    )


def _rooms(count: int, shares: dict[str, float]) -> dict[str, int]:
    """Return how many images each split takes: at least one, train what is left."""
    if count < len(shares):
        raise UsageError(f"{count} images are too few for {len(shares)} splits")
    room = {name: max(1, round(count * shares[name])) for name in shares if name != "train"}
    while sum(room.values()) >= count:
        room[max(room, key=lambda name: room[name])] -= 1
    return {"train": count - sum(room.values()), **room}


def _deal(
    groups: list[list[ImageRecord]], room: dict[str, int], shares: dict[str, float]
) -> dict[str, str]:
    """Return the split of each image by its id."""
    counts = [Counter(one.name for record in group for one in record.objects) for group in groups]
    total = sum(counts, Counter[str]())
    wanted = {name: {one: total[one] * shares[name] for one in total} for name in room}
    waiting = dict.fromkeys(range(len(groups)))
    room = dict(room)
    place: dict[str, str] = {}
    # The rarest class first: later ones have more images to make up for it. Then the empty.
    for one in [*sorted(total, key=lambda name: (total[name], name)), None]:
        for number in [n for n in waiting if one is None or counts[n][one]]:
            del waiting[number]
            size = len(groups[number])
            fitting = [name for name in room if room[name] >= size] or list(room)

            def need(name: str, one: str | None = one) -> tuple[float, float]:
                lack = wanted[name][one] / shares[name] if one is not None else 0.0
                return lack, room[name] / shares[name]

            chosen = max(fitting, key=need)
            room[chosen] -= size
            for label, count in counts[number].items():
                wanted[chosen][label] -= count
            place |= {record.image_id: chosen for record in groups[number]}
    return place
