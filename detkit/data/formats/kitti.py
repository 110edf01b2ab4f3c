"""KITTI's object labels: a .txt an image, a row an object.

`type truncated occluded alpha left top right bottom height width length x y z rotation_y [score]`
(the development kit's readme): 15 columns, results have a sixteenth. left to bottom are 0-based
pixels, and the kit's own evaluation takes right - left for the width, so they are the half-open
box. `DontCare` is a region that is left out for every class. A type may hold blanks. Images lie
in `training/image_2`, labels in `training/label_2`; other tools have `images` and `labels`. Lists
of images (`ImageSets/train.txt`) say which split an image is of.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from detkit.data.formats.format import Format, Labelled, Splits, number
from detkit.data.formats.gathered import (
    Gathered,
    ListedSplits,
    listed_classes,
    listed_splits,
    numbers,
    rows_of,
)
from detkit.data.paths import folder_of, name_of, split_in
from detkit.data.records import Dataset, ObjectRecord
from detkit.data.tree import Tree
from detkit.text import cut

MAX_BYTES = 16 << 20  # ours: a hundred thousand rows; more is no label file of one image
MOST_SNIFFED = 64  # ours: texts that are looked into, spread over the folder

_FIELDS = 14  # numbers of a row, without the score
_IGNORED = "dontcare"
# What is written, and by many tools, where there is no 3D box.
_NO_3D = (-1.0, -1.0, -1.0, -1000.0, -1000.0, -1000.0, -10.0)
_FOLDERS = {"train": "training/", "val": "validation/", "test": "testing/", "all": ""}


def read_kitti(tree: Tree, _: str | None = None) -> Dataset | None:
    """Return the data set of a folder's KITTI labels, or None where it has none."""
    folders = _label_folders(tree)
    if not folders:
        return None
    gathered = Gathered(tree)
    splits = listed_splits(tree)
    for file in tree.with_suffix(".txt"):
        if name_of(folder_of(file)) in folders and file not in {"classes.txt", *splits.files}:
            _read_file(gathered, file, splits)
    names = listed_classes(tree, gathered.used(), gathered.notes)
    return gathered.dataset("kitti", names)


def _label_folders(tree: Tree) -> set[str]:
    """Return the names of the folders that hold labels, by rows in some of their texts."""
    texts = tree.with_suffix(".txt")
    step = 1 + len(texts) // MOST_SNIFFED
    return {name_of(folder_of(file)) for file in texts[::step] if _has_row(tree, file)}


def _has_row(tree: Tree, file: str) -> bool:
    """Return whether a text has a row that nothing but KITTI writes."""
    try:
        if tree.size(file) > MAX_BYTES:
            return False
        rows = (_parsed(row) for _, row in rows_of(tree.text(file)))
    except OSError:
        return False
    return any(
        row is not None and (numbers(row[0].split()) is None or tuple(row[1][7:14]) == _NO_3D)
        for row in rows
    )


def _parsed(row: str) -> tuple[str, list[float]] | None:
    """Return a row's type and its 14 or 15 numbers, or None.

    A type that ends in a number may be one before a score, as 16 columns of a type in one word are.
    That no tool writes a score after a 3D box that there is not decides, and which box can be one.
    """
    words = row.split()
    values = numbers(words[-_FIELDS:])
    if len(words) <= _FIELDS or values is None:
        return None
    scored = numbers(words[-_FIELDS - 1 :]) if len(words) > _FIELDS + 1 else None
    if scored is not None and tuple(values[-7:]) != _NO_3D:
        _, occluded, _, x1, y1, x2, y2, *_ = scored
        is_box = occluded in (-1, 0, 1, 2, 3) and -1 <= x1 < x2 and y1 < y2
        if is_box or len(words) == _FIELDS + 2:
            return row.rsplit(maxsplit=_FIELDS + 1)[0], scored
    return row.rsplit(maxsplit=_FIELDS)[0], values


def _read_file(gathered: Gathered, file: str, splits: ListedSplits) -> None:
    """Add what a label file says of its image."""
    text = gathered.text(file, MAX_BYTES)
    rows = rows_of(text or "")
    if text is None or (rows and not any(_parsed(row) for _, row in rows) and _is_other(rows)):
        return
    image = gathered.of_label(file, _image_folder(gathered.tree, file), ".png")
    if image is None:
        return
    part = gathered.part(image, file, splits.of(image, split_in(file)))
    for line, row in rows:
        parsed = _parsed(row)
        if parsed is not None and re.match(r"\d+ -?\d+ \D", parsed[0]):
            message = f"a row of KITTI's tracking labels, which are not read ({cut(row)})"
            gathered.say("error", "bad-row", message, file, line, part)
            continue
        if parsed is None:
            part.number += 1
            message = f"not `type` and 14 or 15 numbers ({cut(row)}); mend or remove the row"
            gathered.say("error", "bad-row", message, file, line, part)
            continue
        name, values = parsed
        stated = " ".join(
            f"{key}={value:.10g}"
            for key, value in zip(("left", "top", "right", "bottom"), values[3:7])
        )
        is_region = name.lower() == _IGNORED
        gathered.add(part, name, values[3:7], line, stated=stated, region=is_region)


def _is_other(rows: Sequence[tuple[int, str]]) -> bool:
    """Return whether a text without one sound row is something else: no row begins like one."""
    words = [row.split() for _, row in rows]
    return not any(len(row) > _FIELDS or numbers(row[1:4]) for row in words)


def _image_folder(tree: Tree, label: str) -> str | None:
    """Return the folder of the left colour camera's images beside a folder of KITTI's labels."""
    above, _, last = folder_of(label).rpartition("/")
    folder = f"{above}/{re.sub('(?i)^label', 'image', last)}".lstrip("/")
    return folder if folder != folder_of(label) and folder in tree.folders else None


def _rows_text(image: Labelled) -> str:
    """Return KITTI's rows of an image's objects, without a 3D box."""
    rows = [f"{_type(one)} 0 0 -10 {' '.join(map(number, one.box))}" for one in image.objects]
    no_3d = " ".join(map(number, _NO_3D))
    return "".join(f"{row} {no_3d}\n" for row in rows)


def _type(one: ObjectRecord) -> str:
    return "DontCare" if one.region else one.name


def _label_files(splits: Splits, class_names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield a label file for each image (empty: no object), and the order of the classes.

    KITTI itself has no file of class names; `classes.txt` is what labelling tools write.
    """
    for split, images in splits.items():
        folder = FORMAT.place(split).replace("image_2", "label_2")
        for image in images:
            yield f"{folder}/{PurePosixPath(image.name).stem}.txt", _rows_text(image)
    yield "classes.txt", "".join(f"{name}\n" for name in class_names)


def _refusal(class_names: Sequence[str]) -> str:
    """Return why classes of these names would not be read back."""
    taken = [name for name in class_names if name.lower() == _IGNORED]
    return f"{taken[0]} is KITTI's mark of a region left out; rename the class" if taken else ""


FORMAT = Format(
    name="kitti",
    title="KITTI txt",
    looked_for="KITTI (label_2/*.txt)",
    suffixes=(".txt",),
    read=read_kitti,
    write=_label_files,
    images_of=lambda split: f"{_FOLDERS.get(split, split + '/')}image_2",
    is_flat=True,
    keeps_difficult=False,
    keeps_regions=True,
    refusal=_refusal,
    names_images=False,
)
