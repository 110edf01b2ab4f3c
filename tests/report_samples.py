"""A labelled folder and detections for the pages: every kind of error, and a hostile name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from labelled_folders import put, xml

from detkit.data.images import write_image

HOSTILE = "</script><script>document.title='taken over'</script>"
HOSTILE_XML = HOSTILE.replace("<", "&lt;").replace(">", "&gt;")
EMPTY = "nothing"  # the image without objects
# image: [(class, score, box)]; boxes are 0-based and half-open
FOUND = {
    "one": [
        ("car", 0.95, (10, 10, 50, 50)),  # right
        ("car", 0.9, (12, 10, 52, 50)),  # a duplicate
        ("dog", 0.6, (100, 20, 150, 70)),  # of the wrong class
        (HOSTILE, 0.4, (60, 60, 85, 90)),  # too far from its object
    ],
    "two": [("dog", 0.8, (20, 20, 60, 60))],  # right
    EMPTY: [("car", 0.7, (5, 5, 25, 25))],  # background
}


def write_folder(root: Path) -> Path:
    """Return a VOC folder of three images: four objects, one of which nothing is near."""
    size = (160, 100)
    head = {"filename": "", "size": size}
    put(
        root,
        {
            "Annotations/one.xml": xml(
                ("car", 11, 11, 50, 50),
                ("car", 101, 21, 150, 70),
                (HOSTILE_XML, 61, 61, 100, 100),
                **head,
            ),
            "Annotations/two.xml": xml(("dog", 21, 21, 60, 60), ("dog", 101, 1, 140, 30), **head),
            f"Annotations/{EMPTY}.xml": xml(**head),
            "ImageSets/Main/test.txt": f"one\ntwo\n{EMPTY}\n",
        },
    )
    random = np.random.default_rng(0)
    (root / "JPEGImages").mkdir()
    for name in FOUND:
        write_image(
            root / "JPEGImages" / f"{name}.jpg",
            random.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8),
        )
    return root


def write_found(path: Path) -> Path:
    """Return a file of the detections, JSON Lines."""
    lines = [
        json.dumps(
            {
                "image": f"JPEGImages/{name}.jpg",
                "width": 160,
                "height": 100,
                "detections": [
                    {"label": label, "score": score, "box": box} for label, score, box in found
                ],
            }
        )
        for name, found in FOUND.items()
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
