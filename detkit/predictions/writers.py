"""Writers of detections, image by image: into a stream, a file, or a folder of text files."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Literal, TextIO, get_args

import numpy as np

from detkit.errors import DetkitError, UsageError
from detkit.predictions.image import ImagePredictions, coco_category_ids
from detkit.structures import FloatArray

Format = Literal["jsonl", "json", "coco", "voc", "yolo", "csv"]
FORMATS: tuple[str, ...] = get_args(Format)
FOLDER_FORMATS = ("voc", "yolo")
POWERS_OF_TEN = np.array([float(f"1e{n}") for n in range(23)])  # all exact
CSV_COLUMNS = ("image", "label", "score", "x1", "y1", "x2", "y2")
COCO_FILE_NAME = re.compile(r"(?:COCO_(?:train|val|test)2014_|COCO_test2015_)?(\d{12})")


def to_json(predictions: ImagePredictions) -> dict[str, Any]:
    """Return one image's object of the `jsonl` and `json` formats."""
    if predictions.error is not None:
        return {"image": predictions.image, "error": predictions.error}
    return {
        "image": predictions.image,
        "width": predictions.width,
        "height": predictions.height,
        "detections": [
            {"label": label, "score": score, "box": box}
            for label, score, box in zip(
                predictions.labels,
                _exact(predictions.scores),
                _exact(predictions.boxes),
                strict=True,
            )
        ],
    }


class PredictionWriter(ABC):
    """Writes one image after the other; as a context manager it discards a broken file."""

    @abstractmethod
    def write(self, predictions: ImagePredictions) -> None:
        """Add one image's detections."""

    @abstractmethod
    def close(self) -> None:
        """Complete what was written and give it its name."""

    @abstractmethod
    def discard(self) -> None:
        """Leave nothing behind."""

    def __enter__(self) -> PredictionWriter:
        """Return the writer."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Complete the file, or discard it when the block failed."""
        if kind is None:
            self.close()
        else:
            self.discard()


def open_writer(
    format: str,
    target: Path | TextIO,
    *,
    class_names: Sequence[str],
    image_keys: Mapping[str, str] | None = None,
    category_ids: Sequence[int] | None = None,
    force: bool = False,
) -> PredictionWriter:
    """Return a writer of `format` into a path (a folder for voc and yolo) or an open stream.

    A path gets its name when the writer is closed; an open stream is flushed after each image
    and left open. `image_keys` (image: key) and `category_ids` (one a class) are the data
    set's own, for `coco`. Raises UsageError for an unknown format, a stream where a folder is
    needed, and an existing target unless `force`; `force` removes only files of this format.
    """
    if format not in FORMATS:
        raise UsageError(f"format {format!r}: choose from {', '.join(FORMATS)}")
    if format in FOLDER_FORMATS:
        if not isinstance(target, Path):
            raise UsageError(f"format {format} is a folder of files: name it with -o FOLDER")
        if format == "voc":
            return _VocWriter(target, class_names, force)
        return _YoloWriter(target, class_names, force)
    if format == "jsonl":
        return _StreamWriter(target, _json_text, tail="\n", force=force)
    if format == "json":
        return _StreamWriter(
            target, _json_text, head="[\n", between=",\n", tail="\n]\n", force=force
        )
    if format == "csv":
        head = ",".join(CSV_COLUMNS) + "\n"
        return _StreamWriter(target, _csv_text, head=head, between="", force=force)
    return _StreamWriter(
        target,
        _CocoText(class_names, image_keys or {}, category_ids),
        head="[\n",
        between=",\n",
        tail="\n]\n",
        force=force,
    )


