"""The command that lists labels that are probably wrong."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detkit.cli.console import Console, reader_may_leave
from detkit.cli.data import tell_notes, warn_of_unread
from detkit.cli.options import (
    AsJson,
    Classes,
    Data,
    Device,
    Force,
    Plugin,
    Quiet,
    Threads,
    class_list,
    require_free,
    require_page,
)
from detkit.errors import DetkitError, ExitCode, UsageError
from detkit.text import agreed, counted

if TYPE_CHECKING:
    from detkit.data.records import Dataset
    from detkit.evaluation.suspect_list import Entry
    from detkit.structures import Detections

ALL = "all"
SURE = 0.5
LESS_THAN_ALL = 0.05  # a lowest score above this hides what speaks for labels
OF_A_FOLD = re.compile(r".*-fold-\d+\.jsonl")


def suspects(
    data: Data,
    folds: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR|FILE",
            help="What `detkit compare --folds` kept: each image by a model not trained on it.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="A model or its run folder, trained on other images."),
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Any tool's detections, as for `eval`.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The part to look at. [default: all images]"),
    ] = None,
    number: Annotated[
        int, typer.Option("-n", "--number", min=1, metavar="N", help="How many at most.")
    ] = 100,
    sure: Annotated[
        float,
        typer.Option(
            min=0.0, max=1.0, metavar="X", help="How sure those of --patch and --max are at least."
        ),
    ] = SURE,
    most: Annotated[
        int | None,
        typer.Option(
            "--max", min=0, metavar="N", help="Leave with 1 when more than N are so sure."
        ),
    ] = None,
    patch: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="Write the changes of all that are so sure, for `convert --apply`.",
        ),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(
            "-o", "--report", metavar="FILE.html", help="Write a page to say yes or no on."
        ),
    ] = None,
    classes: Classes = None,
    as_json: AsJson = False,
    device: Device = "auto",
    threads: Threads = None,
    plugin: Plugin = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """List the labels that are probably wrong.

    A detector that was not trained on an image says where a label is missing, of the wrong class,
    shifted, on nothing (ghost) or there twice (duplicate). The surest come first. How sure is the
    share of such detections (for a ghost: of such labels) on which labels and model agree; where
    labels are good, what is left is the model's own mistakes, so look before you believe it.

    Classes and sizes that the model hardly finds, images where it fails, and classes that it
    confuses are left out, as are difficult objects and crowds.

    On the page, y says that the model is right, n that the label is; what was said yes to is
    offered as a patch, which `detkit convert DATA OUT --apply FILE` puts into a new folder.

    \b
    Examples:
      detkit compare photos --models ssd --folds 3 --max-minutes 10 -o folds
      detkit suspects photos --folds folds -o suspects.html
      detkit suspects photos --folds folds --sure .9 --patch patch.json
      detkit suspects photos --model run --split val
      detkit suspects photos --predictions found.jsonl --json
      detkit suspects photos --folds folds --sure .9 --max 0
    """
    given = {"--folds": folds, "--model": model, "--predictions": predictions}
    named = [name for name, value in given.items() if value is not None]
    if len(named) != 1:
        what = "none is given" if not named else f"{' and '.join(named)} are given"
        raise UsageError(f"choose one of --folds, --model and --predictions: {what}")
    require_page("-o", page, force=force, data=data)
    require_free("--patch", patch, force=force, data=data)
    from detkit.data import open_dataset
    from detkit.evaluation.suspect_list import entries_of, list_to_json
    from detkit.evaluation.suspects import find_suspects

    console = Console(quiet)
    source = None if model is not None else (predictions or _kept(folds or Path()))
    dataset = open_dataset(data, classes=class_list(classes))
    part = _part(dataset, split)
    dataset = _with_all(dataset, part)
    tell_notes(console, dataset)
    warn_of_unread(console, dataset)
    if model is not None:
        found = _by_model(console, model, dataset, part, device, threads, plugin)
    else:
        assert source is not None
        dataset, found = _by_file(console, source, dataset, part, class_list(classes))
    listed = find_suspects(found, dataset.truths(part), dataset.class_names)
    entries = entries_of(listed, found, dataset, part)
    surest = [one for one in entries if one.sure >= sure]
    shown = entries[:number]
    if patch is not None:
        from detkit.data.label_patch import write_patch

        write_patch(patch, [one.change for one in surest])
        console.note(f"{patch}: {counted(len(surest), 'change')}, {sure:g} sure or more")
    if page is not None:
        from detkit.report.suspects_page import write_suspects

        for reason in write_suspects(page, dataset, part, shown, source=_named(given)):
            console.warn(reason)
        console.note(f"report: {page}")
    with reader_may_leave():
        if as_json:
            report = list_to_json(dataset, part, shown, len(entries), sure, len(surest))
            console.data(json.dumps(report, indent=2))
        else:
            _tell(console, dataset, part, shown, len(entries))
    if most is not None and len(surest) > most:
        few = agreed(len(surest), "suspect is", "suspects are")
        console.error(f"{len(surest)} {few} {sure:g} sure or more; --max {most}")
        raise typer.Exit(ExitCode.NOT_MET)


def _kept(folds: Path) -> Path:
    """Return the file of a comparison's folder; raise UsageError where it is not one."""
    if not folds.exists():
        raise UsageError(f"--folds {folds}: no such folder or file")
    if folds.is_file():
        return folds
    found = sorted(one for one in folds.glob("*.jsonl") if not OF_A_FOLD.fullmatch(one.name))
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(
            f"--folds {folds}: has {', '.join(one.name for one in found)}; name one of them: "
            f"--folds {found[0]}"
        )
    if any(folds.glob("*-fold-*")):
        raise UsageError(
            f"--folds {folds}: not all folds are there yet; `detkit compare ... --resume` goes on"
        )
    raise UsageError(
        f"--folds {folds}: has no NAME-SEED.jsonl; `detkit compare DATA --folds 3 -o {folds}` "
        "writes it"
    )


