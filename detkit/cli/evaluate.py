"""The command that scores a model, or any tool's detections, and gates a pipeline."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detkit.cli.data import tell_notes, warn_of_unread
from detkit.cli.model_choice import load_plugins, open_model, open_proposals
from detkit.cli.options import (
    AsJson,
    Classes,
    Device,
    Plugin,
    ProposalsFrom,
    Quiet,
    class_list,
)
from detkit.console import Console, figure
from detkit.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from detkit.data import Dataset
    from detkit.structures import Scores


def evaluate(
    places: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] DATA",
            help="The model (not with --predictions), then the labelled folder.",
        ),
    ],
    predictions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Score these detections instead of a model's: any tool's."
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The part to score on. [default: test, else val]"),
    ] = None,
    metric: Annotated[
        str, typer.Option(metavar="NAME", help="voc07 (11 points), voc12 (area), coco or auc.")
    ] = "voc07",
    iou: Annotated[
        float | None,
        typer.Option(
            metavar="X", help="The IoU that counts as found. [default: .5; coco: .5 to .95]"
        ),
    ] = None,
    as_json: AsJson = False,
    fail_under: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=X", help="Leave with 1 when mAP, or a class, is below X; repeatable."
        ),
    ] = None,
    pr_curve: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Plot precision over recall: .png, .svg or .pdf."),
    ] = None,
    classes: Classes = None,
    batch_size: Annotated[
        int, typer.Option(min=1, metavar="N", help="Images a step of the network.")
    ] = 8,
    proposals: ProposalsFrom = None,
    device: Device = "auto",
    plugin: Plugin = None,
    quiet: Quiet = False,
) -> None:
    """Score a model, or any tool's detections.

    With --fail-under it is a gate for pipelines.

    The table has each class's AP, its objects (difficult ones are not counted), its detections
    and the score threshold with the best F1. The protocol stands beside every number.

    \b
    Examples:
      detkit eval run/best.safetensors photos
      detkit eval run/best.safetensors photos --fail-under mAP=.6 --fail-under car=.7
      detkit eval --predictions found.jsonl photos --metric coco --json
    """
    wanted = 2 if predictions is None else 1
    if len(places) != wanted:
        form = "MODEL DATA" if predictions is None else "--predictions FILE DATA"
        raise UsageError(f"expected: detkit eval {form}; got {len(places)} arguments")
    from detkit.evaluation import check_gates, parse_gate, scores_to_json

    console = Console(quiet)
    names = class_list(classes)
    gates = [parse_gate(word) for word in fail_under or ()]
    if predictions is None:
        load_plugins(plugin)
        dataset, part, scores = _score_model(
            console,
            places[0],
            Path(places[1]),
            names,
            split,
            metric,
            iou,
            batch_size=batch_size,
            device=device,
            proposals=proposals,
        )
    else:
        if proposals is not None:
            raise UsageError("--proposals is for a model; --predictions are scored as they are")
        dataset, part, scores = _score_file(
            console, predictions, Path(places[0]), names, split, metric, iou
        )
    if pr_curve is not None:
        from detkit.report import save_pr_curve

        save_pr_curve(scores, pr_curve)
        console.note(f"precision over recall: {pr_curve}")
    if as_json:
        report = {"data": str(dataset.root), "split": part, **scores_to_json(scores)}
        console.data(json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        tell_scores(console, scores, part)
    missed = check_gates(scores, gates)
    for line in missed:
        console.error(f"{line} ({scores.protocol})")
    if missed:
        raise typer.Exit(ExitCode.NOT_MET)


def choose_split(dataset: Dataset, split: str | None) -> str:
    """Return the split to score on: the one asked for, else test, else val, else the only one.

    Raises UsageError naming the splits there are.
    """
    if split is not None:
        if split not in dataset.splits:
            known = ", ".join(dataset.splits)
            raise UsageError(f"--split {split}: {dataset.root} has {known}")
        return split
    for name in ("test", "val"):
        if dataset.splits.get(name):
            return name
    if len(dataset.splits) == 1:
        return next(iter(dataset.splits))
    raise UsageError(
        f"{dataset.root}: no test or val split; choose by --split from {', '.join(dataset.splits)}"
    )


def tell_scores(console: Console, scores: Scores, split: str) -> None:
    """Write the table of the scores by class, the mean, and COCO's further figures."""
    rows = [
        (
            one.name,
            figure(one.ap),
            str(one.num_truths),
            str(one.num_detections),
            figure(one.best_f1),
            figure(one.best_threshold),
        )
        for one in scores.classes
    ]
    header = ("class", "AP", "objects", "detections", "best F1", "at score")
    console.table(header, rows, right=(1, 2, 3, 4, 5))
    console.data("")
    console.data(
        f"mAP {figure(scores.mean)}  {scores.protocol}; {split}, {scores.num_images} images"
    )
    for name, value in scores.extra.items():
        console.data(f"{name} {figure(value)}")
    without = [one.name for one in scores.classes if one.ap is None]
    if without:
        console.warn(f"no objects of {', '.join(without)} in {split}: not part of the mean")


def _score_model(
    console: Console,
    model: str,
    data: Path,
    names: Sequence[str] | None,
    split: str | None,
    metric: str,
    iou: float | None,
    *,
    batch_size: int,
    device: str,
    proposals: str | None,
) -> tuple[Dataset, str, Scores]:
    """Return the data set, its split, and a model's scores on it."""
    from detkit import evaluation
    from detkit.data import open_dataset

    dataset = open_dataset(data, classes=names)
    part = choose_split(dataset, split)
    detector = open_model(model, device)
    tell_notes(console, dataset)
    warn_of_unread(console, dataset)
    scores = evaluation.evaluate(
        detector,
        dataset,
        part,
        metric=metric,
        iou_thresh=iou,
        batch_size=batch_size,
        proposals=open_proposals(proposals, detector),
    )
    return dataset, part, scores


def _score_file(
    console: Console,
    predictions: Path,
    data: Path,
    names: Sequence[str] | None,
    split: str | None,
    metric: str,
    iou: float | None,
) -> tuple[Dataset, str, Scores]:
    """Return the data set, its split, and the scores of a file of detections; without torch."""
    from detkit import evaluation
    from detkit.data import open_dataset
    from detkit.data.splits import select_classes
    from detkit.predictions import read_predictions

    # A file's numbers and labels are those of all classes, not of the ones chosen here.
    whole = open_dataset(data)
    dataset = whole if names is None else select_classes(whole, names)
    part = choose_split(dataset, split)
    tell_notes(console, dataset)
    warn_of_unread(console, dataset)
    found = read_predictions(predictions, class_names=whole.class_names)
    not_chosen = set(whole.class_names) - set(dataset.class_names)
    found = [one.of_classes(set(one.labels) - not_chosen) for one in found]
    paired = evaluation.pair(found, dataset.splits[part], dataset.class_names)
    for warning in paired.warnings:
        console.warn(warning)
    scores = evaluation.score(
        paired.detections, dataset.truths(part), dataset.class_names, metric, iou
    )
    return dataset, part, scores
