"""Hugging Face's image folders: `metadata.jsonl` or `metadata.csv` beside the images, read only.

A row an image: `{"file_name": "a.jpg", "objects": {"bbox": [[x, y, width, height]], "category":
[0]}}`, as the documentation of `datasets` has it ("Create an image dataset"), boxes as COCO's. The
lists may be called otherwise (`categories`, `label`), `objects` may be a list of objects, and a
table holds it as a text. Nothing states the kind of box: the one in which all boxes lie in their
images is read, COCO's where it fits, and it is said. Class names of numbers are those of the
README's `dataset_info`, of `dataset_infos.json` or of `classes.txt`, if there is one.
"""

from __future__ import annotations

import ast
import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detkit.data.formats.format import Format
from detkit.data.formats.gathered import Gathered, Part, rows_of
from detkit.data.formats.shapes import Box
from detkit.data.formats.wide_cells import wide_cells
from detkit.data.paths import folder_of, name_of, split_in, suffix_of
from detkit.data.records import Dataset
from detkit.data.tree import Tree
from detkit.text import counted, short

MAX_BYTES = 1 << 30  # ours: some ten million images
MAX_CARD_BYTES = 1 << 20  # ours: names and features

_CARDS = ("readme.md", "dataset_infos.json", "classes.txt")
_FILES = ("metadata.jsonl", "metadata.csv")
_NAMES = ("file_name", "image_file_name", "image", "path")
_OBJECTS = ("objects", "annotations")
_BOXES = ("bbox", "bboxes", "boxes", "box")
_CLASSES = (
    *("category", "categories", "label", "labels", "class", "classes", "class_label", "name"),
    *("category_id", "category_ids", "category_name", "class_name"),
)
_CROWDS = ("iscrowd", "is_crowd")
_DIFFICULT = ("difficult", "ignore")


@dataclass(frozen=True, slots=True)
class _Stated:
    """One object as its row states it."""

    part: Part
    number: int  # of its row's objects, from 1
    line: int
    name: str
    numbers: tuple[float, float, float, float]
    marks: Mapping[str, Any]


def _xywh(a: float, b: float, c: float, d: float) -> Box:
    return a, b, a + c, b + d


def _xyxy(a: float, b: float, c: float, d: float) -> Box:
    return a, b, c, d


def _cxcywh(a: float, b: float, c: float, d: float) -> Box:
    return a - c / 2, b - d / 2, a + c / 2, b + d / 2


_Kind = tuple[str, Callable[[float, float, float, float], Box], bool]

# What four numbers may be: how it is called, how read, and whether they are shares of the image.
_KINDS: tuple[_Kind, ...] = (
    ("COCO's [x, y, width, height]", _xywh, False),
    ("[x1, y1, x2, y2]", _xyxy, False),
    ("[cx, cy, width, height]", _cxcywh, False),
    ("[cx, cy, width, height] as shares", _cxcywh, True),
    ("[x1, y1, x2, y2] as shares", _xyxy, True),
    ("[x, y, width, height] as shares", _xywh, True),
)


def read_huggingface(tree: Tree, only: str | None = None) -> Dataset | None:
    """Return the data set of a folder's metadata files, or None where none holds boxes.

    `only` names the one file to read.
    """
    files = [file for file in metadata_files(tree) if only in (None, file)]
    if not files:
        return None
    gathered = Gathered(tree)
    names = _card_names(gathered)
    objects = [one for file in files for one in _objects(gathered, file, names)]
    _add(gathered, objects)
    used = gathered.used()
    listed = [name for name in names if name in used or not used]
    others = sorted(used - set(names), key=lambda name: (not name.isdecimal(), len(name), name))
    if others and all(name.isdecimal() for name in others):
        message = "nothing names the classes (dataset_info in README.md); called by their number"
        gathered.say("warning", "no-names", message, files[0])
        others.sort(key=int)
    message = "in no row; not used: give an image without objects a row with empty lists"
    return gathered.dataset("huggingface", [*listed, *others], message)


