"""The page of `detkit enough`: what more would bring, and the curves it is read from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detkit.comparison.gains import Gains
from detkit.files import write_bytes
from detkit.report.page import render
from detkit.text import counted


def write_enough(path: Path, gains: Gains, report: Mapping[str, Any]) -> None:
    """Write the page of the gains; `report` is what `--json` has, with what was trained.

    Raises DetkitError when it cannot be written.
    """
    whole = max(one.run.num_images for one in gains.scored)
    page = render(
        "enough.html.j2",
        title=f"{Path(str(report['data'])).name}: what more would bring {report['model']}",
        facts=[
            ("Data", report["data"]),
            ("Data hash (SHA-256)", report["data_hash"]),
            ("Model", report["model"]),
            (
                "Trainings",
                f"{len(gains.scored)}, up to {report['training_minutes']:.2g} minutes each, of "
                f"{report['max_minutes']:g} in all",
            ),
            ("Images to train on", f"{whole:,}"),
            (
                "Judged on",
                f"{counted(gains.num_judged, 'image', ',')}, drawn in "
                f"{counted(gains.num_groups, 'group', ',')}",
            ),
            ("Protocol", gains.protocol),
            ("mAP with all there is", _interval(gains)),
            ("Spread of trainings alike", _spread(gains)),
            ("Intervals", f"95 % of {gains.samples:,} draws of images and of chance in training"),
        ],
        gains=gains,
        charts=[
            {
                "id": "by-images",
                "label": "images to train on",
                "points": [
                    [one.run.num_images, one.mean]
                    for one in gains.scored
                    if one.run.time_share == 1 and one.mean is not None
                ],
                "curve": report["curves"]["images"],
            },
            {
                "id": "by-minutes",
                "label": "minutes of a training, on all images",
                "points": [
                    [one.run.minutes, one.mean]
                    for one in gains.scored
                    if one.run.share == 1 and one.mean is not None
                ],
                "curve": report["curves"]["minutes"],
            },
        ],
        figures=report,
    )
    write_bytes(path, page.encode("utf-8", errors="replace"))


def _interval(gains: Gains) -> str:
    """Return the mAP of the whole with its interval, as text."""
    one = gains.mean
    return "n/a" if one is None else f"{one.value:.3f} ({one.low:.3f} to {one.high:.3f})"


def _spread(gains: Gains) -> str:
    """Return the standard deviation of trainings alike, as text."""
    return "n/a" if gains.noise is None else f"{gains.noise.deviation:.3f} (standard deviation)"
