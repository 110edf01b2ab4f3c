"""Where a detector's proposals come from: computed and kept in the cache, or read from a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from detkit.config import DetectorConfig, ProposalConfig, ProposalMethod, from_json
from detkit.data.image_names import ImageNames
from detkit.data.images import image_size, read_image
from detkit.data.records import ImageRecord
from detkit.data.sources import ImageSource
from detkit.data.threads import in_threads
from detkit.errors import DetkitError, UsageError
from detkit.files import sha256_of
from detkit.proposals.cache import ProposalCache, key_of
from detkit.proposals.proposer import IN_CONFIG, METHODS, VERSIONS, Proposer
from detkit.proposals.reader import ProposalFile, read_proposals
from detkit.structures import BoolArray, FloatArray, IntArray, Proposals
from detkit.text import counted, looks_like_a_path

LEAST_SHOWN = 0.5  # ours: of a proposal's area; a smaller part is no proposal for the object


class ProposalSource(Protocol):
    """What gives an image its proposals; used by several threads at once."""

    @property
    def identity(self) -> str:
        """What the proposals depend on besides the image, in one line."""

    def __call__(self, name: str, image: NDArray[np.uint8]) -> Proposals:
        """Return the proposals of an (H, W, 3) RGB image, best first, in its own pixels."""

    def within(self, name: str, image: NDArray[np.uint8], window: IntArray) -> Proposals:
        """Return those of a window (4,) of the image, best first, in the window's pixels."""

    def of_file(self, path: Path) -> Proposals:
        """Return those of an image file; DetkitError when it cannot be read or has none."""

    def require(self, names: Iterable[str]) -> None:
        """Raise DetkitError when there is an image of which it has none."""


@dataclass(frozen=True)
class ComputedProposals:
    """Proposals made by a method, once an image."""

    proposer: Proposer
    cache: ProposalCache

    @property
    def identity(self) -> str:
        """The method and its parameters."""
        return ", ".join(f"{key} {value}" for key, value in self._parameters.items())

    def __call__(self, name: str, image: NDArray[np.uint8]) -> Proposals:
        """Return the proposals of an image, from the cache if it has them."""
        key = key_of(image, self._parameters)
        found = self.cache.get(key)
        if found is None:
            found = self.proposer(image)
            self.cache.put(key, found)
        return found

    def within(self, name: str, image: NDArray[np.uint8], window: IntArray) -> Proposals:
        """Return the proposals of a window, made of it as of an image, and kept as such."""
        x1, y1, x2, y2 = window.tolist()
        return self(name, np.ascontiguousarray(image[y1:y2, x1:x2]))

    def of_file(self, path: Path) -> Proposals:
        """Return the proposals of an image file, which is decoded for it."""
        return self(str(path), read_image(path))

    def require(self, names: Iterable[str]) -> None:
        """Do nothing: any image can be had."""

    @cached_property
    def _parameters(self) -> dict[str, Any]:
        """The proposer's, looked up once and not an image: an edge model's file is read for it."""
        return self.proposer.parameters


@dataclass(frozen=True)
class FileProposals:
    """Proposals read from a file, by the images' names as `detkit eval` matches them."""

    file: ProposalFile
    names: ImageNames
    max_boxes: int | None = None

    @classmethod
    def of(cls, file: ProposalFile, max_boxes: int | None = None) -> FileProposals:
        """Return the source over what was read."""
        records = [ImageRecord(name.replace("\\", "/"), Path(name)) for name in file.images]
        return cls(file, ImageNames(records), max_boxes)

    @cached_property
    def identity(self) -> str:
        """The file's name and what stands for its content."""
        path = self.file.path
        return f"{path.name} ({(self.file.digest or sha256_of(path))[:12]})"

    def __call__(self, name: str, image: NDArray[np.uint8]) -> Proposals:
        """Return the proposals that the file has for `name`, cut to the image; see `find`."""
        return self.find(name, (image.shape[0], image.shape[1]))

    def within(self, name: str, image: NDArray[np.uint8], window: IntArray) -> Proposals:
        """Return those of the image that the window shows, by `shown_of`; see `find`."""
        whole = self(name, image)
        x1, y1, x2, y2 = window.tolist()
        moved = whole.boxes - np.array([x1, y1, x1, y1], np.float32)
        boxes, keep = shown_of(moved, y2 - y1, x2 - x1)
        return Proposals(boxes[keep], whole.scores[keep])

    def of_file(self, path: Path) -> Proposals:
        """Return those of an image file, of which only the size is read; see `find`."""
        return self.find(str(path), image_size(path))

    def find(self, name: str, image_size: tuple[int, int]) -> Proposals:
        """Return the proposals for an image of (height, width), cut to it.

        Raises DetkitError when there are none, or they are of another image.
        """
        index = self._find(name)
        found, size = self.file.found[index], self.file.sizes[index]
        height, width = image_size
        if size is not None and size != (height, width):
            raise DetkitError(
                f"{self.file.path}: its proposals for {self.file.images[index]} are of "
                f"{size[1]} x {size[0]} pixels, {name} has {width} x {height}; propose anew"
            )
        boxes = np.clip(found.boxes, 0, np.array([width, height] * 2, np.float32))
        keep = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(1)
        if len(boxes) and not keep.any():
            raise DetkitError(
                f"{self.file.path}: no box of {name} lies in its {width} x {height} pixels; are "
                "they of another image?"
            )
        return Proposals(boxes[keep][: self.max_boxes], found.scores[keep][: self.max_boxes].copy())

    def require(self, names: Iterable[str]) -> None:
        """Raise DetkitError naming the first image that the file does not hold."""
        for name in names:
            self._find(name)

    def _find(self, name: str) -> int:
        """Return the place in the file of the image that `name` means."""
        fitting = self.names.fitting(name)
        if len(fitting) == 1:
            return fitting[0]
        path, images = self.file.path, self.file.images
        if fitting:
            first, second = (images[index] for index in fitting[:2])
            raise DetkitError(
                f"{path}: the proposals of {name} may be those of {first} or of {second}; name "
                "images by their path in the data set"
            )
        raise DetkitError(
            f"{path}: holds no proposals for {name} (of its "
            f"{counted(len(images), 'image')} the first is {images[0]}); `detkit propose` makes "
            "them"
        )


