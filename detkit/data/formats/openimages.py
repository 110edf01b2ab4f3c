"""OpenImages: `*-annotations-bbox.csv`, a row an object, and `class-descriptions*.csv`.

`ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,...` (the
data set's own description; FiftyOne calls it `labels/detections.csv`): shares of the image's sides,
in this order; found by the header. The image's file is called like ImageID. LabelName is a
machine's id (/m/0cmf2), which a table with "class" in its name (`class-descriptions-boxable.csv`,
`classes.csv`) gives a name. IsGroupOf is a crowd; a drawn object (IsDepiction) is one like others;
-1 is unknown. An image that only `image_ids_and_rotation.csv` lists has no objects.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

from detkit.data.formats.format import Format, Labelled, Splits, number
from detkit.data.formats.gathered import Gathered, numbers
from detkit.data.formats.shapes import Box
from detkit.data.paths import name_of, split_in, split_in_stem, split_name, stem_of
from detkit.data.records import Dataset
from detkit.data.tree import Tree
from detkit.text import counted, cut

MAX_BYTES = 4 << 30  # ours: those of the training images are 2.3 GB
SHARE_DIGITS = 14  # a share times the longest side is then exact to a billionth of a pixel

_SIDES = ("XMin", "XMax", "YMin", "YMax")
_NEEDED = ("imageid", "labelname", *(side.lower() for side in _SIDES))
_COLUMNS = (
    *("ImageID", "Source", "LabelName", "Confidence", *_SIDES),
    *("IsOccluded", "IsTruncated", "IsGroupOf", "IsDepiction", "IsInside"),
)
_LIST = (
    *("ImageID", "Subset", "OriginalURL", "OriginalLandingURL", "License", "AuthorProfileURL"),
    *("Author", "Title", "OriginalSize", "OriginalMD5", "Thumbnail300KURL", "Rotation"),
)
_WORDS = {"train": "train", "val": "validation", "test": "test"}  # in the names of files


def read_openimages(tree: Tree, only: str | None = None) -> Dataset | None:
    """Return the data set of a folder's tables of boxes, or None where it has none.

    `only` names the one table to read.
    """
    files = [file for file in openimages_files(tree) if only in (None, file)]
    if not files:
        return None
    gathered = Gathered(tree)
    names = _descriptions(gathered)
    for file in files:
        _read_table(gathered, file, names)
    if only is None:
        _read_lists(gathered)
    used = gathered.used()
    listed = [name for name in names.values() if name in used]
    bare = sorted(used - set(listed))
    if bare:
        message = (
            f"{counted(len(bare), 'class')} ({', '.join(bare[:3])}) without a name in "
            "class-descriptions*.csv; called by the machine's id"
        )
        gathered.say("warning", "no-names", message, files[0])
    if spare := len(names) - len(listed):
        gathered.notes.append(f"{counted(spare, 'described class')} without objects left out")
    message = "in no table; not used: list images without objects in image_ids_and_rotation.csv"
    return gathered.dataset("openimages", [*listed, *bare], message)


def openimages_files(tree: Tree) -> list[str]:
    """Return the tables of a folder whose header is that of OpenImages' boxes."""
    return [file for file in tree.with_suffix(".csv") if set(_NEEDED) <= set(_header(tree, file))]


def _header(tree: Tree, file: str) -> list[str]:
    """Return the names of a table's columns in lower case."""
    try:
        with tree.open_text(file) as opened:
            line = opened.readline(1 << 16)
    except OSError:
        return []
    return [cell.strip().lower() for cell in next(csv.reader([line.strip()]), [])]


