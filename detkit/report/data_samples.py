"""What of a data set is shown on its page: a fair sample of its objects, and of its findings.

Both are in an order of which any beginning is fair, so that a page with less room shows less of
everything and nothing of no kind.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from detkit.data.records import Dataset, Finding, ImageRecord, ObjectRecord

MOST_OF_A_CLASS = 24  # objects
MOST_OBJECTS = 1800  # of all classes together
EXTREMES = ("smallest", "largest", "narrowest", "widest")

One = TypeVar("One")


@dataclass(frozen=True, slots=True)
class Sampled:
    """One object of the sample of its class."""

    record: ImageRecord
    box: tuple[float, float, float, float]  # xyxy, own pixels; finite, with an area
    name: str  # of the class
    kind: str = ""  # one of `EXTREMES`, or ""

    @property
    def area(self) -> float:
        """Return the box's area in own pixels."""
        x1, y1, x2, y2 = self.box
        return (x2 - x1) * (y2 - y1)

    @property
    def aspect(self) -> float:
        """Return width / height."""
        x1, y1, x2, y2 = self.box
        return (x2 - x1) / (y2 - y1)


def images_of(dataset: Dataset) -> list[ImageRecord]:
    """Return the images of all splits, each once."""
    every = (record for members in dataset.splits.values() for record in members)
    return list({(record.image_id, record.path): record for record in every}.values())


def is_sound(box: Sequence[float]) -> bool:
    """Return whether a box is finite and has an area."""
    x1, y1, x2, y2 = box
    return all(map(math.isfinite, box)) and x2 > x1 and y2 > y1


def sample_objects(dataset: Dataset) -> list[Sampled]:
    """Return objects of every class, those that are to be shown first at the beginning.

    Of a class these are its smallest and its largest object, the narrowest and the widest for its
    height, and others spread evenly over its sizes, of images that are not shown yet where there
    are such. The first of each class stand before the second of any. Regions and boxes without an
    area are none.
    """
    by_class: defaultdict[str, list[Sampled]] = defaultdict(list)
    for record in images_of(dataset):
        for one in record.counted:
            if is_sound(one.box):
                by_class[one.name].append(Sampled(record, one.box, one.name))
    names = [name for name in dataset.class_names if name in by_class]
    names += sorted(set(by_class) - set(names))
    share = max(1, min(MOST_OF_A_CLASS, MOST_OBJECTS // max(1, len(names))))
    return take_turns([_of_class(by_class[name], share) for name in names])[:MOST_OBJECTS]


def _of_class(objects: Sequence[Sampled], most: int) -> list[Sampled]:
    """Return at most so many objects of one class, the extremes first."""
    by_area = sorted(objects, key=lambda one: one.area)
    by_aspect = sorted(objects, key=lambda one: one.aspect)
    chosen: dict[int, Sampled] = {}
    for kind, one in zip(EXTREMES, (by_area[0], by_area[-1], by_aspect[0], by_aspect[-1])):
        known = chosen.get(id(one))
        words = f"{known.kind}, {kind}" if known else kind
        chosen[id(one)] = Sampled(one.record, one.box, one.name, words)
    shown = Counter(one.record.path for one in chosen.values())
    left = [one for one in by_area if id(one) not in chosen]
    wanted = min(len(left), most - len(chosen))
    spread = []
    for turn in range(max(0, wanted)):
        part = left[turn * len(left) // wanted : (turn + 1) * len(left) // wanted]
        # In the middle of its part of the sizes, but for images that are shown already.
        middle = len(part) // 2
        best = min(
            range(len(part)),
            key=lambda place: (shown[part[place].record.path], abs(place - middle)),
        )
        shown[part[best].record.path] += 1
        spread.append(part[best])
    return [*chosen.values(), *spread][:most]


def take_turns(lists: Iterable[Sequence[One]]) -> list[One]:
    """Return the first of each list, then the second of each, and so on."""
    ranked = [(place, one) for many in lists for place, one in enumerate(many)]
    return [one for _, one in sorted(ranked, key=lambda pair: pair[0])]


def fair_order(findings: Sequence[Finding]) -> list[int]:
    """Return the places of findings, one of each code after the other in turns, errors first."""
    places = sorted(range(len(findings)), key=lambda place: findings[place].severity != "error")
    return take_turns(
        _grouped(places, lambda place: (findings[place].severity, findings[place].code))
    )


def _grouped(many: Iterable[One], key: Callable[[One], Hashable]) -> list[list[One]]:
    """Return lists of what has the same key, in the order of their first."""
    groups: defaultdict[Hashable, list[One]] = defaultdict(list)
    for one in many:
        groups[key(one)].append(one)
    return list(groups.values())


class Places:
    """Where findings point to: their images, and the objects that they name."""

    def __init__(self, dataset: Dataset) -> None:
        """Look up the images of all splits by what findings call them by."""
        self._by_id: dict[str, ImageRecord] = {}
        self._by_file: defaultdict[object, list[ImageRecord]] = defaultdict(list)
        for record in images_of(dataset):
            self._by_id.setdefault(record.image_id, record)
            self._by_file[record.path].append(record)
            if record.label_file is not None:
                self._by_file[record.label_file].append(record)

    def images(self, finding: Finding) -> list[ImageRecord]:
        """Return the images that a finding is about, the one with its objects first.

        Where it names none: the one that its file is, or is the labels of.
        """
        named = [finding.image_id, *finding.others]
        found = [self._by_id[one] for one in dict.fromkeys(named) if one in self._by_id]
        if not found and finding.file is not None:
            of_file = self._by_file.get(finding.file, [])
            found = of_file if len(of_file) == 1 else []
        return found


def marked_objects(finding: Finding, record: ImageRecord) -> list[ObjectRecord]:
    """Return the objects of an image that a finding is about: the one it names, or of its class."""
    if finding.object_number is not None:
        return [
            one
            for place, one in enumerate(record.objects, start=1)
            if (one.number or place) == finding.object_number
        ]
    return [one for one in record.objects if one.name == finding.class_name]
