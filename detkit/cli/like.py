"""`--like`: the figures of another tool, each with the command that repeats it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from detkit.cli.console import Console, figure
from detkit.cli.judged import Judged


def tell_like(
    console: Console, judged: Judged, tool: str, words: Sequence[str], *, as_json: bool
) -> dict[str, Any]:
    """Return a tool's figures as JSON values; they are written, too, unless `as_json`.

    `words` are those of the command that scored the detections, without its metric.
    """
    from detkit.evaluation.other_tools import like, marks_of

    names = judged.dataset.class_names
    marked = marks_of(judged.dataset, judged.split)
    likeness = like(tool, judged.detections, judged.truths, names, marked)
    start = shlex.join(words)
    commands = [
        None if one.options is None else f"{start} {one.options}" for one in likeness.figures
    ]
    if not as_json:
        console.text("")
        console.text(f"as {tool} has it")
        rows = [
            (one.name, figure(one.mean), command or "no command repeats it")
            for one, command in zip(likeness.figures, commands, strict=True)
        ]
        console.table(("figure", "mAP", "command"), rows, right=(1,))
        for note in likeness.notes:
            console.text(note)
    figures = [
        {"name": one.name, "mAP": one.mean, "command": command}
        for one, command in zip(likeness.figures, commands, strict=True)
    ]
    return {"tool": tool, "figures": figures, "notes": likeness.notes}
