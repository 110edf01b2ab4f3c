import gc
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from detkit.errors import DetkitError, UsageError
from detkit.predictions.image import ImagePredictions, from_detections
from detkit.predictions.readers import read_predictions
from detkit.predictions.texts import to_json
from detkit.predictions.writers import FOLDER_FORMATS, FORMATS, images_file, open_writer
from detkit.structures import Detections
from detkit.text import is_plain

DATA = Path(__file__).parents[2] / "shared" / "data"
NAMES = ["car", "traffic light", "Ärztin"]


def image(name, *rows, width=640, height=480, error=None):
    """Predictions of (label, score, box) rows."""
    return ImagePredictions(
        image=name,
        width=width,
        height=height,
        labels=tuple(row[0] for row in rows),
        scores=np.array([row[1] for row in rows], np.float32),
        boxes=np.array([row[2] for row in rows], np.float32).reshape(-1, 4),
        error=error,
    )


SOME = [
    image(
        "photos/a b.jpg", ("car", 0.93, (10.5, 20, 110.25, 220)), ("Ärztin", 0.1, (0, 0, 640, 480))
    ),
    image("photos/nichts.jpg"),
    image("photos/ü, 3.jpg", ("traffic light", 1.75, (1 / 3, 2 / 3, 99.9, 100.1))),
]


def write(format, target, predictions, **options):
    with open_writer(format, target, class_names=NAMES, **options) as writer:
        for one in predictions:
            writer.write(one)


def rows_of(one):
    """The rows by label and score; boxes, which a format may round, have no say in the order."""
    rows = zip(one.labels, one.scores.tolist(), map(tuple, one.boxes.tolist()))
    return sorted(rows, key=lambda row: row[:2])


def is_same(one, other, tolerance=0.0):
    return [row[0] for row in rows_of(one)] == [row[0] for row in rows_of(other)] and all(
        left[1] == right[1] and left[2] == pytest.approx(right[2], abs=tolerance)
        for left, right in zip(rows_of(one), rows_of(other))
    )


# What each format calls an image, and whether it remembers one with nothing in it.
CALLED = {
    "jsonl": lambda name: name,
    "json": lambda name: name,
    "csv": lambda name: name,
    "yolo": lambda name: name,
    "coco": lambda name: name,
    "voc": lambda name: name.rsplit("/")[-1].rsplit(".", 1)[0],
}
FORGETS_EMPTY = ("coco", "voc")


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_written_is_read_back(format, tmp_path):
    path = tmp_path / "gefünden"
    write(format, path, SOME)
    found = read_predictions(path, class_names=NAMES, scores="raw")
    back = {one.image: one for one in found}
    kept = [one for one in SOME if len(one.labels) or format not in FORGETS_EMPTY]
    assert sorted(back) == sorted(CALLED[format](one.image) for one in kept)
    for one in kept:
        assert is_same(back[CALLED[format](one.image)], one, tolerance=1e-4)
        assert not back[CALLED[format](one.image)].normalised


coordinate = st.floats(0, 600, width=32)


@st.composite
def random_row(draw):
    xs, ys = (
        sorted([draw(coordinate), draw(coordinate)]),
        sorted([draw(coordinate), draw(coordinate)]),
    )
    score = draw(st.floats(-100, 100, width=32))
    return draw(st.sampled_from(NAMES)), score, (xs[0], ys[0], xs[1], ys[1])


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(random_row(), max_size=6), format=st.sampled_from(FORMATS))
@example(rows=[("car", 0.0, (0.0, 0.0, 0.0, 0.0))], format="voc")
def test_any_detections_survive_the_way_through_a_file(rows, format, tmp_path_factory):
    path = tmp_path_factory.mktemp("round") / "trip"
    write(format, path, [image("a.jpg", *rows)])
    if not rows and format in FORGETS_EMPTY:
        assert read_predictions(path, class_names=NAMES, scores="raw") == []
        return
    (back,) = read_predictions(path, class_names=NAMES, scores="raw")
    is_exact = format in ("jsonl", "json", "csv")
    assert is_same(back, image("a.jpg", *rows), tolerance=0.0 if is_exact else 1e-4)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=5))
