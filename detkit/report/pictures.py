"""The images that went worst, small enough for a page.

Shape shorthand: N detections, R objects.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detkit.data.images import read_image, scaled_down
from detkit.data.records import ImageRecord
from detkit.errors import DetkitError
from detkit.evaluation.error_breakdown import IGNORED, RIGHT, ErrorBreakdown
from detkit.structures import Detections, Scores, Truth

MOST_IMAGES = 48
LONG_SIDE = 400  # pixels
QUALITY = 72  # of the JPEG
MOST_BYTES = 2_400_000  # of all together, as JPEG; a third more as base64
MOST_BOXES = 100  # detections of one image, the best


@dataclass(frozen=True, slots=True)
class Picture:
    """An image as the page shows it, with its boxes."""

    index: int  # of the image in its split
    width: int  # own pixels
    height: int
    jpeg: bytes
    num_wrong: int  # wrong detections, and ...
    num_missed: int  # ... objects not found, each at its class's threshold of best F1

    @property
    def source(self) -> str:
        """Return the picture as the address of an <img>."""
        return f"data:image/jpeg;base64,{base64.b64encode(self.jpeg).decode()}"


def worst_first(
    detections: Sequence[Detections],
    truths: Sequence[Truth],
    errors: ErrorBreakdown,
    scores: Scores,
) -> list[tuple[int, int, int]]:
    """Return (image, wrong detections, missed objects) of all images, the most errors first.

    They are counted at each class's threshold of best F1; a class without one has found
    nothing, and its detections do not count. `errors` is the breakdown of the detections.
    """
    least = np.array(
        [np.inf if one.best_threshold is None else one.best_threshold for one in scores.classes]
    )
    rows = []
    images = zip(detections, truths, errors.kinds, errors.finds, strict=True)
    for index, (found, wanted, kind, finds) in enumerate(images):
        shown = found.scores >= least[found.labels]
        num_wrong = int((shown & (kind != RIGHT) & (kind != IGNORED)).sum())
        num_found = int((shown & (finds >= 0)).sum())
        rows.append((index, num_wrong, int((~wanted.difficult).sum()) - num_found))
    return sorted(rows, key=lambda row: (-row[1] - row[2], -row[2], row[0]))


def pictures(
    order: Sequence[tuple[int, int, int]], records: Sequence[ImageRecord]
) -> tuple[list[Picture], list[str]]:
    """Return the first pictures of an order by `worst_first`, and why others could not be read.

    At most 48, and as many as fit into 2.4 MB.
    """
    chosen: list[Picture] = []
    unread: list[str] = []
    size = 0
    for index, num_wrong, num_missed in order:
        if len(chosen) + len(unread) == MOST_IMAGES:
            break
        try:
            pixels = read_image(records[index].path)
        except DetkitError as error:
            unread.append(str(error))
            continue
        jpeg = _thumbnail(pixels, records[index].path)
        size += len(jpeg)
        if size > MOST_BYTES:
            break
        height, width = pixels.shape[:2]
        chosen.append(Picture(index, width, height, jpeg, num_wrong, num_missed))
    return chosen, unread


def _thumbnail(pixels: NDArray[np.uint8], path: Path) -> bytes:
    """Return the image as a small JPEG."""
    import cv2

    small = scaled_down(pixels, LONG_SIDE)
    done, data = cv2.imencode(
        ".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
    )
    if not done:
        raise DetkitError(f"{path}: its thumbnail could not be made")
    return data.tobytes()
