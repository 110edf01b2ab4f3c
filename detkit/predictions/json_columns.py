"""JSON in which nothing is odd, read in parts and kept as columns: millions of detections.

COCO's results, an array of a row a detection, and detkit's `json` and `jsonl`, an object an image.
`JsonReader` reads all others, and says what is wrong with them; it keeps a detection as objects
of Python's, which take a kilobyte. What numbers in the place of class names mean is found by the
reader in either case.

Shape shorthand: N detections of all images.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from detkit.predictions.image import ImagePredictions
from detkit.predictions.json_reader import JsonReader, image_id_of
from detkit.predictions.layout import FORMS, to_corners
from detkit.predictions.reference import Id
from detkit.predictions.unchecked import LARGEST, Unchecked, size_or_zero
from detkit.structures import DoubleArray, FloatArray, IntArray

_AT_ONCE = 1 << 22  # bytes of a file that are taken apart at once
_MOST_WHOLE = 1 << 26  # bytes in which no object ends
_NAMED = {"file_name", "category_name"}  # what rows may have beside COCO's keys


class _Odd(ValueError):
    """Something about a file is odd."""


def plain_json(path: Path, reader: JsonReader) -> list[ImagePredictions] | None:
    """Return the detections of a file, in its order; None where something about it is odd.

    Odd is all that `reader` refuses or has to think about: a key that is missing, a number that is
    a text or not finite, a corner before the other, rows of which only some name their files.
    Raises DetkitError for numbers that are no class's, as the reader does.
    """
    try:
        with path.open("rb") as file:
            if file.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
                file.seek(0)
            start = file.tell()
            first = file.read(_AT_ONCE).lstrip()[:1]
            file.seek(start)
            if first == b"{":
                lines = ((f"{path}:{number}", value) for number, value in _lines(file))
                return _images(lines, reader)
            return _array(path, file, reader) if first == b"[" else None
    except (_Odd, OSError):
        return None


def _array(path: Path, file: BinaryIO, reader: JsonReader) -> list[ImagePredictions]:
    """Return the detections of a file that is one array."""
    parts = _parts(file)
    begin = next(parts)
    if not begin or not isinstance(begin[0], dict):
        raise _Odd
    parts = chain([begin], parts)
    if "bbox" in begin[0] and "detections" not in begin[0]:
        return _results(path, parts, reader)
    entries = enumerate(chain.from_iterable(parts), start=1)
    return _images(((f"{path}: entry {number}", value) for number, value in entries), reader)


def _lines(file: BinaryIO) -> Iterator[tuple[int, Any]]:
    """Yield the number and the value of each line that is not empty; several, or it is odd."""
    count = 0
    for number, line in enumerate(file, start=1):
        if line.strip():
            count += 1
            yield number, _value(line)
    if count < 2:
        raise _Odd


def _value(text: bytes) -> Any:
    """Return the value of a JSON text in UTF-8."""
    try:
        return json.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise _Odd from error


def _parts(file: BinaryIO) -> Iterator[list[Any]]:
    """Yield the values of an array of objects, some megabytes at once.

    A part that was cut at a wrong place, inside a text or an object, is no JSON.
    """
    rest = file.read(_AT_ONCE).lstrip().removeprefix(b"[").lstrip()
    while block := file.read(_AT_ONCE):
        rest += block
        cut = _last_end(rest)
        if cut:
            yield _value(b"[" + rest[:cut] + b"]")
            rest = rest[cut:].lstrip().removeprefix(b",").lstrip()
        elif len(rest) > _MOST_WHOLE:
            raise _Odd
    yield _value(b"[" + rest)


def _last_end(text: bytes) -> int:
    """Return where the last object ends that has another behind it; 0 where there is none.

    Known by the first key, which is the same in all: objects inside others have other keys.
    """
    head = text[: text.find(b":") + 1]
    before = text[: max(0, text.rfind(head))].rstrip()
    if not before.endswith(b","):
        return 0
    before = before[:-1].rstrip()
    return len(before) if before.endswith(b"}") else 0


def _images(entries: Iterable[tuple[str, Any]], reader: JsonReader) -> list[ImagePredictions]:
    """Return what objects by image hold, each with its place."""
    places: dict[str, str] = {}  # of each label, where it comes first
    images = [_image(entry, place, places, reader) for place, entry in entries]
    reader.is_own = any(one.error is None for one in images)
    names = _names(places, "labels", reader)
    if all(label == name for label, name in names.items()):
        return images
    return [replace(one, labels=tuple([names[label] for label in one.labels])) for one in images]


def _image(entry: Any, place: str, places: dict[str, str], reader: JsonReader) -> ImagePredictions:
    """Return what an object says of its image, and note where its labels come first."""
    if not isinstance(entry, dict) or type(entry.get("image")) is not str:
        raise _Odd
    error, found = entry.get("error"), entry.get("detections")
    found = found if error is None else []
    if not isinstance(found, list):
        raise _Odd
    words = reader.layout.box or FORMS["corners"]
    try:
        labels = [one["label"] for one in found]
        scores = _numbers([[one["score"]] for one in found], 1)[:, 0]
        sides = [one["box"] for one in found]
    except (KeyError, TypeError) as problem:
        raise _Odd from problem
    boxes = _boxes(sides, words)
    if not set(map(type, labels)) <= {str}:
        raise _Odd
    for number, label in enumerate(labels, start=1):
        if label not in places:
            places[label] = f"{place}: detection {number}"
    return ImagePredictions(
        image=entry["image"],
        width=size_or_zero(entry.get("width")),
        height=size_or_zero(entry.get("height")),
        labels=tuple(labels),
        scores=scores.astype(np.float32),
        boxes=boxes,
        error=None if error is None else str(error),
        normalised=reader.layout.unit == "shares",
        box_words=words,
        image_id=image_id_of(entry),
    )


def _results(path: Path, parts: Iterable[list[Any]], reader: JsonReader) -> list[ImagePredictions]:
    """Return COCO's results, whose rows come in parts."""
    rows = _Rows(reader.layout.box or FORMS["sizes"])
    for part in parts:
        rows.add(part)
    image, label, scores, boxes = map(np.concatenate, zip(*rows.columns, strict=True))
    order = np.argsort(image, kind="stable")
    label = label[order]
    _, firsts = np.unique(label, return_index=True)
    known = list(rows.labels)
    places = {known[label[at]]: f"{path}: entry {order[at] + 1}" for at in np.sort(firsts)}
    ids = {name: str(one) for name, one in rows.ids.items()}
    names = _names(places, reader.kind_of(ids.values()), reader)
    texts = [names[one] for one in known]
    ends = np.searchsorted(image[order], np.arange(len(rows.images)), side="right").tolist()
    scores, boxes = scores[order], boxes[order]
    return [
        ImagePredictions(
            image=str(name),
            width=0,
            height=0,
            labels=tuple([texts[one] for one in label[start:end].tolist()]),
            scores=scores[start:end],
            boxes=boxes[start:end],
            normalised=reader.layout.unit == "shares",
            box_words=rows.words,
            image_id=ids[name],
        )
        for name, start, end in zip(rows.images, [0, *ends], ends, strict=False)
    ]


