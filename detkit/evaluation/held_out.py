"""Images that a training is validated on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from detkit.evaluation.evaluate import detect_split
from detkit.evaluation.scores import score

if TYPE_CHECKING:
    from detkit.data.records import Dataset
    from detkit.inference.predict import BatchT, Finder
    from detkit.proposals.source import ProposalSource
    from detkit.structures import Detections, Scores


@dataclass(frozen=True)
class HeldOut:
    """A split of a data set, which scores a detector when it is called."""

    dataset: Dataset
    split: str
    batch_size: int = 8
    proposals: ProposalSource | None = None

    @property
    def num_images(self) -> int:
        """How many images are judged."""
        return len(self.dataset.splits[self.split])

    def part(self, num_images: int) -> HeldOut:
        """Return the same with so many of its images, spread over all of them."""
        records = self.dataset.splits[self.split]
        some = tuple(records[place * len(records) // num_images] for place in range(num_images))
        return replace(self, dataset=self.dataset.with_splits({self.split: some}))

    def found(
        self, detector: Finder[BatchT], process: int, num_processes: int
    ) -> dict[int, Detections]:
        """Return what a detector finds in one process's share of the images, by their places.

        A process takes every n-th batch whole, so that an image is computed beside the same
        others. Raises as `detect_split` does.
        """
        size, records = self.batch_size, self.dataset.splits[self.split]
        places = [one for one in range(len(records)) if one // size % num_processes == process]
        if not places:
            return {}
        share = self.dataset.with_splits({self.split: tuple(records[one] for one in places)})
        found = detect_split(detector, share, self.split, batch_size=size, proposals=self.proposals)
        return dict(zip(places, found, strict=True))

    def scored(self, found: Mapping[int, Detections]) -> Scores:
        """Return the scores of what was found in all images."""
        detections = [found[place] for place in range(self.num_images)]
        return score(detections, self.dataset.truths(self.split), self.dataset.class_names)

    def __call__(self, detector: Finder[BatchT], /) -> Scores:
        """Return the detector's scores, as `evaluate` does, with its errors."""
        return self.scored(self.found(detector, 0, 1))
