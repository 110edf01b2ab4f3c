"""labelme JSON: one file an image, beside it or elsewhere, as labelme and its kin write it.

Points are continuous pixels (the left edge of the first one is 0), so two corners of a rectangle,
in any order, are the box; a circle is its centre and a point on its edge; a mask is a PNG whose
first pixel is at the first point. Outlines of one class and one `group_id` are parts of one
object, as in labelme's own converters. A shape's `score` is a detector's, as X-AnyLabeling has it;
a flag `machine-made` that is unticked says that a person has looked. Source: labelme 2 to 5,
labelme/label_file.py, labelme/utils/shape.py; X-AnyLabeling for rectangles of four corners,
`rotation`, `difficult`.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

from detkit.data.formats.format import Format, Labelled, Splits, json_number, made_by
from detkit.data.formats.json_file import json_files, json_keys, json_text, load_json
from detkit.data.formats.label_set import (
    CROWD,
    DIFFICULT,
    MACHINE_MADE,
    LabelledImage,
    LabelSet,
    listed_names,
    marks_of,
    quoted,
)
from detkit.data.formats.shapes import (
    Box,
    around_circle,
    around_pixels,
    around_points,
    mask_of_png,
    points_of,
)
from detkit.data.paths import posix, stem_of
from detkit.data.records import Dataset
from detkit.data.tree import Tree
from detkit.text import counted, short

MAX_LABELME_BYTES = 512 << 20  # ours: the image itself may be in the file

_LINES = {"point": "point", "points": "point", "line": "line", "linestrip": "line strip"}
_TURNED = ("rotation", "oriented_rectangle")
_OUTLINES = ("polygon", "mask")  # of which several may be parts of one object
_KEYS = frozenset({"imagePath", "imageData", "imageHeight", "shape_type", "line_color", "group_id"})


def labelme_files(tree: Tree) -> list[str]:
    """Return the JSON files of a folder that are labelme's, by the keys in them."""
    return [file for file, keys in json_files(tree) if _is_labelme(keys)]


def _is_labelme(keys: Iterable[str]) -> bool:
    """Return whether a file with these keys is labelme's."""
    return "shapes" in keys and not _KEYS.isdisjoint(keys)


def read_labelme(tree: Tree, only: str | None = None) -> Dataset | None:
    """Return the data set of a folder's labelme files, or None where it has none.

    `only` names the one file to read.
    """
    files = labelme_files(tree)
    if only is not None:
        files = [only] if _is_labelme(json_keys(tree, only)) else []
    if not files:
        return None
    labels = LabelSet(tree)
    joined = sum(_read_file(labels, file) for file in files)
    if joined:
        labels.notes.append(
            f"{counted(joined, 'outline')} joined to another of the same class and group_id: "
            "parts of one object"
        )
    if only is None:
        _report_strays(labels, set(files))
    names = listed_names(tree, labels, ("labels.txt", "classes.txt"))
    return labels.dataset(FORMAT, class_names=names, is_per_image=only is None)


def _read_file(labels: LabelSet, file: str) -> int:
    """Read one file; return how many outlines were joined to others."""
    content, is_read = load_json(labels.tree, file, labels.findings, most=MAX_LABELME_BYTES)
    if not is_read:
        return 0
    shapes = content.get("shapes") if isinstance(content, dict) else None
    if not isinstance(shapes, list):
        labels.say("bad-json", 'no labelme file: "shapes" is no list', file)
        return 0
    image = _image_of(labels, file, content)
    if image is None:
        return 0
    parts: dict[tuple[str, str], Box] = {}  # of outlines in groups: the box around all
    boxes = [_box_of(shape) if isinstance(shape, dict) else None for shape in shapes]
    for shape, box in zip(shapes, boxes):
        if box is not None and (key := _group_of(shape)):
            corners = [box[:2], box[2:]]
            if key in parts:
                corners += [parts[key][:2], parts[key][2:]]
            parts[key] = around_points(corners)
    joined = 0
    done: set[tuple[str, str]] = set()
    for shape, box in zip(shapes, boxes):
        key = _group_of(shape) if box is not None else None
        if key in done:
            image.count += 1
            joined += 1
            continue
        if key:
            done.add(key)
            box = parts[key]
        _add_shape(labels, image, shape, box)
    return joined


def _group_of(shape: dict[str, Any]) -> tuple[str, str] | None:
    """Return what an outline shares with the other parts of its object, or None of a whole."""
    group = shape.get("group_id")
    if group is None or _kind_of(shape) not in _OUTLINES:
        return None
    return str(shape.get("label")), str(group)


def _kind_of(shape: dict[str, Any]) -> str:
    """Return the type of a shape; files of labelme 2 and 3 state none and hold polygons."""
    return str(shape.get("shape_type") or "polygon")


def _image_of(labels: LabelSet, file: str, content: dict[str, Any]) -> LabelledImage | None:
    """Return the image of a file: the one it names, else the one that is called like it."""
    tree = labels.tree
    named = content.get("imagePath")
    named = posix(named) if isinstance(named, str) else ""
    found = tree.find_images(named, file) if named else []
    own = tree.images_like(file)
    names = [named or f"{stem_of(file)}.jpg"]
    if own and not found:
        names = [own[0]]
        if named and stem_of(named) != stem_of(file):
            message = (
                f"imagePath {named} does not exist; read for {own[0]}, whose name is the file's"
            )
            labels.say("filename-differs", message, file, severity="warning", image=own[0])
    elif found and own and own[0] != found[0] and len(found) == 1:
        message = f"imagePath {named} is another image than {own[0]}; read for {found[0]}"
        labels.say("filename-differs", message, file, severity="warning", image=found[0])
    size = content.get("imageWidth"), content.get("imageHeight")
    image = labels.image(file, *names, what="imagePath", size=size)
    if image is not None and not (found or own) and content.get("imageData"):
        message = (
            f"no such image ({image.image_id}), though imageData holds it: write it out there "
            "(labelme_export_json), as images are read from files only"
        )
        labels.say("missing-image", message, file, image=image.image_id)
    return image


