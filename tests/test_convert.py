"""Every format into every other and back, to the fraction; and cutting splits by a seed."""

import hashlib
import json
import math
import time
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from running import detkit

from detkit.data import open_dataset
from detkit.data.convert import convert, free_name, losses
from detkit.data.formats import reading
from detkit.data.formats.format import number
from detkit.data.formats.reading import format_of
from detkit.data.records import Dataset, ImageRecord, ObjectRecord
from detkit.data.splits import split_dataset
from detkit.errors import DetkitError, UsageError

SHARED = Path(__file__).parents[2] / "shared" / "data"
HEIGHT, WIDTH = 37, 53
WRITTEN = [form for form in reading.FORMATS if form.write is not None]
FORMATS = [form.name for form in WRITTEN if not form.refusal(["zebra", "bus"])]
NO_DIFFICULT = {form.name for form in WRITTEN if not form.keeps_difficult}
NO_CLASS_ORDER = {form.name for form in WRITTEN if not (form.keeps_order and form.keeps_classes)}
NUMBERED = {form.name for form in WRITTEN if form.is_numbered}
UNNAMED = {form.name for form in WRITTEN if not form.names_images}
# Every format after and before the one that holds most.
PAIRS = [pair for pair in product(FORMATS, FORMATS) if "coco" in pair or pair[0] == pair[1]]


