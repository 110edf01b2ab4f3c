"""What a detector found as the labels of a folder: a first draft for people to correct.

Images are copied as `data.convert` does; frames of videos and cameras become JPEG files. Every
object is marked as machine-made and keeps its score, where the format can.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from detkit.data.convert import convert, format_named, losses
from detkit.data.image_kinds import is_image
from detkit.data.images import write_image
from detkit.data.output import require_free_folder
from detkit.data.records import Dataset, ImageRecord, ObjectRecord
from detkit.errors import DetkitError, UsageError
from detkit.files import beside, fitting_name, not_written
from detkit.predictions.texts import FRAME, exact
from detkit.text import is_plain

if TYPE_CHECKING:
    from detkit.inference.predict import Prediction
    from detkit.predictions.image import ImagePredictions


class FoundLabels:
    """Gathers detections image by image; `write` makes a labelled folder of them.

    As a context manager it leaves nothing behind but that folder.
    """

    def __init__(
        self,
        out: Path,
        to: str,
        class_names: Sequence[str],
        least: Mapping[str, float],
        *,
        force: bool = False,
    ) -> None:
        """Begin a folder `out` in the format `to`, with boxes of at least their class's score.

        Raises UsageError for an unknown format, classes that it cannot hold, and an `out` that
        may not be written, as `convert` does.
        """
        self.num_objects = 0
        self.num_repeated = 0  # images that came again: their first labels are kept
        self._form = format_named(to)
        if refusal := self._form.refusal(class_names):
            raise UsageError(f"--to {to}: {refusal}")
        require_free_folder(out, force=force)
        self._out, self._force = out, force
        self._class_names, self._least = tuple(class_names), least
        self._records: dict[Path, ImageRecord] = {}
        self._frames = beside(out.resolve(), f"{os.getpid()}.frames")  # where they wait
        self._videos: dict[str, str] = {}  # what their frames are called by

    def __enter__(self) -> FoundLabels:
        """Return this."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Remove the frames that are in no folder."""
        shutil.rmtree(self._frames, ignore_errors=True)

    @property
    def num_images(self) -> int:
        """How many images are labelled."""
        return len(self._records)

    def add(self, one: Prediction) -> str:
        """Add what was found in an image; return why the folder cannot have it, or "".

        One that could not be read is left out. Raises UsageError for an image in the folder that
        is to be written, and DetkitError where a frame cannot be.
        """
        found, path = one.predictions, Path(one.predictions.image)
        if found.error is not None or one.pixels is None:
            return ""
        frame = None if path.is_file() else FRAME.fullmatch(found.image)
        if frame is not None:
            path = self._frame_file(*frame.groups())
        elif reason := self._refusal(path):
            return reason
        key = path.resolve()
        if key in self._records:
            self.num_repeated += 1
            return ""
        if frame is not None:
            self._put(path, np.asarray(one.pixels, np.uint8))
        objects = tuple(self._objects(found))
        self.num_objects += len(objects)
        # What was found is all there is, be it nothing: the image is labelled.
        self._records[key] = ImageRecord(path.name, path, objects, label_file=path)
        return ""

    def write(self, progress: Callable[[int, int], None] | None = None) -> list[str]:
        """Write the folder; return what its format cannot hold, a sentence each.

        `progress` hears (images copied, images in all). Raises DetkitError where there is no
        image to label, or one cannot be copied; nothing is left then.
        """
        if not self._records:
            raise DetkitError(f"{self._out}: not written, as there is no image to label")
        dataset = self._dataset()
        convert(
            dataset,
            self._out,
            self._form.name,
            force=self._force,
            progress=progress,
            copy=self._copy,
            apart_from=(),  # no folder was read, but images; `add` has looked at each
        )
        return losses(dataset, self._form.name)

    def _dataset(self) -> Dataset:
        """Return the data set of all images, which are called as below the folder of them all."""
        records = list(self._records.values())
        files = [one.path.absolute() for one in records if not self._waits(one.path)]
        root = _common_folder(files) if files else self._frames
        named = [
            replace(one, image_id=one.path.absolute().relative_to(root).as_posix())
            if one.path.absolute().is_relative_to(root) and not self._waits(one.path)
            else one
            for one in records
        ]
        return Dataset(root, self._form.name, self._class_names, {"all": tuple(named)})

    def _refusal(self, path: Path) -> str:
        """Return why an image of a file cannot be in the folder, or ""."""
        if self._out.resolve() in path.resolve().parents:
            raise UsageError(f"{self._out}: {path} is read from there; name another folder")
        if not path.is_file():
            return "is there no more"
        if not is_plain(str(path)):
            return "its name is not UTF-8 or holds control characters; rename it"
        if not self._form.names_images and not is_image(path.suffix.lower()):
            how = f"{self._form.name} finds images by their usual suffixes alone"
            return f"{how}; save it as PNG or JPEG"
        return ""

    def _objects(self, found: ImagePredictions) -> Iterator[ObjectRecord]:
        """Yield an image's objects: the boxes with an area whose score is enough."""
        rows = zip(found.labels, exact(found.scores), exact(found.boxes), strict=True)
        for label, score, (x1, y1, x2, y2) in rows:
            if score >= self._least[label] and x1 < x2 and y1 < y2:
                yield ObjectRecord(label, (x1, y1, x2, y2), machine_made=True, score=score)

    def _frame_file(self, video: str, number: str) -> Path:
        """Return where a frame waits: frame 42 of `clip.mp4` is called `clip_00042.jpg`.

        Of another `clip.mp4` it is `clip-2_00042.jpg`.
        """
        if video not in self._videos:
            stem = Path(video).stem if Path(video).is_file() else video
            name = re.sub(r"[^\w.-]+", "_", stem).strip("._-") or "frame"
            taken = {one.casefold() for one in self._videos.values()}
            names = (f"{name}-{place}" if place > 1 else name for place in count(1))
            self._videos[video] = next(one for one in names if one.casefold() not in taken)
        return self._frames / fitting_name(f"{self._videos[video]}_{number}.jpg")

    def _put(self, path: Path, pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
        """Write a frame where it waits."""
        try:
            self._frames.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DetkitError(not_written(self._frames, error)) from error
        write_image(path, pixels)

    def _waits(self, path: Path) -> bool:
        """Return whether an image is a frame."""
        return path.parent == self._frames

    def _copy(self, source: Path, target: Path) -> None:
        """Copy the user's image, move a frame."""
        if self._waits(source):
            source.replace(target)
        else:
            shutil.copyfile(source, target)


def _common_folder(files: Iterable[Path]) -> Path:
    """Return the folder that holds all files; of several disks of Windows the first one's root."""
    parents = [str(file.parent) for file in files]
    with contextlib.suppress(ValueError):
        return Path(os.path.commonpath(parents))
    return Path(Path(parents[0]).anchor)
