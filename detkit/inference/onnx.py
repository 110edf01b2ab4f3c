"""ONNX models in onnxruntime, without torch: an exported network, and what stands around it.

The graph is `images` (B, 3, H, W) float32, RGB, resized, divided by 255 and normalised ->
`boxes` (B, K, 4) in network pixels and `scores` (B, K, C). What stands before and after it
(resizing, mean and std, thresholds, NMS, class names) is in the file's metadata, each value as
JSON, so that the file alone suffices; or in the graph, as `inference.onnx_ends` has it: then
detections come out of it, and pixels go in. `inference.onnx_export` writes such files.

Shape shorthand: B images a run (any number, or a fixed one), H x W network pixels, N images of
h x w pixels inside, K candidate boxes, C classes, D detections at most.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from detkit.config import DetectorConfig, from_json
from detkit.errors import DetkitError, UsageError, naming_extras
from detkit.geometry.nms_numpy import select
from detkit.stopwatch import Stopwatch
from detkit.structures import Detections, FloatArray

# What must be known beside the network to detect; all are fields of DetectorConfig.
RUNTIME_SETTINGS = (
    "mean",
    "std",
    "antialias",
    "score_thresh",
    "nms_thresh",
    "nms_method",
    "nms_sigma",
    "nms_min_score",
    "clip_before_nms",
    "pre_nms_top_k",
    "max_detections",
    "tile",
    "tile_overlap",
)
# What older files lack; these were written for what is DetectorConfig's default.
LATER_SETTINGS = ("nms_sigma", "nms_min_score", "clip_before_nms", "tile", "tile_overlap")
ENDS = ("raw", "nms")  # what the graph may have; older files lack the words
SMALLEST_SIDE = 0.01  # network pixels, as in `detector`


@dataclass(frozen=True, slots=True)
class NetworkSize:
    """The rule from an image's own (height, width) to the one it has inside the network's.

    "stretch" gives every image all of `size`; "fit" keeps its shape and leaves a rest. "free" is
    `transforms.preparation.shorter_side`, and `size` what it takes: (side, longest).
    """

    size: tuple[int, int]
    resize: Literal["stretch", "fit", "free"]

    def __call__(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) in network pixels."""
        if self.resize == "stretch":
            return self.size
        if self.resize == "free":
            side, longest = self.size
            scale = min(side / min(height, width), longest / max(height, width))
            return max(1, int(height * scale)), max(1, int(width * scale))
        scale = min(self.size[0] / height, self.size[1] / width)
        return max(1, round(height * scale)), max(1, round(width * scale))


@dataclass(frozen=True, slots=True)
class PixelBatch:
    """Images of one size made ready for an ONNX network, as plain numpy."""

    # (N, 3, h, w), normalised; (N, height, width, 3) uint8 where the graph does that
    images: FloatArray | NDArray[np.uint8]
    sizes: list[tuple[int, int]]  # (height, width) of each image in `images`
    original_sizes: list[tuple[int, int]]  # (height, width) of each image, own pixels
    image_ids: list[str]


