"""The mean AP that another tool gives the same detections, and detkit's options that repeat it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from detkit.data.records import Dataset
from detkit.errors import UsageError
from detkit.evaluation import tidecv
from detkit.evaluation.metrics import Found, Wanted
from detkit.evaluation.scores import score
from detkit.structures import BoolArray
from detkit.text import nearest_hint


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of a tool."""

    name: str
    mean: float | None  # in [0, 1]
    options: str | None  # of `eval` that give it; None: none do


@dataclass(frozen=True, slots=True)
class Likeness:
    """What a tool says of detections."""

    tool: str
    figures: list[Figure]
    notes: list[str]  # what has to be known of it, a sentence each


def like(
    tool: str,
    detections: Found,
    truths: Wanted,
    class_names: Sequence[str],
    marked: Sequence[BoolArray] | None = None,
) -> Likeness:
    """Return what one of `TOOLS` says of `detections[i]`, found where `truths[i]` is.

    `marked[i]` (R,) says which objects a COCO file marks by `iscrowd`; None: the truth is of no
    COCO file, and `convert --to coco` would mark what is difficult. Raises UsageError for another
    tool.
    """
    require_tool(tool)
    return _TOOLS[tool](detections, truths, class_names, marked)


def require_tool(tool: str) -> None:
    """Raise UsageError unless it is one of `TOOLS`."""
    if tool not in _TOOLS:
        hint = nearest_hint(tool, TOOLS, f"choose from {', '.join(TOOLS)}")
        raise UsageError(f"--like {tool}: no such tool here; {hint}")


def marks_of(dataset: Dataset, split: str) -> list[BoolArray] | None:
    """Return which objects of a split its COCO file marks by `iscrowd`; None for other formats.

    As `Dataset.truths` has them, an array (R,) an image.
    """
    if dataset.format != "coco":
        return None
    known = set(dataset.class_names)
    return [
        np.array([one.crowd for one in record.objects if one.name in known], np.bool_)
        for record in dataset.splits[split]
    ]


def _pycocotools(
    detections: Found,
    truths: Wanted,
    class_names: Sequence[str],
    marked: Sequence[BoolArray] | None,
) -> Likeness:
    truths, suffix, notes = _seen_by_coco(truths, marked)
    names = (("AP (IoU .5 to .95)", None), ("AP50", 0.5), ("AP75", 0.75))
    figures = []
    for name, iou in names:
        own = "" if iou is None else f" --iou {iou:g}"
        options = None if suffix is None else f"--metric coco{suffix}{own}"
        mean = score(detections, truths, class_names, "coco", iou).mean
        figures.append(Figure(name, mean, options))
    return Likeness("pycocotools", figures, notes)


def _tidecv(
    detections: Found,
    truths: Wanted,
    class_names: Sequence[str],
    marked: Sequence[BoolArray] | None,
) -> Likeness:
    truths, suffix, notes = _seen_by_coco(truths, marked)
    mean = tidecv.breakdown(detections, truths, class_names).overall.ap
    options = None if suffix != "" else "--errors --tide tidecv"
    if suffix:
        notes = [f"{notes[0]}, which --errors has no option for"]
    return Likeness("tidecv", [Figure("mAP (IoU .5)", mean, options)], notes)


def _ultralytics(
    detections: Found,
    truths: Wanted,
    class_names: Sequence[str],
    marked: Sequence[BoolArray] | None,
) -> Likeness:
    figures = [
        Figure(
            name,
            score(detections, truths, class_names, "ultralytics", iou).mean,
            "--metric ultralytics" + ("" if iou is None else f" --iou {iou:g}"),
        )
        for name, iou in (("mAP50-95", None), ("mAP50", 0.5))
    ]
    notes = ["its own detections are those above a score of .001, at most 300 an image"]
    if any(one.difficult.any() for one in truths):
        notes.append("its labels have no difficult objects, which count, and no crowds")
    return Likeness("ultralytics", figures, notes)


def _voc_devkit(
    detections: Found,
    truths: Wanted,
    class_names: Sequence[str],
    marked: Sequence[BoolArray] | None,
) -> Likeness:
    names = (
        ("2007, 11 points, in MATLAB", "voc07+matlab-recalls"),
        ("2007, 11 points, in its Python ports", "voc07+numpy-recalls"),
        ("2010 and later", "voc12"),
    )
    figures = [
        Figure(name, score(detections, truths, class_names, metric, 0.5).mean, f"--metric {metric}")
        for name, metric in names
    ]
    return Likeness(
        "voc-devkit",
        figures,
        ["result files with whole pixels give what +whole-pixels behind the metric gives"],
    )


def _seen_by_coco(
    truths: Wanted, marked: Sequence[BoolArray] | None
) -> tuple[Wanted, str | None, list[str]]:
    """Return the truth as COCO's tools see it, who leave out what is marked as a crowd alone.

    And what has to stand behind a metric to see it so, None where nothing does, and notes.
    """
    some = any((one.difficult & ~one.is_crowd).any() for one in truths)
    if marked is None:
        notes = [
            "of the folder that `detkit convert --to coco` makes: difficult objects are crowds"
        ]
        return truths, "", notes if some else []
    seen = [
        replace(one, difficult=marks, crowd=marks)
        for one, marks in zip(truths, marked, strict=True)
    ]
    if all((one.difficult == marks).all() for one, marks in zip(truths, marked)):
        return seen, "", []
    note = "it counts objects that the file calls ignored or difficult, but not iscrowd"
    if all((one.is_crowd == marks).all() for one, marks in zip(truths, marked)):
        return seen, "+count-difficult", [note]
    return seen, None, [f"{note}; others are both, so that no option of detkit's counts the same"]


_Teller = Callable[[Found, Wanted, Sequence[str], "Sequence[BoolArray] | None"], Likeness]
_TOOLS: dict[str, _Teller] = {
    "ultralytics": _ultralytics,
    "pycocotools": _pycocotools,
    "voc-devkit": _voc_devkit,
    "tidecv": _tidecv,
}
TOOLS = tuple(_TOOLS)
