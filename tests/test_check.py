"""What `check` finds, how it says it, and that dropping drops exactly what errors name."""

import json
import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from labelled_folders import put, xml

from detkit.data import open_dataset
from detkit.data.checks.check import check, drop_bad, findings_to_json, format_finding
from detkit.data.class_names import similar_names
from detkit.data.convert import convert
from detkit.data.identical_files import identical_files
from detkit.data.records import Dataset, Finding, ImageRecord, ObjectRecord
from detkit.data.summary import SIZE_EDGES, data_hash, summarize, summary_to_json

SHARED = Path(__file__).parents[2] / "shared" / "data"
Box = tuple[float, float, float, float]


def write_image(path: Path, height: int, width: int, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
    _, data = cv2.imencode(path.suffix, image)
    data.tofile(path)
    return path


def write_rotated(path: Path, height: int, width: int, orientation: int = 6) -> Path:
    """Write a JPEG stored as (height, width) whose EXIF orientation turns it upright."""
    write_image(path, height, width)
    data = path.read_bytes()
    tiff = b"II*\0\x08\0\0\0" + b"\x01\0" + b"\x12\x01\x03\0\x01\0\0\0"
    tiff += bytes([orientation, 0, 0, 0]) + b"\0" * 4
    body = b"Exif\0\0" + tiff
    path.write_bytes(data[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + data[2:])
    return path


def one(name: str, box: Box, number: int = 0, *, line: int | None = None) -> ObjectRecord:
    return ObjectRecord(name, box, number=number, line=line)


class Folder:
    """A data set put together by hand, its image files real."""

    def __init__(self, root: Path, format_name: str = "coco") -> None:
        self.root, self.format = root, format_name
        self.splits: dict[str, tuple[ImageRecord, ...]] = {}
        self.count = 0

    def add(
        self,
        split: str,
        objects: list[ObjectRecord],
        *,
        size: tuple[int, int] = (60, 80),
        stated: tuple[int, int] | None = None,
        path: Path | None = None,
    ) -> ImageRecord:
        self.count += 1
        name = f"images/{self.count}.png"
        if path is None:
            path = write_image(self.root / name, *size, seed=self.count)
        record = ImageRecord(
            path.relative_to(self.root).as_posix(),
            path,
            tuple(objects),
            width=stated[1] if stated else None,
            height=stated[0] if stated else None,
            label_file=self.root / "labels" / f"{self.count}.xml",
        )
        self.splits[split] = (*self.splits.get(split, ()), record)
        return record

    def dataset(self, *names: str) -> Dataset:
        used = [thing.name for part in self.splits.values() for r in part for thing in r.objects]
        return Dataset(self.root, self.format, names or tuple(dict.fromkeys(used)), self.splits)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def codes(findings: list[Finding]) -> list[str]:
    return [finding.code for finding in findings]


def only(findings: list[Finding]) -> Finding:
    assert len(findings) == 1, [format_finding(finding, Path("/")) for finding in findings]
    return findings[0]


def test_a_sound_folder_has_no_finding(folder: Folder) -> None:
    folder.add("train", [one("car", (0, 0, 80, 60)), one("dog", (3.5, 4, 9, 12))])
    folder.add("train", [])
    folder.add("val", [one("car", (1, 1, 20, 20))])
    assert check(folder.dataset()) == []


@pytest.mark.parametrize(
    ("box", "code"),
    [
        ((5, 5, 5, 9), "zero-area"),
        ((5, 5, 9, 5), "zero-area"),
        ((9, 5, 5, 9), "swapped-box"),
        ((5, 9, 9, 5), "swapped-box"),
        ((math.nan, 5, 9, 9), "not-finite"),
        ((5, 5, math.inf, 9), "not-finite"),
        ((5, 5, 81.5, 9), "outside-image"),
        ((5, 5, 9, 61.5), "outside-image"),
        ((-1.5, 5, 9, 9), "outside-image"),
        ((5, -2, 9, 9), "outside-image"),
        ((100, 100, 120, 120), "outside-image"),
    ],
)
def test_a_box_that_cannot_be_learnt_from_is_one_error(folder: Folder, box: Box, code: str) -> None:
    folder.add("train", [one("car", (1, 1, 9, 9)), one("car", box, 2, line=14)])
    finding = only(check(folder.dataset()))
    assert (finding.code, finding.severity) == (code, "error")
    assert (finding.object_number, finding.class_name, finding.line) == (2, "car", 14)


@pytest.mark.parametrize("box", [(-1, -1, 81, 61), (0, 0, 0.4, 0.4), (79.5, 59.5, 80.9, 60.9)])
def test_a_pixel_over_the_border_and_a_tiny_box_are_no_errors(folder: Folder, box: Box) -> None:
    folder.add("train", [one("car", box)])
    assert check(folder.dataset()) == []


def test_a_box_one_pixel_wide_is_sound_and_one_of_a_single_pixel_a_warning(tmp_path: Path) -> None:
    # VOC names the last pixel: xmin = xmax = 5 is one pixel wide and reads as (4, y, 5, y).
    for format_name, point in (("voc", ["one-pixel"]), ("csv", ["one-pixel"]), ("coco", [])):
        folder = Folder(tmp_path / format_name, format_name)
        folder.add("train", [one("car", (4, 2, 5, 9)), one("car", (3, 2, 9, 3))])
        folder.add("train", [one("car", (3.3, 2, 4.3, 9))])
        assert check(folder.dataset()) == []
        folder.add("train", [one("car", (4.3, 2, 5.3, 3))])
        found = check(folder.dataset())
        assert codes(found) == point
        assert all(each.severity == "warning" for each in found)


@pytest.mark.parametrize("form", ["voc", "csv", "coco", "yolo"])
def test_a_written_box_one_pixel_wide_is_read_without_complaint(tmp_path: Path, form: str) -> None:
    folder = Folder(tmp_path / "data", "coco")
    folder.add("train", [one("car", (4, 2, 5, 9)), one("car", (3, 2, 9, 3))])
    folder.add("val", [one("car", (79, 0, 80, 60))])
    convert(folder.dataset(), tmp_path / "out", to=form)
    assert check(open_dataset(tmp_path / "out")) == []


def test_swapped_corners_are_told_in_the_numbers_of_the_file(tmp_path: Path) -> None:
    folder = Folder(tmp_path, "voc")
    folder.add("train", [one("car", (49, 2, 23, 9), 3, line=14)])
    finding = only(check(folder.dataset()))
    assert format_finding(finding, tmp_path) == (
        'labels/1.xml:14: object 3 "car": xmax (23) < xmin (50); swapped corners?'
    )


def test_a_box_that_would_fit_with_x_and_y_exchanged_says_so(folder: Folder) -> None:
    folder.add("train", [one("car", (5, 40, 30, 75))])
    assert only(check(folder.dataset())).message.count("swapped x and y") == 1


def test_a_missing_image_and_an_unreadable_one_are_errors(folder: Folder) -> None:
    missing = folder.add("train", [one("car", (1, 1, 9, 9))])
    missing.path.unlink()
    broken = folder.add("train", [one("car", (1, 1, 9, 9))])
    broken.path.write_bytes(b"no image")
    found = check(folder.dataset())
    assert [(f.code, f.severity, f.image_id) for f in found] == [
        ("missing-image", "error", "images/1.png"),
        ("unreadable-image", "error", "images/2.png"),
    ]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tif"])
def test_an_image_cut_short_is_unreadable_and_a_whole_one_is_not(
    folder: Folder, suffix: str
) -> None:
    path = write_image(folder.root / f"images/bild ü{suffix}", 64, 64)
    folder.add("train", [one("car", (1, 1, 9, 9))], path=path)
    assert check(folder.dataset()) == []
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    finding = only(check(folder.dataset()))
    assert (finding.code, finding.file) == ("unreadable-image", path)
    assert str(path) not in finding.message


def test_a_jpeg_with_bytes_behind_its_end_is_sound(folder: Folder) -> None:
    path = write_image(folder.root / "images/a.jpg", 64, 64)
    path.write_bytes(path.read_bytes() + b"camera maker's notes" * 10)
    folder.add("train", [one("car", (1, 1, 9, 9))], path=path)
    assert check(folder.dataset()) == []


@pytest.mark.parametrize(
    ("format_name", "box", "hint"),
    [
        ("yolo", (40 * 80, 10 * 60, 50 * 80, 30 * 60), "pixels? YOLO has shares"),
        ("yolo", (70, 10, 88, 30), "cut it at the border"),
        ("coco", (30, 20, 30 + 70, 20 + 50), "x1, y1, x2, y2? COCO has x, y, width, height"),
        ("coco", (60, 20, 60 + 30, 20 + 10), "cut it at the border"),
        ("voc", (30, 20, 100, 70), "cut it at the border"),
    ],
)
def test_a_box_in_another_convention_is_told_so(
    tmp_path: Path, format_name: str, box: Box, hint: str
) -> None:
    folder = Folder(tmp_path, format_name)  # images are 80 x 60
    folder.add("train", [one("car", box)])
    finding = only(check(folder.dataset()))
    assert finding.code == "outside-image"
    assert f"; {hint}" in finding.message


def test_labels_without_a_single_image_are_told_first(folder: Folder) -> None:
    records = [folder.add("train", [one("car", (1, 1, 9, 9))]) for _ in range(3)]
    for record in records[:2]:
        record.path.unlink()
    assert codes(check(folder.dataset())) == ["missing-image"] * 2
    records[2].path.unlink()
    found = check(folder.dataset())
    assert codes(found) == ["all-missing", *["missing-image"] * 3]
    assert "not one of the 3 labelled images is here" in format_finding(found[0], folder.root)
    assert drop_bad(folder.dataset(), found)[1] == 3


def test_no_image_file_is_opened_without_read_images(folder: Folder) -> None:
    record = folder.add(
        "train", [one("car", (1, 1, 9, 9)), one("car", (1, 1, 99, 9))], stated=(60, 80)
    )
    record.path.write_bytes(b"no image")
    assert codes(check(folder.dataset(), read_images=False)) == ["outside-image"]


@pytest.mark.parametrize(
    ("format_name", "severity"), [("voc", "error"), ("csv", "error"), ("yolo", "warning")]
)
def test_a_missing_label_file_is_not_an_empty_one(
    tmp_path: Path, format_name: str, severity: str
) -> None:
    folder = Folder(tmp_path, format_name)
    folder.add("train", [one("car", (1, 1, 9, 9))])
    folder.add("train", [])
    dataset = folder.dataset()
    assert check(dataset) == []
    with_label, without = dataset.splits["train"]
    bare = replace(without, label_file=None)
    finding = only(check(dataset.with_splits({"train": (with_label, bare)})))
    assert (finding.code, finding.severity) == ("missing-label", severity)


def test_yolo_images_without_a_label_file_are_one_warning_a_split(tmp_path: Path) -> None:
    folder = Folder(tmp_path, "yolo")
    for _ in range(3):
        folder.add("train", [one("car", (1, 1, 9, 9))])
    folder.add("val", [one("car", (1, 1, 9, 9))])
    dataset = folder.dataset()
    labelled, *bare = dataset.splits["train"]
    gone = replace(labelled, path=tmp_path / "gone.png", image_id="gone.png", label_file=None)
    bare = [replace(record, objects=(), label_file=None) for record in bare]
    found = check(dataset.with_splits({**dataset.splits, "train": (labelled, gone, *bare)}))
    assert codes(found) == ["missing-image", "missing-label"]
    assert found[1].message.startswith("2 images without a label file")
    assert (found[1].split, found[1].file) == ("train", bare[0].path)


def test_boxes_outside_the_upright_image_but_inside_the_stored_one_are_an_error(
    folder: Folder,
) -> None:
    path = write_rotated(folder.root / "images/a.jpg", 40, 90)  # stored 40 high, upright 90 high
    folder.add("train", [one("car", (50, 5, 85, 30))], stated=(40, 90), path=path)
    found = check(folder.dataset())
    assert codes(found)[0] == "unrotated-labels" and found[0].severity == "error"
    assert "EXIF" in found[0].message and "90x40" in found[0].message


def test_a_size_stated_before_rotation_is_an_error_though_the_boxes_fit_both(
    folder: Folder,
) -> None:
    path = write_rotated(folder.root / "images/a.jpg", 40, 90)
    folder.add("train", [one("car", (5, 5, 30, 30))], stated=(40, 90), path=path)
    finding = only(check(folder.dataset()))
    assert (finding.code, finding.severity) == ("unrotated-labels", "error")
    assert "exiftool -Orientation= FILE" in finding.message


def test_a_size_stated_before_rotation_is_a_warning_where_a_box_fits_the_upright_image_alone(
    folder: Folder,
) -> None:
    path = write_rotated(folder.root / "images/a.jpg", 40, 90)
    folder.add("train", [one("car", (5, 50, 30, 85))], stated=(40, 90), path=path)
    finding = only(check(folder.dataset()))
    assert (finding.code, finding.severity) == ("size-mismatch", "warning")
    assert "correct the size" in finding.message


@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_images_that_turning_leaves_their_size_are_suspected_with_the_others_of_their_set(
    folder: Folder, orientation: int
) -> None:
    mirrored = write_rotated(folder.root / "images/b.jpg", 40, 90, orientation)
    folder.add("train", [one("car", (5, 5, 30, 30))], stated=(40, 90), path=mirrored)
    assert check(folder.dataset()) == []
    path = write_rotated(folder.root / "images/a.jpg", 40, 90)
    folder.add("train", [one("car", (6, 5, 30, 30))], stated=(40, 90), path=path)
    found = check(folder.dataset())
    assert codes(found) == ["unrotated-labels"] * 2
    assert (found[1].image_id, found[1].split) == ("images/b.jpg", "train")


@pytest.mark.parametrize("orientation", range(5, 9))
@pytest.mark.parametrize("kind", ["voc", "coco", "csv"])
@pytest.mark.parametrize("is_stored", [True, False])
def test_labels_made_before_an_image_was_turned_are_told_from_those_made_after(
    tmp_path: Path, kind: str, orientation: int, *, is_stored: bool
) -> None:
    write_rotated(tmp_path / "a.jpg", 40, 90, orientation)
    width, height = (90, 40) if is_stored else (40, 90)
    files = {
        "voc": {"a.xml": xml(("car", 2, 2, 30, 30), size=(width, height))},
        "csv": {
            "l.csv": "filename,width,height,class,xmin,ymin,xmax,ymax\n"
            f"a.jpg,{width},{height},car,2,2,30,30\n"
        },
        "coco": {
            "l.json": json.dumps(
                {
                    "images": [{"id": 1, "file_name": "a.jpg", "width": width, "height": height}],
                    "annotations": [
                        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 29, 29]}
                    ],
                    "categories": [{"id": 1, "name": "car"}],
                }
            )
        },
    }
    data = open_dataset(put(tmp_path, files[kind]))
    assert data.format == kind
    errors = [one.code for one in check(data) if one.severity == "error"]
    assert errors == (["unrotated-labels"] if is_stored else [])


