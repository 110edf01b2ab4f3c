"""Proposals in files: JSON Lines as `detkit propose` writes them, and R-CNN's MATLAB layout.

A line is an object an image, and stands for itself, so files can be cut and joined:
`{"image": PATH, "width": W, "height": H, "boxes": [[x1, y1, x2, y2], ...], "scores": [...],
"parameters": {"method": "selective-search", ...}}`. Best boxes come first. Only `image` and
`boxes` have to be there.

Those of COCO's 118,000 images are 7 GB: of a large file it is kept where each image's line is, and
boxes are read when they are asked for.

Shape shorthand: P boxes.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from detkit.errors import DetkitError
from detkit.shards.lines import BUFFER, STRING, object_or_none
from detkit.shards.part import require_whole
from detkit.structures import FloatArray, Proposals
from detkit.text import counted

MOST_AT_ONCE = 1 << 26  # bytes of a file that is read whole, in a second or two
HEAD = re.compile(
    rb'\{"image":(' + STRING + rb'),"width":([1-9]\d{0,8}),"height":([1-9]\d{0,8}),"parameters":'
    rb'(\{[^{}]*\}),"boxes":\['
)
SCORES = b'],"scores":['


class ByNumber(Protocol):
    """The proposals of images by their numbers."""

    def __len__(self) -> int:
        """Return how many images there are."""

    def __getitem__(self, index: int, /) -> Proposals:
        """Return those of an image, best first; DetkitError for what is none."""


@dataclass(frozen=True, slots=True)
class ProposalFile:
    """The proposals of many images by the names that the file gives them."""

    path: Path
    images: tuple[str, ...]
    found: ByNumber
    sizes: tuple[tuple[int, int] | None, ...]  # (height, width) of each as the file states it
    parameters: Mapping[str, Any] = field(default_factory=dict)  # {}: unknown, or several
    digest: str = ""  # SHA-256 (hexadecimal), of a large file, which is not to be read twice


def read_proposals(path: Path) -> ProposalFile:
    """Return the proposals of a `.mat` file, else of JSON Lines, best first in each image.

    Of an image that stands there twice the last line holds, and lines with an "error" are left
    out. Raises DetkitError, with file and line, for what is not such a file.
    """
    if not path.is_file():
        raise DetkitError(f"{path}: there is no such proposal file; `detkit propose` writes one")
    return _read_mat(path) if path.suffix.lower() == ".mat" else _read_lines(path)


def line_of(
    image: str, size: tuple[int, int], found: Proposals, parameters: Mapping[str, Any]
) -> str:
    """Return the JSON line, without its end, of an image of `size` (height, width)."""
    boxes = found.boxes.astype(np.float64).round(2).tolist()
    values = {
        "image": image,
        "width": size[1],
        "height": size[0],
        "parameters": dict(parameters),
        "boxes": [[int(side) if side == int(side) else side for side in box] for box in boxes],
        "scores": [float(f"{score:.6g}") for score in found.scores.tolist()],
    }
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Head:
    """What a line says of its image before its boxes, and how many these are."""

    image: str
    size: tuple[int, int] | None  # (height, width)
    parameters: Any
    num_boxes: int

    @classmethod
    def of_own(cls, line: bytes) -> Head | None:
        """Return that of a line which begins and ends as `line_of` writes it; None of another."""
        begins, scores = HEAD.match(line), line.rfind(SCORES)
        if begins is None or scores < 0 or not line.endswith(b"]}\n"):
            return None
        image, width, height, parameters = begins.groups()
        rest = scores + len(SCORES), len(line) - len(b"]}\n")
        try:
            return cls(
                json.loads(image.decode(errors="surrogateescape")),
                (int(height), int(width)),
                json.loads(parameters.decode(errors="surrogateescape")),
                line.count(b",", *rest) + 1 if rest[0] < rest[1] else 0,
            )
        except ValueError:
            return None

    @classmethod
    def of(cls, line: bytes) -> Head | None:
        """Return that of any line of proposals; None of an error, and of what is neither."""
        own = cls.of_own(line)
        if own is not None:
            return own
        values = object_or_none(line) or {"error": ""}
        image, boxes = values.get("image"), values.get("boxes")
        if "error" in values or not isinstance(image, str) or not isinstance(boxes, list):
            return None
        return cls(image, None, values.get("parameters"), len(boxes))


@dataclass(frozen=True)
class LinesOfFile:
    """The proposals of a file's lines, each read when it is asked for."""

    path: Path
    images: Sequence[str]
    places: Sequence[tuple[int, int]]  # the line's number, and the bytes before it

    def __len__(self) -> int:
        """Return how many images there are."""
        return len(self.places)

    def __getitem__(self, index: int, /) -> Proposals:
        """Return those of an image; raises DetkitError as `read_proposals`, and if it changed."""
        number, start = self.places[index]
        where = f"{self.path}:{number}"
        try:
            with self.path.open("rb") as file:
                file.seek(start)
                line = file.readline()
        except OSError as error:
            raise _not_read(self.path, error) from error
        values = _object(line, where)
        if values["image"] != self.images[index]:
            raise DetkitError(f"{where}: was changed while it was in use; start again")
        return _proposals(values, where)


