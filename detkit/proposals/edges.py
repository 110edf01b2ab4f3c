"""Edges of an image with their orientations: the input of Edge Boxes.

Shape shorthand: H x W pixels.

An edge map is float32 in [0, 1], thin, 0 where there is no edge. An orientation is float32 in
[0, pi), the direction of the gradient, across the edge, y downwards.

The paper takes both from structured forests (Dollar and Zitnick 2013), whose model has to be
downloaded; `structured_edges` does so with a file at hand. `gradient_edges` needs none: the
gradient of all Lab channels and several scales, divided by its own local mean. Without that
division an image of low contrast has next to no edges: on cell images Edge Boxes then finds
next to nothing.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from detkit.errors import DetkitError
from detkit.structures import FloatArray

# All ours, chosen by recall on photographs and microscope images; no test set's figure hangs on
# the third digit of any.
SIGMAS = (1.0, 2.0)  # px, the scales whose gradients are summed
TENSOR_SIGMA = 1.0  # px, over which gradients that disagree cancel in orientation, not strength
LOCAL_RADIUS = 12  # px, half the side of the square whose mean gradient an edge is compared with
LOCAL_SHARE = 0.25  # the edge strength of a pixel whose gradient is its reference
# Lab's lightness in [0, 1] a pixel: half a grey level, below which there is only noise.
NOISE = 0.002


def gradient_edges(image: NDArray[np.uint8]) -> tuple[FloatArray, FloatArray]:
    """Return (edge map, orientation), each (H, W), of an (H, W, 3) RGB or (H, W) grey image.

    The gradient of a colour image is that of its structure tensor, summed over the channels
    (Di Zenzo 1986) and the scales `SIGMAS`: strength is the root of the larger eigenvalue. It is
    divided by its mean around the pixel plus that of the image (after Dollar's gradient
    normalisation, which has a constant for the latter), and thinned to its ridges.
    """
    xx, xy, yy = _structure_tensor(image)
    strength = np.sqrt((xx + yy + np.sqrt((xx - yy) ** 2 + 4 * xy * xy)) / 2)
    # The eigenvector's angle: half that of (xx - yy, 2 xy), modulo pi.
    orientation = _modulo_pi(np.arctan2(2 * xy, xx - yy) / 2)
    side = 2 * LOCAL_RADIUS + 1
    local = cv2.blur(strength, (side, side), borderType=cv2.BORDER_REFLECT)
    reference = local + np.float32(strength.mean(dtype=np.float64) + NOISE)
    edges = np.minimum(LOCAL_SHARE * strength / reference, 1).astype(np.float32)
    return _thinned(edges, orientation), orientation


def edge_detector(model_file: Path) -> Any:
    """Return OpenCV's detector of the structured forest in `model_file`, its `model.yml.gz`.

    Raises DetkitError when the installed OpenCV lacks `ximgproc` or cannot read the file.
    """
    if not model_file.is_file():
        raise DetkitError(f"{model_file}: there is no such edge model file")
    if not hasattr(cv2, "ximgproc"):
        raise DetkitError(
            f"{model_file}: the installed OpenCV cannot use it, having no ximgproc; install "
            "opencv-contrib-python-headless in place of opencv-python-headless, or leave the "
            "edge model out for detkit's own edges"
        )
    with _told(model_file):
        return cv2.ximgproc.createStructuredEdgeDetection(str(model_file))


def structured_edges(image: NDArray[np.uint8], model_file: Path) -> tuple[FloatArray, FloatArray]:
    """Return (edge map, orientation), each (H, W), by the structured forest in `model_file`.

    `image` is (H, W, 3) RGB or (H, W) grey. Raises DetkitError as `edge_detector` does.
    """
    written = model_file.stat().st_mtime_ns if model_file.is_file() else 0
    detector = _kept_detector(model_file, written, threading.get_ident())
    colour = np.ascontiguousarray(_three_channels(image), np.float32) / 255
    with _told(model_file):
        strength = detector.detectEdges(colour)
        orientation = detector.computeOrientation(strength)
        edges = detector.edgesNms(strength, orientation)
    return np.asarray(edges, np.float32), _modulo_pi(np.asarray(orientation, np.float32))


@functools.lru_cache(maxsize=64)
def _kept_detector(model_file: Path, written: int, thread: int) -> Any:
    """Return a thread's own detector, since OpenCV does not say that threads may share one.

    Kept because it is read from a file of megabytes; `written`, the time, tells a new file.
    """
    return edge_detector(model_file)


@contextmanager
def _told(model_file: Path) -> Iterator[None]:
    """Tell what OpenCV does not like about the model in one line."""
    try:
        yield
    except (cv2.error, SystemError) as error:
        reason = " ".join(str(error).split())
        raise DetkitError(
            f"{model_file}: is no structured edge model that OpenCV can read ({reason})"
        ) from error


def _three_channels(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if image.ndim == 2:
        image = image[..., None]
    return image if image.shape[2] == 3 else np.repeat(image[..., :1], 3, axis=2)


def _modulo_pi(angle: FloatArray) -> FloatArray:
    """Return angles in [0, pi): -0.0000001 becomes 0 and not, as rounded modulo, pi."""
    pi = np.float32(np.pi)
    turned = np.mod(angle, pi)
    return np.asarray(np.where(turned >= pi, 0, turned), np.float32)


def _structure_tensor(image: NDArray[np.uint8]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the sums over channels and scales of gx gx, gx gy and gy gy, each (H, W)."""
    lab = cv2.cvtColor(_three_channels(image).astype(np.float32) / 255, cv2.COLOR_RGB2Lab) / 100
    height, width = lab.shape[:2]
    total = np.zeros((3, height, width), np.float32)
    for sigma in SIGMAS:
        smooth = cv2.GaussianBlur(lab, (0, 0), sigma)
        gx = cv2.Sobel(smooth, cv2.CV_32F, 1, 0, scale=1 / 8)
        gy = cv2.Sobel(smooth, cv2.CV_32F, 0, 1, scale=1 / 8)
        # sigma^2 makes gradients of blurred images comparable (Lindeberg 1998, eq. 9).
        for place, (one, other) in enumerate(((gx, gx), (gx, gy), (gy, gy))):
            total[place] += sigma**2 * (one * other).sum(axis=2)
    xx, xy, yy = (
        np.asarray(cv2.GaussianBlur(part, (0, 0), TENSOR_SIGMA), np.float32) for part in total
    )
    return xx, xy, yy


def _thinned(edges: FloatArray, orientation: FloatArray) -> FloatArray:
    """Return the edges that are at least as strong as both neighbours across them; 0 elsewhere."""
    rows = np.arange(edges.shape[0], dtype=np.float32)[:, None]
    columns = np.arange(edges.shape[1], dtype=np.float32)[None]
    dx, dy = np.cos(orientation), np.sin(orientation)
    ridge = edges > 0
    for way in (-1, 1):
        there = cv2.remap(
            edges,
            columns + way * dx,
            rows + way * dy,
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        ridge &= edges >= there
    return np.where(ridge, edges, np.float32(0)).astype(np.float32)
