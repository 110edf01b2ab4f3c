"""VoTT JSON: exports and assets of version 2, and the one file of version 1.

Version 2 states boxes in pixels of the image, `left`, `top`, `width`, `height`; version 1 states
corners in pixels of a view of the frame, whose `width` and `height` stand in each region. A
region of several tags is an object of each. Source: microsoft/VoTT, src/models/applicationState.ts
and, of version 1, the files that its exporters read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any
from urllib.parse import unquote

from detkit.data.formats.format import Format, Labelled, Splits, json_number
from detkit.data.formats.json_file import (
    json_files,
    json_keys,
    json_text,
    load_json,
    numbers,
    objects_in,
)
from detkit.data.formats.label_set import LabelledImage, LabelSet, quoted
from detkit.data.formats.shapes import Box, around_points, points_of, tidy
from detkit.data.images import image_size
from detkit.data.paths import name_of, posix
from detkit.data.records import Dataset
from detkit.data.tree import Tree
from detkit.errors import DetkitError
from detkit.text import counted, short

_SIDES = ("left", "top", "width", "height")
_CORNERS = ("x1", "y1", "x2", "y2")
_NOT_VISITED = 0  # AssetState


def vott_files(tree: Tree) -> list[str]:
    """Return the JSON files of a folder that are VoTT's, by the keys in them.

    The files of single assets are left out where an export repeats them.
    """
    kinds = {file: _kind(keys) for file, keys in json_files(tree)}
    whole = [file for file, kind in kinds.items() if kind in ("export", "version 1")]
    return whole or [file for file, kind in kinds.items() if kind == "asset"]


def _kind(keys: Collection[str]) -> str:
    """Return what a file with these keys is: an "export", an "asset", "version 1", or ""."""
    if {"frames", "inputTags"} <= set(keys):
        return "version 1"
    if {"assets", "asset", "tags"} <= set(keys):
        return "export"
    return "asset" if {"asset", "regions"} <= set(keys) else ""


def read_vott(tree: Tree, only: str | None = None) -> Dataset | None:
    """Return the data set of a folder's VoTT files, or None where it has none.

    `only` names the one file to read.
    """
    files = vott_files(tree)
    if only is not None:
        files = [only] if _kind(json_keys(tree, only)) else []
    if not files:
        return None
    labels = LabelSet(tree)
    names: dict[str, None] = {}
    left_out: list[str] = []
    for file in files:
        content, is_read = load_json(tree, file, labels.findings)
        if not is_read:
            continue
        if not isinstance(content, dict):
            labels.say("bad-json", "no VoTT file: the outermost value is no object", file)
        elif isinstance(content.get("frames"), dict):
            names |= dict.fromkeys(_read_version_1(labels, file, content))
        else:
            names |= dict.fromkeys(_read_version_2(labels, file, content, left_out))
    if left_out:
        message = (
            f"{counted(len(left_out), 'image')} that nobody has looked at (first: {left_out[0]}) "
            "not used; visit each in VoTT"
        )
        labels.say("unlabelled-task", message, files[0], severity="warning")
    return labels.dataset(FORMAT, class_names=tuple(names), advice="visit it in VoTT")


def _read_version_2(
    labels: LabelSet, file: str, content: dict[str, Any], left_out: list[str]
) -> Sequence[str]:
    """Read an export, or the file of one asset; return the tags that it lists."""
    assets = content.get("assets", {"": content})
    items = list(assets.values()) if isinstance(assets, dict) else assets
    if not isinstance(items, list):
        labels.say("bad-json", 'no VoTT file: "assets" is no object', file)
        return ()
    listed = [one.get("name") for one in objects_in(content.get("tags"))]
    names = [one.strip() for one in listed if isinstance(one, str) and one.strip()]
    for item in items:
        head = item.get("asset") if isinstance(item, dict) else None
        stated = [head.get("name"), head.get("path")] if isinstance(head, dict) else []
        texts = [one for one in stated if isinstance(one, str) and one.strip()]
        if head is None or not texts:
            labels.say("bad-image", f"an asset names no image ({short(item)}); not used", file)
            continue
        size = head.get("size")
        size = size if isinstance(size, dict) else {}
        paths = [*texts[::-1], *(unquote(one) for one in texts[::-1])]
        image = labels.image(
            file,
            *(one.removeprefix("file:") for one in paths),
            name_of(posix(unquote(texts[0]))),
            what="asset",
            size=(size.get("width"), size.get("height")),
        )
        if image is None:
            continue
        regions = item.get("regions") or []
        if not regions and head.get("state") == _NOT_VISITED:
            image.is_labelled = False
            left_out.append(image.image_id)
        for region in regions if isinstance(regions, list) else ():
            _read_region(labels, image, region)
    if names:
        labels.unknown(names, file, 'the "tags" of the file')
    return names


def _read_region(labels: LabelSet, image: LabelledImage, region: Any) -> None:
    """Read one region of version 2."""
    region = region if isinstance(region, dict) else {}
    kind = str(region.get("type", "RECTANGLE"))
    sides = region.get("boundingBox")
    sides = sides if isinstance(sides, dict) else {}
    stated = " ".join(f"{key}={short(sides.get(key))}" for key in _SIDES)
    values = numbers(*(sides.get(key) for key in _SIDES))
    points = points_of(region.get("points")) or []
    if kind in ("POINT", "POLYLINE"):
        names = _tags(region)
        labels.skip(image, kind.lower(), names[0], quoted(points) or stated)
        return
    box: Box | None = None
    if values is not None:
        left, top, width, height = values
        box = (left, top, left + width, top + height)
    elif points:
        box, stated = around_points(points), f"points {quoted(points)}"
    for name in _tags(region):
        shape = "" if kind in ("RECTANGLE", "SQUARE") else kind.lower()
        labels.add(image, name, box, stated=stated, shape=shape)


def _tags(region: dict[str, Any]) -> list[str]:
    """Return a region's tags, one empty text where it has none."""
    tags = region.get("tags")
    names = [one for one in tags if isinstance(one, str)] if isinstance(tags, list) else []
    return names or [""]


