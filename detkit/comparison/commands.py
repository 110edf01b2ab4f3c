"""Trainers that are commands of the user's: a labelled folder in, a file of detections out.

The command is run as it is, without a shell: its words are told apart as a shell does, and then
`{data}` and the like are put into them, so that no sign in a path means anything. It finds in
`{data}` train and val with their labels, and test without; in `{out}`, an empty folder, it leaves
`detections.jsonl`, `.json` or `.csv`, or a folder `detections`, of the test images, in any form
that `detkit eval --predictions` reads. What it writes on stdout and stderr is kept beside.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detkit.comparison.measure import Measured
from detkit.comparison.places import HERE, Place
from detkit.comparison.trainer_folders import TrainerFolder, sources
from detkit.data import open_dataset
from detkit.data.images import image_size
from detkit.data.split_images import SplitImages
from detkit.errors import DetkitError, Interrupted, UsageError
from detkit.evaluation.pairing import pair
from detkit.evaluation.reference import reference_of
from detkit.machine import end_group
from detkit.predictions.image import from_detections
from detkit.predictions.readers import read_predictions
from detkit.predictions.writers import open_writer
from detkit.tethered import PATIENCE, start_tethered
from detkit.text import counted, cut

PLACES = ("data", "out", "minutes", "seed")
NEEDED = ("data", "out")
_PLACE = re.compile(r"\{(\w+)\}")
LAST_WORDS = 20_000  # bytes of a log's end in which the line that says why is looked for
DETECTIONS = "detections"
WHAT_IS_LEFT = f"{DETECTIONS}.jsonl, .json or .csv, or a folder {DETECTIONS}"
# Of these an image without detections has a line, too; the others name images by detections.
NAMES_ALL = (".jsonl",)


@dataclass(frozen=True, slots=True)
class Command:
    """A command that trains on a labelled folder, and detects in its test images."""

    words: tuple[str, ...]  # with places like {data}
    folder: TrainerFolder  # that it is given
    class_names: tuple[str, ...]
    seed: int
    minutes: float | None  # that it is to train
    limit: float | None = None  # minutes after which it is stopped, detecting included
    threads: int | None = None  # that its libraries are told to use

    def filled(self, out: Path) -> list[str]:
        """Return the words as they are run, with `out` as its folder to write to."""
        values = {
            "data": str(self.folder.path.absolute()),
            "out": str(out.absolute()),
            "minutes": "" if self.minutes is None else f"{self.minutes:g}",
            "seed": str(self.seed),
        }
        return [_PLACE.sub(lambda place: values[place[1]], word) for word in self.words]

    def asked(self) -> dict[str, Any]:
        """Return what its result depends on, as JSON values."""
        return {
            "command": list(self.words),
            "minutes": self.minutes,
            "command_format": self.folder.format,
        }


def command_words(text: str, name: str = "") -> tuple[str, ...]:
    """Return the words of a command, told apart as a shell does; places stay as they are.

    Raises UsageError, which says the command's `name`, for a quotation without an end, a place
    that there is not, one that is missing, and a program that there is not.
    """
    given = f"--command {name}={text}" if name else f"--command {text}"
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise UsageError(f"{given}: {error}") from error
    if not words:
        example = f"{name or 'NAME'}='./train.sh {{data}} {{out}}'"
        raise UsageError(f"{given}: there is no command; give {example}")
    places = [place for word in words for place in _PLACE.findall(word)]
    for place in places:
        if place not in PLACES:
            known = ", ".join(f"{{{one}}}" for one in PLACES)
            raise UsageError(f"{given}: there is no {{{place}}}; choose from {known}")
    for place in NEEDED:
        if place not in places:
            raise UsageError(
                f"{given}: {{{place}}} is missing: where the "
                + ("labelled folder is" if place == "data" else f"command leaves {WHAT_IS_LEFT}")
            )
    if _PLACE.search(words[0]) is None and shutil.which(words[0]) is None:
        there = Path(words[0]).is_file()
        why = "is no program that may be run (chmod +x?)" if there else "no such program"
        raise UsageError(f"{given}: {words[0]}: {why}")
    return words


def run_command(
    command: Command,
    out: Path,
    result: Path,
    say: Callable[[str], None] = lambda line: None,
    place: Place = HERE,
) -> Measured:
    """Run a command, put what it detected beside `result` as `.jsonl`, and return what it took.

    `out` is emptied first; it runs at `place`. Raises DetkitError saying why there are no
    detections to score, and Interrupted when detkit was told to stop.
    """
    log = result.with_suffix(".log")
    _empty(out, log)
    words = command.filled(out)
    say(f"{result.stem}: {shlex.join(words)} (its output: {log})")
    began = time.perf_counter()
    _run(words, log, command, place)
    seconds = time.perf_counter() - began
    num_images, warnings = _collect(command, out, log, result.with_suffix(".jsonl"))
    return Measured(
        backend="command",
        num_images=num_images,
        seconds=None,
        stages={},
        memory_mib=0.0,
        model_bytes=None,
        training_seconds=seconds,
        training_memory_mib=None,
        training_steps=None,
        trained_on=None,
        warnings=warnings,
    )


def _empty(out: Path, log: Path) -> None:
    """Make the folder `out`, without what an earlier run of the command left there.

    Raises DetkitError for a folder in which no command of ours has run.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not log.exists():
            raise DetkitError(f"{out}: holds what no command of a comparison left there; move it")
        shutil.rmtree(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        log.touch()
    except OSError as error:
        raise DetkitError(f"{out}: cannot be written: {error.strerror or error}") from error


def _run(words: Sequence[str], log: Path, command: Command, place: Place) -> None:
    """Run the words; raise DetkitError when they fail, or run past the limit."""
    environment = _environment(command, place)
    with (
        log.open("wb") as stream,
        start_tethered(words, stream.fileno(), foreign=True, environment=environment) as process,
    ):
        try:
            with place.work.holding(process, lambda: end_group(process, PATIENCE)):
                code = process.wait(None if command.limit is None else 60 * command.limit)
        except subprocess.TimeoutExpired:
            end_group(process, PATIENCE)
            raise DetkitError(
                f"the command was stopped: it ran longer than {command.limit:g} min "
                f"(--command-limit){_last_line(log)}"
            ) from None
        except KeyboardInterrupt:
            end_group(process, PATIENCE)
            raise Interrupted("interrupted; go on with the same command and --resume") from None
    if code < 0:
        raise DetkitError(f"the command was killed by signal {-code}{_last_line(log)}")
    if code:
        raise DetkitError(f"the command ended with exit code {code}{_last_line(log)}")


def _environment(command: Command, place: Place) -> Mapping[str, str]:
    """Return the environment to run in besides ours: the place's, the threads of libraries."""
    threads = {}
    if command.threads is not None:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(command.threads))
    return {**place.environment, **threads}


