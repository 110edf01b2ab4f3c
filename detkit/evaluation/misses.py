"""Missed objects, the false negatives: at which of a detector's stages each was lost.

An object is lost at the stage after the last one that still had a box for it: a box of its
class, from the candidates on, whose IoU with it reaches that of a find. One that no stage had
a box for was lost at the first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from detkit.data.images import read_image
from detkit.evaluation.iou import iou_matrix
from detkit.proposals.source import source_for
from detkit.structures import BoolArray, Sample, Truth
from detkit.trace import Box, TraceStage

if TYPE_CHECKING:
    from detkit.config import DetectorConfig
    from detkit.data.records import Dataset
    from detkit.detector import Detector
    from detkit.inference.views import View
    from detkit.proposals.source import ProposalSource

UNKNOWN = "classes", "the model does not know its class"
MERGED = "merging", "its boxes are lost where those of tiles and variants are merged"
CLAIMED = "matching", "the box that reaches it counts for another object"


@dataclass(frozen=True, slots=True)
class Miss:
    """An object that was not found, and what became of its boxes."""

    image_id: str
    place: int  # among the image's objects
    label: str
    box: Box  # own pixels
    stage: str  # "nms"
    reason: str  # "its boxes are suppressed by NMS"
    detail: str  # the figures behind it, and what else stood in the way; "" if nothing did
    by: Box | None  # the box that threw the object's out, own pixels


def find_misses(
    detector: Detector,
    dataset: Dataset,
    split: str,
    found: Sequence[BoolArray],
    *,
    iou_thresh: float = 0.5,
    proposals: ProposalSource | None = None,
    tile: int | None = None,
    tile_overlap: float | None = None,
    tta: Sequence[str] = (),
) -> Iterator[Miss]:
    """Yield the objects of a split that were not found, each with the stage that lost it.

    `found[i]` (R,) says which objects of image `i` were found, as `ErrorBreakdown.found` does;
    difficult ones do not count. The detector runs, in eval mode, on the images with misses
    alone, by tiles and TTA as `inference.predict` does; of several views an object's stages are
    those of the one in which it comes farthest, and the last is where they are merged. Raises
    DetkitError for an image that cannot be read.
    """
    source = source_for(detector, proposals)
    from detkit.inference.views import with_tiles

    config = with_tiles(detector.config, tile, tile_overlap)
    was_training = detector.training
    detector.eval()
    try:
        for record, truth, ok in zip(dataset.splits[split], dataset.truths(split), found):
            missed = np.flatnonzero(~ok & ~truth.difficult)
            if not len(missed):
                continue
            pixels = np.require(read_image(record.path), np.uint8, ["C", "W"])
            known = {name: number for number, name in enumerate(detector.class_names)}
            labels = [known.get(dataset.class_names[label], -1) for label in truth.labels]
            traced = np.flatnonzero(np.array(labels, np.int64) >= 0)
            own_labels = np.array(labels, np.int64)[traced]
            objects = replace(truth.rows(traced), labels=own_labels, image_id=str(record.path))
            stages = _stages(detector, pixels, objects, config, tta, source, iou_thresh)
            row = {int(place): number for number, place in enumerate(traced)}
            for place in missed.tolist():
                name = dataset.class_names[int(truth.labels[place])]
                yield locate(truth, place, name, stages, row.get(place), record.image_id)
    finally:
        detector.train(was_training)


def _stages(
    detector: Detector,
    pixels: NDArray[np.uint8],
    objects: Truth,
    config: DetectorConfig,
    tta: Sequence[str],
    source: ProposalSource | None,
    iou_thresh: float,
) -> list[TraceStage]:
    """Return the stages of an (H, W, 3) image's objects, over all its views by `config`."""
    from detkit.inference.views import fill_of, merged, proposals_of, views_of

    height, width = pixels.shape[:2]
    views = views_of(height, width, config, tta)
    traces, found = [], []
    for view in views:
        shown = view.pixels_of(pixels, fill_of(config))
        given = None
        if source is not None:
            boxes = proposals_of(source, objects.image_id, pixels, view, shown)
            given = torch.from_numpy(boxes)
        sample = Sample(
            image=torch.from_numpy(shown).permute(2, 0, 1),
            boxes=torch.from_numpy(view.boxes_of(objects.boxes)),
            labels=torch.from_numpy(objects.labels),
            difficult=torch.from_numpy(objects.difficult),
            proposals=given,
            image_id=objects.image_id,
        )
        batch = detector.prepare([sample]).to(detector.device)
        (stages,) = detector.trace(batch, iou_thresh)
        if len(views) == 1:
            return stages
        traces.append([_in_image(stage, view) for stage in stages])
        found += detector.detect(batch)
    together = merged(views, found, height, width, config.nms_thresh)
    reached = np.zeros(len(objects.labels), np.bool_)
    for row, (box, label) in enumerate(zip(objects.boxes, objects.labels.tolist(), strict=True)):
        overlaps = iou_matrix(box[None], together.boxes[together.labels == label])
        reached[row] = bool((overlaps >= iou_thresh).any())
    blank = ("",) * len(objects.labels)
    return [*_farthest(traces), TraceStage(*MERGED, reached, blank)]