class _StreamWriter(PredictionWriter):
    """Writes text, image by image, into a stream or into a file that is renamed at the end."""

    def __init__(
        self,
        target: Path | TextIO,
        encode: Callable[[ImagePredictions], str],
        *,
        head: str = "",
        between: str = "\n",
        tail: str = "",
        force: bool,
    ) -> None:
        self.encode, self.between, self.tail = encode, between, tail
        self.is_first = True
        self.path = target if isinstance(target, Path) else None
        if isinstance(target, Path):
            if target.is_dir():
                raise UsageError(f"{target}: is a folder; name a file")
            # A device or pipe (/dev/stdout, /dev/null) is written to, never replaced by a file.
            is_special = target.exists() and not target.is_file()
            if target.exists() and not is_special and not force:
                raise UsageError(f"{target}: exists; name another file or add --force")
            self.partial = target if is_special else _partial(target)
            try:
                self.stream: TextIO = self.partial.open("w", encoding="utf-8", newline="\n")
            except OSError as error:
                raise _not_written(target, error) from error
        else:
            self.stream = target
        self._put(head)

    def write(self, predictions: ImagePredictions) -> None:
        text = self.encode(predictions)
        if not text:
            return
        self._put(text if self.is_first else self.between + text)
        self.is_first = False

    def close(self) -> None:
        # Lines end with a newline; nothing at all is not a line.
        self._put("" if self.is_first and self.tail == "\n" else self.tail)
        if self.path is None:
            return
        try:
            self.stream.close()
            if self.partial != self.path:
                self.partial.replace(self.path)
        except OSError as error:
            self._remove_partial()
            raise _not_written(self.path, error) from error

    def discard(self) -> None:
        if self.path is None:
            return
        try:
            self.stream.close()
        finally:
            self._remove_partial()

    def _remove_partial(self) -> None:
        if self.partial != self.path:
            self.partial.unlink(missing_ok=True)

    def _put(self, text: str) -> None:
        """Write and, into a stream, flush; a closed pipe is the caller's to handle."""
        try:
            self.stream.write(text)
            if self.path is None:
                self.stream.flush()
        except OSError as error:
            if self.path is None:
                raise
            raise _not_written(self.path, error) from error


def _json_text(predictions: ImagePredictions) -> str:
    """Return an image's object on one line; ASCII only, so that every console can print it."""
    return json.dumps(to_json(predictions), allow_nan=False)


def _csv_text(predictions: ImagePredictions) -> str:
    """Return an image's rows; one with empty cells when nothing was found."""
    if predictions.error is not None:
        return ""
    rows: list[list[Any]] = [
        [predictions.image, label, score, *box]
        for label, score, box in zip(
            predictions.labels, _exact(predictions.scores), _exact(predictions.boxes), strict=True
        )
    ]
    text = io.StringIO()
    empty_row = [predictions.image] + [""] * (len(CSV_COLUMNS) - 1)
    csv.writer(text, lineterminator="\n").writerows(rows or [empty_row])
    return text.getvalue()


class _CocoText:
    """Turns an image's detections into COCO results, and refuses two images of one id."""

    def __init__(
        self,
        class_names: Sequence[str],
        image_keys: Mapping[str, str],
        category_ids: Sequence[int] | None,
    ) -> None:
        numbers = coco_category_ids(class_names) if category_ids is None else category_ids
        self.categories = dict(zip(class_names, numbers, strict=True))
        self.image_keys = image_keys
        self.names = _UniqueNames("image_id")

    def __call__(self, predictions: ImagePredictions) -> str:
        if predictions.error is not None:
            return ""
        image_id = self._image_id(predictions.image)
        self.names.add(str(image_id), predictions.image)
        rows = []
        for label, score, box in zip(
            predictions.labels, _exact(predictions.scores), _exact(predictions.boxes), strict=True
        ):
            x1, y1, x2, y2 = box
            bbox = [x1, y1, round(x2 - x1, 6), round(y2 - y1, 6)]
            row = {
                "image_id": image_id,
                "category_id": self.categories[label],
                "bbox": bbox,
                "score": score,
            }
            rows.append(row)
        return json.dumps(rows, allow_nan=False)[1:-1]

    def _image_id(self, image: str) -> int | str:
        """Return the data set's key, the number in a name of COCO's, or the file name."""
        path = _pure(image)
        key = self.image_keys.get(image)
        if key is not None:
            return int(key) if key.isdecimal() else key
        coco_name = COCO_FILE_NAME.fullmatch(path.stem)
        return int(coco_name[1]) if coco_name else path.name


