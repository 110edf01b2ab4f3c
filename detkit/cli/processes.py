"""`--devices N --nodes M`: a command in several processes, a share each, and one output.

The processes are told nothing and tell nothing: each writes its share as `--shard` does, beside
the output in OUT.parts, and whoever sees that all are there puts them together. On one machine
that is the process that began the others. Where torchrun or SLURM have begun them, on any number
of machines with a common file system, it is the one that ends last, so that none waits for
another, and one that dies costs nothing but the images it had in hand.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detkit.cli.console import Console
from detkit.cli.looking import WAYS, tell_ways
from detkit.cli.shards import require_ends
from detkit.errors import DetkitError, ExitCode, Interrupted, UsageError
from detkit.files import beside, is_special, one_at_a_time, remove_empty
from detkit.tethered import start_tethered
from detkit.text import counted

if TYPE_CHECKING:
    from detkit.shards.part import Part

ERROR = "detkit: error: "  # how a command begins the line that says why it failed
LIST = "sources.txt"  # of the paths that came on stdin
MOST_READ = 1 << 20  # bytes of a part at once
LOOK_SECONDS = 0.1  # between two looks at what the processes do


@dataclass(frozen=True, slots=True)
class Launch:
    """Which of several processes this is, where a launcher has begun them."""

    rank: int
    world_size: int
    local_rank: int


@dataclass(frozen=True)
class Asked:
    """What is asked of several processes."""

    devices: int
    nodes: int
    out: Path | None
    resume: bool
    force: bool

    @property
    def number(self) -> int:
        """How many processes there are."""
        return self.devices * self.nodes


def launch_of(devices: int, nodes: int) -> Launch | None:
    """Return which process this is by torchrun's or SLURM's word; None where none has begun it.

    Raises UsageError where the launcher's processes are not as many as asked for.
    """
    launch = None
    if os.environ.get("RANK", "").isdigit() and os.environ.get("WORLD_SIZE", "").isdigit():
        launch = _launch("RANK", "WORLD_SIZE", "LOCAL_RANK")
    # A batch script's own process has these, too, but is no step: srun has not begun it.
    elif os.environ.get("SLURM_NTASKS", "1") != "1" and "SLURM_STEP_ID" in os.environ:
        launch = _launch("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
    number = devices * nodes
    if launch is not None and launch.world_size != number and launch.world_size > 1:
        raise UsageError(
            f"--devices {devices} --nodes {nodes}: these are {counted(number, 'process')}, but the "
            f"launcher has begun {launch.world_size}"
        )
    if launch is None or launch.world_size == 1:
        if nodes > 1:
            raise UsageError(
                f"--nodes {nodes}: begin it by torchrun or srun on each machine; without them "
                "--shard I/N is a share"
            )
        return None
    return launch


def _launch(rank: str, world_size: str, local_rank: str) -> Launch:
    """Return the launch that environment variables of these names tell of."""
    numbers = [int(os.environ.get(name, "0")) for name in (rank, world_size, local_rank)]
    return Launch(*numbers)


@contextlib.contextmanager
def shares(
    console: Console, command: str, values: Mapping[str, Any], asked: Asked
) -> Iterator[list[Part] | None]:
    """Yield the parts that processes of the command have made; None where others are still at it.

    `values` are the command's options by parameter. The parts are removed when the block is left
    without an error; else, and when a process fails, they stay for `--resume`. Raises DetkitError
    naming the process that failed, Interrupted after Ctrl-C.
    """
    from detkit.shards.merge import open_parts, places_of_parts

    if asked.out is not None and is_special(asked.out):  # beside a device there is no place
        asked = replace(asked, out=None)
    launch = launch_of(asked.devices, asked.nodes)
    if launch is not None and asked.out is None:
        raise UsageError("-o FILE is missing: the parts of all processes go beside it")
    require_ends(values.get("sources") or (), "--devices")
    with contextlib.ExitStack() as stack:
        folder = _folder_of(asked, launch, stack)
        stack.callback(_clear, folder)
        places = places_of_parts(folder, asked.number)
        own = range(asked.number) if launch is None else [launch.rank]
        values = {**values, "sources": _with_lists(values.get("sources"), folder, launch)}
        commands = [_words(command, values, asked, launch, places, number) for number in own]
        if launch is None:
            console.note(f"{counted(asked.number, 'process')}, a share each")
        _run(console, commands, [places[number] for number in own], asked, folder)
        if launch is not None:
            stack.enter_context(one_at_a_time(beside(folder, "lock")))
            done = [place for place in places if place.is_file()]
            if len(done) < asked.number:
                if folder.is_dir():  # else another has put them together
                    console.note(
                        f"process {launch.rank + 1} of {asked.number} is done, with {len(done)} "
                        "parts so far; the last one puts them together"
                    )
                yield None
                return
        parts = open_parts(places)
        tell_ways(console, parts[0].opening["asked"].get(WAYS, ""))
        yield parts
        _remove(folder, places)


def merge_shares(
    console: Console, command: str, values: Mapping[str, Any], asked: Asked, out: Path
) -> tuple[int, int] | None:
    """Write the lines that processes of the command have found, as they are, into one file.

    Returns how many images there are and how many could not be read; None where others are still
    at it. Raises as `shares` and `merge` do.
    """
    from detkit.shards.merge import merge

    with shares(console, command, values, asked) as parts:
        if parts is None:
            return None
        return merge([one.path for one in parts], out, force=asked.force)


def _remove(folder: Path, places: Sequence[Path]) -> None:
    """Remove the parts, all at once for whoever looks for one, and their folder."""
    away = beside(folder, f"{os.getpid()}.done")
    folder.rename(away)
    for place in places:
        (away / place.name).unlink(missing_ok=True)
    _clear(away)


def _clear(folder: Path) -> None:
    """Remove the list in a folder of parts, and the folder where it then holds nothing."""
    (folder / LIST).unlink(missing_ok=True)
    remove_empty([folder])


def _folder_of(asked: Asked, launch: Launch | None, stack: contextlib.ExitStack) -> Path:
    """Return the folder of the parts: beside the output, a passing one where that is a stream."""
    if asked.out is None:
        if asked.resume:
            raise UsageError("--resume: goes on with the parts beside -o FILE: name it")
        return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="detkit-")))
    folder = beside(asked.out, "parts", hidden=False)
    if folder.exists() and launch is None and not (asked.resume or asked.force):
        raise UsageError(
            f"{folder}: holds the parts of a run that was interrupted; --resume goes on, --force "
            "begins anew"
        )
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise DetkitError(f"{folder}: cannot be made: {error.strerror or error}") from error
    return folder


def _with_lists(
    sources: Sequence[str] | None, folder: Path, launch: Launch | None
) -> list[str] | None:
    """Return the sources with stdin, which one process alone can read, replaced by a list."""
    if sources is None or "-" not in sources:
        return None if sources is None else list(sources)
    if launch is not None:
        raise UsageError("-: stdin is read by one process; give a list, @FILE")
    from detkit.data.sources import names_on

    with (folder / LIST).open("wb") as file:
        file.writelines(os.fsencode(f"{name}\n") for name in names_on(sys.stdin))
    return sources_with_list(sources, folder)


def sources_with_list(sources: Sequence[str], folder: Path) -> list[str]:
    """Return the sources with stdin, once it is read, replaced by its list in a folder of parts."""
    return [f"@{folder / LIST}" if source == "-" else source for source in sources]


def _words(
    command: str,
    values: Mapping[str, Any],
    asked: Asked,
    launch: Launch | None,
    places: Sequence[Path],
    number: int,
) -> list[str]:
    """Return the words of the command that makes share `number`, from 0."""
    own = {
        **values,
        "shard": f"{number + 1}/{asked.number}",
        "out": places[number],
        "devices": 1,
        "nodes": 1,
        "resume": asked.resume,
        "force": asked.force,
        "quiet": True,  # this process has told what there is to tell
    }
    local = number if launch is None else launch.local_rank
    if "device" in values:
        own["device"] = _device_of(str(values["device"]), local, asked.devices)
    if own.get("device", "cpu") == "cpu" and values["threads"] is None:
        from detkit.machine import num_cores

        own["threads"] = max(1, num_cores() // asked.devices)
    return words_of(command, own)


def _device_of(device: str, number: int, devices: int) -> str:
    """Return the device of the `number`-th process of a machine; raises UsageError for too many."""
    if device == "cpu":
        return device
    import torch

    from detkit.networks.precision import find_device

    found = find_device(device)
    if found.type == "cpu":
        return "cpu"
    if found.type != "cuda" or found.index is not None:
        raise UsageError(f"--device {device}: is one; leave out --devices {devices}")
    if devices > torch.cuda.device_count():
        raise UsageError(
            f"--devices {devices}: this machine has {counted(torch.cuda.device_count(), 'GPU')}"
        )
    return f"cuda:{number}"


def words_of(command: str, values: Mapping[str, Any]) -> list[str]:
    """Return the words of a command with these options, by parameter: those that say something."""
    from detkit.cli.commands import LazyCommands

    words, arguments = [command], []
    for parameter in LazyCommands()[command].params:
        value = values.get(parameter.name)
        if parameter.name not in values or value in (None, False, [], ()):
            continue
        several = list(map(str, value)) if isinstance(value, list | tuple) else [str(value)]
        if parameter.param_type_name == "argument":
            arguments += several
        elif value is True:
            words.append(max(parameter.opts, key=len))
        else:
            words += [f"{max(parameter.opts, key=len)}={one}" for one in several]
    return [*words, "--", *arguments]


@dataclass
class _Process:
    """A process of a command, and what it says."""

    process: subprocess.Popen[str]
    place: Path  # of its part
    reason: str = ""  # why it failed, as it says itself
    listener: threading.Thread = field(init=False)

    def listen(self, console: Console, said: set[str]) -> None:
        """Hand on the lines that no other process has said; the error is told in the end."""

        def hand_on() -> None:
            for line in self.process.stderr or ():
                text = line.rstrip("\n")
                if text.startswith(ERROR):
                    self.reason = text.removeprefix(ERROR)
                elif text.strip() and text not in said:
                    said.add(text)
                    sys.stderr.write(f"{text}\n")
                    sys.stderr.flush()

        self.listener = threading.Thread(target=hand_on, daemon=True)
        self.listener.start()

    def why(self) -> str:
        """Return why it failed; "" when its part is whole, be there images it could not read."""
        code = self.process.returncode
        # Where there is no folder any more, another process has put all parts together already.
        is_whole = self.place.is_file() or not self.place.parent.is_dir()
        if code == ExitCode.DONE or (code == ExitCode.BAD_INPUT and is_whole):
            return ""
        if code < 0:
            return f"was killed by signal {-code} ({signal.Signals(-code).name}); enough memory?"
        return f"failed: {self.reason}" if self.reason else f"ended with exit code {code}"


def _run(
    console: Console,
    commands: Sequence[Sequence[str]],
    places: Sequence[Path],
    asked: Asked,
    folder: Path,
) -> None:
    """Run a process each command until all have ended; raises DetkitError where one has failed."""
    processes: list[_Process] = []
    said: set[str] = set()
    try:
        for words, place in zip(commands, places, strict=True):
            processes.append(_Process(start_tethered(words), place))
            processes[-1].listen(console, said)
        with console.counting("images") as progress:
            watch = _Watch(places)
            while any(one.process.poll() is None for one in processes):
                if progress is not None:
                    progress(watch.count(), watch.total)
                time.sleep(LOOK_SECONDS)
    except KeyboardInterrupt:
        for one in processes:
            one.process.terminate()
        for one in processes:
            one.process.wait()
        kept = f"; what was done is in {folder}, --resume goes on" if asked.out else ""
        raise Interrupted(f"stopped{kept}") from None
    for one in processes:
        one.process.wait()
        one.listener.join()
        if one.process.stdin is not None:
            one.process.stdin.close()
    _require_done(processes, asked, folder)


def _require_done(processes: Sequence[_Process], asked: Asked, folder: Path) -> None:
    """Raise the error of the processes that failed: their own, where they all say the same."""
    reasons = [one.why() for one in processes]
    failed = [number for number, reason in enumerate(reasons) if reason]
    if not failed:
        return
    first = processes[failed[0]]
    is_of_all = len(failed) == len(processes) and len(set(reasons)) == 1
    if is_of_all and first.process.returncode > 0:
        kind = UsageError if first.process.returncode == ExitCode.USAGE else DetkitError
        raise kind(first.reason or reasons[0])
    others = f" ({counted(len(failed) - 1, 'other')} failed, too)" if len(failed) > 1 else ""
    kept = ""
    if asked.out is None:
        kept = "; with -o FILE what the others do is kept"
    elif any(folder.glob("part-*")):
        kept = f"; what all have done is kept in {folder}: the same command with --resume goes on"
    which = first.place.stem.partition("-")[2]
    raise DetkitError(f"process {which} of {asked.number} {reasons[failed[0]]}{others}{kept}")


class _Watch:
    """Counts the images in the parts that are being written."""

    total = 0  # not known before all sources were gone through

    def __init__(self, places: Sequence[Path]) -> None:
        self.files = {place: beside(place, "partial", hidden=False) for place in places}
        self.read = dict.fromkeys(places, 0)
        self.lines = dict.fromkeys(places, 0)

    def count(self) -> int:
        """Return how many there are by now."""
        for place, partial in self.files.items():
            growing = place if place.is_file() else partial
            with contextlib.suppress(OSError), growing.open("rb") as file:
                file.seek(self.read[place])
                while added := file.read(MOST_READ):
                    self.read[place] += len(added)
                    self.lines[place] += added.count(b"\n")
        return sum(max(0, lines - 1) for lines in self.lines.values())
