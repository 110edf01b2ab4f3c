"""Gates: what makes `detkit eval` fail in a pipeline, and how the pipeline gets to see it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from detkit.cli.console import Console, figure
from detkit.errors import ExitCode
from detkit.text import counted

if TYPE_CHECKING:
    from detkit.evaluation.baseline import Drop
    from detkit.evaluation.gates import Gate
    from detkit.structures import Scores


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether a gate was met."""

    name: str  # "mAP >= 0.6"
    failure: str | None  # in one line


def least_outcomes(scores: Scores, gates: Sequence[Gate]) -> list[Outcome]:
    """Return the outcome of each `--fail-under`."""
    from detkit.evaluation.gates import check_gates

    outcomes = []
    for gate in gates:
        lines = check_gates(scores, [gate])
        failure = f"{lines[0]} ({scores.protocol})" if lines else None
        outcomes.append(Outcome(f"{gate.name} >= {gate.least:g}", failure))
    return outcomes


def drop_outcome(drop: Drop, baseline: Path, max_drop: float, scores: Scores) -> Outcome:
    """Return the outcome of `--baseline`."""
    from detkit.structures import ROUNDING

    told = tell_drop(drop, baseline, scores)
    failed = drop.value > max_drop + ROUNDING
    failure = f"{told}; at most {max_drop:g} is allowed ({scores.protocol})" if failed else None
    return Outcome(f"mAP falls by at most {max_drop:g}", failure)


def tell_drop(drop: Drop, baseline: Path, scores: Scores) -> str:
    """Return in one line how the mean AP stands to the baseline's."""
    way = "below" if drop.value > 0 else "above"
    text = f"mAP {drop.now:.4f} is {abs(drop.value):.4f} {way} {drop.before:.4f} of {baseline}"
    if drop.interval is None:
        why = "it was written without --with-detections"
        if drop.num_groups:
            why = f"{counted(scores.num_images, 'image')} of one group"
        return f"{text} (no interval: {why})"
    low, high = drop.interval.low, drop.interval.high
    drawn = counted(scores.num_images, "image")
    if drop.num_groups < scores.num_images:
        drawn = f"{counted(drop.num_groups, 'group')} of the {drawn}"
    return (
        f"{text} (drop {drop.value:+.4f}, 95 % interval of paired bootstrap draws of the {drawn} "
        f"{low:+.4f} to {high:+.4f})"
    )


def write_junit(path: Path, scores: Scores, split: str, outcomes: Sequence[Outcome]) -> None:
    """Write a test case for each gate and each class."""
    from detkit.evaluation.junit import TestCase, junit_xml
    from detkit.files import write_bytes

    mean = (
        f"mAP {figure(scores.mean)}; {scores.protocol}; {split}, "
        f"{counted(scores.num_images, 'image')}"
    )
    cases = [TestCase("gates", one.name, failure=one.failure, output=mean) for one in outcomes]
    for one in scores.classes:
        counts = f"{counted(one.num_truths, 'object')}, {counted(one.num_detections, 'detection')}"
        cases.append(
            TestCase(
                "classes",
                f"AP of {one.name}",
                skipped=f"no objects of {one.name} in {split}" if one.ap is None else None,
                output=f"AP {figure(one.ap)}; {counts}; {scores.protocol}",
            )
        )
    write_bytes(path, junit_xml("detkit eval", cases))


def leave(console: Console, outcomes: Sequence[Outcome]) -> None:
    """Name the gates that were not met, and leave with 1 if there are any."""
    failures = [one.failure for one in outcomes if one.failure is not None]
    for failure in failures:
        console.error(failure)
        if os.environ.get("GITHUB_ACTIONS") == "true":
            # The runner looks for commands in stderr as in stdout, which is for data alone.
            sys.stderr.write(annotation("detkit eval", failure) + "\n")
    if failures:
        raise typer.Exit(ExitCode.NOT_MET)


def annotation(title: str, text: str) -> str:
    """Return GitHub's workflow command that shows an error at a run and its commit."""
    message = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    name = title.replace("%", "%25").replace(":", "%3A").replace(",", "%2C")
    return f"::error title={name}::{message}"