def _read_version_1(labels: LabelSet, file: str, content: dict[str, Any]) -> Sequence[str]:
    """Read the file of version 1; return the tags that it lists."""
    seen = content.get("visitedFrames")
    names = {*content["frames"], *map(str, seen if isinstance(seen, list) else ())}
    for name in sorted(names):
        image = labels.image(file, name, f"{name}.jpg" if name.isdecimal() else name, what="frame")
        if image is None:
            continue
        regions = content["frames"].get(name)
        try:
            height, width = image_size(labels.tree.path(image.image_id))
        except (DetkitError, OSError):
            height, width = 0, 0
        for region in regions if isinstance(regions, list) else ():
            _read_scaled(labels, image, region, (width, height))
    tags = content.get("inputTags")
    listed = [one.strip() for one in tags.split(",")] if isinstance(tags, str) else []
    listed = [one for one in listed if one]
    if listed:
        labels.unknown(listed, file, 'the "inputTags" of the file')
    return listed


def _read_scaled(
    labels: LabelSet, image: LabelledImage, region: Any, real: tuple[int, int]
) -> None:
    """Read one region of version 1, stated in pixels of a view; `real` is (width, height)."""
    region = region if isinstance(region, dict) else {}
    stated = " ".join(f"{key}={short(region.get(key))}" for key in _CORNERS)
    values = numbers(*(region.get(key) for key in _CORNERS))
    view = numbers(region.get("width"), region.get("height"))
    box: Box | None = None
    if values is not None:
        box = (values[0], values[1], values[2], values[3])
        if view is not None and min(view) > 0 and min(real) > 0:
            x, y = real[0] / view[0], real[1] / view[1]
            box = tidy((box[0] * x, box[1] * y, box[2] * x, box[3] * y))
            stated += f" of a view of {view[0]:g} x {view[1]:g}"
    for name in _tags(region):
        labels.add(image, name, box, stated=stated)


def _label_files(splits: Splits, class_names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield an export for each split, beside its images, as VoTT writes it."""
    tags = [{"name": name, "color": "#808000"} for name in class_names]
    for split, images in splits.items():
        assets = {f"{place:08x}": _asset(f"{place:08x}", one) for place, one in enumerate(images)}
        content = {"name": split, "version": "2.2.0", "tags": tags, "assets": assets}
        yield f"{FORMAT.place(split)}/vott-export.json", json_text(content)


def _asset(key: str, image: Labelled) -> dict[str, Any]:
    """Return one image of an export: tagged (2), or visited without objects (1)."""
    regions = []
    for place, one in enumerate(image.objects):
        x1, y1, x2, y2 = (json_number(value) for value in one.box)
        corners = ((x1, y1), (x2, y1), (x2, y2), (x1, y2))
        sides = dict(zip(_SIDES, (x1, y1, json_number(x2 - x1), json_number(y2 - y1))))
        regions.append(
            {
                "id": f"{key}-{place}",
                "type": "RECTANGLE",
                "tags": [one.name],
                "boundingBox": sides,
                "points": [{"x": x, "y": y} for x, y in corners],
            }
        )
    asset = {
        "format": name_of(image.name).rpartition(".")[2],
        "id": key,
        "name": name_of(image.name),
        "path": image.name,
        "size": {"width": image.width, "height": image.height},
        "state": 2 if regions else 1,
        "type": 1,
    }
    return {"asset": asset, "regions": regions, "version": "2.2.0"}


FORMAT = Format(
    name="vott",
    title="VoTT JSON",
    looked_for="VoTT JSON",
    suffixes=(".json",),
    read=read_vott,
    write=_label_files,
    file_suffixes=(".json",),
    files=vott_files,
    by_split=True,
    keeps_difficult=False,
)