def test_numbers_are_written_as_short_as_float32_allows(values):
    numbers = np.array(values, np.float32)
    written = to_json(image("a", *(("car", score, (0, 0, 1, 1)) for score in numbers)))
    back = [one["score"] for one in written["detections"]]
    assert np.array(back, np.float32).tolist() == numbers.tolist()
    for number, decimal in zip(numbers, back):
        if 1e-9 < abs(number) < 1e6:
            assert len(repr(decimal)) <= len(repr(float(str(number))))


@pytest.mark.parametrize("format", FORMATS)
def test_boxes_without_width_or_height_survive(format, tmp_path):
    point = image("a.jpg", ("car", 0.5, (31.726643, 363.93912, 31.726643, 363.93912)))
    write(format, tmp_path / "out", [point])
    (back,) = read_predictions(tmp_path / "out", class_names=NAMES)
    assert is_same(back, point, tolerance=1e-4)


def test_a_line_of_jsonl_is_the_documented_object():
    stream = io.StringIO()
    write("jsonl", stream, SOME[:2])
    first, second = stream.getvalue().splitlines()
    assert json.loads(first) == {
        "image": "photos/a b.jpg",
        "width": 640,
        "height": 480,
        "detections": [
            {"label": "car", "score": 0.93, "box": [10.5, 20.0, 110.25, 220.0]},
            {"label": "Ärztin", "score": 0.1, "box": [0.0, 0.0, 640.0, 480.0]},
        ],
    }
    assert second == (
        '{"image": "photos/nichts.jpg", "width": 640, "height": 480, "detections": []}'
    )


def test_an_image_that_cannot_be_read_is_an_error_line_and_is_read_back_as_one(tmp_path):
    path = tmp_path / "found.jsonl"
    write("jsonl", path, [image("bad.jpg", error="truncated")])
    assert path.read_text(encoding="utf-8") == '{"image": "bad.jpg", "error": "truncated"}\n'
    (back,) = read_predictions(path)
    assert (back.image, back.error, len(back.scores)) == ("bad.jpg", "truncated", 0)


@pytest.mark.parametrize("format", [one for one in FORMATS if one != "jsonl"])
def test_images_that_cannot_be_read_break_no_format(format, tmp_path):
    write(format, tmp_path / "out", [image("bad.jpg", error="truncated"), *SOME])
    labels = {
        label
        for one in read_predictions(tmp_path / "out", class_names=NAMES, scores="raw")
        for label in one.labels
    }
    assert labels == set(NAMES)


def test_a_stream_is_flushed_after_each_image_and_left_open():
    class Stream(io.StringIO):
        flushed = 0

        def flush(self):
            self.flushed = len(self.getvalue())

    stream = Stream()
    writer = open_writer("jsonl", stream, class_names=NAMES)
    writer.write(SOME[0])
    assert stream.flushed == len(stream.getvalue()) > 0
    writer.close()
    assert not stream.closed


@pytest.mark.parametrize("format", ["json", "coco"])
def test_arrays_are_valid_json_with_nothing_in_them(format):
    stream = io.StringIO()
    write(format, stream, [])
    assert json.loads(stream.getvalue()) == []


def test_a_line_is_whole_before_the_next_image_is_there():
    for format in ("jsonl", "csv"):
        stream = io.StringIO()
        writer = open_writer(format, stream, class_names=NAMES)
        for one in SOME:
            writer.write(one)
            assert stream.getvalue().endswith("\n")
        writer.close()
        assert "\n\n" not in stream.getvalue()


def test_jsonl_of_no_images_is_empty():
    stream = io.StringIO()
    write("jsonl", stream, [])
    assert stream.getvalue() == ""


def test_voc_files_are_one_based_with_both_corners_inside(tmp_path):
    write("voc", tmp_path / "voc", [image("x/a.jpg", ("car", 0.5, (0, 0, 10, 20)))])
    files = sorted(path.name for path in (tmp_path / "voc").iterdir())
    assert files == sorted(f"comp4_det_test_{name}.txt" for name in NAMES)
    text = (tmp_path / "voc" / "comp4_det_test_car.txt").read_text(encoding="utf-8")
    assert text == "a 0.5 1 1 10 20\n"


