"""Reads detections in JSON and JSON Lines: detkit's, COCO's and torchvision's."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from detkit.errors import DetkitError, UsageError
from detkit.predictions.layout import FORMS, Layout
from detkit.predictions.numbering import Numbering, chosen_numbering, find_numbering, ids_of
from detkit.predictions.reference import Id, Reference
from detkit.predictions.unchecked import IMAGE_KEYS, WHAT_IS_READ, Unchecked, size_or_zero
from detkit.shards.part import require_whole
from detkit.text import counted, short

logger = logging.getLogger(__name__)

COCO_KEYS = ("image_id", "category_id", "bbox", "score")
IMAGE_FILE = re.compile(r".*\.[A-Za-z][A-Za-z0-9]{1,4}")  # a name with the suffix of a file


class JsonReader:
    """Reads JSON and JSON Lines, detkit's, COCO's and torchvision's."""

    def __init__(self, path: Path, reference: Reference, layout: Layout | None) -> None:
        if layout and layout.is_of_rows:
            raise UsageError(
                f"--layout {layout}: {path} is JSON, whose keys say what is what; only the four "
                "numbers of a box can be named, and what numbers of classes are (class0)"
            )
        self.path = path
        self.reference = reference
        self.layout = layout or Layout()
        self.is_own = False  # has objects as detkit writes them

    def read(self, text: str) -> list[Unchecked]:
        """Return the detections of a JSON or JSON Lines text that starts with `[` or `{`."""
        lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        first = _json_or_none(lines[0][1])
        require_whole(first, self.path)
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
        if entries and "bbox" in entries[0] and "detections" not in entries[0]:
            return self._read_coco(entries, places, {})
        images = [self._image(*pair) for pair in zip(entries, places, strict=True)]
        self.name_numbers(images, "labels", {})
        return images

    def _image(self, entry: dict[str, Any], place: str) -> Unchecked:
        """Return one image's detections."""
        name = next((entry[key] for key in IMAGE_KEYS if key in entry), None)
        if isinstance(name, bool) or not isinstance(name, (str, int)):
            raise DetkitError(f"{place}: no image is named (keys: {', '.join(map(str, entry))})")
        image = Unchecked(
            str(name),
            size_or_zero(entry.get("width")),
            size_or_zero(entry.get("height")),
            box_words=self.layout.box or FORMS["corners"],
            normalised=self.layout.unit == "shares",
            image_id=image_id_of(entry),
        )
        if entry.get("error") is not None:
            image.error = str(entry["error"])
            return image
        try:
            if "detections" in entry:
                self.is_own = True
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
        images: dict[str, Unchecked] = {}  # by name
        listed: dict[str, Unchecked] = {}  # by the document's own id
        for one, place in self._listed(document, "images"):
            key = str(_id(one, "id", place))
            name = str(_id(one, "file_name", place)) if "file_name" in one else key
            listed[key] = images.setdefault(name, self._sized(name))
            sides = (size_or_zero(one.get(side)) for side in ("width", "height"))
            listed[key].width, listed[key].height = sides
        _check_objects(rows, places)
        names = self._named_ids(rows)
        contradicted = []
        for row, place in zip(rows, places, strict=True):
            missing = [key for key in COCO_KEYS if key not in row]
            if missing and missing != ["image_id"] or (missing and "file_name" not in row):
                raise DetkitError(
                    f"{place}: no {missing[0]!r}; a COCO result has image_id, category_id, bbox "
                    "[x, y, w, h] and score"
                )
            own_id = None if missing else str(_id(row, "image_id", place))
            if "file_name" in row:
                image = self._found(images, str(_id(row, "file_name", place)))
                if own_id in listed and listed[own_id] is not image:
                    contradicted.append((place, row, listed[own_id].name))
                if own_id not in listed:
                    image.image_id = own_id
            elif own_id in listed:
                image = listed[own_id]
            else:
                image = self._found(images, names.get(str(own_id), str(own_id)))
                image.image_id = own_id
            label = row.get("category_name", row["category_id"])
            image.add(label, row["score"], row["bbox"], place)
        if contradicted:
            place, row, name = contradicted[0]
            logger.warning(
                "%s: file_name %r, but image_id %s is %s in the file's own list (%s in all); "
                "file_name decides",
                place,
                row["file_name"],
                short(row["image_id"]),
                name,
                counted(len(contradicted), "row"),
            )
        found = list(images.values())
        ids = {
            _id(one, "id", place): str(_id(one, "name", place))
            for one, place in self._listed(document, "categories")
        }
        kind = self.kind_of(image.image_id for image in found if image.labels)
        self.name_numbers(found, kind, ids)
        return found

    def _sized(self, name: str) -> Unchecked:
        """Return an image without detections yet, whose boxes are as COCO has them."""
        return Unchecked(
            name,
            box_words=self.layout.box or FORMS["sizes"],
            normalised=self.layout.unit == "shares",
        )

    def _found(self, images: dict[str, Unchecked], name: str) -> Unchecked:
        """Return the image of a name, a new one where there is none yet."""
        if name not in images:
            images[name] = self._sized(name)
        return images[name]

    def _named_ids(self, rows: Sequence[Any]) -> dict[str, str]:
        """Return the file name of each image id that rows name in one way only."""
        names: dict[str, set[str]] = {}
        for row in rows:
            if "file_name" in row and "image_id" in row:
                names.setdefault(str(row["image_id"]), set()).add(str(row["file_name"]))
        return {key: next(iter(several)) for key, several in names.items() if len(several) == 1}

    def kind_of(self, image_ids: Iterable[str | None]) -> str:
        """Return "own" for image ids that are file names (old `detect -f coco`), else "results".

        A data set may have such names as ids; then they are results like any other.
        """
        are_files = [key for key in image_ids if key and IMAGE_FILE.fullmatch(key)]
        is_own = bool(are_files) and not self.reference.image_ids & set(are_files)
        return "own" if is_own else "results"

    def _listed(self, document: Mapping[str, Any], key: str) -> list[tuple[dict[str, Any], str]]:
        """Return the objects that a document lists under a key, each with its place."""
        if key not in document:
            return []
        if not isinstance(document[key], list):
            raise DetkitError(f'{self.path}: "{key}" is {short(document[key])}, no list')
        places = [f"{self.path}: {key} {n}" for n in range(1, len(document[key]) + 1)]
        _check_objects(document[key], places)
        return list(zip(document[key], places, strict=True))

    def name_numbers(self, images: Sequence[Unchecked], kind: str, own: Mapping[Id, str]) -> None:
        """Put class names in the place of numbers; names stay. `own` are the file's own ids."""
        classes = {*self.reference.class_names, *own.values()}
        numbers: set[Id] = set()
        for image in images:
            for index, label in enumerate(image.labels):
                number = _number(label)
                if (
                    number is not None
                    and label not in classes
                    and isinstance(label, int | str | float)
                ):
                    image.labels[index] = number
                    numbers.add(number)
        known = own or self.reference.ids
        numbers |= {
            one
            for image in images
            for one in image.labels
            if isinstance(one, str) and one in known and one not in classes
        }
        if not numbers:
            return
        whole = {one for one in numbers if isinstance(one, int)}
        texts = numbers - whole
        if own:
            numbering = Numbering("the file's own", _with_whole(own), "")
        elif self.layout.numbering:
            numbering = chosen_numbering(self.layout.numbering, self.reference)
        elif texts:
            numbering = ids_of(self.reference)
        else:
            numbering, said = find_numbering(whole, kind, self.reference, str(self.path))
            if said:
                logger.info("%s: %s", self.path, said)
        for image in images:
            for index, label in enumerate(image.labels):
                if not _is_id(label) or label not in numbers:
                    continue
                if label not in numbering.names:
                    raise DetkitError(
                        f"{image.places[index]}: no class has the number {short(label)} "
                        f"({counted(len(numbering.names), 'class')}: "
                        f"{short([f'{key} {name}' for key, name in numbering.names.items()])})"
                    )
                image.labels[index] = numbering.names[label]


