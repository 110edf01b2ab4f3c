"""Pascal VOC annotations: XML files beside the images, in a sibling folder, or a VOC tree.

An XML file belongs to the image of its own stem (the development kit's rule); `<filename>`
counts where there is no such image.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from detkit.data.folder_splits import folder_splits, unlabelled_folder
from detkit.data.formats.format import Format, Splits, is_common_split
from detkit.data.formats.gathered import listed_classes
from detkit.data.formats.voc_lists import ImageSets, is_class_list, split_lists
from detkit.data.formats.voc_xml import Annotation, parse, root_tag, xml_text
from detkit.data.paths import folder_of, name_of, posix, stem_of, suffix_of
from detkit.data.records import Dataset, Finding, ImageRecord, image_record, labels_differ
from detkit.data.tree import Tree
from detkit.files import read_whole

_SNIFF_BYTES = 1 << 12  # the first part of an XML file, where its outermost tag is


def read_voc(tree: Tree, _: str | None = None) -> Dataset | None:
    """Return the data set of a folder's VOC annotations, or None where it has none."""
    findings: list[Finding] = []
    labels: dict[str, Annotation] = {}
    others = 0
    for label in tree.with_suffix(".xml"):
        file = tree.path(label)
        try:
            data = read_whole(tree.address(label)) or b""
            root = tree.xml_roots[label] = root_tag(data[:_SNIFF_BYTES])
            found = Annotation(root) if root == "annotations" else parse(data, file)
        except OSError as error:
            message = f"cannot be read: {error.strerror}"
            found = Annotation(findings=[Finding("error", "bad-xml", message, file=file)])
        if found.root in ("annotation", ""):
            found.file = file
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
    return Dataset(
        root=tree.root,
        format="voc",
        class_names=listed_classes(tree, used, notes),
        splits=splits,
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
        image: image_record(
            image, tree.path(image), tuple(one.objects), one.width, one.height, one.file
        )
        for image, one in ((image, labels[label]) for image, label in label_of.items())
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
    stem, named = stem_of(label), posix(found.filename)

    def finding(severity: str, code: str, message: str) -> None:
        findings.append(Finding(severity, code, message, file=found.file))

    own = _of_its_tree(tree, label, tree.images_like(label))
    if len(own) == 1 and name_of(own[0]) == named and stem_of(named) == stem:
        return own[0]
    stated = _of_its_tree(tree, label, tree.find_images(named, label)) if named else []
    if named and not stated and tree.expected(named, label) is None:
        said = f"<filename>{found.filename}</filename> leads out of the data folder"
        do = "write the image's name alone"
        if name_of(named) == named and named != "..":
            do = "a link there is not followed"
        finding("error", "path-outside", f"{said}; {do}")
        if not own:
            return None
    if len(own) > 1:
        own = [image for image in own if image in stated] or own
    if len(own) > 1:
        said = f"may belong to several images ({', '.join(own[:3])})"
        finding("error", "ambiguous-image", f"{said}; put it beside its own")
        return None
    differs = bool(named) and stem_of(named) != stem and name_of(named) != stem
    if own or len(stated) == 1:
        image = (own or stated)[0]
        said = f"no image is called {stem}; read for {image}, as its <filename> says"
        if own:
            where = "is another image" if stated else "does not exist"
            said = f"<filename>{found.filename}</filename> {where}; read for {image}, whose name "
            said += "is that of the label file"
        if differs:
            finding("warning", "filename-differs", said)
        return image
    if stated:
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


def _of_its_tree(tree: Tree, label: str, images: list[str]) -> list[str]:
    """Return the images of the VOC tree that a label is of; all of them where it is of none.

    VOC2007/Annotations/1.xml never means VOC2012/JPEGImages/1.jpg.
    """
    above, _, last = folder_of(label).rpartition("/")
    own = f"{above}/JPEGImages/".removeprefix("/")
    if last.lower() != "annotations" or own.rstrip("/") not in tree.folders:
        return images
    return [image for image in images if image.startswith(own)]


def _label_files(splits: Splits, class_names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the annotations, the lists of a VOC tree, and the order of the classes.

    VOC itself has no file of class names; `classes.txt` is what labelling tools write.
    """
    for split, images in splits.items():
        for image in images:
            text = xml_text(image.name, image.width, image.height, image.objects)
            yield f"Annotations/{PurePosixPath(image.name).stem}.xml", text
        if split != "all":
            stems = "".join(f"{PurePosixPath(image.name).stem}\n" for image in images)
            yield f"ImageSets/Main/{split}.txt", stems
    yield "classes.txt", "".join(f"{name}\n" for name in class_names)


def _keeps_split(split: str) -> bool:
    """Return whether a list may be called so: no path, and not one class's list."""
    is_list_name = re.fullmatch(r"\w[\w -]*", split) and not is_class_list(split)
    return bool(is_common_split(split) or is_list_name)


FORMAT = Format(
    name="voc",
    title="VOC XML",
    looked_for="Pascal VOC XML (also beside images)",
    suffixes=(".xml",),
    read=read_voc,
    write=_label_files,
    images="JPEGImages",
    is_flat=True,
    keeps_machine_made=True,
    keeps_scores=True,
    keeps_split=_keeps_split,
    is_inclusive=lambda one: True,
)