def metadata_files(tree: Tree) -> list[str]:
    """Return the metadata files of a folder whose first rows name an image and hold boxes."""
    files = [file for file in tree.files if name_of(file).lower() in _FILES]
    return [file for file in files if _has_boxes(Gathered(tree), file)]


def _has_boxes(gathered: Gathered, file: str) -> bool:
    """Return whether one of a file's first rows holds boxes, or one is broken."""
    for place, (_, row) in enumerate(_rows(gathered, file)):
        holds = any(key in row for key in _OBJECTS) or _named(row, _BOXES) is not None
        if _named(row, _NAMES) is not None and holds:
            return True
        if place > 20:
            break
    return False


def _rows(gathered: Gathered, file: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line, row) of a metadata file; what cannot be read of it is said."""
    tree = gathered.tree
    try:
        if tree.size(file) > MAX_BYTES:
            gathered.say("error", "too-large", f"more than {MAX_BYTES >> 30} GiB; not read", file)
            return
        with tree.open_text(file) as opened:
            if suffix_of(file) == ".csv":
                yield from _table_rows(gathered, file, opened)
            else:
                yield from _json_rows(gathered, file, opened)
    except OSError as error:
        gathered.say("error", "unreadable-file", f"cannot be read: {error.strerror}", file)


def _json_rows(
    gathered: Gathered, file: str, lines: Iterator[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a file of JSON lines."""
    for line, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", "nested too deeply, or a number without end")
            gathered.say("error", "bad-json", f"not JSON ({reason}); mend the line", file, line)
            continue
        if isinstance(row, dict):
            yield line, row
        else:
            message = f"no object ({short(row)}); write a JSON object a line"
            gathered.say("error", "bad-row", message, file, line)