def test_a_size_stated_upright_is_right_for_a_rotated_image(folder: Folder) -> None:
    path = write_rotated(folder.root / "images/a.jpg", 40, 90)
    folder.add("train", [one("car", (5, 50, 30, 85))], stated=(90, 40), path=path)
    assert check(folder.dataset()) == []


@pytest.mark.parametrize(
    ("stated", "code", "severity"),
    [
        ((120, 160), "resized-image", "error"),
        ((30, 40), "resized-image", "error"),
        ((60, 90), "size-mismatch", "warning"),
        ((80, 60), "size-mismatch", "warning"),
    ],
)
def test_a_wrong_size_is_told_and_an_error_when_the_image_was_scaled(
    folder: Folder, stated: tuple[int, int], code: str, severity: str
) -> None:
    folder.add("train", [one("car", (1, 1, 9, 9))], stated=stated)
    finding = only(check(folder.dataset()))
    assert (finding.code, finding.severity) == (code, severity)
    assert "80x60" in finding.message


def test_labels_that_count_from_zero_are_suspected_once(tmp_path: Path) -> None:
    folder = Folder(tmp_path, "voc")
    for start in (-1.0, -1.0, 4.0):  # VOC's 0, 0 and 5
        folder.add("train", [one("car", (start, 3, 20, 20))])
    finding = only(check(folder.dataset()))
    assert (finding.code, finding.severity) == ("zero-based", "warning")
    assert finding.message.startswith("2 of 3 boxes")


