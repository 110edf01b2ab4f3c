"""Options that several commands have, and the small parsers of their values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detkit.errors import DetkitError, UsageError
from detkit.evaluation.metrics import ious_in_words, metrics_in_words
from detkit.files import is_special, require_writable
from detkit.text import nearest_name

if TYPE_CHECKING:
    from detkit.data.records import Dataset

MOST_NAMED = 10  # names, all of them in one line beside the nearest

Data = Annotated[Path, typer.Argument(metavar="DATA", help="The labelled folder.")]
Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A model file, a run folder (its best), or a name: ssd300-coco."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No notes and no progress on stderr.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what is already there.")]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON to stdout instead of a table.")]
AsMarkdown = Annotated[
    bool,
    typer.Option("--markdown", help="Write tables as Markdown, for a job's summary or a comment."),
]
Seed = Annotated[
    int,
    typer.Option(
        metavar="N", min=0, help="What chance depends on: the same seed, the same result."
    ),
]
Group = Annotated[
    str,
    typer.Option(
        metavar="RULE",
        help="Which images belong together: auto, none, an expression whose first group names an "
        "image's group (like '^([^/]*)_'), or a .csv file of image,group.",
    ),
]
Classes = Annotated[
    str | None,
    typer.Option(metavar="A,B,...", help="Keep these classes only, in this order. [default: all]"),
]
Metric = Annotated[str, typer.Option(metavar="NAME", help=f"{metrics_in_words()}.")]
IoU = Annotated[
    float | None,
    typer.Option(metavar="X", help=f"The IoU that counts as found. [default: {ious_in_words()}]"),
]
Layout = Annotated[
    str | None,
    typer.Option(
        metavar="WORDS",
        help="What the values of a row of --predictions are, like 'class score cx cy w h', "
        "'class0' or 'x y w h'. [default: seen from the file]",
    ),
]
ScoresAre = Annotated[
    str | None,
    typer.Option(
        "--scores",
        metavar="percent|logits|raw",
        help="What scores of --predictions outside 0 to 1 are: scaled, or (raw) taken for their "
        "order alone.",
    ),
]
Device = Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda, cuda:1 or mps.")]
ProposalsFrom = Annotated[
    str | None,
    typer.Option(
        "--proposals",
        metavar="FILE|METHOD",
        help="For detectors that judge given boxes: a file of `detkit propose` (or R-CNN's .mat), "
        "or another method. [default: the model's]",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Another setting of the trained model, like R-CNN's head=softmax; repeatable.",
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="What the network computes in: 32-true, bf16-mixed, 16-mixed, auto (measured).",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=1024,
        metavar="N",
        help="CPU threads to compute on. [default: one for each free core]",
    ),
]
Tile = Annotated[
    str | None,
    typer.Option(
        metavar="N|none",
        help="Look at images in tiles of N pixels, too, for small objects. [default: the model's]",
    ),
]
Overlap = Annotated[
    float | None,
    typer.Option(
        metavar="X", help="What two neighbouring tiles share of their side. [default: .2]"
    ),
]
TTA = Annotated[
    str | None,
    typer.Option(
        metavar="A,B",
        help="Test-time augmentation: flip (mirror images, too), scale (enlarged and shrunk, too).",
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, metavar="N", help="Images a step of the network.")]
Page = Annotated[
    Path | None,
    typer.Option("--report", metavar="FILE.html", help="Write a page to look at: one file."),
]
Plugin = Annotated[
    list[str] | None,
    typer.Option(metavar="FILE|MODULE", help="A Python file or module with a backend of yours."),
]

# Of commands that train several models.
RunsFolder = Annotated[
    Path | None,
    typer.Option("-o", "--out", metavar="DIR", help="The folder for the runs and results."),
]
StartingWeights = Annotated[
    str | None,
    typer.Option(metavar="WHICH", help="As for `detkit train`. [default: none]"),
]
DataWorkers = Annotated[
    int | None,
    typer.Option(min=0, metavar="N", help="Processes that load images, as for `train`."),
]
TrainingThreads = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="CPU threads of each training, as for `train`."),
]


def require_one_form(*, as_json: bool, markdown: bool) -> None:
    """Raise UsageError when both --json and --markdown are asked for."""
    if as_json and markdown:
        raise UsageError("--json and --markdown are two forms of one output: choose one")


def require_results(*, dry_run: bool, as_json: bool) -> None:
    """Raise UsageError when --json is asked of a dry run, whose plan is no result."""
    if dry_run and as_json:
        raise UsageError("--json: --dry-run has no results to write as JSON; leave out one of them")


def open_named(option: str, path: Path) -> Dataset:
    """Return the labelled folder, or file, that an option names.

    Raises DetkitError, which names the option, when there is none.
    """
    from detkit.data import open_dataset

    try:
        return open_dataset(path)
    except DetkitError as error:
        raise DetkitError(f"{option} {error}") from error


def class_list(text: str | None) -> list[str] | None:
    """Return the names of `--classes`; None when it was not given."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError("--classes: no name given; expected A,B,...")
    return names


