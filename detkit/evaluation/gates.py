"""The gates of a pipeline: the least, or the most, that a figure must be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from detkit.errors import UsageError
from detkit.structures import Scores
from detkit.text import nearest_hint

ERRORS = ("ECE",)  # figures of which less is better; of all others more is
WITHOUT_ECE = "for want of detections, or since their scores are no probabilities"


@dataclass(frozen=True, slots=True)
class Gate:
    """A bound of a figure: "mAP", "F1", "ECE", a class name, or a further one of the metric."""

    name: str
    limit: float  # in [0, 1]
    at_most: bool = False  # else at least

    @property
    def words(self) -> str:
        """What must hold: "mAP >= 0.6"."""
        return f"{self.name} {'<=' if self.at_most else '>='} {self.limit:g}"


def parse_gate(text: str, option: str = "--fail-under", *, at_most: bool = False) -> Gate:
    """Return the gate that `NAME=LIMIT` stands for; UsageError naming the option otherwise."""
    name, equals, number = text.rpartition("=")
    try:
        limit = float(number)
    except ValueError:
        limit = -1.0
    if not equals or not name.strip() or not 0.0 <= limit <= 1.0:
        example = "ECE=.1" if at_most else "mAP=.6 or car=.7"
        raise UsageError(f"{option} {text}: expected NAME=X with X between 0 and 1, like {example}")
    return Gate(name.strip(), limit, at_most)


def check_gates(scores: Scores, gates: Sequence[Gate], option: str | None = None) -> list[str]:
    """Return a line for each gate that is not met, saying by how much.

    Raises UsageError, naming the `option` it is of, for a gate on a figure that there is none of,
    and for one the wrong way round, which a good figure fails and a bad one meets: the most that an
    AP may be, the least of an error.
    """
    values = scores.figures
    failures = []
    for gate in gates:
        if gate.name not in values:
            hint = nearest_hint(gate.name, values, f"choose from {', '.join(values)}")
            own = option or ("--fail-over" if gate.at_most else "--fail-under")
            raise UsageError(f"{own} {gate.name}={gate.limit:g}: no such class or figure; {hint}")
        _require_direction(scores, gate, option)
        value = values[gate.name]
        if value is None:
            why = WITHOUT_ECE if gate.name == "ECE" else "for want of objects"
            failures.append(f"{gate.name} has no value, {why}; asked {gate.limit:g}")
        elif not scores.meets(gate.name, gate.limit, at_most=gate.at_most):
            way = "above" if gate.at_most else "below"
            failures.append(
                f"{gate.name} {_short(value)} is {_short(abs(gate.limit - value))} {way} "
                f"{gate.limit:g}".replace(" 0.", " .")
            )
    return failures


def _require_direction(scores: Scores, gate: Gate, option: str | None) -> None:
    """Raise UsageError for a gate the wrong way round; a class called like an error is a class."""
    is_error = gate.name in ERRORS and all(one.name != gate.name for one in scores.classes)
    if is_error == gate.at_most:
        return
    limit = f"{gate.name}={gate.limit:g}"
    if gate.at_most:
        raise UsageError(
            f"--fail-over {limit}: of {gate.name} more is better; --fail-under {limit} is the "
            f"least it may be (--fail-over is for {', '.join(ERRORS)})"
        )
    right = f"--fail-over {limit} is the most it may be"
    if option is not None:
        right = f"{option} is for what more is better of, like mAP"
    raise UsageError(
        f"{option or '--fail-under'} {limit}: {gate.name} is an error, of which less is better; "
        f"{right}"
    )


def _short(value: float) -> str:
    """Return a share with four places, or with as many as it takes not to be 0."""
    text = f"{value:.4f}"
    return text if float(text) or not value else f"{value:.2g}"
