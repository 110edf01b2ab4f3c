"""Several folders into one, and what `convert` renames and leaves out on the way."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from labelled_folders import SHARED, boxes, codes, ids, put, sizes, xml
from running import detkit

from detkit.data import open_dataset
from detkit.data.merging import merge
from detkit.errors import UsageError


def picture(seed: int) -> bytes:
    """Return a 40 x 20 image that no other seed's is, byte for byte."""
    import cv2
    import numpy as np

    pixels = np.random.default_rng(seed).integers(0, 255, (20, 40, 3), np.uint8)
    return bytes(cv2.imencode(".png", pixels)[1])


@pytest.fixture
def day(tmp_path: Path) -> Path:
    """VOC, in splits: cats and a dog; 001.png is in both folders."""
    return put(
        tmp_path / "day",
        {
            "JPEGImages/001.png": picture(1),
            "JPEGImages/002.png": picture(2),
            "Annotations/001.xml": xml(("cat", 3, 4, 10, 12), ("dog", 1, 2, 5, 9)),
            "Annotations/002.xml": xml(("cat", 1, 1, 2, 20)),
            "ImageSets/Main/train.txt": "001\n",
            "ImageSets/Main/val.txt": "002\n",
        },
    )


@pytest.fixture
def night(tmp_path: Path) -> Path:
    """YOLO, without splits: an image with a text, and one without, which has no objects."""
    return put(
        tmp_path / "night",
        {
            "images/001.png": picture(3),
            "images/003.png": picture(4),
            "labels/001.txt": "1 .5 .5 .5 .5\n",
            "classes.txt": "bird\ncat\n",
        },
    )


