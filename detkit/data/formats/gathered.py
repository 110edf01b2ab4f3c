"""What the label files of a folder say, image by image, on the way to a data set.

Readers whose files name images, or are called like them, share here how an image is found, what
is said where there is none or more than one, and how two files of one image are held together.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from detkit.data.folder_splits import Records, named_splits, unlabelled_folder, unlisted_images
from detkit.data.formats.format import flag
from detkit.data.formats.shapes import Box, told
from detkit.data.images import image_size
from detkit.data.paths import folder_of, name_of, split_in, split_name, stem_of, suffix_of
from detkit.data.records import Dataset, Finding, ImageRecord, ObjectRecord, labels_differ
from detkit.data.tree import Tree
from detkit.errors import DetkitError
from detkit.text import cut, is_plain


@dataclass(slots=True)
class Part:
    """What one label file says of one image."""

    image: str  # its id
    file: str
    split: str | None
    line: int | None = None  # the first that names the image
    width: int | None = None
    height: int | None = None
    number: int = 0  # objects seen, sound or not
    objects: list[ObjectRecord] = field(default_factory=list)


class Gathered:
    """The images that label files name, their objects, and what could not be read."""

    def __init__(self, tree: Tree) -> None:
        """Begin with nothing."""
        self.tree = tree
        self.findings: list[Finding] = []
        self.notes: list[str] = []
        self.shapes: Counter[str] = Counter()  # read as bounding boxes, by `shapes.told`'s words
        self._parts: dict[tuple[str | None, str, str], Part] = {}
        self._known: set[tuple[str | None, str]] = set()
        self._named: dict[tuple[str, str, str | None], str | None] = {}
        self._sizes: dict[str, tuple[int, int] | None] = {}

    def say(
        self,
        severity: str,
        code: str,
        message: str,
        file: str,
        line: int | None = None,
        part: Part | None = None,
        name: str | None = None,
    ) -> None:
        """Add a finding about a place in a file; with `part` about its newest object."""
        image, number = (None, None) if part is None else (part.image, part.number or None)
        path = self.tree.path(file)
        self.findings.append(
            Finding(severity, code, message, path, line, number, name or None, image)
        )

    def text(self, file: str, most: int) -> str | None:
        """Return a label file's text; None, and it is said, if it cannot be read or is too large.

        `most` is how many bytes are read at most.
        """
        try:
            if self.tree.size(file) > most:
                self.say("error", "too-large", f"more than {most >> 20} MiB; not read", file)
                return None
            return self.tree.text(file)
        except OSError as error:
            self.say("error", "unreadable-file", f"cannot be read: {error.strerror}", file)
            return None

    def place(
        self, stated: str, file: str, line: int | None = None, split: str | None = None
    ) -> str | None:
        """Return the id of the image that a label file names; it may not exist.

        None, and it is said, where there is no such place or more than one.
        """
        key = (stated, file, split)
        if key not in self._named:
            self._named[key] = self._place(stated, file, line, split)
        return self._named[key]

    def _place(self, stated: str, file: str, line: int | None, split: str | None) -> str | None:
        if not stated.strip():
            self.say("error", "bad-row", "no image named; mend or remove the row", file, line)
            return None
        found = self.tree.find_images(stated, file, split)
        if len(found) > 1:
            message = f"{cut(stated)} may be any of {', '.join(found[:3])}; write the path"
            self.say("error", "ambiguous-image", message, file, line)
            return None
        if found:
            return found[0]
        if not is_plain(stated):
            message = f"{cut(stated)}: not UTF-8, or with control characters; rename the image"
            self.say("error", "bad-file-name", message, file, line)
            return None
        place = self.tree.expected(stated, file)
        if place is None:
            message = f"{cut(stated)} leads out of the data folder; write the image's name alone"
            self.say("error", "path-outside", message, file, line)
        return place

    def of_label(self, label: str, folder: str | None, suffix: str = ".jpg") -> str | None:
        """Return the id of the image that a label file is called like; it may not exist.

        `folder`, where the format says so, is that of the images. None, and it is said, where
        several are called so: which of them was labelled, nothing tells.
        """
        found = self.tree.images_like(label)
        if folder is not None:
            beside = self.tree.find_images(f"{folder}/{stem_of(label)}", label)
            found = [one for one in beside if one.startswith(f"{folder}/")] or found
        if len(found) > 1:
            self.findings += _of_several(self.tree.path(label), found)
            return None
        if found:
            return found[0]
        return self.tree.expected(f"{stem_of(label)}{suffix}", f"{folder or ''}/x".lstrip("/"))

    def part(
        self, image: str, file: str, split: str | None = None, line: int | None = None
    ) -> Part:
        """Return what a label file says of an image, to be added to."""
        split = split or split_in(image)
        self._known.add((split, image))
        return self._parts.setdefault((split, image, file), Part(image, file, split, line))

    def part_unless_known(self, image: str, file: str, split: str | None) -> None:
        """Let an image that no other file names be one without objects."""
        split = split or split_in(image)
        if (split, image) not in self._known:
            self.part(image, file, split)

    def add(
        self,
        part: Part,
        name: str,
        box: Sequence[float] | None,
        line: int | None = None,
        *,
        stated: str = "",
        difficult: bool = False,
        crowd: bool = False,
        region: bool = False,
    ) -> None:
        """Add an object; one without a name, or whose box is no four finite numbers, is said.

        Call it for every object of a file, so that their numbers are right.
        """
        part.number += 1
        if not name.strip():
            message = f"no class named ({cut(stated)}); name it"
            self.say("error", "no-class", message, part.file, line, part)
        elif box is None or not all(map(math.isfinite, box)):
            message = f"not four numbers ({cut(stated)}); mend or remove it"
            self.say("error", "bad-number", message, part.file, line, part, name)
        else:
            x1, y1, x2, y2 = map(float, box)
            record = ObjectRecord(name.strip(), (x1, y1, x2, y2), difficult)
            part.objects.append(
                replace(
                    record,
                    file=self.tree.path(part.file),
                    line=line,
                    number=part.number,
                    stated=stated,
                    crowd=crowd or region,
                    region=region,
                )
            )

    def flag(self, value: object, what: str, part: Part, line: int | None, name: str) -> bool:
        """Return whether a mark of the next object is set; one that is no mark is said, and no.

        Of numbers only 0 and 1 are marks.
        """
        found = flag(value)
        if found and numbers([str(value)]) not in (None, [0.0], [1.0]):
            found = None
        if found is None:
            message = f"{what}={cut(str(value))} is read as 0; write 0 or 1"
            next_one = Part(part.image, part.file, part.split, number=part.number + 1)
            self.say("warning", "bad-number", message, part.file, line, next_one, name)
        return bool(found)

    def size(self, image: str) -> tuple[int, int] | None:
        """Return (width, height) of an image for labels that are shares of them.

        None, and it is said, where the image cannot be read; one that is missing is `check`'s.
        """
        if image not in self._sizes:
            self._sizes[image] = None
            path = self.tree.path(image)
            if image in self.tree:
                try:
                    height, width = image_size(path)
                except DetkitError as error:
                    reason = str(error).removeprefix(f"{path}: ")
                    message = f"{reason}; its labels are shares of a size that is not known"
                    self.findings.append(
                        Finding("error", "unreadable-image", message, path, image_id=image)
                    )
                else:
                    self._sizes[image] = (width, height)
        return self._sizes[image]

    def in_pixels(self, image: str, shares: Box) -> Box:
        """Return a box of shares in the image's pixels; as it is where the size is not known."""
        width, height = self.size(image) or (1, 1)
        x1, y1, x2, y2 = shares
        return x1 * width, y1 * height, x2 * width, y2 * height

    def dataset(
        self, name: str, class_names: Iterable[str] | None, unlisted: str | None = None
    ) -> Dataset:
        """Return the data set of the format called `name`.

        `class_names`: None, those of the objects by name. `unlisted` is the warning about an image
        beside labelled ones that no file names; None, such images have no label file.
        """
        groups: dict[str | None, dict[str, ImageRecord]] = {}
        for (split, image, file), part in self._parts.items():
            group = groups.setdefault(split, {})
            record = self._record(part)
            if image not in group:
                group[image] = record
                continue
            lost = labels_differ(record.objects, group[image].objects)
            message = f"{image} has labels in another file already; these are not used"
            message += ", though they differ: keep one" if lost else ""
            self.say("error" if lost else "warning", "image-twice", message, file, part.line)
        seen = {image for group in groups.values() for image in group}
        if unlisted is not None:
            self.findings += unlisted_images(self.tree, seen, unlisted)
        else:
            self._add_bare(groups, seen)
        ordered = {key: [group[one] for one in sorted(group)] for key, group in groups.items()}
        used = {one.name for group in ordered.values() for rec in group for one in rec.counted}
        splits = named_splits(self.tree, ordered, self.findings)
        return Dataset(
            root=self.tree.root,
            format=name,
            class_names=tuple(sorted(used) if class_names is None else dict.fromkeys(class_names)),
            splits=splits,
            findings=tuple(self.findings),
            notes=(*self.notes, *told(self.shapes)),
        )

    def used(self) -> set[str]:
        """Return the classes of the objects gathered so far; regions are of none."""
        parts = self._parts.values()
        return {one.name for part in parts for one in part.objects if not one.region}

    def _record(self, part: Part) -> ImageRecord:
        return ImageRecord(
            image_id=part.image,
            path=self.tree.path(part.image),
            objects=tuple(part.objects),
            width=part.width,
            height=part.height,
            label_file=self.tree.path(part.file),
        )

    def _add_bare(self, groups: dict[str | None, dict[str, ImageRecord]], seen: set[str]) -> None:
        """Add the images beside labelled ones that have no label file of their own."""
        refused = {one.image_id for one in self.findings if one.code == "ambiguous-image"}
        folders = {folder_of(image) for image in seen}
        for folder, images in self.tree.unused_images(seen).items():
            if folder not in folders:
                self.findings.append(unlabelled_folder(self.tree, folder, images))
                continue
            for image in images:
                if image not in refused:
                    record = ImageRecord(image, self.tree.path(image))
                    groups.setdefault(split_in(image), {})[image] = record


