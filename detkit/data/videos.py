"""Frames of video files, of cameras and of streams from a network, each with its time.

OpenCV decodes them. It and FFmpeg say nothing of their own: what is wrong is told in our words.
Files are turned as their rotation flag asks.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detkit.errors import DetkitError

QUIET = "-8"  # FFmpeg's AV_LOG_QUIET
WHOLE = 0.9  # ours: of some kinds of video, the number of frames is an estimate
PATIENCE = 10_000  # milliseconds that a stream may take to answer
_CAMERA = re.compile(r"camera:(\d+)")
_ADDRESS = re.compile(r"(?:rtsps?|rtmp|https?|udp|tcp|srt)://.+", re.IGNORECASE)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a video, or why there is none."""

    name: str  # "clip.mp4#00042"
    pixels: NDArray[np.uint8] | None  # (H, W, 3) RGB, upright
    seconds: float | None  # from the video's beginning
    error: str = ""


def is_stream(source: str) -> bool:
    """Return whether a source is a camera ("camera:0") or an address ("rtsp://..."), not a file."""
    return bool(_CAMERA.fullmatch(source) or _ADDRESS.fullmatch(source))


def frames_of_file(name: str, every: int) -> Iterator[Frame]:
    """Yield every `every`-th frame of a video file, from the first; one with an error if none."""
    if not Path(name).is_file():
        yield Frame(name, None, None, "no such video file")
        return
    with _opened(name) as video:
        number = 0
        for frame in _frames(video, name, every):
            number += 1
            if frame is not None:
                yield frame
        if number == 0:
            yield Frame(name, None, None, "not a video that can be read here")
        stated = int(_property(video, "CAP_PROP_FRAME_COUNT"))
        if 0 < number < WHOLE * stated:
            logger.warning(
                "%s: ends after %d of the %d frames that its header states; cut off?",
                name,
                number,
                stated,
            )


def frames_of_stream(source: str, every: int) -> Iterator[Frame]:
    """Yield every `every`-th frame of a camera or an address, without end if it has none.

    A password in an address is in no frame's name. Raises DetkitError when it cannot be opened or
    gives no frame.
    """
    name = re.sub(r"//[^/@]*@", "//", source)
    camera = _CAMERA.fullmatch(source)
    advice = (
        "is it plugged in, free and allowed? camera:0 is the first"
        if camera
        else "is the address right, and the sender on?"
    )
    with _opened(int(camera[1]) if camera else source) as video:
        if not video.isOpened():
            raise DetkitError(f"{name}: cannot be opened; {advice}")
        number = 0
        for frame in _frames(video, name, every, live=camera is not None):
            number += 1
            if frame is not None:
                yield frame
        if number == 0:
            raise DetkitError(f"{name}: gives no frame; {advice}")


def _frames(video: Any, name: str, every: int, *, live: bool = False) -> Iterator[Frame | None]:
    """Yield each frame until there is none left, None for those whose turn has not come.

    The time is the container's, as frames need not be equally far apart; of a live camera, and of
    a container that has none, it is the clock's and that of the frame rate.
    """
    import cv2

    began = time.monotonic()
    number = 0
    while video.grab():
        frame = None
        if number % every == 0:
            seconds = time.monotonic() - began if live else _seconds(video, number)
            decoded, pixels = video.retrieve()
            label = f"{name}#{number:05d}"
            if decoded:
                rgb = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)
                frame = Frame(label, rgb, seconds)
            else:
                frame = Frame(label, None, seconds, "the frame cannot be decoded")
        number += 1
        yield frame


def _seconds(video: Any, number: int) -> float | None:
    """Return the time of the frame just grabbed; None where the container tells none."""
    milliseconds = _property(video, "CAP_PROP_POS_MSEC")
    if milliseconds > 0 or number == 0:
        return round(max(milliseconds, 0.0) / 1000, 3)
    rate = _property(video, "CAP_PROP_FPS")
    return round(number / rate, 3) if 0 < rate < 1000 else None


def _property(video: Any, name: str) -> float:
    """Return a property of a video, 0 where it has none."""
    import cv2

    value = float(video.get(getattr(cv2, name)))
    return value if np.isfinite(value) else 0.0


@contextmanager
def _opened(source: str | int) -> Iterator[Any]:
    """Yield a video, which need not have opened, and let go of it; nothing is written to stderr."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", QUIET)
    import cv2

    log = cv2.utils.logging
    before = log.setLogLevel(log.LOG_LEVEL_SILENT)
    try:
        if isinstance(source, int):
            video = cv2.VideoCapture(source)
        elif is_stream(source):
            limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, PATIENCE]
            limits += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, PATIENCE]
            video = cv2.VideoCapture(source, cv2.CAP_FFMPEG, limits)
        else:
            video = cv2.VideoCapture(source)
            video.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
        try:
            yield video
        finally:
            video.release()
    finally:
        log.setLogLevel(before)
