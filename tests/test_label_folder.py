"""What `detkit label` leaves on disk: the labelled folder, the journal, and both after a kill."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest
from labelled_folders import put, xml
from labelling import Client, labelling, save
from pycocotools.coco import COCO
from running import detkit

from detkit.data import open_dataset
from detkit.data.checks.check import check
from detkit.labelling.claim import HIDDEN
from detkit.labelling.journal import Journal, read_journal
from detkit.labelling.photos import open_photos
from detkit.labelling.session import Session

JOURNAL = f"{HIDDEN}/journal.jsonl"
BOXES = [("car", [0, 0, 60, 40]), ("dog", [1, 2, 3, 4]), ("car", [10.25, 5.5, 20.75, 39])]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for seed, name in enumerate(["a.png", "b.jpg", "c/a.png", "d.png", "e.png"]):
        save(tmp_path / "photos" / name, seed=seed)
    return tmp_path / "photos"


def objects_of(out: Path) -> dict[str, list[tuple[str, tuple[float, ...]]]]:
    """Return class and box of each object by its image's stem, as detkit reads the folder."""
    dataset = open_dataset(out)
    assert not [one for one in check(dataset) if one.severity == "error"]
    return {
        record.path.stem: [(one.name, one.box) for one in record.objects]
        for records in dataset.splits.values()
        for record in records
    }


@pytest.mark.parametrize("form", ["voc", "yolo", "coco"])
def test_boxes_are_on_disk_to_the_pixel_and_what_is_not_labelled_is_not_there(
    photos: Path, tmp_path: Path, form: str
) -> None:
    out = tmp_path / "out"
    with labelling(photos, out, classes=["dog", "car", "empty class"], to=form) as client:
        assert client.put(1, *BOXES)[0] == 200
        assert client.put(2)[0] == 200  # no object
        assert client.put(4, BOXES[0], state="skipped")[0] == 200
        assert client.put(5, BOXES[0], state="todo")[0] == 200
        if form != "coco":
            found = objects_of(out)  # at once
            assert set(found) == {"a", "b"}
    found = objects_of(out)
    assert found["b"] == []
    assert set(found) == {"a", "b"}
    for (name, box), (wanted, corners) in zip(found["a"], BOXES, strict=True):
        assert name == wanted
        assert box == pytest.approx(corners, abs=1e-6)
    assert open_dataset(out).class_names == ("dog", "car", "empty class")
    place = "JPEGImages" if form == "voc" else "images"
    assert (out / place / "a.png").read_bytes() == (photos / "a.png").read_bytes()
    assert {one.name for one in (out / place).iterdir()} == {"a.png", "b.jpg"}


def test_pycocotools_reads_the_boxes_of_a_coco_folder(photos: Path, tmp_path: Path) -> None:
    with labelling(photos, tmp_path / "out", classes=["car", "dog"], to="coco") as client:
        client.put(1, *BOXES)
        client.put(2)
    coco = COCO(str(tmp_path / "out/annotations/instances.json"))
    names = {one["id"]: one["name"] for one in coco.loadCats(coco.getCatIds())}
    by_name = {one["file_name"]: one["id"] for one in coco.loadImgs(coco.getImgIds())}
    assert set(by_name) == {"a.png", "b.jpg"}
    rows = coco.loadAnns(coco.getAnnIds(imgIds=[by_name["a.png"]]))
    found = [(names[one["category_id"]], one["bbox"]) for one in rows]
    assert found == [(name, [x, y, x2 - x, y2 - y]) for name, (x, y, x2, y2) in BOXES]
    assert coco.getAnnIds(imgIds=[by_name["b.jpg"]]) == []


def test_two_images_of_one_name_stay_two(photos: Path, tmp_path: Path) -> None:
    with labelling(photos, tmp_path / "out", classes=["car", "dog"]) as client:
        numbers = {row[1]: row[0] for row in client.get("images")["images"]}
        client.put(numbers["c/a.png"], BOXES[0])
        client.put(numbers["a.png"], BOXES[1])
    dataset = open_dataset(tmp_path / "out")
    pixels = {one.path.read_bytes(): one.objects[0].name for one in dataset.splits["all"]}
    assert pixels[(photos / "c/a.png").read_bytes()] == "car"
    assert pixels[(photos / "a.png").read_bytes()] == "dog"


