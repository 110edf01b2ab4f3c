"""Prediction: detections for any number of images, in order and in flat memory.

Threads read, decode and resize the next batch while the network works on this one:

    images -> feeding thread -> pool: decode, prepare -> queue, in order -> network -> caller

At most two batches are decoded at any time, however slow the network or the caller. Of an image
that is looked at in several views, tiles for one, two batches of views are prepared at any time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import (
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    MutableSequence,
    Sequence,
)
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from detkit.config import DetectorConfig, require_within
from detkit.data.sources import ImageSource
from detkit.errors import DetkitError, UsageError
from detkit.inference.reader import MAX_THREADS, ImageReader, ReadAndPrepare, ReadImage
from detkit.inference.strips import Strips
from detkit.inference.views import View, fill_of, merged, require_tta, views_of, with_tiles
from detkit.machine import num_cores
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
    by_head: Mapping[str, ImagePredictions]  # of each of the detector's heads, if asked for
    # (H, W, 3) RGB, strips of a very large one; None when it could not be read
    pixels: NDArray[np.uint8] | Strips | None


def predict(
    detector: Finder[BatchT],
    images: Iterable[ImageSource | Path | str] | Path | str,
    *,
    batch_size: int = BATCH_SIZE,
    score_thresh: float | None = None,
    thresholds: Mapping[str, float] | None = None,
    nms_thresh: float | None = None,
    proposals: ProposalSource | None = None,
    tile: int | None = None,
    tile_overlap: float | None = None,
    tta: Sequence[str] = (),
    timing: dict[str, float] | None = None,
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
        tile=tile,
        tile_overlap=tile_overlap,
        tta=tta,
        timing=timing,
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
    tile: int | None = None,
    tile_overlap: float | None = None,
    tta: Sequence[str] = (),
    timing: dict[str, float] | None = None,
    by_head: bool = False,
) -> Generator[Prediction, None, None]:
    """Return a generator of what the detector finds in each image, in the images' order.

    An image that cannot be read is a `Prediction` whose `predictions.error` says why. The
    detector runs in eval mode, where its weights are, on batches of images of one network size.
    `score_thresh` is the score a box must exceed and `thresholds` the least one of single
    `score_thresh` is the score a box must exceed and `thresholds` the least one of single
    classes; like `nms_thresh` they stand in for the config's, below which, unlike these, soft-NMS
    may lower a score. A detector that wants proposals gets those of `proposals`, by default as its
    config says. Images larger than `tile` are looked
    at whole and in tiles of that side, two neighbours of which share `tile_overlap` of it (0: no
    tiles; None: as the config says), and with `tta`'s variants (see `inference.views`); what is
    found is merged. Seconds go to `timing`: of "decode", "propose" and "prepare", all in threads,
    of "network", "selection" (NMS), "merge" and whatever finer stages the detector's `stopwatch`
    has. With `by_head` each of the detector's heads detects, from one pass.

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
    config = with_tiles(config, tile, tile_overlap)
    require_tta(tta)
    config.validate()
    limits = _limits(config, thresholds or {}, detector.class_names)
    config = dataclasses.replace(config, score_thresh=min(limits, default=config.score_thresh))
    if score_thresh is None and config.nms_method != "greedy":
        # The default threshold is for what enters soft-NMS, which says itself what it keeps.
        limits = _limits(config, thresholds or {}, detector.class_names, config.nms_min_score)
    source = source_for(detector, proposals)
    stages = ("decode", "propose", "prepare", "network") if source else READ_STAGES
    if timing is not None:
        timing.update({stage: timing.get(stage, 0.0) for stage in stages})
    views = functools.partial(views_of, config=config, tta=tta)
    reading = ReadAndPrepare(
        detector.prepare_image, source, views, fill_of(config), in_tiles=config.tile > 0
    )
    detect = detector.detect_by_head if by_head else functools.partial(_by_one_head, detector)
    looking = _Looking(detector, detect, config, limits, batch_size, reading)
    return _detect(looking, images, timing)


def _by_one_head(detector: Finder[BatchT], batch: BatchT) -> dict[str, list[Detections]]:
    """Return the detections of a batch's images by the name of the detector's own head."""
    return {detector.heads[0]: detector.detect(batch)}


def _limits(
    config: DetectorConfig,
    thresholds: Mapping[str, float],
    class_names: Sequence[str],
    default: float | None = None,
) -> list[float]:
    """Return the least score of each of the C classes; by `default` the config's."""
    limits = [config.score_thresh if default is None else default] * len(class_names)
    for name, value in thresholds.items():
        if name not in class_names:
            hint = nearest_hint(name, class_names, f"it has {', '.join(class_names)}")
            raise UsageError(f"--score {name}={value:g}: the model has no such class; {hint}")
        require_within(config, "score_thresh", value, f"--score {name}={value:g}")
        limits[class_names.index(name)] = value
    return limits


@dataclass(frozen=True)
class _Looking(Generic[BatchT]):
    """A detector at work: by which thresholds, on how many views at once, prepared how."""

    detector: Finder[BatchT]
    detect: Callable[[BatchT], dict[str, list[Detections]]]
    config: DetectorConfig
    limits: Sequence[float]  # the least score of each of the C classes
    batch_size: int
    reading: ReadAndPrepare[BatchT]


