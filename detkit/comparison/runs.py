"""Several models on one data set: trained, then measured one after the other in the same way.

A cell is one model with one seed, in cross-validation of one fold. Beside its run folder
`NAME-SEED/` lie `NAME-SEED.json`, what was asked and measured, and `NAME-SEED.jsonl`, what the
model found. A cell that is measured is kept; a training that was interrupted goes on, a command
of the user's begins anew. Training and measuring run in processes of their own: one that fails, or
is killed for its memory, is a result with an error, and the memory of one is not that of the next.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from detkit.comparison.commands import Command, run_command
from detkit.comparison.measure import Measured, measure
from detkit.comparison.places import HERE, Place, side_by_side
from detkit.errors import DetkitError, ExitCode, Interrupted, UsageError
from detkit.files import write_bytes
from detkit.tethered import start_tethered
from detkit.text import counted, cut

ERROR = "detkit: error: "  # how the command begins the line that says why it failed
NEXT = "next:"  # the line after which it says what to do with the model, here done by us


@dataclass(frozen=True, slots=True)
class Cell:
    """One model with one seed, to be trained and measured; of a fold where there are folds."""

    name: str  # of the row it is part of
    run: Path  # its run folder; a model file, when it is trained already
    result: Path  # where what was measured is kept, as .json
    seed: int | None = None
    training: tuple[str, ...] | None = None  # words of `detkit train`; None: trained already
    command: Command | None = None  # of the user's, which trains and detects
    fold: int | None = None  # in cross-validation, from 1 on
    images: tuple[str, ...] | None = None  # ids of those to measure on; None: all of the split

    @property
    def found(self) -> Path:
        """Return where the model's detections are kept."""
        return self.result.with_suffix(".jsonl")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a cell."""

    cell: Cell
    measured: Measured | None = None
    error: str | None = None
    kept: bool = False  # it was measured before


@dataclass(frozen=True, slots=True)
class Conditions:
    """What all models of a comparison have in common."""

    data: Path
    data_hash: str
    split: str  # that they are measured on
    classes: tuple[str, ...] | None = None
    device: str = "auto"
    batch_size: int = 1  # images a step of the network, when measuring
    plugins: tuple[str, ...] = ()
    division: str | None = None  # into folds, in words


def compare(
    cells: Sequence[Cell],
    conditions: Conditions,
    *,
    resume: bool = False,
    force: bool = False,
    say: Callable[[str], None] = lambda line: None,
    prepare: Callable[[Cell], None] = lambda cell: None,
    environments: Sequence[Mapping[str, str]] = (),
) -> Iterator[Outcome]:
    """Yield what becomes of each cell; those already measured under these conditions are kept.

    `say` gets the lines that training writes; `prepare` makes what a cell is trained on, and is
    called just before. Of several `environments` each has a training at a time, with these
    variables; measuring begins when all are trained, since its times are to be comparable.

    Raises UsageError when there are results and neither `resume` nor `force` was given, or they
    were measured under other conditions, and Interrupted after Ctrl-C or SIGTERM, with everything
    kept.
    """
    earlier = earlier_results(cells, conditions, resume=resume, force=force)
    left = [cell for cell in cells if earlier[cell] is None]

    def make(cell: Cell, place: Place) -> Measured | None:
        return _make(cell, conditions, prepare, place, force=force, say=say)

    made = side_by_side(left, make, environments) if len(environments) > 1 else {}
    for cell in cells:
        known = earlier[cell]
        if known is not None:
            yield Outcome(cell, measured=known, kept=True)
            continue
        try:
            measured = made[cell].result() if cell in made else make(cell, HERE)
            if measured is None:
                say(f"{cell.result.stem}: measuring")
                measured = _measure(cell, conditions)
        except Interrupted:
            raise
        except DetkitError as error:
            yield Outcome(cell, error=str(error))
            continue
        _keep(cell, conditions, measured)
        yield Outcome(cell, measured=measured)


def train_all(
    cells: Sequence[Cell],
    conditions: Conditions,
    *,
    resume: bool = False,
    force: bool = False,
    say: Callable[[str], None] = lambda line: None,
    prepare: Callable[[Cell], None] = lambda cell: None,
    environments: Sequence[Mapping[str, str]] = ({},),
) -> dict[Cell, str]:
    """Train the cells that are not trained yet, and return why those failed that did.

    They are left to be measured by a `compare` that resumes. Raises as that does.
    """
    earlier = earlier_results(cells, conditions, resume=resume, force=force)
    left = [cell for cell in cells if earlier[cell] is None]

    def make(cell: Cell, place: Place) -> None:
        _make(cell, conditions, prepare, place, force=force, say=say)

    made = side_by_side(left, make, environments)
    errors = {cell: one.exception() for cell, one in made.items()}
    for error in errors.values():
        if error is not None and not isinstance(error, DetkitError):
            raise error
    return {cell: str(error) for cell, error in errors.items() if error is not None}


def _make(
    cell: Cell,
    conditions: Conditions,
    prepare: Callable[[Cell], None],
    place: Place,
    *,
    force: bool,
    say: Callable[[str], None],
) -> Measured | None:
    """Train a cell's model at a place; what a command left is measured by that, and kept."""
    cell.result.parent.mkdir(parents=True, exist_ok=True)
    _keep(cell, conditions, None)
    prepare(cell)
    if cell.command is not None:
        measured = run_command(cell.command, cell.run, cell.result, say, place)
        _keep(cell, conditions, measured)
        return measured
    if cell.training is not None:
        _train(cell, cell.training, force, say, place)
    return None


