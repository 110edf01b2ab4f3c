"""Whether the boxes of detections mean what they were read as, judged over all of them.

A box that was written otherwise (corners for sizes, y before x, shares, another size of image)
mostly reaches out of its image; where it does not, it misses the labelled objects that it would
find when read as it was meant. Both are held against the other ways of reading, and a file is
refused only where another way is far better: a detector that is merely bad is not, in any way.

Shape shorthand: N boxes of all images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detkit.data.checks.boxes import TURNED, Size, is_turned, outside_text, shares_text
from detkit.data.images import image_size
from detkit.data.records import ImageRecord
from detkit.errors import DetkitError
from detkit.evaluation.iou import iou_matrix
from detkit.predictions.columns import SHARE, outside
from detkit.predictions.image import ImagePredictions
from detkit.predictions.layout import FORMS, from_corners, to_corners
from detkit.structures import BoolArray, Detections, DoubleArray, IntArray, Truth
from detkit.text import agreed, counted

# Ours, tried on published detections of SSD, Faster R-CNN and YOLO, and on those of detkit's own
# backends, clipped and not: see "Detections of other tools" in docs/data-formats.md.
SUSPECT = 0.1  # so many boxes reach out of their images where they may mean something else
BETTER = 5  # and read otherwise so many times fewer do
BEYOND = 0.05  # no detector places more of its boxes wholly out of the image
REACHING = 0.25  # more reach out than of detectors that do not clip their boxes
FOUND = 0.25  # another reading must find so much of the objects it could ...
LEAST_FOUND = 2  # ... and so many of them, ...
TIMES_FOUND = 3  # which are so many times more than as read
NETWORK_SIDES = (224, 256, 300, 320, 416, 448, 512, 608, 640, 800, 1024, 1280)
MATCHED = 0.5  # the IoU that counts as found
MOST_IMAGES, MOST_BOXES = 200, 300  # looked at for that: more would change nothing


@dataclass(frozen=True, slots=True)
class Read:
    """All boxes as they were read."""

    corners: DoubleArray  # (N, 4) own pixels
    words: tuple[str, ...]  # what the file's four numbers were taken for
    in_shares: bool
    sizes: DoubleArray  # (N, 2) width and height of the image; nan where not known
    images: IntArray  # (N,) which image

    def otherwise(self) -> Iterator[tuple[str, DoubleArray]]:
        """Yield the other ways to read the same numbers: a layout, and (N, 4) corners."""
        scale = np.concatenate([self.sizes, self.sizes], axis=1) if self.in_shares else None
        stated = from_corners(self.corners if scale is None else self.corners / scale, self.words)
        unit = " shares" if self.in_shares else ""
        for words in FORMS.values():
            if words != self.words:
                corners = to_corners(stated, words)
                yield " ".join(words) + unit, corners if scale is None else corners * scale


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with the boxes of a file, and whether it can be scored at all."""

    message: str
    is_error: bool


def check_boxes_mean(
    path: Path,
    predictions: Sequence[ImagePredictions | None],
    detections: Sequence[Detections],
    records: Sequence[ImageRecord],
    truths: Sequence[Truth],
    *,
    is_stated: bool = False,
) -> list[str]:
    """Return warnings about boxes of a file that may mean something else than they were read as.

    `predictions` are those of each record as its file has them, `detections` the same in own
    pixels. Raises DetkitError where another reading is far better; not if the user said what
    the numbers are (`is_stated`).
    """
    files = [one for one in predictions if one is not None and one.labels]
    if not files:
        return []
    problem = None
    # What label files state of sizes is read already, but may be wrong: looked up when it tells.
    for size_of in (_stated_size, real_size):
        sizes = [
            size_of(record) if len(one.boxes) else None
            for record, one in zip(records, detections, strict=True)
        ]
        problem = _wrong_size(predictions, records, sizes)
        if problem is None:
            read = _read_of(files[0], detections, sizes)
            problem = _problem(read, detections, records, truths)
        if problem is None:
            return []
    assert problem is not None
    if problem.is_error and not is_stated:
        raise DetkitError(f"{path}: {problem.message}")
    return [f"{path}: {problem.message}"]


