"""One COCO JSON file, read and written.

Boxes in these files are 0-based `[x, y, width, height]`. `area` is the mask's, by which COCO
divides objects into small, medium and large. `iscrowd` marks a crowd, `ignore` and `difficult` a
difficult object; a score counts neither. JSON has no line numbers here; findings name the
annotation by its id.

COCO has no difficult objects, and pycocotools leaves nothing out but crowds (it overwrites `ignore`
by `iscrowd`). So a difficult object is written as both, `"iscrowd": 1, "difficult": 1`, which
pycocotools does not count and which is read back as difficult, no crowd. A crowd with `ignore`
stays a crowd.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from detkit.data.formats.format import Labelled, flag, json_number, made_by
from detkit.data.formats.json_file import MOST, is_number, load_json, whole
from detkit.data.formats.shapes import (
    Box,
    around_keypoints,
    around_mask,
    around_pairs,
    around_rotated,
)
from detkit.data.paths import name_of, split_in, split_in_stem
from detkit.data.records import (
    Finding,
    ImageRecord,
    ObjectRecord,
    image_record,
    object_record,
)
from detkit.data.tree import Tree
from detkit.errors import DetkitError
from detkit.text import short


def load(tree: Tree, file: str, findings: list[Finding]) -> dict[str, Any] | None:
    """Return a JSON file's content, or None with a finding that says why there is none.

    Of an annotation that holds nothing odd a `PlainAnnotation` stands there in its place.
    """
    content, is_read = load_json(tree, file, findings, hook=plain_annotation)
    if is_read and _has_plain_elsewhere(content):
        content, is_read = load_json(tree, file, findings)
    if not is_read:
        return None
    if message := _misshapen(content):
        findings.append(Finding("error", "bad-json", message, file=tree.path(file)))
        return None
    found: dict[str, Any] = content
    return found


# (id, image_id, category_id, box xyxy, has an outline, is a crowd, area or None); no JSON value is
# a tuple. It is made while the file is parsed, so that the outlines, which are most of a large
# file, are not kept.
PlainAnnotation = tuple[int | str, int | str, int | str, Box, bool, bool, float | None]
_PLAIN_KEYS = frozenset(
    ["id", "image_id", "category_id", "bbox", "segmentation", "iscrowd", "area"]
)
_NUMBERS, _IDS = frozenset([int, float]), frozenset([int, str])


def plain_annotation(found: dict[str, Any]) -> PlainAnnotation | dict[str, Any]:
    """Return a JSON object as a `PlainAnnotation` where it is one in which nothing is odd."""
    if "bbox" not in found or not _PLAIN_KEYS.issuperset(found):
        return found
    try:
        key, image, category = found["id"], found["image_id"], found["category_id"]
        x, y, width, height = found["bbox"]
        crowd, area = found.get("iscrowd", 0), found.get("area")
        if (
            type(x) in _NUMBERS
            and type(y) in _NUMBERS
            and type(width) in _NUMBERS
            and type(height) in _NUMBERS
            and type(key) in _IDS
            and type(image) in _IDS
            and type(category) in _IDS
            and -MOST < x < MOST
            and -MOST < y < MOST
            and -MOST < width < MOST
            and -MOST < height < MOST
            and type(crowd) is int
            and 0 <= crowd <= 1
            and (area is None or (type(area) in _NUMBERS and 0 <= area < MOST))
        ):
            x, y = float(x), float(y)
            corners = (x, y, x + float(width), y + float(height))
            outline = bool(found.get("segmentation"))
            stated = None if area is None else float(area)
            return key, image, category, corners, outline, crowd == 1, stated
    except (KeyError, TypeError, ValueError):
        pass
    return found


def _has_plain_elsewhere(content: Any) -> bool:
    """Return whether what looks like an annotation stands where none belongs."""
    if not isinstance(content, dict):
        return isinstance(content, tuple)
    lists = (content.get(key) for key in ("images", "categories"))
    return any(isinstance(one, tuple) for rows in lists if isinstance(rows, list) for one in rows)


def _misshapen(content: Any) -> str:
    """Return why a JSON value is no COCO file, or ""; what it lacks is set to an empty list."""
    if not isinstance(content, dict):
        return "no COCO file: the outermost value is no object"
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.setdefault(key, []), list):
            return f'no COCO file: "{key}" is no list'
    return ""


class Page:
    """One JSON file on its way to records."""

    def __init__(self, tree: Tree, file: str, content: dict[str, Any]) -> None:
        """Read everything; what is wrong is in `findings` afterwards."""
        self.file = file
        self.split = split_in_stem(name_of(file).rpartition(".")[0]) or split_in(file)
        self.findings: list[Finding] = []
        self.categories: dict[Any, str] = {}  # class name by id
        self.groups: set[str] = set()  # what the categories name as supercategory
        self.used: set[str] = set()  # classes with objects
        self.shapes: Counter[str] = Counter()  # what lies beside a box, or is rotated
        self._tree = tree
        self._path = tree.path(file)
        self._heads: dict[Any, ImageRecord | None] = {}  # by id; None: refused
        self._objects: dict[Any, list[ObjectRecord]] = {}  # of those that are not refused
        self._unread: Counter[Any] = Counter()  # their annotations that are no object
        for category in content["categories"]:
            self._add_category(category)
        for image in content["images"]:
            self._add_image(image)
        self._add_annotations(content["annotations"])

    def records(self) -> list[ImageRecord]:
        """Return the images of the file with their objects, by their ids.

        So pycocotools takes them, whatever their order in the file; among equal scores the
        detections of the first count first. Numbers and texts have no order: they stay as they
        stand.
        """
        kept = [(key, head) for key, head in self._heads.items() if head is not None]
        if len({type(key) for key, _ in kept}) == 1:
            kept.sort(key=lambda one: one[0])
        return [
            image_record(
                head.image_id,
                head.path,
                tuple(self._objects[key]),
                head.width,
                head.height,
                self._path,
                str(key),
            )
            for key, head in kept
        ]

    def _say(
        self,
        code: str,
        message: str,
        *,
        severity: str = "error",
        image: str | None = None,
        number: int | None = None,
        name: str | None = None,
    ) -> None:
        """Add a finding about this file."""
        self.findings.append(
            Finding(severity, code, message, self._path, None, number, name, image)
        )

    def _add_category(self, category: Any) -> None:
        name = category.get("name") if isinstance(category, dict) else None
        if not isinstance(name, str) or not name.strip() or not _is_id(category.get("id")):
            self._say("bad-category", f"category without id and name ({short(category)})")
        elif category["id"] in self.categories:
            self._say("duplicate-id", f"category id {short(category['id'])} is given twice")
        else:
            self.categories[category["id"]] = name.strip()
            above = str(category.get("supercategory", "")).strip()
            if above != name.strip():  # what groups no other is no group
                self.groups.add(above)

    def _add_image(self, image: Any) -> None:
        name = image.get("file_name") if isinstance(image, dict) else None
        if not isinstance(name, str) or not name.strip() or not _is_id(image.get("id")):
            self._say("bad-image", f"image without id and file_name ({short(image)})")
            return
        key = image["id"]
        if key in self._heads:
            self._say("duplicate-id", f"image id {short(key)} is given twice; {name} is not used")
            return
        self._heads[key] = None
        found = self._tree.find_images(name, self.file, self.split)
        place = found[0] if found else self._tree.expected(name, self.file)
        if place is None:
            self._say("path-outside", f"file_name {name} leads out of the data folder; not used")
            return
        if len(found) > 1:
            several = ", ".join(found[:3])
            self._say("ambiguous-image", f"file_name {name} may be {several}; write the path")
            return
        width, height = whole(image.get("width")), whole(image.get("height"))
        self._heads[key] = image_record(place, self._tree.path(place), (), width, height)
        self._objects[key] = []

    def _add_annotations(self, annotations: list[Any]) -> None:
        """Add all annotations; those in which nothing is odd by the short way."""
        objects, categories, unread = self._objects, self.categories, self._unread
        path, found, outlines = self._path, set(), 0
        for annotation in annotations:
            if type(annotation) is not tuple:
                self._add_annotation(annotation)
                continue
            _, key, category, box, has_outline, crowd, area = annotation
            name, mine = categories.get(category), objects.get(key)
            if name is None or mine is None:
                names = ("id", "image_id", "category_id")
                self._add_annotation(dict(zip(names, annotation)))
                continue
            number = len(mine) + 1 + (unread[key] if unread else 0)
            outlines += has_outline
            found.add(category)
            mine.append(object_record(name, box, False, path, None, number, "", crowd, area))
        self.used.update(categories[category] for category in found)
        self.shapes["outline"] += outlines

    def _add_annotation(self, annotation: Any) -> None:
        if not isinstance(annotation, dict):
            self._say("bad-annotation", f"annotation is no object ({short(annotation)})")
            return
        key, category = annotation.get("image_id"), annotation.get("category_id")
        what = f"annotation {short(annotation['id']) if 'id' in annotation else 'without id'}"
        if not _is_id(key) or key not in self._heads:
            self._say("unknown-image", f"{what}: no image has the id {short(key)}")
            return
        head = self._heads[key]
        if head is None:
            return  # its image was refused, and that was said
        number = len(self._objects[key]) + 1 + self._unread[key]
        self._unread[key] += 1  # until it is found to be an object
        image = head.image_id
        if not _is_id(category) or category not in self.categories:
            message = f"{what}: no category has the id {short(category)}"
            self._say("unknown-class", message, image=image, number=number)
            return
        name = self.categories[category]

        def say(code: str, message: str, severity: str = "warning") -> None:
            message = f"{what}: {message}"
            self._say(code, message, severity=severity, image=image, number=number, name=name)

        def flagged(flag_name: str) -> bool:
            found = flag(annotation.get(flag_name))
            if found is None:
                stated = f'"{flag_name}": {short(annotation[flag_name])}'
                say("bad-number", f"{stated} is read as 0; write 0 or 1")
            return bool(found)

        box = _box(annotation, self.shapes)
        if box is None and not annotation.get("bbox"):
            box, shape = _bounds(annotation)
            if box is not None:
                say("polygon", f"has no bbox; read as the bounds of its {shape}")
            elif shape:
                self.used.add(name)
                say("no-extent", f"its {shape} span no box; not read: draw a box")
                return
        if box is None:
            stated = short(annotation.get("bbox"))
            say("bad-number", f"bbox {stated} is not four numbers [x, y, width, height]", "error")
            return
        self.used.add(name)
        crowd, difficult, ignored = map(flagged, ("iscrowd", "difficult", "ignore"))
        made, score = made_by(annotation.get("machine_made"), annotation.get("score"))
        self._unread[key] -= 1
        self._objects[key].append(
            ObjectRecord(
                name=name,
                box=box,
                difficult=difficult or (ignored and not crowd),
                crowd=crowd,
                area=_area_of(annotation, say),
                file=self._path,
                number=number,
                machine_made=made,
                score=score,
            )
        )


def stated(one: ObjectRecord) -> str:
    """Return an object's box as a COCO file states it."""
    x1, y1, x2, y2 = one.box
    return f"bbox=[{x1:.10g}, {y1:.10g}, {x2 - x1:.10g}, {y2 - y1:.10g}]"


