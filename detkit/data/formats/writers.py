"""Text of label files in each format: the inverse of the readers.

Numbers are written as the shortest text that reads back as the value, rounded where binary
fractions end and the label's own digits begin, so that a box survives any number of trips.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

from detkit.data.records import ObjectRecord

PIXEL_DIGITS = 9  # a billionth of a pixel: below what any label states, above float noise
SHARE_DIGITS = 14  # the same for YOLO's shares of the image


@dataclass(frozen=True, slots=True)
class Labelled:
    """One image as it is written: its new name, real size, and objects."""

    name: str  # relative to the folder of its split's images, with "/"
    width: int
    height: int
    objects: tuple[ObjectRecord, ...]
    key: str | None = None


def number(value: float, digits: int = PIXEL_DIGITS) -> str:
    """Return the shortest text of a number; no point where it is whole."""
    value = round(float(value), digits)
    if value.is_integer():
        return str(int(value))
    text = repr(value)
    return f"{value:.{digits}f}".rstrip("0") if "e" in text else text


def voc_xml(
    filename: str,
    width: int,
    height: int,
    objects: Iterable[ObjectRecord],
    *,
    database: str = "Unknown",
) -> str:
    """Return a Pascal VOC annotation: boxes 1-based and inclusive, fractions kept."""
    lines = [
        "<annotation>",
        f"\t<filename>{escape(filename)}</filename>",
        f"\t<source><database>{escape(database)}</database></source>",
        f"\t<size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
        "\t<segmented>0</segmented>",
    ]
    for one in objects:
        x1, y1, x2, y2 = one.box
        lines += [
            "\t<object>",
            f"\t\t<name>{escape(one.name)}</name>",
            f"\t\t<difficult>{int(one.difficult)}</difficult>",
            "\t\t<bndbox>",
            f"\t\t\t<xmin>{number(x1 + 1)}</xmin>",
            f"\t\t\t<ymin>{number(y1 + 1)}</ymin>",
            f"\t\t\t<xmax>{number(x2)}</xmax>",
            f"\t\t\t<ymax>{number(y2)}</ymax>",
            "\t\t</bndbox>",
            "\t</object>",
        ]
    return "\n".join([*lines, "</annotation>", ""])


def coco_json(images: Sequence[Labelled], class_names: Sequence[str]) -> str:
    """Return COCO's JSON: boxes 0-based `[x, y, width, height]`, category ids from 1.

    COCO has no "difficult"; a difficult object gets the further key `"difficult": 1` and
    stays `"iscrowd": 0`, since a crowd is something else to COCO's own evaluation. Images
    keep the numeric id they were read with when no two are the same.
    """
    keys = [int(one.key) for one in images if one.key is not None and one.key.isdecimal()]
    ids = keys if len(set(keys)) == len(images) else range(1, len(images) + 1)
    category = {name: place for place, name in enumerate(class_names, start=1)}
    annotations: list[dict[str, Any]] = []
    for image_id, image in zip(ids, images):
        for one in image.objects:
            x1, y1, x2, y2 = one.box
            box = [_json_number(value) for value in (x1, y1, x2 - x1, y2 - y1)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category[one.name],
                    "bbox": box,
                    "area": _json_number((x2 - x1) * (y2 - y1)),
                    "segmentation": [],
                    "iscrowd": 0,
                    **({"difficult": 1} if one.difficult else {}),
                }
            )
    content = {
        "images": [
            {"id": image_id, "file_name": image.name, "width": image.width, "height": image.height}
            for image_id, image in zip(ids, images)
        ],
        "annotations": annotations,
        "categories": [{"id": place, "name": name} for name, place in category.items()],
    }
    parts = (
        f'"{key}": [\n' + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]"
        for key, rows in content.items()
    )
    return "{" + ",\n".join(parts) + "}\n"


def yolo_txt(image: Labelled, class_names: Sequence[str]) -> str:
    """Return YOLO's lines `class cx cy w h`, the last four as shares of the image's size."""
    index = {name: place for place, name in enumerate(class_names)}
    lines = []
    for one in image.objects:
        x1, y1, x2, y2 = one.box
        shares = (
            (x1 + x2) / 2 / image.width,
            (y1 + y2) / 2 / image.height,
            (x2 - x1) / image.width,
            (y2 - y1) / image.height,
        )
        values = " ".join(number(value, SHARE_DIGITS) for value in shares)
        lines.append(f"{index[one.name]} {values}\n")
    return "".join(lines)


def yolo_yaml(folders: Mapping[str, str], class_names: Sequence[str]) -> str:
    """Return YOLO's data.yaml: the folder of each split's images, and the class names by index."""
    import yaml

    content = {
        "path": ".",
        **folders,
        "nc": len(class_names),
        "names": dict(enumerate(class_names)),
    }
    text: str = yaml.safe_dump(content, allow_unicode=True, sort_keys=False, width=1000)
    return text


def csv_table(images: Sequence[Labelled]) -> str:
    """Return the rows `filename,width,height,class,xmin,ymin,xmax,ymax`, 1-based and inclusive.

    An image without objects is a row whose further fields are empty. A column "difficult"
    is added where some object is.
    """
    columns = ["filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax"]
    with_difficult = any(one.difficult for image in images for one in image.objects)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*columns, "difficult"] if with_difficult else columns)
    for image in images:
        head = [image.name, image.width, image.height]
        if not image.objects:
            table.writerow([*head, *[""] * (5 + with_difficult)])
        for one in image.objects:
            x1, y1, x2, y2 = one.box
            values = [one.name, *(number(value) for value in (x1 + 1, y1 + 1, x2, y2))]
            table.writerow([*head, *values, *[int(one.difficult)] * with_difficult])
    return text.getvalue()


def _json_number(value: float) -> float | int:
    """Return a number as JSON writes it best: whole ones as integers."""
    value = round(float(value), PIXEL_DIGITS)
    return int(value) if value.is_integer() else value
