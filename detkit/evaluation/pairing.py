"""Pairing of predictions with the images of a split, by names, and of labels with classes."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from detkit.data.records import ImageRecord
from detkit.data.split_images import OUTSIDE, SplitImages
from detkit.errors import DetkitError
from detkit.predictions.image import ImagePredictions
from detkit.structures import Detections
from detkit.text import agreed, counted, nearest_hint

logger = logging.getLogger(__name__)

# Above this a cut costs AP: at .5 it was 6 points of mAP on a VOC-like set, at .05 none.
HARMLESS_CUT = 0.05


@dataclass(frozen=True, slots=True)
class Paired:
    """Predictions put beside the images of a split."""

    detections: list[Detections]  # one an image of the split, in its order
    num_missing: int  # images of the split of which the predictions say nothing
    warnings: tuple[str, ...]  # what may make the score mean something else
    predictions: tuple[ImagePredictions | None, ...] = ()  # of each image as the file has them


def pair(
    predictions: Sequence[ImagePredictions],
    records: Sequence[ImageRecord],
    class_names: Sequence[str],
    images: SplitImages | None = None,
    *,
    strict: bool = False,
) -> Paired:
    """Return the detections of each record, best first, in the records' order.

    Images are known by their path in the data set, the longest end of a path that fits, the
    stem, or COCO's id; an image the predictions do not name has no detections. `images` are the
    records among all of their data set: detections of others of these are left out, and with
    `strict` they are an error. Raises DetkitError for an image that the data set does not have
    or that fits several, one predicted twice, and a label that is not a class, each by name.
    """
    images = images or SplitImages(records)
    class_index = {name: number for number, name in enumerate(class_names)}
    by_id = [one.image for one in predictions if _is_by_id(one)]
    labels = {label for one in predictions for label in one.labels}
    if not labels <= set(class_names):  # told before what is wrong with ids
        _refuse_labels(predictions, class_names, images)
    are_keys = images.ids_are_keys(by_id)
    if by_id and images.names.has_keys and not are_keys:
        logger.info("image ids are no ids of the data set's; read as numbers in file names")
    found: dict[int, ImagePredictions] = {}
    outside: list[tuple[str, bool]] = []
    for one in predictions:
        is_id = are_keys and _is_by_id(one)
        is_number = not are_keys and _is_by_id(one)
        index = images.find(one.image, is_id=is_id, is_number=is_number)
        if index == OUTSIDE:
            outside.append((one.image, is_id))
            continue
        if index in found:
            first = found[index].image
            both = f"{one.image!r} twice" if first == one.image else f"{first!r} and {one.image!r}"
            raise DetkitError(
                f"the predictions have {both} for the one image {records[index].image_id}; "
                "give each image once"
            )
        found[index] = one
    detections = [
        _detections(found[index], record, class_index)
        if index in found
        else Detections(
            np.empty((0, 4), np.float32),
            np.empty(0, np.float32),
            np.empty(0, np.int64),
            record.image_id,
        )
        for index, record in enumerate(records)
    ]
    _tell_outside(outside, len(predictions), images, strict=strict)
    _tell_odd_names(found, records, images)
    missing = [record for index, record in enumerate(records) if index not in found]
    own = tuple(found.get(index) for index in range(len(records)))
    warnings = _warnings([one for one in own if one], records, missing)
    return Paired(detections, len(missing), tuple(warnings), own)


def _is_by_id(one: ImagePredictions) -> bool:
    """Return whether predictions say by COCO's id alone which image they are of."""
    return one.image_id is not None and one.image == one.image_id


def _tell_outside(
    outside: Sequence[tuple[str, bool]], number: int, images: SplitImages, *, strict: bool
) -> None:
    """Say how many images were predicted that are not of the split; DetkitError if that is bad."""
    if not outside:
        return
    first = _called(*outside[0], images)
    what = (
        f"predictions for {counted(len(outside), 'image')} that {agreed(len(outside), 'is', 'are')}"
        f" not of the split ({images.splits_of(outside)}; first: {first})"
    )
    if strict:
        raise DetkitError(f"{what}; --strict allows none")
    if len(outside) == number:
        raise DetkitError(f"{what}, and none for its own; choose another --split")
    logger.info("%s left out", what)


