"""The table of a comparison: accuracy with its doubt, speed, memory, size, training.

Shape shorthand: S draws of the test images, C classes.

What chance in the choice of test images does to a model's mAP, and to the difference of two, is
told by the paired bootstrap (see `bootstrap`), on the mean over each model's seeds; what chance in
training does, by the spread over the seeds. The best model is the best on these same images,
partly by luck, so the intervals of the differences to it lean to "different".

In cross-validation the detections of all folds of a seed are one set, each image's by the model
that did not train on it, and are scored as one.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from detkit.predictions.image import ImagePredictions
from detkit.predictions.readers import read_predictions
from detkit.structures import Detections, Scores, Truth


@dataclass(frozen=True, slots=True)
class FoldScore:
    """The mAP of one training of a cross-validation, on the images that it was not trained on."""

    seed: int | None
    fold: int  # from 1 on
    num_images: int
    mean: float | None


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
    errors: tuple[str, ...] = ()  # a line a training that failed
    interval: Interval | None = None  # of the mean, over draws of the images; None: too few
    folds: tuple[FoldScore, ...] = ()  # in cross-validation, of each training
    warnings: tuple[str, ...] = ()  # what may make a score mean something else


@dataclass(frozen=True, slots=True)
class Comparison:
    """The rows, the best mAP first and failures last, and the protocol of their scores."""

    protocol: str
    split: str
    num_images: int
    samples: int  # draws of the bootstrap
    rows: tuple[Row, ...]
    num_groups: int  # that were drawn: as many as images, where none belong together
    num_folds: int | None = None  # of a cross-validation


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
        by_fold: list[FoldScore] = []
        for whole in _wholes(own):
            found = _detections(whole, dataset, split)
            by_fold += _fold_scores(whole, found, truths, dataset.class_names, metric, iou_thresh)
            if any(one.measured is None for one in whole):
                continue
            detections = [found[truth.image_id] for truth in truths]
            scores = score(detections, truths, dataset.class_names, metric, iou_thresh)
            protocol = scores.protocol
            sizes = scores_by_size(detections, truths, dataset.class_names)
            scored.append((whole[0].cell.seed, scores, {size.name: size.ap for size in sizes}))
            aps = resampled(
                detections, truths, dataset.class_names, draws, metric=metric, iou_thresh=iou_thresh
            )
            drawn[name] = drawn.get(name, 0.0) + mean_of_classes(aps)
        row = replace(_row(name, own, scored), folds=tuple(by_fold))
        if scored:
            drawn[name] = drawn[name] / len(scored)
            row = replace(row, interval=interval(drawn[name], num_groups))
        rows.append(row)
    rows.sort(key=lambda row: -1.0 if row.mean is None else row.mean, reverse=True)
    folds = {one.cell.fold for one in outcomes if one.cell.fold is not None}
    return Comparison(
        protocol,
        split,
        len(truths),
        samples,
        tuple(_with_differences(rows, drawn, num_groups)),
        num_groups,
        len(folds) or None,
    )


def _wholes(outcomes: Sequence[Outcome]) -> list[list[Outcome]]:
    """Return the outcomes of one model that are scored as one: all folds of a seed, else each."""
    by_seed: dict[int | None, list[Outcome]] = {}
    alone = []
    for one in outcomes:
        if one.cell.fold is None:
            alone.append([one])
        else:
            by_seed.setdefault(one.cell.seed, []).append(one)
    return [*alone, *by_seed.values()]


def _detections(outcomes: Sequence[Outcome], dataset: Dataset, split: str) -> dict[str, Detections]:
    """Return what was found in each image by its id; images of what failed have nothing."""
    found: list[ImagePredictions] = []
    for one in outcomes:
        if one.measured is not None:
            found += read_predictions(one.cell.found, class_names=dataset.class_names)
    detections = pair(found, dataset.splits[split], dataset.class_names).detections
    return {one.image_id: one for one in detections}


def _fold_scores(
    outcomes: Sequence[Outcome],
    found: Mapping[str, Detections],
    truths: Sequence[Truth],
    class_names: Sequence[str],
    metric: str,
    iou_thresh: float | None,
) -> Iterator[FoldScore]:
    """Yield the scores of the folds that were measured."""
    for one in outcomes:
        if one.cell.fold is None or one.measured is None:
            continue
        held = set(one.cell.images or ())
        own = [truth for truth in truths if truth.image_id in held]
        detections = [found[truth.image_id] for truth in own]
        scores = score(detections, own, class_names, metric, iou_thresh)
        yield FoldScore(one.cell.seed, one.cell.fold, len(own), scores.mean)


def comparison_to_json(comparison: Comparison) -> dict[str, Any]:
    """Return the table as JSON values; a figure that there is none of is None."""
    rows = []
    for row in comparison.rows:
        values = asdict(row)
        values["interval"] = interval_to_json(row.interval)
        values["difference"] = interval_to_json(row.difference)
        values["folds"] = [
            {
                "seed": one.seed,
                "fold": one.fold,
                "num_images": one.num_images,
                "mAP": one.mean,
            }
            for one in row.folds
        ]
        values["mAP"] = values.pop("mean")
        rows.append(values)
    return {
        "protocol": comparison.protocol,
        "split": comparison.split,
        "num_images": comparison.num_images,
        "bootstrap_samples": comparison.samples,
        "bootstrap_groups": comparison.num_groups,
        "folds": comparison.num_folds,
        "models": rows,
    }


def _row(
    name: str,
    outcomes: Sequence[Outcome],
    scored: Sequence[tuple[int | None, Scores, dict[str, Any]]],
) -> Row:
    """Return the row of one name; the difference to the best is not known yet."""
    errors = tuple(
        f"{one.cell.result.stem}: {one.error}" for one in outcomes if one.error is not None
    )
    measured = [one.measured for one in outcomes if one.measured is not None]
    warnings = _warnings(name, outcomes)
    if not scored:
        return Row(name, errors=errors, warnings=warnings)
    maps = tuple(scores.mean for _, scores, _ in scored)
    known = [value for value in maps if value is not None]
    by_class = [{one.name: one.ap for one in scores.classes} for _, scores, _ in scored]
    stages = dict.fromkeys(stage for one in measured for stage in one.stages)
    num_images = sum(one.num_images for one in measured)
    timed = [one for one in measured if one.seconds is not None]
    num_timed = max(sum(one.num_images for one in timed), 1)
    return Row(
        name=name,
        backend=measured[0].backend,
        seeds=tuple(seed for seed, *_ in scored),
        maps=maps,
        mean=_mean(maps),
        spread=statistics.stdev(known) if len(known) > 1 else None,
        classes={key: _mean(one[key] for one in by_class) for key in by_class[0]},
        sizes={key: _mean(sizes[key] for *_, sizes in scored) for key, *_ in SIZES},
        seconds=sum(one.seconds or 0.0 for one in timed) / num_timed if timed else None,
        stages={
            stage: sum(one.stages.get(stage, 0.0) for one in measured) / max(num_images, 1)
            for stage in stages
        },
        memory_mib=max(one.memory_mib for one in measured) or None,
        model_bytes=max(one.model_bytes or 0 for one in measured) or None,
        training_seconds=_mean(one.training_seconds for one in measured),
        training_memory_mib=max(one.training_memory_mib or 0.0 for one in measured) or None,
        errors=errors,
        warnings=warnings,
    )


def _warnings(name: str, outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    """Return the warnings of a model's trainings; one that several have is told once."""
    places: dict[str, list[str]] = {}
    for one in outcomes:
        for warning in () if one.measured is None else one.measured.warnings:
            places.setdefault(warning, []).append(one.cell.result.stem)
    return tuple(
        f"{stems[0] if len(stems) == 1 else f'{name}, {len(stems)} trainings'}: {warning}"
        for warning, stems in places.items()
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