def _area_of(annotation: dict[str, Any], say: Callable[[str, str], None]) -> float | None:
    """Return the area that an annotation states; None, and it is said, if it is no area."""
    value = annotation.get("area")
    if isinstance(value, int | float) and is_number(value) and value >= 0:
        return float(value)
    if value is not None:
        say("bad-number", f"area {short(value)} is no number of pixels; that of the box is read")
    return None


def _is_id(value: Any) -> bool:
    """Return whether a JSON value can be an id: a whole number or a text."""
    return isinstance(value, int | str) and not isinstance(value, bool)


def _box(annotation: dict[str, Any], shapes: Counter[str]) -> Box | None:
    """Return the box that an annotation's `bbox` states; None where it states none.

    What lies beside it, or is read as its bounding box, is counted in `shapes`. A `bbox` of five
    numbers is a rotated box [cx, cy, width, height, degrees], as detectron2 has it; one of eight
    is four corners. CVAT states the box before it was turned, and by how much.
    """
    value = annotation.get("bbox")
    if not isinstance(value, list) or not all(map(is_number, value)):
        return None
    numbers = [float(one) for one in value]
    attributes = annotation.get("attributes")
    rotation = attributes.get("rotation") if isinstance(attributes, dict) else None
    degrees = float(rotation or 0) if is_number(rotation) and len(numbers) == 4 else 0.0
    if len(numbers) == 5:
        box: Box | None = around_rotated(*numbers)
    elif len(numbers) == 8:
        box = around_pairs(numbers)
    elif len(numbers) != 4:
        return None
    else:
        x, y, width, height = numbers
        box = (x, y, x + width, y + height)
        if degrees % 180:
            box = around_rotated(x + width / 2, y + height / 2, width, height, degrees)
    if len(numbers) > 4 or degrees % 180:
        shapes["rotated"] += box is not None
    elif annotation.get("segmentation"):
        shapes["outline"] += 1
    if _points_of(annotation.get("keypoints")):
        shapes["key points"] += 1
    return box