class _Rows:
    """COCO's results as columns: of each part the image, the label, (N,) scores, (N, 4) boxes.

    Images and labels are numbered as they come.
    """

    def __init__(self, words: tuple[str, ...]) -> None:
        """Take what the four numbers of a box are."""
        self.words = words
        self.images: dict[Id, int] = {}
        self.labels: dict[Id, int] = {}
        self.ids: dict[Id, Id] = {}  # of each image the last id that a row gives it
        self.columns: list[tuple[IntArray, IntArray, FloatArray, FloatArray]] = []
        self._kinds: tuple[object, ...] = ()

    def add(self, rows: list[Any]) -> None:
        """Add rows, all of which have the same of `_NAMED` and ids of one kind."""
        try:
            named = {frozenset(_NAMED & row.keys()) for row in rows}
            has = next(iter(named), frozenset())
            ids = [row["image_id"] for row in rows]
            names = [row["file_name"] for row in rows] if "file_name" in has else ids
            labels = [row["category_id"] for row in rows]
            if "category_name" in has:
                labels = [row["category_name"] for row in rows]
            scores = _numbers([[row["score"]] for row in rows], 1)[:, 0]
            boxes = _boxes([row["bbox"] for row in rows], self.words)
        except (AttributeError, KeyError, TypeError) as problem:
            raise _Odd from problem
        kinds = (named, *(set(map(type, values)) for values in (ids, names, labels)))
        self._kinds = self._kinds or kinds
        # 1 and "1" are one image; a file's name or a class's that is a number is not looked into.
        is_plain = all(kind in ({int}, {str}) for kind in kinds[1:]) and len(named) == 1
        if not is_plain or kinds != self._kinds:
            raise _Odd
        if ("file_name" in has and kinds[2] != {str}) or (
            "category_name" in has and kinds[3] != {str}
        ):
            raise _Odd
        self.ids.update(zip(names, ids, strict=True))
        image = [self.images.setdefault(one, len(self.images)) for one in names]
        label = [self.labels.setdefault(one, len(self.labels)) for one in labels]
        self.columns.append(
            (np.array(image, np.int64), np.array(label, np.int64), scores.astype(np.float32), boxes)
        )


def _names(places: Mapping[Any, str], kind: str, reader: JsonReader) -> dict[Any, str]:
    """Return the class name of each label, which stands first at a place."""
    every = Unchecked("", labels=list(places), places=list(places.values()))
    reader.name_numbers([every], kind, {})
    if not set(map(type, every.labels)) <= {str}:
        raise _Odd
    return dict(zip(places, every.labels, strict=True))


def _boxes(values: list[Any], words: tuple[str, ...]) -> FloatArray:
    """Return (N, 4) corners of lists of the four numbers that the words say."""
    boxes = to_corners(_numbers(values, 4), words).astype(np.float32)
    if (boxes[:, 2:] < boxes[:, :2]).any():
        raise _Odd
    return boxes


def _numbers(values: list[Any], width: int) -> DoubleArray:
    """Return lists of `width` finite numbers as (N, width)."""
    if not set(map(type, values)) <= {list} or not set(map(len, values)) <= {width}:
        raise _Odd
    if not set(map(type, chain.from_iterable(values))) <= {int, float}:
        raise _Odd
    try:
        array = np.fromiter(chain.from_iterable(values), np.float64, len(values) * width)
    except OverflowError as error:
        raise _Odd from error
    if not (np.abs(array) < LARGEST).all():
        raise _Odd
    return array.reshape(-1, width)