def _table_rows(
    gathered: Gathered, file: str, lines: Iterator[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a table, their lists and objects parsed."""
    table = csv.DictReader(lines)
    with wide_cells():
        while True:
            try:
                cells = next(table)
            except StopIteration:
                return
            except csv.Error as error:
                message = f"the row cannot be read ({error}); a quote too many?"
                gathered.say("error", "bad-row", message, file, table.line_num)
                continue
            row = {str(key).strip(): _value(text) for key, text in cells.items() if key is not None}
            yield table.line_num, row


def _value(text: Any) -> Any:
    """Return what a cell says: a list or object where it is one, in JSON or as Python writes it."""
    if not isinstance(text, str) or text.strip()[:1] not in ("[", "{"):
        return text
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return text


def _named(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    """Return the value of the first of the keys that is there, or None."""
    return next((row[name] for name in names if row.get(name) is not None), None)


def _objects(gathered: Gathered, file: str, names: Sequence[str]) -> Iterator[_Stated]:
    """Yield the objects of a file whose numbers are four; the others are said."""
    for line, row in _rows(gathered, file):
        stated = _named(row, _NAMES)
        if not isinstance(stated, str):
            message = "no file_name; mend or remove the row"
            gathered.say("error", "bad-row", message, file, line)
            continue
        image = gathered.place(stated, file, line, split_in(file))
        if image is None:
            continue
        part = gathered.part(image, file, split_in(file), line)
        part.width, part.height = _whole(row.get("width")), _whole(row.get("height"))
        for one in _listed(gathered, part, _objects_of(row), line):
            numbers = _four(_named(one, _BOXES))
            label = _named(one, _CLASSES)
            name = _class_name(label, names)
            part.number += 1
            if name is None:
                message = f"no class named (category {short(label)}); name it"
                gathered.say("error", "no-class", message, file, line, part)
            elif numbers is None:
                box = short(_named(one, _BOXES))
                message = f"bbox {box} is not four numbers; mend or remove it"
                gathered.say("error", "bad-number", message, file, line, part, name)
            else:
                yield _Stated(part, part.number, line, name, numbers, one)


def _objects_of(row: Mapping[str, Any]) -> Any:
    """Return what a row says of its objects, in a value of their own or in the row itself."""
    return next((row[key] for key in _OBJECTS if key in row), row)


def _listed(gathered: Gathered, part: Part, objects: Any, line: int) -> list[dict[str, Any]]:
    """Return the objects of a row, each an object of its own; lists that do not match are said."""
    if objects is None or objects in ("", [], {}):
        return []
    if isinstance(objects, list) and all(isinstance(one, dict) for one in objects):
        return objects
    if not isinstance(objects, dict):
        message = f"objects are {short(objects)}; write lists of bbox and category"
        gathered.say("error", "bad-row", message, part.file, line, part)
        return []
    boxes = _named(objects, _BOXES)
    if boxes is None or boxes == []:
        return []
    if isinstance(boxes, list) and len(boxes) == 4 and not any(isinstance(b, list) for b in boxes):
        objects = {key: [value] for key, value in objects.items()}
        boxes = [boxes]
    count = len(boxes) if isinstance(boxes, list) else 0
    known = (*_BOXES, *_CLASSES, *_CROWDS, *_DIFFICULT)
    lists = {key: value for key, value in objects.items() if key in known}
    wrong = [key for key, one in lists.items() if not isinstance(one, list) or len(one) != count]
    if wrong or not count:
        key = wrong[0] if wrong else "bbox"
        message = (
            f"{counted(count, 'box')}, but {key} is {short(lists.get(key))}; write one for each box"
        )
        gathered.say("error", "bad-row", message, part.file, line, part)
        return []
    return [{key: one[place] for key, one in lists.items()} for place in range(count)]


def _four(value: Any) -> tuple[float, float, float, float] | None:
    """Return the four finite numbers of a box, or None."""
    if isinstance(value, dict):
        value = [value.get(key) for key in ("x", "y", "width", "height")]
    if not isinstance(value, list | tuple) or len(value) != 4:
        return None
    if not all(isinstance(one, int | float) and not isinstance(one, bool) for one in value):
        return None
    if not all(abs(one) < 1e300 for one in value):
        return None
    a, b, c, d = map(float, value)
    return a, b, c, d


def _whole(value: Any) -> int | None:
    """Return a stated size as whole pixels, or None where it is none."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return round(number) if 0 < number < 1e9 else None


def _class_name(label: Any, names: Sequence[str]) -> str | None:
    """Return the class that a label means: a name, or a number, that of the card's if it has it."""
    if isinstance(label, str):
        return label.strip() or None
    if isinstance(label, bool) or not isinstance(label, int | float):
        return None
    if label != int(label) or label < 0:
        return None
    return names[int(label)] if label < len(names) else str(int(label))


def _add(gathered: Gathered, objects: list[_Stated]) -> None:
    """Add the objects by the kind of box that fits all of them, and say which it is."""
    title, read, is_shares = _kind(gathered, objects)
    if objects:
        gathered.notes.append(f"boxes read as {title}")
    for one in objects:
        box = read(*one.numbers)
        box = gathered.in_pixels(one.part.image, box) if is_shares else box
        one.part.number = one.number - 1  # as it was when the object was seen
        stated = f"bbox=[{', '.join(f'{value:.10g}' for value in one.numbers)}]"
        crowd = gathered.flag(_named(one.marks, _CROWDS), "iscrowd", one.part, one.line, one.name)
        mark = _named(one.marks, _DIFFICULT)
        difficult = gathered.flag(mark, "difficult", one.part, one.line, one.name)
        gathered.add(
            one.part,
            one.name,
            box,
            one.line,
            stated=stated,
            difficult=difficult,
            crowd=crowd,
        )


def _kind(gathered: Gathered, objects: list[_Stated]) -> _Kind:
    """Return the kind of box by which most boxes lie in their images, the first of equals."""
    if not objects:
        return _KINDS[0]
    # Pixels are whole or large; a whole set of boxes within the first pixel is of shares.
    are_shares = all(-0.01 <= value <= 1.01 for one in objects for value in one.numbers)

    def fitting(kind: _Kind) -> int:
        return sum(_fits(gathered, one, kind) for one in objects)

    return max((kind for kind in _KINDS if kind[2] == are_shares), key=fitting)


def _fits(gathered: Gathered, one: _Stated, kind: _Kind) -> bool:
    """Return whether a box has an area and lies in its image, to a pixel, if it is of a kind."""
    _, read, is_shares = kind
    x1, y1, x2, y2 = read(*one.numbers)
    size = (1.0, 1.0) if is_shares else _size(gathered, one.part)
    slack = 0.01 if is_shares else 1.0
    if not (x1 < x2 and y1 < y2 and min(x1, y1) >= -slack):
        return False
    return size is None or (x2 <= size[0] + slack and y2 <= size[1] + slack)


def _size(gathered: Gathered, part: Part) -> tuple[float, float] | None:
    """Return (width, height) of an image: the stated one, else the file's; None if unknown."""
    if part.width and part.height:
        return part.width, part.height
    return gathered.size(part.image)


def _card_names(gathered: Gathered) -> list[str]:
    """Return the class names by number that the folder states; none where it states none.

    They stand in README.md's `dataset_info`, in `dataset_infos.json`, or a line each in
    `classes.txt`.
    """
    tree = gathered.tree
    for file in sorted(tree.files, key=lambda one: one.count("/")):
        name = name_of(file).lower()
        if name not in _CARDS or tree.size(file) > MAX_CARD_BYTES:
            continue
        if name == "classes.txt":
            found: list[str] = [row for _, row in rows_of(tree.text(file))]
        else:
            labels = _class_labels(_card(name, tree.text(file)), set())
            found = next(filter(None, map(_by_number, labels)), [])
        if found:
            gathered.notes.append(f"class names from {file}")
            return found
    return []


def _card(name: str, text: str) -> Any:
    """Return what a card says in YAML or JSON; None where it says nothing that can be read."""
    import yaml

    try:
        if name.endswith(".json"):
            return json.loads(text)
        parts = text.split("---", 2)
        return yaml.load(parts[1], Loader=yaml.BaseLoader) if len(parts) == 3 else None
    except (ValueError, yaml.YAMLError, RecursionError):
        return None


def _class_labels(value: Any, seen: set[int]) -> Iterator[Any]:
    """Yield the `names` of every `class_label`, or ClassLabel, each part of a card visited once."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, dict):
        if value.get("_type") == "ClassLabel":
            yield value.get("names")
        for key, inner in value.items():
            if key == "class_label" and isinstance(inner, dict):
                yield inner.get("names")
            else:
                yield from _class_labels(inner, seen)
    elif isinstance(value, list):
        for inner in value:
            yield from _class_labels(inner, seen)


def _by_number(names: Any) -> list[str]:
    """Return class names by their number out of a list, or of a map from 0 without gaps."""
    if isinstance(names, dict):
        names = [names.get(str(place)) for place in range(len(names))]
    if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
        return []
    return [one.strip() for one in names]


def _hint(tree: Tree) -> str:
    """Return why metadata in a folder is not read, or ""."""
    files = [file for file in tree.with_suffix(".parquet") if "metadata" in name_of(file)]
    where = folder_of(files[0]) if files else ""
    return f"{where or files[0]}: save metadata.parquet as metadata.jsonl" if files else ""


FORMAT = Format(
    name="huggingface",
    title="Hugging Face metadata",
    looked_for="Hugging Face metadata.jsonl or .csv with boxes",
    suffixes=(".jsonl",),
    read=read_huggingface,
    file_suffixes=(".jsonl", ".csv"),
    files=metadata_files,
    hint=_hint,
)