def named_numbers(
    option: str, words: Sequence[str] | None, known: Sequence[str]
) -> dict[str, float]:
    """Return {name: number} of an option's `name=number` words.

    Raises UsageError for a name that is not among `known`, naming the nearest one.
    """
    numbers: dict[str, float] = {}
    for word in words or ():
        name, equals, text = word.rpartition("=")
        try:
            number = float(text)
        except ValueError:
            number = float("nan")
        if not equals or not name or number != number:
            raise UsageError(f"{option} {word}: expected NAME=NUMBER, like {known[0]}=0.5")
        numbers[nearest(option, name.strip(), known)] = number
    return numbers


def nearest(option: str, name: str, known: Sequence[str]) -> str:
    """Return `name` if it is among `known`; raise UsageError naming the nearest one if not."""
    if name in known:
        return name
    near, choice = nearest_name(name, known, cutoff=0.5), f"choose from {', '.join(known)}"
    if near is None:
        raise UsageError(f"{option} {name}: unknown; {choice}")
    more = f" Or {choice}" if len(known) <= MOST_NAMED else ""
    raise UsageError(f"{option} {name}: unknown; did you mean {near}?{more}")


def require_free(
    option: str,
    path: Path | None,
    *,
    force: bool,
    data: Path | None = None,
    made: Path | None = None,
) -> None:
    """Raise UsageError when an option's file cannot, or may not, be written.

    That is: over a file there is, unless `force`; over a folder; into a folder there is not, or
    into the labelled folder `data`. The command itself makes `made`. A device or pipe may be
    written to. A `path` of None was not given.
    """
    if path is None:
        return
    if str(path) == "-":
        raise UsageError(f"{option} -: is no file; name one, or /dev/stdout")
    if path.is_dir():
        raise UsageError(f"{option} {path}: is a folder; name a file")
    if not path.parent.is_dir() and path.parent != made:
        raise UsageError(f"{option} {path}: there is no folder {path.parent}; make it first")
    if path.is_file() and not force:
        raise UsageError(f"{option} {path}: exists already; add --force to replace it")
    if data is not None and data.is_dir():
        from detkit.data.output import require_apart

        require_apart(data, path)
    require_writable(path)


def require_page(
    option: str,
    path: Path | None,
    *,
    force: bool,
    data: Path | None = None,
    made: Path | None = None,
) -> None:
    """Raise UsageError as `require_free` does, and for a page that no browser shows by its name."""
    if path is None:
        return
    require_free(option, path, force=force, data=data, made=made)
    if path.suffix.lower() not in (".html", ".htm") and not is_special(path):
        raise UsageError(f"{option} {path}: a page's name ends in .html, by which it is opened")