def test_a_folder_of_labels_is_never_replaced_by_detections(tmp_path):
    label = tmp_path / "labels" / "a.txt"
    label.parent.mkdir()
    label.write_text("0 .5 .5 .1 .1\n", encoding="utf-8")
    (tmp_path / "classes.txt").write_text("car\n", encoding="utf-8")
    with pytest.raises(UsageError, match="holds labels of another kind"):
        open_writer("yolo", tmp_path, class_names=["car"], force=True)
    assert label.read_text(encoding="utf-8") == "0 .5 .5 .1 .1\n"


def test_yolo_rows_are_normalised_centres_and_sizes(tmp_path):
    write("yolo", tmp_path / "yolo", [image("a.jpg", ("traffic light", 0.5, (64, 48, 128, 96)))])
    text = (tmp_path / "yolo" / "labels" / "a.txt").read_text(encoding="utf-8")
    assert text == "1 0.15 0.15 0.1 0.1 0.5\n"
    assert (tmp_path / "yolo" / "classes.txt").read_text(encoding="utf-8").split("\n")[:3] == NAMES
    assert (tmp_path / "yolo" / "images.csv").read_text(
        encoding="utf-8"
    ) == "image,width,height\na.jpg,640,480\n"


def test_csv_keeps_an_image_with_nothing_in_it():
    stream = io.StringIO()
    write("csv", stream, SOME[:2])
    assert stream.getvalue().splitlines() == [
        "image,label,score,x1,y1,x2,y2",
        "photos/a b.jpg,car,0.93,10.5,20.0,110.25,220.0",
        "photos/a b.jpg,Ärztin,0.1,0.0,0.0,640.0,480.0",
        "photos/nichts.jpg,,,,,,",
    ]


@pytest.mark.parametrize("format", FOLDER_FORMATS)
def test_two_images_that_a_format_would_mix_up_are_refused(format, tmp_path):
    with (
        pytest.raises(DetkitError, match=r"b/1\.jpg and a/1\.jpg"),
        open_writer(format, tmp_path / "out", class_names=NAMES) as writer,
    ):
        writer.write(image("a/1.jpg"))
        writer.write(image("b/1.jpg"))
    assert list(tmp_path.iterdir()) == []


