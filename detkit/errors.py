"""What can go wrong, and the exit code each kind of failure has in the shell."""

from __future__ import annotations

import errno
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

# The packages of each extra, by the name they are imported by, and what people call them.
EXTRAS = {
    **dict.fromkeys(("torch", "torchvision", "lightning_fabric", "safetensors"), "train"),
    **dict.fromkeys(("sklearn", "scipy", "numba"), "train"),
    **dict.fromkeys(("onnxruntime", "onnx", "onnxscript"), "onnx"),
    "pyvips": "large",
    "timm": "timm",
}
SPOKEN = {"torch": "PyTorch", "lightning_fabric": "lightning-fabric", "sklearn": "scikit-learn"}


# What libraries say that have no error of their own for it, in lower case.
NO_MEMORY = (
    "out of memory",  # CUDA's runtime, Apple's MPS
    "can't allocate memory",  # torch on a CPU
    "not enough memory",  # the same on Windows
    "storage size calculation overflowed",  # torch, of more than 2**63 bytes: size=1e9
    "insufficient memory",  # OpenCV
    "_alloc_failed",  # cuBLAS, cuDNN, cuFFT
)


class ExitCode(IntEnum):
    """The exit codes of every `detkit` command."""

    DONE = 0
    NOT_MET = 1  # a gate (`--fail-under`) or a check (`detkit check`) was not met
    USAGE = 2  # wrong usage: an option, a name, a combination
    BAD_INPUT = 3  # bad data, model or environment; what is to be read is not there
    INTERRUPTED = 130  # Ctrl-C or SIGTERM


class DetkitError(Exception):
    """Bad data, model or environment, told in one line: what, where, what to do next."""

    exit_code = ExitCode.BAD_INPUT


class UsageError(DetkitError):
    """A wrong option, name or combination of options, told in one line."""

    exit_code = ExitCode.USAGE


class MissingPackage(DetkitError):
    """A package of an extra is not installed; the line says which, and how to get it."""

    def __init__(self, who: str, need: str) -> None:
        """Say that `who`, as "detkit train", has this `need`: 'needs PyTorch: pip ...'."""
        super().__init__(f"{who} {need}")
        self.need = need


class Interrupted(DetkitError):
    """Stopped by Ctrl-C or SIGTERM after everything worth keeping was written."""

    exit_code = ExitCode.INTERRUPTED


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether Python, NumPy, torch (GPU or CPU), OpenCV or the system found no memory."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    # Torch's own class is told by its name, since torch is not imported for this.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return any(phrase in text for phrase in NO_MEMORY)


@contextmanager
def naming_extras(who: str) -> Iterator[None]:
    """Return a block, or a decorator, in which a missing package of an extra is told in one line.

    Raises MissingPackage in the name of `who`; of nested blocks the outermost speaks. A missing
    package of no extra stays the ModuleNotFoundError it is: a defect.
    """
    try:
        yield
    except MissingPackage as error:
        raise MissingPackage(who, error.need) from error
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        raise MissingPackage(who, need_of(package)) from error


def need_of(package: str) -> str:
    """Return 'needs PyTorch: pip install "detkit[train]"' of a package of an extra."""
    spoken = SPOKEN.get(package, package)
    return f'needs {spoken}: pip install "detkit[{EXTRAS[package]}]"'


def is_installed(package: str) -> bool:
    """Return whether a package of an extra is there, without importing it."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ModuleNotFoundError, ValueError):
        return False


def require_installed(*packages: str) -> None:
    """Raise ModuleNotFoundError for the first package that is not there, none of them imported."""
    for package in packages:
        if not is_installed(package):
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