def test_a_listed_image_of_which_nothing_exists_is_one_error(tmp_path: Path) -> None:
    folder = Folder(tmp_path, "voc")
    folder.add("train", [one("car", (1, 1, 9, 9))])
    gone = ImageRecord("JPEGImages/gone.jpg", tmp_path / "JPEGImages" / "gone.jpg")
    folder.splits["train"] = (*folder.splits["train"], gone)
    assert only(check(folder.dataset())).code == "missing-image"


def test_the_same_box_twice_is_a_warning_that_names_the_first(folder: Folder) -> None:
    folder.add(
        "train",
        [one("car", (1, 1, 9, 9)), one("car", (2, 1, 9, 9)), one("car", (1, 1, 9, 9))],
    )
    finding = only(check(folder.dataset()))
    assert (finding.code, finding.severity) == ("duplicate-box", "warning")
    assert finding.object_number == 3 and "object 1" in finding.message


def test_identical_images_leak_between_splits_and_repeat_within_one(folder: Folder) -> None:
    for split in ("train", "train", "val", "val"):
        folder.add(split, [one("car", (1, 1, 9, 9))])
    first, second, third, fourth = (r for part in folder.splits.values() for r in part)
    second.path.write_bytes(first.path.read_bytes())
    third.path.write_bytes(first.path.read_bytes())
    found = check(folder.dataset())
    assert codes(found) == ["leaked-image"]
    assert found[0].severity == "warning"
    assert second.image_id in found[0].message and f"{third.image_id} (val)" in found[0].message
    third.path.write_bytes(fourth.path.read_bytes())
    assert codes(check(folder.dataset())) == ["duplicate-image", "duplicate-image"]


