"""What a trained model finds in a split, how long that takes and how much memory.

`measure` is called in a process of its own, so that the memory is this model's alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from detkit.data import open_dataset
from detkit.data.records import Dataset, ImageRecord
from detkit.errors import DetkitError
from detkit.predictions.writers import open_writer


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of one trained model."""

    backend: str
    num_images: int
    seconds: float | None  # for all images, from file to boxes; None where a command looked
    stages: dict[str, float]  # seconds for all images; those in threads pass beside the others
    memory_mib: float  # the most while detecting: on the GPU, or by the process; 0 if unknown
    model_bytes: int | None  # None where a command keeps its own
    training_seconds: float | None  # None where the run folder does not say
    training_memory_mib: float | None
    training_steps: int | None
    trained_on: str | None  # the data's hash in the model file
    warnings: tuple[str, ...] = ()  # what may make the score mean something else


def measure(
    run: Path,
    data: Path,
    split: str,
    out: Path,
    *,
    images: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    device: str = "auto",
    batch_size: int = 1,
    plugins: Sequence[str] = (),
) -> Measured:
    """Return what was measured of a run's model on a split; its detections go to `out`.

    With `images`, their ids, it is measured on those, of whatever split. The detections are
    written as JSON Lines. The first image is looked at once before the
    clock starts. Raises DetkitError when the model or an image cannot be read.
    """
    from detkit.inference.models import model_of, open_model
    from detkit.inference.predict import predict
    from detkit.model_file import model_info
    from detkit.training.run_log import memory_mib, training_cost

    model = model_of(run)
    dataset = open_dataset(data, classes=classes)
    records = dataset.splits[split] if images is None else with_ids(dataset, images)
    detector = open_model(model, device, plugins=plugins)
    paths = [record.path for record in records]
    for _ in predict(detector, paths[:1], batch_size=1):  # compiles, loads proposals' code
        pass
    stages: dict[str, float] = {}
    began = time.perf_counter()
    with open_writer("jsonl", out, class_names=detector.class_names, force=True) as writer:
        for one in predict(detector, paths, batch_size=batch_size, timing=stages):
            if one.error is not None:
                raise DetkitError(f"{one.image}: {one.error}; `detkit check` lists such images")
            writer.write(one.of_classes(dataset.class_names))
    seconds = time.perf_counter() - began
    peak = memory_mib(detector.device)
    trained = training_cost(run)
    return Measured(
        backend=detector.name,
        num_images=len(records),
        seconds=seconds,
        stages=stages,
        memory_mib=peak,
        model_bytes=model.stat().st_size,
        training_seconds=trained[0],
        training_memory_mib=trained[1],
        training_steps=trained[2],
        trained_on=model_info(model)["data_hash"],
    )


def with_ids(dataset: Dataset, images: Sequence[str]) -> list[ImageRecord]:
    """Return the records of these ids, whatever their splits; DetkitError where one is missing."""
    known = {one.image_id: one for members in dataset.splits.values() for one in members}
    for name in images:
        if name not in known:
            raise DetkitError(f"{dataset.root}: image {name} is there no more")
    return [known[name] for name in images]
