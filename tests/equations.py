"""Find the code of each paper's equations, and write `docs/equations.md`: `make equations`.

    python tests/equations.py

A module that holds a paper opens with the paper's name and a colon, and its docstring has the list

    Where the equations are:
    - sec. 2.2, eqs. 1-3: `multibox_loss`, both losses over the matched boxes
    - sec. 2.2: `boxes.encode`, the offsets of a ground truth

up to an empty line: section or appendix, the equations if they are numbered, a name, what it is. A
name is one of the module's own namespace, or `module.name` with a module of detkit, wherever in the
package that lies.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "detkit"
PAGE = ROOT / "docs" / "equations.md"
HEADING = "Where the equations are"
LINE = re.compile(
    r"- (?P<section>sec\. \d+(?:\.\d+)*|appendix [A-Z])"
    r"(?:, eq(?:\. (?P<one>\d+)|s\. (?P<first>\d+)-(?P<last>\d+)))?"
    r": `(?P<name>[A-Za-z_][\w.]*)`, (?P<what>[^`]*[^`.\s])"
)
INTRODUCTION = """# Where the equations are

Each paper's equations and rules, and the code that has them. `make equations` writes this page
from the lists at the top of the papers' modules; mend those, not this.

"""


class ListError(Exception):
    """A list that cannot be read, or a name in it that leads nowhere."""


@dataclass(frozen=True)
class Entry:
    """A line of a list: where something is in the paper, and where in the code."""

    section: str
    equations: tuple[int, ...]  # none for a rule without a number
    name: str
    what: str


@dataclass(frozen=True)
class Paper:
    """A paper's list, and the module whose docstring holds it."""

    name: str
    module: str
    entries: tuple[Entry, ...]


def entries_of(docstring: str) -> tuple[Entry, ...]:
    """Return the entries of a docstring's list; raise ListError for what cannot be read."""
    lines = docstring.splitlines()
    if lines.count(f"{HEADING}:") != 1:
        raise ListError(f"one line has to be '{HEADING}:'")
    rest = lines[lines.index(f"{HEADING}:") + 1 :]
    end = rest.index("") if "" in rest else len(rest)
    if not end:
        raise ListError(f"no line follows '{HEADING}:'")
    return tuple(entry_of(line) for line in rest[:end])


def entry_of(line: str) -> Entry:
    """Return what a line of a list says."""
    found = LINE.fullmatch(line)
    if found is None:
        raise ListError(f"not a line as '- sec. 2.2, eq. 1: `name`, what it is': {line!r}")
    first = int(found["one"] or found["first"] or 1)
    last = int(found["one"] or found["last"] or 0)
    if found["first"] and first >= last:
        raise ListError(f"its equations do not ascend: {line!r}")
    return Entry(found["section"], tuple(range(first, last + 1)), found["name"], found["what"])


@cache
def module_names() -> dict[str, Path]:
    """Return the files of the package's modules, by dotted name."""
    names = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


@cache
def papers() -> tuple[Paper, ...]:
    """Return every paper of the package, by name; raise ListError for a list that is wrong."""
    found = []
    for module, path in module_names().items():
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        if HEADING not in text:
            continue
        name, colon, _ = text.partition(": ")
        if not colon or "\n" in name:
            raise ListError(f"{module}: its first line has to begin with a paper's name, a colon")
        try:
            found.append(Paper(name, module, entries_of(text)))
        except ListError as error:
            raise ListError(f"{module}: {error}") from error
    return tuple(sorted(found, key=lambda paper: paper.name.casefold()))


def resolve(name: str, module: str) -> Any:
    """Return the function or class that a name in a module's list means, not as decorated.

    Raises ListError when there is none, or more than one.
    """
    parts = name.split(".")
    found = [follow(importlib.import_module(module), parts)]
    if found[0] is None:
        homes = [
            (one, parts[count:])
            for count in range(1, len(parts))
            for one in module_names()
            if one.endswith(f".{'.'.join(parts[:count])}")
        ]
        found = [follow(importlib.import_module(one), rest) for one, rest in homes]
    found = [one for one in found if one is not None]
    if len(found) != 1:
        raise ListError(f"{module}: `{name}` names {len(found)} functions or classes, not one")
    return found[0]


def follow(start: object, parts: list[str]) -> Any:
    """Return the function or class of detkit that a path of attributes leads to, None if none."""
    value = start
    for part in parts:
        value = getattr(value, part, None)
    value = value.fget if isinstance(value, property) else value
    value = inspect.unwrap(value) if callable(value) else value  # numba's and torch's decorators
    is_code = inspect.isfunction(value) or inspect.isclass(value)
    return value if is_code and value.__module__.startswith(f"{PACKAGE.name}.") else None


def place_of(value: Any) -> str:
    """Return the file that a function or class stands in, from the repository's root."""
    source = inspect.getsourcefile(value)
    assert source is not None, value
    return Path(source).resolve().relative_to(ROOT).as_posix()


def page() -> str:
    """Return what `docs/equations.md` has to hold."""
    rows = ["| paper | section | equation | what | file | function |", "|---|---|---|---|---|---|"]
    for paper in papers():
        for entry in paper.entries:
            code = resolve(entry.name, paper.module)
            file = place_of(code)
            numbers = "-".join(map(str, sorted({*entry.equations[:1], *entry.equations[-1:]})))
            rows.append(
                f"| {paper.name} | {entry.section} | {numbers or '-'} | {entry.what} "
                f"| [{file}](../{file}) | `{code.__qualname__}` |"
            )
    return INTRODUCTION + "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8", newline="\n")
