"""What a data set holds, split by split: images, objects of each class, sizes of boxes."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from detkit.data.records import Dataset, ImageRecord

# Side of a square of the box's area, own pixels: the lower edge of each histogram bin.
# Doubling, as detectors' feature maps do; COCO's "small" ends at 32, its "medium" at 96.
SIZE_EDGES = (0, 8, 16, 32, 64, 128, 256, 512)


@dataclass(frozen=True, slots=True)
class SplitSummary:
    """The counts of one split."""

    name: str
    num_images: int
    num_empty: int  # images without any object
    num_objects: int
    num_difficult: int
    num_crowds: int
    num_regions: int  # that are left out for every class
    num_machine_made: int  # objects that are a detector's
    class_counts: dict[str, int]  # objects a class, in the data set's class order
    size_counts: tuple[int, ...]  # objects in each bin of SIZE_EDGES


def summarize(dataset: Dataset) -> tuple[SplitSummary, ...]:
    """Return the counts of every split; boxes without a finite size are in no size bin."""
    return tuple(
        _summarize_split(name, records, dataset.class_names)
        for name, records in dataset.splits.items()
    )


def summary_to_json(summary: Sequence[SplitSummary]) -> dict[str, Any]:
    """Return the counts as JSON values, by split."""
    return {
        split.name: {
            "images": split.num_images,
            "empty": split.num_empty,
            "objects": split.num_objects,
            "difficult": split.num_difficult,
            "crowds": split.num_crowds,
            "regions": split.num_regions,
            "machine_made": split.num_machine_made,
            "classes": split.class_counts,
            "box_sizes": {f"{edge}+": count for edge, count in zip(SIZE_EDGES, split.size_counts)},
        }
        for split in summary
    }


def data_hash(dataset: Dataset) -> str:
    """Return the SHA-256 (hexadecimal) of class names, image ids, stated sizes and labels.

    It does not depend on where the data set lies, nor on the order of images or objects.
    """
    digest = hashlib.sha256()
    digest.update(_canonical([list(dataset.class_names)]))
    for name in sorted(dataset.splits):
        digest.update(_canonical([name]))
        for line in sorted(_canonical(_plain(record)) for record in dataset.splits[name]):
            digest.update(line)
    return digest.hexdigest()


def _summarize_split(
    name: str, records: Sequence[ImageRecord], class_names: Sequence[str]
) -> SplitSummary:
    """Return the counts of one split."""
    objects = [one for record in records for one in record.counted]
    found = Counter(one.name for one in objects)
    sizes = [0] * len(SIZE_EDGES)
    for one in objects:
        x1, y1, x2, y2 = one.box
        if all(math.isfinite(value) for value in one.box):
            area = max(0.0, x2 - x1) * max(0.0, y2 - y1)
            sizes[max(i for i, edge in enumerate(SIZE_EDGES) if edge**2 <= area)] += 1
    names = [*class_names, *sorted(set(found) - set(class_names))]
    return SplitSummary(
        name=name,
        num_images=len(records),
        num_empty=sum(not record.counted for record in records),
        num_objects=len(objects),
        num_difficult=sum(one.difficult for one in objects),
        num_crowds=sum(one.is_crowd for one in objects),
        num_regions=sum(len(record.objects) - len(record.counted) for record in records),
        num_machine_made=sum(one.machine_made for one in objects),
        class_counts={one: found[one] for one in names},
        size_counts=tuple(sizes),
    )


def _plain(record: ImageRecord) -> list[Any]:
    """Return what counts of a record as JSON values."""
    objects = sorted(
        [
            one.name,
            bool(one.difficult),
            *(repr(float(value)) for value in one.box),
            *(["crowd"] if one.is_crowd else []),
            *(["region"] if one.region else []),
            *(["machine-made"] if one.machine_made else []),
            *([f"score {one.score!r}"] if one.score is not None else []),
            *([f"area {one.area!r}"] if one.has_own_area else []),
        ]
        for one in record.objects
    )
    return [record.image_id, record.width, record.height, objects]


def _canonical(value: list[Any]) -> bytes:
    """Return the one JSON text of a value."""
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"
