"""Which pictures show what a finding is about: its images with their boxes, small ones close up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from detkit.data.records import Finding, ImageRecord, ObjectRecord
from detkit.report.data_samples import Places, marked_objects
from detkit.report.small_pictures import Wish

MOST_BOXES = 60  # of one picture, and ...
MOST_OF_ALL = 20_000  # ... of all pictures
MOST_OF_A_FINDING = 6  # images: of a hundred copies of one image six say enough
LARGEST_SIDE, LEAST_SIDE = 360, 128  # pixels of a picture's longer side
CLOSE_UP_SIDE = 160
SMALL = 0.06  # of the image's longer side: smaller objects are shown close up, too
AROUND = 1.5  # times an object's longer side that is shown around it, and ...
LEAST_AROUND = 16.0  # ... own pixels, at least
_PIXELS = 2_100_000 / 0.075  # of all pictures together, at so many bytes a pixel


@dataclass(frozen=True, slots=True)
class Shot:
    """A picture of a finding, and the boxes on it: (class, xyxy in own pixels, is it marked)."""

    record: ImageRecord
    wish: Wish
    boxes: tuple[tuple[str, tuple[float, float, float, float], bool], ...]


@dataclass(frozen=True, slots=True)
class Shots:
    """The pictures of findings."""

    shots: list[Shot]
    of_findings: list[list[int]]  # of each finding, the places of its pictures
    wishes: list[Wish]  # those to take first at the beginning


def picture_side(num_pictures: int) -> int:
    """Return the longer side, pixels, at which so many pictures fit on a page."""
    side = math.sqrt(_PIXELS / 0.75 / max(1, num_pictures))
    return int(min(LARGEST_SIDE, max(LEAST_SIDE, side)))


def shots_of(findings: Sequence[Finding], places: Places) -> Shots:
    """Return the pictures of each finding: of its images, and close-ups of small objects."""
    images = [places.images(finding)[:MOST_OF_A_FINDING] for finding in findings]
    side = picture_side(len({record.path for many in images for record in many}))
    most = min(MOST_BOXES, MOST_OF_ALL // max(1, sum(map(len, images))))
    shots: list[Shot] = []
    of_findings: list[list[int]] = []
    ranks: dict[str, int] = {}
    order: list[tuple[int, int]] = []
    for finding, records in zip(findings, images):
        before = len(shots)
        for place, record in enumerate(records):
            marked = marked_objects(finding, record) if place == 0 else []
            boxes = _boxes(record, marked, most)
            shots.append(Shot(record, Wish(record.path, side), boxes))
            if finding.object_number is not None and len(marked) == 1:
                window = _close_up(record, marked[0])
                if window is not None:
                    shots.append(Shot(record, Wish(record.path, CLOSE_UP_SIDE, window), boxes))
        of_findings.append(list(range(before, len(shots))))
        rank = ranks[finding.code] = ranks.get(finding.code, -1) + 1
        order += [(rank, place) for place in of_findings[-1]]
    return Shots(shots, of_findings, [shots[place].wish for _, place in sorted(order)])


def _boxes(
    record: ImageRecord, marked: Sequence[ObjectRecord], most: int
) -> tuple[tuple[str, tuple[float, float, float, float], bool], ...]:
    """Return the finite boxes of an image, those that are marked last: they lie on top."""
    own = {id(one) for one in marked}
    others = [one for one in record.objects if id(one) not in own]
    chosen = [*others[: max(0, most - len(marked))], *marked[: max(1, most)]]
    return tuple(
        (one.name, one.box, id(one) in own) for one in chosen if all(map(math.isfinite, one.box))
    )


def _close_up(record: ImageRecord, one: ObjectRecord) -> tuple[float, float, float, float] | None:
    """Return the window around an object that is small in its image; None: it is not."""
    if not all(map(math.isfinite, one.box)):
        return None
    x1, x2 = sorted((one.box[0], one.box[2]))
    y1, y2 = sorted((one.box[1], one.box[3]))
    longer = max(x2 - x1, y2 - y1)
    size = max(record.width or 0, record.height or 0)
    if not size or longer >= SMALL * size:
        return None
    half = max(LEAST_AROUND, (0.5 + AROUND) * longer)
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    return x - half, y - half, x + half, y + half
