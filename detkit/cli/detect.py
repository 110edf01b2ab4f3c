"""The command that looks for objects in images and videos."""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detkit.cli.coco_ids import open_ids
from detkit.cli.console import Console, printable
from detkit.cli.drafts import least_scores, open_labels, require_labels, write_labels
from detkit.cli.drawings import Drawings, was_drawn
from detkit.cli.looking import looking_of
from detkit.cli.model_choice import load_plugins
from detkit.cli.options import (
    TTA,
    BatchSize,
    Device,
    Force,
    Model,
    Overlap,
    Plugin,
    Precision,
    ProposalsFrom,
    Quiet,
    Settings,
    Threads,
    Tile,
    nearest,
    require_free,
)
from detkit.cli.processes import Asked, merge_shares, shares, sources_with_list
from detkit.cli.seen import Wish, class_names_of, from_parts, scores_for_people
from detkit.cli.shards import (
    Devices,
    Nodes,
    Resume,
    ShardOption,
    lines_of,
    open_part,
    refuse_mixed,
    require_ends,
    require_lines,
    write_part,
)
from detkit.errors import ExitCode, UsageError
from detkit.files import require_writable
from detkit.inference.models import require_model
from detkit.text import counted

if TYPE_CHECKING:
    from detkit.data.sources import ImageSource
    from detkit.inference.predict import Prediction
    from detkit.predictions.coco_results import CocoIds
    from detkit.predictions.image import ImagePredictions

# What the stages in threads are called for people.
STAGES = {"decode": "reading", "propose": "proposals", "prepare": "resizing"}


