"""Which labelled objects a detector can find at all, and what brings the others within its reach.

Said before the first step and by `detkit check --model`: no network runs, only the boxes that it
starts from are laid over the objects (`Detector.reachable`).

Shape shorthand: R objects of an image.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detkit.detector import Detector
from detkit.errors import DetkitError
from detkit.geometry.boxes import area
from detkit.structures import FloatArray, Truth
from detkit.text import agreed, counted
from detkit.training.tile_plan import cost_in_words
from detkit.training.vanished_maps import leaves_no_map, too_few_pixels
from detkit.transforms.preparation import scale_between

MOST_JUDGED = 2000  # objects: their share is right to one or two hundredths, in seconds
WORTH_ADVICE = 0.01  # the share out of reach from which on something better is looked for
MOST_REACHED = 0.9  # what is proposed reaches so many, or leaves half of what is out of reach now
TILES = (1024, 768, 512, 384, 256)  # own pixels; the largest first: fewer pieces to learn from
LARGER = {"size", "max_size"}  # settings that a piece of an image makes needless

Labelled = tuple[Truth, tuple[int, int]]  # an image's objects, and its own (height, width)


@dataclass(frozen=True, slots=True)
class Advice:
    """Something to train with that leaves fewer objects out of reach."""

    settings: Mapping[str, Any]  # of `--set`
    tile: int | None  # of `--tile`: the side of the pieces to learn from, own pixels
    left: float  # the share of the objects that is still out of reach
    cost: str = ""  # of tiles, in words

    def in_words(self) -> str:
        """Return `--set size=512 leaves 3.0%`, of tiles with what they cost."""
        words = [] if self.tile is None else [f"--tile {self.tile}"]
        words += [f"--set {key}={_plain(value)}" for key, value in self.settings.items()]
        cost = f" ({self.cost})" if self.cost else ""
        return f"{' '.join(words)} leaves {self.left:.1%}{cost}"


@dataclass(frozen=True, slots=True)
class Reach:
    """How many objects a detector can find, and with what it could find more."""

    model: str
    rule: str  # what an object out of reach is
    num_objects: int  # that were looked at
    num_unreached: int
    median_side: float | None  # of those out of reach, network pixels; None without any
    advice: tuple[Advice, ...] = ()  # at most one without a tile, one with

    @property
    def share(self) -> float:
        """The share of the objects that is out of reach."""
        return self.num_unreached / self.num_objects if self.num_objects else 0.0


def find_reach(detector: Detector, labelled: Iterable[Labelled]) -> Reach:
    """Return how many of the objects the detector reaches, and what would let it reach more.

    Boxes that are not finite or have no area do not count. Raises DetkitError when the network's
    image is too small for it.
    """
    images = [one for one in map(sound_boxes, labelled) if len(one[0].boxes)]
    twin = detector.weightless()
    try:
        reached, sides = _judge(twin, images)
    except RuntimeError as error:
        if not leaves_no_map(error):
            raise
        height, width = twin.network_size()(*images[0][1])
        raise DetkitError(too_few_pixels(twin.name, f"{width} x {height}")) from error
    missed = sides[~reached]
    reach = Reach(
        detector.name,
        detector.reach_rule,
        len(reached),
        len(missed),
        float(missed.median()) if len(missed) else None,
    )
    if reach.share < WORTH_ADVICE:
        return reach
    enough = _better_settings(twin, images, reach.share)
    found = [enough]
    if not twin.config.tile:
        found.append(_better_tile(twin, images, reach.share, alone=enough is not None))
    return replace(reach, advice=tuple(one for one in found if one is not None))


def in_reach(twin: Detector, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return, (R,) bool, which objects (R, 4), own pixels, a detector reaches in a whole image.

    Its own (height, width) is `size`; `twin` is the detector, `weightless`.
    """
    on_network = twin.network_size()(*size)
    return twin.reachable(boxes * scale_between(size, on_network), on_network, size)


def reach_in_words(reach: Reach) -> str:
    """Return the line that says what is out of reach and what to do; "" where nothing is."""
    if not reach.num_unreached:
        return ""
    advice = ", or ".join(one.in_words() for one in reach.advice)
    if not advice and reach.share >= WORTH_ADVICE:
        advice = "no usual --set or --tile brings most of them within it"
    return (
        f"{reach.num_unreached} of {counted(reach.num_objects, 'object')} ({reach.share:.1%}) "
        f"{agreed(reach.num_unreached, 'is', 'are')} hardly within reach of {reach.model}, which "
        f"sees them {reach.median_side:.2g} px large (median): they are "
        f"{reach.rule}{'; ' * bool(advice)}{advice}"
    )


