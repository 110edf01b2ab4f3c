"""YOLO labels: one .txt an image, a row an object: `class cx cy width height`, as shares.

The shares are of the image's width and height, so boxes in pixels need the image file's
header. Images and labels lie in `images/` and `labels/` in either nesting order, or beside
each other; where none do, their names decide alone. Rows that hold a polygon (segmentation,
oriented boxes) are read as its bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from detkit.data.folder_splits import (
    Records,
    folder_splits,
    unlabelled_folder,
    without_union,
)
from detkit.data.formats.format import Format, Splits
from detkit.data.formats.gathered import without_twins
from detkit.data.formats.yolo_rows import (
    are_like_poses,
    have_poses,
    parse_row,
    plain_objects,
    row_text,
    rows_longer_than_boxes,
    rows_text,
)
from detkit.data.formats.yolo_spec import Spec, is_name_file, read_spec, spec_files, spec_text
from detkit.data.images import image_size
from detkit.data.paths import folder_of, name_of, split_name, stem_of, suffix_of
from detkit.data.records import (
    Dataset,
    Finding,
    ImageRecord,
    ObjectRecord,
    image_record,
    object_record,
)
from detkit.data.tree import Tree, images_finding
from detkit.errors import DetkitError
from detkit.files import decoded
from detkit.text import counted

MAX_LABEL_BYTES = 16 << 20  # ours: some 400,000 rows; more is no label file of one image
MOST_SNIFFED = 64  # ours: label files that are looked into for key points, spread over the folder
_AT_ONCE = 128  # ours: label files whose rows are read together, unless they have more than ...
_BYTES_AT_ONCE = 1 << 20  # ... so many
_NUMBERS = 1000  # ours: classes without names that are read the short way
MOST_SHARE = 2.0  # ours: of the image's longer side; a box that reaches further is in pixels


def read_yolo(tree: Tree, only: str | None = None) -> Dataset | None:
    """Return the data set of a folder's YOLO labels, or None where it has none.

    `only` names the data.yaml or .data file to go by.
    """
    spec = read_spec(tree, only)
    reader = _Reader(tree, spec)
    if spec.file is None and not reader.looks_like_labels():
        return None
    splits = reader.stated_splits() if spec.parts else reader.found_splits()
    if spec.file is not None and not reader.labels_used and not any(splits.values()) and not only:
        return None  # some other program's YAML
    if reader.has_twins:
        splits = without_twins(splits, reader.findings)
    reader.report_places()
    reader.report_strays()
    reader.report_shapes()
    return Dataset(
        root=tree.root,
        format="yolo",
        class_names=reader.class_names(splits),
        category_ids=dict.fromkeys(splits, reader.numbers()),
        splits=splits,
        findings=tuple(reader.findings),
        notes=tuple(reader.notes),
    )


# Class name, box (xyxy in shares), line, number, and what a polygon is told as.
_Row = tuple[str, tuple[float, float, float, float], int, int, str]


class _Labels(NamedTuple):
    """An image's label file before its rows are read."""

    file: Path
    data: bytes | None  # None: too large
    size: tuple[int, int] | None = None  # (height, width) of the image in pixels, or ...
    reason: str = ""  # ... why it cannot be read, if the image is there


