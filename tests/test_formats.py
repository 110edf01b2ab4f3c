"""A label format is one object in one tuple, and nothing else has to know of it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from labelled_folders import boxes, put, xml
from running import detkit

from detkit.data import open_dataset
from detkit.data.checks.check import check
from detkit.data.convert import convert
from detkit.data.folder_splits import folder_splits
from detkit.data.formats import reading
from detkit.data.formats.format import Format, Splits, number
from detkit.data.records import Dataset, ImageRecord, ObjectRecord
from detkit.data.tree import Tree
from detkit.errors import DetkitError, UsageError


def lines_files(tree: Tree) -> list[str]:
    return tree.with_suffix(".lines")


def read_lines(tree: Tree, only: str | None) -> Dataset | None:
    """Read a file of lines `image class x1 y1 x2 y2`; an image alone has no objects."""
    files = [only] if only else lines_files(tree)
    objects: dict[str, list[ObjectRecord]] = {}
    for file in files:
        for place, line in enumerate(tree.text(file).splitlines(), 1):
            image, *words = line.split()
            found = objects.setdefault(tree.find_images(image, file)[0], [])
            if words:
                x1, y1, x2, y2 = map(float, words[1:])
                found.append(ObjectRecord(words[0], (x1, y1, x2, y2), False, None, place))
    records = [
        ImageRecord(image, tree.path(image), tuple(found), label_file=tree.path(files[0]))
        for image, found in objects.items()
    ]
    names = sorted({one.name for record in records for one in record.objects})
    splits = folder_splits(tree, records, [])
    return Dataset(tree.root, "lines", tuple(names), splits) if records else None


def write_lines(splits: Splits, _: Sequence[str]) -> Iterator[tuple[str, str]]:
    lines = []
    for split, images in splits.items():
        for image in images:
            path = f"{LINES.place(split)}/{image.name}"
            lines += [path] * (not image.objects)
            lines += [
                " ".join([path, one.name, *(number(value) for value in one.box)])
                for one in image.objects
            ]
    yield "labels.lines", "".join(f"{line}\n" for line in lines)


LINES = Format(
    name="lines",
    title="lines",
    looked_for="LINES with image, class and corners",
    suffixes=(".lines",),
    read=read_lines,
    write=write_lines,
    file_suffixes=(".lines",),
    files=lines_files,
    images="pics",
    by_split=True,
    keeps_difficult=False,
    box_hint=lambda box, size: "LINES are pixels",
)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the made-up format at the end of the tuple."""
    monkeypatch.setattr(reading, "FORMATS", (*reading.FORMATS, LINES))


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """A VOC folder in two splits, one object of it difficult."""
    hard = "<difficult>1</difficult>"
    put(
        tmp_path / "voc",
        {
            "JPEGImages/a.png": None,
            "JPEGImages/b.png": None,
            "Annotations/a.xml": xml(("cat", 3, 4, 10, 12), ("dog", 1, 2, 5, 9, hard)),
            "Annotations/b.xml": xml(),
            "ImageSets/Main/train.txt": "a\n",
            "ImageSets/Main/val.txt": "b\n",
        },
    )
    return tmp_path / "voc"


def test_a_new_format_is_written_and_read_back_by_the_commands(voc: Path, tmp_path: Path) -> None:
    done = detkit("convert", voc, tmp_path / "out", "--to", "lines")
    assert done.returncode == 0
    assert "1 difficult object became ordinary: lines has no mark for them" in done.stderr
    found = open_dataset(tmp_path / "out")
    assert found.format == "lines"
    assert boxes(found, "train") == {
        "pics/train/a.png": [("cat", (2, 3, 10, 12)), ("dog", (0, 1, 5, 9))]
    }
    assert boxes(found, "val") == {"pics/val/b.png": []}
    assert detkit("check", tmp_path / "out").returncode == 0
    back = detkit("convert", tmp_path / "out", tmp_path / "back", "--to", "voc", "-q")
    assert (back.returncode, back.stderr) == (0, "")
    assert boxes(open_dataset(tmp_path / "back"), "train") == {
        "JPEGImages/a.png": [("cat", (2, 3, 10, 12)), ("dog", (0, 1, 5, 9))]
    }


def test_a_division_keeps_the_new_format(voc: Path, tmp_path: Path) -> None:
    convert(open_dataset(voc), tmp_path / "lines", "lines")
    done = detkit("split", tmp_path / "lines", tmp_path / "cut", "--val", ".5")
    assert done.returncode == 0
    assert open_dataset(tmp_path / "cut").format == "lines"


