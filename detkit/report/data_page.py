"""The page of a labelled folder: its counts, findings, objects and sizes, one file to look at.

It stays below 10 MB however large the folder: pictures and texts have budgets, and where one is
used up fewer of them are shown, and the page says how many of how many.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from detkit.data.checks.check import format_finding
from detkit.data.images import image_size
from detkit.data.records import Dataset, Finding
from detkit.data.summary import SplitSummary, data_hash, summarize
from detkit.errors import DetkitError
from detkit.files import write_bytes
from detkit.report.data_samples import Places, fair_order, images_of, sample_objects
from detkit.report.finding_pictures import Shot, shots_of
from detkit.report.network_sizes import NetworkSizes, sizes_to_page
from detkit.report.page import render
from detkit.report.small_pictures import Taken, Wish, take_pictures
from detkit.text import counted, printable

MOST_BYTES = 10_000_000  # of the page; what follows usually adds up to less, and where it ...
ROOMS = (1.0, 0.5, 0.2, 0.05, 0.0)  # ... does not, these parts of it are tried one by one
PICTURE_BYTES = 3_000_000  # of the findings' pictures; a third more as base64
CROP_BYTES = 2_100_000  # of the objects' pictures
TEXT_BYTES = 1_200_000  # of the findings' texts
MOST_FINDINGS = 2000
MOST_CLASSES = 1000  # in tables and filters
CROP_SIDE = 112  # pixels
LONGEST_TEXT = 600  # signs of a finding
LONGEST_NAME = 120  # signs of a class or an image
AROUND = 0.15  # of an object's longer side, that its crop shows around it, and ...
LEAST_AROUND = 4.0  # ... own pixels, at least


def write_data_page(
    path: Path,
    dataset: Dataset,
    findings: Sequence[Finding],
    *,
    sizes: Sequence[NetworkSizes] = (),
    notes: Sequence[str] = (),
    read_images: bool = True,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the page of a data set and of what `check` found in it.

    `sizes` are its objects on the images of networks, `notes` what a reader has to know. Without
    `read_images` there are no pictures, frames of the stated sizes stand for them. `progress`
    hears (pictures taken, in all). Raises DetkitError when the file cannot be written.
    """
    for room in ROOMS:
        content = _page(dataset, findings, sizes, notes, read_images, threads, progress, room)
        if len(content) <= MOST_BYTES:
            break
    write_bytes(path, content)


def _page(
    dataset: Dataset,
    findings: Sequence[Finding],
    sizes: Sequence[NetworkSizes],
    notes: Sequence[str],
    read_images: bool,
    threads: int,
    progress: Callable[[int, int], None] | None,
    room: float,
) -> bytes:
    """Return the page with so much of its budgets, 0 to 1, of pictures and findings."""
    summary = summarize(dataset)
    classes = _class_names(summary)
    splits = list(dataset.splits)
    shown = _shown(findings, dataset.root, room)
    shots = shots_of([finding for finding, _ in shown], Places(dataset))
    wishes = [wish for wish in shots.wishes if read_images]
    objects = sample_objects(dataset) if read_images else []
    crops = [Wish(one.record.path, CROP_SIDE, _around(one.box)) for one in objects]
    every = len(set(wishes)) + len(set(crops))

    def told(before: int) -> Callable[[int, int], None] | None:
        return None if progress is None else lambda done, _: progress(before + done, every)

    taken, unread = take_pictures(
        wishes, int(room * PICTURE_BYTES), threads=threads, progress=told(0)
    )
    cut, _ = take_pictures(
        [wish for wish in crops if wish.path not in unread],
        int(room * CROP_BYTES),
        threads=threads,
        progress=told(len(set(wishes))),
    )
    index = {name: place for place, name in enumerate(classes[:MOST_CLASSES])}
    held: dict[Path, list[int]] = {}
    for place, members in enumerate(dataset.splits.values()):
        for record in members:
            held.setdefault(record.path, []).append(place)
    source_of = {wish: place for place, wish in enumerate(taken)}
    pictures = [
        _picture(shot, taken, unread, index, read_images) | {"source": source_of.get(shot.wish, -1)}
        for shot in shots.shots
    ]
    cards = [
        {
            "finding": finding,
            "text": text,
            "shots": of_finding,
            "classes": _classes_of(finding, of_finding, shots.shots, index),
            "splits": _splits_of(finding, of_finding, shots.shots, held, splits),
        }
        for (finding, text), of_finding in zip(shown, shots.of_findings, strict=True)
    ]
    data = {
        "classes": [_named(name) for name in index],
        "splits": [_named(name) for name in splits],
        "findings": [
            {
                "severity": finding.severity,
                "code": finding.code,
                "classes": card["classes"],
                "splits": card["splits"],
                "shots": card["shots"],
            }
            for (finding, _), card in zip(shown, cards, strict=True)
        ],
        "pictures": pictures,
        "sources": [taken[wish].source for wish in source_of],
        "crops": [
            _crop(cut[wish], one.box)
            | {
                "class": index.get(one.name, -1),
                "splits": held[one.record.path],
                "kind": one.kind,
                "name": _named(one.record.image_id),
            }
            for one, wish in zip(objects, crops)
            if wish in cut
        ],
        "counts": [sum(one.class_counts.get(name, 0) for one in summary) for name in index],
        "sizes": sizes_to_page(sizes, index, held),
    }
    page = render(
        "data.html.j2",
        title=f"{_named(dataset.root.absolute().name)}: the data",
        data=data,
        facts=_facts(dataset, findings),
        notes=[*notes, *_notes(findings, shown)],
        summary=summary,
        classes=[(name, _named(name)) for name in classes[:MOST_CLASSES]],
        num_classes=len(classes),
        rules=_rules(findings, shown),
        cards=cards,
        copies=[place for place, (finding, _) in enumerate(shown) if finding.others],
        others=[place for place, (finding, _) in enumerate(shown) if not finding.others],
        sizes=sizes,
    )
    return page.encode("utf-8", errors="replace")