def _stated_size(record: ImageRecord) -> Size | None:
    """Return an image's (height, width) as its label file states it, else as it is."""
    if record.width and record.height:
        return record.height, record.width
    return real_size(record)


def real_size(record: ImageRecord) -> Size | None:
    """Return an image's (height, width), as stated where there is no image file to look at."""
    try:
        return image_size(record.path)
    except DetkitError:
        return (record.height, record.width) if record.width and record.height else None


def _wrong_size(
    predictions: Sequence[ImagePredictions | None],
    records: Sequence[ImageRecord],
    sizes: Sequence[Size | None],
) -> Problem | None:
    """Return the contradiction that predictions state another size of their images."""
    wrong = [
        (one, record, size)
        for one, record, size in zip(predictions, records, sizes, strict=True)
        if one is not None and size and one.width and one.height
        if (one.height, one.width) != size
    ]
    if not wrong:
        return None
    one, record, (height, width) = wrong[0]
    turned = (one.width, one.height) == (height, width)
    hint = "before its EXIF rotation?" if turned else "resized?"
    return Problem(
        f"{record.image_id}: predicted on an image of {one.width}x{one.height}, but it is "
        f"{width}x{height} ({counted(len(wrong), 'image')} like that): {hint} give the boxes in "
        "the image's own pixels",
        True,
    )


def _read_of(
    file: ImagePredictions, detections: Sequence[Detections], sizes: Sequence[Size | None]
) -> Read:
    """Return all boxes, as a file like this one has them."""
    images = np.repeat(np.arange(len(detections)), [len(one.boxes) for one in detections])
    shape = [(np.nan, np.nan) if size is None else (size[1], size[0]) for size in sizes]
    return Read(
        np.concatenate([one.boxes for one in detections]).astype(np.float64),
        file.box_words,
        file.normalised,
        np.array(shape, np.float64)[images],
        images,
    )


def _problem(
    read: Read,
    detections: Sequence[Detections],
    records: Sequence[ImageRecord],
    truths: Sequence[Truth],
) -> Problem | None:
    """Return what is wrong with the boxes, if anything is."""
    number = len(read.corners)
    if not read.in_shares and number > 1 and bool((np.abs(read.corners) <= 1).all()):
        text = shares_text(number, _values(read, 0))
        return Problem(f"{text} --layout '{' '.join(read.words)} shares' reads them so", True)
    others = list(read.otherwise())
    bad = outside(read.corners, read.sizes, "pixels")
    share = float(bad.mean())
    found = _Finder(detections, truths)
    as_read = found(read.corners)
    if share >= SUSPECT:
        rates = [float(outside(boxes, read.sizes, "pixels").mean()) for _, boxes in others]
        hits = [found(boxes) for _, boxes in others]
        best = min(range(len(others)), key=lambda way: (rates[way], -hits[way]))
        # A box or two that reach out are no proof where they find their objects as they are.
        if rates[best] * BETTER <= share and hits[best] >= as_read:
            return Problem(
                f"{_first(read, bad, records)}; read as `{others[best][0]}`, {rates[best]:.0%} of "
                f"the boxes leave their images, and {share:.0%} as `{_layout(read)}`: "
                f"--layout '{others[best][0]}'",
                True,
            )
    if problem := _finds_more(read, others, found, as_read):
        return problem
    ends = [read.corners[:, 2:] <= 0, read.corners[:, :2] >= read.sizes]
    beyond: BoolArray = np.asarray(np.concatenate(ends, axis=1).any(axis=1))
    if beyond.mean() >= BEYOND:
        hint = "made for images of another size, or for other images?"
        return Problem(f"{_first(read, beyond, records)}; {hint}", True)
    if share > REACHING:
        hint = "made for images of another size, or by a detector that does not cut boxes?"
        return Problem(f"{_first(read, bad, records)}; {hint}", False)
    return None


