"""The page of an evaluation: one HTML file that needs nothing else.

What it says in words and tables is there without JavaScript; charts, pictures and filters are
drawn in the browser from the JSON inside it. That JSON, like every name, is escaped: a class
called `<script>` is text.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from detkit import __version__
from detkit.data.records import Dataset
from detkit.data.summary import data_hash
from detkit.evaluation.error_breakdown import FIGURES, KINDS, ErrorBreakdown
from detkit.evaluation.gain import Gain, gain_to_json
from detkit.evaluation.leakage import Leakage, leakage_to_json
from detkit.evaluation.scores import errors_of, scores_to_json
from detkit.evaluation.sizes import scores_by_size
from detkit.files import write_bytes
from detkit.report.confusion import confusion_matrices
from detkit.report.curve_points import at_thresholds, curve_points
from detkit.report.pictures import MOST_BOXES, Picture, close_ups, pictures, worst_first
from detkit.report.score_bins import ScoreBins, calibration_error, score_bins, score_range
from detkit.structures import Detections, FloatArray, Scores, Truth
from detkit.text import agreed, counted

if TYPE_CHECKING:
    from detkit.evaluation.misses import Miss

NUM_THRESHOLDS = 101  # steps of the sliders
NUM_MATRICES = 21  # steps of the confusion matrix's slider
UNIT = 1000  # of an image's longer side: boxes on the page are whole numbers


def write_report(
    path: Path,
    dataset: Dataset,
    split: str,
    detections: Sequence[Detections],
    scores: Scores,
    *,
    source: str,
    notes: Sequence[str] = (),
    misses: Sequence[Miss] | None = None,
    gain: Gain | None = None,
    leakage: Leakage | None = None,
) -> None:
    """Write the page of `scores`, those of `detections[i]` in the i-th image of the split.

    `source` says where the detections are from: a model or a file. `notes` are what a reader
    has to know to read the figures, `misses` what became of the objects that a model missed,
    `gain` what its way of looking, by tiles for one, brings, and `leakage` what of the split is
    known from training.
    Raises DetkitError when the file cannot be written.
    """
    records, truths = dataset.splits[split], dataset.truths(split)
    names = dataset.class_names
    errors = errors_of(detections, truths, names, scores)
    figures = {"data": str(dataset.root), "split": split, **scores_to_json(scores)}
    figures["leaks"] = leakage_to_json(leakage)
    known = [leakage.in_words()] if leakage is not None and leakage.num_leaked else []
    if misses is not None:
        # Imports torch, which a file's page spares.
        from detkit.evaluation.misses import misses_to_json

        figures["misses"] = misses_to_json(misses)["stages"]
    if gain is not None:
        figures["gain"] = gain_to_json(gain)
    chosen, unread = pictures(worst_first(detections, truths, errors, scores), records)
    bins = score_bins(detections, errors.kinds, len(names))
    low, high = bins.low, bins.high
    levels = [
        round(low + (high - low) * step / (NUM_MATRICES - 1), 6) for step in range(NUM_MATRICES)
    ]
    matrices = confusion_matrices(detections, truths, errors, len(names), levels)
    shown_level = _shown_level(scores, levels)
    data = {
        "classes": list(names),
        "kinds": [*KINDS, "missed"],
        "range": [low, high],
        "curves": _curves(scores, detections),
        "bins": _bins(bins),
        "matrices": [_sparse(matrix) for matrix in matrices],
        "levels": levels,
        "shownLevel": shown_level,
        "costs": {name: getattr(errors.overall, name) for name in FIGURES[:6]},
        "pictures": [_picture(one, detections, truths, errors) for one in chosen],
    }
    page = render(
        "report.html.j2",
        title=f"{dataset.root.name}: {split}",
        data=data,
        figures=figures,
        facts=_facts(dataset, split, detections, truths, scores, source),
        notes=[*known, *notes, *_notes(unread, scores)],
        scores=scores,
        sizes=scores_by_size(detections, truths, names),
        errors=errors,
        error_kinds=FIGURES[:6],
        error_sums=FIGURES[6:],
        misses=figures.get("misses"),
        gain=gain,
        gained=[] if gain is None else close_ups(gain.only_after, records),
        matrix=matrices[shown_level],
        calibration=calibration_error(bins),
        num_images=len(truths),
    )
    write_bytes(path, page.encode("utf-8", errors="replace"))


def render(template: str, **values: Any) -> str:
    """Return a template of this package filled with values, all of them escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("detkit.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # `tojson` writes <, >, & and ' as \u003c and so on: no text can end the script it stands in.
    environment.policies["json.dumps_kwargs"] = {
        "allow_nan": False,
        "separators": (",", ":"),
        "ensure_ascii": True,
    }
    environment.filters["figure"] = _figure
    return environment.get_template(template).render(
        version=__version__, today=datetime.date.today().isoformat(), **values
    )


def _figure(value: float | None) -> str:
    """Return a score as tables have it: three places, or that there is none."""
    return "n/a" if value is None else f"{value:.3f}"


def _facts(
    dataset: Dataset,
    split: str,
    detections: Sequence[Detections],
    truths: Sequence[Truth],
    scores: Scores,
    source: str,
) -> list[tuple[str, str]]:
    """Return what was scored, on what and how, as pairs of words."""
    crowds = sum(int(truth.is_crowd.sum()) for truth in truths)
    difficult = sum(int((truth.difficult & ~truth.is_crowd).sum()) for truth in truths)
    num_objects = sum(len(truth.labels) for truth in truths) - difficult - crowds
    kinds = [f"{difficult:,} difficult {agreed(difficult, 'one', 'ones')}"] if difficult else []
    kinds += [counted(crowds, "crowd", ",")] if crowds else []
    aside = f" (and {' and '.join(kinds)}, not counted)" if kinds else ""
    empty = sum(not len(truth.labels) for truth in truths)
    without = f" ({empty:,} without objects)" if empty else ""
    return [
        ("Detections", source),
        ("Data", f"{dataset.root} ({dataset.format}), split {split}"),
        ("Data hash (SHA-256)", data_hash(dataset)),
        ("Protocol", scores.protocol),
        ("Images", f"{len(truths):,}{without}"),
        ("Objects", f"{num_objects:,}{aside}"),
        ("Boxes found", f"{sum(len(one.labels) for one in detections):,}"),
        ("Classes", f"{len(dataset.class_names):,}"),
    ]


def _notes(unread: Sequence[str], scores: Scores) -> list[str]:
    """Return what the page itself has to say of the figures."""
    notes = []
    without = [one.name for one in scores.classes if one.ap is None]
    if without:
        notes.append(f"No objects of {', '.join(without)}: not part of the mean.")
    if unread:
        more = f" ({len(unread) - 1} more)" if unread[1:] else ""
        notes.append(f"Not among the pictures, since it cannot be read: {unread[0]}{more}")
    return notes


def _shown_level(scores: Scores, levels: Sequence[float]) -> int:
    """Return which of the levels is nearest to the classes' thresholds of best F1."""
    best = [one.best_threshold for one in scores.classes if one.best_threshold is not None]
    wanted = float(np.median(best)) if best else (levels[0] + levels[-1]) / 2
    return min(range(len(levels)), key=lambda index: abs(levels[index] - wanted))


def _curves(scores: Scores, detections: Sequence[Detections]) -> list[dict[str, Any]]:
    """Return each class's curve: points, and the state at each step of the threshold."""
    low, high = score_range(detections)
    threshs = [low + (high - low) * step / (NUM_THRESHOLDS - 1) for step in range(NUM_THRESHOLDS)]
    curves = []
    for one in scores.classes:
        ranks = curve_points(one)
        points = np.stack([one.recall[ranks], one.precision[ranks], one.scores[ranks]], axis=1)
        curves.append(
            {
                "ap": one.ap,
                "points": _rounded(points),
                "at": [
                    [None if math.isnan(precision) else round(precision, 4), round(recall, 4)]
                    for precision, recall in at_thresholds(one, threshs).tolist()
                ],
            }
        )
    return curves


def _bins(bins: ScoreBins) -> dict[str, Any]:
    """Return the histogram as JSON values, a list a class."""
    return {
        "right": bins.right.tolist(),
        "wrong": bins.wrong.tolist(),
        "sums": np.round(bins.score_sums, 4).tolist(),
    }


def _sparse(matrix: np.ndarray[Any, np.dtype[np.int64]]) -> list[list[int]]:
    """Return [row, column, count] of what is not 0."""
    rows, columns = np.nonzero(matrix)
    return [
        [row, column, count]
        for row, column, count in zip(
            rows.tolist(), columns.tolist(), matrix[rows, columns].tolist(), strict=True
        )
    ]


def _picture(
    picture: Picture,
    detections: Sequence[Detections],
    truths: Sequence[Truth],
    errors: ErrorBreakdown,
) -> dict[str, Any]:
    """Return a picture as JSON values.

    `found`: [label, score, kind, x1, y1, x2, y2] of a detection; `objects`: [label, difficult,
    score of the detection that found it or null, near a wrong detection, x1, y1, x2, y2]. Boxes
    are in thousandths of the image's longer side.
    """
    found, wanted = detections[picture.index], truths[picture.index]
    kinds = errors.kinds[picture.index]
    scale = UNIT / max(picture.width, picture.height)
    by: list[float | None] = [None] * len(wanted.labels)
    for number, place in enumerate(errors.finds[picture.index].tolist()):
        if place >= 0:
            by[place] = round(float(found.scores[number]), 4)
    labels, scores = found.labels.tolist(), np.round(found.scores.astype(np.float64), 4).tolist()
    boxes = _whole(found.boxes * scale)
    return {
        "name": wanted.image_id,
        "source": picture.source,
        "width": round(picture.width * scale),
        "height": round(picture.height * scale),
        "wrong": picture.num_wrong,
        "missed": picture.num_missed,
        "found": [
            [label, score, kind, *box]
            for label, score, kind, box in zip(labels, scores, kinds.tolist(), boxes)
        ][:MOST_BOXES],
        "objects": [
            [label, int(difficult), by[index], *box]
            for index, (label, difficult, box) in enumerate(
                zip(wanted.labels.tolist(), wanted.difficult.tolist(), _whole(wanted.boxes * scale))
            )
        ],
    }


def _whole(boxes: FloatArray) -> list[list[int]]:
    """Return boxes as whole numbers; corners without an end at the farthest the page draws."""
    limit = 10.0 * UNIT
    whole: list[list[int]] = np.nan_to_num(boxes).clip(-limit, limit).round().astype(int).tolist()
    return whole


def _rounded(points: Any) -> list[list[float]]:
    """Return numbers as short as a page needs them."""
    rounded: list[list[float]] = np.round(np.asarray(points, np.float64), 4).tolist()
    return rounded
