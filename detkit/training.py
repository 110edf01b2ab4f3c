"""Training: one generator of `Step`s for every backend.

`train` knows stages, losses and a budget; it knows no backend and draws nothing. All that is
random comes from the seed, and all that is needed to go on is in `resume.ckpt`: a run that was
stopped and resumed ends, on one CPU device, with the same bits as one that was not.
"""

from __future__ import annotations

import json
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor, nn

from detkit.averaging import WeightAverage
from detkit.checkpoint import (
    load_resume,
    random_state,
    require_finite,
    save_model,
    save_resume,
    set_random_state,
)
from detkit.config import Recipe, to_json
from detkit.data.records import ImageRecord
from detkit.detector import Detector, Stage
from detkit.errors import DetkitError, Interrupted, UsageError
from detkit.loading import (
    BatchStream,
    Draw,
    TrainingImages,
    batches,
    default_workers,
    open_loader,
)
from detkit.precision import choose_precision, find_device, memory_format
from detkit.run_folder import RunFolder
from detkit.run_log import RunLog, SpeedMeter, losses_text, memory_mib, scores_record
from detkit.samples import write_samples
from detkit.schedule import StageBudget, lr_factor, stage_budgets
from detkit.stopping import StopSignal
from detkit.structures import Batch, Scores, Step
from detkit.transforms import Compose, Transform, light_augmentation

SMALL_BATCH = 16  # images a device: with fewer, batch norm's statistics are too noisy to learn
SAVE_SECONDS = 300.0  # between resume files, besides those at each validation
VALIDATION_SHARE = 0.1  # of a budget in minutes that validations on the way may take


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """What a run is asked for besides the recipe."""

    validation: Callable[[Detector], Scores] | None = None
    num_validations: int = 20
    patience: int | None = None
    max_steps: int | None = None
    max_epochs: float | None = None
    max_minutes: float | None = None
    num_workers: int | None = None
    data_hash: str | None = None


@dataclass
class Position:
    """Where a run is; plain values, kept in the resume file."""

    stage: int = 0
    stage_step: int = 0
    step: int = 0
    images: int = 0
    seconds: float = 0.0
    stage_began: float = 0.0  # in those seconds
    progress: float = 0.0  # of the stage
    best: float | None = None  # the best mAP
    validations: int = 0  # of the stage
    stale: int = 0  # validations since the best
    validation_seconds: float = 0.0  # of all
    last_validation: float = 0.0  # seconds the last one took


def train(
    detector: Detector,
    records: Sequence[ImageRecord],
    *,
    recipe: Recipe,
    run_dir: Path,
    validation: Callable[[Detector], Scores] | None = None,
    num_validations: int = 20,
    patience: int | None = None,
    max_steps: int | None = None,
    max_epochs: float | None = None,
    max_minutes: float | None = None,
    device: str = "auto",
    devices: int = 1,
    num_nodes: int = 1,
    precision: str = "auto",
    seed: int = 0,
    num_workers: int | None = None,
    resume: bool = False,
    force: bool = False,
    settings: Mapping[str, Any] | None = None,
    data_hash: str | None = None,
) -> Iterator[Step]:
    """Yield a `Step` after each optimiser step; the detector is trained in place.

    The budget is what is given of steps, epochs and minutes (the first to be used up ends the
    run), else the recipe's `max_steps`; the schedule is scaled to it. `validation` runs
    `num_validations` times, evenly over the last stage and at most once an epoch, and decides
    which weights are the best; after `patience` runs without a better mAP training ends. In
    the end the detector holds the weights of `last.safetensors`.

    With several devices each process calls this; only the first writes and yields. `settings`
    become `config.json`, `data_hash` goes into the model files.

    Raises UsageError for a folder that is in use or not empty, DetkitError for an image that
    cannot be read, a loss that is not finite or a full disk, and Interrupted after Ctrl-C or
    SIGTERM. Files written before stay whole.
    """
    began = time.monotonic()
    recipe.validate()
    if not records:
        raise DetkitError("no images to train on: the training split is empty")
    where = find_device(device)
    saved = load_resume(run_dir / "resume.ckpt") if resume else None
    if saved is not None:
        precision = saved["run"]["precision"]
    precision, reason = choose_precision(precision, where, measure=devices * num_nodes == 1)
    fabric = make_fabric(where, devices, num_nodes, precision)
    # Before other processes start, so that a folder in use does not leave them behind.
    folder = RunFolder(run_dir, resume=resume, force=force) if fabric.global_rank == 0 else None
    try:
        fabric.launch()
        options = TrainingOptions(
            validation=validation,
            num_validations=num_validations,
            patience=patience,
            max_steps=max_steps,
            max_epochs=max_epochs,
            max_minutes=max_minutes,
            num_workers=num_workers,
            data_hash=data_hash,
        )
        training = Training(fabric, detector, records, recipe, options, folder, seed, began)
        training.notes.append(reason)
        training.run["precision"] = precision
        if saved is not None:
            training.go_on(saved)
        elif folder is not None and settings is not None:
            folder.write_config(settings)
        for step in training.steps():
            if folder is not None:
                yield step
    except DetkitError as error:
        if folder is not None:
            folder.log(str(error))
        raise
    finally:
        if folder is not None:
            folder.close()


