"""`detkit eval` in shares: one of them, or several processes; and the detections as a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from detkit.cli.console import Console
from detkit.cli.data import tell_notes
from detkit.cli.judged import Judged, choose_split
from detkit.cli.looking import Looking
from detkit.cli.model_choice import open_proposals
from detkit.cli.processes import Asked, shares
from detkit.cli.seen import Wish
from detkit.cli.shards import lines_of, open_part, write_part
from detkit.errors import UsageError

if TYPE_CHECKING:
    from detkit.predictions.image import ImagePredictions


def evaluate_share(
    console: Console,
    wish: Wish,
    data: Path,
    classes: Sequence[str] | None,
    split: str | None,
    shard: str,
    out: Path,
    *,
    resume: bool,
    force: bool,
) -> None:
    """Write what a model finds in a share of a split's images, for `eval --predictions`.

    Raises DetkitError for an image that cannot be read, as without shares.
    """
    from detkit.data import open_dataset
    from detkit.evaluation.evaluate import detect_all

    if out.suffix.lower() != ".jsonl":
        raise UsageError("--shard writes JSON Lines, which merge puts together: -o FILE.jsonl")
    dataset = open_dataset(data, classes=classes)
    part_name = choose_split(dataset, split)
    detector = wish.open(console)
    tell_notes(console, dataset)
    source = open_proposals(wish.proposals, detector)
    asked = {**wish.asked(dataset.class_names, detector.config), "split": part_name}
    part = open_part("eval", shard, out, asked, block=wish.batch_size, resume=resume, force=force)

    def found() -> Generator[ImagePredictions, None, None]:
        paths = [one.path for one in dataset.splits[part_name] if part.turns(str(one.path))]
        looking = {
            "tile": wish.looking.tile,
            "tile_overlap": wish.looking.overlap,
            "tta": wish.looking.tta,
        }
        for one in detect_all(detector, paths, wish.batch_size, source, looking):
            yield one.predictions.of_classes(dataset.class_names)

    write_part(console, part, lambda: lines_of(console, found()))


def found_in_processes(
    console: Console, values: Mapping[str, Any], asked: Asked, looking: Looking, *, name: str = ""
) -> list[ImagePredictions]:
    """Return what several processes of `eval` find, looking so, in the order of the split.

    `name` keeps the parts of another look apart. Leaves where others put the parts together.
    """
    from detkit.predictions.texts import of_json_line
    from detkit.shards.merge import merged_lines

    tile = "none" if looking.tile == 0 else looking.tile
    of_child = {name: values[name] for name in PASSED_ON}
    of_child |= {"tile": tile, "overlap": looking.overlap, "tta": ",".join(looking.tta) or None}
    if name and asked.out is not None:
        asked = dataclasses.replace(asked, out=asked.out.with_name(f"{asked.out.name}.{name}"))
    with shares(console, "eval", of_child, asked) as parts:
        if parts is None:
            raise typer.Exit
        return [of_json_line(line) for line in merged_lines(parts)]


PASSED_ON = (
    *("places", "split", "classes", "batch_size", "proposals", "settings", "device", "precision"),
    *("threads", "plugin"),
)


def write_found(judged: Judged, out: Path, *, force: bool) -> None:
    """Write the detections that were judged as JSON Lines, an image a line."""
    from detkit.data.images import image_size
    from detkit.predictions.image import from_detections
    from detkit.predictions.writers import open_writer

    names = judged.dataset.class_names
    records = judged.dataset.splits[judged.split]
    with open_writer("jsonl", out, class_names=names, force=force) as writer:
        for record, found in zip(records, judged.detections, strict=True):
            height, width = image_size(record.path)
            writer.write(from_detections(found, names, str(record.path), width, height))