def test_an_image_listed_in_two_splits_is_told_once_and_trainval_is_no_leak(
    folder: Folder,
) -> None:
    a = folder.add("train", [one("car", (1, 1, 9, 9))])
    b = folder.add("val", [one("car", (1, 1, 9, 9))])
    folder.splits["trainval"] = (a, b)
    assert check(folder.dataset()) == []
    folder.splits["test"] = (a, b, replace(b, image_id="images/2.png"))
    found = check(folder.dataset())
    assert sorted(codes(found)) == ["listed-twice"]  # test = train + val: a union as well
    folder.splits["test"] = (a,)
    finding = only(check(folder.dataset()))
    assert finding.code == "shared-image" and "1 image is in train and in test" in finding.message


def test_only_files_of_equal_size_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = [b"aaaa", b"bbbb", b"aaaa", b"ccc", b"dd", b""]
    paths = [tmp_path / f"{number}.bin" for number in range(len(contents))]
    for path, content in zip(paths, contents):
        path.write_bytes(content)
    opened = []
    original = Path.open

    def spy(self: Path, *args: str) -> object:
        opened.append(self.name)
        return original(self, *args)

    monkeypatch.setattr(Path, "open", spy)
    assert identical_files([*paths, tmp_path / "missing"]) == [[paths[0], paths[2]]]
    assert opened == ["0.bin", "1.bin", "2.bin"]


