"""Evaluation of a detector on a split: what it detects there, by head too, and its scores.

`inference` is imported when the detector runs.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detkit.errors import DetkitError, UsageError
from detkit.evaluation.metrics import find_metric
from detkit.evaluation.pairing import pair, some
from detkit.evaluation.scores import score
from detkit.structures import Detections, Scores

if TYPE_CHECKING:
    from detkit.data.records import Dataset
    from detkit.inference.predict import BatchT, Finder, Prediction
    from detkit.predictions.image import ImagePredictions
    from detkit.proposals.source import ProposalSource

logger = logging.getLogger(__name__)
NO_MORE: Mapping[str, Any] = {}


def evaluate(
    detector: Finder[BatchT],
    dataset: Dataset,
    split: str,
    *,
    metric: str = "voc07",
    iou_thresh: float | None = None,
    batch_size: int = 8,
    proposals: ProposalSource | None = None,
) -> Scores:
    """Return a detector's scores on a split; it runs where its weights are.

    Raises UsageError for an unknown metric and as `detect_split` does.
    """
    find_metric(metric)
    detections = detect_split(detector, dataset, split, batch_size=batch_size, proposals=proposals)
    return score(detections, dataset.truths(split), dataset.class_names, metric, iou_thresh)


def detect_split(
    detector: Finder[BatchT],
    dataset: Dataset,
    split: str,
    *,
    batch_size: int = 8,
    proposals: ProposalSource | None = None,
    tile: int | None = None,
    tile_overlap: float | None = None,
    tta: Sequence[str] = (),
) -> list[Detections]:
    """Return what a detector finds in each image of a split, labelled as the data set is.

    A detector that wants proposals gets those of `proposals`, by default as its config says;
    `tile`, `tile_overlap` and `tta` are those of `inference.predict`.
    Raises UsageError for an unknown split, and DetkitError when an image cannot be
    read or has no proposals: a score that leaves it out would not be the split's. Classes are
    compared by name: detections of one that the data set does not have are left out, and one
    that the detector does not know has an AP of 0; both are logged. Raises DetkitError when no
    class is common.
    """
    looking = {"tile": tile, "tile_overlap": tile_overlap, "tta": tta}
    return _detect_split(detector, dataset, split, batch_size, proposals, looking)[
        detector.heads[0]
    ]


def detect_heads(
    detector: Finder[BatchT],
    dataset: Dataset,
    split: str,
    *,
    batch_size: int = 8,
    proposals: ProposalSource | None = None,
    tile: int | None = None,
    tile_overlap: float | None = None,
    tta: Sequence[str] = (),
) -> dict[str, list[Detections]]:
    """Return what `detect_split` does by each of the detector's heads, from one pass."""
    looking = {"tile": tile, "tile_overlap": tile_overlap, "tta": tta, "by_head": True}
    return _detect_split(detector, dataset, split, batch_size, proposals, looking)


def _detect_split(
    detector: Finder[BatchT],
    dataset: Dataset,
    split: str,
    batch_size: int,
    proposals: ProposalSource | None,
    looking: Mapping[str, Any],
) -> dict[str, list[Detections]]:
    """Return what is found in a split's images by head; `looking` is more for `detect_images`."""
    if split not in dataset.splits:
        raise UsageError(f"split {split!r}: {dataset.root} has {', '.join(dataset.splits)}")
    records = dataset.splits[split]
    _compare_classes(detector.class_names, dataset.class_names)
    paths = [record.path for record in records]
    found: dict[str, list[ImagePredictions]] = {}
    for one in detect_all(detector, paths, batch_size, proposals, looking):
        for head, predictions in one.by_head.items():
            found.setdefault(head, []).append(predictions.of_classes(dataset.class_names))
    return {
        head: pair(found.get(head, []), records, dataset.class_names).detections
        for head in (detector.heads if looking.get("by_head") else detector.heads[:1])
    }


def detect_all(
    detector: Finder[BatchT],
    paths: Sequence[Path],
    batch_size: int = 8,
    proposals: ProposalSource | None = None,
    looking: Mapping[str, Any] = NO_MORE,
) -> Iterator[Prediction]:
    """Yield what a detector finds in each image; `looking` is more for `detect_images`.

    Raises DetkitError when one cannot be read or has no proposals.
    """
    from detkit.inference.predict import detect_images

    if proposals is not None:
        proposals.require(map(str, paths))
    found = detect_images(detector, paths, batch_size=batch_size, proposals=proposals, **looking)
    with contextlib.closing(found):
        for one in found:
            if one.predictions.error is not None:
                raise DetkitError(
                    f"{one.predictions.image}: {one.predictions.error}; `detkit check` lists what "
                    "cannot be read"
                )
            yield one


def _compare_classes(known: Sequence[str], asked: Sequence[str]) -> None:
    """Log which classes only the detector or only the data set has."""
    if not set(known) & set(asked):
        raise DetkitError(
            f"the model knows {some(known)}, the data set has {some(asked)}: no class in common"
        )
    foreign = [name for name in known if name not in asked]
    if foreign:
        logger.info("detections of %s are left out: not classes of the data set", some(foreign))
    missing = [name for name in asked if name not in known]
    if missing:
        logger.warning("the model does not know %s: their AP is 0", some(missing))
