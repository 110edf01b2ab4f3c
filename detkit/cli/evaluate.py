"""The command that scores a model, or any tool's detections, and gates a pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from detkit.cli.console import Console, reader_may_leave
from detkit.cli.eval_parts import (
    drop_part,
    errors_part,
    explain_part,
    gain_part,
    heads_part,
    interval_part,
    write_json,
)
from detkit.cli.eval_shares import evaluate_share, found_in_processes, write_found
from detkit.cli.eval_tables import (
    tell_change,
    tell_gates,
    tell_leakage,
    tell_scores,
)
from detkit.cli.gates import drop_outcome, gate_outcomes, leave, tell_drop, write_junit
from detkit.cli.judged import evaluate_file, evaluate_model
from detkit.cli.leaks import leakage_of
from detkit.cli.like import tell_like
from detkit.cli.looking import looking_of
from detkit.cli.model_choice import load_plugins
from detkit.cli.options import (
    TTA,
    AsJson,
    AsMarkdown,
    BatchSize,
    Classes,
    Device,
    Force,
    Group,
    IoU,
    Layout,
    Metric,
    Overlap,
    Page,
    Plugin,
    Precision,
    ProposalsFrom,
    Quiet,
    ScoresAre,
    Settings,
    Threads,
    class_list,
    require_free,
    require_one_form,
    require_page,
)
from detkit.cli.processes import Asked
from detkit.cli.seen import Wish
from detkit.cli.shards import Devices, Nodes, Resume, ShardOption, refuse, refuse_mixed
from detkit.errors import UsageError
from detkit.text import counted

MAX_DROP = 0.01  # without --max-drop


def evaluate(
    places: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] DATA",
            help="The model or its run folder (not with --predictions), then the labelled folder.",
        ),
    ],
    predictions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Score these detections instead of a model's: any tool's."
        ),
    ] = None,
    layout: Layout = None,
    scores_are: ScoresAre = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="Detections of images that are not of the split are an error."
        ),
    ] = False,
    split: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The part to score on. [default: test, else val]"),
    ] = None,
    metric: Metric = "voc07",
    iou: IoU = None,
    as_json: AsJson = False,
    markdown: AsMarkdown = False,
    fail_under: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=X",
            help="Leave with 1 when mAP, F1, a class, or mAP-unseen is below X; repeatable.",
        ),
    ] = None,
    fail_over: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=X", help="Leave with 1 when ECE, the calibration error, is above X."
        ),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            metavar="OLD.json", help="Leave with 1 when mAP fell too far below this --json's."
        ),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, metavar="X", help="How far it may fall. [default: .01]"),
    ] = None,
    junit: Annotated[
        Path | None,
        typer.Option(metavar="FILE.xml", help="Write a JUnit test case for each gate and class."),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show what each rule of other protocols changes.")
    ] = False,
    like: Annotated[
        str | None,
        typer.Option(
            metavar="TOOL",
            help="With --explain: the number of ultralytics, pycocotools, voc-devkit or tidecv, "
            "and the command that repeats it.",
        ),
    ] = None,
    errors: Annotated[
        bool,
        typer.Option(
            "--errors",
            help="Show what each kind of error costs, and what a model's missed objects were lost "
            "to.",
        ),
    ] = False,
    tide: Annotated[
        str | None,
        typer.Option(
            metavar="paper|tidecv",
            help="Whose rules --errors goes by: TIDE's paper or its tool. [default: paper]",
        ),
    ] = None,
    interval: Annotated[
        bool,
        typer.Option("--interval", help="Show how far mAP moves on other draws of the images."),
    ] = False,
    group: Group = "auto",
    heads: Annotated[
        bool,
        typer.Option(
            "--heads",
            help="Score each head of a model that has several, like R-CNN's SVMs and softmax, on "
            "the same features.",
        ),
    ] = False,
    with_detections: Annotated[
        bool,
        typer.Option("--with-detections", help="Put the detections into --json, for --baseline."),
    ] = False,
    pr_curve: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Plot precision over recall: .png, .svg or .pdf."),
    ] = None,
    page: Page = None,
    classes: Classes = None,
    tile: Annotated[
        str | None,
        typer.Option(
            metavar="N|none|compare",
            help="Look at images in tiles of N pixels, too; compare (or compare=N) shows what "
            "that brings, by size of object. [default: the model's]",
        ),
    ] = None,
    overlap: Overlap = None,
    tta: TTA = None,
    batch_size: BatchSize = 8,
    proposals: ProposalsFrom = None,
    settings: Settings = None,
    device: Device = "auto",
    precision: Precision = "32-true",
    threads: Threads = None,
    plugin: Plugin = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="FILE.jsonl",
            help="Write the detections, too, as `detect` does; with --shard those of the share.",
        ),
    ] = None,
    shard: ShardOption = None,
    devices: Devices = 1,
    nodes: Nodes = 1,
    resume: Resume = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Score a model, or any tool's detections.

    With --fail-under, --fail-over or --baseline it is a gate for pipelines.

    The table has each class's AP, its objects (no difficult ones, no crowds), its detections
    and the score threshold with the best F1. The protocol stands beside every number. Below are the
    best F1 with one threshold for all classes, and the calibration error (ECE): how far scores are
    from the share that is right.

    Behind a metric may stand conventions of other tools, like voc07+count-difficult; --explain
    lists them, with what each changes.

    Where images of the split are known from training (the same, copies, or of one recording with
    training images), their share stands under the mAP, and what it is without them: mAP-unseen.

    Detections of other tools are read by what the data set says: ids of its
    COCO file, names and sizes of its images. What was inferred is one line on
    stderr; what may be read in two ways is an error. --layout then says what
    the values of a row are: image, class (class0 or class1: numbers counted
    from there, classid: ids of the data set), score, id or _ (not read), and
    a box: x1 y1 x2 y2, x y w h or cx cy w h, in any order; shares or pixels
    may follow. Commas or semicolons between the words part the values, too.
    Of JSON and of tables with a header, it names a box's four numbers, or
    class0, class1 or classid alone.

    A baseline that was written with --with-detections is scored again on today's labels, and the
    drop gets a 95 % interval. Intervals draw what belongs together, by the rule --group of `detkit
    split`. Under GitHub Actions a gate that is not met annotates the run.

    --devices N divides the images among N processes, one a GPU. --shard I/N writes what is found in
    one share of them; `detkit merge` puts the files of all together, and --predictions scores that.

    \b
    Examples:
      detkit eval run/best.safetensors photos
      detkit eval run/best.safetensors photos --fail-under mAP=.6 --fail-under car=.7
      detkit eval run/best.safetensors photos --fail-under F1=.6 --fail-over ECE=.1
      detkit eval --predictions found.jsonl photos --metric coco --json
      detkit eval --predictions labels photos --layout "class score cx cy w h"
      detkit eval --predictions results.json photos --layout class0
      detkit eval --predictions found.csv photos --scores percent
      detkit eval run/best.safetensors photos --json --with-detections > old.json
      detkit eval new/best.safetensors photos --baseline old.json --max-drop .01
      detkit eval run/best.safetensors photos --explain --errors
      detkit eval --predictions found.json photos --explain --like pycocotools
      detkit eval run/best.safetensors photos --tile compare=640
      detkit eval --predictions found.jsonl photos --markdown >> "$GITHUB_STEP_SUMMARY"
      detkit eval run/best.safetensors photos --shard 1/8 -o part-1.jsonl
    """
    values = dict(locals())
    wanted = 2 if predictions is None else 1
    if len(places) != wanted:
        form = "MODEL DATA" if predictions is None else "--predictions FILE DATA"
        raise UsageError(f"expected: detkit eval {form}; got {counted(len(places), 'argument')}")
    require_one_form(as_json=as_json, markdown=markdown)
    if with_detections and not as_json:
        raise UsageError("--with-detections puts them into the JSON: add --json")
    if tide is not None and not errors:
        raise UsageError("--tide says by whose rules --errors tells kinds of errors apart: add it")
    if tide is not None:
        from detkit.evaluation.scores import require_error_rules

        require_error_rules(tide)
    if like is not None:
        from detkit.evaluation.other_tools import require_tool

        if not explain:
            raise UsageError("--like says how --explain's rules make another tool's number: add it")
        require_tool(like)
    if max_drop is not None and baseline is None:
        raise UsageError("--max-drop is how far mAP may fall below --baseline OLD.json: add it")
    data = Path(places[-1])
    require_page("--report", page, force=force, data=data)
    require_free("--junit", junit, force=force, data=data)
    require_free("--pr-curve", pr_curve, force=force, data=data)
    several = devices * nodes > 1
    refuse_mixed(
        shard,
        out,
        several=several,
        resume=resume,
        no_shard={
            **{"--fail-under": fail_under, "--fail-over": fail_over, "--baseline": baseline},
            **{"--junit": junit, "--explain": explain, "--errors": errors, "--interval": interval},
            **{"--pr-curve": pr_curve, "--report": page, "--json": as_json, "--markdown": markdown},
        },
        neither={"--heads": heads, "--predictions": predictions},
    )
    if shard is None:
        require_free("-o", out, force=force, data=data)
    from detkit.evaluation.gates import check_gates, parse_gate
    from detkit.evaluation.leakage import groups_of_split, leakage_to_json, with_unseen

    if pr_curve is not None:
        from detkit.report.plots import require_plot

        require_plot(pr_curve)
    console = Console(quiet, markdown=markdown)
    looking = looking_of(tile, overlap, tta, comparable=True)
    names = class_list(classes)
    gates = [parse_gate(word) for word in fail_under or ()]
    gates += [parse_gate(word, "--fail-over", at_most=True) for word in fail_over or ()]
    old = None
    if baseline is not None:
        from detkit.evaluation.baseline import read_baseline

        old = read_baseline(baseline)
    if predictions is None:
        files = {"--layout": layout, "--scores": scores_are, "--strict": strict}
        if any(files.values()):
            option = next(name for name, value in files.items() if value)
            raise UsageError(f"{option} is for --predictions; a model's are known")
        load_plugins(plugin)
        if shard is not None and out is not None:
            refuse({"--tile compare": looking.compare}, "--shard")
            wish = Wish(
                *(places[0], device, settings, precision, threads, batch_size),
                *(None, (), None, proposals, looking, False),
            )
            evaluate_share(
                *(console, wish, data, names, split, shard, out), resume=resume, force=force
            )
            return
        processes = Asked(devices, nodes, out, resume, force) if several else None
        judged = evaluate_model(
            console,
            places[0],
            data,
            names,
            split,
            metric,
            iou,
            batch_size=batch_size,
            device=device,
            precision=precision,
            threads=threads,
            proposals=proposals,
            settings=settings,
            looking=looking,
            heads=heads,
            check=lambda scores: check_gates(with_unseen(scores, None), gates),
            processes=None
            if processes is None
            else lambda by: found_in_processes(
                console, values, processes, by, name="" if by == looking else "plain"
            ),
        )
    else:
        given = {
            "--out": out,
            "--proposals": proposals,
            "--set": settings,
            "--heads": heads,
            "--tile": tile,
            "--overlap": overlap,
            "--tta": tta,
        }
        if any(given.values()):
            option = next(name for name, value in given.items() if value)
            raise UsageError(f"{option} is for a model; --predictions are scored as they are")
        judged = evaluate_file(
            console,
            predictions,
            data,
            names,
            split,
            metric,
            iou,
            layout=layout,
            scale=scores_are,
            strict=strict,
        )
    scores = judged.scores
    leakage = leakage_of(console, judged, places[0] if predictions is None else None, group)
    outcomes = gate_outcomes(with_unseen(scores, leakage), gates)
    report: dict[str, Any] = {"leaks": leakage_to_json(leakage)}
    if leakage is not None and leakage.num_leaked and as_json:
        console.warn(leakage.in_words())
    drawn: tuple[list[int], str] = ([], "")
    if interval or old is not None:
        with console.counting("looking for groups") as progress:
            drawn = groups_of_split(judged.dataset, judged.split, group, progress)
    with reader_may_leave():  # the gates are judged all the same
        if not as_json:
            tell_scores(console, scores, judged.split)
            if leakage is not None:
                tell_leakage(console, leakage)
        if judged.gain is not None:
            report["gain"] = gain_part(console, judged.gain, as_json, looking.compare)
        if heads:
            report["heads"] = heads_part(console, judged, as_json)
        if interval:
            report["interval"] = interval_part(console, judged, as_json, drawn)
        if explain:
            report["explain"] = explain_part(console, judged, as_json)
        if like is not None:
            words = _words(
                places,
                {
                    "--predictions": predictions,
                    "--layout": layout,
                    "--scores": scores_are,
                    "--split": split,
                    "--classes": classes,
                    "--tile": tile,
                    "--overlap": overlap,
                    "--tta": tta,
                    "--proposals": proposals,
                    "--set": settings,
                    "--plugin": plugin,
                },
            )
            report["like"] = tell_like(console, judged, like, words, as_json=as_json)
        if errors:
            report |= errors_part(console, judged, as_json, tide)
    if old is not None:
        from detkit.evaluation.baseline import compare

        drop = compare(
            old,
            scores,
            judged.detections,
            judged.dataset.splits[judged.split],
            judged.truths,
            judged.dataset.class_names,
            judged.split,
            drawn[0],
        )
        allowed = MAX_DROP if max_drop is None else max_drop
        outcome = drop_outcome(drop, old.path, allowed, scores)
        outcomes.append(outcome)
        with reader_may_leave():
            if not as_json:
                tell_change(console, drop, scores, old.path, drawn[1])
        if outcome.failure is None:
            console.note(tell_drop(drop, old.path, scores))
        report["baseline"] = drop_part(drop, allowed)
    with reader_may_leave():
        if as_json:
            write_json(console, judged, report, with_detections)
        elif markdown:  # elsewhere stderr names what was not met
            tell_gates(console, outcomes)
    # Only now: on a disk that is full meanwhile the scores have been told.
    if out is not None:
        write_found(judged, out, force=force)
        console.note(f"detections: {out}")
    if pr_curve is not None:
        from detkit.report.plots import save_pr_curve

        save_pr_curve(scores, pr_curve)
        console.note(f"precision over recall: {pr_curve}")
    if page is not None:
        from detkit.report.page import write_report

        source = places[0] if predictions is None else str(predictions)
        write_report(
            page,
            judged.dataset,
            judged.split,
            judged.detections,
            scores,
            source=source,
            notes=judged.warnings,
            leakage=leakage,
            misses=judged.misses,
            gain=judged.gain,
        )
        console.note(f"report: {page}")
    if junit is not None:
        write_junit(junit, scores, judged.split, outcomes)
    leave(console, outcomes)


# --- what an option adds: told as a table, or returned as JSON ------------------------------


def _words(places: Sequence[str], options: Mapping[str, Any]) -> list[str]:
    """Return the words of a command with these options, those that were given."""
    words = ["detkit", "eval"]
    for name, value in options.items():
        given = value if isinstance(value, list) else [value]
        words += [word for one in given if one is not None for word in (name, str(one))]
    return [*words, *places]
