"""What the network was shown: a batch drawn with its boxes, as pictures in `samples/`.

Ignored objects, which it learns nothing of, are crossed out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from detkit.data.images import write_image
from detkit.drawing import crossed_out, draw
from detkit.errors import DetkitError
from detkit.files import fitting_name
from detkit.structures import Batch

if TYPE_CHECKING:
    from detkit.detector import Detector
    from detkit.training.run_folder import RunFolder

NUM_SAMPLES = 8
OURS = re.compile(rf"\.?[1-{NUM_SAMPLES}]-.*\.jpg(\.\d+\.partial)?", re.DOTALL)


def write_samples(folder: Path, batch: Batch, detector: Detector) -> None:
    """Write the first images of a batch, as the network sees them, with their boxes drawn."""
    config, class_names = detector.config, detector.class_names
    folder.mkdir(exist_ok=True)
    for index in range(min(NUM_SAMPLES, len(batch))):
        pixels = shown_pixels(batch, index, config.mean, config.std)
        image = draw(
            crossed_out(pixels, batch.ignored_boxes[index].cpu().numpy()),
            [class_names[label] for label in batch.labels[index].tolist()],
            batch.boxes[index].cpu().numpy(),
            None,
            class_names=class_names,
        )
        # A mosaic's name is those of its four images: the first will do.
        name = PurePosixPath(batch.image_ids[index].partition("+")[0]).stem
        write_image(folder / fitting_name(f"{index + 1}-{name}.jpg"), image)


def show_failed(folder: RunFolder | None, batch: Batch, detector: Detector) -> str:
    """Write the images of a first step that failed; return the words that say where they are.

    An earlier run's folder stays as it was: then nothing is written, and "" returned.
    """
    if folder is None or folder.holds_run:
        return ""
    with suppress(DetkitError, OSError):  # what is to be told is why the step failed
        clear_samples(folder.samples)
        write_samples(folder.samples, batch, detector)
        return f"look at {folder.samples}, "
    return ""


def clear_samples(folder: Path) -> None:
    """Delete what `write_samples` wrote, and the folder when nothing else is in it."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if OURS.fullmatch(path.name):
            path.unlink()
    with suppress(OSError):
        folder.rmdir()


def holds_samples_alone(folder: Path) -> bool:
    """Return whether there is nothing in the folder but what `write_samples` wrote."""
    return folder.is_dir() and all(OURS.fullmatch(path.name) for path in folder.iterdir())


def shown_pixels(
    batch: Batch, index: int, mean: Sequence[float], std: Sequence[float]
) -> NDArray[np.uint8]:
    """Return the (h, w, 3) uint8 RGB image of a batch, without its padding.

    `mean` and `std` are those of the preparation, which is undone.
    """
    height, width = batch.sizes[index]
    pixels = batch.images[index, :, :height, :width].float().cpu().permute(1, 2, 0).numpy()
    pixels = pixels * np.array(std, np.float32) + np.array(mean, np.float32)
    return np.ascontiguousarray(np.rint(pixels * 255).clip(0, 255).astype(np.uint8))
