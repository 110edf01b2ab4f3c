"""Readers of detections in files, detkit's own and other tools'; the content tells the format.

Read are the six formats that detkit writes, and beside them:
- JSON arrays, or JSON Lines, of `{"image", "boxes", "labels", "scores"}` as torchvision's
  models give them, and an object of such by image name. Numbers as labels count from 1.
- COCO results inside a whole COCO file with its `images` and `categories`.
- A folder of `IMAGE.txt`: Ultralytics' `class cx cy w h score` (`save_txt=True
  save_conf=True`), or R. Padilla's `class score x1 y1 x2 y2` in pixels; where many rows could
  not be corners (x2 < x1) they are read as `class score x y w h`. Numbers as classes count
  from 0, and a `classes.txt` beside them has the say over what they mean.
- CSV tables whose columns have other usual names (`filename`, `class`, `confidence`, `xmin`).
"""

from __future__ import annotations

import contextlib
import csv
import gc
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from detkit.errors import DetkitError
from detkit.predictions.image import ImagePredictions
from detkit.predictions.json_reader import JsonReader
from detkit.predictions.texts import stem_of
from detkit.predictions.unchecked import IMAGE_KEYS, WHAT_IS_READ, Unchecked, size_or_zero
from detkit.text import agreed, counted, short

CSV_NAMES = {
    "image": (*IMAGE_KEYS, "image_name"),
    "label": ("label", "name", "class_name", "category", "class"),
    "score": ("score", "confidence", "conf", "prob", "probability"),
    "x1": ("x1", "xmin", "x_min", "left"),
    "y1": ("y1", "ymin", "y_min", "top"),
    "x2": ("x2", "xmax", "x_max", "right"),
    "y2": ("y2", "ymax", "y_max", "bottom"),
}
VOC_FILE = re.compile(r"(?:.*_)?det_[^_]+_(.+)\.txt")
NOT_IMAGES = ("classes.txt", "labels.txt", "names.txt")  # lists beside label files
# A detector's corners are in order; a tenth of rows out of order are sizes, not mistakes.
SIZES_SHARE = 0.1


def read_predictions(
    path: Path,
    *,
    class_names: Sequence[str] | None = None,
    category_ids: Sequence[int] | None = None,
) -> list[ImagePredictions]:
    """Return the detections of a file or folder, in its order; the format is found by content.

    See the head of this file for the formats. `class_names` stand for class numbers and
    `category_ids`, one a class, for COCO's. Raises DetkitError with file and line for what
    cannot be understood.
    """
    with _cycles_left_alone():
        if path.is_dir():
            images = _read_folder(path, class_names)
        elif not path.is_file():
            raise DetkitError(f"{path}: no such file or folder")
        elif VOC_FILE.fullmatch(path.name):
            images = _read_voc([path])
        else:
            images = _read_file(path, class_names, category_ids)
        return [image.finish() for image in images]