def shown_of(boxes: FloatArray, height: int, width: int) -> tuple[FloatArray, BoolArray]:
    """Return the (P, 4) boxes cut to H x W pixels, and, (P,), which are shown: half and more."""
    cut = np.clip(boxes, 0, np.array([width, height] * 2, np.float32))
    sides, own = cut[:, 2:] - cut[:, :2], boxes[:, 2:] - boxes[:, :2]
    keep = (sides >= 1).all(axis=1) & (sides.prod(axis=1) >= LEAST_SHOWN * own.prod(axis=1))
    return np.asarray(cut, np.float32), np.asarray(keep)


def open_source(word: str, config: ProposalConfig | None = None) -> ProposalSource:
    """Return the source that `--proposals` names: a method, or a file.

    `config` says how many boxes and, of a method, on what size of image. Raises UsageError for
    a word that is no method, DetkitError for a file that is not there.
    """
    if word in METHODS:
        if config is None:
            return ComputedProposals(Proposer(word), ProposalCache())
        named = dataclasses.replace(config, proposals=cast(ProposalMethod, word))
        return ComputedProposals(Proposer.of(named), ProposalCache())
    if not Path(word).exists():
        kind = DetkitError if looks_like_a_path(word) else UsageError
        raise kind(f"--proposals {word}: no such file, nor a method ({', '.join(METHODS)})")
    return FileProposals.of(
        read_proposals(Path(word)), None if config is None else config.max_proposals
    )


class MayTakeProposals(Protocol):
    """What is asked here of a detector."""

    @property
    def name(self) -> str:
        """The backend's name."""

    @property
    def config(self) -> DetectorConfig:
        """Its config; a ProposalConfig, if it takes any."""

    @property
    def proposal_method(self) -> str | None:
        """The default method; None: it wants no proposals."""


def source_for(
    detector: MayTakeProposals, given: ProposalSource | None = None
) -> ProposalSource | None:
    """Return where a detector's proposals come from: `given`, else as its config says.

    None for a detector that wants none; UsageError when it was given some, or when its config
    says they come from a file and there is none.
    """
    if detector.proposal_method is None:
        if given is not None:
            raise UsageError(f"--proposals: {detector.name} takes none")
        return None
    if given is not None:
        return given
    config = detector.config
    if not isinstance(config, ProposalConfig):
        return ComputedProposals(Proposer(detector.proposal_method), ProposalCache())
    if config.proposals == "file":
        raise UsageError(
            "this model judges proposals from a file: give those of these images by --proposals "
            f"FILE, or a method ({', '.join(METHODS)})"
        )
    return ComputedProposals(Proposer.of(config), ProposalCache())


def config_for(config: ProposalConfig, source: ProposalSource) -> ProposalConfig:
    """Return the config of a detector that is trained on a source's proposals.

    A file that says which of our methods made it, and how, is put down as that method, so that
    detection goes on with the same proposals; any other as `file`.
    """
    if isinstance(source, ComputedProposals):
        method = cast(ProposalMethod, source.proposer.method)
        return dataclasses.replace(config, proposals=method)
    made = _settings_of(source.file.parameters) if isinstance(source, FileProposals) else {}
    if not made:
        return dataclasses.replace(config, proposals="file")
    made["max_proposals"] = min(config.max_proposals, made["max_proposals"])
    return dataclasses.replace(config, **made)


def _settings_of(made: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings by which a config repeats a method with these parameters; {}: none."""
    numbers = {key: value for key, value in made.items() if key not in ("method", "version")}
    if VERSIONS.get(str(made.get("method"))) != made.get("version"):
        return {}
    if not {"max_boxes", "max_side"} <= set(numbers) <= set(IN_CONFIG):
        return {}
    settings = {"proposals": made["method"]}
    settings |= {IN_CONFIG[key]: value for key, value in numbers.items()}
    try:
        config = from_json(ProposalConfig, settings)
        config.validate()
    except UsageError:
        return {}
    return {key: getattr(config, key) for key in settings}


@dataclass(frozen=True, slots=True)
class Made:
    """The proposals of an image, or why there are none."""

    image: str
    size: tuple[int, int]  # (height, width), own pixels
    found: Proposals | None
    error: DetkitError | None = None


def make_all(
    source: ProposalSource, images: Iterable[ImageSource], threads: int
) -> Generator[Made, None, None]:
    """Yield the proposals of each image, in the images' order, a few images ahead of the caller."""

    def make(image: ImageSource) -> Made:
        try:
            pixels = image.read()
            found = source(image.name, pixels)
            return Made(image.name, (pixels.shape[0], pixels.shape[1]), found)
        except DetkitError as error:
            return Made(image.name, (0, 0), None, error)

    return in_threads(make, images, threads=threads)
