"""Tests of VOC2007 and VOC2012 in one folder: the official splits, nothing of another year."""

from __future__ import annotations

from pathlib import Path

import pytest
from labelled_folders import codes, ids, put, sizes, xml

from detkit.data import open_dataset
from detkit.data.devkit import by_year, official
from detkit.errors import DetkitError

CAR = ("car", 1, 1, 9, 9)
# Names as in the kit, and one, 000004, that both years have with other content.
LISTS_07 = {"train": "000001\n", "val": "000002\n", "trainval": "000001\n000002\n"}
LISTS_12 = {"train": "2008_000001\n", "val": "000004\n", "trainval": "000004\n2008_000001\n"}
TEST_07 = {"test": "000003\n000004\n"}


def put_year(root: Path, lists: dict[str, str], labels: bool = True, name: str = "car") -> None:
    """Write a year of the kit: its lists, and an image and a label for each name in them."""
    names = sorted({one for text in lists.values() for one in text.split()})
    files: dict[str, object] = {f"JPEGImages/{one}.jpg": None for one in names}
    if labels:
        files |= {f"Annotations/{one}.xml": xml((name, 1, 1, 9, 9)) for one in names}
    files |= {f"ImageSets/Main/{split}.txt": text for split, text in lists.items()}
    files |= {f"ImageSets/Main/car_{split}.txt": "000001 1\n" for split in lists}
    put(root, files)


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    """A tiny VOCdevkit of both years."""
    put_year(tmp_path / "VOCdevkit" / "VOC2007", LISTS_07 | TEST_07)
    put_year(tmp_path / "VOCdevkit" / "VOC2012", LISTS_12, name="dog")
    return tmp_path / "VOCdevkit"


def trained_on(folder: Path, data: str) -> list[str]:
    found = official(open_dataset(folder), data, "--recipe paper")
    assert found is not None
    return sorted(ids(found, "train"))


def test_both_years_are_one_folder_with_the_official_splits(kit: Path) -> None:
    old = ["VOC2007/JPEGImages/000001.jpg", "VOC2007/JPEGImages/000002.jpg"]
    new = ["VOC2012/JPEGImages/000004.jpg", "VOC2012/JPEGImages/2008_000001.jpg"]
    assert trained_on(kit, "voc07") == old
    assert trained_on(kit, "voc0712") == old + new
    found = official(open_dataset(kit), "voc0712", "--recipe paper-0712")
    assert found is not None
    assert ids(found, "test") == [f"VOC2007/JPEGImages/00000{n}.jpg" for n in (3, 4)]
    assert found.notes[-1] == (
        "--recipe paper-0712: trainval, 2 of VOC2007 + 2 of VOC2012 = 4 images"
    )


def test_a_name_of_both_years_keeps_each_ones_labels(kit: Path) -> None:
    data = open_dataset(kit)
    assert codes(data) == []
    names = {one.image_id: one.objects[0].name for part in data.splits.values() for one in part}
    assert names["VOC2007/JPEGImages/000004.jpg"] == "car"
    assert names["VOC2012/JPEGImages/000004.jpg"] == "dog"


def test_the_kit_is_found_below_other_folders_and_a_year_by_itself(kit: Path) -> None:
    assert trained_on(kit.parent, "voc0712") == [
        f"VOCdevkit/{one}" for one in trained_on(kit, "voc0712")
    ]
    assert trained_on(kit / "VOC2007", "voc07") == [
        "JPEGImages/000001.jpg",
        "JPEGImages/000002.jpg",
    ]
    parts = kit.parent / "parts"  # as the two archives of 2007 unpack beside each other
    put_year(parts / "VOCtrainval_06-Nov-2007" / "VOCdevkit" / "VOC2007", LISTS_07)
    put_year(parts / "VOCtest_06-Nov-2007" / "VOCdevkit" / "VOC2007", TEST_07)
    assert len(trained_on(parts, "voc07")) == 2
    assert set(by_year(open_dataset(parts))) == {"2007"}


def test_an_image_that_is_missing_is_not_taken_from_the_other_year(kit: Path) -> None:
    (kit / "VOC2007" / "JPEGImages" / "000004.jpg").unlink()
    data = open_dataset(kit)
    test = {one.image_id: one for one in data.splits["test"]}
    missing = test["VOC2007/JPEGImages/000004.jpg"]
    assert not missing.path.exists() and missing.objects[0].name == "car"
    assert "VOC2012/JPEGImages/000004.jpg" not in test


def test_a_test_split_without_labels_is_left_out_beside_one_with_them(tmp_path: Path) -> None:
    put_year(tmp_path / "VOC2007", LISTS_07 | TEST_07)
    put_year(tmp_path / "VOC2012", {"test": "2008_000009\n2008_000010\n"}, labels=False)
    put_year(tmp_path / "VOC2012", LISTS_12)
    data = open_dataset(tmp_path)
    assert sizes(data)["test"] == 2
    assert any("test of VOC2012 (2 images) has no labels: left out" in one for one in data.notes)


def test_what_is_missing_is_said_in_one_line(kit: Path, tmp_path: Path) -> None:
    with pytest.raises(DetkitError, match="VOC2012's is missing .there is VOC2007 train.val.test"):
        official(open_dataset(kit / "VOC2007"), "voc0712", "--recipe paper-0712")
    with pytest.raises(DetkitError, match="VOC2007's is missing .there is VOC2012 train.val."):
        official(open_dataset(kit / "VOC2012"), "voc07", "--recipe paper")
    put_year(tmp_path / "tested" / "VOC2007", TEST_07)
    with pytest.raises(DetkitError, match="VOC2007's is missing .there is VOC2007 test"):
        official(open_dataset(tmp_path / "tested"), "voc07", "--recipe paper")
    put_year(tmp_path / "new" / "VOC2007", LISTS_07)
    found = official(open_dataset(tmp_path / "new"), "voc07", "--recipe paper")
    assert found is not None and found.notes[-1].startswith("VOC2007's test split is missing")


def test_a_folder_of_ones_own_keeps_its_splits_and_is_no_07_and_12(tmp_path: Path) -> None:
    put(tmp_path / "own", {"a.jpg": None, "a.xml": xml(CAR)})
    own = open_dataset(tmp_path / "own")
    assert official(own, "voc07", "--recipe paper") is None
    assert official(own, "coco", "--recipe paper-coco") is None
    with pytest.raises(DetkitError, match="VOC2007's is missing .there is no VOC year"):
        official(own, "voc0712", "--recipe paper-0712")
