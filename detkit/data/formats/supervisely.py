"""Supervisely projects: meta.json, and in each data set `img/` and `ann/IMAGE.json`.

A rectangle is two opposite corners in any order, as its SDK reads them; a bitmap is a PNG, packed
by zlib and base64, whose first pixel is at `origin`. Data sets may be nested, and one called train
or val is that split, as is an image with such a tag. Source: Supervisely's annotation JSON format,
supervisely/annotation.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from detkit.data.formats.format import Format, Labelled, Splits, json_number, made_by
from detkit.data.formats.json_file import (
    json_files,
    json_keys,
    json_text,
    load_json,
    numbers,
    objects_in,
)
from detkit.data.formats.label_set import (
    CROWD,
    DIFFICULT,
    MACHINE_MADE,
    SCORE,
    LabelledImage,
    LabelSet,
    marks_of,
    quoted,
    stated_split,
)
from detkit.data.formats.shapes import (
    Box,
    around_pixels,
    around_points,
    around_turned,
    inflated,
    mask_of_png,
    points_of,
)
from detkit.data.paths import folder_of, name_of, suffix_of
from detkit.data.records import Dataset, ObjectRecord
from detkit.data.tree import Tree
from detkit.text import short

MAX_SUPERVISELY_BYTES = 512 << 20  # ours: masks of one image

_LINES = {"point": "point", "line": "line", "polyline": "line", "graph": "graph of key points"}
_OUTLINES = {"rectangle": "", "oriented_bbox": "rotated box"}
_MASKS = ("bitmap", "alpha_mask")
_VALUE_TYPES = {SCORE: "any_number"}  # of tags that have a value
_DEFAULT_SET = "dataset"  # of images without splits


def supervisely_files(tree: Tree) -> list[str]:
    """Return the annotations of a folder that are Supervisely's, by the keys in them."""
    return [file for file, keys in json_files(tree) if _is_annotation(file, keys)]


def _is_annotation(file: str, keys: Collection[str]) -> bool:
    """Return whether a file with these keys is the annotation of one image."""
    return "objects" in keys and {"size", "height", "width"} <= set(keys) and "tags" in keys


def read_supervisely(tree: Tree, only: str | None = None) -> Dataset | None:
    """Return the data set of a folder's Supervisely projects, or None where it has none.

    `only` names the one annotation to read.
    """
    files = supervisely_files(tree)
    if only is not None:
        files = [only] if _is_annotation(only, json_keys(tree, only)) else []
    if not files:
        return None
    labels = LabelSet(tree)
    metas = {file: _classes(labels, file) for file in _metas(tree)}
    for file in files:
        _read_file(labels, file)
    for file, names in metas.items():
        for other in files if names else ():
            if other.startswith(f"{folder_of(file)}/" if "/" in file else ""):
                labels.unknown(names, other, file)
    names = tuple(dict.fromkeys(name for one in metas.values() for name in one))
    return labels.dataset(FORMAT, class_names=names, is_per_image=only is None)


def _metas(tree: Tree) -> list[str]:
    """Return the files that list a project's classes."""
    return [file for file in tree.with_suffix(".json") if name_of(file) == "meta.json"]


def _classes(labels: LabelSet, file: str) -> tuple[str, ...]:
    """Return the classes that a project's meta.json lists."""
    content, is_read = load_json(labels.tree, file, labels.findings)
    found = content.get("classes") if is_read and isinstance(content, dict) else None
    names = [one.get("title") for one in objects_in(found)]
    return tuple(name.strip() for name in names if isinstance(name, str) and name.strip())


def _read_file(labels: LabelSet, file: str) -> None:
    """Read the annotation of one image."""
    content, is_read = load_json(labels.tree, file, labels.findings, most=MAX_SUPERVISELY_BYTES)
    if not is_read:
        return
    content = content if isinstance(content, dict) else {}
    objects = content.get("objects")
    if "frames" in content or "framesCount" in content:
        message = "the annotation of a video; export its frames as a project of images"
        labels.say("not-an-image", message, file)
        return
    if not isinstance(objects, list):
        labels.say("bad-json", 'no annotation: "objects" is no list', file)
        return
    size = content.get("size")
    size = size if isinstance(size, dict) else {}
    name = name_of(file).removesuffix(".json").removesuffix(".JSON")
    folder = folder_of(file)
    place = f"{folder_of(folder)}/img/{name}".lstrip("/") if name_of(folder) == "ann" else name
    names = [place, name] if place in labels.tree or suffix_of(name) else [name, f"{name}.jpg"]
    image = labels.image(
        file, *names, split=_split(content), size=(size.get("width"), size.get("height"))
    )
    if image is None:
        return
    for one in objects:
        _read_object(labels, image, one)


def _split(content: dict[str, Any]) -> str | None:
    """Return the split that an image's tags name, or None."""
    words = [one.get("name") for one in objects_in(content.get("tags"))]
    return next(filter(None, map(stated_split, words)), None)


