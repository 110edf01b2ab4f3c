"""Folds: each image is held out once, what belongs together stays so, classes are balanced."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from labelled_folders import put, xml
from report_samples import write_folder

from detkit.data import open_dataset
from detkit.data.folds import Folds, as_dataset, divide_into_folds, pooled
from detkit.data.records import ImageRecord, ObjectRecord
from detkit.errors import UsageError


def records(sizes: dict[str, int], rare: int = 7) -> tuple[ImageRecord, ...]:
    """Images `GROUP-NUMBER.jpg`, which are not there; every `rare`th also has a dog."""
    made = []
    for name, size in sizes.items():
        for number in range(size):
            path = Path(f"{name}-{number:03}.jpg")
            things = ["car"] + ["dog"] * (len(made) % rare == 0)
            objects = tuple(ObjectRecord(one, (0.0, 0.0, 5.0, 5.0)) for one in things)
            made.append(ImageRecord(path.name, path, objects))
    return tuple(made)


def group_of(record: ImageRecord) -> str:
    return record.image_id.partition("-")[0]


def divided(images: tuple[ImageRecord, ...], number: int, **more: object) -> Folds:
    return divide_into_folds(images, number, group="^([a-z]+)-", **more)  # type: ignore[arg-type]


GROUPS = {letter: size for letter, size in zip("abcdefghijklmnop", [3, 5, 4, 6, 2, 3, 5, 4] * 2)}


def test_each_image_is_held_out_once_and_groups_are_never_divided() -> None:
    images = records(GROUPS)
    folds = divided(images, 4, val=0.25).folds
    assert Counter(one.path for fold in folds for one in fold.test) == dict.fromkeys(
        [one.path for one in images], 1
    )
    for fold in folds:
        parts = (fold.train, fold.val, fold.test)
        assert sorted(one.image_id for part in parts for one in part) == sorted(
            one.image_id for one in images
        )
        names = [{group_of(one) for one in part} for part in parts]
        assert not names[0] & names[1]
        assert not (names[0] | names[1]) & names[2]
        assert all(names)


def test_folds_have_about_one_size_and_share_of_each_class() -> None:
    folds = divide_into_folds(records({"a": 100}, rare=10), 5, group="none").folds
    for fold in folds:
        assert len(fold.test) == 20
        assert sum(one.name == "dog" for image in fold.test for one in image.objects) == 2
        assert (len(fold.train), len(fold.val)) == (64, 16)


def test_the_same_seed_divides_alike_whatever_the_order_and_another_otherwise() -> None:
    images = records(GROUPS)
    one, same, other = (
        [{image.image_id for image in fold.test} for fold in divided(some, 4, seed=seed).folds]
        for some, seed in ((images, 0), (images[::-1], 0), (images, 1))
    )
    assert one == same
    assert one != other


def test_where_all_other_images_are_of_one_group_that_is_cut_to_validate_on() -> None:
    folds = divided(records({"a": 10, "b": 10}), 2).folds
    for fold in folds:
        assert len({group_of(one) for one in fold.test}) == 1
        assert (len(fold.train), len(fold.val)) == (8, 2)


def test_two_groups_left_are_one_to_train_and_one_to_validate_on() -> None:
    for fold in divided(records({"a": 8, "b": 8, "c": 8}), 3).folds:
        sides = [{group_of(one) for one in part} for part in (fold.train, fold.val, fold.test)]
        assert [len(side) for side in sides] == [1, 1, 1]
        assert len(set.union(*sides)) == 3


@pytest.mark.parametrize(
    ("sizes", "number", "more", "message"),
    [
        ({"a": 9}, 1, {}, "must be at least 2"),
        ({"a": 3, "b": 1}, 5, {}, "too many for 4 images"),
        ({"a": 30, "b": 10}, 4, {}, "--folds 4: 40 images in 2 groups"),
        ({"a": 80, "b": 10, "c": 10}, 3, {}, "would have 80 images and not about 3[34]"),
        ({"a": 5, "b": 5}, 2, {"val": 1.0}, "--val 1"),
    ],
)
def test_what_cannot_be_divided_is_refused(
    sizes: dict[str, int], number: int, more: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        divided(records(sizes), number, **more)


def test_the_rarest_class_is_told() -> None:
    folds = divide_into_folds(records({"a": 100}, rare=10), 5, group="none")
    assert folds.balance == "each fold has 20 images; of the rarest class, dog, 2 of 10 objects"


def test_a_trainer_gets_the_images_held_out_without_their_objects(tmp_path: Path) -> None:
    files = {
        f"Annotations/{name}.xml": xml(("car", 1, 1, 20, 10), filename=f"{name}.png")
        for name in "abcdef"
    }
    put(
        tmp_path,
        {
            **files,
            **{f"JPEGImages/{name}.png": (20, 40 + place) for place, name in enumerate("abcdef")},
        },
    )
    dataset = open_dataset(tmp_path)
    [fold, *_] = divide_into_folds(dataset.splits["all"], 3, group="none").folds
    given = as_dataset(dataset, fold)
    assert [one.image_id for one in given.splits["test"]] == [one.image_id for one in fold.test]
    assert not any(one.objects for one in given.splits["test"])
    assert all(one.objects for one in (*given.splits["train"], *given.splits["val"]))


def test_all_splits_are_pooled_or_the_one_that_was_asked_for(tmp_path: Path) -> None:
    dataset = open_dataset(write_folder(tmp_path))
    assert {one.path for one in pooled(dataset).splits["all"]} == {
        one.path for members in dataset.splits.values() for one in members
    }
    assert pooled(dataset, "test").splits == {"all": dataset.splits["test"]}
    with pytest.raises(UsageError, match="--split val"):
        pooled(dataset, "val")
