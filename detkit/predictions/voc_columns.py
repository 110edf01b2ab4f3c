"""VOC's comp4 files in which nothing is odd, read as columns: a million rows in a few seconds.

`image score xmin ymin xmax ymax`, corners 1-based and both inside. `TextReader` reads all others,
and says what is wrong with them; it keeps a row as texts, which takes a kilobyte.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from detkit.predictions.columns import ALIKE, WRONG, outside
from detkit.predictions.image import ImagePredictions
from detkit.predictions.reference import Reference
from detkit.predictions.text_reader import ONE_BASED
from detkit.predictions.unchecked import LARGEST
from detkit.structures import DoubleArray, IntArray

_AT_ONCE = 1 << 22  # signs of a file that are taken apart at once
_NUM_WORDS = 6


def plain_detections(
    texts: Iterable[tuple[str, str]], reference: Reference
) -> list[ImagePredictions] | None:
    """Return the detections of files, each a class name and a text, or None where one is odd.

    Odd is a row that is not six words, a number that is none or not finite, corners that are
    swapped, boxes of shares, and more boxes that leave their images than rounding explains.
    """
    number: dict[str, int] = {}
    classes: list[str] = []
    images, labels, values = [], [], []
    for name, text in texts:
        for part in _parts(text):
            found = _columns(part)
            if found is None:
                return None
            names, numbers = found
            images.append(np.array([number.setdefault(one, len(number)) for one in names]))
            labels.append(np.full(len(names), len(classes)))
            values.append(numbers)
        classes.append(name)
    if not values:
        return None
    image, label, table = map(np.concatenate, (images, labels, values))
    if not _is_as_voc(table, image, list(number), reference):
        return None
    order = np.argsort(image, kind="stable")
    ends = np.searchsorted(image[order], np.arange(len(number)), side="right").tolist()
    scores = table[order, 0].astype(np.float32)
    corners = (table[order, 1:] - ONE_BASED).astype(np.float32)
    if (corners[:, 2:] < corners[:, :2]).any():
        return None
    label = label[order]
    return [
        ImagePredictions(
            image=name,
            width=0,
            height=0,
            labels=tuple([classes[one] for one in label[start:end].tolist()]),
            scores=scores[start:end],
            boxes=corners[start:end],
        )
        for name, start, end in zip(number, [0, *ends], ends, strict=False)
    ]


def _parts(text: str) -> Iterator[str]:
    """Yield a text in parts of whole lines."""
    start = 0
    while start < len(text):
        end = text.find("\n", start + _AT_ONCE) + 1 or len(text)
        yield text[start:end]
        start = end


def _columns(text: str) -> tuple[list[str], DoubleArray] | None:
    """Return the first words and the numbers (N, 5) of lines, or None where a line is odd."""
    # Comments, other separators, and blanks that part nothing.
    if any(sign in text for sign in ("#", ",", ";", "\t", "  ", "\n ", " \n")):
        return None
    lines = text.removesuffix("\n").split("\n")
    if text.startswith(" ") or text.endswith(" "):
        return None
    if any(line.count(" ") != _NUM_WORDS - 1 for line in lines):
        return None
    words = text.split()
    if len(words) != _NUM_WORDS * len(lines):
        return None
    names = words[::_NUM_WORDS]
    del words[::_NUM_WORDS]
    try:
        numbers = np.array(words, np.float64).reshape(-1, _NUM_WORDS - 1)
    except ValueError:
        return None
    return (names, numbers) if bool((np.abs(numbers) < LARGEST).all()) else None


def _is_as_voc(table: DoubleArray, image: IntArray, names: list[str], reference: Reference) -> bool:
    """Return whether scores and boxes (N, 5) are corners in pixels beyond doubt.

    `image` (N,) says whose each is, by its place among the names.
    """
    if bool((table[:, 1:3] < 1).any()) and float(table[:, 1:].max()) <= 2:
        return False  # maybe shares
    sizes = [reference.size_of(name) for name in names]
    sides = np.array([(np.nan, np.nan) if one is None else (one[1], one[0]) for one in sizes])
    boxes = table[:, 1:] - ONE_BASED
    share = float(outside(boxes, sides[image], "pixels").mean())
    return share <= (ALIKE if reference.is_data_set else WRONG)
