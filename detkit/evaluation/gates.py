"""The gates of a pipeline: the least that a figure must be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from detkit.errors import UsageError
from detkit.structures import Scores
from detkit.text import nearest_hint


@dataclass(frozen=True, slots=True)
class Gate:
    """The least a figure must be: "mAP", a class name, or one of the metric's further figures."""

    name: str
    least: float  # in [0, 1]


def parse_gate(text: str, option: str = "--fail-under") -> Gate:
    """Return the gate that `NAME=LEAST` stands for; UsageError naming the option otherwise."""
    name, equals, number = text.rpartition("=")
    try:
        least = float(number)
    except ValueError:
        least = -1.0
    if not equals or not name.strip() or not 0.0 <= least <= 1.0:
        raise UsageError(
            f"{option} {text}: expected NAME=X with X between 0 and 1, like mAP=.6 or car=.7"
        )
    return Gate(name.strip(), least)


def check_gates(scores: Scores, gates: Sequence[Gate], option: str = "--fail-under") -> list[str]:
    """Return a line for each gate that is not met, saying by how much.

    Raises UsageError for a gate on a figure that the scores do not have.
    """
    values = scores.figures
    failures = []
    for gate in gates:
        if gate.name not in values:
            hint = nearest_hint(gate.name, values, f"choose from {', '.join(values)}")
            raise UsageError(
                f"{option} {gate.name}={gate.least:g}: no such class or figure; {hint}"
            )
        value = values[gate.name]
        if value is None:
            failures.append(f"{gate.name} has no value, for want of objects; asked {gate.least:g}")
        elif not scores.reach(gate.name, gate.least):
            failures.append(
                f"{gate.name} {_short(value)} is {_short(gate.least - value)} below "
                f"{gate.least:g}".replace(" 0.", " .")
            )
    return failures


def _short(value: float) -> str:
    """Return a share with four places, or with as many as it takes not to be 0."""
    text = f"{value:.4f}"
    return text if float(text) or not value else f"{value:.2g}"
