"""Drawings of what was found: images with their boxes, each under a name of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from detkit.cli.console import Console
from detkit.errors import DetkitError, UsageError
from detkit.files import fitting_name, is_full, make_folder, not_written, remove_empty

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from detkit.inference.strips import Strips
    from detkit.predictions.image import ImagePredictions


class Drawings:
    """Writes images with their boxes into a folder, each under a name of its own."""

    def __init__(
        self, folder: Path | None, class_names: Sequence[str], least: Mapping[str, float]
    ) -> None:
        """Draw boxes whose score is at least their class's."""
        self._folder = folder
        self._class_names = class_names
        self._least = least
        self._taken: set[str] = set()
        self.count = 0  # images written

    def add(self, found: ImagePredictions, pixels: NDArray[np.uint8] | Strips) -> None:
        """Draw one image and write it; raises DetkitError when it cannot be written.

        UsageError when it would be written over the image itself.
        """
        import numpy as np

        from detkit.data.images import write_image
        from detkit.drawing import draw

        if self._folder is None:
            return
        shown = [
            index
            for index, (label, score) in enumerate(zip(found.labels, found.scores.tolist()))
            if score >= self._least[label]
        ]
        picture = draw(
            np.asarray(pixels, np.uint8),
            [found.labels[index] for index in shown],
            found.boxes[shown],
            found.scores[shown],
            class_names=self._class_names,
        )
        target = self._folder / self._free_name(found.image)
        try:
            made = make_folder(self._folder)
        except OSError as error:
            raise DetkitError(not_written(self._folder, error)) from error
        if target.exists() and Path(found.image).exists() and target.samefile(found.image):
            raise UsageError(f"--draw {self._folder}: {target} is {found.image} itself, by a link")
        try:
            write_image(target, picture)
        except DetkitError:
            remove_empty(made)
            raise
        self.count += 1

    def _free_name(self, image: str) -> str:
        """Return the image's name, with as many of its folders as it takes to be its own."""
        from detkit.data.images import WRITTEN_SUFFIXES
        from detkit.data.videos import is_stream

        parts = PurePath(image).parts
        suffix = PurePath(image).suffix.lower()
        ending = "" if suffix in WRITTEN_SUFFIXES else ".jpg"
        if is_stream(image.rpartition("#")[0]):  # whose colons no file of Windows can have
            parts = (re.sub(r'[:*?"<>|]', "_", parts[-1]),)
        for count in range(1, len(parts) + 1):
            name = "_".join(part.strip("/\\:.") or "_" for part in parts[-count:-1])
            name = fitting_name(f"{name}_{parts[-1]}{ending}" if name else f"{parts[-1]}{ending}")
            if name.casefold() not in self._taken:  # macOS and Windows tell no case apart
                break
        else:
            name = fitting_name(f"{len(self._taken) + 1}_{parts[-1]}{ending}")
        self._taken.add(name.casefold())
        return name


def was_drawn(
    console: Console,
    drawings: Drawings,
    found: ImagePredictions,
    pixels: NDArray[np.uint8] | Strips,
) -> bool:
    """Return whether an image was drawn; a line says why it was not.

    Raises DetkitError when the disk is full: no other would be drawn either.
    """
    try:
        drawings.add(found, pixels)
    except UsageError:
        raise
    except DetkitError as error:
        if isinstance(error.__cause__, OSError) and is_full(error.__cause__):
            raise
        console.warn(str(error))
        return False
    return True
