"""Writers of folders of text files: VOC's results and YOLO's labels."""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from detkit.errors import DetkitError, UsageError
from detkit.files import beside, make_folder, not_written, put_in_place, remove_empty
from detkit.predictions.image import ImagePredictions
from detkit.predictions.interface import PredictionWriter, require_plain
from detkit.predictions.texts import UniqueNames, exact, stem_of

# A data set has the other two of YOLO's files, too; this one is detkit's alone.
SIZES_FILE, SIZES_HEADER = "images.csv", "image,width,height"


class FolderWriter(PredictionWriter):
    """Appends lines to files beside the folder, which move into it at the end."""

    ours: tuple[str, ...]  # patterns of the files this format consists of

    def __init__(self, folder: Path, class_names: Sequence[str], force: bool) -> None:
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{folder}: is a file; name a folder")
        if not force and folder.is_dir() and any(folder.iterdir()):
            raise UsageError(f"{folder}: is not empty; name another folder or add --force")
        for name in class_names:
            require_plain(name, "class")
        self.folder = folder
        self.class_names = tuple(class_names)
        self.names = UniqueNames("file name")
        self.partial = beside(folder, f"{os.getpid()}.partial")
        try:
            shutil.rmtree(self.partial, ignore_errors=True)
            self._made = make_folder(self.partial)
        except OSError as error:
            raise DetkitError(not_written(folder, error)) from error
        self.files: dict[str, str] = {}  # by their names without case
        self.ignores_case = self.partial.with_name(self.partial.name.swapcase()).exists()

    def stem_of(self, image: str) -> str:
        """Return what an image is called here; DetkitError for a name taken or not to be kept."""
        require_plain(image, "image")
        stem = stem_of(image)
        self.names.add(stem, image)
        return stem

    def put(self, name: str, lines: Iterable[str]) -> None:
        """Append lines to a file of the folder.

        Raises DetkitError where the disk (macOS, Windows) would mix two names up.
        """
        first = self.files.setdefault(name.casefold(), name)
        if self.ignores_case and first != name:
            self.discard()
            raise DetkitError(
                f"{self.folder / name}: this disk does not tell it from {Path(first).name}; "
                "write -f jsonl, which keeps whole names"
            )
        path = self.partial / name
        try:
            path.parent.mkdir(exist_ok=True)
            with path.open("a", encoding="utf-8", newline="\n") as file:
                file.writelines(f"{line}\n" for line in lines)
        except OSError as error:
            raise DetkitError(not_written(self.folder / name, error)) from error

    def close(self) -> None:
        """Replace this format's files in the folder by those written."""
        try:
            for pattern in self.ours:
                for stale in self.folder.glob(pattern):
                    stale.unlink()
            self._made = [*make_folder(self.folder), *self._made]
            for path in sorted(self.partial.rglob("*")):
                place = self.folder / path.relative_to(self.partial)
                if path.is_file():
                    place.parent.mkdir(parents=True, exist_ok=True)
                    put_in_place(path, place)
        except OSError as error:
            raise DetkitError(not_written(self.folder, error)) from error
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove what was written beside the folder."""
        shutil.rmtree(self.partial, ignore_errors=True)
        remove_empty(self._made)


class VocWriter(FolderWriter):
    """Writes a file of VOC results a class."""

    ours = ("comp4_det_test_*.txt",)

    def __init__(self, folder: Path, class_names: Sequence[str], force: bool) -> None:
        for name in class_names:
            if re.search(r'[/\\:*?"<>|]', name):
                raise UsageError(f"class {name!r} cannot be part of a file name; use -f jsonl")
        super().__init__(folder, class_names, force)
        for name in class_names:
            self.put(f"comp4_det_test_{name}.txt", [])

    def write(self, predictions: ImagePredictions) -> None:
        """Add one image's detections; raise DetkitError for a second image of its name."""
        if predictions.error is not None:
            return
        stem = self.stem_of(predictions.image)
        lines: dict[str, list[str]] = {}
        for label, score, box in zip(
            predictions.labels, exact(predictions.scores), exact(predictions.boxes), strict=True
        ):
            x1, y1, x2, y2 = box
            corners = " ".join(f"{value:.10g}" for value in (x1 + 1, y1 + 1, x2, y2))
            lines.setdefault(label, []).append(f"{stem} {score!r} {corners}")
        for label, rows in lines.items():
            self.put(f"comp4_det_test_{label}.txt", rows)


class YoloWriter(FolderWriter):
    """Writes a file of YOLO labels with scores an image."""

    ours = ("labels/*.txt", "classes.txt", SIZES_FILE)

    def __init__(self, folder: Path, class_names: Sequence[str], force: bool) -> None:
        if any(folder.glob("labels/*.txt")) and not _is_ours(folder):
            raise UsageError(f"{folder}: holds labels of another kind; name another folder")
        super().__init__(folder, class_names, force)
        self.numbers = {name: number for number, name in enumerate(class_names)}
        self.put("classes.txt", class_names)
        self.put(SIZES_FILE, [SIZES_HEADER])

    def write(self, predictions: ImagePredictions) -> None:
        """Add one image's detections; raise DetkitError for a second image of its name."""
        if predictions.error is not None:
            return
        stem = self.stem_of(predictions.image)
        size = np.array([predictions.width, predictions.height], np.float64)
        boxes = predictions.boxes.astype(np.float64)
        low, high = boxes[:, :2] / size, boxes[:, 2:] / size
        shapes = np.concatenate([(low + high) / 2, high - low], axis=1).tolist()
        row = io.StringIO()
        csv.writer(row, lineterminator="").writerow(
            [predictions.image, predictions.width, predictions.height]
        )
        self.put(SIZES_FILE, [row.getvalue()])
        self.put(
            f"labels/{stem}.txt",
            (
                " ".join([str(self.numbers[label]), *(f"{v:.9g}" for v in shape), repr(score)])
                for label, shape, score in zip(
                    predictions.labels, shapes, exact(predictions.scores), strict=True
                )
            ),
        )


def _is_ours(folder: Path) -> bool:
    """Return whether a folder of YOLO files holds detections that were written here before."""
    try:
        text = (folder / SIZES_FILE).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return text.startswith(f"{SIZES_HEADER}\n")