def earlier_results(
    cells: Sequence[Cell], conditions: Conditions, *, resume: bool = False, force: bool = False
) -> dict[Cell, Measured | None]:
    """Return what was measured of each cell before, None where that is still to be done.

    Raises as `compare` does.
    """
    return {cell: _earlier(cell, conditions, resume, force) for cell in cells}


def _asked(cell: Cell, conditions: Conditions) -> dict[str, Any]:
    """Return what a result depends on, as JSON values."""
    values = {
        "training": None if cell.training is None else list(cell.training),
        "run": str(cell.run.absolute()) if cell.training is None and not cell.command else None,
        **({} if cell.command is None else cell.command.asked()),
        "fold": cell.fold,
        "images": None if cell.images is None else _digest(cell.images),
        **dataclasses.asdict(conditions),
        "data": str(conditions.data.absolute()),
    }
    return dict(json.loads(json.dumps(values)))


def _digest(images: Sequence[str]) -> str:
    """Return what tells these images from others, in a line."""
    digest = hashlib.sha256("\n".join(images).encode("utf-8", errors="surrogateescape"))
    return f"{counted(len(images), 'image')} {digest.hexdigest()[:16]}"


def _earlier(cell: Cell, conditions: Conditions, resume: bool, force: bool) -> Measured | None:
    """Return what was measured before; None when there is nothing, or nothing whole."""
    makes_run = cell.training is not None or cell.command is not None
    if force or not (cell.result.exists() or (makes_run and cell.run.exists())):
        return None
    if not resume:
        raise UsageError(
            f"{cell.result.parent}: holds results of an earlier comparison; add --resume to go on "
            "with it, --force to begin anew, or name another folder"
        )
    if not cell.result.exists():
        return None
    try:
        record = json.loads(cell.result.read_text(encoding="utf-8"))
        before, values = record["asked"], record["measured"]
        measured = None if values is None else Measured(**values)
        if measured is not None:  # JSON has no tuples
            measured = dataclasses.replace(measured, warnings=tuple(measured.warnings))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DetkitError(
            f"{cell.result}: not a result of this detkit ({error}); begin anew with --force"
        ) from error
    if measured is None and not (cell.training and (cell.run / "resume.ckpt").exists()):
        return None  # nothing there that other options could be mixed with
    for name, value in _asked(cell, conditions).items():
        if before.get(name) != value:
            raise UsageError(
                f"--resume: {cell.result.stem} was begun with {name} {_short(before.get(name))}, "
                f"not {_short(value)}; give that again, or name another folder"
            )
    return measured if cell.found.exists() else None


