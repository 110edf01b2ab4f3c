"""The images that went worst, small enough for a page.

Shape shorthand: N detections, R objects.
"""

from __future__ import annotations

import base64
import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detkit.data.images import read_image, scaled_down
from detkit.data.records import ImageRecord
from detkit.errors import DetkitError
from detkit.evaluation.error_breakdown import IGNORED, RIGHT, ErrorBreakdown
from detkit.evaluation.gain import FoundOnly
from detkit.structures import Detections, Scores, Truth

MOST_IMAGES = 48
LONG_SIDE = 400  # pixels
QUALITY = 72  # of the JPEG
MOST_BYTES = 2_400_000  # of all together, as JPEG; a third more as base64
MOST_BOXES = 100  # detections of one image, the best
MOST_CLOSE_UPS = 24
CLOSE_UP_SIDE = 120  # pixels
AROUND = 1.5  # times an object's longer side that is shown around it


@dataclass(frozen=True, slots=True)
class CloseUp:
    """An object with what is around it."""

    source: str  # the picture as the address of an <img>
    words: str  # "a.jpg: car, 14 x 20 pixels"


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
        return _address(self.jpeg)


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


def close_ups(objects: Sequence[FoundOnly], records: Sequence[ImageRecord]) -> list[CloseUp]:
    """Return pictures of the first objects, of each image at most one more than of others.

    At most 24; those of images that cannot be read are left out.
    """
    paths = {record.image_id: record.path for record in records}
    turns: defaultdict[int, list[FoundOnly]] = defaultdict(list)
    seen: Counter[str] = Counter()
    for one in objects:
        turns[seen[one.image_id]].append(one)
        seen[one.image_id] += 1
    chosen = [one for turn in sorted(turns) for one in turns[turn]][:MOST_CLOSE_UPS]
    found = []
    for image_id, of_image in itertools.groupby(
        sorted(chosen, key=lambda one: one.image_id), lambda one: one.image_id
    ):
        try:
            pixels = read_image(paths[image_id])
        except DetkitError:
            continue
        found += [_close_up(pixels, one, paths[image_id]) for one in of_image]
    return found


def _close_up(pixels: NDArray[np.uint8], one: FoundOnly, path: Path) -> CloseUp:
    """Return the object of an image with what is around it, enlarged where it is small."""
    import cv2

    x1, y1, x2, y2 = one.box
    half = max(x2 - x1, y2 - y1, 2.0) * (0.5 + AROUND)
    height, width = pixels.shape[:2]
    left, top = (max(0, int((low + high) / 2 - half)) for low, high in ((x1, x2), (y1, y2)))
    cut = pixels[top : min(height, int(top + 2 * half)), left : min(width, int(left + 2 * half))]
    scale = CLOSE_UP_SIDE / max(cut.shape[:2])
    large = cv2.resize(cut, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    words = f"{Path(one.image_id).name}: {one.label}, {x2 - x1:.0f} x {y2 - y1:.0f} pixels"
    return CloseUp(jpeg_address(np.asarray(large, np.uint8), path), words)


def jpeg_address(pixels: NDArray[np.uint8], path: Path) -> str:
    """Return (H, W, 3) pixels, at most `LONG_SIDE` wide and high, as the address of an <img>.

    Raises DetkitError naming `path` when that cannot be done.
    """
    return _address(_thumbnail(pixels, path))


def _address(jpeg: bytes) -> str:
    """Return a JPEG as the address of an <img>."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


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
