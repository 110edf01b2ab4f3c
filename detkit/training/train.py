"""Training: one generator of `Step`s for every backend.

`train` knows stages, losses and a budget; it knows no backend and draws nothing. All that is
random comes from the seed, and all that is needed to go on is in `resume.ckpt`: a run that was
stopped and resumed ends, on one CPU device, with the same bits as one that was not.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from detkit.config import Recipe
from detkit.data.records import ImageRecord
from detkit.detector import Detector
from detkit.errors import DetkitError, Interrupted, UsageError
from detkit.machine import choose_threads, keep_freed_memory, threads_in_words
from detkit.networks.precision import choose_precision, find_device, require_trainable
from detkit.structures import Step
from detkit.text import counted
from detkit.training.exchange import leave_group
from detkit.training.learner import make_fabric
from detkit.training.loader import share_of
from detkit.training.lost_process import (
    ToldByFirst,
    end_others,
    is_begun_by_first,
    is_lost,
    lost,
    watched,
)
from detkit.training.options import DEFAULTS, RunOptions
from detkit.training.resume import load_resume
from detkit.training.run_folder import RunFolder
from detkit.training.trainer import Trainer

logger = logging.getLogger(__name__)


def train(
    detector: Detector,
    records: Sequence[ImageRecord],
    recipe: Recipe,
    run_dir: Path | str,
    options: RunOptions = DEFAULTS,
) -> Iterator[Step]:
    """Yield a `Step` after each optimiser step; the detector is trained in place.

    The budget is what is given of steps, epochs and minutes (the first to be used up ends the
    run), else the recipe's `max_steps`; the schedule is scaled to it. `options.validation` runs
    `num_validations` times, evenly over the last stage: of a budget in steps at most once an
    epoch, of one in minutes as often as a tenth of the time allows. It decides which weights are
    the best; after `patience` runs without a better mAP training ends. In the end the detector
    holds the weights of `last.safetensors`.

    A detector that wants proposals gets those of `options.proposals`, by default as its config
    says; they are made before the first step, in time that a budget of minutes does not count.
    With several devices each process calls this; only the first writes and yields.

    Raises UsageError for a folder that is in use or not empty, DetkitError for an image that
    cannot be read, a loss that is not finite, another process that is gone, a full disk or a
    budget of time that was used up before the first step, and Interrupted after Ctrl-C, SIGTERM or
    SIGHUP. Files written before stay whole, and before the first step is made nothing is written
    (but, into a new folder, the images of one whose loss is not finite) and, with `force`, nothing
    deleted.
    """
    began = time.monotonic()
    run_dir = Path(run_dir)
    recipe.validate()
    options.validate()
    if not records:
        raise DetkitError("no images to train on: the training split is empty")
    labelled = {one.name for record in records for one in record.counted}
    if labelled and labelled.isdisjoint(detector.class_names):
        raise DetkitError(
            f"nothing to learn: the detector's classes are {', '.join(detector.class_names)}, "
            f"those of the training images {', '.join(sorted(labelled))}"
        )
    stages = range(max(1, len(recipe.stage_batches)))
    # Before others are started.
    share = max(share_of(recipe.batch_in(stage), options.world_size) for stage in stages)
    if recipe.accumulate > share:
        raise UsageError(
            f"--set accumulate={recipe.accumulate}: a step has {counted(share, 'image')} a device, "
            "which make no more parts than that"
        )
    keep_freed_memory()
    saved = load_resume(run_dir / "resume.ckpt") if options.resume else None
    device = find_device(options.device)
    threads, why_threads = threads_of(options, device, saved)
    with computing_on(threads):
        precision, why_precision = precision_of(options, device, saved)
        options = replace(options, threads=threads)
        if saved is None:  # else another precision that was asked for is to be refused
            options = replace(options, precision=precision)
        if options.settings is not None:  # what was measured is to be repeated, too
            measured = {"precision": precision, "threads": threads}
            options = replace(options, settings={**options.settings, **measured})
        fabric = make_fabric(device, options.devices, options.nodes, precision, options.wait)
        folder, ends_well = None, False
        if fabric.global_rank == 0:
            # Before other processes start, so that a folder in use does not leave them behind.
            folder = RunFolder(run_dir, resume=options.resume, force=options.force)

        def tell(line: str) -> None:
            logger.error(line)
            if folder is not None:
                folder.log_failure(line)
                folder.close()

        watch = ExitStack()
        try:
            watch.enter_context(watched(fabric, tell, options.wait))
            fabric.launch()
            trainer = Trainer(fabric, detector, records, recipe, options, folder, began)
            trainer.log.note(why_precision, why_threads)
            if folder is not None and folder.was_killed:
                killed = "the run before was killed; its lock was left behind and is ours now"
                trainer.log.note(killed)
            trainer.begin(saved)
            for step in trainer.steps():
                if folder is not None:
                    yield step
            leave_group()
            ends_well = True
        except RuntimeError as error:  # while the processes meet; later the trainer has said it
            if not is_lost(error, options.world_size):
                raise
            raise lost(error, options.world_size, options.wait) from error
        except DetkitError as error:
            if folder is not None:
                folder.log_failure(str(error))
            if isinstance(error, Interrupted):
                leave_group()
                ends_well = True
                if folder is None:
                    return  # the first process tells it
            if isinstance(error, ToldByFirst) and is_begun_by_first(fabric):
                return
            raise
        finally:
            watch.close()
            if not ends_well:
                end_others(fabric)
            if folder is not None:
                folder.close()


def threads_of(
    options: RunOptions, device: torch.device, saved: Mapping[str, Any] | None
) -> tuple[int | None, str]:
    """Return how many CPU threads to compute on, and why; None leaves it to torch.

    Another number gives other last bits, so that a run goes on with the one it had.
    """
    before = None if saved is None else saved.get("threads")
    if before is not None and options.threads in (None, before):
        return before, f"{threads_in_words(before)}, as before"
    if options.threads is None and (device.type != "cpu" or options.world_size > 1):
        return None, ""
    return choose_threads(options.threads, torch.get_num_threads())


@contextmanager
def computing_on(threads: int | None) -> Iterator[None]:
    """Have torch compute on so many CPU threads within the block."""
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def precision_of(
    options: RunOptions, device: torch.device, saved: Mapping[str, Any] | None
) -> tuple[str, str]:
    """Return the precision to train in, and why; that of a run that goes on is what it was."""
    if saved is not None:
        chosen, why = str(saved["run"]["precision"]), "precision as before"
    else:
        chosen, why = choose_precision(options.precision, device, measure=options.world_size == 1)
    require_trainable(chosen, device)
    return chosen, why
