"""Pascal VOC annotations: XML files beside the images, in a sibling folder, or a VOC tree.

Boxes in these files are 1-based and inclusive: `<xmin>1</xmin><xmax>1</xmax>` is the first
column of pixels, (0, 1) here. Fractions are accepted. A missing `<difficult>` is 0.
An XML file belongs to the image of its own stem (the development kit's rule); `<filename>`
counts where there is no such image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

from detkit.data.folder_splits import folder_splits, in_order, unlabelled_folder
from detkit.data.formats.voc_lists import ImageSets, split_lists
from detkit.data.paths import folder_of, name_of, posix, stem_of, suffix_of
from detkit.data.records import Dataset, Finding, ImageRecord, ObjectRecord, labels_differ
from detkit.data.tree import Tree

MAX_XML_BYTES = 16 << 20  # ours: a million objects; more is no annotation of one image

_SIDES = ("xmin", "ymin", "xmax", "ymax")


@dataclass(slots=True)
class Annotation:
    """One XML file as it stands, sound objects only."""

    root: str = ""  # the outermost tag: "annotation"
    filename: str = ""
    width: int | None = None
    height: int | None = None
    objects: list[ObjectRecord] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


@dataclass(slots=True)
class _Object:
    """The texts of one `<object>` while it is parsed."""

    line: int
    texts: dict[str, str] = field(default_factory=dict)
    box: dict[str, str] | None = None
    num_boxes: int = 0


class _Target:
    """What the parser calls: gathers the few texts that matter, with their lines.

    Only elements at their proper depth count: the `<bndbox>` of a `<part>` is not that of
    its object.
    """

    def __init__(self) -> None:
        self.expat: Any = None
        self.root = ""
        self.texts: dict[str, str] = {}
        self.size: dict[str, str] = {}
        self.objects: list[_Object] = []
        self._above: list[str] = []
        self._text: list[str] = []

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        above = self._above
        if not above:
            self.root = tag
        elif len(above) == 1 and tag == "object":
            self.objects.append(_Object(self.expat.CurrentLineNumber))
        elif len(above) == 2 and tag == "bndbox" and above[1] == "object":
            self.objects[-1].box = {}
            self.objects[-1].num_boxes += 1
        above.append(tag)
        self._text.clear()

    def data(self, text: str) -> None:
        self._text.append(text)

    def end(self, tag: str) -> None:
        above = self._above
        above.pop()
        depth = len(above)
        if depth == 1:
            self.texts.setdefault(tag, "".join(self._text).strip())
        elif depth == 2 and above[1] == "object":
            self.objects[-1].texts.setdefault(tag, "".join(self._text).strip())
        elif depth == 2 and above[1] == "size":
            self.size.setdefault(tag, "".join(self._text).strip())
        elif depth == 3 and above[1] == "object" and above[2] == "bndbox":
            box = self.objects[-1].box
            if box is not None:
                box.setdefault(tag, "".join(self._text).strip())
        self._text.clear()

    def close(self) -> None:
        """Do nothing: the parser asks for this."""


def parse(data: bytes, file: Path) -> Annotation:
    """Return what the bytes of an annotation say; what they get wrong is in its findings.

    Broken XML, and XML that declares entities or a foreign DTD, gives one error finding and
    no objects; an object without a name, a box or a number gives an error and is left out.
    """
    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import DefusedXMLParser

    if len(data) > MAX_XML_BYTES:
        message = f"{len(data)} bytes are too many for one image's labels; not read"
        return Annotation(findings=[Finding("error", "too-large", message, file=file)])
    target = _Target()
    parser = DefusedXMLParser(target=target)
    target.expat = parser.parser
    try:
        parser.feed(data)
        parser.close()
    except ParseError as error:
        line = error.position[0]
        reason = str(error).partition(": line")[0]
        message = f"not well-formed XML ({reason}); mend or remove the file"
        if not data.strip():
            message = "the file is empty; an image without objects needs <annotation></annotation>"
        return Annotation(findings=[Finding("error", "bad-xml", message, file=file, line=line)])
    except (DefusedXmlException, ValueError, LookupError) as error:
        if isinstance(error, DefusedXmlException):
            code = "unsafe-xml"
            message = "it declares entities or an external document; labels need neither: not read"
        else:
            code, message = "bad-xml", f"not readable as XML ({error}); save it as UTF-8"
        return Annotation(findings=[Finding("error", code, message, file=file)])
    return _annotation(target, file)


def _annotation(target: _Target, file: Path) -> Annotation:
    """Return the annotation made of the gathered texts."""
    found = Annotation(target.root, target.texts.get("filename", ""))
    found.width, found.height = (_pixels(target.size.get(name)) for name in ("width", "height"))
    for number, texts in enumerate(target.objects, 1):
        _add_object(found, texts, number, file)
    return found


def _add_object(found: Annotation, texts: _Object, number: int, file: Path) -> None:
    """Add one object, or the finding that says why it is none."""
    name = texts.texts.get("name", "")

    def finding(severity: str, code: str, message: str) -> None:
        found.findings.append(
            Finding(severity, code, message, file, texts.line, number, name or None)
        )

    if not name:
        finding("error", "no-class", "no <name>; name the object's class")
        return
    if texts.box is None:
        finding("error", "no-box", "no <bndbox>; draw the box or remove the object")
        return
    if texts.num_boxes > 1:
        message = f"{texts.num_boxes} <bndbox> in one object; make each an object of its own"
        finding("error", "two-boxes", message)
        return
    missing = [side for side in _SIDES if not texts.box.get(side)]
    if missing:
        finding("error", "no-box", f"<bndbox> without {', '.join(missing)}; draw the box again")
        return
    stated = " ".join(f"{side}={texts.box[side]}" for side in _SIDES)
    values = [_number(texts.box[side]) for side in _SIDES]
    if None in values:
        finding("error", "bad-number", f"not a number ({stated}); write plain numbers")
        return
    xmin, ymin, xmax, ymax = (value for value in values if value is not None)
    difficult = texts.texts.get("difficult") or "0"
    flag = {"true": 1.0, "false": 0.0}.get(difficult.lower(), _number(difficult))
    if flag is None:
        finding("warning", "bad-number", f"<difficult>{difficult}</difficult> is read as 0")
    box = (xmin - 1.0, ymin - 1.0, xmax, ymax)
    found.objects.append(ObjectRecord(name, box, bool(flag), file, texts.line, number, stated))


def _number(text: str) -> float | None:
    """Return the finite number that a text spells, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _pixels(text: str | None) -> int | None:
    """Return the whole number of pixels that a text spells, or None."""
    value = _number(text or "")
    return None if value is None else round(value)