def test_an_image_taken_back_leaves_the_folder_and_its_labels_stay(
    photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with labelling(photos, out, classes=["car", "dog"]) as client:
        client.put(1, BOXES[0])
        client.put(2, BOXES[1])
        client.put(1, BOXES[0], state="skipped")
        assert not (out / "JPEGImages/a.png").exists()
        assert not (out / "Annotations/a.xml").exists()
        assert client.get("images/1")["objects"][0]["box"] == [0, 0, 60, 40]
        client.put(1, BOXES[0])
    assert set(objects_of(out)) == {"a", "b"}


def test_the_same_command_goes_on_the_next_day(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with labelling(photos, out, classes=["dog", "car"], to="yolo") as client:
        client.put(1, *BOXES)
        client.put(5, BOXES[1], state="todo")
        client.ask("POST", "classes", {"editor": "me", "name": "cat"})
        before = [client.get(f"images/{number}") for number in range(1, 6)]
    save(photos / "new.png", seed=9)
    with labelling(photos, out) as client:
        now = {row[1]: client.get(f"images/{row[0]}") for row in client.get("images")["images"]}
        assert [now[one["name"]] for one in before] == before
        assert now["new.png"]["state"] == "todo"
        state = client.get("state")
        assert (state["classes"], state["format"], state["done"]) == (
            ["dog", "car", "cat"],
            "yolo",
            1,
        )
        assert len(read_journal(out / JOURNAL)) == 3  # its head, and an image that was changed each


def test_labels_of_photos_that_are_gone_stay(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for _ in range(3):
        with labelling(photos, out, classes=["car", "dog"], to="coco") as client:
            if (photos / "a.png").exists():
                client.put(1, *BOXES)
                client.put(2)
        (photos / "a.png").unlink(missing_ok=True)
    assert len(objects_of(out)["a"]) == 3


def test_a_labelled_folder_is_corrected_in_a_copy_and_its_splits_stay(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for seed, name in enumerate("abcd"):
        save(data / f"JPEGImages/{name}.png", 20, 40, seed=seed)
    put(
        data,
        {
            "Annotations/a.xml": xml(("car", 2, 3, 10, 12)),
            "Annotations/b.xml": xml(("car", 30, 3, 10, 12), ("dog", 1, 1, 5, 5)),
            "Annotations/c.xml": xml(),
            "ImageSets/Main/train.txt": "a\nb\n",
            "ImageSets/Main/val.txt": "c\nd\n",
        },
    )
    before = {one: one.read_bytes() for one in data.rglob("*") if one.is_file()}
    out = tmp_path / "out"
    with labelling(data, out) as client:
        records = {
            one["name"].split("/")[-1]: one
            for one in [client.get(f"images/{number}") for number in range(1, 5)]
        }
        assert {name: one["state"] for name, one in records.items()} == {
            "a.png": "done",
            "b.png": "done",
            "c.png": "empty",
            "d.png": "todo",
        }
        assert records["c.png"]["split"] == "val"
        (finding,) = records["b.png"]["findings"]
        assert (finding["code"], finding["object"]) == ("swapped-box", 1)
        rows = records["b.png"]["objects"]
        number = records["b.png"]["number"]
        # Another object may be changed while the bad box stays; then that is mended.
        status, answer = client.put(number, rows[0], {**rows[1], "box": [0, 0, 6, 6]})
        assert status == 200, answer
        assert client.get(f"images/{number}")["findings"][0]["code"] == "swapped-box"
        assert client.put(number, {**rows[0], "box": [9, 2, 30, 12]}, rows[1])[0] == 200
        assert client.get(f"images/{number}")["findings"] == []
    assert {one: one.read_bytes() for one in data.rglob("*") if one.is_file()} == before
    dataset = open_dataset(out)
    stems = {split: [one.path.stem for one in part] for split, part in dataset.splits.items()}
    assert stems == {"train": ["a", "b"], "val": ["c"]}
    assert dataset.splits["train"][0].objects[0].box == (1, 2, 10, 12)
    assert [one.box for one in dataset.splits["train"][1].objects] == [(9, 2, 30, 12), (0, 0, 5, 5)]


def test_what_the_page_cannot_show_stays_with_a_box_that_stays(tmp_path: Path) -> None:
    save(tmp_path / "data/images/a.png", 20, 40)
    row = {"image_id": 1, "category_id": 1, "segmentation": [], "area": 30.5, "iscrowd": 1}
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 20}],
        "annotations": [
            {**row, "id": 1, "bbox": [1, 2, 10, 11]},
            {**row, "id": 2, "bbox": [20, 2, 10, 11], "iscrowd": 0},
        ],
        "categories": [{"id": 1, "name": "car"}],
    }
    put(tmp_path / "data", {"annotations/instances.json": json.dumps(content)})
    with labelling(tmp_path / "data", tmp_path / "out") as client:
        first, second = client.get("images/1")["objects"]
        client.put(1, {"label": "car", "box": first["box"]}, {**second, "box": [20, 2, 31, 13]})
    found = open_dataset(tmp_path / "out").splits["all"][0].objects
    assert [(one.crowd, one.area) for one in found] == [(True, 30.5), (False, 121)]


def test_a_torn_last_line_is_dropped_and_another_broken_one_is_named(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", [{"detkit_label": 1}, {"image": "a"}])
    journal.append({"image": "b"})
    journal.close()
    whole = (tmp_path / "j").read_bytes()
    (tmp_path / "j").write_bytes(whole + b'{"image": "c", "obj')
    assert [one.get("image") for one in read_journal(tmp_path / "j")] == [None, "a", "b"]
    (tmp_path / "j").write_bytes(whole.replace(b'"a"', b'"a'))
    with pytest.raises(Exception, match="j:2: the journal is broken"):
        read_journal(tmp_path / "j")


def test_files_that_a_kill_left_behind_the_journal_are_made_anew(
    photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for form in ("voc", "coco"):
        with labelling(photos, out / form, classes=["car", "dog"], to=form) as client:
            client.put(1, *BOXES)
            client.put(2, BOXES[0])
    (out / "voc/Annotations/a.xml").unlink()
    (out / "voc/JPEGImages/b.jpg").write_bytes(b"cut")
    (out / "voc/classes.txt").unlink()
    (out / "coco/annotations/instances.json").write_text("{")
    for form in ("voc", "coco"):
        with labelling(photos, out / form):
            assert len(objects_of(out / form)["a"]) == 3
            assert len(objects_of(out / form)["b"]) == 1


@contextmanager
def command(*words: str | Path) -> Iterator[tuple[subprocess.Popen[str], Client]]:
    """Yield a running `detkit label` and a client of it; it is killed in the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "detkit", "label", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address, process.stderr.read() if process.stderr else ""
        yield process, Client(address)
    finally:
        process.kill()
        process.communicate()


PLAIN: tuple[str, ...] = ("--no-open", "--proposals", "none")


def test_a_kill_at_any_moment_loses_nothing_that_was_confirmed(
    photos: Path, tmp_path: Path
) -> None:
    out, chance = tmp_path / "out", random.Random(0)
    confirmed: dict[int, Any] = {}
    for _ in range(4):
        with command(photos, "-o", out, "--classes", "car,dog", *PLAIN) as (process, client):
            revisions = {n: client.get(f"images/{n}")["revision"] for n in range(1, 6)}
            for number, (revision, row) in confirmed.items():
                record = client.get(f"images/{number}")
                held = [(one["label"], one["box"]) for one in record["objects"]]
                # The one change that was under way may have arrived.
                assert record["revision"] in (revision, revision + 1)
                if record["revision"] == revision:
                    assert held == [row]
            killer = subprocess.Popen(
                ["sh", "-c", f"sleep {chance.uniform(0.05, 0.6):.3f}; kill -9 {process.pid}"]
            )
            try:
                while True:
                    number = chance.randrange(1, 6)
                    row = ("car", [chance.randrange(30), chance.randrange(20), 50, 40])
                    status, answer = client.put(number, row, revision=revisions[number])
                    assert status == 200
                    revisions[number] = answer["revision"]
                    confirmed[number] = answer["revision"], row
            except (OSError, ValueError, HTTPException):
                killer.wait()
    assert confirmed
    with labelling(photos, out) as client:
        expected = sum(client.get(f"images/{n}")["state"] == "done" for n in range(1, 6))
    assert len(open_dataset(out).splits["all"]) == expected


def test_the_command_prints_the_address_and_says_what_is_saved_at_its_end(
    photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with command(photos, "-o", out, "--classes", "car", *PLAIN) as (process, client):
        client.put(1, ("car", [0, 0, 5, 5]))
        done = detkit("label", photos, "-o", out, *PLAIN)
        assert done.returncode == 3
        assert client.address in done.stderr and done.stderr.count("\n") == 1
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == 130
    assert stdout == ""  # the address was read already, and nothing else came
    assert client.address in stderr and "1 labelled image, 1 of them new" in stderr
    assert "Traceback" not in stderr
    assert list(objects_of(out)) == ["a"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit on a file's size")
def test_a_full_disk_is_507_and_what_was_there_stays(photos: Path, tmp_path: Path) -> None:
    save(photos / "large.png", 400, 400)
    out = tmp_path / "out"
    code = (
        "import resource, sys; from detkit.cli import main;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); main(sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "label", str(photos), "-o", str(out), *PLAIN]
        + ["--classes", "car"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        assert process.stdout is not None
        client = Client(process.stdout.readline().strip())
        numbers = {row[1]: row[0] for row in client.get("images")["images"]}
        assert client.put(1, ("car", [0, 0, 5, 5]))[0] == 200
        journal = (out / JOURNAL).read_bytes()
        status, answer = client.put(numbers["large.png"], ("car", [0, 0, 5, 5]))
        assert (status, "full" in answer["error"]) == (507, True), answer
        rows = [("car", [0, 0, 5, 1 + place / 1000]) for place in range(3000)]
        status, answer = client.put(1, *rows)  # the label file fits as little as the line
        assert (status, "full" in answer["error"]) == (507, True), answer
        assert client.get("images/1")["revision"] == 1
        assert (out / JOURNAL).read_bytes() == journal
        assert client.put(2, ("car", [0, 0, 5, 5]))[0] == 200
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert objects_of(out) == {"a": [("car", (0, 0, 5, 5))], "b": [("car", (0, 0, 5, 5))]}
    left = [one for one in out.rglob("*") if "partial" in one.name or one.name == "large.png"]
    assert left == []


def test_what_cannot_be_labelled_into_is_refused_in_one_line(photos: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    put(full, {"a.txt": "mine"})
    (tmp_path / "none").mkdir()
    for words, code, said in (
        ((photos, "-o", photos / "labels"), 2, "lies in the source folder"),
        ((photos, "-o", tmp_path), 2, "holds the source folder"),
        ((photos / "c", "-o", photos), 2, "holds the source folder"),
        ((photos, "-o", full), 2, "is not empty"),
        ((photos, "-o", tmp_path / "full/a.txt"), 2, "is a file"),
        ((tmp_path / "none", "-o", tmp_path / "out"), 3, "no images in this folder"),
        ((tmp_path / "gone", "-o", tmp_path / "out"), 3, "no such folder"),
        ((photos, "-o", tmp_path / "out", "--to", "createml"), 2, "voc, yolo, coco"),
        ((photos, "-o", tmp_path / "out", "--to", "nothing"), 2, "voc, yolo, coco"),
        ((photos, "-o", tmp_path / "out", "--proposals", "edge"), 2, "edge-boxes"),
        ((photos, "-o", tmp_path / "out", "--model", "nono"), 3, "no such model file"),
        ((photos, "-o", tmp_path / "out", "--model", "gone/m.safetensors"), 3, "no such model"),
        ((photos, "-o", tmp_path / "out", "--classes", ","), 2, "no name given"),
        ((photos, "-o", tmp_path / "out", "--classes", "a\tb"), 2, "plain text"),
        ((photos, "-o", tmp_path / "out", "--port", "1" * 9), 2, "port"),
    ):
        done = detkit("label", *words, "--no-open")
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        assert said in done.stderr, done.stderr
        assert done.stderr.strip().count("\n") == 0
    assert not (tmp_path / "out").exists()
    assert {one.name for one in (tmp_path / "full").iterdir()} == {"a.txt"}


def test_what_the_format_cannot_hold_of_a_labelled_folder_is_said(tmp_path: Path) -> None:
    save(tmp_path / "data/JPEGImages/a.png", 20, 40)
    text = xml(("car", 2, 3, 10, 12)).replace("<bndbox>", "<difficult>1</difficult><bndbox>")
    put(tmp_path / "data", {"Annotations/a.xml": text})
    words = (tmp_path / "data", "-o", tmp_path / "out", "--to", "yolo", *PLAIN)
    with command(*words) as (process, client):
        assert client.get("images/1")["objects"][0]["difficult"]
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=20)
    assert "1 difficult object became ordinary: yolo has no mark" in stderr
    assert f"detkit label {tmp_path / 'data'} -o {tmp_path / 'out'}" in stderr


def test_a_folder_of_another_format_is_not_gone_on_with(photos: Path, tmp_path: Path) -> None:
    Session(open_photos(photos), tmp_path / "out", to="yolo").close()
    done = detkit("label", photos, "-o", tmp_path / "out", "--to", "coco", *PLAIN)
    assert done.returncode == 2 and "is yolo" in done.stderr


def test_coco_of_many_images_follows_within_seconds_of_a_change(
    photos: Path, tmp_path: Path
) -> None:
    file = tmp_path / "out/annotations/instances.json"
    with labelling(photos, tmp_path / "out", classes=["car"], to="coco") as client:
        client.put(1, ("car", [0, 0, 5, 5]))
        until = time.monotonic() + 10
        while not file.exists() and time.monotonic() < until:
            time.sleep(0.05)
        assert len(json.loads(file.read_text("utf-8"))["annotations"]) == 1
