"""How `detkit eval` shows scores, and what is behind them, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from detkit.cli.console import Console, figure
from detkit.text import agreed, counted

if TYPE_CHECKING:
    from pathlib import Path

    from detkit.cli.gates import Outcome
    from detkit.evaluation.baseline import Drop
    from detkit.evaluation.bootstrap import Bootstrap, Interval
    from detkit.evaluation.error_breakdown import ClassErrors, ErrorBreakdown
    from detkit.evaluation.gain import Gain
    from detkit.evaluation.leakage import Leakage
    from detkit.evaluation.misses import Miss
    from detkit.evaluation.protocols import Rule
    from detkit.structures import Scores


def tell_scores(console: Console, scores: Scores, split: str) -> None:
    """Write the table of the scores by class, the mean, and the metric's further figures."""
    rows = [
        (
            one.name,
            figure(one.ap),
            str(one.num_truths),
            str(one.num_detections),
            figure(one.best_f1),
            figure(one.best_threshold),
        )
        for one in scores.classes
    ]
    header = ("class", "AP", "objects", "detections", "best F1", "at score")
    console.table(header, rows, right=(1, 2, 3, 4, 5))
    console.text("")
    console.text(
        f"mAP {figure(scores.mean)}  {scores.protocol}; {split}, "
        f"{counted(scores.num_images, 'image')}"
    )
    for name, value in scores.extra.items():
        console.text(f"{name} {figure(value)}")
    without = [one.name for one in scores.classes if one.ap is None]
    if without:
        console.warn(f"no objects of {', '.join(without)} in {split}: not part of the mean")


def tell_heads(console: Console, heads: Mapping[str, Scores]) -> None:
    """Write how each head of a model scores, by class and in the mean."""
    names = [one.name for one in next(iter(heads.values())).classes]
    rows = [
        (head, *(figure(one.ap) for one in scores.classes), figure(scores.mean))
        for head, scores in heads.items()
    ]
    console.text("")
    console.text("by head, on the same features")
    console.table(("head", *names, "mAP"), rows, right=range(1, len(names) + 2))


def tell_gain(console: Console, gain: Gain, by_size: bool) -> None:
    """Write what the second way of looking brings and costs, if asked for by size of object."""
    before, after = gain.before, gain.after
    change = "n/a"
    if before.scores.mean is not None and after.scores.mean is not None:
        change = signed(after.scores.mean - before.scores.mean)
    console.text("")
    if by_size:
        columns = list(zip(gain.sizes_before, gain.sizes_after, strict=True))
        rows = [
            (
                old.name,
                str(old.num_truths),
                *(figure(value) for value in (old.ap50, new.ap50, old.recall, new.recall)),
            )
            for old, new in columns
        ]
        header = ("size", "objects", "plain AP50", "tiled AP50", "plain recall", "tiled recall")
        console.table(header, rows, right=range(1, 6))
        console.text("AP50: COCO, IoU .5; recall: COCO's mean over IoU .5 to .95")
        console.text(
            f"found with tiles only: {counted(len(gain.only_after), 'object')}; without only: "
            f"{len(gain.only_before)}"
        )
    console.text(
        f"{after.name}: mAP {figure(after.scores.mean)}, {before.name} "
        f"{figure(before.scores.mean)} ({change}), in {gain.time_ratio:.1f} times the time"
    )


def tell_change(console: Console, drop: Drop, scores: Scores, baseline: Path, drawn: str) -> None:
    """Write each class's AP beside the baseline's, and the mean with its paired interval.

    `drawn` is what was drawn for it, in words.
    """
    rows = [
        (
            one.name,
            figure(one.ap),
            figure(drop.classes.get(one.name)),
            _gain(one.ap, drop, one.name),
        )
        for one in scores.classes
    ]
    rows.append(("mAP", figure(drop.now), figure(drop.before), signed(-drop.value)))
    console.text("")
    console.text(f"against {baseline}")
    console.table(("class", "AP", "before", "change"), rows, right=(1, 2, 3))
    if drop.interval is not None:
        console.text(
            f"95 % interval over {drawn}, paired bootstrap: mAP {signed(-drop.interval.high)} to "
            f"{signed(-drop.interval.low)}"
        )


