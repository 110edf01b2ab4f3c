"""Prediction: detections for any number of images, in order and in flat memory.

Threads read, decode and resize the next batch while the network works on this one:

    images -> feeding thread -> pool: decode, prepare -> queue, in order -> network -> caller

At most two batches are decoded at any time, however slow the network or the caller.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from detkit.config import DetectorConfig, require_within
from detkit.data.sources import ImageSource
from detkit.detector import Detector
from detkit.errors import UsageError
from detkit.inference.reader import ImageReader, ReadAndPrepare, ReadImage
from detkit.predictions.image import ImagePredictions, from_detections
from detkit.proposals.source import ProposalSource, source_for
from detkit.stopwatch import Stopwatch
from detkit.structures import Batch, Detections
from detkit.text import nearest_hint

BATCH_SIZE = 8
READ_STAGES = ("decode", "prepare", "network")


@dataclass(frozen=True, slots=True)
class Prediction:
    """What was found in one image, and its pixels, for drawing."""

    predictions: ImagePredictions
    pixels: NDArray[np.uint8] | None  # (H, W, 3) RGB; None when it could not be read


def predict(
    detector: Detector,
    images: Iterable[ImageSource | Path | str] | Path | str,
    *,
    batch_size: int = BATCH_SIZE,
    score_thresh: float | None = None,
    thresholds: Mapping[str, float] | None = None,
    nms_thresh: float | None = None,
    proposals: ProposalSource | None = None,
    timing: dict[str, float] | None = None,
    detect: Callable[[Batch], list[Detections]] | None = None,
) -> Iterator[ImagePredictions]:
    """Yield what the detector finds in each image; `detect_images` without the pixels.

    One path stands for the image there.
    """
    found = detect_images(
        detector,
        [images] if isinstance(images, str | Path) else images,
        batch_size=batch_size,
        score_thresh=score_thresh,
        thresholds=thresholds,
        nms_thresh=nms_thresh,
        proposals=proposals,
        timing=timing,
        detect=detect,
    )
    with contextlib.closing(found):
        for one in found:
            yield one.predictions


def detect_images(
    detector: Detector,
    images: Iterable[ImageSource | Path | str],
    *,
    batch_size: int = BATCH_SIZE,
    score_thresh: float | None = None,
    thresholds: Mapping[str, float] | None = None,
    nms_thresh: float | None = None,
    proposals: ProposalSource | None = None,
    timing: dict[str, float] | None = None,
    detect: Callable[[Batch], list[Detections]] | None = None,
) -> Generator[Prediction, None, None]:
    """Return a generator of what the detector finds in each image, in the images' order.

    An image that cannot be read is a `Prediction` whose `predictions.error` says why. The
    detector runs in eval mode, where its weights are, on batches of images of one network size.
    `score_thresh` is the score a box must exceed and `thresholds` the least one of single
    classes; like `nms_thresh` they stand in for the config's. A detector that wants proposals
    gets those of `proposals`, by default as its config says. Seconds go to `timing`: of
    "decode", "propose" and "prepare", all in threads, of "network", "selection" (NMS) and
    whatever finer stages the detector's `stopwatch` has. `detect` stands in for the detector's
    own.

    Closing the generator stops the threads. Raises UsageError for a threshold that the
    detector's config does not allow or of a class that it does not have, and for proposals that
    it does not take or cannot do without.
    """
    if batch_size < 1:
        raise UsageError(f"--batch-size {batch_size}: must be at least 1")
    config = detector.config
    if nms_thresh is not None:
        require_within(config, "nms_thresh", nms_thresh, f"--nms {nms_thresh:g}")
        config = dataclasses.replace(config, nms_thresh=nms_thresh)
    if score_thresh is not None:
        require_within(config, "score_thresh", score_thresh, f"--score {score_thresh:g}")
        config = dataclasses.replace(config, score_thresh=score_thresh)
    config.validate()
    limits = _limits(config, thresholds or {}, detector.class_names)
    config = dataclasses.replace(config, score_thresh=min(limits, default=config.score_thresh))
    source = source_for(detector, proposals)
    stages = ("decode", "propose", "prepare", "network") if source else READ_STAGES
    if timing is not None:
        timing.update({stage: timing.get(stage, 0.0) for stage in stages})
    reading = ReadAndPrepare(detector.prepare, source)
    detect = detect or detector.detect
    return _detect(detector, detect, images, batch_size, config, limits, reading, timing)


def _limits(
    config: DetectorConfig, thresholds: Mapping[str, float], class_names: Sequence[str]
) -> list[float]:
    """Return the least score of each of the C classes."""
    limits = [config.score_thresh] * len(class_names)
    for name, value in thresholds.items():
        if name not in class_names:
            hint = nearest_hint(name, class_names, f"it has {', '.join(class_names)}")
            raise UsageError(f"--threshold {name}={value:g}: the model has no such class; {hint}")
        require_within(config, "score_thresh", value, f"--threshold {name}={value:g}")
        limits[class_names.index(name)] = value
    return limits


def _detect(
    detector: Detector,
    detect: Callable[[Batch], list[Detections]],
    images: Iterable[ImageSource | Path | str],
    batch_size: int,
    config: DetectorConfig,
    limits: Sequence[float],
    reading: ReadAndPrepare,
    timing: dict[str, float] | None,
) -> Generator[Prediction, None, None]:
    """Yield the predictions: the network's side of the queue."""
    was_training = detector.training
    detector.eval()
    own_watch = detector.stopwatch
    detector.stopwatch = Stopwatch(timing, _wait_for(detector.device))
    reader = ImageReader(images, reading, 2 * batch_size)
    try:
        for window in reader.windows(batch_size):
            if timing is not None:
                for stage, spent in _seconds_of(window):
                    timing[stage] = timing.get(stage, 0.0) + spent
            with detector.stopwatch.stage("network"):
                found = _detections(detector, detect, window, config)
            for detections in found:
                # Nothing here may hold the image any longer than the caller does.
                yield _prediction(window.popleft(), detections, limits, detector.class_names)
                reader.release()
    finally:
        reader.close()
        detector.stopwatch = own_watch
        detector.train(was_training)