@pytest.mark.parametrize(
    ("names", "how"),
    [
        (("Car", "car"), "in case, spaces or hyphens"),
        (("traffic light", "traffic_light"), "in case, spaces or hyphens"),
        (("person", "persom"), "by one letter"),
        (("person", "persons"), "by one letter"),
        (("person", "perosn"), "by one letter"),
    ],
)
def test_names_that_may_be_one_class_are_paired(names: tuple[str, str], how: str) -> None:
    assert similar_names(names) == [(*names, how)]
    assert similar_names(names[::-1]) == [(*names[::-1], how)]


@pytest.mark.parametrize(
    "names", [("cat", "car"), ("type1", "type2"), ("card", "card2"), ("person", "parsons")]
)
def test_names_that_are_two_classes_are_not_paired(names: tuple[str, str]) -> None:
    assert similar_names(names) == []


@given(st.text("abcd", min_size=4, max_size=6), st.text("abcd", min_size=4, max_size=6))
def test_one_letter_apart_is_what_trying_every_edit_says(name: str, other: str) -> None:
    letters = "abcd"
    edits = {name[:i] + name[i + 1 :] for i in range(len(name))}
    edits |= {name[:i] + c + name[i:] for i in range(len(name) + 1) for c in letters}
    edits |= {name[:i] + c + name[i + 1 :] for i in range(len(name)) for c in letters}
    edits |= {name[:i] + name[i + 1] + name[i] + name[i + 2 :] for i in range(len(name) - 1)}
    assert bool(similar_names([name, other])) == (other in edits or name == other)