class _FolderWriter(PredictionWriter):
    """Appends lines to files beside the folder, which move into it at the end."""

    ours: tuple[str, ...]  # patterns of the files this format consists of

    def __init__(self, folder: Path, class_names: Sequence[str], force: bool) -> None:
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{folder}: is a file; name a folder")
        if not force and folder.is_dir() and any(folder.iterdir()):
            raise UsageError(f"{folder}: is not empty; name another folder or add --force")
        self.folder = folder
        self.class_names = tuple(class_names)
        self.names = _UniqueNames("file name")
        self.partial = _partial(folder)
        try:
            shutil.rmtree(self.partial, ignore_errors=True)
            self.partial.mkdir(parents=True)
        except OSError as error:
            raise _not_written(folder, error) from error

    def put(self, name: str, lines: Iterable[str]) -> None:
        """Append lines to a file of the folder."""
        path = self.partial / name
        try:
            path.parent.mkdir(exist_ok=True)
            with path.open("a", encoding="utf-8", newline="\n") as file:
                file.writelines(f"{line}\n" for line in lines)
        except OSError as error:
            raise _not_written(self.folder / name, error) from error

    def close(self) -> None:
        try:
            for pattern in self.ours:
                for stale in self.folder.glob(pattern):
                    stale.unlink()
            for path in sorted(self.partial.rglob("*")):
                place = self.folder / path.relative_to(self.partial)
                if path.is_file():
                    place.parent.mkdir(parents=True, exist_ok=True)
                    path.replace(place)
        except OSError as error:
            raise _not_written(self.folder, error) from error
        finally:
            self.discard()

    def discard(self) -> None:
        shutil.rmtree(self.partial, ignore_errors=True)


class _VocWriter(_FolderWriter):
    ours = ("comp4_det_test_*.txt",)

    def __init__(self, folder: Path, class_names: Sequence[str], force: bool) -> None:
        for name in class_names:
            if re.search(r'[/\\:*?"<>|]', name):
                raise UsageError(f"class {name!r} cannot be part of a file name; use -f jsonl")
        super().__init__(folder, class_names, force)
        for name in class_names:
            self.put(f"comp4_det_test_{name}.txt", [])

    def write(self, predictions: ImagePredictions) -> None:
        if predictions.error is not None:
            return
        stem = _pure(predictions.image).stem
        self.names.add(stem, predictions.image)
        lines: dict[str, list[str]] = {}
        for label, score, box in zip(
            predictions.labels, _exact(predictions.scores), _exact(predictions.boxes), strict=True
        ):
            x1, y1, x2, y2 = box
            corners = " ".join(f"{value:.10g}" for value in (x1 + 1, y1 + 1, x2, y2))
            lines.setdefault(label, []).append(f"{stem} {score!r} {corners}")
        for label, rows in lines.items():
            self.put(f"comp4_det_test_{label}.txt", rows)


class _YoloWriter(_FolderWriter):
    ours = ("labels/*.txt", "classes.txt", "images.csv")

    def __init__(self, folder: Path, class_names: Sequence[str], force: bool) -> None:
        super().__init__(folder, class_names, force)
        self.numbers = {name: number for number, name in enumerate(class_names)}
        self.put("classes.txt", class_names)
        self.put("images.csv", ["image,width,height"])

    def write(self, predictions: ImagePredictions) -> None:
        if predictions.error is not None:
            return
        stem = _pure(predictions.image).stem
        self.names.add(stem, predictions.image)
        size = np.array([predictions.width, predictions.height], np.float64)
        boxes = predictions.boxes.astype(np.float64)
        low, high = boxes[:, :2] / size, boxes[:, 2:] / size
        shapes = np.concatenate([(low + high) / 2, high - low], axis=1).tolist()
        row = io.StringIO()
        csv.writer(row, lineterminator="").writerow(
            [predictions.image, predictions.width, predictions.height]
        )
        self.put("images.csv", [row.getvalue()])
        self.put(
            f"labels/{stem}.txt",
            (
                " ".join([str(self.numbers[label]), *(f"{v:.9g}" for v in shape), repr(score)])
                for label, shape, score in zip(
                    predictions.labels, shapes, _exact(predictions.scores), strict=True
                )
            ),
        )


class _UniqueNames:
    """Refuses a second image under a name by which the format would mix the two up."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.images: dict[str, str] = {}

    def add(self, name: str, image: str) -> None:
        first = self.images.setdefault(name, image)
        if first != image:
            raise DetkitError(
                f"{image} and {first} would both have the {self.what} {name!r} in this format; "
                "write -f jsonl, which keeps whole paths"
            )


def _exact(values: FloatArray) -> list[Any]:
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


def _pure(image: str) -> PurePosixPath:
    """Return the path of an image written on any system."""
    return PurePosixPath(image.replace("\\", "/"))


def _partial(path: Path) -> Path:
    """Return where a file is written before it gets its name."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def _not_written(path: Path, error: OSError) -> DetkitError:
    """Return the error of a file that could not be written."""
    return DetkitError(f"{path}: cannot be written: {error.strerror or error}")