def _last_line(log: Path) -> str:
    """Return the last words of a command, and where the others are."""
    text = log.read_bytes()[-LAST_WORDS:].decode("utf-8", errors="replace")
    lines = [line.strip() for line in text.replace("\r", "\n").split("\n") if line.strip()]
    return f": {cut(lines[-1])} ({log})" if lines else f"; it wrote nothing ({log})"


def _collect(command: Command, out: Path, log: Path, found: Path) -> tuple[int, tuple[str, ...]]:
    """Write a command's detections to `found`, under the data set's names of the images.

    Returns how many images there are, and warnings. Raises DetkitError when there are no
    detections, or they are not those of the test images.
    """
    made = _detections_in(out, log)
    dataset = open_dataset(command.folder.path)
    records, names = dataset.splits["test"], command.class_names
    images = SplitImages(records, root=dataset.root)
    own_names = sources(command.folder)
    read = read_predictions(made, reference=reference_of(dataset, "test", images))
    paired = pair(read, records, names)
    if paired.num_missing == len(records) or (paired.num_missing and made.suffix in NAMES_ALL):
        lacking = counted(paired.num_missing, "test image")
        raise DetkitError(f"{made}: says nothing of {lacking} of {len(records)}")
    with open_writer("jsonl", found, class_names=names, force=True) as writer:
        for record, detections in zip(records, paired.detections):
            height, width = image_size(record.path)
            image = own_names[record.image_id]
            writer.write(from_detections(detections, names, image, width, height))
    return len(records), paired.warnings


def _detections_in(out: Path, log: Path) -> Path:
    """Return the file or folder of detections that a command left."""
    there = sorted(path.name for path in out.iterdir())
    fitting = [name for name in there if name.partition(".")[0] == DETECTIONS]
    if len(fitting) == 1:
        return out / fitting[0]
    if fitting:
        raise DetkitError(f"{out}: holds {' and '.join(fitting)}; leave one of them")
    held = f"holds {cut(', '.join(there))}" if there else "is empty"
    raise DetkitError(
        f"the command left no detections: {out} {held}; it is to leave {WHAT_IS_LEFT}"
        f"{_last_line(log)}"
    )
