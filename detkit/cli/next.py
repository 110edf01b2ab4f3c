"""The command that says which images to label next."""

from __future__ import annotations

import contextlib
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detkit.cli.console import Console, reader_may_leave
from detkit.cli.data import tell_notes, warn_of_unread
from detkit.cli.looking import looking_of
from detkit.cli.model_choice import load_plugins, open_on_free_cores, open_proposals
from detkit.cli.options import (
    BatchSize,
    Device,
    Plugin,
    Precision,
    ProposalsFrom,
    Quiet,
    Settings,
    Threads,
    Tile,
    open_named,
)
from detkit.errors import DetkitError, UsageError
from detkit.inference.models import model_of, require_model, require_published
from detkit.text import agreed, counted, is_plain

if TYPE_CHECKING:
    from detkit.data.records import Dataset
    from detkit.inference.predict import Finder
    from detkit.labelling.pool import Pool
    from detkit.labelling.queue import LabelQueue, Ranked
    from detkit.predictions.image import ImagePredictions
    from detkit.proposals.source import ProposalSource

LISTED = 50
FRAMES_APART = 1 << 30  # of a video: one frame tells that it is one


def next_images(
    pool: Annotated[
        list[str],
        typer.Argument(
            metavar="POOL", help="Images, folders, globs, .txt lists; - for paths on stdin."
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="A model file, a run folder or a name: its doubt counts, too. [default: novelty "
            "alone]",
        ),
    ] = None,
    number: Annotated[
        int, typer.Option("-n", "--number", min=0, metavar="N", help="How many; 0: all.")
    ] = LISTED,
    labelled: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA", help="What is labelled already: a labelled folder, POOL's own or other."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write JSON Lines to a terminal, too.")
    ] = False,
    paths: Annotated[
        bool, typer.Option("--paths", help="Write the paths alone, one a line, for xargs.")
    ] = False,
    tile: Tile = None,
    proposals: ProposalsFrom = None,
    settings: Settings = None,
    batch_size: BatchSize = 8,
    device: Device = "auto",
    precision: Precision = "32-true",
    threads: Threads = None,
    plugin: Plugin = None,
    quiet: Quiet = False,
) -> None:
    """List the images to label next.

    The list is ordered by the model's doubt (how near its scores are to .5), how new the scene is
    beside all that is labelled or stands further up, and how much the doubted classes need
    objects: few are labelled (--labelled), or the model's AP is low. Near copies come last. Without
    a model the newest scenes come first.

    On a terminal it prints a table, into a pipe JSON Lines, one object an image. Images that
    cannot be read are named on stderr and left out, and so are images that are labelled.

    \b
    Examples:
      detkit next pool
      detkit next pool --model run --labelled photos -n 100
      detkit next pool --model run --paths | xargs -d '\\n' cp -t tomorrow
    """
    if as_json and paths:
        raise UsageError("--json and --paths are two forms of one output: choose one")
    console = Console(quiet)
    if model is None:
        _require_no_options_of_models(proposals, tile, settings)
    else:
        require_model(model)
        load_plugins(plugin)
        require_published(model)
    looking = looking_of(tile, None, None)
    names = _names(console, pool)
    dataset = None if labelled is None else _opened(console, labelled)
    from detkit.labelling.pool import count_objects, labelled_images, look_at_pool

    records = [] if dataset is None else labelled_images(dataset)
    if dataset is not None:
        console.note(f"{counted(len(records), 'image')} of {labelled} labelled")
    with console.counting("looking") as progress:
        images = look_at_pool(names, [one.path for one in records], progress)
    _tell_left_out(console, images)
    counts = None if dataset is None else count_objects(dataset, records)
    if model is None:
        queue = images.queue()
    else:
        detector = open_on_free_cores(console, model, device, settings, precision, threads)
        source = open_proposals(proposals, detector)
        images, queue = _doubted(
            console, detector, images, counts, _aps(model), looking.tile, source, batch_size
        )
    with console.counting("ranking") as progress:
        ranked = queue.ranked(number or None, progress)
    with reader_may_leave():
        _tell(console, queue, ranked, images, as_json=as_json, paths=paths)


def _require_no_options_of_models(
    proposals: str | None, tile: str | None, settings: Sequence[str] | None
) -> None:
    """Raise UsageError for an option that says how a model looks, without a model."""
    given = {"--proposals": proposals, "--tile": tile, "--set": " ".join(settings or ())}
    for name, value in given.items():
        if value:
            raise UsageError(f"{name} {value}: says how a model looks; name one with --model")


def _names(console: Console, sources: Sequence[str]) -> list[str]:
    """Return the files of the sources; what is no file of one image is told and left out."""
    from detkit.data.sources import find_images, is_live
    from detkit.data.tree import UNFIT_NAME

    live = next(filter(is_live, sources), None)
    if live is not None:
        raise UsageError(f"{live}: is a stream; the pool is of files, which can be labelled")
    names = []
    folders = [Path(source) for source in sources if Path(source).is_dir()]
    frames: Counter[str] = Counter()
    for image in find_images(sources, stdin=sys.stdin, every=FRAMES_APART):
        if image.file is not None and not _is_fit(image.file, folders):
            console.warn(f"{image.name}: {UNFIT_NAME}; left out")
        elif image.file is not None:
            names.append(image.name)
        else:
            frames[image.name.rpartition("#")[0] or image.name] += 1
    for video in frames:
        console.warn(f"{video}: is a video, left out; write its frames as images to label them")
    if not names:
        raise DetkitError("no image in the pool")
    return names


