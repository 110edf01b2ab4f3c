"""The commands on region proposals: write them to a file, and measure what they cover."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detkit.cli.console import Console, figure
from detkit.cli.data import tell_notes, warn_of_unread
from detkit.cli.judged import choose_split
from detkit.cli.options import AsJson, Classes, Force, Quiet, Seed, class_list, require_free
from detkit.cli.processes import Asked
from detkit.cli.propose_shares import propose_in_processes, propose_share, reason_of
from detkit.cli.shards import Devices, Nodes, Resume, ShardOption, open_part, refuse_mixed
from detkit.errors import ExitCode, Interrupted, UsageError, require_installed
from detkit.text import agreed, counted

if TYPE_CHECKING:
    from detkit.data.records import ImageRecord
    from detkit.evaluation.proposal_recall import Coverage, RecallScores
    from detkit.proposals.proposer import Proposer
    from detkit.proposals.source import Made
    from detkit.proposals.writer import ProposalWriter
    from detkit.structures import FloatArray

MaxBoxes = Annotated[
    int, typer.Option(min=1, metavar="N", help="The best so many boxes of an image.")
]
MaxSide = Annotated[
    int, typer.Option(min=0, metavar="PX", help="Images are shrunk to this longer side; 0: never.")
]
MinSide = Annotated[
    float | None,
    typer.Option(
        metavar="PX",
        help="Selective search: the least side of a box, in pixels of the shrunk image; R-CNN's "
        "released code has 20. [default: 12]",
    ),
]
Scaling = Annotated[
    str | None,
    typer.Option(
        metavar="longer|width",
        help="Selective search: width makes any image --max-side wide, as R-CNN's released "
        "detection does. [default: longer]",
    ),
]
Alpha = Annotated[
    float | None,
    typer.Option(metavar="X", help="Edge Boxes: IoU of neighbouring windows. [default: .65]"),
]
Beta = Annotated[
    float | None,
    typer.Option(metavar="X", help="Edge Boxes: IoU above which NMS drops. [default: .75]"),
]
Eta = Annotated[
    float | None,
    typer.Option(metavar="X", help="Edge Boxes: below 1, --beta falls with each box. [default: 1]"),
]
MinScore = Annotated[
    float | None,
    typer.Option(metavar="X", help="Edge Boxes: the least score of a box. [default: .01]"),
]
MinArea = Annotated[
    float | None,
    typer.Option(
        metavar="PX",
        help="Edge Boxes: the least area of a box, in pixels of the shrunk image. [default: 400]",
    ),
]
MaxAspectRatio = Annotated[
    float | None,
    typer.Option(
        metavar="X", help="Edge Boxes: the longer over the shorter side at most. [default: 3]"
    ),
]
EdgeModel = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Edge Boxes on OpenCV's structured forest (needs an OpenCV with ximgproc).",
    ),
]

# Parameters that are one method's own.
OF_SEARCH = ("min_side", "scaling")
OF_EDGES = ("alpha", "beta", "eta", "min_score", "min_area", "max_aspect_ratio")


def propose(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="Images, folders (a data set's, too), globs, videos, .txt lists; - for stdin.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE", help="The file of JSON Lines to write."),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="selective-search, selective-search-quality or edge-boxes."
        ),
    ] = "selective-search",
    max_boxes: MaxBoxes = 2000,
    max_side: MaxSide = 500,
    seed: Seed = 0,
    min_side: MinSide = None,
    scaling: Scaling = None,
    edge_model: EdgeModel = None,
    alpha: Alpha = None,
    beta: Beta = None,
    eta: Eta = None,
    min_score: MinScore = None,
    min_area: MinArea = None,
    max_aspect_ratio: MaxAspectRatio = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Images at a time. [default: one for each core]"),
    ] = None,
    shard: ShardOption = None,
    devices: Devices = 1,
    nodes: Nodes = 1,
    resume: Resume = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Propose boxes that may hold an object.

    They are for detectors that judge given boxes: `train`, `detect` and `eval` take the file by
    --proposals; without one they propose themselves, with the same results. FILE gets a line an
    image: {"image", "width", "height", "parameters", "boxes", "scores"}, best boxes first. After
    an interruption the same command goes on where it stopped: what was done is in FILE.partial.
    An image that cannot be read is one line with "error"; the exit code is then 3.

    Threads use all cores of a machine. --devices N --nodes M divides the images among processes of
    several, --shard I/N is one share of N; `detkit merge` puts their files together.

    \b
    Examples:
      detkit propose photos -o proposals.jsonl
      detkit propose photos --method edge-boxes --max-boxes 1000 -o edges.jsonl
      detkit propose photos --shard 1/8 -o part-1.jsonl
    """
    values = dict(locals())
    if out is None:
        raise UsageError("-o FILE is missing: where to write the proposals")
    if str(out) == "-":
        raise UsageError("-o -: proposals go to a file, which can be taken up again; name one")
    if out.suffix.lower() == ".mat":
        raise UsageError(f"-o {out}: JSON Lines are written; name it .jsonl")
    if shard is None:
        require_free("-o", out, force=force)
    from detkit.data.sources import count_images, find_images
    from detkit.machine import num_cores
    from detkit.proposals.cache import ProposalCache
    from detkit.proposals.source import ComputedProposals, make_all
    from detkit.proposals.writer import ProposalWriter

    console = Console(quiet)
    (proposer,) = _proposers((method,), values)
    several = devices * nodes > 1
    refuse_mixed(shard, out, several=several, resume=resume, no_shard={}, neither={})
    if shard is not None:
        asked = {"parameters": proposer.parameters}
        propose_share(
            console,
            open_part("propose", shard, out, asked, resume=resume, force=force),
            ComputedProposals(proposer, ProposalCache()),
            sources,
            threads or num_cores(),
        )
        return
    if several:
        find_images(sources, stdin=sys.stdin)  # looks all up before processes are begun
        propose_in_processes(console, values, Asked(devices, nodes, out, resume, force))
        return
    done: set[str] = set()

    def is_missing(name: str) -> bool:
        return name not in done

    images = find_images(sources, stdin=sys.stdin, take=is_missing)
    cache = ProposalCache()
    with ProposalWriter(out, proposer.parameters, force=force) as writer:
        done |= writer.done
        total = count_images(sources, is_missing)
        if writer.done:
            console.note(
                f"{writer.partial}: {counted(len(writer.done), 'image')} "
                f"{agreed(len(writer.done), 'is', 'are')} done, going on"
            )
        # All cores, busy or not: images do not wait for each other as threads of a network do.
        threads = threads or num_cores()
        console.note(f"{proposer.method}, {counted(threads, 'image')} at a time")
        made = make_all(ComputedProposals(proposer, cache), images, threads)
        with contextlib.closing(made):
            try:
                num_bad = _write(console, writer, made, total)
            except KeyboardInterrupt:
                raise Interrupted(
                    f"stopped; the same command goes on, what was done is in {writer.partial}"
                ) from None
    each = writer.num_boxes / max(writer.num_images, 1)
    before = f"{len(writer.done)} done before, " if writer.done else ""
    console.note(
        f"{out}: {counted(writer.num_images, 'image')}, {each:.0f} boxes each "
        f"({before}{cache.hits} from the cache; {cache.size_text()})"
    )
    if num_bad:
        console.error(f"{counted(num_bad, 'image')} could not be read")
        raise typer.Exit(ExitCode.BAD_INPUT)


