"""Views of an image: what a detector looks at one by one, the whole, tiles of it, TTA's variants.

The whole image comes first. Everything else adds to it: tiles show small objects larger,
test-time augmentation (TTA) shows them mirrored or at other scales. `merged` makes one list of
detections of all. Plain NumPy.

Shape shorthand: H x W pixels of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from detkit.config import DetectorConfig, require_within
from detkit.data.images import scaled_down
from detkit.errors import UsageError
from detkit.geometry.tiles import cut_by, merge, num_tiles, tile_windows
from detkit.inference.strips import MANY_PIXELS, Strips
from detkit.proposals.source import FileProposals, ProposalSource, shown_of
from detkit.structures import Detections, FloatArray
from detkit.text import nearest_hint

TTA = ("flip", "scale")
WHOLE_SIDE = 4096  # ours: of a very large image; no network of the five sees a longer one
ZOOM = 0.75  # ours: what "scale" shows is this part of the image, enlarged; and it, shrunk by this


@dataclass(frozen=True, slots=True)
class View:
    """A window of an image, which may reach beyond it, mirrored or not."""

    window: tuple[int, int, int, int]  # x1, y1, x2, y2 in the image's pixels
    flipped: bool = False  # left is right
    scale: float = 1.0  # below 1: it is shown shrunk, since all of a very large image is too much

    def pixels_of(
        self, image: NDArray[np.uint8] | Strips, fill: Sequence[int]
    ) -> NDArray[np.uint8]:
        """Return what it shows of an (H, W, 3) image, with the RGB colour `fill` beyond it."""
        if self.scale < 1:
            longest = round(self.scale * max(image.shape))
            image = (
                image.shrunk(longest) if isinstance(image, Strips) else scaled_down(image, longest)
            )
        height, width = image.shape[:2]
        x1, y1, x2, y2 = (round(self.scale * side) for side in self.window)
        shown = image[max(y1, 0) : min(y2, height), max(x1, 0) : min(x2, width)]
        if min(x1, y1) < 0 or x2 > width or y2 > height:
            canvas = np.empty((y2 - y1, x2 - x1, 3), np.uint8)
            canvas[:] = np.array(fill, np.uint8)
            top, left = max(-y1, 0), max(-x1, 0)
            canvas[top : top + shown.shape[0], left : left + shown.shape[1]] = shown
            shown = canvas
        if self.flipped:
            shown = shown[:, ::-1]
        return np.ascontiguousarray(shown)  # of the whole image: itself

    def boxes_of(self, boxes: FloatArray) -> FloatArray:
        """Return the (N, 4) boxes of the image where this view has them."""
        x1, y1, x2, y2 = self.window
        boxes = boxes - np.array([x1, y1, x1, y1], np.float32)
        boxes = _mirrored(boxes, x2 - x1) if self.flipped else boxes
        return np.asarray(boxes * np.float32(self.scale))

    def boxes_in_image(self, boxes: FloatArray) -> FloatArray:
        """Return the (N, 4) boxes of this view where the image has them."""
        x1, y1, x2, y2 = self.window
        boxes = boxes / np.float32(self.scale)
        boxes = _mirrored(boxes, x2 - x1) if self.flipped else boxes
        return boxes + np.array([x1, y1, x1, y1], np.float32)


def proposals_of(
    source: ProposalSource,
    name: str,
    image: NDArray[np.uint8] | Strips,
    view: View,
    shown: NDArray[np.uint8],
) -> FloatArray:
    """Return the (P, 4) proposals in what a view of an (H, W, 3) image has `shown`.

    A method makes them of what is shown. A file has them of the image: those of which half and
    more is shown, cut to it. Raises DetkitError when it has none of the image.
    """
    if not isinstance(source, FileProposals):
        return source(name, shown).boxes
    boxes = view.boxes_of(source.find(name, (image.shape[0], image.shape[1])).boxes)
    boxes, keep = shown_of(boxes, *shown.shape[:2])
    return boxes[keep]


def _mirrored(boxes: FloatArray, width: int) -> FloatArray:
    """Return the (N, 4) boxes in the mirror image, `width` pixels wide."""
    x1, y1, x2, y2 = boxes.T
    return np.stack([width - x2, y1, width - x1, y2], axis=1)


def require_tta(names: Sequence[str]) -> None:
    """Raise UsageError for a variant that `TTA` does not have."""
    for name in names:
        if name not in TTA:
            hint = nearest_hint(name, TTA, f"there is {', '.join(TTA)}")
            raise UsageError(f"--tta {name}: no such variant; {hint}")


def fill_of(config: DetectorConfig) -> list[int]:
    """Return the RGB colour of what lies beyond an image: what the network sees as 0."""
    return [round(255 * value) for value in config.mean]


def with_tiles(
    config: DetectorConfig, tile: int | None, tile_overlap: float | None
) -> DetectorConfig:
    """Return the config with other tiles, where they are given; UsageError for what none may be."""
    if tile is not None:
        require_within(config, "tile", tile, f"--tile {tile}")
        config = replace(config, tile=tile)
    if tile_overlap is not None:
        require_within(config, "tile_overlap", tile_overlap, f"--overlap {tile_overlap:g}")
        config = replace(config, tile_overlap=tile_overlap)
    return config


def views_of(
    height: int, width: int, config: DetectorConfig, tta: Sequence[str] = ()
) -> list[View]:
    """Return the views of an H x W image by a config's `tile`, and by `tta`'s variants.

    The whole image first. "scale" adds its four corners, enlarged, and the image shrunk on a
    canvas; "flip" adds the mirror image of each of all these. Of a very large image that has
    tiles all but these are shown shrunk.
    """
    tiles: list[View] = []
    scale = 1.0
    if num_tiles(height, width, config.tile, config.tile_overlap):
        windows = tile_windows(height, width, config.tile, config.tile_overlap)
        tiles = [View((x1, y1, x2, y2)) for x1, y1, x2, y2 in windows.tolist()]
        if height * width > MANY_PIXELS:
            scale = WHOLE_SIDE / max(height, width)
    views = [View((0, 0, width, height), scale=scale), *tiles]
    if "scale" in tta:
        views += [View(window, scale=scale) for window in _scaled(height, width)]
    if "flip" in tta:
        views += [replace(one, flipped=True) for one in views]
    return views


def _scaled(height: int, width: int) -> list[tuple[int, int, int, int]]:
    """Return TTA's windows for the scales: the corners of an H x W image, and what is around it."""
    h, w = max(1, round(height * ZOOM)), max(1, round(width * ZOOM))
    around_y, around_x = round(height / ZOOM) - height, round(width / ZOOM) - width
    x, y = around_x // 2, around_y // 2
    corners = [(left, top, left + w, top + h) for top in (0, height - h) for left in (0, width - w)]
    return [*corners, (-x, -y, width + around_x - x, height + around_y - y)]


