"""Running the `detkit` command from tests: in a process of its own, or in this one."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest

from detkit.cli import main


@dataclass
class Done:
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


def process(*words: str | Path, stdin: str | None = None) -> Done:
    """Run a command in a process of its own, as a user does."""
    done = subprocess.run(
        [sys.executable, "-m", "detkit", *map(str, words)],
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "COLUMNS": "80", "OMP_NUM_THREADS": "1"},
        timeout=300,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def detkit(*words: str | Path, stdin: str = "") -> Done:
    """Run a command here, which spares it the seconds that importing torch takes."""
    out, err = io.StringIO(), io.StringIO()
    logger = logging.getLogger("detkit")
    with (
        mock.patch.object(logger, "level", logger.level),  # -q changes it for the whole process
        mock.patch.object(logger, "handlers", logger.handlers),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "stdin", io.StringIO(stdin)),
        pytest.raises(SystemExit) as end,
    ):
        main([str(word) for word in words])
    code = end.value.code
    assert code is None or isinstance(code, int)
    return Done(code or 0, out.getvalue(), err.getvalue())