def recall(
    places: Annotated[
        list[str],
        typer.Argument(
            metavar="[FILE...] DATA", help="Proposal files, if any, then the labelled folder."
        ),
    ],
    method: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Propose by this method, here and now; repeatable."),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The part to measure on. [default: test, else val]"),
    ] = None,
    classes: Classes = None,
    max_boxes: MaxBoxes = 2000,
    max_side: MaxSide = 500,
    seed: Seed = 0,
    min_side: MinSide = None,
    scaling: Scaling = None,
    edge_model: EdgeModel = None,
    alpha: Alpha = None,
    beta: Beta = None,
    eta: Eta = None,
    min_score: MinScore = None,
    min_area: MinArea = None,
    max_aspect_ratio: MaxAspectRatio = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Plot recall over IoU and over boxes: .png, .svg, .pdf."),
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure how many objects proposals cover.

    Recall is the share of objects that one of the first N boxes of their image overlaps by an
    IoU of X and more; the overlap is an object's best IoU, its mean over classes MABO
    (Uijlings et al. 2013). Difficult objects are left out; sizes are COCO's (32 and 96 px
    squared). Files and methods stand in one table.

    \b
    Examples:
      detkit recall proposals.jsonl photos
      detkit recall photos --method selective-search --method edge-boxes --plot recall.png
      detkit recall voc_2007_test.mat VOC2007 --split test --json
    """
    values = dict(locals())
    *files, data = places
    if not files and not method:
        raise UsageError(
            "expected: detkit recall FILE... DATA, or detkit recall DATA --method NAME"
        )
    require_free("--plot", plot, force=force, data=Path(data))
    if plot is not None:
        from detkit.report.plots import require_plot

        require_plot(plot)
    from detkit.data import open_dataset
    from detkit.evaluation.proposal_recall import PROTOCOL, counts_up_to, recall_to_json
    from detkit.evaluation.proposal_recall import recall as recall_of

    console = Console(quiet)
    proposers = _proposers(method or (), values)
    dataset = open_dataset(Path(data), classes=class_list(classes))
    part = choose_split(dataset, split)
    tell_notes(console, dataset)
    warn_of_unread(console, dataset)
    records, truths = dataset.splits[part], dataset.truths(part)
    found = {name: _of_file(Path(name), records, max_boxes) for name in files}
    found |= {one.method: _of_method(console, one, records) for one in proposers}
    if plot is not None:
        from detkit.report.recall_plot import save_recall_plot

        save_recall_plot(found, truths, dataset.class_names, plot, count=max_boxes)
        console.note(f"recall over IoU and number of boxes: {plot}")
    counts = counts_up_to(max_boxes)
    scores = {
        name: recall_of(boxes, truths, dataset.class_names, counts=counts)
        for name, boxes in found.items()
    }
    if as_json:
        report: dict[str, Any] = {
            "data": str(dataset.root),
            "split": part,
            "protocol": PROTOCOL,
            "num_images": len(records),
            "proposals": [{"name": name, **recall_to_json(one)} for name, one in scores.items()],
        }
        console.data(json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False))
        return
    _tell(console, scores)
    console.data(f"\n{PROTOCOL}; {part}, {counted(len(records), 'image')}")


def _write(console: Console, writer: ProposalWriter, made: Any, total: int | None) -> int:
    """Write what is made; return how many images could not be read."""
    num_bad = 0
    one: Made
    for one in console.track(made, total, "proposing"):
        if one.found is not None:
            writer.write(one.image, one.size, one.found)
            continue
        num_bad += 1
        reason = reason_of(one)
        console.warn(f"{one.image}: {reason}")
        writer.write_error(one.image, reason)
    return num_bad


def _proposers(methods: Sequence[str], values: Mapping[str, Any]) -> list[Proposer]:
    """Return one a method, by the command's options by parameter.

    Raises UsageError for an option of a method that is not among those asked for.
    """
    from detkit.proposals.proposer import EdgeSearch, Proposer

    if methods:
        require_installed("numba")  # in plain Python they would take minutes an image
    numbers = values["max_boxes"], values["max_side"], values["seed"]
    search = {name: values[name] for name in OF_SEARCH if values[name] is not None}
    edges = {name: values[name] for name in OF_EDGES if values[name] is not None}
    edge_model = values["edge_model"]
    with_model = {} if edge_model is None else {"edge_model": edge_model}
    for given, method in (({**with_model, **edges}, "edge-boxes"), (search, "selective-search")):
        if given and not any(name.startswith(method) for name in methods):
            option = next(iter(given)).replace("_", "-")
            raise UsageError(f"--{option}: is for {method}; add --method {method}")
    return [
        Proposer(name, *numbers, edge_model=edge_model, edges=EdgeSearch(**edges))
        if name == "edge-boxes"
        else Proposer(name, *numbers, **search)
        for name in methods
    ]


def _of_file(path: Path, records: Sequence[ImageRecord], max_boxes: int) -> list[FloatArray]:
    """Return the best (P, 4) boxes that a file has for each record."""
    from detkit.data.images import image_size
    from detkit.proposals.reader import read_proposals
    from detkit.proposals.source import FileProposals

    source = FileProposals.of(read_proposals(path), max_boxes)
    source.require(str(record.path) for record in records)
    return [source.find(str(one.path), image_size(one.path)).boxes for one in records]


def _of_method(
    console: Console, proposer: Proposer, records: Sequence[ImageRecord]
) -> list[FloatArray]:
    """Return the (P, 4) boxes that a method proposes for each record."""
    from detkit.data.sources import ImageSource
    from detkit.machine import num_cores
    from detkit.proposals.cache import ProposalCache
    from detkit.proposals.source import ComputedProposals, make_all

    images = [ImageSource.of_file(record.path) for record in records]
    boxes = []
    source = ComputedProposals(proposer, ProposalCache())
    with contextlib.closing(make_all(source, images, num_cores())) as made:
        for one in console.track(made, len(images), proposer.method):
            if one.found is None:
                raise one.error or UsageError(f"{one.image}: there are no proposals")
            boxes.append(one.found.boxes)
    return boxes


def _tell(console: Console, scores: Mapping[str, RecallScores]) -> None:
    """Write the table by number of boxes, then that by class and size."""
    first = next(iter(scores.values()))
    shares = [f"recall@{iou:g}" for iou in first.ious]
    rows = [
        (
            name,
            str(count),
            *map(_figure, one.all.recall[row].tolist()),
            _figure(float(one.all.overlap[row])),
        )
        for name, one in scores.items()
        for row, count in enumerate(one.counts)
    ]
    numbers = range(1, len(shares) + 3)
    console.table(("proposals", "boxes", *shares, "MABO"), rows, right=numbers)
    console.data("")
    groups: list[tuple[str, Coverage]] = []
    for place, kind in enumerate((*first.classes, *first.sizes)):
        if kind.num_objects:
            groups += [(name, (*one.classes, *one.sizes)[place]) for name, one in scores.items()]
    rows = [
        (
            group.name,
            str(group.num_objects),
            name,
            *map(_figure, group.recall[-1].tolist()),
            _figure(float(group.overlap[-1])),
        )
        for name, group in groups
    ]
    header = (
        f"first {counted(first.counts[-1], 'box')}",
        "objects",
        "proposals",
        *shares,
        "overlap",
    )
    console.table(header, rows, right=(1, *range(3, len(shares) + 4)))


def _figure(value: float) -> str:
    """Return a share to three places, `n/a` when there is none."""
    return figure(None if value != value else value)
