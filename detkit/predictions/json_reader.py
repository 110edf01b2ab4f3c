"""Reads detections in JSON and JSON Lines: detkit's, COCO's and torchvision's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detkit.errors import DetkitError
from detkit.predictions.image import coco_category_ids
from detkit.predictions.unchecked import IMAGE_KEYS, WHAT_IS_READ, Unchecked, size_or_zero
from detkit.text import counted, short

COCO_KEYS = ("image_id", "category_id", "bbox", "score")
Id = int | str


class JsonReader:
    """Reads JSON and JSON Lines, detkit's, COCO's and torchvision's."""

    def __init__(
        self, path: Path, class_names: Sequence[str] | None, category_ids: Sequence[int] | None
    ) -> None:
        self.path = path
        self.class_names = class_names
        self.category_ids = category_ids

    def read(self, text: str) -> list[Unchecked]:
        """Return the detections of a JSON or JSON Lines text that starts with `[` or `{`."""
        lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        first = _json_or_none(lines[0][1])
        if len(lines) > 1 and isinstance(first, dict):
            entries = [self._parse(line, number) for number, line in lines]
            places = [f"{self.path}:{number}" for number, _ in lines]
            return self._read_entries(entries, places)
        document = self._parse(text, 1)
        if isinstance(document, dict):
            return self._read_object(document)
        return self._read_entries(
            document, [f"{self.path}: entry {n}" for n in range(1, len(document) + 1)]
        )

    def _parse(self, text: str, line: int) -> Any:
        """Return the value of a JSON text that starts at a line of the file."""
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise DetkitError(
                f"{self.path}:{line + error.lineno - 1}: not JSON: {error.msg}; cut off?"
            ) from error
        except RecursionError as error:
            raise DetkitError(f"{self.path}:{line}: JSON nested too deeply") from error
        except ValueError as error:  # a number of thousands of digits
            raise DetkitError(f"{self.path}:{line}: JSON with an endless number") from error

    def _read_object(self, document: dict[str, Any]) -> list[Unchecked]:
        """Return the detections of a file that is one object."""
        rows = document.get("annotations", document.get("predictions"))
        if isinstance(rows, list):
            places = [f"{self.path}: annotation {n}" for n in range(1, len(rows) + 1)]
            return self._read_coco(rows, places, document)
        if "detections" in document or "boxes" in document or "error" in document:
            return self._read_entries([document], [f"{self.path}:1"])
        if document and all(isinstance(value, dict) for value in document.values()):
            entries = [{"image": name, **value} for name, value in document.items()]
            return self._read_entries(entries, [f"{self.path}: {name!r}" for name in document])
        raise DetkitError(f"{self.path}: not detections; {WHAT_IS_READ}")

    def _read_entries(self, entries: Sequence[Any], places: Sequence[str]) -> list[Unchecked]:
        """Return the detections of objects by image, or by detection as COCO's results are."""
        _check_objects(entries, places)
        if entries and "bbox" in entries[0]:
            return self._read_coco(entries, places, {})
        images = [self._image(*pair) for pair in zip(entries, places, strict=True)]
        self._name_numbers(images, ids=None)
        return images

    def _image(self, entry: dict[str, Any], place: str) -> Unchecked:
        """Return one image's detections."""
        name = next((entry[key] for key in IMAGE_KEYS if key in entry), None)
        if isinstance(name, bool) or not isinstance(name, (str, int)):
            raise DetkitError(f"{place}: no image is named (keys: {', '.join(map(str, entry))})")
        image = Unchecked(
            str(name), size_or_zero(entry.get("width")), size_or_zero(entry.get("height"))
        )
        if entry.get("error") is not None:
            image.error = str(entry["error"])
            return image
        try:
            if "detections" in entry:
                found = _list(entry["detections"])
                rows = [(one["label"], one["score"], one["box"]) for one in found]
            else:
                columns = [_list(entry[key]) for key in ("labels", "scores", "boxes")]
                rows = list(zip(*columns, strict=True))
        except (KeyError, TypeError, ValueError) as error:
            problem = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise DetkitError(
                f'{place}: image "{name}": {problem}; expected "detections", a list of '
                '{"label", "score", "box"}'
            ) from error
        for number, (label, score, box) in enumerate(rows, start=1):
            image.add(label, score, box, f"{place}: detection {number}")
        return image

    def _read_coco(
        self, rows: Sequence[Any], places: Sequence[str], document: dict[str, Any]
    ) -> list[Unchecked]:
        """Return COCO results; `document` may name their images and categories."""
        images: dict[str, Unchecked] = {}
        for one, place in self._listed(document, "images"):
            key = str(_id(one, "id", place))
            name = str(_id(one, "file_name", place)) if "file_name" in one else key
            width, height = (size_or_zero(one.get(side)) for side in ("width", "height"))
            images[key] = Unchecked(name, width, height, is_sized=True)
        _check_objects(rows, places)
        for row, place in zip(rows, places, strict=True):
            missing = [key for key in COCO_KEYS if key not in row]
            if missing:
                raise DetkitError(
                    f"{place}: no {missing[0]!r}; a COCO result has image_id, category_id, bbox "
                    "[x, y, w, h] and score"
                )
            # A name says what an id means, wherever a row has one.
            key = str(_id(row, "file_name" if "file_name" in row else "image_id", place))
            if key not in images:
                images[key] = Unchecked(key, is_sized=True)
            label = row.get("category_name", row["category_id"])
            images[key].add(label, row["score"], row["bbox"], place)
        found = list(images.values())
        ids = {
            _id(one, "id", place): str(_id(one, "name", place))
            for one, place in self._listed(document, "categories")
        }
        self._name_numbers(found, ids or None)
        return found

    def _listed(self, document: Mapping[str, Any], key: str) -> list[tuple[dict[str, Any], str]]:
        """Return the objects that a document lists under a key, each with its place."""
        if key not in document:
            return []
        if not isinstance(document[key], list):
            raise DetkitError(f'{self.path}: "{key}" is {short(document[key])}, no list')
        places = [f"{self.path}: {key} {n}" for n in range(1, len(document[key]) + 1)]
        _check_objects(document[key], places)
        return list(zip(document[key], places, strict=True))

    def _name_numbers(self, images: Sequence[Unchecked], ids: Mapping[Id, str] | None) -> None:
        """Put class names in the place of category numbers; names stay."""
        numbers = {label for image in images for label in image.labels if type(label) is int}
        if not numbers:
            return
        names: Mapping[Id, str] = self._numbering(numbers) if ids is None else ids
        for image in images:
            for index, label in enumerate(image.labels):
                if type(label) is not int:
                    continue
                if label not in names:
                    raise DetkitError(
                        f"{image.places[index]}: no class has the number {short(label)} "
                        f"({counted(len(names), 'class')}: {short(list(names))})"
                    )
                image.labels[index] = names[label]

    def _numbering(self, numbers: set[int]) -> dict[Id, str]:
        """Return the class of each number: the data set's ids, COCO's, or counted from 1.

        A 0 among the numbers shows that a tool counted from 0.
        """
        if not self.class_names:
            raise DetkitError(f"{self.path}: classes are numbers; their names are needed")
        if self.category_ids is not None:
            return dict(zip(self.category_ids, self.class_names, strict=True))
        if 0 in numbers:
            return dict(enumerate(self.class_names))
        return dict(zip(coco_category_ids(self.class_names), self.class_names, strict=True))


def _json_or_none(text: str) -> Any:
    """Return the value of a JSON text, None if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _check_objects(values: Sequence[Any], places: Sequence[str]) -> None:
    """Raise DetkitError for a value that is no JSON object."""
    for value, place in zip(values, places, strict=True):
        if not isinstance(value, dict):
            raise DetkitError(f"{place}: expected an object, not {type(value).__name__}")


def _id(entry: Mapping[str, Any], key: str, place: str) -> Id:
    """Return the number or text by which an object names something; DetkitError for another."""
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int | str):
        stated = f"{key!r} is {short(value)}, no whole number or text" if key in entry else None
        raise DetkitError(f"{place}: {stated or f'no {key!r}'}")
    return value


def _list(value: Any) -> list[Any]:
    """Return the list that a JSON value is; TypeError for another."""
    if not isinstance(value, list):
        raise TypeError(f"{short(value)} is no list")
    return value
