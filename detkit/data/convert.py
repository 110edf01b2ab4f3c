"""A data set written in another format, and divided into splits; its folder stays untouched.

What each format can hold:

| | splits | class order, classes without objects | difficult | box fractions |
|---|---|---|---|---|
| voc | yes | in `classes.txt`, which VOC itself does not know | yes | yes |
| coco | yes | yes | as a further key | yes |
| yolo | yes | yes | lost | yes |
| csv | yes | lost: by name, and only those with objects | as a further column | yes |

A set without splits (its one split is "all") stays without in every format.

Images are copied as they are, never linked and never encoded again. VOC trees are flat;
the other formats keep sub-folders. Where two images have one name, the later one takes its
folders into the name: `b/cat.jpg` becomes `b_cat.jpg`.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath

from detkit.data.folder_splits import counted
from detkit.data.formats.voc_lists import is_class_list
from detkit.data.formats.writers import (
    Labelled,
    coco_json,
    csv_table,
    voc_xml,
    yolo_txt,
    yolo_yaml,
)
from detkit.data.images import IMAGE_SUFFIXES, image_size
from detkit.data.output import new_folder, require_apart
from detkit.data.paths import split_name
from detkit.data.records import Dataset, ImageRecord
from detkit.data.splits import split_dataset
from detkit.errors import DetkitError, UsageError

__all__ = ["FORMATS", "convert", "format_like", "losses", "split_dataset"]

FORMATS = ("voc", "coco", "yolo", "csv")

# Folder names that tell a layout, or a split, and not one image from another.
_IMAGE_FOLDERS = frozenset(["images", "jpegimages", "imgs", "img", "labels", "annotations"])
_SPLIT_FOLDERS = frozenset(
    ["train", "training", "val", "valid", "validation", "test", "testing", "trainval", "all"]
)


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where a format keeps its images."""

    folder: str
    by_split: bool = False  # a sub-folder for each split
    is_flat: bool = False  # no further sub-folders

    def place(self, split: str) -> str:
        """Return the folder of a split's images; "all" is a set without splits."""
        return f"{self.folder}/{split}" if self.by_split and split != "all" else self.folder


_LAYOUTS = {
    "voc": _Layout("JPEGImages", is_flat=True),
    "coco": _Layout("images", by_split=True),
    "yolo": _Layout("images", by_split=True),
    "csv": _Layout("images"),
}