@contextlib.contextmanager
def _cycles_left_alone() -> Iterator[None]:
    """Have Python look for no cycles of objects: detections have none.

    Among a million of them it takes longer to look than to read: 6.7 s instead of 2.7 s.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _read_file(
    path: Path, class_names: Sequence[str] | None, category_ids: Sequence[int] | None
) -> list[Unchecked]:
    """Return the detections of one JSON, JSON Lines, CSV or text file."""
    text = _text(path)
    start = text.lstrip()[:1]
    if not start:
        raise DetkitError(f"{path}: is empty; {WHAT_IS_READ}")
    if start in "[{":
        return JsonReader(path, class_names, category_ids).read(text)
    header = text.split("\n", 1)[0]
    delimiter = next((sign for sign in ",;\t" if sign in header), None)
    if delimiter:
        return _read_csv(path, text, delimiter, class_names)
    if path.suffix.lower() == ".txt":
        return _read_text_files([path], class_names)
    raise DetkitError(f"{path}: not a file of detections; {WHAT_IS_READ}")


def _read_folder(folder: Path, class_names: Sequence[str] | None) -> list[Unchecked]:
    """Return the detections of a folder of text files."""
    inner = folder / "labels"
    home = inner if inner.is_dir() else folder
    files = sorted(
        path
        for path in home.iterdir()
        if path.suffix.lower() == ".txt" and (home == inner or path.name not in NOT_IMAGES)
    )
    list_file = folder / "images.csv"
    if not files and not list_file.is_file():
        raise DetkitError(f"{folder}: holds no .txt files of detections; {WHAT_IS_READ}")
    if files and all(VOC_FILE.fullmatch(path.name) for path in files):
        return _read_voc(files)
    for name_file in (folder / "classes.txt", folder.parent / "classes.txt"):
        if name_file.is_file():
            class_names = [line.strip() for line in _text(name_file).split("\n") if line.strip()]
            break
    if list_file.is_file():
        return _with_sizes(_read_text_files(files, class_names, is_yolo=True), list_file)
    return _read_text_files(files, class_names)


def _read_voc(files: Iterable[Path]) -> list[Unchecked]:
    """Return the detections of VOC's comp4 files, one a class: 1-based, both corners inside."""
    images: dict[str, Unchecked] = {}
    for path in files:
        match = VOC_FILE.fullmatch(path.name)
        label = match[1] if match else path.stem
        for place, line in _lines(path):
            cells = line.rsplit(maxsplit=5)
            if len(cells) != 6:
                raise DetkitError(
                    f"{place}: expected `image score xmin ymin xmax ymax`: {short(line)}"
                )
            score, x1, y1, x2, y2 = _floats(cells[1:], place)
            image = images.setdefault(cells[0], Unchecked(cells[0]))
            image.add(label, score, (x1 - 1, y1 - 1, x2, y2), place)
    return list(images.values())


def _read_text_files(
    files: Iterable[Path], class_names: Sequence[str] | None, *, is_yolo: bool = False
) -> list[Unchecked]:
    """Return the detections of text files, one an image, in the dialect all of them share.

    It is seen from the numbers, unless `is_yolo` says that it is the normalised one.
    """
    images = []
    rows: list[tuple[Unchecked, str, str, list[float]]] = []  # image, place, class, five numbers
    for path in files:
        image = Unchecked(path.stem)
        images.append(image)
        for place, line in _lines(path):
            cells = line.rsplit(maxsplit=5)
            if len(cells) == 5:
                raise DetkitError(
                    f"{place}: five values, so no score; Ultralytics writes it with save_conf=True"
                )
            if len(cells) != 6:
                raise DetkitError(f"{place}: expected a class and five numbers: {short(line)}")
            rows.append((image, place, cells[0], _floats(cells[1:], place)))
    if not rows:
        return images
    labels = _class_names([row[2] for row in rows], [row[1] for row in rows], class_names)
    numbers = np.array([row[3] for row in rows])
    shares = numbers[:, :4]  # cx cy w h; or score x1 y1 x2, which would be a box of one pixel
    normalised = is_yolo or bool(((shares >= -0.001) & (shares <= 1.001)).all())
    if normalised:  # cx cy w h score
        scores = numbers[:, 4]
        boxes = np.concatenate(
            [numbers[:, :2] - numbers[:, 2:4] / 2, numbers[:, :2] + numbers[:, 2:4] / 2], axis=1
        )
    else:  # score x1 y1 x2 y2, or score x y w h
        scores, boxes = numbers[:, 0], numbers[:, 1:].copy()
        if (boxes[:, 2:] < boxes[:, :2]).any(axis=1).mean() >= SIZES_SHARE:
            boxes[:, 2:] += boxes[:, :2]
    for (image, place, _, _), label, score, box in zip(
        rows, labels, scores.tolist(), boxes.tolist(), strict=True
    ):
        image.normalised = normalised
        image.add(label, score, box, place)
    return images


def _with_sizes(images: list[Unchecked], list_file: Path) -> list[Unchecked]:
    """Return the images of detkit's `images.csv`, in its order, with boxes in pixels."""
    by_stem = {image.name: image for image in images}
    listed = []
    rows = _rows(list_file, _text(list_file), ",")
    next(rows, None)  # the header
    for place, cells in rows:
        numbers = _floats(cells[1:], place) if len(cells) == 3 else []
        width, height = map(size_or_zero, numbers or (0, 0))
        if not width or not height:
            raise DetkitError(f"{place}: expected `image,width,height`: {short(','.join(cells))}")
        stem = stem_of(cells[0])
        image = by_stem.pop(stem, Unchecked(stem))
        image.name, image.width, image.height = cells[0], width, height
        if image.normalised:
            image.boxes = [
                (x1 * width, y1 * height, x2 * width, y2 * height) for x1, y1, x2, y2 in image.boxes
            ]
            image.normalised = False
        listed.append(image)
    if by_stem:
        raise DetkitError(f"{list_file}: does not list {next(iter(by_stem))}.txt, which is there")
    return listed


