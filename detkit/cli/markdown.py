"""Tables and lines as GitHub-flavoured Markdown: for a job's summary or a comment."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

# What GitHub's Markdown takes as more than a letter; HTML is escaped before.
SPECIAL = re.compile(r"[\\`*_\[\]{}|~#!$]")
FIRST = re.compile(r"\A(\d*)([-+=.)])(?=\s|[-=]|$)")  # what makes a line a list or a heading
HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def escaped(text: str) -> str:
    """Return a text on one line that Markdown shows letter by letter, in a table as well."""
    text = SPECIAL.sub(r"\\\g<0>", " ".join(text.split()))
    return "".join(HTML.get(letter, letter) for letter in text)


def paragraph(text: str) -> str:
    """Return a text as `escaped`, which at the beginning of a line makes no list or heading."""
    return FIRST.sub(r"\1\\\2", escaped(text))


def markdown_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[int] = ()
) -> list[str]:
    """Return the lines of a table; the columns numbered in `right` are aligned to the right.

    Spaces before a name, which show what it is a part of, are kept.
    """
    marks = ["---:" if column in right else "---" for column in range(len(header))]
    lines = [_row(header), f"| {' | '.join(marks)} |"]
    return lines + [_row(row) for row in rows]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(text: str) -> str:
    indent = len(text) - len(text.lstrip(" "))
    return "&nbsp;" * indent + escaped(text)
