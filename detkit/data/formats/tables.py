"""Labels in tables: CSV with a row an object, and MATLAB's ground-truth table as CSV.

Conventions, decided by the header:

- `filename,width,height,class,xmin,ymin,xmax,ymax` is what the scripts that gather VOC XML
  files write, numbers unchanged, and those are 1-based and inclusive: read as
  `(xmin - 1, ymin - 1, xmax, ymax)`. (The other reading would be wrong by one pixel for
  the files people have: their smallest xmin is 1 and their largest xmax the width.)
  `detkit check` warns where a minimum of 0 hints at the other kind.
- `x1,y1,x2,y2`, and a file without a header (`path,x1,y1,x2,y2,class`), is 0-based.
- MATLAB's `[x y width height]` is 1-based: `(x - 1, y - 1, x - 1 + width, y - 1 + height)`.

A row with an image and empty fields otherwise is an image without objects.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from detkit.data.folder_splits import named_splits, unlisted_images
from detkit.data.formats.format import Format, Labelled, Splits, flag, number
from detkit.data.image_kinds import PICTURE_SUFFIXES
from detkit.data.paths import name_of, split_in, split_in_stem, split_name, suffix_of
from detkit.data.records import Dataset, Finding, ImageRecord, ObjectRecord, labels_differ
from detkit.data.tree import Tree
from detkit.text import counted, is_plain

MAX_CSV_BYTES = 1 << 30  # ours: some ten million rows

# Column names, lower case, without spaces, "_" and "-".
_IMAGE = (
    *("filename", "imagefilename", "image", "imagepath", "path", "file", "imagename", "img"),
    "imageid",
)
_CLASS = ("class", "label", "name", "classname", "category", "labelname")
_ONE_BASED = ("xmin", "ymin", "xmax", "ymax")
_ZERO_BASED = ("x1", "y1", "x2", "y2")
_VOTT = ("image", *_ONE_BASED, "label")  # all columns of VoTT's CSV, in its order
_SIZE = ("width", "height")
_DECIMAL = re.compile(r"\A(-?\d+),(\d+)\Z")
_MATRIX = re.compile(r"\[?[-+.\deE,;\s]*\]?")


_Row = tuple[int, list[str]]  # (line, cells)


@dataclass(slots=True)
class _Image:
    """One image of a table while its rows are read."""

    stated: str
    width: int | None = None
    height: int | None = None
    split: str | None = None
    number: int = 0  # rows seen, sound or not
    objects: list[ObjectRecord] = field(default_factory=list)


@dataclass(slots=True)
class _Table:
    """One CSV file: its header understood, its rows by line."""

    file: str
    kind: str  # "csv" or "matlab"
    columns: dict[str, int]  # our name of a column -> its place
    rows: list[_Row]  # without the header
    classes: dict[str, list[int]] = field(default_factory=dict)  # MATLAB: class -> its places
    one_based: bool = True
    note: str = ""  # what the header told of its exporter


def read_tables(tree: Tree, only: str | None = None) -> Dataset | None:
    """Return the data set of a folder's CSV files, or None where none holds labels.

    `only` names the one file to read.
    """
    findings: list[Finding] = []
    tables = []
    for file in [only] if only else tree.with_suffix(".csv"):
        table = _open(tree, file, findings)
        if table is not None:
            tables.append(table)
    if not tables:
        return None
    kind = tables[0].kind
    groups: dict[str | None, dict[str, ImageRecord]] = {}
    for table in tables:
        for split, record in _Reader(tree, table, findings).records():
            group = groups.setdefault(split, {})
            if record.image_id in group:
                message = f"{record.image_id} has rows in another file already; these are not used"
                where = tree.path(table.file)
                lost = labels_differ(record.objects, group[record.image_id].objects)
                severity = "error" if lost else "warning"
                if lost:
                    message += ", though they differ: gather them in one file"
                findings.append(Finding(severity, "image-twice", message, file=where))
                continue
            group[record.image_id] = record
    ordered = {split: [group[image] for image in sorted(group)] for split, group in groups.items()}
    seen = {image for group in groups.values() for image in group}
    message = "in no row; not used: give an image without objects a row of its name alone"
    findings += unlisted_images(tree, seen, message)
    used = {one.name for group in groups.values() for rec in group.values() for one in rec.objects}
    names = tuple(dict.fromkeys(name for table in tables for name in table.classes))
    return Dataset(
        root=tree.root,
        format=kind,
        class_names=names or tuple(sorted(used)),
        splits=named_splits(tree, ordered, findings),
        findings=tuple(findings),
        notes=tuple(f"{table.file}: {table.note}" for table in tables if table.note),
    )


def table_files(tree: Tree) -> list[str]:
    """Return the CSV files of a folder whose header is one of a table of labels."""
    return [file for file in tree.with_suffix(".csv") if _open(tree, file, [], rows=3) is not None]


def _open(tree: Tree, file: str, findings: list[Finding], rows: int | None = None) -> _Table | None:
    """Return a CSV file with its header understood, or None when it holds no labels.

    `rows` is how many rows are read at most.
    """
    path = tree.path(file)
    try:
        if tree.size(file) > MAX_CSV_BYTES:
            findings.append(Finding("error", "too-large", "too large for labels", file=path))
            return None
        read, broken = _rows(tree, file, rows)
    except OSError as error:
        findings.append(Finding("error", "bad-csv", f"cannot be read ({error})", file=path))
        return None
    table = _understood(file, read) if read else None
    if table is not None:
        findings += broken
    return table


def _rows(tree: Tree, file: str, most: int | None) -> tuple[list[_Row], list[Finding]]:
    """Return the rows of a CSV file that hold something, and what could not be read of it."""
    read: list[_Row] = []
    broken: list[Finding] = []
    with tree.open_text(file) as opened:
        start = opened.readline()
        opened.seek(0)
        delimiter = max(",;\t", key=start.count)
        lines = csv.reader(opened, delimiter=delimiter)
        while most is None or len(read) <= most:
            try:
                cells = next(lines)
            except StopIteration:
                break
            except csv.Error as error:
                message = f"the row cannot be read ({error}); a quote too many?"
                where = tree.path(file)
                broken.append(Finding("error", "bad-row", message, where, lines.line_num))
                continue
            if any(cell.strip() for cell in cells):
                cells = [cell.strip() for cell in cells]
                if delimiter == ";":  # written where the comma is the decimal point
                    cells = [_DECIMAL.sub(r"\1.\2", cell) for cell in cells]
                read.append((lines.line_num, cells))
    return read, broken


def first_row(tree: Tree, file: str) -> list[str]:
    """Return the cells of a table's first row that holds something; [] where it cannot be read."""
    try:
        rows, _ = _rows(tree, file, 0) if tree.size(file) <= MAX_CSV_BYTES else ([], [])
    except OSError:
        return []
    return rows[0][1] if rows else []


