"""Hand-written labelled folders for the tests of the readers: text in, files out."""

from pathlib import Path

import numpy as np

from detkit.data.images import write_image

SHARED = Path(__file__).parents[2] / "shared" / "data"


def put(root, files):
    """Write {relative path: text, or None for a 40 x 20 picture, or (height, width)}."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        else:
            height, width = content or (20, 40)
            write_image(path, np.full((height, width, 3), 128, np.uint8))
    return root


def xml(*objects, filename="", size=(40, 20)):
    """A VOC annotation; an object is (name, xmin, ymin, xmax, ymax[, extra tags])."""
    lines = ["<annotation>", f"<filename>{filename}</filename>"]
    lines.append(f"<size><width>{size[0]}</width><height>{size[1]}</height></size>")
    for name, xmin, ymin, xmax, ymax, *extra in objects:
        lines.append(f"<object><name>{name}</name>{''.join(extra)}<bndbox>")
        lines.append(f"<xmin>{xmin}</xmin><ymin>{ymin}</ymin>")
        lines.append(f"<xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox></object>")
    return "\n".join([*lines, "</annotation>"])


def codes(dataset, severity=None):
    """The codes of a data set's findings, sorted."""
    return sorted(one.code for one in dataset.findings if severity in (None, one.severity))


def sizes(dataset):
    return {name: len(records) for name, records in dataset.splits.items()}


def ids(dataset, split):
    return [one.image_id for one in dataset.splits[split]]


def boxes(dataset, split="all"):
    """{image id: [(class, box)]}"""
    return {
        one.image_id: [(thing.name, thing.box) for thing in one.objects]
        for one in dataset.splits[split]
    }
