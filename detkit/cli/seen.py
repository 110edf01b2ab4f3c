"""What `detect` sees: here with a model, in one share, or through processes of a share each."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from detkit.cli.console import Console
from detkit.cli.looking import WAYS, Looking, tell_ways
from detkit.cli.model_choice import open_on_free_cores, open_proposals
from detkit.cli.options import named_numbers
from detkit.cli.shards import model_identity

if TYPE_CHECKING:
    from detkit.config import DetectorConfig
    from detkit.data.sources import ImageSource
    from detkit.inference.predict import Finder, Prediction
    from detkit.shards.part import Part

LOOK = 0.4  # ours: the least score of a box worth a look; what is below is mostly wrong


@dataclass(frozen=True)
class Wish:
    """What images are looked at with, and how."""

    model: str
    device: str
    settings: Sequence[str] | None
    precision: str
    threads: int | None
    batch_size: int
    least: float | None  # score of a box
    of_classes: Sequence[str]  # "NAME=X", the least scores of single classes
    nms: float | None
    proposals: str | None
    looking: Looking
    for_people: bool  # what people look at is cut higher than what programs go on with

    def open(self, console: Console) -> Finder[Any]:
        """Return the model, saying how it looks at images."""
        detector = open_on_free_cores(
            console, self.model, self.device, self.settings, self.precision, self.threads
        )
        tell_ways(console, self.looking.words(detector.config))
        return detector

    def singles(self, names: Sequence[str]) -> dict[str, float]:
        """Return the least scores of single classes; raises UsageError for one there is not."""
        return named_numbers("--score", self.of_classes, names)

    def look(self, names: Sequence[str]) -> dict[str, float]:
        """Return each class's least score of a box that is worth a look."""
        single, least = self.singles(names), LOOK if self.least is None else self.least
        return {name: single.get(name, least) for name in names}

    def find(
        self,
        detector: Finder[Any],
        images: Iterable[ImageSource],
        timing: dict[str, float] | None = None,
    ) -> Generator[Prediction, None, None]:
        """Return a generator of what is found in the images."""
        from detkit.inference.predict import detect_images

        names = detector.class_names
        look = self.look(names)
        return detect_images(
            detector,
            images,
            batch_size=self.batch_size,
            score_thresh=min(look.values()) if self.for_people else self.least,
            thresholds=look if self.for_people else self.singles(names),
            nms_thresh=self.nms,
            proposals=open_proposals(self.proposals, detector),
            tile=self.looking.tile,
            tile_overlap=self.looking.overlap,
            tta=self.looking.tta,
            timing=timing,
        )

    def asked(self, names: Sequence[str], config: DetectorConfig) -> dict[str, Any]:
        """Return what the detections of a model of that config depend on besides the images.

        By name; `WAYS` are those by which the options and the config together have it look.
        """
        return {
            "classes": list(names),
            "model": model_identity(self.model),
            "--score": [*([] if self.least is None else [self.least]), *self.of_classes],
            "--nms": self.nms,
            "--tile": None if self.looking.tile is None else str(self.looking.tile),
            "--overlap": self.looking.overlap,
            "--tta": list(self.looking.tta),
            WAYS: self.looking.words(config),
            "--proposals": self.proposals,
            "--set": list(self.settings or ()),
            "--precision": self.precision,
        }


def scores_for_people(values: Mapping[str, Any], least: float | None) -> list[str]:
    """Return the words of `--score` by which a process finds what people look at."""
    return [*(values["score"] or ()), *([] if least is not None else [str(LOOK)])]


def class_names_of(parts: Sequence[Part]) -> tuple[str, ...]:
    """Return the names of the model's classes that have made these parts."""
    return tuple(parts[0].opening["asked"]["classes"])


def from_parts(
    parts: Sequence[Part], images: Callable[[], Iterable[ImageSource]] | None
) -> Generator[Prediction, None, None]:
    """Yield what the parts hold, in the order of the sources.

    With their pixels where `images` gives them, the same ones once more.
    """
    from detkit.inference.predict import Prediction
    from detkit.predictions.texts import of_json_line
    from detkit.shards.merge import merged_lines

    sources = iter(()) if images is None else iter(images())
    for line in merged_lines(parts):
        found = of_json_line(line)
        source = next(sources, None)
        pixels = None if source is None or found.error is not None else source.read()
        yield Prediction(found, {}, pixels)
