"""What a data set tells about detections that are scored on it."""

from __future__ import annotations

import functools

from detkit.data.records import Dataset
from detkit.data.split_images import SplitImages
from detkit.evaluation.box_checks import real_size
from detkit.predictions.reference import Reference


def reference_of(dataset: Dataset, split: str, images: SplitImages) -> Reference:
    """Return what a data set tells about the numbers and names in a file of detections."""

    @functools.cache
    def size_of(image: str) -> tuple[int, int] | None:
        record = images.record_of(image)
        return None if record is None else real_size(record)

    return Reference(
        class_names=dataset.class_names,
        is_data_set=True,
        ids=dataset.ids_of(split),
        is_coco=dataset.format == "coco",
        image_ids=frozenset(images.names.keys),
        size_of=size_of,
        knows=lambda image: images.record_of(image) is not None,
    )
