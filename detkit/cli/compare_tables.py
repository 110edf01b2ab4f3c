"""The tables and sentences that `compare` writes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from detkit.cli.console import Console, duration, figure
from detkit.cli.detect import STAGES
from detkit.text import counted

if TYPE_CHECKING:
    from detkit.comparison.runs import Cell, Conditions
    from detkit.comparison.table import Comparison, Row


def tell(console: Console, table: Comparison) -> None:
    """Write the table of accuracy and cost, what it means, and the ones by fold and by stage."""
    header = (
        *("model", "seeds", "mAP", "95 % from", "to", "spread", "to the best", "95 % from", "to"),
        *("small", "medium", "large", "s an image", "MiB", "model MB", "trained", "MiB trained"),
    )
    console.table(header, [_cells(row) for row in table.rows], right=tuple(range(1, len(header))))
    console.text("")
    console.text(
        f"{table.protocol}; {table.split}, {counted(table.num_images, 'image')}; "
        "small, medium, large: COCO's AP, IoU .5 to .95"
    )
    for line in sentences(table):
        console.text(line)
    if table.num_folds is not None:
        _tell_folds(console, table, table.num_folds)
    stages = dict.fromkeys(stage for row in table.rows for stage in row.stages)
    if stages:
        rows = [
            (row.name, *(_seconds(row.stages.get(stage)) for stage in stages))
            for row in table.rows
            if row.stages
        ]
        console.text("")
        console.text(
            f"seconds an image by stage; {', '.join(STAGES.values())} pass beside the others"
        )
        console.table(
            ("model", *(STAGES.get(stage, stage) for stage in stages)),
            rows,
            right=tuple(range(1, 1 + len(stages))),
        )


def tell_plan(
    console: Console,
    cells: Sequence[Cell],
    conditions: Conditions,
    budget: str,
    max_minutes: float | None,
    *,
    at_a_time: int,
    resume: bool,
    force: bool,
    dry_run: bool,
) -> None:
    """Say how many trainings there are to do, and how long they take at most.

    Raises as `runs.earlier_results` does.
    """
    from detkit.comparison.runs import earlier_results

    say = console.text if dry_run else console.note
    known = earlier_results(cells, conditions, resume=resume, force=force)
    to_train = [one for one in cells if one.training is not None or one.command is not None]
    if not to_train:
        return
    left = sum(known[one] is None for one in to_train)
    names = len({one.name for one in to_train})
    seeds, folds = (
        len({getattr(one, of) for one in to_train if getattr(one, of) is not None})
        for of in ("seed", "fold")
    )
    product = [counted(names, "row"), counted(seeds, "seed")]
    product += [counted(folds, "fold")] if folds else []
    done = f", {len(to_train) - left} of them finished before" if left < len(to_train) else ""
    say(f"{counted(len(to_train), 'training')} ({', '.join(product)}) of {budget} each{done}")
    if max_minutes is not None:
        say(
            f"at most {duration(60 * max_minutes * math.ceil(left / at_a_time))} of training in "
            f"all{f', {at_a_time} at a time' if at_a_time > 1 else ''}; reading the data, "
            "the start of each training and measuring come on top"
        )
    for one in to_train if dry_run else ():
        state = "" if known[one] is None else ": finished before"
        console.text(f"{one.result.stem}{state}")


def sentences(table: Comparison) -> list[str]:
    """Return what the intervals and spreads of a table tell of, and what they do not."""
    drawn = counted(table.num_images, "image")
    if table.num_groups < table.num_images:
        drawn = f"{counted(table.num_groups, 'group')} of {drawn}"
    made = [row for row in table.rows if row.maps]
    if not made:
        return []
    lines = []
    if any(row.interval is not None for row in made):
        lines.append(
            f"95 % from, to: with other images of this kind, by {table.samples:,} draws of "
            f"{drawn}; how a further training would differ is not in it"
        )
    else:
        lines.append("all images belong to one group: they do not tell how others would do")
    whole = "" if table.num_folds is None else f", each pooled over {table.num_folds} trainings"
    seeds = max(len(row.maps) for row in made)
    if seeds > 1:
        lines.append(
            f"spread: of mAP over trainings with other seeds (standard deviation{whole}), on these "
            "same images"
        )
    elif any(row.seeds != (None,) for row in made):
        lines.append(
            "how far a further training would differ is not known: --seeds 2 or more tells"
        )
    return lines


def _tell_folds(console: Console, table: Comparison, num_folds: int) -> None:
    """Write the mAP of each training on the images it did not see."""
    rows = []
    for row in table.rows:
        by_place = {(one.seed, one.fold): figure(one.mean) for one in row.folds}
        pooled = dict(zip(row.seeds, row.maps))
        for seed in dict.fromkeys(one.seed for one in row.folds):
            figures = (by_place.get((seed, fold), "failed") for fold in range(1, num_folds + 1))
            whole = figure(pooled[seed]) if seed in pooled else ""
            rows.append((row.name, str(seed), *figures, whole))
    if not rows:
        return
    names = [f"fold {fold}" for fold in range(1, num_folds + 1)]
    console.text("")
    console.text(
        "mAP of each training on the fold it did not see; pooled: of all images together, each by "
        "the model that was not trained on it, lower where the models' scores differ in scale"
    )
    header = ("model", "seed", *names, "pooled")
    console.table(header, rows, right=tuple(range(1, len(header))))


def _cells(row: Row) -> tuple[str, ...]:
    """Return a row of the table as text."""
    return (
        row.name,
        str(len(row.maps)),
        figure(row.mean) if row.maps else "failed",
        *(("", "") if row.interval is None else map(figure, (row.interval.low, row.interval.high))),
        "" if row.spread is None else f"{row.spread:.3f}",
        *_gap(row),
        *(
            figure(row.sizes.get(name)) if row.sizes else ""
            for name in ("small", "medium", "large")
        ),
        _seconds(row.seconds),
        "" if row.memory_mib is None else f"{row.memory_mib:.0f}",
        "" if row.model_bytes is None else f"{row.model_bytes / 1e6:.1f}",
        "" if row.training_seconds is None else duration(row.training_seconds),
        "" if row.training_memory_mib is None else f"{row.training_memory_mib:.0f}",
    )


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _gap(row: Row) -> tuple[str, str, str]:
    """Return the difference to the best and its interval as text."""
    gap = row.difference
    if gap is None:
        return "", "", ""
    return f"{gap.value:+.3f}", f"{gap.low:+.3f}", f"{gap.high:+.3f}"