class OnnxDetector:
    """An exported detector: its network runs in onnxruntime, the rest is detkit's own in NumPy.

    It detects, and can be evaluated, like any other; it cannot be trained.
    """

    name = "onnx"
    device = "cpu"
    proposal_method: str | None = None
    heads: tuple[str, ...] = ("",)

    def __init__(
        self, model: Path | bytes, threads: int | None = None, runs: bytes | None = None
    ) -> None:
        """Open a file that `export_onnx` wrote, or its content.

        `threads` is how many cores an operator may use, by default all; `runs` is the file's
        content in a form that is faster here, image by image. Raises DetkitError when the file
        cannot be read, is not of detkit, or the extra is missing.
        """
        with naming_extras("ONNX"):
            import onnxruntime
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors only: warnings would go to the terminal
        # A thread that spins while it waits takes the core from the one it waits for.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if threads is not None:
            options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        source = runs or (model if isinstance(model, bytes) else str(model))
        where = "the exported network" if isinstance(model, bytes) else str(model)
        if isinstance(model, Path) and not model.is_file():
            raise DetkitError(f"{model}: there is no such ONNX file")
        try:
            session = onnxruntime.InferenceSession(source, options, ["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors share no class of their own
            raise DetkitError(
                f"{where}: onnxruntime cannot open it: {first_line(error)}"
            ) from error
        header = _header(session.get_modelmeta().custom_metadata_map, where)
        try:
            known = {key: header[key] for key in RUNTIME_SETTINGS if key in header}
            config = from_json(DetectorConfig, known)
            config.validate()
        except UsageError as error:
            raise DetkitError(f"{where}: {error} (written by detkit {header['detkit']})") from error
        self.config = config
        self.class_names: tuple[str, ...] = tuple(header["class_names"])
        first, second = header["size"]
        self.rule = NetworkSize((first, second), header["resize"])
        self.backend = str(header["backend"])
        self.takes_pixels, self.ends_in_boxes = (bool(header.get(one)) for one in ENDS)
        self.input_shape: tuple[int | str, ...] = tuple(session.get_inputs()[0].shape)
        at_once = self.input_shape[0]
        self.at_once: int | None = at_once if isinstance(at_once, int) else None  # None: any
        self.replaceable = {one.name for one in session.get_overridable_initializers()}
        self.stopwatch = Stopwatch()
        self._session = session
        self._is_for_one = runs is not None  # tiles of several leave the cache and fill memory

    def prepare_image(
        self, pixels: NDArray[np.uint8], image_id: str = "", proposals: FloatArray | None = None
    ) -> PixelBatch:
        """Return an (H, W, 3) uint8 RGB image, resized and normalised, as a batch of one.

        As `transforms.preparation.Preparation` does. `proposals` are no use to the network.
        """
        original = pixels.shape[0], pixels.shape[1]
        if self.takes_pixels:
            return PixelBatch(pixels[None], [original], [original], [image_id])
        size = self.rule(*original)
        levels = resized(pixels, size, antialias=self.config.antialias)
        images = np.empty((1, 3, *size), np.float32)
        images[0] = levels.transpose(2, 0, 1)
        # Products in float32, in the order in which the training makes them.
        images -= _by_channel([255.0 * mean for mean in self.config.mean])
        images *= _by_channel([1.0 / (255.0 * std) for std in self.config.std])
        return PixelBatch(images, [size], [original], [image_id])

    def joined(self, batches: Sequence[PixelBatch]) -> PixelBatch:
        """Return one batch of batches whose images are of one size."""
        return PixelBatch(
            images=np.concatenate([one.images for one in batches]),
            sizes=[size for one in batches for size in one.sizes],
            original_sizes=[size for one in batches for size in one.original_sizes],
            image_ids=[name for one in batches for name in one.image_ids],
        )

    @contextmanager
    def detecting(self, timing: dict[str, float] | None = None) -> Iterator[None]:
        """Return a block in which stages of `detect` are timed."""
        own, self.stopwatch = self.stopwatch, Stopwatch(timing)
        try:
            yield
        finally:
            self.stopwatch = own

    def run(self, images: FloatArray | NDArray[np.uint8]) -> tuple[FloatArray, FloatArray]:
        """Return (boxes, scores) of `prepare_image`'s images, any number: the candidates.

        Of (N, 3, h, w) network images h <= H and w <= W.
        """
        boxes, scores = self._outputs(["boxes", "scores"], images, {})
        return boxes, scores

    def _outputs(
        self,
        names: Sequence[str],
        images: FloatArray | NDArray[np.uint8],
        beside: Mapping[str, NDArray[Any]],
    ) -> list[NDArray[Any]]:
        """Return the outputs of these names; `beside` are (N, ...) inputs beside the images."""
        num_images = len(images)
        at_once = self.at_once or (1 if self._is_for_one else num_images)
        images = images if self.takes_pixels else self.padded(images)
        inputs: dict[str, NDArray[Any]] = {
            "pixels" if self.takes_pixels else "images": images,
            **beside,
        }
        rest = -num_images % at_once  # the last run is filled with its last image
        if rest:
            inputs = {
                name: np.concatenate([value, value[-1:].repeat(rest, axis=0)])
                for name, value in inputs.items()
            }
        thresholds = {
            name: np.array([getattr(self.config, name)], np.float32) for name in self.replaceable
        }
        outputs = [
            self._session.run(
                names, {k: v[at : at + at_once] for k, v in inputs.items()} | thresholds
            )
            for at in range(0, num_images, at_once)
        ]
        if len(outputs) == 1 and not rest:
            return list(outputs[0])
        return [np.concatenate(parts)[:num_images] for parts in zip(*outputs)]

    def padded(self, images: NDArray[Any]) -> FloatArray:
        """Return (N, 3, h, w) images as (N, 3, H, W): zero at the right and the bottom.

        As they are where the network takes any H and W.
        """
        if self.rule.resize == "free":
            return images
        height, width = (int(side) for side in self.input_shape[2:])
        room = ((0, height - images.shape[2]), (0, width - images.shape[3]))
        return np.pad(images, ((0, 0), (0, 0), *room)) if any(map(any, room)) else images

    def detect(self, batch: PixelBatch) -> list[Detections]:
        """Return each image's detections, best first, in its own pixels."""
        if self.ends_in_boxes:
            return self._detected(batch)
        found = self.run(batch.images)
        with self.stopwatch.stage("selection"):
            return [
                self._selected(batch, index, boxes, scores)
                for index, (boxes, scores) in enumerate(zip(*found))
            ]

    def detect_by_head(self, batch: PixelBatch) -> dict[str, list[Detections]]:
        """Return what `detect` does, by the name of the one head."""
        return {self.heads[0]: self.detect(batch)}

    def _detected(self, batch: PixelBatch) -> list[Detections]:
        """Return the detections of a file that ends in them."""
        sizes = {} if self.takes_pixels else {"image_sizes": np.array(batch.original_sizes)}
        outputs = self._outputs(["boxes", "scores", "labels", "count"], batch.images, sizes)
        return [
            Detections(boxes[:count], scores[:count], labels[:count], name)
            for boxes, scores, labels, count, name in zip(*outputs, batch.image_ids)
        ]

    def _selected(
        self, batch: PixelBatch, index: int, boxes: FloatArray, scores: FloatArray
    ) -> Detections:
        """Return what is left of image `index`'s candidates after NMS, in its own pixels."""
        config = self.config
        original = batch.original_sizes[index]
        size = self.rule(*original)
        inside = _clipped(boxes, size)
        flat = (inside[..., 2:] - inside[..., :2]).min(axis=-1) < np.float32(SMALLEST_SIDE)
        none = flat if flat.ndim == 2 else flat[:, None]
        boxes, scores, labels = select(
            inside if config.clip_before_nms else boxes,
            np.where(none, np.float32(-math.inf), scores),
            score_thresh=config.score_thresh,
            nms_thresh=config.nms_thresh,
            top_k=config.pre_nms_top_k,
            max_detections=config.max_detections,
            method=config.nms_method,
            sigma=config.nms_sigma,
            min_score=config.nms_min_score,
        )
        y, x = size[0] / original[0], size[1] / original[1]
        boxes = _clipped(np.divide(boxes, np.array([x, y, x, y], np.float32)), original)
        return Detections(boxes, scores, labels, batch.image_ids[index])


def resized(
    pixels: NDArray[np.uint8], size: tuple[int, int], *, antialias: bool
) -> NDArray[np.uint8] | FloatArray:
    """Return the (H, W, 3) uint8 image as (h, w, 3): uint8, without antialiasing float32.

    Bilinear. With antialiasing to the bit as torch does it, which rounds the weights to 16 bits and
    the rows before the columns; Pillow, with weights of 22, gives one grey level in 1,000 by one
    more or less. Without, torch's interpolation is OpenCV's on floats.
    """
    if not antialias:
        levels = cv2.resize(pixels.astype(np.float32), size[::-1], interpolation=cv2.INTER_LINEAR)
        return np.asarray(levels, np.float32)
    for axis in (1, 0):
        if pixels.shape[axis] != size[axis]:
            pixels = _resized_along(pixels, size[axis], axis)
    return pixels


def _resized_along(pixels: NDArray[np.uint8], side: int, axis: int) -> NDArray[np.uint8]:
    """Return the (H, W, 3) image with `side` pixels along one axis."""
    own = pixels.shape[axis]
    ratio = own / side
    reach = max(ratio, 1.0)  # how far a pixel's triangle goes, own pixels
    centres = (np.arange(side) + 0.5) * ratio
    first = np.maximum((centres - reach + 0.5).astype(int), 0)
    places = first[:, None] + np.arange(math.ceil(2 * reach) + 1)
    apart = np.abs(places + 0.5 - centres[:, None]) / reach
    weights = np.where(places < own, np.maximum(1 - apart, 0), 0)
    weights /= weights.sum(axis=1, keepdims=True)
    # As many binary digits as let the largest weight be an int16.
    digits = max(n for n in range(23) if int(0.5 + weights.max() * 2**n) < 2**15)
    whole = np.floor(weights * 2**digits + 0.5).astype(np.int32)
    lines = np.ascontiguousarray(pixels.swapaxes(0, axis), np.int32)  # to take whole ones
    total = np.full((side, *lines.shape[1:]), 2**digits // 2, np.int32)
    for place, weight in zip(np.minimum(places, own - 1).T, whole.T):
        part = lines.take(place, axis=0)
        part *= weight[:, None, None]
        total += part
    return np.asarray((total >> digits).swapaxes(0, axis), np.uint8)


def run_onnx(path: Path, image: NDArray[np.uint8]) -> Detections:
    """Return the detections in an (H, W, 3) uint8 RGB image, best first, in its own pixels.

    Nothing but the file `path` is needed. For many images keep `detkit.open_model(path)`, which is
    faster at each, and give it to `detkit.inference.predict`. Raises DetkitError when the file
    cannot be run.
    """
    detector = OnnxDetector(path)
    (found,) = detector.detect(detector.prepare_image(image))
    return found


def _by_channel(values: Sequence[float]) -> FloatArray:
    """Return three values as (3, 1, 1) float32."""
    return np.array(values, np.float32).reshape(3, 1, 1)


def _clipped(boxes: FloatArray, size: tuple[int, int]) -> FloatArray:
    """Return the (..., 4) boxes cut at the borders of an image of `size` (height, width)."""
    height, width = size
    return np.clip(boxes, 0, np.array([width, height, width, height], np.float32))


def _header(metadata: Mapping[str, str], where: str) -> dict[str, Any]:
    """Return the values of a file's metadata; raises DetkitError when they are not detkit's."""
    wanted = ("detkit", "backend", "class_names", "size", "resize", *RUNTIME_SETTINGS, *ENDS)
    try:
        return {
            key: json.loads(metadata[key])
            for key in wanted
            if key in metadata or key not in (*LATER_SETTINGS, *ENDS)
        }
    except (KeyError, ValueError) as error:
        raise DetkitError(
            f"{where}: not an ONNX file of detkit, its metadata lack {error}; write it with "
            "`detkit export`"
        ) from error


def first_line(error: Exception) -> str:
    """Return the line of an error that tells most, not too long."""
    cause = error.__cause__ or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return (lines[0] if lines else type(cause).__name__)[:200]