def _read_lines(path: Path) -> ProposalFile:
    """Return the proposals of a file of JSON Lines.

    Of a large file, lines as `line_of` writes them are checked when they are asked for.
    """
    places: dict[str, tuple[int, int]] = {}
    sizes: dict[str, tuple[int, int] | None] = {}
    found: dict[str, Proposals] = {}
    known: list[Any] = []
    digest = hashlib.sha256()
    try:
        is_large = path.stat().st_size > MOST_AT_ONCE
        with path.open("rb", buffering=BUFFER) as lines:
            start = 0
            for number, line in enumerate(lines, start=1):
                place, where = (number, start), f"{path}:{number}"
                start += len(line)
                head = None
                if is_large:
                    digest.update(line)
                    head = Head.of_own(line)
                if head is None:
                    if not line.strip():
                        continue
                    values = _object(line, where)
                    if "error" in values:
                        continue
                    read = _proposals(values, where)
                    size = _size(values, where)
                    head = Head(values["image"], size, values.get("parameters"), len(read.boxes))
                    if not is_large:
                        found[head.image] = read
                places[head.image], sizes[head.image] = place, head.size
                if head.parameters not in known:
                    known.append(head.parameters)
    except OSError as error:
        raise _not_read(path, error) from error
    if not places:
        raise DetkitError(f"{path}: holds no proposals")
    parameters = known[0] if len(known) == 1 and isinstance(known[0], dict) else {}
    images = tuple(places)
    boxes = LinesOfFile(path, images, tuple(places.values())) if is_large else tuple(found.values())
    content = digest.hexdigest() if is_large else ""
    return ProposalFile(path, images, boxes, tuple(sizes.values()), parameters, content)


def _not_read(path: Path, error: OSError) -> DetkitError:
    return DetkitError(f"{path}: cannot be read: {error.strerror or error}")


def _object(line: bytes, where: str) -> dict[str, Any]:
    """Return the object of a line that names an image."""
    try:
        text = line.removeprefix(codecs.BOM_UTF8).decode(errors="surrogateescape")
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DetkitError(
            f"{where}: not JSON ({error}); expected a line an image, as `detkit propose` writes"
        ) from error
    require_whole(values, Path(where.rpartition(":")[0]))
    if not isinstance(values, dict) or not isinstance(values.get("image"), str):
        raise DetkitError(f'{where}: expected an object with "image" and "boxes"')
    return values


def _size(values: Mapping[str, Any], where: str) -> tuple[int, int] | None:
    """Return the (height, width) that a line's object states, None when it states none."""
    height, width = values.get("height"), values.get("width")
    if height is None or width is None:
        return None
    if not (is_whole(height) and is_whole(width) and min(height, width) > 0):
        raise DetkitError(f"{where}: width and height: expected whole numbers above 0")
    return height, width


def is_whole(value: Any) -> bool:
    """Return whether a JSON value is a whole number; Python takes true and false for such."""
    return isinstance(value, int) and not isinstance(value, bool)


