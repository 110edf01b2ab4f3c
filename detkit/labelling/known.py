"""What is known of one image while it is labelled: its labels, size, and what is wrong with it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from detkit.data.checks.boxes import check_boxes
from detkit.data.checks.check import check
from detkit.data.formats.format import Format
from detkit.data.records import Dataset, Finding, ImageRecord
from detkit.labelling.labels import Labels, Size, to_json
from detkit.labelling.photos import Photo

# Of `check`, what is looked at here anew.
_OWN = ("unreadable-image", "missing-image", "missing-label")


@dataclass(slots=True)
class Known:
    """An image of the session."""

    photo: Photo
    labels: Labels
    size: Size | None = None  # upright, once the file was looked at
    problem: str = ""  # why it cannot be read
    place: str | None = None  # in the folder, once it was there
    findings: tuple[Finding, ...] = ()  # of `check`, about the image

    def judged(self, labels: Labels, form: Format) -> tuple[Finding, ...]:
        """Return the findings about the image, and what `check` says of the boxes of `labels`."""
        kept = [finding for finding in self.findings if finding.object_number is None]
        record = ImageRecord(self.photo.name, self.photo.path, labels.objects)
        return (*kept, *check_boxes(record, self.size, form))

    def told(self) -> list[dict[str, Any]]:
        """Return the findings as the page is told, the file's own first."""
        found = []
        if self.problem:
            found.append(_finding("error", "unreadable-image", self.problem))
        places = {thing.number for thing in self.labels.objects if not thing.region}
        for finding in self.findings:
            number = finding.object_number if finding.object_number in places else None
            found.append(_finding(finding.severity, finding.code, finding.message, number))
        return found


def source_findings(
    dataset: Dataset, by_name: Mapping[str, Known]
) -> Iterator[tuple[Known, Finding]]:
    """Yield what `check` says of whole images of a data set: copies, leaks, sizes; by image.

    Boxes are judged as they are now, by `Known.judged`, but for those with a value that is no
    number, which are not taken over. Raises DetkitError as `check` does.
    """
    for finding in check(dataset):
        one = by_name.get(finding.image_id or "")
        if one is None or finding.code in _OWN:
            continue
        number, message = finding.object_number, finding.message
        if number is not None:
            if one.photo.record is None or not _is_left_out(one.photo.record, number):
                continue
            message = f"object {number} of the source: {message}"
        yield one, replace(finding, object_number=None, message=message)


def _is_left_out(record: ImageRecord, number: int) -> bool:
    """Return whether an object of a data set has a value that is no number."""
    objects = (thing for thing in record.objects if thing.number == number)
    return any(not math.isfinite(value) for thing in objects for value in thing.box)


def line_of(one: Known) -> dict[str, Any]:
    """Return the journal's line of an image."""
    return {
        "image": one.photo.name,
        "split": one.photo.split,
        "revision": one.labels.revision,
        "state": one.labels.state,
        "place": one.place,
        "size": None if one.size is None else list(one.size),
        "objects": [to_json(thing) for thing in one.labels.objects],
    }


def _finding(severity: str, code: str, message: str, number: int | None = None) -> dict[str, Any]:
    return {"severity": severity, "code": code, "message": message, "object": number}
