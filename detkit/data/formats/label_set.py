"""The labels of a folder while its files are read: images found, objects added, oddities said.

A reader names the images of a file (`image`) and each of their shapes once: `add` for one that
has a box, `skip` for one without extent, `refuse` for one that makes no sense. `dataset` gathers
what became of it. So each reader finds the same mistakes and says them in the same words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from detkit.data.folder_splits import named_splits, unlabelled_folder, unlisted_images
from detkit.data.formats.format import Format, flag
from detkit.data.formats.json_file import numbers
from detkit.data.paths import folder_of, name_of, posix, split_in, split_in_stem, split_name
from detkit.data.records import Dataset, Finding, ImageRecord, ObjectRecord, labels_differ
from detkit.data.tree import Tree
from detkit.text import agreed, counted, short

Numbers = Sequence[float]
# Marks of an object that other formats have no field for, as detkit writes and reads them.
DIFFICULT, CROWD, MACHINE_MADE = "difficult", "crowd", "machine-made"
SCORE = "score"  # a machine-made object's, where it is an attribute or a tag


@dataclass(slots=True)
class LabelledImage:
    """One image that a label file names, with what is known of it so far."""

    image_id: str
    file: str  # the label file
    width: int | None = None  # as stated there
    height: int | None = None
    split: str | None = None
    is_labelled: bool = True
    count: int = 0  # shapes seen, read or not
    objects: list[ObjectRecord] = field(default_factory=list)


class LabelSet:
    """The images, objects, findings and notes of a folder's label files."""

    def __init__(self, tree: Tree) -> None:
        """Begin with nothing read."""
        self.tree = tree
        self.images: list[LabelledImage] = []
        self.findings: list[Finding] = []
        self.notes: list[str] = []
        self._outlines: Counter[str] = Counter()  # shapes read as the box around them
        self._skipped: Counter[str] = Counter()  # shapes without extent

    def say(
        self,
        code: str,
        message: str,
        file: str,
        *,
        severity: str = "error",
        line: int | None = None,
        number: int | None = None,
        name: str | None = None,
        image: str | None = None,
    ) -> None:
        """Add a finding about a label file, or a place in it."""
        path = self.tree.path(file)
        self.findings.append(Finding(severity, code, message, path, line, number, name, image))

    def image(
        self,
        file: str,
        *names: str,
        what: str = "image",
        split: str | None = None,
        size: tuple[Any, Any] = (None, None),
        line: int | None = None,
    ) -> LabelledImage | None:
        """Return the image that a label file names; None, with a finding, when none can be meant.

        Of the `names` the first that some image has counts; the last says where it ought to be.
        `what` is the field that names it, `size` (width, height) as stated. It may not exist.
        """
        found: list[str] = []
        for name in names:
            if found := self.tree.find_images(path_of(name), file, split):
                break
        stated = names[0] if ".." in posix(names[0]).split("/") else names[-1]
        place = found[0] if found else self.tree.expected(_relative(stated), file)
        if place is None:
            message = f"{what} {short(names[0])} leads out of the data folder; not used"
            self.say("path-outside", message, file, line=line)
            return None
        if len(found) > 1:
            several = ", ".join(found[:3])
            message = f"{what} {short(names[0])} may be {several}; write the path"
            self.say("ambiguous-image", message, file, line=line)
            return None
        sides = numbers(*size)
        width, height = (round(sides[0]), round(sides[1])) if sides else (None, None)
        one = LabelledImage(place, file, width, height, split)
        self.images.append(one)
        return one

    def add(
        self,
        image: LabelledImage,
        name: Any,
        box: Numbers | None,
        *,
        stated: str,
        shape: str = "",
        line: int | None = None,
        difficult: bool = False,
        crowd: bool = False,
        made: tuple[bool, float | None] = (False, None),
    ) -> bool:
        """Add an object, and return whether it could be; else there is a finding.

        `name` is the class, which may be no text, and `box` (x1, y1, x2, y2), None where not all
        are numbers. `shape` says what is read as the box around it, "" of a plain box; `stated`
        quotes the file, and `made` says whether the object is machine-made, and with what score.
        """
        if isinstance(name, int | float) and not isinstance(name, bool):
            name = str(name)
        if not isinstance(name, str) or not name.strip():
            self.refuse(image, "no-class", f"no class named ({stated}); name it", line=line)
            return False
        name = name.strip()
        if box is None:
            message = f"not all are numbers ({stated}); draw it again"
            self.refuse(image, "bad-number", message, name=name, line=line)
            return False
        x1, y1, x2, y2 = box
        image.count += 1
        if shape:
            self._outlines[shape] += 1
        image.objects.append(
            ObjectRecord(
                name=name,
                box=(x1, y1, x2, y2),
                difficult=difficult,
                file=self.tree.path(image.file),
                line=line,
                number=image.count,
                stated=stated,
                crowd=crowd,
                machine_made=made[0],
                score=made[1],
            )
        )
        return True

    def refuse(
        self,
        image: LabelledImage,
        code: str,
        message: str,
        *,
        name: str | None = None,
        line: int | None = None,
        severity: str = "error",
    ) -> None:
        """Say why a shape of an image is not read."""
        image.count += 1
        self.say(
            code,
            message,
            image.file,
            severity=severity,
            line=line,
            number=image.count,
            name=name,
            image=image.image_id,
        )

    def skip(
        self, image: LabelledImage, shape: str, name: Any, stated: str, line: int | None = None
    ) -> None:
        """Name a shape that has no extent and so no box: a point, a line."""
        self._skipped[shape] += 1
        message = f"a {shape} has no area ({stated}) and is not read; draw the box it is for"
        named = name.strip() if isinstance(name, str) and name.strip() else None
        self.refuse(image, "no-extent", message, name=named, line=line, severity="warning")

    def is_marked(
        self, image: LabelledImage, values: Sequence[Any], mark: str, line: int | None = None
    ) -> bool:
        """Return whether a mark of an image's next object is set by one of the values.

        A value that is no mark is said, and taken for no.
        """
        found = [flag(value) for value in values]
        for value, one in zip(values, found):
            if one is None:
                message = f"{mark}={short(value)} is read as 0; write 0 or 1"
                self.say(
                    "bad-number",
                    message,
                    image.file,
                    severity="warning",
                    line=line,
                    number=image.count + 1,
                    image=image.image_id,
                )
        return any(found)

    def unknown(self, names: Sequence[str], file: str, listed: str) -> None:
        """Say which classes objects of a file have that its own list of classes lacks."""
        known = set(names)
        missing: dict[str, ObjectRecord] = {}
        for image in self.images:
            for one in image.objects if image.file == file else ():
                if one.name not in known:
                    missing.setdefault(one.name, one)
        for name, one in missing.items():
            message = f"the class is not among {listed}; spelt otherwise? it is read as it stands"
            self.say(
                "unknown-class",
                message,
                file,
                severity="warning",
                line=one.line,
                number=one.number,
                name=name,
            )

    def dataset(
        self,
        form: Format,
        *,
        class_names: Sequence[str] = (),
        is_per_image: bool = False,
        advice: str = "list an image without objects, too",
    ) -> Dataset:
        """Return the data set of what was read.

        `class_names` are those that a file lists, in its order; further ones follow by name.
        Where a label file belongs to one image (`is_per_image`), images beside labelled ones are
        unlabelled; else `advice` says what to do about one that no file lists.
        """
        records = self._records()
        groups: dict[str | None, dict[str, ImageRecord]] = {}
        for one, record in records:
            group = groups.setdefault(self._split_of(one, is_per_image), {})
            self._add_once(group, one, record)
        seen = {image for group in groups.values() for image in group}
        if is_per_image:
            for record in self._unlabelled(seen):
                groups.setdefault(split_in(record.image_id), {})[record.image_id] = record
            groups = {split: dict(sorted(group.items())) for split, group in groups.items()}
        else:
            left_out = {one.image_id for one in self.images if not one.is_labelled}
            message = f"in no label file; not used: {advice}"
            self.findings += unlisted_images(self.tree, seen | left_out, message)
        listed = {split: list(group.values()) for split, group in groups.items()}
        splits = named_splits(self.tree, listed, self.findings)
        used = {thing.name for _, record in records for thing in record.objects}
        names = dict.fromkeys([*class_names, *sorted(used - set(class_names))])
        return Dataset(
            root=self.tree.root,
            format=form.name,
            class_names=tuple(names),
            splits=splits,
            findings=tuple(self.findings),
            notes=(*self.notes, *self._said_of_shapes()),
        )

    def _records(self) -> list[tuple[LabelledImage, ImageRecord]]:
        """Return a record of each image that is labelled."""
        return [
            (
                one,
                ImageRecord(
                    image_id=one.image_id,
                    path=self.tree.path(one.image_id),
                    objects=tuple(one.objects),
                    width=one.width,
                    height=one.height,
                    label_file=self.tree.path(one.file),
                ),
            )
            for one in self.images
            if one.is_labelled
        ]

    def _split_of(self, one: LabelledImage, is_per_image: bool) -> str | None:
        """Return the split that an image is in: stated, or by its file's or folder's name."""
        if one.split:
            return one.split
        named = None
        if not is_per_image:
            named = split_in_stem(name_of(one.file).rpartition(".")[0]) or split_in(one.file)
        return named or split_in(one.image_id)

    def _add_once(
        self, group: dict[str, ImageRecord], one: LabelledImage, record: ImageRecord
    ) -> None:
        """Add an image to its split; of one that is there already only say so."""
        first = group.setdefault(record.image_id, record)
        if first is record:
            return
        lost = labels_differ(record.objects, first.objects)
        message = f"{record.image_id} has labels already"
        if first.label_file != record.label_file and first.label_file is not None:
            message += f" in {first.label_file.name}"
        message += ", which are used"
        message += "; these differ and are lost: keep one of the two" if lost else "; these repeat"
        self.say("image-twice", message, one.file, severity="error" if lost else "warning")

    def _unlabelled(self, seen: set[str]) -> Iterator[ImageRecord]:
        """Yield the images without a label file that lie beside labelled ones."""
        folders = {folder_of(image) for image in seen}
        for folder, images in self.tree.unused_images(seen).items():
            if folder in folders:
                yield from (ImageRecord(image, self.tree.path(image)) for image in images)
            else:
                self.findings.append(unlabelled_folder(self.tree, folder, images))

    def _said_of_shapes(self) -> Iterator[str]:
        """Yield what was made of shapes that are no boxes."""
        if total := sum(self._outlines.values()):
            boxes = agreed(
                total, "is read as the box around it", "are read as the boxes around them"
            )
            yield f"{_listed(self._outlines)} {boxes}"
        if total := sum(self._skipped.values()):
            yield (
                f"{_listed(self._skipped)} without area {agreed(total, 'is', 'are')} not read; "
                f"`detkit check {self.tree.root}` names {agreed(total, 'it', 'them')}"
            )


