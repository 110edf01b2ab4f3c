"""What learns during one stage: the network, its optimiser, the EMA of its weights.

Shape shorthand: B images a batch.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor, nn

from detkit.config import Recipe
from detkit.detector import Detector
from detkit.errors import DetkitError, is_out_of_memory
from detkit.networks.precision import DTYPES, for_training
from detkit.structures import Batch
from detkit.text import agreed, counted
from detkit.training.accumulation import part_weights, parts_of
from detkit.training.ema import EMA
from detkit.training.exchange import over_devices, together
from detkit.training.vanished_maps import leaves_no_map, too_few_pixels

# What torch says where batch norm, which needs two, gets one.
ONE_VALUE = "Expected more than 1 value per channel"
SMALL_BATCH = 16  # images a device: with fewer, batch norm's statistics are too noisy to learn


class Learner:
    """A detector under one recipe; makes optimiser steps and knows nothing of budgets."""

    def __init__(self, fabric: Fabric, detector: Detector, recipe: Recipe, precision: str) -> None:
        """Put the detector on its device and into train mode, with a fresh optimiser."""
        self.fabric = fabric
        self.detector = detector
        self.recipe = recipe
        self.layout = for_training(detector, fabric.device, DTYPES[precision])
        at_once = recipe.batch_size // fabric.world_size // recipe.accumulate
        self.frozen, self.note = frozen_norms(detector, at_once)
        self.set_train()
        groups = detector.parameter_groups(recipe)
        self._base_lrs = [float(group["lr"]) for group in groups]
        optimizer = make_optimizer(recipe, groups, fabric.device, precision)
        self._network, self._optimizer = fabric.setup(LossModule(detector), optimizer)
        self.ema = EMA(detector, recipe.ema_decay) if recipe.ema_decay else None

    def set_train(self) -> None:
        """Put the detector into train mode, all but frozen norms."""
        self.detector.train()
        if self.frozen:
            freeze_norms(self.detector.backbone)

    def gradients(self, batch: Batch) -> dict[str, float]:
        """Return the batch's losses by name, mean over devices, and leave their gradients.

        With `accumulate` both are added up from the parts of the batch. A loss that is not finite
        makes all devices return it. Raises DetkitError when there is not enough memory.
        """
        fabric = self.fabric
        self._optimizer.zero_grad(set_to_none=True)
        try:
            moved = batch.to(fabric.device)
            images = moved.images.to(memory_format=self.layout)
            losses = self._add_gradients(replace(moved, images=images))
        except (RuntimeError, ValueError, MemoryError) as error:
            if is_out_of_memory(error):
                raise DetkitError(self._no_memory(len(batch))) from error
            if "finished reduction in the prior iteration" in str(error):
                raise DetkitError(
                    f"{self.detector.name}: its losses do not reach every parameter, which "
                    "several devices need; freeze the others with requires_grad_(False)"
                ) from error
            if leaves_no_map(error):
                raise DetkitError(too_few_pixels(self.detector.name, _size_of(batch))) from error
            if ONE_VALUE in str(error):
                raise DetkitError(
                    f"{self.detector.name}: of {counted(len(batch), 'image')} at once, "
                    f"{_size_of(batch)} pixels, a map of the network is one value a channel, from "
                    "which batch norm cannot learn; raise --batch-size or --set size="
                ) from error
            raise
        values = torch.stack(list(losses.values()))
        return dict(zip(losses, over_devices(fabric, values, "mean").tolist(), strict=True))

    def _add_gradients(self, batch: Batch) -> dict[str, Tensor]:
        """Return the batch's losses, detached, after adding their gradients to the weights'."""
        fabric, detector = self.fabric, self.detector
        parts = parts_of(batch, self.recipe.accumulate)
        share = 1 / fabric.world_size
        weights = part_weights(detector, parts, share) if len(parts) > 1 else [{"": 1.0}]
        sums: dict[str, Tensor] = {}
        try:
            for place, (part, weight) in enumerate(zip(parts, weights, strict=True), 1):
                detector.batch_share = share * len(part) / len(batch)
                with fabric.no_backward_sync(self._network, enabled=place < len(parts)):
                    found: dict[str, Tensor] = self._network(Parcel(part))
                    if len(parts) > 1:
                        found = {k: x * weight.get(k, weight[""]) for k, x in found.items()}
                    fabric.backward(torch.stack(list(found.values())).sum())
                for name, loss in found.items():
                    value = loss.detach().float()
                    sums[name] = sums[name] + value if name in sums else value
        finally:
            detector.batch_share = 1.0
        return sums

    def _no_memory(self, num_images: int) -> str:
        """Return what is said when a batch of so many images did not fit into memory."""
        recipe = self.recipe
        said = f"out of memory on {self.fabric.device} at batch size {recipe.batch_size}"
        if recipe.accumulate > 1:
            said += f" in {recipe.accumulate} parts"
        more = min(num_images, 2 * recipe.accumulate)
        same = f"--set accumulate={more} (the same training, slower) or "
        return (
            f"{said}; try {same if more > recipe.accumulate else ''}"
            f"--batch-size {max(1, recipe.batch_size // 2)}"
        )

    def update(self, lr_factor: float) -> None:
        """Move the weights along the gradients, at this multiple of the base learning rates."""
        for group, base in zip(self._optimizer.param_groups, self._base_lrs, strict=True):
            group["lr"] = base * lr_factor
        if self.recipe.clip_norm:
            self.fabric.clip_gradients(
                self._network,
                self._optimizer,
                max_norm=self.recipe.clip_norm,
                error_if_nonfinite=False,  # fp16's scaler meets these and skips the step
            )
        self._optimizer.step()
        if self.ema is not None:
            self.ema.update()

    def averaged(self) -> AbstractContextManager[None]:
        """Return a block in which the detector holds the averaged weights, if there are any."""
        return nullcontext() if self.ema is None else self.ema.applied()

    def state(self) -> dict[str, Any]:
        """Return all that changes from step to step but the network itself, for `load_state`."""
        ema = self.ema
        return {
            "optimizer": self._optimizer.state_dict(),
            "scaler": self.fabric.strategy.precision.state_dict(),
            "average": {} if ema is None else ema.weights,
            "average_updates": 0 if ema is None else ema.updates,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self._optimizer.load_state_dict(state["optimizer"])
        self.fabric.strategy.precision.load_state_dict(state["scaler"])
        if self.ema is not None and state["average"]:  # else it begins with these weights
            self.ema.load(state["average"], state["average_updates"])


def _size_of(batch: Batch) -> str:
    """Return the network's image size of a batch, for people."""
    height, width = batch.images.shape[2:]
    return f"{width} x {height}"


