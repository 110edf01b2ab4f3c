"""What a label file says, before anything is judged or dropped: plain values, no torch.

A reader (`formats`) turns a folder into a `Dataset` of
`ImageRecord`s of `ObjectRecord`s and a list of `Finding`s about what it could not read.
`checks` judges the records; `Dataset.truths` turns the sound ones into arrays.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, make_dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from detkit.structures import Truth

AREA_ROUNDING = 0.5  # square pixels, ours: what a file's decimals make of a box's area


@dataclass(frozen=True, slots=True)
class ObjectRecord:
    """One labelled object as its file states it, box already 0-based and half-open."""

    name: str  # the class name
    box: tuple[float, float, float, float]  # xyxy in own pixels; may be nonsense
    difficult: bool = False  # hard to recognise: not counted in a score
    file: Path | None = None  # the label file, and ...
    line: int | None = None  # ... the line in it (JSON: None), and ...
    number: int = 0  # ... the 1-based position among the image's objects
    # The values as written there, for messages: "xmin=231 xmax=500"; "": as `Format.stated` has it.
    stated: str = ""
    crowd: bool = False  # COCO's `iscrowd`: one box around many objects, unless it is difficult
    area: float | None = None  # square pixels, where the file states it (COCO: of the mask)
    # No object but a place that is left out for every class (KITTI's DontCare): a crowd of each.
    region: bool = False
    machine_made: bool = False  # a detector's, which no person has drawn or corrected, and ...
    score: float | None = None  # ... that detector's score, where the file states it

    @property
    def is_crowd(self) -> bool:
        """Whether it is a box around many objects; COCO's files mark difficult ones alike."""
        return self.crowd and not self.difficult

    @property
    def has_own_area(self) -> bool:
        """Whether the stated area is another than that of the box."""
        x1, y1, x2, y2 = self.box
        return self.area is not None and abs(self.area - (x2 - x1) * (y2 - y1)) > AREA_ROUNDING


# The same fields, and they can be set: a record of it is made in a quarter of the time that a
# frozen one takes, which sets each field through `object.__setattr__`.
_Unfrozen: Any = make_dataclass(
    "_Unfrozen",
    [(one.name, Any, field(default=one.default)) for one in fields(ObjectRecord)],
    slots=True,
)


def object_record(*values: Any) -> ObjectRecord:
    """Return `ObjectRecord(*values)`, made faster: a large label file has a million of them."""
    made = _Unfrozen(*values)
    made.__class__ = ObjectRecord
    return cast(ObjectRecord, made)


def object_records(*columns: Iterable[Any]) -> Iterator[ObjectRecord]:
    """Yield `ObjectRecord(*values)` for each row of columns, made faster still."""
    made = list(map(_Unfrozen, *columns))
    for one in made:
        one.__class__ = ObjectRecord
    return iter(made)


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image of a split with its objects."""

    image_id: str  # path of the image relative to the data set's root, with "/"
    path: Path  # where the image file is (it may not exist)
    objects: tuple[ObjectRecord, ...] = ()
    width: int | None = None  # as stated by the label file
    height: int | None = None
    label_file: Path | None = None  # None: the image has no label file at all
    key: str | None = None  # another name for the image: COCO's numeric id

    @property
    def counted(self) -> tuple[ObjectRecord, ...]:
        """The objects that are of a class: regions are not."""
        return tuple([one for one in self.objects if not one.region])


_UnfrozenImage: Any = make_dataclass(
    "_UnfrozenImage",
    [(one.name, Any, field(default=one.default)) for one in fields(ImageRecord)],
    slots=True,
)


def image_record(*values: Any) -> ImageRecord:
    """Return `ImageRecord(*values)`, made faster, as `object_record` is."""
    made = _UnfrozenImage(*values)
    made.__class__ = ImageRecord
    return cast(ImageRecord, made)


def labels_differ(objects: Sequence[ObjectRecord], others: Sequence[ObjectRecord]) -> bool:
    """Return whether two files state other objects, whatever their order."""
    first, second = (
        sorted((one.name, one.box, one.difficult, one.is_crowd) for one in each)
        for each in (objects, others)
    )
    return first != second


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong or odd in a data set, and what to do about it."""

    severity: str  # "error" or "warning"
    code: str  # "swapped-box", "missing-image", ...: stable, for programs
    message: str  # what (values); what to do
    file: Path | None = None
    line: int | None = None
    object_number: int | None = None
    class_name: str | None = None
    image_id: str | None = None
    split: str | None = None
    others: tuple[str, ...] = ()  # ids of the further images that it is about


@dataclass(frozen=True, slots=True)
class Dataset:
    """A labelled folder: its classes, and its images by split."""

    root: Path
    format: str  # the name of a `formats.format.Format`, or "matlab": a table of CSV's
    class_names: tuple[str, ...]
    splits: dict[str, tuple[ImageRecord, ...]]
    findings: tuple[Finding, ...] = ()  # what the reader itself could not make sense of
    notes: tuple[str, ...] = field(default=())  # said on stderr: what was found, what was cut
    # Class name by the number that a split's files have for it: COCO's category ids, YOLO's
    # numbers; the other formats state names.
    category_ids: Mapping[str, Mapping[int | str, str]] = field(default_factory=dict)

    def truths(self, split: str) -> list[Truth]:
        """Return the objects of each image of a split as arrays, in the split's order."""
        index = {name: number for number, name in enumerate(self.class_names)}
        return [truth_of(record, index) for record in self.splits[split]]

    def ids_of(self, split: str) -> Mapping[int | str, str]:
        """Return the class name of each number that a split's files have for a class.

        A split that was cut here has the numbers on which all files agree.
        """
        if split in self.category_ids:
            return self.category_ids[split]
        return agreed_ids(self.category_ids.values())

    def with_splits(self, splits: dict[str, tuple[ImageRecord, ...]], *notes: str) -> Dataset:
        """Return the same data set divided otherwise."""
        return replace(self, splits=splits, notes=self.notes + notes)


def agreed_ids(several: Iterable[Mapping[int | str, str]]) -> dict[int | str, str]:
    """Return the class names of the category ids that mean the same wherever they are stated."""
    meant: dict[int | str, set[str]] = {}
    for ids in several:
        for number, name in ids.items():
            meant.setdefault(number, set()).add(name)
    return {number: next(iter(names)) for number, names in meant.items() if len(names) == 1}


def truth_of(record: ImageRecord, class_index: dict[str, int]) -> Truth:
    """Return one image's objects of the known classes as arrays.

    A region, which is of no class, becomes a crowd of each.
    """
    known = [one for one in record.objects if not one.region and one.name in class_index]
    regions = [
        replace(one, name=name, crowd=True, difficult=False)
        for one in record.objects
        for name in class_index
        if one.region
    ]
    objects = [*known, *regions]
    crowd = np.array([one.is_crowd for one in objects], np.bool_)
    areas = np.array([math.nan if one.area is None else one.area for one in objects], np.float64)
    return Truth(
        boxes=np.array([one.box for one in objects], np.float32).reshape(-1, 4),
        labels=np.array([class_index[one.name] for one in objects], np.int64),
        difficult=np.array([one.difficult for one in objects], np.bool_) | crowd,
        image_id=record.image_id,
        crowd=crowd if crowd.any() else None,
        stated_areas=None if np.isnan(areas).all() else areas,
    )
