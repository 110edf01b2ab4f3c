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
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from detkit.data.formats.format import PIXEL_DIGITS, Labelled
from detkit.data.paths import name_of, split_in, split_in_stem
from detkit.data.records import Finding, ImageRecord, ObjectRecord
from detkit.data.tree import Tree
from detkit.errors import DetkitError
from detkit.text import short

MAX_JSON_BYTES = 2 << 30  # ours: COCO's own largest file is 0.45 GB


def load(tree: Tree, file: str, findings: list[Finding]) -> dict[str, Any] | None:
    """Return a JSON file's content, or None with a finding that says why there is none."""
    path = tree.path(file)
    content, code, line = None, "bad-json", None
    try:
        if tree.size(file) > MAX_JSON_BYTES:
            code, message = "too-large", f"larger than {MAX_JSON_BYTES >> 30} GiB; not read"
        else:
            content = json.loads(path.read_bytes().decode("utf-8-sig"))
            message = _misshapen(content)
    except json.JSONDecodeError as error:
        message, line = f"not JSON ({error.msg}); mend or remove the file", error.lineno
    except UnicodeDecodeError as error:
        message = f"not UTF-8 text ({error.reason} at byte {error.start})"
    except RecursionError:
        message = "nested too deeply for a label file; not read"
    except (OSError, ValueError) as error:  # ValueError: a number of thousands of digits
        message = f"cannot be read ({error})"
    if not message:
        return content
    findings.append(Finding("error", code, message, file=path, line=line))
    return None


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
        self.outlined = 0  # objects with a segmentation beside their box
        self._tree = tree
        self._path = tree.path(file)
        self._heads: dict[Any, ImageRecord | None] = {}  # by id; None: refused
        self._objects: dict[Any, list[ObjectRecord]] = {}
        self._counts: Counter[Any] = Counter()
        for category in content["categories"]:
            self._add_category(category)
        for image in content["images"]:
            self._add_image(image)
        for annotation in content["annotations"]:
            self._add_annotation(annotation)

    def records(self) -> list[ImageRecord]:
        """Return the images of the file with their objects, in its order."""
        return [
            replace(head, objects=tuple(self._objects[key]), key=str(key))
            for key, head in self._heads.items()
            if head is not None
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
            self.groups.add(str(category.get("supercategory", "")))

    def _add_image(self, image: Any) -> None:
        name = image.get("file_name") if isinstance(image, dict) else None
        if not isinstance(name, str) or not name.strip() or not _is_id(image.get("id")):
            self._say("bad-image", f"image without id and file_name ({short(image)})")
            return
        key = image["id"]
        if key in self._heads:
            self._say("duplicate-id", f"image id {short(key)} is given twice; {name} is not used")
            return
        self._heads[key], self._objects[key] = None, []
        found = self._tree.find_images(name, self.file, self.split)
        place = found[0] if found else self._tree.expected(name, self.file)
        if place is None:
            self._say("path-outside", f"file_name {name} leads out of the data folder; not used")
            return
        if len(found) > 1:
            several = ", ".join(found[:3])
            self._say("ambiguous-image", f"file_name {name} may be {several}; write the path")
            return
        self._heads[key] = ImageRecord(
            image_id=place,
            path=self._tree.path(place),
            width=_whole(image.get("width")),
            height=_whole(image.get("height")),
            label_file=self._path,
        )

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
        self._counts[key] += 1
        image, number = head.image_id, self._counts[key]
        if not _is_id(category) or category not in self.categories:
            message = f"{what}: no category has the id {short(category)}"
            self._say("unknown-class", message, image=image, number=number)
            return
        name = self.categories[category]
        box = _box(annotation.get("bbox"))
        self.outlined += box is not None and bool(annotation.get("segmentation"))
        if box is None and not annotation.get("bbox"):
            box = _bounds(annotation.get("segmentation"))
            if box is not None:
                message = f"{what}: has no bbox; read as the bounds of its polygon"
                self._say(
                    "polygon", message, severity="warning", image=image, number=number, name=name
                )
        if box is None:
            stated = short(annotation.get("bbox"))
            message = f"{what}: bbox {stated} is not four numbers [x, y, width, height]"
            self._say("bad-number", message, image=image, number=number, name=name)
            return
        x, y, width, height = box
        self.used.add(name)
        crowd = bool(annotation.get("iscrowd"))
        is_difficult = bool(annotation.get("difficult") or (annotation.get("ignore") and not crowd))
        self._objects[key].append(
            ObjectRecord(
                name=name,
                box=(x, y, x + width, y + height),
                difficult=is_difficult,
                crowd=crowd,
                area=self._area_of(annotation, what, image=image, number=number, name=name),
                file=self._path,
                number=number,
                stated=f"bbox=[{', '.join(f'{value:.10g}' for value in box)}]",
            )
        )

    def _area_of(
        self, annotation: dict[str, Any], what: str, *, image: str, number: int, name: str
    ) -> float | None:
        """Return the area that an annotation states; None, with a finding if it is no area."""
        value = annotation.get("area")
        if isinstance(value, int | float) and _is_number(value) and value >= 0:
            return float(value)
        if value is not None:
            message = f"{what}: area {short(value)} is no number of pixels; that of the box is read"
            self._say(
                "bad-number", message, severity="warning", image=image, number=number, name=name
            )
        return None


def _is_id(value: Any) -> bool:
    """Return whether a JSON value can be an id: a whole number or a text."""
    return isinstance(value, int | str) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    """Return whether a JSON value is a finite number of sense: no flag, no text."""
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and bool(abs(value) < 1e300)
    )


def _whole(value: Any) -> int | None:
    """Return a stated size as whole pixels, or None when it is no number of any image."""
    return round(value) if _is_number(value) else None


def _box(value: Any) -> tuple[float, float, float, float] | None:
    """Return the four finite numbers of a box, or None."""
    if not isinstance(value, list) or len(value) != 4 or not all(map(_is_number, value)):
        return None
    x, y, width, height = map(float, value)
    return x, y, width, height


def _bounds(segmentation: Any) -> tuple[float, float, float, float] | None:
    """Return (x, y, width, height) around an object's polygons, or None."""
    if not isinstance(segmentation, list) or not segmentation:
        return None
    values: list[float] = []
    for polygon in segmentation:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            return None
        if not all(map(_is_number, polygon)):
            return None
        values += map(float, polygon)
    left, top = min(values[0::2]), min(values[1::2])
    return left, top, max(values[0::2]) - left, max(values[1::2]) - top


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
            box = [_json_number(value) for value in (x1, y1, x2 - x1, y2 - y1)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category[one.name],
                    "bbox": box,
                    "area": _json_number((x2 - x1) * (y2 - y1) if one.area is None else one.area),
                    "segmentation": [],
                    "iscrowd": int(one.crowd or one.difficult),
                    **({"difficult": 1} if one.difficult else {}),
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


def _json_number(value: float) -> float | int:
    """Return a number as JSON writes it best: whole ones as integers."""
    value = round(float(value), PIXEL_DIGITS)
    return int(value) if value.is_integer() else value
