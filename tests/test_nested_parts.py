"""Nested parts of a training set: each holds the smaller ones, whole groups, all classes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from detkit.data.groups import Groups
from detkit.data.nested_parts import nested_parts
from detkit.data.records import ImageRecord, ObjectRecord
from detkit.errors import DetkitError

SHARES = (0.25, 0.5, 1.0)


def records(count: int, rare: int = 4) -> list[ImageRecord]:
    """Return images with a car each; the last `rare` of them have a dog, too."""
    car = ObjectRecord("car", (0.0, 0.0, 5.0, 5.0))
    dog = ObjectRecord("dog", (5.0, 5.0, 9.0, 9.0))
    return [
        ImageRecord(f"{n:03}.jpg", Path(f"{n:03}.jpg"), (car, dog) if n >= count - rare else (car,))
        for n in range(count)
    ]


def groups_of(images: list[ImageRecord], size: int) -> Groups:
    """Return groups of `size` images that follow each other."""
    rules = ("recordings",) if size > 1 else ()
    return Groups({one.path: n // size for n, one in enumerate(images)}, rules)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [1, 3, 5])
def test_each_part_holds_the_smaller_ones_and_whole_groups(seed: int, size: int) -> None:
    images = records(60)
    together = groups_of(images, size)
    parts = nested_parts(images, SHARES, together, seed)
    assert set(parts[0]) < set(parts[1]) < set(parts[2]) == set(images)
    for part, share in zip(parts, SHARES, strict=True):
        assert abs(len(part) - 60 * share) <= size
        counts = Counter(together.number_of[one.path] for one in part)
        assert set(counts.values()) == {size}


@pytest.mark.parametrize("seed", range(5))
def test_the_rarest_class_is_in_the_smallest_part_and_keeps_its_share(seed: int) -> None:
    images = records(40, rare=4)
    dogs = [
        sum(len(one.objects) == 2 for one in part)
        for part in nested_parts(images, SHARES, groups_of(images, 1), seed)
    ]
    assert dogs == [1, 2, 4]


def test_the_seed_alone_decides() -> None:
    images = records(40)
    together = groups_of(images, 1)
    first, again, other = (nested_parts(images, SHARES, together, seed) for seed in (0, 0, 1))
    assert first == again
    assert first[0] != other[0]
    back = nested_parts(images[::-1], SHARES, groups_of(images, 1), 0)
    assert [set(part) for part in back] == [set(part) for part in first]


@pytest.mark.parametrize(
    ("count", "size", "says"),
    [
        (12, 1, "12 images to train on: too few for 3 parts, the smallest 25 % of them;"),
        (60, 15, "60 images in 4 groups (recordings) to train on: too few"),
        (60, 1, None),
    ],
)
def test_too_few_images_or_groups_are_told(count: int, size: int, says: str | None) -> None:
    images = records(count)
    if says is None:
        assert nested_parts(images, SHARES, groups_of(images, size), 0)
        return
    with pytest.raises(DetkitError) as told:
        nested_parts(images, SHARES, groups_of(images, size), 0)
    assert str(told.value).startswith(says)


def test_groups_that_are_too_large_for_the_parts_are_told() -> None:
    images = records(60)
    together = Groups({one.path: max(0, n - 50) for n, one in enumerate(images)}, ("a burst",))
    with pytest.raises(DetkitError, match="the groups are too large for parts of 6, 12, 60"):
        nested_parts(images, (0.1, 0.2, 1.0), together, 0)


def test_a_smallest_part_without_an_object_is_told() -> None:
    images = [ImageRecord(f"{n}.jpg", Path(f"{n}.jpg")) for n in range(40)]
    with pytest.raises(DetkitError, match="no object is labelled in the smallest part, 10 images"):
        nested_parts(images, SHARES, groups_of(images, 1), 0)
