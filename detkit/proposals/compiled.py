"""The decorator of the proposal code: compiled by numba, kept on disk, at worst run as it stands.

numba keeps what it compiled in `__pycache__` beside the source, or where that is read-only in the
user's cache folder; `NUMBA_CACHE_DIR` names another place. Where none can be written, or a file
there is broken, the code is compiled anew, and where numba itself cannot be imported (a NumPy
newer than it knows, no LLVM for this machine) it runs as plain Python: the same boxes, minutes an
image. Either is said in one line. `NUMBA_DISABLE_JIT=1` asks for plain Python without a line.

What is compiled must therefore give the same numbers in Python: float64 for what is computed
(`float32 * float` is float64 in numba and float32 in NumPy), and no `fastmath`.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

logger = logging.getLogger(__name__)
_MENDING = threading.Lock()  # one thread removes broken files and says so
_NOTICING = threading.Lock()  # and one says that code is compiled

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Return the function compiled on its first call, without the GIL, and cached on disk.

    Keep what a compiled function calls in its own file: numba compiles anew when the file of
    the function changes, not when that of one it calls does.
    """
    numba = _numba()
    if numba is None:
        return function
    try:
        dispatcher = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # "cannot cache function ...: no locator available for file ..."
        _warn_once(
            "no folder for numba's compiled code can be written: it is compiled anew in each "
            "process; name a writable folder in NUMBA_CACHE_DIR"
        )
        return cast(Function, numba.njit(nogil=True)(function))
    if dispatcher is function:  # NUMBA_DISABLE_JIT
        return function
    # numba calls it by this name for a call and for a function that calls this one.
    dispatcher.compile = _whatever_is_kept(dispatcher, numba.errors.NumbaError)
    return cast(Function, dispatcher)


def _whatever_is_kept(
    dispatcher: Any, not_compilable: type[Exception]
) -> Callable[[Any], Callable[..., Any]]:
    """Return `dispatcher.compile` that does not mind what happens to the files of its cache.

    numba itself lets every failure through: a full disk, files that a crash cut short, pickles
    of a module that is gone.
    """
    compile_ = dispatcher.compile

    def compile_anyway(signature: Any) -> Callable[..., Any]:
        try:
            return cast(Callable[..., Any], compile_(signature))
        except (not_compilable, MemoryError):
            raise
        except Exception as error:  # of any kind: unpickling runs what the file says
            with _MENDING:
                _warn_once(_cache_trouble(dispatcher.stats.cache_path, error))
                for index in _indices(dispatcher):
                    with suppress(OSError):
                        index.unlink()
        with suppress(OSError):  # it could not be kept: then it is compiled all the same
            return cast(Callable[..., Any], compile_(signature))
        return cast(Callable[..., Any], compile_(signature))

    return compile_anyway


def _cache_trouble(folder: str, error: Exception) -> str:
    """Return the line on why the files of numba's cache are of no use."""
    if isinstance(error, OSError):
        return (
            f"{folder}: numba's compiled code cannot be kept there ({error.strerror or error}): it "
            "is compiled anew in each process; name another folder in NUMBA_CACHE_DIR"
        )
    return (
        f"{folder}: numba's compiled code there is broken ({type(error).__name__}); compiled anew"
    )


def _indices(dispatcher: Any) -> list[Path]:
    """Return the files that say which of a function's compiled code the disk holds."""
    code = dispatcher.py_func.__code__
    name = f"{Path(code.co_filename).stem}.{dispatcher.__name__}-{code.co_firstlineno}.*.nbi"
    return list(Path(dispatcher.stats.cache_path).glob(name))


def first_call_notice(function: Callable[..., Any], seconds: int) -> None:
    """Log, once a process, that a compiled function is about to be compiled, if it is.

    `function` is the one that takes longest, `seconds` about what all of them need. Nothing is
    logged where the disk holds its compiled code or plain Python runs. A function that proposes
    boxes calls this itself before it starts.
    """
    with _NOTICING:
        _notice(function, seconds)


@functools.cache
def _notice(function: Callable[..., Any], seconds: int) -> None:
    """Log what `first_call_notice` says."""
    if not hasattr(function, "stats"):
        return
    dispatcher = cast(Any, function)
    source = Path(dispatcher.py_func.__code__.co_filename)
    if dispatcher.stats.cache_path is None:
        logger.info("compiling the proposal code for this process, about %d s", seconds)
    elif not any(_newer(path, source) for path in _indices(dispatcher)):
        logger.info("compiling the proposal code once, about %d s", seconds)


def _newer(path: Path, source: Path) -> bool:
    try:
        return path.stat().st_mtime >= source.stat().st_mtime
    except OSError:  # zipped source, or removed meanwhile
        return True


@functools.cache
def _numba() -> Any:
    """Return the module numba, or None after saying why it cannot be had."""
    try:
        import numba
    except (ImportError, OSError) as error:
        _warn_once(
            f"numba cannot be used here ({' '.join(str(error).split())}); proposals are computed "
            "in plain Python, minutes an image: pip install --upgrade numba"
        )
        return None
    return numba


@functools.cache
def _warn_once(text: str) -> None:
    logger.warning(text)