def _tell_odd_names(
    found: Mapping[int, ImagePredictions], records: Sequence[ImageRecord], images: SplitImages
) -> None:
    """Say of which images the name fits only loosely, or says another image than the id."""
    loose = [one for one in found.values() if images.names.is_folded(one.image)]
    if loose and not _is_by_id(loose[0]):
        logger.info(
            "%s by another spelling (case, %%20, accents) than the data set's (first: %s)",
            f"{counted(len(loose), 'image')} {agreed(len(loose), 'is', 'are')} named",
            loose[0].image,
        )
    contradicted = [
        (index, one, images.names.keys[one.image_id])
        for index, one in found.items()
        if one.image_id is not None
        and one.image_id in images.names.keys
        and not _is_by_id(one)
        and index not in images.names.keys[one.image_id]
    ]
    if contradicted:
        index, one, others = contradicted[0]
        logger.warning(
            "%s: file names and image ids contradict each other, and the file name decides: "
            "%s has the image_id %s, which is %s in the data set",
            counted(len(contradicted), "image"),
            records[index].image_id,
            one.image_id,
            records[others[0]].image_id,
        )


def _called(image: str, is_id: bool, images: SplitImages) -> str:
    """Return what a message calls an image by: its file, where predictions know it by id alone."""
    record = images.record_of(image, is_id=is_id)
    if record is None or not (is_id or image.isdecimal()):
        return image
    return f"{record.image_id}, id {image}"


def _refuse_labels(
    predictions: Sequence[ImagePredictions], class_names: Sequence[str], images: SplitImages
) -> None:
    """Raise DetkitError for the first label that is not a class, naming the nearest one."""
    counts = Counter(label for one in predictions for label in one.labels)
    unknown = [label for label in counts if label not in class_names]
    label = unknown[0]
    first = next(one for one in predictions if label in one.labels)
    image = _called(first.image, _is_by_id(first), images)
    more = f" ({counted(len(unknown) - 1, 'more unknown label')})" if unknown[1:] else ""
    hint = nearest_hint(label, class_names, f"choose from {', '.join(class_names)}")
    raise DetkitError(
        f"label {label!r} of {counted(counts[label], 'detection')} (first in {image}) is no class "
        f"of the data set{more}; {hint}"
    )


def some(names: Sequence[str]) -> str:
    """Return the first names as text, and how many more there are."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _detections(
    found: ImagePredictions, record: ImageRecord, class_index: dict[str, int]
) -> Detections:
    """Return one image's predictions as detections, best first, in own pixels."""
    boxes = found.boxes
    if found.normalised and len(boxes):
        height, width = _size(record)
        boxes = boxes * np.array([width, height, width, height], np.float32)
    labels = np.array([class_index[label] for label in found.labels], np.int64)
    order = np.argsort(-found.scores, kind="stable")
    return Detections(boxes[order], found.scores[order], labels[order], record.image_id)


def _size(record: ImageRecord) -> tuple[int, int]:
    """Return an image's (height, width) in pixels, which shares of it are multiplied with."""
    from detkit.data.images import image_size

    if record.path.is_file():  # what a label file states may be wrong
        return image_size(record.path)
    if record.width and record.height:
        return record.height, record.width
    raise DetkitError(
        f"{record.path}: no such image, so the normalised boxes predicted for it have no size"
    )


def _warnings(
    predictions: Sequence[ImagePredictions],
    records: Sequence[ImageRecord],
    missing: Sequence[ImageRecord],
) -> list[str]:
    """Return what may make the score mean something else than its reader thinks."""
    warnings = []
    if missing:
        warnings.append(
            f"{len(missing)} of {counted(len(records), 'image')} "
            f"{agreed(len(missing), 'has', 'have')} no predictions and "
            f"{agreed(len(missing), 'counts', 'count')} as missed "
            f"(first: {missing[0].image_id})"
        )
    failed = [one for one in predictions if one.error is not None]
    if failed:
        warnings.append(
            f"{counted(len(failed), 'image')} could not be read by the detector, which counts as "
            f"missed (first: {failed[0].image}: {failed[0].error})"
        )
    lowest = min((float(one.scores.min()) for one in predictions if len(one.scores)), default=0.0)
    if lowest > np.float32(HARMLESS_CUT):  # scores are float32: their .05 lies above ours
        warnings.append(
            f"no score is below {lowest:.3g}: if they were cut there, AP misses the end of each "
            f"curve and is too low; write detections down to {HARMLESS_CUT} or less"
        )
    return warnings
