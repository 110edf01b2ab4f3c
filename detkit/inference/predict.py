"""Prediction: detections for any number of images, in order and in flat memory.

Threads read, decode and resize the next batch while the network works on this one:

    images -> feeding thread -> pool: decode, prepare -> queue, in order -> network -> caller

At most two batches are decoded at any time, however slow the network or the caller.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from detkit.config import DetectorConfig, require_within
from detkit.data.sources import ImageSource
from detkit.errors import UsageError
from detkit.inference.reader import ImageReader, ReadAndPrepare, ReadImage
from detkit.predictions.image import ImagePredictions, from_detections
from detkit.proposals.source import ProposalSource, source_for
from detkit.stopwatch import Stopwatch
from detkit.structures import Detections, FloatArray
from detkit.text import nearest_hint

if TYPE_CHECKING:
    import torch

BATCH_SIZE = 8
READ_STAGES = ("decode", "prepare", "network")


class Prepared(Protocol):
    """Images made ready for a network: `structures.Batch`, or an ONNX model's."""

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """The (height, width) of each image, network pixels."""


BatchT = TypeVar("BatchT", bound=Prepared)


class Finder(Protocol[BatchT]):
    """What finds objects: all that this file asks of a `Detector` or an `OnnxDetector`."""

    config: DetectorConfig  # its thresholds, which stand for a call's while it lasts
    class_names: tuple[str, ...]
    stopwatch: Stopwatch

    @property
    def name(self) -> str:
        """The backend's name."""

    @property
    def device(self) -> torch.device | str:
        """Where the network runs."""

    @property
    def proposal_method(self) -> str | None:
        """The default method of its proposals; None: it wants none."""

    @property
    def heads(self) -> tuple[str, ...]:
        """The names of the heads that judge the same features, the config's first."""

    def prepare_image(
        self, pixels: NDArray[np.uint8], image_id: str = "", proposals: FloatArray | None = None
    ) -> BatchT:
        """Return an (H, W, 3) uint8 RGB image, with its proposals (P, 4), as a batch of one."""

    def joined(self, batches: Sequence[BatchT]) -> BatchT:
        """Return one batch, where the network runs, of batches whose images are of one size."""

    def detecting(
        self, timing: dict[str, float] | None = None
    ) -> contextlib.AbstractContextManager[None]:
        """Return the block in which `detect` is called; seconds of its stages go to `timing`."""

    def detect(self, batch: BatchT) -> list[Detections]:
        """Return each image's detections, best first, in its own pixels."""

    def detect_by_head(self, batch: BatchT) -> dict[str, list[Detections]]:
        """Return what `detect` would by each of `heads`, from one pass."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What was found in one image, and its pixels, for drawing."""

    predictions: ImagePredictions
    pixels: NDArray[np.uint8] | None  # (H, W, 3) RGB; None when it could not be read


def predict(
    detector: Finder[BatchT],
    images: Iterable[ImageSource | Path | str] | Path | str,
    *,
    batch_size: int = BATCH_SIZE,
    score_thresh: float | None = None,
    thresholds: Mapping[str, float] | None = None,
    nms_thresh: float | None = None,
    proposals: ProposalSource | None = None,
    timing: dict[str, float] | None = None,
    detect: Callable[[BatchT], list[Detections]] | None = None,
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
    detector: Finder[BatchT],
    images: Iterable[ImageSource | Path | str],
    *,
    batch_size: int = BATCH_SIZE,
    score_thresh: float | None = None,
    thresholds: Mapping[str, float] | None = None,
    nms_thresh: float | None = None,
    proposals: ProposalSource | None = None,
    timing: dict[str, float] | None = None,
    detect: Callable[[BatchT], list[Detections]] | None = None,
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
    reading = ReadAndPrepare(detector.prepare_image, source)
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
    detector: Finder[BatchT],
    detect: Callable[[BatchT], list[Detections]],
    images: Iterable[ImageSource | Path | str],
    batch_size: int,
    config: DetectorConfig,
    limits: Sequence[float],
    reading: ReadAndPrepare[BatchT],
    timing: dict[str, float] | None,
) -> Generator[Prediction, None, None]:
    """Yield the predictions: the network's side of the queue."""
    blocks = contextlib.ExitStack()
    blocks.enter_context(detector.detecting(timing))
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
        blocks.close()


def _detections(
    detector: Finder[BatchT],
    detect: Callable[[BatchT], list[Detections]],
    window: Sequence[ReadImage[BatchT]],
    config: DetectorConfig,
) -> list[Detections | None]:
    """Return what is found in each image of a window; None where there is no image."""
    groups: dict[tuple[int, int], list[int]] = {}
    for index, image in enumerate(window):
        if image.batch is not None:
            groups.setdefault(image.batch.sizes[0], []).append(index)
    found: list[Detections | None] = [None] * len(window)
    own_config = detector.config
    detector.config = config
    try:
        for indices in groups.values():
            batches = [one for one in (window[i].batch for i in indices) if one is not None]
            batch = detector.joined(batches)
            for index, detections in zip(indices, detect(batch), strict=True):
                found[index] = detections
    finally:
        detector.config = own_config
    return found


def _seconds_of(window: Iterable[ReadImage[BatchT]]) -> Iterator[tuple[str, float]]:
    """Yield the stages that a window's images went through in the threads, and their seconds."""
    for one in window:
        yield from one.seconds.items()


def _prediction(
    image: ReadImage[BatchT],
    found: Detections | None,
    limits: Sequence[float],
    class_names: Sequence[str],
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
                seconds=image.time,
            ),
            None,
        )
    keep = found.scores >= np.array(limits, np.float32)[found.labels]
    found = Detections(found.boxes[keep], found.scores[keep], found.labels[keep], found.image_id)
    height, width = image.pixels.shape[:2]
    named = from_detections(found, class_names, image.name, width, height)
    return Prediction(dataclasses.replace(named, seconds=image.time), image.pixels)
