"""Labelled folders as people have them: found, read, judged, converted. No torch here."""

from detkit.data.folder import open_dataset
from detkit.data.images import image_size, read_image, write_image
from detkit.data.records import Dataset, Finding, ImageRecord, ObjectRecord, truth_of
from detkit.data.splits import cut, training_splits

__all__ = [
    "Dataset",
    "Finding",
    "ImageRecord",
    "ObjectRecord",
    "cut",
    "image_size",
    "open_dataset",
    "read_image",
    "training_splits",
    "truth_of",
    "write_image",
]