def detect(
    model: Model,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="Images, folders, globs, videos, .txt lists; - for paths on stdin; camera:0, "
            "rtsp://...",
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
    ids: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|DATA",
            help="For -f coco: number images and classes as this COCO file, or labelled folder, "
            "does. [default: from 1]",
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            "--as-labels",
            metavar="OUT",
            help="Write a labelled folder, too: the images and what was found in them.",
        ),
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", metavar="FORMAT", help="Of --as-labels: FORMATS.")
    ] = None,
    score: Annotated[
        list[str] | None,
        typer.Option(
            "--score",
            "--threshold",
            metavar="X|NAME=X",
            help="The least score of a box, or of one class's; repeatable. [default: the model's; "
            ".4 to look at and for labels]",
        ),
    ] = None,
    nms: Annotated[
        float | None,
        typer.Option(metavar="X", help="Boxes of a class that overlap more are one object."),
    ] = None,
    every: Annotated[
        int, typer.Option(min=1, metavar="N", help="Of a video, look at every k-th frame.")
    ] = 1,
    tile: Tile = None,
    overlap: Overlap = None,
    tta: TTA = None,
    batch_size: BatchSize = 8,
    proposals: ProposalsFrom = None,
    settings: Settings = None,
    timing: Annotated[
        bool, typer.Option("--timing", help="Say on stderr where the time went.")
    ] = False,
    device: Device = "auto",
    precision: Precision = "32-true",
    threads: Threads = None,
    plugin: Plugin = None,
    shard: ShardOption = None,
    devices: Devices = 1,
    nodes: Nodes = 1,
    resume: Resume = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Find objects in images, videos and streams.

    Into a pipe it writes JSON Lines, one object an image, with every box down to the model's
    lowest score, as `eval` needs them. On a terminal it prints a table of the boxes with a
    score of .4 and more; --draw draws the same. An image that cannot be read is one line with
    "error"; the others go on, and the exit code is 3 at the end. A folder, glob or list without
    images is an error, too, and so is an empty stdin: the command before the pipe may have failed.

    --as-labels makes labels to correct of the boxes that would be drawn: a folder as `detkit
    convert` writes it, in which every object is marked as machine-made and keeps its score
    (YOLO: only the folder is marked). Label Studio shows them as predictions.

    --devices N divides the images among N processes, one a GPU. --shard I/N is one share of N, for
    an array of jobs that know nothing of each other; `detkit merge` puts their files together.

    \b
    Examples:
      detkit detect run/best.safetensors street.jpg
      detkit detect run/best.safetensors photos/*.jpg --draw drawn --score .5
      find . -name '*.jpg' | detkit detect run/best.safetensors - | jq -c '.detections[]'
      detkit detect ssd300-coco video.mp4 --every 10 -f csv -o found.csv
      detkit detect run/best.safetensors val/*.jpg -f coco --ids instances_val.json > found.json
      detkit detect run/best.safetensors aerial.tif --tile 640 --draw drawn
      detkit detect run/best.safetensors pool --as-labels drafts --to cvat --score car=.6
      detkit detect ssd300-coco camera:0 --every 5 | jq -c '.detections[]'
      detkit detect ssd300-coco archive --devices 4 -o found.jsonl
      detkit detect ssd300-coco archive --shard 3/64 -o part-3.jsonl
    """
    values = dict(locals())
    require_model(model)
    from detkit.data.sources import find_images, is_live
    from detkit.predictions.writers import FOLDER_FORMATS, images_file

    console = Console(quiet)
    form = form_of(form, out)
    looking = looking_of(tile, overlap, tta)
    _check_out(out, model, sources)
    _check_drawn(draw, sources, force)
    least, of_classes = least_scores(score or ())
    require_labels(labels, to, sources, beside={"-o": out, "--draw": draw}, force=force)
    load_plugins(plugin)
    several = devices * nodes > 1
    refuse_mixed(
        shard,
        out,
        several=several,
        resume=resume,
        no_shard={"--draw": draw, "--as-labels": labels},
        neither={"--timing": timing},
    )
    if shard is None and form not in FOLDER_FORMATS:
        require_free("-o", out, force=force)
    coco_ids = open_ids(console, ids, form)
    find = functools.partial(find_images, stdin=sys.stdin, every=every)
    images = find(sources)  # looks all sources up, before a model is loaded
    wish = Wish(
        *(model, device, settings, precision, threads, batch_size),
        *(least, of_classes, nms, proposals, looking, form == "table"),
    )
    if shard is not None and out is not None:
        require_lines(form)
        require_ends(sources, "--shard")
        detector = wish.open(console)
        asked = wish.asked(detector.class_names, detector.config)
        asked["--every"] = every if every > 1 else None
        part = open_part("detect", shard, out, asked, block=batch_size, resume=resume, force=force)

        def lines() -> Iterator[tuple[str, bool]]:
            seen = wish.find(detector, find(sources, take=part.turns))
            return lines_of(console, (one.predictions for one in seen))

        write_part(console, part, lines)
        return
    seconds: dict[str, float] | None = {} if timing else None
    num_images = num_bad = num_undrawn = num_unlabelled = 0
    is_stopped = False
    with contextlib.ExitStack() as blocks:
        if several:
            if wish.for_people:
                values["score"] = scores_for_people(values, least)
            of_child = {**values, "form": None, "draw": None, "labels": None, "to": None}
            of_child |= {"ids": None}
            processes = Asked(devices, nodes, out, resume, force)
            if form == "jsonl" and out is not None and draw is None and labels is None:
                _write_lines(console, of_child, processes, out)
                return
            parts = blocks.enter_context(shares(console, "detect", of_child, processes))
            if parts is None:
                return
            names = class_names_of(parts)
            again = functools.partial(find, sources_with_list(sources, parts[0].path.parent))
            found = from_parts(parts, None if draw is None and labels is None else again)
        else:
            detector = wish.open(console)
            names = detector.class_names
            found = wish.find(detector, _not_drawn_over(images, draw), seconds)
        look = wish.look(names)
        drawn = Drawings(draw, names, look)
        began = time.perf_counter()
        drafts = blocks.enter_context(open_labels(labels, to, names, look, force=force))
        with (
            contextlib.closing(found),
            _opened(console, form, out, names, coco_ids, force) as write,
        ):
            try:
                for one in _tracked(console, found, out):
                    write(one.predictions)
                    num_images += 1
                    num_bad += one.predictions.error is not None
                    if one.predictions.error is not None and form not in ("table", "jsonl", "json"):
                        console.warn(f"{one.predictions.image}: {one.predictions.error}")
                    if draw is not None and one.pixels is not None:
                        num_undrawn += not was_drawn(console, drawn, one.predictions, one.pixels)
                    if drafts is not None and (reason := drafts.add(one)):
                        console.warn(f"{one.predictions.image}: not labelled: {reason}")
                        num_unlabelled += 1
            except KeyboardInterrupt:
                if not any(map(is_live, sources)):
                    raise
                is_stopped = True  # what ends a camera: what was found till then is kept
        if drafts is not None and labels is not None and to is not None:
            write_labels(console, drafts, labels, to)
    if seconds is not None:
        elapsed = time.perf_counter() - began
        console.note(timing_line(seconds, elapsed, max(num_images, 1)))
    if draw is not None:
        console.note(f"{counted(drawn.count, 'image')} drawn into {draw}, {look_words(look)}")
    if out is not None:
        listed = form == "coco" and coco_ids is None and images_file(out).is_file()
        console.note(f"detections: {out}{f', images: {images_file(out)}' if listed else ''}")
    elif form == "coco" and coco_ids is None:
        console.note("images are numbered from 1; --ids takes the numbers of a data set")
    wrong = [f"{counted(num_bad, 'image')} could not be read"] if num_bad else []
    wrong += [f"{counted(num_undrawn, 'image')} could not be drawn"] if num_undrawn else []
    wrong += [f"{counted(num_unlabelled, 'image')} not labelled"] if num_unlabelled else []
    if wrong:
        console.error(", ".join(wrong))
    if wrong or is_stopped:
        raise typer.Exit(ExitCode.INTERRUPTED if is_stopped else ExitCode.BAD_INPUT)


def _write_lines(console: Console, values: Mapping[str, Any], asked: Asked, out: Path) -> None:
    """Write what several processes find, line by line; leave with 3 for an image not read."""
    counts = merge_shares(console, "detect", values, asked, out)
    if counts is None:
        return
    console.note(f"detections: {out}")
    if counts[1]:
        console.error(f"{counted(counts[1], 'image')} could not be read")
        raise typer.Exit(ExitCode.BAD_INPUT)


def form_of(form: str | None, out: Path | None) -> str:
    """Return the format to write: the one asked for, else by the suffix, else by the reader.

    Raises UsageError when the suffix of `-o` says nothing, or a table should go to a file.
    """
    from detkit.predictions.writers import FORMATS

    if form is not None:
        nearest("--format", form, ["table", *FORMATS])
        if form == "table" and out is not None:
            raise UsageError("-f table is for the terminal; choose another format for -o")
        return form
    if out is None:
        return "table" if sys.stdout.isatty() else "jsonl"
    suffix = out.suffix.lower().removeprefix(".")
    if suffix in ("jsonl", "json", "csv"):
        return suffix
    raise UsageError(f"-o {out}: name the format by -f, or the file .jsonl, .json or .csv")


def look_words(look: Mapping[str, float]) -> str:
    """Return which boxes are shown, in words."""
    cuts = sorted(set(look.values()))
    if len(cuts) == 1:
        return f"boxes with a score of {cuts[0]:g} and more (--score)"
    return "boxes above " + ", ".join(f"{name} {cut:g}" for name, cut in look.items())


def timing_line(seconds: Mapping[str, float], elapsed: float, num_images: int) -> str:
    """Return the seconds an image by stage, in words; those in threads pass beside the others."""
    stages = "  ".join(
        f"{STAGES.get(stage, stage)} {spent / num_images:.4f}" for stage, spent in seconds.items()
    )
    return (
        f"seconds an image: {elapsed / num_images:.4f} in all; {stages} "
        f"({', '.join(STAGES[stage] for stage in seconds if stage in STAGES)} in threads beside "
        "the network)"
    )


def _check_out(out: Path | None, model: str, sources: Sequence[str]) -> None:
    """Raise UsageError when detections would replace what they are made from."""
    if out is None:
        return
    from detkit.data.image_kinds import PICTURE_SUFFIXES

    if out.suffix.lower() in PICTURE_SUFFIXES:
        raise UsageError(f"-o {out}: named like an image; --draw DIR is for those")
    places = [model, *sources, *(source.removeprefix("@") for source in sources)]
    if out.is_file() and any(Path(place).is_file() and out.samefile(place) for place in places):
        raise UsageError(f"-o {out}: is read from there; name another")


def _check_drawn(folder: Path | None, sources: Sequence[str], force: bool) -> None:
    """Raise UsageError when drawings would go among other files, or below the images read."""
    if folder is None:
        return
    from detkit.data.image_kinds import PICTURE_SUFFIXES

    place = folder.resolve()
    for source in map(Path, sources):
        is_below = source.is_dir() and place.is_relative_to(source.resolve())
        is_image = source.suffix.lower() in PICTURE_SUFFIXES  # a glob's is seen, too
        if is_below or (is_image and place == source.parent.resolve()):
            raise UsageError(f"--draw {folder}: {source} is read from there; name another")
    if folder.exists() and not force:
        if not folder.is_dir():
            raise UsageError(f"--draw {folder}: is a file; name a folder")
        if any(folder.iterdir()):
            raise UsageError(f"--draw {folder}: is not empty; name another folder or add --force")
    require_writable(folder)


def _not_drawn_over(images: Iterable[ImageSource], folder: Path | None) -> Iterator[ImageSource]:
    """Yield the images; raise UsageError at one that lies where the drawings go.

    It, or one yet to be read, would be replaced by a drawing of its name, by `--force` too.
    """
    place = None if folder is None else folder.resolve()
    for image in images:
        if place is not None and Path(image.name).parent.resolve() == place:
            raise UsageError(f"--draw {folder}: {image.name} is read from there; name another")
        yield image


def _tracked(
    console: Console, found: Iterable[Prediction], out: Path | None
) -> Iterable[Prediction]:
    """Return the images with progress drawn, unless results go to the same terminal."""
    if out is None and sys.stdout.isatty():
        return found
    return console.track(found, None, "detecting")


@contextlib.contextmanager
def _opened(
    console: Console,
    form: str,
    out: Path | None,
    class_names: Sequence[str],
    ids: CocoIds | None,
    force: bool,
) -> Iterator[Callable[[ImagePredictions], None]]:
    """Yield what writes one image's detections, to `out` or to stdout."""
    if form == "table":
        width = max([len("class"), *map(len, class_names)])
        console.data(f"{'class':<{width}}  score       x1       y1       x2       y2  image")
        yield lambda found: _tell(console, found, width)
        return
    from detkit.predictions.writers import open_writer

    target = sys.stdout if out is None else out
    with open_writer(form, target, class_names=class_names, ids=ids, force=force) as writer:
        yield writer.write
    for words in writer.left_out:
        console.warn(words)


def _tell(console: Console, found: ImagePredictions, width: int) -> None:
    """Write one image's rows of the table."""
    image = printable(found.image)
    if found.error is not None:
        console.data(f"{'-':<{width}}  {image}: {printable(found.error)}")
        return
    rows = zip(found.labels, found.scores.tolist(), found.boxes.tolist())
    for label, score, box in rows:
        corners = " ".join(f"{value:8.1f}" for value in box)
        console.data(f"{printable(label):<{width}}  {score:5.3f} {corners}  {image}")
    if not found.labels:
        console.data(f"{'-':<{width}}  {'nothing':<41}  {image}")