def test_similar_class_names_are_told_with_their_counts(folder: Folder) -> None:
    folder.add("train", [one("Helmet", (1, 1, 9, 9)), one("helmet", (2, 1, 9, 9))])
    folder.add("train", [one("helmet", (1, 1, 9, 9))])
    finding = only(check(folder.dataset()))
    assert (finding.code, finding.severity) == ("similar-classes", "warning")
    assert '"Helmet" (1 object) and "helmet" (2 objects)' in finding.message


def test_a_similar_class_name_is_told_at_its_first_object(folder: Folder) -> None:
    folder.add("train", [one("helmet", (place, 1, 9, 9), line=place) for place in range(4)])
    second = [one("helmet", (1, 1, 9, 9)), *(one("Helmet", (n, 1, 9, 9), line=n) for n in (5, 6))]
    record = folder.add("train", second)
    folder.add("val", [one("Helmet", (1, 1, 9, 9), line=7)])
    finding = only(check(folder.dataset()))
    assert (finding.class_name, finding.image_id, finding.line) == ("Helmet", record.image_id, 5)


def test_classes_without_objects_or_unseen_in_training_are_warnings(folder: Folder) -> None:
    folder.add("train", [one("car", (1, 1, 9, 9))])
    folder.add("val", [one("dog", (1, 1, 9, 9))])
    found = check(folder.dataset("car", "dog", "bus"))
    assert sorted(codes(found)) == ["unseen-class", "unused-class"]
    assert {finding.severity for finding in found} == {"warning"}


def test_a_split_without_objects_is_a_warning(folder: Folder) -> None:
    folder.add("train", [one("car", (1, 1, 9, 9))])
    folder.add("val", [])
    assert codes(check(folder.dataset())) == ["empty-split"]


def test_findings_of_the_reader_come_first_and_are_not_repeated(folder: Folder) -> None:
    record = folder.add("train", [one("car", (1, 1, 9, 9))])
    record.path.unlink()
    told = Finding("error", "missing-image", "the reader saw it", image_id=record.image_id)
    other = Finding("error", "bad-xml", "not XML", file=folder.root / "x.xml")
    dataset = replace(folder.dataset(), findings=(other, told))
    assert check(dataset) == [other, told]


def test_dropping_removes_exactly_what_errors_name(folder: Folder) -> None:
    sound = folder.add("train", [one("car", (1, 1, 9, 9)), one("car", (1, 1, 9, 9), 2)])
    mixed = folder.add(
        "train",
        [one("car", (5, 5, 5, 9), 1), one("dog", (1, 1, 9, 9), 2), one("car", (9, 1, 2, 9))],
    )
    missing = folder.add("val", [one("car", (1, 1, 9, 9)), one("car", (5, 5, 5, 5))])
    missing.path.unlink()
    empty = folder.add("val", [])
    dataset = folder.dataset()
    kept, number = drop_bad(dataset, check(dataset))
    assert number == 3  # two objects and one image; the bad box of the image goes with it
    assert kept.splits["train"] == (sound, replace(mixed, objects=mixed.objects[1:2]))
    assert kept.splits["val"] == (empty,)
    assert "error" not in {finding.severity for finding in check(kept)}


def test_dropping_counts_what_the_reader_could_not_read(folder: Folder) -> None:
    folder.add("train", [one("car", (1, 1, 9, 9))])
    row = Finding("error", "bad-row", "no number", file=folder.root / "a.csv", line=7)
    dataset = replace(folder.dataset(), findings=(row, row))
    kept, number = drop_bad(dataset, check(dataset))
    assert number == 1
    assert kept.splits == dataset.splits


def test_a_finding_is_one_line_with_a_path_below_the_root(tmp_path: Path) -> None:
    finding = Finding("error", "bad", "what (1); do", file=tmp_path / "é" / "a.xml", line=3)
    assert format_finding(finding, tmp_path) == "é/a.xml:3: what (1); do"
    assert format_finding(finding, tmp_path / "é") == "a.xml:3: what (1); do"
    outside = format_finding(finding, tmp_path / "other")
    assert outside == f"{(tmp_path / 'é' / 'a.xml').as_posix()}:3: what (1); do"
    assert format_finding(Finding("warning", "x", "odd"), tmp_path) == "data set: odd"


