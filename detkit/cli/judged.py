"""What `detkit eval` scores: the detections of a model or a file, on a split."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detkit.cli.console import Console
from detkit.cli.data import tell_notes, warn_of_unread
from detkit.cli.looking import Looking, tell_ways
from detkit.cli.model_choice import open_on_free_cores, open_proposals
from detkit.errors import UsageError, is_installed, need_of

if TYPE_CHECKING:
    from detkit.data.records import Dataset
    from detkit.evaluation.error_breakdown import ErrorBreakdown
    from detkit.evaluation.gain import Gain
    from detkit.evaluation.misses import Miss
    from detkit.inference.predict import Finder
    from detkit.predictions.image import ImagePredictions
    from detkit.proposals.source import ProposalSource
    from detkit.structures import Detections, Scores, Truth

logger = logging.getLogger(__name__)
LOOKING = Looking()


@dataclass(frozen=True)
class Judged:
    """Detections of a split with their scores, and the model they are of, if any."""

    dataset: Dataset
    split: str
    truths: list[Truth]
    detections: list[Detections]
    scores: Scores
    iou: float | None  # as asked for
    # The model they are of, with the source of its proposals, opened where it is not yet.
    opened: Callable[[], tuple[Finder[Any], ProposalSource | None]] | None = None
    warnings: tuple[str, ...] = ()  # what may make the scores mean something else
    heads: Mapping[str, Scores] = field(default_factory=dict)  # of each head, if asked for
    looking: Looking = LOOKING  # at the images
    gain: Gain | None = None  # over looking at them plainly, if asked for

    @functools.cached_property
    def errors(self) -> ErrorBreakdown:
        """Return what each kind of error costs."""
        return self.errors_by("paper")

    def errors_by(self, rules: str) -> ErrorBreakdown:
        """Return what each kind of error costs by one of `scores.ERROR_RULES`."""
        from detkit.evaluation.scores import errors_of

        names = self.dataset.class_names
        return errors_of(self.detections, self.truths, names, self.scores, rules)

    @functools.cached_property
    def misses(self) -> list[Miss] | None:
        """Return the missed objects with the stage that lost each; None without a model."""
        if self.opened is None:
            return None
        from detkit.inference.onnx import OnnxDetector

        detector: Any  # what is no `Detector` is made one
        detector, proposals = self.opened()
        if isinstance(detector, OnnxDetector):
            if not is_installed("torch"):
                logger.info("what missed objects were lost to %s", need_of("torch"))
                return None
            from detkit.inference.onnx_export import TracedOnnx

            if detector.takes_pixels or detector.ends_in_boxes:
                logger.info("what missed objects were lost to cannot be seen in such a file")
                return None
            detector = TracedOnnx(detector).eval()
        from detkit.evaluation.misses import find_misses

        return list(
            find_misses(
                detector,
                self.dataset,
                self.split,
                self.errors.found,
                iou_thresh=self.scores.iou_thresh,
                proposals=proposals,
                tile=self.looking.tile,
                tile_overlap=self.looking.overlap,
                tta=self.looking.tta,
            )
        )


def choose_split(dataset: Dataset, split: str | None) -> str:
    """Return the split to score on: the one asked for, else test, else val, else the only one.

    Raises UsageError naming the splits there are.
    """
    if split is not None:
        if split not in dataset.splits:
            known = ", ".join(dataset.splits)
            raise UsageError(f"--split {split}: {dataset.root} has {known}")
        return split
    for name in ("test", "val"):
        if dataset.splits.get(name):
            return name
    if len(dataset.splits) == 1:
        return next(iter(dataset.splits))
    raise UsageError(
        f"{dataset.root}: no test or val split; choose by --split from {', '.join(dataset.splits)}"
    )


def evaluate_model(
    console: Console,
    model: str,
    data: Path,
    names: Sequence[str] | None,
    split: str | None,
    metric: str,
    iou: float | None,
    *,
    batch_size: int,
    device: str,
    precision: str,
    threads: int | None,
    proposals: str | None,
    settings: Sequence[str] | None,
    looking: Looking,
    heads: bool,
    check: Callable[[Scores], object],
    processes: Callable[[Looking], list[ImagePredictions]] | None = None,
) -> Judged:
    """Return a model's scores on a split of a data set.

    With tiles to compare, or TTA, what `looking` brings over looking plainly is measured, too.
    `check` gets the scores of no detections at all, before the model runs: whatever asks for a
    figure they do not have is told at once. `processes`, where there are several, find what this
    one would. With `heads` each head of the model is scored, too;
    raises UsageError when it has but one.
    """
    from detkit.data import open_dataset
    from detkit.evaluation import evaluate
    from detkit.evaluation.pairing import pair
    from detkit.evaluation.scores import score

    dataset = open_dataset(data, classes=names)
    part = choose_split(dataset, split)
    check(score([], [], dataset.class_names, metric, iou))
    plain = looking.plain
    looks = [plain, looking] if looking.is_measured else [looking]

    @functools.cache
    def opened() -> tuple[Finder[Any], ProposalSource | None]:
        detector = open_on_free_cores(console, model, device, settings, precision, threads)
        return detector, open_proposals(proposals, detector)

    # Where processes have looked, opening the model takes longer than all that is left to do.
    detector, source = (None, None) if processes and not looking.is_measured else opened()
    if detector is not None:
        _require_possible(model, detector, looking, heads=heads)
        if processes is None:  # else those tell it
            tell_ways(console, looking.words(detector.config))
    found_there = {} if processes is None else {by: _timed(processes, by) for by in looks}
    tell_notes(console, dataset)
    warn_of_unread(console, dataset)
    own = "" if detector is None else detector.heads[0]

    def found(by: Looking) -> tuple[dict[str, list[Detections]], float]:
        if by in found_there:
            predictions, seconds = found_there[by]
            paired = pair(predictions, dataset.splits[part], dataset.class_names)
            return {own: paired.detections}, seconds
        began = time.perf_counter()
        find = evaluate.detect_heads if heads else evaluate.detect_split
        result: Any = find(
            opened()[0],
            dataset,
            part,
            batch_size=batch_size,
            proposals=source,
            tile=by.tile,
            tile_overlap=by.overlap,
            tta=by.tta,
        )
        return (result if heads else {own: result}), time.perf_counter() - began

    before = found(plain) if looking.is_measured else None
    by_head, seconds = found(looking)
    truths = dataset.truths(part)
    scores = {
        head: score(detections, truths, dataset.class_names, metric, iou)
        for head, detections in by_head.items()
    }
    gain = None
    if before is not None:
        from detkit.evaluation.gain import Looked, gain_of

        others = before[0][own]
        config = opened()[0].config
        name = plain.words(config) or "plain"
        first = Looked(
            name, others, score(others, truths, dataset.class_names, metric, iou), before[1]
        )
        words = looking.words(config)
        gain = gain_of(
            first, Looked(words, by_head[own], scores[own], seconds), truths, dataset.class_names
        )
    return Judged(
        dataset,
        part,
        truths,
        by_head[own],
        scores[own],
        iou,
        opened,
        heads=scores,
        looking=looking,
        gain=gain,
    )


def _require_possible(model: str, detector: Finder[Any], looking: Looking, *, heads: bool) -> None:
    """Raise UsageError for heads or tiles that a model does not have."""
    if heads and len(detector.heads) == 1:
        raise UsageError(f"--heads: {model} has one head only")
    if looking.compare and not looking.side(detector.config):
        raise UsageError(f"--tile compare: {model} knows no tiles; say their side: compare=640")


def _timed(
    processes: Callable[[Looking], list[ImagePredictions]], by: Looking
) -> tuple[list[ImagePredictions], float]:
    """Return what the processes find, and how many seconds that takes."""
    began = time.perf_counter()
    return processes(by), time.perf_counter() - began


def evaluate_file(
    console: Console,
    predictions: Path,
    data: Path,
    names: Sequence[str] | None,
    split: str | None,
    metric: str,
    iou: float | None,
    *,
    layout: str | None = None,
    scale: str | None = None,
    strict: bool = False,
) -> Judged:
    """Return the scores of a file of detections on a split of a data set; without torch.

    `layout` and `scale` say what its columns, numbers and scores are (`--layout`, `--scores`);
    with `strict`, detections of images outside the split are an error.
    """
    from detkit.data import open_dataset
    from detkit.data.split_images import SplitImages
    from detkit.data.splits import select_classes
    from detkit.evaluation.box_checks import check_boxes_mean
    from detkit.evaluation.pairing import pair
    from detkit.evaluation.reference import reference_of
    from detkit.evaluation.scores import score
    from detkit.predictions.layout import parse_layout
    from detkit.predictions.readers import read_predictions
    from detkit.predictions.score_scales import SCALES

    stated = None if layout is None else parse_layout(layout)
    if scale is not None and scale not in SCALES:
        raise UsageError(f"--scores {scale}: choose from {', '.join(SCALES)}")

    # A file's numbers and labels are those of all classes, not of the ones chosen here.
    whole = open_dataset(data)
    dataset = whole if names is None else select_classes(whole, names)
    part = choose_split(dataset, split)
    tell_notes(console, dataset)
    warn_of_unread(console, dataset)
    records = dataset.splits[part]
    others = {name: images for name, images in dataset.splits.items() if name != part}
    images = SplitImages(records, others, dataset.root)
    found = read_predictions(
        predictions, reference=reference_of(whole, part, images), layout=stated, scores=scale
    )
    not_chosen = set(whole.class_names) - set(dataset.class_names)
    found = [one.of_classes(set(one.labels) - not_chosen) for one in found]
    paired = pair(found, records, dataset.class_names, images, strict=strict)
    truths = dataset.truths(part)
    doubts = check_boxes_mean(
        predictions,
        paired.predictions,
        paired.detections,
        records,
        truths,
        is_stated=stated is not None and bool(stated.box),
    )
    warnings = (*paired.warnings, *doubts)
    for warning in warnings:
        console.warn(warning)
    scores = score(paired.detections, truths, dataset.class_names, metric, iou)
    return Judged(dataset, part, truths, paired.detections, scores, iou, warnings=warnings)