def convert(
    dataset: Dataset,
    out: Path,
    to: str,
    *,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the data set as a folder `out` in the format `to`, one of `FORMATS`.

    `out` appears when everything is written, or not at all. `progress` hears (images done,
    images in all). Raises UsageError for an unknown format, a split that the format cannot name
    or an `out` that is not empty or overlaps the source; DetkitError for an image that is
    missing, unreadable or unlabelled.
    """
    if to not in FORMATS:
        raise UsageError(f"--to {to}: no such format; choose from {', '.join(FORMATS)}")
    require_apart(dataset.root, out)
    _check_splits(dataset, to)
    _check_kinds(dataset, to)
    layout = _LAYOUTS[to]
    names = _new_names(dataset, layout)
    with new_folder(out, force=force) as root:
        copied: dict[Path, tuple[int, int]] = {}
        splits: dict[str, list[Labelled]] = {}
        for split, records in dataset.splits.items():
            place = layout.place(split)
            (root / place).mkdir(parents=True, exist_ok=True)
            splits[split] = []
            for record in records:
                name = names[place, record.path]
                target = root / place / name
                if target not in copied:
                    copied[target] = _copy(dataset, record, target)
                    if progress is not None:
                        progress(len(copied), len(names))
                height, width = copied[target]
                splits[split].append(Labelled(name, width, height, record.objects, record.key))
        for path, text in _label_files(to, splits, dataset.class_names):
            target = root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8", newline="\n")


def losses(dataset: Dataset, to: str) -> list[str]:
    """Return what the format `to` cannot hold of the data set, a sentence each."""
    records = {one.image_id: one for records in dataset.splits.values() for one in records}
    objects = [one for record in records.values() for one in record.objects]
    said = []
    difficult = sum(one.difficult for one in objects)
    if to == "yolo" and difficult:
        said.append(
            f"{counted(difficult, 'difficult object')} became ordinary: yolo has no mark for them"
        )
    used = {one.name for one in objects}
    unused = [name for name in dataset.class_names if name not in used]
    if to == "csv" and unused:
        said.append(f"csv has no place for classes without objects: {', '.join(unused)}")
    order = [name for name in dataset.class_names if name in used]
    if to == "csv" and order != sorted(order):
        said.append(f"csv has no order of classes: {', '.join(order)} will be read by name")
    return said


def format_like(dataset: Dataset) -> str:
    """Return the format of `FORMATS` that is the data set's own or nearest to it."""
    return dataset.format if dataset.format in FORMATS else "csv"


def _check_splits(dataset: Dataset, to: str) -> None:
    """Raise UsageError for a split that the format would not give back under its name.

    VOC's lists may be called anything that is no path and not one class's list.
    """
    for split in dataset.splits:
        is_known = split == "all" or split_name(split) == split
        is_list_name = re.fullmatch(r"\w[\w -]*", split) and not is_class_list(split)
        if not is_known and not (to == "voc" and is_list_name):
            raise UsageError(
                f'--to {to}: the split "{split}" would be lost, as {to} knows train, val, test and '
                "trainval; divide the images anew with detkit split"
                + (", or write --to voc" if is_list_name else "")
            )


def _check_kinds(dataset: Dataset, to: str) -> None:
    """Raise DetkitError for an image that nothing would find again: YOLO's labels name none."""
    for record in (one for records in dataset.splits.values() for one in records):
        if to == "yolo" and record.path.suffix.lower() not in IMAGE_SUFFIXES:
            raise DetkitError(
                f"{record.path}: --to yolo: images of this kind are found only where labels name "
                "them, as YOLO's do not; save it as PNG or JPEG, or choose another format"
            )


def _new_names(dataset: Dataset, layout: _Layout) -> dict[tuple[str, Path], str]:
    """Return the new name of each image by (image folder, old path), relative to that folder."""
    names: dict[tuple[str, Path], str] = {}
    taken: dict[str, set[str]] = {}
    for split, records in dataset.splits.items():
        place = layout.place(split)
        for record in records:
            if (place, record.path) not in names:
                used = taken.setdefault(place, set())
                names[place, record.path] = _free_name(record.image_id, used, layout.is_flat)
    return names


def _free_name(image_id: str, used: set[str], is_flat: bool) -> str:
    """Return a new name that is not in `used`, and add it there."""
    path = PurePosixPath("/".join(map(_plain_part, image_id.split("/"))))
    folders = [part for part in path.parts[:-1] if part not in ("/", "..", ".")]
    telling = [part for part in folders if part.lower() not in _IMAGE_FOLDERS]
    own = [part for part in telling if re.sub(r"\d{4}$", "", part.lower()) not in _SPLIT_FOLDERS]
    candidates = [path.name if is_flat else "/".join([*own, path.name])]
    candidates += ["_".join([*parts, path.name]) for parts in (own, telling, folders)]
    counted_up = (f"{path.stem}_{count}{path.suffix}" for count in range(2, len(used) + 3))
    for name in chain(candidates, counted_up):
        # Letter case does not tell files apart everywhere, labels are named by the stem, and
        # tools that look an image up by its name alone must find the right one.
        key = PurePosixPath(name).stem.casefold()
        if key not in used:
            used.add(key)
            return name
    raise DetkitError(f"{image_id}: no free name for the image was found")  # pragma: no cover


def _plain_part(part: str) -> str:
    """Return a part of a path as every list and label file can hold it, not hidden either."""
    stem, dot, suffix = part.replace("\\", "_").rpartition(".")
    return f"{stem.strip(' .')}{dot}{suffix.strip()}" if stem.strip(" .") else part.strip(" .")


def _copy(dataset: Dataset, record: ImageRecord, target: Path) -> tuple[int, int]:
    """Copy an image; return its upright (height, width)."""
    if not record.path.is_file():
        raise DetkitError(
            f"{record.path}: no such image; `detkit check {dataset.root}` lists all that is wrong"
        )
    if record.label_file is None and dataset.format != "yolo":  # YOLO's way to say: no object
        raise DetkitError(
            f"{record.path}: has no label file, which is not the same as no object; "
            f"`detkit check {dataset.root}` lists all that is wrong"
        )
    size = image_size(record.path)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(record.path, target)
    return size


def _label_files(
    to: str, splits: Mapping[str, Sequence[Labelled]], class_names: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Yield the path and text of each label file."""
    if to == "voc":
        yield from _voc_files(splits, class_names)
    elif to == "coco":
        for split, images in splits.items():
            name = "instances" if split == "all" else f"instances_{split}"
            yield f"annotations/{name}.json", coco_json(images, class_names)
    elif to == "yolo":
        yield from _yolo_files(splits, class_names)
    else:
        for split, images in splits.items():
            yield "labels.csv" if split == "all" else f"{split}.csv", csv_table(images)


def _voc_files(
    splits: Mapping[str, Sequence[Labelled]], class_names: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Yield the annotations, the lists of a VOC tree, and the order of the classes."""
    for split, images in splits.items():
        for image in images:
            text = voc_xml(image.name, image.width, image.height, image.objects)
            yield f"Annotations/{PurePosixPath(image.name).stem}.xml", text
        if split != "all":
            stems = "".join(f"{PurePosixPath(image.name).stem}\n" for image in images)
            yield f"ImageSets/Main/{split}.txt", stems
    yield "classes.txt", "".join(f"{name}\n" for name in class_names)


def _yolo_files(
    splits: Mapping[str, Sequence[Labelled]], class_names: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Yield a label file for each image (empty: no object), and data.yaml."""
    folders = {split: _LAYOUTS["yolo"].place(split) for split in splits}
    for split, images in splits.items():
        labels = folders[split].replace("images", "labels", 1)
        for image in images:
            name = PurePosixPath(image.name).with_suffix(".txt")
            yield f"{labels}/{name}", yolo_txt(image, class_names)
    named = {split: folder for split, folder in folders.items() if split != "all"}
    yield "data.yaml", yolo_yaml(named, class_names)