def _detections(
    detector: Detector,
    detect: Callable[[Batch], list[Detections]],
    window: Sequence[ReadImage],
    config: DetectorConfig,
) -> list[Detections | None]:
    """Return what is found in each image of a window; None where there is no image."""
    groups: dict[tuple[int, int], list[int]] = {}
    for index, image in enumerate(window):
        if image.batch is not None:
            groups.setdefault(image.batch.sizes[0], []).append(index)
    found: list[Detections | None] = [None] * len(window)
    device = detector.device
    own_config = detector.config
    detector.config = config
    try:
        for indices in groups.values():
            batch = _joined([one for one in (window[i].batch for i in indices) if one is not None])
            for index, detections in zip(indices, detect(batch.to(device)), strict=True):
                found[index] = detections
    finally:
        detector.config = own_config
    return found


def _seconds_of(window: Iterable[ReadImage]) -> Iterator[tuple[str, float]]:
    """Yield the stages that a window's images went through in the threads, and their seconds."""
    for one in window:
        yield from one.seconds.items()


def _wait_for(device: torch.device) -> Callable[[], None] | None:
    """Return what waits until the device has done its work; None where nothing runs ahead."""
    return functools.partial(torch.cuda.synchronize, device) if device.type == "cuda" else None


def _joined(batches: Sequence[Batch]) -> Batch:
    """Return one batch of batches whose images are of one size."""
    proposals = [one.proposals for one in batches if one.proposals is not None]
    return Batch(
        images=torch.cat([one.images for one in batches]),
        sizes=[size for one in batches for size in one.sizes],
        original_sizes=[size for one in batches for size in one.original_sizes],
        boxes=[boxes for one in batches for boxes in one.boxes],
        labels=[labels for one in batches for labels in one.labels],
        difficult=[difficult for one in batches for difficult in one.difficult],
        proposals=list(itertools.chain(*proposals)) if proposals else None,
        image_ids=[name for one in batches for name in one.image_ids],
    )


def _prediction(
    image: ReadImage, found: Detections | None, limits: Sequence[float], class_names: Sequence[str]
) -> Prediction:
    """Return an image's detections that reach the least score of their class."""
    if image.pixels is None or found is None:
        return Prediction(
            ImagePredictions(
                image=image.name,
                width=0,
                height=0,
                labels=(),
                scores=np.zeros(0, np.float32),
                boxes=np.zeros((0, 4), np.float32),
                error=image.error,
            ),
            None,
        )
    keep = found.scores >= np.array(limits, np.float32)[found.labels]
    found = Detections(found.boxes[keep], found.scores[keep], found.labels[keep], found.image_id)
    height, width = image.pixels.shape[:2]
    return Prediction(from_detections(found, class_names, image.name, width, height), image.pixels)