def test_labels_of_the_new_format_beside_others_are_seen_and_can_be_named(voc: Path) -> None:
    put(voc, {"more.lines": "b.png cat 1 1 9 9\n"})
    dataset = open_dataset(voc)
    assert dataset.format == "voc"
    assert (
        "LINES labels seen too (more.lines) and not read, as VOC XML is there; name one of these "
        "files to read it" in dataset.notes
    )
    assert boxes(open_dataset(voc / "more.lines")) == {"JPEGImages/b.png": [("cat", (1, 1, 9, 9))]}


def test_of_two_formats_with_one_suffix_the_one_that_knows_the_file_reads_it(
    voc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(
        LINES,
        name="other",
        files=lambda tree: [],
        read=lambda tree, only: pytest.fail("it does not know the file") if only else None,
    )
    monkeypatch.setattr(reading, "FORMATS", (*reading.FORMATS[:-1], other, LINES))
    put(voc, {"more.lines": "b.png cat 1 1 9 9\n"})
    assert open_dataset(voc / "more.lines").format == "lines"


def test_help_and_errors_name_the_new_format(voc: Path, tmp_path: Path) -> None:
    for command in ("convert", "split"):
        said = " ".join(detkit(command, "-h").stdout.split())
        assert "voc, coco, cvat, labelme," in said and "yolo, csv or lines." in said
        assert "huggingface" not in said  # which is only read
    with pytest.raises(UsageError, match="choose from voc, coco, .*yolo, csv, lines"):
        convert(open_dataset(voc), tmp_path / "out", "xml")
    put(tmp_path / "empty", {"a.png": None})
    with pytest.raises(DetkitError, match="as CSV, LINES with image, class and corners; saw"):
        open_dataset(tmp_path / "empty")
    put(tmp_path, {"a.text": ""})
    with pytest.raises(DetkitError, match=r"\.csv, .*\.lines\)"):
        open_dataset(tmp_path / "a.text")


def test_a_box_outside_its_image_gets_the_hint_of_the_new_format(tmp_path: Path) -> None:
    put(tmp_path, {"pics/a.png": None, "a.lines": "a.png cat 10 10 90 15\n"})
    (finding,) = check(open_dataset(tmp_path), read_images=True)
    assert finding.code == "outside-image"
    assert finding.message.endswith("; LINES are pixels")


def test_force_replaces_a_folder_of_the_new_format_and_no_other(voc: Path, tmp_path: Path) -> None:
    dataset = open_dataset(voc)
    convert(dataset, tmp_path / "out", "lines")
    convert(dataset, tmp_path / "out", "coco", force=True)
    assert open_dataset(tmp_path / "out").format == "coco"
    put(tmp_path / "out", {"other.lines": ""})
    with pytest.raises(UsageError, match="which detkit did not write"):
        convert(dataset, tmp_path / "out", "lines", force=True)


@pytest.mark.parametrize(
    ("name", "refused"), [("a\udcff.lines", 1), ("a\udcff.csv", 1), ("a\udcff.md", 0)]
)
def test_label_files_whose_names_no_text_can_hold_are_findings(
    voc: Path, name: str, refused: int
) -> None:
    try:
        (voc / name).write_bytes(b"")
    except (OSError, UnicodeError):
        pytest.skip("this file system has no such names")
    codes = [finding.code for finding in open_dataset(voc).findings]
    assert codes.count("bad-file-name") == refused


def test_what_force_may_replace_is_what_the_writers_write() -> None:
    from detkit.data.output import _own_names

    listed = "JPEGImages Annotations ImageSets classes.txt images labels annotations data.yaml"
    tables = "train.csv val.csv test.csv trainval.csv labels.csv"
    tools = "annotations.xml label_config.xml labels.txt meta.json dataset train val test trainval"
    tasks = "tasks.json train.json val.json test.json trainval.json"
    made_up = "pics labels.lines"
    systems = ".DS_Store Thumbs.db"
    road = "training validation testing trainval image_2 label_2"
    faces = "WIDER_train WIDER_val WIDER_test WIDER_trainval wider_face_split"
    frames = "train val test img1 gt seqinfo.ini labelTxt"
    every = f"{listed} {tables} {made_up} {systems} {road} {faces} {frames} {tools} {tasks}"
    assert _own_names() == set(every.split())