def tell_gates(console: Console, outcomes: Sequence[Outcome]) -> None:
    """Write which gates were met; none are a table of none."""
    if not outcomes:
        return
    rows = [
        (one.name, "met" if one.failure is None else f"not met: {one.failure}") for one in outcomes
    ]
    console.text("")
    console.table(("gate", "outcome"), rows)


def tell_leakage(console: Console, leakage: Leakage) -> None:
    """Write what of the split is known from training, and the mean without it, if anything is."""
    if leakage.num_leaked:
        console.text(leakage.in_words())


def tell_interval(
    console: Console, drawn: Bootstrap, class_names: Sequence[str], words: str
) -> None:
    """Write the 95 % intervals by class and of the mean; `words` say what was drawn."""

    from detkit.evaluation.bootstrap import FEW_GROUPS

    def row(name: str, one: Interval | None) -> tuple[str, ...]:
        values = (None,) * 3 if one is None else (one.value, one.low, one.high)
        return name, *(figure(value) for value in values)

    rows = [row(name, one) for name, one in zip(class_names, drawn.classes)]
    console.text("")
    console.text(f"95 % interval over {words}, {counted(drawn.samples, 'draw')}")
    if drawn.num_groups < 2:
        console.warn(f"{words}: no interval, since one tells nothing of others")
    elif drawn.num_groups < FEW_GROUPS:
        console.warn(f"{words}: few tell little of others, the interval is too narrow")
    rows.append(row("mean", drawn.mean))
    console.table(("class", "AP", "from", "to"), rows, right=(1, 2, 3))


def tell_rules(console: Console, rules: Sequence[Rule]) -> None:
    """Write the mean AP under each rule, and by how much it differs from the one asked for."""
    rows = [(rule.name, figure(rule.mean), signed(rule.difference)) for rule in rules]
    console.text("")
    console.text("the same detections by other rules")
    console.table(("rule", "mAP", "difference"), rows, right=(1, 2))


def tell_errors(console: Console, errors: ErrorBreakdown) -> None:
    """Write by how much each class's AP would rise without each kind of error."""
    from detkit.evaluation.error_breakdown import FIGURES

    def row(one: ClassErrors) -> tuple[str, ...]:
        return one.name, figure(one.ap), *(figure(getattr(one, name)) for name in FIGURES)

    names = tuple(name.replace("_", " ") for name in FIGURES)
    console.text("")
    console.text(
        f"AP lost to each kind of error (TIDE; {errors.metric}, IoU {errors.iou_thresh:g})"
    )
    rows = [*map(row, errors.classes), row(errors.overall)]
    console.table(("class", "AP", *names), rows, right=range(1, 2 + len(names)))


def tell_misses(console: Console, misses: Sequence[Miss]) -> None:
    """Write at which stage the missed objects were lost, with an example of each."""
    from detkit.evaluation.misses import count_by_stage

    rows = []
    for stage, reason, number, classes in count_by_stage(misses):
        example = next(miss for miss in misses if miss.stage == stage)
        where = ", ".join(f"{value:.0f}" for value in example.box)
        detail = f": {example.detail}" if example.detail else ""
        rows.append(
            (
                stage,
                str(number),
                reason,
                ", ".join(f"{name} {count}" for name, count in classes.items()),
                f"{example.label} at {where} in {example.image_id}{detail}",
            )
        )
    console.text("")
    console.text(
        f"where {counted(len(misses), 'object')} {agreed(len(misses), 'was', 'were')} lost"
    )
    console.table(("stage", "missed", "reason", "classes", "for example"), rows, right=(1,))


def _gain(ap: float | None, drop: Drop, name: str) -> str:
    before = drop.classes.get(name)
    return signed(None if ap is None or before is None else ap - before)


def signed(value: float | None) -> str:
    """Return a difference of scores to three places, with its sign."""
    return "n/a" if value is None else f"{round(value, 3) + 0.0:+.3f}"