def make_fabric(device: torch.device, devices: int, num_nodes: int, precision: str) -> Fabric:
    """Return Fabric for so many devices of that kind; Fabric finds SLURM and torchrun itself."""
    # Its remarks on strategies and tensor cores are no news to the user of a command.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    several = devices * num_nodes > 1
    if several:
        # Stages may freeze parts, and a plugin's losses may not reach every parameter.
        warnings.filterwarnings("ignore", message=".*find_unused_parameters=True was specified.*")
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, as cuDNN's convolutions do anyway
    return Fabric(
        accelerator=device.type,
        devices=[device.index] if device.index is not None and not several else devices,
        num_nodes=num_nodes,
        precision=precision,  # type: ignore[arg-type]
        strategy=DDPStrategy(find_unused_parameters=True) if several else "auto",
    )


def freeze_norms(module: nn.Module) -> int:
    """Return how many batch norms of `module` were put into eval mode.

    They then use the statistics they have and learn no new ones; their scale and shift still
    train. `module.train()` undoes it.
    """
    norms = [one for one in module.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.eval()
    return len(norms)


class LossModule(nn.Module):
    """The detector as Fabric and DDP see it: a module from a batch to its losses."""

    def __init__(self, detector: Detector) -> None:
        """Wrap the detector."""
        super().__init__()
        self.detector = detector

    def forward(self, parcel: Parcel) -> dict[str, Tensor]:
        """Return the losses of the parcel's batch."""
        losses: dict[str, Tensor] = self.detector(parcel.batch)
        return losses


class Parcel:
    """A batch in a wrapping that Fabric does not look into: it refuses frozen dataclasses."""

    def __init__(self, batch: Batch) -> None:
        """Wrap the batch."""
        self.batch = batch


class Training:
    """A run under way: its position, and what it takes to make the next step."""

    def __init__(
        self,
        fabric: Fabric,
        detector: Detector,
        records: Sequence[ImageRecord],
        recipe: Recipe,
        options: TrainingOptions,
        folder: RunFolder | None,
        seed: int,
        began: float,
    ) -> None:
        """Seed all generators and decode the images that are to be kept in memory."""
        self.fabric = fabric
        self.detector = detector
        self.options = options
        self.folder = folder
        self.log = RunLog(folder)
        self.at = Position()
        self.saved: dict[str, Any] | None = None
        self.notes: list[str] = []
        self.average: WeightAverage | None = None
        self.speed = SpeedMeter()
        self.stages = detector.stages(recipe)
        self.batch_size = recipe.batch_size
        self.run: dict[str, Any] = {
            "backend": detector.name,
            "class_names": list(detector.class_names),
            "config": json.dumps(to_json(detector.config)),
            "batch_size": recipe.batch_size,
            "num_images": len(records),
            "seed": seed,
        }
        self._began = began
        self._saved_at = time.monotonic()
        fabric.seed_everything(seed + fabric.global_rank, verbose=False)
        self.images = TrainingImages(records, detector.class_names, recipe.cache_size)
        note = self.images.fill_cache()
        if note:
            self.notes.append(note)
        self.budgets = self._budgets()

    @property
    def seconds(self) -> float:
        """Return the time used, interrupted parts of the run included."""
        return time.monotonic() - self._began

    @property
    def max_seconds(self) -> float | None:
        """Return the budget in seconds, if it is one of time."""
        minutes = self.options.max_minutes
        return None if minutes is None else 60 * minutes

    def go_on(self, saved: dict[str, Any]) -> None:
        """Continue where the resume file was written; UsageError if it is of another run."""
        for name, value in self.run.items():
            if name not in ("seed", "precision") and saved["run"][name] != value:
                raise UsageError(
                    f"--resume: this run had another {name.replace('_', ' ')} "
                    f"({_short(saved['run'][name])}, now {_short(value)}); give what it was "
                    "started with, or start anew with --force"
                )
        self.run = saved["run"]
        self.at = Position(**saved["position"])
        self._began -= self.at.seconds
        self.saved = saved
        if self.folder is not None:
            self.folder.forget_metrics_after(self.at.step)
            self.log.say(f"resumed at step {self.at.step}")

    def steps(self) -> Iterator[Step]:
        """Yield every step that is left, stage after stage."""
        with StopSignal() as self.stop:
            for number in range(self.at.stage, len(self.stages)):
                yield from self._stage(number)
        self.log.say(f"done: {self.at.step} steps in {self.seconds / 60:.1f} minutes")

    def _stage(self, number: int) -> Iterator[Step]:
        """Yield the steps of one stage; what it has learnt is in the detector afterwards."""
        stage, budget, at = self.stages[number], self.budgets[number], self.at
        last_stage = number == len(self.stages) - 1
        stream = self._begin(stage)
        stopped = self._agree(budget)
        while at.progress < 1 and not stopped and not self._out_of_patience():
            started = time.monotonic()
            lr, losses, count = self._optimise(stage, next(stream))
            self.speed.add(time.monotonic() - started)
            at.step, at.stage_step, at.images = at.step + 1, at.stage_step + 1, at.images + count
            stopped = self._agree(budget)
            scores, is_best = None, False
            if last_stage and not stopped and self._validation_due(budget):
                scores, is_best = self._validate()
            elif time.monotonic() - self._saved_at > SAVE_SECONDS:
                self._save()
            step = self._step(stage, lr, losses, scores, is_best)
            self.log.step(step, last=at.progress >= 1 or stopped)
            yield step
            stopped = stopped or (self.fabric.world_size == 1 and self.stop.received)
        if stopped:
            self._save()
            raise Interrupted(
                f"stopped at step {at.step}; go on with the same command and --resume "
                f"({self._place('resume.ckpt')})"
            )
        self._end(last_stage)

    def _begin(self, stage: Stage) -> Iterator[Batch]:
        """Make the optimiser and the stream of batches; return the stream at our position."""
        at, saved, self.saved = self.at, self.saved, None
        recipe = stage.recipe
        if saved is not None:
            self.detector.load_state_dict(saved["model"])
            set_random_state(saved["random"])
        if stage.begin is not None:
            stage.begin()
        within = saved is not None and at.stage_step > 0
        if within and saved is not None:
            self.detector.load_state_dict(saved["model"])  # what `begin` may have changed
        fabric, device = self.fabric, self.fabric.device
        self._layout = memory_format(self.detector, device)
        self.detector.to(memory_format=self._layout)
        self._freezes = self._freezing(recipe)
        self._set_train()
        groups = self.detector.parameter_groups(recipe)
        self._base_lrs = [float(group["lr"]) for group in groups]
        optimizer = make_optimizer(recipe, groups, device, self.run["precision"])
        self._network, self._optimizer = fabric.setup(LossModule(self.detector), optimizer)
        self.average = WeightAverage(self.detector, recipe.ema_decay) if recipe.ema_decay else None
        loader = open_loader(
            BatchStream(
                Draw(
                    self.images,
                    make_augmentation(self.detector, recipe),
                    recipe.mosaic,
                    self.detector.network_size(),
                    self.run["seed"],
                ),
                self.detector.preparation,
                recipe.batch_size,
                rank=fabric.global_rank,
                world_size=fabric.world_size,
            ),
            at.stage_step,
            num_workers=self._num_workers(),
            pin_memory=device.type == "cuda",
        )
        stream = batches(loader)
        if within and saved is not None:
            optimizer.load_state_dict(saved["optimizer"])
            fabric.strategy.precision.load_state_dict(saved["scaler"])
            if self.average is not None:
                self.average.load(saved["average"], saved["average_updates"])
            set_random_state(saved["random"])
        return stream

    def _optimise(self, stage: Stage, batch: Batch) -> tuple[float, dict[str, float], int]:
        """Make one step; return its base learning rate, losses and number of images."""
        fabric, recipe, optimizer = self.fabric, stage.recipe, self._optimizer
        if self.at.step == 0 and self.folder is not None:
            config = self.detector.config
            write_samples(
                self.folder.path / "samples",
                batch,
                mean=config.mean,
                std=config.std,
                class_names=self.detector.class_names,
            )
        factor = lr_factor(recipe, self.at.progress)
        for group, base in zip(optimizer.param_groups, self._base_lrs, strict=True):
            group["lr"] = base * factor
        optimizer.zero_grad(set_to_none=True)
        images = batch.images.to(memory_format=self._layout)
        try:
            moved = replace(batch, images=images).to(fabric.device)
            losses: dict[str, Tensor] = self._network(Parcel(moved))
            fabric.backward(torch.stack(list(losses.values())).sum())
            if recipe.clip_norm:
                fabric.clip_gradients(
                    self._network,
                    optimizer,
                    max_norm=recipe.clip_norm,
                    error_if_nonfinite=False,
                )
            values = torch.stack([loss.detach().float() for loss in losses.values()])
            values = self._reduce(values, "mean")
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            raise DetkitError(
                f"out of memory on {fabric.device} at batch size {recipe.batch_size}; try "
                f"--batch-size {max(1, recipe.batch_size // 2)}"
            ) from error
        told = dict(zip(losses, values.tolist(), strict=True))
        if not all(math.isfinite(value) for value in told.values()):
            raise DetkitError(self._not_finite(told, batch))
        optimizer.step()
        if self.average is not None:
            self.average.update()
        return recipe.lr * factor, told, len(batch) * fabric.world_size

    def _agree(self, budget: StageBudget) -> bool:
        """Bring `at.progress` up to date; return whether to stop, the same in all processes."""
        at, seconds = self.at, self.seconds
        if at.validations:  # the last validation, too, is to fit into the budget
            seconds += at.last_validation
        progress = budget.progress(at.stage_step, seconds - at.stage_began)
        stopped = self.stop.received
        if self.fabric.world_size > 1:
            both = torch.tensor([progress, float(stopped)], device=self.fabric.device)
            both = self._reduce(both, "max")
            progress, stopped = float(both[0]), bool(both[1] > 0)
        at.progress = max(at.progress, progress)
        return stopped

    def _reduce(self, values: Tensor, how: str) -> Tensor:
        """Return the mean or the max of the processes' values."""
        if self.fabric.world_size == 1:
            return values
        reduced = self.fabric.all_reduce(values, reduce_op=how)
        assert isinstance(reduced, Tensor)  # noqa: S101  # Fabric's type also allows collections
        return reduced

    def _validation_due(self, budget: StageBudget) -> bool:
        """Return whether the detector is to be judged after this step."""
        at, options = self.at, self.options
        if options.validation is None:
            return False
        if at.progress >= 1:
            return True
        epoch = math.ceil(len(self.images) / self.batch_size)
        if budget.seconds is None and budget.steps is not None:
            every = max(epoch, math.ceil(budget.steps / options.num_validations))
            return at.stage_step % every == 0 and at.stage_step < budget.steps
        due = at.progress * options.num_validations >= at.validations + 1
        soon = at.validation_seconds + at.last_validation > VALIDATION_SHARE * self.seconds
        # All processes must answer the same, and their clocks differ.
        return bool(self.fabric.broadcast(due and not (soon and at.validations > 0)))

    def _validate(self) -> tuple[Scores | None, bool]:
        """Judge the averaged weights, save; return the scores (first process only), is_best."""
        at, started = self.at, time.monotonic()
        scores, random = None, random_state()
        if self.folder is not None and self.options.validation is not None:
            with self._averaged():
                self.detector.eval()
                scores = self.options.validation(self.detector)
            self._set_train()
        set_random_state(random)
        mean = self.fabric.broadcast(None if scores is None else scores.mean)
        is_best = mean is not None and (at.best is None or mean > at.best)
        at.best = mean if is_best else at.best
        at.stale = 0 if is_best else at.stale + 1
        at.validations += 1
        at.last_validation = self.fabric.broadcast(time.monotonic() - started)
        at.validation_seconds += at.last_validation
        self._save(scores, is_best=is_best)
        return scores, is_best

    def _save(self, scores: Scores | None = None, *, is_best: bool = False) -> None:
        """Write `last`, the resume file and, if these weights are the best, `best`."""
        self._saved_at = time.monotonic()
        folder = self.folder
        if folder is None:
            return
        require_finite(self.detector, folder.resume)
        record = None if scores is None else scores_record(scores)
        with self._averaged():
            names = ["last", "best"] if is_best else ["last"]
            for name in names:
                path = folder.path / f"{name}.safetensors"
                save_model(path, self.detector, data_hash=self.options.data_hash, scores=record)
        average = self.average
        self.at.seconds = self.seconds
        within = self.at.stage_step > 0
        save_resume(
            folder.resume,
            {
                "run": self.run,
                "position": asdict(self.at),
                "model": self.detector.state_dict(),
                "optimizer": self._optimizer.state_dict() if within else {},
                "scaler": self.fabric.strategy.precision.state_dict() if within else {},
                "average": average.weights if within and average is not None else {},
                "average_updates": 0 if average is None else average.updates,
                "random": random_state(),
            },
        )

    def _end(self, last_stage: bool) -> None:
        """Save, and leave the averaged weights in the detector."""
        self._save()
        if self.average is not None:
            self.average.apply()
            self.average = None
        self.detector.eval()
        if not last_stage:
            self.at.stage, self.at.stage_step = self.at.stage + 1, 0
            self.at.progress, self.at.stage_began = 0.0, self.seconds
            self._save()
        elif self.folder is not None and self.at.best is None:
            save_model(self.folder.best, self.detector, data_hash=self.options.data_hash)

    def _step(
        self,
        stage: Stage,
        lr: float,
        losses: dict[str, float],
        scores: Scores | None,
        is_best: bool,
    ) -> Step:
        """Return what there is to tell of the step just made."""
        at, seconds = self.at, self.speed.step_seconds
        notes, self.notes = tuple(self.notes), []
        for note in notes:
            self.log.say(note)
        total = self._total_steps()
        left = None
        if self.max_seconds is not None:
            left = max(0.0, self.max_seconds - self.seconds)
        elif total is not None:
            left = (total - at.step) * (seconds + at.validation_seconds / at.step)
        return Step(
            stage=stage.name,
            step=at.step,
            total_steps=total,
            epoch=at.images / len(self.images),
            losses=losses,
            lr=lr,
            images_per_second=stage.recipe.batch_size / seconds if seconds else 0.0,
            seconds_left=left,
            memory_mib=memory_mib(self.fabric.device),
            scores=scores,
            is_best=is_best,
            notes=notes,
        )

    def _total_steps(self) -> int | None:
        """Return how many steps there will be; an estimate when the budget is one of time."""
        steps = [budget.steps for budget in self.budgets]
        if self.max_seconds is None:
            return sum(count for count in steps if count is not None)
        share = self.seconds / self.max_seconds
        return max(self.at.step, round(self.at.step / min(1.0, share))) if share > 0.02 else None

    def _budgets(self) -> list[StageBudget]:
        """Return each stage's part of the budget that was asked for."""
        options = self.options
        limits = []
        if options.max_steps is not None:
            limits.append(options.max_steps)
        if options.max_epochs is not None:
            limits.append(math.ceil(options.max_epochs * len(self.images) / self.batch_size))
        if not limits and options.max_minutes is None:
            limits.append(sum(stage.recipe.max_steps for stage in self.stages))
        for value in (*limits, options.max_minutes):
            if value is not None and not value > 0:
                raise UsageError(f"the training budget must be above 0, not {value}")
        steps = min(limits) if limits else None
        return stage_budgets([stage.recipe for stage in self.stages], steps, self.max_seconds)

    def _freezing(self, recipe: Recipe) -> bool:
        """Return whether the backbone's batch norms keep their statistics; note it."""
        backbone = getattr(self.detector, "backbone", None)
        if backbone is None:
            return False
        share = recipe.batch_size // self.fabric.world_size
        wish = self.detector.config.freeze_norm
        reason = "as asked"
        if getattr(backbone, "folded_norms", False):
            reason = "their statistics are part of the pretrained weights"
        elif wish == "no" or (wish == "auto" and not self.detector.pretrained):
            return False
        elif wish == "auto":
            if share >= SMALL_BATCH:
                return False
            reason = f"pretrained weights and only {share} images a batch"
        count = freeze_norms(backbone)
        if count:
            self.notes.append(f"{count} batch norms of the backbone are frozen: {reason}")
        return count > 0

    def _set_train(self) -> None:
        """Put the detector into train mode, all but frozen norms."""
        self.detector.train()
        if self._freezes:
            freeze_norms(self.detector.backbone)

    def _averaged(self) -> AbstractContextManager[None]:
        """Return a block in which the detector holds the averaged weights, if there are any."""
        return nullcontext() if self.average is None else self.average.applied()

    def _out_of_patience(self) -> bool:
        """Return whether the last validations brought nothing better; say so."""
        patience = self.options.patience
        if patience is None or self.at.stale < patience:
            return False
        self.log.say(f"stopped early: {self.at.stale} validations without a better mAP")
        return True

    def _num_workers(self) -> int:
        """Return the number of data workers."""
        if self.options.num_workers is not None:
            return self.options.num_workers
        on_cpu = self.fabric.device.type == "cpu"
        return default_workers(len(self.images), on_cpu=on_cpu, processes=self.fabric.world_size)

    def _not_finite(self, losses: Mapping[str, float], batch: Batch) -> str:
        """Return the line about a loss that is NaN or infinite."""
        kept = self._place("resume.ckpt")
        return (
            f"step {self.at.step + 1}: the loss is not finite ({losses_text(losses)}); images: "
            f"{', '.join(batch.image_ids)}; look at their boxes (detkit check), lower --lr or "
            f"--set clip_norm=10; {kept}"
        )

    def _place(self, name: str) -> str:
        """Return where a file of the run folder is, or that there is none."""
        if self.folder is None or not (self.folder.path / name).exists():
            return f"no {name} was written yet"
        return f"the last good state is in {self.folder.path / name}"


def make_optimizer(
    recipe: Recipe, groups: list[dict[str, Any]], device: torch.device, precision: str
) -> torch.optim.Optimizer:
    """Return the recipe's optimiser over the groups, in its fused form where that works."""
    fused = device.type in ("cpu", "cuda") and precision != "16-mixed"  # Fabric cannot clip there
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(
            groups, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=fused
        )
    return torch.optim.SGD(
        groups,
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        fused=fused,
    )


def make_augmentation(detector: Detector, recipe: Recipe) -> Transform:
    """Return the augmentation that the recipe names."""
    if recipe.augmentation == "paper":
        return detector.augmentation()
    if recipe.augmentation == "light":
        return light_augmentation(detector.config.mean)
    return Compose([])


def _is_out_of_memory(error: Exception) -> bool:
    """Return whether torch found no memory, on a GPU or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _short(value: object) -> str:
    """Return a value as text that fits into a line."""
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
