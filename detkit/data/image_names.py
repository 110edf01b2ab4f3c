"""Which image of a split a name means, whatever way a tool has to name images."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import PurePosixPath
from urllib.parse import unquote

from detkit.data.records import ImageRecord
from detkit.errors import DetkitError
from detkit.text import counted, nearest_name

COCO_NUMBER = re.compile(r"(?:COCO_(?:train|val|test)\d{4}_)?0*(\d+)")


class ImageNames:
    """Finds the image that a name means: a path, the end of one, a stem or a COCO id."""

    def __init__(self, records: Sequence[ImageRecord]) -> None:
        """Gather all the names that the records go by."""
        self.records = records
        self.has_keys = any(record.key is not None for record in records)
        self.exact: dict[str, list[int]] = {}
        self.ends: dict[str, list[int]] = {}  # "c.jpg", "b/c.jpg", "a/b/c.jpg"
        self.stems: dict[str, list[int]] = {}
        self.folded: dict[str, list[int]] = {}  # names and stems without case and signs' forms
        self.keys: dict[str, list[int]] = {}
        self.numbers: dict[str, list[int]] = {}  # of names like 000000000139.jpg
        for index, record in enumerate(records):
            parts = PurePosixPath(_slashed(record.image_id)).parts
            for first in range(len(parts)):
                self.ends.setdefault("/".join(parts[first:]), []).append(index)
            for name in {_slashed(record.image_id), _slashed(str(record.path))}:
                self.exact.setdefault(name, []).append(index)
            stem = PurePosixPath(parts[-1]).stem if parts else record.image_id
            self.stems.setdefault(stem, []).append(index)
            for name in {parts[-1] if parts else record.image_id, stem}:
                self.folded.setdefault(_folded(name), []).append(index)
            number = COCO_NUMBER.fullmatch(stem)
            if number:
                self.numbers.setdefault(number[1], []).append(index)
            if record.key is not None:
                self.keys.setdefault(record.key, []).append(index)

    def fitting(self, image: str) -> list[int]:
        """Return the numbers of the records that `image` may name, by the closest way.

        A bare number is first of all a COCO id, where the data set has such ids.
        """
        if image.isdecimal():
            return self.keys.get(image) or self.closest(image)[1]
        return self.closest(image)[1] or self.keys.get(image, [])

    def closest(self, image: str, *, is_number: bool = False) -> tuple[int, list[int]]:
        """Return the numbers of the records that `image` names by the closest way, and its rank.

        `is_number` says that 7 may stand for 0007.jpg also where the images have ids. The ranks
        of one name compare over several data sets; 0 is its whole path.
        """
        path = PurePosixPath(_slashed(image))
        parts = path.parts
        ways = [self.exact.get(_slashed(image), [])]
        ways += [self.ends.get("/".join(parts[first:]), []) for first in range(len(parts))]
        ways += [self.stems.get(path.name, []), self.stems.get(path.stem, [])]
        numbers = image.isdecimal() and (is_number or not self.has_keys)
        ways.append(self.numbers.get(image.lstrip("0") or "0", []) if numbers else [])
        ways.append(self.folded.get(_folded(path.name), []))
        ways.append(self.folded.get(_folded(path.stem), []))
        found = ((rank, indices) for rank, indices in enumerate(ways) if indices)
        return next(found, (len(ways), []))

    def is_folded(self, image: str) -> bool:
        """Return whether a name fits without regard to case, or to how its signs are written."""
        path = PurePosixPath(_slashed(image))
        rank, indices = self.closest(image)
        return bool(indices) and rank >= len(path.parts) + 4

    def find(self, image: str) -> int:
        """Return the number of the record that `image` names.

        Raises DetkitError, with the names, when no record or more than one fits.
        """
        fitting = self.fitting(image)
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            first, second = (self.records[index].image_id for index in fitting[:2])
            raise DetkitError(
                f"prediction for {image!r}: both {first} and {second} may be meant; name images "
                "by their path in the data set"
            )
        near = nearest_name(PurePosixPath(_slashed(image)).name, self._file_names())
        hint = f"the nearest name there is {near!r}" if near else "are these of another split?"
        raise DetkitError(
            f"prediction for {image!r}: not among the split's "
            f"{counted(len(self.records), 'image')}; {hint}"
        )

    def _file_names(self) -> list[str]:
        return [PurePosixPath(_slashed(record.image_id)).name for record in self.records]


def _folded(name: str) -> str:
    """Return a file name without case, with signs for %20 and the like, accents in one form."""
    plain = unquote(name.split("?", 1)[0]) if "%" in name or "?" in name else name
    return unicodedata.normalize("NFC", plain).casefold()


def _slashed(name: str) -> str:
    """Return a path as it is written on every system but one."""
    return name.replace("\\", "/")