def _listed(shapes: Counter[str]) -> str:
    """Return counted shapes as words: "1 circle, 2 masks and 3 polygons"."""
    words = [counted(count, shape) for shape, count in sorted(shapes.items())]
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def marks_of(one: ObjectRecord) -> list[str]:
    """Return the marks of an object, for formats that have a word for each."""
    marks = ((DIFFICULT, one.difficult), (CROWD, one.crowd), (MACHINE_MADE, one.machine_made))
    return [mark for mark, is_on in marks if is_on]


def path_of(address: str) -> str:
    """Return the path of a web or bucket address, its host first; any other text as it is."""
    if "://" not in address:
        return address
    try:
        parts = urlsplit(address)
    except ValueError:
        return address
    return f"{parts.netloc}{parts.path}"


def _relative(name: str) -> str:
    """Return a path without what makes it absolute: a path of another machine ends alike."""
    if "://" in name:
        return name_of(path_of(name))
    stated = posix(name)
    is_absolute = stated.startswith("/") or stated[1:2] == ":"
    return name_of(stated) if is_absolute else stated


def stated_split(word: Any) -> str | None:
    """Return the split that a label file states by name, or None of none or of no known one."""
    return split_name(word) if isinstance(word, str) else None


def listed_names(tree: Tree, labels: LabelSet, files: Sequence[str]) -> tuple[str, ...]:
    """Return the classes of the first of these files at the top of the folder that has all in use.

    One name a line. labelme's own lists begin with two names that stand for no class.
    """
    used = {thing.name for one in labels.images for thing in one.objects}
    for file in files:
        if file not in tree:
            continue
        lines = (line.strip() for line in tree.text(file).splitlines())
        names = dict.fromkeys(
            line
            for line in lines
            if line and (line in used or line not in ("__ignore__", "_background_"))
        )
        if used <= set(names):
            labels.notes.append(f"classes in the order of {file}")
            return tuple(names)
    return ()


def is_set(value: Any) -> bool:
    """Return whether a mark is set, whatever way it is written: true, 1, "yes", "False"."""
    return bool(flag(value))


def quoted(points: Sequence[tuple[float, float]]) -> str:
    """Return points as a message shows them, cut where they are many."""
    shown = "; ".join(f"{x:.6g} {y:.6g}" for x, y in points[:3])
    return f"{shown}; ..." if len(points) > 3 else shown
