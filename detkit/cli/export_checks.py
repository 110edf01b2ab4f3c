"""What `detkit export` holds a file to on labelled images before it is written."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detkit.cli.console import Console
from detkit.cli.data import warn_of_unread
from detkit.cli.judged import choose_split
from detkit.cli.options import open_named
from detkit.data.splits import training_name
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


def labelled(console: Console, word: str, class_names: Sequence[str]) -> Dataset | None:
    """Return the data set that `--verify` names; None, which is told of a folder, for images alone.

    Raises DetkitError for a label file that cannot be read, for labels all with errors, and
    where there is no mAP of the model's `class_names`.
    """
    from detkit.data.formats.reading import label_file_suffixes, label_suffixes
    from detkit.data.sources import LIST_SUFFIX
    from detkit.data.tree import Tree

    path = Path(word)
    is_folder = path.is_dir()
    suffix = path.suffix.lower()
    if not is_folder and (suffix == LIST_SUFFIX or suffix not in label_file_suffixes()):
        return None
    reason = f"{word}: no labelled objects there"
    try:
        dataset = open_named("--verify", path)
    except DetkitError as error:
        if not is_folder:
            raise
        if Tree(path, label_suffixes()).with_suffix(*label_suffixes()):  # perhaps meant as labels
            console.warn(f"{error}; its images are compared, no mAP")
        else:
            console.note(f"{reason}: its images are compared, no mAP")
        return None
    warn_of_unread(console, dataset)
    if any(record.objects for part in dataset.splits.values() for record in part):
        _require_objects("--verify", dataset, class_names)
        return dataset
    if not is_folder or any(one.severity == "error" for one in dataset.findings):
        raise DetkitError(f"--verify {reason}")
    console.note(f"{reason}: its images are compared, no mAP")
    return None


def calibration(console: Console, path: Path, class_names: Sequence[str]) -> Dataset:
    """Return the data set that `--calibrate` names.

    Raises DetkitError where there is none, no split to train on, or no mAP of the model's
    `class_names`.
    """
    dataset = open_named("--calibrate", path)
    warn_of_unread(console, dataset)
    training_name(dataset)
    _require_objects("--calibrate", dataset, class_names)
    return dataset


def _require_objects(option: str, dataset: Dataset, class_names: Sequence[str]) -> None:
    """Raise DetkitError where the mAP on an option's data set would be of no object."""
    from detkit.evaluation.pairing import some

    split = _judged_split(dataset)
    if not any(
        one.name in class_names and not (one.difficult or one.crowd)
        for record in dataset.splits[split]
        for one in record.counted
    ):
        raise DetkitError(
            f"{option} {dataset.root}: {split} has no objects of {some(class_names)}, the model's "
            "classes: no mAP"
        )


def _judged_split(dataset: Dataset) -> str:
    """Return the split that mAP is told on: that of `eval`, else the training's.

    Raises UsageError where there is neither.
    """
    try:
        return choose_split(dataset, None)
    except UsageError:  # names an option that only `eval` has
        return training_name(dataset)


def require_parity(
    console: Console, detector: Any, content: bytes, dataset: Dataset, names: tuple[str, str]
) -> None:
    """Tell how far a model and its ONNX file agree on a data set's split, and the mAP of both.

    Raises DetkitError where those are further apart than `MOST_APART`; of a file that fits images
    into a size that is not the model's it warns.
    """
    from detkit.evaluation.agreement import SAME_SCORE, agreement
    from detkit.inference.onnx import OnnxDetector

    split, exported = _judged_split(dataset), OnnxDetector(content)
    ours, before = _judged(detector, dataset, split)
    theirs, after = _judged(exported, dataset, split)
    found = agreement(ours, theirs)
    console.note(
        f"{dataset.root}, {split}: of {counted(found.detections, 'detection')} in "
        f"{counted(found.num_images, 'image')} {found.same} are the same to {SAME_SCORE:g} in "
        f"score; scores of the same box differ by at most {found.score_apart:.2g}"
    )
    _tell(console, before, names[0])
    _tell(console, after, names[1])
    apart = abs((before.mean or 0.0) - (after.mean or 0.0))
    if apart <= MOST_APART:
        return
    if exported.rule.resize == "fit":  # other pixels than the model's own size has
        height, width = exported.rule.size
        console.warn(
            f"mAP differs by {apart:.4f}: {names[1]} fits each image into {height}x{width}, the "
            "model has sizes of its own"
        )
    else:
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
    from detkit.inference.onnx import OnnxDetector
    from detkit.inference.onnx_ends import with_ends
    from detkit.inference.onnx_int8 import quantised

    split, own = _judged_split(dataset), training_name(dataset)
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
