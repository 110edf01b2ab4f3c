"""The parts of what `detkit eval` tells beside the scores: as tables, and as JSON values."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from detkit.cli.console import Console
from detkit.cli.eval_tables import (
    tell_errors,
    tell_gain,
    tell_heads,
    tell_interval,
    tell_misses,
    tell_rules,
)
from detkit.cli.judged import Judged

if TYPE_CHECKING:
    from detkit.evaluation.baseline import Drop
    from detkit.evaluation.gain import Gain


def gain_part(console: Console, gain: Gain, as_json: bool, by_size: bool) -> dict[str, Any]:
    """Tell what tiles brought, unless `as_json`; return it as JSON values."""
    from detkit.evaluation.gain import gain_to_json

    if not as_json:
        tell_gain(console, gain, by_size)
    return gain_to_json(gain)


def heads_part(console: Console, judged: Judged, as_json: bool) -> dict[str, Any]:
    """Tell the scores of each head, unless `as_json`; return them as JSON values."""
    from detkit.evaluation.scores import scores_to_json

    if not as_json:
        tell_heads(console, judged.heads)
    return {head: scores_to_json(scores) for head, scores in judged.heads.items()}


def interval_part(
    console: Console, judged: Judged, as_json: bool, groups: tuple[list[int], str]
) -> dict[str, Any]:
    """Tell how far mAP moves on other draws, unless `as_json`; return it as JSON values."""
    from detkit.evaluation.bootstrap import bootstrap_map, interval_to_json

    names = judged.dataset.class_names
    drawn = bootstrap_map(
        judged.detections,
        judged.truths,
        names,
        metric=judged.scores.metric,
        iou_thresh=judged.iou,
        groups=groups[0],
    )
    if not as_json:
        tell_interval(console, drawn, names, groups[1])
    return {
        "mAP": interval_to_json(drawn.mean),
        "classes": {name: interval_to_json(one) for name, one in zip(names, drawn.classes)},
        "samples": drawn.samples,
        "groups": drawn.num_groups,
    }


def explain_part(console: Console, judged: Judged, as_json: bool) -> list[dict[str, Any]]:
    """Tell what each rule of others changes, unless `as_json`; return it as JSON values."""
    from detkit.evaluation.protocols import explain, rules_to_json

    rules = explain(
        judged.detections,
        judged.truths,
        judged.dataset.class_names,
        metric=judged.scores.metric,
        iou_thresh=judged.iou,
    )
    if not as_json:
        tell_rules(console, rules)
    return rules_to_json(rules)


def errors_part(
    console: Console, judged: Judged, as_json: bool, tide: str | None
) -> dict[str, Any]:
    """Tell what each kind of error costs, unless `as_json`; return it as JSON values."""
    from detkit.evaluation.error_breakdown import breakdown_to_json

    errors = judged.errors if tide is None else judged.errors_by(tide)
    report: dict[str, Any] = {"errors": breakdown_to_json(errors)}
    if not as_json:
        tell_errors(console, errors)
    if judged.misses is not None:
        from detkit.evaluation.misses import misses_to_json

        report["misses"] = misses_to_json(judged.misses)
        if not as_json:
            tell_misses(console, judged.misses)
    return report


def drop_part(drop: Drop, max_drop: float) -> dict[str, Any]:
    """Return the drop below a baseline as JSON values."""
    from detkit.evaluation.bootstrap import interval_to_json

    return {
        "mAP": drop.before,
        "drop": drop.value,
        "interval": interval_to_json(drop.interval),
        "groups": drop.num_groups or None,
        "max_drop": max_drop,
    }


def write_json(
    console: Console, judged: Judged, added: dict[str, Any], with_detections: bool
) -> None:
    """Write the scores and what was added to them; of the detections an image a line."""
    from detkit.evaluation.scores import scores_to_json

    report = {
        "data": str(judged.dataset.root),
        "split": judged.split,
        **scores_to_json(judged.scores),
        **added,
    }
    text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False)
    if with_detections:
        from detkit.predictions.image import from_detections
        from detkit.predictions.texts import to_json

        names = judged.dataset.class_names
        lines = []
        for record, one in zip(judged.dataset.splits[judged.split], judged.detections):
            size = record.width or 0, record.height or 0
            found = to_json(from_detections(one, names, record.image_id, *size))
            lines.append(json.dumps(found, ensure_ascii=False, allow_nan=False))
        rows = ",\n    ".join(lines)
        text = f'{text.removesuffix(chr(10) + "}")},\n  "images": [\n    {rows}\n  ]\n}}'
    console.data(text)
