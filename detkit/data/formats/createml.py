"""Create ML JSON: a list of images with annotations, x and y the centre of a box, in pixels.

Apple's own documents call the keys `image` and `annotations`, or `imagefilename` and
`annotation`. A file stands for a folder of images (Create ML, Roboflow) or for one (labelImg).
Source: MLObjectDetector.DataSource, whose default is the centre and the top left origin.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from detkit.data.formats.format import Format, Labelled, Splits, json_number
from detkit.data.formats.json_file import json_files, json_keys, json_text, load_json, numbers
from detkit.data.formats.label_set import LabelledImage, LabelSet
from detkit.data.formats.shapes import tidy
from detkit.data.records import Dataset
from detkit.data.tree import Tree
from detkit.text import short

_IMAGE = ("image", "imagefilename", "imageFilename", "filename", "imageURL", "imagePath", "path")
_ANNOTATIONS = ("annotations", "annotation")
_CLASS = ("label", "type", "class")
_SIDES = ("x", "y", "width", "height")


def createml_files(tree: Tree) -> list[str]:
    """Return the JSON files of a folder that are Create ML's, by what is in them."""
    return [file for file, keys in json_files(tree) if _is_createml(tree, file, keys)]


def _is_createml(tree: Tree, file: str, keys: Collection[str]) -> bool:
    """Return whether a file is Create ML's: a list of images, their objects with coordinates."""
    if set(_IMAGE).isdisjoint(keys) or set(_ANNOTATIONS).isdisjoint(keys) or "data" in keys:
        return False
    if "coordinates" in keys:
        return True
    if not set(keys) <= {*_IMAGE, *_ANNOTATIONS, "verified"}:  # the last is labelImg's
        return False
    try:
        with tree.path(file).open("rb") as opened:
            return opened.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
    except OSError:
        return False


def read_createml(tree: Tree, only: str | None = None) -> Dataset | None:
    """Return the data set of a folder's Create ML files, or None where it has none.

    `only` names the one file to read.
    """
    files = createml_files(tree)
    if only is not None:
        files = [only] if _is_createml(tree, only, json_keys(tree, only)) else []
    if not files:
        return None
    labels = LabelSet(tree)
    for file in files:
        content, is_read = load_json(tree, file, labels.findings)
        for item in content if isinstance(content, list) else [content] * is_read:
            _read_image(labels, file, item)
    return labels.dataset(
        FORMAT, advice="list an image without objects with an empty list of annotations"
    )


def _read_image(labels: LabelSet, file: str, item: Any) -> None:
    """Read one image of a file."""
    item = item if isinstance(item, dict) else {}
    name = next((item[key] for key in _IMAGE if isinstance(item.get(key), str)), "").strip()
    if not name:
        message = f"an entry names no image ({short(item)}); not used"
        labels.say("bad-image", message, file)
        return
    image = labels.image(file, name)
    if image is None:
        return
    found: Any = next((item[key] for key in _ANNOTATIONS if item.get(key) is not None), [])
    if not isinstance(found, list):
        message = f'"annotations" of {name} is no list ({short(found)}); not read'
        labels.say("bad-annotation", message, file, image=image.image_id)
        return
    for annotation in found:
        _read_object(labels, image, annotation)


def _read_object(labels: LabelSet, image: LabelledImage, annotation: Any) -> None:
    """Read one object of an image."""
    if not isinstance(annotation, dict):
        message = f"an annotation is no object ({short(annotation)})"
        labels.refuse(image, "bad-annotation", message)
        return
    name = next((annotation[key] for key in _CLASS if annotation.get(key) is not None), None)
    sides = annotation.get("coordinates")
    sides = sides if isinstance(sides, dict) else {}
    stated = " ".join(f"{key}={short(sides.get(key))}" for key in _SIDES)
    values = numbers(*(sides.get(key) for key in _SIDES))
    box = None
    if values is not None:
        x, y, width, height = values
        box = tidy((x - width / 2, y - height / 2, x + width / 2, y + height / 2))
    labels.add(image, name, box, stated=stated)


def _label_files(splits: Splits, _: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield a file for each split, in the folder of its images."""
    for split, images in splits.items():
        content = [_entry(image) for image in images]
        yield f"{FORMAT.place(split)}/_annotations.createml.json", json_text(content)


def _entry(image: Labelled) -> dict[str, Any]:
    """Return one image of a file."""
    annotations = []
    for one in image.objects:
        x1, y1, x2, y2 = one.box
        values = ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
        sides = {key: json_number(value) for key, value in zip(_SIDES, values)}
        annotations.append({"label": one.name, "coordinates": sides})
    return {"image": image.name, "annotations": annotations}


def _box_hint(box: tuple[float, ...], size: tuple[int, int]) -> str:
    """Return what to do where a box would fit if x and y were its top left corner."""
    half_width, half_height = (box[2] - box[0]) / 2, (box[3] - box[1]) / 2
    if box[2] + half_width <= size[1] and box[3] + half_height <= size[0]:
        return "x, y of the top left corner? Create ML has the centre; else cut it at the border"
    return ""


FORMAT = Format(
    name="createml",
    title="Create ML JSON",
    looked_for="Create ML JSON",
    suffixes=(".json",),
    read=read_createml,
    write=_label_files,
    file_suffixes=(".json",),
    files=createml_files,
    by_split=True,
    keeps_difficult=False,
    keeps_classes=False,
    keeps_order=False,
    box_hint=_box_hint,
)