def test_names_that_a_disk_without_case_would_mix_up_are_refused_there(tmp_path, monkeypatch):
    found = [image("a/one.jpg", ("car", 0.5, (1, 2, 3, 4))), image("b/ONE.jpg")]
    (tmp_path / "a").touch()
    if not (tmp_path / "A").exists():
        write("yolo", tmp_path / "kept", found)
        names = {path.name for path in (tmp_path / "kept" / "labels").iterdir()}
        assert names == {"one.txt", "ONE.txt"}
    before = sorted(tmp_path.iterdir())
    real = Path.exists  # as on macOS and Windows: a name is there in any case
    monkeypatch.setattr(
        Path,
        "exists",
        lambda path: any(real(path.with_name(n)) for n in (path.name, path.name.lower())),
    )
    with pytest.raises(DetkitError, match=r"ONE\.txt: this disk does not tell it from one\.txt"):
        write("yolo", tmp_path / "without", found)
    with pytest.raises(DetkitError, match=r"_Car\.txt: this disk"):
        open_writer("voc", tmp_path / "classes", class_names=["car", "Car"])
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("format", ["coco", "voc", "yolo", "csv"])
def test_one_image_twice_is_refused_where_its_boxes_would_count_twice(format, tmp_path):
    with (
        pytest.raises(DetkitError, match=r"a/1\.jpg comes twice"),
        open_writer(format, tmp_path / "out", class_names=NAMES) as writer,
    ):
        writer.write(image("a/1.jpg"))
        writer.write(image("a/1.jpg"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", FORMATS)
def test_a_writer_that_fails_leaves_nothing_and_keeps_what_was_there(format, tmp_path):
    target = tmp_path / "out"
    write(format, target, SOME)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    beside = sorted(tmp_path.iterdir())
    with (
        pytest.raises(RuntimeError),
        open_writer(format, target, class_names=NAMES, force=True) as writer,
    ):
        writer.write(SOME[0])
        raise RuntimeError
    for path, content in before.items():
        assert path.read_bytes() == content
    assert sorted(tmp_path.iterdir()) == beside


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", ["\udcff\udcfe", "\ud800", "a\nb", "a\x1b[2J"])
def test_a_name_that_is_no_line_of_text_is_kept_whole_or_refused_in_one_line(
    format, name, tmp_path
):
    target, found = tmp_path / "out", image(f"{name}.jpg", ("car", 0.5, (1, 2, 3, 4)))
    if format in ("jsonl", "json", "coco"):
        write(format, target, [found])
        (back,) = read_predictions(target, class_names=NAMES)
        assert back.image == f"{name}.jpg"
        return
    with pytest.raises(DetkitError, match="the name is not UTF-8 or holds control") as caught:
        write(format, target, [image("b.jpg"), found])
    assert is_plain(str(caught.value))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", FOLDER_FORMATS)
def test_a_class_that_is_no_line_of_text_is_refused_before_anything_is_written(format, tmp_path):
    with pytest.raises(DetkitError, match=r"class c\\n\\ud800: the name is not UTF-8"):
        open_writer(format, tmp_path / "out", class_names=["car", "c\n\ud800"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", FORMATS)
def test_nothing_is_overwritten_without_force(format, tmp_path):
    target = tmp_path / "out"
    write(format, target, SOME)
    with pytest.raises(UsageError, match="--force"):
        write(format, target, SOME)
    write(format, target, SOME[:1], force=True)
    (one,) = [one for one in read_predictions(target, class_names=NAMES) if one.labels]
    assert is_same(one, SOME[0], tolerance=1e-4)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with a name here")
@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("format", [one for one in FORMATS if one not in FOLDER_FORMATS])
def test_a_pipe_or_device_is_written_to_and_never_replaced(format, force, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write(format, pipe, SOME, force=force)
    regular = tmp_path / "regular"
    write(format, regular, SOME)
    assert os.read(reader, 1 << 16) == regular.read_bytes()
    os.close(reader)
    assert pipe.is_fifo()
    images = [images_file(regular)] if format == "coco" else []
    assert sorted(tmp_path.iterdir()) == [pipe, regular, *images]


@pytest.mark.parametrize("format", FOLDER_FORMATS)
def test_force_leaves_files_of_others_in_a_folder_alone(format, tmp_path):
    precious = tmp_path / "thesis.txt"
    precious.write_text("years of work", encoding="utf-8")
    write(format, tmp_path, SOME, force=True)
    assert precious.read_text(encoding="utf-8") == "years of work"
    assert len(list(tmp_path.iterdir())) > 1


def test_wrong_targets_are_refused_with_a_line(tmp_path):
    with pytest.raises(UsageError, match="choose from jsonl"):
        open_writer("xml", tmp_path / "a", class_names=NAMES)
    with pytest.raises(UsageError, match="-o FOLDER"):
        open_writer("voc", io.StringIO(), class_names=NAMES)
    with pytest.raises(UsageError, match="is a folder"):
        open_writer("jsonl", tmp_path, class_names=NAMES, force=True)
    with pytest.raises(DetkitError, match="cannot be written"):
        open_writer("jsonl", tmp_path / "no" / "where.jsonl", class_names=NAMES)
    with pytest.raises(UsageError, match="cannot be part of a file name"):
        open_writer("voc", tmp_path / "v", class_names=["a/b"])


def test_detections_get_their_class_names():
    detections = Detections(
        np.zeros((2, 4), np.float32), np.array([0.9, 0.1], np.float32), np.array([2, 0])
    )
    one = from_detections(detections, NAMES, "a.jpg", 640, 480)
    assert one.labels == ("Ärztin", "car")
    assert (one.image, one.width, one.height) == ("a.jpg", 640, 480)


# Other tools' files.


def one_detection(path, **options):
    (found,) = read_predictions(path, class_names=NAMES, **options)
    return found.image, found.labels, found.scores.tolist(), found.boxes.tolist()


EXPECTED = ("a", ("traffic light",), [0.5], [[10.0, 20.0, 30.0, 60.0]])


@pytest.mark.parametrize(
    "text",
    [
        '[{"image_id": "a", "category_id": 2, "bbox": [10, 20, 20, 40], "score": 0.5}]',
        '{"image_id": "a", "category_id": 2, "bbox": [10, 20, 20, 40], "score": 0.5}\n\n'
        '{"image_id": "a", "category_id": 2, "bbox": [10, 20, 20, 40], "score": 0.5}\n',
        '[{"image": "a", "boxes": [[10, 20, 30, 60]], "labels": [2], "scores": [0.5]}]',
        '[{"file_name": "a", "boxes": [[10, 20, 30, 60]], "labels": ["traffic light"],'
        ' "scores": [0.5]}]',
        '{"a": {"boxes": [[10, 20, 30, 60]], "labels": [2], "scores": [0.5]}}',
        '{"image": "a",\n "detections":\n [{"label": "traffic light", "score": 0.5,'
        ' "box": [10, 20, 30, 60]}]}',
        '{"images": [{"id": 4, "file_name": "a"}],'
        ' "categories": [{"id": 0, "name": "traffic light"}],'
        ' "annotations": [{"image_id": 4, "category_id": 0, "bbox": [10, 20, 20, 40],'
        ' "score": 0.5}]}',
        "filename,width,height,class,xmin,ymin,xmax,ymax,confidence\n"
        "a,640,480,traffic light,10,20,30,60,0.5\n",
        "image;class;name;conf;left;top;right;bottom\na;1;traffic light;0.5;10;20;30;60\n",
        "image,class,score,x1,y1,x2,y2\na,1,0.5,10,20,30,60\n",
    ],
)
def test_the_dialects_of_other_tools_in_one_file(text, tmp_path):
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path = tmp_path / encoding
        path.write_bytes(text.replace("\n", "\r\n").encode(encoding))
        image_name, labels, scores, boxes = one_detection(path)
        assert (image_name, labels[:1], scores[:1], boxes[:1]) == EXPECTED


@pytest.mark.parametrize(
    "row",
    [
        "traffic light 0.5 10 20 30 60",
        "1 0.5 10 20 30 60",
        "1 0.500000 10.000000 20.000000 30.000000 60.000000",
    ],
)
def test_a_folder_of_corner_boxes_an_image(row, tmp_path):
    (tmp_path / "a.txt").write_text(row + "\n", encoding="utf-8")
    assert one_detection(tmp_path) == EXPECTED
    assert one_detection(tmp_path / "a.txt") == EXPECTED


def test_rows_that_cannot_be_corners_are_read_as_sizes(tmp_path):
    (tmp_path / "a.txt").write_text("car .9 100 100 40 30\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("car .8 10 10 40 30\n", encoding="utf-8")
    boxes = [one.boxes.tolist() for one in read_predictions(tmp_path)]
    assert boxes == [[[100, 100, 140, 130]], [[10, 10, 50, 40]]]


def test_one_row_out_of_order_among_many_corners_is_an_error_with_its_line(tmp_path):
    (tmp_path / "a.txt").write_text(
        "car .9 10 10 40 30\n" * 19 + "car .9 40 10 10 30\n", encoding="utf-8"
    )
    with pytest.raises(DetkitError, match=r"a\.txt:20: box .*corners swapped"):
        read_predictions(tmp_path)


def test_ultralytics_rows_stay_normalised_until_the_size_is_known(tmp_path):
    labels = tmp_path / "labels"
    labels.mkdir()
    (labels / "a.txt").write_text("1 0.5 0.5 0.5 0.25 0.75\n", encoding="utf-8")
    (found,) = read_predictions(tmp_path, class_names=NAMES)
    assert found.normalised
    assert found.labels == ("traffic light",)
    assert found.scores.tolist() == [0.75]
    assert found.boxes.tolist() == [[0.25, 0.375, 0.75, 0.625]]


def test_a_classes_file_beside_the_rows_has_the_say_over_their_numbers(tmp_path):
    (tmp_path / "a.txt").write_text("0 0.5 10 20 30 60\n", encoding="utf-8")
    (tmp_path / "classes.txt").write_text("traffic light\ncar\n", encoding="utf-8")
    assert one_detection(tmp_path) == EXPECTED


def test_numbers_are_class_names_where_classes_are_so_called(tmp_path):
    (tmp_path / "a.txt").write_text("7 0.5 10 20 30 60\n", encoding="utf-8")
    (found,) = read_predictions(tmp_path, class_names=["3", "7"])
    assert found.labels == ("7",)


def test_coco_numbers_count_from_0_when_there_is_a_0(tmp_path):
    path = tmp_path / "found.json"
    rows = [
        {"image_id": 3, "category_id": number, "bbox": [0, 0, 1, 1], "score": 0.5}
        for number in (0, 2)
    ]
    path.write_text(json.dumps(rows), encoding="utf-8")
    (found,) = read_predictions(path, class_names=NAMES)
    assert (found.image, found.labels) == ("3", ("car", "Ärztin"))
    path.write_text(json.dumps(rows[1:]), encoding="utf-8")
    assert read_predictions(path, class_names=NAMES)[0].labels == ("traffic light",)


COCO_ROW = '"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]'


def coco_results(**parts):
    """A COCO document of one result; parts of the result or of the document are replaced."""
    row = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}
    document = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 40, "height": 20}],
        "categories": [{"id": 1, "name": "car"}],
        "annotations": [row],
    }
    for key, value in parts.items():
        (row if key in row else document)[key] = value
    return json.dumps(document)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", "", "is empty"),
        ("a.jsonl", "  \n", "is empty"),
        ("a.bin", "hello\nworld", "not a file of detections"),
        (
            "a.jsonl",
            '{"image": "a", "detections": []}\n{"image": "b", "det',
            r"a\.jsonl:2: not JSON",
        ),
        ("a.json", '[\n{"image": "a"},\n{"image" "b"}]', r"a\.json:3: not JSON"),
        ("a.json", "[" * 100_000, "nested too deeply|not JSON"),
        ("a.json", '{"info": 3}', "not detections"),
        ("a.json", "[3]", r"entry 1: expected an object, not int"),
        ("a.json", '[{"detections": []}]', "no image is named"),
        ("a.json", '[{"image": "a"}]', "\"a\": no 'labels'"),
        (
            "a.jsonl",
            '{"image": "a", "detections": []}\n'
            '{"image": "b", "detections": [{"label": "car", "score": NaN, "box": [1, 2, 3, 4]}]}',
            r"a\.jsonl:2: detection 1: score nan is not finite",
        ),
        (
            "a.json",
            '[{"image": "a", "detections": [{"label": "car", "score": 1, "box": [1, 2, 3]}]}]',
            r"detection 1: box \[1, 2, 3\] is not 4 numbers",
        ),
        (
            "a.json",
            '[{"image": "a", "detections": [{"label": "car", "score": "x", "box": [1, 2, 3, 4]}]}]',
            "score 'x' is not a number",
        ),
        (
            "a.json",
            '[{"image": "a", "detections": [{"label": null, "score": 1, "box": [1, 2, 3, 4]}]}]',
            "label None is not a class name",
        ),
        (
            "a.json",
            '[{"image": "a", "detections": [{"label": "car", "score": 1, "box": [9, 9, 3, 4]}]}]',
            "corners swapped, or is it x y w h",
        ),
        ("a.json", '[{"image_id": 1, "bbox": [1, 2, 3, 4], "score": 1}]', "no 'category_id'"),
        ("a.json", "[{" + COCO_ROW + "}]", "no 'score'"),
        ("a.json", "[{" + COCO_ROW.replace("4]", "Infinity]") + ', "score": 1}]', "not finite"),
        (
            "a.json",
            "[{" + COCO_ROW.replace('_id": 1, "b', '_id": 9, "b') + ', "score": 1}]',
            "no class has the number 9",
        ),
        ("a.csv", "image,label,score,x1,y1,x2\n", "no column 'y2'"),
        ("a.csv", "image,label,score,x1,y1,x2,y2\na,car,.5,1,2,3\n", r"a\.csv:2: 6 cells"),
        ("a.csv", "image,label,score,x1,y1,x2,y2\na,car,.5,1,2,3,b\n", r"a\.csv:2: not numbers"),
        ("a.csv", "image,label,score,x1,y1,x2,y2\n,car,.5,1,2,3,4\n", "no image is named"),
        ("a.txt", "1 0.5 0.5 0.1 0.1\n", r"a\.txt:1: five values, so no score"),
        ("a.txt", "1 0.5 0.5\n", r"a\.txt:1: expected a class and five numbers"),
        ("a.txt", "4 0.5 10 20 30 40\n", "no class has the number 4 .3 classes, counted from 0"),
        ("a.txt", "1 nan 10 20 30 40\n", r"a\.txt:1: '1 nan 10 .* not finite"),
        ("comp4_det_test_car.txt", "a .5 1 2\n", r"car\.txt:1: expected `image score"),
        ("a.json", '[{"image": "a", "detections": ""}]', "'' is no list"),
        ("a.json", '[{"image": "a", "boxes": [], "labels": {}, "scores": []}]', "{} is no list"),
        (
            "a.json",
            coco_results(bbox=["1", "2", "3", "4"]),
            r"annotation 1: box \['1', .* is not 4",
        ),
        ("a.json", coco_results(bbox="1234"), "annotation 1: box '1234' is not 4 numbers"),
        ("a.json", coco_results(bbox=[1, 2, True, 4]), "is not 4 numbers"),
        ("a.json", coco_results(bbox=[1, 2, 10**400, 4]), "annotation 1: box .* is not finite"),
        ("a.json", coco_results(bbox=[1, 2, 1e300, 4]), "annotation 1: box .* is not finite"),
        ("a.json", coco_results(score=10**400), "annotation 1: score 1000.* is not finite"),
        ("a.json", coco_results(score="0.5"), "annotation 1: score '0.5' is not a number"),
        ("a.json", coco_results(score=[0.5]), r"annotation 1: score \[0.5\] is not a number"),
        ("a.json", coco_results(category_id=[1]), r"annotation 1: label \[1\] is not a class"),
        ("a.json", coco_results(category_id=10**400), "annotation 1: no class has the number 1000"),
        ("a.json", coco_results(image_id=[1]), r"annotation 1: 'image_id' is \[1\], no whole"),
        ("a.json", coco_results(images=[{}]), "images 1: no 'id'"),
        ("a.json", coco_results(images=["a"]), "images 1: expected an object, not str"),
        ("a.json", coco_results(images=None), '"images" is None, no list'),
        ("a.json", coco_results(images=5), '"images" is 5, no list'),
        ("a.json", coco_results(images=[{"id": True}]), "images 1: 'id' is True"),
        ("a.json", coco_results(categories=[{}]), "categories 1: no 'id'"),
        ("a.json", coco_results(categories=[{"id": [1]}]), r"categories 1: 'id' is \[1\]"),
        ("a.json", coco_results(categories=[{"id": 1}]), "categories 1: no 'name'"),
        ("a.json", coco_results(categories="abc"), "\"categories\" is 'abc', no list"),
        ("a.json", f"[{'9' * 6000}]", r"a\.json:1: JSON with an endless number"),
        ("a.jsonl", '{"image": 1,\n"error": ' + "9" * 6000 + "}", r"a\.jsonl:1: JSON with an"),
        (
            "a.csv",
            f"image,label,score,x1,y1,x2,y2\n{'a' * 200_000},car,.5,1,2,3,4\n",
            r"a\.csv:2: not CSV: field larger",
        ),
        (
            "a.csv",
            f"image,label,score,x1,y1,x2,y2\na,{'1' * 5000},.5,1,2,3,4\n",
            r"a\.csv:2: class number of 5000 digits, but there are 3 classes",
        ),
        (
            "a.csv",
            "image,label,score,x1,y1,x2,y2\na,car,.5,1,2,1e39,4\n",
            "csv:2: box .* not finite",
        ),
    ],
)
def test_what_cannot_be_understood_is_one_line_with_its_place(name, text, message, tmp_path):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DetkitError, match=message) as caught:
        read_predictions(path, class_names=NAMES)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("width", [float("inf"), float("nan"), 10**400, 1e300, -5, "40", None])
