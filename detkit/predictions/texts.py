"""One image's detections as text: JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from detkit.errors import DetkitError
from detkit.predictions.image import ImagePredictions
from detkit.predictions.interface import require_plain
from detkit.structures import FloatArray

POWERS_OF_TEN = np.array([float(f"1e{n}") for n in range(23)])  # all exact
CSV_COLUMNS = ("image", "label", "score", "x1", "y1", "x2", "y2")
AGAIN = "give each image once, or write -f jsonl, which keeps them apart"
BOTH = "write -f jsonl, which keeps whole paths"
FRAME = re.compile(r"(.+)#(\d{5,})")  # of a video, as `detect` names it


def to_json(predictions: ImagePredictions) -> dict[str, Any]:
    """Return one image's object of the `jsonl` and `json` formats."""
    named: dict[str, Any] = {"image": predictions.image}
    if predictions.seconds is not None:
        named["seconds"] = predictions.seconds
    if predictions.error is not None:
        return {**named, "error": predictions.error}
    return {
        **named,
        "width": predictions.width,
        "height": predictions.height,
        "detections": [
            {"label": label, "score": score, "box": box}
            for label, score, box in zip(
                predictions.labels,
                exact(predictions.scores),
                exact(predictions.boxes),
                strict=True,
            )
        ],
    }


def json_text(predictions: ImagePredictions) -> str:
    """Return an image's object on one line; ASCII only, so that every console can print it."""
    return json.dumps(to_json(predictions), allow_nan=False)


def json_line(predictions: ImagePredictions) -> str:
    """Return an image's object as a whole line: whoever reads a pipe waits for its end."""
    return f"{json_text(predictions)}\n"


def of_json_line(line: str | bytes) -> ImagePredictions:
    """Return the detections of a line that `json_line` wrote, bit for bit."""
    values = json.loads(line)
    found = values.get("detections", [])
    return ImagePredictions(
        image=values["image"],
        width=values.get("width", 0),
        height=values.get("height", 0),
        labels=tuple(one["label"] for one in found),
        scores=np.array([one["score"] for one in found], np.float32),
        boxes=np.array([one["box"] for one in found], np.float32).reshape(-1, 4),
        error=values.get("error"),
        seconds=values.get("seconds"),
    )


class CsvText:
    """Turns an image's detections into rows, and refuses an image that comes again."""

    def __init__(self) -> None:
        self.names = UniqueNames("name")

    def __call__(self, predictions: ImagePredictions) -> str:
        """Return an image's rows; one with empty cells when nothing was found."""
        if predictions.error is not None:
            return ""
        require_plain(predictions.image, "image")
        self.names.add(predictions.image, predictions.image)
        rows: list[list[Any]] = [
            [predictions.image, label, score, *box]
            for label, score, box in zip(
                predictions.labels, exact(predictions.scores), exact(predictions.boxes), strict=True
            )
        ]
        text = io.StringIO()
        empty_row = [predictions.image] + [""] * (len(CSV_COLUMNS) - 1)
        csv.writer(text, lineterminator="\n").writerows(rows or [empty_row])
        return text.getvalue()


class UniqueNames:
    """Refuses a second image under a name by which the format would mix the two up."""

    def __init__(self, what: str, again: str = AGAIN, both: str = BOTH) -> None:
        """Name in messages `what` is mixed up, and what to do about it."""
        self.what, self.again, self.both = what, again, both
        self.images: dict[str, str] = {}

    def add(self, name: str, image: str) -> None:
        """Raise DetkitError when another image, or this one, has had this name."""
        first = self.images.get(name)
        self.images[name] = image
        if first == image:
            raise DetkitError(
                f"{image} comes twice, and its boxes would count twice in this format; {self.again}"
            )
        if first is not None:
            raise DetkitError(
                f"{image} and {first} would both have the {self.what} {name!r} in this format; "
                f"{self.both}"
            )


def exact(values: FloatArray) -> list[Any]:
    """Return (nested) lists of the shortest decimals that stand for these float32 numbers.

    As `str` of each would, in a thirtieth of the time: nine digits always suffice, and fewer
    are taken where they give the same float32.
    """
    wide = values.astype(np.float64)
    first_digit = np.floor(np.log10(np.abs(wide), out=np.zeros_like(wide), where=wide != 0))
    exact = wide.copy()
    for digits in (9, 8, 7, 6):
        places = (digits - 1 - first_digit).clip(0, len(POWERS_OF_TEN) - 1).astype(np.int64)
        short = np.round(wide * POWERS_OF_TEN[places]) / POWERS_OF_TEN[places]
        with np.errstate(over="ignore"):  # the largest float32 of all, rounded up
            exact = np.where(short.astype(np.float32) == values, short, exact)
    nested: list[Any] = exact.tolist()
    return nested


def stem_of(image: str) -> str:
    """Return an image's name without folders and suffix: "clip_000012" of "a/clip.mp4#00012".

    What no file can be called, as the colons of a camera or an address, becomes "_".
    """
    frame = FRAME.fullmatch(image)
    if frame is None:
        return pure(image).stem
    clip = re.sub(r'[:*?"<>|]', "_", pure(frame[1]).stem)
    return f"{clip}_{int(frame[2]):06d}"


def pure(image: str) -> PurePosixPath:
    """Return the path of an image written on any system."""
    return PurePosixPath(image.replace("\\", "/"))
