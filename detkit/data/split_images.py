"""The images of a split among all those of their data set: what detections are of."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from detkit.data.image_kinds import is_image
from detkit.data.image_names import ImageNames
from detkit.data.records import ImageRecord
from detkit.errors import DetkitError

OUTSIDE = -1  # an image of the data set, of another split or of none


@dataclass(frozen=True)
class SplitImages:
    """Finds what image of a split a name or id means, and knows those that are not of it."""

    split: Sequence[ImageRecord]
    others: Mapping[str, Sequence[ImageRecord]] = field(default_factory=dict)  # splits
    root: Path | None = None  # the data set's folder, whose other images are known, too

    @functools.cached_property
    def names(self) -> ImageNames:
        """The names of the split's images."""
        return ImageNames(self.split)

    @functools.cached_property
    def rest(self) -> list[ImageRecord]:
        """The images of the other splits, each once, without those of the split."""
        own = {record.image_id for record in self.split}
        unique = {
            record.image_id: record
            for records in self.others.values()
            for record in records
            if record.image_id not in own
        }
        return list(unique.values())

    @functools.cached_property
    def other_names(self) -> ImageNames:
        """The names of the images that are not of the split."""
        return ImageNames(self.rest)

    @functools.cached_property
    def unlisted(self) -> ImageNames:
        """The names of the image files that no split has."""
        if self.root is None or not self.root.is_dir():
            return ImageNames([])
        listed = {record.image_id for record in (*self.split, *self.rest)}
        found = []
        for folder, _, files in os.walk(self.root):
            for name in files:
                path = Path(folder) / name
                place = path.relative_to(self.root).as_posix()
                if is_image(path.suffix.lower()) and place not in listed:
                    found.append(ImageRecord(place, path))
        return ImageNames(found)

    def find(self, image: str, *, is_id: bool = False, is_number: bool = False) -> int:
        """Return the number of the split's image that a name means, `OUTSIDE` for another's.

        `is_id` says that it is COCO's id, and no name, `is_number` that it is the number in a
        file name. Raises DetkitError, with the names, for
        one that fits nothing at all, or several images.
        """
        if is_id:
            if image in self.names.keys:
                return self.names.find(image)
            return OUTSIDE if image in self.other_names.keys else self.names.find(image)
        rank, here = self.names.closest(image, is_number=is_number)
        other_rank, there = self.other_names.closest(image, is_number=is_number)
        if here and there and rank == other_rank:
            # As close: the one that shares more folders with the name, else the split's.
            shared, elsewhere = (
                max(_shared_folders(image, records[index].image_id) for index in indices)
                for records, indices in ((self.split, here), (self.rest, there))
            )
            return OUTSIDE if elsewhere > shared else self._one(image, here)
        if there and other_rank < rank:
            return OUTSIDE
        if here:
            return self._one(image, here)
        if image in self.names.keys:
            return self.names.find(image)
        if image in self.other_names.keys or self.unlisted.closest(image)[1]:
            return OUTSIDE
        return self.names.find(image)

    def _one(self, image: str, indices: Sequence[int]) -> int:
        """Return the one of several images that a name shares most folders with."""
        if len(indices) > 1:
            shared = [_shared_folders(image, self.split[index].image_id) for index in indices]
            if shared.count(max(shared)) > 1:
                return self.names.find(image)  # which says that two may be meant
            return indices[shared.index(max(shared))]
        return indices[0]

    def record_of(self, image: str, *, is_id: bool = False) -> ImageRecord | None:
        """Return the image of the data set that a name means; None where that is not known."""
        try:
            index = self.find(image, is_id=is_id)
        except DetkitError:
            return None
        if index != OUTSIDE:
            return self.split[index]
        for names, records in (
            (self.other_names, self.rest),
            (self.unlisted, self.unlisted.records),
        ):
            indices = names.keys.get(image, []) if is_id else names.closest(image)[1]
            if len(indices) == 1:
                return records[indices[0]]
        return None

    def ids_are_keys(self, ids: Collection[str]) -> bool:
        """Return whether COCO's ids in a file are those of the data set's images.

        False where they are the numbers in its file names instead. Raises DetkitError where
        they are partly these and partly those, or the ids of another split.
        """
        if not self.names.has_keys:
            return False
        own = [one for one in ids if one in self.names.keys]
        if len(own) == len(ids):
            return True
        foreign = [one for one in ids if one not in self.names.keys]
        clash = set(self.names.keys) & set(self.other_names.keys)
        if not clash and all(one in self.other_names.keys for one in foreign):
            return True
        for split, records in self.others.items():
            keys = {record.key for record in records}
            if all(one in keys for one in ids):
                raise DetkitError(
                    f"image ids like {foreign[0]} are no ids of this split, but all are of "
                    f"{split!r}: --split {split}"
                )
        both = (self.names, self.other_names)
        return not all(any(names.closest(one, is_number=True)[1] for names in both) for one in ids)

    def splits_of(self, images: Collection[tuple[str, bool]]) -> str:
        """Return of what splits images outside this one are, given as names or (True) as ids."""
        split_of = {
            record.image_id: split for split, records in self.others.items() for record in records
        }
        counts: Counter[str] = Counter()
        for image, is_id in images:
            record = self.record_of(image, is_id=is_id)
            counts["no split" if record is None else split_of.get(record.image_id, "no split")] += 1
        return ", ".join(f"{number} of {name}" for name, number in counts.items())


def _shared_folders(name: str, image_id: str) -> int:
    """Return how many folders of an image's path stand in the path of a name."""
    folders = PurePosixPath(name.replace("\\", "/")).parts[:-1]
    return len(set(folders) & set(PurePosixPath(image_id).parts[:-1]))
