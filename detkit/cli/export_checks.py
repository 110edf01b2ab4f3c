"""What `detkit export` holds a file to on labelled images before it is written."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detkit.cli.console import Console
from detkit.cli.judged import choose_split
from detkit.errors import DetkitError, UsageError
from detkit.structures import ROUNDING
from detkit.text import counted

if TYPE_CHECKING:
    from detkit.data.records import Dataset
    from detkit.inference.onnx_export import NetworkInput
    from detkit.structures import Detections, Scores

# Ours, of mAP: rounding alone changes the order of a few detections of all but equal scores.
MOST_APART = 0.005
SMALLEST_INPUT, LARGEST_INPUT = 16, 8192  # pixels of a side
MOST_CALIBRATED = 100  # images; ranges change little beyond


def network_input(word: str) -> NetworkInput:
    """Return what `--size` says: "any", or (height, width); raises UsageError for other words."""
    if word == "any":
        return "any"
    found = re.fullmatch(r"(\d{1,5})[xX×](\d{1,5})", word.strip())
    size = (int(found[1]), int(found[2])) if found else (0, 0)
    if not SMALLEST_INPUT <= min(size) <= max(size) <= LARGEST_INPUT:
        raise UsageError(
            f"--size {word}: expected any, or height x width of {SMALLEST_INPUT} to "
            f"{LARGEST_INPUT} pixels each, like --size 320x480"
        )
    return size


def labelled(word: str) -> Dataset | None:
    """Return the data set at a path; None where there is none with objects: images alone."""
    from detkit.data import open_dataset

    path = Path(word)
    if not path.is_dir() and path.suffix.lower() not in (".json", ".yaml", ".yml", ".csv"):
        return None
    try:
        dataset = open_dataset(path)
    except DetkitError:
        return None
    return dataset if has_objects(dataset) else None


def has_objects(dataset: Dataset) -> bool:
    """Return whether any image of a data set has an object."""
    return any(record.objects for part in dataset.splits.values() for record in part)


def require_parity(
    console: Console, detector: Any, content: bytes, dataset: Dataset, names: tuple[str, str]
) -> None:
    """Tell how far a model and its ONNX file agree on a data set's split, and the mAP of both.

    Raises DetkitError where those are further apart than `MOST_APART`.
    """
    from detkit.evaluation.agreement import SAME_SCORE, agreement
    from detkit.inference.onnx import OnnxDetector

    split = choose_split(dataset, None)
    ours, before = _judged(detector, dataset, split)
    theirs, after = _judged(OnnxDetector(content), dataset, split)
    found = agreement(ours, theirs)
    console.note(
        f"{dataset.root}, {split}: of {counted(found.detections, 'detection')} in "
        f"{counted(found.num_images, 'image')} {found.same} are the same to {SAME_SCORE:g} in "
        f"score; scores of the same box differ by at most {found.score_apart:.2g}"
    )
    _tell(console, before, names[0])
    _tell(console, after, names[1])
    apart = abs((before.mean or 0.0) - (after.mean or 0.0))
    if not apart <= MOST_APART:
        raise DetkitError(
            f"{names[1]}: not written: on {dataset.root} its mAP differs by {apart:.4f} from that "
            f"of {names[0]}; at most {MOST_APART:g} is rounding"
        )


def small_enough(
    console: Console,
    content: bytes,
    whole: bytes,
    dataset: Dataset,
    max_drop: float,
    *,
    raw: bool,
    nms: bool,
) -> bytes | None:
    """Return the file in 8 bits; None, with the figures told, where its mAP falls too far.

    `content` is the float file of candidates and `whole` the one with its ends, which the small
    one gets, too. Ranges are those on the training split, mAPs those on the split of `eval`.
    """
    from detkit.data.images import read_image
    from detkit.data.splits import training_name
    from detkit.inference.onnx import OnnxDetector
    from detkit.inference.onnx_ends import with_ends
    from detkit.inference.onnx_int8 import quantised

    split, own = choose_split(dataset, None), training_name(dataset)
    records = dataset.splits[own]
    # Evenly over the split, since neighbours are often alike.
    chosen = list(itertools.islice(records, 0, None, -(-len(records) // MOST_CALIBRATED)))
    console.note(
        f"ranges on {counted(len(chosen), 'image')} of {own}, mAP on "
        f"{counted(len(dataset.splits[split]), 'image')} of {split}"
    )
    if own == split:
        console.warn(f"{dataset.root}: the mAP is on the images that the ranges are from")
    small = quantised(content, (read_image(record.path) for record in chosen))
    small = with_ends(small, raw=raw, nms=nms)
    before, after = (_judged(OnnxDetector(one), dataset, split)[1] for one in (whole, small))
    _tell(console, before, "float32")
    _tell(console, after, "int8")
    drop = (before.mean or 0.0) - (after.mean or 0.0)
    if not drop <= max_drop + ROUNDING:
        console.error(f"mAP falls by {drop:.4f}; at most {max_drop:g} is allowed: nothing written")
        return None
    return small


def _judged(detector: Any, dataset: Dataset, split: str) -> tuple[list[Detections], Scores]:
    """Return a detector's detections on a split, and their scores."""
    from detkit.evaluation.evaluate import detect_split
    from detkit.evaluation.scores import score

    found = detect_split(detector, dataset, split)
    return found, score(found, dataset.truths(split), dataset.class_names, "voc07")


def _tell(console: Console, scores: Scores, name: str) -> None:
    """Write a line of mAP to stdout."""
    console.data(f"mAP {'n/a' if scores.mean is None else format(scores.mean, '.4f')} {name}")
