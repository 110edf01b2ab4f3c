"""Which tiles of the training images are trained on, and what each shows: known before a pixel is.

Shape shorthand: H x W own pixels, R objects, T tiles of an image.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from detkit.config import DetectorConfig
from detkit.errors import UsageError
from detkit.geometry.tiles import num_tiles, tile_windows
from detkit.structures import BoolArray, IntArray, Truth
from detkit.text import agreed, counted

MAX_TILES = 1_000_000  # ours: a tile that is chosen too small is told before memory is full

Labelled = tuple[Truth, tuple[int, int]]  # an image's objects, and its (height, width)


@dataclass(frozen=True, slots=True)
class Tile:
    """A window of an image with its objects, which are cut to it, in its own pixels."""

    image: int
    window: IntArray  # (4,) x1, y1, x2, y2 in the image
    truth: Truth
    ignored: BoolArray  # (R,) objects of which too little is seen, and those ignored anyway

    @property
    def size(self) -> tuple[int, int]:
        """The (height, width)."""
        x1, y1, x2, y2 = self.window.tolist()
        return y2 - y1, x2 - x1


@dataclass(frozen=True, slots=True)
class TilePlan:
    """The tiles that are trained on, image by image, and what was left out."""

    tiles: tuple[Tile, ...]
    labelled: tuple[Labelled, ...]  # each image's objects, and its (height, width)
    counts: tuple[int, ...]  # of each image's tiles, used or not
    num_made: int  # all tiles
    num_empty: int  # those among them that show no object
    num_empty_used: int

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """The (height, width) of each image."""
        return tuple(size for _, size in self.labelled)

    @property
    def note(self) -> str:
        """What is to be told of it."""
        images, used = counted(len(self.sizes), "image", ","), f"{self.num_empty_used:,}"
        makes = agreed(len(self.sizes), "makes", "make")
        if not self.num_made:
            return f"{images} {makes} no tiles: nothing is larger than a tile"
        empty = ""
        if self.num_empty:
            empty = f" ({self.num_empty:,} of them empty, of which {used} are used)"
        return (
            f"{images} {makes} {counted(self.num_made, 'tile', ',')}{empty}; an epoch shows "
            f"{counted(len(self.tiles) + len(self.sizes), 'sample', ',')}, the whole images among "
            "them"
        )


def plan_tiles(
    labelled: Iterable[Labelled],
    config: DetectorConfig,
    seed: int,
    ignored: Sequence[BoolArray] | None = None,
) -> TilePlan:
    """Return the tiles of images that are trained on, by the config's settings of tiles.

    `ignored[i]` (R,) are the objects of image `i` that are ignored in any case; None: none are.
    Of an object the share `tile_visible` must be seen, else it is ignored there. All tiles are
    used that show something of an object; of the others so many, drawn by `seed`, as there are of
    those times `tile_empty`. Raises UsageError when there are far too many.
    """
    known = list(labelled)
    sizes = tuple(size for _, size in known)
    side, overlap = config.tile, config.tile_overlap
    counts = [num_tiles(*size, side, overlap) for size in sizes]
    if sum(counts) > MAX_TILES:
        makes = agreed(len(sizes), "makes", "make")
        raise UsageError(
            f"--tile {side}: {counted(len(sizes), 'image', ',')} {makes} {sum(counts):,} tiles, "
            "above the limit of "
            f"{MAX_TILES:,}; take larger ones, or less --overlap"
        )
    tiles: list[Tile] = []
    empty: list[Tile] = []
    for image, ((truth, size), count) in enumerate(zip(known, counts)):
        if count:
            windows = tile_windows(*size, side, overlap)
            left_out = None if ignored is None else ignored[image]
            for tile in cut(image, truth, size, windows, config.tile_visible, left_out):
                (tiles if len(tile.ignored) else empty).append(tile)
    used = min(len(empty), round(config.tile_empty * len(tiles)))
    chosen = np.random.default_rng([seed, 1]).choice(len(empty), used, replace=False)
    tiles += [empty[index] for index in chosen.tolist()]
    tiles.sort(key=lambda tile: (tile.image, *tile.window[[1, 0]].tolist()))
    return TilePlan(tuple(tiles), tuple(known), tuple(counts), sum(counts), len(empty), used)


def cut(
    image: int,
    truth: Truth,
    size: tuple[int, int],
    windows: IntArray,
    visible: float,
    ignored: BoolArray | None = None,
) -> Iterator[Tile]:
    """Yield the tile of each of the windows (T, 4) of image number `image`, H x W `size`.

    An object of which a window shows less than the share `visible` of the area is ignored there,
    and one of the `ignored` (R,) everywhere; what lies outside of the image is no part of it.
    """
    height, width = size
    boxes = np.clip(truth.boxes, 0, np.array([width, height] * 2, np.float32))
    low, high = windows[:, None, :2].astype(np.float32), windows[:, None, 2:].astype(np.float32)
    corners = np.clip(boxes[:, :2], low, high), np.clip(boxes[:, 2:], low, high)  # (T, R, 2)
    shown = (corners[1] - corners[0]).prod(axis=2)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    for number, window in enumerate(windows):
        rows = np.flatnonzero(shown[number] > 0)
        seen = np.concatenate([corner[number, rows] - low[number] for corner in corners], axis=1)
        objects = replace(truth.rows(rows), boxes=seen, stated_areas=None)
        hidden = shown[number, rows] < visible * areas[rows]
        left_out = hidden if ignored is None else hidden | ignored[rows]
        yield Tile(image, window, objects, left_out)


def cost_in_words(labelled: Iterable[Labelled], config: DetectorConfig) -> str:
    """Return what the config's tiles cost on these images: how many, and how much longer."""
    plan = plan_tiles(labelled, config, seed=0)
    images, samples = len(plan.sizes), len(plan.tiles) + len(plan.sizes)
    return (
        f"{plan.num_made / images:.3g} tiles an image: an epoch takes {samples / images:.1f} times "
        f"as long, detection {1 + plan.num_made / images:.1f} times"
    )
