"""Where a command's words go: data to stdout; notes, warnings and progress to stderr.

Rich is imported only where something is drawn, so that `detkit --help` does not wait for it.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, TypeVar

from detkit.cli.markdown import escaped, markdown_table, paragraph
from detkit.text import counted

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from detkit.structures import Scores, Step

T = TypeVar("T")
LEAST_COLUMN = 12  # ours: letters that a narrow terminal leaves to a column of text
SECONDS_BETWEEN_LINES = 15.0  # of training progress, where there is no terminal to draw on
SECONDS_BETWEEN_COUNTS = 60.0  # the same of images that are gone through
# Control characters, line separators, what turns the direction of writing and what is not UTF-8:
# in a file name or a class they would steer the terminal, show another name than there is, or
# end the writing.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(frozen=True)
class Console:
    """Writes what a command has to say; `quiet` leaves out notes and progress.

    With `markdown` tables and lines of text are GitHub-flavoured Markdown.
    """

    quiet: bool = False
    markdown: bool = False

    def data(self, text: str) -> None:
        """Write results to stdout: a line, or several with newlines between them."""
        sys.stdout.write("\n".join(map(printable, text.split("\n"))) + "\n")

    def text(self, line: str) -> None:
        """Write a line beside tables to stdout: in Markdown a paragraph, its signs escaped."""
        if not self.markdown:
            self.data(line)
        elif line:  # an empty one parts tables, which paragraphs do by themselves
            self.data(f"{paragraph(printable(line))}\n")

    def note(self, text: str) -> None:
        """Write a line for people to stderr, unless quiet."""
        if not self.quiet:
            sys.stderr.write(f"{printable(text)}\n")
            sys.stderr.flush()

    def warn(self, text: str) -> None:
        """Write a warning to stderr, quiet or not."""
        sys.stderr.write(f"detkit: warning: {printable(text)}\n")
        sys.stderr.flush()

    def error(self, text: str) -> None:
        """Write an error to stderr, on one line."""
        try:
            sys.stdout.flush()
        except OSError:  # nobody reads on, or its disk is full: the error is still to be told
            send_nowhere(sys.stdout)
        sys.stderr.write(f"detkit: error: {printable(' '.join(text.split(chr(10))))}\n")
        sys.stderr.flush()

    def table(
        self,
        header: Sequence[str],
        rows: Iterable[Sequence[str]],
        *,
        right: Sequence[int] = (),
        title: str = "",
    ) -> None:
        """Write a table to stdout; the columns numbered in `right` are aligned to the right.

        On a terminal long cells wrap, but no letter is lost, and numbers stay in one piece: a row
        of too many is wider than the terminal. In a pipe each row is one line, however long.
        """
        if self.markdown:
            if title:
                self.data(f"**{escaped(printable(title))}**\n")
            names, *cells = [[printable(cell) for cell in row] for row in (header, *rows)]
            self.data("\n".join(markdown_table(names, cells, right)) + "\n")
            return
        from rich.console import Console as RichConsole
        from rich.table import Table
        from rich.text import Text

        table = Table(
            box=None,
            pad_edge=False,
            padding=(0, 2, 0, 0),
            header_style="bold",
            title=title or None,
            title_justify="left",
            title_style="bold",
        )
        names, *cells = [[printable(cell) for cell in row] for row in (header, *rows)]
        wraps = sys.stdout.isatty()
        for index, (name, *column) in enumerate(zip(names, *cells)):
            is_short = index not in right and max(map(len, (name, *column))) <= LEAST_COLUMN
            table.add_column(
                Text(name),
                justify="right" if index in right else "left",
                no_wrap=is_short or not wraps,
                overflow="fold",
            )
        for row in cells:
            table.add_row(*map(Text, row))
        out = RichConsole(file=sys.stdout, highlight=False, soft_wrap=False)
        if wraps:
            out.width = max(out.width, _least_width(cells, right))
        else:
            out.width = _least_width([names, *cells], range(len(names)))
        with out.capture() as capture:
            out.print(table)
        lines = (line.rstrip() for line in capture.get().splitlines())
        sys.stdout.write("\n".join(lines) + "\n")

    def track(self, items: Iterable[T], total: int | None, what: str) -> Iterator[T]:
        """Yield the items, drawing how many have passed; a line a minute without a terminal."""
        if self.quiet:
            yield from items
            return
        started = told = time.monotonic()
        with contextlib.ExitStack() as stack:
            progress = stack.enter_context(_progress("images/s")) if sys.stderr.isatty() else None
            task = None if progress is None else progress.add_task(what, total=total, status="")
            for count, item in enumerate(items, start=1):
                yield item
                now = time.monotonic()
                pace = _pace(count, total, now - started)
                if progress is not None:
                    progress.update(task, completed=count, status=pace)
                elif now - told >= SECONDS_BETWEEN_COUNTS:
                    told = now
                    whole = count if total is None else total
                    done = "" if total is None else f"{count:,} of "
                    self.note(f"{what}: {done}{counted(whole, 'image', ',')}, {pace}")

    @contextlib.contextmanager
    def counting(self, what: str) -> Iterator[Callable[[int, int], None] | None]:
        """Yield what draws (done, total) where stderr is a terminal; None where it is not."""
        if self.quiet or not sys.stderr.isatty():
            yield None
            return
        with _progress("images") as progress:
            task = progress.add_task(what, total=None, status="")
            yield lambda done, total: progress.update(task, completed=done, total=total)

    @contextlib.contextmanager
    def training(self) -> Iterator[TrainingReport]:
        """Yield what draws a training's `Step`s."""
        if self.quiet or not sys.stderr.isatty():
            yield TrainingReport(self, None)
            return
        with _progress("") as progress:
            yield TrainingReport(self, progress)