def test_a_width_that_no_image_has_is_not_known(width, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(
        coco_results(images=[{"id": 1, "width": width, "height": 20}]), encoding="utf-8"
    )
    (found,) = read_predictions(path, class_names=NAMES)
    assert (found.width, found.height) == (0, 20)
    assert found.boxes.tolist() == [[1, 2, 4, 6]]


@pytest.mark.parametrize("size", ["inf,20", "40,nan", "40,-20", "40", "40,20,1", "a,b"])
def test_a_list_of_sizes_that_no_image_has_is_refused_with_its_line(size, tmp_path):
    write("yolo", tmp_path / "out", [image("a.jpg", ("car", 0.5, (0, 0, 9, 9)))])
    (tmp_path / "out" / "images.csv").write_text(
        f"image,width,height\na.jpg,{size}\n", encoding="utf-8"
    )
    with pytest.raises(DetkitError, match=r"images\.csv:2: "):
        read_predictions(tmp_path / "out", class_names=NAMES)


image_keys = ["image", "image_id", "file_name", "id", "name", "width", "error"]
list_keys = ["detections", "annotations", "images", "categories", "boxes", "labels", "scores"]
keys = st.sampled_from([*image_keys, *list_keys, "bbox", "box", "label", "category_id", "score"])
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-2, 90)
    | st.floats()
    | st.sampled_from(["", "a.jpg", "car", 10**400, "9" * 5000, [1, 2, 3, 4], []])
)
anything = st.recursive(
    leaves, lambda one: st.lists(one, max_size=4) | st.dictionaries(keys, one, max_size=6)
)