def read_voc(tree: Tree) -> Dataset | None:
    """Return the data set of a folder's VOC annotations, or None where it has none."""
    findings = list(tree.findings)
    labels: dict[str, Annotation] = {}
    others = 0
    for label in tree.with_suffix(".xml"):
        file = tree.path(label)
        try:
            found = parse(file.read_bytes(), file)
        except OSError as error:
            message = f"cannot be read: {error.strerror}"
            found = Annotation(findings=[Finding("error", "bad-xml", message, file=file)])
        if found.root in ("annotation", ""):
            labels[label] = found
        else:
            others += 1
            message = f"<{found.root}> is no Pascal VOC <annotation>; not read"
            findings.append(Finding("warning", "not-voc", message, file=file))
    if not any(found.root for found in labels.values()) and (others or not labels):
        return None
    records = _records(tree, labels, findings)
    lists = split_lists(tree)
    notes: list[str] = []
    if lists:
        image_sets = ImageSets(tree, records)
        splits = image_sets.splits(lists)
        findings += image_sets.findings
        notes += image_sets.notes
    else:
        splits = folder_splits(tree, records.values(), findings)
    used = {one.name for part in splits.values() for record in part for one in record.objects}
    splits = in_order(splits)
    return Dataset(
        root=tree.root,
        format="voc",
        class_names=_class_names(tree, used, notes),
        splits=splits or {"all": ()},
        findings=tuple(findings),
        notes=tuple(notes),
    )


