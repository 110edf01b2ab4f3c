"""`detkit propose` in shares: one of them, or several processes."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from detkit.cli.console import Console
from detkit.cli.processes import Asked, merge_shares
from detkit.cli.shards import require_ends, write_part
from detkit.errors import ExitCode
from detkit.text import counted

if TYPE_CHECKING:
    from detkit.proposals.source import ComputedProposals, Made
    from detkit.shards.writer import PartWriter


def propose_share(
    console: Console,
    part: PartWriter,
    source: ComputedProposals,
    sources: Sequence[str],
    threads: int,
) -> None:
    """Write the lines of a share that are left; leave with 3 when an image cannot be read."""
    from detkit.data.sources import find_images
    from detkit.proposals.reader import line_of
    from detkit.proposals.source import make_all
    from detkit.proposals.writer import error_line

    require_ends(sources, "--shard")

    def lines() -> Iterator[tuple[str, bool]]:
        images = find_images(sources, stdin=sys.stdin, take=part.turns)
        parameters = source.proposer.parameters
        with contextlib.closing(make_all(source, images, threads)) as made:
            for one in console.track(made, None, "proposing"):
                if one.found is not None:
                    yield line_of(one.image, one.size, one.found, parameters), False
                    continue
                reason = reason_of(one)
                console.warn(f"{one.image}: {reason}")
                yield error_line(one.image, reason), True

    write_part(console, part, lines)


def propose_in_processes(console: Console, values: Mapping[str, Any], asked: Asked) -> None:
    """Write what several processes propose; leave with 3 when an image cannot be read."""
    out = asked.out
    assert out is not None  # propose writes a file
    counts = merge_shares(console, "propose", values, asked, out)
    if counts is None:
        return
    num_images, num_bad = counts
    console.note(f"{out}: {counted(num_images - num_bad, 'image')}")
    if num_bad:
        console.error(f"{counted(num_bad, 'image')} could not be read")
        raise typer.Exit(ExitCode.BAD_INPUT)


def reason_of(one: Made) -> str:
    """Return why there are no proposals of an image, without its name."""
    return str(one.error).removeprefix(f"{one.image}: ")