@dataclass
class TrainingReport:
    """Draws `Step`s as they come: a live line on a terminal, a line a while elsewhere."""

    console: Console
    progress: Progress | None
    task: TaskID | None = None
    last_line: float = field(default=float("-inf"))

    def __call__(self, step: Step) -> None:
        """Show one step."""
        for note in step.notes:
            self.line(note)
        if self.progress is not None:
            self._draw(self.progress, step)
        now = time.monotonic()
        is_last = step.step == step.total_steps
        if step.scores is not None:
            self.line(f"{_position(step)}  {validation_line(step.scores, step.is_best)}")
        elif now - self.last_line >= SECONDS_BETWEEN_LINES or is_last:
            if self.progress is None:
                self.line(f"{_position(step)}  {step_line(step)}")
        else:
            return
        self.last_line = now

    def line(self, text: str) -> None:
        """Write a line, on a terminal above the live one."""
        if self.progress is None:
            self.console.note(text)
        else:
            self.progress.console.print(
                printable(text), markup=False, highlight=False, soft_wrap=True
            )

    def _draw(self, progress: Progress, step: Step) -> None:
        if self.task is None:
            self.task = progress.add_task("training", total=step.total_steps, status="")
        progress.update(
            self.task,
            description=step.stage,
            total=step.total_steps,
            completed=step.step,
            status=f"epoch {step.epoch:.1f}  {step_line(step)}",
        )


class NamedStdout(io.TextIOWrapper):
    """A stdout whose errors say that it is the one that cannot be written."""

    def write(self, text: str) -> int:
        """Return how many characters were taken."""
        with _named_stdout():
            return super().write(text)

    def flush(self) -> None:
        """Hand on what was written."""
        with _named_stdout():
            super().flush()


@contextlib.contextmanager
def _named_stdout() -> Iterator[None]:
    """Give the block's OSError the name that a file's has; a reader that left stays one."""
    try:
        yield
    except OSError as error:
        why = f"cannot be written: {error.strerror or error}"
        raise OSError(error.errno, why, "standard output") from error


class LastingStderr(io.TextIOWrapper):
    """A stderr that outlives its reader: what nobody hears any more does not end the work."""

    def write(self, text: str) -> int:
        """Return how many characters were taken."""
        try:
            return super().write(text)
        except OSError:
            send_nowhere(self)
            return len(text)

    def flush(self) -> None:
        """Hand on what was written, if anybody takes it."""
        try:
            super().flush()
        except OSError:
            send_nowhere(self)