def image_bytes(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    return bytes(cv2.imencode(".png", pixels)[1])


IMAGES = [image_bytes(seed) for seed in range(16)]


def write_images(root: Path, image_ids: list[str]) -> None:
    for place, image_id in enumerate(image_ids):
        (root / image_id).parent.mkdir(parents=True, exist_ok=True)
        (root / image_id).write_bytes(IMAGES[place % len(IMAGES)])


def record(root: Path, image_id: str, *objects: ObjectRecord) -> ImageRecord:
    return ImageRecord(image_id, root / image_id, objects, WIDTH, HEIGHT, root / "labels.json")


def small(root: Path) -> Dataset:
    """Return a set with everything that is awkward, its images written."""
    dataset = Dataset(
        root,
        "coco",
        ("zebra", "Apfel & Öl", "bus"),
        {
            "train": (
                record(
                    root,
                    "train/images/a.png",
                    ObjectRecord("bus", (0, 0, 53, 37)),
                    ObjectRecord("Apfel & Öl", (1.25, 2.3, 10.1, 20.7), True),
                ),
                record(root, "train/images/größe & 1.png"),
            ),
            "val": (record(root, "valid/images/a.png", ObjectRecord("bus", (3, 4, 5, 6))),),
            "test": (record(root, "test/images/sub/a.png", ObjectRecord("bus", (3, 4, 5, 6.5))),),
        },
    )
    write_images(root, [one.image_id for part in dataset.splits.values() for one in part])
    return dataset


def content(dataset: Dataset, *, difficult: bool = True) -> dict[str, list[list[object]]]:
    """Return the labels of each split keyed by nothing but the images' bytes."""
    return {
        split: sorted(
            [
                hashlib.sha256(image.path.read_bytes()).hexdigest(),
                [[one.name, one.difficult and difficult, *one.box] for one in image.objects],
            ]
            for image in images
        )
        for split, images in dataset.splits.items()
    }


def assert_same(found: Dataset, expected: Dataset, *through: str) -> None:
    difficult = not NO_DIFFICULT & set(through)
    if NO_CLASS_ORDER & set(through):
        assert set(found.class_names) <= set(expected.class_names)
    else:
        assert found.class_names == expected.class_names
    left, right = content(found), content(expected, difficult=difficult)
    assert left.keys() == right.keys()
    for split in left:
        assert len(left[split]) == len(right[split])
        for (name, boxes), (other_name, other_boxes) in zip(left[split], right[split]):
            assert name == other_name
            assert len(boxes) == len(other_boxes)
            for box, other in zip(boxes, other_boxes):
                assert box[:2] == other[:2]
                assert box[2:] == pytest.approx(other[2:], abs=1e-6)


def hashes(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_any_format_into_any_other_keeps_labels_splits_and_images(
    tmp_path: Path, first: str, second: str
) -> None:
    source = small(tmp_path / "source")
    before = hashes(tmp_path / "source")
    convert(source, tmp_path / "first", first)
    once = open_dataset(tmp_path / "first")
    assert once.format == first
    assert once.findings == ()
    assert_same(once, source, first)
    convert(once, tmp_path / "second", second)
    twice = open_dataset(tmp_path / "second")
    assert twice.format == second
    assert_same(twice, source, first, second)
    assert hashes(tmp_path / "source") == before


def boxes() -> st.SearchStrategy[tuple[float, float, float, float]]:
    def side(length: int) -> st.SearchStrategy[tuple[float, float]]:
        hundredths = st.integers(0, length * 100)
        return (
            st.tuples(hundredths, hundredths)
            .filter(lambda pair: abs(pair[0] - pair[1]) > 100)
            .map(lambda pair: (min(pair) / 100, max(pair) / 100))
        )

    return st.tuples(side(WIDTH), side(HEIGHT)).map(
        lambda pair: (pair[0][0], pair[1][0], pair[0][1], pair[1][1])
    )


names = st.text(
    st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=8
).filter(lambda name: name.strip() == name)


@st.composite
def label_sets(
    draw: st.DrawFn,
) -> tuple[list[str], dict[str, list[list[tuple[str, object, bool]]]]]:
    classes = draw(st.lists(names, min_size=1, max_size=4, unique_by=str.casefold))
    label = st.tuples(st.sampled_from(classes), boxes(), st.booleans())
    image = st.lists(label, max_size=3)
    full = st.lists(label, min_size=1, max_size=3)
    splits = {
        split: [draw(full), *draw(st.lists(image, max_size=2))]
        for split in draw(st.sampled_from([("all",), ("train",), ("train", "val", "test")]))
    }
    return classes, splits


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@pytest.mark.parametrize("to", FORMATS)
@given(labels=label_sets())
def test_drawn_labels_survive_the_way_there_and_back(
    to: str, labels: tuple[list[str], dict[str, list[list[tuple[str, object, bool]]]]]
) -> None:
    classes, drawn = labels
    with TemporaryDirectory() as folder:
        root = Path(folder) / "source"
        splits = {
            split: tuple(
                record(root, f"{split}/images/{place}.png", *(ObjectRecord(*one) for one in image))
                for place, image in enumerate(images)
            )
            for split, images in drawn.items()
        }
        source = Dataset(root, "coco", tuple(classes), splits)
        write_images(root, [one.image_id for part in splits.values() for one in part])
        convert(source, Path(folder) / "there", to)
        there = open_dataset(Path(folder) / "there")
        assert_same(there, source, to)
        convert(there, Path(folder) / "back", "voc")
        assert_same(open_dataset(Path(folder) / "back"), source, to)


def test_voc_is_written_from_one_and_with_the_last_pixel(tmp_path: Path) -> None:
    convert(small(tmp_path / "source"), tmp_path / "out", "voc")
    root = ElementTree.parse(tmp_path / "out" / "Annotations" / "a.xml").getroot()
    found = [[box.text for box in one] for one in root.iter("bndbox")]
    assert found == [["1", "1", "53", "37"], ["2.25", "3.3", "10.1", "20.7"]]
    assert [one.text for one in root.iter("difficult")] == ["0", "1"]
    assert [one.text for one in root.iter("name")] == ["bus", "Apfel & Öl"]
    listed = (tmp_path / "out" / "ImageSets" / "Main" / "train.txt").read_text("utf-8")
    assert listed == "a\ngröße & 1\n"


def test_coco_is_written_from_zero_with_ids_from_one(tmp_path: Path) -> None:
    convert(small(tmp_path / "source"), tmp_path / "out", "coco")
    text = (tmp_path / "out" / "annotations" / "instances_train.json").read_text("utf-8")
    found = json.loads(text)
    assert [one["bbox"] for one in found["annotations"]] == [
        [0, 0, 53, 37],
        [1.25, 2.3, 8.85, 18.4],
    ]
    assert [one["iscrowd"] for one in found["annotations"]] == [0, 1]
    assert [one.get("difficult") for one in found["annotations"]] == [None, 1]
    assert [one["area"] for one in found["annotations"]] == [1961, pytest.approx(8.85 * 18.4)]
    assert found["categories"] == [
        {"id": 1, "name": "zebra"},
        {"id": 2, "name": "Apfel & Öl"},
        {"id": 3, "name": "bus"},
    ]
    assert found["images"][0] == {"id": 1, "file_name": "a.png", "width": 53, "height": 37}


def test_coco_is_read_by_pycocotools(tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    convert(small(tmp_path / "source"), tmp_path / "out", "coco")
    read = coco.COCO(str(tmp_path / "out" / "annotations" / "instances_train.json"))
    assert sorted(read.getImgIds()) == [1, 2]
    assert [one["name"] for one in read.loadCats(read.getCatIds())] == [
        "zebra",
        "Apfel & Öl",
        "bus",
    ]
    assert len(read.loadAnns(read.getAnnIds(imgIds=[1]))) == 2


def test_coco_image_ids_are_kept(tmp_path: Path) -> None:
    source = small(tmp_path / "source")
    train = tuple(replace(one, key=str(key)) for one, key in zip(source.splits["train"], (139, 17)))
    convert(source.with_splits({"train": train}), tmp_path / "out", "coco")
    text = (tmp_path / "out" / "annotations" / "instances_train.json").read_text("utf-8")
    assert [one["id"] for one in json.loads(text)["images"]] == [139, 17]


def test_yolo_is_written_in_shares_of_the_real_image(tmp_path: Path) -> None:
    source = small(tmp_path / "source")
    wrong = tuple(replace(one, width=1000, height=7) for one in source.splits["train"])
    convert(source.with_splits({"train": wrong}), tmp_path / "out", "yolo")
    lines = (
        (tmp_path / "out" / "labels" / "train" / "a.txt").read_text(encoding="utf-8").splitlines()
    )
    assert lines[0] == "2 0.5 0.5 1 1"
    index, *shares = lines[1].split()
    assert index == "1"
    expected = [(1.25 + 10.1) / 2 / 53, (2.3 + 20.7) / 2 / 37, 8.85 / 53, 18.4 / 37]
    assert [float(value) for value in shares] == pytest.approx(expected, abs=1e-12)
    assert (tmp_path / "out" / "labels" / "train" / "größe & 1.txt").read_text(
        encoding="utf-8"
    ) == ""


def test_csv_is_the_common_form(tmp_path: Path) -> None:
    convert(small(tmp_path / "source"), tmp_path / "out", "csv")
    lines = (tmp_path / "out" / "train.csv").read_text("utf-8").splitlines()
    assert lines[:2] == [
        "filename,width,height,class,xmin,ymin,xmax,ymax,difficult",
        "a.png,53,37,bus,1,1,53,37,0",
    ]
    assert (tmp_path / "out" / "val.csv").read_text("utf-8").splitlines() == [
        "filename,width,height,class,xmin,ymin,xmax,ymax",
        "valid_a.png,53,37,bus,4,5,5,6",
    ]


def test_ten_thousand_images_are_named_in_a_moment() -> None:
    used: set[str] = set()
    started = time.process_time()
    names = [free_name(f"camera/{index}.jpg", used, True) for index in range(10_000)]
    assert time.process_time() - started < 3  # about 0.15 s; 20 s when every name is tried
    assert names == [f"{index}.jpg" for index in range(10_000)]


def test_what_a_format_cannot_hold_is_said_and_nothing_where_it_holds_all(tmp_path: Path) -> None:
    source = small(tmp_path)
    assert losses(source, "voc") == []
    assert losses(source, "coco") == [
        "1 difficult object: marked as crowds (iscrowd), too, which pycocotools leaves out"
    ]
    coco = source.with_splits({"train": source.splits["val"]})
    assert losses(coco, "coco") == []
    assert losses(source, "yolo") == [
        "1 difficult object became ordinary: yolo has no mark for them"
    ]
    assert losses(source, "csv") == ["csv has no place for classes without objects: zebra"]
    turned = replace(source, class_names=("bus", "Apfel & Öl"))
    assert losses(turned, "csv") == [
        "csv has no order of classes: bus, Apfel & Öl will be read by name"
    ]


@pytest.mark.parametrize("words", [("convert",), ("split", "--val", ".5")])
def test_the_commands_warn_of_what_the_new_format_cannot_hold(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    convert(small(tmp_path / "old"), tmp_path / "coco", "coco")
    done = detkit(*words, tmp_path / "coco", tmp_path / "new", "--to", "yolo", "-q")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == (
        "detkit: warning: 1 difficult object became ordinary: yolo has no mark for them\n"
    )


@pytest.mark.parametrize("to", FORMATS)
def test_an_image_of_a_rare_kind_is_read_back_or_refused(tmp_path: Path, to: str) -> None:
    source = small(tmp_path / "old")
    first = source.splits["train"][0]
    rare = first.path.rename(first.path.with_suffix(".jxl"))
    first = replace(first, path=rare, image_id=f"{first.image_id[:-4]}.jxl")
    source = replace(source, splits={"train": (first,)})
    if to in UNNAMED:
        with pytest.raises(DetkitError, match=rf"a\.jxl: --to {to}: .* save it as PNG"):
            convert(source, tmp_path / "new", to)
        return
    convert(source, tmp_path / "new", to)
    back = open_dataset(tmp_path / "new")
    assert [one.path.is_file() for one in back.splits["train"]] == [True]
    assert len(back.splits["train"][0].objects) == len(first.objects)


def test_images_are_copies_and_no_links(tmp_path: Path) -> None:
    source = small(tmp_path / "source")
    convert(source, tmp_path / "out", "yolo")
    original = tmp_path / "source" / "train" / "images" / "a.png"
    copy = tmp_path / "out" / "images" / "train" / "a.png"
    assert copy.read_bytes() == original.read_bytes()
    assert not copy.is_symlink() and copy.stat().st_ino != original.stat().st_ino


def test_images_of_one_name_get_different_ones_in_a_flat_tree(tmp_path: Path) -> None:
    root = tmp_path / "source"
    ids = ["x/a.png", "y/a.png", "x/y/A.PNG", "images/a.png", "train/y/a.png", "a.png"]
    write_images(root, ids)
    objects = [ObjectRecord("bus", (place, 1, 20, 20)) for place in range(len(ids))]
    records = tuple(record(root, name, one) for name, one in zip(ids, objects))
    source = Dataset(root, "csv", ("bus",), {"train": records})
    for to in FORMATS:
        convert(source, tmp_path / to, to)
        assert_same(open_dataset(tmp_path / to), source, to)
    written = [path.stem.casefold() for path in (tmp_path / "voc" / "JPEGImages").iterdir()]
    assert len(set(written)) == len(ids)


def test_an_image_in_two_splits_is_labelled_in_both(tmp_path: Path) -> None:
    source = small(tmp_path / "source")
    shared = source.splits["train"][0]
    both = source.with_splits({"train": source.splits["train"], "test": (shared,)})
    for to in FORMATS:
        convert(both, tmp_path / to, to)
        assert_same(open_dataset(tmp_path / to), both, to)


@pytest.mark.parametrize("to", FORMATS)
def test_a_failure_on_the_way_leaves_nothing_behind(tmp_path: Path, to: str) -> None:
    source = small(tmp_path / "source")
    source.splits["val"][0].path.write_bytes(b"no image")
    with pytest.raises(DetkitError, match=r"a\.png"):
        convert(source, tmp_path / "out", to)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    source.splits["val"][0].path.unlink()
    with pytest.raises(DetkitError, match="no such image"):
        convert(source, tmp_path / "out", to)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_an_unlabelled_image_stops_the_conversion_except_from_yolo(tmp_path: Path) -> None:
    source = small(tmp_path / "source")
    first, second = source.splits["train"]
    bare = source.with_splits({"train": (first, replace(second, label_file=None))})
    with pytest.raises(DetkitError, match="no label file"):
        convert(bare, tmp_path / "out", "coco")
    convert(replace(bare, format="yolo"), tmp_path / "out", "voc")
    assert_same(open_dataset(tmp_path / "out"), bare, "voc")


@pytest.mark.parametrize("out", ["source", "source/out", "source/../source", "."])
def test_writing_into_or_around_the_source_is_refused(tmp_path: Path, out: str) -> None:
    source = small(tmp_path / "source")
    before = hashes(tmp_path)
    with pytest.raises(UsageError, match="source folder"):
        convert(source, tmp_path / out, "voc", force=True)
    assert hashes(tmp_path) == before


def test_a_folder_with_content_is_replaced_only_when_forced(tmp_path: Path) -> None:
    source = small(tmp_path / "source")
    convert(source, tmp_path / "out", "voc")
    before = hashes(tmp_path / "out")
    with pytest.raises(UsageError, match="--force"):
        convert(source, tmp_path / "out", "coco")
    assert hashes(tmp_path / "out") == before
    convert(source, tmp_path / "out", "coco", force=True)
    assert_same(open_dataset(tmp_path / "out"), source, "coco")
    assert not (tmp_path / "out" / "Annotations").exists()
    (tmp_path / "out" / "notes.md").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match=r"notes\.md"):
        convert(source, tmp_path / "out", "coco", force=True)


def test_what_force_replaces_is_kept_when_the_conversion_fails(tmp_path: Path) -> None:
    source = small(tmp_path / "source")
    convert(source, tmp_path / "out", "voc")
    before = hashes(tmp_path / "out")
    source.splits["test"][0].path.unlink()
    with pytest.raises(DetkitError):
        convert(source, tmp_path / "out", "coco", force=True)
    assert hashes(tmp_path / "out") == before


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("split", ["fold1", "../../../evil", "car_train", ":"])
def test_a_split_that_the_format_cannot_name_is_kept_or_refused(
    tmp_path: Path, to: str, split: str
) -> None:
    source = small(tmp_path / "source")
    source = replace(source, splits={"train": source.splits["train"], split: source.splits["val"]})
    if (to, split) == ("voc", "fold1"):
        convert(source, tmp_path / "out", to)
        assert set(open_dataset(tmp_path / "out").splits) == {"train", "fold1"}
        return
    with pytest.raises(UsageError, match=f'the split "{split}" would be lost'):
        convert(source, tmp_path / "out", to)
    assert [one.name for one in tmp_path.iterdir()] == ["source"]


def test_an_unknown_format_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="voc, coco, .*yolo, csv"):
        convert(small(tmp_path / "source"), tmp_path / "out", "pascal")


def test_progress_hears_every_image_that_is_copied(tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []
    convert(
        small(tmp_path / "source"), tmp_path / "o", "voc", progress=lambda *step: heard.append(step)
    )
    assert heard == [(1, 4), (2, 4), (3, 4), (4, 4)]


@given(st.floats(-1e6, 1e6))
def test_a_number_reads_back_to_a_billionth_without_an_exponent(value: float) -> None:
    text = number(value)
    assert "e" not in text and not text.endswith(".")
    assert math.isclose(float(text), value, rel_tol=0, abs_tol=1e-9)


@pytest.mark.parametrize(
    ("value", "text"), [(3.0, "3"), (0.1 + 0.2, "0.3"), (-0.0, "0"), (1e-7, "0.0000001")]
)
def test_a_number_is_written_as_people_write_it(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.skipif(not SHARED.is_dir(), reason="real data sets are not here")
@pytest.mark.parametrize("to", FORMATS)
def test_real_labels_go_through_every_format(tmp_path: Path, to: str) -> None:
    source = open_dataset(SHARED / "voc100")
    convert(source, tmp_path / "out", to)
    assert_same(open_dataset(tmp_path / "out"), source, to)


def pool(root: Path, count: int, *, classes: int = 3) -> Dataset:
    """Return `count` images in one split: class k is in every (k + 1)th image, one is empty."""
    ids = [f"images/{place:03d}.png" for place in range(count)]
    root.mkdir(parents=True, exist_ok=True)
    for image_id in ids:
        (root / image_id).parent.mkdir(exist_ok=True)
        (root / image_id).write_bytes(image_id.encode())
    records = tuple(
        record(
            root,
            image_id,
            *(ObjectRecord(f"c{k}", (1, 1, 9, 9)) for k in range(classes) if place % (3**k) == 0),
        )
        for place, image_id in enumerate(ids)
    )
    empty = replace(records[-1], objects=())
    class_names = tuple(f"c{k}" for k in range(classes))
    return Dataset(root, "csv", class_names, {"all": (*records[:-1], empty)})


def members(dataset: Dataset) -> dict[str, set[str]]:
    return {name: {one.image_id for one in part} for name, part in dataset.splits.items()}


def test_a_division_has_the_sizes_asked_for_and_loses_nothing(tmp_path: Path) -> None:
    source = pool(tmp_path, 100)
    cut = split_dataset(source, val=0.2, test=0.1, seed=0)
    assert {name: len(part) for name, part in cut.splits.items()} == {
        "train": 70,
        "val": 20,
        "test": 10,
    }
    assert set.union(*members(cut).values()) == members(source)["all"]
    assert sum(len(part) for part in cut.splits.values()) == 100
    assert set(split_dataset(source, val=0.2, seed=0).splits) == {"train", "val"}


def test_a_seed_divides_the_same_way_whatever_the_order_and_another_otherwise(
    tmp_path: Path,
) -> None:
    source = pool(tmp_path, 60)
    backwards = source.with_splits({"all": source.splits["all"][::-1]})
    first = members(split_dataset(source, val=0.25, seed=5))
    assert members(split_dataset(backwards, val=0.25, seed=5)) == first
    assert members(split_dataset(source, val=0.25, seed=6)) != first


def test_classes_keep_their_shares(tmp_path: Path) -> None:
    source = pool(tmp_path, 100)
    for seed in range(5):
        cut = split_dataset(source, val=0.2, seed=seed)
        counts = {
            name: Counter(one.name for image in part for one in image.objects)
            for name, part in cut.splits.items()
        }
        for name in source.class_names:
            total = counts["train"][name] + counts["val"][name]
            assert abs(counts["val"][name] - 0.2 * total) <= 1.5


def test_identical_images_stay_on_one_side(tmp_path: Path) -> None:
    source = pool(tmp_path, 40)
    images = [one.path for one in source.splits["all"]]
    for copy, original in zip(images[20:], images[:20]):
        copy.write_bytes(original.read_bytes())
    for seed in range(5):
        for part in split_dataset(source, val=0.3, seed=seed).splits.values():
            inside = {one.path for one in part}
            assert all((a in inside) == (b in inside) for a, b in zip(images[20:], images[:20]))


def test_an_existing_test_split_stays_unless_one_is_asked_for(tmp_path: Path) -> None:
    records = pool(tmp_path, 50).splits["all"]
    source = pool(tmp_path, 50).with_splits(
        {"train": records[:30], "val": records[30:40], "test": records[40:]}
    )
    kept = split_dataset(source, val=0.5, seed=0)
    assert kept.splits["test"] == records[40:]
    assert (len(kept.splits["train"]), len(kept.splits["val"])) == (20, 20)
    anew = split_dataset(source, val=0.5, test=0.2, seed=0)
    assert set(anew.splits["test"]) != set(records[40:])
    assert len(anew.splits["test"]) == 10


@pytest.mark.parametrize(("val", "test"), [(0.0, 0.0), (1.0, 0.0), (0.5, 0.5), (-0.1, 0.3)])
def test_shares_that_leave_nothing_are_usage_errors(
    tmp_path: Path, val: float, test: float
) -> None:
    with pytest.raises(UsageError, match="--val"):
        split_dataset(pool(tmp_path, 10), val=val, test=test, seed=0)


def test_two_images_are_enough_for_two_splits_and_too_few_for_three(tmp_path: Path) -> None:
    source = pool(tmp_path, 2)
    cut = split_dataset(source, val=0.9, seed=0)
    assert {name: len(part) for name, part in cut.splits.items()} == {"train": 1, "val": 1}
    with pytest.raises(UsageError, match="too few"):
        split_dataset(source, val=0.3, test=0.3, seed=0)


def test_a_division_is_written_in_the_format_it_was_read_in(tmp_path: Path) -> None:
    for to in FORMATS:
        convert(small(tmp_path / "source"), tmp_path / to, to)
        source = open_dataset(tmp_path / to)
        cut = split_dataset(source, val=0.4, test=0.2, seed=1)
        convert(cut, tmp_path / f"{to}-cut", format_of(source).name)
        found = open_dataset(tmp_path / f"{to}-cut")
        assert found.format == to
        assert_same(found, cut, to)
        (tmp_path / "source").rename(tmp_path / f"source-{to}")
