"""The table of a comparison: accuracy with its doubt, speed, memory, size, training.

Shape shorthand: S draws of the test images, C classes.

What chance in the choice of test images does to the difference of two models is told by the
paired bootstrap (see `bootstrap`), on the mean over each model's seeds; what chance in training
does, by the spread over the seeds. The best model is the best on these same images, partly by
luck, so the intervals of the differences to it lean to "different".
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from detkit.comparison.runs import Outcome
from detkit.data.records import Dataset
from detkit.evaluation.average_precision import Figures
from detkit.evaluation.bootstrap import (
    Interval,
    draw_images,
    interval,
    interval_to_json,
    mean_of_classes,
    resampled,
)
from detkit.evaluation.pairing import pair
from detkit.evaluation.scores import score
from detkit.evaluation.sizes import SIZES, scores_by_size
from detkit.predictions.readers import read_predictions
from detkit.structures import Scores


@dataclass(frozen=True, slots=True)
class Row:
    """The figures of one model, means over its seeds; without any it has an error."""

    name: str
    backend: str = ""
    seeds: tuple[int | None, ...] = ()
    maps: tuple[float | None, ...] = ()  # mAP of each seed
    mean: float | None = None  # of those
    spread: float | None = None  # their standard deviation; None with one seed
    difference: Interval | None = None  # of the mean to the best model's; None for the best
    classes: Mapping[str, float | None] = field(default_factory=dict)  # AP
    sizes: Mapping[str, float | None] = field(default_factory=dict)  # COCO's AP, IoU .5 to .95
    seconds: float | None = None  # an image, from file to boxes
    stages: Mapping[str, float] = field(default_factory=dict)  # seconds an image
    memory_mib: float | None = None  # the most while detecting
    model_bytes: int | None = None
    training_seconds: float | None = None
    training_memory_mib: float | None = None
    errors: tuple[str, ...] = ()  # a line a seed that failed


@dataclass(frozen=True, slots=True)
class Comparison:
    """The rows, the best mAP first and failures last, and the protocol of their scores."""

    protocol: str
    split: str
    num_images: int
    samples: int  # draws of the bootstrap
    rows: tuple[Row, ...]
    num_groups: int  # that were drawn: as many as images, where none belong together


def summarise(
    outcomes: Sequence[Outcome],
    dataset: Dataset,
    split: str,
    *,
    metric: str = "voc07",
    iou_thresh: float | None = None,
    samples: int = 1000,
    groups: Sequence[int] | None = None,
) -> Comparison:
    """Return the table of what became of the cells, a row a name.

    `groups` are those of the images, for the draws, as in `bootstrap.draw_images`. Raises
    UsageError for an unknown metric, DetkitError when kept detections cannot be read.
    """
    truths = dataset.truths(split)
    draws = draw_images(len(truths), samples, groups=groups)
    num_groups = len(truths) if groups is None else len(set(groups))
    rows: list[Row] = []
    drawn: dict[str, Figures] = {}
    protocol = "nothing could be measured"
    for name in dict.fromkeys(one.cell.name for one in outcomes):
        own = [one for one in outcomes if one.cell.name == name]
        scored = []
        for one in own:
            if one.measured is None:
                continue
            found = read_predictions(one.cell.found, class_names=dataset.class_names)
            detections = pair(found, dataset.splits[split], dataset.class_names).detections
            scores = score(detections, truths, dataset.class_names, metric, iou_thresh)
            protocol = scores.protocol
            sizes = scores_by_size(detections, truths, dataset.class_names)
            scored.append((scores, {size.name: size.ap for size in sizes}))
            aps = resampled(
                detections, truths, dataset.class_names, draws, metric=metric, iou_thresh=iou_thresh
            )
            drawn[name] = drawn.get(name, 0.0) + mean_of_classes(aps)
        if scored:
            drawn[name] = drawn[name] / len(scored)
        rows.append(_row(name, own, scored))
    rows.sort(key=lambda row: -1.0 if row.mean is None else row.mean, reverse=True)
    with_differences = tuple(_with_differences(rows, drawn, num_groups))
    return Comparison(protocol, split, len(truths), samples, with_differences, num_groups)


def comparison_to_json(comparison: Comparison) -> dict[str, Any]:
    """Return the table as JSON values; a figure that there is none of is None."""
    rows = []
    for row in comparison.rows:
        values = asdict(row)
        values["difference"] = interval_to_json(row.difference)
        values["mAP"] = values.pop("mean")
        rows.append(values)
    return {
        "protocol": comparison.protocol,
        "split": comparison.split,
        "num_images": comparison.num_images,
        "bootstrap_samples": comparison.samples,
        "bootstrap_groups": comparison.num_groups,
        "models": rows,
    }


def _row(
    name: str, outcomes: Sequence[Outcome], scored: Sequence[tuple[Scores, dict[str, Any]]]
) -> Row:
    """Return the row of one name; the difference to the best is not known yet."""
    errors = tuple(
        f"{one.cell.result.stem}: {one.error}" for one in outcomes if one.error is not None
    )
    measured = [one.measured for one in outcomes if one.measured is not None]
    if not measured:
        return Row(name, errors=errors)
    maps = tuple(scores.mean for scores, _ in scored)
    known = [value for value in maps if value is not None]
    by_class = [{one.name: one.ap for one in scores.classes} for scores, _ in scored]
    stages = dict.fromkeys(stage for one in measured for stage in one.stages)
    return Row(
        name=name,
        backend=measured[0].backend,
        seeds=tuple(one.cell.seed for one in outcomes if one.measured is not None),
        maps=maps,
        mean=_mean(maps),
        spread=statistics.stdev(known) if len(known) > 1 else None,
        classes={key: _mean(one[key] for one in by_class) for key in by_class[0]},
        sizes={key: _mean(sizes[key] for _, sizes in scored) for key, *_ in SIZES},
        seconds=_mean(one.seconds / max(one.num_images, 1) for one in measured),
        stages={
            stage: sum(one.stages.get(stage, 0.0) / max(one.num_images, 1) for one in measured)
            / len(measured)
            for stage in stages
        },
        memory_mib=max(one.memory_mib for one in measured) or None,
        model_bytes=max(one.model_bytes for one in measured),
        training_seconds=_mean(one.training_seconds for one in measured),
        training_memory_mib=max(one.training_memory_mib or 0.0 for one in measured) or None,
        errors=errors,
    )


def _with_differences(
    rows: Sequence[Row], drawn: Mapping[str, Figures], num_groups: int
) -> Iterable[Row]:
    """Yield the rows with the intervals of their differences to the first."""
    for row in rows:
        if row.mean is None or row is rows[0]:
            yield row
            continue
        figures = drawn[row.name] - drawn[rows[0].name]
        unknown = Interval(float(figures[0]), -1.0, 1.0)  # of one group, or without objects
        yield replace(row, difference=interval(figures, num_groups) or unknown)


def _mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the figures there are."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
