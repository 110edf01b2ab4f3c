"""From predictions to scores: whose image is whose, which metric, which gate is not met.

Nothing here needs torch; only `evaluate`, which runs a detector, imports it.
"""

from __future__ import annotations

import difflib
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from detkit.data.folder_splits import counted
from detkit.data.image_names import ImageNames
from detkit.data.records import ImageRecord
from detkit.errors import DetkitError, UsageError
from detkit.evaluation.coco_map import coco_map
from detkit.evaluation.error_breakdown import BACKGROUND_IOU, ErrorBreakdown, breakdown
from detkit.evaluation.voc_map import VocMetric, voc_map
from detkit.predictions.image import ImagePredictions, from_detections
from detkit.structures import Batch, Detections, FloatArray, Scores, Truth

if TYPE_CHECKING:
    from detkit.data.records import Dataset
    from detkit.detector import Detector
    from detkit.proposals.source import ProposalSource

logger = logging.getLogger(__name__)

METRICS: tuple[str, ...] = (*get_args(VocMetric), "coco")
# Above this a cut costs AP: at .5 it was 6 points of mAP on a VOC-like set, at .05 none.
HARMLESS_CUT = 0.05
ROUNDING = 1e-9  # a mean of ones and zeros may fall short of .5 by 1e-16; a gate does not


@dataclass(frozen=True, slots=True)
class Paired:
    """Predictions put beside the images of a split."""

    detections: list[Detections]  # one an image of the split, in its order
    num_missing: int  # images of the split of which the predictions say nothing
    warnings: tuple[str, ...]  # what may make the score mean something else


@dataclass(frozen=True, slots=True)
class Gate:
    """The least a figure must be: "mAP", a class name, or one of COCO's further figures."""

    name: str
    least: float  # in [0, 1]


def pair(
    predictions: Sequence[ImagePredictions],
    records: Sequence[ImageRecord],
    class_names: Sequence[str],
) -> Paired:
    """Return the detections of each record, best first, in the records' order.

    Images are known by their path in the data set, the longest end of a path that fits, the
    stem, or COCO's id; an image the predictions do not name has no detections. Raises
    DetkitError for an image that is not among the records or fits several, one predicted
    twice, and a label that is not a class, each by name.
    """
    names = ImageNames(records)
    class_index = {name: number for number, name in enumerate(class_names)}
    _check_labels(predictions, class_names)
    found: dict[int, ImagePredictions] = {}
    for one in predictions:
        index = names.find(one.image)
        if index in found:
            first = found[index].image
            both = f"{one.image!r} twice" if first == one.image else f"{first!r} and {one.image!r}"
            raise DetkitError(
                f"the predictions have {both} for the one image {records[index].image_id}; "
                "give each image once"
            )
        found[index] = one
    detections = [
        _detections(found[index], record, class_index)
        if index in found
        else Detections(
            np.empty((0, 4), np.float32),
            np.empty(0, np.float32),
            np.empty(0, np.int64),
            record.image_id,
        )
        for index, record in enumerate(records)
    ]
    missing = [record for index, record in enumerate(records) if index not in found]
    return Paired(detections, len(missing), tuple(_warnings(predictions, records, missing)))


def score(
    detections: Sequence[Detections],
    truths: Sequence[Truth],
    class_names: Sequence[str],
    metric: str = "voc07",
    iou_thresh: float | None = None,
    *,
    areas: Sequence[FloatArray] | None = None,
) -> Scores:
    """Return the scores of `detections[i]` against `truths[i]` under a metric.

    Without `iou_thresh` it is .5 for VOC's metrics and COCO's mean over .5 to .95. `areas` are
    for `coco` alone. Raises UsageError for an unknown metric or an IoU outside (0, 1].
    """
    if iou_thresh is not None and not 0.0 < iou_thresh <= 1.0:
        raise UsageError(f"--iou {iou_thresh:g}: must lie above 0 and at most at 1")
    if metric == "coco":
        return coco_map(detections, truths, class_names, iou_thresh=iou_thresh, areas=areas)
    voc_metric: VocMetric
    for voc_metric in get_args(VocMetric):
        if voc_metric == metric:
            thresh = 0.5 if iou_thresh is None else iou_thresh
            return voc_map(detections, truths, class_names, metric=voc_metric, iou_thresh=thresh)
    raise UsageError(f"--metric {metric}: choose from {', '.join(METRICS)}")


def errors_of(
    detections: Sequence[Detections],
    truths: Sequence[Truth],
    class_names: Sequence[str],
    scores: Scores,
) -> ErrorBreakdown:
    """Return what each kind of error costs the scores of `detections[i]`, at their own IoU.

    TIDE speaks of one IoU: of COCO's several it is the loosest; and of VOC's metrics the area
    is nearest to COCO's.
    """
    return breakdown(
        detections,
        truths,
        class_names,
        iou_thresh=scores.iou_thresh,
        background_thresh=min(BACKGROUND_IOU, scores.iou_thresh),
        metric="voc07" if scores.metric == "voc07" else "voc12",
    )


