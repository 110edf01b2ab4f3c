"""VGG Image Annotator: JSON and CSV of versions 1 and 2, project files of 2 and 3, CSV of 3.

Regions are in pixels from the top left corner: a rectangle's x, y, width, height; a circle's
centre and radius; an ellipse's centre, radii and, from 2.0.6 on, its turn in radians. VIA knows
no classes: one of the regions' attributes is taken for it, and said; where no region has any, all
are of one class. Source: via.js of VIA 1.0, 2.0 and 3.0.
"""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from detkit.data.formats.format import Format, Labelled, Splits, json_number, made_by
from detkit.data.formats.json_file import json_files, json_keys, json_text, load_json, numbers
from detkit.data.formats.label_set import (
    CROWD,
    DIFFICULT,
    MACHINE_MADE,
    SCORE,
    LabelledImage,
    LabelSet,
    is_set,
    marks_of,
    quoted,
)
from detkit.data.formats.shapes import Box, around_circle, around_ellipse, around_points
from detkit.data.formats.wide_cells import wide_cells
from detkit.data.paths import suffix_of
from detkit.data.records import Dataset
from detkit.data.tree import Tree
from detkit.text import counted, short

MAX_VIA_CSV_BYTES = 1 << 30  # ours: as of other tables
_HEADER_BYTES = 1 << 14

_CSV_KEYS = ("filename", "region_shape_attributes", "region_attributes")
# What people call the attribute that is the class, the likeliest first.
_CLASS_NAMES = (
    *("class", "label", "name", "type", "category", "object", "classname", "class_name"),
    *("labels", "classes", "species", "objects"),
)
_ALL_OF_ONE = "object"  # the class of regions of which not one has an attribute
_LINES = {"point": "point", "polyline": "polyline", "line": "line"}
# VIA 3 writes a shape as its kind's number and its values.
_KINDS_OF_3 = {
    **{1: "point", 2: "rect", 3: "circle", 4: "ellipse", 5: "line", 6: "polyline", 7: "polygon"},
    **{8: "rect", 9: "circle"},
}
_KEYS_OF_3 = {
    "point": ("cx", "cy"),
    "rect": ("x", "y", "width", "height"),
    "circle": ("cx", "cy", "r"),
    "ellipse": ("cx", "cy", "rx", "ry"),
}


@dataclass(slots=True)
class _Region:
    """One region as it stands: its shape's values and its attributes."""

    image: LabelledImage
    shape: dict[str, Any]
    attributes: dict[str, Any]
    line: int | None = None


@dataclass(slots=True)
class _Found:
    """What the files of a folder hold."""

    regions: list[_Region] = field(default_factory=list)
    options: dict[str, dict[str, Any]] = field(default_factory=dict)  # by attribute


def via_files(tree: Tree) -> list[str]:
    """Return the files of a folder that are VIA's, by their keys or columns."""
    found = [file for file, keys in json_files(tree) if _is_via(keys)]
    return found + [file for file in tree.with_suffix(".csv") if _csv_version(tree, file)]


def _is_via(keys: Collection[str]) -> bool:
    """Return whether a JSON file with these keys is VIA's."""
    known = set(keys)
    if known & {"shape_attributes", "_via_img_metadata"}:
        return True
    return known >= {"regions", "filename", "file_attributes"} or known >= {
        *("project", "attribute", "file", "view", "metadata"),
    }


def _csv_version(tree: Tree, file: str) -> int:
    """Return 2 of a CSV of VIA 1 and 2, 3 of one of VIA 3, 0 of any other."""
    try:
        with tree.open_text(file) as opened:
            start = opened.read(_HEADER_BYTES)
    except OSError:
        return 0
    header = start.partition("\n")[0].strip().lstrip("#").replace('"', "").split(",")
    if set(_CSV_KEYS) <= {one.strip() for one in header}:
        return 2
    return 3 if start.startswith("#") and "spatial_coordinates" in start else 0


def read_via(tree: Tree, only: str | None = None) -> Dataset | None:
    """Return the data set of a folder's VIA files, or None where it has none.

    `only` names the one file to read.
    """
    files = via_files(tree) if only is None else [only]
    labels, found = LabelSet(tree), _Found()
    is_any = False
    for file in files:
        if suffix_of(file) == ".csv":
            version = _csv_version(tree, file)
            is_any |= version > 0
            if version:
                _read_csv(labels, found, file, version)
        elif _is_via(json_keys(tree, file)):
            is_any = True
            content, is_read = load_json(tree, file, labels.findings)
            if is_read:
                _read_json(labels, found, file, content)
    if not is_any:
        return None
    names = _add_regions(labels, found)
    return labels.dataset(FORMAT, class_names=names)


