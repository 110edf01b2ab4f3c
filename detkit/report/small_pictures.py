"""Images and parts of them, small enough for a page, as many as fit into so many bytes.

WebP, which at this size takes half the bytes of a JPEG and which browsers have known since 2020.
"""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detkit.data.images import read_image, scaled_down
from detkit.errors import DetkitError
from detkit.text import printable

QUALITY = 66  # of the WebP
_AT_ONCE = 64  # wishes between two looks at the bytes that are left

Window = tuple[float, float, float, float]  # xyxy, own pixels


@dataclass(frozen=True, slots=True)
class Wish:
    """A picture that is wanted: of a whole image, or of a part of it."""

    path: Path
    side: int  # pixels of its longer side, at most
    window: Window | None = None


@dataclass(frozen=True, slots=True)
class Taken:
    """A picture as it was taken."""

    webp: bytes
    window: Window  # what of the upright image it shows, whole pixels
    size: tuple[int, int]  # (height, width) of the whole image, own pixels

    @property
    def source(self) -> str:
        """Return the picture as the address of an <img>."""
        return f"data:image/webp;base64,{base64.b64encode(self.webp).decode()}"


def take_pictures(
    wishes: Sequence[Wish],
    most_bytes: int,
    *,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[Wish, Taken], dict[Path, str]]:
    """Return the pictures of the first wishes that fit into `most_bytes`, and what is unreadable.

    The second is why, by file. A window that lies outside its image has no picture. `progress`
    hears (wishes done, in all).
    """
    taken: dict[Wish, Taken] = {}
    unread: dict[Path, str] = {}
    used = 0
    wishes = list(dict.fromkeys(wishes))
    with ThreadPoolExecutor(threads) as pool:  # OpenCV works without Python's lock
        for start in range(0, len(wishes), _AT_ONCE):
            of_image: defaultdict[Path, list[Wish]] = defaultdict(list)
            for wish in wishes[start : start + _AT_ONCE]:
                if wish.path not in unread:
                    of_image[wish.path].append(wish)
            for path, found in zip(of_image, pool.map(_take, of_image.values())):
                if isinstance(found, str):
                    unread[path] = found
                    continue
                for wish, one in found.items():
                    used += len(one.webp)
                    if used > most_bytes:
                        return taken, unread
                    taken[wish] = one
            if progress is not None:
                progress(min(start + _AT_ONCE, len(wishes)), len(wishes))
    return taken, unread


def _take(wishes: Sequence[Wish]) -> dict[Wish, Taken] | str:
    """Return the pictures of one image, or why it cannot be read."""
    path = wishes[0].path
    try:
        pixels = read_image(path)
        found = {wish: _cut(pixels, wish) for wish in wishes}
    except DetkitError as error:
        return printable(str(error).removeprefix(f"{path}: "))
    except ValueError:  # a name that no file can have
        return "no file can have this name"
    return {wish: one for wish, one in found.items() if one is not None}


def _cut(pixels: NDArray[np.uint8], wish: Wish) -> Taken | None:
    """Return the picture of a wish; None where its window lies outside the image."""
    import cv2

    height, width = pixels.shape[:2]
    x1, y1, x2, y2 = wish.window or (0, 0, width, height)
    left, top = max(0, int(np.floor(x1))), max(0, int(np.floor(y1)))
    right, bottom = min(width, int(np.ceil(x2))), min(height, int(np.ceil(y2)))
    if left >= right or top >= bottom:
        return None
    # An image of a thousand to one would be a line of no height: a pixel is left of it.
    small = scaled_down(np.ascontiguousarray(pixels[top:bottom, left:right]), wish.side)
    try:
        done, data = cv2.imencode(
            ".webp", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_WEBP_QUALITY, QUALITY]
        )
    except cv2.error as error:  # an OpenCV built without WebP
        raise DetkitError(f"{wish.path}: its picture could not be made ({error})") from error
    if not done:
        raise DetkitError(f"{wish.path}: its picture could not be made")
    return Taken(data.tobytes(), (left, top, right, bottom), (height, width))
