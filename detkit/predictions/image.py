"""What a detector found in one image, by class names, and how COCO numbers those."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from detkit.structures import Detections, FloatArray

# Categories that COCO's paper planned and its detection set never had; ids run to 90.
COCO_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)


@dataclass(frozen=True, slots=True)
class ImagePredictions:
    """What some detector found in one image, or why it found nothing out."""

    image: str  # its path, file name, stem or COCO id: whatever the file calls it
    width: int  # own pixels; 0 when the file does not say
    height: int
    labels: tuple[str, ...]  # N class names
    scores: FloatArray  # (N,)
    boxes: FloatArray  # (N, 4) own pixels
    error: str | None = None  # the image could not be read, and why
    normalised: bool = False  # boxes are shares of a width and height the file does not state
    box_words: tuple[str, ...] = ("x1", "y1", "x2", "y2")  # as the file has its boxes
    image_id: str | None = None  # COCO's id, where the file states one
    seconds: float | None = None  # of a video's frame: its time from the beginning

    def of_classes(self, class_names: Collection[str]) -> ImagePredictions:
        """Return the same without the detections of other classes."""
        keep = [label in class_names for label in self.labels]
        if all(keep):
            return self
        return replace(
            self,
            labels=tuple(label for label in self.labels if label in class_names),
            scores=self.scores[keep],
            boxes=self.boxes[keep],
        )


def from_detections(
    detections: Detections, class_names: Sequence[str], image: str, width: int, height: int
) -> ImagePredictions:
    """Return detections with their class names, the image's name and its size in pixels."""
    return ImagePredictions(
        image=image,
        width=width,
        height=height,
        labels=tuple(class_names[label] for label in detections.labels.tolist()),
        scores=detections.scores,
        boxes=detections.boxes,
    )


def coco_category_ids(class_names: Sequence[str]) -> list[int]:
    """Return a COCO category id for each class: the official ones for COCO's 80, else 1, 2, ..."""
    official = len(class_names) == 80 and (class_names[0], class_names[39], class_names[79]) == (
        "person",
        "bottle",
        "toothbrush",
    )
    if official:
        return [number for number in range(1, 91) if number not in COCO_GAPS]
    return list(range(1, len(class_names) + 1))
