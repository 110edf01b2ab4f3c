"""The page of suspects: each with its picture, keys to say yes or no, and the patch of the yeses.

One HTML file without network. Boxes are drawn over the pictures in the browser; what was answered
is kept there, as far as the browser lets a file keep anything.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detkit.data.images import read_image
from detkit.data.label_patch import FORMAT, VERSION
from detkit.data.records import Dataset
from detkit.errors import DetkitError
from detkit.evaluation.suspect_list import Entry, entry_to_json, where
from detkit.evaluation.suspects import KINDS
from detkit.files import write_bytes
from detkit.report.page import render
from detkit.report.pictures import jpeg_address
from detkit.text import counted

SIDE = 300  # pixels of a picture's longer side
AROUND = 0.75  # times the boxes' longer side that is shown around them
LEAST_SHOWN = 64.0  # own pixels of the longer side
MOST_BYTES = 12_000_000  # of all pictures
SAYS = {
    "missing": "there is a {found}, without a label",
    "class": "this {label} is a {found}",
    "shifted": "this {label} lies elsewhere",
    "ghost": "this {label} is nothing",
    "duplicate": "this {label} is labelled twice",
}


def write_suspects(
    path: Path, dataset: Dataset, split: str, entries: Sequence[Entry], *, source: str
) -> list[str]:
    """Write the page of the entries; return why some have no picture, a line each.

    `source` says whose detections they are by. Raises DetkitError when it cannot be written.
    """
    pictures, failed = _pictures(entries)
    rows = []
    for entry, picture in zip(entries, pictures):
        words = SAYS[entry.kind].format(
            label=entry.label, found=entry.found.label if entry.found else ""
        )
        named = entry.label or (entry.found.label if entry.found else "")
        rows.append(
            {
                **entry_to_json(entry, dataset.root),
                "where": where(entry, dataset.root),
                "words": words,
                "class": named,
                "picture": picture,
            }
        )
    changes = json.dumps([one["change"] for one in rows], sort_keys=True)
    page = render(
        "suspects.html.j2",
        title=f"Suspects: {dataset.root.name}",
        source=source,
        data={
            "rows": rows,
            "format": FORMAT,
            "version": VERSION,
            "key": hashlib.sha256(changes.encode("utf-8", "surrogatepass")).hexdigest()[:16],
        },
        rows=rows,
        kinds=[kind for kind in KINDS if any(one.kind == kind for one in entries)],
        classes=sorted({str(one["class"]) for one in rows}),
        root=str(dataset.root),
        images=counted(len(dataset.splits[split]), "image"),
        split=split,
    )
    write_bytes(path, page.encode("utf-8", errors="replace"))
    return failed


def _pictures(entries: Sequence[Entry]) -> tuple[list[dict[str, Any] | None], list[str]]:
    """Return each entry's picture as JSON values, None without one, and why, a line each."""
    found: list[dict[str, Any] | None] = [None] * len(entries)
    failed: dict[str, str] = {}
    images: dict[Path, list[int]] = {}
    for place, entry in enumerate(entries):
        images.setdefault(entry.record.path, []).append(place)
    size = 0
    too_many = 0
    for path, places in images.items():
        try:
            pixels = read_image(path)
        except DetkitError as error:
            failed[str(path)] = str(error)
            continue
        for place in places:
            picture = _picture(pixels, entries[place], path)
            size += len(picture["source"])
            if size > MOST_BYTES:
                too_many += 1
                continue
            found[place] = picture
    lines = list(failed.values())
    if too_many:
        lines.append(f"{counted(too_many, 'suspect')} without a picture: choose fewer with -n")
    return found, lines


def _picture(pixels: NDArray[np.uint8], entry: Entry, path: Path) -> dict[str, Any]:
    """Return what lies around an entry's boxes, and where these are in it, in its pixels."""
    import cv2

    boxes = [box for box in (entry.box, entry.found.box if entry.found else None) if box]
    corners = np.array(boxes)
    (x1, y1), (x2, y2) = corners[:, :2].min(axis=0), corners[:, 2:].max(axis=0)
    half = max(x2 - x1, y2 - y1, LEAST_SHOWN / (1 + 2 * AROUND)) * (0.5 + AROUND)
    height, width = pixels.shape[:2]
    left, top = (
        int(min(max(0.0, (low + high) / 2 - half), most - 1))
        for low, high, most in ((x1, x2, width), (y1, y2, height))
    )
    right, bottom = (
        max(least + 1, int(min(most, (low + high) / 2 + half)))
        for low, high, most, least in ((x1, x2, width, left), (y1, y2, height, top))
    )
    cut = pixels[top:bottom, left:right]
    scale = SIDE / max(cut.shape[:2])
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    shown = [max(1, round(side * scale)) for side in (cut.shape[1], cut.shape[0])]
    large = np.asarray(cv2.resize(cut, shown, interpolation=way), np.uint8)

    def moved(box: Sequence[float] | None) -> list[float] | None:
        if box is None:
            return None
        corner = np.array([left, top, left, top])
        values: list[float] = ((np.array(box) - corner) * scale).round(1).tolist()
        return values

    return {
        "source": jpeg_address(large, path),
        "width": shown[0],
        "height": shown[1],
        "label": moved(entry.box),
        "model": moved(entry.found.box if entry.found else None),
    }
