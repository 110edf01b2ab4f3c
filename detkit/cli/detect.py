"""The command that looks for objects in images and videos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from detkit.cli.options import Device, Force, Plugin, Quiet


def detect(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model file, or a name: ssd300-coco.")
    ],
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="Images, folders, globs, videos, .txt lists; - for paths on stdin.",
        ),
    ],
    form: Annotated[
        str | None,
        typer.Option(
            "-f",
            "--format",
            metavar="FORMAT",
            help="table, jsonl, json, coco, voc, yolo or csv. "
            "[default: by -o's suffix; table on a terminal, jsonl into a pipe]",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="PATH", help="Write here instead of to stdout."),
    ] = None,
    draw: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Draw the boxes and write the images into DIR."),
    ] = None,
    score: Annotated[
        float | None,
        typer.Option(
            metavar="X", help="The least score of a box. [default: the model's; .4 to look at]"
        ),
    ] = None,
    threshold: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=X", help="The least score for one class; repeatable."),
    ] = None,
    nms: Annotated[
        float | None,
        typer.Option(metavar="X", help="Boxes of a class that overlap more are one object."),
    ] = None,
    every: Annotated[
        int, typer.Option(min=1, metavar="N", help="Of a video, look at every k-th frame.")
    ] = 1,
    batch_size: Annotated[
        int, typer.Option(min=1, metavar="N", help="Images a step of the network.")
    ] = 8,
    device: Device = "auto",
    plugin: Plugin = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Find objects in images and videos.

    Into a pipe it writes JSON Lines, one object an image, with every box down to the model's
    lowest score, as `eval` needs them. On a terminal it prints a table of the boxes with a
    score of .4 and more; --draw draws the same. An image that cannot be read is one line with
    "error"; the others go on, and the exit code is 3 at the end.

    \b
    Examples:
      detkit detect run/best.safetensors street.jpg
      detkit detect run/best.safetensors photos/*.jpg --draw drawn --score .5
      find . -name '*.jpg' | detkit detect run/best.safetensors - | jq -c '.detections[]'
      detkit detect ssd300-coco video.mp4 --every 10 -f csv -o found.csv
    """
    return
