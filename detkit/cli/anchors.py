"""The command that estimates anchors from a labelled folder."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Annotated

import typer

from detkit.cli.console import Console
from detkit.cli.data import tell_notes
from detkit.cli.options import AsJson, Classes, Data, Quiet, Seed, class_list
from detkit.errors import DetkitError, UsageError
from detkit.text import counted

if TYPE_CHECKING:
    from detkit.data.records import Dataset


def anchors(
    data: Data,
    k: Annotated[
        int, typer.Option("-k", "--number", min=1, metavar="N", help="Up to how many anchors.")
    ] = 15,
    size: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="The network image's shorter side, its pixels are the unit; 0: own pixels.",
        ),
    ] = 600,
    max_size: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Its longest side. [default: 5/3 of --size]"),
    ] = None,
    split: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of one split. [default: train, or all]")
    ] = None,
    classes: Classes = None,
    seed: Seed = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Estimate anchors for the objects of a labelled folder.

    k-means over widths and heights, by IoU. Each row says how well so many anchors fit: the
    mean IoU of the objects with their best anchor, and the share of objects that no anchor
    reaches an IoU of .5 and .7 with, as if both stood on the same place. Faster R-CNN takes
    such anchors with --set anchors=auto, and those of your own with --set anchor_boxes=.

    \b
    Examples:
      detkit anchors photos
      detkit anchors photos -k 9 --size 320 --json | jq '.[-1].anchors'
      detkit train photos --model faster-rcnn --set anchors=auto -o run
    """
    from detkit.data import open_dataset
    from detkit.data.images import image_size
    from detkit.data.records import truth_of
    from detkit.geometry.anchor_estimation import estimate_anchors, network_shapes
    from detkit.transforms.preparation import shorter_side

    console = Console(quiet)
    dataset = open_dataset(data, classes=class_list(classes))
    tell_notes(console, dataset)
    names = _splits(dataset, split)
    index = {name: number for number, name in enumerate(dataset.class_names)}
    records = [record for name in names for record in dataset.splits[name]]
    rule = _own_size
    if size:
        rule = functools.partial(shorter_side, size, max_size or round(size * 5 / 3))
    labelled = (
        (truth_of(record, index), image_size(record.path))
        for record in console.track(records, len(records), "reading")
    )
    shapes = network_shapes(labelled, rule)
    if not len(shapes):
        raise DetkitError(f"{data}: no objects in {', '.join(names)}; see detkit check {data}")
    unit = f"network pixels, shorter side {size}" if size else "own pixels"
    console.note(f"{counted(len(shapes), 'object')} of {', '.join(names)}; anchors in {unit}")
    estimates = [estimate_anchors(shapes, number, seed=seed) for number in range(1, k + 1)]
    if as_json:
        rows = [
            {
                "k": number,
                "mean_iou": round(one.mean_iou, 4),
                "unreached": {f"{t:g}": round(share, 4) for t, share in one.unreached.items()},
                "anchors": [[round(float(w), 1), round(float(h), 1)] for w, h in one.anchors],
            }
            for number, one in enumerate(estimates, 1)
        ]
        console.data(json.dumps(rows))
        return
    console.table(
        ["k", "mean IoU", "below .5", "below .7", "anchors, width x height"],
        [
            [
                str(number),
                f"{one.mean_iou:.3f}",
                *(f"{100 * share:.1f} %" for share in one.unreached.values()),
                "  ".join(f"{w:.0f}x{h:.0f}" for w, h in one.anchors),
            ]
            for number, one in enumerate(estimates, 1)
        ],
    )


def _splits(dataset: Dataset, split: str | None) -> list[str]:
    """Return the splits whose objects count; raises UsageError for one there is not."""
    if split is None:
        return ["train"] if "train" in dataset.splits else list(dataset.splits)
    if split not in dataset.splits:
        raise UsageError(f"--split {split}: there are {', '.join(dataset.splits)}")
    return [split]


def _own_size(height: int, width: int) -> tuple[int, int]:
    return height, width
