"""Images that a training is validated on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from detkit.evaluation.evaluate import evaluate

if TYPE_CHECKING:
    from detkit.data.records import Dataset
    from detkit.inference.predict import BatchT, Finder
    from detkit.proposals.source import ProposalSource
    from detkit.structures import Scores


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

    def __call__(self, detector: Finder[BatchT], /) -> Scores:
        """Return the detector's scores, as `evaluate` does, with its errors."""
        return evaluate(
            detector,
            self.dataset,
            self.split,
            batch_size=self.batch_size,
            proposals=self.proposals,
        )