def _with_whole(ids: Mapping[Id, str]) -> dict[Id, str]:
    """Return class names by id, a text of digits also by its number."""
    numbered: dict[Id, str] = {}
    numbered |= {number: name for key, name in ids.items() if (number := _number(key)) is not None}
    return {**numbered, **ids}


def _number(label: Any) -> int | None:
    """Return the whole number that a label is, or that its text or decimals say; else None."""
    if isinstance(label, bool):
        return None
    if isinstance(label, int):
        return label
    if isinstance(label, float) and label.is_integer():
        return int(label)
    if isinstance(label, str) and label.isdecimal() and len(label) < 10:
        return int(label)
    return None


def _is_id(value: Any) -> bool:
    """Return whether a value is a number or a text that may stand for a class."""
    return isinstance(value, int | str) and not isinstance(value, bool)


def image_id_of(entry: Mapping[str, Any]) -> str | None:
    """Return COCO's image id of an object, if it states one."""
    value = entry.get("image_id")
    return str(value) if isinstance(value, int | str) and not isinstance(value, bool) else None


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
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        stated = f"{key!r} is {short(value)}, no whole number or text" if key in entry else None
        raise DetkitError(f"{place}: {stated or f'no {key!r}'}")
    return value


def _list(value: Any) -> list[Any]:
    """Return the list that a JSON value is; TypeError for another."""
    if not isinstance(value, list):
        raise TypeError(f"{short(value)} is no list")
    return value