def _detect(
    looking: _Looking[BatchT],
    images: Iterable[ImageSource | Path | str],
    timing: dict[str, float] | None,
) -> Generator[Prediction, None, None]:
    """Yield the predictions: the network's side of the queue."""
    detector, size = looking.detector, looking.batch_size
    blocks = contextlib.ExitStack()
    blocks.enter_context(detector.detecting(timing))
    reader = ImageReader(images, looking.reading, 2 * size)
    try:
        for window in reader.windows(size):
            found = _detections(looking, window)
            if timing is not None:
                for stage, spent in _seconds_of(window):
                    timing[stage] = timing.get(stage, 0.0) + spent
            for by_head in found:
                # Nothing here may hold the image any longer than the caller does.
                yield _prediction(window.popleft(), by_head, looking)
                reader.release()
    finally:
        reader.close()
        blocks.close()


def _detections(
    looking: _Looking[BatchT], window: MutableSequence[ReadImage[BatchT]]
) -> list[dict[str, Detections]]:
    """Return what is found in each image of a window, by head; {} where there is no image.

    An image of which a view cannot be decoded is put into the window as one without pixels.
    """
    detector = looking.detector
    views = [(index, view) for index, image in enumerate(window) for view in image.views]
    found: list[dict[str, list[Detections]]] = [{} for _ in window]
    own_config = detector.config
    detector.config = looking.config
    try:
        for chunk, batches in _prepared(looking, window, views):
            with detector.stopwatch.stage("network"):
                of_views = _of_batches(looking, batches)
            for (index, _), by_head in zip(chunk, of_views, strict=True):
                for head, one in by_head.items():
                    found[index].setdefault(head, []).append(one)
    finally:
        detector.config = own_config
    is_merged = any(len(image.views) > 1 for image in window)
    with detector.stopwatch.stage("merge") if is_merged else contextlib.nullcontext():
        return [
            {
                head: merged(image.views, parts, *image.size, looking.config.nms_thresh)
                for head, parts in by_head.items()
                if image.pixels is not None
            }
            for image, by_head in zip(window, found, strict=True)
        ]


def _prepared(
    looking: _Looking[BatchT],
    window: MutableSequence[ReadImage[BatchT]],
    views: Sequence[tuple[int, View]],
) -> Iterator[tuple[Sequence[tuple[int, View]], list[BatchT]]]:
    """Yield as many views as a batch holds, with what the network is given of each.

    Of each image's first view this was made when it was read. Others are prepared in threads,
    the next batch while the network works on this one.
    """
    whole = {index: image.batch for index, image in enumerate(window) if image.batch is not None}
    if len(whole) == len(views):
        yield views, list(whole.values())
        return

    def prepare(index: int, view: View) -> tuple[BatchT, dict[str, float]] | DetkitError | None:
        image = window[index]
        if image.pixels is None:  # another view of it could not be decoded
            return None
        if view == image.views[0]:
            return whole[index], {}
        try:
            return looking.reading.prepared(image, view)
        except DetkitError as error:
            return error

    size = looking.batch_size
    chunks = [views[at : at + size] for at in range(0, len(views), size)]
    with ThreadPoolExecutor(min(MAX_THREADS, num_cores()), "detkit-prepare") as pool:
        try:
            coming = [pool.submit(prepare, *at) for at in chunks[0]]
            for chunk, after in zip(chunks, [*chunks[1:], []], strict=True):
                due, coming = coming, [pool.submit(prepare, *at) for at in after]
                ready = []
                for (index, view), future in zip(chunk, due, strict=True):
                    done = future.result()
                    if isinstance(done, DetkitError):
                        window[index] = window[index].failed(done)
                    elif done is not None:
                        window[index].add(done[1])
                        ready.append(((index, view), done[0]))
                yield [at for at, _ in ready], [batch for _, batch in ready]
        finally:
            pool.shutdown(cancel_futures=True)


def _of_batches(
    looking: _Looking[BatchT], batches: Sequence[BatchT]
) -> list[dict[str, Detections]]:
    """Return what is found in each of the batches of one, by head; those of one size together."""
    groups: dict[tuple[int, int], list[int]] = {}
    for index, batch in enumerate(batches):
        groups.setdefault(batch.sizes[0], []).append(index)
    found: list[dict[str, Detections]] = [{} for _ in batches]
    for indices in groups.values():
        joined = looking.detector.joined([batches[index] for index in indices])
        for head, of_head in looking.detect(joined).items():
            for index, detections in zip(indices, of_head, strict=True):
                found[index][head] = detections
    return found


def _seconds_of(window: Iterable[ReadImage[BatchT]]) -> Iterator[tuple[str, float]]:
    """Yield the stages that a window's images went through in the threads, and their seconds."""
    for one in window:
        yield from one.seconds.items()


def _prediction(
    image: ReadImage[BatchT], by_head: Mapping[str, Detections], looking: _Looking[BatchT]
) -> Prediction:
    """Return an image's detections that reach the least score of their class."""
    if image.pixels is None:
        error = ImagePredictions(
            image=image.name,
            width=0,
            height=0,
            labels=(),
            scores=np.zeros(0, np.float32),
            boxes=np.zeros((0, 4), np.float32),
            error=image.error,
            seconds=image.time,
        )
        return Prediction(error, {}, None)
    height, width = image.size
    predictions = {}
    for head, found in by_head.items():
        keep = found.scores >= np.array(looking.limits, np.float32)[found.labels]
        kept = Detections(found.boxes[keep], found.scores[keep], found.labels[keep], found.image_id)
        named = from_detections(kept, looking.detector.class_names, image.name, width, height)
        predictions[head] = dataclasses.replace(named, seconds=image.time)
    return Prediction(predictions[looking.detector.heads[0]], predictions, image.pixels)
