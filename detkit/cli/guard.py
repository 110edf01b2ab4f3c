"""What becomes of a command's errors: one line and an exit code."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Any

import typer

from detkit.cli.console import Console, send_nowhere
from detkit.errors import DetkitError, ExitCode, is_out_of_memory, naming_extras


def guarded(command: Callable[..., None], name: str) -> Callable[..., None]:
    """Return the command with every failure told in one line and given its exit code.

    `name` is what the user calls it.
    """

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        _show_logging(quiet=bool(kwargs.get("quiet")))
        try:
            with naming_extras(f"detkit {name}"):
                command(*args, **kwargs)
            sys.stdout.flush()
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except BrokenPipeError:
            send_nowhere(sys.stdout)
        except KeyboardInterrupt:
            Console().error("interrupted")
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        except Exception as error:
            if _debug_wanted():
                import traceback

                traceback.print_exc()
            message, code = explain(error)
            Console().error(message)
            raise typer.Exit(code) from None

    return run


def _show_logging(*, quiet: bool) -> None:
    """Send what the package logs (a download, a choice it made) to stderr."""
    import logging

    class ToConsole(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            console = Console()
            say = console.warn if record.levelno >= logging.WARNING else console.note
            if record.levelno >= logging.ERROR:
                say = console.error
            say(self.format(record))

    logger = logging.getLogger("detkit")
    logger.handlers = [ToConsole()]
    logger.setLevel(logging.WARNING if quiet else logging.INFO)


def explain(error: Exception) -> tuple[str, ExitCode]:
    """Return the line and the exit code for an exception that ended a command."""
    if isinstance(error, DetkitError):
        return str(error), error.exit_code
    if is_out_of_memory(error):
        return "out of memory; lower --batch-size or --set size=", ExitCode.BAD_INPUT
    if isinstance(error, OSError) and error.strerror:
        from detkit.files import is_full  # `--help` has no time for it

        where = "" if error.filename is None else f"{error.filename}: "
        advice = "; free some space and go on" if is_full(error) else ""
        return f"{where}{error.strerror}{advice}", ExitCode.BAD_INPUT
    failed = _failed_device(error)
    if failed is not None:
        return failed, ExitCode.BAD_INPUT
    return (
        f"unexpected {type(error).__name__}: {error}; this is a defect in detkit: "
        "please report it with the output of the same command and --debug",
        ExitCode.BAD_INPUT,
    )


def _failed_device(error: Exception) -> str | None:
    """Return what is to be said where a GPU or its driver failed, or cannot do something.

    None for all else, and for what a mistake in a program does to a GPU.
    """
    said = str(error).partition("\n")[0]
    if "device-side assert" in said or "illegal memory access" in said:
        return None
    if "MPS" in said:
        return (
            f"Apple's GPU cannot do this ({said}); set PYTORCH_ENABLE_MPS_FALLBACK=1, which "
            "has the CPU do it, or --device cpu"
        )
    if any(word in said for word in ("CUDA error", "cuDNN error", "NVIDIA driver", "NCCL error")):
        return f"the GPU failed ({said}); nvidia-smi shows its state, --device cpu does without"
    return None


def _debug_wanted() -> bool:
    return bool(os.environ.get("DETKIT_DEBUG"))