class _Reader:
    """Turns label files into records; keeps what was seen on the way."""

    def __init__(self, tree: Tree, spec: Spec) -> None:
        self.tree = tree
        self.spec = spec
        self.findings: list[Finding] = list(spec.findings)
        self.notes: list[str] = list(spec.notes)
        self.labels_used: set[str] = set()
        # Tools export labels without the images, which people then put somewhere else.
        self._by_name = bool(tree.images) and not any(
            tree.texts_like(image) for image in tree.images
        )
        names = {one: str(one) for one in range(_NUMBERS)} if spec.names is None else spec.names
        texts = tree.with_suffix(".txt")
        self._name_files = frozenset(text for text in texts if is_name_file(text))
        self._known = {str(one): name for one, name in names.items()}  # by the word for the number
        self._near: dict[str, list[str]] = {}  # by image, the texts that may label it
        self._records: dict[str, ImageRecord] = {}
        self._first_labels: set[str] = set()
        self.has_twins = False  # whether two images have one label file
        self._lists: set[str] = set()  # .txt files that list images
        self._polygons: list[tuple[str, int]] = []  # label file and line
        self._poses: list[tuple[str, int]] = []  # the same of rows with key points
        long_rows = [row for text in self._some_texts() for row in rows_longer_than_boxes(text)]
        self._have_poses = spec.keypoints or have_poses(long_rows)
        self._are_like_poses = are_like_poses(long_rows)

    def _some_texts(self) -> Iterator[str]:
        """Yield what some label files hold, spread over the folder."""
        texts = [one for one in self.tree.with_suffix(".txt") if one not in self._name_files]
        for text in texts[:: 1 + len(texts) // MOST_SNIFFED]:
            if self.tree.size(text) <= MAX_LABEL_BYTES:
                yield self.tree.text(text)

    def looks_like_labels(self) -> bool:
        """Return whether some image's .txt lies in "labels", or has a row that reads as one."""
        for image in self.tree.images:
            for label in self._labels_of(image):
                if "labels" in label.lower().split("/")[:-1]:
                    return True
                if self._has_row(label):
                    return True
        return False

    def _has_row(self, label: str) -> bool:
        """Return whether a text file has a row that reads as a box."""
        if self.tree.size(label) > MAX_LABEL_BYTES:
            return False
        rows = (line.split() for line in self.tree.text(label).splitlines())
        return any(parse_row(row, keypoints=False) for row in rows if row)

    def stated_splits(self) -> dict[str, Records]:
        """Return the splits that data.yaml or obj.data names."""
        splits: dict[str, Records] = {}
        for split, entries in self.spec.parts.items():
            images: dict[str, ImageRecord] = {}
            if self._is_left_out(split, entries):
                continue
            for entry in entries:
                for record in self._entry(split, entry):
                    images.setdefault(record.image_id, record)
            splits[split] = tuple(images.values())
        used = {one.image_id for part in splits.values() for one in part}
        folders = {folder_of(image) for image in used}
        for folder, images_left in self.tree.unused_images(used).items():
            labelled = [image for image in images_left if self._labels_of(image)]
            if folder in folders or labelled:
                where = name_of(self.spec.file or "")
                message = f"in no split of {where}; not used: add their folder to it"
                self.findings.append(images_finding(self.tree, "in-no-split", images_left, message))
            else:
                self.findings.append(unlabelled_folder(self.tree, folder, images_left))
        full, note = without_union(splits, "trainval")
        self.notes += [note] if note else []
        return full

    def _is_left_out(self, split: str, entries: list[str]) -> bool:
        """Return whether a test split is named that was not exported: some tools always name it."""
        near = self.spec.file or ""
        if split != "test" or any(map(self._finds(near), entries)):
            return False
        others = [one for part, named in self.spec.parts.items() if part != split for one in named]
        if not entries or not others or not all(map(self._finds(near), others)):
            return False
        message = f"test: {entries[0]} is not here; read without a test split"
        self._say("warning", "no-test", message, near)
        return True

    def _finds(self, near: str) -> Callable[[str], bool]:
        """Return a function that tells whether a path in the file `near` is here."""

        def is_here(entry: str) -> bool:
            find = self.tree.find if suffix_of(entry) == ".txt" else self.tree.find_folder
            return find(entry, near) is not None

        return is_here

    def _entry(self, split: str, entry: str) -> list[ImageRecord]:
        """Return the images of one folder or list that a split names."""
        near = self.spec.file or ""
        where = self.tree.path(near)

        def refuse(code: str, message: str) -> None:
            self.findings.append(Finding("error", code, message, file=where, split=split))

        if suffix_of(entry) == ".txt":
            file = self.tree.find(entry, near)
            if file is not None:
                return self._listed(file)
        else:
            folder = self.tree.find_folder(entry, near)
            if folder is not None:
                inside = f"{folder}/" if folder else ""
                images = [one for one in self.tree.images if one.startswith(inside)]
                if not images:
                    refuse("no-images", f"{split}: {entry} holds no image")
                return list(self._read(images))
        if self.tree.expected(entry, near) is None:
            refuse(
                "path-outside", f"{split}: {entry} leads out of the data folder; write it relative"
            )
        else:
            refuse("missing-file", f"{split}: {entry} is neither a folder nor a list here")
        return []

    def _listed(self, file: str) -> list[ImageRecord]:
        """Return the images that a list of paths names, one a line."""
        self._lists.add(file)
        records: dict[str, ImageRecord] = {}
        lines = enumerate(self.tree.text(file).splitlines(), 1)
        filled = [(line, content) for line, content in lines if content.strip()]
        named = [self._image_named(file, content.strip()) for _, content in filled]
        in_turn = self._read(one for one in named if isinstance(one, str))
        for (line, content), image in zip(filled, named):
            if not isinstance(image, str):
                self._say("error", *image, file, line)
                continue
            if image in records:
                self._say(
                    "warning", "listed-twice", f"{content} is listed twice", file, line, image
                )
            records.setdefault(image, next(in_turn))
        return list(records.values())

    def _image_named(self, file: str, content: str) -> str | tuple[str, str]:
        """Return the image that a line of a list means, which may not exist.

        Or the code and the message of the error where it means none.
        """
        found = self.tree.find_images(content, file)
        if len(found) > 1:
            several = ", ".join(found[:3])
            return "ambiguous-image", f"{content} may be any of {several}; write the path"
        place = found[0] if found else self.tree.expected(content, file)
        if place is None:
            message = f"{content} leads out of the data folder; write it relative to the list"
            return "path-outside", message
        return place

    def found_splits(self) -> dict[str, Records]:
        """Return the splits of lists called train.txt, else those of the folders."""
        lists = [
            file
            for file in self.tree.with_suffix(".txt")
            if split_name(stem_of(file)) and self._is_list(file)
        ]
        if lists:
            splits: dict[str, Records] = {}
            for file in lists:
                split = split_name(stem_of(file)) or ""
                splits[split] = (*splits.get(split, ()), *self._listed(file))
            return splits
        for folder, images in self.tree.unused_images(()).items():
            records = list(self._read(images))
            if any(record.label_file is not None for record in records):
                continue
            for image in images:
                del self._records[image]
            self.findings.append(unlabelled_folder(self.tree, folder, images))
        return folder_splits(self.tree, self._records.values(), self.findings)

    def _is_list(self, file: str) -> bool:
        """Return whether a .txt file's first line is the path of an image."""
        if self.tree.size(file) > MAX_LABEL_BYTES:
            return False
        text = self.tree.text(file)
        first = next((line for line in text.splitlines() if line.strip()), "")
        return bool(self.tree.find_images(first.strip(), file)) if first else False

    def _labels_of(self, image: str) -> list[str]:
        """Return the label files of an image, best ones."""
        near = self._near.get(image)
        if near is None:
            texts = self.tree.texts_like(image, anywhere=self._by_name)
            near = [text for text in texts if text not in self._name_files or self._has_row(text)]
            self._near[image] = near
        return [text for text in near if text not in self._lists] if self._lists else near

    def _read(self, images: Iterable[str]) -> Iterator[ImageRecord]:
        """Yield the records of images with what their label files say, some read at once."""
        for few in self._opened(images):
            with_rows = {
                image: (one.data, one.size, one.file)
                for image, one in few
                if one is not None and one.data and one.size is not None
            }
            rows = [*with_rows.values()]
            objects = plain_objects(rows, self._known, is_made=self.spec.machine_made)
            plain = dict(zip(with_rows, objects))
            for image, one in few:
                if image not in self._records:
                    self._records[image] = self._record(image, one, plain.get(image))
                yield self._records[image]

    def _opened(self, images: Iterable[str]) -> Iterator[list[tuple[str, _Labels | None]]]:
        """Yield images, some at once, each with its labels: None where it has none."""
        few: list[tuple[str, _Labels | None]] = []
        held = 0
        for image in images:
            one = None if image in self._records else self._open(image)
            few.append((image, one))
            held += len(one.data or b"") if one else 0
            if len(few) == _AT_ONCE or held > _BYTES_AT_ONCE:
                yield few
                few, held = [], 0
        yield few

    def _open(self, image: str) -> _Labels | None:
        """Return what the label file of an image holds, and the image's size; None: has none."""
        labels = self._labels_of(image)
        if not labels:
            return None
        file = self.tree.path(labels[0])
        data = self.tree.bytes_of_at_most(labels[0], MAX_LABEL_BYTES)
        if not data or image not in self.tree:
            return _Labels(file, data)
        address = self.tree.address(image)
        try:
            return _Labels(file, data, image_size(address))
        except DetkitError as error:
            return _Labels(file, data, None, str(error).removeprefix(f"{address}: "))

    def _record(
        self, image: str, opened: _Labels | None, plain: tuple[ObjectRecord, ...] | None
    ) -> ImageRecord:
        """Return the record of an image, whose rows may have been read as plain ones."""
        path = self.tree.path(image)
        if opened is None:
            return image_record(image, path)
        labels = self._labels_of(image)
        if len(labels) > 1:
            message = f"has several label files ({', '.join(labels[:3])}); the first is used"
            self._say("error", "two-labels", message, image, None, image)
        self.labels_used.update(labels)
        self.has_twins |= labels[0] in self._first_labels
        self._first_labels.add(labels[0])
        objects = self._objects(image, labels[0], opened) if plain is None else plain
        return image_record(image, path, objects, None, None, opened.file)

    def _objects(self, image: str, label: str, opened: _Labels) -> tuple[ObjectRecord, ...]:
        """Return the sound objects of an image's label file; the others become findings."""
        if opened.data is None:
            self._say("error", "too-large", "too large for one image's labels", label, None, image)
            return ()
        rows = self._rows(decoded(opened.data), label, image)
        if rows and opened.reason:
            message = f"{opened.reason}; its labels are shares of a size that is not known"
            self._say("error", "unreadable-image", message, image, None, image)
        if opened.size is None:
            return ()
        return _in_pixels(rows, opened.size, opened.file, is_made=self.spec.machine_made)

    def _rows(self, text: str, label: str, image: str) -> list[_Row]:
        """Return the sound rows of a label file's text; the others become findings."""
        rows: list[_Row] = []
        names = self.spec.names
        number = 0
        for line, content in enumerate(text.splitlines(), 1):
            words = content.split()
            if not words:
                continue
            number += 1
            parsed = parse_row(words, keypoints=self._have_poses)
            if parsed is None:
                shown = content.strip() if len(content) < 60 else f"{content.strip()[:57]}..."
                has_score = len(words) == 6 and parse_row(words[:5], keypoints=False) is not None
                do = "remove the score at its end?" if has_score else "mend or remove the row"
                message = f"not `class cx cy width height` ({shown}); {do}"
                self._say("error", "bad-row", message, label, line, image, number)
                continue
            index, box, is_polygon = parsed
            if is_polygon:
                self._polygons.append((label, line))
            elif len(words) > 5:
                self._poses.append((label, line))
            if names is not None and index not in names:
                known = f"0 to {max(names, default=0)}"
                message = f"class {index} has no name (there are {known}); mend the row"
                self._say("error", "unknown-class", message, label, line, image, number)
                continue
            stated = f"polygon of {counted(len(words), 'value')}" if is_polygon else ""
            name = str(index) if names is None else names[index]
            rows.append((name, box, line, number, stated))
        return rows

    def report_places(self) -> None:
        """Say that labels were found by their names alone."""
        if self._by_name and self.labels_used:
            where = folder_of(min(self.labels_used)) or "the top folder"
            self.notes.append(f"labels in {where}: matched to images elsewhere by name alone")

    def report_strays(self) -> None:
        """Add findings about label files without an image."""
        known = self.labels_used.union(self._name_files, self._lists)
        left = [text for text in self.tree.with_suffix(".txt") if text not in known]
        if not left:
            return
        folders = {folder_of(label) for label in self.labels_used}
        of_images = {image: self._labels_of(image) for image in self.tree.images}
        every = {label for labels in of_images.values() for label in labels}
        used = {image: labels[0] for image, labels in of_images.items() if labels}
        for text in left:
            if text in every:
                continue
            if folder_of(text) not in folders and "labels" not in folder_of(text).split("/"):
                continue
            if image := next((one for one in self.tree.images_like(text) if one in used), None):
                other = used[image]
                if self.tree.text(text).split() == self.tree.text(other).split():
                    continue
                message = (
                    f"{image} has other labels in {other}, which are used; these are lost: keep "
                    "one of the two files"
                )
                self._say("error", "two-labels", message, text)
                continue
            message = f"no image is called {stem_of(text)}; add it, or remove the label file"
            self._say("error", "missing-image", message, text)

    def report_shapes(self) -> None:
        """Add the one finding about all rows that are polygons, and that about key points."""
        if self._polygons:
            rows = counted(len(self._polygons), "row")
            files = counted(len(dict(self._polygons)), "file")
            label, line = self._polygons[0]
            message = f"{rows} of polygons in {files} (the first here), read as bounding boxes"
            if self._are_like_poses:
                message += (
                    ", though all are of one length: if they are a box and key points, say so by "
                    "kpt_shape in data.yaml"
                )
            self._say("warning", "polygon", message, label, line)
            self.notes.append(f"{rows} of polygons: only the bounding box is read")
        if self._poses:
            rows = counted(len(self._poses), "row")
            label, line = self._poses[0]
            self.notes.append(f"{rows} with key points: only the box is read")
            if not self.spec.keypoints:
                message = (
                    f"{rows} (the first here) read as a box and key points, since every third "
                    "value after the box is 0, 1 or 2; say so by kpt_shape in data.yaml"
                )
                self._say("warning", "keypoints", message, label, line)

    def numbers(self) -> dict[int | str, str]:
        """Return the class name of each number; none where nothing names them."""
        return {} if self.spec.names is None else {**dict(self.spec.names.items())}

    def class_names(self, splits: dict[str, Records]) -> tuple[str, ...]:
        """Return the classes by index; the numbers themselves where nothing names them."""
        if self.spec.names is not None:
            return tuple(dict.fromkeys(name for _, name in sorted(self.spec.names.items())))
        used = {one.name for part in splits.values() for record in part for one in record.objects}
        if used:
            message = "nothing names the classes (data.yaml, classes.txt); called by their number"
            self.findings.append(Finding("warning", "no-names", message, file=self.tree.root))
        return tuple(sorted(used, key=int))

    def _say(
        self,
        severity: str,
        code: str,
        message: str,
        file: str,
        line: int | None = None,
        image: str | None = None,
        number: int | None = None,
    ) -> None:
        """Add a finding about a file of the folder."""
        path = self.tree.path(file)
        self.findings.append(Finding(severity, code, message, path, line, number, None, image))


def _in_pixels(
    rows: Iterable[_Row], size: tuple[int, int], file: Path | None, *, is_made: bool
) -> tuple[ObjectRecord, ...]:
    """Return the objects of rows, whose boxes are shares of an image of (height, width) pixels."""
    height, width = size
    more = (False, None, False, True) if is_made else ()  # no crowd, area or region
    return tuple(
        [
            object_record(
                name,
                (x1 * width, y1 * height, x2 * width, y2 * height),
                False,
                file,
                line,
                number,
                stated,
                *more,
            )
            for name, (x1, y1, x2, y2), line, number, stated in rows
        ]
    )


def _label_files(splits: Splits, class_names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield a label file for each image (empty: no object), and data.yaml."""
    folders = {split: FORMAT.place(split) for split in splits}
    for split, images in splits.items():
        labels = folders[split].replace("images", "labels", 1)
        for image in images:
            name = PurePosixPath(image.name).with_suffix(".txt")
            yield f"{labels}/{name}", rows_text(image, class_names)
    named = {split: folder for split, folder in folders.items() if split != "all"}
    objects = [one for images in splits.values() for image in images for one in image.objects]
    are_made = bool(objects) and all(one.machine_made for one in objects)
    yield "data.yaml", spec_text(named, class_names, machine_made=are_made)


def _box_hint(box: tuple[float, ...], size: tuple[int, int]) -> str:
    """Return what is meant where a box reaches many images' sizes far."""
    if max(box) > MOST_SHARE * max(size):
        return "pixels? YOLO has shares of the image's width and height"
    return ""


FORMAT = Format(
    name="yolo",
    title="YOLO txt",
    looked_for="YOLO (data.yaml or .txt beside images or in labels/)",
    suffixes=(".txt",),
    read=read_yolo,
    write=_label_files,
    file_suffixes=(".yaml", ".yml", ".data"),
    files=spec_files,
    by_split=True,
    keeps_difficult=False,
    marks_whole_sets=True,
    names_images=False,
    unlabelled_is_empty=True,
    stated=row_text,
    box_hint=_box_hint,
)
