"""Readers of detections in files, detkit's own and other tools'; the content tells the format.

Read are the six formats that detkit writes, and beside them:
- JSON arrays, or JSON Lines, of `{"image", "boxes", "labels", "scores"}` as torchvision's
  models give them, and an object of such by image name.
- COCO results inside a whole COCO file with its `images` and `categories`; results whose rows
  have a `file_name`, which says what image they are of.
- A folder of `IMAGE.txt`, or one file of rows that name their images: Ultralytics' `class cx cy w
  h score` (`save_txt=True save_conf=True`), R. Padilla's `class score x1 y1 x2 y2`, or any other
  order of columns, which is seen from what they hold (`columns`). A `classes.txt` beside the
  files has the say over what numbers mean.
- CSV tables whose columns have other usual names (`filename`, `class`, `confidence`, `xmin`),
  and tables without a header.

What the numbers of classes mean: `numbering`. What is inferred is logged, a line each.
"""

from __future__ import annotations

import contextlib
import gc
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from detkit.errors import DetkitError
from detkit.predictions.image import ImagePredictions
from detkit.predictions.json_columns import plain_json
from detkit.predictions.json_reader import JsonReader
from detkit.predictions.layout import Layout
from detkit.predictions.reference import Reference
from detkit.predictions.score_scales import to_unit_scores
from detkit.predictions.table_reader import TableReader, csv_rows
from detkit.predictions.text_reader import VOC, YOLO, TextReader
from detkit.predictions.text_rows import is_header, is_row, numbers, split_rows
from detkit.predictions.texts import stem_of
from detkit.predictions.unchecked import WHAT_IS_READ, Unchecked, size_or_zero
from detkit.predictions.voc_columns import plain_detections
from detkit.text import short

VOC_FILE = re.compile(r"(?:.*_)?det_[^_]+_(.+)\.txt")
NOT_IMAGES = ("classes.txt", "labels.txt", "names.txt")  # lists beside label files
TEXT_SUFFIXES = (".txt", ".csv", ".tsv", ".dat", "")


def read_predictions(
    path: Path,
    *,
    class_names: Sequence[str] | None = None,
    reference: Reference | None = None,
    layout: Layout | None = None,
    scores: str | None = None,
) -> list[ImagePredictions]:
    """Return the detections of a file or folder, in its order; the format is found by content.

    See the head of this file for the formats. `reference` is the data set that they are scored
    on, which settles what numbers and columns mean; `class_names` alone stand for one without
    ids. `layout` says what columns and numbers are, `scores` is one of `SCALES`. What was
    inferred is logged. Raises DetkitError with file and line for what cannot be understood, or
    may be understood in two ways.
    """
    known = reference or Reference(class_names=tuple(class_names or ()))
    with _cycles_left_alone():
        reader = _Reader(path, known, layout, scores)
        images = reader.read_plain()
        if images is None:
            images = [image.finish() for image in reader.read()]
    return to_unit_scores(images, scores, path, is_own=reader.is_own)


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