class _Finder:
    """Counts the labelled objects that boxes find, whatever their class."""

    def __init__(self, detections: Sequence[Detections], truths: Sequence[Truth]) -> None:
        """Choose the images and objects to look at."""
        self.starts = np.concatenate([[0], np.cumsum([len(one.boxes) for one in detections])])
        with_some = [
            number
            for number, truth in enumerate(truths)
            if len(detections[number].boxes) and not truth.difficult.all()
        ]
        self.objects = {
            number: truths[number].boxes[~truths[number].difficult]
            for number in with_some[:MOST_IMAGES]
        }
        self.total = sum(map(len, self.objects.values()))
        # A few detections cannot find many objects.
        self.most = sum(
            min(len(boxes), len(detections[number].boxes)) for number, boxes in self.objects.items()
        )

    def __call__(self, corners: DoubleArray) -> int:
        """Return how many objects (N, 4) boxes find."""
        hits = 0
        for number, boxes in self.objects.items():
            first = int(self.starts[number])  # an image's detections are sorted, best first
            own = corners[first : int(self.starts[number + 1])][:MOST_BOXES]
            ious = iou_matrix(own.astype(np.float32), boxes)
            hits += int((ious.max(axis=0) >= MATCHED).sum())
        return hits


def _finds_more(
    read: Read, others: Sequence[tuple[str, DoubleArray]], found: _Finder, as_read: int
) -> Problem | None:
    """Return the suspicion that boxes read otherwise find far more objects, whatever class."""
    least = max(LEAST_FOUND, FOUND * found.most, as_read * TIMES_FOUND)
    if found.most < least:
        return None
    ways = [*others, *_resized(read)]
    hits = [found(corners) for _, corners in ways]
    best = int(np.argmax(hits))
    if hits[best] < least:
        return None
    words = ways[best][0]
    advice = f"--layout '{words}'" if best < len(others) else "give them in the images' own pixels"
    return Problem(
        f"read as `{_layout(read)}`, the boxes find {as_read} of {counted(found.total, 'object')}, "
        f"and {hits[best]} as `{words}`: {advice}",
        True,
    )


def _resized(read: Read) -> Iterator[tuple[str, DoubleArray]]:
    """Yield the boxes as if made for images that were all brought to one size, or mirrored in it.

    Common sizes of networks, both sides of which the image was stretched to, or its longer.
    """
    if read.in_shares or np.isnan(read.sizes).any():
        return
    reach = float(read.corners.max())
    longest = read.sizes.max(axis=1, keepdims=True)
    for side in NETWORK_SIDES:
        if side * (1 - SUSPECT) / 2 <= reach <= side * (1 + SHARE):
            stretched = np.concatenate([read.sizes, read.sizes], axis=1) / side
            yield f"pixels of images stretched to {side}x{side}", read.corners * stretched
            fitted = longest / side
            yield f"pixels of images shrunk to {side}", read.corners * fitted
            pad = np.tile((longest - read.sizes) / 2, 2)
            yield f"pixels of images letterboxed to {side}x{side}", read.corners * fitted - pad


def _layout(read: Read) -> str:
    return " ".join(read.words) + " shares" * read.in_shares


def _values(read: Read, number: int) -> str:
    """Return a box as its file has it."""
    box = read.corners[number : number + 1]
    if read.in_shares:
        box = box / np.tile(read.sizes[number : number + 1], 2)
    values = from_corners(box, read.words)[0]
    return " ".join(f"{word}={value:.6g}" for word, value in zip(read.words, values, strict=True))


def _first(read: Read, bad: BoolArray, records: Sequence[ImageRecord]) -> str:
    """Return how many boxes leave their images, and the first of them."""
    number = int(np.flatnonzero(bad)[0])
    width, height = read.sizes[number]
    name = records[read.images[number]].image_id
    if np.isnan(width):
        text = f"lies left of or above the image ({_values(read, number)})"
    else:
        size = int(height), int(width)
        box = read.corners[number].tolist()
        text, _ = outside_text(box, size, _values(read, number))
        if is_turned(box, size):
            text += f"; {TURNED}"
    share = f"{int(bad.sum())} of {counted(len(bad), 'box')}"
    leave = agreed(int(bad.sum()), "leaves its image", "leave their images")
    return f"{share} {leave}: {name}: {text}"