def _hint(tree: Tree) -> str:
    """Return the columns that the first CSV file lacks to be a table of labels, or ""."""
    for file in tree.with_suffix(".csv"):
        rows, _ = _rows(tree, file, 0)
        header = {plain_name(cell) for cell in rows[0][1]} if rows else set()
        lacking = [names[0] for names in (_IMAGE, _CLASS) if header.isdisjoint(names)]
        has_corners = header >= set(_ONE_BASED) or header >= set(_ZERO_BASED)
        lacking += () if has_corners else _ONE_BASED
        if lacking:
            return f"{file} has no column {', '.join(lacking)}"
    return ""


def plain_name(name: str) -> str:
    """Return a column's name in the form in which the known ones are listed."""
    return re.sub(r"[\s_\-]", "", name).lower()


def _understood(file: str, rows: list[_Row]) -> _Table | None:
    """Return the table that a file's rows are, or None."""
    header = [plain_name(cell) for cell in rows[0][1]]
    columns: dict[str, int] = {}
    for name, aliases in (("image", _IMAGE), ("class", _CLASS)):
        place = next((header.index(alias) for alias in aliases if alias in header), None)
        if place is not None:
            columns[name] = place
    for corners in (_ONE_BASED, _ZERO_BASED):
        if all(corner in header for corner in corners) and len(columns) == 2:
            columns |= dict(zip(_ONE_BASED, (header.index(corner) for corner in corners)))
            optional = (*_SIZE, "difficult", "split")
            columns |= {name: header.index(name) for name in optional if name in header}
            table = _Table(file, "csv", columns, rows[1:], one_based=corners is _ONE_BASED)
            if tuple(header) == _VOTT:
                table.one_based = False
                table.note = "the columns are those of VoTT's export, whose pixels count from 0"
            return table
    if "image" in columns and len(header) > 1:
        return _matlab(file, columns["image"], rows)
    first = rows[0][1]
    if len(first) == 6 and suffix_of(first[0]) in PICTURE_SUFFIXES:
        columns = dict(zip(("image", *_ONE_BASED, "class"), range(6)))
        if first[1:] == [""] * 5 or _numbers(first[1:5]) is not None:
            return _Table(file, "csv", columns, rows, one_based=False)
    return None


