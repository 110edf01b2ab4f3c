"""The images to label: those of a folder of pictures, or of a labelled folder of any format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from detkit.data.formats.reading import label_suffixes, read_folder
from detkit.data.records import Dataset, ImageRecord
from detkit.data.tree import Tree
from detkit.errors import DetkitError
from detkit.text import counted


@dataclass(frozen=True, slots=True)
class Photo:
    """One image to label."""

    number: int  # from 1, in the order of the list
    name: str  # relative to the folder, with "/"
    path: Path
    split: str  # "all" where there are none
    record: ImageRecord | None = None  # what a labelled folder says of it


@dataclass(frozen=True, slots=True)
class Photos:
    """All images to label, and where they are from."""

    root: Path
    photos: tuple[Photo, ...]
    dataset: Dataset | None  # None: a folder of pictures without labels
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes of the labels that are there already."""
        return () if self.dataset is None else self.dataset.class_names


def open_photos(path: Path) -> Photos:
    """Return the images of a folder of pictures, or of a labelled folder or file, by name.

    Raises DetkitError where there are none.
    """
    try:
        dataset = read_folder(path)
    except DetkitError as error:
        if not path.exists():
            raise DetkitError(f"{path}: no such folder; name one of images or of labels") from None
        if not path.is_dir():
            raise
        if pictures := _pictures(path, error):
            return pictures
        raise DetkitError(f"{path}: no images in this folder or below it") from None
    root = path if path.is_dir() else dataset.root
    members: dict[Path, tuple[str, ImageRecord]] = {}
    for split, records in dataset.splits.items():
        for record in records:
            members.setdefault(record.path, (split, record))
    photos = [
        Photo(number, record.image_id, record.path, split, record)
        for number, (split, record) in enumerate(members.values(), start=1)
    ]
    if not photos:
        raise DetkitError(f"{path}: no images in this labelled folder")
    return Photos(root, tuple(photos), dataset, dataset.notes)


def _pictures(path: Path, reason: DetkitError) -> Photos | None:
    """Return the images of a folder that has no labels, for that `reason`; None: it has none.

    Where there are files that may have been meant as labels the reason is said.
    """
    tree = Tree(path, label_suffixes())
    if not tree.images:
        return None
    photos = [
        Photo(number, name, tree.path(name), "all")
        for number, name in enumerate(tree.images, start=1)
    ]
    warnings = [f"{one.file}: {one.message}" for one in tree.findings]
    if tree.other_images:
        left = counted(len(tree.other_images), "picture")
        warnings.append(
            f"{left} left out (the first: {tree.other_images[0]}), of kinds that are not read "
            "here; save them as PNG or JPEG"
        )
    if tree.with_suffix(*label_suffixes()):
        warnings.append(f"{reason}; begun without labels")
    return Photos(path, tuple(photos), None, (), tuple(warnings))
