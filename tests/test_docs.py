"""README.md and docs/: commands run, help texts are the program's, links lead somewhere."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from check_docs import BLOCK, PAGES, block, run
from running import detkit

from detkit.cli import app

ROOT = Path(__file__).parents[1]
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
LINKED = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
# Enough to show that a command line works; the pages' own budgets are for people.
SMALL = ("--max-steps", "2", "--batch-size", "2", "--num-workers", "0", "--set", "size=128")


def commands() -> list[str]:
    """Return the commands of all console blocks that are not compared word by word."""
    return [
        line.removeprefix("$ ")
        for text in TEXTS.values()
        for lines in re.findall(r"```console\n(.*?)```", BLOCK.sub("", text), re.DOTALL)
        for line in lines.splitlines()
        if line.startswith("$ ")
    ]


def python_blocks() -> list[str]:
    """Return the Python that the pages show."""
    return [
        code
        for text in TEXTS.values()
        for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    ]


def anchors(page: Path) -> set[str]:
    """Return what GitHub calls a page's headings; the second of a name gets "-1"."""
    anchored: set[str] = set()
    seen: Counter[str] = Counter()
    for line in FENCED.sub("", page.read_text(encoding="utf-8")).splitlines():
        if line.startswith("#"):
            title = line.lstrip("#").strip().lower()
            slug = re.sub(r"[^\w\- ]", "", title).replace(" ", "-")
            anchored.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
            seen[slug] += 1
    return anchored


def links(page: Path) -> list[str]:
    """Return what a page links to."""
    return re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", page.read_text(encoding="utf-8")))


def made_small(command: str) -> str:
    """Return a command with less to do: two steps of training, a data set of 12 images."""
    if command.startswith("detkit train --resume"):
        return command
    if command.startswith("detkit train"):
        command = re.sub(r" --max-minutes \S+", "", command)
        return f"{command} {' '.join(SMALL)}"
    if command.startswith("detkit demo"):
        return f"{command} --num-images 12"
    return command


def names_of_commands() -> list[str]:
    from typer.main import get_command

    return list(get_command(app).commands)  # type: ignore[attr-defined]


@pytest.mark.skipif(os.name == "nt", reason="the pages' pipes are those of a Unix shell")
def test_the_commands_and_the_python_of_the_pages_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "detkit"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m detkit "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    # What Pascal VOC's own images are for, `test_recipes` runs on a devkit that is made up.
    found = [one for one in commands() if "VOCdevkit" not in one]
    assert len(found) >= 10
    for command in found:
        if "jq" in command and shutil.which("jq") is None:
            command = command.partition("| jq")[0]
        code, errors = outcome(made_small(command))
        # Two steps of training meet no gate.
        allowed = (0, 1) if "--fail-under" in command else (0,)
        assert code in allowed, f"{command}\n{errors}"
    assert python_blocks()
    for code in python_blocks():
        short = code.replace("max_minutes=2", "max_steps=2")
        done = subprocess.run(
            [sys.executable, "-c", short], capture_output=True, encoding="utf-8", check=False
        )
        assert done.returncode == 0, f"{code}\n{done.stderr}"


def outcome(command: str) -> tuple[int, str]:
    """Return a command's exit code and what it wrote to stderr; pipes go through a shell."""
    if command.startswith("detkit ") and not set("|<>") & set(command):
        here = detkit(*shlex.split(command)[1:])
        return here.returncode, here.stderr
    done = subprocess.run(command, shell=True, capture_output=True, encoding="utf-8", check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize("name", names_of_commands())
def test_every_command_is_shown(name: str) -> None:
    text = TEXTS["docs/commands.md"]
    assert f"$ detkit {name} " in text or f"$ detkit {name}\n" in text
    assert name in ("demo", "models") or f"<!-- begin: detkit {name} --help -->" in text


@pytest.mark.parametrize(
    ("page", "command"),
    [
        (page, one["command"])
        for page, text in TEXTS.items()
        for one in BLOCK.finditer(text)
        if "--help" in one["command"]
    ],
)
def test_help_in_the_pages_is_the_programs(page: str, command: str, tmp_path: Path) -> None:
    assert block(command, run(command, tmp_path)) in TEXTS[page], "`make docs` writes it anew"


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.name)
def test_links_to_files_and_headings_lead_somewhere(page: Path) -> None:
    for target in links(page):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.is_file(), target
        assert not anchor or anchor in anchors(file), target


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    assert len(TEXTS["README.md"].splitlines()) <= 150
    targets = {target.partition("#")[0] for target in links(ROOT / "README.md")}
    assert set(TEXTS) - {"README.md"} <= targets


def test_the_licence_is_the_whole_apache_licence() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert len(text) > 11_000


def test_every_dependency_has_its_reason() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = project.partition("dependencies = [")[2].partition("]")[0]
    reasons = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for name in re.findall(r'"([\w-]+)', listed):
        assert name in reasons, f"CONTRIBUTING.md does not say what {name} is for"