def _read_json(labels: LabelSet, found: _Found, file: str, content: Any) -> None:
    """Read the images and regions of a JSON file."""
    if not isinstance(content, dict):
        labels.say("bad-json", "no VIA file: the outermost value is no object", file)
        return
    if isinstance(content.get("view"), dict) and isinstance(content.get("metadata"), dict):
        _read_version_3(labels, found, file, content)
        return
    attributes = content.get("_via_attributes")
    if isinstance(attributes, dict) and isinstance(attributes.get("region"), dict):
        for name, one in attributes["region"].items():
            if isinstance(one, dict) and isinstance(one.get("options"), dict):
                found.options.setdefault(name, {}).update(one["options"])
    images = content.get("_via_img_metadata", content)
    if not isinstance(images, dict):
        labels.say("bad-json", 'no VIA file: "_via_img_metadata" is no object', file)
        return
    for key, one in images.items():
        if not isinstance(one, dict) or not isinstance(one.get("filename"), str):
            message = f"the image {short(key)} names no file; not used"
            labels.say("bad-image", message, file)
            continue
        image = labels.image(file, one["filename"], what="filename")
        if image is None:
            continue
        regions = one.get("regions") or []
        if isinstance(regions, dict):  # of version 1: by number
            regions = list(regions.values())
        if not isinstance(regions, list):
            message = f'"regions" of {image.image_id} is no list; not read'
            labels.say("bad-annotation", message, file, image=image.image_id)
            continue
        for region in regions:
            region = region if isinstance(region, dict) else {}
            shape, marks = region.get("shape_attributes"), region.get("region_attributes")
            found.regions.append(
                _Region(
                    image,
                    shape if isinstance(shape, dict) else {},
                    marks if isinstance(marks, dict) else {},
                )
            )


def _read_version_3(labels: LabelSet, found: _Found, file: str, content: dict[str, Any]) -> None:
    """Read a project of VIA 3: files, views of them, and regions by view."""
    attributes = content.get("attribute")
    attributes = attributes if isinstance(attributes, dict) else {}
    files = content.get("file")
    files = files if isinstance(files, dict) else {}
    images: dict[str, LabelledImage | None] = {}
    for key, view in content["view"].items():
        held = view.get("fid_list") if isinstance(view, dict) else None
        one = files.get(str(held[0])) if isinstance(held, list) and held else None
        name = one.get("fname") if isinstance(one, dict) else None
        if not isinstance(name, str) or not name:
            labels.say("bad-image", f"the view {short(key)} names no file; not used", file)
            continue
        images[str(key)] = labels.image(file, name, what="fname")
    for key, region in content["metadata"].items():
        if not isinstance(region, dict):
            labels.say("bad-annotation", f"the region {short(key)} is no object", file)
            continue
        view_key = str(region.get("vid"))
        if view_key not in images:
            labels.say("unknown-image", f"the region {short(key)}: no view {view_key}", file)
            continue
        image = images[view_key]
        marks = _named_attributes(region.get("av"), attributes)
        if image is None or not region.get("xy"):
            continue  # what is said of a file as a whole, or of a stretch of time
        found.regions.append(_Region(image, _shape_of_3(region["xy"]), marks))


