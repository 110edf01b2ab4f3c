"""A pool of unlabelled images beside what is labelled already: its scenes and its copies."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detkit.data.groups import MOST_LOOKED_AT
from detkit.data.image_files import ImageFiles, open_images
from detkit.data.images import read_small_grey
from detkit.data.looks import GREY_SIDE
from detkit.data.near_duplicates import find_copies
from detkit.data.records import Dataset, ImageRecord
from detkit.errors import DetkitError
from detkit.labelling.novelty import scene_features
from detkit.labelling.queue import LabelQueue


@dataclass(frozen=True)
class Pool:
    """The images that can be labelled next, N of them."""

    names: Sequence[str]  # as the user wrote them
    features: NDArray[np.float64]  # (N, D)
    copies: Sequence[tuple[int, int]]  # pairs that show the same
    labelled: Sequence[Path]  # M images
    labelled_features: NDArray[np.float64]  # (M, D)
    seen: Mapping[int, int]  # labelled image by its copy in the pool
    unreadable: Mapping[str, str]  # what is wrong with the images left out, by name
    num_done: int  # images of the pool left out, since they are among the labelled
    num_repeated: int  # names left out, since they name an image again
    was_compared: bool  # else there were too many images to tell copies by more than their bytes

    def queue(
        self,
        *,
        needs: Mapping[str, float] | None = None,
        counts: Mapping[str, int] | None = None,
        aps: Mapping[str, float | None] | None = None,
    ) -> LabelQueue:
        """Return the queue of the pool, before any detections have arrived."""
        return LabelQueue(
            self.features,
            self.labelled_features,
            self.copies,
            self.seen,
            needs=needs or {},
            counts=counts,
            aps=aps or {},
        )

    def without(self, broken: Iterable[str]) -> Pool:
        """Return the pool without further images, which could not be read."""
        gone = set(broken)
        keep = [place for place, name in enumerate(self.names) if name not in gone]
        new = {old: place for place, old in enumerate(keep)}
        return Pool(
            [self.names[place] for place in keep],
            self.features[keep],
            [(new[one], new[two]) for one, two in self.copies if one in new and two in new],
            self.labelled,
            self.labelled_features,
            {new[place]: other for place, other in self.seen.items() if place in new},
            self.unreadable,
            self.num_done,
            self.num_repeated,
            self.was_compared,
        )


def look_at_pool(
    names: Sequence[str],
    labelled: Sequence[Path] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Pool:
    """Return the images of these files, without those that are `labelled` or cannot be read.

    `progress` hears (images looked at, in all). Up to `MOST_LOOKED_AT` images near copies are
    told, of more the files of the same bytes.
    """
    done = {_place(path) for path in labelled}
    own: dict[str, str] = {}
    num_done = 0
    for name in names:
        place = _place(Path(name))
        num_done += place in done
        if place not in done:
            own.setdefault(place, name)
    kept = [*own.values()]
    paths = [*map(Path, kept), *labelled]
    files = open_images(paths, looked_at=paths, progress=progress)
    looks = files.looks_of(paths)
    unreadable: dict[str, str] = {}
    for index in np.flatnonzero(~looks.grey[: len(kept)].any(axis=(1, 2))).tolist():
        try:  # black, or none: `look_at` tells both alike
            read_small_grey(Path(kept[index]), GREY_SIDE)
        except (DetkitError, OSError, ValueError) as error:
            unreadable[kept[index]] = str(error)
    good = [place for place, name in enumerate(kept) if name not in unreadable]
    seen_looks = [len(kept) + place for place in range(len(labelled))]
    pool, others = looks.part(good), looks.part(seen_looks)
    readable = [kept[place] for place in good]
    copies, seen = _same_bytes(readable, labelled, files)
    was_compared = len(good) + len(labelled) <= MOST_LOOKED_AT
    if was_compared:
        copies |= {(one.other, one.image) for one in find_copies(pool)}
        if labelled:
            seen = {one.image: one.other for one in find_copies(pool, others)} | seen
    return Pool(
        readable,
        scene_features(pool),
        sorted(copies),
        labelled,
        scene_features(others),
        seen,
        unreadable,
        num_done,
        len(names) - num_done - len(kept),
        was_compared,
    )


def labelled_images(dataset: Dataset) -> list[ImageRecord]:
    """Return the images of a labelled folder that are labelled: with a label file, or objects.

    Each image once, whatever splits it is in. One whose label file is empty is labelled, too.
    """
    records = {one.path: one for members in dataset.splits.values() for one in members}
    return [one for one in records.values() if one.label_file is not None or one.objects]


def count_objects(dataset: Dataset, records: Iterable[ImageRecord]) -> dict[str, int]:
    """Return how many objects of each class of the data set the images have."""
    counts = Counter(one.name for record in records for one in record.counted)
    return {name: counts[name] for name in dataset.class_names}


def _place(path: Path) -> str:
    """Return the one path of a file, whatever it is called by."""
    try:
        return os.path.realpath(path)
    except (OSError, ValueError):  # a name that no file can have
        return str(path)


def _same_bytes(
    names: Sequence[str], labelled: Sequence[Path], files: ImageFiles
) -> tuple[set[tuple[int, int]], dict[int, int]]:
    """Return pairs of the pool with the same bytes, and labelled images by such a copy."""
    place_of = {Path(name): place for place, name in enumerate(names)}
    other_of = {path: place for place, path in enumerate(labelled)}
    pairs: set[tuple[int, int]] = set()
    seen: dict[int, int] = {}
    for group in files.identical([*place_of, *other_of]):
        own = sorted(place_of[path] for path in group if path in place_of)
        others = [other_of[path] for path in group if path in other_of]
        pairs |= set(zip(own, own[1:])) | {(own[0], one) for one in own[2:]} if own else set()
        if others:
            seen |= dict.fromkeys(own, others[0])
    return pairs, seen