def _read_csv(
    path: Path, text: str, delimiter: str, class_names: Sequence[str] | None
) -> list[Unchecked]:
    """Return the detections of a table with a header, a row a detection."""
    rows = _rows(path, text, delimiter)
    _, names_of_columns = next(rows, ("", []))
    header = [name.strip().lower() for name in names_of_columns]
    columns = {}
    for column, names in CSV_NAMES.items():
        present = [name for name in names if name in header]
        if not present:
            raise DetkitError(
                f"{path}:1: no column {column!r} (or {', '.join(names[1:])}) among "
                f"{', '.join(header)}"
            )
        columns[column] = header.index(present[0])
    images: dict[str, Unchecked] = {}
    for place, cells in rows:
        if len(cells) <= max(columns.values()):
            raise DetkitError(f"{place}: {counted(len(cells), 'cell')}, fewer than the header's")
        name = cells[columns["image"]]
        if not name.strip():
            raise DetkitError(f"{place}: no image is named")
        image = images.setdefault(name, Unchecked(name))
        values = [cells[columns[column]].strip() for column in ("score", "x1", "y1", "x2", "y2")]
        label = cells[columns["label"]].strip()
        if not label and not any(values):
            continue  # an image with nothing in it
        score, *box = _floats(values, place)
        image.add(label, score, tuple(box), place)
    labels = [label for image in images.values() for label in image.labels]
    places = [place for image in images.values() for place in image.places]
    named = iter(_class_names(labels, places, class_names))
    for image in images.values():
        image.labels = [next(named) for _ in image.labels]
    return list(images.values())


def _class_names(
    labels: Sequence[str], places: Sequence[str], class_names: Sequence[str] | None
) -> list[str]:
    """Return the labels as names: numbers counted from 0 unless classes are so called."""
    if not all(label.isdecimal() for label in labels) or set(labels) <= set(class_names or ()):
        return list(labels)
    if not class_names and labels:
        raise DetkitError(f"{places[0]}: classes are numbers; their names are needed")
    names = class_names or ()
    for label, place in zip(labels, places, strict=True):
        if len(label) > 9 or int(label) >= len(names):
            number = label if len(label) <= 9 else f"of {len(label)} digits"
            raise DetkitError(
                f"{place}: class number {number}, but there {agreed(len(names), 'is', 'are')} "
                f"{counted(len(names), 'class')}, from 0"
            )
    return [names[int(label)] for label in labels]


def _floats(cells: Sequence[str], place: str) -> list[float]:
    """Return the numbers in text cells."""
    try:
        return [float(cell) for cell in cells]
    except ValueError as error:
        raise DetkitError(f"{place}: not numbers: {short(' '.join(cells))}") from error


def _rows(path: Path, text: str, delimiter: str) -> Iterator[tuple[str, list[str]]]:
    """Yield `file:line` and the cells of each row of a table that is not empty."""
    reader = csv.reader(io.StringIO(text), delimiter=delimiter)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield f"{path}:{reader.line_num}", cells
    except csv.Error as error:
        raise DetkitError(f"{path}:{reader.line_num}: not CSV: {error}") from error


def _lines(path: Path) -> Iterable[tuple[str, str]]:
    """Yield `file:line` and the text of each line that is not empty."""
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if line.strip():
            yield f"{path}:{number}", line.strip()


def _text(path: Path) -> str:
    """Return a text file, also one that a Windows shell wrote as UTF-16 or with a mark."""
    try:
        content = path.read_bytes()
        encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        return content.decode(encoding).replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise DetkitError(f"{path}: is not text in UTF-8; {WHAT_IS_READ}") from error
    except OSError as error:
        raise DetkitError(f"{path}: cannot be read: {error.strerror or error}") from error
