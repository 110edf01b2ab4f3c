"""The baseline: an earlier evaluation to hold a new one against, and how much was lost since.

A baseline is what `detkit eval --json` wrote. With the detections in it (`--with-detections`)
they are scored again, on today's labels and under today's protocol, so that only the detector
differs, and the drop gets a paired bootstrap interval. Without, its figure stands as it is and
must be of the same protocol and split.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detkit.data.records import ImageRecord
from detkit.errors import DetkitError
from detkit.evaluation.bootstrap import Interval, bootstrap_map
from detkit.evaluation.pairing import pair
from detkit.evaluation.scores import asked_iou, score
from detkit.predictions.image import ImagePredictions
from detkit.structures import Detections, Scores, Truth
from detkit.text import agreed, counted

logger = logging.getLogger(__name__)

WRITTEN_BY = "a baseline is what `detkit eval MODEL DATA --json > old.json` wrote"
DETECTED = {"detections", "category_id"}  # in an image of `detect`'s JSON, a box of COCO's


@dataclass(frozen=True, slots=True)
class Baseline:
    """An earlier evaluation as it was written."""

    path: Path
    mean: float | None
    protocol: str
    split: str
    num_images: int
    classes: dict[str, float | None]  # AP
    images: list[ImagePredictions] | None  # its detections, when it carries them


@dataclass(frozen=True, slots=True)
class Drop:
    """A mean AP beside an earlier one, in [0, 1]."""

    before: float
    now: float
    interval: Interval | None  # of before - now; None when the baseline has no detections
    classes: Mapping[str, float | None]  # AP of each class before
    num_groups: int = 0  # that were drawn for the interval

    @property
    def value(self) -> float:
        """By how much the mean AP fell; negative when it rose."""
        return self.before - self.now


def read_baseline(path: Path) -> Baseline:
    """Return what `detkit eval --json` wrote.

    Raises DetkitError when there is no such file or it is something else.
    """
    if not path.is_file():
        raise DetkitError(f"--baseline {path}: no such file; {WRITTEN_BY}")
    report = _report(path)
    try:
        images = report.get("images")
        return Baseline(
            path=path,
            mean=None if report["mAP"] is None else _share("mAP", report["mAP"]),
            protocol=str(report["protocol"]),
            split=str(report["split"]),
            num_images=int(report["num_images"]),
            classes={
                str(one["name"]): None if one["AP"] is None else _share("AP", one["AP"])
                for one in report.get("classes", ())
            },
            images=None if images is None else [_image(one) for one in images],
        )
    except KeyError as error:
        raise DetkitError(f"--baseline {path}: has no {error}: {WRITTEN_BY}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise DetkitError(f"--baseline {path}: {error}; {WRITTEN_BY}") from error


def _report(path: Path) -> dict[str, Any]:
    """Return the JSON object of a baseline; raise DetkitError that says what a baseline is."""
    try:
        text = path.read_text(encoding="utf-8")
    except ValueError as error:
        raise DetkitError(f"--baseline {path}: not text in UTF-8; {WRITTEN_BY}") from error
    report = _json_of(text)
    rows = report if isinstance(report, list) else [report or _json_of(text.partition("\n")[0])]
    if any(isinstance(row, dict) and not row.keys().isdisjoint(DETECTED) for row in rows[:1]):
        raise DetkitError(
            f"--baseline {path}: detections, and no scores of them; write those first: "
            f"detkit eval --predictions {path} DATA --json > old.json"
        )
    if not isinstance(report, dict):
        what = "not JSON" if report is None else "no JSON object"
        raise DetkitError(f"--baseline {path}: {what}; {WRITTEN_BY}")
    return report


def _json_of(text: str) -> Any:
    """Return the value of a JSON text, None when it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def compare(
    baseline: Baseline,
    scores: Scores,
    detections: Sequence[Detections],
    records: Sequence[ImageRecord],
    truths: Sequence[Truth],
    class_names: Sequence[str],
    split: str,
    groups: Sequence[int] | None = None,
) -> Drop:
    """Return how far the mean AP of `scores`, which are those of `detections`, fell.

    `groups` are those of the images, for the interval, as in `bootstrap.bootstrap_map`.
    Detections of the baseline whose class is not scored here are left out, which is logged.
    Raises DetkitError when either has no mean AP or the two cannot be compared.
    """
    if scores.mean is None:
        raise DetkitError("mAP has no value, for want of objects: nothing to hold to a baseline")
    if baseline.images is not None:
        iou = asked_iou(scores)
        known = _of_classes(baseline.path, baseline.images, class_names)
        before = pair(known, records, class_names).detections
        drawn = bootstrap_map(
            before,
            truths,
            class_names,
            metric=scores.metric,
            iou_thresh=iou,
            others=detections,
            groups=groups,
        )
        old = score(before, truths, class_names, scores.metric, iou)
        if old.mean is not None:
            classes = {one.name: one.ap for one in old.classes}
            return Drop(old.mean, scores.mean, drawn.difference, classes, drawn.num_groups)
    theirs = (baseline.protocol, baseline.split, baseline.num_images)
    ours = (scores.protocol, split, scores.num_images)
    if theirs != ours:
        raise DetkitError(
            f"{baseline.path}: measured by {_told(*theirs)}; this is {_told(*ours)}. Measure it "
            "anew, or write it with --with-detections, which are scored again"
        )
    if baseline.mean is None:
        raise DetkitError(f"{baseline.path}: has no mAP to hold this one against")
    return Drop(baseline.mean, scores.mean, None, baseline.classes)


def _of_classes(
    path: Path, images: Sequence[ImagePredictions], class_names: Sequence[str]
) -> list[ImagePredictions]:
    """Return the baseline's detections of these classes; what is left out is logged.

    Raises DetkitError when none of its detections is of one.
    """
    counts = Counter(label for one in images for label in one.labels)
    foreign = [label for label in counts if label not in class_names]
    theirs, ours = ", ".join(foreign[:5]), ", ".join(class_names[:5])
    if foreign and len(foreign) == len(counts):
        raise DetkitError(
            f"{path}: its detections are of {theirs}, none of a class that is scored here "
            f"({ours}); were classes renamed? Write it anew"
        )
    if foreign:
        number = sum(counts[label] for label in foreign)
        logger.warning(
            "%s: %s of %s %s left out: no class that is scored here (%s)",
            path,
            counted(number, "detection"),
            theirs,
            agreed(number, "is", "are"),
            ours,
        )
    return [one.of_classes(class_names) for one in images]


def _share(name: str, value: Any) -> float:
    """Return a figure in [0, 1]; raise ValueError for any other, NaN above all."""
    share = float(value)
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"{name} is {share}, not between 0 and 1")
    return share


def _told(protocol: str, split: str, num_images: int) -> str:
    return f"{protocol} on {counted(num_images, 'image')} of {split}"


def _image(values: dict[str, Any]) -> ImagePredictions:
    """Return the detections of one image; raises what a wrong value raises."""
    found = values["detections"]
    scores = np.array([one["score"] for one in found], np.float32)
    boxes = np.array([one["box"] for one in found], np.float32).reshape(len(found), 4)
    if not (np.isfinite(scores).all() and np.isfinite(boxes).all()):
        raise ValueError(f"a score or box in {values['image']} is not finite")
    return ImagePredictions(
        image=str(values["image"]),
        width=int(values["width"]),
        height=int(values["height"]),
        labels=tuple(str(one["label"]) for one in found),
        scores=scores,
        boxes=boxes,
    )