def _rows(gathered: Gathered, file: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, cells) of a table; what cannot be read of it is said."""
    tree = gathered.tree
    try:
        if tree.size(file) > MAX_BYTES:
            gathered.say("error", "too-large", f"more than {MAX_BYTES >> 30} GiB; not read", file)
            return
        with tree.open_text(file) as opened:
            lines = csv.reader(opened)
            while True:
                try:
                    cells = next(lines)
                except StopIteration:
                    return
                except csv.Error as error:
                    message = f"the row cannot be read ({error}); a quote too many?"
                    gathered.say("error", "bad-row", message, file, lines.line_num)
                    continue
                if any(cell.strip() for cell in cells):
                    yield lines.line_num, [cell.strip() for cell in cells]
    except OSError as error:
        gathered.say("error", "unreadable-file", f"cannot be read: {error.strerror}", file)


def _descriptions(gathered: Gathered) -> dict[str, str]:
    """Return the classes' names by the machine's id, in the order of the files."""
    names: dict[str, str] = {}
    for file in gathered.tree.with_suffix(".csv"):
        if "class" not in name_of(file).lower() or "imageid" in _header(gathered.tree, file):
            continue
        for line, cells in _rows(gathered, file):
            if len(cells) < 2 or not all(cells[:2]):
                gathered.say("warning", "bad-row", "not `id,name`; mend the row", file, line)
            elif [cell.lower() for cell in cells[:2]] != ["labelname", "displayname"]:
                names.setdefault(cells[0], cells[1])
    return names


def _read_table(gathered: Gathered, file: str, names: dict[str, str]) -> None:
    """Add the objects of a table."""
    header: dict[str, int] = {}
    for place, name in enumerate(_header(gathered.tree, file)):
        header.setdefault(name, place)
    width = 1 + max(header[name] for name in _NEEDED)
    stated_split = split_in_stem(stem_of(file)) or split_in(file)
    rows = _rows(gathered, file)
    next(rows, None)
    for line, cells in rows:
        if len(cells) < width:
            fields = counted(len(cells), "field")
            message = f"{fields} instead of {width} ({cut(','.join(cells))}); mend the row"
            gathered.say("error", "bad-row", message, file, line)
            continue
        image = gathered.place(cells[header["imageid"]], file, line, stated_split)
        if image is None:
            continue
        part = gathered.part(image, file, stated_split, line)
        label = cells[header["labelname"]]
        texts = [cells[header[side.lower()]] for side in _SIDES]
        stated = " ".join(f"{side}={text}" for side, text in zip(_SIDES, texts))
        group = cells[header["isgroupof"]] if "isgroupof" in header else ""
        group = "0" if numbers([group]) == [-1.0] else group
        crowd = gathered.flag(group, "IsGroupOf", part, line, label)
        box = None if (shares := numbers(texts)) is None else _box(gathered, image, shares)
        gathered.add(part, names.get(label, label), box, line, stated=stated, crowd=crowd)


def _box(gathered: Gathered, image: str, shares: Sequence[float]) -> Box:
    """Return the box in pixels of (XMin, XMax, YMin, YMax) in shares."""
    x1, x2, y1, y2 = shares
    return gathered.in_pixels(image, (x1, y1, x2, y2))


def _read_lists(gathered: Gathered) -> None:
    """Add the images that only a list of images names, where they are there: without objects."""
    tree = gathered.tree
    missing = 0
    for file in tree.with_suffix(".csv"):
        header = _header(tree, file)
        if not {"imageid", "subset"} <= set(header):
            continue
        places = header.index("imageid"), header.index("subset")
        rows = _rows(gathered, file)
        next(rows, None)
        for _, cells in rows:
            if len(cells) <= max(places):
                continue
            split = split_name(cells[places[1]]) or None
            found = tree.find_images(cells[places[0]], file, split)
            if len(found) == 1:
                gathered.part_unless_known(found[0], file, split)
            missing += not found
    if missing:
        are = "is" if missing == 1 else "are"
        gathered.notes.append(f"{counted(missing, 'listed image')} {are} not in the folder")


def _table_text(images: Sequence[Labelled]) -> str:
    """Return a table of boxes."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(_COLUMNS)
    for image in images:
        for one in image.objects:
            x1, y1, x2, y2 = one.box
            shares = (x1 / image.width, x2 / image.width, y1 / image.height, y2 / image.height)
            sides = [number(share, SHARE_DIGITS) for share in shares]
            marks = (-1, -1, int(one.crowd), -1, -1)
            table.writerow([stem_of(image.name), "xclick", one.name, 1, *sides, *marks])
    return text.getvalue()


def _csv_text(rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _label_files(splits: Splits, class_names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield a table for each split, the list of the images and the classes' descriptions.

    A class has no machine's id here: its name stands for it.
    """
    listed: list[Sequence[object]] = [_LIST]
    for split, images in splits.items():
        word = _WORDS.get(split, split)
        name = "annotations-bbox.csv" if split == "all" else f"{word}-annotations-bbox.csv"
        yield f"annotations/{name}", _table_text(images)
        bare = [""] * (len(_LIST) - 3)
        subset = "" if split == "all" else word
        listed += [(stem_of(image.name), subset, *bare, 0) for image in images]
    yield "annotations/image_ids_and_rotation.csv", _csv_text(listed)
    names = [(name, name) for name in class_names]
    yield "annotations/class-descriptions-boxable.csv", _csv_text(names)


def _place(split: str) -> str:
    return "images" if split == "all" else f"images/{_WORDS.get(split, split)}"


FORMAT = Format(
    name="openimages",
    title="OpenImages CSV",
    looked_for="OpenImages (*-annotations-bbox.csv)",
    suffixes=(".csv",),
    read=read_openimages,
    write=_label_files,
    file_suffixes=(".csv",),
    files=openimages_files,
    images_of=_place,
    is_flat=True,
    keeps_difficult=False,
    keeps_crowds=True,
    keeps_classes=False,
    names_images=False,
)
