"""The command that prints the JSON Schema of another's output."""

from __future__ import annotations

from importlib.resources import files
from typing import Annotated

import typer

from detkit.cli.console import Console
from detkit.cli.options import nearest

NAMES = ("eval", "check", "detect", "compare", "enough", "propose", "next", "suspects", "patch")


def schema(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[COMMAND]", help=f"{', '.join(NAMES[:-1])} or {NAMES[-1]}."),
    ] = None,
) -> None:
    """Print the JSON Schema of a command's output.

    That is draft 2020-12, of what `--json` writes, or of one line where JSON Lines are written
    (detect, propose, next); patch is the file of changes that suspects writes. Each version of
    detkit prints the schema of its own output: it names every key there is. Without COMMAND the
    names are listed.

    \b
    Example:
      detkit schema eval > eval.schema.json
    """
    if name is None:
        Console().data("\n".join(NAMES))
        return
    Console().data(schema_text(nearest("COMMAND", name, NAMES)))


def schema_text(name: str) -> str:
    """Return the JSON Schema of the output of a command, which is one of `NAMES`."""
    place = files("detkit") / "cli" / "schemas" / f"{name}.json"
    return place.read_text(encoding="utf-8").rstrip("\n")
