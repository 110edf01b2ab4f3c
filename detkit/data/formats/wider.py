"""WIDER FACE's lists: an image's path, the number of its faces, a row a face.

`x y width height blur expression illumination invalid occlusion pose` (the data set's readme), in
0-based pixels. A face that is `invalid` is left out of every score: a region here. An image
without faces has the number 0 and a row of zeros all the same. The only class is `face`; datumaro,
which writes other classes in this form, too, puts a name at the end of the row, and "-" for a mark
that is not known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from detkit.data.formats.format import Format, Labelled, Splits, number
from detkit.data.formats.gathered import Gathered, numbers, rows_of
from detkit.data.image_kinds import PICTURE_SUFFIXES
from detkit.data.paths import folder_of, name_of, split_in, split_in_stem, stem_of, suffix_of
from detkit.data.records import Dataset
from detkit.data.tree import Tree
from detkit.text import cut

MAX_BYTES = 256 << 20  # ours: all faces of the data set are 5 MB
FACE = "face"

_INVALID = 7  # its place in a row


def read_wider(tree: Tree, only: str | None = None) -> Dataset | None:
    """Return the data set of a folder's lists of faces, or None where it has none.

    `only` names the one list to read.
    """
    files = [file for file in wider_files(tree) if only in (None, file)]
    if not files:
        return None
    gathered = Gathered(tree)
    for file in files:
        _read_file(gathered, file)
    message = "in no list; not used: list images without faces with the number 0"
    others = sorted(gathered.used() - {FACE})
    names = (FACE, *others) if FACE in gathered.used() or not others else others
    return gathered.dataset("wider", names, message)


def wider_files(tree: Tree) -> list[str]:
    """Return the texts of a folder that begin with an image's path and a number."""
    texts = tree.with_suffix(".txt")
    # A text that is called like an image is that image's.
    return [file for file in texts if not tree.images_like(file) and _is_list(tree, file)]


def _is_list(tree: Tree, file: str) -> bool:
    """Return whether a text begins with an image's path, a number and a row of numbers."""
    try:
        with tree.open_text(file) as opened:
            start = [line.strip() for line in opened.read(8192).splitlines() if line.strip()][:3]
    except OSError:
        return False
    if len(start) < 2 or suffix_of(start[0]) not in PICTURE_SUFFIXES or not start[1].isdecimal():
        return False
    if len(start) == 2 or suffix_of(start[2]) in PICTURE_SUFFIXES:
        return int(start[1]) == 0
    return len(start[2].split()) >= 4


def _read_file(gathered: Gathered, file: str) -> None:
    """Add what a list says of its images."""
    text = gathered.text(file, MAX_BYTES)
    split = split_in_stem(stem_of(file)) or split_in(file)
    rows = rows_of(text or "")
    place = 0
    while place < len(rows):
        line, stated = rows[place]
        place += 1
        if suffix_of(stated) not in PICTURE_SUFFIXES:
            message = f"neither an image nor one of its faces ({cut(stated)}); mend the list"
            gathered.say("error", "bad-row", message, file, line)
            continue
        image = gathered.place(_in_split(gathered.tree, stated, split), file, line, split)
        faces = []
        while place < len(rows) and suffix_of(rows[place][1]) not in PICTURE_SUFFIXES:
            faces.append(rows[place])
            place += 1
        if image is not None:
            _add_faces(gathered, image, file, split, line, faces)


def _in_split(tree: Tree, stated: str, split: str | None) -> str:
    """Return an image's path in the folder of its split, `WIDER_train/images`; else as it is."""
    for folder in sorted(tree.folders):
        is_of_split = split and split_in_stem(name_of(folder_of(folder))) == split
        if is_of_split and name_of(folder) == "images" and f"{folder}/{stated}" in tree:
            return f"{folder}/{stated}"
    return stated


def _add_faces(
    gathered: Gathered,
    image: str,
    file: str,
    split: str | None,
    line: int,
    rows: list[tuple[int, str]],
) -> None:
    """Add an image's faces: the rows after its path, of which the first is their number."""
    part = gathered.part(image, file, split, line)
    if not rows or not rows[0][1].isdecimal():
        message = f"{cut(image)}: no number of faces after it; write it in a line of its own"
        gathered.say("error", "bad-row", message, file, line)
        return
    stated, faces = int(rows[0][1]), rows[1:]
    if stated == 0 and len(faces) == 1 and not any(numbers(faces[0][1].split()) or [1]):
        faces = []
    if len(faces) != stated:
        message = f"{stated} faces stated, {len(faces)} listed; the rows count: mend the number"
        gathered.say("warning", "face-count", message, file, rows[0][0])
    for row_line, row in faces:
        words = row.split()
        values = numbers(words[:4])
        if values is None or len(values) < 4:
            part.number += 1
            message = f"not `x y width height` and marks ({cut(row)}); mend or remove the row"
            gathered.say("error", "bad-row", message, file, row_line, part, FACE)
            continue
        x, y, width, height = values
        name = words[-1] if len(words) in (5, 11) else FACE
        mark = words[_INVALID].replace("-", "0") if len(words) >= 10 else "0"
        invalid = gathered.flag(mark, "invalid", part, row_line, name)
        stated_box = f"x={x:.10g} y={y:.10g} width={width:.10g} height={height:.10g}"
        box = (x, y, x + width, y + height)
        gathered.add(part, name, box, row_line, stated=stated_box, region=invalid)


def _list_text(images: Sequence[Labelled]) -> str:
    """Return a list of images with their faces."""
    lines = []
    for image in images:
        lines += [image.name, str(len(image.objects))]
        for one in image.objects:
            x1, y1, x2, y2 = one.box
            box = " ".join(map(number, (x1, y1, x2 - x1, y2 - y1)))
            lines.append(f"{box} 0 0 0 {int(one.region)} 0 0")
        lines += [] if image.objects else [" ".join(["0"] * 10)]
    return "".join(f"{line}\n" for line in lines)


def _label_files(splits: Splits, _: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield a list for each split."""
    for split, images in splits.items():
        name = "" if split == "all" else f"{split}_"
        yield f"wider_face_split/wider_face_{name}bbx_gt.txt", _list_text(images)


def _refusal(class_names: Sequence[str]) -> str:
    """Return why these classes cannot be written."""
    others = [name for name in class_names if name != FACE]
    if not others:
        return ""
    return (
        f'WIDER FACE has one class, "{FACE}", and this set has {", ".join(others[:3])}; choose '
        f"--classes {FACE}, rename with --rename {others[0]}={FACE}, or take another format"
    )


FORMAT = Format(
    name="wider",
    title="WIDER FACE txt",
    looked_for="WIDER FACE (wider_face_*_bbx_gt.txt)",
    suffixes=(".txt",),
    read=read_wider,
    write=_label_files,
    file_suffixes=(".txt",),
    files=wider_files,
    images_of=lambda split: "images" if split == "all" else f"WIDER_{split}/images",
    keeps_difficult=False,
    keeps_regions=True,
    refusal=_refusal,
)