def _keep(cell: Cell, conditions: Conditions, measured: Measured | None) -> None:
    """Write what was asked of a cell and, once there is something, what was measured."""
    values = None if measured is None else dataclasses.asdict(measured)
    record: Mapping[str, Any] = {"asked": _asked(cell, conditions), "measured": values}
    write_bytes(cell.result, (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode())


def _train(
    cell: Cell,
    training: Sequence[str],
    force: bool,
    say: Callable[[str], None],
    place: Place = HERE,
) -> None:
    """Train a cell's model at a place, or go on with it.

    Raises DetkitError saying why it failed, Interrupted when it was told to stop.
    """
    words = ["train", *training, "-o", str(cell.run)]
    if (cell.run / "resume.ckpt").exists() and not force:
        words = ["train", "--resume", "-o", str(cell.run)]
    elif cell.run.exists():
        words.append("--force")
    process = start_tethered(words, environment=place.environment)
    reason = ""
    ended = False
    try:
        with place.work.holding(process, lambda: process.terminate()):
            for line in process.stderr or ():
                text = line.rstrip("\n")
                reason = text if text.strip() else reason
                ended = ended or text == NEXT
                if not ended:
                    say(f"{cell.result.stem}: {text}")
            code = process.wait()
    except KeyboardInterrupt:
        if os.name != "nt":  # there the console has told it already
            process.terminate()
        process.wait()
        raise Interrupted("interrupted; go on with the same command and --resume") from None
    if code == ExitCode.INTERRUPTED:
        raise Interrupted("interrupted; go on with the same command and --resume")
    if code < 0:
        raise DetkitError(f"training was killed by signal {-code}; was there enough memory?")
    if code != ExitCode.DONE:
        raise DetkitError(reason.removeprefix(ERROR) or f"training ended with exit code {code}")


def _measure(cell: Cell, conditions: Conditions) -> Measured:
    """Return what is measured of a cell's model, in a process of its own.

    Raises DetkitError saying why it failed, Interrupted when it was told to stop.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, cell, conditions))
    try:
        with _deaf_to_ctrl_c():
            process.start()
        sender.close()  # its other end is the only one: a process that is killed ends the pipe
        found: Measured | str = receiver.recv()
    except EOFError:
        found = "measuring was killed; was there enough memory?"
    except KeyboardInterrupt:
        if process.pid is not None:
            process.terminate()
        raise Interrupted("interrupted; go on with the same command and --resume") from None
    finally:
        receiver.close()
        if process.pid is not None:
            process.join()
    if isinstance(found, str):
        raise DetkitError(found)
    return found


def _answer(sender: Connection, cell: Cell, conditions: Conditions) -> None:
    """Send what is measured of a cell's model, or why it cannot be; runs in the other process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    found: Measured | str
    try:
        found = measure(
            cell.run,
            conditions.data,
            conditions.split,
            cell.found,
            images=cell.images,
            classes=conditions.classes,
            device=conditions.device,
            batch_size=conditions.batch_size,
            plugins=conditions.plugins,
        )
    except DetkitError as error:
        found = str(error)
    except Exception as error:  # a defect, or no memory, of this model: the others go on
        found = f"measuring failed: {type(error).__name__}: {error}"
    sender.send(found)


@contextlib.contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Have processes begun that do not hear Ctrl-C, from their first moment on: it is for us."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _short(value: object) -> str:
    """Return a value, or the words of a command, as text that fits into a line."""
    return cut(" ".join(map(str, value)) if isinstance(value, list) else str(value))
