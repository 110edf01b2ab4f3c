"""What a plan trains: the detector, its settings suited to the images, and its proposals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from detkit.cli.model_choice import open_proposals
from detkit.cli.train_plan import Plan
from detkit.inference.models import with_starting_weights

if TYPE_CHECKING:
    from detkit.config import DetectorConfig, Recipe
    from detkit.data.records import ImageRecord
    from detkit.detector import Detector
    from detkit.proposals.source import ProposalSource
    from detkit.structures import Truth


def suited(
    plan: Plan,
    config: DetectorConfig,
    recipe: Recipe,
    class_names: Sequence[str],
    records: Sequence[ImageRecord],
) -> DetectorConfig:
    """Return the config suited to the images."""
    from detkit.detectors import load_backend
    from detkit.training.dataset import TrainingDataset
    from detkit.training.tiles import tiled

    def labelled() -> Iterator[tuple[Truth, tuple[int, int]]]:  # begun only where it is asked for
        rule = recipe.train_difficult
        images = TrainingDataset(records, tuple(class_names), train_difficult=rule)
        yield from tiled(images, config, plan.seed).labelled()

    return load_backend(str(plan.model)).suited_config(config, labelled())


def build(plan: Plan, config: DetectorConfig, class_names: Sequence[str]) -> Detector:
    """Return the plan's detector with its starting weights."""
    import torch

    from detkit.detectors import load_backend

    backend = load_backend(str(plan.model))
    torch.manual_seed(plan.seed)
    return with_starting_weights(backend, config, class_names, plan.weights)


def weightless(plan: Plan, config: DetectorConfig, class_names: Sequence[str]) -> Detector:
    """Return the plan's detector on torch's `meta` device: what it would do is known by it."""
    import torch

    from detkit.detectors import load_backend

    with torch.device("meta"):
        return load_backend(str(plan.model))(config, class_names)


def proposals_of(
    plan: Plan, detector: Detector, records: Sequence[ImageRecord]
) -> ProposalSource | None:
    """Return the source of `--proposals`, put down in the detector's config.

    Raises DetkitError when it has no proposals of one of the images.
    """
    source = open_proposals(plan.proposals, detector)
    if source is None:
        return None
    from detkit.config import ProposalConfig
    from detkit.proposals.source import config_for

    source.require(str(record.path) for record in records)
    if isinstance(detector.config, ProposalConfig):
        detector.config = config_for(detector.config, source)
    return source
