"""Compare what README.md and docs/*.md show of the program with what it says: `make check-docs`.

    python tests/check_docs.py [--write | --measure]

A block between `<!-- begin: detkit ... -->` and `<!-- end -->` is the output of that command, in
a folder where `demo` is the demo data set. `--write` writes these blocks anew.

A block between `<!-- measured: ... -->` and `<!-- end -->` shows a run whose figures differ from
machine to machine, so it is not compared. `--measure` runs these commands, page after page and in
their order, which trains for some minutes, and writes their output, shortened, and the README's
picture.
"""

from __future__ import annotations

import difflib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]  # all share one folder
BLOCK = re.compile(r"<!-- begin: (?P<command>[^\n]+?) -->\n(?P<text>.*?)<!-- end -->", re.DOTALL)
MEASURED = re.compile(BLOCK.pattern.replace("begin", "measured"), re.DOTALL)
PICTURE = "drawn/000296.jpg"  # several objects of each class, a test image
FIRST, LAST, WIDTH = 6, 9, 120  # lines of a measured output that are shown, and their length


def run(command: str, folder: Path) -> str:
    """Return what a `detkit ...` command writes to stdout on a terminal 80 columns wide."""
    words = command.split()
    assert words[0] == "detkit", command
    environment = {**os.environ, "COLUMNS": "80", "PYTHONUTF8": "1"}
    environment.pop("FORCE_COLOR", None)
    done = subprocess.run(
        [sys.executable, "-m", "detkit", *words[1:]],
        cwd=folder,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode not in (0, 1):
        raise SystemExit(f"{command}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout


def run_shown(command: str, folder: Path) -> str:
    """Return what a shell command writes to the terminal, shortened in length and width."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        check=False,
    )
    lines = [
        line if len(line) <= WIDTH else f"{line[: WIDTH - 3]}..."
        for line in done.stdout.splitlines()
    ]
    if len(lines) > FIRST + LAST:
        lines = [*lines[:FIRST], "...", *lines[-LAST:]]
    if done.returncode not in (0, 1):
        raise SystemExit(f"{command}: exit code {done.returncode}\n{done.stdout}")
    return "\n".join(lines)


def block(command: str, output: str, kind: str = "begin") -> str:
    """Return a command and its output as the pages show them."""
    lines = [line.rstrip() for line in output.strip("\n").splitlines()]
    text = "\n".join([f"$ {command}", *lines])
    return f"<!-- {kind}: {command} -->\n```console\n{text}\n```\n<!-- end -->"


def rewritten(text: str, folder: Path) -> str:
    """Return a page's text with every compared block as the program has it now."""

    def fresh(found: re.Match[str]) -> str:
        return block(found["command"], run(found["command"], folder))

    return BLOCK.sub(fresh, text)


def measured(text: str, folder: Path) -> str:
    """Return a page's text with every measured block as it comes out here and now."""

    def fresh(found: re.Match[str]) -> str:
        return block(found["command"], run_shown(found["command"], folder), "measured")

    return MEASURED.sub(fresh, text)


def main(option: str) -> int:
    """Return 0 when the pages are right, or were made so; print the difference otherwise."""
    old = {page: page.read_text(encoding="utf-8") for page in PAGES}
    make = measured if option == "--measure" else rewritten
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run("detkit demo demo --quiet", folder)
        new = {page: make(text, folder) for page, text in old.items()}
        if option == "--measure":
            shutil.copy(folder / PICTURE, ROOT / "docs" / "detections.jpg")
    if option in ("--write", "--measure"):
        for page, text in new.items():
            page.write_text(text, encoding="utf-8", newline="\n")
        return 0
    for page in PAGES:
        shown = str(page.relative_to(ROOT))
        difference = difflib.unified_diff(
            old[page].splitlines(), new[page].splitlines(), shown, "the program", lineterm=""
        )
        for line in difference:
            print(line)
    if old != new:
        print("the pages and the program differ; `make docs` writes the program's words")
    return int(old != new)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else ""))