def _is_fit(path: Path, folders: Sequence[Path]) -> bool:
    """Return whether a label file can name an image, below the folder it was found in."""
    above = next((one for one in folders if path.is_relative_to(one)), None)
    return is_plain(str(path if above is None else path.relative_to(above)))


def _opened(console: Console, path: Path) -> Dataset:
    """Return the labelled folder, saying what it holds."""
    dataset = open_named("--labelled", path)
    tell_notes(console, dataset)
    warn_of_unread(console, dataset)
    return dataset


def _tell_left_out(console: Console, pool: Pool) -> None:
    """Say which images are not ranked. Raises DetkitError when none is left."""
    for message in [*pool.unreadable.values()]:
        console.warn(f"{message}; left out")
    if pool.num_done:
        are = agreed(pool.num_done, "is", "are")
        console.note(f"{counted(pool.num_done, 'image')} of the pool {are} labelled: left out")
    if pool.num_repeated:
        console.note(f"{counted(pool.num_repeated, 'image')} named more than once, listed once")
    if not pool.was_compared:
        console.note("too many images to tell near copies: only files of the same bytes are told")
    if not pool.names:
        why = "can be read" if pool.unreadable else "is left to label"
        raise DetkitError(f"no image of the pool {why}")


def _aps(model: str) -> dict[str, float | None]:
    """Return the AP of each class as the model's file states it; {} where it states none."""
    path = Path(model)
    path = model_of(path) if path.is_dir() else path
    if path.suffix != ".safetensors" or not path.is_file():
        return {}
    from detkit.model_file import model_info

    scores = model_info(path)["scores"] or {}
    return dict(scores.get("classes", {}))


def _doubted(
    console: Console,
    detector: Finder[Any],
    pool: Pool,
    counts: Mapping[str, int] | None,
    aps: Mapping[str, float | None],
    tile: int | None,
    proposals: ProposalSource | None,
    batch_size: int,
) -> tuple[Pool, LabelQueue]:
    """Return the images that the detector could read, and their queue with what it doubts."""
    from detkit.inference.predict import detect_images
    from detkit.labelling.doubt import class_needs

    unknown = [name for name, count in (counts or {}).items() if count]
    unknown = [name for name in unknown if name not in detector.class_names]
    if unknown:
        console.warn(
            f"the model has no class {', '.join(unknown)}: it cannot say where those are needed"
        )
    # An SVM's scores are no probabilities.
    head = "softmax" if "softmax" in detector.heads else detector.heads[0]
    found = detect_images(
        detector,
        pool.names,
        batch_size=batch_size,
        proposals=proposals,
        tile=tile,
        by_head=head != detector.heads[0],
    )
    by_name: dict[str, ImagePredictions] = {}
    broken = []
    with contextlib.closing(found):
        for one in console.track(found, len(pool.names), "detecting"):
            if one.predictions.error is not None:
                broken.append(one.predictions.image)
                console.warn(f"{one.predictions.image}: {one.predictions.error}; left out")
            else:
                by_name[one.predictions.image] = one.by_head[head]
    left = pool.without(broken) if broken else pool
    if not left.names:
        raise DetkitError("no image of the pool can be read")
    queue = left.queue(needs=class_needs(detector.class_names, counts, aps), counts=counts, aps=aps)
    for place, name in enumerate(left.names):
        queue.add(place, by_name[name].labels, by_name[name].scores)
    return left, queue


def _tell(
    console: Console,
    queue: LabelQueue,
    ranked: Sequence[Ranked],
    pool: Pool,
    *,
    as_json: bool,
    paths: bool,
) -> None:
    """Write the list: a table on a terminal, JSON Lines into a pipe, or paths alone."""

    def name(place: int, is_labelled: bool) -> str:
        return str(pool.labelled[place] if is_labelled else pool.names[place])

    if paths:
        for one in ranked:
            # As it is: another program is to find it.
            sys.stdout.write(f"{pool.names[one.place]}\n")
        return
    if as_json or not sys.stdout.isatty():
        for number, one in enumerate(ranked, start=1):
            line = {
                "rank": number,
                "image": name(one.place, False),
                "score": round(one.score, 6),
                "novelty": round(one.novelty, 6),
                **_doubt_values(queue, one),
                "near": None if one.near is None else name(one.near, one.near_is_labelled),
                "copy": one.is_copy,
                "why": queue.reasons(one, name),
            }
            console.data(json.dumps(line, ensure_ascii=False))
        return
    rows = [
        (str(number), name(one.place, False), f"{one.score:.3f}", ", ".join(reasons))
        for number, one in enumerate(ranked, start=1)
        for reasons in [queue.reasons(one, lambda *place: Path(name(*place)).name)]
    ]
    console.table(("rank", "image", "score", "why"), rows, right=(0, 2))


def _doubt_values(queue: LabelQueue, one: Ranked) -> dict[str, Any]:
    """Return what a model doubts in an image, null without a model."""
    doubt = queue.doubts.get(one.place)
    if doubt is None:
        return {"doubt": None, "need": None, "doubtful": None}
    return {
        "doubt": round(doubt.total, 6),
        "need": round(doubt.need, 6),
        "doubtful": doubt.num_doubtful,
    }