class _Reader:
    """Finds the format of a file or folder by its content, and reads it."""

    def __init__(
        self, path: Path, reference: Reference, layout: Layout | None, scores: str | None
    ) -> None:
        self.path = path
        self.reference = reference
        self.layout = layout
        self.scores = scores
        self.is_own = False  # written by detkit: scores are whatever its model gives

    def read(self) -> list[Unchecked]:
        """Return the detections, in the order of the file."""
        if self.path.is_dir():
            return self._read_folder()
        if not self.path.is_file():
            raise DetkitError(f"{self.path}: no such file or folder")
        if VOC_FILE.fullmatch(self.path.name):
            return self._read_voc([self.path])
        return self._read_file()

    def read_plain(self) -> list[ImagePredictions] | None:
        """Return the detections of JSON or comp4 files in which nothing is odd; None of others."""
        if self.path.is_file() and not (self.layout and self.layout.is_of_rows):
            reader = JsonReader(self.path, self.reference, self.layout)
            found = plain_json(self.path, reader)
            if found is not None:
                self.is_own = reader.is_own
                return found
        files = self._txt_files() if self.path.is_dir() else [self.path]
        names = [VOC_FILE.fullmatch(path.name) for path in files]
        if self.layout is not None or not self.path.exists() or not files or not all(names):
            return None
        texts = ((name[1], _text(path)) for name, path in zip(names, files) if name)
        return plain_detections(texts, self.reference)

    def _txt_files(self) -> list[Path]:
        """Return the text files of a folder that may hold detections, or of its `labels`."""
        inner = self.path / "labels"
        home = inner if inner.is_dir() else self.path
        return sorted(
            path
            for path in home.iterdir()
            if path.suffix.lower() == ".txt" and (home == inner or path.name not in NOT_IMAGES)
        )

    def _text_reader(self, reference: Reference | None = None) -> TextReader:
        return TextReader(self.path, reference or self.reference, self.layout, self.scores)

    def _read_file(self) -> list[Unchecked]:
        """Return the detections of one JSON, JSON Lines, CSV or text file."""
        text = _text(self.path)
        start = text.lstrip()[:1]
        if not start:
            raise DetkitError(f"{self.path}: is empty; {WHAT_IS_READ}")
        if start in "[{":
            reader = JsonReader(self.path, self.reference, self.layout)
            found = reader.read(text)
            self.is_own = reader.is_own
            return found
        header = text.split("\n", 1)[0]
        delimiter = next((sign for sign in ",;\t" if sign in header), None)
        is_rows = self.layout is not None and self.layout.is_of_rows
        if delimiter and not is_rows and not is_row(header, delimiter):
            table = TableReader(self.path, self.reference, self.layout)
            found = table.read(text, delimiter)
            self.is_own = table.is_own
            return found
        if self.path.suffix.lower() in TEXT_SUFFIXES or is_rows:
            return self._read_rows(text)
        raise DetkitError(f"{self.path}: not a file of detections; {WHAT_IS_READ}")

    def _read_rows(self, text: str) -> list[Unchecked]:
        """Return the detections of one file of rows: of the image it is called by, or of many."""
        separator = self.layout.separator if self.layout else None
        rows = split_rows(_lines(self.path, text), separator)
        reader = self._text_reader()
        if reader.layout is not None:
            if "image" in reader.layout.words:
                return reader.read_table(rows[is_header(rows) :], reader.layout)
        elif rows and not self.reference.knows(self.path.stem) and reader.names_images(rows):
            return reader.read_table(rows, None)
        return reader.read_files([(self.path, rows)])

    def _read_folder(self) -> list[Unchecked]:
        """Return the detections of a folder of text files."""
        folder = self.path
        files = self._txt_files()
        list_file = folder / "images.csv"
        if not files and not list_file.is_file():
            raise DetkitError(f"{folder}: holds no .txt files of detections; {WHAT_IS_READ}")
        if files and all(VOC_FILE.fullmatch(path.name) for path in files):
            return self._read_voc(files)
        reference = self.reference
        for name_file in (folder / "classes.txt", folder.parent / "classes.txt"):
            if name_file.is_file():
                lines = [line.strip() for line in _text(name_file).split("\n")]
                names = tuple(line for line in lines if line)
                reference = replace(
                    reference, class_names=names, ids=dict(enumerate(names)), is_coco=False
                )
                break
        separator = self.layout.separator if self.layout else None
        read = [(path, split_rows(_lines(path), separator)) for path in files]
        if list_file.is_file():
            self.is_own = True
            reader = TextReader(folder, reference, None, self.scores)
            return _with_sizes(reader.read_files(read, YOLO), list_file)
        return self._text_reader(reference).read_files(read)

    def _read_voc(self, files: Iterable[Path]) -> list[Unchecked]:
        """Return the detections of VOC's comp4 files, one a class: 1-based, both ends inside."""
        rows, classes = [], []
        for path in files:
            match = VOC_FILE.fullmatch(path.name)
            own = split_rows(_lines(path))
            classes += [match[1] if match else path.stem] * len(own)
            rows += own
        reader = self._text_reader()
        for row in rows:
            if len(row.cells) < 6 and reader.layout is None:
                raise DetkitError(
                    f"{row.place}: expected `image score xmin ymin xmax ymax`: "
                    f"{short(' '.join(row.cells))}"
                )
        has_class = reader.layout is not None and "class" in reader.layout.words
        return reader.read_table(rows, reader.layout, None if has_class else classes, VOC)


def _with_sizes(images: list[Unchecked], list_file: Path) -> list[Unchecked]:
    """Return the images of detkit's `images.csv`, in its order, with boxes in pixels."""
    by_stem = {image.name: image for image in images}
    listed = []
    rows = csv_rows(list_file, _text(list_file), ",")
    next(rows, None)  # the header
    for place, cells in rows:
        sides = numbers(cells[1:], place) if len(cells) == 3 else []
        width, height = map(size_or_zero, sides or (0, 0))
        if not width or not height:
            raise DetkitError(f"{place}: expected `image,width,height`: {short(','.join(cells))}")
        stem = stem_of(cells[0])
        image = by_stem.pop(stem, Unchecked(stem))
        image.name, image.width, image.height = cells[0], width, height
        if image.normalised:
            image.boxes = [
                (cx * width, cy * height, w * width, h * height) for cx, cy, w, h in image.boxes
            ]
            image.normalised = False
        listed.append(image)
    if by_stem:
        raise DetkitError(f"{list_file}: does not list {next(iter(by_stem))}.txt, which is there")
    return listed


def _lines(path: Path, text: str | None = None) -> Iterable[tuple[str, str]]:
    """Yield `file:line` and the text of each line that is not empty."""
    content = _text(path) if text is None else text
    for number, line in enumerate(content.split("\n"), start=1):
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