def _class_names(summary: Sequence[SplitSummary]) -> list[str]:
    """Return the classes of all splits, the data set's own first."""
    return list(dict.fromkeys(name for split in summary for name in split.class_counts))


def _named(name: str) -> str:
    """Return a name as the page shows it: one line, without its middle where it is endless."""
    name = printable(name)
    half = LONGEST_NAME // 2 - 2
    return name if len(name) <= LONGEST_NAME else f"{name[:half]} ... {name[-half:]}"


def _shown(findings: Sequence[Finding], root: Path, room: float) -> list[tuple[Finding, str]]:
    """Return the findings that the page has room for, errors first and by code, with their text."""
    used, kept = 0, []
    for place in fair_order(findings)[: int(room * MOST_FINDINGS)]:
        text = format_finding(findings[place], root)
        if len(text) > LONGEST_TEXT:
            text = f"{text[: LONGEST_TEXT // 2]} ... {text[-LONGEST_TEXT // 2 :]}"
        used += len(html.escape(text).encode("utf-8", errors="replace"))
        if used > room * TEXT_BYTES:
            break
        kept.append((place, text))
    codes = {code: rank for rank, code in enumerate(dict.fromkeys(one.code for one in findings))}
    kept.sort(key=lambda pair: _rank(findings[pair[0]], codes, pair[0]))
    return [(findings[place], text) for place, text in kept]


def _rank(finding: Finding, codes: dict[str, int], place: int) -> tuple[bool, int, int]:
    return finding.severity != "error", codes[finding.code], place


def _around(box: Sequence[float]) -> tuple[float, float, float, float]:
    """Return the window of an object's crop."""
    x1, y1, x2, y2 = box
    margin = max(LEAST_AROUND, AROUND * max(x2 - x1, y2 - y1))
    return x1 - margin, y1 - margin, x2 + margin, y2 + margin


def _crop(taken: Taken, box: Sequence[float]) -> dict[str, Any]:
    """Return an object's picture as JSON values, its box in own pixels of the crop."""
    left, top, right, bottom = taken.window
    x1, y1, x2, y2 = box
    return {
        "source": taken.source,
        "width": right - left,
        "height": bottom - top,
        "box": [round(v, 1) for v in (x1 - left, y1 - top, x2 - left, y2 - top)],
    }


