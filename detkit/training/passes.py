"""A pass over the training images, for what is fitted without gradients."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from detkit.detector import Detector
from detkit.errors import DetkitError
from detkit.structures import Batch
from detkit.training.dataset import TrainingDataset
from detkit.training.loader import BatchStream, SampleStream
from detkit.transforms.augmentation import Compose


def batches_once(
    images: TrainingDataset,
    detector: Detector,
    batch_size: int,
    seed: int,
    device: torch.device | str = "cpu",
) -> Iterator[Batch]:
    """Yield all images once, without augmentation, in an order by chance, ready on `device`.

    Every process yields all of them. Raises DetkitError naming an image that cannot be read.
    """
    samples = SampleStream(images, Compose([]), 0.0, detector.network_size(), seed)
    stream = BatchStream(samples, detector.preparation, batch_size)
    for first in range(0, len(images), batch_size):
        packed = stream.draws(first, min(batch_size, len(images) - first))
        if isinstance(packed, DetkitError):
            raise packed
        yield packed.unpack(device)
