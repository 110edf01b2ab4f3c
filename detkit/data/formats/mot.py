"""MOTChallenge's sequences: `gt/gt.txt`, a row an object and frame, beside the frames in `img1`.

`frame, id, left, top, width, height, conf, class, visibility` (arXiv:2003.09003, sec. 3; MOT15 has
x, y, z of -1 in place of class and visibility). Frames, and pixels, count from 1. A `conf` of 0
marks what no score considers: a region here, whatever its class. CVAT and datumaro, which write
`gt/labels.txt` with the names of the classes, count pixels from 0; a `boxOrigin` in `seqinfo.ini`,
as detkit writes it, says which it is. Where a sequence has no `gt.txt`, its `det/det.txt` is read,
and it is said that those are detections. Track ids are not kept.
"""

from __future__ import annotations

import configparser
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from detkit.data.formats.format import Format, Labelled, Splits, number
from detkit.data.formats.gathered import Gathered, numbers, rows_of
from detkit.data.image_kinds import is_image
from detkit.data.paths import folder_of, name_of, split_in, stem_of, suffix_of
from detkit.data.records import Dataset
from detkit.data.tree import Tree
from detkit.text import cut

MAX_BYTES = 256 << 20  # ours: some five million rows of one sequence

# By number, from 1: MOT16 and later (arXiv:1603.00831, table 6), and MOT20's crowd.
_CLASSES = (
    *("Pedestrian", "Person on vehicle", "Car", "Bicycle", "Motorbike"),
    *("Non motorized vehicle", "Static person", "Distractor", "Occluder"),
    *("Occluder on the ground", "Occluder full", "Reflection", "Crowd"),
)
_ONLY = "pedestrian"  # where rows state no class
_FIELDS = ("left", "top", "width", "height")
_NAMES = ("gt.txt", "det.txt")
_HEADERS = ("frame", "frame_id", "#frame", "frame_number")  # of the first column


@dataclass(frozen=True, slots=True)
class _Sequence:
    """What `seqinfo.ini` and `labels.txt` say of a sequence."""

    frames: dict[int, list[str]]  # images by the number of the frame
    folder: str  # of the frames
    suffix: str
    width: int | None
    height: int | None
    origin: float  # what the first pixel is called
    classes: tuple[str, ...] | None  # by number from 1; None: MOTChallenge's own


def read_mot(tree: Tree, only: str | None = None) -> Dataset | None:
    """Return the data set of a folder's sequences, or None where it has none.

    `only` names the one file of rows to read.
    """
    files = [file for file in mot_files(tree) if only in (None, file)]
    if not files:
        return None
    gathered = Gathered(tree)
    names: dict[str, bool] = {}  # whether a class without objects is one, too
    for file in files:
        if name_of(file).lower() == "det.txt":
            message = "there is no gt.txt beside it: these are detections, read as if true"
            gathered.say("warning", "detections", message, file)
        sequence = _read_sequence(gathered, file)
        names |= dict.fromkeys(sequence.classes or (_ONLY, *_CLASSES), sequence.classes is not None)
    used = gathered.used()
    return gathered.dataset("mot", [name for name, kept in names.items() if kept or name in used])


def mot_files(tree: Tree) -> list[str]:
    """Return a folder's `gt.txt`, and `det.txt` of sequences without one, by what they say."""
    texts = [file for file in tree.with_suffix(".txt") if name_of(file).lower() in _NAMES]
    rows = [file for file in texts if _has_rows(tree, file)]
    true = {_above(file) for file in rows if name_of(file).lower() == "gt.txt"}
    return [file for file in rows if name_of(file).lower() == "gt.txt" or _above(file) not in true]


def _above(file: str) -> str:
    """Return the folder of a sequence, whose rows are in `gt` or `det` or beside `seqinfo.ini`."""
    folder = folder_of(file)
    return folder_of(folder) if name_of(folder).lower() in ("gt", "det") else folder


def _has_rows(tree: Tree, file: str) -> bool:
    """Return whether a text is empty or begins with a row of MOT's; empty: beside seqinfo.ini."""
    try:
        with tree.open_text(file) as opened:
            first = opened.readline(4096)
    except OSError:
        return False
    if not first.strip():
        return f"{_above(file)}/seqinfo.ini".lstrip("/") in tree
    cells = _cells(first)
    if cells[0].lower() in _HEADERS:
        return len(cells) >= 6
    values = numbers(cells[:2])
    return values is not None and len(cells) >= 6 and values[0].is_integer() and values[0] >= 0