def test_findings_become_json_with_null_for_what_is_unknown(tmp_path: Path) -> None:
    finding = Finding("error", "zero-area", "no area", file=tmp_path / "a.xml", object_number=2)
    (value,) = findings_to_json([finding], tmp_path)
    assert json.loads(json.dumps(value)) == {
        "severity": "error",
        "code": "zero-area",
        "file": "a.xml",
        "line": None,
        "object": 2,
        "class": None,
        "image": None,
        "split": None,
        "message": "no area",
    }


def test_progress_hears_every_image_once(folder: Folder) -> None:
    record = folder.add("train", [one("car", (1, 1, 9, 9))])
    folder.add("val", [one("car", (1, 1, 9, 9))])
    folder.splits["trainval"] = (record, *folder.splits["val"])
    heard: list[tuple[int, int]] = []
    check(folder.dataset(), progress=lambda *step: heard.append(step))
    assert heard == [(1, 2), (2, 2)]


def test_the_summary_counts_by_hand(folder: Folder) -> None:
    folder.add("train", [one("car", (0, 0, 8, 8)), one("dog", (0, 0, 2, 8))])
    folder.add(
        "train", [ObjectRecord("car", (0, 0, 70, 58), True), one("car", (0, 0, math.nan, 1))]
    )
    folder.add("val", [])
    train, val = summarize(folder.dataset("dog", "car", "bus"))
    assert (train.num_images, train.num_empty, train.num_objects, train.num_difficult) == (
        2,
        0,
        4,
        1,
    )
    assert train.class_counts == {"dog": 1, "car": 3, "bus": 0}
    assert dict(zip(SIZE_EDGES, train.size_counts)) == {
        0: 1,
        8: 1,
        16: 0,
        32: 1,
        64: 0,
        128: 0,
        256: 0,
        512: 0,
    }
    assert (val.num_images, val.num_empty, val.num_objects) == (1, 1, 0)
    assert json.loads(json.dumps(summary_to_json([train, val])))["train"]["box_sizes"]["8+"] == 1


def test_the_data_hash_knows_labels_and_not_the_place(folder: Folder, tmp_path: Path) -> None:
    folder.add("train", [one("car", (0, 0, 8, 8)), one("dog", (0, 0, 2, 8))])
    folder.add("train", [one("car", (0, 0, 9, 8))])
    dataset = folder.dataset()
    same = data_hash(dataset)
    first, second = dataset.splits["train"]
    moved = replace(first, path=Path("/elsewhere/1.png"), objects=first.objects[::-1])
    assert data_hash(replace(dataset, root=Path("/elsewhere"))) == same
    assert data_hash(dataset.with_splits({"train": (second, moved)})) == same
    changed = replace(second, objects=(one("car", (0, 0, 9, 8.001)),))
    assert data_hash(dataset.with_splits({"train": (first, changed)})) != same
    assert data_hash(dataset.with_splits({"val": (first, second)})) != same
    assert data_hash(replace(dataset, class_names=("dog", "car"))) != same
    difficult = replace(second, objects=(replace(second.objects[0], difficult=True),))
    assert data_hash(dataset.with_splits({"train": (first, difficult)})) != same


@pytest.mark.skipif(not SHARED.is_dir(), reason="real data sets are not here")
@pytest.mark.parametrize("name", ["bccd", "raccoon", "voc100"])
def test_real_data_sets_have_the_mistakes_they_are_known_for(name: str) -> None:
    found = check(open_dataset(SHARED / name))
    assert [f for f in found if f.severity == "error"] == []
    clicks = sorted(Path(str(f.image_id)).stem for f in found if f.code == "one-pixel")
    assert clicks == (["BloodImage_00338", "BloodImage_00343"] if name == "bccd" else [])


@pytest.mark.parametrize(
    "box", [(0.1, 0.2, 0.5, 0.6), (-0.9, -0.8, 0.5, 0.6), (0.0, 0.0, 1.0, 1.0)]
)
def test_boxes_that_are_shares_of_the_image_are_one_error(folder: Folder, box: Box) -> None:
    folder.add("train", [one("car", box, 1, line=3)])
    folder.add("train", [one("car", (0.2, 0.2, 0.9, 0.8), 1)])
    finding = only(check(folder.dataset()))
    assert (finding.code, finding.severity, finding.line) == ("normalised-boxes", "error", 3)
    folder.add("train", [one("car", (1, 1, 9, 9))])
    assert check(folder.dataset()) == []