def _points_of(value: Any) -> list[float]:
    """Return the numbers of a list of key points or of a polygon; none where it is no such list."""
    if not isinstance(value, list) or not all(map(is_number, value)):
        return []
    return [float(one) for one in value]


def _bounds(annotation: dict[str, Any]) -> tuple[Box | None, str]:
    """Return the box around what an annotation has instead of a `bbox`, and what that is.

    (None, "") where it has nothing.
    """
    outline = annotation.get("segmentation")
    if isinstance(outline, dict):
        return around_mask(outline), "mask"
    if isinstance(outline, list) and outline:
        flat = _points_of(outline)  # one polygon, without the list around it
        polygons = [flat] if flat else [_points_of(polygon) for polygon in outline]
        if all(len(polygon) % 2 == 0 and polygon for polygon in polygons):
            return around_pairs([value for polygon in polygons for value in polygon]), "polygon"
    if points := _points_of(annotation.get("keypoints")):
        return around_keypoints(points), "key points"
    return None, ""


def numbered(
    splits: Mapping[str, Sequence[Labelled] | Sequence[ImageRecord]],
) -> dict[str, list[int]]:
    """Return the ids that images are written with, by split.

    Those they were read with, where each of a split's is a number of its own, else counted from 1
    over all splits, so that no two images share one.
    """
    ids: dict[str, list[int]] = {}
    last = 0
    for split, images in splits.items():
        keys = [int(one.key) for one in images if one.key is not None and one.key.isdecimal()]
        if images and len(set(keys)) == len(images):
            ids[split] = keys
        else:
            ids[split] = list(range(last + 1, last + len(images) + 1))
            last += len(images)
    return ids