def _part(dataset: Dataset, split: str | None) -> str:
    """Return the part to look at; raise UsageError for one that is not there."""
    if split is not None and split not in (ALL, *dataset.splits):
        known = ", ".join(dict.fromkeys((*dataset.splits, ALL)))
        raise UsageError(f"--split {split}: {dataset.root} has {known}")
    return split or ALL


def _with_all(dataset: Dataset, part: str) -> Dataset:
    """Return the data set with all its images, each once, as a part."""
    if part in dataset.splits:
        return dataset
    images = {one.image_id: one for split in dataset.splits.values() for one in split}
    return dataset.with_splits({**dataset.splits, part: tuple(images.values())})


def _by_file(
    console: Console,
    source: Path,
    dataset: Dataset,
    part: str,
    names: Sequence[str] | None,
) -> tuple[Dataset, list[Detections]]:
    """Return the part's images that a file tells of, and its detections in each."""
    from detkit.data import open_dataset
    from detkit.data.split_images import SplitImages
    from detkit.evaluation.box_checks import check_boxes_mean
    from detkit.evaluation.pairing import pair
    from detkit.evaluation.reference import reference_of
    from detkit.predictions.readers import read_predictions

    whole = dataset if names is None else _with_all(open_dataset(dataset.root), part)
    records = dataset.splits[part]
    others = {name: images for name, images in dataset.splits.items() if name != part}
    images = SplitImages(records, others, dataset.root)
    found = read_predictions(source, reference=reference_of(whole, part, images))
    left_out = set(whole.class_names) - set(dataset.class_names)
    found = [one.of_classes(set(one.labels) - left_out) for one in found]
    paired = pair(found, records, dataset.class_names, images)
    for doubt in check_boxes_mean(
        source,
        paired.predictions,
        paired.detections,
        records,
        dataset.truths(part),
        is_stated=False,
    ):
        console.warn(doubt)
    told = [
        place
        for place, one in enumerate(paired.predictions)
        if one is not None and one.error is None
    ]
    if not told:
        raise DetkitError(f"{source}: tells of no image of {dataset.root}, split {part}")
    silent = len(records) - len(told)
    if silent:
        are = agreed(silent, "is", "are")
        console.warn(
            f"{counted(silent, 'image')} {are} left out: {source} says nothing of "
            f"{agreed(silent, 'it', 'them')}"
        )
    kept = [paired.detections[place] for place in told]
    lowest = min((float(one.scores.min()) for one in kept if len(one.scores)), default=0.0)
    if lowest > LESS_THAN_ALL:
        console.warn(
            f"no score is below {lowest:.3g}: what weak detections would say for a label is not "
            f"there; write them down to {LESS_THAN_ALL} or less"
        )
    splits = {**dataset.splits, part: tuple(records[place] for place in told)}
    return dataset.with_splits(splits), kept


def _by_model(
    console: Console,
    model: str,
    dataset: Dataset,
    part: str,
    device: str,
    threads: int | None,
    plugin: Sequence[str] | None,
) -> list[Detections]:
    """Return a model's detections, with a warning where it was trained on these images."""
    from detkit.cli.leaks import learnt_by
    from detkit.cli.model_choice import load_plugins, open_on_free_cores
    from detkit.evaluation.evaluate import detect_split

    load_plugins(plugin)
    detector = open_on_free_cores(console, model, device, None, "32-true", threads)
    learnt = learnt_by(model, dataset, part)
    seen = [] if learnt is None else [one.path for one in learnt.records]
    again = num_among([one.path for one in dataset.splits[part]], seen)
    if again:
        console.warn(
            f"the model was trained on {again} of the {counted(len(dataset.splits[part]), 'image')}"
            " and has learnt the mistakes in their labels: few are found there; better is "
            "`detkit compare --folds`, then --folds, or another --split"
        )
    return detect_split(detector, dataset, part)


def num_among(paths: Sequence[Path], seen: Sequence[Path]) -> int:
    """Return how many files are among others or copies of one: comparisons train on copies."""
    from detkit.data.images import identical_files

    if not seen:
        return 0
    known = {path.resolve() for path in seen}
    own = {path.resolve() for path in paths}
    again = own & known
    for group in identical_files([*(own - again), *known]):
        if known.intersection(group):
            again |= own.intersection(group)
    return len(again)


def _named(given: dict[str, Path | str | None]) -> str:
    """Return the option that says whose detections these are, in words."""
    return next(f"{name} {value}" for name, value in given.items() if value is not None)


def _tell(
    console: Console, dataset: Dataset, part: str, shown: Sequence[Entry], number: int
) -> None:
    """Write the table, and what it holds of all."""
    from detkit.evaluation.suspect_list import where

    if not shown:
        images = counted(len(dataset.splits[part]), "image")
        console.data(f"no label of {images} is suspect")
        return
    rows = []
    for one in shown:
        says = "nothing" if one.found is None else one.found.label
        box = one.box if one.found is None else one.found.box
        score = "" if one.score is None else f"{one.score:.2f}"
        at = "" if box is None else " ".join(f"{value:.0f}" for value in box)
        place = where(one, dataset.root)
        rows.append([f"{one.sure:.2f}", one.kind, place, one.label or "", says, score, at])
    console.table(["sure", "kind", "where", "label", "model says", "score", "box"], rows)
    counts = Counter(one.kind for one in shown)
    kinds = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
    console.note(f"{len(shown)} of {counted(number, 'suspect')}: {kinds}")