def without_twins(splits: dict[str, Records], findings: list[Finding]) -> dict[str, Records]:
    """Return the splits without the objects of label files that two images share.

    `a.jpg` and `a.png` have one `a.txt`: which of them was labelled, nothing tells. The error of
    each is added to the findings.
    """
    holders: dict[Path, dict[str, ImageRecord]] = {}
    for record in (one for part in splits.values() for one in part):
        if record.label_file is not None:
            holders.setdefault(record.label_file, {})[record.image_id] = record
    twins: set[str] = set()
    for file, images in holders.items():
        if len(images) > 1:
            twins |= set(images)
            findings += _of_several(file, [*images])
    if not twins:
        return splits
    return {
        split: tuple(replace(one, objects=()) if one.image_id in twins else one for one in records)
        for split, records in splits.items()
    }


def _of_several(file: Path, images: Sequence[str]) -> list[Finding]:
    """Return the error of each image that may be the one that a label file is of."""
    several = ", ".join(images[:3])
    message = f"may belong to several images ({several}), so it is not used for"
    return [
        Finding("error", "ambiguous-image", f"{message} {one}; rename one", file, image_id=one)
        for one in images
    ]


def rows_of(text: str) -> list[tuple[int, str]]:
    """Return (line, content) of the lines of a text that hold something."""
    return [(line, row.strip()) for line, row in enumerate(text.splitlines(), 1) if row.strip()]


