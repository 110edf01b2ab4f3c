"""Compare what the README shows of the program with what it says: `make check-readme`.

    python tests/check_readme.py [--write]

A block between `<!-- begin: detkit ... -->` and `<!-- end -->` is the output of that command, in
a folder where `demo` is the demo data set. With `--write` the blocks are written anew.
"""

from __future__ import annotations

import difflib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(r"<!-- begin: (?P<command>[^\n]+?) -->\n(?P<text>.*?)<!-- end -->", re.DOTALL)


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
        text=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode not in (0, 1):
        raise SystemExit(f"{command}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout


def block(command: str, output: str) -> str:
    """Return a command and its output as the README shows them."""
    lines = "\n".join(line.rstrip() for line in output.strip("\n").splitlines())
    return f"<!-- begin: {command} -->\n```console\n$ {command}\n{lines}\n```\n<!-- end -->"


def rewritten(text: str, folder: Path) -> str:
    """Return the README's text with every block as the program has it now."""
    if any("demo" in found["command"].split() for found in BLOCK.finditer(text)):
        run("detkit demo demo --quiet", folder)

    def fresh(found: re.Match[str]) -> str:
        return block(found["command"], run(found["command"], folder))

    return BLOCK.sub(fresh, text)


def main(write: bool) -> int:
    """Return 0 when the README is right, or was made so; print the difference otherwise."""
    old = README.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        new = rewritten(old, Path(folder))
    if write:
        README.write_text(new, encoding="utf-8", newline="\n")
        return 0
    difference = difflib.unified_diff(
        old.splitlines(), new.splitlines(), "README.md", "the program", lineterm=""
    )
    for line in difference:
        print(line)
    if old != new:
        print("README.md and the program differ; `make readme` writes the program's words")
    return int(old != new)


if __name__ == "__main__":
    sys.exit(main("--write" in sys.argv[1:]))