def _matlab(file: str, image: int, rows: list[_Row]) -> _Table | None:
    """Return MATLAB's table: a column a class with "[x y w h; ...]", or four columns a class.

    `writetable` splits a column of single boxes into `car_1, car_2, car_3, car_4`.
    """
    header = rows[0][1]
    classes: dict[str, list[int]] = {}
    for place, name in enumerate(header):
        if place == image:
            continue
        stem, _, part = name.rpartition("_")
        parts = [f"{stem}_{number}" for number in range(1, 5)]
        if part in ("1", "2", "3", "4") and all(one in header for one in parts):
            classes.setdefault(stem, [header.index(one) for one in parts])
        else:
            classes[name] = [place]
    for _, cells in rows[1:]:
        for places in classes.values():
            for place in places:
                cell = cells[place] if place < len(cells) else ""
                if cell.lower() != "nan" and not _MATRIX.fullmatch(cell):
                    return None
                if len(places) == 1 and cell and not cell.startswith("[") and " " not in cell:
                    return None  # single numbers: some other table about images
    return _Table(file, "matlab", {"image": image}, rows[1:], classes)


def _numbers(cells: Sequence[str]) -> tuple[float, ...] | None:
    """Return the finite numbers that the cells spell, or None."""
    try:
        values = tuple(float(cell) for cell in cells)
    except ValueError:
        return None
    return values if all(math.isfinite(value) for value in values) else None


class _Reader:
    """Turns one table's rows into records, in the order of their first rows."""

    def __init__(self, tree: Tree, table: _Table, findings: list[Finding]) -> None:
        self._tree = tree
        self._table = table
        self._findings = findings
        self._path = tree.path(table.file)
        self._split = split_in_stem(name_of(table.file).rpartition(".")[0]) or split_in(table.file)
        self._images: dict[str, _Image | None] = {}
        self._by_name: dict[str, str | None] = {}

    def records(self) -> Iterator[tuple[str | None, ImageRecord]]:
        """Yield each image with the split it is in."""
        if self._table.kind == "matlab":
            self._read_matlab()
        else:
            self._read_csv()
        for image, one in self._images.items():
            if one is None:
                continue
            record = ImageRecord(
                image_id=image,
                path=self._tree.path(image),
                objects=tuple(one.objects),
                width=one.width,
                height=one.height,
                label_file=self._path,
            )
            yield one.split or self._split or split_in(image), record

    def _say(
        self,
        code: str,
        message: str,
        line: int,
        image: str | None = None,
        number: int | None = None,
        name: str | None = None,
        severity: str = "error",
    ) -> None:
        """Add a finding about a row."""
        self._findings.append(
            Finding(severity, code, message, self._path, line, number, name or None, image)
        )

    def _image(self, name: str, line: int) -> tuple[str, _Image] | None:
        """Return an image's id and what is gathered of it; None when it cannot be used."""
        if name not in self._by_name:
            self._by_name[name] = self._place(name, line)
        place = self._by_name[name]
        if place is None:
            return None
        one = self._images.setdefault(place, _Image(name))
        return None if one is None else (place, one)

    def _place(self, name: str, line: int) -> str | None:
        """Return the image's id that a cell names; it may not exist."""
        if not name:
            self._say("bad-row", "no image named; mend or remove the row", line)
            return None
        found = self._tree.find_images(name, self._table.file, self._split)
        if not found and not is_plain(name):
            self._say("bad-file-name", f"{name}: not UTF-8; save the table as UTF-8", line)
            return None
        place = found[0] if found else self._tree.expected(name, self._table.file)
        if place is None:
            message = f"{name} leads out of the data folder; write the image's name alone"
            self._say("path-outside", message, line)
        if len(found) > 1:
            message = f"{name} may be any of {', '.join(found[:3])}; write the path"
            self._say("ambiguous-image", message, line)
            return None
        return place

    def _read_csv(self) -> None:
        """Read a table with a row an object."""
        columns = self._table.columns
        width = 1 + max(columns[name] for name in ("image", "class", *_ONE_BASED))
        corners = [columns[name] for name in _ONE_BASED]
        shift = 1.0 if self._table.one_based else 0.0
        for line, cells in self._table.rows:
            if 1 < len(cells) < width:
                fields = counted(len(cells), "field")
                self._say("bad-row", f"{fields} instead of {width}; mend the row", line)
                continue
            cells = cells + [""] * (1 + max(columns.values()) - len(cells))
            head = self._image(cells[columns["image"]], line)
            if head is None:
                continue
            image, one = head
            self._add_facts(one, cells, columns)
            name, texts = cells[columns["class"]], [cells[place] for place in corners]
            if not name and not any(texts):
                continue
            one.number += 1
            stated = " ".join(f"{key}={text}" for key, text in zip(_ONE_BASED, texts))
            values = _numbers(texts)
            if not name:
                self._say("no-class", f"no class named ({stated})", line, image, one.number)
            elif values is None:
                message = f"not four numbers ({stated}); mend or remove the row"
                self._say("bad-number", message, line, image, one.number, name)
            else:
                stated_flag = cells[columns["difficult"]] if "difficult" in columns else ""
                is_difficult = flag(stated_flag)
                if is_difficult is None:
                    message = f"difficult={stated_flag} is read as 0; write 0 or 1"
                    self._say("bad-number", message, line, image, one.number, name, "warning")
                one.objects.append(
                    ObjectRecord(
                        name=name,
                        box=(values[0] - shift, values[1] - shift, values[2], values[3]),
                        difficult=bool(is_difficult),
                        file=self._path,
                        line=line,
                        number=one.number,
                        stated=stated,
                    )
                )

    def _add_facts(self, one: _Image, cells: list[str], columns: Mapping[str, int]) -> None:
        """Take the image's size and split from a row."""
        texts = [cells[columns[name]] if name in columns else "" for name in _SIZE]
        if (size := _numbers(texts)) is not None:
            one.width, one.height = round(size[0]), round(size[1])
        if "split" in columns and cells[columns["split"]]:
            stated = cells[columns["split"]]
            one.split = split_name(stated) or stated

    def _read_matlab(self) -> None:
        """Read a table with a row an image and columns of boxes."""
        for line, cells in self._table.rows:
            head = self._image(cells[self._table.columns["image"]], line)
            if head is None:
                continue
            image, one = head
            for name, places in self._table.classes.items():
                texts = [cells[place] if place < len(cells) else "" for place in places]
                text = " ".join(texts).strip()
                if not text.strip("[] ") or set(text.lower().split()) == {"nan"}:
                    continue
                for row in text.strip("[]").split(";"):
                    if row.strip():
                        self._add_matrix_row(image, one, name, row, line)

    def _add_matrix_row(self, image: str, one: _Image, name: str, row: str, line: int) -> None:
        """Add the box of one row of a matrix, "x y w h"."""
        one.number += 1
        values = _numbers(row.replace(",", " ").split())
        if values is None or len(values) != 4:
            message = f"not four numbers [x y w h] ({row.strip()}); mend the matrix"
            self._say("bad-number", message, line, image, one.number, name)
            return
        x, y, width, height = values
        one.objects.append(
            ObjectRecord(
                name=name,
                box=(x - 1.0, y - 1.0, x - 1.0 + width, y - 1.0 + height),
                file=self._path,
                line=line,
                number=one.number,
                stated=f"[{row.strip()}]",
            )
        )


