"""Writers of detections, image by image: into a stream, a file, or a folder of text files."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, TextIO, get_args

from detkit.errors import DetkitError, UsageError
from detkit.files import beside, fitting_name, is_special, not_written, put_in_place, write_bytes
from detkit.predictions.coco_results import CocoIds, CocoText
from detkit.predictions.folder_writers import VocWriter, YoloWriter
from detkit.predictions.image import ImagePredictions
from detkit.predictions.interface import PredictionWriter
from detkit.predictions.texts import CSV_COLUMNS, CsvText, json_line, json_text

Format = Literal["jsonl", "json", "coco", "voc", "yolo", "csv"]
FORMATS: tuple[str, ...] = get_args(Format)
FOLDER_FORMATS = ("voc", "yolo")


def open_writer(
    format: str,
    target: Path | TextIO,
    *,
    class_names: Sequence[str],
    ids: CocoIds | None = None,
    force: bool = False,
) -> PredictionWriter:
    """Return a writer of `format` into a path (a folder for voc and yolo) or an open stream.

    A path gets its name when the writer is closed; an open stream is flushed after each image
    and left open. `ids` are a data set's, for `coco`; without them a path gets a list of images
    beside it (`images_file`). Raises UsageError for an unknown format, a stream where a folder is
    needed, and an existing target unless `force`; `force` removes only files of this format.
    """
    if format not in FORMATS:
        raise UsageError(f"format {format!r}: choose from {', '.join(FORMATS)}")
    if format in FOLDER_FORMATS:
        if not isinstance(target, Path):
            raise UsageError(f"format {format} is a folder of files: name it with -o FOLDER")
        if format == "voc":
            return VocWriter(target, class_names, force)
        return YoloWriter(target, class_names, force)
    if format == "jsonl":
        return _StreamWriter(target, json_line, force=force)
    if format == "json":
        return _StreamWriter(
            target, json_text, head="[\n", between=",\n", tail="\n]\n", force=force
        )
    if format == "csv":
        head = ",".join(CSV_COLUMNS) + "\n"
        return _StreamWriter(target, CsvText(), head=head, force=force)
    return _CocoWriter(target, CocoText(class_names, ids), force=force)


def images_file(path: Path) -> Path:
    """Return where the images and categories stand that the ids in a file of results are of."""
    return path.with_name(fitting_name(f"{path.stem}.images.json"))


class _StreamWriter(PredictionWriter):
    """Writes text, image by image, into a stream or into a file that is renamed at the end."""

    def __init__(
        self,
        target: Path | TextIO,
        encode: Callable[[ImagePredictions], str],
        *,
        head: str = "",
        between: str = "",
        tail: str = "",
        force: bool,
    ) -> None:
        self.encode, self.between, self.tail = encode, between, tail
        self.is_first = True
        self.path = target if isinstance(target, Path) else None
        if isinstance(target, Path):
            if target.is_dir():
                raise UsageError(f"{target}: is a folder; name a file")
            if target.is_file() and not force:
                raise UsageError(f"{target}: exists; name another file or add --force")
            partial = beside(target, f"{os.getpid()}.partial")
            self.partial = target if is_special(target) else partial
            try:
                self.stream: TextIO = self.partial.open("w", encoding="utf-8", newline="\n")
            except OSError as error:
                raise DetkitError(not_written(target, error)) from error
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
        self._put(self.tail)
        if self.path is None:
            return
        try:
            self.stream.close()
            if self.partial != self.path:
                put_in_place(self.partial, self.path)
        except OSError as error:
            self._remove_partial()
            raise DetkitError(not_written(self.path, error)) from error

    def discard(self) -> None:
        if self.path is None:
            return
        with suppress(OSError):  # a full disk takes the rest no more than what came before
            self.stream.close()
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
            raise DetkitError(not_written(self.path, error)) from error


class _CocoWriter(_StreamWriter):
    """Writes COCO's results, and beside a file of them the images that its ids are of."""

    def __init__(self, target: Path | TextIO, text: CocoText, *, force: bool) -> None:
        self.text = text
        self.listed: Path | None = None
        if isinstance(target, Path) and text.ids is None:
            self.listed = images_file(target)
            if self.listed.exists() and not force:
                raise UsageError(
                    f"{self.listed}: exists, and the list of images goes there; name another file "
                    "or add --force"
                )
        super().__init__(target, text, head="[\n", between=",\n", tail="\n]\n", force=force)
        if self.path is not None and self.partial == self.path:
            self.listed = None  # a pipe or device has no place beside it

    def close(self) -> None:
        try:
            self.left_out = self.text.left_out()
        except DetkitError:
            self.discard()
            raise
        if self.listed is not None:
            try:
                write_bytes(self.listed, self.text.document().encode())
            except DetkitError:
                self.discard()
                raise
        super().close()