def evaluate(
    detector: Detector,
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
    if metric not in METRICS:
        raise UsageError(f"--metric {metric}: choose from {', '.join(METRICS)}")
    detections = detect_split(detector, dataset, split, batch_size=batch_size, proposals=proposals)
    return score(detections, dataset.truths(split), dataset.class_names, metric, iou_thresh)


def detect_split(
    detector: Detector,
    dataset: Dataset,
    split: str,
    *,
    batch_size: int = 8,
    proposals: ProposalSource | None = None,
    detect: Callable[[Batch], list[Detections]] | None = None,
) -> list[Detections]:
    """Return what a detector finds in each image of a split, labelled as the data set is.

    A detector that wants proposals gets those of `proposals`, by default as its config says.
    `detect` stands in for the detector's own.
    Raises UsageError for an unknown split, and DetkitError when an image cannot be
    read or has no proposals: a score that leaves it out would not be the split's. Classes are
    compared by name: detections of one that the data set does not have are left out, and one
    that the detector does not know has an AP of 0; both are logged. Raises DetkitError when no
    class is common.
    """
    from detkit.inference.predict import predict

    if split not in dataset.splits:
        raise UsageError(f"split {split!r}: {dataset.root} has {', '.join(dataset.splits)}")
    records = dataset.splits[split]
    _compare_classes(detector.class_names, dataset.class_names)
    predictions = []
    paths = [record.path for record in records]
    if proposals is not None:
        proposals.require(map(str, paths))
    for one in predict(detector, paths, batch_size=batch_size, proposals=proposals, detect=detect):
        if one.error is not None:
            raise DetkitError(f"{one.image}: {one.error}; `detkit check` lists what cannot be read")
        predictions.append(one.of_classes(dataset.class_names))
    return pair(predictions, records, dataset.class_names).detections


def detect_heads(
    detector: Detector,
    dataset: Dataset,
    split: str,
    *,
    batch_size: int = 8,
    proposals: ProposalSource | None = None,
) -> dict[str, list[Detections]]:
    """Return what `detect_split` does by each of the detector's heads, from one pass."""
    found: dict[str, dict[str, Detections]] = {head: {} for head in detector.heads}

    def detect(batch: Batch) -> list[Detections]:
        by_head = detector.detect_by_head(batch)
        for head, detections in by_head.items():
            found[head].update((one.image_id, one) for one in detections)
        return by_head[detector.heads[0]]

    own = detect_split(
        detector, dataset, split, batch_size=batch_size, proposals=proposals, detect=detect
    )
    by_head = {detector.heads[0]: own}
    records = dataset.splits[split]
    for head in detector.heads[1:]:
        of_images = ((str(one.path), found[head][str(one.path)]) for one in records)
        named = [from_detections(one, detector.class_names, path, 0, 0) for path, one in of_images]
        mapped = [one.of_classes(dataset.class_names) for one in named]
        by_head[head] = pair(mapped, records, dataset.class_names).detections
    return by_head


def parse_gate(text: str) -> Gate:
    """Return the gate that `NAME=LEAST` stands for; raise UsageError when it stands for none."""
    name, equals, number = text.rpartition("=")
    try:
        least = float(number)
    except ValueError:
        least = -1.0
    if not equals or not name.strip() or not 0.0 <= least <= 1.0:
        raise UsageError(
            f"--fail-under {text}: expected NAME=X with X between 0 and 1, like mAP=.6 or car=.7"
        )
    return Gate(name.strip(), least)


def check_gates(scores: Scores, gates: Sequence[Gate]) -> list[str]:
    """Return a line for each gate that is not met, saying by how much.

    Raises UsageError for a gate on a figure that the scores do not have.
    """
    values = {**scores.extra, **{one.name: one.ap for one in scores.classes}, "mAP": scores.mean}
    failures = []
    for gate in gates:
        if gate.name not in values:
            raise UsageError(
                f"--fail-under {gate.name}={gate.least:g}: no such class or figure; "
                + _near(gate.name, values)
            )
        value = values[gate.name]
        if value is None:
            failures.append(f"{gate.name} has no value, for want of objects; asked {gate.least:g}")
        elif value < gate.least - ROUNDING:
            failures.append(
                f"{gate.name} {_short(value)} is {_short(gate.least - value)} below "
                f"{gate.least:g}".replace(" 0.", " .")
            )
    return failures


def scores_to_json(scores: Scores) -> dict[str, Any]:
    """Return the scores as JSON values; a figure that there is none of is None, never NaN.

    `iou_thresh` is None for COCO's mean over thresholds, which `protocol` spells out.
    """
    is_mean_over_ious = "AP50" in scores.extra
    report: dict[str, Any] = {
        "protocol": scores.protocol,
        "metric": scores.metric,
        "iou_thresh": None if is_mean_over_ious else scores.iou_thresh,
        "num_images": scores.num_images,
        "mAP": scores.mean,
        "classes": [
            {
                "name": one.name,
                "AP": one.ap,
                "num_truths": one.num_truths,
                "num_detections": one.num_detections,
                "best_f1": one.best_f1,
                "best_threshold": one.best_threshold,
            }
            for one in scores.classes
        ],
    }
    if scores.extra:
        report["extra"] = dict(scores.extra)
    return report


def _check_labels(predictions: Sequence[ImagePredictions], class_names: Sequence[str]) -> None:
    """Raise DetkitError when a label is not a class, naming the nearest one."""
    counts = Counter(label for one in predictions for label in one.labels)
    unknown = [label for label in counts if label not in class_names]
    if not unknown:
        return
    label = unknown[0]
    image = next(one.image for one in predictions if label in one.labels)
    more = f" ({len(unknown) - 1} more unknown labels)" if unknown[1:] else ""
    raise DetkitError(
        f"label {label!r} of {counted(counts[label], 'detection')} (first in {image}) is no class "
        f"of the data set{more}; {_near(label, class_names)}"
    )


def _compare_classes(known: Sequence[str], asked: Sequence[str]) -> None:
    """Log which classes only the detector or only the data set has."""
    if not set(known) & set(asked):
        raise DetkitError(
            f"the model knows {_some(known)}, the data set has {_some(asked)}: no class in common"
        )
    foreign = [name for name in known if name not in asked]
    if foreign:
        logger.info("detections of %s are left out: not classes of the data set", _some(foreign))
    missing = [name for name in asked if name not in known]
    if missing:
        logger.warning("the model does not know %s: their AP is 0", _some(missing))


def _some(names: Sequence[str]) -> str:
    """Return the first names as text, and how many more there are."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _near(name: str, known: Sequence[str] | dict[str, Any]) -> str:
    """Return a hint at the name that was meant, or at all there are."""
    lowered = {one.lower(): one for one in known}
    near = difflib.get_close_matches(name.lower(), lowered, n=1)
    if near:
        return f"did you mean {lowered[near[0]]!r}?"
    return f"choose from {', '.join(known)}"


def _detections(
    found: ImagePredictions, record: ImageRecord, class_index: dict[str, int]
) -> Detections:
    """Return one image's predictions as detections, best first, in own pixels."""
    boxes = found.boxes
    if found.normalised and len(boxes):
        height, width = _size(record)
        boxes = boxes * np.array([width, height, width, height], np.float32)
    labels = np.array([class_index[label] for label in found.labels], np.int64)
    order = np.argsort(-found.scores, kind="stable")
    return Detections(boxes[order], found.scores[order], labels[order], record.image_id)


def _size(record: ImageRecord) -> tuple[int, int]:
    """Return an image's (height, width) in pixels, which shares of it are multiplied with."""
    from detkit.data.images import image_size

    if record.path.is_file():  # what a label file states may be wrong
        return image_size(record.path)
    if record.width and record.height:
        return record.height, record.width
    raise DetkitError(
        f"{record.path}: no such image, so the normalised boxes predicted for it have no size"
    )


def _warnings(
    predictions: Sequence[ImagePredictions],
    records: Sequence[ImageRecord],
    missing: Sequence[ImageRecord],
) -> list[str]:
    """Return what may make the score mean something else than its reader thinks."""
    warnings = []
    if missing:
        warnings.append(
            f"{len(missing)} of {len(records)} images have no predictions and count as missed "
            f"(first: {missing[0].image_id})"
        )
    failed = [one for one in predictions if one.error is not None]
    if failed:
        warnings.append(
            f"{counted(len(failed), 'image')} could not be read by the detector, which counts as "
            f"missed (first: {failed[0].image}: {failed[0].error})"
        )
    lowest = min((float(one.scores.min()) for one in predictions if len(one.scores)), default=0.0)
    if lowest > np.float32(HARMLESS_CUT):  # scores are float32: their .05 lies above ours
        warnings.append(
            f"no score is below {lowest:.3g}: if they were cut there, AP misses the end of each "
            f"curve and is too low; write detections down to {HARMLESS_CUT} or less"
        )
    return warnings


def _short(value: float) -> str:
    """Return a share with four places, or with as many as it takes not to be 0."""
    text = f"{value:.4f}"
    return text if float(text) or not value else f"{value:.2g}"