@settings(max_examples=100, deadline=None)
@given(
    value=st.lists(st.dictionaries(keys, anything), min_size=1) | st.dictionaries(keys, anything)
)
def test_whatever_json_a_file_holds_is_read_or_refused_in_one_line(value, tmp_path_factory):
    path = tmp_path_factory.mktemp("any") / "a.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    try:
        found = read_predictions(path, class_names=NAMES)
    except DetkitError as error:
        assert "\n" not in str(error)
        assert str(path) in str(error)
    else:
        assert all(np.isfinite(one.boxes).all() for one in found)


def test_no_cycles_are_looked_for_while_many_detections_are_read(tmp_path):
    boxes = [("car", 0.5, (1, 2, 3, 4))] * 20_000
    write("jsonl", tmp_path / "found.jsonl", [image("a", *boxes)])
    (tmp_path / "bad.jsonl").write_text('{"image": "a"\n', encoding="utf-8")
    looked = []
    gc.callbacks.append(lambda phase, info: looked.append(phase))
    try:
        assert len(read_predictions(tmp_path / "found.jsonl")[0].labels) == 20_000
        assert looked.count("start") <= 1  # when all is read
    finally:
        gc.callbacks.pop()
    assert gc.isenabled()
    with pytest.raises(DetkitError):
        read_predictions(tmp_path / "bad.jsonl")
    assert gc.isenabled()


