"""Text of label files: the inverse of the readers."""

from __future__ import annotations

from collections.abc import Iterable
from xml.sax.saxutils import escape

from detkit.data.records import ObjectRecord


def number(value: float) -> str:
    """Return the shortest text that reads back as this value; integers without a point."""
    value = float(value)
    return str(int(value)) if value.is_integer() else repr(value)


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
