"""What a data set tells about the numbers and names in a file of detections."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Id = int | str
Size = tuple[int, int]  # (height, width) in own pixels


def _unknown(image: str) -> None:
    """Return that nothing is known of an image."""


@dataclass(frozen=True, slots=True)
class Reference:
    """The data set that detections are scored on, as far as it says what they mean."""

    class_names: tuple[str, ...] = ()
    # False: names alone. What may be read in two ways is then taken as it is usual.
    is_data_set: bool = False
    # Class name by the number that the data set's own files have for it; empty where they have
    # names only.
    ids: Mapping[Id, str] = field(default_factory=dict)
    is_coco: bool = False  # `ids` are category ids of a COCO file
    image_ids: frozenset[str] = frozenset()  # COCO's ids of its images, as text
    size_of: Callable[[str], Size | None] = _unknown  # None: no such image, or size unknown
    knows: Callable[[str], bool] = bool  # whether a name is that of one of its images
