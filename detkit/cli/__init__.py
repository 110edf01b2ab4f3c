"""The `detkit` command: a table of its sub-commands and what becomes of their errors.

Each sub-command is a plain function in a file of this package, grouped by noun and named in
`commands`; torch and OpenCV are imported inside them, so that help answers at once.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Annotated

import typer

from detkit import __version__
from detkit.cli.commands import COMMANDS, CommandGroup, function_of
from detkit.cli.console import Console, send_nowhere, sound_streams
from detkit.cli.guard import explain
from detkit.errors import ExitCode

EPILOG = """
\b
Start here:
  detkit demo demo                                   a small labelled folder to try things on
  detkit train demo --model ssd -o run --max-minutes 2
  detkit eval run/best.safetensors demo
  detkit detect run/best.safetensors demo/JPEGImages --draw drawn

Exit codes: 0 done; 1 a gate or a check was not met; 2 wrong usage; 3 bad data, model or
environment; 130 interrupted. `detkit COMMAND -h` explains a command.
"""

app = typer.Typer(
    name="detkit",
    cls=CommandGroup,
    # Typer's rich help takes .15 s to import, half of what `--help` may take in all.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EPILOG,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        Console().data(f"detkit {__version__}")
        raise typer.Exit


def _show_tree(context: typer.Context, wanted: bool) -> None:
    if not wanted:
        return
    import json

    from detkit.cli.command_tree import tree_of

    functions = {name: function_of(name) for name in COMMANDS}
    tree = tree_of(context.command, {"": root, **functions})
    Console().data(json.dumps(tree, indent=2, ensure_ascii=False))
    raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
    help_json: Annotated[
        bool,
        typer.Option(
            "--help-json",
            callback=_show_tree,
            is_eager=True,
            help="Print all commands and options as JSON and exit.",
        ),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option("--debug", help="Show a traceback with an error; may stand anywhere."),
    ] = False,
) -> None:
    """Train, run and judge object detectors on a folder of labelled images."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    own = words[: words.index("--")] if "--" in words else words
    if "--debug" in own:
        words.remove("--debug")
        os.environ["DETKIT_DEBUG"] = "1"
    before = signal.getsignal(signal.SIGTERM)
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: files put away, 130
    try:
        with sound_streams():
            sys.exit(_run(words))
    finally:
        os.environ.pop("DETKIT_DEBUG", None)
        if in_main_thread:
            signal.signal(signal.SIGTERM, before)


def _run(words: Sequence[str]) -> int | str | None:
    """Run the command line; return its exit code, once all it wrote is on its way."""
    code: int | str | None = ExitCode.DONE
    try:
        try:
            code = app(args=words, prog_name="detkit", standalone_mode=False)
        except SystemExit as end:
            code = end.code
        except OSError:
            raise
        except Exception as error:  # commands are guarded: it is the parser's
            code = _tell_wrong_words(error)
        sys.stdout.flush()
    except BrokenPipeError:
        send_nowhere(sys.stdout)
    except OSError as error:  # a full disk; commands are guarded, help texts are not
        message, code = explain(error)
        Console().error(message)
    return code


def _tell_wrong_words(error: Exception) -> ExitCode:
    """Write the parser's error as one line, as all others are, and return its exit code.

    The exceptions are click's or, in later versions of typer, those of typer's copy of it.
    """
    if not hasattr(error, "format_message"):
        raise error
    message = error.format_message()
    context = getattr(error, "ctx", None)
    if message.startswith("Usage:"):  # nothing was asked for, and the answer is the help text
        sys.stderr.write(f"{message}\n")
    elif context is None or message.endswith("?"):  # it has asked "Did you mean ..."
        Console().error(message)
    else:
        Console().error(f"{message.removesuffix('.')}; `{context.command_path} -h` explains")
    return ExitCode.USAGE