def _box_of(shape: dict[str, Any]) -> Box | None:
    """Return the box around a shape; None of one without extent or that makes no sense."""
    points = points_of(shape.get("points"))
    kind = _kind_of(shape)
    if not points or kind in _LINES:
        return None
    if kind == "circle":
        if len(points) < 2:
            return None
        (x, y), edge = points[:2]
        return around_circle(x, y, math.dist((x, y), edge))
    if kind == "mask" and shape.get("mask"):
        return _mask_box(shape["mask"], points[0])
    return (
        around_points(points) if len(points) > (1 if kind in ("rectangle", "mask") else 2) else None
    )


def _mask_box(text: Any, first: tuple[float, float]) -> Box | None:
    """Return the box of a mask's pixels, which lie from its first point's pixel on."""
    try:
        mask = mask_of_png(base64.b64decode(text, validate=True))
    except (ValueError, TypeError):
        return None
    box = None if mask is None else around_pixels(mask)
    if box is None:
        return None
    left, top = math.trunc(first[0]), math.trunc(first[1])
    return box[0] + left, box[1] + top, box[2] + left, box[3] + top


def _add_shape(labels: LabelSet, image: LabelledImage, shape: Any, box: Box | None) -> None:
    """Add one shape, or the finding that says why it has no box."""
    if not isinstance(shape, dict):
        labels.refuse(image, "bad-annotation", f"a shape is no object ({short(shape)})")
        return
    kind, points = _kind_of(shape), points_of(shape.get("points"))
    name = shape.get("label")
    if points is None:
        stated = f"points={short(shape.get('points'))}"
        labels.add(image, name, None, stated=stated)
        return
    stated = f"{kind} {quoted(points)}"
    if box is None and kind == "mask" and shape.get("mask"):
        message = f"the mask is no PNG or is empty ({stated}); draw it again"
        labels.refuse(image, "bad-mask", message, name=str(name))
        return
    if box is None:
        labels.skip(
            image, _LINES.get(kind, f"{kind} of {counted(len(points), 'point')}"), name, stated
        )
        return
    flags = shape.get("flags")
    flags = flags if isinstance(flags, dict) else {}
    labels.add(
        image,
        name,
        box,
        stated=stated,
        shape=_outline(kind, points),
        difficult=labels.is_marked(image, [shape.get(DIFFICULT), flags.get(DIFFICULT)], DIFFICULT),
        crowd=labels.is_marked(image, [flags.get(CROWD)], CROWD),
        made=made_by(flags.get(MACHINE_MADE), shape.get("score")),
    )


def _outline(kind: str, points: Sequence[tuple[float, float]]) -> str:
    """Return what a shape is called that is no plain box; "" of a rectangle."""
    if kind == "rectangle":
        corners = {(x, y) for x, y in points}
        x1, y1, x2, y2 = around_points(points)
        is_plain = len(points) == 2 or corners <= {(x1, y1), (x1, y2), (x2, y1), (x2, y2)}
        return "" if is_plain else "rotated box"
    return "rotated box" if kind in _TURNED else kind


def _report_strays(labels: LabelSet, files: set[str]) -> None:
    """Name the JSON files beside images, called like one, that are not labelme's."""
    for file in labels.tree.with_suffix(".json"):
        images = labels.tree.images_like(file) if file not in files else []
        if images and load_json(labels.tree, file, labels.findings)[1]:
            message = f'no labelme file: it has no "shapes"; {images[0]} has no labels by it'
            labels.say("not-labelme", message, file, severity="warning")


def _label_files(splits: Splits, class_names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield a file beside each image, and the list of classes that labelme is started with."""
    for split, images in splits.items():
        for image in images:
            path = PurePosixPath(FORMAT.place(split), image.name).with_suffix(".json")
            yield str(path), _file_text(image)
    yield "labels.txt", "".join(f"{name}\n" for name in class_names)


def _file_text(image: Labelled) -> str:
    """Return the labelme file of one image."""
    shapes = [
        {
            "label": one.name,
            "points": [
                [json_number(one.box[0]), json_number(one.box[1])],
                [json_number(one.box[2]), json_number(one.box[3])],
            ],
            "group_id": None,
            "description": "",
            "shape_type": "rectangle",
            "flags": {mark: True for mark in marks_of(one)},
            **({} if one.score is None else {"score": one.score}),
        }
        for one in image.objects
    ]
    return json_text(
        {
            "version": "5.4.1",
            "flags": {},
            "shapes": shapes,
            "imagePath": PurePosixPath(image.name).name,
            "imageData": None,
            "imageHeight": image.height,
            "imageWidth": image.width,
        }
    )


FORMAT = Format(
    name="labelme",
    title="labelme JSON",
    looked_for="labelme JSON",
    suffixes=(".json",),
    read=read_labelme,
    write=_label_files,
    file_suffixes=(".json",),
    files=labelme_files,
    by_split=True,
    keeps_crowds=True,
    keeps_machine_made=True,
    keeps_scores=True,
)