def _cells(row: str) -> list[str]:
    """Return a row's values, separated by commas or, by some tools, by blanks."""
    return [cell.strip() for cell in row.split(",")] if "," in row else row.split()


def _read_sequence(gathered: Gathered, file: str) -> _Sequence:
    """Add what a file of rows says of its frames; return what is said of the sequence."""
    sequence = _sequence(gathered, file)
    text = gathered.text(file, MAX_BYTES)
    rows = [] if text is None else rows_of(text)
    split = split_in(file) or split_in(sequence.folder + "/")
    for images in sequence.frames.values():  # those without rows have no objects
        if len(images) == 1:
            _add_size(gathered, images[0], file, split, sequence)
    if rows and _cells(rows[0][1])[0].lower() in _HEADERS:
        rows = rows[1:]
    shift = _shift(sequence, rows)
    if shift:
        gathered.notes.append(f"{file}: frame 1 is the image called 0")
    for line, row in rows:
        _add_row(gathered, file, split, sequence, line, row, shift)
    return sequence


def _shift(sequence: _Sequence, rows: Sequence[tuple[int, str]]) -> int:
    """Return 1 where frames count from 1 and the images that were cut out of a video from 0."""
    first = [numbers(_cells(row)[:1]) for _, row in rows]
    frames = {int(one[0]) for one in first if one is not None}
    if 0 not in sequence.frames or not frames or 0 in frames or frames <= set(sequence.frames):
        return 0
    return int({frame - 1 for frame in frames} <= set(sequence.frames))


def _add_size(
    gathered: Gathered, image: str, file: str, split: str | None, sequence: _Sequence
) -> None:
    """Let a frame be known, with the size that the sequence states."""
    part = gathered.part(image, file, split)
    part.width, part.height = sequence.width, sequence.height


def _add_row(
    gathered: Gathered,
    file: str,
    split: str | None,
    sequence: _Sequence,
    line: int,
    row: str,
    shift: int,
) -> None:
    """Add the object of a row."""
    cells = _cells(row)
    frames = numbers(cells[:1])
    if frames is None or len(cells) < 6 or not frames[0].is_integer():
        message = f"not `frame,id,left,top,width,height` ({cut(row)}); mend or remove the row"
        gathered.say("error", "bad-row", message, file, line)
        return
    frame = int(frames[0]) - shift
    images = sequence.frames.get(frame, [])
    if len(images) > 1:
        message = f"frame {frame} may be any of {', '.join(images[:3])}; keep one"
        gathered.say("error", "ambiguous-image", message, file, line)
        return
    image = images[0] if images else f"{sequence.folder}/{frame:06d}{sequence.suffix}".lstrip("/")
    part = gathered.part(image, file, split, line)
    values, rest = numbers(cells[:6]), numbers(cells[6:8])
    if values is None or rest is None:
        part.number += 1
        what = "a value" if values is None else "conf or class"
        message = f"{what} is no number ({cut(row)}); mend or remove the row"
        gathered.say("error", "bad-number", message, file, line, part)
        return
    name = _name(sequence, rest[1:])
    stated = " ".join(f"{key}={value:.10g}" for key, value in zip(_FIELDS, values[2:6]))
    if name is None:
        part.number += 1
        message = f"class {rest[1]:g} has no name ({stated}); name it in labels.txt"
        gathered.say("error", "unknown-class", message, file, line, part)
        return
    left, top, width, height = values[2:6]
    x, y = left - sequence.origin, top - sequence.origin
    is_truth = name_of(file).lower() == "gt.txt"
    region = is_truth and bool(rest) and rest[0] == 0
    box = (x, y, x + width, y + height)
    gathered.add(part, name, box, line, stated=stated, region=region)


def _name(sequence: _Sequence, classes: Sequence[float]) -> str | None:
    """Return the name of a row's class; None where its number has none."""
    number_of = int(classes[0]) if classes else -1
    if number_of == -1 and (sequence.classes is None or len(sequence.classes) == 1):
        return _ONLY if sequence.classes is None else sequence.classes[0]
    names = sequence.classes or _CLASSES
    return names[number_of - 1] if 1 <= number_of <= len(names) else None