def reach_note(reach: Reach) -> str:
    """Return `reach_in_words` for the notes of a training; a warning where it is most objects."""
    strong = "warning: most objects will hardly be found: " if reach.share > 0.5 else ""
    return strong + reach_in_words(reach)


def reach_to_json(reach: Reach) -> dict[str, Any]:
    """Return the figures as JSON values."""
    side = reach.median_side
    return {
        "model": reach.model,
        "rule": reach.rule,
        "objects": reach.num_objects,
        "unreached": reach.num_unreached,
        "median_side": None if side is None else round(side, 2),
        "advice": [
            {"settings": dict(one.settings), "tile": one.tile, "left": round(one.left, 4)}
            for one in reach.advice
        ],
    }


def _plain(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def sound_boxes(one: Labelled) -> Labelled:
    """Return an image without the boxes that are not finite or have no area in it."""
    truth, size = one
    boxes = truth.boxes
    keep = np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    return _with_boxes(truth, boxes[keep]), size


def _with_boxes(truth: Truth, boxes: FloatArray) -> Truth:
    """Return objects of these boxes, whose classes do not matter."""
    zeros = np.zeros(len(boxes), np.int64)
    return Truth(boxes, labels=zeros, difficult=zeros.astype(np.bool_), image_id=truth.image_id)


def _judge(twin: Detector, images: Iterable[Labelled]) -> tuple[Tensor, Tensor]:
    """Return, over all images, which objects are reached, bool, and their side, network pixels."""
    reached, sides = [torch.zeros(0, dtype=torch.bool)], [torch.zeros(0)]
    network_size = twin.network_size()
    for truth, original in images:
        boxes = torch.from_numpy(truth.boxes)
        reached.append(in_reach(twin, boxes, original))
        sides.append(area(boxes * scale_between(original, network_size(*original))).sqrt())
    return torch.cat(reached), torch.cat(sides)


def _left(twin: Detector, images: Sequence[Labelled], settings: Mapping[str, Any]) -> float:
    """Return the share of the objects out of reach with other settings."""
    if settings:
        config = type(twin).suited_config(replace(twin.config, **settings), images)
        twin = twin.weightless(config)
    return 1.0 - float(_judge(twin, images)[0].float().mean())


def _better_settings(twin: Detector, images: Sequence[Labelled], share: float) -> Advice | None:
    """Return the cheapest settings that reach most objects, of which `share` is out of reach.

    Where none do, those that leave least, if that is no more than half of what is out of reach.
    """
    best: Advice | None = None
    for settings in twin.finer_settings():
        left = _left(twin, images, settings)
        if left <= share / 2 and (best is None or left < best.left):
            best = Advice(settings, None, left)
            if left <= 1 - MOST_REACHED:
                break
    return best


def _better_tile(
    twin: Detector, images: Sequence[Labelled], share: float, *, alone: bool
) -> Advice | None:
    """Return the largest piece of the images in which most objects are reached.

    It leaves at most half of the `share` that is out of reach now. Where no piece is enough by
    itself, it has settings beside it, unless it is to stand `alone`.
    """
    longest = max(max(size) for _, size in images)
    tiles = [tile for tile in TILES if tile < longest]
    beside = [one for one in twin.finer_settings() if not LARGER & set(one)]
    for settings in ({}, *([] if alone else beside)):
        for tile in tiles:
            left = _left(twin, list(_pieces(images, tile)), settings)
            if left <= min(1 - MOST_REACHED, share / 2):
                cost = cost_in_words(images, replace(twin.config, tile=tile))
                return Advice(settings, tile, left, cost)
    return None


def _pieces(images: Iterable[Labelled], tile: int) -> Iterator[Labelled]:
    """Yield squares of `tile` own pixels, each object in the one with its centre, whole."""
    for truth, size in images:
        if max(size) <= tile:
            yield truth, size
            continue
        boxes = truth.boxes
        places = ((boxes[:, :2] + boxes[:, 2:]) / 2 // tile).astype(np.int64)
        for place in np.unique(places, axis=0):
            inside = boxes[(places == place).all(axis=1)] - np.tile(place * tile, 2)
            sides = (inside[:, 2:] - inside[:, :2]).clip(max=tile)
            corners = inside[:, :2].clip(min=0, max=tile - sides)
            moved = np.concatenate([corners, corners + sides], axis=1).astype(np.float32)
            yield _with_boxes(truth, moved), (tile, tile)