def averaged(learner: Learner | None) -> AbstractContextManager[None]:
    """Return a block in which the detector holds its averaged weights, if it has any."""
    return nullcontext() if learner is None else learner.averaged()


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


def make_fabric(
    device: torch.device, devices: int, num_nodes: int, precision: str, wait: float = 30.0
) -> Fabric:
    """Return Fabric for so many devices of that kind; it finds SLURM and torchrun by itself.

    A process that the others hear nothing of for `wait` minutes has failed.
    """
    # Its remarks on strategies and tensor cores are no news to the user of a command.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    several = devices * num_nodes > 1
    # Gradients lie where they are exchanged, so there is no second copy of them.
    ddp = DDPStrategy(timeout=timedelta(minutes=wait), gradient_as_bucket_view=True)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, as cuDNN's convolutions do anyway
    return Fabric(
        accelerator=device.type,
        devices=[device.index] if device.index is not None and not several else devices,
        num_nodes=num_nodes,
        precision=precision,  # type: ignore[arg-type]
        strategy=ddp if several else "auto",
    )


def next_batch(fabric: Fabric, stream: Iterator[Batch]) -> Batch:
    """Return the stream's next batch; an image that one process cannot read stops them all."""
    return together(fabric, lambda: next(stream))


def freeze_norms(module: nn.Module) -> int:
    """Return how many batch norms of `module` were put into eval mode.

    They then use the statistics they have and learn no new ones; their scale and shift still
    train. `module.train()` undoes it.
    """
    norms = [one for one in module.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.eval()
    return len(norms)


def frozen_norms(detector: Detector, batch_share: int) -> tuple[bool, str]:
    """Return whether the backbone's batch norms keep their statistics, and a line that says so.

    `batch_share` is the number of images a device sees at once.
    """
    backbone = getattr(detector, "backbone", None)
    wish = detector.config.freeze_norm
    if backbone is None or wish == "no" and not getattr(backbone, "folded_norms", False):
        return False, ""
    reason = "as asked"
    if getattr(backbone, "folded_norms", False):
        reason = "their statistics are part of the pretrained weights"
    elif wish == "auto":
        if not detector.pretrained or batch_share >= SMALL_BATCH:
            return False, ""
        reason = f"pretrained weights and only {counted(batch_share, 'image')} at once"
    count = freeze_norms(backbone)
    note = (
        f"{counted(count, 'batch norm')} of the backbone {agreed(count, 'is', 'are')} frozen: "
        f"{reason} (--set freeze_norm=...)"
    )
    return count > 0, note if count else ""


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
