"""Detections as labels: `detect --as-labels`, and what formats keep of a detector's objects."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_folders import put, xml
from pictures import picture, save
from running import Done, detkit

from detkit.data import open_dataset
from detkit.data.convert import convert, losses
from detkit.data.images import read_image
from detkit.data.records import Dataset, ImageRecord, ObjectRecord
from detkit.data.summary import data_hash

SIX = ["voc", "yolo", "coco", "label-studio", "labelme", "cvat"]
KEEPING = [one for one in SIX if one != "yolo"] + ["via", "supervisely"]
FOUND = tuple[str, float | None, tuple[float, ...]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model that has learnt nothing: it finds as many cars as dogs."""
    torch = pytest.importorskip("torch")
    from detkit.detectors.ssd import SSD, SSDConfig
    from detkit.model_file import save_model

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    save_model(path, SSD(SSDConfig(backbone="tiny", size=64), ("car", "dog")))
    return path


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Return a folder with two images of one name, one that cannot be read, and labels."""
    for seed, name in enumerate(["a.png", "b/c.png", "b/a.png"]):
        (tmp_path / "pool" / name).parent.mkdir(parents=True, exist_ok=True)
        save(tmp_path / "pool" / name, picture(seed), [])
    return put(tmp_path / "pool", {"broken.jpg": "no image"})


def detect(model: Path, *words: str | Path) -> Done:
    return detkit("detect", model, *words, "--device", "cpu", "--nms", ".05", "-f", "jsonl")


def found_in(stdout: str, least: dict[str, float]) -> dict[str, list[FOUND]]:
    """What the lines on stdout say was found, of at least these scores, by image."""
    lines = [json.loads(line) for line in stdout.splitlines()]
    return {
        one["image"]: sorted(
            (thing["label"], thing["score"], tuple(thing["box"]))
            for thing in one["detections"]
            if thing["score"] >= least[thing["label"]]
        )
        for one in lines
        if "error" not in one
    }


def labels_in(folder: Path) -> dict[bytes, list[FOUND]]:
    """What a folder's labels say, by the bytes of the image."""
    records = open_dataset(folder).splits["all"]
    assert all(thing.machine_made for one in records for thing in one.objects)
    return {
        one.path.read_bytes(): sorted((it.name, it.score, it.box) for it in one.objects)
        for one in records
    }