def _sequence(gathered: Gathered, file: str) -> _Sequence:
    """Return what is said of the sequence that a file of rows is of."""
    tree, above = gathered.tree, _above(file)
    inside = f"{above}/" if above else ""
    info = _info(gathered, f"{inside}seqinfo.ini")
    stated = info.get("imdir", "img1").strip().strip("/")
    # What another program unpacked may lie elsewhere, but never out of the sequence.
    folders = [f"{inside}{stated}", f"{inside}img1", f"{inside}images", above]
    folder = next((one for one in folders if one in tree.folders), f"{inside}img1")
    beside = f"{folder}/" if folder else ""
    frames: dict[int, list[str]] = {}
    for image in tree.files:
        if image.startswith(beside) and "/" not in image[len(beside) :]:
            stem = stem_of(image).rpartition("_")[2]
            if is_image(suffix_of(image)) and stem.isascii() and stem.isdecimal():
                frames.setdefault(int(stem[-12:]), []).append(image)
    labels = [f"{folder_of(file)}/labels.txt".lstrip("/"), f"{inside}gt/labels.txt"]
    named = next((one for one in labels if one in tree), None)
    origin = 1.0 if named is None else 0.0
    if numbers([info.get("boxorigin", "")]) is not None:
        origin = float(info["boxorigin"])
    elif named is not None:
        note = f"{named}: as CVAT and datumaro write it, so pixels are counted from 0"
        gathered.notes += [note] if note not in gathered.notes else []
    classes = None if named is None else tuple(row for _, row in rows_of(tree.text(named)))
    sizes = numbers([info.get("imwidth", ""), info.get("imheight", "")])
    width, height = (None, None) if sizes is None else (round(sizes[0]), round(sizes[1]))
    suffix = info.get("imext", ".jpg").strip()
    suffix = suffix if is_image(suffix.lower()) else ".jpg"
    return _Sequence(frames, folder, suffix, width, height, origin, classes)


def _info(gathered: Gathered, file: str) -> dict[str, str]:
    """Return what `seqinfo.ini` says, its keys in lower case; nothing where there is none."""
    if file not in gathered.tree:
        return {}
    text = gathered.text(file, 1 << 20)
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read_string(text or "")
    except configparser.Error as error:
        reason = str(error).splitlines()[0]
        message = f"not read ({cut(reason)}); a line [Sequence], then key=value"
        gathered.say("warning", "bad-ini", message, file)
        return {}
    return {key: value for name in parser.sections() for key, value in parser[name].items()}


def _rows_text(images: Sequence[Labelled], class_names: Sequence[str]) -> str:
    """Return the rows of a sequence: each object a track of its own."""
    index = {name: place for place, name in enumerate(class_names, 1)}
    lines, track = [], 0
    for frame, image in enumerate(images, 1):
        for one in image.objects:
            x1, y1, x2, y2 = one.box
            track += 1
            box = ",".join(map(number, (x1 + 1, y1 + 1, x2 - x1, y2 - y1)))
            # A region of a class that is none of the set's is of the first: conf 0 leaves it out.
            kind = index.get(one.name, 1)
            lines.append(f"{frame},{track},{box},{int(not one.region)},{kind},1\n")
    return "".join(lines)


def _info_text(split: str, images: Sequence[Labelled]) -> str:
    """Return `seqinfo.ini`; a size only where all frames have it."""
    kinds = Counter(suffix_of(image.name) for image in images)
    sizes = {(image.width, image.height) for image in images}
    lines = ["[Sequence]", f"name={split}", "imDir=img1", "frameRate=1", f"seqLength={len(images)}"]
    if len(sizes) == 1:
        ((width, height),) = sizes
        lines += [f"imWidth={width}", f"imHeight={height}"]
    lines += [f"imExt={kinds.most_common(1)[0][0] if kinds else '.jpg'}", "boxOrigin=1"]
    return "".join(f"{line}\n" for line in lines)


def _label_files(splits: Splits, class_names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the rows, the class names and the description of a sequence for each split."""
    for split, images in splits.items():
        folder = FORMAT.place(split).removesuffix("img1")
        yield f"{folder}gt/gt.txt", _rows_text(images, class_names)
        yield f"{folder}gt/labels.txt", "".join(f"{name}\n" for name in class_names)
        yield f"{folder}seqinfo.ini", _info_text(split, images)


FORMAT = Format(
    name="mot",
    title="MOTChallenge txt",
    looked_for="MOT (gt/gt.txt)",
    suffixes=(".txt",),
    read=read_mot,
    write=_label_files,
    file_suffixes=(".txt",),
    files=mot_files,
    images_of=lambda split: "img1" if split == "all" else f"{split}/img1",
    is_numbered=True,
    keeps_difficult=False,
    keeps_regions=True,
    names_images=False,
    reaches_out=True,
)