def _in_image(stage: TraceStage, view: View) -> TraceStage:
    """Return a view's stage with its boxes where the image has them."""

    def moved(box: Box | None) -> Box | None:
        if box is None:
            return None
        x1, y1, x2, y2 = view.boxes_in_image(np.array([box], np.float32))[0].tolist()
        return x1, y1, x2, y2

    return replace(stage, by=tuple(map(moved, stage.by)))


def _farthest(traces: Sequence[Sequence[TraceStage]]) -> list[TraceStage]:
    """Return each object's stages from the view that has a box for it the longest."""
    kept = np.array([[stage.kept for stage in stages] for stages in traces])  # (V, S, R)
    last = np.where(kept, np.arange(1, kept.shape[1] + 1)[None, :, None], 0).max(axis=1)
    best = last.argmax(axis=0).tolist()  # (R,)
    return [
        TraceStage(
            stage.name,
            stage.loss,
            np.array([traces[view][at].kept[row] for row, view in enumerate(best)], np.bool_),
            tuple(traces[view][at].details[row] for row, view in enumerate(best)),
            tuple(
                traces[view][at].by[row] if traces[view][at].by else None
                for row, view in enumerate(best)
            ),
        )
        for at, stage in enumerate(traces[0])
    ]


def locate(
    truth: Truth,
    place: int,
    label: str,
    stages: Sequence[TraceStage],
    row: int | None,
    image_id: str = "",
) -> Miss:
    """Return what became of the object at `place`, which is at `row` of the stages; None: unknown.

    `label` is the name of its class.
    """
    x1, y1, x2, y2 = truth.boxes[place].tolist()
    box = (x1, y1, x2, y2)
    if row is None:
        return Miss(image_id, place, label, box, *UNKNOWN, detail="", by=None)
    kept = [number for number, stage in enumerate(stages) if stage.kept[row]]
    last = kept[-1] if kept else -1
    if last == len(stages) - 1:
        name, reason, detail, by = *CLAIMED, "", None
    else:
        lost = stages[last + 1]
        name, reason, detail = lost.name, lost.loss, lost.details[row]
        by = lost.by[row] if lost.by else None
    also = [stage.loss for stage in stages[: max(last, 0)] if not stage.kept[row]]
    detail = "; also ".join(part for part in (detail, *also) if part)
    return Miss(image_id, place, label, box, name, reason, detail, by)


def count_by_stage(misses: Sequence[Miss]) -> list[tuple[str, str, int, dict[str, int]]]:
    """Return (stage, reason, number, number by class) for each stage, the most losses first."""
    counts = Counter((miss.stage, miss.reason) for miss in misses)
    return [
        (
            stage,
            reason,
            number,
            dict(Counter(miss.label for miss in misses if miss.stage == stage).most_common()),
        )
        for (stage, reason), number in counts.most_common()
    ]


def misses_to_json(misses: Sequence[Miss]) -> dict[str, Any]:
    """Return the numbers by stage and every miss, as JSON values."""
    return {
        "stages": [
            {"stage": stage, "reason": reason, "missed": number, "classes": classes}
            for stage, reason, number, classes in count_by_stage(misses)
        ],
        "objects": [
            {
                "image": miss.image_id,
                "label": miss.label,
                "box": [round(value, 3) for value in miss.box],
                "stage": miss.stage,
                "reason": miss.reason,
                "detail": miss.detail,
                "by": None if miss.by is None else [round(value, 3) for value in miss.by],
            }
            for miss in misses
        ],
    }