def middle(stdout: str, name: str) -> float:
    """A score that some of the boxes of a class pass, and some do not."""
    scores = sorted(
        thing["score"]
        for line in stdout.splitlines()
        for thing in json.loads(line).get("detections", [])
        if thing["label"] == name
    )
    assert scores[0] < scores[len(scores) // 2]
    return float(scores[len(scores) // 2])


@pytest.mark.parametrize("to", SIX)
def test_each_format_gives_back_what_was_found(
    model: Path, pool: Path, tmp_path: Path, to: str
) -> None:
    plain = detect(model, pool)
    least = {"car": middle(plain.stdout, "car"), "dog": 0.2}
    words = ("--score", "0.2", "--score", f"car={least['car']}")
    before = {path: path.read_bytes() for path in pool.rglob("*") if path.is_file()}
    done = detect(model, pool, *words, "--as-labels", tmp_path / "out", "--to", to)
    assert done.returncode == 3, done.stderr  # one image cannot be read, as without labels
    assert done.stdout == detect(model, pool, *words).stdout
    assert ("scores are lost: yolo" in done.stderr) == (to == "yolo")
    assert {path: path.read_bytes() for path in pool.rglob("*") if path.is_file()} == before

    expected = found_in(done.stdout, least)
    assert len(expected) == 3 and all(expected.values())
    labels = labels_in(tmp_path / "out")
    assert len(labels) == 3
    for image, objects in expected.items():
        got = labels[Path(image).read_bytes()]
        if to == "yolo":
            objects = sorted((name, None, box) for name, _, box in objects)
        assert [one[:2] for one in got] == [one[:2] for one in objects]
        assert np.allclose([one[2] for one in got], [one[2] for one in objects], atol=1e-6)

    count = sum(map(len, expected.values()))
    checked = detkit("check", tmp_path / "out", "--json")
    assert checked.returncode == 0, checked.stdout
    report = json.loads(checked.stdout)
    assert report["splits"]["all"]["machine_made"] == report["splits"]["all"]["objects"] == count
    assert f"{count} objects are machine-made" in checked.stderr
    assert not any("machine" in one["message"] for one in report["findings"])


def test_without_a_score_labels_are_the_boxes_that_are_drawn(
    model: Path, pool: Path, tmp_path: Path
) -> None:
    done = detect(model, pool / "a.png", "--as-labels", tmp_path / "out", "--to", "coco")
    assert done.returncode == 0, done.stderr
    (labels,) = labels_in(tmp_path / "out").values()
    expected = found_in(done.stdout, {"car": 0.4, "dog": 0.4})[str(pool / "a.png")]
    assert [one[:2] for one in labels] == [one[:2] for one in expected]
    assert len(json.loads(done.stdout)["detections"]) > len(labels)


@pytest.mark.parametrize("to", SIX)
def test_an_image_in_which_nothing_is_found_is_one_without_objects(
    model: Path, pool: Path, tmp_path: Path, to: str
) -> None:
    images = [pool / "a.png", pool / "b" / "c.png"]
    words = ("--score", "1", "--as-labels", tmp_path / "out", "--to", to)
    assert detect(model, *images, *words).returncode == 0
    assert list(labels_in(tmp_path / "out").values()) == [[], []]
    checked = detkit("check", tmp_path / "out")
    assert checked.returncode == 0 and "machine-made" not in checked.stdout + checked.stderr


def test_the_marks_are_those_that_the_tools_know(model: Path, pool: Path, tmp_path: Path) -> None:
    for to in SIX:
        words = ("--score", ".2", "--as-labels", tmp_path / to, "--to", to)
        done = detect(model, pool / "a.png", *words)
        assert done.returncode == 0
    scores = [thing["score"] for thing in json.loads(done.stdout)["detections"]]
    (task,) = json.loads((tmp_path / "label-studio" / "tasks.json").read_text())
    assert task["annotations"] == []
    (prediction,) = task["predictions"]
    assert prediction["model_version"] == "detkit"
    assert prediction["score"] == pytest.approx(sum(scores) / len(scores))
    assert [one["score"] for one in prediction["result"]] == scores
    shapes = json.loads((tmp_path / "labelme/images/a.json").read_text())["shapes"]
    assert [one["score"] for one in shapes] == scores
    assert all(one["flags"] == {"machine-made": True} for one in shapes)
    boxes = ElementTree.parse(tmp_path / "cvat" / "annotations.xml").findall("image/box")
    assert {one.get("source") for one in boxes} == {"auto"}
    assert [float(one.findtext("attribute[@name='score']") or "") for one in boxes] == scores
    coco = json.loads((tmp_path / "coco/annotations/instances.json").read_text())
    assert [one["score"] for one in coco["annotations"]] == scores
    objects = ElementTree.parse(tmp_path / "voc/Annotations/a.xml").findall("object")
    assert [float(one.findtext("score") or "") for one in objects] == scores
    assert yaml.safe_load((tmp_path / "yolo/data.yaml").read_text())["machine_made"] is True
    rows = (tmp_path / "yolo/labels/a.txt").read_text().splitlines()
    assert {len(row.split()) for row in rows} == {5}


def test_frames_of_videos_become_images(model: Path, tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        codec = cv2.VideoWriter_fourcc(*"MJPG")
        video = cv2.VideoWriter(str(tmp_path / place / "clip.avi"), codec, 5, (160, 120))
        for seed in range(5):
            video.write(picture(seed))
        video.release()
    clips = [tmp_path / place / "clip.avi" for place in ("one", "two")]
    done = detect(model, *clips, "--every", "4", "--as-labels", tmp_path / "out", "--to", "labelme")
    assert done.returncode == 0, done.stderr
    (records,) = open_dataset(tmp_path / "out").splits.values()
    names = [f"images/clip{which}_0000{number}.jpg" for which in ("-2", "") for number in "04"]
    assert [one.image_id for one in records] == names
    assert {read_image(one.path).shape for one in records} == {(120, 160, 3)}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "out", "two"]


def test_an_image_that_is_named_twice_is_labelled_once(
    model: Path, pool: Path, tmp_path: Path
) -> None:
    image = pool / "a.png"
    done = detect(model, image, pool / "b/../a.png", "--as-labels", tmp_path / "out", "--to", "voc")
    assert done.returncode == 0
    assert "1 image named more than once is labelled once" in done.stderr
    assert len(list((tmp_path / "out/JPEGImages").iterdir())) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "voc"], "--to voc: is for labels"),
        (["--as-labels", "out"], "--as-labels out: name the format"),
        (["--as-labels", "out", "--to", "pdf"], "--to pdf: no such format"),
        (["--as-labels", "out", "--to", "huggingface"], "--to huggingface: no such format"),
        (["--as-labels", "pool/out", "--to", "voc"], "lies in the source folder pool"),
        (["--as-labels", "pool", "--to", "voc"], "pool"),
        (["--as-labels", "full", "--to", "voc"], "full: is not empty"),
        (["--as-labels", "full", "--to", "voc", "--force"], "which detkit did not write"),
        (["--as-labels", "o", "--to", "voc", "-o", "o/x.jsonl"], "-o o/x.jsonl: lies in o"),
        (["--as-labels", "o", "--to", "voc", "--draw", "o"], "--draw o: lies in o"),
        (["--score", "cra=.5"], "--score cra: unknown; did you mean car?"),
        (["--score", "car=much"], "--score car=much: expected NAME=NUMBER"),
        (["--score", "much"], "--score much: expected a number"),
        (["--score", "nan"], "--score nan: expected a number"),
        (["--score", "2"], "--score 2: must lie between 0 and 1"),
        (["--threshold", "dog=-1"], "--score dog=-1: must lie between 0 and 1"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    model: Path, pool: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.chdir(pool.parent)
    put(pool.parent, {"full/mine.txt": "x"})
    done = detect(model, "pool", "-q", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr and done.stderr.count("\n") == 1
    assert sorted(path.name for path in pool.parent.iterdir()) == ["full", "pool"]


def test_a_folder_that_is_read_is_never_replaced(model: Path, pool: Path, tmp_path: Path) -> None:
    words = ("--as-labels", tmp_path / "out", "--to", "voc", "--force")
    assert detect(model, pool / "a.png", *words).returncode == 0
    image = tmp_path / "out/JPEGImages/a.png"
    held = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    done = detect(model, image, *words)
    assert done.returncode == 2 and "is read from there" in done.stderr
    assert {path: path.read_bytes() for path in held} == held
    assert detect(model, pool / "a.png", *words[:3], "coco", "--force").returncode == 0
    assert sorted(one.name for one in (tmp_path / "out").iterdir()) == ["annotations", "images"]


def test_where_no_image_can_be_read_there_is_no_folder(
    model: Path, pool: Path, tmp_path: Path
) -> None:
    done = detect(model, pool / "broken.jpg", "--as-labels", tmp_path / "out", "--to", "voc")
    assert done.returncode == 3 and "no image to label" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["pool"]


@pytest.mark.parametrize("while_it", ["detects", "copies"])
def test_an_interruption_leaves_nothing(
    model: Path, pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, while_it: str
) -> None:
    from detkit.inference import found_labels

    calls = iter([None, KeyboardInterrupt()])

    def stop(*_: Any) -> str:
        if error := next(calls):
            raise error
        return ""

    where = (found_labels.FoundLabels, "add") if while_it == "detects" else (shutil, "copyfile")
    monkeypatch.setattr(*where, stop)
    done = detect(model, pool, "--as-labels", tmp_path / "out", "--to", "coco")
    assert done.returncode == 130
    assert [path.name for path in tmp_path.iterdir()] == ["pool"]


def test_an_image_that_the_format_would_not_find_is_said(
    model: Path, pool: Path, tmp_path: Path
) -> None:
    odd = tmp_path / "odd"
    odd.write_bytes((pool / "a.png").read_bytes())
    words = ("--as-labels", tmp_path / "out", "--to", "yolo")
    done = detect(model, odd, pool / "b/c.png", *words)
    assert done.returncode == 3
    assert f"{odd}: not labelled: yolo finds images by their usual suffixes" in done.stderr
    assert "1 image not labelled" in done.stderr
    assert [path.name for path in (tmp_path / "out/images").rglob("*.png")] == ["c.png"]


@pytest.mark.parametrize("first", KEEPING)
def test_conversions_keep_scores_and_marks(
    model: Path, pool: Path, tmp_path: Path, first: str
) -> None:
    words = ("--score", ".2", "--as-labels", tmp_path / "out", "--to", first)
    assert detect(model, pool / "a.png", *words).returncode == 0
    (expected,) = labels_in(tmp_path / "out").values()
    for place, to in enumerate(KEEPING):
        source, target = tmp_path / ("out" if place == 0 else str(place - 1)), tmp_path / str(place)
        done = detkit("convert", source, target, "--to", to)
        assert done.returncode == 0 and "lost" not in done.stderr and "ordinary" not in done.stderr
        (got,) = labels_in(target).values()
        assert [one[:2] for one in got] == [one[:2] for one in expected]
        assert np.allclose([one[2] for one in got], [one[2] for one in expected], atol=1e-6)


def test_a_model_is_trained_on_them(model: Path, pool: Path, tmp_path: Path) -> None:
    words = ("--score", ".2", "--as-labels", tmp_path / "out", "--to", "label-studio")
    assert detect(model, pool / "a.png", pool / "b/a.png", *words).returncode == 0
    few = ("--max-steps", "1", "--batch-size", "1", "--num-workers", "0", "--device", "cpu")
    sizes = ("--set", "size=64", "--set", "backbone=tiny")
    run = tmp_path / "run"
    done = detkit("train", tmp_path / "out", "--model", "ssd", "-o", run, *few, *sizes)
    assert done.returncode == 0, done.stderr
    assert "machine-made" in done.stderr and (run / "last.safetensors").is_file()


# What people and other tools do with such files.


def made(folder: Path) -> list[tuple[bool, float | None]]:
    """Whether each object is machine-made, and its score."""
    records = [one for part in open_dataset(folder).splits.values() for one in part]
    return [(thing.machine_made, thing.score) for one in records for thing in one.objects]


def test_a_mark_that_is_taken_back_makes_an_object_a_persons(tmp_path: Path) -> None:
    shape = {"label": "car", "shape_type": "rectangle", "points": [[1, 1], [9, 9]]}
    auto = {**shape, "score": 0.5}  # as X-AnyLabeling has it
    corrected = {**auto, "flags": {"machine-made": False}}
    drawn = {**shape, "score": None}
    content = {"imagePath": "1.png", "shapes": [auto, corrected, drawn]}
    put(tmp_path, {"1.png": None, "1.json": json.dumps(content)})
    assert made(tmp_path) == [(True, 0.5), (False, None), (False, None)]


def test_in_cvat_the_source_decides(tmp_path: Path) -> None:
    box = '<box label="car" {} xtl="1" ytl="1" xbr="9" ybr="9">{}</box>'
    score = '<attribute name="score">0.5</attribute>'
    boxes = [box.format(f'source="{one}"', score) for one in ("auto", "semi-auto", "manual")]
    boxes += [box.format('source="auto"', ""), box.format("", score)]
    text = f'<annotations><image id="0" name="1.png">{"".join(boxes)}</image></annotations>'
    put(tmp_path, {"1.png": None, "annotations.xml": text})
    assert made(tmp_path) == [(True, 0.5), (False, None), (False, None), (True, None)] + [
        (False, None)
    ]


def test_a_track_of_cvat_is_machine_made_as_a_whole(tmp_path: Path) -> None:
    box = '<box frame="0" outside="0" xtl="1" ytl="1" xbr="9" ybr="9"/>'
    text = f'<annotations><track id="0" label="car" source="auto">{box}</track></annotations>'
    put(tmp_path, {"frame_000000.png": None, "annotations.xml": text})
    assert made(tmp_path) == [(True, None)]


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ("", (False, None)),
        ("<score>0.25</score>", (True, 0.25)),
        ("<score>high</score>", (False, None)),
        ("<score>nan</score>", (False, None)),
        ("<machine_made>1</machine_made>", (True, None)),
        ("<machine_made>0</machine_made><score>0.25</score>", (False, None)),
    ],
)
def test_in_voc_a_mark_or_a_score_tells(
    tmp_path: Path, extra: str, expected: tuple[bool, float | None]
) -> None:
    put(tmp_path, {"1.png": None, "1.xml": xml(("car", 1, 1, 9, 9, extra))})
    assert made(tmp_path) == [expected]


def prediction(version: str) -> dict[str, Any]:
    value = {"x": 10, "y": 10, "width": 50, "height": 50, "rectanglelabels": ["car"]}
    sizes = {"original_width": 40, "original_height": 20}
    return {
        "model_version": version,
        "result": [{"id": "1", "type": "rectanglelabels", "value": value, "score": 0.5, **sizes}],
    }


def test_label_studios_predictions_are_read_until_somebody_annotates(tmp_path: Path) -> None:
    own, other = prediction("detkit"), prediction("another")
    human = {"result": prediction("")["result"]}

    def task(number: int, annotations: list[Any], predictions: list[Any]) -> dict[str, Any]:
        data = {"image": f"{number}.png"}
        return {"id": number, "data": data, "annotations": annotations, "predictions": predictions}

    def read(*tasks: dict[str, Any]) -> list[tuple[bool, float | None]]:
        put(tmp_path, {"1.png": None, "2.png": None, "tasks.json": json.dumps(tasks)})
        return made(tmp_path)

    assert read(task(1, [], [own]), task(2, [], [own])) == [(True, 0.5)] * 2
    assert read(task(1, [], [other]), task(2, [], [own])) == [(True, 0.5)]
    assert read(task(1, [human], [own]), task(2, [], [own])) == [(False, None)]
    assert [one.code for one in open_dataset(tmp_path).findings] == ["unlabelled-task"]


def test_yolos_mark_is_of_all_or_none(tmp_path: Path) -> None:
    put(tmp_path / "in", {"1.png": None})
    objects = [ObjectRecord("car", (1, 1, 9, 9), machine_made=True, score=0.5)]
    for name in ("one", "two"):
        file = tmp_path / "in/1.png"
        records = (ImageRecord("1.png", file, tuple(objects), label_file=file),)
        dataset = Dataset(tmp_path / "in", "coco", ("car",), {"all": records})
        convert(dataset, tmp_path / name, "yolo")
        said = " ".join(losses(dataset, "yolo"))
        assert ("became ordinary" in said) == (name == "two")
        objects.append(ObjectRecord("car", (2, 2, 8, 8)))
    assert made(tmp_path / "one") == [(True, None)]
    assert made(tmp_path / "two") == [(False, None)] * 2


def test_the_hash_of_a_data_set_knows_them_where_they_are() -> None:
    def hash_of(one: ObjectRecord) -> str:
        record = ImageRecord("1.png", Path("1.png"), (one,))
        return data_hash(Dataset(Path(), "coco", ("car",), {"all": (record,)}))

    box = (1.0, 1.0, 9.0, 9.0)
    plain = ObjectRecord("car", box)
    marked = ObjectRecord("car", box, machine_made=True)
    scored = ObjectRecord("car", box, machine_made=True, score=0.5)
    assert len({hash_of(plain), hash_of(marked), hash_of(scored)}) == 3
    # As it was before there were marks, so that older models still tell their data.
    assert hash_of(plain).startswith("f7c6951a06013f76")


marked_objects = st.lists(
    st.tuples(
        st.sampled_from(["car", "dog"]),
        st.tuples(st.floats(0, 19), st.floats(0, 9), st.floats(20, 40), st.floats(10, 20)),
        st.sampled_from([None, True]),
        st.floats(-1e6, 1e6) | st.none(),
    ),
    min_size=1,
    max_size=4,
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield put(tmp_path_factory.mktemp("source"), {"1.png": None})


@settings(max_examples=12, deadline=None)
@given(rows=marked_objects)
@pytest.mark.parametrize("to", KEEPING)
def test_machine_made_objects_among_others_come_back(
    source: Path, tmp_path_factory: pytest.TempPathFactory, to: str, rows: list[Any]
) -> None:
    objects = tuple(
        ObjectRecord(name, box, machine_made=bool(mark), score=score if mark else None)
        for name, box, mark, score in rows
    )
    file = source / "1.png"
    records = (ImageRecord("1.png", file, objects, label_file=file),)
    out = tmp_path_factory.mktemp("round") / "out"
    convert(Dataset(source, "coco", ("car", "dog"), {"all": records}), out, to)
    assert made(out) == [(one.machine_made, one.score) for one in objects]