def _read_object(labels: LabelSet, image: LabelledImage, one: Any) -> None:
    """Read one object of an image."""
    if not isinstance(one, dict):
        labels.refuse(image, "bad-annotation", f"an object is no object ({short(one)})")
        return
    name = one.get("classTitle")
    kind = str(one.get("geometryType") or _kind_of(one))
    outline = one.get("points")
    outline = outline.get("exterior") if isinstance(outline, dict) else outline
    points = points_of(outline) or []
    stated = f"{kind} {quoted(points)}".strip()
    if kind in _LINES:
        labels.skip(image, _LINES[kind], name, stated)
        return
    box: Box | None
    if kind in _MASKS:
        box, stated = _mask_box(one.get("bitmap") or one.get("alpha_mask"))
        if box is None:
            message = f"the {kind} cannot be unpacked or is empty ({stated}); draw it again"
            labels.refuse(image, "bad-mask", message, name=name if isinstance(name, str) else None)
            return
    else:
        box = around_points(points) if points else None
        if kind == "oriented_bbox" and box is not None:
            angle = numbers(one.get("angle") or 0)  # radians
            box = None if angle is None else around_turned(box, math.degrees(angle[0]))
        if box is None:
            stated = f"{kind} points={short(outline)}"
    labels.add(
        image,
        name,
        box,
        stated=stated,
        shape=_OUTLINES.get(kind, kind.replace("_", " ")),
        difficult=DIFFICULT in (marks := _marks(one)),
        crowd=CROWD in marks,
        made=made_by(MACHINE_MADE in marks, marks.get(SCORE)),
    )


def _kind_of(one: dict[str, Any]) -> str:
    """Return the geometry of an object of an old project, which states none."""
    if one.get("bitmap"):
        return "bitmap"
    outline = one.get("points")
    outline = outline.get("exterior") if isinstance(outline, dict) else None
    return {1: "point", 2: "rectangle"}.get(len(outline), "polygon") if outline else "shape"


def _marks(one: dict[str, Any]) -> dict[str, Any]:
    """Return the values of an object's tags by their names."""
    return {str(tag.get("name")): tag.get("value") for tag in objects_in(one.get("tags"))}


def _mask_box(bitmap: Any) -> tuple[Box | None, str]:
    """Return the box of a bitmap's pixels, None where there are none, and what the file states."""
    bitmap = bitmap if isinstance(bitmap, dict) else {}
    origin = bitmap.get("origin")
    place = numbers(*origin) if isinstance(origin, list) and len(origin) == 2 else None
    stated = f"origin={short(origin)}"
    if place is None:
        return None, stated
    try:
        data = inflated(base64.b64decode(bitmap.get("data", ""), validate=True))
    except (ValueError, TypeError, binascii.Error):
        return None, stated
    mask = mask_of_png(data) if data is not None else None
    box = None if mask is None else around_pixels(mask)
    if box is None:
        return None, stated
    x, y = place
    return (box[0] + x, box[1] + y, box[2] + x, box[3] + y), stated


def _place(split: str) -> str:
    """Return the folder of a split's images: each split is a data set."""
    return f"{_DEFAULT_SET if split == 'all' else split}/img"


def _label_files(splits: Splits, class_names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the annotation of each image, and the project's classes and tags."""
    marks: set[str] = set()
    for split, images in splits.items():
        folder = folder_of(_place(split))
        for image in images:
            marks |= {mark for one in image.objects for mark in _tags(one)}
            yield f"{folder}/ann/{image.name}.json", _annotation(image)
    meta = {
        "classes": [
            {"title": name, "shape": "rectangle", "color": _colour(place)}
            for place, name in enumerate(class_names)
        ],
        "tags": [
            {"name": mark, "value_type": _VALUE_TYPES.get(mark, "none"), "color": _colour(place)}
            for place, mark in enumerate(sorted(marks))
        ],
        "projectType": "images",
    }
    yield "meta.json", json_text(meta)


def _colour(place: int) -> str:
    """Return a colour that differs from its neighbours': each is 137.5 degrees further."""
    import colorsys

    red, green, blue = colorsys.hsv_to_rgb(place * 137.508 / 360 % 1, 0.7, 0.9)
    return f"#{int(red * 255):02X}{int(green * 255):02X}{int(blue * 255):02X}"


def _tags(one: ObjectRecord) -> dict[str, float | None]:
    """Return the values of the tags that an object is written with, by their names."""
    score = {} if one.score is None else {SCORE: one.score}
    return {**dict.fromkeys(marks_of(one)), **score}


def _annotation(image: Labelled) -> str:
    """Return the annotation of one image."""
    objects = []
    for one in image.objects:
        x1, y1, x2, y2 = (json_number(value) for value in one.box)
        objects.append(
            {
                "description": "",
                "geometryType": "rectangle",
                "tags": [{"name": mark, "value": value} for mark, value in _tags(one).items()],
                "classTitle": one.name,
                "points": {"exterior": [[x1, y1], [x2, y2]], "interior": []},
            }
        )
    size = {"height": image.height, "width": image.width}
    return json_text({"description": "", "tags": [], "size": size, "objects": objects})


FORMAT = Format(
    name="supervisely",
    title="Supervisely JSON",
    looked_for="Supervisely JSON",
    suffixes=(".json",),
    read=read_supervisely,
    write=_label_files,
    file_suffixes=(".json",),
    files=supervisely_files,
    images_of=_place,
    is_flat=True,  # in `img/`
    keeps_crowds=True,
    keeps_machine_made=True,
    keeps_scores=True,
)
