"""One share of a long run, `--shard I/N`, and `detkit merge`, which puts shares together."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detkit import __version__
from detkit.cli.console import Console
from detkit.cli.options import Force, Quiet, require_free
from detkit.errors import ExitCode, Interrupted, UsageError
from detkit.files import sha256_of
from detkit.text import counted

if TYPE_CHECKING:
    from detkit.predictions.image import ImagePredictions
    from detkit.shards.writer import PartWriter

ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Look at the I-th of N shares only and write a part to -o; `detkit merge` puts the "
        "parts together.",
    ),
]
Devices = Annotated[
    int,
    typer.Option(min=1, metavar="N", help="Processes on this machine: one a GPU, or on the CPU."),
]
Nodes = Annotated[
    int, typer.Option(min=1, metavar="N", help="How many machines (SLURM, torchrun).")
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Go on with a --shard or a --devices run that was interrupted."),
]


def merge(
    parts: Annotated[
        list[Path], typer.Argument(metavar="PART...", help="The files of all shares, in any order.")
    ],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE", help="The file to write.")
    ] = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Put the parts together that --shard I/N has written.

    `detect`, `eval` and `propose` take --shard. FILE holds what one run would have written, in the
    order of the sources. A part that is missing, doubled, cut off, or of another run (another
    model, other options, other images) is refused.

    \b
    Examples:
      detkit detect ssd300-coco photos --shard 1/2 -o part-1.jsonl
      detkit detect ssd300-coco photos --shard 2/2 -o part-2.jsonl
      detkit merge part-*.jsonl -o found.jsonl
      detkit eval --predictions found.jsonl photos
    """
    if out is None:
        raise UsageError("-o FILE is missing: where to write what the parts hold")
    from detkit.shards.merge import merge as merged

    console = Console(quiet)
    num_images, num_bad = merged(parts, out, force=force)
    console.note(f"{out}: {counted(num_images, 'image')} of {counted(len(parts), 'part')}")
    if num_bad:
        console.warn(f"{counted(num_bad, 'image')} could not be read, as {out} says")


def open_part(
    command: str,
    word: str,
    out: Path,
    asked: Mapping[str, Any],
    *,
    block: int = 1,
    resume: bool = False,
    force: bool = False,
) -> PartWriter:
    """Return the writer of the share that `--shard` names.

    `asked` are the command's options that its lines depend on, by their names. Raises UsageError
    as `Shard.parse` and `PartWriter` do.
    """
    from detkit.shards.shard import Shard
    from detkit.shards.writer import PartWriter

    shard = Shard.parse(word, block)
    asked = {"detkit": __version__, **{name: value for name, value in asked.items() if value}}
    return PartWriter(out, shard, command, asked, resume=resume, force=force)


def write_part(
    console: Console, writer: PartWriter, lines: Callable[[], Iterable[tuple[str, bool]]]
) -> None:
    """Write the lines of the images of a share that are left, and say so.

    With each goes whether it tells of an image that could not be read.

    Leaves with the code of bad input when an image of the share could not be read; raises
    Interrupted after Ctrl-C, with everything kept.
    """
    try:
        with writer:
            if not writer.is_done:
                for line, is_bad in lines():
                    writer.write(line, is_bad=is_bad)
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped; the same command with --resume goes on, what was done is in {writer.partial}"
        ) from None
    tell_part(console, writer)
    leave_if_bad(console, writer)


def lines_of(
    console: Console, found: Generator[ImagePredictions, None, None]
) -> Iterator[tuple[str, bool]]:
    """Yield the line of each image, and whether it could not be read, with progress drawn."""
    from detkit.predictions.texts import json_line

    with contextlib.closing(found):
        for one in console.track(found, None, "detecting"):
            yield json_line(one), one.error is not None


def leave_if_bad(console: Console, writer: PartWriter) -> None:
    """Leave with the code of bad input when an image of the share could not be read."""
    if writer.num_bad:
        console.error(f"{counted(writer.num_bad, 'image')} could not be read")
        raise typer.Exit(ExitCode.BAD_INPUT)


def refuse(given: Mapping[str, Any], beside: str) -> None:
    """Raise UsageError for the first option that was given and has no place beside another."""
    for name, value in given.items():
        if value not in (None, False, [], ()):
            raise UsageError(f"{name}: cannot be had with {beside}")


def refuse_mixed(
    shard: str | None,
    out: Path | None,
    *,
    several: bool,
    resume: bool,
    no_shard: Mapping[str, Any],
    neither: Mapping[str, Any],
) -> None:
    """Raise UsageError for options that have no place beside `--shard`, or `--devices` (several).

    And for a share that there is not, or that has no file.

    `no_shard` has none beside the former, `neither` beside either.
    """
    if shard is not None:
        from detkit.shards.shard import Shard

        Shard.parse(shard)  # before a model is loaded
        if out is None:
            raise UsageError(f"--shard {shard}: name the file of this part by -o FILE.jsonl")
        require_free("-o", out, force=True)  # of what is there, the writer asks --resume or --force
        refuse({"--devices": several, **no_shard, **neither}, "--shard")
    elif several:
        refuse(neither, "--devices")
    elif resume:
        raise UsageError("--resume: goes on with a run of --shard or --devices; name one")


def require_lines(form: str) -> None:
    """Raise UsageError for a share in another format than JSON Lines."""
    if form != "jsonl":
        raise UsageError("--shard writes JSON Lines, which merge puts together: -o FILE.jsonl")


def require_ends(sources: Sequence[str], beside: str) -> None:
    """Raise UsageError for a camera or a stream among the sources: it has no shares."""
    from detkit.data.sources import is_live

    for source in sources:
        if is_live(source):
            raise UsageError(f"{source}: a stream has no end, so no shares; leave out {beside}")


def tell_part(console: Console, writer: PartWriter) -> None:
    """Say what a share holds."""
    shard, turns = writer.turns.shard, writer.turns
    if writer.is_done:
        console.note(f"{writer.path}: part {shard.number} of {shard.of}, done before")
        return
    before = f" ({turns.num_done} done before)" if turns.num_done else ""
    console.note(
        f"{writer.path}: part {shard.number} of {shard.of}, {turns.num_own} of "
        f"{counted(turns.num_sources, 'image')}{before}; detkit merge PARTS... -o FILE"
    )


def model_identity(model: str) -> str:
    """Return what tells a model from others: its name, and of a file a digest of what it holds."""
    path = Path(model)
    if path.is_dir():
        from detkit.inference.models import model_of

        path = model_of(path)
    if not path.is_file():
        return model
    return f"{path.name} ({sha256_of(path)[:12]})"
