"""Metrics: the one table that scores, the bootstrap, `--explain`, `--errors` and the help read.

A new metric is a file of this folder that has its `Rules`, and a line in `METRICS`. What a line
points to is imported when the metric is used: the table itself needs no numpy, for `--help`. Behind
a metric's name may stand conventions of other evaluators, `voc07+count-difficult`: `conventions`.

Shape shorthand: S draws of the images.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

from detkit.errors import UsageError

if TYPE_CHECKING:
    from detkit.evaluation.average_precision import OnDraws, RankedAp
    from detkit.evaluation.precision_recall import RankedHits
    from detkit.structures import Detections, Scores, Truth

Found: TypeAlias = "Sequence[Detections]"
Wanted: TypeAlias = "Sequence[Truth]"
Change: TypeAlias = "Callable[[Found, Wanted], tuple[Found, Wanted]]"


@dataclass(frozen=True, slots=True)
class Rules:
    """How a metric scores `detections[i]`, found where `truths[i]` is.

    An `iou_thresh` is that of a find, or `Metric.iou_thresh`.
    """

    score: Callable[..., Scores]  # of detections, truths, class_names, iou_thresh=
    # Of detections, truths, number of classes, iou_thresh: by class, a ranking for each IoU that
    # the metric is a mean over.
    ranked_hits: Callable[..., list[list[RankedHits]]]
    on_draws: OnDraws  # AP of one such ranking on each of the bootstrap's draws, (1 + S,)
    error_ap: RankedAp  # the AP that `--errors` tells the loss of
    change: Change | None = None  # of what is scored, which `score` and `ranked_hits` make
    variants: Mapping[str, Callable[[], Rules]] = field(default_factory=dict)  # by `conventions`


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric as it is listed."""

    place: str  # of its `Rules`: "module:NAME"
    words: str = ""  # behind its name in the help
    iou_thresh: float | None = 0.5  # of a find; None: COCO's mean over .5, .55, ..., .95
    # What `--explain` compares others with: in words, and the IoU.
    protocols: tuple[tuple[str, float | None], ...] = ()
    name: str = ""  # with its conventions, if it has any

    @property
    def rules(self) -> Rules:
        """Return the functions, imported now."""
        rules: Rules = pkgutil.resolve_name(self.place)
        if not self.name:
            return rules
        from detkit.evaluation.conventions import with_conventions

        return with_conventions(rules, self.name.split("+")[1:], self.name)

    def iou(self, asked: float | None) -> float | None:
        """Return the IoU asked for, or the metric's own."""
        return self.iou_thresh if asked is None else asked


METRICS: dict[str, Metric] = {
    "voc07": Metric(
        "detkit.evaluation.voc_map:VOC07",
        "11 points",
        protocols=(("voc07: 11 points, IoU .5", 0.5),),
    ),
    "voc12": Metric(
        "detkit.evaluation.voc_map:VOC12",
        "area",
        protocols=(("voc12: area under the curve, IoU .5", 0.5),),
    ),
    "auc": Metric("detkit.evaluation.voc_map:AUC"),
    "coco": Metric(
        "detkit.evaluation.coco_map:COCO",
        iou_thresh=None,
        protocols=(
            ("coco AP50: 101 points, IoU .5", 0.5),
            ("coco AP: mean over IoU .5 to .95", None),
        ),
    ),
    "ultralytics": Metric(
        "detkit.evaluation.ultralytics:ULTRALYTICS",
        iou_thresh=None,
        protocols=(("ultralytics mAP50-95: mean over IoU .5 to .95", None),),
    ),
}


def find_metric(name: str) -> Metric:
    """Return the metric of that name, with the conventions behind it.

    Raises UsageError, naming all, when there is no such metric or convention.
    """
    own, plus, _ = name.partition("+")
    if own not in METRICS:
        raise UsageError(f"--metric {name}: choose from {', '.join(METRICS)}")
    if not plus:
        return METRICS[own]
    found = replace(METRICS[own], name=name)
    found.rules  # noqa: B018  a wrong convention is told now
    return found


def metrics_in_words() -> str:
    """Return all metrics as the help lists them, those that `--explain` compares with first."""
    listed = sorted(METRICS.items(), key=lambda item: not item[1].protocols)
    words = [f"{name} ({one.words})" if one.words else name for name, one in listed]
    return f"{', '.join(words[:-1])} or {words[-1]}"


def ious_in_words() -> str:
    """Return which IoU each metric takes by itself, as the help lists them."""
    others = (
        f"{name}: " + (".5 to .95" if one.iou_thresh is None else f"{one.iou_thresh:g}"[1:])
        for name, one in METRICS.items()
        if one.iou_thresh != 0.5
    )
    return "; ".join([".5", *others])