def _records(
    tree: Tree, labels: dict[str, Annotation], findings: list[Finding]
) -> dict[str, ImageRecord]:
    """Return a record by image id: of every label file, and of images beside labelled ones."""
    label_of: dict[str, str] = {}
    for label, found in labels.items():
        image = _image_of(tree, label, found, findings)
        findings += [replace(one, image_id=image) for one in found.findings]
        if image is None:
            continue
        other = label_of.setdefault(image, label)
        if other == label:
            continue
        if tree.is_near(image, label) and not tree.is_near(image, other):
            label_of[image] = label
        else:
            other = label
        if labels_differ(labels[label_of[image]].objects, labels[other].objects):
            message = (
                f"{image} has other labels in {label_of[image]}, which are used; these are lost: "
                "keep one of the two files"
            )
            findings.append(Finding("error", "two-labels", message, tree.path(other)))
    records = {
        image: ImageRecord(
            image_id=image,
            path=tree.path(image),
            objects=tuple(labels[label].objects),
            width=labels[label].width,
            height=labels[label].height,
            label_file=tree.path(label),
        )
        for image, label in label_of.items()
    }
    labelled = {folder_of(image) for image in records}
    for folder, images in tree.unused_images(records).items():
        if folder in labelled:
            records |= {image: ImageRecord(image, tree.path(image)) for image in images}
        else:
            findings.append(unlabelled_folder(tree, folder, images))
    return dict(sorted(records.items()))


def _image_of(tree: Tree, label: str, found: Annotation, findings: list[Finding]) -> str | None:
    """Return the image that an annotation belongs to, by id; it may not exist.

    None when two images could be meant or none can be named.
    """
    file, stem = tree.path(label), stem_of(label)
    named = posix(found.filename)

    def finding(severity: str, code: str, message: str) -> None:
        findings.append(Finding(severity, code, message, file=file))

    own = tree.images_like(label)
    stated = tree.find_images(named, label) if named else []
    if named and not stated and tree.expected(named, label) is None:
        finding(
            "error",
            "path-outside",
            f"<filename>{found.filename}</filename> leads out of the data folder; "
            "write the image's name alone",
        )
        if not own:
            return None
    if len(own) > 1:
        own = [image for image in own if image in stated] or own
    if len(own) > 1:
        several = ", ".join(own[:3])
        finding(
            "error",
            "ambiguous-image",
            f"may belong to several images ({several}); put it beside its own",
        )
        return None
    differs = bool(named) and stem_of(named) != stem and name_of(named) != stem
    if own:
        if differs:
            where = "does not exist" if not stated else "is another image"
            finding(
                "warning",
                "filename-differs",
                f"<filename>{found.filename}</filename> {where}; read for {own[0]}, whose name "
                "is that of the label file",
            )
        return own[0]
    if len(stated) == 1:
        if differs:
            finding(
                "warning",
                "filename-differs",
                f"no image is called {stem}; read for {stated[0]}, as its <filename> says",
            )
        return stated[0]
    if len(stated) > 1:
        several = ", ".join(stated[:3])
        finding("error", "ambiguous-image", f"<filename>{named}</filename> may be {several}")
        return None
    if not found.root:
        return None  # broken, and no image is called so
    name = name_of(named) if suffix_of(named) and not differs else f"{stem}.jpg"
    place = tree.expected(name, label)
    if place is None:
        finding("error", "path-outside", f"its image {name} is outside the data folder; not used")
    return place


def _class_names(tree: Tree, used: set[str], notes: list[str]) -> tuple[str, ...]:
    """Return the classes in the order of a names file that has them all, else sorted."""
    for file in tree.with_suffix(".txt", ".names"):
        if "/" in file or (file != "classes.txt" and suffix_of(file) != ".names"):
            continue
        text = tree.text(file)
        names = tuple(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
        if used and used <= set(names):
            notes.append(f"classes in the order of {file}")
            return names
    return tuple(sorted(used))
