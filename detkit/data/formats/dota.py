"""DOTA's labels: a .txt an image, a row an object of four corners.

`x1 y1 x2 y2 x3 y3 x4 y4 category difficult` (the development kit), corners in 0-based pixels;
two lines `imagesource:...` and `gsd:...` (metres a pixel) may stand before them, and `difficult`
may be missing. The boxes are rotated: what is read is the upright one around the corners, which
is not cut at the image's border. A region that is left out has no mark here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from detkit.data.formats.format import Format, Labelled, Splits, number
from detkit.data.formats.gathered import Gathered, listed_classes, numbers, rows_of
from detkit.data.formats.shapes import Box
from detkit.data.paths import folder_of, name_of, split_in
from detkit.data.records import Dataset
from detkit.data.tree import Tree
from detkit.text import cut

MAX_BYTES = 64 << 20  # ours: a million rows; a large aerial image holds thousands
MOST_SNIFFED = 64  # ours: texts that are looked into, spread over the folder

_CORNERS = 8
_MARKS = {"": "0", "0": "0", "1": "1", "2": "1"}  # 2: cut off, in the kit's own cut images
_HEADERS = ("imagesource:", "gsd:", "acquisition dates:")  # of the versions 1.0 to 2.0


def read_dota(tree: Tree, _: str | None = None) -> Dataset | None:
    """Return the data set of a folder's DOTA labels, or None where it has none."""
    folders = _label_folders(tree)
    if not folders:
        return None
    gathered = Gathered(tree)
    for file in tree.with_suffix(".txt"):
        if folder_of(file) in folders and file != "classes.txt":
            _read_file(gathered, file)
    names = listed_classes(tree, gathered.used(), gathered.notes)
    return gathered.dataset("dota", names)


def _label_folders(tree: Tree) -> set[str]:
    """Return the folders that hold labels, by what some of their texts say."""
    by_folder: dict[str, list[str]] = {}
    for file in tree.with_suffix(".txt"):
        by_folder.setdefault(folder_of(file), []).append(file)
    for folder in [one for one in by_folder if name_of(one).lower() == "meta"]:
        del by_folder[folder]  # DOTA's headers in files of their own
    most = max(4, MOST_SNIFFED // max(1, len(by_folder)))
    return {
        folder
        for folder, files in by_folder.items()
        if any(_is_dota(tree, file) for file in files[:: 1 + len(files) // most])
    }


def _is_dota(tree: Tree, file: str) -> bool:
    """Return whether a text begins with DOTA's header or with a row that only it writes."""
    try:
        if tree.size(file) > MAX_BYTES:
            return False
        rows = rows_of(tree.text(file))
    except OSError:
        return False
    if rows and rows[0][1].lower().startswith(_HEADERS[:2]):
        return True
    parsed = _parsed(rows[0][1]) if rows else None
    return parsed is not None and numbers(parsed[1].split()) is None


def _parsed(row: str) -> tuple[list[float], str, str] | None:
    """Return a row's eight numbers, its category and its mark ("" where it has none), or None."""
    words = row.split(maxsplit=_CORNERS)
    values = numbers(words[:_CORNERS])
    if len(words) <= _CORNERS or values is None:
        return None
    parts = words[_CORNERS].rsplit(maxsplit=1)
    if len(parts) == 1 or not (parts[1].isascii() and parts[1].isdecimal()):
        return values, words[_CORNERS].strip(), ""
    return values, parts[0], parts[1]


def _bounds(corners: Sequence[float]) -> Box:
    """Return the upright box around corners; one without area is `check`'s to find."""
    return min(corners[0::2]), min(corners[1::2]), max(corners[0::2]), max(corners[1::2])


def _is_upright(corners: Sequence[float]) -> bool:
    """Return whether four corners are those of an upright box."""
    box = _bounds(corners)
    points = set(zip(corners[0::2], corners[1::2]))
    return points == {(x, y) for x in box[0::2] for y in box[1::2]}


def _read_file(gathered: Gathered, file: str) -> None:
    """Add what a label file says of its image."""
    text = gathered.text(file, MAX_BYTES)
    if text is None:
        return
    rows = rows_of(text)
    image = gathered.of_label(file, None, ".png")
    if image is None:
        return
    part = gathered.part(image, file, split_in(file))
    for line, row in rows:
        if row.lower().startswith(_HEADERS):
            continue
        parsed = _parsed(row)
        if parsed is None:
            part.number += 1
            message = f"not 8 numbers, a category and a mark ({cut(row)}); mend or remove the row"
            gathered.say("error", "bad-row", message, file, line, part)
            continue
        corners, name, mark = parsed
        gathered.shapes["rotated"] += not _is_upright(corners)
        stated = " ".join(f"{value:.10g}" for value in corners)
        difficult = gathered.flag(_MARKS.get(mark, mark), "difficult", part, line, name)
        gathered.add(part, name, _bounds(corners), line, stated=stated, difficult=difficult)


def _rows_text(image: Labelled) -> str:
    """Return DOTA's header and rows: the corners from the top left one, clockwise."""
    lines = ["imagesource:unknown", "gsd:null"]
    for one in image.objects:
        x1, y1, x2, y2 = one.box
        corners = " ".join(map(number, (x1, y1, x2, y1, x2, y2, x1, y2)))
        lines.append(f"{corners} {one.name} {int(one.difficult or one.crowd)}")
    return "".join(f"{line}\n" for line in lines)


def _label_files(splits: Splits, class_names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield a label file for each image, and the order of the classes.

    DOTA itself has no file of class names; `classes.txt` is what labelling tools write.
    """
    for split, images in splits.items():
        folder = FORMAT.place(split).removesuffix("images") + "labelTxt"
        for image in images:
            yield f"{folder}/{PurePosixPath(image.name).stem}.txt", _rows_text(image)
    yield "classes.txt", "".join(f"{name}\n" for name in class_names)


FORMAT = Format(
    name="dota",
    title="DOTA txt",
    looked_for="DOTA (labelTxt/*.txt)",
    suffixes=(".txt",),
    read=read_dota,
    write=_label_files,
    images_of=lambda split: "images" if split == "all" else f"{split}/images",
    is_flat=True,
    names_images=False,
    reaches_out=True,
)