def numbers(words: Sequence[str]) -> list[float] | None:
    """Return the finite numbers that words spell; None where one spells none."""
    try:
        values = [float(word) for word in words]
    except ValueError:
        return None
    return values if all(map(math.isfinite, values)) else None


@dataclass(frozen=True, slots=True)
class ListedSplits:
    """Which split lists of stems put an image in: `ImageSets/train.txt`, one a line."""

    files: frozenset[str]
    stems: Mapping[str, str]  # split by stem

    def of(self, image: str, otherwise: str | None) -> str | None:
        """Return the split of an image; where no list has it, or there is none, `otherwise`."""
        return self.stems.get(stem_of(image), otherwise)


def listed_splits(tree: Tree) -> ListedSplits:
    """Return the splits that lists in a folder called ImageSets, or below it, put images in.

    A list of all of train and val is no split beside them.
    """
    lists: dict[str, list[str]] = {}
    files = []
    for file in tree.with_suffix(".txt"):
        split = split_name(stem_of(file))
        if split and "imagesets" in file.lower().split("/")[:-1]:
            files.append(file)
            lists.setdefault(split, []).extend(row for _, row in rows_of(tree.text(file)))
    if {"train", "val"} <= set(lists):
        lists.pop("trainval", None)
    stems = {stem_of(row): split for split, rows in lists.items() for row in rows}
    return ListedSplits(frozenset(files), stems)


def listed_classes(tree: Tree, used: set[str], notes: list[str]) -> tuple[str, ...]:
    """Return the classes in the order of a names file that has them all, else sorted.

    It is a `classes.txt` or `*.names` at the top of the folder, one name a line.
    """
    for file in tree.with_suffix(".txt", ".names"):
        if "/" in file or (name_of(file) != "classes.txt" and suffix_of(file) != ".names"):
            continue
        lines = (line.strip() for line in tree.text(file).splitlines())
        names = tuple(dict.fromkeys(line for line in lines if line))
        if used and used <= set(names):
            notes.append(f"classes in the order of {file}")
            return names
    return tuple(sorted(used))