@contextlib.contextmanager
def sound_streams() -> Iterator[None]:
    """Have standard streams that can be written to: open, in UTF-8, stderr read or not."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by `>&-`; in order, each gets its own number
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))
    before = sys.stdout, sys.stderr
    for name, kind in (("stdout", NamedStdout), ("stderr", LastingStderr)):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            # Windows' pipes are not UTF-8 by themselves, and a file name need not be.
            stream.reconfigure(encoding="utf-8", errors="surrogateescape")
            sound = kind(
                stream.buffer,
                encoding="utf-8",
                errors="surrogateescape",
                line_buffering=stream.line_buffering or name == "stderr",
                write_through=stream.write_through,
            )
            setattr(sys, name, sound)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, NamedStdout | LastingStderr):
                with contextlib.suppress(OSError):
                    stream.detach()
        sys.stdout, sys.stderr = before


@contextlib.contextmanager
def reader_may_leave() -> Iterator[None]:
    """Write what the block has to say until nobody reads it; what comes after is done anyhow."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        send_nowhere(sys.stdout)


def send_nowhere(stream: IO[str]) -> None:
    """Send what a stream still holds, and all it will get, to nowhere: its reader is gone."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    except (OSError, io.UnsupportedOperation):
        return


def printable(text: str) -> str:
    """Return the text with what is not to be seen written out, as JSON does: `\\u001b`."""
    return UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def step_line(step: Step) -> str:
    """Return a step's losses, learning rate, speed, time left and memory in one line."""
    left = "" if step.seconds_left is None else f"  {duration(step.seconds_left)} left"
    if not step.losses:
        parts = "  ".join(f"{name} {value:.5g}" for name, value in step.figures.items())
        return f"{parts}  {step.images_per_second:.1f} images/s{left}  {step.memory_mib:.0f} MiB"
    total = sum(step.losses.values())
    parts = " ".join(f"{name} {value:.3f}" for name, value in step.losses.items())
    return (
        f"loss {total:.3f} ({parts})  lr {step.lr:.2g}  {step.images_per_second:.1f} images/s"
        f"{left}  {step.memory_mib:.0f} MiB"
    )


def validation_line(scores: Scores, is_best: bool) -> str:
    """Return a validation's result in one line, its protocol named."""
    record = {
        "mAP": scores.mean,
        "protocol": scores.protocol,
        "classes": {one.name: one.ap for one in scores.classes},
    }
    return record_line(record) + ("  best so far" if is_best else "")


def record_line(record: Mapping[str, Any]) -> str:
    """Return a validation's result, as a model file holds it, in one line."""
    classes = record["classes"]
    parts = [f"{name} {figure(ap)}" for name, ap in list(classes.items())[:8]]
    more = "" if len(classes) <= 8 else f"  ({len(classes) - 8} more)"
    return (
        f"validation: mAP {figure(record['mAP'])} ({record['protocol']})  {'  '.join(parts)}{more}"
    )


def figure(value: float | None) -> str:
    """Return a score to three places, `n/a` when there is none."""
    return "n/a" if value is None else f"{value:.3f}"


def duration(seconds: float) -> str:
    """Return a time as `1:02:03` or `2:03`."""
    minutes, second = divmod(int(seconds + 0.5), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def _pace(count: int, total: int | None, seconds: float) -> str:
    """Return how fast so many images were gone through, and how long the others will take."""
    rate = count / max(seconds, 1e-9)
    if total is None or not seconds:
        return f"{rate:.1f} images/s"
    return f"{rate:.1f} images/s, {duration(max(0, total - count) / rate)} left"


def _position(step: Step) -> str:
    total = "" if step.total_steps is None else f"/{step.total_steps}"
    return f"{step.stage}: epoch {step.epoch:.1f} step {step.step}{total}"


def _least_width(rows: Sequence[Sequence[str]], whole: Sequence[int]) -> int:
    """Return how wide a table is when no cell of the `whole` columns wraps, others as they must."""
    from rich.cells import cell_len

    width = 0
    for index, column in enumerate(zip(*rows)):
        longest = max(map(cell_len, column))
        width += 2 + (longest if index in whole else min(longest, LEAST_COLUMN))
    return max(width, 1)


def _progress(unit: str) -> Any:
    """Return a rich progress display on stderr."""
    from rich.console import Console as RichConsole
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
        console=RichConsole(stderr=True),
        transient=bool(unit),
    )
