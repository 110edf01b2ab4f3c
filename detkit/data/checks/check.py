"""Everything that is wrong or odd in a labelled folder, one finding each.

An **error** would make training or a score wrong: a box with no area, with its corners
swapped, not finite or outside its image; labels made for another image size or for the
unrotated pixels; an image that is missing or unreadable; a label file that is unreadable
or missing (YOLO: a missing file is the usual way to say "no object", so a warning).
A **warning** is worth a look: duplicates, leaks between splits, names that look like one
name spelt twice, sizes that disagree, labels that seem to count pixels from 0.

Each image file is opened once, by a thread of many. Its header gives the size, its last bytes
tell whether it is whole. Only those that seem cut are decoded, and those looked at for copies
between splits, these small; only files of equal size are hashed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from detkit.data.checks.boxes import Size, check_boxes, check_origin, check_shares, fits
from detkit.data.checks.leaks import check_leaks, compared
from detkit.data.checks.sets import (
    check_duplicates,
    check_images,
    check_names,
    check_splits,
    check_unlabelled,
    check_unused_content,
)
from detkit.data.formats.format import Format
from detkit.data.formats.reading import format_of
from detkit.data.groups import MOST_LOOKED_AT
from detkit.data.image_files import ImageFiles, open_images
from detkit.data.image_headers import ImageHeader
from detkit.data.records import Dataset, Finding, ImageRecord
from detkit.machine import paused_collector
from detkit.text import printable

MAX_LINE = 2000  # signs of a finding; all 80 names of COCO's classes fit
SAME_SCALE = 0.01  # relative difference of two scales that still count as one resize

_UNTURN = (
    "take the orientation out of the file (exiftool -Orientation= FILE) to keep the labels, or "
    "label it again"
)
_LOSSES = frozenset(["missing-image", "unreadable-image", "missing-label"])


def check(
    dataset: Dataset,
    *,
    read_images: bool = True,
    progress: Callable[[int, int], None] | None = None,
    group: str = "auto",
    most_compared: int = MOST_LOOKED_AT,
) -> list[Finding]:
    """Return every finding, the reader's own first, then image by image, then of the whole.

    Without `read_images` no image file is opened: boxes are held against the stated size and
    duplicates are not looked for. `progress` hears (images done, images in all). Copies between
    splits are not looked for among more than `most_compared`. `group` is the rule by which images
    are of one recording; raises as `groups.find_groups`.
    """
    with paused_collector():
        return _check(dataset, read_images, progress, group, most_compared)


def _check(
    dataset: Dataset,
    read_images: bool,
    progress: Callable[[int, int], None] | None,
    group: str,
    most_compared: int,
) -> list[Finding]:
    """Return what `check` does."""
    form = format_of(dataset)
    findings = [*dataset.findings, *check_images(dataset)]
    known = {(one.code, one.image_id, one.object_number) for one in findings}
    records = {
        (record.image_id, record.path): (split, record)
        for split, members in dataset.splits.items()
        for record in members
    }
    files = None
    if read_images:
        paths = [record.path for _, record in records.values()]
        held = compared(dataset)
        files = open_images(
            paths,
            headers=True,
            dated=held if group == "auto" else (),
            looked_at=held if len(held) <= most_compared else (),
            progress=progress,
        )
    for split, record in records.values():
        for finding in _check_image(form, record, files):
            if (finding.code, finding.image_id, finding.object_number) not in known:
                findings.append(replace(finding, split=split))
    if files is not None:
        findings += [*_turned_like(records.values(), findings, files)]
    findings += check_origin((record for _, record in records.values()), form)
    findings += check_shares((record for _, record in records.values()), form)
    findings += check_unlabelled(dataset)
    findings += check_splits(dataset)
    findings += check_names(dataset)
    if files is not None:
        findings += check_duplicates(dataset, files)
        findings += check_leaks(dataset, files, group)
        findings += check_unused_content(files.files)
    return findings


def find_losses(dataset: Dataset) -> list[Finding]:
    """Return the errors by which a copy of the data set would lose labels or images.

    Labels that cannot be read, missing label files, and images that are missing or unreadable;
    a box that makes no sense is not lost, it stands in the copy as it does here.
    """
    findings = [one for one in dataset.findings if one.severity == "error"]
    findings += check_images(dataset)
    known = {one.image_id for one in findings if one.image_id and one.object_number is None}
    records = {record.image_id: record for members in dataset.splits.values() for record in members}
    sound = [record for record in records.values() if record.image_id not in known]
    files = open_images((record.path for record in sound), headers=True, digests=False)
    for record in sound:
        findings += [
            one
            for one in _check_image(format_of(dataset), record, files)
            if one.severity == "error" and one.code in _LOSSES
        ]
    return findings


def drop_bad(dataset: Dataset, findings: Sequence[Finding]) -> tuple[Dataset, int]:
    """Return the data set without what the errors name, and how many objects or images that was.

    An error that names an object drops that object; one that names an image only drops the
    image; a file of other class names than those in use drops the images labelled beside it.
    What the reader could not read is already absent and is counted. Warnings drop nothing.
    """
    errors = [one for one in findings if one.severity == "error"]
    images = {one.image_id for one in errors if one.image_id and one.object_number is None}
    misnamed = {one.file.parent for one in errors if one.code == "names-differ" and one.file}
    images |= {
        record.image_id
        for members in dataset.splits.values()
        for record in members
        if record.label_file and record.label_file.parent in misnamed
    }
    objects = {
        (one.image_id, one.object_number)
        for one in errors
        if one.object_number is not None and one.image_id not in images
    }
    rows = {
        (one.file, one.line)
        for one in errors
        if one.image_id is None and one.file and one.code != "names-differ"
    }

    def kept(record: ImageRecord) -> ImageRecord:
        sound = tuple(
            one
            for place, one in enumerate(record.objects, start=1)
            if (record.image_id, one.number or place) not in objects
        )
        return record if len(sound) == len(record.objects) else replace(record, objects=sound)

    splits = {
        name: tuple(kept(record) for record in members if record.image_id not in images)
        for name, members in dataset.splits.items()
    }
    return replace(dataset, splits=splits), len(images) + len(objects) + len(rows)


def format_finding(finding: Finding, root: Path) -> str:
    """Return `file:line: object n "class": what (values); what to do`, file relative to `root`."""
    where = _where(finding, root) or "data set"
    if finding.line is not None:
        where += f":{finding.line}"
    what = ""
    if finding.object_number is not None:
        what = f"object {finding.object_number}"
        what += f' "{finding.class_name}": ' if finding.class_name is not None else ": "
    return _cut(printable(f"{where}: {what}{finding.message}"))


def _cut(line: str) -> str:
    """Return a line without its middle when it is endless: a label file may state anything."""
    half = MAX_LINE // 2
    return line if len(line) <= MAX_LINE else f"{line[:half]} ... {line[-half:]}"


def findings_to_json(findings: Iterable[Finding], root: Path) -> list[dict[str, Any]]:
    """Return the findings as JSON values, one object each; what is not known is null."""
    return [
        {
            "severity": one.severity,
            "code": one.code,
            "file": _where(one, root),
            "line": one.line,
            "object": one.object_number,
            "class": one.class_name,
            "image": one.image_id,
            "split": one.split,
            "message": one.message,
        }
        for one in findings
    ]


def _where(finding: Finding, root: Path) -> str | None:
    """Return the finding's file relative to `root` if it is below it, else the image's id."""
    if finding.file is None:
        return finding.image_id
    try:
        return finding.file.absolute().relative_to(root.absolute()).as_posix()
    except ValueError:
        return finding.file.as_posix()


def _finding(severity: str, code: str, record: ImageRecord, message: str) -> Finding:
    """Return a finding about an image."""
    return Finding(
        severity, code, message, file=record.label_file or record.path, image_id=record.image_id
    )


def _check_image(form: Format, record: ImageRecord, files: ImageFiles | None) -> Iterator[Finding]:
    """Yield what is wrong with one image, its size and its boxes; without `files` by its labels."""
    exists = record.path.is_file()
    if record.label_file is None and exists and not form.unlabelled_is_empty:
        message = "no label file for this image; label it, or take it off the list"
        yield _finding("error", "missing-label", record, message)
    size = None
    if not exists:
        advice = "delete its labels" if record.label_file else "take it off the list"
        message = f"no such image ({record.image_id}); put it there or {advice}"
        yield _finding("error", "missing-image", record, message)
    elif files is not None:
        file = files[record.path]
        if file.header is None or file.problem:
            finding = _finding("error", "unreadable-image", record, file.problem)
            yield replace(finding, file=record.path)
        else:
            size = file.size
            yield from _check_size(record, file.header)
    if size is None and record.width and record.height:
        size = (record.height, record.width)
    yield from check_boxes(record, size, form)


def _unrotated(record: ImageRecord, upright: Size, stored: Size) -> Finding:
    """Return what it means that the size stated is the one before the EXIF turn."""
    as_stated, real = f"{stored[1]}x{stored[0]}", f"{upright[1]}x{upright[0]}"
    only_stored = any(fits(one, stored) and not fits(one, upright) for one in record.objects)
    only_upright = any(fits(one, upright) and not fits(one, stored) for one in record.objects)
    if not record.objects or (only_upright and not only_stored):
        message = (
            f"the size stated ({as_stated}) is the image's as stored; upright, as its EXIF "
            f"orientation has it and boxes are taken, it is {real}: correct the size"
        )
        return _finding("warning", "size-mismatch", record, message)
    message = (
        f"the labels are made for the image as stored ({as_stated}), but its EXIF orientation "
        f"turns it upright ({real}); {_UNTURN}"
    )
    return _finding("error", "unrotated-labels", record, message)


def _turned_like(
    members: Iterable[tuple[str, ImageRecord]], found: Sequence[Finding], files: ImageFiles
) -> Iterator[Finding]:
    """Yield the errors of images whose size tells no turn, where that of others shows they count.

    EXIF's orientations 2 to 4 keep an image's size, and all keep that of a square one.
    """
    others = [one for one in found if one.code == "unrotated-labels"]
    if not others:
        return
    known = {one.image_id for one in found if one.severity == "error"}
    for split, record in members:
        header = files[record.path].header
        if record.image_id in known or not record.objects or header is None:
            continue
        if header.orientation != 1 and header.stored_size == header.upright_size:
            message = (
                f"its EXIF orientation turns or mirrors it, and the labels of {others[0].image_id} "
                f"are made for the image as stored, so these will be, too; {_UNTURN}"
            )
            yield replace(_finding("error", "unrotated-labels", record, message), split=split)


def _check_size(record: ImageRecord, header: ImageHeader) -> Iterator[Finding]:
    """Yield what the stated size says against the real one, upright and as stored."""
    if not record.width or not record.height or not record.label_file:
        return
    stated, upright = (record.height, record.width), header.upright_size
    if stated == upright:
        return
    as_stated = f"{stated[1]}x{stated[0]}"
    real = f"{upright[1]}x{upright[0]}"
    if stated == upright[::-1] == header.stored_size:
        yield _unrotated(record, upright, header.stored_size)
        return
    scales = (upright[0] / stated[0], upright[1] / stated[1])
    resized = abs(scales[0] / scales[1] - 1) <= SAME_SCALE and abs(scales[0] - 1) > SAME_SCALE
    if resized and record.objects:
        yield _finding(
            "error",
            "resized-image",
            record,
            f"the size stated ({as_stated}) is not the image's ({real}), {scales[0]:.3g} times as "
            "large; resized after labelling? scale the boxes or restore the image",
        )
    else:
        yield _finding(
            "warning",
            "size-mismatch",
            record,
            f"the size stated ({as_stated}) is not the image's ({real}), which is what counts; "
            "see whether the boxes fit the image",
        )
