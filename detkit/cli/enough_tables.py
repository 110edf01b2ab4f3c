"""What `detkit enough` writes: the plan, warnings, what more would bring."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detkit.cli.console import Console, figure
from detkit.text import counted

if TYPE_CHECKING:
    from detkit.comparison.gains import Forecast, Gain, Gains
    from detkit.comparison.part_runs import PartRuns

SHORT = (
    "more minutes bring more than more images: trainings this short say little of images; "
    "ask again with a larger --max-minutes"
)
LEARNT = 0.05  # mAP, ours: below this a training has learnt too little to tell of images


def warn_of_little(console: Console, gains: Gains) -> None:
    """Warn of what makes the figures say little."""
    from detkit.comparison.gains import FURTHEST

    if gains.mean is None or gains.mean.value < LEARNT:
        console.warn(
            "the trainings have learnt next to nothing in their time, so they do not tell of "
            "images; raise --max-minutes, or start from --weights imagenet"
        )
    for one in gains.gains:
        if one.of == "images" and one.now + one.more > FURTHEST * one.now + 1:
            console.warn(
                f"{one.more:g} more images are more than as many again as there are: a guess, "
                "whose interval is too narrow if the curve bends"
            )


def tell_plan(console: Console, runs: PartRuns) -> None:
    """Write the trainings that there would be."""
    rows = [
        (one.name, str(one.draw), str(one.num_images), f"{one.minutes:.1f}") for one in runs.runs
    ]
    console.table(("training", "draw", "images", "minutes"), rows, right=(1, 2, 3))


def tell_gains(console: Console, gains: Gains) -> None:
    """Write what more would bring as sentences, and the tables of gains and trainings."""
    rows = [_row(one) for one in gains.gains]
    header = ("more", "now", "score", "gain", "95 % from", "to", "")
    console.table(header, rows, right=(1, 2, 3, 4, 5))
    console.text("")
    if not any(one.is_told for one in gains.gains):
        console.text(
            "no gain can be told from none; more minutes, or more images to judge on, tell more"
        )
    if gains.is_short:
        console.text(SHORT)
    if gains.forecast is not None:
        console.text(forecast_in_words(gains.forecast))
    spread = "" if gains.noise is None else f", +-{gains.noise.deviation:.3f} a training"
    mean = figure(None if gains.mean is None else gains.mean.value)
    console.text(
        f"mAP {mean} with all there is{spread}; {gains.protocol}; "
        f"{counted(gains.num_judged, 'image')}, drawn in {counted(gains.num_groups, 'group')}"
    )


def _row(one: Gain) -> tuple[str, ...]:
    """Return a line of the table of gains."""
    if one.of == "minutes":
        amounts = f"{one.more:.2g} minutes a training", f"{one.now:.2g}"
    else:
        thing = "images" if one.class_name is None else one.class_name
        amounts = f"{one.more:g} {thing}", f"{one.now:g}"
    gain = one.gain
    if gain is None:
        return (*amounts, figure(one.score), "n/a", "", "", "too few to tell")
    told = "" if one.is_told else "may be none"
    values = (f"{value:+.3f}" for value in (gain.value, gain.low, gain.high))
    return (*amounts, figure(one.score), *values, told)


def forecast_in_words(forecast: Forecast) -> str:
    """Return how well the parts foretold the whole."""
    predicted = forecast.predicted
    held = "inside" if forecast.holds else "outside: do not trust the gains above"
    return (
        f"check: up to {counted(forecast.num_images, 'image')} foretold {predicted.value:.3f} "
        f"({predicted.low:.3f} to {predicted.high:.3f}) for all; {forecast.came_out:.3f} came "
        f"out, {held}"
    )