def stated_ids(path: Path) -> dict[str, int | str]:
    """Return the image ids of a COCO file as it states them, numbers or texts, by their text.

    Raises DetkitError where it cannot be read.
    """
    try:
        images = json.loads(path.read_bytes().decode("utf-8-sig"))["images"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DetkitError(f"{path}: cannot be read as COCO's JSON ({error})") from error
    found = [one["id"] for one in images if isinstance(one, dict) and _is_id(one.get("id"))]
    return {str(one): one for one in found}


def json_text(images: Sequence[Labelled], class_names: Sequence[str], ids: Sequence[int]) -> str:
    """Return COCO's JSON: boxes 0-based `[x, y, width, height]`, category ids from 1.

    Crowds and stated areas stay; where none is stated it is that of the box. A difficult object
    is also marked as a crowd (see the head of this file). `ids` are the images'.
    """
    category = {name: place for place, name in enumerate(class_names, start=1)}
    annotations: list[dict[str, Any]] = []
    for image_id, image in zip(ids, images, strict=True):
        for one in image.objects:
            x1, y1, x2, y2 = one.box
            box = [json_number(value) for value in (x1, y1, x2 - x1, y2 - y1)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category[one.name],
                    "bbox": box,
                    "area": json_number((x2 - x1) * (y2 - y1) if one.area is None else one.area),
                    "segmentation": [],
                    "iscrowd": int(one.crowd or one.difficult),
                    **({"difficult": 1} if one.difficult else {}),
                    **({"machine_made": 1} if one.machine_made else {}),
                    **({} if one.score is None else {"score": one.score}),
                }
            )
    content = {
        "images": [
            {"id": image_id, "file_name": image.name, "width": image.width, "height": image.height}
            for image_id, image in zip(ids, images, strict=True)
        ],
        "annotations": annotations,
        "categories": [{"id": place, "name": name} for name, place in category.items()],
    }
    parts = (
        f'"{key}": [\n' + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]"
        for key, rows in content.items()
    )
    return "{" + ",\n".join(parts) + "}\n"
