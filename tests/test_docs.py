"""The README: its commands run, its help texts are the program's, its links lead somewhere."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from check_readme import BLOCK, block, run
from running import detkit

from detkit.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# Enough to show that a command line works; the README's own budgets are for people.
SMALL = ("--max-steps", "2", "--batch-size", "2", "--num-workers", "0", "--set", "size=128")


def commands() -> list[str]:
    """Return the commands of the README's console blocks that are not compared word by word."""
    text = BLOCK.sub("", README)
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    return [
        line.removeprefix("$ ")
        for lines in blocks
        for line in lines.splitlines()
        if line.startswith("$ ")
    ]


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


@pytest.mark.skipif(os.name == "nt", reason="the README's pipes are those of a Unix shell")
def test_the_commands_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "detkit"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m detkit "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    found = commands()
    assert len(found) >= 10
    for command in found:
        if "jq" in command and shutil.which("jq") is None:
            command = command.partition("| jq")[0]
        code, errors = outcome(made_small(command))
        # Two steps of training meet no gate.
        allowed = (0, 1) if "--fail-under" in command else (0,)
        assert code in allowed, f"{command}\n{errors}"


def outcome(command: str) -> tuple[int, str]:
    """Return a command's exit code and what it wrote to stderr; pipes go through a shell."""
    if command.startswith("detkit ") and not set("|<>") & set(command):
        here = detkit(*shlex.split(command)[1:])
        return here.returncode, here.stderr
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize("name", names_of_commands())
def test_every_command_is_shown_in_the_readme(name: str) -> None:
    assert f"detkit {name} " in README or f"detkit {name}\n" in README


@pytest.mark.parametrize(
    "command", [one["command"] for one in BLOCK.finditer(README) if "--help" in one["command"]]
)
def test_help_in_the_readme_is_the_programs(command: str, tmp_path: Path) -> None:
    assert block(command, run(command, tmp_path)) in README, "`make readme` writes it anew"


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_to_files_and_headings_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    headings = {
        re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in text.splitlines()
        if line.startswith("#")
    }
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in headings, target
        elif not target.startswith("https://"):
            assert (ROOT / target).is_file(), target


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