def _named_attributes(values: Any, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of a region of VIA 3 by name, options as their texts."""
    marks: dict[str, Any] = {}
    for key, value in values.items() if isinstance(values, dict) else ():
        about = attributes.get(str(key))
        about = about if isinstance(about, dict) else {}
        options = about.get("options")
        if isinstance(options, dict) and isinstance(value, str):
            texts = [str(options.get(one, one)) for one in value.split(",")]
            value = ",".join(texts)
        marks[str(about.get("aname", key))] = value
    return marks


def _shape_of_3(values: Any) -> dict[str, Any]:
    """Return a shape of VIA 3 as versions 1 and 2 write it."""
    known = isinstance(values, list) and values and isinstance(values[0], int)
    if not known or values[0] not in _KINDS_OF_3:
        return {"name": short(values)}
    kind, values = _KINDS_OF_3[values[0]], values[1:]
    if kind in _KEYS_OF_3:
        return {"name": kind, **dict(zip(_KEYS_OF_3[kind], values))}
    return {"name": kind, "all_points_x": values[0::2], "all_points_y": values[1::2]}


def _read_csv(labels: LabelSet, found: _Found, file: str, version: int) -> None:
    """Read the rows of a CSV file, one a region."""
    tree = labels.tree
    if tree.size(file) > MAX_VIA_CSV_BYTES:
        labels.say("too-large", "too large for labels", file)
        return
    images: dict[str, LabelledImage | None] = {}
    columns: dict[str, int] = {}
    if version == 3:
        names = ("metadata_id", "file_list", "flags", "temporal", "spatial", "metadata")
        columns = {name: place for place, name in enumerate(names)}
    with wide_cells(), tree.open_text(file) as opened:
        rows = csv.reader(opened)
        while True:
            try:
                cells = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                labels.say("bad-row", f"cannot be read ({error})", file, line=rows.line_num)
                continue
            if not any(cells):
                continue
            if not columns:
                columns = {cell.strip().lstrip("#"): place for place, cell in enumerate(cells)}
            elif version == 2 or not cells[0].startswith("#"):
                _read_row(labels, found, file, rows.line_num, cells, columns, images)


def _read_row(
    labels: LabelSet,
    found: _Found,
    file: str,
    line: int,
    cells: Sequence[str],
    columns: Mapping[str, int],
    images: dict[str, LabelledImage | None],
) -> None:
    """Read one row: an image without regions, or one region of an image."""
    needed = ("file_list", "spatial", "metadata") if "spatial" in columns else _CSV_KEYS
    if len(cells) <= max(columns[key] for key in needed):
        labels.say("bad-row", f"{counted(len(cells), 'field')}; mend the row", file, line=line)
        return
    first, second, third = (cells[columns[key]] for key in needed)
    name, parsed = first.strip(), [_json_in(second), _json_in(third)]
    if "spatial" in columns:
        held = _json_in(first)
        name = str(held[0]) if isinstance(held, list) and held else ""
    if not name:
        labels.say("bad-row", "no image named; mend or remove the row", file, line=line)
        return
    if name not in images:
        images[name] = labels.image(file, name, what="filename", line=line)
    image = images[name]
    shape, marks = parsed
    if image is None or shape in ({}, []):  # an image without regions
        return
    if isinstance(shape, list):
        shape = _shape_of_3(shape)
    if not isinstance(shape, dict) or not isinstance(marks, dict):
        message = f"the region's JSON cannot be read ({short(second)}, {short(third)})"
        labels.refuse(image, "bad-row", f"{message}; mend the row", line=line)
        return
    found.regions.append(_Region(image, shape, marks, line))


def _json_in(text: str) -> Any:
    """Return what a cell's JSON says; an empty cell holds nothing; None where it is broken."""
    if not text.strip():
        return {}
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _add_regions(labels: LabelSet, found: _Found) -> tuple[str, ...]:
    """Add the objects of all regions; return the classes in the order of the project's options."""
    texts = [{key: _text(value) for key, value in one.attributes.items()} for one in found.regions]
    chosen = _class_attribute(texts, labels)
    unnamed = not any(any(one.values()) for one in texts)
    if unnamed and found.regions:
        message = (
            f"no region has an attribute that could be its class: all are read as "
            f'"{_ALL_OF_ONE}"; give the regions one in VIA, called "class"'
        )
        labels.say("no-class", message, found.regions[0].image.file, severity="warning")
    for one, named in zip(found.regions, texts):
        _add(labels, one, _ALL_OF_ONE if unnamed else named.get(chosen, ""))
    used = {thing.name for image in labels.images for thing in image.objects}
    options = found.options.get(chosen, {})
    differing = [f"{key}: {text}" for key, text in options.items() if text not in ("", key)]
    if differing and used & set(options):
        labels.notes.append(
            f"classes by their ids, as regions have them ({', '.join(differing[:5])})"
        )
    return tuple(key for key in options if key) if used <= set(options) else ()


def _class_attribute(texts: Sequence[Mapping[str, str]], labels: LabelSet) -> str:
    """Return the attribute that is the regions' class, and say so where there are several."""
    marks = {DIFFICULT, CROWD, MACHINE_MADE}
    if any(MACHINE_MADE in one for one in texts):
        marks.add(SCORE)
    counts = Counter(key for one in texts for key, text in one.items() if text and key not in marks)
    if not counts:
        return ""
    known = [key for name in _CLASS_NAMES for key in counts if key.strip().lower() == name]
    chosen = known[0] if known else counts.most_common(1)[0][0]
    if len(counts) > 1:
        others = ", ".join(sorted(set(counts) - {chosen}))
        labels.notes.append(f'the class is the regions\' attribute "{chosen}" (not read: {others})')
    return chosen


def _text(value: Any) -> str:
    """Return an attribute's value as one text: of a checkbox the options that are ticked."""
    if isinstance(value, dict):
        value = ",".join(str(key) for key, on in value.items() if is_set(on))
    if value is None or isinstance(value, list):
        return ""
    return str(value).strip()


def _add(labels: LabelSet, region: _Region, name: str) -> None:
    """Add one region's object."""
    shape, image, line = region.shape, region.image, region.line
    kind = str(shape.get("name", ""))
    if kind in _LINES:
        stated = quoted(_points(shape) or []) or " ".join(
            f"{key}={short(shape[key])}" for key in ("cx", "cy") if key in shape
        )
        labels.skip(image, _LINES[kind], name, stated or kind, line)
        return
    box, stated = _box_of(kind, shape)
    if box is None and kind not in ("rect", "circle", "ellipse", "polygon"):
        message = f"no shape that is known here ({short(shape)}); draw it again"
        labels.refuse(image, "bad-annotation", message, name=name or None, line=line)
        return
    labels.add(
        image,
        name,
        box,
        stated=stated,
        shape="" if kind == "rect" else kind,
        line=line,
        difficult=labels.is_marked(image, [region.attributes.get(DIFFICULT)], DIFFICULT, line),
        crowd=labels.is_marked(image, [region.attributes.get(CROWD)], CROWD, line),
        made=made_by(region.attributes.get(MACHINE_MADE, "0"), region.attributes.get(SCORE)),
    )


def _points(shape: Mapping[str, Any]) -> list[tuple[float, float]] | None:
    """Return a polygon's points, or None where they are none."""
    xs, ys = shape.get("all_points_x"), shape.get("all_points_y")
    if not isinstance(xs, list) or not isinstance(ys, list) or len(xs) != len(ys) or not xs:
        return None
    left, top = numbers(*xs), numbers(*ys)
    return None if left is None or top is None else list(zip(left, top))


def _box_of(kind: str, shape: Mapping[str, Any]) -> tuple[Box | None, str]:
    """Return the box around a shape, None where its values make none, and what the file states."""
    if kind == "polygon":
        points = _points(shape)
        if not points:
            return None, f"polygon {short(dict(shape))}"
        return around_points(points), f"polygon {quoted(points)}"
    keys = _KEYS_OF_3.get(kind, ())
    stated = " ".join(f"{key}={short(shape.get(key))}" for key in keys)
    values = numbers(*(shape.get(key) for key in keys)) if keys else None
    turn = numbers(shape.get("theta") or 0)
    if not values or turn is None:
        return None, stated
    if kind == "rect":
        x, y, width, height = values
        return (x, y, x + width, y + height), stated
    if kind == "circle":
        return around_circle(*values), stated
    x, y, rx, ry = values
    return around_ellipse(x, y, rx, ry, math.degrees(turn[0])), stated


def _label_files(splits: Splits, class_names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield a project of VIA 2 for each split, which VIA opens beside its images."""
    attribute = {
        "type": "dropdown",
        "description": "",
        "options": {name: "" for name in class_names},
        "default_options": {},
    }
    for split, images in splits.items():
        metadata = {f"{image.name}-1": _metadata(image) for image in images}
        content = {
            "_via_settings": {
                "core": {"default_filepath": "", "filepath": {}},
                "project": {"name": split},
            },
            "_via_img_metadata": metadata,
            "_via_attributes": {"region": {"class": attribute}, "file": {}},
            "_via_data_format_version": "2.0.10",
            "_via_image_id_list": list(metadata),
        }
        yield f"{FORMAT.place(split)}/via_project.json", json_text(content)


def _metadata(image: Labelled) -> dict[str, Any]:
    """Return one image of a project; a size of -1 means any."""
    regions = []
    for one in image.objects:
        x1, y1, x2, y2 = one.box
        values = {"x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1}
        marks = dict.fromkeys(marks_of(one), "1")
        if one.score is not None:
            marks[SCORE] = repr(one.score)
        regions.append(
            {
                "shape_attributes": {
                    "name": "rect",
                    **{key: json_number(value) for key, value in values.items()},
                },
                "region_attributes": {"class": one.name, **marks},
            }
        )
    return {"filename": image.name, "size": -1, "regions": regions, "file_attributes": {}}


FORMAT = Format(
    name="via",
    title="VIA JSON or CSV",
    looked_for="VIA JSON and CSV",
    suffixes=(".json", ".csv"),
    read=read_via,
    write=_label_files,
    file_suffixes=(".json", ".csv"),
    files=via_files,
    by_split=True,
    keeps_crowds=True,
    keeps_machine_made=True,
    keeps_scores=True,
)