def test_numbers_without_class_names_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("3 0.5 10 20 30 40\n", encoding="utf-8")
    with pytest.raises(DetkitError, match="their names are needed"):
        read_predictions(tmp_path)
    path = tmp_path / "a.json"
    path.write_text("[{" + COCO_ROW + ', "score": 1}]', encoding="utf-8")
    with pytest.raises(DetkitError, match="their names are needed"):
        read_predictions(path)


def test_missing_empty_and_binary_places_are_refused(tmp_path):
    with pytest.raises(DetkitError, match="no such file"):
        read_predictions(tmp_path / "no")
    with pytest.raises(DetkitError, match="holds no .txt files"):
        read_predictions(tmp_path)
    (tmp_path / "a.pkl").write_bytes(b"\x80\x04\xff\x00")
    with pytest.raises(DetkitError, match="not text in UTF-8"):
        read_predictions(tmp_path / "a.pkl")


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the real data")
def test_the_same_published_detections_in_two_formats_are_the_same():
    names = (DATA / "voc100" / "voc.names").read_text(encoding="utf-8").split()
    folder = DATA / "eval" / "voc100"
    text = {one.image: one for one in read_predictions(folder / "abs_xyx2y2", class_names=names)}
    coco = {
        Path(one.image).stem: one
        for one in read_predictions(folder / "coco_format" / "coco_dets.json")
        if one.labels
    }
    with_some = {name for name, one in text.items() if one.labels}
    assert with_some == set(coco)
    assert sum(len(one.labels) for one in coco.values()) == 452
    for name in with_some:
        assert sorted(text[name].labels) == sorted(coco[name].labels)