def _picture(
    shot: Shot,
    taken: dict[Wish, Taken],
    unread: dict[Path, str],
    index: dict[str, int],
    read_images: bool,
) -> dict[str, Any]:
    """Return a picture of a finding as JSON values; a frame says why where there is none."""
    one = taken.get(shot.wish)
    record = shot.record
    why = ""
    if one is not None:
        height, width = one.size
        window = one.window
    else:
        width, height = _frame(shot, read_images)
        window = shot.wish.window or (0, 0, width, height)
        why = _why_none(shot, unread, read_images)
    left, top, right, bottom = window
    return {
        "name": _named(record.image_id),
        "why": why,
        "width": round(right - left, 1),
        "height": round(bottom - top, 1),
        "whole": [width, height],
        "close": shot.wish.window is not None,
        "boxes": [
            [index.get(name, -1), int(marked), *(round(v, 1) for v in _moved(box, left, top))]
            for name, box, marked in shot.boxes
        ],
    }


def _moved(box: Sequence[float], left: float, top: float) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = box
    return x1 - left, y1 - top, x2 - left, y2 - top


def _frame(shot: Shot, read_images: bool) -> tuple[int, int]:
    """Return the (width, height) of the frame that stands for a picture that is not there."""
    if read_images:
        try:
            height, width = image_size(shot.record.path)
            return width, height
        except (DetkitError, ValueError):
            pass
    stated = shot.record.width or 0, shot.record.height or 0
    if min(stated) > 0:
        return stated
    corners = [box for _, box, _ in shot.boxes]
    right = max((max(box[0], box[2]) for box in corners), default=0.0)
    bottom = max((max(box[1], box[3]) for box in corners), default=0.0)
    return (round(right), round(bottom)) if min(right, bottom) >= 1 else (400, 300)


def _why_none(shot: Shot, unread: dict[Path, str], read_images: bool) -> str:
    """Return why a finding has no picture."""
    if not read_images:
        return "not opened (--no-images)"
    try:
        is_there = shot.record.path.is_file()
    except (OSError, ValueError):
        is_there = False
    if not is_there:
        return "no such image"
    reason = unread.get(shot.record.path)
    return f"cannot be read: {_named(reason)}" if reason else "no room for its picture"


def _classes_of(
    finding: Finding, of_finding: Sequence[int], shots: Sequence[Shot], index: dict[str, int]
) -> list[int]:
    """Return the classes that a finding has to do with: the one it names, else its images'."""
    if finding.class_name is not None:
        names = {finding.class_name}
    else:
        names = {one.name for place in of_finding for one in shots[place].record.counted}
    return sorted(index[name] for name in names if name in index)


def _splits_of(
    finding: Finding,
    of_finding: Sequence[int],
    shots: Sequence[Shot],
    held: dict[Path, list[int]],
    splits: Sequence[str],
) -> list[int]:
    """Return the splits that a finding has to do with: its own, and those of its images."""
    found = {split for place in of_finding for split in held.get(shots[place].record.path, ())}
    if finding.split in splits:
        found.add(splits.index(finding.split))
    return sorted(found)


def _rules(
    findings: Sequence[Finding], shown: Sequence[tuple[Finding, str]]
) -> list[tuple[str, str, int, int]]:
    """Return (code, severity, findings, of which are shown) of each rule, errors first."""
    counts: dict[tuple[str, str], list[int]] = {}
    for one in findings:
        counts.setdefault((one.code, one.severity), [0, 0])[0] += 1
    for one, _ in shown:
        counts[one.code, one.severity][1] += 1
    rows = [(code, severity, many, few) for (code, severity), (many, few) in counts.items()]
    return sorted(rows, key=lambda row: row[1] != "error")


def _facts(dataset: Dataset, findings: Sequence[Finding]) -> list[tuple[str, str]]:
    """Return what was looked at, as pairs of words."""
    errors = sum(one.severity == "error" for one in findings)
    images = images_of(dataset)
    return [
        ("Data", f"{printable(str(dataset.root))} ({dataset.format})"),
        ("Data hash (SHA-256)", data_hash(dataset)),
        ("Images", f"{len(images):,}"),
        ("Objects", f"{sum(len(record.counted) for record in images):,}"),
        ("Classes", f"{len(dataset.class_names):,}"),
        ("Found", f"{counted(errors, 'error', ',')}, "
         f"{counted(len(findings) - errors, 'warning', ',')}"),
    ]  # fmt: skip


def _notes(findings: Sequence[Finding], shown: Sequence[tuple[Finding, str]]) -> list[str]:
    """Return what the page itself has to say of what it shows."""
    if len(shown) == len(findings):
        return []
    return [
        f"Of {counted(len(findings), 'finding', ',')} {len(shown):,} are shown, some of every "
        "rule; detkit check lists them all."
    ]
