"""What can go wrong, and the exit code each kind of failure has in the shell."""

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes of every `detkit` command."""

    DONE = 0
    NOT_MET = 1  # a gate (`--fail-under`) or a check (`detkit check`) was not met
    USAGE = 2  # wrong usage: an option, a name, a combination
    BAD_INPUT = 3  # bad data, model or environment
    INTERRUPTED = 130  # Ctrl-C or SIGTERM


class DetkitError(Exception):
    """Bad data, model or environment, told in one line: what, where, what to do next."""

    exit_code = ExitCode.BAD_INPUT


class UsageError(DetkitError):
    """A wrong option, name or combination of options, told in one line."""

    exit_code = ExitCode.USAGE


class Interrupted(DetkitError):
    """Stopped by Ctrl-C or SIGTERM after everything worth keeping was written."""

    exit_code = ExitCode.INTERRUPTED


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether Python, NumPy, torch (on a GPU or the CPU) or OpenCV found no memory."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"  # torch's, which is not imported for this
        or "can't allocate memory" in str(error)
        or "Insufficient memory" in str(error)
    )
