"""The training data set of tiles: crops of large images, made on the fly, beside whole images.

A tile is cut from its image in that one's own pixels, which are never shrunk. Whole images are
samples, too, as without tiles: one more scale, for objects that are larger than a tile. Objects
that are too small to be found there are ignored in them, since their tiles show them (SNIP, Singh
and Davis 2018: at each scale only objects of the sizes that are to be found at it are learnt).

Shape shorthand: H x W own pixels, R objects, P proposals.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from detkit import machine
from detkit.config import DetectorConfig
from detkit.data.images import read_image
from detkit.proposals.table import ProposalTable, make_table
from detkit.structures import IntArray, Sample, Truth
from detkit.training.dataset import CACHE_SHARE, TrainingDataset, best_overlaps, spread
from detkit.training.epoch_order import EpochOrder, grouped, shuffled
from detkit.training.tile_plan import Tile, plan_tiles

# Ours: of decoded images whose tiles are shown mixed. Large enough that a batch is of many images
# (12 megapixels: 30 of them), small enough that each data worker holds it.
GROUP_BYTES = 2**30

# (R, 4) boxes in own pixels, and the (height, width) of their image -> (R,) bool
Reachable = Callable[[Tensor, tuple[int, int]], Tensor]


class TiledDataset:
    """The whole images of a training set, and then their tiles, as samples."""

    def __init__(
        self,
        images: TrainingDataset,
        config: DetectorConfig,
        seed: int,
        reachable: Reachable | None = None,
    ) -> None:
        """Take the images; their headers are read. Raises UsageError for far too many tiles.

        `reachable` says which objects (R, 4), own pixels, of an image of (height, width) can be
        found in the whole of it; without it all can.
        """
        self.images = images
        self.source = images.source
        self.plan = plan_tiles(images.all_labelled(), config, seed, images.ignored)
        # Of each image that has tiles, (R,) bool: what is too small in the whole of it.
        self._too_small = {
            index: ~reachable(torch.from_numpy(truth.boxes), size)
            for index, (truth, size) in enumerate(self.plan.labelled)
            if reachable is not None and self.plan.counts[index] and len(truth.boxes)
        }
        self.decoded = DecodedImages([one.path for one in images.records], self.plan.sizes)
        self._proposals: ProposalTable | None = None
        tiled = [tile.image for tile in self.plan.tiles]
        self._image_of = np.array([*range(len(images)), *tiled], np.int64)
        self._orders: OrderedDict[tuple[int, int], EpochOrder] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of samples: images and tiles."""
        return len(self._image_of)

    def __getitem__(self, index: int) -> Sample:
        """Return an image or, from `len(images)` on, a tile; DetkitError if it cannot be read.

        The name of a tile is that of its image with `@x,y`, where in it the tile begins.
        """
        number = index - len(self.images)
        if number < 0:
            return self._whole(index)
        tile = self.plan.tiles[number]
        x1, y1, x2, y2 = tile.window.tolist()
        pixels = self.decoded[tile.image][y1:y2, x1:x2].clone()
        truth = tile.truth
        return Sample(
            image=pixels.permute(2, 0, 1),
            boxes=torch.from_numpy(truth.boxes.copy()),
            labels=torch.from_numpy(truth.labels.copy()),
            difficult=torch.from_numpy(truth.difficult.copy()),
            proposals=self._proposals_of(number),
            image_id=f"{truth.image_id}@{x1},{y1}",
            ignored=torch.from_numpy(tile.ignored.copy()),
        )

    def _whole(self, index: int) -> Sample:
        """Return a whole image; what is too small there and shown by tiles is ignored."""
        sample = self.images[index]
        if index not in self._too_small:
            return sample
        return replace(sample, ignored=self._too_small[index] | sample.is_ignored)

    def order(self, seed: int, epoch: int) -> EpochOrder:
        """Return the order in which an epoch shows the samples.

        Of images that together take more than `GROUP_BYTES`, decoded, those of a few are shown
        before those of the next: else each tile would cost the decoding of an image. It does not
        depend on how much memory there is.
        """
        if self.decoded.num_bytes.sum() <= GROUP_BYTES:
            return shuffled(seed, epoch, len(self))
        if (seed, epoch) not in self._orders:
            num_bytes = self.decoded.num_bytes
            order = grouped(seed, epoch, self._image_of, num_bytes, GROUP_BYTES)
            self._orders[seed, epoch] = order
            if len(self._orders) > 2:
                self._orders.popitem(last=False)
        return self._orders[seed, epoch]

    def labelled(self, most: int | None = None) -> Iterator[tuple[Truth, tuple[int, int]]]:
        """Yield the objects and the (height, width) of each sample, without those ignored.

        With `most` only as each object is seen largest, in tiles where its image has some: of
        samples with objects, evenly spread, about so many in all.
        """
        tiles = [(_without_ignored(tile), tile.size) for tile in self.plan.tiles]
        if most is None:
            yield from self.images.labelled()
            yield from tiles
            return
        in_tiles = {tile.image for tile in self.plan.tiles}
        whole = [one for at, one in enumerate(self.images.labelled()) if at not in in_tiles]
        largest = [*whole, *tiles]
        for index in spread([len(truth.boxes) for truth, _ in largest], most):
            yield largest[index]

    def fill_proposals(self, *, first: int = 0) -> str:
        """Make the proposals of every image and tile; return what is worth saying, or "".

        `first` is the sample to begin with, and errors are, as of `TrainingDataset`.
        """
        if self.source is None:
            return ""
        said = self.images.fill_proposals(first=first * len(self.images) // len(self))
        if self.proposes_as_asked:
            return said
        began, tiles = time.monotonic(), self.plan.tiles
        table = make_table(
            self.source,
            [self.images.records[tile.image].path for tile in tiles],
            threads=machine.num_cores(),
            first=first * len(tiles) // len(self),
            windows=[tile.window for tile in tiles],
        )
        if not machine.forks():
            table.boxes.share_memory_()  # type: ignore[no-untyped-call]
        self._proposals = table
        if not tiles:
            return said
        return (
            f"{said}; {len(table.boxes) / len(table):.0f} a tile, after "
            f"{time.monotonic() - began:.0f} s more"
        )

    @property
    def proposes_as_asked(self) -> bool:
        """Whether there are too many images to have the proposals of all before the first step."""
        return self.images.proposes_as_asked

    def proposal_overlaps(self) -> tuple[Tensor, Tensor]:
        """Return `best_overlaps` over all images and tiles, objects ignored there left out."""
        of_images = self.images.proposal_overlaps()
        if self.proposes_as_asked:
            return of_images
        of_tiles = best_overlaps(
            (torch.from_numpy(_without_ignored(tile).boxes), self._proposals_of(number))
            for number, tile in enumerate(self.plan.tiles)
        )
        return torch.cat([of_images[0], of_tiles[0]]), torch.cat([of_images[1], of_tiles[1]])

    def fill_cache(self, limit: float | None = None, *, processes: int = 1) -> list[str]:
        """Decode images into memory until `limit` bytes; return the lines worth saying.

        First those that are shown whole, as `TrainingDataset` keeps them, then, unshrunk, those
        that have tiles. The default limit is that of `TrainingDataset`.
        """
        if limit is None:
            limit = CACHE_SHARE * machine.memory_of_machine() / processes
        said = self.images.decode_all(limit)
        wanted = sorted({tile.image for tile in self.plan.tiles})
        if not wanted:
            return said
        kept = self.decoded.fill(wanted, limit - self.images.bytes_kept)
        size = int(self.decoded.num_bytes[kept].sum()) / 2**20
        tiles = f"{len(kept):,} kept unshrunk for tiles ({size:,.0f} MiB)"
        if len(kept) < len(wanted):
            tiles = (
                f"{len(kept):,} of {len(wanted):,} fit unshrunk for tiles ({size:,.0f} MiB); the "
                "others are decoded anew by each data worker, once an epoch where there is memory "
                "for 1 GiB of them, and their tiles shown near each other"
            )
        return [*said, tiles]

    def _proposals_of(self, number: int) -> Tensor | None:
        """Return the (P, 4) proposals of a tile; None when they are not wanted."""
        if self.source is None:
            return None
        if self._proposals is not None:
            return self._proposals[number]
        tile = self.plan.tiles[number]
        pixels = self.decoded[tile.image].numpy()
        path = str(self.images.records[tile.image].path)
        return torch.from_numpy(self.source.within(path, pixels, tile.window).boxes)


TrainingImages = TrainingDataset | TiledDataset


class DecodedImages:
    """Whole images by number: some stay in memory, of the others the last few do."""

    def __init__(self, paths: Sequence[Path], sizes: Sequence[tuple[int, int]]) -> None:
        """Take the files and the (height, width) of each; nothing is decoded."""
        self.paths = tuple(paths)
        self.num_bytes: IntArray = np.array([3 * h * w for h, w in sizes], np.int64)
        self._kept: dict[int, Tensor] = {}
        self._recent: OrderedDict[int, Tensor] = OrderedDict()

    def __getitem__(self, index: int) -> Tensor:
        """Return an image, (H, W, 3) uint8 RGB, not to be changed; DetkitError if there is none."""
        if index in self._kept:
            return self._kept[index]
        if index in self._recent:
            self._recent.move_to_end(index)
            return self._recent[index]
        image = self._decode(index)
        self._recent[index] = image
        room = _room(int(self.num_bytes.max()))
        while len(self._recent) > 1 and self.num_bytes[list(self._recent)].sum() > room:
            self._recent.popitem(last=False)
        return image

    def fill(self, wanted: Sequence[int], limit: float) -> list[int]:
        """Keep the first of the `wanted` images that take `limit` bytes; return their numbers."""
        fits = np.cumsum(self.num_bytes[list(wanted)]) <= limit
        kept = [index for index, fit in zip(wanted, fits.tolist()) if fit]
        with ThreadPoolExecutor(machine.num_cores()) as pool:
            self._kept = dict(zip(kept, pool.map(self._decode, kept)))
        if not machine.forks():  # a worker that is spawned gets a handle instead of a copy
            for image in self._kept.values():
                image.share_memory_()  # type: ignore[no-untyped-call]
        return kept

    def _decode(self, index: int) -> Tensor:
        """Return an image from its file."""
        return torch.from_numpy(np.ascontiguousarray(read_image(self.paths[index])))


def _room(largest: int) -> float:
    """Return how many bytes of images a data worker keeps: a group of `TiledDataset.order`.

    That may be the `largest` image more than `GROUP_BYTES`. The workers together keep no more than
    what is decoded before training at most.
    """
    worker = get_worker_info()
    workers = 1 if worker is None else worker.num_workers
    return min(GROUP_BYTES + largest, CACHE_SHARE * machine.memory_of_machine() / workers)


def tiled(
    images: TrainingDataset,
    config: DetectorConfig,
    seed: int,
    reachable: Reachable | None = None,
) -> TrainingImages:
    """Return what is trained on: the images, with their tiles where the config asks for some.

    `reachable`: see `TiledDataset`.
    """
    return TiledDataset(images, config, seed, reachable) if config.tile else images


def tile_note(images: TrainingImages) -> str:
    """Return how many tiles there are and are used; "" where there are none."""
    return images.plan.note if isinstance(images, TiledDataset) else ""


def _without_ignored(tile: Tile) -> Truth:
    """Return a tile's objects that are to be found."""
    return tile.truth.rows(~tile.ignored)