def _proposals(values: Mapping[str, Any], where: str) -> Proposals:
    """Return the proposals of a line's object."""
    if values.get("boxes") is None:
        raise DetkitError(f'{where}: expected an object with "image" and "boxes"')
    boxes = _numbers(values["boxes"], f"{where}: boxes")
    boxes = boxes.reshape(0, 4) if boxes.size == 0 else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise DetkitError(f"{where}: boxes: expected a list of [x1, y1, x2, y2]")
    if values.get("scores") is None:
        return ranked(boxes, None, where)
    scores = _numbers(values["scores"], f"{where}: scores")
    if scores.shape != (len(boxes),):
        raise DetkitError(f"{where}: scores: expected one for each box, {len(boxes)}")
    return ranked(boxes, scores, where)


def ranked(boxes: FloatArray, scores: FloatArray | None, where: str) -> Proposals:
    """Return (P, 4) boxes as proposals, best first; without scores they are in that order.

    Raises DetkitError, beginning with `where`, for a box that encloses nothing.
    """
    wrong = (boxes[:, 2:] <= boxes[:, :2]).any(1)
    if wrong.any():
        first = int(wrong.argmax())
        x1, y1, x2, y2 = (f"{side:g}" for side in boxes[first])
        raise DetkitError(
            f"{where}: box {first + 1} ({x1}, {y1}, {x2}, {y2}) encloses nothing; expected "
            "x1 < x2 and y1 < y2"
        )
    if scores is None:
        falling = np.linspace(1.0, 0.0, len(boxes), endpoint=False, dtype=np.float32)
        return Proposals(boxes, falling)
    order = np.argsort(-scores, kind="stable")
    return Proposals(boxes[order], scores[order])


def _numbers(values: Any, where: str) -> FloatArray:
    """Return a list of finite numbers, or of lists of them, as an array."""
    try:
        array = np.asarray(values, np.float32)
    except (TypeError, ValueError) as error:
        raise DetkitError(f"{where}: expected numbers") from error
    if array.ndim == 0 or not np.isfinite(array).all():
        raise DetkitError(f"{where}: expected a list of finite numbers")
    return array


def _read_mat(path: Path) -> ProposalFile:
    """Return the proposals of R-CNN's and Fast R-CNN's `selective_search_data/*.mat`.

    Two cell arrays: `images`, names without suffix, and `boxes`, of each image (P, 4) as
    (y1, x1, y2, x2), 1-based and inclusive; there are no scores.
    """
    from scipy.io import loadmat

    try:
        content = loadmat(path, variable_names=["images", "boxes"])
    except NotImplementedError as error:
        raise DetkitError(
            f"{path}: MATLAB 7.3 files cannot be read; save it with the option -v7"
        ) from error
    except Exception as error:  # of a dozen kinds, for a broken file or one that is no MATLAB file
        raise DetkitError(f"{path}: not a MATLAB file that can be read ({error})") from error
    if "images" not in content or "boxes" not in content:
        raise DetkitError(f"{path}: expected the cell arrays images and boxes, as R-CNN's files")
    names, cells = content["images"].ravel(), content["boxes"].ravel()
    if len(names) != len(cells):
        raise DetkitError(f"{path}: {counted(len(names), 'image')}, but boxes of {len(cells)}")
    images = tuple(_name(cell, path, number) for number, cell in enumerate(names, start=1))
    found = tuple(_from_matlab(cell, f"{path}: {name}") for name, cell in zip(images, cells))
    return ProposalFile(path, images, found, (None,) * len(images))


def _name(cell: Any, path: Path, number: int) -> str:
    """Return the image name in a cell."""
    parts: list[Any] = np.ravel(cell).tolist()
    if len(parts) != 1 or not isinstance(parts[0], str):
        raise DetkitError(f"{path}: images{{{number}}} is no name")
    return str(parts[0])


def _from_matlab(cell: NDArray[Any], where: str) -> Proposals:
    """Return the proposals of a cell of (y1, x1, y2, x2) boxes, 1-based and inclusive."""
    boxes = _numbers(cell, where)
    if boxes.size == 0:
        return Proposals(np.empty((0, 4), np.float32), np.empty(0, np.float32))
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise DetkitError(f"{where}: expected boxes of four numbers, y1 x1 y2 x2")
    return ranked(boxes[:, [1, 0, 3, 2]] - np.array([1, 1, 0, 0], np.float32), None, where)
