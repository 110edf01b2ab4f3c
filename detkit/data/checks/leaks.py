"""What a split to be judged on shares with the one that is learnt from, though no file is in both.

Images that show what a training image shows, and images of a recording that training images are
of, too: both make a score too good.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detkit.data.groups import find_groups, recordings
from detkit.data.image_files import ImageFiles, open_images
from detkit.data.near_duplicates import find_copies
from detkit.data.records import Dataset, Finding, ImageRecord
from detkit.text import agreed, counted

LEAKS = frozenset(["shared-image", "leaked-image", "near-copy", "shared-recording"])
_LEARNT_FROM = ("train", "trainval")  # the first there is


@dataclass(frozen=True)
class Leak:
    """One image of a split that a training image gives away."""

    image: ImageRecord
    seen: ImageRecord  # the training image
    alike: float  # 1: the same bytes


def find_leaks(
    judged: Sequence[ImageRecord],
    learnt: Sequence[ImageRecord],
    progress: Callable[[int, int], None] | None = None,
) -> list[Leak]:
    """Return the judged images that are learnt ones or copies, each with the one most like it.

    `progress` hears (images looked at, in all).
    """
    paths = [record.path for record in [*judged, *learnt]]
    return leaks_among(judged, learnt, open_images(paths, looked_at=paths, progress=progress))


def leaks_among(
    judged: Sequence[ImageRecord],
    learnt: Sequence[ImageRecord],
    files: ImageFiles,
) -> list[Leak]:
    """Return what `find_leaks` does; `files` hold both.

    Where none was looked at only images that are in both are told. Of copies those of the same
    bytes go first.
    """
    seen: dict[Path, ImageRecord] = {record.path: record for record in learnt}
    own = {record.path: record for record in judged}
    leaks = {path: Leak(one, seen[path], 1.0) for path, one in own.items() if path in seen}
    if files.looked_at:
        for group in files.identical([*seen, *own]):
            first = next((path for path in group if path in seen), None)
            if first is not None:
                for path in group:
                    if path in own:
                        leaks.setdefault(path, Leak(own[path], seen[first], 1.0))
        parts = [files.looks_of(record.path for record in part) for part in (judged, learnt)]
        for copy in find_copies(*parts):
            image, other = judged[copy.image], learnt[copy.other]
            leaks.setdefault(image.path, Leak(image, other, copy.alike))
    return [leaks[record.path] for record in judged if record.path in leaks]


def records_of(dataset: Dataset) -> list[ImageRecord]:
    """Return the images of all splits, each once."""
    return list({one.path: one for part in dataset.splits.values() for one in part}.values())


def shared_recordings(
    judged: Sequence[ImageRecord], learnt: Sequence[ImageRecord], number_of: Mapping[Path, int]
) -> list[ImageRecord]:
    """Return the judged images in whose groups learnt ones are, too, but for those learnt."""
    trained = {number_of[record.path] for record in learnt}
    paths = {record.path for record in learnt}
    return [one for one in judged if number_of[one.path] in trained and one.path not in paths]


def check_leaks(dataset: Dataset, files: ImageFiles, rule: str = "auto") -> Iterator[Finding]:
    """Yield images of the other splits that training images show, or whose recording they are of.

    `files` are the images; where those `compared` were not looked at, names alone tell. `rule` says
    what a recording is, as for `groups.find_groups`, which says what is raised.

    Of images with the same bytes nothing is said: `check_duplicates` does.
    """
    name, judged = _compared(dataset)
    if name is None:
        if rule != "auto":  # a rule that is none is told all the same
            find_groups(records_of(dataset), rule, files=files)
        return
    records = list(compared(dataset).values())
    if rule == "auto":
        groups = recordings(records, files)
    else:
        needed = {one.path for split in judged for one in dataset.splits[split]}
        groups = find_groups(records, rule, needed=needed, files=files)
    learnt = dataset.splits[name]
    for split in judged:
        members = dataset.splits[split]
        told = set()
        for leak in leaks_among(members, learnt, files):
            told.add(leak.image.path)
            if not _same_bytes(leak, files):
                yield _near_copy(leak, split, name)
        if rule == "auto":  # by names alone, copies or not
            told = set()
        yield from _from_recordings(members, learnt, groups.number_of, split, name, told)


def compared(dataset: Dataset) -> dict[Path, ImageRecord]:
    """Return the images, by path, that `check_leaks` holds against each other."""
    name, judged = _compared(dataset)
    splits = [] if name is None else [name, *judged]
    return {one.path: one for split in splits for one in dataset.splits[split]}


def _compared(dataset: Dataset) -> tuple[str | None, list[str]]:
    """Return the split that is learnt from and those that are judged on; None where one lacks."""
    name = next((one for one in _LEARNT_FROM if dataset.splits.get(one)), None)
    judged = [one for one in dataset.splits if one not in (*_LEARNT_FROM, "all")]
    return (name if any(dataset.splits[one] for one in judged) else None), judged


def _same_bytes(leak: Leak, files: ImageFiles) -> bool:
    """Return whether both are one file, or hold the same bytes."""
    paths = (leak.image.path, leak.seen.path)
    return leak.alike == 1.0 and (paths[0] == paths[1] or bool(files.identical(paths)))


def _near_copy(leak: Leak, split: str, learnt: str) -> Finding:
    """Return the warning about one image that a training image shows."""
    alike = min(99, int(np.floor(100 * leak.alike)))
    own = "shows" if _is_inside(leak.image, split) else f"of {split}, shows"
    seen = leak.seen.image_id + ("" if _is_inside(leak.seen, learnt) else f" ({learnt})")
    message = (
        f"{own} {seen} again ({alike} % alike); a score on {split} would be too good: keep them in "
        "one split"
    )
    return Finding(
        *("warning", "near-copy", message, leak.image.path),
        image_id=leak.image.image_id,
        split=split,
        others=(leak.seen.image_id,),
    )


def _is_inside(record: ImageRecord, split: str) -> bool:
    """Return whether an image's path says of which split it is."""
    return split in record.image_id.split("/")[:-1]


def _from_recordings(
    members: Sequence[ImageRecord],
    learnt: Sequence[ImageRecord],
    number_of: Mapping[Path, int],
    split: str,
    name: str,
    told: Collection[Path],
) -> Iterator[Finding]:
    """Yield the warning about the images of a split whose recording training images are of.

    Those `told` already are left out.
    """
    shared = shared_recordings(members, learnt, number_of)
    shared = [one for one in shared if one.path not in told]
    if not shared:
        return
    share = 100 * len(shared) / len(members)
    images = counted(len(shared), "image")
    message = (
        f"{share:.0f} % of {split} ({images}) {agreed(len(shared), 'comes', 'come')} from "
        f"recordings seen in {name} (the first: {shared[0].image_id}); a score on {split} would "
        "be too good: `detkit split` keeps a recording in one split"
    )
    group = number_of[shared[0].path]
    seen = next(record for record in learnt if number_of[record.path] == group)
    both = (shared[0].image_id, seen.image_id)
    yield Finding("warning", "shared-recording", message, split=split, others=both)