def csv_table(images: Sequence[Labelled]) -> str:
    """Return the rows `filename,width,height,class,xmin,ymin,xmax,ymax`, 1-based and inclusive.

    An image without objects is a row whose further fields are empty. A column "difficult"
    is added where some object is.
    """
    columns = ["filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax"]
    with_difficult = any(one.difficult or one.crowd for image in images for one in image.objects)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*columns, "difficult"] if with_difficult else columns)
    for image in images:
        head = [image.name, image.width, image.height]
        if not image.objects:
            table.writerow([*head, *[""] * (5 + with_difficult)])
        for one in image.objects:
            x1, y1, x2, y2 = one.box
            values = [one.name, *(number(value) for value in (x1 + 1, y1 + 1, x2, y2))]
            table.writerow([*head, *values, *[int(one.difficult or one.crowd)] * with_difficult])
    return text.getvalue()


def _label_files(splits: Splits, _: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield a table for each split."""
    for split, images in splits.items():
        yield "labels.csv" if split == "all" else f"{split}.csv", csv_table(images)


def _is_inclusive(one: ObjectRecord) -> bool:
    """Return whether a box's row counts pixels from 1 and names the last one.

    Tables come in all kinds; what the file states tells which the reader took it for.
    """
    first = one.stated.partition(" ")[0]
    stated = _numbers([first.removeprefix("xmin=")])
    is_matlab = first.startswith("[")
    return not is_matlab and (stated is None or stated[0] != one.box[0])


FORMAT = Format(
    name="csv",
    title="CSV",
    looked_for="CSV with filename,class,xmin,ymin,xmax,ymax, MATLAB's table as CSV",
    suffixes=(".csv",),
    read=read_tables,
    write=_label_files,
    file_suffixes=(".csv",),
    files=table_files,
    hint=_hint,
    keeps_classes=False,
    keeps_order=False,
    is_inclusive=_is_inclusive,
)
