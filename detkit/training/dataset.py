"""The training data set: labelled images as samples, decoded once, with their proposals.

Before the first step it also says how many objects the proposals cover.

Shape shorthand: H x W own pixels, R objects, P proposals.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from detkit import machine
from detkit.config import DetectorConfig, ProposalConfig, TrainDifficult
from detkit.data.images import image_size, read_image, shrunk_to
from detkit.data.records import ImageRecord, truth_of
from detkit.errors import DetkitError
from detkit.geometry.boxes import iou
from detkit.proposals.source import ComputedProposals, ProposalSource
from detkit.proposals.table import ProposalTable, make_table
from detkit.structures import Sample, Truth
from detkit.text import agreed, counted
from detkit.training.difficult import learnt
from detkit.training.epoch_order import EpochOrder, shuffled
from detkit.training.shared_pixels import Pixels, SharedPixels

CACHE_SHARE = 0.25  # of the machine's memory: the rest belongs to the network and to others
ROUNDING = 1e-6  # pixels: 1.25 * 300 / 2000 * 2000 is 375
MOST_BEFOREHAND = 10_000  # ours: images decoded, and their proposals made, before the first step
MOST_LOOKED_AT = 64  # ours: images that stand for more than `MOST_BEFOREHAND`
IOU_STEPS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)  # counted at where no proposal is positive


@dataclass(frozen=True)
class KeptSize:
    """How large a training image is decoded: as the network needs it; small and picklable."""

    network_size: Callable[[int, int], tuple[int, int]]  # own (height, width) -> network's
    zoom: float = 1.0  # how many times larger the augmentation makes things
    most: int = 0  # the longest side that was asked for; 0: any

    def needed(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) below which the network would see made-up pixels.

        The image's shape stays, and it is never enlarged: `zoom` times the network's image, along
        the side that this is more of.
        """
        rows, columns = self.network_size(height, width)
        scale = self.zoom * max(rows / height, columns / width)
        if scale >= 1:
            return height, width
        return math.ceil(height * scale - ROUNDING), math.ceil(width * scale - ROUNDING)

    def __call__(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) that is kept: what is needed, `most` permitting."""
        needed = self.needed(height, width)
        if not self.most or max(needed) <= self.most:
            return needed
        scale = self.most / max(height, width)
        return max(1, round(height * scale)), max(1, round(width * scale))


class TrainingDataset:
    """Labelled images as samples, in their own pixels or shrunk to what `kept_size` says.

    Images are shrunk whether they are kept in memory or not, so what the network sees does not
    depend on how much memory there is.
    """

    def __init__(
        self,
        records: Sequence[ImageRecord],
        class_names: Sequence[str],
        kept_size: KeptSize | None = None,
        proposals: ProposalSource | None = None,
        train_difficult: TrainDifficult = "yes",
    ) -> None:
        """Take the records; nothing is decoded before `fill_cache` or the first sample.

        Without `kept_size` images stay as large as they are, and are not kept in memory.
        With `proposals`, samples have those of their images; see `fill_proposals`. Crowds are
        ignored in the samples, difficult objects by `train_difficult` as in `difficult.learnt`.
        """
        self.records = tuple(records)
        self.kept_size = kept_size
        class_index = {name: number for number, name in enumerate(class_names)}
        known = [learnt(truth_of(record, class_index), train_difficult) for record in self.records]
        self._truths = tuple(truth for truth, _ in known)
        self.ignored = tuple(ignored for _, ignored in known)  # of each image, (R,) bool
        self._cache: list[Pixels | None] = [None] * len(self.records)
        self._shared: SharedPixels | None = None  # in its place, of many images
        self.source = proposals
        self._proposals: ProposalTable | None = None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        """Return one image with its objects; raises DetkitError when it cannot be read."""
        cached = self._cache[index] if self._shared is None else self._shared[index]
        pixels = cached or self._decode(self.records[index])
        if cached is None and self._shared is not None:
            self._shared.keep(index, pixels)
        # An augmentation that works in place must not reach what is kept.
        image = pixels.image if cached is None else pixels.image.clone()
        truth, ignored = self._truths[index], self.ignored[index]
        height, width = image.shape[:2]
        scale = np.array([width / pixels.size[1], height / pixels.size[0]] * 2, np.float32)
        return Sample(
            image=image.permute(2, 0, 1),
            boxes=torch.from_numpy(truth.boxes * scale),
            labels=torch.from_numpy(truth.labels.copy()),
            difficult=torch.from_numpy(truth.difficult.copy()),
            proposals=self._proposals_of(index, torch.from_numpy(scale)),
            image_id=truth.image_id,
            ignored=torch.from_numpy(ignored.copy()) if ignored.any() else None,
        )

    def order(self, seed: int, epoch: int) -> EpochOrder:
        """Return the order in which an epoch shows the images."""
        return shuffled(seed, epoch, len(self))

    @property
    def bytes_kept(self) -> int:
        """How much memory the decoded images take."""
        return sum(one.image.numel() for one in self._cache if one is not None)

    def fill_proposals(self, *, first: int = 0) -> str:
        """Make the proposals of every image; return what is worth saying, or "".

        They are of the images as the files hold them, before any shrinking, and stay in memory,
        some 16 KB an image. Those of more than `MOST_BEFOREHAND` images are made, or read, when a
        sample asks for them: by the data workers, ahead of the steps. `first` and errors: see
        `make_table`.
        """
        if self.source is None:
            return ""
        paths = [record.path for record in self.records]
        if self.proposes_as_asked:
            self.source.require(map(str, paths))
            return f"proposals of {counted(len(paths), 'image')} {self._as_asked(self.source)}"
        began = time.monotonic()
        table = make_table(self.source, paths, threads=machine.num_cores(), first=first)
        if not machine.forks():
            table.boxes.share_memory_()  # type: ignore[no-untyped-call]
        self._proposals = table
        return (
            f"{counted(round(len(table.boxes) / len(table)), 'proposal')} an image, ready after "
            f"{time.monotonic() - began:.0f} s: {self.source.identity}"
        )

    @property
    def proposes_as_asked(self) -> bool:
        """Whether there are too many images to have the proposals of all before the first step."""
        return self.source is not None and len(self) > MOST_BEFOREHAND

    def _as_asked(self, source: ProposalSource) -> str:
        """Return what is said of proposals that are not made before the first step."""
        if not isinstance(source, ComputedProposals):
            return f"are read as they are asked for: {source.identity}"
        kept = source.cache.room_for(len(self), source.proposer.max_boxes)
        return (
            f"are made as they are asked for, and {kept}; `detkit propose` makes them beforehand, "
            f"for --proposals FILE: {source.identity}"
        )

    def proposal_overlaps(self) -> tuple[Tensor, Tensor]:
        """Return `best_overlaps`, (R,) and (P,) float32, over all images.

        Of more than `MOST_BEFOREHAND` images over some with objects, evenly spread.
        """
        found: Iterator[tuple[int, Tensor | None]]
        if self.source is None or self._proposals is not None:
            found = (
                (index, self._proposals_of(index, torch.ones(4))) for index in range(len(self))
            )
        else:
            holding = [index for index, ignored in enumerate(self.ignored) if (~ignored).any()]
            chosen = holding[:: max(1, -(-len(holding) // MOST_LOOKED_AT))]
            paths = [self.records[index].path for index in chosen]
            table = make_table(self.source, paths, threads=machine.num_cores())
            found = ((index, table[number]) for number, index in enumerate(chosen))
        return best_overlaps(
            (torch.from_numpy(self._truths[index].boxes[~self.ignored[index]]), own)
            for index, own in found
        )

    def _proposals_of(self, index: int, scale: Tensor) -> Tensor | None:
        """Return an image's proposals times `scale`; None when they are not wanted."""
        if self.source is None:
            return None
        if self._proposals is None:
            return torch.from_numpy(self.source.of_file(self.records[index].path).boxes) * scale
        return self._proposals[index] * scale

    def labelled(self, most: int | None = None) -> Iterator[tuple[Truth, tuple[int, int]]]:
        """Yield the objects and the (height, width) of each image, without those ignored.

        Sizes are from the files' headers. With `most` only of images with objects, evenly spread,
        of about so many in all.
        """
        chosen: Sequence[int] = range(len(self))
        if most is not None:
            chosen = spread([int((~ignored).sum()) for ignored in self.ignored], most)
        for index in chosen:
            truth = self._truths[index].rows(~self.ignored[index])
            yield truth, image_size(self.records[index].path)

    def all_labelled(self) -> Iterator[tuple[Truth, tuple[int, int]]]:
        """Yield what `labelled` does with the ignored objects among the others."""
        for truth, record in zip(self._truths, self.records, strict=True):
            yield truth, image_size(record.path)

    def fill_cache(self, limit: float | None = None, *, processes: int = 1) -> list[str]:
        """Have images in memory, up to `limit` bytes, decoded once; return the lines worth saying.

        The default limit is a quarter of the machine's memory, shared by so many `processes` of
        it. More than `MOST_BEFOREHAND` are decoded when a sample asks for them: by the data
        workers, ahead of the steps. Raises DetkitError as `decode_all`.
        """
        if limit is None:
            limit = CACHE_SHARE * machine.memory_of_machine() / processes
        if self.kept_size is None or len(self) <= MOST_BEFOREHAND or not machine.forks():
            return self.decode_all(limit)
        some = self.records[:: -(-len(self) // MOST_LOOKED_AT)]
        said = f"decoded images are kept in memory as they come, up to {limit / 2**30:.1f} GiB"
        try:
            self._shared = SharedPixels(len(self), int(limit))
        except OSError as error:  # a system that promises no more memory than it has
            said = f"decoded images are not kept, but decoded each time: {error.strerror}"
        return [said, *_too_small(self.kept_size, [image_size(one.path) for one in some])]

    def decode_all(self, limit: float) -> list[str]:
        """Decode every image into memory until `limit` bytes; return the lines worth saying.

        Raises DetkitError for an image that cannot be read.
        """
        if self.kept_size is None:
            return []
        used, kept = 0, 0
        chunk = 64
        with ThreadPoolExecutor(machine.num_cores()) as pool:
            for start in range(0, len(self), chunk):
                if used > limit:
                    break
                records = self.records[start : start + chunk]
                for index, pixels in enumerate(pool.map(self._decode, records), start):
                    if used > limit:
                        break
                    self._cache[index] = pixels
                    used += pixels.image.numel()
                    kept += 1
        if not machine.forks():  # a worker that is spawned gets a handle instead of a copy
            for cached in self._cache:
                if cached is not None:
                    cached.image.share_memory_()  # type: ignore[no-untyped-call]
        said = f"{counted(kept, 'decoded image')} kept in memory ({used / 2**20:.0f} MiB)"
        if kept < len(self):
            said = (
                f"{kept} of {counted(len(self), 'image')} {agreed(kept, 'fits', 'fit')} into "
                f"memory ({used / 2**30:.1f} GiB); the rest are decoded each time, to the same "
                "size: slower, but no less is seen"
            )
        sizes = [one.size for one in self._cache if one is not None]
        return [said, *_too_small(self.kept_size, sizes)]

    def _decode(self, record: ImageRecord) -> Pixels:
        """Return the image file's pixels, shrunk as `kept_size` says."""
        image = read_image(record.path)
        size = image.shape[0], image.shape[1]
        if self.kept_size is not None:
            image = shrunk_to(image, self.kept_size(*size))
        return Pixels(torch.from_numpy(np.ascontiguousarray(image)), size)


def _too_small(kept_size: KeptSize, sizes: Sequence[tuple[int, int]]) -> list[str]:
    """Return a line on images of (height, width) that a `cache_size` makes smaller than needed."""
    both = [(max(kept_size.needed(*size)), max(kept_size(*size))) for size in sizes]
    needed = [longer for longer, kept in both if longer > kept]
    if not needed:
        return []
    return [
        f"cache_size={kept_size.most} is less than the network needs of {len(needed)} of "
        f"{counted(len(sizes), 'image')}, up to {max(needed)} px: it learns from less detail "
        "than it detects in; --set cache_size=0 keeps enough"
    ]


def spread(counts: Sequence[int], most: int) -> list[int]:
    """Return which images to look at for about `most` objects: evenly spread, none without any.

    `counts` are the objects of each image. Those of all images are no more than `most`: all.
    """
    holding = [index for index, count in enumerate(counts) if count]
    step = -(-sum(counts) // most)
    return holding[:: max(1, step)]


def best_overlaps(pairs: Iterable[tuple[Tensor, Tensor | None]]) -> tuple[Tensor, Tensor]:
    """Return (of each object, of each proposal) the best IoU with one of the other kind.

    `pairs` are the objects (R, 4) and proposals (P, 4) of each image; of an image without objects
    no proposal counts.
    """
    of_objects, of_proposals = [torch.zeros(0)], [torch.zeros(0)]
    for objects, proposals in pairs:
        if len(objects) and proposals is not None and len(proposals):
            overlaps = iou(objects, proposals)
            of_objects.append(overlaps.amax(dim=1))
            of_proposals.append(overlaps.amax(dim=0))
        else:
            of_objects.append(torch.zeros(len(objects)))
    return torch.cat(of_objects), torch.cat(of_proposals)


class HasOverlaps(Protocol):
    """What is asked here of a training set."""

    @property
    def proposes_as_asked(self) -> bool:
        """Whether its overlaps are those of some images."""

    def proposal_overlaps(self) -> tuple[Tensor, Tensor]:
        """Return `best_overlaps` of all of it."""


def coverage_note(images: HasOverlaps, config: DetectorConfig) -> str:
    """Return `coverage` of images that have proposals; "" where the config has no threshold.

    Where it is of some images only, none being covered is no error.
    """
    if not isinstance(config, ProposalConfig):  # what it learns of them is its own affair
        return ""
    of_objects, of_proposals = images.proposal_overlaps()
    if images.proposes_as_asked:  # of others one may be better
        line = _covered(of_objects, config.positive_thresh)
        return f"in a sample of the images, {line}" if line else ""
    return coverage(of_objects, of_proposals, config.positive_thresh)


def coverage(of_objects: Tensor, of_proposals: Tensor, positive_thresh: float) -> str:
    """Return a line on how many objects have a proposal to learn from; "" without any object.

    `of_objects` (R,) and `of_proposals` (P,) are their best IoUs with one of the other kind, and
    a proposal is a positive example from `positive_thresh` on. Raises DetkitError when none is.
    """
    if not len(of_objects):
        return ""
    covered = int((of_objects >= positive_thresh).sum())
    if not covered:
        reached = ", ".join(
            f"{int((of_proposals >= step).sum())} of {step:g}"
            for step in IOU_STEPS
            if step < positive_thresh
        )
        best = float(of_objects.max())
        raise DetkitError(
            f"nothing to learn from: none of {counted(len(of_proposals), 'proposal')} has an IoU "
            f"of {positive_thresh:g} with one of {counted(len(of_objects), 'object')}; the best "
            f"has {best:.2f}"
            f"{f', and of at least so much: {reached}' if reached else ''}; take others (--set "
            "proposals=edge-boxes, --set max_proposals=N, --proposals FILE; `detkit recall` "
            "compares them) or lower --set positive_thresh"
        )
    return _covered(of_objects, positive_thresh)


def _covered(of_objects: Tensor, positive_thresh: float) -> str:
    """Return how many of the objects have a proposal to learn from; "" of no object."""
    if not len(of_objects):
        return ""
    covered = int((of_objects >= positive_thresh).sum())
    share = covered / len(of_objects)
    return (
        f"{covered} of {counted(len(of_objects), 'object')} ({share:.1%}) "
        f"{agreed(covered, 'has', 'have')} a proposal with an IoU of "
        f"{positive_thresh:g} and more"
    )