def hashes(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("to", ["voc", "coco", "yolo", "csv", "kitti", "dota", "openimages", "mot"])
def test_two_folders_become_one_with_all_objects_classes_united_and_splits_kept(
    day: Path, night: Path, tmp_path: Path, to: str
) -> None:
    before = hashes(day), hashes(night)
    done = detkit("convert", day, night, tmp_path / "out", "--to", to)
    assert done.returncode == 0, done.stderr
    assert f"{night} has no splits: its images join train" in done.stderr
    data = open_dataset(tmp_path / "out")
    assert codes(data, "error") == []
    assert sizes(data) == {"train": 3, "val": 1}
    assert {"cat", "dog"} <= set(data.class_names) <= {"cat", "dog", "bird"}
    found = {
        hashlib.sha256(one.path.read_bytes()).hexdigest(): sorted(
            (thing.name, *(round(side, 6) for side in thing.box)) for thing in one.objects
        )
        for part in data.splits.values()
        for one in part
    }
    expected = {
        1: [("cat", 2, 3, 10, 12), ("dog", 0, 1, 5, 9)],
        2: [("cat", 0, 0, 2, 20)],
        3: [("cat", 10, 5, 30, 15)],
        4: [],
    }
    assert found == {hashlib.sha256(picture(n)).hexdigest(): one for n, one in expected.items()}
    assert (hashes(day), hashes(night)) == before


def test_an_image_name_that_two_folders_have_gets_that_of_its_folder(
    day: Path, night: Path, tmp_path: Path
) -> None:
    done = detkit("convert", day, night, tmp_path / "out", "--to", "voc")
    assert "1 image name is in several folders: told apart" in done.stderr
    names = {path.name for path in (tmp_path / "out" / "JPEGImages").iterdir()}
    assert names == {"001.png", "002.png", "003.png", "night_001.png"}


def test_images_that_both_folders_hold_and_classes_spelt_in_two_ways_are_told(
    day: Path, tmp_path: Path
) -> None:
    other = put(tmp_path / "b", {"x.png": picture(1), "x.xml": xml(("Cat", 1, 1, 9, 9))})
    done = detkit("convert", day, other, tmp_path / "out", "--to", "coco")
    assert "1 image is in several folders, byte for byte" in done.stderr
    assert '"cat" and "Cat" differ only in case' in done.stderr
    assert "--rename Cat=cat" in done.stderr
    named = detkit("convert", day, other, tmp_path / "two", "--to", "coco", "--rename", "Cat=cat")
    assert named.returncode == 0
    assert open_dataset(tmp_path / "two").class_names == ("cat", "dog")


def test_one_folder_twice_and_one_in_another_are_refused(day: Path) -> None:
    dataset = open_dataset(day)
    with pytest.raises(UsageError, match="given twice"):
        merge([dataset, open_dataset(day / "." / "../day")])
    inner = put(day / "sub", {"x.png": picture(5), "x.xml": xml(("cat", 1, 1, 9, 9))})
    with pytest.raises(UsageError, match=r"sub: lies in .*day, which is given, too"):
        merge([dataset, open_dataset(inner)])
    assert merge([dataset]) is dataset


@pytest.mark.parametrize("out", ["day", "night", "night/out", "."])
def test_no_source_is_written_to_and_none_is_replaced(
    day: Path, night: Path, tmp_path: Path, out: str
) -> None:
    before = hashes(tmp_path)
    done = detkit("convert", day, night, tmp_path / out, "--to", "yolo", "--force")
    assert done.returncode == 2
    assert "source folder" in done.stderr or "not write" in done.stderr
    assert hashes(tmp_path) == before


def test_classes_are_renamed_all_at_once_so_that_two_may_change_places(
    day: Path, tmp_path: Path
) -> None:
    words = ("--rename", "cat=dog", "--rename", "dog=cat")
    assert detkit("convert", day, tmp_path / "out", "--to", "voc", *words).returncode == 0
    data = open_dataset(tmp_path / "out")
    assert data.class_names == ("dog", "cat")
    assert boxes(data, "train") == {
        "JPEGImages/001.png": [("dog", (2, 3, 10, 12)), ("cat", (0, 1, 5, 9))]
    }


def test_a_class_left_out_takes_its_objects_and_leaves_their_image(
    day: Path, tmp_path: Path
) -> None:
    done = detkit("convert", day, tmp_path / "out", "--to", "coco", "--drop", "cat")
    assert "--drop: 2 boxes of cat left out" in done.stderr
    data = open_dataset(tmp_path / "out")
    assert data.class_names == ("dog",)
    assert boxes(data, "train") == {"images/train/001.png": [("dog", (0, 1, 5, 9))]}
    assert boxes(data, "val") == {"images/val/002.png": []}


def test_the_shorter_side_decides_and_one_of_just_that_many_pixels_stays(
    day: Path, tmp_path: Path
) -> None:
    # cat 8 x 9, dog 5 x 8, cat 2 x 20
    done = detkit("convert", day, tmp_path / "out", "--to", "coco", "--min-side", "5")
    assert "--min-side: 1 box smaller than 5 pixels left out" in done.stderr
    left = open_dataset(tmp_path / "out")
    assert [len(one.objects) for part in left.splits.values() for one in part] == [2, 0]
    done = detkit("convert", day, tmp_path / "less", "--to", "coco", "--min-side", "5.1")
    assert "--min-side: 2 boxes smaller than 5.1 pixels left out" in done.stderr


def test_only_the_images_of_a_list_are_kept_by_path_name_or_stem(
    day: Path, night: Path, tmp_path: Path
) -> None:
    put(tmp_path, {"list.txt": "002\n\nimages/003.png\n"})
    listed = tmp_path / "list.txt"
    done = detkit("convert", day, night, tmp_path / "out", "--to", "yolo", "--only-images", listed)
    assert "--only-images: 2 images kept, 2 left out" in done.stderr
    data = open_dataset(tmp_path / "out")
    assert ids(data, "train") == ["images/train/003.png"]
    assert ids(data, "val") == ["images/val/002.png"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--rename", "cot=cat"), 2, "--rename cot: there is no such class; did you mean cat?"),
        (("--rename", "cat"), 2, "--rename cat: expected OLD=NEW"),
        (("--rename", "cat=a", "--rename", "cat=b"), 2, "cat is given twice"),
        (("--drop", "bus"), 2, "--drop bus: there is no such class; it has cat, dog"),
        (("--drop", "cat", "--drop", "dog"), 2, "--drop: no class is left"),
        (("--rename", "cat=DontCare"), 2, "DontCare is KITTI's mark of a region left out"),
        (("--only-images", "{tmp}/none.txt"), 3, "none.txt: cannot be read"),
        (("--only-images", "{tmp}/strange.txt"), 3, "strange.txt:2: 0O2: none of the 2 images"),
        (("--only-images", "{tmp}/empty.txt"), 3, "empty.txt: names no image"),
    ],
)
def test_what_cannot_be_chosen_is_one_line_and_nothing_is_written(
    day: Path, tmp_path: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    put(tmp_path, {"strange.txt": "001\n0O2\n", "empty.txt": "\n"})
    options = [word.replace("{tmp}", str(tmp_path)) for word in words]
    done = detkit("convert", day, tmp_path / "out", "--to", "kitti", *options, "-q")
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_faces_are_written_once_the_one_class_is_called_so(day: Path, tmp_path: Path) -> None:
    refused = detkit("convert", day, tmp_path / "out", "--to", "wider", "-q")
    assert refused.returncode == 2
    assert 'WIDER FACE has one class, "face", and this set has cat, dog' in refused.stderr
    words = ("--drop", "dog", "--rename", "cat=face")
    assert detkit("convert", day, tmp_path / "out", "--to", "wider", *words).returncode == 0
    data = open_dataset(tmp_path / "out")
    assert (data.format, data.class_names) == ("wider", ("face",))
    assert [one for part in data.splits for one in boxes(data, part).values()] == [
        [("face", (2, 3, 10, 12))],
        [("face", (0, 0, 2, 20))],
    ]


@pytest.mark.skipif(not (SHARED / "bccd").is_dir(), reason="needs the data of this machine")
def test_two_real_folders_have_together_what_they_have_alone(tmp_path: Path) -> None:
    parts = [SHARED / "bccd", SHARED / "raccoon"]
    assert detkit("convert", *parts, tmp_path / "out", "--to", "coco").returncode == 0
    whole = open_dataset(tmp_path / "out")
    alone = [open_dataset(part) for part in parts]

    def count(data: object) -> int:
        return sum(len(one.objects) for part in data.splits.values() for one in part)

    assert count(whole) == sum(map(count, alone)) == 4888 + 217
    assert whole.class_names == ("Platelets", "RBC", "WBC", "raccoon")