def merged(
    views: Sequence[View],
    found: Sequence[Detections],
    height: int,
    width: int,
    nms_thresh: float,
) -> Detections:
    """Return the detections of an H x W image, best first, from those of its views.

    Those of a single view of the whole are returned as they are. See `geometry.tiles.merge`.
    """
    if len(views) == 1:
        return found[0]
    extent = np.array([width, height] * 2, np.float32)
    parts, cuts = [], []
    for view, one in zip(views, found, strict=True):
        boxes = np.clip(view.boxes_in_image(one.boxes), 0, extent)
        parts.append(boxes)
        cuts.append(cut_by(boxes, np.array(view.window, np.int64), height, width))
    boxes = np.concatenate(parts)
    inside = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(axis=1)  # not on the canvas around alone
    # Left and right of a mirrored view are cut by the borders of the same window.
    numbers = {window: n for n, window in enumerate(dict.fromkeys(one.window for one in views))}
    tiles = np.repeat(
        np.array([numbers[view.window] for view in views], np.int64), [len(one) for one in parts]
    )
    boxes, scores, labels = merge(
        boxes[inside],
        np.concatenate([one.scores for one in found])[inside],
        np.concatenate([one.labels for one in found])[inside],
        tiles[inside],
        np.concatenate(cuts)[inside],
        nms_thresh=nms_thresh,
    )
    return Detections(boxes, scores, labels, found[0].image_id)
